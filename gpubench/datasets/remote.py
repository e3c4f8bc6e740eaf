"""Files on S3 and web servers, read in ranges over HTTP.

A public object of S3 is a file that its REST interface hands to anyone, without signature: requests does all that is
needed for it, with the proxies and certificates of the environment. The SDKs of AWS would bring a hundred times as much
code and hold other packages at old versions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from gpubench.core.errors import InputError

if TYPE_CHECKING:
    import requests

_BLOCK_BYTES = 1 << 20
_TIMEOUT_S = (10.0, 60.0)  # to connect; between two pieces of an answer
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_GONE = {404, 410}
_ELSEWHERE = {301, 400}  # what S3 answers where a bucket is in another region, with the region's name
_WEAK = "W/"
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")

# Answers are files as they are: a compressed one would be shorter than its length says, and no range of the file.
_HEADERS = {"Accept-Encoding": "identity"}


class Transient(Exception):
    """It did not work this time: a cut connection, a busy server. Trying again may help.

    Attributes
    ----------
    answered : whether the server said anything
    wait_s : for how long it wants to be left alone
    """

    def __init__(self, message: str, *, answered: bool = True, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.answered = answered
        self.wait_s = wait_s


class Changed(Exception):
    """The file on the server is not the one that was begun."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What a server says of a file before it is read.

    Attributes
    ----------
    size : bytes
    etag : what changes when the file changes, without quotes; None where the server does not say
    md5 : whether an ETag of S3 is the MD5 of the file, or of the MD5s of its parts
    part_size : bytes of a part, where the file was put on S3 in parts
    """

    size: int
    etag: str | None
    md5: bool = False
    part_size: int | None = None


class Remote:
    """A file on a server.

    Parameters
    ----------
    address : s3://bucket/key, or an http(s) URL
    """

    def __init__(self, address: str) -> None:
        import requests

        self.address = address
        self.url = url_of(address)
        self._session = requests.Session()

    def stat(self) -> Stat:
        """Ask for size and ETag.

        Raises
        ------
        Transient
            There was no answer, or none that counts.
        InputError
            No permission, no such file, an unknown length.
        """
        head = self._head()
        if "Content-Length" not in head:
            raise InputError(
                f"{self.address}: the server does not say how large the file is, so that it cannot be checked;"
                " download it by other means and give its path in a catalogue"
            )
        size, etag = int(head["Content-Length"]), _etag(head)
        if not self.address.startswith("s3://") or not _is_md5(etag, head):
            return Stat(size, etag)
        n_parts = int(etag.partition("-")[2] or 1) if etag else 1
        if n_parts == 1:
            return Stat(size, etag, md5=True, part_size=size)
        part = self._head(params={"partNumber": "1"})
        part_size = int(part.get("Content-Length", 0))
        # Parts of different sizes are rare, and then no MD5 can be checked without asking for each of them.
        even = "x-amz-mp-parts-count" in part and part_size * (n_parts - 1) < size <= part_size * n_parts
        return Stat(size, etag, md5=even, part_size=part_size if even else None)

    def read(self, start: int, stat: Stat) -> Iterator[bytes]:
        """Read from a byte on, in blocks.

        Raises
        ------
        Changed
            The file is no longer the one of `stat`; nothing of it was handed out.
        Transient
            The connection was cut, or the server is busy; what was handed out is good.
        InputError
            No permission, no such file.
        """
        import urllib3

        headers = {"Range": f"bytes={start}-"} if start else {}
        if stat.etag and not stat.etag.startswith(_WEAK):  # a weak one never matches
            headers["If-Match"] = f'"{stat.etag}"'
        with self._answer("GET", headers=headers) as answer:
            if answer.status_code in (412, 416):
                raise Changed(self.address)
            begin, total = _range(answer)
            if total != stat.size or begin not in (0, start) or _etag(answer.headers) not in (None, stat.etag):
                raise Changed(self.address)
            left = stat.size - begin
            skip = start - begin  # a server without ranges sends what is there already once more
            try:
                while left > 0 and (block := answer.raw.read(min(_BLOCK_BYTES, left), decode_content=False)):
                    left -= len(block)
                    fresh = block[skip:]
                    skip = max(skip - len(block), 0)
                    if fresh:
                        yield fresh
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise Transient(f"the connection was cut ({_reason(error)})") from error
            if left > 0:
                raise Transient(f"the connection was cut {left:,} bytes before the end")

    def _head(self, params: dict[str, str] | None = None) -> Mapping[str, str]:
        with self._answer("HEAD", params=params) as answer:
            return answer.headers

    @contextmanager
    def _answer(
        self, method: str, headers: dict[str, str] | None = None, params: dict[str, str] | None = None
    ) -> Iterator[requests.Response]:
        """An answer that is good, or 412 or 416; its body is not read yet."""
        import requests

        try:
            answer = self._session.request(
                method,
                self.url,
                params=params,
                headers={**_HEADERS, **(headers or {})},
                stream=True,
                allow_redirects=True,
                timeout=_TIMEOUT_S,
            )
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise Transient(f"{_host(self.url)} cannot be reached ({_reason(error)})", answered=False) from error
        except requests.RequestException as error:
            raise InputError(f"{self.address} cannot be fetched: {_reason(error)}; check its address") from error
        with answer:
            code = answer.status_code
            region = answer.headers.get("x-amz-bucket-region", "")
            if code in _ELSEWHERE and self.url != url_of(self.address, region):
                self.url = url_of(self.address, region)
                raise Transient(f"{self.address} is in {region}")
            if code in _TRANSIENT:
                raise Transient(f"{_host(self.url)} answered {code} {answer.reason}", wait_s=_retry_after(answer))
            if code in (401, 403):
                raise InputError(
                    f"{self.address}: no permission ({code} {answer.reason}); S3 says so of files that do not exist,"
                    " too: check the address, or ask its owner"
                )
            if code in _GONE:
                raise InputError(
                    f"{self.address} does not exist ({code} {answer.reason}); check the address in the catalogue"
                )
            if code not in (200, 206, 412, 416):
                raise InputError(
                    f"{self.address} cannot be fetched: the server answered {code} {answer.reason}; check its address"
                )
            yield answer


def url_of(address: str, region: str = "") -> str:
    """The URL of an address: that of the object's REST interface for s3://, itself otherwise.

    `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` name another server that speaks S3; else it is the one of AWS that knows
    all buckets, or that of a region.

    Raises
    ------
    InputError
        An s3:// address without bucket or key.
    """
    if not address.startswith("s3://"):
        return address
    bucket, _, key = address.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise InputError(f"{address} names no object; write it as s3://bucket/key")
    endpoint = next(filter(None, map(os.environ.get, _ENDPOINTS)), None)
    if endpoint:
        return f"{endpoint.rstrip('/')}/{bucket}/{quote(key)}"
    host = f"s3.{region}.amazonaws.com" if region else "s3.amazonaws.com"
    if "." in bucket:  # a certificate for *.s3.amazonaws.com covers no further dots
        return f"https://{host}/{bucket}/{quote(key)}"
    return f"https://{bucket}.{host}/{quote(key)}"


def _etag(head: Mapping[str, str]) -> str | None:
    """The ETag without quotes; a weak one keeps its mark."""
    etag = head.get("ETag", "")
    return (_WEAK if etag.startswith(_WEAK) else "") + etag.removeprefix(_WEAK).strip('"') or None


def _is_md5(etag: str | None, head: Mapping[str, str]) -> bool:
    """Whether S3 made this ETag of MD5s: not where it encrypts with keys of the owner's."""
    encrypted = "x-amz-server-side-encryption-customer-algorithm" in head or head.get(
        "x-amz-server-side-encryption", "AES256"
    ) not in ("", "AES256")
    return not encrypted and etag is not None and re.fullmatch(r"[0-9a-f]{32}(-\d+)?", etag) is not None


def _range(answer: requests.Response) -> tuple[int, int]:
    """First byte of an answer, and the size of the whole file."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
    if answer.status_code == 206 and found:
        return int(found[1]), int(found[2])
    return 0, int(answer.headers.get("Content-Length", -1))


def _retry_after(answer: requests.Response) -> float:
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else 0.0


def _host(url: str) -> str:
    return url.split("/")[2]


def _reason(error: BaseException) -> str:
    """The innermost reason, which is the one that says something: "Connection refused", "Name or service not known"."""
    import urllib3

    while True:
        inner = getattr(error, "reason", None) or next((a for a in error.args if isinstance(a, BaseException)), None)
        if not isinstance(inner, BaseException) or isinstance(error, urllib3.exceptions.IncompleteRead):
            break
        error = inner
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).rpartition(": ")[2].split()) or type(error).__name__
