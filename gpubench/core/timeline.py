"""Stages of a run: time, counted work, bytes put on the device, and peak memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from threading import Lock, Thread, get_ident
from typing import Any, NamedTuple, Protocol

from gpubench.core.memory import PeakMemory, resident_bytes

_TRACK = {"pid": 1, "tid": 1}
_TRACED = ("path", "put_bytes", "peak_bytes", "flop", "moved_bytes")
"""Fields of a stage that a trace shows; files of older versions have fewer."""


class Work(NamedTuple):
    """Work of an operation, see `gpubench.engines.common.flop_counts`."""

    flop: float  # floating-point operations
    moved_bytes: float  # bytes read and written, each array once
    items: float = 0  # what takes time beyond that: pairs of cells that are compared, values that are looked up


@dataclass(slots=True)
class WorkerShare:
    """Share of one worker of a cluster in a stage."""

    worker: str  # its number, as "worker 1"; addresses stay private
    start_s: float  # start of its first task, in seconds since the timeline began
    seconds: float  # from then until the end of its last task
    busy_s: float  # seconds of all its tasks
    tasks: int  # number of tasks


@dataclass(slots=True)
class Span:
    """One stage."""

    path: str  # names of the stages that it runs inside, and its own name, joined by "/"
    start_s: float  # seconds since the timeline began
    seconds: float = 0.0  # duration, including the stages inside it
    put_bytes: int = 0  # bytes copied from the host's memory or the disk to the device
    peak_bytes: int | None = None  # highest memory in use while it ran (resident memory on the CPU), where reported
    flop: int = 0  # floating-point operations of distances and products, as counted by the operations
    moved_bytes: int = 0  # bytes read and written, each array once, as counted by the operations
    workers: list[WorkerShare] = field(default_factory=list)


class Listener(Protocol):
    """Receiver of the progress of a run."""

    def started(self, path: str) -> None:
        """Receive the start of a stage."""

    def advanced(self, path: str, done: int, total: int) -> None:
        """Receive the progress of a stage: `done` of `total` parts are finished."""

    def ended(self, path: str, seconds: float) -> None:
        """Receive the end of a stage."""


class DeviceMonitor(Protocol):
    """Device whose memory is read and whose profiler shows the stages."""

    def thread_setup(self) -> Callable[[], None]:
        """Return what a new thread calls to work on the device, after the work of this thread."""

    def peak_bytes(self) -> int | None:
        """Return the highest memory in use since the last call."""

    def push_range(self, name: str) -> None:
        """Open a range for profilers."""

    def pop_range(self) -> None:
        """Close the range opened last."""


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
        """Raise KeyboardInterrupt if the cancellation of this thread was requested, see `running.interrupt`."""
        if get_ident() in self._cancelled:
            raise KeyboardInterrupt


class Timeline:
    """Record of the stages of one run.

    The thread that drives the run opens stages; worker threads only count (`put`, `count`, `advance`).
    """

    def __init__(self, listener: Listener | None = None, device_peak: Callable[[], int | None] | None = None) -> None:
        self._origin = time.perf_counter()
        self._open: list[Span] = []
        self._spans: list[Span] = []
        self._memory = PeakMemory()
        self._device_peak = device_peak
        self._monitor: DeviceMonitor | None = None
        self._lock = Lock()
        self.cancel_token = CancelToken()
        self.listener = listener

    def use_device(self, monitor: DeviceMonitor) -> None:
        """Record the peak memory of a device instead of the host's, and show the device's profiler the stages."""
        self._monitor = monitor
        self._device_peak = monitor.peak_bytes

    def thread_setup(self) -> Callable[[], None]:
        """Return what a new thread of the run calls first: the device in use is a property of each thread."""
        return self._monitor.thread_setup() if self._monitor else lambda: None

    @contextmanager
    def stage(self, name: str) -> Iterator[Span]:
        """Record a stage while the context is open; stages nest."""
        self.cancel_token.check()
        path = "/".join([self._open[-1].path, name] if self._open else [name])
        self._credit_peak()
        self._memory.restart()
        span = Span(path, time.perf_counter() - self._origin)
        self._open.append(span)
        self._spans.append(span)
        monitor = self._monitor
        if monitor:
            monitor.push_range(path)
        if self.listener:
            self.listener.started(path)
        try:
            yield span
        finally:
            self._credit_peak()
            span.seconds = time.perf_counter() - self._origin - span.start_s
            self._open.pop()
            if monitor:
                monitor.pop_range()
            if self.listener:
                self.listener.ended(path, span.seconds)

    def put(self, n_bytes: int) -> None:
        """Add bytes put on the device to every open stage."""
        with self._lock:
            for span in self._open:
                span.put_bytes += n_bytes

    def count(self, work: Work) -> None:
        """Add the work of an operation to every open stage."""
        with self._lock:
            for span in self._open:
                span.flop += int(work.flop)
                span.moved_bytes += int(work.moved_bytes)

    def advance(self, done: int, total: int) -> None:
        """Report the progress of the innermost stage."""
        self.cancel_token.check()
        if self.listener and self._open:
            self.listener.advanced(self._open[-1].path, done, total)

    @property
    def path(self) -> str:
        """Path of the innermost open stage; empty if none is open."""
        return self._open[-1].path if self._open else ""

    def add_worker_share(
        self, path: str, worker: str, first_ago_s: float, last_ago_s: float, busy_s: float, tasks: int
    ) -> None:
        """Add the share of a worker of a cluster to the last stage with this path.

        The start of its first task and the end of its last one are ages, because the clocks of both machines differ.
        """
        now = time.perf_counter() - self._origin
        span = next((span for span in reversed(self._spans) if span.path == path), None)
        if span is not None:
            span.workers.append(WorkerShare(worker, now - first_ago_s, first_ago_s - last_ago_s, busy_s, tasks))

    def spans(self) -> list[Span]:
        """Return all stages in the order in which they began."""
        return list(self._spans)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return all stages as JSON-ready dictionaries; the key `workers` is left out where it is empty."""
        stages = [asdict(span) for span in self._spans]
        return [stage if stage["workers"] else {k: v for k, v in stage.items() if k != "workers"} for stage in stages]

    def add_process_memory(self, n_bytes: int) -> None:
        """Count the memory of a child process, on top of what this process holds now, in every open stage.

        If the memory of a device is recorded, neither counts.
        """
        if self._device_peak is None:
            self._credit((resident_bytes() or 0) + n_bytes)

    def _credit_peak(self) -> None:
        """Credit open stages with the peak so far, before the high-water mark is reset for a new one."""
        self._credit(self._device_peak() if self._device_peak else self._memory.read_bytes())

    def _credit(self, peak: int | None) -> None:
        if peak is not None:
            for span in self._open:
                span.peak_bytes = max(span.peak_bytes or 0, peak)


def chrome_trace(stages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Convert stages to the trace-event format that Perfetto and chrome://tracing open.

    A stage of `Timeline.to_dicts` is a complete event ("X"); all are on one track, where nested stages are drawn below
    outer ones. The peak memory of innermost stages is also a counter ("C"). Times are in microseconds. The format:
    https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
    """
    names = [("process_name", "gpubench"), ("thread_name", "stages")]
    events: list[dict[str, Any]] = [{"name": key, "ph": "M", **_TRACK, "args": {"name": name}} for key, name in names]
    for i, stage in enumerate(stages):
        args = {key: stage[key] for key in _TRACED if key in stage}
        events.append(_complete_event(stage["path"], stage, _TRACK, args))
        innermost = i + 1 == len(stages) or not stages[i + 1]["path"].startswith(f"{stage['path']}/")
        if innermost and stage["peak_bytes"] is not None:
            memory = {"bytes": stage["peak_bytes"]}
            events.append({"name": "peak memory", "ph": "C", "ts": events[-1]["ts"], **_TRACK, "args": memory})
    # each worker of a cluster has a track of its own, from its first task of a stage to its last
    shares = [(stage["path"], share) for stage in stages for share in stage.get("workers", ())]
    tracks = {name: {**_TRACK, "tid": tid} for tid, name in enumerate(dict.fromkeys(s["worker"] for _, s in shares), 2)}
    events += [{"name": "thread_name", "ph": "M", **track, "args": {"name": name}} for name, track in tracks.items()]
    for path, share in shares:
        args = {"path": path, "busy_s": share["busy_s"], "tasks": share["tasks"]}
        events.append(_complete_event(path, share, tracks[share["worker"]], args))
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _complete_event(
    path: str, times: Mapping[str, Any], track: Mapping[str, int], args: Mapping[str, Any]
) -> dict[str, Any]:
    own = {"name": path.rsplit("/", 1)[-1], "cat": "gpubench", "ph": "X"}
    return {**own, "ts": times["start_s"] * 1e6, "dur": times["seconds"] * 1e6, **track, "args": args}
