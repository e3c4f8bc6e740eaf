"""What all figures of the report share: Matplotlib's own defaults in the colours of the page, and text that fits."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gpubench.reporting.svg import ink

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN = 3.9
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LONGEST = 24


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's own defaults, whatever the user has set, in the colours of the page."""
    from matplotlib import style as styles

    inks = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), ink("text"))
    lines = dict.fromkeys(("axes.edgecolor", "grid.color"), ink("line"))
    bare = {f"axes.spines.{side}": False for side in ("top", "right", "left")}
    with styles.context(["default", {**inks, **lines, **bare, "font.size": 8, "legend.frameon": False}]):
        yield


def new_figure(height_in: float, width_in: float = WIDTH_IN) -> Figure:
    """A figure of the width of a column."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def add_legend(figure: Figure, axes: Axes, embeddings: Sequence[str]) -> None:
    """Say which marker is which embedding, where there are several."""
    if len(embeddings) < 2:
        return
    widest = max(len(short(name)) for name in embeddings)
    columns = max(1, min(len(embeddings), 60 // (widest + 6)))
    legend = figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=columns)
    # the names come in afterwards: Matplotlib hides labels that begin with an underscore, and reads $ as mathematics
    for text, name in zip(legend.get_texts(), embeddings, strict=True):
        text.set(text=short(name), parse_math=False)


def two_lines(text: str) -> str:
    """Text on up to two lines that fit."""
    first, *more = textwrap.wrap(text, LONGEST, break_long_words=False) or [""]
    return "\n".join(short(line) for line in (first, " ".join(more)) if line)


def shortened(names: Sequence[str], longest: int = LONGEST) -> list[str]:
    """Names that fit, cut at the end, or in the middle where that tells more of them apart; else numbered."""
    by_end = [short(name, longest) for name in names]
    if len(set(by_end)) == len(set(names)):
        return by_end
    head, tail = longest - 1 - longest // 2, longest // 2
    by_middle = [name if len(name) <= longest else f"{name[:head]}…{name[-tail:]}" for name in names]
    if len(set(by_middle)) == len(set(names)):
        return by_middle
    return [f"{i}. {short(name, longest - 4)}" for i, name in enumerate(names, 1)]


def short(text: str, longest: int = LONGEST) -> str:
    """Text that fits; the tables have it whole."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
