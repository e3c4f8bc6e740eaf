"""The folder through which arrays reach workers: what is removed from it, and when."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import pytest

pytest.importorskip("distributed", reason="Dask is not installed")

from pathlib import Path

from gpubench.core.errors import InputError
from gpubench.engines.dask import transfer
from gpubench.engines.dask.transfer import LOCK, YOUNG_S, ArrayTransfer


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer.tempfile, "tempdir", str(tmp_path))


def make_older(folder: Path) -> None:
    then = time.time() - YOUNG_S - 1
    os.utime(folder / LOCK, (then, then))


def test_folders_of_killed_processes_are_removed(tmp_path: Path) -> None:
    left, young = (tmp_path / f"{transfer.prefix()}{name}" for name in ("left", "young"))
    for folder in (left, young):
        folder.mkdir()
        (folder / LOCK).touch()
        (folder / "1.npy").touch()
    make_older(left)
    used = ArrayTransfer()
    assert used.folder is not None
    make_older(used.folder)
    own = ArrayTransfer()
    assert own.folder is not None
    assert sorted(tmp_path.iterdir()) == sorted([young, used.folder, own.folder])
    for one in (used, own):
        one.close()
    assert list(tmp_path.iterdir()) == [young]


def test_without_locks_no_folder_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> Any:
        raise OSError("no locks")

    monkeypatch.setattr(transfer, "lock_file", refuse)
    own = ArrayTransfer()
    assert own.folder is not None
    assert not list(own.folder.iterdir()), "no lock that others would take for one of a process that has ended"
    own.close()
    assert not list(tmp_path.iterdir())


def test_encode_without_disk_space_raises_and_removes_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy says so, and leaves what it has written until then."""

    def save(path: Path, _: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("250000 requested and 4 written")

    own = ArrayTransfer()
    assert own.folder is not None
    monkeypatch.setattr(np, "save", save)
    with pytest.raises(InputError, match=r"^1\.0 MB for the workers cannot be written to .*4 written\); free"):
        own.encode(np.zeros(250_000, np.float32))
    assert [file.name for file in own.folder.iterdir()] == [LOCK]
    own.close()
