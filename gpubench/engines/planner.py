"""How much memory a run may use, and the block sizes that follow."""

from __future__ import annotations

import os
from pathlib import Path

SHARE_OF_FREE = 0.8
READ_BLOCK_BYTES = 64 << 20


def free_memory_bytes() -> int:
    """Memory that this process can still get: what the system has free, within the limit of its control group."""
    free = _system_free_bytes()
    limit = _cgroup_free_bytes()
    return free if limit is None else min(free, limit)


def default_budget_bytes() -> int:
    """What a run uses at most unless told otherwise."""
    return int(SHARE_OF_FREE * free_memory_bytes())


def read_block_rows(d: int, itemsize: int) -> int:
    """Rows of a (n, d) file to read at a time."""
    return max(1, READ_BLOCK_BYTES // max(1, d * itemsize))


def _system_free_bytes() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if hasattr(os, "sysconf"):  # macOS: no count of what is free, so a quarter of what there is
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    return 4 << 30


def _cgroup_free_bytes() -> int | None:
    """What the control group leaves, or None where there is no limit."""
    folder = Path("/sys/fs/cgroup")
    limit, used = folder / "memory.max", folder / "memory.current"
    if not (limit.exists() and used.exists()):
        return None
    text = limit.read_text().strip()
    return None if text == "max" else max(0, int(text) - int(used.read_text()))
