"""The Dask cluster that all tests share: two processes of one thread each, which listen to this machine alone."""

from __future__ import annotations

import atexit
from functools import cache
from typing import Any


@cache
def shared_client() -> Any:
    """A client of the cluster, which is started for the first test that asks and ends with this process."""
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1")
    client = Client(cluster, set_as_default=False)
    for one in (cluster, client):  # the last one first
        atexit.register(one.close)
    return client
