"""How much memory processes hold, as the system tells it."""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


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
