"""The donors whose cells are left out together."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from gpubench.core.errors import InputError, close_matches
from gpubench.core.scores import pairing_problem
from gpubench.data import read_labels

if TYPE_CHECKING:
    from gpubench.core.types import Labels
    from gpubench.results.result import Result


def find_donors(results: Iterable[Result], column: str, obs: str | os.PathLike[str] | Any | None) -> Labels:
    """Find the donor of each cell.

    Parameters
    ----------
    results : that have cells; their own columns are known by role ("batch") and by the name that was asked for
    column : its name
    obs : a table as in `gpubench.score`, for a column that the results do not have

    Raises
    ------
    InputError
        There is no such column, it has one value for all cells, or not one for each.
    """
    with_cells = [result for result in results if result.cells.columns]
    if not with_cells:
        raise InputError(
            f"donor={column!r} needs results with a cells.parquet beside them; score again with --out", argument="donor"
        )
    n_cells = with_cells[0].cells.n_cells
    if obs is not None:
        donors = read_labels(obs, column, "donor", n_cells)
    else:
        known: dict[str, Labels] = {}
        for result in with_cells:
            if pairing_problem(with_cells[0].cells, result.cells):  # its column is of other cells
                continue
            options = result.provenance.get("options", {})
            for role, labels in result.cells.groups.items():
                known.setdefault(str(options.get(role, role)), labels)
                known.setdefault(role, labels)
        if column not in known:
            raise InputError(
                f"donor={column!r} is not among the columns of the results{close_matches(column, known)}; "
                "give `obs`, the table of the cells that has it",
                argument="donor",
            )
        donors = known[column]
    if donors.n_classes < 2:
        raise InputError(f"donor={column!r} has one value, and an interval needs two donors at least", argument="donor")
    return donors
