"""A result as one HTML file that opens anywhere: no network, no scripts, light and dark, on a phone and on paper."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gpubench.core.files import write_atomically

if TYPE_CHECKING:
    from gpubench.results.result import Result

__all__ = ["report"]


def report(result: Result | Mapping[str, Result], path: str | os.PathLike[str]) -> None:
    """Write a result as one HTML file that works offline.

    It holds a table of all embeddings with the best marked, a section for each task with its question, definitions,
    values, standard errors and notes, where time and memory went, and the provenance.

    Parameters
    ----------
    result : a result, or several as name -> result; those of the same data and options share their tables
    path : the file to write, whole or not at all

    Raises
    ------
    InputError
        The file cannot be written.

    Examples
    --------
    >>> gb.report(gb.score("cells.h5ad", label="cell_type"), "report.html")  # doctest: +SKIP
    """
    from gpubench.reporting.page import render

    runs = result if isinstance(result, Mapping) else {"": result}
    content = render(runs).encode("utf-8", "backslashreplace")
    write_atomically(path, lambda file: file.write(content))
