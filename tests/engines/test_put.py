"""`Engine.put`: what arrives on the device, what is counted, what is refused."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from gpubench.core.errors import InputError
from gpubench.core.memory import resident_bytes
from gpubench.engines.base import Engine
from gpubench.engines.cpu.engine import CpuEngine

VALUES = np.array([[1.5, -2, 3], [0, 5, 6]])


class Rows:
    """A source that is read in blocks and remembers which."""

    def __init__(self, x: NDArray) -> None:
        self.x = x
        self.blocks: list[tuple[int, int]] = []

    @property
    def shape(self) -> tuple[int, int]:
        return self.x.shape

    @property
    def dtype(self) -> np.dtype:
        return self.x.dtype

    def read(self, start: int, stop: int) -> NDArray:
        self.blocks.append((start, stop))
        return self.x[start:stop]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i1", "u1", "i8", "?", "g"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_real_dtype_and_order(engine: Engine, dtype: str, order: str) -> None:
    x = VALUES.astype(dtype, order=order)
    on_device = engine.put(x)
    assert on_device.dtype == np.float32
    on_host = engine.to_host(on_device)
    assert on_host.flags.c_contiguous
    assert_array_equal(on_host, x.astype(np.float32))


def test_an_array_on_the_device_is_returned_itself(engine: Engine) -> None:
    on_device = engine.put(VALUES)
    assert engine.put(on_device) is on_device


def test_values_are_rounded_to_float32_and_otherwise_unchanged(engine: Engine) -> None:
    x = np.array([[0.1, 1e6 + 0.03]])
    assert_array_equal(engine.to_host(engine.put(x)), x.astype(np.float32))


def test_the_users_array_is_not_modified(engine: Engine) -> None:
    x = VALUES.copy()
    engine.put(x)
    assert_array_equal(x, VALUES)


def test_unaligned_rows_are_copied() -> None:
    x = np.frombuffer(b"\0" + VALUES.astype(np.float32).tobytes(), np.uint8)[1:].view(np.float32).reshape(VALUES.shape)
    assert not x.flags.aligned
    on = CpuEngine().put(x)
    assert on.flags.aligned
    assert_array_equal(on, VALUES)


def test_a_torch_tensor_is_not_copied(engine: Engine) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = VALUES.astype(np.float32)
    on_device = engine.put(torch.from_dlpack(x))
    assert_array_equal(engine.to_host(on_device), x)
    assert engine.name != "cpu" or np.shares_memory(on_device, x)
    assert_array_equal(engine.to_host(engine.put(torch.from_dlpack(VALUES).requires_grad_())), x)


@pytest.mark.parametrize("x", [VALUES, VALUES.astype("f4", order="F"), Rows(VALUES)])
def test_bytes_put_are_counted(engine: Engine, x: object) -> None:
    with engine.timeline.stage("put") as stage:
        engine.put(x)
    assert stage.put_bytes == 2 * 3 * 4


def test_a_source_is_read_once_in_order(engine: Engine, rng: np.random.Generator) -> None:
    source = Rows(rng.normal(size=(100_000, 100)))  # 80 MB as it is stored
    assert_array_equal(engine.to_host(engine.put(source)), source.x.astype(np.float32))
    starts, stops = (list(edge) for edge in zip(*sorted(source.blocks), strict=True))
    assert [0, *stops] == [*starts, 100_000]
    assert len(source.blocks) > 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("wrap", [np.asarray, np.asfortranarray, Rows])
def test_nan_and_infinite_values_are_refused(engine: Engine, value: float, wrap: type) -> None:
    x = np.zeros((70_000, 130), np.float32)
    x[[17, 40_000, 69_999], [3, 0, 129]] = value
    with pytest.raises(InputError) as error:
        engine.put(wrap(x), "X_pca")
    message = str(error.value)
    assert message.startswith("X_pca")
    assert "\n" not in message
    for part in ("3", "70,000", "17", "40000"):
        assert part in message or f"{int(part.replace(',', '')):,}" in message


def test_values_beyond_float32_are_refused_not_made_infinite(engine: Engine) -> None:
    with pytest.raises(InputError, match=r"^emb.*float32"):
        engine.put(np.array([[1.0, 1e39], [2.0, 3.0]]), "emb")


@pytest.mark.parametrize(
    "x",
    [
        VALUES.astype(complex),
        VALUES.astype(object),
        VALUES.astype(str),
        VALUES[0],
        VALUES[None],
        np.float32(1),
        np.zeros((0, 3)),
        np.zeros((3, 0)),
        "X_pca",
        None,
    ],
    ids=["complex", "object", "text", "1-D", "3-D", "a number", "no rows", "no columns", "a name", "None"],
)
def test_input_that_is_not_a_matrix_of_real_numbers_is_refused(engine: Engine, x: object) -> None:
    with pytest.raises(InputError, match=r"^emb\b"):
        engine.put(x, "emb")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="pages are given back where the system has a way")
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_pages_of_a_memory_map_are_released_after_copying(tmp_path: Path, mode: Any) -> None:
    values = np.random.default_rng(0).random((1 << 20, 16), np.float32)
    np.save(tmp_path / "x.npy", values)
    mapped = np.load(tmp_path / "x.npy", mmap_mode=mode)
    if mode == "c":
        mapped[5] = values[5] = 7  # which is nowhere but in this process
    before = resident_bytes() or 0
    put = CpuEngine(threads=1).put(mapped)
    grown = (resident_bytes() or 0) - before
    assert_array_equal(put, values)
    assert_array_equal(mapped, values)
    if mode != "c":
        assert grown < 1.5 * values.nbytes
