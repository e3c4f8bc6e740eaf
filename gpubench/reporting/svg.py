"""Convert figures to SVG elements that take the colours of the page."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from gpubench.results.figures import theme

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from matplotlib.figure import Figure

SERIES = 8
"""Colours of embeddings, as --series-1 ... in report.css; combined with markers they suffice for any comparison."""

_IMAGE_DPI = 160
"""Resolution of images inside a figure: sharp on screens of twice the usual density."""

_THEME = ("page", "text", "muted", "line", *(f"series-{i}" for i in range(1, SERIES + 1)))
_FIRST_INK = 0x0000A0
_INK = re.compile(r"#0000([ab][0-9a-f])\b")
_LINK = re.compile(r"url\(#([^)]+)\)")
_DROPPED = {"metadata", "style"}


def ink(name: str) -> str:
    """Return the colour that stands for the page's colour of that name: "page", "text", "line", "series-1" ..."""
    return f"#{_FIRST_INK + _THEME.index(name):06x}"


def to_svg(figure: Figure, key: str, title: str, description: str) -> str:
    """Convert a figure to an SVG element for an HTML page.

    Parameters
    ----------
    figure : drawn with colours of `ink`
    key : id that no other figure of the page has
    title, description : read aloud by screen readers
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    # Text remains text: small, searchable and in the font of the page. The salt makes ids reproducible.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(buffer, format="svg", transparent=True, dpi=_IMAGE_DPI, metadata={"Date": None})
    root = ET.fromstring(buffer.getvalue())  # noqa: S314 - Matplotlib has just written it
    for element in root.iter():
        element.tag = _local(element.tag)
        for name in list(element.attrib):
            _set(element, _local(name), element.attrib.pop(name), key)
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in _DROPPED]:  # a style would apply to the whole page
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
    """Return a name without its namespace, which HTML implies."""
    return name.rpartition("}")[2]


def _set(element: ET.Element, name: str, value: str, key: str) -> None:
    """Set an attribute with ids made unique on the page and colours replaced by those of the page."""
    if name == "id":
        value = f"{key}-{value}"
    elif name == "href" and not value.startswith("data:"):
        value = f"#{key}-{value.removeprefix('#')}"
    elif name == "style":
        value = re.sub(r"font: [^;]*?(\d[\d.]*)px[^;]*", r"font-size: \1px", value)
    value = _LINK.sub(rf"url(#{key}-\1)", value)
    element.set(name, _INK.sub(lambda found: f"var(--{_THEME[int(found[1], 16) - _FIRST_INK]})", value))


def page_theme() -> AbstractContextManager[None]:
    """Use the colours of the page."""
    texts = dict.fromkeys(("text_color", "axes_labelcolor", "xtick_color", "ytick_color"), ink("text"))
    lines = dict.fromkeys(("axes_edgecolor", "grid_color"), ink("line"))
    return theme(8, axes_spines_left=False, grid_linewidth=0.6, **texts, **lines)
