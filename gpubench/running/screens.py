"""Inputs of the task perturbation_prediction: a real perturbation screen, predictions of it, and their audit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gpubench.auditing.audit import Audit, audit_screens, prediction_name
from gpubench.core.errors import InputError, quoted
from gpubench.core.files import cache_folder
from gpubench.core.kept_results import FOLDER as KEPT
from gpubench.core.kept_results import KeptLog, KeptResults
from gpubench.core.scores import PerturbationTable
from gpubench.core.units import parse_bytes
from gpubench.data import split_name
from gpubench.data.perturbation.screens import Screen, read_screen
from gpubench.engines.planner import budget_bytes
from gpubench.metrics.perturbation.registry import metrics_of
from gpubench.running.options import SCREEN_BASELINES
from gpubench.running.own_tables import by_prediction, embedding_keys, read_expression_table, read_target_genes
from gpubench.running.provenance import bit_level_context
from gpubench.tasks._screens import RealScreen, ScreenColumn, column_name

if TYPE_CHECKING:
    from gpubench.engines.base import Engine
    from gpubench.metrics.perturbation.tables import ExpressionTable
    from gpubench.running.options import RunOptions


@dataclass(frozen=True)
class ScreenInputs:
    """A real perturbation screen and predictions of it.

    Attributes
    ----------
    real : the real cells
    predictions : name -> predicted cells, whose genes are in the order of those of the real cells
    audit : findings of the checks of real and predicted cells
    table : table to which scoring adds the values of every perturbation
    log : what was read from results that earlier runs kept
    real_tests, predicted_tests : differential expression that the user gives, of the real data and by prediction
    target_genes : perturbation -> the gene that it targets, where the user says so
    embeddings : metric -> the key of obsm in which it is computed
    """

    real: Screen
    predictions: Mapping[str, Screen]
    audit: Audit
    table: PerturbationTable = field(default_factory=PerturbationTable)
    log: KeptLog = field(default_factory=KeptLog)
    real_tests: ExpressionTable | None = None
    predicted_tests: Mapping[str, ExpressionTable] = field(default_factory=dict)
    target_genes: Mapping[str, str | None] = field(default_factory=dict)
    embeddings: Mapping[str, str] = field(default_factory=dict)

    def columns(self, run: RunOptions, baselines: list[str], engine: Engine) -> Iterator[tuple[str, ScreenColumn]]:
        """Yield the name and the input of each column of the results: predictions first, then baselines."""
        options = run.options
        metrics = metrics_of(options.profile, options.metrics or None)
        facts = [bit_level_context(engine), self.real.digest]
        real = RealScreen(
            self.real,
            str(run.control),
            engine,
            metrics,
            n_splits=options.n_splits,
            strict_mean=options.strict_mean,
            kept=KeptResults(cache_folder() / KEPT, facts, self.log),
            table=self.real_tests,
            target_genes=self.target_genes,
            embeddings=self.embeddings,
        )
        own = [name for name in baselines if name in SCREEN_BASELINES]
        zeros = tuple(name for name in own if name in ("mean", "control"))
        for name, predicted in self.predictions.items():
            tests = self.predicted_tests.get(name)
            yield name, ScreenColumn(real, predicted, zeros, "replicate" in own, self.table, tests)
        for baseline in own:
            yield column_name(baseline), ScreenColumn(real, baseline, table=self.table)  # type: ignore[arg-type]


def read_screens(run: RunOptions) -> ScreenInputs:
    """Read and audit the real screen and the predictions of a run; raise `InputError` if the audit finds an error."""
    if run.control is None:
        raise InputError(
            "control is needed by the task 'perturbation_prediction': the label of control cells in the column"
            " `condition`, such as 'non-targeting'",
            argument="control",
        )
    condition = run.condition or "condition"
    named = _named(run.predictions)
    several = isinstance(run.predictions, Mapping)
    taken = [name for name in named if name in map(column_name, SCREEN_BASELINES)]
    if taken:
        raise InputError(
            f"predictions: {quoted(taken)} is the name of a baseline; write NAME=FILE to give another name",
            argument="predictions",
        )
    given: dict[str, Any] = {"condition": condition, "context": run.context, "control": run.control}
    given["memory_bytes"] = _memory_bytes(run) // (1 + len(named))
    embeddings = embedding_keys(run.options.embed_key or "")
    given["embeddings"] = list(dict.fromkeys(embeddings.values()))
    _check_baselines(run, embeddings)
    real = read_screen(run.data, "the real data", **given)
    screens = {
        name: read_screen(source, prediction_name(name if several else ""), **given) for name, source in named.items()
    }
    metrics = metrics_of(run.options.profile, run.options.metrics or None)
    own_control = any(metric.generation == 1 for metric in metrics)
    found = audit_screens(real, screens, control=run.control, own_control=own_control)
    found.raise_errors(strict=run.strict)
    return ScreenInputs(
        real,
        {name: screen.with_genes(real.genes) for name, screen in screens.items()},
        found,
        embeddings=embeddings,
        **_own_tables(run, real, screens),
    )


def _check_baselines(run: RunOptions, embeddings: Mapping[str, str]) -> None:
    """Refuse what baselines have not: embeddings."""
    named = [run.baseline] if isinstance(run.baseline, str) else list(run.baseline or ())
    if embeddings and named:
        raise InputError(
            f"embed_key: the baseline {named[0]!r} has expression only; leave one of them out", argument="embed_key"
        )


def _own_tables(run: RunOptions, real: Screen, screens: Mapping[str, Screen]) -> dict[str, Any]:
    """Read the tables of tests and of target genes that are given."""
    options, control = run.options, str(run.control)
    tests = options.de_predicted
    given = by_prediction(tests, list(screens), "de_predicted") if _is_given(tests) else {}
    has_real = _is_given(options.de_real)
    if (given or has_real) and real.contexts is not None:
        argument = "de_real" if has_real else "de_predicted"
        raise InputError(
            f"{argument}: tests of several contexts are not read; leave it or `context` out", argument=argument
        )
    tables = {
        name: read_expression_table(source, "de_predicted", screens[name], control) for name, source in given.items()
    }
    genes = options.target_genes
    return {
        "real_tests": read_expression_table(options.de_real, "de_real", real, control) if has_real else None,
        "predicted_tests": tables,
        "target_genes": read_target_genes(genes, real) if _is_given(genes) else {},
    }


def _is_given(value: Any) -> bool:
    return value is not None and not (isinstance(value, str) and not value)


def _memory_bytes(run: RunOptions) -> int:
    """Return the memory limit of a run in bytes."""
    if not isinstance(run.engine, str):
        return run.engine.memory_bytes
    return budget_bytes(parse_bytes(run.memory) if isinstance(run.memory, str) else run.memory)


def _named(predictions: Any) -> dict[str, Any]:
    """Return name -> prediction; a single prediction has the name of its file."""
    if isinstance(predictions, Mapping):
        if not predictions:
            raise InputError("predictions is empty; give at least one", argument="predictions")
        return {str(name): source for name, source in predictions.items()}
    if isinstance(predictions, str | os.PathLike):
        return {split_name(os.fspath(predictions))[0]: predictions}
    return {"prediction": predictions}
