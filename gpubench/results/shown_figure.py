"""The figure of Matplotlib that notebooks show without pyplot."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class ShownFigure(Figure):
    """Figure that a notebook shows when it is the value of a cell, without `%matplotlib inline`."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=150, facecolor="white")
        return buffer.getvalue()
