"""Files that a report reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_cases import full_result, make_result

from gpubench.cli.main import main
from gpubench.core.errors import InputError
from gpubench.results.runs import read_results


def test_read_runs_of_a_file_or_a_folder(tmp_path: Path) -> None:
    make_result().to_json(tmp_path / "results.json")
    make_result().to_json(tmp_path / "b.json")
    assert list(read_results(tmp_path / "b.json")) == ["b"]
    assert list(read_results(tmp_path)) == ["b", "results"]


def test_read_runs_of_subfolders(tmp_path: Path) -> None:
    for name in ("x", "y/z"):
        (tmp_path / name).mkdir(parents=True)
        make_result().to_json(tmp_path / name / "results.json")
    assert list(read_results(tmp_path)) == ["x", "y/z"]


def test_read_runs_of_other_files_raises(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no result; give a results\.json"):
        read_results(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_results(tmp_path / "none.json")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(InputError, match="schema"):
        read_results(tmp_path)


@pytest.mark.slow
def test_report_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full_result().to_json(tmp_path / "results.json")
    out = tmp_path / "report.html"
    assert main(["report", str(tmp_path), "-o", str(out)]) == 0
    assert capsys.readouterr() == (f"Wrote {out}\n", "")
    assert main(["report", str(tmp_path / "results.json"), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"Overwrote {out}\n"
    for read in ("results.json", "copy.json"):
        if read == "copy.json":
            (tmp_path / read).hardlink_to(tmp_path / "results.json")
        before = (tmp_path / read).read_bytes()
        assert main(["report", str(tmp_path / "results.json"), "-o", str(tmp_path / read), "--force"]) == 2
        assert "is the input" in capsys.readouterr().err
        assert (tmp_path / read).read_bytes() == before
    (tmp_path / "copy.json").unlink()
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine")
    assert main(["report", str(tmp_path), "-o", str(mine)]) == 2
    assert "is not a report of gpubench; choose another name, or replace it with --force" in capsys.readouterr().err
    assert main(["report", str(tmp_path), "-o", str(mine), "--force"]) == 0
    capsys.readouterr()
    assert main(["report", str(tmp_path), "-o", str(tmp_path)]) == 2
    assert "is a folder; name a file" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "no"), "-o", str(out)]) == 2
    assert "cannot be read" in capsys.readouterr().err
