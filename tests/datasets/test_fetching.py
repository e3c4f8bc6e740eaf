"""Fetching from a real S3 server under faults: downloads are resumed, and no incomplete file gets its final name."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import s3

from gpubench.core.errors import InputError
from gpubench.datasets import fetching, remote
from gpubench.datasets.cache import cache_path, part_path, remove_leftovers
from gpubench.datasets.catalogue import CatalogueEntry
from gpubench.datasets.fetching import fetch
from gpubench.datasets.remote import RemoteFile

Put = Callable[..., str]


@pytest.fixture
def entry(put: Put, cache: Path, content: bytes) -> CatalogueEntry:
    """A dataset on S3."""
    return CatalogueEntry("cells", put("folder/cells.h5ad", content), where="my.yaml:3")


def part(entry: CatalogueEntry) -> Path:
    assert entry.path is not None
    return part_path(cache_path(entry), RemoteFile(entry.path).stat())


def under_whole_names(cache: Path) -> list[str]:
    """Return the names of complete files in the cache."""
    return sorted(p.name for p in cache.rglob("*") if p.is_file() and p.suffix not in (".part", ".lock", ".json"))


def test_fetch_downloads_and_checks_a_file(entry: CatalogueEntry, cache: Path, content: bytes, proxy: s3.Proxy) -> None:
    place, record = fetch(entry)
    assert place == cache / "datasets" / s3.BUCKET / "folder" / "cells.h5ad"
    assert place.read_bytes() == content
    assert (record.size, record.checked, record.sha256) == (len(content), "md5", hashlib.sha256(content).hexdigest())
    assert not list(cache.rglob("*.part"))
    assert proxy.gets() == [""]
    assert "Authorization" not in proxy.requests[0][1]


def test_cached_file_needs_no_network(
    entry: CatalogueEntry, proxy: s3.Proxy, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(entry)
    proxy.reset()
    monkeypatch.setenv("GPUBENCH_OFFLINE", "1")
    assert fetch(entry)[0].read_bytes() == content
    assert proxy.requests == []


def test_offline_sends_no_request(entry: CatalogueEntry, proxy: s3.Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUBENCH_OFFLINE", "1")
    with pytest.raises(InputError, match=r"'cells' is not in the cache .* GPUBENCH_OFFLINE is set; unset it"):
        fetch(entry)
    assert proxy.requests == []


def test_cut_connection_is_resumed_where_it_ended(entry: CatalogueEntry, proxy: s3.Proxy, content: bytes) -> None:
    proxy.faults.extend([s3.Fault(cut_after=1_000_000), s3.Fault(drop=True), s3.Fault(cut_after=1_500_000)])
    place, _ = fetch(entry)
    assert place.read_bytes() == content
    assert proxy.gets() == ["", "bytes=1000000-", "bytes=1000000-", "bytes=2500000-"]
    assert proxy.served == len(content)


def test_received_bytes_reset_the_count_of_failures(
    entry: CatalogueEntry, proxy: s3.Proxy, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only consecutive failures are counted."""
    monkeypatch.setattr(fetching, "RETRIES", 1)
    proxy.faults.extend([s3.Fault(cut_after=500_000) for _ in range(5)])
    assert fetch(entry)[0].read_bytes() == content


def test_another_process_resumes_a_partial_download(
    entry: CatalogueEntry, proxy: s3.Proxy, content: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "RETRIES", 0)
    proxy.faults.append(s3.Fault(cut_after=2_000_000))
    with pytest.raises(InputError, match=r"the connection was cut .* resumes the download"):
        fetch(entry)
    assert under_whole_names(cache) == []
    assert part(entry).read_bytes() == content[:2_000_000]
    proxy.reset()
    assert fetch(entry)[0].read_bytes() == content
    assert proxy.gets() == ["bytes=2000000-"]


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_server_is_retried(
    method: str, status: int, entry: CatalogueEntry, proxy: s3.Proxy, content: bytes
) -> None:
    proxy.faults.extend([s3.Fault(method, status=status) for _ in range(3)])
    assert fetch(entry)[0].read_bytes() == content
    assert [m for m, _ in proxy.requests].count(method) == 4


def test_retry_after_is_respected(entry: CatalogueEntry, proxy: s3.Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(fetching.time, "sleep", waited.append)
    proxy.faults.append(s3.Fault("HEAD", status=503, headers={"Retry-After": "7"}))
    fetch(entry)
    assert waited == [7]


def test_server_that_stays_busy_is_given_up(entry: CatalogueEntry, proxy: s3.Proxy, cache: Path) -> None:
    proxy.faults.extend([s3.Fault(status=503) for _ in range(20)])
    with pytest.raises(InputError, match=r"answered 503 .*, 6 times in a row; check the network and try again"):
        fetch(entry)
    assert under_whole_names(cache) == []


def test_corrupt_download_is_repeated(entry: CatalogueEntry, proxy: s3.Proxy, content: bytes) -> None:
    proxy.faults.append(s3.Fault(flip_at=1_234_567))
    assert fetch(entry)[0].read_bytes() == content
    assert proxy.gets() == ["", ""]


def test_download_that_stays_corrupt_is_refused(entry: CatalogueEntry, proxy: s3.Proxy, cache: Path) -> None:
    proxy.faults.extend([s3.Fault(flip_at=5), s3.Fault(flip_at=5)])
    with pytest.raises(InputError, match=r"wrong checksum: its MD5 is .* ETag is .*; it was discarded: try again"):
        fetch(entry)
    assert under_whole_names(cache) == []
    assert not list(cache.rglob("*.part"))


def test_part_damaged_on_disk_is_fetched_again(entry: CatalogueEntry, proxy: s3.Proxy, content: bytes) -> None:
    place = part(entry)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"\0" * 1_000_000)
    assert fetch(entry)[0].read_bytes() == content
    assert proxy.gets() == ["bytes=1000000-", ""]


def test_multipart_object_is_checked_by_the_md5_of_its_parts(
    servers: tuple[Any, s3.Proxy], proxy: s3.Proxy, cache: Path, content: bytes
) -> None:
    client, _ = servers
    pieces = [content * 2, content[:10]]  # of at least 5 MiB, but for the last
    pieces[0] = pieces[0][: 5 << 20]
    key = {"Bucket": s3.BUCKET, "Key": "parts.h5ad"}
    upload = client.create_multipart_upload(**key, ACL="public-read")["UploadId"]
    tags = [
        client.upload_part(**key, UploadId=upload, PartNumber=i, Body=piece)["ETag"]
        for i, piece in enumerate(pieces, 1)
    ]
    listed = {"Parts": [{"PartNumber": i, "ETag": tag} for i, tag in enumerate(tags, 1)]}
    client.complete_multipart_upload(**key, UploadId=upload, MultipartUpload=listed)
    entry = CatalogueEntry("parts", f"s3://{s3.BUCKET}/parts.h5ad")
    place, record = fetch(entry)
    assert record.etag is not None
    assert record.etag.endswith("-2")
    assert record.checked == "md5"
    assert place.read_bytes() == b"".join(pieces)
    place.unlink()
    proxy.faults.extend([s3.Fault(flip_at=(5 << 20) + 3), s3.Fault(flip_at=0)])
    with pytest.raises(InputError, match="wrong checksum"):
        fetch(entry)
    assert under_whole_names(cache) == []


def test_checksum_and_size_of_the_catalogue_are_enforced(
    entry: CatalogueEntry, proxy: s3.Proxy, cache: Path, content: bytes
) -> None:
    right = hashlib.sha256(content).hexdigest()
    assert fetch(CatalogueEntry("cells", entry.path, sha256=right, size=len(content)))[1].checked == "sha256"
    proxy.reset()
    with pytest.raises(InputError, match=r"wrong checksum: its SHA-256 is .*, but my.yaml:3 has 0{64}; correct"):
        fetch(CatalogueEntry("cells", entry.path, sha256="0" * 64, where="my.yaml:3"))
    assert proxy.gets() == []
    assert under_whole_names(cache) == ["cells.h5ad"]
    with pytest.raises(InputError, match=r"has 3,000,000 bytes, but my.yaml:3 says 7; it was changed or cut"):
        fetch(CatalogueEntry("cells", entry.path, size=7, where="my.yaml:3"))


def test_wrong_checksum_in_the_catalogue_keeps_no_file(entry: CatalogueEntry, cache: Path) -> None:
    with pytest.raises(InputError, match="wrong checksum: its SHA-256 is"):
        fetch(CatalogueEntry("cells", entry.path, sha256="0" * 64, where="my.yaml:3"))
    assert under_whole_names(cache) == []


def test_refresh_fetches_a_new_version(entry: CatalogueEntry, put: Put, proxy: s3.Proxy, content: bytes) -> None:
    place, _ = fetch(entry)
    put("folder/cells.h5ad", content[::-1])
    assert fetch(entry)[0].read_bytes() == content
    assert fetch(entry, refresh=True)[0].read_bytes() == content[::-1]
    proxy.reset()
    fetch(entry, refresh=True)
    assert proxy.gets() == []
    assert place.read_bytes() == content[::-1]


def test_versions_are_never_mixed(entry: CatalogueEntry, put: Put, proxy: s3.Proxy, content: bytes) -> None:
    """The file changes on the server during the download."""
    new = content[::-1]
    proxy.faults.extend([s3.Fault(cut_after=1_000_000), s3.Fault(before=lambda: put("folder/cells.h5ad", new))])
    assert fetch(entry)[0].read_bytes() == new
    assert proxy.gets() == ["", "bytes=1000000-", ""]
    assert not list(cache_path(entry).parent.glob("*.part"))


def test_parts_of_other_files_are_not_removed(entry: CatalogueEntry) -> None:
    own, place = part(entry), cache_path(entry)
    others = [
        part_path(place.with_name(name), RemoteFile(str(entry.path)).stat()) for name in ("cells.h5ad.gz", "cells")
    ]
    place.parent.mkdir(parents=True)
    for file in (own, *others):
        file.touch()
    remove_leftovers(place)
    assert [file.exists() for file in (own, *others)] == [False, True, True]


def test_failed_refresh_leaves_the_old_version(
    entry: CatalogueEntry, put: Put, proxy: s3.Proxy, content: bytes
) -> None:
    fetch(entry)
    put("folder/cells.h5ad", content[::-1])
    proxy.faults.extend([s3.Fault(flip_at=9), s3.Fault(flip_at=9)])
    with pytest.raises(InputError, match="wrong checksum"):
        fetch(entry, refresh=True)
    assert fetch(entry)[0].read_bytes() == content


def test_file_without_record_is_checked_instead_of_fetched(
    entry: CatalogueEntry, proxy: s3.Proxy, content: bytes
) -> None:
    place, _ = fetch(entry)
    place.with_name("cells.h5ad.json").unlink()
    proxy.reset()
    assert fetch(entry)[0].read_bytes() == content
    assert proxy.gets() == []  # checked again, not fetched again
    place.with_name("cells.h5ad.json").unlink()
    place.write_bytes(content[::-1])
    assert fetch(entry)[0].read_bytes() == content
    assert proxy.gets() == [""]


def test_truncated_file_in_the_cache_is_fetched_again(entry: CatalogueEntry, content: bytes) -> None:
    place, _ = fetch(entry)
    place.write_bytes(content[:100])
    assert fetch(entry)[0].read_bytes() == content


def test_forbidden_and_missing_files_are_refused(put: Put, cache: Path, content: bytes) -> None:
    secret = put("secret.h5ad", content, acl="private")
    with pytest.raises(InputError, match=r"secret.h5ad: no permission \(403 .*\).* check the address, or ask"):
        fetch(CatalogueEntry("secret", secret))
    with pytest.raises(InputError, match=r"nothing.h5ad does not exist \(404 .*\); check the address in the catalogue"):
        fetch(CatalogueEntry("nothing", f"s3://{s3.BUCKET}/nothing.h5ad"))
    assert under_whole_names(cache) == []


def test_unreachable_server_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(InputError, match=r"'cells' cannot be fetched: .* cannot be reached .*Connection refused"):
            fetch(CatalogueEntry("cells", "s3://bucket/cells.h5ad"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://no-such-host.invalid")
    with pytest.raises(InputError, match=r"no-such-host.invalid cannot be reached .*3 times in a row; check"):
        fetch(CatalogueEntry("cells", "s3://bucket/cells.h5ad"))


def test_silent_server_is_retried(
    entry: CatalogueEntry, proxy: s3.Proxy, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_TIMEOUT_S", (5, 0.3))
    answered = threading.Event()
    proxy.faults.extend([s3.Fault(cut_after=400_000), s3.Fault(before=lambda: answered.wait(20))])
    assert fetch(entry)[0].read_bytes() == content
    answered.set()
    assert proxy.gets() == ["", "bytes=400000-", "bytes=400000-"]


def test_url_of_s3_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    assert remote.url_of("s3://b/a folder/x+y.h5ad") == "https://b.s3.amazonaws.com/a%20folder/x%2By.h5ad"
    assert remote.url_of("s3://b.c/x.h5ad") == "https://s3.amazonaws.com/b.c/x.h5ad"
    assert remote.url_of("s3://b/x.h5ad", "us-west-2") == "https://b.s3.us-west-2.amazonaws.com/x.h5ad"
    assert remote.url_of("https://example.org/x.h5ad?a=b") == "https://example.org/x.h5ad?a=b"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000/")
    assert remote.url_of("s3://b/x.h5ad") == "http://minio:9000/b/x.h5ad"
    for wrong in ("s3://b", "s3://b/", "s3:///x"):
        with pytest.raises(InputError, match="names no object; write it as s3://bucket/key"):
            remote.url_of(wrong)


def test_bucket_in_another_region_is_followed(
    entry: CatalogueEntry, proxy: s3.Proxy, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def regional(address: str, region: str = "") -> str:
        return f"{proxy.url}/{address.removeprefix('s3://')}{'?in=' + region if region else ''}"

    monkeypatch.setattr(remote, "url_of", regional)
    proxy.faults.append(s3.Fault("HEAD", status=301, headers={"x-amz-bucket-region": "us-west-2"}))
    assert fetch(entry)[0].read_bytes() == content
    proxy.faults.append(s3.Fault("HEAD", status=400))
    with pytest.raises(InputError, match=r"the server answered 400 .*; check its address"):
        fetch(entry, refresh=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_full_disk_is_reported(entry: CatalogueEntry, proxy: s3.Proxy, cache: Path, content: bytes) -> None:
    unfinished = part(entry)
    unfinished.parent.mkdir(parents=True)
    unfinished.symlink_to("/dev/full")
    with pytest.raises(
        InputError, match=r"cells.h5ad cannot be written .* No space left on device .*; free some space"
    ):
        fetch(entry)
    assert under_whole_names(cache) == []
    unfinished.unlink()
    assert fetch(entry)[0].read_bytes() == content


def test_too_little_space_is_reported_before_the_download(
    entry: CatalogueEntry, proxy: s3.Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 2_999_999})
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"'cells' needs 3.0 MB more, but 3.0 MB are free .* GPUBENCH_CACHE"):
        fetch(entry)
    assert proxy.gets() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_cache_without_write_permission_is_reported(entry: CatalogueEntry, cache: Path) -> None:
    cache.mkdir(mode=0o555)
    with pytest.raises(InputError, match=r"cells.h5ad cannot be written to the cache; set GPUBENCH_CACHE .*Permission"):
        fetch(entry)


def test_cache_that_is_a_file_is_reported(entry: CatalogueEntry, cache: Path) -> None:
    cache.touch()
    with pytest.raises(InputError, match="cannot be written to the cache; set GPUBENCH_CACHE to another folder: "):
        fetch(entry)


def test_read_only_cache_is_read(entry: CatalogueEntry, content: bytes) -> None:
    place, _ = fetch(entry)
    place.with_name("cells.h5ad.lock").unlink()
    place.parent.chmod(0o555)
    try:
        assert fetch(entry)[0].read_bytes() == content
    finally:
        place.parent.chmod(0o755)


def test_server_without_ranges_is_resumed_from_the_beginning(
    put: Put, proxy: s3.Proxy, cache: Path, content: bytes
) -> None:
    """A plain URL, whose ETag need not be an MD5, on a server that ignores Range."""
    put("plain.h5ad", content)
    entry = CatalogueEntry("plain", f"{proxy.url}/{s3.BUCKET}/plain.h5ad")

    def forget_the_range() -> None:
        given = proxy.requests[-1][1]
        given.pop("Range", None)

    proxy.faults.extend([s3.Fault(cut_after=700_000), s3.Fault(before=forget_the_range)])
    place, record = fetch(entry)
    assert place.read_bytes() == content
    assert record.checked == "size"
    assert proxy.served == len(content) + 700_000


def test_listener_receives_bytes(entry: CatalogueEntry, content: bytes) -> None:
    heard: list[tuple[str, int, int]] = []

    class Listener:
        def started(self, path: str) -> None: ...

        def advanced(self, path: str, done: int, total: int) -> None:
            heard.append((path, done, total))

        def ended(self, path: str, seconds: float) -> None: ...

    fetch(entry, listener=Listener())
    assert heard[0] == ("fetch cells", 0, len(content))
    assert ("fetch cells", len(content), len(content)) in heard
    assert heard[-1] == ("check cells", len(content), len(content))


FETCH = """
import sys
from gpubench.datasets.catalogue import CatalogueEntry
from gpubench.datasets.fetching import fetch
sys.stdin.readline()
print(fetch(CatalogueEntry("cells", sys.argv[1]))[1].sha256)
"""


def test_concurrent_processes_download_once(entry: CatalogueEntry, proxy: s3.Proxy, content: bytes) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FETCH, str(entry.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    answers = []
    threads = [threading.Thread(target=lambda p=p: answers.append(p.communicate("go\n"))) for p in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [out.strip() for out, _ in answers] == [hashlib.sha256(content).hexdigest()] * 3
    assert proxy.gets() == [""]
    assert cache_path(entry).read_bytes() == content


@pytest.mark.slow
def test_download_of_a_killed_process_is_resumed(
    entry: CatalogueEntry, proxy: s3.Proxy, cache: Path, content: bytes
) -> None:
    begun, killed = threading.Event(), threading.Event()

    def stall() -> None:
        begun.set()
        killed.wait(30)

    proxy.faults.extend([s3.Fault(cut_after=2_000_000), s3.Fault(before=stall)])
    process = subprocess.Popen([sys.executable, "-c", FETCH, str(entry.path)], stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    assert begun.wait(30)
    process.kill()
    process.wait()
    process.stdin.close()
    killed.set()
    assert under_whole_names(cache) == []
    proxy.reset()
    assert fetch(entry)[0].read_bytes() == content
    assert proxy.gets() == ["bytes=2000000-"]
