"""What a cluster says where it fails, before a run and in it."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("distributed", reason="Dask is not installed")

from collections.abc import Callable

from shared_dask import shared_client

from gpubench.core.errors import ClusterError, EngineUnavailable
from gpubench.engines.dask import connect
from gpubench.engines.dask.engine import DaskEngine


def wait_for_all(cluster: Any) -> None:
    cluster.wait([cluster.submit("sleep", time.sleep, 1.5)])


def wait_in_turn(cluster: Any) -> None:
    cluster.submit_throttled("sleep", time.sleep, [(1.5,)], 1, lambda *_: None)


@pytest.mark.parametrize("wait", [wait_for_all, wait_in_turn])
def test_cancelled_tasks_end_the_run(wait: Callable[[Any], None]) -> None:
    """It does with all of them once the connection to its scheduler is lost."""
    engine = DaskEngine(cluster=shared_client())
    sent: list[Any] = []
    submit = engine.cluster.client.submit

    def noted(*args: Any, **kwargs: Any) -> Any:
        sent.append(submit(*args, **kwargs))
        return sent[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.cluster.client, "submit", noted)
        timer = threading.Timer(0.3, lambda: engine.cluster.client.cancel(sent, force=True))
        timer.start()
        with engine.timeline.stage("knn"), pytest.raises(ClusterError, match=r"^stage knn: the connection") as error:
            wait(engine.cluster)
        timer.join()
    assert "\n" not in str(error.value)


def test_versions_of_workers_without_gpubench_raise() -> None:
    """Dask says of them what pickle has raised there."""
    here = connect.versions_here()
    missing, ended = Exception("ModuleNotFoundError(\"No module named 'gpubench'\")"), OSError("ended")
    versions = {"tcp://a:1": here, "tcp://b:1": missing, "tcp://c:1": ended}
    with pytest.raises(EngineUnavailable, match=r"1 of 3 workers cannot .*\(first tcp://b:1: .*'gpubench'.*; install"):
        connect.worker_versions(client_of(versions))
    del versions["tcp://b:1"]
    assert connect.worker_versions(client_of(versions)) == {"tcp://a:1": here}
    with pytest.raises(EngineUnavailable, match="no worker of the cluster says what it runs"):
        connect.worker_versions(client_of({"tcp://c:1": ended}))


def client_of(answers: dict[str, Any]) -> Any:
    """A client whose workers answer so."""
    return SimpleNamespace(run=lambda _, *, on_error: answers if on_error == "return" else {})
