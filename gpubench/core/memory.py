"""How much memory processes hold, and how much is free, as the system tells it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_FREE = Path("/proc/meminfo")
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")

_FILES = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Of control groups of version 2, which name no controller, and of version 1: the folder of all, the files that tell
the limit and what is used, and in memory.stat what is used of files that nobody has looked at for some time."""


class PeakMemory:
    """Peak resident memory of this process between two moments.

    Linux keeps one high-water mark a process, which can be reset. Elsewhere it cannot, and the process's peak so far
    stands in.
    """

    def __init__(self) -> None:
        self._resets = self._try_reset()

    def _try_reset(self) -> bool:
        try:
            _RESET.write_text("5")
        except OSError:
            return False
        return True

    def restart(self) -> None:
        """Forget what was held until now."""
        if self._resets:
            self._try_reset()

    def read_bytes(self) -> int | None:
        """The most that was held since the last restart."""
        marked = _told(_STATUS, "VmHWM") if self._resets else None
        return process_peak_bytes() if marked is None else marked


def resident_bytes() -> int | None:
    """The memory that this process holds now; its peak so far where the system does not say."""
    now = _told(_STATUS, "VmRSS")
    return process_peak_bytes() if now is None else now


def process_peak_bytes() -> int | None:
    """The most memory that this process has held; None where the system does not say."""
    if sys.platform == "win32":  # no resource module there
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_bytes_of(pid: int) -> int | None:
    """The most memory that another process has held so far; None where it has ended or the system does not say."""
    return _told(Path(f"/proc/{pid}/status"), "VmHWM")


def _told(status: Path, line: str) -> int | None:
    """A line of what Linux tells of a process, in bytes."""
    try:
        lines = status.read_text().splitlines()
    except OSError:  # another system, or the process has gone
        return None
    return next((int(found.split()[1]) * 1024 for found in lines if found.startswith(f"{line}:")), None)


def system_free_bytes() -> int:
    """The memory that the system has for new arrays."""
    free = _told(_FREE, "MemAvailable")
    if free is not None:
        return free
    if hasattr(os, "sysconf"):  # macOS: no count of what is free, so a quarter of what there is
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    return 4 << 30


def group_free_bytes() -> int | None:
    """What the control groups leave that this process is in, as a container's or a job's; None without a limit."""
    left = [_left(folder, *files) for folder, files in _own_groups()]
    return min((n_bytes for n_bytes in left if n_bytes is not None), default=None)


def _own_groups() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The folders of the groups of this process and of those around them, and what their files are called."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:  # another system
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in _FILES.keys() & controllers.split(","):
            top, *files = _FILES[controller]
            own = _GROUPS / top / path.lstrip("/")
            for folder in (own, *own.parents):
                yield folder, (files[0], files[1], files[2])
                if folder == _GROUPS / top:
                    break


def _left(folder: Path, limit: str, used: str, unused_files: str) -> int | None:
    """What one group leaves; pages of files that are not in use are given back before memory runs out."""
    try:
        most, now = ((folder / name).read_text().strip() for name in (limit, used))
        told = dict(line.split(maxsplit=1) for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:  # it has no limit, or is outside of the container
        return None
    return None if most == "max" else max(0, int(most) - int(now) + int(told.get(unused_files, 0)))
