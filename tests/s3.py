"""An S3 server on this machine, and a proxy in front of it that injects faults."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

BUCKET = "public-cells"


@dataclass
class Fault:
    """A fault in one response.

    Attributes
    ----------
    method : of the requests to which it applies
    status : respond with this instead of asking S3
    headers : of that response
    cut_after : number of bytes of the body after which the connection is closed
    flip_at : this byte of the body arrives changed
    drop : close the connection without a response
    before : called before S3 is asked
    """

    method: str = "GET"
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    flip_at: int | None = None
    drop: bool = False
    before: Any = None


class Proxy:
    """A proxy for S3; each fault applies to one request, in order."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.faults: deque[Fault] = deque()
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.served = 0
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def reset(self) -> None:
        self.faults.clear()
        self.requests.clear()
        self.served = 0

    def take(self, method: str, headers: dict[str, str]) -> Fault:
        with self._lock:
            self.requests.append((method, headers))
            if self.faults and self.faults[0].method == method:
                return self.faults.popleft()
        return Fault(method)

    def gets(self) -> list[str]:
        """Return the Range header of each GET; "" for the whole file."""
        return [headers.get("Range", "") for method, headers in self.requests if method == "GET"]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.0"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._pass_on()

    def do_GET(self) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        given = dict(self.headers.items())
        fault = self.proxy.take(self.command, given)
        if fault.before is not None:
            fault.before()
        if fault.drop:
            self.close_connection = True
            return
        if fault.status is not None:
            self._answer(fault.status, fault.headers, b"<Error><Code>SlowDown</Code></Error>")
            return
        given.pop("Host", None)
        answer = requests.request(self.command, self.proxy.target + self.path, headers=given, timeout=10)
        body = bytearray(answer.content)
        if fault.flip_at is not None and fault.flip_at < len(body):
            body[fault.flip_at] ^= 0x40
        sent = body if fault.cut_after is None else body[: fault.cut_after]
        self._answer(answer.status_code, dict(answer.headers), bytes(sent))

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("connection", "server", "date"):
                    self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
                self.proxy.served += len(body)


@contextlib.contextmanager
def serve() -> Iterator[tuple[Any, Proxy]]:
    """Start both; yield a boto3 client that may write, and the proxy."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket=BUCKET)
    proxy = Proxy(f"http://{host}:{port}")
    try:
        yield client, proxy
    finally:
        proxy.close()
        server.stop()
