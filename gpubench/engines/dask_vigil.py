"""Whether a cluster is still there while its tasks are waited for."""

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
            cluster.scale(wanted)
        if n_workers:
            self._had_workers = now
        elif now - self._had_workers > WORKERLESS_S:
            what = f"all workers have ended and none has come for {WORKERLESS_S:.0f} s; look into their logs"
            raise ClusterError(self._told(what))
