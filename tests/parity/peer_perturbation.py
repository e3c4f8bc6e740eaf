"""What cell-eval and cell-eval2 themselves answer for a prediction of perturbations: AnnData in, tables out.

Both are imported inside the functions, so that this file can be read where they are not installed. Their warnings are
ignored.
"""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData

VERSIONS = {"cell-eval": "0.8.2", "cell-eval2": "0.20.0"}
"""The releases that gpubench agrees with."""

Table = dict[str, dict[str, Any]]
"""Perturbation -> metric -> value; None where there is no value."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings, the log messages and the progress bars of the packages."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), _no_progress():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _no_progress() -> Iterator[None]:
    import os

    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        os.environ.pop("TQDM_DISABLE")
        if before is not None:
            os.environ["TQDM_DISABLE"] = before


@dataclasses.dataclass(frozen=True)
class Answer:
    """Values of each perturbation, their means, further aggregates by name, and tables of aggregates."""

    values: Table
    means: Mapping[str, float | None]
    more: Mapping[str, Mapping[str, float | None]]
    tables: list[Any] = dataclasses.field(default_factory=list)


@quiet()
def cell_eval(real: AnnData, predicted: AnnData, column: str, control: str, folder: Path) -> Answer:
    """All metrics of cell-eval, its ceiling, the values of its baseline, and the score against that."""
    import cell_eval as package

    means, values, more = {}, {}, {}
    base = package.build_base_mean_adata(real.copy(), pert_col=column, control_pert=control)
    for name, side in (("predicted", predicted), ("baseline", base)):
        evaluator = package.MetricsEvaluator(
            side.copy(), real.copy(), control_pert=control, pert_col=column, num_threads=1, outdir=str(folder / name)
        )
        results, summary = evaluator.compute()
        values[name] = {row.pop("perturbation"): row for row in results.to_dicts()}
        means[name] = next(row for row in summary.to_dicts() if row.pop("statistic") == "mean")
        if name == "predicted":
            _, ceiling = evaluator.compute_ceiling()
            more["ceiling"] = ceiling.to_dicts()[0]
    files = (str(folder / name / "agg_results.csv") for name in ("predicted", "baseline"))
    more["score"] = dict(package.score_agg_metrics(*files).iter_rows())
    more["baseline"] = means["baseline"]
    return Answer(values["predicted"], means["predicted"], more)


def settings(column: str, control: str, metrics: Any = "full", **changes: Any) -> Any:
    """Return a configuration of cell-eval2: preset v2, tests by pdex."""
    from cell_eval2 import EvalConfig

    given = EvalConfig.from_preset("v2")
    de = dataclasses.replace(given.de, backend="pdex")
    fixed = {"metrics": metrics, "num_threads": 1, "device": "cpu", "pert_col": column, "control": control, "de": de}
    return dataclasses.replace(given, **{**fixed, **changes})


@quiet()
def cell_eval2(real: AnnData, predicted: AnnData, column: str, control: str, *, counts: bool) -> Answer:
    """All metrics of cell-eval2; for counts also those of the challenge for its baseline."""
    import cell_eval2 as package

    def config(metrics: str) -> Any:
        return settings(column, control, metrics, input_type="counts" if counts else "lognorm")

    values: Table = {}
    means: dict[str, float | None] = {}
    for metrics in ("full", "cell") if counts else ("full",):
        table = package.compute_metrics(predicted, real, config=config(metrics))
        for perturbation, metric, value in table.iter_rows():
            values.setdefault(perturbation, {})[metric] = value
        means |= {row["metric"]: row["mean"] for row in package.aggregate_metrics(table).iter_rows(named=True)}
    if not counts:
        return Answer(values, means, {})
    base = package.build_generic_baseline(real, config=config("vcc2026"), allow_degenerate=True)
    user = package.aggregate_metrics_wide(package.compute_metrics(predicted, real, config=config("vcc2026")))
    baseline = next(row for row in base.agg.to_dicts() if row.pop("statistic") == "mean")
    return Answer(values, means, {"baseline": baseline}, [user, base.agg])


@quiet()
def challenge_score(aggregates: list[Any], metrics: Iterable[str]) -> dict[str, float]:
    """Scores of these metrics against the baseline and their mean, by cell-eval2, of aggregates that it computed."""
    import cell_eval2 as package

    columns = ["statistic", *sorted(metrics)]
    table = package.score_metrics(*(aggregate.select(columns) for aggregate in aggregates))
    return {row["metric"]: row["from_baseline"] for row in table.to_dicts()}
