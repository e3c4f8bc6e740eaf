"""Results that are kept between runs: read only if nothing has changed, and computed again if a file is damaged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpubench.core import kept_results
from gpubench.core.kept_results import KeptResults


class Computing:
    """A function that counts its calls."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self) -> dict[str, Any]:
        self.n += 1
        return {"values": np.array([1.5, np.nan]), "names": np.array(["a", "é"])}


@pytest.fixture(autouse=True)
def keep_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_results, "MIN_SECONDS", 0.0)


def test_a_result_is_computed_once_for_the_same_facts(tmp_path: Path) -> None:
    make = Computing()
    for facts in (("a", 1), ("a", 1), ("a", 2), ("b", 1)):
        found = KeptResults(tmp_path, facts[0]).keyed("data").result("means", make, facts[1])
        np.testing.assert_array_equal(found["values"], [1.5, np.nan])
        assert found["names"].tolist() == ["a", "é"]
        assert set(found) == {"values", "names"}
    assert make.n == 3
    assert not list(tmp_path.glob(".*"))


def test_what_was_read_is_reported(tmp_path: Path) -> None:
    for _ in range(2):
        kept = KeptResults(tmp_path, "a")
        kept.keyed(1).result("means", Computing())
    assert kept.log.lines()[0].startswith("from an earlier run on the same real data: means (")
    assert KeptResults(tmp_path, "a").log.lines() == []


@pytest.mark.parametrize("damage", ["cut", "changed", "emptied", "no seconds"])
def test_a_damaged_file_is_computed_again_with_a_note(tmp_path: Path, damage: str) -> None:
    make = Computing()
    KeptResults(tmp_path, "a").result("means", make)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    if damage == "no seconds":
        np.savez(file, values=np.ones(2))
    else:
        content[content.index(np.float64(1.5).tobytes())] ^= 1
        file.write_bytes({"cut": content[:200], "changed": content, "emptied": b""}[damage])
    kept = KeptResults(tmp_path, "a")
    np.testing.assert_array_equal(kept.result("means", make)["values"], [1.5, np.nan])
    (line,) = kept.log.lines()
    assert "is damaged" in line
    assert "computed again" in line
    assert make.n == 2
    KeptResults(tmp_path, "a").result("means", make)
    assert make.n == 2


def test_quick_results_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_results, "MIN_SECONDS", 60.0)
    KeptResults(tmp_path / "new", "a").result("means", Computing())
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    kept = KeptResults(tmp_path / "file", "a")
    np.testing.assert_array_equal(kept.result("means", Computing())["values"], [1.5, np.nan])
    assert "cannot be kept in" in kept.log.lines()[0]


def test_the_results_that_were_not_used_for_longest_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KeptResults(tmp_path, "a")
    for fact in range(3):
        kept.result("means", Computing(), fact)
    files = sorted(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime)
    for age, file in enumerate(files):
        os.utime(file, (age, age))
    kept.result("means", Computing(), 0)  # the oldest is used
    monkeypatch.setattr(kept_results, "MAX_BYTES", 3 * files[0].stat().st_size)
    kept.result("means", Computing(), 3)
    make = Computing()
    for fact in (0, 2, 3, 1):
        kept.result("means", make, fact)
    assert make.n == 1
