"""A file is written whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from gpubench.core import files
from gpubench.core.errors import InputError
from gpubench.core.files import check_writable_folder, write_atomically

not_as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(file.name for file in folder.iterdir())


def test_write_atomically_uses_the_default_permissions(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", lambda file: file.write(b"new"))
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_write_atomically_follows_links(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_atomically(tmp_path / "link", lambda file: file.write(b"new"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError("x")]
)
def test_write_atomically_failure_leaves_only_the_old_file(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise error

    with pytest.raises(InputError if isinstance(error, OSError) else type(error)):
        write_atomically(tmp_path / "a", fail)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_write_atomically_full_disk_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(
        InputError, match=r"No space left on device.*free some space there or choose another folder"
    ) as e:
        write_atomically(tmp_path / "a", lambda file: file.write(b"x"))
    assert str(tmp_path) in str(e.value)
    assert names(tmp_path) == []


def test_write_atomically_array_on_a_full_disk_asks_for_space(tmp_path: Path) -> None:
    """NumPy's error has no number."""

    def write(_: IO[bytes]) -> None:
        raise OSError("250000 requested and 4 written")

    with pytest.raises(InputError, match=r"4 written \(.*\); free some space there or choose another folder$"):
        write_atomically(tmp_path / "array.npy", write)


def test_write_atomically_above_the_size_limit_leaves_the_old_file(tmp_path: Path) -> None:
    """A real failure of the system, in a process of its own."""
    (tmp_path / "a").write_bytes(b"old")
    code = (
        "import resource, sys\n"
        "from gpubench.core.files import write_atomically\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_atomically(sys.argv[1], lambda file: file.write(bytes(5000)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, check=False
    )
    assert "InputError" in done.stderr
    assert "File too large" in done.stderr
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_write_atomically_bad_folder_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="create the folder first"):
        write_atomically(tmp_path / "none" / "a", lambda file: file.write(b"x"))
    with pytest.raises(InputError, match="part of that path is a file"):
        write_atomically(tmp_path / "file" / "a", lambda file: file.write(b"x"))


def test_check_writable_folder_leaves_no_trace(tmp_path: Path) -> None:
    check_writable_folder(tmp_path / "new" / "newer")
    check_writable_folder(tmp_path)
    assert names(tmp_path) == []


def test_check_writable_folder_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=r"out='.*file' cannot be written.*is a file; choose another folder"):
        check_writable_folder(tmp_path / "file", "out")
    with pytest.raises(InputError, match="part of that path is a file"):
        check_writable_folder(tmp_path / "file" / "below")
    with pytest.raises(InputError, match="cannot be written"):
        check_writable_folder(tmp_path / "dangling" / "below")


@not_as_root
def test_check_writable_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="choose a folder with write permission"):
        check_writable_folder(tmp_path)
    tmp_path.chmod(0o700)
