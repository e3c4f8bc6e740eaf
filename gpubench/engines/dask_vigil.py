"""Whether a cluster is still there while its tasks are waited for, and what went wrong where it is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from gpubench.errors import ClusterError

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
