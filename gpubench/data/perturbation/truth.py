"""Ground truth of a perturbation dataset: the genes that each condition changes, and a control for each cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError, close_matches, quoted
from gpubench.data._formats.anndata_store import AnnDataSource, StoredAnnData
from gpubench.data._formats.stores import is_group
from gpubench.data.columns import as_text
from gpubench.data.read import open_source
from gpubench.data.urls import reading

if TYPE_CHECKING:
    import h5py
    import pandas as pd
    from numpy.typing import NDArray

DE_KEY = "de_results_wilcoxon"
CONTROL_MAP_KEY = "control_cells_map"
CONDITION = "condition"
"""Column of a prepared file with the condition, in the table of differential expression and in obs."""

TASK_DE_KEY = "de_results"
TASK_TARGETS_KEY = "target_conditions_dict"

ControlMap = Mapping[str, Mapping[str, str]]
"""Condition -> {treated cell: its control cell}."""


@dataclass(frozen=True, slots=True)
class Criteria:
    """Criteria by which the genes to score are chosen; the defaults are those of cz-benchmarks.

    Attributes
    ----------
    max_p_value : upper limit (exclusive) of the adjusted p-values of differentially expressed genes
    min_log2_fold_change : lower limit of the absolute log2 fold changes of differentially expressed genes
    masked_share : share of the differentially expressed genes of a condition that is drawn as masked genes, on which
        predictions are scored; their number is rounded down
    min_masked_genes : smallest number of masked genes of a condition; conditions with fewer are left out

    Examples
    --------
    >>> Criteria(max_p_value=0.01).min_log2_fold_change
    1.0
    """

    max_p_value: float = 1e-4
    min_log2_fold_change: float = 1.0
    masked_share: float = 0.5
    min_masked_genes: int = 5


@dataclass(frozen=True, slots=True)
class Changes:
    """Differentially expressed genes of one condition.

    Attributes
    ----------
    genes : (g,) names of the genes
    change : (g,) float64, log fold changes against the controls
    """

    genes: NDArray[np.str_]
    change: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Truth:
    """Ground truth with which predictions are compared.

    Attributes
    ----------
    changes : condition -> its differentially expressed genes, in the order of the dataset
    targets : condition -> the masked genes, which are scored
    control_map : condition -> {treated cell: its control cell}
    note : how the ground truth was obtained, if it was not read from a table in the dataset; else empty
    """

    changes: Mapping[str, Changes]
    targets: Mapping[str, Sequence[str]]
    control_map: ControlMap
    note: str = ""


def select_truth(
    table: pd.DataFrame, control_map: ControlMap, *, condition: str, seed: int, criteria: Criteria
) -> Truth:
    """Select the differentially expressed genes of each condition from a table, and draw its masked genes."""
    _require_columns(table, (condition, "gene_id", "logfoldchange", "pval_adj"), DE_KEY)
    for column in ("logfoldchange", "pval_adj"):
        if table[column].dtype.kind not in "fiu":
            raise InputError(f"uns[{DE_KEY!r}]: its column {column!r} does not hold numbers; store it as floats")
    changed = table["logfoldchange"].abs() >= criteria.min_log2_fold_change
    selected = table[changed & (table["pval_adj"] < criteria.max_p_value)]
    if selected.empty:
        raise InputError(
            f"uns[{DE_KEY!r}]: none of its {len(table):,} rows has an adjusted p-value below {criteria.max_p_value:g}"
            f" and a log2 fold change of at least {criteria.min_log2_fold_change:g} up or down; nothing can be scored"
        )
    changes = _split_by_condition(selected, condition, "logfoldchange", DE_KEY)
    return Truth(changes, sample_targets(changes, seed=seed, criteria=criteria), control_map)


def sample_targets(changes: Mapping[str, Changes], *, seed: int, criteria: Criteria) -> dict[str, list[str]]:
    """Draw the masked genes of each condition; cz-benchmarks draws the same genes with the same seed."""
    # The legacy generator, for the same draw; a separate one, so that the caller's random state does not change.
    random = np.random.RandomState(seed)
    targets = {}
    for condition, changed in changes.items():
        n = int(len(changed.genes) * criteria.masked_share)
        if n >= max(1, criteria.min_masked_genes):
            targets[condition] = changed.genes[random.choice(len(changed.genes), size=n, replace=False)].tolist()
    return targets


def read_truth(dataset: Any, *, condition: str, seed: int, criteria: Criteria) -> Truth | None:
    """Read the ground truth from a dataset in the layout of cz-benchmarks; None if it has no differential expression.

    `condition` is the column with the condition in the table of differential expression, or in obs if the table has the
    column `CONDITION` instead. If the file was stored by cz-benchmarks with the masked genes that it drew, these genes
    are used.
    """
    import pandas as pd

    opened = open_source(dataset)
    if not isinstance(opened, AnnDataSource):
        raise InputError("dataset is not AnnData; give an h5ad file, a zarr store or an AnnData object")
    uns = _StoredUns(opened) if isinstance(opened, StoredAnnData) else opened.uns
    stored_by_task = TASK_DE_KEY in uns and TASK_TARGETS_KEY in uns
    if not stored_by_task and DE_KEY not in uns:
        return None
    if CONTROL_MAP_KEY not in uns:
        raise InputError(
            f"dataset has differential expression but no uns[{CONTROL_MAP_KEY!r}]; map each treated cell to a control"
            " cell there, or prepare the file with gpubench prepare"
        )
    control_map = _check_map(uns[CONTROL_MAP_KEY])
    if stored_by_task:
        return _read_task_truth(uns, control_map, condition)
    table = pd.DataFrame(uns[DE_KEY])
    if "gene_id" not in table:  # the other name that cz-benchmarks accepts
        table = table.rename(columns={"gene": "gene_id"})
    obs = opened.table()
    if condition not in table and obs is not None and condition in obs.names():  # as `prepare_perturbation` writes it
        table = table.rename(columns={CONDITION: condition})
    return select_truth(table, control_map, condition=condition, seed=seed, criteria=criteria)


def _read_task_truth(uns: Any, control_map: ControlMap, condition: str) -> Truth:
    """Read the filtered changes and the masked genes that cz-benchmarks stored for its task."""
    import pandas as pd

    metric = str(uns["metric_column"]) if "metric_column" in uns else "logfoldchange"
    if "config" in uns:
        condition = str(uns["config"].get("condition_key", condition))
    table = pd.DataFrame(uns[TASK_DE_KEY])
    _require_columns(table, (condition, "gene_id", metric), TASK_DE_KEY)
    changes = _split_by_condition(table.dropna(subset=[metric]), condition, metric, TASK_DE_KEY)
    targets = {str(name): [str(gene) for gene in genes] for name, genes in uns[TASK_TARGETS_KEY].items()}
    return Truth(changes, targets, control_map, "masked genes as stored in the dataset")


def _require_columns(table: pd.DataFrame, columns: Sequence[str], key: str) -> None:
    for column in columns:
        if column not in table:
            raise InputError(f"uns[{key!r}] has no column {column!r}{close_matches(column, map(str, table.columns))}")


def _split_by_condition(table: pd.DataFrame, condition: str, metric: str, key: str) -> dict[str, Changes]:
    """Split a table by condition, in its order of conditions and genes, on which the draw of masked genes depends."""
    import pandas as pd

    codes, conditions = pd.factorize(table[condition].to_numpy(str))
    genes, change = table["gene_id"].to_numpy(str), table[metric].to_numpy(np.float64)
    order = np.argsort(codes, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    changes = {str(name): Changes(genes[rows], change[rows]) for name, rows in zip(conditions, parts, strict=True)}
    for name, changed in changes.items():
        distinct, counts = np.unique(changed.genes, return_counts=True)
        if len(distinct) < len(changed.genes):
            raise InputError(
                f"uns[{key!r}] lists {quoted(distinct[counts > 1].tolist())} more than once for the condition {name!r};"
                " keep one row for each gene of a condition"
            )
    return changes


class _StoredUns:
    """Mapping of the unstructured annotations of a stored AnnData, of which each key is read when it is requested."""

    def __init__(self, stored: StoredAnnData) -> None:
        self._group = stored.uns
        self._file = stored.file
        if not isinstance(self._group, Mapping) and not is_group(self._group):
            raise InputError(f"{self._file} has an array where the group uns should be; write it again with anndata")

    def __contains__(self, key: object) -> bool:
        return key in self._group

    def __getitem__(self, key: str) -> Any:
        import h5py
        from anndata._io.specs.registry import IORegistryError
        from anndata.io import read_elem

        with reading(f"uns[{key!r}] of {self._file}", self._file):
            node = self._group[key]
            if key != CONTROL_MAP_KEY or not isinstance(node, h5py.Group):
                try:
                    return read_elem(node)
                except IORegistryError as error:
                    raise InputError(
                        f"uns[{key!r}] of {self._file} is stored in an encoding that the installed anndata cannot"
                        " read; update anndata, or write the file again"
                    ) from error
            return {name: _read_texts(pairs) if isinstance(pairs, h5py.Group) else None for name, pairs in node.items()}


def _read_texts(group: h5py.Group) -> dict[str, Any]:
    """Read a group of scalar text datasets, as a control map has one for every treated cell.

    The low-level calls take a quarter of the time of h5py's usual ones, and a tenth of anndata's.
    """
    from h5py import h5d, h5s, h5t, string_dtype

    as_str, text = h5t.py_create(string_dtype()), np.empty((), object)
    texts: dict[str, Any] = {}
    for key in group.id:
        node = h5d.open(group.id, key)
        if node.shape == () and h5t.check_string_dtype(node.dtype) and node.get_type().is_variable_str():
            node.read(h5s.ALL, h5s.ALL, text, as_str)
            texts[key.decode()] = as_text(text[()])
        else:
            texts[key.decode()] = group[key][()]
    return texts


def _check_map(control_map: Any) -> dict[str, dict[str, str]]:
    if not isinstance(control_map, Mapping):
        raise InputError(f"uns[{CONTROL_MAP_KEY!r}] must map each condition to its treated cells and their controls")
    checked = {}
    for condition, pairs in control_map.items():
        if not isinstance(pairs, Mapping) or not all(isinstance(control, str | bytes) for control in pairs.values()):
            raise InputError(
                f"uns[{CONTROL_MAP_KEY!r}][{condition!r}] must map each treated cell to the name of one control cell"
            )
        checked[str(condition)] = {str(treated): str(as_text(control)) for treated, control in pairs.items()}
    return checked
