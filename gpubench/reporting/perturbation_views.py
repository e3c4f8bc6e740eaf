"""Section of a report on predicted perturbations: what metrics tell, each perturbation, predicted and real effects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpubench.comparison.perturbation_models import (
    REFERENCES,
    TASK,
    MetricPower,
    metric_powers,
    values_by_perturbation,
)
from gpubench.core.scores import MEAN, PerturbationTable
from gpubench.metrics.perturbation.scales import RATIO_ERROR
from gpubench.metrics.published import published_spec
from gpubench.reporting.figures import WIDTH_IN, add_names, ink, legend_height, look, page_theme, to_svg
from gpubench.results.figures import new_figure
from gpubench.results.runs import columns_of, named_rows
from gpubench.results.table import format_value, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from gpubench.core.scores import EffectExample, MetricResult
    from gpubench.results.result import Result

MAX_ROWS = 300
"""Perturbations in a table; of more, the page has those with the most extreme values of the first prediction."""

MAX_PREDICTIONS = 6
"""Predictions in tables and figures, the first ones."""

SHOWN = (
    ("pearson_delta", "delta_pearson", "mae", "expr_mae"),
    ("discrimination_score_l1", "pds_cosine", "pds_l1", "discrimination_score_l2"),
    ("de_sig_genes_recall", "de_wilcoxon_sig_recall", "overlap_at_N", "de_wilcoxon_overlap", "de_wilcoxon_sig_jaccard"),
)
"""Metrics whose values of each perturbation the page has, the first that was computed of each kind: size and direction
of the effect, which perturbation it is, and hits found again."""

COUNTED_AS_0 = ("overlap", "precision", "de_wilcoxon_overlap", "de_wilcoxon_precision")
"""What the names of metrics begin with that are 0 where nothing is significant."""

_POINT = 2.4
"""Diameter of a point in points."""


@dataclass(frozen=True, slots=True)
class SortedColumn:
    """One column of a table of perturbations, by which its rows can be sorted.

    Attributes
    ----------
    name : name of the prediction, or what the column says
    texts : formatted value of each row
    places : place of each row when the table is sorted by this column, best or largest first
    """

    name: str
    texts: list[str]
    places: list[int]


@dataclass(frozen=True, slots=True)
class MetricView:
    """Values of one metric for each perturbation.

    Attributes
    ----------
    metric, description : id of the metric, and one sentence
    perturbations : names of the rows, in alphabetical order
    columns : one for each prediction
    n_left_out : number of perturbations that the page does not have
    figure : SVG element
    """

    metric: str
    description: str
    perturbations: list[str]
    columns: list[SortedColumn]
    n_left_out: int
    figure: str


@dataclass(frozen=True, slots=True)
class PerturbationView:
    """The section on predicted perturbations.

    Attributes
    ----------
    powers : what each metric tells on these data, those that can tell most first
    landmarks : sentences on where known predictions stand
    metrics : values of each perturbation
    effects : SVG elements of predicted and real effects, one for each prediction, with its name
    """

    powers: list[MetricPower]
    landmarks: list[str]
    metrics: list[MetricView]
    effects: list[tuple[str, str]]


def perturbation_view(runs: Mapping[str, Result], key: str) -> PerturbationView | None:
    """Return the section for comparable runs; None if they predicted no perturbations.

    Parameters
    ----------
    runs : name -> result
    key : prefix of ids, unique on the page
    """
    table, examples = _named_table(runs)
    rows = [row for row in named_rows(runs) if row.task == TASK]
    if not rows or not len(table):
        return None
    powers = metric_powers(rows, table)
    names = [name for name in dict.fromkeys(table.prediction) if name not in REFERENCES][:MAX_PREDICTIONS]
    values = values_by_perturbation(table)
    labels = [f"{p} ({c})" if c else p for c, p in dict.fromkeys(zip(table.context, table.perturbation, strict=True))]
    chosen = [next((metric for metric in kind if metric in values), None) for kind in SHOWN]
    views = [
        _metric_view(metric, names, labels, values[metric], rows, f"{key}-{metric}")
        for metric in dict.fromkeys(filter(None, chosen))
    ]
    effects = []
    for i, name in enumerate(names):
        own = [example for example in examples if example.prediction == name]
        if own:
            effects.append((printable(name), _effects_figure(name, i, own, f"{key}-effects-{i}")))
    ordered = sorted(powers, key=lambda power: -math.inf if power.dynamic_range is None else -power.dynamic_range)
    return PerturbationView(ordered, _landmarks(powers), views, effects)


def _named_table(runs: Mapping[str, Result]) -> tuple[PerturbationTable, list[EffectExample]]:
    """Put the values of all runs in one table, under the names on the page."""
    from dataclasses import replace

    table, examples = PerturbationTable(), []
    for name, result, embedding in columns_of(runs):
        own = result.perturbations
        columns = (own.prediction, own.context, own.perturbation, own.metric, own.value, own.reason)
        for prediction, context, *rest in zip(*columns, strict=True):
            if prediction == embedding:
                table.add(name, context, [tuple(rest)])
        examples += [replace(example, prediction=name) for example in own.examples if example.prediction == embedding]
    return table, examples


def _landmarks(powers: Sequence[MetricPower]) -> list[str]:
    """Say where a perfect prediction and the references stand."""
    said = []
    for best in (1.0, 0.0):
        metrics = [power.metric for power in powers if power.perfect == best and power.metric != RATIO_ERROR]
        if metrics:
            said.append(f"A perfect prediction, the real cells themselves, has {best:g} in {_listed(metrics)}.")
    if any(power.metric.startswith(COUNTED_AS_0) for power in powers):
        said.append(
            "Overlaps and precisions count 0 for a perturbation without significant genes, so that even a perfect"
            " prediction can have less than 1 in their means."
        )
    if any(power.metric == RATIO_ERROR for power in powers):
        said.append(f"The real cells themselves have less than 0 in {RATIO_ERROR}: their noise is subtracted twice.")
    names = {name for power in powers for name in power.references}
    if "baseline_mean" in names:
        said.append(
            "baseline_mean predicts the mean of all perturbations for each of them: it knows how cells respond on"
            " average, and nothing of a single perturbation. A model has to beat it."
        )
    if "baseline_control" in names:
        said.append("baseline_control predicts no effect at all.")
    if "replicate" in names:
        said.append(
            "replicate is one half of the real cells as the prediction of the other, like a repeated experiment of half"
            " the size. A prediction that is much better may have seen the answer."
        )
    said.append(
        "A prediction whose perturbations are shuffled knows the mean response only: errors and correlations hardly"
        " tell it from the mean, discrimination scores are those of chance, about 0.5."
    )
    return said


def _listed(names: Sequence[str]) -> str:
    if len(names) > 6:
        return f"{', '.join(names[:5])} and {len(names) - 5} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _metric_view(
    metric: str,
    names: Sequence[str],
    labels: Sequence[str],
    values: Mapping[str, NDArray[np.float64]],
    rows: Sequence[MetricResult],
    key: str,
) -> MetricView:
    known = [name for name in names if name in values]
    every = np.stack([values[name] for name in known])
    spec = published_spec(metric)
    higher = spec is None or spec.higher_is_better is not False
    order = _order(every[0], higher=higher)
    kept = order if len(order) <= MAX_ROWS else np.r_[order[: MAX_ROWS // 2], order[-MAX_ROWS // 2 :]]
    by_name = sorted(kept, key=lambda row: labels[row])
    columns = []
    for name, own in zip(known, every, strict=True):
        places = np.empty(len(by_name), np.int64)
        places[_order(own[by_name], higher=higher)] = np.arange(len(by_name))
        columns.append(SortedColumn(printable(name), [_text(own[row]) for row in by_name], places.tolist()))
    figure = _strip_figure(metric, known, every[:, order], rows, key)
    description = "" if spec is None else spec.description
    shown = [printable(labels[row]) for row in by_name]
    return MetricView(printable(metric), description, shown, columns, len(order) - len(kept), figure)


def _order(values: NDArray[np.float64], *, higher: bool) -> NDArray[np.int64]:
    """Return the positions of values from the best to the worst; undefined ones last."""
    known = np.where(np.isnan(values), -np.inf, values if higher else -values)
    order: NDArray[np.int64] = np.argsort(-known, kind="stable")
    return order


def _text(value: float) -> str:
    return "—" if math.isnan(value) else format_value(value)


def _strip_figure(
    metric: str, names: Sequence[str], values: NDArray[np.float64], rows: Sequence[MetricResult], key: str
) -> str:
    """Draw the value of each perturbation, sorted by the first prediction, and references as lines with bands."""
    lines = {
        row.embedding: row
        for row in rows
        if row.metric == metric and row.embedding in REFERENCES and row.params.get("context", MEAN) == MEAN
    }
    labels = [*names, *lines]
    with page_theme():
        figure = new_figure(WIDTH_IN + 1.2, 2.6 + legend_height(labels))
        axes = figure.subplots()
        for i, own in enumerate(values):
            color, marker = look(i)
            axes.plot(range(1, values.shape[1] + 1), own, marker, color=color, markersize=3, label=str(i), alpha=0.8)
        for i, row in enumerate(lines.values(), len(names)):
            _reference_line(axes, row, i)
        axes.set_xlabel(f"perturbations, sorted by {names[0]}", parse_math=False)
        axes.set_ylabel(metric, parse_math=False)
        axes.grid(visible=True, axis="y")
        add_names(figure, axes, labels)
        description = (
            f"Points are the values of {values.shape[1]} perturbations; lines are {', '.join(lines) or 'not drawn'},"
            " with 95% intervals as bands. The table has the numbers."
        )
        return to_svg(figure, key, f"{metric} of each perturbation", description)


def _reference_line(axes: Axes, row: MetricResult, i: int) -> None:
    color, _ = look(i)
    if math.isnan(row.value):
        axes.plot([], [], color=color, linestyle="--", label=str(i))
        return
    axes.axhline(row.value, color=color, linestyle="--", linewidth=1, label=str(i))
    low, high = row.params.get("interval") or (row.value, row.value)
    axes.axhspan(low, high, color=color, alpha=0.15, linewidth=0)


def _effects_figure(name: str, i: int, examples: Sequence[EffectExample], key: str) -> str:
    """Draw predicted against real effects of genes, a panel for the best, the median and the worst perturbation."""
    with page_theme():
        figure = new_figure(2.1 * len(examples) + 0.2, 2.4)
        color, _ = look(i)
        for axes, example in zip(figure.subplots(1, len(examples), squeeze=False)[0], examples, strict=True):
            real, predicted = np.array(example.real), np.array(example.predicted)
            limit = 1.05 * max(float(np.abs(real).max(initial=0)), float(np.abs(predicted).max(initial=0)), 1e-6)
            axes.plot([-limit, limit], [-limit, limit], color=ink("line"), linewidth=0.8, zorder=0)
            _draw_points(axes, real, predicted, color)
            axes.set_xlim(-limit, limit)
            axes.set_ylim(-limit, limit)
            axes.set_title(f"{example.rank}: {example.perturbation}\nr = {example.correlation:.2f}", parse_math=False)
            axes.set_xlabel("real effect")
            axes.locator_params(nbins=4)
            axes.grid(visible=True)
        figure.axes[0].set_ylabel("predicted effect")
        said = "; ".join(f"{own.rank} {own.perturbation}, correlation {own.correlation:.2f}" for own in examples)
        description = f"Points are genes; on the diagonal the prediction is right. {said}."
        return to_svg(figure, key, f"Predicted and real effects of {name}", description)


def _draw_points(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], color: str) -> None:
    """Draw points as one path of lines without length, whose round ends are the points: a third of the size."""
    gaps = np.full(len(x), np.nan)
    xs, ys = (np.stack([values, values, gaps], axis=1).ravel() for values in (x, y))
    (line,) = axes.plot(xs, ys, color=color, linewidth=_POINT, alpha=0.6, solid_capstyle="round")
    line.get_path().should_simplify = False
