"""Links of the pages to files outside docs/, which a site has no pages of."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

UPWARDS = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+)([^)#]+)(?:#[^)]*)?\)")
"""A Markdown link, not an image, to a file in a folder above that of the page."""


def name_files(_: Sphinx, page: str, source: list[str]) -> None:
    """Replace links that leave docs/ by their text and the path of the file, since only a checkout has the file."""
    depth = page.count("/")

    def named(found: re.Match[str]) -> str:
        leaves = found[2].count("../") > depth
        return f"{found[1]} (`{found[3]}`)" if leaves else found[0]

    source[0] = UPWARDS.sub(named, source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the replacement."""
    app.connect("source-read", name_files)
    return {"parallel_read_safe": True}
