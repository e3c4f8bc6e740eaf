"""A Dask cluster: connected or started, its versions compared, tasks sent, answers waited for and brought here."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from itertools import islice
from typing import TYPE_CHECKING, Any

from gpubench.core.errors import ClusterError
from gpubench.core.types import Graph, Knn
from gpubench.engines.dask import worker as dask_worker
from gpubench.engines.dask.array import ClusterArray
from gpubench.engines.dask.transfer import Handover

if TYPE_CHECKING:
    from gpubench.core.timeline import Timeline


LOST_S = 20.0
"""How long a scheduler may not answer before the run ends."""

WORKERLESS_S = 120.0
"""How long there may be no worker before the run ends: those that ended are mostly replaced in seconds."""

ASK_S = 2.0
"""How often the scheduler is asked for its workers."""


def answers(client: Any) -> bool:
    """Whether the scheduler does."""
    return bool(client.status == "running")


def in_words(ask: Callable[[], Any], told: Callable[[str], str]) -> Any:
    """Ask for an answer; errors of the cluster itself are put into words.

    Parameters
    ----------
    told : makes a message of what is wrong

    Raises
    ------
    ClusterError
        Workers ended again and again with a task, or the scheduler is lost.
    """
    from distributed import CancelledError, KilledWorker
    from distributed.client import FuturesCancelledError
    from distributed.comm.core import CommClosedError

    try:
        return ask()
    except KilledWorker as error:
        n_lost = error.allowed_failures + 1
        raise ClusterError(
            told(
                f"{n_lost} worker{'s' if n_lost > 1 else ''} ended while they computed it, the last"
                f" {getattr(error.last_worker, 'address', error.last_worker)}, most often for lack of memory;"
                " give workers more memory, or fewer threads each, or use fewer cells"
            )
        ) from error
    except (CancelledError, FuturesCancelledError, CommClosedError, TimeoutError) as error:
        what = "the connection to the scheduler was lost, or data that only workers that ended had"
        raise ClusterError(told(f"{what} ({type(error).__name__})")) from error


class Vigil:
    """Looks after the scheduler and the workers of a client.

    Parameters
    ----------
    started : Dask's cluster, where it was started here, and its workers; Dask gives those up that end again while they
        start, so that new ones are asked for
    told : makes a message of what is wrong
    """

    def __init__(self, client: Any, started: tuple[Any, int] | None, told: Callable[[str], str]) -> None:
        self._client, self._started, self._told = client, started, told
        self._answered = self._had_workers = self._asked = time.monotonic()

    def look(self) -> None:
        """See whether both are there.

        Raises
        ------
        ClusterError
            One has not been for too long.
        """
        now = time.monotonic()
        if not answers(self._client):
            if now - self._answered > LOST_S:
                raise ClusterError(self._told("the scheduler does not answer any more"))
            return
        self._answered = now
        if now - self._asked < ASK_S:
            return
        self._asked = now
        n_workers = len(self._client.scheduler_info(n_workers=-1)["workers"])
        if self._started and n_workers < self._started[1]:
            cluster, wanted = self._started
            cluster.loop.add_callback(_replace, cluster, wanted)
        if n_workers:
            self._had_workers = now
        elif now - self._had_workers > WORKERLESS_S:
            what = f"all workers have ended and none has come for {WORKERLESS_S:.0f} s; look into their logs"
            raise ClusterError(self._told(what))


def _replace(cluster: Any, wanted: int) -> None:
    """Start new workers in the place of those that have ended for good; runs where the cluster does.

    Dask forgets one that does not come back in time and starts another of that name. If the old one comes back at that
    moment the new one is refused, and ends; but Dask goes on counting it as a worker.
    """
    from distributed.core import Status

    for name, worker in list(cluster.workers.items()):
        if worker.status in (Status.failed, Status.closed):
            del cluster.workers[name]
    cluster.scale(wanted)


LOOK_S = 0.2
"""How often it is looked how far the tasks are, and whether the run is to stop."""

COLLECT_S = 0.2
"""Stages that took less are not asked for what each worker did."""

UNDER_WAY = ("pending", "lost")
"""What Dask calls tasks that have not ended, and those whose answer was lost with its worker and is computed again."""

AHEAD = 2
"""Tasks that are sent for each that runs at a time, where their inputs are large."""

MERGED = 16
"""Answers that are merged at a time."""


class Cluster:
    """Tasks and answers of one run.

    Attributes
    ----------
    client : Dask's
    """

    def __init__(self, client: Any, timeline: Timeline, handover: Handover, started: Any = None) -> None:
        """Of a client; `started` is Dask's cluster where it was started for this run."""
        self.client = client
        self._started = None if started is None else (started, len(started.workers))
        self._timeline = timeline
        self._handover = handover
        self._there: dict[str, Any] = {}  # where all that is submitted is to run
        self._numbers: dict[str, int] = {}  # of workers, in the order in which they are heard of

    def workers(self) -> dict[str, dict[str, Any]]:
        """Address -> what the scheduler knows of a worker.

        Raises
        ------
        ClusterError
            There is none, or the scheduler does not answer.
        """
        # Client.scheduler_info may give what a look without workers, every few seconds, has put in its place meanwhile
        self._require_scheduler()
        found = self._guarded(lambda: self.client.sync(self.client.scheduler.identity, n_workers=-1))
        workers: dict[str, dict[str, Any]] = found["workers"]
        if not workers:
            raise ClusterError("the cluster has no workers; start some, or wait until they have started")
        return workers

    @property
    def n_slots(self) -> int:
        """Tasks that run at a time."""
        return sum(int(worker["nthreads"]) for worker in self.workers().values())

    def submit(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function on a worker; the future of its answer. Large arrays among its arguments go their own way."""
        return self._send(name, dask_worker.call, function, self.packed(args), self.packed(kwargs))

    def submit_each(
        self, name: str, function: Callable[..., Any], calls: Iterable[Sequence[Any]], *, spread: bool = False
    ) -> list[Any]:
        """Call a function with each of several arguments, the first ones first.

        Parameters
        ----------
        spread : on the workers in turn, as long as they are there
        """
        return list(self._sent(name, function, calls, list(self.workers()) if spread else []))

    def _sent(
        self, name: str, function: Callable[..., Any], calls: Iterable[Sequence[Any]], addresses: Sequence[str] = ()
    ) -> Iterator[Any]:
        self._require_scheduler()
        token = uuid.uuid4().hex[:8]
        stage = self._timeline.path
        for i, args in enumerate(calls):
            there = _at(addresses[i % len(addresses)]) if addresses else self._there
            yield self.client.submit(
                dask_worker.timed, stage, dask_worker.call, function, self.packed(tuple(args)), {},
                key=(f"{name}-{token}", i), pure=False, priority=-i, **there,
            )  # fmt: skip

    def in_turn(
        self,
        name: str,
        function: Callable[..., Any],
        calls: Iterable[Sequence[Any]],
        n_calls: int,
        done: Callable[[int, Any], None],
    ) -> None:
        """Call a function with each of several arguments, few at a time; `done` is given number and future of each."""
        # Dask brings the inputs of all tasks that were sent to the workers at once
        most, sent = AHEAD * self.n_slots, enumerate(self._sent(name, function, calls))
        running: dict[Any, int] = {}
        vigil = Vigil(self.client, self._started, self._told)
        n_done = 0
        try:
            while True:
                running |= {future: i for i, future in islice(sent, most - len(running))}
                if not running:
                    break
                self._wait_shortly(list(running), "FIRST_COMPLETED")
                ended = [future for future in running if future.done()]
                self._raise_failed(list(running))
                for future in ended:
                    done(running.pop(future), future)
                    n_done += 1
                self._timeline.advance(n_done, n_calls)
                vigil.look()
        finally:
            if running:  # the run is to stop, or one of them has failed
                self.client.cancel(list(running), force=False)

    def merged(
        self, name: str, function: Callable[..., Any], found: list[tuple[Any, int]], *args: Any
    ) -> list[tuple[Any, int]]:
        """Merge answers as a tree until few are left; a merge gives a tuple of one, and takes pairs (answer, which)."""
        while len(found) > MERGED:
            groups = [found[start : start + MERGED] for start in range(0, len(found), MERGED)]
            found = [(self.submit(name, function, of_group, *args), 0) for of_group in groups]
        return found

    def _send(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        self._require_scheduler()
        key = f"{name}-{uuid.uuid4().hex[:8]}"
        return self.client.submit(
            dask_worker.timed, self._timeline.path, function, *args, key=key, pure=False, **self._there
        )

    @contextmanager
    def on_one(self, i: int) -> Iterator[None]:
        """What is submitted meanwhile runs on the i-th of the workers, in turn, as long as it is there."""
        addresses = list(self.workers())
        self._there = _at(addresses[i % len(addresses)])
        try:
            yield
        finally:
            self._there = {}

    def on_every_worker(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        """Run a task on each worker that there is, or in its place, and wait for all."""
        token = uuid.uuid4().hex[:8]
        stage = self._timeline.path
        self.wait([
            self.client.submit(
                dask_worker.timed, stage, _without_answer, function, args,
                key=(f"{name}-{token}", i), pure=False, **_at(address),
            )
            for i, address in enumerate(self.workers())
        ])  # fmt: skip

    def packed(self, given: Any) -> Any:
        """Arguments as tasks take them."""
        if isinstance(given, ClusterArray):
            return given.argument
        if isinstance(given, Knn | Graph):
            told = {field.name: self.packed(getattr(given, field.name)) for field in fields(given)}
            return {dask_worker.MADE_OF: type(given), **told}
        if isinstance(given, list | tuple):
            return type(given)(map(self.packed, given))
        if isinstance(given, dict):
            return {name: self.packed(value) for name, value in given.items()}
        return self._handover.handed(given)

    def fetch(self, future: Any) -> Any:
        """Wait for an answer and bring it here, straight from its worker."""
        if isinstance(future, dask_worker.Held):
            future = self.submit("matrix", _as_it_is, future)
        self.wait([future])
        return self._guarded(lambda: self.client.gather(future, direct=True))

    def fetch_each(self, futures: Sequence[Any]) -> list[Any]:
        """Wait for answers and bring them here."""
        self.wait(futures)
        answers: list[Any] = self._guarded(lambda: self.client.gather(list(futures), direct=True))
        return answers

    def wait(self, futures: Sequence[Any]) -> None:
        """Wait until all tasks have ended; the timeline hears how far they are.

        Raises
        ------
        ClusterError
            Workers ended again and again with a task, or the scheduler is lost.
        Exception
            What a task raised.
        """
        begin = time.monotonic()
        vigil = Vigil(self.client, self._started, self._told)
        try:
            while True:
                self._wait_shortly(futures, "ALL_COMPLETED")
                done = sum(future.status not in UNDER_WAY for future in futures)
                self._raise_failed(futures)
                if len(futures) > 1:
                    self._timeline.advance(done, len(futures))
                else:
                    self._timeline.cancel_token.check()
                if done == len(futures):
                    break
                vigil.look()
        finally:
            pending = [future for future in futures if future.status in UNDER_WAY]
            if pending:  # the run is to stop, or one of them has failed
                self.client.cancel(pending, force=False)
        if time.monotonic() - begin > COLLECT_S:
            self._collect()

    def _require_scheduler(self) -> None:
        if not answers(self.client):
            raise ClusterError(self._told("the scheduler does not answer any more"))

    def _wait_shortly(self, futures: Sequence[Any], until: str) -> None:
        """Wait for tasks."""
        from distributed import CancelledError, wait
        from distributed.client import FuturesCancelledError

        # of tasks that are cancelled, as all are where the scheduler is lost, `_raise_failed` says so
        with suppress(TimeoutError, CancelledError, FuturesCancelledError), self.client.as_current():
            wait(futures, timeout=LOOK_S, return_when=until)

    def _raise_failed(self, futures: Sequence[Any]) -> None:
        for future in futures:
            if future.status in ("error", "cancelled"):
                self._guarded(lambda future=future: future.result(timeout=LOST_S))  # type: ignore[misc]

    def _guarded(self, ask: Callable[[], Any]) -> Any:
        return in_words(ask, self._told)

    def _told(self, what: str) -> str:
        return f"stage {self._timeline.path or 'start'}: {what}; what is finished is kept where --out was given"

    def _collect(self) -> None:
        """Ask every worker what it did, for the timeline."""
        now = time.time()
        for address, stages in self.on_each(dask_worker.take_busy).items():
            for stage, (first_s, last_s, busy_s, tasks) in stages.items():
                number = self._numbers.setdefault(address, len(self._numbers) + 1)
                self._timeline.add_worker_share(stage, f"worker {number}", now - first_s, now - last_s, busy_s, tasks)

    def on_each(self, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
        """Call a function on every worker, beside its tasks; those that end meanwhile are left out.

        Raises
        ------
        ClusterError
            The scheduler is lost.
        """
        self._require_scheduler()
        answers: dict[str, Any] = self.client.run(function, *args, on_error="ignore")
        return answers

    def release(self, key: str) -> None:
        """Let workers forget a matrix; those that are lost hold none."""
        if answers(self.client):
            self.on_each(dask_worker.forget, key)


def _at(address: str) -> dict[str, Any]:
    """What tells Dask where a task is to run, as long as there is such a worker."""
    return {"workers": [address], "allow_other_workers": True}


def _without_answer(function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    function(*args)


def _as_it_is(array: Any) -> Any:
    return array
