"""Checks that several metrics, and the run before them, make on label columns."""

from __future__ import annotations

from gpubench.errors import InputError
from gpubench.types import Labels


def check_several(labels: Labels) -> None:
    """Refuse a column with one value, where a score compares groups.

    Raises
    ------
    InputError
        Only one distinct value.
    """
    if labels.n_classes < 2:
        raise InputError(
            f"{labels.key} has one value ({labels.names[0]!r}) in all {len(labels):,} rows; at least two are needed"
        )


def check_groups(labels: Labels) -> None:
    """Refuse a column that does not group cells: one value, or a different one in each row.

    Raises
    ------
    InputError
        Only one distinct value, or every value a singleton.
    """
    check_several(labels)
    if labels.n_classes == len(labels):
        raise InputError(
            f"{labels.key} has a different value in each of its {len(labels):,} rows; give a column that groups cells"
        )
