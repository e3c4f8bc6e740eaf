"""What is not an address of a scheduler is refused at once, not waited for."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("distributed", reason="Dask is not installed")


from pathlib import Path

import dask

from gpubench.core.errors import InputError
from gpubench.engines import get_engine
from gpubench.engines.dask.connect import client_arguments


@pytest.mark.parametrize("address", ["tcp://head:8786", "tcp://[::1]:8786", "head:8786", "ws://10.0.0.1:80"])
def test_client_arguments_take_addresses_and_scheduler_files(address: str, tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"type": "Scheduler", "address": address}))
    assert client_arguments(address) == {"address": address}
    assert client_arguments(str(file)) == {"scheduler_file": str(file)}


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://127.0.0.1:8787", "unknown address scheme 'http'"),
        ("tcp://127.0.0.1", "missing port"),
        ("tcp://127.0.0.1:head", "head"),
        ("tcp://127.0.0.1:99999", "port 99999 is above 65535"),
    ],
)
def test_connect_invalid_address_raises(address: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^cluster='{address}' is not an address of .*{why}.*; write it"):
        get_engine("dask", cluster=address)
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": address}))
    with pytest.raises(InputError, match=r"^the address in the scheduler file .*scheduler\.json is not an address"):
        get_engine("dask", cluster=file)


@pytest.mark.parametrize("text", ["", "cell,label\n", "{}", "[1]", '{"address": 5}'])
def test_connect_invalid_scheduler_file_raises(text: str, tmp_path: Path) -> None:
    (tmp_path / "obs.csv").write_text(text)
    with pytest.raises(InputError, match=r"^cluster='.*obs\.csv' is not a scheduler file, because it holds no address"):
        get_engine("dask", cluster=tmp_path / "obs.csv")


@pytest.mark.parametrize(("certificate", "message"), [("", "needs certificates, .* set"), ("no.pem", "cannot be read")])
def test_tls_without_certificates_raises(certificate: str, message: str) -> None:
    """Dask's client says so as well, and is then waited for while it ends."""
    tls = {"distributed.comm.tls.ca-file": certificate, "distributed.comm.tls.client.cert": certificate}
    with dask.config.set(tls), pytest.raises(InputError, match=rf"^cluster='tls://host:8786'.* {message}"):
        client_arguments("tls://host:8786")
