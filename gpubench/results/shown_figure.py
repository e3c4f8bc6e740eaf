"""A Matplotlib figure that notebooks display without pyplot."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class ShownFigure(Figure):
    """Matplotlib figure that a notebook displays as the value of a cell, without `%matplotlib inline`."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=150, facecolor="white")
        return buffer.getvalue()
