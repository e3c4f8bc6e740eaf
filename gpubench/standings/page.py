"""Render the HTML page of a leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from gpubench.reporting.figures import WIDTH_IN, ink, page_theme, to_svg
from gpubench.reporting.page import page_environment, trusted
from gpubench.results.figures import name_lines, new_figure, shortened
from gpubench.results.table import format_value, printable
from gpubench.tasks import TASKS

if TYPE_CHECKING:
    from gpubench.standings.ranks import RankDraws, Standing
    from gpubench.standings.scored import ScoredMetric

_ROW_IN = 0.3


def render(board: RankDraws, scored: Sequence[ScoredMetric], notes: Sequence[str]) -> str:
    """Return the page: standings over all tasks and in each task, ranks on each dataset, and all scores."""
    environment = page_environment("gpubench.standings")
    css = resources.files("gpubench.reporting").joinpath("report.css").read_text()
    overall, *each = board.standings
    return environment.get_template("leaderboard.html.jinja").render(
        css=trusted(css),
        n_models=len(board.models),
        notes=notes,
        overall=_section(board, overall, "overall"),
        tasks=[_section(board, task, f"task-{i}") for i, task in enumerate(each, 1)],
        datasets=[_dataset(board, scored, name, f"data-{i}") for i, name in enumerate(board.datasets, 1)],
    )


def _section(board: RankDraws, task: str, anchor: str) -> dict[str, Any]:
    """Return the template's values for the standings in a task, or over all tasks."""
    places = board.standings[task]
    own = TASKS.get(task)
    if task in board.tasks:
        columns = list(board.datasets)
        cells = {one.model: [board.rank(one.model, task, name) for name in columns] for one in places}
    else:
        columns = list(board.tasks)
        ranks = [{one.model: one.rank for one in board.standings[name]} for name in columns]
        cells = {one.model: [found.get(one.model) for found in ranks] for one in places}
    worst = max(2, len(board.models))
    rows = [
        {
            "standing": one,
            "name": printable(one.model),
            "cells": [(rank, None if rank is None else 1 - (rank - 1) / (worst - 1)) for rank in cells[one.model]],
        }
        for one in places
    ]
    title = own.title if own else printable(task).capitalize() if task == "overall" else printable(task)
    titles = [TASKS[name].title if name in TASKS else printable(name) for name in columns]
    figure = trusted(_figure(places, f"{anchor}-ranks", title)) if len(places) > 1 else None
    question = own.question if own else ""
    return {"anchor": anchor, "title": title, "question": question, "columns": titles, "rows": rows, "figure": figure}


def _figure(places: Sequence[Standing], key: str, title: str) -> str:
    """Draw the mean ranks with their intervals, the best at the top."""
    with page_theme():
        figure = new_figure(WIDTH_IN, _ROW_IN * len(places) + 0.6)
        axes = figure.subplots()
        for y, one in enumerate(places):
            axes.axhline(y, color=ink("line"), linewidth=0.6, zorder=0)
            low, high = one.interval or (one.rank, one.rank)
            color = ink("series-1") if one.ties_with_best or not y else ink("series-8")
            axes.plot([low, high], [y, y], color=color, linewidth=2)
            axes.plot([one.rank], [y], marker="o", color=color, markersize=6)
        axes.set_ylim(len(places) - 0.4, -0.6)
        name_lines(axes, shortened([printable(one.model) for one in places]))
        axes.set_xlabel("mean rank (1 is best)")
        axes.grid(visible=True, axis="x")
        what = "Mean rank of each model as a point, with its 95% interval as a line"
        order = ", ".join(f"{one.model} {one.rank:.1f}" for one in places)
        return to_svg(figure, key, f"Ranks: {title}", f"{what}: {order}.")


def _dataset(board: RankDraws, scored: Sequence[ScoredMetric], dataset: str, anchor: str) -> dict[str, Any]:
    """Return the template's values for the scores on one dataset."""
    tables = []
    for task in board.tasks:
        own = [one for one in scored if (one.dataset, one.task) == (dataset, task)]
        models = [name for name in board.ordered_models if any(name in one.values for one in own)]
        rows = []
        for one in own:
            defined = [value for value in one.values.values() if value == value]  # noqa: PLR0124 - not NaN
            best = None
            if one.higher_is_better is not None and len(defined) > 1:
                best = max(defined) if one.higher_is_better else min(defined)
            cells = [(format_value(one.values[m]), one.values[m] == best) if m in one.values else None for m in models]
            rows.append({"metric": one.metric, "setting": one.setting, "cells": cells})
        if rows:
            title = TASKS[task].title if task in TASKS else printable(task)
            tables.append({"title": title, "models": list(map(printable, models)), "rows": rows})
    return {"anchor": anchor, "name": printable(dataset), "tables": tables}
