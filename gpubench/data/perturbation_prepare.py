"""Derives what the perturbation task needs from a plain file: differentially expressed genes and a control map."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.data.columns import encode_labels
from gpubench.data.differential_expression import DifferentialExpression, differential_expression
from gpubench.data.expression import Expression, open_store, read_expression, to_csr
from gpubench.data.messages import close_matches, quoted, reading
from gpubench.data.normalization import log_normalized, measure_depth
from gpubench.data.perturbation_truth import CONTROL_MAP_KEY, DE_KEY, Criteria, Truth, truth_of
from gpubench.errors import InputError
from gpubench.files import check_writable_folder
from gpubench.types import Labels

if TYPE_CHECKING:
    import h5py
    import pandas as pd
    from scipy.sparse import csr_array

_LARGEST_LOG_VALUE = 50.0
"""exp(50) counts in a cell: what is larger was not logarithmised."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """What was derived from a dataset.

    Attributes
    ----------
    table : a row for each condition and gene: condition, gene_id, logfoldchange (base 2), pval_adj
    control_map : condition -> {treated cell: its control cell}
    labels : the condition of each cell
    note : what was left out or assumed, and why
    """

    table: pd.DataFrame
    control_map: Mapping[str, Mapping[str, str]]
    labels: Labels
    note: str


def prepare_perturbation(
    source: Any,
    out: str | os.PathLike[str],
    *,
    condition: str,
    control: str,
    seed: int = 42,
    tie_correct: bool = True,
) -> Preparation:
    """Write a copy of a plain file with differential expression and a control map, in the layout of cz-benchmarks.

    Every condition is tested against all controls (Wilcoxon rank-sum test on log-normalised counts, Benjamini-Hochberg
    over the genes of a condition), and each treated cell is paired with a control of its own, drawn at random.

    Parameters
    ----------
    source : path of an h5ad file or a zarr store, or an AnnData, with counts or log-normalised values in X
    out : the h5ad file to write, whole or not at all; it may be the source. The copy gets the column obs["condition"].
    condition : column of obs with the condition
    control : its value for controls, such as "non-targeting"
    seed : decides the control map
    tie_correct : correct the test for equal values; scanpy does not unless told, and finds fewer genes

    Raises
    ------
    InputError
        Unknown column or control, no other condition, negative or infinite values, names that occur twice or hold "/",
        another column "condition", or a file that cannot be read or written.
    """
    check_writable_folder(Path(out).parent)
    prepared = derive(source, condition=condition, control=control, seed=seed, tie_correct=tie_correct)
    _require_storable(prepared.control_map)
    with _temporary(Path(out)) as copy:
        _copy_to(source, copy)
        _write_layout(copy, prepared, condition)
    return prepared


def derive_truth(dataset: Any, *, condition: str, control: str, seed: int, criteria: Criteria) -> Truth:
    """Derive in memory what `prepare_perturbation` writes, and choose the genes to score."""
    prepared = derive(dataset, condition=condition, control=control, seed=seed)
    truth = truth_of(prepared.table, prepared.control_map, condition="condition", seed=seed, criteria=criteria)
    note = f"differential expression derived from the dataset; {prepared.note}".rstrip("; ")
    return Truth(truth.changes, truth.targets, truth.control_map, note)


def derive(source: Any, *, condition: str, control: str, seed: int, tie_correct: bool = True) -> Preparation:
    """Test each condition against the controls, and pair its cells with controls."""
    expression = read_expression(source, "dataset")
    labels = encode_labels(_read_column(source, condition), condition, n=expression.shape[0])
    if control not in labels.names:
        raise InputError(f"control={control!r} is not a value of {condition!r}{close_matches(control, labels.names)}")
    if labels.n_classes < 2:
        raise InputError(f"{condition!r} holds controls only; give a dataset with perturbed cells")
    code = labels.names.index(control)
    x, note = _log_expression(expression)
    tested = differential_expression(x, labels.codes, code, labels.n_classes, tie_correct=tie_correct)
    control_map, unpaired = draw_control_map(_unique(expression.cells, "cells"), labels, code, seed)
    table = _table(tested, [name for name in labels.names if name != control], _unique(expression.genes, "genes"))
    return Preparation(table, control_map, labels, "; ".join(filter(None, (note, unpaired))))


def draw_control_map(
    cells: list[str], labels: Labels, control: int, seed: int
) -> tuple[dict[str, dict[str, str]], str]:
    """Pair each treated cell with a control drawn without replacement; each condition draws from all controls.

    Returns
    -------
    (condition -> {treated cell: control cell}, note): where a condition has more cells than there are controls, as many
    of them as there are controls, drawn at random; the note says so.
    """
    random = np.random.default_rng(seed)
    controls = np.flatnonzero(labels.codes == control)
    control_map, cut = {}, []
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
    return control_map, f"more cells than the {len(controls):,} controls, so that only as many are paired: {quoted(cut)}"


def _log_expression(expression: Expression) -> tuple[csr_array, str]:
    from scipy.sparse import vstack

    depth = measure_depth(expression)
    if depth.is_counts:
        return vstack([rows for _, rows in log_normalized(expression, depth)], format="csr"), ""
    if depth.largest > _LARGEST_LOG_VALUE:
        raise InputError(
            f"dataset: X holds neither counts (some values are not whole) nor log values (the largest is"
            f" {depth.largest:,.0f}); give raw counts, or log1p of normalised counts"
        )
    x = vstack([to_csr(block) for _, block in expression.blocks()], format="csr")
    return x, "X holds no counts and was taken as log1p of normalised counts"


def _table(tested: DifferentialExpression, conditions: list[str], genes: list[str]) -> pd.DataFrame:
    import pandas as pd

    c, g = len(conditions), len(genes)
    return pd.DataFrame(
        {
            "condition": pd.Categorical.from_codes(np.repeat(np.arange(c), g), conditions),
            "gene_id": pd.Categorical.from_codes(np.tile(np.arange(g), c), genes),
            "logfoldchange": tested.log2_fold_changes.ravel(),
            "pval_adj": tested.adjusted_p_values.ravel(),
        }
    )


def _read_column(source: Any, name: str) -> Any:
    if not isinstance(source, str | os.PathLike):
        columns, read = source.obs.columns, source.obs.__getitem__
    else:
        from anndata.io import read_elem

        obs = open_store(Path(source))["obs"]
        columns, read = obs.keys(), lambda key: read_elem(obs[key])
    if name not in columns:
        raise InputError(f"condition={name!r} is not a column of obs{close_matches(name, columns)}")
    return read(name)


def _unique(names: Any, what: str) -> list[str]:
    if names is None:
        raise InputError(f"dataset has no names of {what}; give an h5ad file or an AnnData")
    distinct, counts = np.unique(names, return_counts=True)
    if len(distinct) < len(names):
        twice = distinct[counts > 1].tolist()
        raise InputError(
            f"dataset: {len(twice):,} names of {what} occur more than once ({quoted(twice[:3])}); make them unique"
        )
    return list(names.tolist())


def _require_storable(control_map: Mapping[str, Mapping[str, str]]) -> None:
    names = [*control_map, *(cell for pairs in control_map.values() for cell in pairs)]
    slashed = [name for name in names if "/" in name]
    if slashed:
        raise InputError(
            f"dataset: {len(slashed):,} names of conditions or cells hold '/' ({quoted(slashed[:3])}), which an h5ad file"
            " cannot store as keys; rename them"
        )


@contextmanager
def _temporary(out: Path) -> Iterator[Path]:
    """A name beside `out` that becomes `out` if all goes well, and goes away otherwise."""
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        temporary.replace(out)
    except OSError as error:
        raise InputError(f"out={str(out)!r} cannot be written: {error.strerror or error}; choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)


def _copy_to(source: Any, copy: Path) -> None:
    if not isinstance(source, str | os.PathLike):
        source.write_h5ad(copy)
    elif Path(source).is_file() and Path(source).suffix != ".zip":
        shutil.copyfile(source, copy)
    else:
        import anndata

        anndata.read_zarr(source).write_h5ad(copy)


def _write_layout(path: Path, prepared: Preparation, condition: str) -> None:
    import h5py
    import pandas as pd
    from anndata.io import write_elem

    labels = prepared.labels
    with reading(str(path)), h5py.File(path, "r+") as file:
        obs, uns = file["obs"], file.require_group("uns")
        if condition != "condition":
            if "condition" in obs:
                raise InputError("dataset has another column 'condition' in obs, which the layout needs; rename it")
            write_elem(obs, "condition", pd.Categorical.from_codes(labels.codes, list(labels.names)))
            obs.attrs["column-order"] = [*obs.attrs["column-order"], "condition"]
        write_elem(uns, DE_KEY, prepared.table)
        if CONTROL_MAP_KEY in uns:
            del uns[CONTROL_MAP_KEY]
        write_elem(uns, CONTROL_MAP_KEY, {})
        for name, pairs in prepared.control_map.items():
            write_elem(uns[CONTROL_MAP_KEY], name, {})
            _write_texts(uns[CONTROL_MAP_KEY][name], pairs)


def _write_texts(group: h5py.Group, texts: Mapping[str, str]) -> None:
    """Write each text as a dataset of its own, as anndata does for a dictionary.

    Copying one that is marked as text and filling in the copies takes an eighth of the time of writing each.
    """
    from anndata.io import write_elem
    from h5py import h5d, h5o, h5s, h5t, string_dtype

    blank = "blank"
    while blank in texts:
        blank += "_"
    write_elem(group, blank, "")
    as_str = h5t.py_create(string_dtype())
    for key, text in texts.items():
        h5o.copy(group.id, blank.encode(), group.id, key.encode())
        h5d.open(group.id, key.encode()).write(h5s.ALL, h5s.ALL, np.array(text, object), as_str)
    del group[blank]
