"""The report in a browser: no requests, no errors, no overflow, readable text."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from cell_cases import cells_result
from report_cases import full_result, hostile_result, many_conditions, predictions_result

import gpubench as gb
from gpubench.datasets import demo_path
from gpubench.results.result import Result

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")


def demo() -> Result:
    return gb.score(demo_path(), ["X_pca"], label="cell_type", batch="batch", engine="cpu")


def many_cells() -> Result:
    """Make a result with too many labels, whose names are long and similar, on two embeddings."""
    labels = [f"CD4-positive, alpha-beta memory T cell of kind {i}, and so on" for i in range(26)]
    return cells_result(600, labels, embeddings=("X_pca", "X_scvi"), batches=("a", "b"), times=5)


PAGES = {
    "full": full_result,
    "hostile": hostile_result,
    "many": many_conditions,
    "demo": demo,
    "cells": many_cells,
    "predictions": predictions_result,
}

LARGE = {"demo", "cells", "predictions"}
"""Pages that are opened in the two ways of `AXE` alone."""

AXE = {(390, "light"), (1280, "dark")}
"""Where axe-core is asked: it takes a second a page."""

# Contrast of each text with the background behind it, by WCAG 2: (contrast, text, its first words).
CONTRASTS = """() => {
  const luminance = ([r, g, b]) => [r, g, b]
    .map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const rgba = color => color.match(/[\\d.]+/g).map(Number);
  const behind = element => {
    if (!element) return [255, 255, 255];
    const [r, g, b, a = 1] = rgba(getComputedStyle(element).backgroundColor);
    return a == 1 ? [r, g, b] : behind(element.parentElement).map((c, i) => a * [r, g, b][i] + (1 - a) * c);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility() || ["title", "desc"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const [a, b] = [rgba(element.closest("svg") ? style.fill : style.color), behind(element)].map(luminance);
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), text.slice(0, 40)]);
  }
  return found;
}"""

# Texts of figures that are drawn outside of their figure.
CLIPPED = """() => [...document.querySelectorAll("svg text")].filter(text => {
  const inner = text.getBoundingClientRect(), outer = text.closest("svg").getBoundingClientRect();
  return inner.left < outer.left - 1 || inner.right > outer.right + 1 || inner.bottom > outer.bottom + 1;
}).map(text => text.textContent)"""


# Figures, and images inside them, that take no room.
UNDRAWN = """() => [...document.querySelectorAll("figure svg, figure svg image")].filter(drawn => {
  const box = drawn.getBoundingClientRect();
  return box.width < 50 || box.height < 5;
}).map(drawn => drawn.outerHTML.slice(0, 200))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no Chromium on this machine (looked for {', '.join(BROWSERS)})")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    for name, make in PAGES.items():
        gb.report(make(), folder / f"{name}.html")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        (name, width, scheme)
        for name, width, scheme in product(PAGES, (390, 1280), ("light", "dark"))
        if name not in LARGE or (width, scheme) in AXE
    ],
)
def test_report_opens_without_errors(name: str, width: int, scheme: str, browser: Any, folder: Path) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    complaints: list[str] = []
    requests: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((folder / f"{name}.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:image/png;")] == [(folder / f"{name}.html").as_uri()]
    assert page.evaluate(UNDRAWN) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    assert page.evaluate(CLIPPED) == []
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 50
    assert [found for found in contrasts if found[0] < 4.5] == []
    if (width, scheme) in AXE:
        assert serious_violations(page) == []
    context.close()


def serious_violations(page: Any) -> list[tuple[str, str, str]]:
    """Return the accessibility violations that axe-core finds: rule, impact, first element."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(page).response["violations"]
    return [
        (violation["id"], violation["impact"], violation["nodes"][0]["html"][:200])
        for violation in found
        if violation["impact"] in ("serious", "critical")
    ]


def test_axe_finds_a_seeded_fault(browser: Any) -> None:
    page = browser.new_page()
    page.set_content("<html><body><img src='data:,'><p style='color:#eee;background:#fff'>pale</p></body></html>")
    assert {rule for rule, _, _ in serious_violations(page)} >= {"image-alt", "color-contrast", "html-has-lang"}
    page.close()


def test_tables_and_links_are_reachable_by_keyboard(browser: Any, folder: Path) -> None:
    page = browser.new_page()
    page.goto((folder / "full.html").as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the scores"
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.className || document.activeElement.tagName"))
    assert {"scroll", "A", "SUMMARY"} <= reached
    page.close()


def test_tables_of_perturbations_are_sorted_without_a_script(browser: Any, folder: Path) -> None:
    page = browser.new_page()
    page.goto((folder / "predictions.html").as_uri())
    table = page.locator("details.sorted").first
    table.locator("summary").click()
    assert table.get_by_role("row").count() == 31
    values = """table => [...table.querySelectorAll("tbody tr")]
        .map(row => [row.getBoundingClientRect().top, ...[...row.children].map(cell => cell.textContent)])
        .sort((a, b) => a[0] - b[0]).map(row => row.slice(1))"""
    rows = table.evaluate(values)
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    table.get_by_label("model 1").press("Space")
    column = [row[2] for row in table.evaluate(values)]
    assert column[-1] == "—", "undefined ones are last"
    assert column[:-1] == sorted(column[:-1], key=float, reverse=True)
    page.close()


def test_two_embeddings_fit_on_a_phone(browser: Any, folder: Path) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 780})
    page.goto((folder / "full.html").as_uri())
    name, value, other = page.locator(".scores tr:has-text('Adjusted Rand index')").first.locator("> *").all()[:3]
    assert name.bounding_box()["x"] >= 0
    assert value.bounding_box()["width"] > 60
    box = other.bounding_box()
    assert box["x"] + box["width"] <= 360 - 16, "the margin of the page"
    page.close()


@pytest.mark.slow
def test_print_includes_folded_parts(browser: Any, folder: Path) -> None:
    page = browser.new_page()
    page.goto((folder / "many.html").as_uri())
    page.emulate_media(media="print")
    assert page.get_by_role("row", name="gene 7", exact=False).first.bounding_box()["height"] > 0
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.close()
