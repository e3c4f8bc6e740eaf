"""Submit tasks to a Dask cluster, wait for their results, and detect lost workers and schedulers."""

from __future__ import annotations

import atexit
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import ClusterError
from gpubench.core.types import Graph, Knn
from gpubench.engines.dask import worker as dask_worker
from gpubench.engines.dask.transfer import ArrayTransfer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.timeline import Timeline


@dataclass(frozen=True, slots=True)
class DaskTuning:
    """Time limits and sizes of the Dask engine.

    Attributes
    ----------
    connect_s : seconds to wait for a scheduler when a run begins
    lost_s : seconds without a response of the scheduler after which the run fails
    workerless_s : seconds without any worker after which the run fails; most lost workers are replaced within seconds
    ask_s : interval in seconds at which the scheduler is asked for its workers
    poll_s : interval in seconds at which the progress of tasks and the cancellation of the run are checked
    collect_s : shortest duration in seconds of stages for which workers are asked for the times of their tasks
    allowed_failures : number of workers that may die during the same task before the task counts as the cause, on a
        cluster started by the run
    part_share : size limit of a part of an embedding, as a share of a worker's memory per thread. A task holds two
        parts, each as stored and centred, while the parts of the next tasks are received
    """

    connect_s: float = 15.0
    lost_s: float = 20.0
    workerless_s: float = 120.0
    ask_s: float = 2.0
    poll_s: float = 0.2
    collect_s: float = 0.2
    allowed_failures: int = 10
    part_share: float = 1 / 48


DEFAULT_TUNING = DaskTuning()

UNFINISHED = ("pending", "lost")
"""Dask's states of tasks that have not ended, and of those whose answer was lost and is computed again."""

TASKS_AHEAD = 2
"""Number of tasks that `submit_throttled` submits per thread of the cluster."""


def is_running(client: Any) -> bool:
    """Return whether the client is connected to its scheduler."""
    return bool(client.status == "running")


class ClusterMonitor:
    """Watch the scheduler and the workers while a run waits for tasks.

    Dask does not replace workers that die repeatedly while they start, so the monitor requests new ones if the run
    started the cluster.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._answered = self._had_workers = self._asked = time.monotonic()

    def check(self) -> None:
        """Raise `ClusterError` if the scheduler has not answered, or has had no workers, for too long."""
        now, cluster, tuning = time.monotonic(), self._cluster, self._cluster.tuning
        if not is_running(cluster.client):
            if now - self._answered > tuning.lost_s:
                raise cluster.error("the scheduler does not answer any more")
            return
        self._answered = now
        if now - self._asked < tuning.ask_s:
            return
        self._asked = now
        n_workers = len(cluster.client.scheduler_info(n_workers=-1)["workers"])
        if cluster.started and n_workers < cluster.started[1]:
            started, wanted = cluster.started
            started.loop.add_callback(_replace_workers, started, wanted)
        if n_workers:
            self._had_workers = now
        elif now - self._had_workers > tuning.workerless_s:
            seconds = f"{tuning.workerless_s:.0f} s"
            raise cluster.error(f"all workers have ended and none has come for {seconds}; look into their logs")


def _replace_workers(cluster: Any, wanted: int) -> None:
    """Start new workers in place of those that Dask does not restart; runs in the thread of the cluster.

    Dask drops a worker that does not return in time and starts another with its name. If the old one returns at that
    moment, the scheduler refuses the new one, which exits; but Dask still counts it as a worker.
    """
    from distributed.core import Status

    for name, worker in list(cluster.workers.items()):
        if worker.status in (Status.failed, Status.closed):
            del cluster.workers[name]
    cluster.scale(wanted)


class RemoteArray:
    """An array on a worker, whose values are fetched when NumPy needs them.

    Attributes
    ----------
    cluster : cluster that has the array
    future : future of the array, to be passed to tasks as an argument
    """

    def __init__(self, cluster: Cluster, future: Any = None) -> None:
        self.cluster = cluster
        self._future = future

    @property
    def future(self) -> Any:
        """Future of the array, to be passed to tasks as an argument."""
        return self._future

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: FBT001 - NumPy's protocol
        values = np.asarray(self.cluster.fetch(self.future), dtype=dtype)
        return values.copy() if copy else values

    def __len__(self) -> int:
        return len(np.asarray(self))


class Cluster:
    """Submit the tasks of one run to a Dask cluster and wait for their results.

    Attributes
    ----------
    client : Dask's client
    transfer : transfer of arrays from the client to workers
    started : Dask's cluster object and its number of workers if the run started the cluster, else None
    close : function that closes the objects opened for the run; called at exit at the latest
    """

    def __init__(self, client: Any, opened: Sequence[Any], timeline: Timeline, tuning: DaskTuning) -> None:
        """Use a client; `opened` has the objects to close at the end, as returned by `connect.connect`."""
        self.client = client
        self.tuning = tuning
        self.transfer = ArrayTransfer()
        self.started = (opened[1], len(opened[1].workers)) if len(opened) > 1 else None
        # arrays on the workers refer to this object, and may be fetched when the engine is gone
        self.close = weakref.finalize(self, _close, [*opened, self.transfer])
        # closed before Dask ends its own threads, which it does when Python calls finalizers
        self.close.atexit = False
        atexit.register(self.close)
        self._timeline = timeline
        self._preferred: dict[str, Any] = {}  # where everything that is submitted runs
        self._numbers: dict[str, int] = {}  # of workers, in the order in which they first report

    def workers(self) -> dict[str, dict[str, Any]]:
        """Return the scheduler's information on each worker, by address; raise `ClusterError` if there are none."""
        # Client.scheduler_info may return an older answer without workers, which Dask asks for every few seconds
        self._require_scheduler()
        with self._translated_errors():
            identity = self.client.sync(self.client.scheduler.identity, n_workers=-1)
        workers: dict[str, dict[str, Any]] = identity["workers"]
        if not workers:
            raise ClusterError("the cluster has no workers; start some, or wait until they have started")
        return workers

    @property
    def n_slots(self) -> int:
        """Number of tasks that the cluster runs at the same time."""
        return sum(int(worker["nthreads"]) for worker in self.workers().values())

    def submit(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function on a worker and return the future of its result; arguments are encoded by `encode_args`."""
        return self._submit(f"{name}-{uuid.uuid4().hex[:8]}", function, args, kwargs)

    def submit_each(
        self, name: str, function: Callable[..., Any], calls: Iterable[Sequence[Any]], *, spread: bool = False
    ) -> list[Any]:
        """Call a function once for each tuple of arguments in `calls`, in this order, and return the futures.

        If `spread`, calls are distributed evenly to the workers in turn.
        """
        return list(self._submit_lazily(name, function, calls, self._choices() if spread else []))

    def submit_throttled(
        self,
        name: str,
        function: Callable[..., Any],
        calls: Iterable[Sequence[Any]],
        n_calls: int,
        done: Callable[[int, Any], None],
    ) -> None:
        """Call a function once for each tuple of arguments in `calls`, submitting only few calls at a time.

        Dask transfers the inputs of all submitted tasks at once, which could exceed the workers' memory. `done` is
        called with the index and the future of each finished call.
        """
        limit, submitted = TASKS_AHEAD * self.n_slots, enumerate(self._submit_lazily(name, function, calls))
        running: dict[Any, int] = {}
        monitor = ClusterMonitor(self)
        n_done = 0
        try:
            while True:
                running |= {future: i for i, future in islice(submitted, limit - len(running))}
                if not running:
                    break
                self._poll(list(running), "FIRST_COMPLETED")
                ended = [future for future in running if future.done()]
                self._raise_failed(list(running))
                for future in ended:
                    done(running.pop(future), future)
                    n_done += 1
                self._timeline.advance(n_done, n_calls)
                monitor.check()
        finally:
            if running:  # the run is cancelled, or a task has failed
                self.client.cancel(list(running), force=False)

    def _choices(self) -> list[str]:
        """Return the addresses of the workers that a task may prefer; empty if there is only one worker.

        Dask never runs a task that prefers a worker if it becomes ready while there are no workers at all.
        """
        addresses = list(self.workers())
        return addresses if len(addresses) > 1 else []

    def _submit_lazily(
        self, name: str, function: Callable[..., Any], calls: Iterable[Sequence[Any]], addresses: Sequence[str] = ()
    ) -> Iterator[Any]:
        token = uuid.uuid4().hex[:8]
        for i, args in enumerate(calls):
            address = addresses[i % len(addresses)] if addresses else ""
            yield self._submit((f"{name}-{token}", i), function, tuple(args), {}, priority=-i, address=address)

    def _submit(
        self, key: Any, function: Callable[..., Any], args: Any, kwargs: Any, priority: int = 0, address: str = ""
    ) -> Any:
        self._require_scheduler()
        place = prefer_worker(address) if address else self._preferred
        return self.client.submit(
            dask_worker.call, function, self._timeline.path, self.encode_args(args), self.encode_args(kwargs),
            key=key, pure=False, priority=priority, **place,
        )  # fmt: skip

    @contextmanager
    def run_on_one(self, i: int) -> Iterator[None]:
        """Run all tasks submitted in this `with` block on one worker, as long as it exists.

        It is worker `i % n` of the n workers.
        """
        addresses = self._choices()
        self._preferred = prefer_worker(addresses[i % len(addresses)]) if addresses else {}
        try:
            yield
        finally:
            self._preferred = {}

    def encode_args(self, given: Any) -> Any:
        """Return arguments in the form passed to tasks: large arrays are written to files if workers can read these."""
        if isinstance(given, RemoteArray):
            return given.future
        if isinstance(given, Knn | Graph):
            encoded = {field.name: self.encode_args(getattr(given, field.name)) for field in fields(given)}
            return {dask_worker.TYPE_KEY: type(given), **encoded}
        if isinstance(given, list | tuple):
            return type(given)(map(self.encode_args, given))
        if isinstance(given, dict):
            return {name: self.encode_args(value) for name, value in given.items()}
        return self.transfer.encode(given)

    def fetch(self, futures: Any) -> Any:
        """Wait for the result of a future, or the results of a list of futures, and fetch them from their workers."""
        self.wait(futures if isinstance(futures, list) else [futures])
        with self._translated_errors():
            return _aligned(self.client.gather(futures, direct=True))

    def wait(self, futures: Sequence[Any]) -> None:
        """Wait until all tasks have finished and report progress to the timeline; if a task failed, raise its error."""
        begin = time.monotonic()
        monitor = ClusterMonitor(self)
        try:
            while True:
                self._poll(futures, "ALL_COMPLETED")
                done = sum(future.status not in UNFINISHED for future in futures)
                self._raise_failed(futures)
                if len(futures) > 1:
                    self._timeline.advance(done, len(futures))
                else:
                    self._timeline.cancel_token.check()
                if done == len(futures):
                    break
                monitor.check()
        finally:
            pending = [future for future in futures if future.status in UNFINISHED]
            if pending:  # the run is cancelled, or a task has failed
                self.client.cancel(pending, force=False)
        if time.monotonic() - begin > self.tuning.collect_s:
            self._collect_times()

    def run_on_all(self, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
        """Call a function on every worker at once, even while tasks run; return results by address of the worker.

        Workers that die meanwhile are left out.
        """
        self._require_scheduler()
        answers: dict[str, Any] = self.client.run(function, *args, on_error="ignore")
        return answers

    def release(self, key: str) -> None:
        """Drop all objects whose key contains `key` from the workers' caches."""
        if is_running(self.client):
            self.run_on_all(dask_worker.forget, key)

    def _require_scheduler(self) -> None:
        if not is_running(self.client):
            raise self.error("the scheduler does not answer any more")

    def _poll(self, futures: Sequence[Any], until: str) -> None:
        """Wait until one or all of the tasks (`until`) have finished, at most for the interval of polling."""
        from distributed import CancelledError, wait
        from distributed.client import FuturesCancelledError

        # `_raise_failed` reports cancelled tasks, which all are where the scheduler is lost
        with suppress(TimeoutError, CancelledError, FuturesCancelledError), self.client.as_current():
            wait(futures, timeout=self.tuning.poll_s, return_when=until)

    def _raise_failed(self, futures: Sequence[Any]) -> None:
        for future in futures:
            if future.status in ("error", "cancelled"):
                with self._translated_errors():
                    future.result(timeout=self.tuning.lost_s)

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Provide a context that turns Dask's errors on lost schedulers or dying workers into `ClusterError`."""
        from distributed import CancelledError, KilledWorker
        from distributed.client import FuturesCancelledError
        from distributed.comm.core import CommClosedError

        try:
            yield
        except KilledWorker as error:
            n_lost = error.allowed_failures + 1
            fault = (
                f"{n_lost} worker{'s' if n_lost > 1 else ''} ended while they computed it, the last"
                f" {getattr(error.last_worker, 'address', error.last_worker)}, most often for lack of memory;"
                " give workers more memory, or fewer threads each, or use fewer cells"
            )
            raise self.error(fault) from error
        except (CancelledError, FuturesCancelledError, CommClosedError, TimeoutError) as error:
            fault = "the connection to the scheduler was lost, or data that only workers that ended had"
            raise self.error(f"{fault} ({type(error).__name__})") from error

    def error(self, fault: str) -> ClusterError:
        """Return the error to raise for a fault of the cluster, with advice to the user."""
        stage = self._timeline.path or "start"
        return ClusterError(f"stage {stage}: {fault}; finished results are saved where --out was given")

    def _collect_times(self) -> None:
        """Fetch the times of tasks from every worker and add these to the timeline."""
        now = time.time()
        for address, stages in self.run_on_all(dask_worker.take_times).items():
            number = self._numbers.setdefault(address, len(self._numbers) + 1)
            for stage, times in stages.items():
                began_s, ended_s = now - times.first_s, now - times.last_s
                self._timeline.add_worker_share(stage, f"worker {number}", began_s, ended_s, times.busy_s, times.tasks)


def prefer_worker(address: str) -> dict[str, Any]:
    """Return the options with which Dask runs a task on one worker, or on another if that worker no longer exists."""
    return {"workers": [address], "allow_other_workers": True}


def _close(opened: list[Any]) -> None:
    for one in opened:
        one.close()


def _aligned(fetched: Any) -> Any:
    """Copy arrays whose memory is not aligned: NumPy adds their values in another order, which changes the last bits.

    Dask reads small arrays out of the message that brought them, at whatever offset they have there.
    """
    if isinstance(fetched, np.ndarray):
        return np.require(fetched, requirements="A")
    if type(fetched) in (list, tuple):
        return type(fetched)(map(_aligned, fetched))
    return fetched
