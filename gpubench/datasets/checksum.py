"""Whether a file is the one that was meant: by its SHA-256, or by the MD5 that S3 keeps as ETag."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from gpubench.datasets.entry import Entry
from gpubench.datasets.remote import Stat

_BLOCK_BYTES = 1 << 20

SHA256, MD5, SIZE = "sha256", "md5", "size"
"""What a file was checked by; "size" alone where no checksum is known."""


class Corrupt(Exception):
    """The bytes are not those that were meant."""


def check(path: Path, entry: Entry, stat: Stat, advance: Callable[[int], None]) -> tuple[str, str]:
    """Compare a file with all that is known of it.

    An object that was put on S3 in parts has the ETag md5(md5(part 1) md5(part 2) …)-n.

    Parameters
    ----------
    path : the file
    entry : may know its SHA-256
    stat : what the server says of it
    advance : gets the number of bytes read so far

    Returns
    -------
    The file's SHA-256, and what it was checked by.

    Raises
    ------
    Corrupt
        It differs; the message says in what.
    """
    sha256, md5s = _digests(path, stat.part_size if stat.md5 else None, advance)
    if entry.sha256 is not None and sha256 != entry.sha256:
        raise Corrupt(f"its SHA-256 is {sha256}, but {entry.where} has {entry.sha256}")
    if stat.md5 and stat.etag is not None:
        whole, dash, n_parts = stat.etag.partition("-")
        joined = hashlib.md5(b"".join(md5s), usedforsecurity=False).hexdigest() if dash else md5s[0].hex()
        if joined != whole or (dash and int(n_parts) != len(md5s)):
            raise Corrupt(f"its MD5 is {joined}, but the server's ETag is {stat.etag}")
    return sha256, SHA256 if entry.sha256 is not None else MD5 if stat.md5 else SIZE


def _digests(path: Path, part_size: int | None, advance: Callable[[int], None]) -> tuple[str, list[bytes]]:
    """SHA-256 of a file, and the MD5 of each part, in one pass."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    md5s: list[bytes] = []
    done = in_part = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES if not part_size else min(_BLOCK_BYTES, part_size - in_part)):
            sha256.update(block)
            done += len(block)
            if part_size:
                md5.update(block)
                in_part += len(block)
                if in_part == part_size:
                    md5s.append(md5.digest())
                    md5, in_part = hashlib.md5(usedforsecurity=False), 0
            advance(done)
    if in_part or not md5s:
        md5s.append(md5.digest())
    return sha256.hexdigest(), md5s
