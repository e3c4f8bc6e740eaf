"""Checkpoints: entries are atomic, valid for the same inputs only, and written by one run at a time."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpubench.core import checkpoint, files
from gpubench.core.checkpoint import (
    ARRAY,
    LABELS,
    RESUMED,
    Checkpoint,
    CheckpointEntry,
    CheckpointScope,
    Codec,
    digest_of,
    digest_of_code,
)
from gpubench.core.errors import InputError
from gpubench.core.scores import Score, score_from_dict, score_to_dict
from gpubench.core.timeline import Timeline
from gpubench.core.types import Labels

PLAIN: Codec[Any] = Codec(CheckpointEntry, lambda entry: entry.value)


class Computed:
    """Something to keep, which counts how often it is computed."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.times = 0

    def __call__(self) -> Any:
        self.times += 1
        return self.value


@pytest.fixture
def timeline() -> Timeline:
    return Timeline()


def scope_in(checkpoint: Checkpoint, timeline: Timeline) -> CheckpointScope:
    return CheckpointScope(timeline, checkpoint, "these cells")


def compute(out: Path, timeline: Timeline, value: Any, codec: Codec[Any], *facts: Any) -> tuple[Any, int, Checkpoint]:
    """One run that asks for one part: what it got, how often that was computed, and its closed checkpoint."""
    computed = Computed(value)
    with Checkpoint(out) as checkpoint:
        got = scope_in(checkpoint, timeline).cached("part", computed, codec, *facts)
        np.asarray(got)  # a mapped array is looked at while its file is there
    return got, computed.times, checkpoint


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        (PLAIN, {"a": [0.1 + 0.2, -0.0, 1e-320, "é\ud800"], "b": None, "c": True}),
        (ARRAY, np.array([0.1, np.nan, -np.inf])),
        (ARRAY, np.empty((0, 3), np.int32)),
    ],
    ids=["JSON", "array", "empty array"],
)
def test_cached_second_run_reads_the_same_bits(
    codec: Codec[Any], value: Any, tmp_path: Path, timeline: Timeline
) -> None:
    first, times, _ = compute(tmp_path, timeline, value, codec)
    again, times_again, checkpoint = compute(tmp_path, timeline, "something else", codec)
    assert (times, times_again) == (1, 0)
    if codec is ARRAY:
        assert (again.dtype, again.tobytes()) == (value.dtype, value.tobytes())
    else:
        assert repr(again) == repr(first) == repr(value)
    assert checkpoint.resumed == {"part": 1}
    assert [span.path for span in timeline.spans()] == ["part", f"part{RESUMED}"]


def test_cached_large_array_is_memory_mapped(
    tmp_path: Path, timeline: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute(tmp_path, timeline, np.arange(6), ARRAY)
    for limit, writeable in ((1 << 20, True), (1, False)):
        monkeypatch.setattr("gpubench.core.checkpoint.MAPPED_FROM_BYTES", limit)
        array, times, _ = compute(tmp_path, timeline, None, ARRAY)
        assert (times, array.flags.writeable, array.tolist()) == (0, writeable, list(range(6)))


def test_codecs_of_labels_and_scores_are_lossless(tmp_path: Path, timeline: Timeline) -> None:
    labels = Labels(np.array([0, 1, 0], np.int32), ("a", "ü"), "cell_type")
    compute(tmp_path, timeline, labels, LABELS)
    back, _, _ = compute(tmp_path, timeline, None, LABELS)
    assert (back.names, back.key, back.codes.tolist()) == (labels.names, labels.key, [0, 1, 0])
    score = Score(1 / 3, n=7, stderr=0.1, stderr_df=4, note="n", params={"k": np.int64(3)}, approximate=True)
    for this in (score, Score(float("nan"), note="undefined")):
        back = score_from_dict(json.loads(json.dumps(score_to_dict(this))))
        assert repr(back) == repr(this)
        assert back.__dict__ == this.__dict__


@pytest.mark.parametrize(("facts", "others"), [(("k", 15), ("k", 16)), ((0.1,), (0.2,)), (("a", "b"), ("ab",))])
def test_cached_other_facts_are_computed(
    facts: tuple[Any, ...], others: tuple[Any, ...], tmp_path: Path, timeline: Timeline
) -> None:
    compute(tmp_path, timeline, 1, PLAIN, *facts)
    assert compute(tmp_path, timeline, 2, PLAIN, *others)[:2] == (2, 1)
    assert compute(tmp_path, timeline, 3, PLAIN, *facts)[:2] == (1, 0)


@pytest.mark.parametrize("complete", [True, False])
def test_checkpoint_folder_removed_during_the_run_continues(complete: bool, tmp_path: Path, timeline: Timeline) -> None:
    with Checkpoint(tmp_path / "out") as checkpoint:
        scope_in(checkpoint, timeline).cached("part", Computed(1), PLAIN)
        shutil.rmtree(tmp_path / "out")
        assert scope_in(checkpoint, timeline).cached("other", Computed(2), PLAIN) == 2
        (line,) = checkpoint.end(complete=complete)
    assert "checkpointing has stopped" in line.lower()


@pytest.mark.skipif(os.name == "nt", reason="open files cannot be removed there")
def test_checkpoint_folder_of_a_later_run_is_left_alone(tmp_path: Path, timeline: Timeline) -> None:
    with Checkpoint(tmp_path) as first:
        shutil.rmtree(first.folder)
        with Checkpoint(tmp_path) as second:
            scope_in(second, timeline).cached("part", Computed(1), PLAIN)
            first.end(complete=True)
            first.__exit__()
            assert [file.suffix for file in second.folder.glob("*.part.*")] == [".json"]


def test_keyed_scopes_are_separate(tmp_path: Path, timeline: Timeline) -> None:
    for i, cells in enumerate(("these", "those")):
        with Checkpoint(tmp_path) as checkpoint:
            assert scope_in(checkpoint, timeline).keyed(cells).cached("part", Computed(i), PLAIN) == i


def damage_half_of(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def damage_a_digit_of(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"0.25", b"0.26"))


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_half_of, damage_a_digit_of, empty, Path.unlink])
@pytest.mark.parametrize("suffix", ["json", "npy"])
def test_cached_damaged_entry_is_recomputed_with_a_note(
    damage: Any, suffix: str, tmp_path: Path, timeline: Timeline
) -> None:
    codec: Codec[Any] = Codec(
        lambda value: CheckpointEntry(value, {"a": np.full(9, value)}),
        lambda entry: (entry.value, entry.arrays["a"].tolist()),
    )
    if (damage, suffix) == (damage_a_digit_of, "npy"):
        pytest.skip("arrays are forced to the disk before the file that names them")
    compute(tmp_path, timeline, 0.25, codec)
    (file,) = (tmp_path / ".checkpoint").glob(f"*.{suffix}")
    damage(file)
    _, times, checkpoint = compute(tmp_path, timeline, 0.25, codec)
    assert times == 1
    assert not checkpoint.resumed
    assert (damage, suffix) == (Path.unlink, "json") or "is damaged" in checkpoint.notes[0]


def test_checkpoint_of_a_complete_run_is_removed(tmp_path: Path, timeline: Timeline) -> None:
    (tmp_path / "results.json").write_text("{}")
    with Checkpoint(tmp_path) as checkpoint:
        scope_in(checkpoint, timeline).cached("part", Computed(np.ones(3)), ARRAY)
        assert checkpoint.end(complete=True) == []
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_checkpoint_without_entries_leaves_no_folder(tmp_path: Path) -> None:
    with Checkpoint(tmp_path / "new" / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_keeps_foreign_files(tmp_path: Path, timeline: Timeline) -> None:
    stranger = tmp_path / ".checkpoint" / "notes.txt"
    stranger.parent.mkdir()
    stranger.write_text("mine")
    with Checkpoint(tmp_path) as checkpoint:
        scope_in(checkpoint, timeline).cached("part", Computed(1), PLAIN)
        checkpoint.end(complete=True)
    assert [path.name for path in stranger.parent.iterdir()] == ["notes.txt"]


def test_checkpoint_removes_half_written_files_of_a_killed_run(tmp_path: Path) -> None:
    leftover = tmp_path / ".checkpoint" / ".x.part.values.npy.0123.tmp"
    leftover.parent.mkdir()
    leftover.write_bytes(b"half")
    with Checkpoint(tmp_path):
        assert not leftover.exists()


def test_checkpoint_in_use_is_refused(tmp_path: Path) -> None:
    with Checkpoint(tmp_path), pytest.raises(InputError, match="in use by another run; wait until it ends"):
        Checkpoint(tmp_path).__enter__()
    with Checkpoint(tmp_path):  # the first has ended
        pass


def test_checkpoint_folder_that_cannot_be_created_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_folder(path: Path) -> Iterator[None]:  # what /proc says, and a working directory that was removed
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    monkeypatch.setattr("gpubench.core.checkpoint.lock_file", no_such_folder)
    with pytest.raises(InputError, match="cannot be created: No such file or directory; choose another folder"):
        Checkpoint(tmp_path).__enter__()


def test_checkpoint_without_locks_works_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(path: Path) -> Iterator[None]:
        raise OSError(errno.ENOSYS, "Function not implemented", str(path))

    monkeypatch.setattr("gpubench.core.checkpoint.lock_file", no_locks)
    with Checkpoint(tmp_path) as checkpoint:
        assert "without locks; start one run at a time" in checkpoint.notes[0]


def test_lock_file_removed_by_its_holder_can_be_locked_again(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with files.lock_file(path), pytest.raises(BlockingIOError):
        files.lock_file(path)
    path.unlink()
    with files.lock_file(path):
        assert path.exists()


def test_checkpoint_full_disk_stops_checkpointing_only(
    tmp_path: Path, timeline: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with Checkpoint(tmp_path) as checkpoint:
        scope = scope_in(checkpoint, timeline)
        assert scope.cached("graph", Computed(np.ones(3)), ARRAY).tolist() == [1, 1, 1]
        assert scope.cached("row", Computed(2), PLAIN) == 2
        assert checkpoint.end(complete=False)[0].startswith("Checkpointing has stopped: ")
    assert list(tmp_path.iterdir()) == []


def test_a_disabled_scope_writes_nothing(tmp_path: Path, timeline: Timeline) -> None:
    with Checkpoint(tmp_path) as checkpoint:
        assert scope_in(checkpoint, timeline).disabled().cached("part", Computed(1), PLAIN) == 1
        assert not list(checkpoint.folder.glob("*.json"))
    assert CheckpointScope(timeline).cached("part", Computed(1), PLAIN) == 1


def test_end_names_what_was_resumed_and_what_is_left(tmp_path: Path, timeline: Timeline) -> None:
    for _ in range(2):
        with Checkpoint(tmp_path) as checkpoint:
            for fold in (1, 2):
                scope_in(checkpoint, timeline).cached(f"fold {fold}", Computed(fold), PLAIN)
            lines = checkpoint.end(complete=False)
    assert lines == [
        f"Resumed from checkpoint: fold x2 ({checkpoint.saved_s:.1f} s saved).",
        f"Finished parts are in {tmp_path / '.checkpoint'}: run the same command again to resume.",
    ]


def test_digest_of_different_facts_differs() -> None:
    facts: list[Any] = [[], [1], ["1"], [1.0], [1, 2], [[1], 2], {"a": 1}, {"b": 1}, None, float("inf")]
    assert len({digest_of(fact) for fact in facts}) == len(facts)
    assert len(digest_of_code()) == 32


def test_digest_of_code_is_equal_for_wheel_and_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for kernels, text in (("wheel/gpubench/kernels", "one"), ("checkout/kernels", "one"), ("changed/kernels", "two")):
        package = tmp_path / kernels.split("/")[0] / "gpubench"
        (package / "core").mkdir(parents=True)
        (package / "core" / "checkpoint.py").write_text("code")
        (tmp_path / kernels).mkdir()
        (tmp_path / kernels / "rank.cu").write_text(text)
        monkeypatch.setattr(checkpoint, "__file__", str(package / "core" / "checkpoint.py"))
        digests.append(digest_of_code())
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]
