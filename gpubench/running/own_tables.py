"""Inputs that users of perturbation_prediction may give: tests of expression, target genes, keys of embeddings."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError, close_matches, quoted, some_rows
from gpubench.data import split_name
from gpubench.data._formats.row_names import as_array
from gpubench.data.read import open_table
from gpubench.metrics.perturbation.registry import PERTURBATION_METRICS
from gpubench.metrics.perturbation.tables import ExpressionTable, expression_table

if TYPE_CHECKING:
    from gpubench.data.perturbation.screens import Screen

COLUMNS = ("target", "feature", "log2_fold_change", "p_value")
ADJUSTED = ("fdr", "p_adj")
"""Names of the column of adjusted p-values in cell-eval and in cell-eval2."""

NO_GENE = ("", "nan", "None", "<NA>")
"""Texts that an empty cell of a table may become."""

IN_EMBEDDINGS = ("discrimination_score_l2", "discrimination_score_cosine")
"""Metrics that cell-eval computes in the embedding that its --embed-key names."""


def read_expression_table(source: Any, argument: str, screen: Screen, control: str) -> ExpressionTable:
    """Read a table of differential expression of the perturbations of a screen.

    Parameters
    ----------
    source : path of a CSV or Parquet file, or a DataFrame, with the columns of cell-eval or cell-eval2
    argument : name of the argument, for messages
    screen : the screen that was tested
    control : label of the control

    Raises
    ------
    InputError
        Columns that are missing or no numbers, perturbations that the table lacks, genes that the screen lacks.
    """
    table = open_table(source)
    names = [] if table is None else table.names()
    adjusted = next((name for name in ADJUSTED if name in names), ADJUSTED[0])
    missing = [name for name in (*COLUMNS, adjusted) if name not in names]
    if table is None or missing:
        raise InputError(
            f"{argument}: no column {quoted(missing)}; give a table with the columns {quoted([*COLUMNS, adjusted])}",
            argument=argument,
        )
    columns = {name: _texts(table.column(name)) for name in COLUMNS[:2]}
    for name, texts in columns.items():
        if len(rows := np.flatnonzero(texts == "")):
            fault = some_rows(rows, len(texts), f"have no {name}")
            raise InputError(f"{argument}: {fault}; fill or leave out these rows", argument=argument)
    numbers = {name: _numbers(table.column(name), f"{argument}: column {name!r}") for name in (*COLUMNS[2:], adjusted)}
    found = expression_table({**columns, **numbers})
    perturbations = [name for name in screen.perturbations.names if name != control]
    lacking = [name for name in perturbations if name not in set(found.perturbations)]
    if lacking:
        raise InputError(
            f"{argument}: {len(lacking):,} of {len(perturbations):,} perturbations are not in the table"
            f" ({quoted(lacking)}); add their rows, or leave {argument} out to have them tested",
            argument=argument,
        )
    unknown = sorted(set(found.genes) - set(screen.genes))
    if unknown:
        raise InputError(
            f"{argument}: {len(unknown):,} of {len(found.genes):,} genes are not in {screen.name} ({quoted(unknown)});"
            " name genes as there",
            argument=argument,
        )
    return found


def _texts(column: Any) -> np.ndarray:
    """Return a column as text; missing values are empty."""
    return np.array(["" if str(text) in NO_GENE else str(text) for text in as_array(column).tolist()], str)


def _numbers(column: Any, what: str) -> np.ndarray:
    try:
        return np.asarray(as_array(column), np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} is not numbers ({error}); write numbers") from error


def by_prediction(given: Any, names: Sequence[str], argument: str) -> dict[str, Any]:
    """Return prediction -> what was given for it: a mapping, one value for a single prediction, or "NAME=FILE,..."."""
    if isinstance(given, str) and "=" in given:
        parts = [split_name(part) for part in given.split(",") if part]
        given = dict(parts)
        if len(given) < len(parts):
            raise InputError(f"{argument}: a prediction is named twice; give one table for each", argument=argument)
    elif not isinstance(given, Mapping) or _is_table(given):
        if len(names) > 1:
            raise InputError(
                f"{argument} is one table for {len(names):,} predictions; write NAME=FILE,NAME=FILE", argument=argument
            )
        given = {names[0]: given}
    for name in given:
        if name not in names:
            raise InputError(f"{argument}: {name!r} is no prediction{close_matches(name, names)}", argument=argument)
    return dict(given)


def _is_table(given: Mapping[str, Any]) -> bool:
    return {*COLUMNS} <= {*map(str, given)}


def read_target_genes(source: Any, screen: Screen) -> dict[str, str | None]:
    """Read which gene each perturbation targets.

    Parameters
    ----------
    source : mapping perturbation -> gene, or path of a CSV or Parquet file with the columns perturbation and gene; an
        empty gene, or None, says that a perturbation targets none. The perturbation "*" stands for all others
    screen : the real data

    Raises
    ------
    InputError
        A column that is missing, a perturbation that occurs twice, names that all differ from those of the screen.
    """
    argument = "target_genes"
    if isinstance(source, Mapping):
        pairs = [(str(name), gene) for name, gene in source.items()]
    else:
        table = open_table(source)
        missing = [name for name in ("perturbation", "gene") if table is None or name not in table.names()]
        if table is None or missing:
            raise InputError(
                f"{argument}: no column {quoted(missing)}; give a table with the columns 'perturbation' and 'gene'",
                argument=argument,
            )
        pairs = list(zip(*(_texts(table.column(name)).tolist() for name in ("perturbation", "gene")), strict=True))
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise InputError(
            f"{argument}: {len(twice):,} perturbations occur twice ({quoted(twice)}); give one gene for each",
            argument=argument,
        )
    found = {name: None if gene is None or str(gene) in NO_GENE else str(gene) for name, gene in pairs}
    _require_known([name for name in found if name != "*"], screen.perturbations.names, "perturbations", screen.name)
    _require_known([gene for gene in found.values() if gene], screen.genes, "genes", screen.name)
    return found


def _require_known(named: Sequence[str], known: Sequence[str], what: str, where: str) -> None:
    if named and not set(named) & set(known):
        raise InputError(
            f"target_genes: none of {len(set(named)):,} {what} is in {where} (there are {quoted(list(known)[:3])}, not"
            f" {quoted(sorted(set(named))[:3])}); name them as there",
            argument="target_genes",
        )


def embedding_keys(given: Any) -> dict[str, str]:
    """Return metric -> the key of obsm in which to compute it, from a key, a mapping, or "METRIC=KEY,METRIC=KEY".

    A key alone is for the metrics that cell-eval computes in an embedding.
    """
    if isinstance(given, str | os.PathLike):
        text = os.fspath(given)
        pairs = [part.partition("=")[::2] for part in text.split(",") if part]
        if "=" not in text:
            return dict.fromkeys(IN_EMBEDDINGS, text) if text else {}
        given = dict(pairs)
    for metric in given:
        spec = PERTURBATION_METRICS.get(metric)
        if spec is None:
            raise InputError(
                f"embed_key: {metric!r} is no metric{close_matches(metric, PERTURBATION_METRICS)}", argument="embed_key"
            )
        if spec.generation == 2 or spec.needs not in ("effects", "energies", "centroids"):
            raise InputError(f"embed_key: {metric} is made of genes; leave it out", argument="embed_key")
    return {str(metric): str(key) for metric, key in given.items()}
