"""The files of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpubench.cli.flags import parse_output
from gpubench.core.errors import InputError
from gpubench.results.result import Result
from gpubench.running.output import WRITERS, Output

RESULT = Result([], {}, [], [], [])


def test_every_format_gives_a_file_and_a_line(tmp_path: Path) -> None:
    output = Output(tmp_path / "new", tuple(WRITERS))
    output.check()
    assert not (tmp_path / "new").exists(), "a check leaves no trace"
    assert output.write(RESULT) == [f"Wrote {tmp_path / 'new' / f'results.{name}'}" for name in WRITERS]
    assert output.write(RESULT)[0] == f"Overwrote {tmp_path / 'new' / 'results.json'}"


def test_report_adds_one_file(tmp_path: Path) -> None:
    output = Output(tmp_path, ["csv"], report=True)
    assert [file.name for file in output.files()] == ["results.csv", "report.html"]
    assert output.write(RESULT)[1] == f"Wrote {tmp_path / 'report.html'}"
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.html").mkdir()
    with pytest.raises(InputError, match=r"has a folder called report\.html"):
        output.check()


def test_folder_replaced_by_a_file_is_named_in_the_error(tmp_path: Path) -> None:
    output = Output(tmp_path / "results", ["json"])
    output.check()
    (tmp_path / "results").touch()
    with pytest.raises(InputError, match="cannot be created: File exists; choose another folder"):
        output.write(RESULT)


def test_flags_choose_the_files(tmp_path: Path) -> None:
    assert parse_output(None, None) is None
    assert parse_output(tmp_path, None) == Output(tmp_path, ["json"])
    assert parse_output(tmp_path, ["csv,json", "csv"], quiet=True) == Output(tmp_path, ["csv", "json"])
    with pytest.raises(InputError, match="--quiet without --out or --trace would save nothing"):
        parse_output(None, None, quiet=True)
