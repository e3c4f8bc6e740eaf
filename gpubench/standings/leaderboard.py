"""`gpubench.leaderboard`: rank many models on many datasets."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gpubench.core.errors import InputError, close_matches, quoted
from gpubench.core.files import write_atomically
from gpubench.core.types import check_seed
from gpubench.results.notebook import NotebookCell, block_html, lines_html, table_html
from gpubench.results.score_table import MAX_NAME, SummaryRow
from gpubench.results.table import Lines, TextTable, printable, shortened, to_text
from gpubench.standings.ranks import OVERALL, RankDraws, Standing
from gpubench.standings.scored import ScoredMetric, collect, models_of

if TYPE_CHECKING:
    import pandas as pd

    from gpubench.results.result import Result


@dataclass(frozen=True)
class Leaderboard:
    """Ranks of models over datasets, in each task and over all tasks; prints as a table.

    Attributes
    ----------
    scored : scores of all models, metric by metric
    models, datasets, tasks : names of them; models with the best mean rank over all tasks first
    seed : random seed of the draws behind the intervals
    """

    scored: tuple[ScoredMetric, ...]
    seed: int

    @cached_property
    def _draws(self) -> RankDraws:
        return RankDraws(self.scored, models_of(self.scored), self.seed)

    @property
    def standings(self) -> dict[str, list[Standing]]:
        """Task -> places of the models, the best first; the first entry, "overall", is over all tasks."""
        return self._draws.standings

    @property
    def models(self) -> list[str]:
        """Names of the models, by their place over all tasks; those without a rank last."""
        return self._draws.ordered_models

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the datasets."""
        return self._draws.datasets

    @property
    def tasks(self) -> tuple[str, ...]:
        """Ids of the tasks."""
        return self._draws.tasks

    def rank(self, model: str, task: str, dataset: str) -> float | None:
        """Return the mean rank of a model over the metrics of a task on a dataset; None if it has none there."""
        return self._draws.rank(model, task, dataset)

    @property
    def notes(self) -> list[str]:
        """Sentences on what the ranks and intervals mean, and on what is missing."""
        notes = ["Mean rank over the metrics of each task and over datasets; 1 is best."]
        if method := self._draws.method:
            notes.append(f"Intervals are 95% intervals, by drawing {method} (seed {self.seed}).")
            notes.append("= not distinguishable from the first: the interval of the difference contains 0.")
        else:
            notes.append("No intervals: scores have no standard errors, and there are fewer than 3 datasets.")
        incomplete = [one.model for one in self.standings[OVERALL] if not one.is_complete]
        if incomplete:
            notes.append(
                f"Not scored everywhere, and listed last: {quoted(incomplete)}; ranks among other models are not"
                " comparable."
            )
        if without := [name for name in self.models if not any(one.model == name for one in self.standings[OVERALL])]:
            notes.append(f"Without a rank, as no other model was scored in the same metrics there: {quoted(without)}.")
        unranked = sorted({one.metric for one in self.scored if one.higher_is_better is None})
        if unranked:
            notes.append(f"Not ranked, as neither higher nor lower is known to be better: {', '.join(unranked)}.")
        return notes

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each score: dataset, task, metric, setting, model, value, stderr."""
        import pandas as pd

        rows = [
            (one.dataset, one.task, one.metric, one.setting, model, value, one.errors.get(model))
            for one in self.scored
            for model, value in one.values.items()
        ]
        return pd.DataFrame(rows, columns=["dataset", "task", "metric", "setting", "model", "value", "stderr"])

    def to_dict(self) -> dict[str, Any]:
        """Return standings, ranks by dataset and scores as JSON values; undefined values are None."""
        scores = self.to_frame().astype(object)
        return {
            "models": self.models,
            "datasets": list(self.datasets),
            "tasks": list(self.tasks),
            "seed": self.seed,
            "notes": self.notes,
            "standings": {
                task: [
                    {
                        "model": one.model,
                        "rank": one.rank,
                        "interval": None if one.interval is None else list(one.interval),
                        "n_datasets": one.n_datasets,
                        "is_complete": one.is_complete,
                        "ties_with_best": one.ties_with_best,
                    }
                    for one in places
                ]
                for task, places in self.standings.items()
            },
            "ranks": {
                task: {
                    dataset: {model: self.rank(model, task, dataset) for model in self.models}
                    for dataset in self.datasets
                }
                for task in self.tasks
            },
            "scores": scores.where(scores.notna(), None).to_dict("records"),
        }

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict` to a JSON file."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write `to_frame` to a CSV file."""
        text = self.to_frame().to_csv(index=False)
        write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write one HTML page that works offline: standings, ranks on each dataset, and all scores."""
        from gpubench.standings.page import render

        page = render(self._draws, self.scored, self.notes)
        write_atomically(path, lambda file: file.write(page.encode("utf-8", "backslashreplace")))

    def blocks(self, width: int | None = None, *, details: bool = False) -> Iterator[TextTable | Lines]:
        """Yield the tables of the board, at most `width` characters wide if given.

        `details` adds a table for each task, with a column for each dataset.
        """
        yield from self._tables("", {task: self.standings[task] for task in self.tasks}, OVERALL, width)
        if details and len(self.datasets) > 1:
            for task in self.tasks:
                ranks = {
                    dataset: {name: self.rank(name, task, dataset) for name in self.models} for dataset in self.datasets
                }
                yield from self._tables(task, ranks, task, width)
        yield Lines(self.notes)

    def _tables(self, title: str, columns: Any, task: str, width: int | None) -> Iterator[TextTable]:
        """Yield a table of the standings in a task, and of columns with ranks; as many tables as the width needs."""
        places = self.standings[task]
        names = shortened([printable(one.model) for one in places], MAX_NAME)
        shown = {name: _ranks_of(own) for name, own in columns.items()}
        heads = dict(zip(shown, shortened(list(map(printable, shown)), MAX_NAME), strict=True))
        fixed = max(map(len, names), default=0) + 2 + len("mean rank [00.0, 00.0] =")
        room = (width or 1 << 20) - fixed - 2 * bool(title)
        for group in _split(list(shown), [len(heads[name]) + 2 for name in shown], room):
            rows = tuple(
                (name, _place_text(one), *(_rank_text(shown[column].get(one.model)) for column in group))
                for name, one in zip(names, places, strict=True)
            )
            header = ("", "mean rank", *(heads[column] for column in group))
            yield TextTable(title, header, rows, numbers=frozenset(heads[column] for column in group))

    def __str__(self) -> str:
        return to_text(self.blocks())

    def _repr_html_(self) -> str:
        places = self.standings[OVERALL]
        ranks = {task: {one.model: one.rank for one in self.standings[task]} for task in self.tasks}
        rows = [SummaryRow("model", printable(one.model), "", ()) for one in places]
        cells = [
            [_notebook_cell(one), *(NotebookCell(_rank_text(own.get(one.model))) for own in ranks.values())]
            for one in places
        ]
        return block_html(table_html(["mean rank", *self.tasks], rows, cells), lines_html(self.notes))


def leaderboard(
    results: str | os.PathLike[str] | Result | Sequence[str | os.PathLike[str] | Result],
    *,
    tasks: str | Sequence[str] | None = None,
    seed: int = 42,
) -> Leaderboard:
    """Rank models over datasets, from the results of many runs.

    On each dataset the models are ranked in every metric of a task, and the ranks are averaged over metrics, then over
    datasets, then over tasks. A model is what has the same name in several results: an embedding, or a prediction.

    Parameters
    ----------
    results : results.json files, folders that contain some (also deeper), `Result` objects, and CSV or TSV tables with
        the columns model, metric, value and if needed dataset and task, or as scib-metrics' Benchmarker returns them
    tasks : ids of the tasks to rank; if None, all that were scored
    seed : random seed of the draws behind the intervals

    Returns
    -------
    Leaderboard
        Standings with 95% intervals; see `gpubench.standings.ranks.RankDraws` for how they are drawn.

    Raises
    ------
    InputError
        There are no results, no dataset has two models, a task was not scored, or a table has another form.

    Examples
    --------
    >>> import numpy as np
    >>> import gpubench as gb
    >>> label = np.repeat(["a", "b"], 100)
    >>> cells = np.random.default_rng(0).normal(size=(200, 5)).astype("float32")
    >>> models = {"near": cells, "far": cells + 3 * (label == "b")[:, None].astype("float32")}
    >>> board = gb.leaderboard(gb.score(models, label=label, tasks=["embedding"], engine="cpu"))
    >>> board.models
    ['far', 'near']
    """
    from gpubench.results.result import Result

    check_seed(seed)
    places = [results] if isinstance(results, str | os.PathLike | Result) else list(results)
    if not places:
        raise InputError("leaderboard: there are no results; give result files or folders that hold some")
    scored = collect(places)
    if tasks is not None:
        wanted = [tasks] if isinstance(tasks, str) else list(tasks)
        known = list(dict.fromkeys(one.task for one in scored))
        for task in wanted:
            if task not in known:
                raise InputError(
                    f"task {task!r} was not scored{close_matches(task, known)}; use one of: {', '.join(known)}",
                    argument="tasks",
                )
        scored = [one for one in scored if one.task in wanted]
    if not any(len(one.values) > 1 for one in scored):
        raise InputError("leaderboard: no dataset was scored for two models; score several, or give more results")
    return Leaderboard(tuple(scored), seed)


def _ranks_of(own: Any) -> dict[str, float | None]:
    return own if isinstance(own, dict) else {one.model: one.rank for one in own}


def _rank_text(rank: float | None) -> str:
    return "-" if rank is None else f"{rank:.1f}"


def _place_text(one: Standing) -> str:
    interval = "" if one.interval is None else f" [{one.interval[0]:.1f}, {one.interval[1]:.1f}]"
    return f"{one.rank:.1f}{interval}{' =' if one.ties_with_best else ''}"


def _notebook_cell(one: Standing) -> NotebookCell:
    text, _, interval = _place_text(one).partition(" [")
    return NotebookCell(text, small=f"[{interval}" if interval else "")


def _split(names: list[str], widths: list[int], room: int) -> Iterator[list[str]]:
    """Split columns into groups that fit into `room` characters; each group has at least one, if there are any."""
    group: list[str] = []
    used = 0
    for name, width in zip(names, widths, strict=True):
        if group and used + width > room:
            yield group
            group, used = [], 0
        group.append(name)
        used += width
    yield group
