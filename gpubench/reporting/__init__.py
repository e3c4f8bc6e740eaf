"""Reports of results as one HTML file, without scripts or network access, for screens, phones and paper."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gpubench.core.files import write_atomically

if TYPE_CHECKING:
    from gpubench.results.result import Result

__all__ = ["report"]


def report(result: Result | Mapping[str, Result], path: str | os.PathLike[str]) -> None:
    """Write one or several results as one HTML file that works offline.

    The file has a table of all embeddings in which the best scores are marked; a section for each task with its
    question, definitions, scores, standard errors, notes and figures; time and memory of stages; and the provenance.

    Parameters
    ----------
    result : a result, or a dict name -> result. Results of the same data and options share their tables
    path : path of the HTML file, which is written atomically

    Raises
    ------
    InputError
        If the file cannot be written.

    Examples
    --------
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import gpubench as gb
    >>> rng = np.random.default_rng(0)
    >>> label = np.repeat(["a", "b"], 100)
    >>> cells = rng.normal(size=(200, 5)).astype("float32")
    >>> result = gb.score({"X": cells}, label=label, tasks=["embedding"], engine="cpu")
    >>> gb.report(result, "report.html")
    >>> Path("report.html").read_text()[:15]
    '<!DOCTYPE html>'
    """
    from gpubench.reporting.page import render

    runs = result if isinstance(result, Mapping) else {"": result}
    content = render(runs).encode("utf-8", "backslashreplace")
    write_atomically(path, lambda file: file.write(content))
