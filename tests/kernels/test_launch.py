"""Arguments of a launch are checked before the kernel runs. NumPy stands in for CuPy."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from gpubench.engines.cuda import kernels
from gpubench.engines.cuda.signatures import KERNEL_DIR, KERNELS

N, K = 6, 4


def good() -> dict[str, object]:
    """Return valid arguments of neighbor_entropy."""
    return {
        "indices": np.zeros((N, K), np.int32),
        "indices_stride": K,
        "own": np.zeros(N, np.int32),
        "codes": np.zeros(2 * N, np.int32),
        "m": N,
        "k": K,
        "n_codes": 3,
        "bins": 32,
        "count_log_count": np.zeros(K + 2),
        "entropy": np.zeros(N),
    }


def check(arguments=None, *, name="neighbor_entropy", grid=(1,), block=(64,), **more):
    arguments = good() if arguments is None else arguments
    return kernels.check(KERNELS[name], grid, block, tuple(arguments.values()), array_type=np.ndarray, **more)


def test_numbers_are_converted_to_the_declared_type() -> None:
    dtypes = [value.dtype.name for value in check()[0] if isinstance(value, np.generic)]
    assert dtypes == ["int64", "int64", "int32", "int32", "int32"]


def test_arrays_are_not_copied() -> None:
    arguments = good()
    assert check(arguments)[0][0] is arguments["indices"]


def test_rows_with_gaps_are_accepted_with_a_stride() -> None:
    check(good() | {"indices": np.zeros((N, 9), np.int32)[:, :K], "indices_stride": 9})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"codes": np.zeros(N)}, TypeError, "codes is float64, needs int32"),
        ({"codes": [0] * N}, TypeError, r"codes is a list, needs a numpy\.ndarray"),
        ({"own": np.zeros(N + 1, np.int32)}, ValueError, r"own has shape \(7,\), needs \(m\) with m = 6"),
        ({"codes": np.zeros((N, 1), np.int32)}, ValueError, r"codes has shape \(6, 1\), needs \(n\)"),
        ({"codes": np.zeros(2 * N, np.int32)[::2]}, ValueError, "codes has strides .* needs C-contiguous"),
        ({"count_log_count": np.zeros(K + 1)}, ValueError, r"count_log_count has shape \(5,\), .* with k\+2 = 6"),
        (
            {"indices": np.zeros((N, 9), np.int32)[:, :K]},
            ValueError,
            "rows 9 elements apart .* indices_stride = 4",
        ),
        ({"indices": np.zeros((K, N), np.int32).T}, ValueError, "rows 1 elements apart and columns 6"),
        ({"m": np.int32(N)}, TypeError, "m is int32, needs int64"),
        ({"m": float(N)}, TypeError, r"m is 6\.0, needs a number that fits int64"),
        ({"m": "6"}, TypeError, "m is '6', needs a number"),
        ({"k": 0}, ValueError, "k is 0, needs 1 to"),
        ({"n_codes": 2**31}, ValueError, r"n_codes is 2147483648, needs 1 to 2\.14748e\+09"),
        ({"bins": 33}, ValueError, "bins is 33, needs 32 to .*, a multiple of 32"),
    ],
)
def test_wrong_argument_is_refused(change, error, message) -> None:
    with pytest.raises(error, match=f"neighbor_entropy: .*{message}"):
        check(good() | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": (0,)}, r"grid \(0,\), needs 1 numbers from 1"),
        ({"grid": (1, 2)}, r"grid \(1, 2\), needs 1 numbers"),
        ({"grid": (2**31,)}, "grid"),
        ({"block": (48,)}, r"block \(48,\), needs whole warps of 32 threads, at most 256"),
        ({"block": (512,)}, r"block \(512,\)"),
        ({"block": (32, 2)}, r"block \(32, 2\)"),
    ],
)
def test_wrong_geometry_is_refused(change, message) -> None:
    with pytest.raises(ValueError, match=f"neighbor_entropy: .*{message}"):
        check(**change)


def test_too_much_shared_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="neighbor_entropy: needs 65536 bytes of shared memory of at most 49152"):
        check(good() | {"bins": 8192})


def test_wrong_number_of_arguments_is_refused() -> None:
    with pytest.raises(TypeError, match="9 arguments, needs 10: indices, indices_stride, own"):
        check({name: value for name, value in good().items() if name != "m"})


def test_sizes_that_break_a_rule_are_refused() -> None:
    tile = np.zeros((2, 8), np.float32)
    state = np.zeros((2, 40), np.uint64), np.zeros(2, np.int32), np.zeros(2, np.uint64)
    arguments = [tile, 8, np.zeros(7, np.float32), 2, 7, -1, 0, 9, 40, 1, *state]
    with pytest.raises(ValueError, match=r"topk_update: requires capacity >= keep \+ 32; .*capacity = 40"):
        check(dict(enumerate(arguments)), name="topk_update")


def test_unaligned_array_for_vector_loads_is_refused() -> None:
    memory = np.zeros(64, np.float32)
    first = (-memory.ctypes.data // 4) % 4 + 1  # four bytes behind a multiple of 16
    state = np.zeros((2, 40), np.uint64), np.zeros(2, np.int32), np.zeros(2, np.uint64)
    tile = memory[first : first + 16].reshape(2, 8)
    arguments = [tile, 8, np.zeros(7, np.float32), 2, 7, -1, 0, 8, 40, 1, *state]
    with pytest.raises(ValueError, match="products is not aligned to 16 bytes"):
        check(dict(enumerate(arguments)), name="topk_update")


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_number_out_of_range_is_refused(value) -> None:
    arguments = [np.zeros((2, 3), np.float32), 3, 2, 3, value, np.zeros((2, 3))]
    with pytest.raises(ValueError, match="mean_distance is"):
        check(dict(enumerate(arguments)), name="fuzzy_memberships")


def test_block_of_another_size_is_refused_if_only_one_is_valid() -> None:
    arguments = [np.zeros((2, 3), np.float32), np.zeros(2, np.int32), np.zeros(2, np.int64), 1, 3, np.zeros((1, 3))]
    with pytest.raises(ValueError, match=r"block \(64,\), needs 256 threads"):
        check(dict(enumerate(arguments)), name="group_means")


class OnDevice(np.ndarray):
    """A NumPy array that says on which device it is."""

    device = SimpleNamespace(id=1)


def test_array_on_another_device_is_refused() -> None:
    on_device = {k: v.view(OnDevice) if isinstance(v, np.ndarray) else v for k, v in good().items()}
    check(on_device, device=1)
    with pytest.raises(ValueError, match="indices is on device 1, the current device is 0"):
        check(on_device, device=0)


def test_launch_compiles_once_and_passes_typed_arguments(monkeypatch) -> None:
    compiled, launches = [], []

    class RawModule:
        def __init__(self, *, code, options):
            compiled.append((code, options))

        def get_function(self, name):
            return lambda grid, block, args, *, shared_mem: launches.append((name, grid, block, args, shared_mem))

    runtime = SimpleNamespace(getDevice=lambda: 1)
    stand_in = SimpleNamespace(ndarray=OnDevice, RawModule=RawModule, cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", stand_in)
    kernels._function.cache_clear()
    arguments = [v.view(OnDevice) if isinstance(v, np.ndarray) else v for v in good().values()]
    kernels.launch("neighbor_entropy", [2], [64], *arguments)
    kernels.launch("neighbor_entropy", [3], [32], *arguments)
    kernels._function.cache_clear()
    assert compiled == [(kernels.source("neighbor_entropy"), kernels.OPTIONS)]
    assert [launch[:3] + launch[4:] for launch in launches] == [
        ("neighbor_entropy", (2,), (64,), 256),
        ("neighbor_entropy", (3,), (32,), 128),
    ]
    assert all(isinstance(value, np.ndarray | np.generic) for value in launches[0][3])


def test_source_has_the_common_code_before_the_kernel() -> None:
    text = kernels.source("rank")
    assert text.startswith((KERNEL_DIR / "common.cuh").read_text())
    assert text.endswith((KERNEL_DIR / "rank.cu").read_text())
