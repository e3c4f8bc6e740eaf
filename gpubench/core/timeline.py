"""Stages of a run: time, work, bytes put on the device, and peak memory, for every result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from threading import Lock, Thread, get_ident
from typing import Any, Protocol

from gpubench.core.memory import PeakMemory, resident_bytes

_TRACK = {"pid": 1, "tid": 1}
_TOLD = ("path", "put_bytes", "peak_bytes", "flop", "moved_bytes")
"""What a trace says of a stage; files of older versions have less."""


@dataclass(slots=True)
class WorkerShare:
    """What one worker of a cluster did for a stage.

    Attributes
    ----------
    worker : its number, as "worker 1"; addresses are nobody's business
    start_s : when its first task began, in seconds since the timeline began
    seconds : from then until its last task ended
    busy_s : what its tasks took together
    tasks : how many
    """

    worker: str
    start_s: float
    seconds: float
    busy_s: float
    tasks: int


@dataclass(slots=True)
class Span:
    """One stage.

    Attributes
    ----------
    path : names of the stages that it runs inside, and its own, joined by "/"
    start_s : seconds since the timeline began
    seconds : how long it took, stages inside it included
    put_bytes : bytes that crossed from the host's memory or the disk to the device
    peak_bytes : highest memory in use while it ran (resident memory on the CPU, None where it cannot be read)
    flop : floating-point operations of the distances and products computed, as far as operations count them
    moved_bytes : bytes that had to be read and written, every array once, as far as operations count them
    workers : on a cluster, what each of its workers did
    """

    path: str
    start_s: float
    seconds: float = 0.0
    put_bytes: int = 0
    peak_bytes: int | None = None
    flop: int = 0
    moved_bytes: int = 0
    workers: list[WorkerShare] = field(default_factory=list)


class Listener(Protocol):
    """What a progress display hears of a run."""

    def started(self, path: str) -> None:
        """A stage began."""

    def advanced(self, path: str, done: int, total: int) -> None:
        """`done` of `total` parts of the stage are finished."""

    def ended(self, path: str, seconds: float) -> None:
        """A stage ended."""


class Gauge(Protocol):
    """A device whose memory is read and whose profiler is told of the stages."""

    def peak_bytes(self) -> int | None:
        """The most memory that was held so far."""

    def push_range(self, name: str) -> None:
        """Open a range that profilers show."""

    def pop_range(self) -> None:
        """Close the last range."""


class CancelToken:
    """Cancellation of a run that its threads check for at every stage and every piece of work."""

    def __init__(self) -> None:
        self._cancelled: set[int] = set()

    def cancel(self, thread: Thread) -> None:
        """Make `check` raise in this thread from now on."""
        if thread.ident is not None:
            self._cancelled.add(thread.ident)

    def clear(self, ident: int) -> None:
        """Forget the cancellation of a thread that has ended, because a later thread may get its number."""
        self._cancelled.discard(ident)

    def check(self) -> None:
        """Raise KeyboardInterrupt if the cancellation of this thread was requested.

        Raises
        ------
        KeyboardInterrupt
            The user interrupts the run, see `gpubench.running.interrupt`.
        """
        if get_ident() in self._cancelled:
            raise KeyboardInterrupt


class Timeline:
    """Records the stages of one run.

    Stages are opened by the thread that drives the run; worker threads only count (`put`, `work`, `advance`).
    """

    def __init__(self, listener: Listener | None = None, device_peak: Callable[[], int | None] | None = None) -> None:
        self._origin = time.perf_counter()
        self._open: list[Span] = []
        self._spans: list[Span] = []
        self._memory = PeakMemory()
        self._device_peak = device_peak
        self._gauge: Gauge | None = None
        self._lock = Lock()
        self.cancel_token = CancelToken()
        self.listener = listener

    def follow(self, gauge: Gauge) -> None:
        """From the next stage on read the peak memory of a device, and show it the stages as ranges."""
        self._gauge = gauge
        self._device_peak = gauge.peak_bytes

    @contextmanager
    def stage(self, name: str) -> Iterator[Span]:
        """Time what runs inside; stages nest."""
        self.cancel_token.check()
        path = "/".join([self._open[-1].path, name] if self._open else [name])
        self._credit_peak()
        self._memory.restart()
        span = Span(path, time.perf_counter() - self._origin)
        self._open.append(span)
        self._spans.append(span)
        gauge = self._gauge
        if gauge:
            gauge.push_range(path)
        if self.listener:
            self.listener.started(path)
        try:
            yield span
        finally:
            self._credit_peak()
            span.seconds = time.perf_counter() - self._origin - span.start_s
            self._open.pop()
            if gauge:
                gauge.pop_range()
            if self.listener:
                self.listener.ended(path, span.seconds)

    def put(self, n_bytes: int) -> None:
        """Count bytes put on the device in every stage now open."""
        with self._lock:
            for span in self._open:
                span.put_bytes += n_bytes

    def work(self, flop: int, moved_bytes: int) -> None:
        """Count floating-point operations, and bytes read and written, in every stage now open."""
        with self._lock:
            for span in self._open:
                span.flop += flop
                span.moved_bytes += moved_bytes

    def advance(self, done: int, total: int) -> None:
        """Tell the listener how far the innermost stage is."""
        self.cancel_token.check()
        if self.listener and self._open:
            self.listener.advanced(self._open[-1].path, done, total)

    @property
    def path(self) -> str:
        """The innermost stage that is open; empty where none is."""
        return self._open[-1].path if self._open else ""

    def elsewhere(
        self, path: str, worker: str, first_ago_s: float, last_ago_s: float, busy_s: float, tasks: int
    ) -> None:
        """Note what a worker of a cluster did for the last stage of this path.

        Parameters
        ----------
        first_ago_s, last_ago_s : how long ago its first task began and its last one ended, by the clocks of both
        """
        now = time.perf_counter() - self._origin
        span = next((span for span in reversed(self._spans) if span.path == path), None)
        if span is not None:
            span.workers.append(WorkerShare(worker, now - first_ago_s, first_ago_s - last_ago_s, busy_s, tasks))

    def spans(self) -> list[Span]:
        """All stages in the order they began."""
        return list(self._spans)

    def to_dicts(self) -> list[dict[str, Any]]:
        """All stages as JSON-ready dictionaries; of workers nothing is said where there are none."""
        stages = [asdict(span) for span in self._spans]
        return [stage if stage["workers"] else {k: v for k, v in stage.items() if k != "workers"} for stage in stages]

    def beside(self, n_bytes: int) -> None:
        """Count memory that another process holds for this one, with what this one holds now, in the stages now open.

        The memory of a device is another, to which neither adds.
        """
        if self._device_peak is None:
            self._credit((resident_bytes() or 0) + n_bytes)

    def _credit_peak(self) -> None:
        # what was held before a stage began counts in those already open; then the mark begins anew
        self._credit(self._device_peak() if self._device_peak else self._memory.read_bytes())

    def _credit(self, peak: int | None) -> None:
        if peak is not None:
            for span in self._open:
                span.peak_bytes = max(span.peak_bytes or 0, peak)


def chrome_trace(stages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Convert stages to the trace-event format that Perfetto and chrome://tracing open.

    A stage is a complete event ("X") on one track, so that stages lie below those that they run inside; the peak memory
    of the innermost stages is also a counter ("C"). Times are in microseconds.

    Parameters
    ----------
    stages : as `Timeline.to_dicts` gives them, in the order they began
    """
    names = [("process_name", "gpubench"), ("thread_name", "stages")]
    events: list[dict[str, Any]] = [{"name": key, "ph": "M", **_TRACK, "args": {"name": name}} for key, name in names]
    for i, stage in enumerate(stages):
        begin = stage["start_s"] * 1e6
        events.append(
            {
                "name": stage["path"].rsplit("/", 1)[-1],
                "cat": "gpubench",
                "ph": "X",
                "ts": begin,
                "dur": stage["seconds"] * 1e6,
                **_TRACK,
                "args": {key: stage[key] for key in _TOLD if key in stage},
            }
        )
        innermost = i + 1 == len(stages) or not stages[i + 1]["path"].startswith(f"{stage['path']}/")
        if innermost and stage["peak_bytes"] is not None:
            memory = {"bytes": stage["peak_bytes"]}
            events.append({"name": "peak memory", "ph": "C", "ts": begin, **_TRACK, "args": memory})
    return {"traceEvents": [*events, *_worker_events(stages)], "displayTimeUnit": "ms"}


def _worker_events(stages: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Tracks of the workers of a cluster: for each stage from its first task there to its last."""
    shares = [(stage["path"], share) for stage in stages for share in stage.get("workers", ())]
    tracks = {name: tid for tid, name in enumerate(dict.fromkeys(share["worker"] for _, share in shares), 2)}
    for name, tid in tracks.items():
        yield {"name": "thread_name", "ph": "M", "pid": _TRACK["pid"], "tid": tid, "args": {"name": name}}
    for path, share in shares:
        yield {
            "name": path.rsplit("/", 1)[-1],
            "cat": "gpubench",
            "ph": "X",
            "ts": share["start_s"] * 1e6,
            "dur": share["seconds"] * 1e6,
            "pid": _TRACK["pid"],
            "tid": tracks[share["worker"]],
            "args": {"path": path, "busy_s": share["busy_s"], "tasks": share["tasks"]},
        }
