"""Memory that processes hold, and memory that is free, as reported by the operating system.

psutil is not used: importing it takes longer than importing gpubench, and it has neither the limits of control groups
nor, on Linux, the peak memory of a process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_MEMINFO = Path("/proc/meminfo")
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")

_FILES = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Controller (none in version 2 of control groups, "memory" in version 1) -> its top folder, the files with the limit
and the usage of a group, and the line of memory.stat that counts reclaimable pages of files."""


class PeakMemory:
    """Peak resident memory of this process since `restart` was last called.

    Linux has one high-water mark per process, which can be reset. On other systems it cannot be, and the process's peak
    so far is reported instead.
    """

    def __init__(self) -> None:
        self._resets = self._reset()

    def _reset(self) -> bool:
        try:
            _RESET.write_text("5")
        except OSError:
            return False
        return True

    def restart(self) -> None:
        """Forget the peak so far and measure from now on."""
        if self._resets:
            self._reset()

    def read_bytes(self) -> int | None:
        """Return the peak in bytes since `restart` was last called; None if the system does not report it."""
        peak = _read_bytes(_STATUS, "VmHWM") if self._resets else None
        return process_peak_bytes() if peak is None else peak


def resident_bytes() -> int | None:
    """Return the resident memory of this process in bytes, or its peak if the system reports only the peak."""
    now = _read_bytes(_STATUS, "VmRSS")
    return process_peak_bytes() if now is None else now


def process_peak_bytes() -> int | None:
    """Return the peak resident memory of this process in bytes; None if the system does not report it."""
    if sys.platform == "win32":  # no resource module there
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_bytes_of(pid: int) -> int | None:
    """Return the peak resident memory of another process in bytes; None if it has ended or it is not reported."""
    return _read_bytes(Path(f"/proc/{pid}/status"), "VmHWM")


def _read_bytes(file: Path, name: str) -> int | None:
    """Return the amount named `name` in a file of /proc, such as VmHWM in /proc/self/status, in bytes."""
    try:
        lines = file.read_text().splitlines()
    except OSError:  # not Linux, or the process has ended
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def system_free_bytes() -> int:
    """Return the memory in bytes that the system can give to new arrays."""
    free = _read_bytes(_MEMINFO, "MemAvailable")
    if free is not None:
        return free
    total = total_memory_bytes()  # macOS and Windows do not report what is free: a quarter of the total
    return 4 << 30 if total is None else total // 4


def total_memory_bytes() -> int | None:
    """Return the size of the machine's memory in bytes; None if the system does not report it."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None


def group_free_bytes() -> int | None:
    """Return the bytes left below the memory limit of this process's control groups; None if there is no limit.

    Containers and batch jobs are control groups.
    """
    left = [_left_in_group(folder, *files) for folder, files in _own_groups()]
    return min((n_bytes for n_bytes in left if n_bytes is not None), default=None)


def _own_groups() -> Iterator[tuple[Path, list[str]]]:
    """Yield the folder of each control group that contains this process, with the names of the files to read in it."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in _FILES.keys() & controllers.split(","):
            top, *files = _FILES[controller]
            own = _GROUPS / top / path.lstrip("/")
            for folder in (own, *own.parents):
                yield folder, files
                if folder == _GROUPS / top:
                    break


def _left_in_group(folder: Path, limit: str, used: str, reclaimable: str) -> int | None:
    try:
        most, now = ((folder / name).read_text().strip() for name in (limit, used))
        stat = dict(line.split(maxsplit=1) for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:  # the group has no limit, or is outside of the container
        return None
    return None if most == "max" else max(0, int(most) - int(now) + int(stat.get(reclaimable, 0)))
