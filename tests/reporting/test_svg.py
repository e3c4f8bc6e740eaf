"""Figures take the colours of the page."""

from __future__ import annotations

import re

from matplotlib.figure import Figure

from gpubench.reporting.figures import SERIES, ink, to_svg


def test_characters_without_a_glyph_draw_no_warning() -> None:
    figure = Figure()
    figure.subplots().text(0, 0, "NK细胞 🧬")
    assert "NK细胞 🧬" in to_svg(figure, "k", "A title", "What it shows")


def test_colours_are_those_of_the_page() -> None:
    figure = Figure()
    axes = figure.subplots()
    names = ["text", "muted", "line", *(f"series-{i + 1}" for i in range(SERIES))]
    for i, name in enumerate(names):
        axes.plot([0, 1], [i, i], color=ink(name))
    axes.text(0, 0, "a & b", color=ink("text"))
    svg = to_svg(figure, "k", "A <title>", "What it shows")
    assert {f"var(--{name})" for name in names} <= set(re.findall(r"var\(--[\w-]+\)", svg))
    assert "#0000a" not in svg
    assert '<title id="k-title">A &lt;title&gt;</title><desc id="k-description">What it shows</desc>' in svg
    assert "a &amp; b" in svg
    assert not re.search(r"<(\w+:|metadata|style)|DOCTYPE|https?:", svg)
