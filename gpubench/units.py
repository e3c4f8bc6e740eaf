"""Amounts as people say them: each in the unit that gives it two or three digits."""

from __future__ import annotations


def bytes_text(n_bytes: float) -> str:
    """Bytes in steps of a thousand: "1.2 GB", "340 MB", "12 bytes"."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            amount = n_bytes / factor
            return f"{amount:.0f} {unit}" if amount >= 100 else f"{amount:.1f} {unit}"
    return f"{n_bytes:.0f} bytes"


def seconds_text(seconds: float) -> str:
    """A duration: "3.5 h", "17 min", "2.4 s", "80 ms"; below a millisecond that it is."""
    for unit, least, factor in (("h", 1.5 * 3600, 3600.0), ("min", 90.0, 60.0), ("s", 1.0, 1.0)):
        if seconds >= least:
            amount = seconds / factor
            return f"{amount:.0f} {unit}" if amount >= 10 else f"{amount:.1f} {unit}"
    return f"{seconds * 1e3:.0f} ms" if seconds >= 1e-3 else "<1 ms"
