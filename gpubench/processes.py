"""Processes that gpubench starts: why one of them has ended before its work was done."""

from __future__ import annotations

import signal

KILLED = -9
"""The return code of a process that SIGKILL ended, which only the system or a person sends."""


def why_ended(code: int, complaints: str) -> str:
    """Say why a process has ended, in a line that goes on after "the process ".

    Parameters
    ----------
    code : its return code; of a signal the negative number
    complaints : what it wrote on standard error, of which the last line tells
    """
    if code == KILLED:
        return "was killed, as a system does that is out of memory"
    last = (complaints.strip().splitlines() or ["it said nothing"])[-1]
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}: {last}"
    return f"ended with exit code {code}: {last}"


def lacked_memory(code: int, complaints: str) -> bool:
    """Whether a process has ended for want of memory: killed by the system, or by Python's own word."""
    return code == KILLED or (complaints.strip().splitlines() or [""])[-1].startswith("MemoryError")
