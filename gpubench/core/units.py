"""Parse and format amounts of bytes, counts and seconds."""

from __future__ import annotations

import re

from gpubench.core.errors import InputError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(text: str) -> int:
    """Parse an amount of memory such as "4GB" into bytes; InputError if it is invalid or less than a byte.

    Examples
    --------
    >>> parse_bytes("4GB"), parse_bytes("1.5 KiB")
    (4000000000, 1536)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text, re.IGNORECASE)
    amount = int(float(match[1]) * _UNITS[(match[2] or "").lower()]) if match else 0
    if amount < 1:
        raise InputError(f"memory={text!r} is not an amount of memory; write it as 4GB or 500MB", argument="memory")
    return amount


def parse_counts(text: str, argument: str) -> list[int]:
    """Parse comma-separated whole numbers above 0, with k for thousands and M for millions.

    Raises InputError, whose message names `argument`, if a number is invalid.

    Examples
    --------
    >>> parse_counts("10k,1.5M", "cells")
    [10000, 1500000]
    """
    counts = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([km]?)\s*", part, re.IGNORECASE)
        number = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
        if number < 1 or round(number, 6) % 1:
            raise InputError(
                f"{argument}={part!r} is not a whole number above 0; write numbers such as 10k,100k,1M",
                argument=argument,
            )
        counts.append(round(number))
    return counts


def bytes_text(n_bytes: float) -> str:
    """Format bytes in powers of a thousand: "1.2 GB", "340 MB", "12 bytes"."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            amount = n_bytes / factor
            return f"{amount:.0f} {unit}" if amount >= 100 else f"{amount:.1f} {unit}"
    return f"{n_bytes:.0f} bytes"


def seconds_text(seconds: float) -> str:
    """Format a duration: "3.5 h", "17 min", "2.4 s", "80 ms", "<1 ms"."""
    for unit, least, factor in (("h", 1.5 * 3600, 3600.0), ("min", 90.0, 60.0), ("s", 1.0, 1.0)):
        if seconds >= least:
            amount = seconds / factor
            return f"{amount:.0f} {unit}" if amount >= 10 else f"{amount:.1f} {unit}"
    return f"{seconds * 1e3:.0f} ms" if seconds >= 1e-3 else "<1 ms"
