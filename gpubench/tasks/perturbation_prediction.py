"""The task that scores predictions of perturbations by the metrics of cell-eval and cell-eval2."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gpubench.core.scores import MEAN, EffectExample, MetricResult
from gpubench.metrics.perturbation import (
    CHALLENGE_2026,
    PERTURBATION_METRICS,
    PROFILES,
    BootstrapInterval,
    PerturbationScores,
    ScaledScores,
    intervals,
    score_from_baseline,
    score_from_replicate,
)
from gpubench.metrics.perturbation.scales import AVERAGE
from gpubench.metrics.published import SCALED
from gpubench.tasks._screens import Scored, ScreenColumn
from gpubench.tasks._task import Task, TaskInput, require

ID = "perturbation_prediction"

Z = 1.959963984540054
"""Half the width of a 95% interval, in standard errors."""


def _run(given: TaskInput) -> Iterator[MetricResult]:
    """Yield the aggregate of each metric, for each context and as mean over contexts, then the scaled scores."""
    column = require(given.screen)
    real = column.real
    if column.predicted == "replicate":
        note = f"mean over {given.options.n_splits} random halves of the real cells, one scored against the other"
        yield from _plain_rows(given, real.replicates, note)
    elif column.predicted == "ceiling":
        note = "2v / (1 + v) of the value v of one half of the real cells against the other"
        yield from _plain_rows(given, real.ceilings, note)
    elif isinstance(column.predicted, str):
        yield from _score_rows(given, real.baseline(column.predicted), column)
    else:
        scored = real.score(column.predicted, column.tests)
        yield from _score_rows(given, scored, column)
        yield from _scaled_rows(given, scored, column)


def _score_rows(given: TaskInput, scored: Mapping[str, Scored], column: ScreenColumn) -> Iterator[MetricResult]:
    """Yield the rows of each metric, and add the values of the perturbations to the table."""
    for context, own in scored.items():
        column.table.add(given.name, context, own.scores.rows())
        if not isinstance(column.predicted, str):
            column.table.examples += [EffectExample(given.name, context, **example) for example in own.examples]
    seed = given.engine.seed
    ends = {context: intervals(own.scores, seed=seed) for context, own in scored.items()}
    for metric in column.real.metrics:
        rows = [_row(given, metric.id, context, own, ends[context][metric.id]) for context, own in scored.items()]
        yield from rows
        if len(rows) > 1:
            yield _mean_over_contexts(given, rows)


def _params(given: TaskInput, context: str, **more: Any) -> dict[str, Any]:
    real = require(given.screen).real
    chosen = "metrics" if given.options.metrics else given.options.profile
    return {"profile": chosen, "values": real.scale, **({"context": context} if context else {}), **more}


def _row(given: TaskInput, metric: str, context: str, scored: Scored, ends: BootstrapInterval) -> MetricResult:
    scores = scored.scores
    value = scores.mean(metric, strict=given.options.strict_mean)
    has_ends = not math.isnan(ends.low) and not math.isnan(value)
    interval = {"interval": [ends.low, ends.high]} if has_ends else {}
    return MetricResult(
        embedding=given.name,
        task=ID,
        metric=metric,
        value=value,
        stderr=(ends.high - ends.low) / (2 * Z) if has_ends else None,
        params=_params(given, context, **interval),
        n=scored.n,
        seconds=scored.seconds[metric],
        note=_note(scores, metric),
    )


def _note(scores: PerturbationScores, metric: str) -> str:
    """Describe how many perturbations have no value, and why."""
    reasons = scores.undefined().get(metric, {})
    n, total = sum(reasons.values()), len(scores.perturbations)
    if not n:
        return ""
    if scores.values[metric].whole is not None:
        return f"undefined: {next(iter(reasons))}"
    why = "; ".join(reason if len(reasons) == 1 else f"{count:,}: {reason}" for reason, count in reasons.items())
    return f"{'undefined: ' if n == total else ''}{n:,} of {total:,} perturbations have no value: {why}"


def _mean_over_contexts(given: TaskInput, rows: Sequence[MetricResult]) -> MetricResult:
    values = [row.value for row in rows if not math.isnan(row.value)]
    errors = [row.stderr for row in rows]
    stderr = None
    if values and len(values) == len(rows) and None not in errors:
        stderr = float(np.sqrt(np.square(np.array(errors, np.float64)).sum())) / len(rows)
    return MetricResult(
        embedding=given.name,
        task=ID,
        metric=rows[0].metric,
        value=float(np.mean(values)) if values else math.nan,
        stderr=stderr,
        params=_params(given, MEAN),
        n=sum(row.n for row in rows),
        note=f"mean of {len(values):,} contexts",
    )


def _plain_rows(given: TaskInput, values: Mapping[str, Mapping[str, float]], note: str) -> Iterator[MetricResult]:
    """Yield rows for values that depend on the real data only."""
    real = require(given.screen).real
    for metric in real.metrics:
        rows = [
            MetricResult(given.name, ID, metric.id, own[metric.id], params=_params(given, context), n=real.n, note=note)
            for context, own in values.items()
        ]
        yield from rows
        if len(rows) > 1:
            yield _mean_over_contexts(given, rows)


def _scaled_rows(given: TaskInput, scored: Mapping[str, Scored], column: ScreenColumn) -> Iterator[MetricResult]:
    """Yield scaled scores, 0 for a baseline and 1 for perfection or a repeated experiment, and their mean."""
    real, strict = column.real, given.options.strict_mean
    for zero in column.zeros:
        for one in ("perfect", *(["replicate"] if column.has_replicate else [])):
            averages = []
            for context, own in scored.items():
                user = own.scores.means(strict=strict)
                base = real.baseline(zero)[context].scores.means(strict=strict)
                scaled = score_from_baseline(user, base)
                if one == "replicate":
                    scaled = _from_replicate(user, base, real.replicates[context])
                rows = list(_rows_of_scale(given, scaled, own.n, _params(given, context, zero=zero, one=one)))
                yield from rows
                averages += rows[-1:]
            if len(averages) > 1:
                mean = _mean_over_contexts(given, averages)
                yield MetricResult(**{**_fields(mean), "params": {**mean.params, "zero": zero, "one": one}})


def _fields(row: MetricResult) -> dict[str, Any]:
    return {name: getattr(row, name) for name in MetricResult.__dataclass_fields__}


def _rows_of_scale(given: TaskInput, scaled: ScaledScores, n: int, params: dict[str, Any]) -> Iterator[MetricResult]:
    for metric, score in scaled.scores.items():
        yield MetricResult(given.name, ID, f"{metric}{SCALED}", score, params=params, n=n)
    left_out = "; ".join(f"{metric} left out: {why}" for metric, why in scaled.left_out.items())
    note = "; ".join(filter(None, [f"mean of {len(scaled.scores):,} scaled scores", left_out]))
    yield MetricResult(given.name, ID, AVERAGE, scaled.average, params=params, n=n, note=note)


def _from_replicate(
    user: Mapping[str, float], base: Mapping[str, float], replicate: Mapping[str, float]
) -> ScaledScores:
    """Scale metrics so that a baseline gets 0 and a replicate 1: those of the challenge of 2026 if any, else all."""
    if user.keys() & set(CHALLENGE_2026):
        return score_from_replicate(user, base, replicate)
    scores, left_out = {}, {}
    for metric, value in user.items():
        best = PERTURBATION_METRICS[metric].best
        if best == "none":
            continue
        b, r = base[metric], replicate[metric]
        if any(map(math.isnan, (value, b, r))):
            left_out[metric] = "a value is undefined"
        elif (b - r if best == "low" else r - b) <= 0:
            left_out[metric] = f"the replicate ({r:g}) is no better than the baseline ({b:g})"
        else:
            scores[metric] = (value - b) / (r - b)
    return ScaledScores(scores, left_out)


TASK = Task(
    id=ID,
    title="Perturbation prediction",
    question="Are responses to perturbations predicted, gene by gene and relative to each other?",
    needs=("predictions", "control"),
    metrics=PROFILES["cell_eval"],
    run=_run,
    baseline=None,
    in_auto=False,
)
