"""Look for inputs that can be scored but are probably a mistake; each finding is a `GpubenchWarning`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import GpubenchWarning, InputError, quoted
from gpubench.data import read_rows
from gpubench.data.digest import sampled_blocks
from gpubench.data.expression import read_expression
from gpubench.data.offsets import unresolved_dimensions
from gpubench.metrics._metric import contingency, look_exchanged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.types import Dataset, Labels
    from gpubench.data import Rows

MIN_CELLS = 30
"""Minimum number of cells for checking how many values a column has: fewer cells are likely a trial."""

MAX_NUMBERS, MAX_FRACTIONS = 200, 20
"""Maximum number of groups whose names are numbers, and maximum number if some have decimals."""

MIN_COUNT_DIMS = 50
"""Number of dimensions from which whole numbers are more likely counts of genes than an embedding."""

MAX_LOG = 30.0
"""Upper limit of logarithms of counts; data with larger values have not been log-transformed."""

_SCAN_ROWS = 1 << 15

_MISSING = frozenset({"", "nan", "na", "n/a", "<na>", "nat", "none", "null", "unknown", "missing", "-", "?"})


@dataclass(frozen=True)
class Given:
    """Inputs of a run to check.

    Attributes
    ----------
    dataset : embeddings and columns that have been read
    columns : role, such as "label" -> encoded column
    named : role -> name of the column, for columns that were given by name
    data, baselines : arguments `data` and `baseline` of the run
    """

    dataset: Dataset
    columns: Mapping[str, Any]
    named: Mapping[str, str]
    data: Any
    baselines: Sequence[str] = ()

    def call(self, role: str) -> str:
        """Return the text for a column in messages: "label='cell_type'", or "label" if it has no name."""
        return f"{role}={self.named[role]!r}" if role in self.named else role


def implausible(given: Given) -> list[GpubenchWarning]:
    """Run all checks and return a warning for each finding."""
    return [GpubenchWarning(text, argument=argument) for check in CHECKS for argument, text in check(given)]


Findings = Iterator[tuple[str | None, str]]


def _many_values(given: Given) -> Findings:
    """Find columns with so many values, or such values, that they do not group cells."""
    for role in ("label", "batch"):
        column: Labels | None = given.columns.get(role)
        if column is None or len(column) < MIN_CELLS:
            continue
        if column.n_classes > len(column) / 2:
            fault = f"has {column.n_classes:,} values in {len(column):,} cells"
            yield role, f"{given.call(role)} {fault}; give a column that groups cells"
        elif _are_measurements(column.names):
            fault = f"has {column.n_classes:,} different numbers, each of which counts as a group"
            yield role, f"{given.call(role)} {fault}; give a column with names of groups"


def _are_measurements(names: Sequence[str]) -> bool:
    """Whether names of groups are probably measurements, rather than the numbers of clusters."""
    if len(names) <= MAX_FRACTIONS:
        return False
    try:
        numbers = np.array([float(name) for name in names])
    except ValueError:
        return False
    has_fractions = bool((numbers[np.isfinite(numbers)] % 1 != 0).any())
    return has_fractions or len(names) > MAX_NUMBERS


def _look_missing(given: Given) -> Findings:
    """Find groups whose name, such as "nan" or "unknown", stands for a missing value."""
    for role in ("label", "batch", "species", "sample"):
        column: Labels | None = given.columns.get(role)
        if column is None:
            continue
        codes = [code for code, name in enumerate(column.names) if name.strip().casefold() in _MISSING]
        if codes:
            n = int(np.isin(column.codes, codes).sum())
            names = quoted([column.names[code] for code in codes])
            fault = f"of {n:,} cells is {names}, which counts as a group like any other"
            yield role, f"{given.call(role)} {fault}; leave these cells out with `where`, if it means missing"


def _have_blanks(given: Given) -> Findings:
    """Find groups whose name begins or ends with a blank, such as "B "."""
    for role in ("label", "batch", "species", "sample"):
        column: Labels | None = given.columns.get(role)
        names = column.names if column else ()
        padded = [name for name in names if name != name.strip() and name.strip().casefold() not in _MISSING]
        if padded:
            fault = f"has names that begin or end with a blank ({quoted(padded)}), and differ from those without"
            yield role, f"{given.call(role)} {fault}; remove the blanks"


def _are_swapped(given: Given) -> Findings:
    """Find labels and batches that were probably exchanged, or of which one determines the other."""
    label, batch = given.columns.get("label"), given.columns.get("batch")
    if label is None or batch is None or any(True for _ in _many_values(given)):
        return
    both = f"{given.call('label')} and {given.call('batch')}"
    names = given.named.get("label", ""), given.named.get("batch", "")
    if look_exchanged(*names):
        yield "label", f"{both} look exchanged; labels are what should stay apart, batches what should mix"
        return
    pairs = contingency(label.codes, batch.codes, label.n_classes, batch.n_classes) > 0
    in_one_batch, with_one_label = (pairs.sum(axis=1) == 1).all(), (pairs.sum(axis=0) == 1).all()
    consequence = "so that no score can tell one from the other; check both columns"
    if in_one_batch and with_one_label:
        yield "label", f"{both} group the cells in the same way, {consequence}"
    elif in_one_batch:
        yield "label", f"{both}: every label occurs in one batch only, {consequence}"
    elif with_one_label:
        yield "label", f"{both}: every batch has cells of one label only, {consequence}"


def _embeddings(given: Given) -> Findings:
    """Find embeddings that are constant, identical to another embedding, or counts of genes."""
    samples = {name: _sample(rows) for name, rows in given.dataset.embeddings.items()}
    n = given.dataset.n_cells
    for name, sample in samples.items():
        rows = given.dataset.embeddings[name]
        if n > 1 and _rows_are_equal(sample, sample[:1]) and _is_constant(rows):
            yield None, f"embedding {name!r} has the same values in all {n:,} cells; its scores mean nothing"
        elif sample.shape[1] >= MIN_COUNT_DIMS and _are_counts(sample):
            fault = f"has whole numbers in {sample.shape[1]:,} dimensions, as counts of genes are"
            yield None, f"embedding {name!r} {fault}; score an embedding of them, or the `baseline` pca"
    for one, other in combinations(samples, 2):
        a, b = given.dataset.embeddings[one], given.dataset.embeddings[other]
        if _rows_are_equal(samples[one], samples[other]) and _are_identical(a, b):
            yield None, f"embeddings {one!r} and {other!r} are identical; check whether the right ones are given"


def _beyond_float32(given: Given) -> Findings:
    """Find embeddings whose cells differ by less than float32 can hold, although large offsets are subtracted."""
    for name, rows in given.dataset.embeddings.items():
        found = unresolved_dimensions(rows)
        if len(found):
            fault = f"has {len(found):,} of {rows.shape[1]:,} dimensions (first: {found[0]}) with differences of cells"
            lost = "that float32, in which distances are computed, cannot hold"
            yield None, f"embedding {name!r} {fault} {lost}; subtract the means of groups of cells that lie far apart"


def _log_of_logs(given: Given) -> Findings:
    """Find expression that is logarithmised already, which the PCA baseline would logarithmise again."""
    if "pca" not in given.baselines:
        return
    try:
        sample = _sample(read_expression(given.data).rows)
    except InputError:  # the baseline raises it, too
        return
    if sample.size and sample.min() >= 0 and sample.max() < MAX_LOG and np.any(sample % 1):
        fault = f"normalises and logarithmises X, but X looks logarithmised already (largest value {sample.max():.3g})"
        yield "baseline", f"baseline='pca' {fault}; give data with counts in X"


CHECKS: tuple[Callable[[Given], Findings], ...] = (
    _many_values,
    _look_missing,
    _have_blanks,
    _are_swapped,
    _embeddings,
    _beyond_float32,
    _log_of_logs,
)
"""Checks of a run, in the order of their warnings."""


def _sample(rows: Rows) -> NDArray[Any]:
    return np.concatenate(list(sampled_blocks(rows)))


def _rows_are_equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return a.shape[1] == b.shape[1] and (len(b) == 1 or len(a) == len(b)) and bool((a == b).all())


def _is_constant(rows: Rows) -> bool:
    first = read_rows(rows, 0, 1)
    return all(_rows_are_equal(block, first) for block in _blocks(rows))


def _are_identical(a: Rows, b: Rows) -> bool:
    return all(_rows_are_equal(one, other) for one, other in zip(_blocks(a), _blocks(b), strict=True))


def _blocks(rows: Rows) -> Iterator[NDArray[Any]]:
    n = int(rows.shape[0])
    yield from (read_rows(rows, start, min(start + _SCAN_ROWS, n)) for start in range(0, n, _SCAN_ROWS))


def _are_counts(sample: NDArray[Any]) -> bool:
    return bool(sample.min() >= 0 and sample.max() > 1 and not np.any(sample % 1))
