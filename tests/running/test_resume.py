"""A killed run is resumed, and ends with the same bits."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import resume_cases
from numpy.typing import NDArray

import gpubench as gb
from gpubench.core.checkpoint import RESUMED, Checkpoint
from gpubench.core.errors import InputError
from gpubench.tasks import label_prediction

MOMENTS = 20

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


def numbers(content: dict[str, Any]) -> list[dict[str, Any]]:
    """All that must be the same: the rows without their seconds."""
    assert not content["failures"]
    assert not content["interrupted"]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in content["results"]]


def read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


Run = Callable[[float | None], str]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Starts a run into `tmp_path`, kills it after some seconds or never, and says how it ended."""
    here = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(gb.__file__).parents[1]), str(here)])}
    command = [sys.executable, str(here / "resume_cases.py"), str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
    ) as process:
        assert process.stdin
        assert process.stdout
        stdin, stdout = process.stdin, process.stdout
        assert stdout.readline() == "ready\n"

        def start(killed_after_s: float | None) -> str:
            stdin.write(f"{'never' if killed_after_s is None else killed_after_s}\n")
            return stdout.readline().strip()

        yield start
        stdin.close()


@pytest.mark.slow
@needs_fork
def test_runs_killed_at_any_moment_are_resumed_to_the_same_bits(run: Run, tmp_path: Path) -> None:
    results, folder = tmp_path / "results.json", tmp_path / ".checkpoint"
    begin = time.monotonic()
    assert run(None) == "exit 0"
    whole_s = time.monotonic() - begin
    expected = numbers(read(results))
    assert len({row["task"] for row in expected}) == 6
    moments = random.Random(0)
    taken_over = killed = 0
    for _ in range(MOMENTS):
        results.unlink(missing_ok=True)
        killed += run(moments.uniform(0, 0.7 * whole_s)) == "killed"
        for part in folder.glob("*.part.json"):
            for name in read(part)["arrays"]:
                np.load(folder / part.name.replace(".json", f".{name}.npy"))
        if results.exists():  # killed after it had written them, or too late
            assert numbers(read(results)) == expected
        if killed % 3 == 0:  # let it end, so that later kills hit all of a run
            assert run(None) == "exit 0"
            content = read(results)
            assert numbers(content) == expected
            taken_over += any(RESUMED in stage["path"] for stage in content["timeline"])
            assert not folder.exists()
    assert killed >= MOMENTS / 2
    assert taken_over >= MOMENTS / 10


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    return {**resume_cases.cells(), "tasks": ["clustering", "embedding", "batch_integration"], "engine": "cpu"}


def stop_after(monkeypatch: pytest.MonkeyPatch, n_written: int) -> None:
    """End the run, as Ctrl-C does, when it has written some parts."""
    write = Checkpoint.write
    written: list[str] = []

    def write_some(self: Checkpoint, key: str, *rest: Any) -> None:
        write(self, key, *rest)
        written.append(key)
        if len(written) == n_written:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "write", write_some)


def cells_of(result: gb.Result) -> list[tuple[Any, ...]]:
    assert result.cells
    return [
        (column.embedding, column.task, column.metric, column.params, column.names, column.values.tobytes())
        for column in result.cells.columns
    ]


def rows_of(result: gb.Result) -> list[Any]:
    return [replace(row, seconds=0.0) for row in result.results]


@pytest.fixture
def stopped(given: dict[str, Any], tmp_path: Path) -> gb.Result:
    """A run into `tmp_path` that was stopped after four parts: graph, clusters and their two scores."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 4)
        result = gb.score(**given, checkpoint=tmp_path)
    assert result.interrupted
    return result


@pytest.mark.usefixtures("stopped")
def test_a_resumed_result_notes_what_was_resumed(given: dict[str, Any], tmp_path: Path) -> None:
    result, undisturbed = gb.score(**given, checkpoint=tmp_path), gb.score(**given)
    assert rows_of(result) == rows_of(undisturbed)
    assert cells_of(result) == cells_of(undisturbed)
    (note,) = result.provenance["engine"]["notes"]
    assert note.startswith("resumed from checkpoint: knn, leiden, adjusted_rand_index, normalized_mutual_info (")
    assert note.endswith(" s saved)")
    taken = [stage["path"] for stage in result.timeline if stage["path"].endswith(RESUMED)]
    assert len(taken) == 4
    assert not (tmp_path / ".checkpoint").exists()


def one_value_moved(x: NDArray[np.float32]) -> NDArray[np.float32]:
    moved = x.copy()
    moved[77, 3] = np.nextafter(moved[77, 3], np.float32(9))
    return moved


@pytest.mark.slow
@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize(
    ("change", "still_good"),
    [
        (lambda given: {"data": one_value_moved(given["data"])}, set()),
        (lambda _: {"seed": 7}, set()),
        (lambda _: {"n_cluster_neighbors": 10}, {"knn"}),
        (lambda _: {"resolution": 0.5}, {"knn"}),
        (lambda given: {"label": np.roll(given["label"], 1)}, {"knn", "leiden"}),
        (lambda _: {"tasks": ["clustering"]}, set()),  # searches fewer neighbours
        (lambda given: {"tasks": [*given["tasks"], "sequential_organization"]}, None),
    ],
    ids=["value", "seed", "neighbours", "resolution", "label", "fewer tasks", "more tasks"],
)
def test_resume_after_a_change_recomputes_only_what_depends_on_it(
    change: Callable[[dict[str, Any]], dict[str, Any]],
    still_good: set[str] | None,
    given: dict[str, Any],
    tmp_path: Path,
) -> None:
    changed = {**given, **change(given)}
    result = gb.score(**changed, checkpoint=tmp_path)
    assert rows_of(result) == rows_of(gb.score(**changed))
    taken = {stage["path"].rsplit("/")[-1] for stage in result.timeline if stage["path"].endswith(RESUMED)}
    everything = {"knn", "leiden", "adjusted_rand_index", "normalized_mutual_info"}
    assert taken == {f"{name}{RESUMED}" for name in (everything if still_good is None else still_good)}


def test_resume_after_a_failed_task_reuses_finished_parts(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise MemoryError("no memory for that")

    with monkeypatch.context() as patch:
        patch.setattr("gpubench.engines.cpu.engine.CpuEngine.cluster_distances", fails)
        assert len(gb.score(**given, checkpoint=tmp_path).failures) == 2
    result = gb.score(**given, checkpoint=tmp_path)
    assert rows_of(result) == rows_of(gb.score(**given))
    assert any(stage["path"].endswith(f"knn{RESUMED}") for stage in result.timeline)


def test_two_runs_into_one_folder_at_once_are_refused(given: dict[str, Any], tmp_path: Path) -> None:
    with Checkpoint(tmp_path), pytest.raises(InputError, match="in use by another run"):
        gb.score(**given, checkpoint=tmp_path)


def test_resume_recomputes_scores_of_user_scorers(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_prediction, "SETTINGS", resume_cases.SMALL_FORESTS)
    values = iter(np.linspace(0, 1, 100))
    given = {**given, "tasks": ["label_prediction"], "n_folds": 2, "scorers": {"mine": lambda *_: next(values)}}
    with Checkpoint(tmp_path) as checkpoint:
        first = gb.score(**given, checkpoint=checkpoint)
    second = gb.score(**given, checkpoint=tmp_path)
    assert first.value("mean_fold_mine", classifier="lr") != second.value("mean_fold_mine", classifier="lr")
