"""Check a built site: every link within it leads to a page and an anchor, and no page names a folder of this machine.

`python docs/_ext/check_links.py SITE` prints what is wrong, and exits with 1 if anything is.
"""

from __future__ import annotations

import re
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FOLDERS = re.compile(rf"(?:{re.escape(str(Path.home()))}|{re.escape(tempfile.gettempdir())})/\w")


class Anchors(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, _: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what the attributes of a tag name."""
        given = dict(attrs)
        self.names |= {value for value in (given.get("id"), given.get("name")) if value}
        self.links |= {value for value in (given.get("href"), given.get("src")) if value}


def faults(site: Path) -> list[str]:
    """Return a line for each dead link, and for each page with a folder of this machine."""
    written = [path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts]  # that has templates
    texts = {path.resolve(): path.read_text(encoding="utf-8") for path in written}
    pages = {path: Anchors(text) for path, text in texts.items()}
    found = []
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link == "#":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                found.append(f"{path.name}: {link} leads nowhere")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].names:
                found.append(f"{path.name}: {link} has no such anchor")
    found += [f"{path.name} names a folder of this machine" for path, text in texts.items() if FOLDERS.search(text)]
    return found


def main(site: str) -> int:
    """Print the faults and return the exit code."""
    found = faults(Path(site))
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
