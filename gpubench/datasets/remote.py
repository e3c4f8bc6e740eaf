"""Files on S3 and web servers, read in ranges over HTTP.

The REST interface of S3 serves public objects without a signature, so requests suffices, with the proxies and
certificates of the environment. The SDKs of AWS are a hundred times as much code and pin old versions of
other packages.
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
_TIMEOUT_S = (10.0, 60.0)  # for connecting; between two pieces of a response
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_GONE = {404, 410}
_OTHER_REGION = {301, 400}  # the answers of S3 where a bucket is in another region, which a header names
_WEAK = "W/"
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")

# A compressed response would be shorter than the file, and its ranges would not be ranges of the file.
_HEADERS = {"Accept-Encoding": "identity"}


class TransientError(Exception):
    """A failure that may pass, such as a cut connection or a busy server.

    Attributes
    ----------
    answered : whether the server responded
    wait_s : seconds to wait before the next try, as the server asked in the header Retry-After; else 0
    """

    def __init__(self, message: str, *, answered: bool = True, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.answered = answered
        self.wait_s = wait_s


class FileChanged(Exception):
    """The file on the server was replaced by another version during the download."""


@dataclass(frozen=True, slots=True)
class RemoteStat:
    """Size and version of a file, as reported by its server.

    Attributes
    ----------
    size : size of the file in bytes
    etag : identifier of the version, without quotes; None if the server sends none
    md5 : whether the ETag is the MD5 of the file, or, for an upload to S3 in parts, the MD5 of the MD5s of the parts
    part_size : size in bytes of the parts in which the file was uploaded to S3 (of the file if it was uploaded as a
        whole); None if it is unknown
    """

    size: int
    etag: str | None
    md5: bool = False
    part_size: int | None = None


class RemoteFile:
    """A file at s3://bucket/key or an http(s) URL.

    The methods raise `TransientError` for failures that may pass, and `InputError` if the file does not exist or access
    is not permitted.
    """

    def __init__(self, address: str) -> None:
        import requests

        self.address = address
        self.url = url_of(address)
        self._session = requests.Session()

    def stat(self) -> RemoteStat:
        """Request the size and the ETag of the file."""
        head = self._head()
        if "Content-Length" not in head:
            raise InputError(
                f"{self.address}: the server does not report the size of the file, so the download cannot be checked;"
                " download it by other means and give its path in a catalogue"
            )
        size, etag = int(head["Content-Length"]), _etag(head)
        if not self.address.startswith("s3://") or not _is_md5(etag, head):
            return RemoteStat(size, etag)
        n_parts = int(etag.partition("-")[2] or 1) if etag else 1
        if n_parts == 1:
            return RemoteStat(size, etag, md5=True, part_size=size)
        part = self._head(params={"partNumber": "1"})
        part_size = int(part.get("Content-Length", 0))
        # Parts of different sizes are rare; their MD5 could only be checked with one request for each part.
        equal = "x-amz-mp-parts-count" in part and part_size * (n_parts - 1) < size <= part_size * n_parts
        return RemoteStat(size, etag, md5=equal, part_size=part_size if equal else None)

    def read(self, start: int, stat: RemoteStat) -> Iterator[bytes]:
        """Yield the content of the file in blocks, from byte `start` on.

        If the file is no longer the version that `stat` describes, `FileChanged` is raised before the first block.
        Blocks yielded before a `TransientError` are valid.
        """
        import urllib3

        headers = {"Range": f"bytes={start}-"} if start else {}
        if stat.etag and not stat.etag.startswith(_WEAK):  # a weak one never matches
            headers["If-Match"] = f'"{stat.etag}"'
        with self._request("GET", headers=headers) as response:
            if response.status_code in (412, 416):
                raise FileChanged(self.address)
            begin, total = _range(response)
            if total != stat.size or begin not in (0, start) or _etag(response.headers) not in (None, stat.etag):
                raise FileChanged(self.address)
            left = stat.size - begin
            skip = start - begin  # a server without ranges sends the file from its beginning
            try:
                while left > 0 and (block := response.raw.read(min(_BLOCK_BYTES, left), decode_content=False)):
                    left -= len(block)
                    if len(block) > skip:
                        yield block[skip:]
                    skip = max(skip - len(block), 0)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise TransientError(f"the connection was cut ({_reason(error)})") from error
            if left > 0:
                raise TransientError(f"the connection was cut {left:,} bytes before the end")

    def _head(self, params: dict[str, str] | None = None) -> Mapping[str, str]:
        with self._request("HEAD", params=params) as response:
            return response.headers

    @contextmanager
    def _request(
        self, method: str, headers: dict[str, str] | None = None, params: dict[str, str] | None = None
    ) -> Iterator[requests.Response]:
        """Yield a response with status 200, 206, 412 or 416, whose body is not read yet."""
        import requests

        try:
            response = self._session.request(
                method,
                self.url,
                params=params,
                headers={**_HEADERS, **(headers or {})},
                stream=True,
                allow_redirects=True,
                timeout=_TIMEOUT_S,
            )
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            host = self.url.split("/")[2]
            raise TransientError(f"{host} cannot be reached ({_reason(error)})", answered=False) from error
        except requests.RequestException as error:
            raise InputError(f"{self.address} cannot be fetched: {_reason(error)}; check its address") from error
        with response:
            self._check_status(response)
            yield response

    def _check_status(self, response: requests.Response) -> None:
        code, answer = response.status_code, f"{response.status_code} {response.reason}"
        region = response.headers.get("x-amz-bucket-region", "")
        if code in _OTHER_REGION and self.url != url_of(self.address, region):
            self.url = url_of(self.address, region)
            raise TransientError(f"{self.address} is in {region}")
        if code in _TRANSIENT:
            wait = response.headers.get("Retry-After", "")
            host = self.url.split("/")[2]
            raise TransientError(f"{host} answered {answer}", wait_s=float(wait) if wait.isdigit() else 0.0)
        if code in (401, 403):
            raise InputError(
                f"{self.address}: no permission ({answer}), which S3 also answers for files that do not exist; check"
                " the address, or ask its owner"
            )
        if code in _GONE:
            raise InputError(f"{self.address} does not exist ({answer}); check the address in the catalogue")
        if code not in (200, 206, 412, 416):
            raise InputError(f"{self.address} cannot be fetched: the server answered {answer}; check its address")


def url_of(address: str, region: str = "") -> str:
    """Convert an address s3://bucket/key to a URL of the REST interface of S3; return other addresses unchanged.

    The server is the one in the environment variable `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`, else that of AWS, in
    `region` if it is given.
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
    """Return the ETag without quotes; a weak ETag keeps its prefix W/."""
    etag = head.get("ETag", "")
    return (_WEAK if etag.startswith(_WEAK) else "") + etag.removeprefix(_WEAK).strip('"') or None


def _is_md5(etag: str | None, head: Mapping[str, str]) -> bool:
    """Whether S3 computed the ETag from MD5s, which it does unless the object is encrypted with the owner's keys."""
    encrypted = "x-amz-server-side-encryption-customer-algorithm" in head or head.get(
        "x-amz-server-side-encryption", "AES256"
    ) not in ("", "AES256")
    return not encrypted and etag is not None and re.fullmatch(r"[0-9a-f]{32}(-\d+)?", etag) is not None


def _range(response: requests.Response) -> tuple[int, int]:
    """Return the position in the file at which a response begins, and the size of the whole file."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if response.status_code == 206 and match:
        return int(match[1]), int(match[2])
    return 0, int(response.headers.get("Content-Length", -1))


def _reason(error: BaseException) -> str:
    """Return the innermost reason, which is the specific one, such as "Connection refused"."""
    import urllib3

    while True:
        inner = getattr(error, "reason", None) or next((a for a in error.args if isinstance(a, BaseException)), None)
        if not isinstance(inner, BaseException) or isinstance(error, urllib3.exceptions.IncompleteRead):
            break
        error = inner
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).rpartition(": ")[2].split()) or type(error).__name__
