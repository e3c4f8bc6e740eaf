"""Addresses of schedulers and scheduler files, looked at before Dask's client waits for what can never answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gpubench.errors import InputError

WRITTEN = "write it as tcp://host:8786, as the scheduler prints it when it starts"


def client_arguments(named: str) -> dict[str, str]:
    """What Dask's `Client` is given for an address or the path of a scheduler file.

    Raises
    ------
    InputError
        It is neither, or what it says is no address.
    """
    if "://" in named or _has_port(named):
        _check_address(named, f"cluster={named!r}")
        return {"address": named}
    file = Path(named)
    if not file.is_file():
        raise InputError(
            f"cluster={named!r} is neither an address (tcp://host:8786) nor a scheduler file: there is no such file"
        )
    _check_address(_address_in(file), f"the address in the scheduler file {named}")
    return {"scheduler_file": named}


def _has_port(named: str) -> bool:
    host, _, port = named.rpartition(":")
    return bool(host) and port.isdigit()


def _check_address(address: str, what: str) -> None:
    from distributed.comm.addressing import parse_address, parse_host_port
    from distributed.comm.registry import get_backend

    protocol, place = parse_address(address)
    try:
        get_backend(protocol)
        port = 0 if protocol == "inproc" else parse_host_port(place)[1]
    except ValueError as error:
        raise _no_address(what, str(error)) from error
    if port >= 1 << 16:
        raise _no_address(what, f"port {port} is above 65535")
    if protocol in ("tls", "wss"):
        _check_certificates(what)


def _check_certificates(what: str) -> None:
    """Refuse TLS without certificates: Dask's client does so as well, but is then waited for while it ends."""
    from distributed.security import Security

    try:
        context = Security().get_connection_args("client").get("ssl_context")
    except OSError as error:
        told = " ".join(str(error).split())
        raise InputError(f"{what}: certificates of Dask's distributed.comm.tls cannot be read ({told})") from error
    if context is None:
        raise InputError(
            f"{what} needs certificates, and Dask's configuration has none; set distributed.comm.tls.ca-file,"
            " distributed.comm.tls.client.cert and distributed.comm.tls.client.key"
        )


def _no_address(what: str, why: str) -> InputError:
    return InputError(f"{what} is no address of a Dask scheduler ({why}); {WRITTEN}")


def _address_in(file: Path) -> str:
    try:
        held: Any = json.loads(file.read_text())
        address = held["address"]
    except OSError as error:
        raise InputError(f"cluster={str(file)!r} cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, TypeError, KeyError) as error:
        raise _no_scheduler_file(file) from error
    if not isinstance(address, str):
        raise _no_scheduler_file(file)
    return address


def _no_scheduler_file(file: Path) -> InputError:
    return InputError(
        f"cluster={str(file)!r} is no scheduler file, for it holds no address; give the one that"
        " dask scheduler --scheduler-file FILE has written"
    )
