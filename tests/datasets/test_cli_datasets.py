"""The commands of datasets: what they print, and how they end."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import s3

from gpubench.cli.main import main


@pytest.fixture
def catalogue(put: Callable[..., str], cache: Path, tmp_path: Path, content: bytes) -> str:
    """Three datasets: on S3, on this disk, and nowhere."""
    (tmp_path / "near.h5ad").write_bytes(b"near")
    path = tmp_path / "my.yaml"
    path.write_text(
        f"datasets:\n  far: {{path: '{put('far.h5ad', content)}', label: cell_type, title: From far}}\n"
        "  near: {path: near.h5ad}\n  nowhere: {title: Nowhere}\n"
    )
    return str(path)


def printed_json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_list_shows_the_state_of_each_dataset(catalogue: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "list"]) == 0
    assert re.search(r"^tsv2_blood +not fetched +Tabula Sapiens v2, blood$", capsys.readouterr().out, re.MULTILINE)
    assert main(["datasets", "fetch", "far", "--catalogue", catalogue]) == 0
    capsys.readouterr()
    assert main(["datasets", "list", "--catalogue", catalogue]) == 0
    last = capsys.readouterr().out.splitlines()[-3:]
    assert [re.split("  +", line) for line in last] == [
        ["far", "cached, 3.0 MB", "From far"],
        ["near", "local"],
        ["nowhere", "no address", "Nowhere"],
    ]
    assert main(["datasets", "list", "--json", "--catalogue", catalogue]) == 0
    listed = {one["id"]: one["state"] for one in printed_json(capsys)}
    assert listed["far"] == "cached"
    assert listed["tsv2_lung"] == "not fetched"


def test_fetch_info_and_path(
    catalogue: str, cache: Path, content: bytes, capsys: pytest.CaptureFixture[str], proxy: s3.Proxy
) -> None:
    more = ["--catalogue", catalogue]
    place = cache / "datasets" / s3.BUCKET / "far.h5ad"
    assert main(["datasets", "path", "far", *more]) == 2
    assert capsys.readouterr().err == (
        f"gpubench: dataset 'far' is not in the cache ({place}); run gpubench datasets fetch far\n"
    )
    assert main(["datasets", "fetch", "far", "near", "far", *more]) == 0
    assert capsys.readouterr().out == (
        f"far: {place} (3.0 MB, checked by the MD5 that the server keeps)\n"
        f"near: {Path(catalogue).with_name('near.h5ad')}\n"
    )
    assert proxy.gets() == [""]
    assert main(["datasets", "path", "far", *more]) == 0
    assert capsys.readouterr().out == f"{place}\n"
    assert main(["datasets", "info", "far", *more]) == 0
    printed = capsys.readouterr().out
    assert f"sha256     {hashlib.sha256(content).hexdigest()}\n" in printed
    assert "size       3,000,000 bytes\n" in printed
    assert "checked    by the MD5 that the server keeps\n" in printed
    assert f"catalogue  {catalogue}:2\n" in printed
    assert main(["datasets", "info", "far", "--json", *more]) == 0
    assert printed_json(capsys)["size"] == len(content)
    assert main(["datasets", "fetch", "far", "--json", "--refresh", *more]) == 0
    assert [one["file"] for one in printed_json(capsys)] == [str(place)]
    assert main(["datasets", "path", "far", "--json", *more]) == 0
    assert printed_json(capsys) == {"id": "far", "file": str(place)}
    assert main(["datasets", "fetch", "far", "--quiet", *more]) == 0
    assert capsys.readouterr() == ("", "")


def test_errors_are_one_line(catalogue: str, capsys: pytest.CaptureFixture[str], proxy: s3.Proxy) -> None:
    more = ["--catalogue", catalogue]
    for arguments, message in (
        (["info", "tsv2_blod"], r"dataset 'tsv2_blod' is in no catalogue \(did you mean 'tsv2_blood'"),
        (["fetch", "far", "fra", *more], r"dataset 'fra' is in no catalogue \(did you mean 'far'\?\)"),
        (["fetch", "nowhere", *more], "dataset 'nowhere' has no address; write"),
        (["list", "--catalogue", "no.yaml"], "catalogue 'no.yaml' cannot be read: No such file"),
        (["fetsh"], "No such command 'fetsh'.*; see gpubench datasets --help"),
    ):
        assert main(["datasets", *arguments]) == 2
        assert re.fullmatch(rf"gpubench: {message}.*\n", capsys.readouterr().err)
    assert proxy.requests == [], "nothing is fetched where one of the names is wrong"


def test_interrupted_fetch_says_that_it_can_be_resumed(
    catalogue: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gpubench.datasets.cache.check", interrupt)
    assert main(["datasets", "fetch", "far", "--catalogue", catalogue]) == 130
    assert "interrupted; the next fetch resumes the download\n" in capsys.readouterr().err
    monkeypatch.undo()


@pytest.mark.slow
def test_terminal_shows_a_progress_bar(catalogue: str) -> None:
    """NO_COLOR removes its colours."""
    code = "import sys; from gpubench.cli.main import main; sys.exit(main(sys.argv[1:]))"
    for colour in (True, False):
        ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm-256color", **({} if colour else {"NO_COLOR": "1"})}
        environment.pop("NO_COLOR", None) if colour else None
        command = [sys.executable, "-c", code, "datasets", "fetch", "far", "--catalogue", catalogue]
        done = subprocess.run(command, stderr=theirs, stdout=subprocess.DEVNULL, check=True, env=environment)
        os.close(theirs)
        drawn = b""
        try:
            while piece := os.read(ours, 65536):
                drawn += piece
        except OSError:  # raised by Linux once the other end of the terminal is closed
            pass
        os.close(ours)
        assert done.returncode == 0
        if colour:
            Path(os.environ["GPUBENCH_CACHE"], "datasets", s3.BUCKET, "far.h5ad").unlink()
        assert b"far" in drawn
        assert bool(re.search(rb"\x1b\[[\d;]*3[\d;]*m", drawn)) == colour
