"""Free memory as reported by Linux and its control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpubench.core import memory

V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


@pytest.fixture(autouse=True)
def _other_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")


def make_group(folder: Path, names: tuple[str, str, str], limit: str, used: int, file_bytes: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {file_bytes}\nfile 9\n")


def test_system_free_bytes_is_memavailable(tmp_path: Path) -> None:
    assert memory.system_free_bytes() > 0
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    7 kB\n")
    assert memory.system_free_bytes() == 7 * 1024


@pytest.mark.parametrize(("names", "line", "top"), [(V2, "0::{}", ""), (V1, "4:cpu,memory:{}", "memory")])
def test_group_free_bytes_is_the_least_of_all_groups(
    names: tuple[str, str, str], line: str, top: str, tmp_path: Path
) -> None:
    """That of a container, whose group looks like the root, or of a job, whose group is inside of others."""
    root = tmp_path / "groups" / top
    assert memory.group_free_bytes() is None, "no groups"
    (tmp_path / "own").write_text("1:cpuset:/other\n" + line.format("/") + "\n")
    assert memory.group_free_bytes() is None, "no limit"
    make_group(root, names, "5000", 1200)
    assert memory.group_free_bytes() == 3800
    make_group(root, names, "5000", 4000, file_bytes=1500)
    assert memory.group_free_bytes() == 2500, "pages of files are given back"
    (tmp_path / "own").write_text(line.format("/jobs/job_7/step_0") + "\n")
    assert memory.group_free_bytes() == 2500
    make_group(root / "jobs" / "job_7", names, "1000", 700)
    make_group(root / "jobs" / "job_7" / "step_0", names, str(1 << 63), 700)
    assert memory.group_free_bytes() == 300
    make_group(root / "jobs" / "job_7", names, "1000", 1100)
    assert memory.group_free_bytes() == 0


def test_group_free_bytes_without_a_limit_is_none(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/user\n")
    make_group(tmp_path / "groups" / "user", V2, "max", 700)
    assert memory.group_free_bytes() is None
