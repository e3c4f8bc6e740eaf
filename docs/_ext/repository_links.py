"""Links of the pages to files outside docs/, which a site has no pages of."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\((?:\.\./)+(?!docs/)([^)#]+)(?:#[^)]*)?\)")
"""A Markdown link, not an image, to a file of the repository outside docs/."""


def name_files(_: Sphinx, __: str, source: list[str]) -> None:
    """Replace such links by their text and the path of the file, since only a checkout has the file."""
    source[0] = OUTSIDE.sub(lambda found: f"{found[1]} (`{found[2]}`)", source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the replacement."""
    app.connect("source-read", name_files)
    return {"parallel_read_safe": True}
