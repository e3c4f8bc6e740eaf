"""Ctrl-C ends a run within two seconds, and finished scores are kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubench as gb
from gpubench.core.timeline import Timeline
from gpubench.engines.cpu.threads import WorkerThreads
from gpubench.running.interrupt import has_abandoned_work, run_interruptible

MAX_DELAY_S = 2.0


@pytest.fixture
def timeline() -> Timeline:
    return Timeline()


@pytest.fixture
def ctrl_c() -> Callable[[float], None]:
    """Presses Ctrl-C some seconds later."""

    def press(after_s: float) -> None:
        threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGINT)).start()

    return press


def test_work_returns_its_value_and_raises_its_errors(timeline: Timeline) -> None:
    assert run_interruptible(lambda: 7, timeline) == 7
    with pytest.raises(ZeroDivisionError):
        run_interruptible(lambda: 1 / 0, timeline)


def test_work_has_the_context_of_its_caller(timeline: Timeline) -> None:
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        run_interruptible(lambda: np.ones(1) / 0, timeline)


def test_work_from_another_thread_runs_in_place(timeline: Timeline) -> None:
    ran_in: list[threading.Thread] = []
    thread = threading.Thread(
        target=lambda: run_interruptible(lambda: ran_in.append(threading.current_thread()), timeline)
    )
    thread.start()
    thread.join()
    assert ran_in == [thread]


def test_ctrl_c_stops_work_that_checks_for_cancellation(timeline: Timeline, ctrl_c: Callable[[float], None]) -> None:
    ended: list[str] = []

    def check_often() -> None:
        try:
            while True:
                with timeline.stage("step"):
                    time.sleep(0.01)
        finally:
            ended.append("cleaned up")

    ctrl_c(0.1)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_interruptible(check_often, timeline)
    assert time.monotonic() - begin < 0.1 + MAX_DELAY_S
    assert ended == ["cleaned up"]
    assert not has_abandoned_work()
    assert run_interruptible(lambda: 7, timeline) == 7  # the next run is not stopped


@pytest.mark.parametrize("n_threads", [1, 2])
def test_ctrl_c_stops_tiles_at_the_next_tile(
    n_threads: int, timeline: Timeline, ctrl_c: Callable[[float], None]
) -> None:
    workers = WorkerThreads(n_threads, timeline)
    done: list[int] = []

    def tile(i: int) -> None:
        time.sleep(0.02)
        done.append(i)

    ctrl_c(0.1)
    with pytest.raises(KeyboardInterrupt):
        run_interruptible(lambda: workers.run(range(10_000), lambda: tile), timeline)
    assert not has_abandoned_work()
    n_done = len(done)
    time.sleep(0.1)
    assert 0 < len(done) == n_done < 1000


@pytest.mark.slow
def test_ctrl_c_abandons_work_that_does_not_stop(timeline: Timeline, ctrl_c: Callable[[float], None]) -> None:
    release = threading.Event()
    ctrl_c(0.1)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_interruptible(release.wait, timeline)
    assert time.monotonic() - begin < 0.1 + MAX_DELAY_S
    assert has_abandoned_work()
    release.set()
    time.sleep(0.05)
    assert not has_abandoned_work()


def test_second_ctrl_c_abandons_the_work_at_once(timeline: Timeline, ctrl_c: Callable[[float], None]) -> None:
    release = threading.Event()
    ctrl_c(0.1)
    ctrl_c(0.3)
    with pytest.raises(KeyboardInterrupt):
        run_interruptible(release.wait, timeline)
    assert has_abandoned_work()
    release.set()
    time.sleep(0.05)
    assert not has_abandoned_work()


@pytest.mark.slow
def test_ctrl_c_keeps_finished_scores_and_abandoned_work_adds_none(
    monkeypatch: pytest.MonkeyPatch, ctrl_c: Callable[[float], None], tmp_path: Path
) -> None:
    release = threading.Event()

    def ignore_cancellation(*_: Any, **__: Any) -> Any:
        ctrl_c(0)
        release.wait()
        return np.zeros(60)

    monkeypatch.setattr("gpubench.engines.cpu.engine.CpuEngine.cluster_distances", ignore_cancellation)
    x = np.random.default_rng(0).normal(size=(60, 3))
    tasks = ["clustering", "embedding", "label_prediction"]
    result = gb.score(x, label=np.arange(60) % 2, tasks=tasks, engine="cpu", checkpoint=tmp_path)
    assert result.interrupted
    assert {row.task for row in result.results} == {"clustering"}
    parts = sorted(file.name for file in (tmp_path / ".checkpoint").iterdir())
    release.set()
    time.sleep(0.1)
    assert not has_abandoned_work()
    assert {row.task for row in result.results} == {"clustering"}
    assert sorted(file.name for file in (tmp_path / ".checkpoint").iterdir()) == parts


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process there")
def test_process_ends_within_two_seconds_of_ctrl_c(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(60, 3)))
    (tmp_path / "obs.csv").write_text("label\n" + "a\nb\n" * 30)
    script = (
        "import sys, time\n"
        "from gpubench.__main__ import run\n"
        "from gpubench.engines.cpu.engine import CpuEngine\n"
        "def ignore_cancellation(*_, **__):\n"
        "    sys.stderr.write('deaf\\n')\n"
        "    sys.stderr.flush()\n"
        "    time.sleep(60)\n"
        "CpuEngine.cluster_distances = ignore_cancellation\n"
        "sys.argv[1:] = 'score x.npy --obs obs.csv --label label -t clustering -t embedding --out out'.split()\n"
        "run()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(gb.__file__).parent.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr
        assert process.stderr.readline() == "deaf\n"
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()
        assert time.monotonic() - begin < MAX_DELAY_S
    assert process.returncode == 130
    assert "Interrupted: the scores above were finished before." in out
    assert "run the same command again to resume" in out
    result = gb.Result.from_json(tmp_path / "out" / "results.json")
    assert result.interrupted
    assert {row.task for row in result.results} == {"clustering"}
