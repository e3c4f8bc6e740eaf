"""Derive ground truth from expression of perturbed cells: test genes for changes, pair treated cells with controls."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError, nearest, quoted
from gpubench.core.types import Labels, check_seed
from gpubench.data._formats.stores import column_order, open_zarr
from gpubench.data.columns import encode_labels
from gpubench.data.expression import Expression, index_names, log_normalized, measure_depth, read_expression, to_csr
from gpubench.data.perturbation.differential_expression import differential_expression
from gpubench.data.perturbation.truth import (
    CONDITION,
    CONTROL_MAP_KEY,
    DE_KEY,
    ControlMap,
    Criteria,
    Truth,
    select_truth,
)
from gpubench.data.read import read
from gpubench.data.urls import reading

if TYPE_CHECKING:
    import h5py
    import pandas as pd
    from scipy.sparse import csr_array

_MAX_LOG_VALUE = 20.0
"""exp(20) counts in a cell, where normalised cells have a million at most: larger values are not logarithms."""

_MAX_TOTALS_SPREAD, _MAX_SPREAD_OF_SOME_GENES = 0.1, 3.0
_MULTIPLES, _MULTIPLE_TOLERANCE, _MIN_SHARE_WHOLE = (1.5, 12.0), 0.1, 0.8
"""Multiples of the smallest value of a cell that are compared with whole numbers; by chance 0.2 of them are whole."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """Ground truth that was derived from the expression of a dataset.

    Attributes
    ----------
    table : a row for each condition and gene, with the columns condition, gene_id, logfoldchange (base 2) and pval_adj
    control_map : condition -> {treated cell: its control cell}
    labels : condition of each cell
    note : assumptions and omissions, with their reasons
    """

    table: pd.DataFrame
    control_map: ControlMap
    labels: Labels
    note: str


def derive(source: Any, *, condition: str, control: str, seed: int = 42, tie_correct: bool = True) -> Preparation:
    """Test each condition against all controls, and pair its cells with controls; see `prepare_perturbation`."""
    import pandas as pd

    seed = check_seed(seed)
    expression = read_expression(source, "dataset")
    cells = list(index_names(expression.cells, "cells", "dataset"))
    genes = list(index_names(expression.genes, "genes", "dataset"))
    column = read(source, embeddings=[], columns={"condition": condition}).obs["condition"]
    labels = encode_labels(column, condition, len(cells))
    if control not in labels.names:
        raise InputError(
            f"control={control!r} is not a value of {condition!r} ({suggest_controls(control, labels)})",
            argument="control",
        )
    if labels.n_classes == 1:
        raise InputError(f"{condition!r} has no other value than {control!r}; give a dataset with perturbed cells")
    code = labels.names.index(control)
    x, assumed = _log_expression(expression)
    tested = differential_expression(x, labels.codes, code, labels.n_classes, tie_correct=tie_correct)
    control_map, unpaired = draw_control_map(cells, labels, code, seed)
    note = "; ".join(filter(None, (assumed, unpaired)))
    n_conditions, n_genes = tested.scores.shape
    names = pd.Index(list(control_map))
    table = pd.DataFrame(
        {
            CONDITION: pd.Categorical.from_codes(np.repeat(np.arange(n_conditions), n_genes), names),
            "gene_id": pd.Categorical.from_codes(np.tile(np.arange(n_genes), n_conditions), pd.Index(genes)),
            "logfoldchange": tested.log2_fold_changes.ravel(),
            "pval_adj": tested.adjusted_p_values.ravel(),
        }
    )
    return Preparation(table, control_map, labels, note)


_CONTROL_LIKE = re.compile(
    r"control|ctrl|non[-_ ]?target|\bntc?\b|untreated|unperturbed|vehicle|dmso|scrambled?|mock|\bpbs\b",
    re.IGNORECASE,
)
_N_VALUES = 5


def suggest_controls(given: str, labels: Labels) -> str:
    """Return a hint that lists values similar to `given` or typical of controls, and the most frequent values."""
    sizes = np.bincount(labels.codes, minlength=labels.n_classes)
    alike = [name for name in labels.names if _CONTROL_LIKE.search(name)]
    meant = list(dict.fromkeys([*nearest(given, labels.names), *alike]))[:_N_VALUES]
    largest = [int(code) for code in np.argsort(-sizes, kind="stable")[:_N_VALUES]]
    listed = ", ".join(f"{labels.names[code]!r} ({sizes[code]:,})" for code in largest)
    question = f"did you mean {quoted(meant)}? " if meant else ""
    return f"{question}the largest of {labels.n_classes:,} values, with their cells: {listed}"


def derive_truth(dataset: Any, *, condition: str, control: str, seed: int, criteria: Criteria) -> Truth:
    """Derive the ground truth in memory, as `prepare_perturbation` writes it, and choose the genes to score."""
    prepared = derive(dataset, condition=condition, control=control, seed=seed)
    truth = select_truth(prepared.table, prepared.control_map, condition=CONDITION, seed=seed, criteria=criteria)
    derived = "changed genes and controls derived from the dataset"
    return replace(truth, note=f"{derived}; {prepared.note}" if prepared.note else derived)


def draw_control_map(
    cells: list[str], labels: Labels, control: int, seed: int
) -> tuple[dict[str, dict[str, str]], str]:
    """Pair each treated cell with a control; the controls of a condition are drawn from all without replacement.

    If a condition has more cells than there are controls, only as many of its cells are drawn and paired. Returns the
    control map, and a note on such conditions.
    """
    random = np.random.default_rng(seed)
    controls = np.flatnonzero(labels.codes == control)
    control_map: dict[str, dict[str, str]] = {}
    cut = []
    for code, name in enumerate(labels.names):
        if code == control:
            continue
        treated = np.flatnonzero(labels.codes == code)
        if len(treated) > len(controls):
            cut.append(name)
            treated = np.sort(random.choice(treated, len(controls), replace=False))
        drawn = random.choice(controls, len(treated), replace=False)
        control_map[name] = {cells[t]: cells[c] for t, c in zip(treated, drawn, strict=True)}
    if not cut:
        return control_map, ""
    note = f"only {len(controls):,} cells, as many as there are controls, are paired of {quoted(cut)}"
    return control_map, note


def _log_expression(expression: Expression) -> tuple[csr_array, str]:
    """Return log(1 + normalised counts), and a note if X was assumed to be log-normalised already."""
    from scipy.sparse import vstack

    depth = measure_depth(expression)
    if depth.is_counts:
        return vstack([rows for _, rows in log_normalized(expression, depth)], format="csr"), ""
    if depth.largest > _MAX_LOG_VALUE:
        raise InputError(
            f"dataset: X holds neither counts (some values are not whole) nor log values (the largest is"
            f" {depth.largest:,.0f}); give raw counts, or log1p of normalised counts"
        )
    x = vstack([to_csr(block) for _, block in expression.blocks()], format="csr")
    if not _are_logs(x):
        raise InputError(
            "dataset: X holds fractions that are neither counts nor log1p of counts that were scaled to one total per"
            " cell; round the counts (of SoupX, CellBender), or give log1p of normalised counts"
        )
    return x, "X holds no counts and was taken as log1p of normalised counts"


def _are_logs(x: csr_array) -> bool:
    """Whether values are log(1 + counts scaled per cell), rather than counts with fractions.

    Cells of normalised counts have nearly equal totals. Where genes were left out since, the values of a cell are still
    whole multiples of its smallest one, which stands for one count.
    """
    counts = x.copy()
    with np.errstate(over="ignore"):
        counts.data = np.expm1(counts.data.astype(np.float64))
    n_values = np.diff(counts.indptr)
    totals = counts.sum(axis=1)[n_values > 0]
    if not len(totals) or totals.std() <= _MAX_TOTALS_SPREAD * totals.mean():
        return True
    if totals.std() > _MAX_SPREAD_OF_SOME_GENES * totals.mean():
        return False
    smallest = np.minimum.reduceat(counts.data, counts.indptr[:-1][n_values > 0])
    multiples = counts.data / np.repeat(smallest, n_values[n_values > 0])
    tested = multiples[(multiples > _MULTIPLES[0]) & (multiples < _MULTIPLES[1])]
    is_whole = np.abs(tested - np.round(tested)) < _MULTIPLE_TOLERANCE
    return not len(tested) or bool(is_whole.mean() > _MIN_SHARE_WHOLE)


def prepare_perturbation(
    source: Any, out: str | os.PathLike[str], *, condition: str, control: str, seed: int = 42, tie_correct: bool = True
) -> Preparation:
    """Write a copy of a file with differential expression and a control map added, in the layout of cz-benchmarks.

    Every condition is tested against all controls (Wilcoxon rank-sum test of log-normalised counts, Benjamini-Hochberg
    over the genes of a condition), and each treated cell is paired with a random control. X is held in memory twice, in
    sparse float32.

    Parameters
    ----------
    source : path of an h5ad file or a zarr store, or an AnnData, with counts, or log1p of normalised counts, in X
    out : path of the h5ad file to write, other than the source. The copy gets the column obs["condition"],
        uns["de_results_wilcoxon"] and uns["control_cells_map"].
    condition : column of obs with the condition
    control : value of that column for control cells, such as "non-targeting"
    seed : random seed for pairing cells with controls
    tie_correct : correct the test for ties, which scanpy does not do by default; uncorrected, the test finds fewer
        genes, since most values of single cells are zero

    Raises
    ------
    InputError
        Unknown column or control, no other condition, negative or infinite values, names that occur twice or hold "/",
        another column "condition", `out` is the source, or a file that cannot be read or written.

    Examples
    --------
    >>> prepared = prepare_perturbation(
    ...     "screen.h5ad", "prepared.h5ad", condition="gene", control="non-targeting"
    ... )  # doctest: +SKIP
    """
    _check_not_source(source, Path(out))
    with _replacing(Path(out)) as copy:
        prepared = derive(source, condition=condition, control=control, seed=seed, tie_correct=tie_correct)
        _check_storable(prepared.control_map)
        _copy(source, copy)
        _write_layout(copy, prepared, add_column=condition != CONDITION)
    return prepared


def _check_not_source(source: Any, out: Path) -> None:
    """Raise InputError if `out` is the file that is read, also by another path."""
    path = source if isinstance(source, str | os.PathLike) else getattr(source, "filename", None)
    if path is None or not Path(path).exists():
        return
    inside = Path(path).is_dir() and out.resolve().is_relative_to(Path(path).resolve())
    if inside or (out.exists() and out.samefile(path)):
        raise InputError(
            f"out={str(out)!r} is the input, or inside of it, which would be overwritten; choose another name",
            argument="out",
        )


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """Yield a temporary file in the folder of `out`; it becomes `out` on success and is removed on failure."""
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch()  # fail before the work if it cannot be written
        yield temporary
        temporary.replace(out)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise InputError(
            f"out={str(out)!r} cannot be written: {reason}; choose another place", argument="out"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _check_storable(control_map: ControlMap) -> None:
    names = [*control_map, *(cell for pairs in control_map.values() for cell in pairs)]
    wrong = [name for name in names if "/" in name or name in ("", ".")]
    if wrong:
        raise InputError(
            f"dataset: {len(wrong):,} names of conditions or treated cells are empty, '.' or hold '/'"
            f" ({quoted(wrong[:3])}), which an h5ad file cannot have as keys; rename them"
        )


def _copy(source: Any, copy: Path) -> None:
    if not isinstance(source, str | os.PathLike):
        source.write_h5ad(copy)
    elif Path(source).is_dir() or Path(source).suffix == ".zip":
        import anndata

        with reading(source):
            adata = anndata.read_zarr(open_zarr(Path(source)))
        adata.write_h5ad(copy)
    else:
        shutil.copyfile(source, copy)


def _write_layout(path: Path, prepared: Preparation, *, add_column: bool) -> None:
    import h5py
    import pandas as pd
    from anndata.io import write_elem

    labels = prepared.labels
    with h5py.File(path, "r+") as file:
        obs = file["obs"]
        if not isinstance(file.get("uns", obs), h5py.Group):
            raise InputError("dataset has an array where the group uns should be; write it again with anndata")
        uns = file.require_group("uns")
        if "column-order" not in obs.attrs:
            raise InputError("dataset was written by AnnData before 0.7; read it with a newer one and write it again")
        if add_column and CONDITION in obs:
            raise InputError(f"dataset has another column {CONDITION!r} in obs, where the conditions go; rename it")
        if add_column:
            write_elem(obs, CONDITION, pd.Categorical.from_codes(labels.codes, pd.Index(labels.names)))
            obs.attrs["column-order"] = [*column_order(obs), CONDITION]
        write_elem(uns, DE_KEY, prepared.table)
        write_elem(uns, CONTROL_MAP_KEY, {})
        for name, pairs in prepared.control_map.items():
            write_elem(uns[CONTROL_MAP_KEY], name, {})
            _write_texts(uns[CONTROL_MAP_KEY][name], pairs)


def _write_texts(group: h5py.Group, texts: Mapping[str, str]) -> None:
    """Write each text as a scalar dataset, as AnnData does for a mapping.

    Copying the first dataset and filling in the copies takes an eighth of the time of `write_elem` for each.
    """
    from anndata.io import write_elem
    from h5py import h5d, h5o, h5s, h5t, string_dtype

    as_text = h5t.py_create(string_dtype())
    first, *others = texts
    write_elem(group, first, texts[first])
    for key in others:
        h5o.copy(group.id, first.encode(), group.id, key.encode())
        h5d.open(group.id, key.encode()).write(h5s.ALL, h5s.ALL, np.array(texts[key], object), as_text)
