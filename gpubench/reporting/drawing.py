"""What all figures of the report share: Matplotlib's own defaults in the colours of the page, and text that fits."""

from __future__ import annotations

import io
import re
import textwrap
from contextlib import contextmanager
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


SERIES = 8
"""Colours that tell embeddings apart; with the markers there are more combinations than anyone compares."""

_IMAGE_DPI = 160
"""Of what is drawn as an image inside a figure: sharp on screens of twice the usual density."""

_THEME = ("page", "text", "muted", "line", *(f"series-{i}" for i in range(1, SERIES + 1)))
_FIRST_INK = 0x0000A0
_INK = re.compile(r"#0000([ab][0-9a-f])\b")
_LINK = re.compile(r"url\(#([^)]+)\)")
_DROPPED = {"metadata", "style"}


def ink(name: str) -> str:
    """The colour to draw with where the page's colour of that name is meant: "page", "text", "line", "series-1" ..."""
    return f"#{_FIRST_INK + _THEME.index(name):06x}"


def to_svg(figure: Figure, key: str, title: str, description: str) -> str:
    """Draw a figure as an SVG element for an HTML page.

    Parameters
    ----------
    figure : drawn with colours of `ink`
    key : letters and digits that no other figure of the page has
    title, description : what people hear who cannot see it
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    # Text stays text: small, in the font of the page, and it can be searched. The salt makes ids the same in every run.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(buffer, format="svg", transparent=True, dpi=_IMAGE_DPI, metadata={"Date": None})
    root = ET.fromstring(buffer.getvalue())  # noqa: S314 - Matplotlib has just written it
    for element in root.iter():
        element.tag = _local(element.tag)
        for name in list(element.attrib):
            _set(element, _local(name), element.attrib.pop(name), key)
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in _DROPPED]:  # a style would be that of the whole page
            parent.remove(child)
    size = float(root.attrib.pop("width").removesuffix("pt"))
    root.attrib.pop("height")
    root.attrib |= {
        "role": "img",
        "aria-labelledby": f"{key}-title {key}-description",
        "style": f"max-width: {size * 1.6:.0f}px",
    }
    for index, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(tag, {"id": f"{key}-{'title' if tag == 'title' else 'description'}"})
        element.text = text
        root.insert(index, element)
    return ET.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    """A name without its namespace: inside HTML the parser knows it."""
    return name.rpartition("}")[2]


def _set(element: ET.Element, name: str, value: str, key: str) -> None:
    """Take over an attribute: ids are made unique on the page, colours are those of the page."""
    if name == "id":
        value = f"{key}-{value}"
    elif name == "href" and not value.startswith("data:"):
        value = f"#{key}-{value.removeprefix('#')}"
    elif name == "style":
        value = re.sub(r"font: [^;]*?(\d[\d.]*)px[^;]*", r"font-size: \1px", value)
    value = _LINK.sub(rf"url(#{key}-\1)", value)
    element.set(name, _INK.sub(lambda found: f"var(--{_THEME[int(found[1], 16) - _FIRST_INK]})", value))


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
