"""Draw docs/report.png of a demo: `gpubench demo && python docs/picture.py gpubench-demo/report.html [BROWSER]`."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH = 600
# Columns of the picture: for each piece the heading that it begins at, the one before which it ends, and its width.
COLUMNS = [
    [("data-1-title", "data-1-looks", WIDTH)],
    [("data-1-looks-title", "cluster", WIDTH), ("silhouette", "data-1-task-3", WIDTH)],
]
_TOPS = """() => {
    const top = element => element.getBoundingClientRect().top + scrollY;
    const found = Object.fromEntries([...document.querySelectorAll("[id]")].map(e => [e.id, top(e)]));
    const holds = (tag, text) => [...document.querySelectorAll(tag)].find(e => e.textContent.trim().startsWith(text));
    return {...found, cluster: top(holds("figure", "cluster")), silhouette: top(holds("h3", "Silhouette (labels) by"))};
}"""


def main(report: str) -> None:
    """Photograph the report, cut the pieces out, and put them side by side."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=sys.argv[2] if len(sys.argv) > 2 else None)
        page = browser.new_page(viewport={"width": WIDTH, "height": 1000}, color_scheme="light")
        page.goto(Path(report).resolve().as_uri())
        page.wait_for_load_state("networkidle")
        tops = page.evaluate(_TOPS)
        whole = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        browser.close()
    columns = [
        [whole.crop((0, int(tops[begin]), width, int(tops[end]) - 8)) for begin, end, width in pieces]
        for pieces in COLUMNS
    ]
    size = (sum(column[0].width for column in columns), max(sum(piece.height for piece in c) for c in columns))
    picture = Image.new("RGB", size, "white")
    x = 0
    for column in columns:
        y = 0
        for piece in column:
            picture.paste(piece, (x, y))
            y += piece.height
        x += column[0].width
    picture.quantize(64).save(Path(__file__).with_name("report.png"), optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
