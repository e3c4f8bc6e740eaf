"""Fixtures of the datasets: S3 on this machine, an empty cache, a catalogue."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3

from gpubench.datasets import fetching

SIZE = 3_000_000


@pytest.fixture(scope="session")
def servers() -> Iterator[tuple[Any, s3.Proxy]]:
    """A client that may write to S3, and the proxy through which gpubench reads."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with s3.serve() as (client, proxy):
        yield client, proxy


@pytest.fixture
def proxy(servers: tuple[Any, s3.Proxy]) -> s3.Proxy:
    """The proxy, without faults."""
    servers[1].reset()
    return servers[1]


@pytest.fixture
def put(servers: tuple[Any, s3.Proxy]) -> Callable[..., str]:
    """Return a function that uploads bytes to S3 for public reading and returns their address."""

    def put_object(key: str, content: bytes, *, acl: str = "public-read") -> str:
        servers[0].put_object(Bucket=s3.BUCKET, Key=key, Body=content, ACL=acl)
        return f"s3://{s3.BUCKET}/{key}"

    return put_object


@pytest.fixture
def cache(proxy: s3.Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, a home without a catalogue, the S3 of this machine, and short waits."""
    monkeypatch.setenv("GPUBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
    for name in ("GPUBENCH_CATALOGUE", "GPUBENCH_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetching, "BACKOFF_S", 0.001)
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def content() -> bytes:
    """Bytes of a file that is read in several blocks."""
    return np.random.default_rng(0).bytes(SIZE)
