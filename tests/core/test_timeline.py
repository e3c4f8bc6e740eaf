"""Stages of a run: nesting, bytes put, work, peak memory, listeners, trace."""

from __future__ import annotations

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from trace_format import read_trace, violations

from gpubench.cli.main import main
from gpubench.core.timeline import Span, Timeline, Work, chrome_trace

MEGABYTE = 1 << 20


def by_path(timeline: Timeline) -> dict[str, Span]:
    return {span.path: span for span in timeline.spans()}


def test_stages_nest_in_the_order_they_began() -> None:
    timeline = Timeline()
    with timeline.stage("task"):
        with timeline.stage("knn"):
            time.sleep(0.02)
        with timeline.stage("metric"):
            pass
    with timeline.stage("report"):
        pass
    assert [span.path for span in timeline.spans()] == ["task", "task/knn", "task/metric", "report"]
    task, knn, metric, report = timeline.spans()
    assert task.start_s <= knn.start_s <= metric.start_s <= report.start_s
    assert 0.02 <= knn.seconds <= task.seconds
    assert knn.start_s + knn.seconds <= metric.start_s
    assert task.start_s + task.seconds <= report.start_s


def test_stage_that_fails_is_closed() -> None:
    timeline = Timeline()
    with pytest.raises(ZeroDivisionError), timeline.stage("outer"), timeline.stage("inner"):
        _ = 1 / 0
    with timeline.stage("next"):
        pass
    assert [span.path for span in timeline.spans()] == ["outer", "outer/inner", "next"]
    assert by_path(timeline)["outer/inner"].seconds > 0


def test_bytes_are_put_in_every_open_stage() -> None:
    timeline = Timeline()
    timeline.put(1)  # in no stage
    with timeline.stage("outer"):
        timeline.put(10)
        with timeline.stage("inner"):
            timeline.put(100)
    with timeline.stage("next"):
        timeline.put(1000)
    assert {path: span.put_bytes for path, span in by_path(timeline).items()} == {
        "outer": 110,
        "outer/inner": 100,
        "next": 1000,
    }


def test_bytes_put_by_many_threads_are_all_counted() -> None:
    timeline = Timeline()
    with timeline.stage("read"), ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: [timeline.put(1) for _ in range(1000)], range(16)))
    assert by_path(timeline)["read"].put_bytes == 16_000


def test_work_is_counted_in_every_open_stage() -> None:
    timeline = Timeline()
    timeline.count(Work(1, 1))  # in no stage
    with timeline.stage("outer"):
        timeline.count(Work(10, 2))
        with timeline.stage("inner"):
            timeline.count(Work(100, 20))
    counted = {path: (span.flop, span.moved_bytes) for path, span in by_path(timeline).items()}
    assert counted == {"outer": (110, 22), "outer/inner": (100, 20)}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets its high-water mark")
def test_peak_memory_is_that_of_the_stage() -> None:
    timeline = Timeline()
    with timeline.stage("outer"):
        with timeline.stage("before"):
            pass
        with timeline.stage("large"):
            block = np.ones(200 * MEGABYTE, np.uint8)
            del block
        with timeline.stage("after"):
            pass
    peak = {path: span.peak_bytes for path, span in by_path(timeline).items()}
    assert None not in peak.values()
    assert 190 * MEGABYTE < peak["outer/large"] - peak["outer/before"] < 300 * MEGABYTE
    assert peak["outer/after"] - peak["outer/before"] < 50 * MEGABYTE
    assert peak["outer"] == peak["outer/large"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the memory held now")
def test_add_process_memory_counts_with_the_memory_held_now() -> None:
    timeline = Timeline()
    with timeline.stage("nothing") as nothing:
        pass
    with timeline.stage("after the other") as after:
        block = np.ones(200 * MEGABYTE, np.uint8)
        del block  # handed over, then the other process grows
        timeline.add_process_memory(150 * MEGABYTE)
    with timeline.stage("together") as together:
        block = np.ones(200 * MEGABYTE, np.uint8)
        timeline.add_process_memory(150 * MEGABYTE)
        del block
    assert nothing.peak_bytes is not None
    for span, megabytes in ((after, 200), (together, 350)):
        assert span.peak_bytes is not None
        assert abs(span.peak_bytes - nothing.peak_bytes - megabytes * MEGABYTE) < 50 * MEGABYTE


def test_add_process_memory_with_a_device_counts_nothing() -> None:
    timeline = Timeline(device_peak=lambda: 5)
    with timeline.stage("a") as span:
        timeline.add_process_memory(100)
    assert span.peak_bytes == 5


def test_peak_memory_of_a_device() -> None:
    peaks = iter([5, 9, 7, 3])
    timeline = Timeline(device_peak=lambda: next(peaks))
    with timeline.stage("a"), timeline.stage("b"):  # read as "a" begins (5), "b" begins (9), "b" ends (7), "a" ends (3)
        pass
    assert {path: span.peak_bytes for path, span in by_path(timeline).items()} == {"a": 9, "a/b": 7}


def test_peak_memory_that_cannot_be_read_is_none() -> None:
    timeline = Timeline(device_peak=lambda: None)
    with timeline.stage("a"):
        pass
    assert timeline.spans()[0].peak_bytes is None


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...] | tuple[str, str, int, int]] = []

    def started(self, path: str) -> None:
        self.calls.append(("started", path))

    def advanced(self, path: str, done: int, total: int) -> None:
        self.calls.append(("advanced", path, done, total))

    def ended(self, path: str, seconds: float) -> None:
        assert seconds >= 0
        self.calls.append(("ended", path))


def test_listener_receives_every_stage() -> None:
    heard = Heard()
    timeline = Timeline(listener=heard)
    timeline.advance(0, 1)  # in no stage: nothing is reported
    with timeline.stage("a"):
        timeline.advance(1, 4)
        with timeline.stage("b"):
            worker = threading.Thread(target=timeline.advance, args=(2, 3))
            worker.start()
            worker.join()
    assert heard.calls == [
        ("started", "a"),
        ("advanced", "a", 1, 4),
        ("started", "a/b"),
        ("advanced", "a/b", 2, 3),
        ("ended", "a/b"),
        ("ended", "a"),
    ]


def test_a_chrome_trace_nests_stages_and_counts_memory() -> None:
    peaks = iter([5, 9, 7, 3])
    timeline = Timeline(device_peak=lambda: next(peaks))
    with timeline.stage("task"):
        timeline.put(3)
        with timeline.stage("knn"):
            timeline.count(Work(5, 6))
            time.sleep(0.01)
    stages = json.loads(json.dumps(timeline.to_dicts()))
    assert [stage["path"] for stage in stages] == ["task", "task/knn"]
    trace = json.loads(json.dumps(chrome_trace(stages)))
    by_phase = {phase: [event for event in trace["traceEvents"] if event["ph"] == phase] for phase in "MXC"}
    assert [event["args"]["name"] for event in by_phase["M"]] == ["gpubench", "stages"]
    assert len({(event["pid"], event["tid"]) for event in trace["traceEvents"]}) == 1, "one track, so that stages nest"
    task, knn = by_phase["X"]
    assert (task["name"], knn["name"]) == ("task", "knn")
    assert [task["ts"], knn["ts"]] == [span.start_s * 1e6 for span in timeline.spans()]
    assert [task["dur"], knn["dur"]] == [span.seconds * 1e6 for span in timeline.spans()]
    assert knn["dur"] >= 10_000
    assert task["ts"] <= knn["ts"]
    assert knn["ts"] + knn["dur"] <= task["ts"] + task["dur"]
    assert task["args"] == {"path": "task", "put_bytes": 3, "peak_bytes": 9, "flop": 5, "moved_bytes": 6}
    assert knn["args"] == {"path": "task/knn", "put_bytes": 0, "peak_bytes": 7, "flop": 5, "moved_bytes": 6}
    (counter,) = by_phase["C"]
    assert (counter["name"], counter["ts"], counter["args"]) == ("peak memory", knn["ts"], {"bytes": 7})


def test_chrome_trace_without_peak_memory_has_no_counter() -> None:
    stage = {"path": "a", "start_s": 0.5, "seconds": 1.0, "put_bytes": 0, "peak_bytes": None}
    trace = chrome_trace([stage])
    assert [event["ph"] for event in trace["traceEvents"]] == ["M", "M", "X"]
    assert violations(trace) == []


def test_trace_of_a_run_follows_the_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = np.random.default_rng(0).standard_normal((40, 3))
    np.save(tmp_path / "x.npy", cells)
    (tmp_path / "obs.csv").write_text("label,day\n" + "".join(f"{'ab'[i % 2]},{i % 3}\n" for i in range(40)))
    data = [str(tmp_path / "x.npy"), "--obs", str(tmp_path / "obs.csv"), "--label", "label", "--time", "day"]
    tasks = ["--task", "clustering", "--task", "sequential_organization"]
    assert main(["score", *data, *tasks, "--trace", str(tmp_path / "trace.json")]) == 0
    capsys.readouterr()
    trace = read_trace((tmp_path / "trace.json").read_text())
    assert violations(trace) == []
    paths = [event["args"]["path"] for event in trace["traceEvents"] if event["ph"] == "X"]
    assert {"read", "x/knn", "x/clustering/leiden", "x/sequential_organization/sequential_alignment"} <= set(paths)
    (search,) = [event for event in trace["traceEvents"] if event["args"].get("path") == "x/knn"]
    assert search["args"]["flop"] > 0


X = {"name": "a", "ph": "X", "ts": 0, "dur": 9, "pid": 1, "tid": 1}


@pytest.mark.parametrize(
    "event",
    [
        {**X, "dur": -1},
        {**X, "ts": None},
        {**X, "ts": True},
        {**X, "name": ""},
        {**X, "ph": "Q"},
        {**X, "pid": 1.5},
        {**X, "ts": 5, "dur": 9},  # ends after the one that it began in
        {**X, "args": [1]},
        {**X, "ph": "C", "args": {}},
        {**X, "ph": "C", "args": {"bytes": "1"}},
        {**X, "ph": "M", "name": "process_name", "args": {}},
        "text",
    ],
)
def test_violations_finds_broken_events(event: object) -> None:
    assert violations({"traceEvents": [X, {**X, "ts": 2, "dur": 7}, {**X, "ts": 9}]}) == []
    assert len(violations({"traceEvents": [X, event]})) == 1
    assert violations([X]) == ["no object with a list of traceEvents"]
    with pytest.raises(ValueError, match="NaN is not JSON"):
        read_trace('{"traceEvents": [NaN]}')
