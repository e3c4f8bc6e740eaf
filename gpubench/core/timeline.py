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
    """Amount of work of an operation, as counted by `gpubench.engines.common.flop_counts`."""

    flop: float  # floating-point operations
    moved_bytes: float  # bytes read and written, each array once
    items: float = 0  # further steps that take time: pairs of cells compared, values looked up


@dataclass(slots=True)
class WorkerShare:
    """Part of a stage that one worker of a cluster did."""

    worker: str  # numbered name, such as "worker 1", without the address
    start_s: float  # start of its first task, in seconds since the timeline began
    seconds: float  # from the start of the first task to the end of the last one
    busy_s: float  # total duration of the tasks
    tasks: int  # number of tasks


@dataclass(slots=True)
class Span:
    """Record of one stage of a run."""

    path: str  # names of the stages that it runs inside, and its own name, joined by "/"
    start_s: float  # seconds since the timeline began
    seconds: float = 0.0  # duration, including the stages inside it
    put_bytes: int = 0  # bytes copied from the host's memory or the disk to the device
    peak_bytes: int | None = None  # highest memory in use while it ran (resident memory on the CPU), where reported
    flop: int = 0  # floating-point operations of distances and products, as counted by the operations
    moved_bytes: int = 0  # bytes read and written, each array once, as counted by the operations
    workers: list[WorkerShare] = field(default_factory=list)


class Listener(Protocol):
    """Interface of objects that receive the progress of a run, such as a progress bar."""

    def started(self, path: str) -> None:
        """Receive the start of the stage with this path."""

    def advanced(self, path: str, done: int, total: int) -> None:
        """Receive the progress of a stage: `done` of `total` parts are finished."""

    def ended(self, path: str, seconds: float) -> None:
        """Receive the end of a stage and its duration."""


class DeviceMonitor(Protocol):
    """Interface of a compute device whose peak memory is recorded and whose profiler shows the stages."""

    def thread_setup(self) -> Callable[[], None]:
        """Return a function for a new thread to call first, which selects this device in it.

        The device runs the work of the new thread after the work that the present thread has queued.
        """

    def peak_bytes(self) -> int | None:
        """Return the peak memory in use since the last call, in bytes; None if it is not reported."""

    def push_range(self, name: str) -> None:
        """Open a named range, which the profiler of the device shows."""

    def pop_range(self) -> None:
        """Close the range that was opened last."""


class CancelToken:
    """Requests to cancel runs, which the threads of a run check at every stage and every piece of work."""

    def __init__(self) -> None:
        self._cancelled: set[int] = set()

    def cancel(self, thread: Thread) -> None:
        """Make `check` raise KeyboardInterrupt in the given thread from now on."""
        if thread.ident is not None:
            self._cancelled.add(thread.ident)

    def clear(self, ident: int) -> None:
        """Forget the request for a thread that has ended; a new thread may get the same identifier."""
        self._cancelled.discard(ident)

    def check(self) -> None:
        """Raise KeyboardInterrupt if cancelling the calling thread was requested; see `running.interrupt`."""
        if get_ident() in self._cancelled:
            raise KeyboardInterrupt


class Timeline:
    """Record of the stages of one run.

    Only the main thread of the run opens stages. Worker threads call `put`, `count` and `advance`, which add to them.
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
        """Record the peak memory of a device instead of the host's, and show the stages in the device's profiler."""
        self._monitor = monitor
        self._device_peak = monitor.peak_bytes

    def thread_setup(self) -> Callable[[], None]:
        """Return a function that each new thread of the run calls first, to select the device in use."""
        return self._monitor.thread_setup() if self._monitor else lambda: None

    @contextmanager
    def stage(self, name: str) -> Iterator[Span]:
        """Record the duration of a `with` block as a stage; a stage inside another one is part of it."""
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
        """Add a number of bytes copied to the device to every open stage."""
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
        """Report to the listener that `done` of `total` parts of the innermost stage are finished."""
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

        Parameters
        ----------
        path : path of the stage
        worker : numbered name of the worker
        first_ago_s, last_ago_s : seconds from the start of its first task, and from the end of its last task, until
            now; these do not depend on the clock of the worker's machine
        busy_s : total duration of its tasks in seconds
        tasks : number of its tasks
        """
        now = time.perf_counter() - self._origin
        span = next((span for span in reversed(self._spans) if span.path == path), None)
        if span is not None:
            span.workers.append(WorkerShare(worker, now - first_ago_s, first_ago_s - last_ago_s, busy_s, tasks))

    def spans(self) -> list[Span]:
        """Return all stages in the order in which they began."""
        return list(self._spans)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return all stages as JSON-ready dictionaries; those without workers have no key "workers"."""
        stages = [asdict(span) for span in self._spans]
        return [stage if stage["workers"] else {k: v for k, v in stage.items() if k != "workers"} for stage in stages]

    def add_process_memory(self, n_bytes: int) -> None:
        """Take the memory of a child process into account in the peak memory of every open stage.

        It is added to the present memory of this process. If the memory of a device is recorded, nothing is added.
        """
        if self._device_peak is None:
            self._credit((resident_bytes() or 0) + n_bytes)

    def _credit_peak(self) -> None:
        """Update the peak memory of the open stages, before the system's peak is reset for a new stage."""
        self._credit(self._device_peak() if self._device_peak else self._memory.read_bytes())

    def _credit(self, peak: int | None) -> None:
        if peak is not None:
            for span in self._open:
                span.peak_bytes = max(span.peak_bytes or 0, peak)


def chrome_trace(stages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Convert stages to the trace-event format that Perfetto and chrome://tracing open.

    Parameters
    ----------
    stages : stages as returned by `Timeline.to_dicts`

    Returns
    -------
    JSON-ready dictionary. Each stage is a complete event ("X") on the same track, on which viewers draw nested stages
    below outer ones; each worker of a cluster has a track of its own. The peak memory of innermost stages is also a
    counter ("C"). Times are in microseconds.

    References
    ----------
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
