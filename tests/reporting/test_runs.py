"""Files that a report reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_cases import full_result, make_result

from gpubench.cli.main import main
from gpubench.core.errors import InputError
from gpubench.reporting.page import read_runs


def test_read_runs_of_a_file_or_a_folder(tmp_path: Path) -> None:
    make_result().to_json(tmp_path / "results.json")
    make_result().to_json(tmp_path / "b.json")
    assert list(read_runs(tmp_path / "b.json")) == ["b"]
    assert list(read_runs(tmp_path)) == ["b", "results"]


def test_read_runs_of_subfolders(tmp_path: Path) -> None:
    for name in ("x", "y/z"):
        (tmp_path / name).mkdir(parents=True)
        make_result().to_json(tmp_path / name / "results.json")
    assert list(read_runs(tmp_path)) == ["x", "y/z"]


def test_read_runs_of_other_files_raises(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no result; give a results\.json"):
        read_runs(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_runs(tmp_path / "none.json")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(InputError, match="schema"):
        read_runs(tmp_path)


@pytest.mark.slow
def test_report_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full_result().to_json(tmp_path / "results.json")
    out = tmp_path / "report.html"
    assert main(["report", str(tmp_path), "-o", str(out)]) == 0
    assert capsys.readouterr() == (f"Wrote {out}\n", "")
    assert main(["report", str(tmp_path / "results.json"), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"Wrote {out} (replaced)\n"
    assert main(["report", str(tmp_path), "-o", str(tmp_path)]) == 2
    assert "is a folder; name a file" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "no"), "-o", str(out)]) == 2
    assert "cannot be read" in capsys.readouterr().err
