"""The page docs/first-session.md is run as it is written, and prints what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import s3

from gpubench import datasets
from gpubench.cli.main import main
from gpubench.datasets import demo_path

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "first-session.md").read_text()


def agrees(printed: str, expected: str) -> bool:
    """Whether the text is that of the page, where "..." stands for anything; runs of blanks are one."""
    expected, printed = (re.sub(r" +", " ", re.sub(r" +\n", "\n", text)).strip() for text in (expected, printed))
    return re.fullmatch(re.escape(expected).replace(r"\.\.\.", ".*"), printed, re.DOTALL) is not None


def run_console(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command, expected in re.findall(r"^\$ gpubench (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
        assert main(shlex.split(command)) == 0, capsys.readouterr().err
        printed = capsys.readouterr().out
        assert agrees(printed, expected), f"{command} printed\n{printed}\nthe page says\n{expected}"


@pytest.fixture
def blood(servers: tuple[Any, s3.Proxy], cache: Path) -> None:
    """The demo's cells stand for tsv2_blood on the server."""
    bucket, _, key = datasets.info("tsv2_blood").path.removeprefix("s3://").partition("/")
    servers[0].create_bucket(Bucket=bucket)
    servers[0].put_object(Bucket=bucket, Key=key, Body=demo_path().read_bytes(), ACL="public-read")


@pytest.mark.slow
def test_the_page_runs(
    blood: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    printed = ""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert [language for language, _ in blocks].count("console") == 5
    for language, block in blocks:
        if language == "console":
            run_console(block, capsys)
        else:
            exec(compile(block, "first-session.md", "exec"), names)
            printed += capsys.readouterr().out
    report = Path("report.html").read_text()
    headings = set(re.findall(r"<h2[^>]*>\s*(.+?)\s*</h2>", report))
    assert set(re.findall(r'"([A-Z][a-z ]+)"', PAGE)) <= headings
    slowest, *_ = re.findall(r"^\d+\.\d{3} s  (.+)$", printed, re.MULTILINE)
    assert slowest == max(names["stages"], key=lambda stage: stage["seconds"])["path"]


def test_the_page_would_fail_if_it_were_wrong() -> None:
    assert agrees("silhouette  0.6409  0.02\n", "silhouette 0.6409 ...\n")
    assert not agrees("silhouette  0.6409  0.02\n", "silhouette 0.6410 ...\n")
    assert agrees("a [1, 2] *\nb", "a [1, 2] *\n...")
    assert not agrees("a 1", "a [1, 2]")
