"""Matrices of every library are read with their values; anything else is refused by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import zarr

from gpubench.core.errors import InputError
from gpubench.core.types import RowSource
from gpubench.data import StackedRows, as_rows, read_rows
from gpubench.data.matrices import SlicedRows, is_on_device, to_host

VALUES = np.arange(12).reshape(4, 3)


def all_rows(x: Any) -> np.ndarray:
    return read_rows(x, 0, x.shape[0])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "g", "i1", "u2", "i8", "u8", "?"])
def test_real_dtypes_are_not_copied(dtype):
    x = VALUES.astype(dtype)
    assert as_rows(x, "X") is x


@pytest.mark.parametrize("order", ["C", "F"])
def test_any_memory_order_is_accepted(order):
    x = np.asarray(VALUES, order=order)
    rows = as_rows(x, "X")
    assert np.shares_memory(rows, x)
    np.testing.assert_array_equal(all_rows(rows)[1:3], VALUES[1:3])


def test_strided_views_and_lists_are_read():
    np.testing.assert_array_equal(as_rows(VALUES[::-2, ::2], "X"), VALUES[::-2, ::2])
    np.testing.assert_array_equal(as_rows(VALUES.tolist(), "X"), VALUES)
    np.testing.assert_array_equal(as_rows(list(VALUES), "X"), VALUES)


def test_memmap_stays_a_memmap(tmp_path: Path):
    np.save(tmp_path / "x.npy", VALUES.astype("f4"))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert as_rows(x, "X") is x


@pytest.mark.parametrize("make", [scipy.sparse.csr_matrix, scipy.sparse.csr_array, scipy.sparse.csc_array])
@pytest.mark.parametrize("convert", ["tocoo", "tolil", "todok", "tobsr", "todia", "copy"])
def test_sparse_rows_are_densified_block_by_block(make, convert):
    rows = as_rows(getattr(make(VALUES), convert)(), "X")
    assert isinstance(rows, RowSource)
    assert rows.shape == (4, 3)
    np.testing.assert_array_equal(rows.read(1, 3), VALUES[1:3])
    assert isinstance(rows.read(1, 3), np.ndarray)


def test_data_frames_are_read():
    frame = pd.DataFrame(VALUES, columns=["a", "b", "c"])
    np.testing.assert_array_equal(as_rows(frame, "X"), VALUES)
    np.testing.assert_array_equal(as_rows(frame.assign(b=frame["b"].astype("f4")), "X"), VALUES)
    nullable = as_rows(frame.astype("Int64").replace({0: pd.NA}), "X")
    assert np.isnan(nullable[0, 0])
    np.testing.assert_array_equal(nullable[1:], VALUES[1:])


def test_data_frame_with_text_is_refused_with_its_columns():
    frame = pd.DataFrame({"pc1": [1.0, 2.0], "donor": ["a", "b"], "when": pd.to_datetime(["2020", "2021"])})
    with pytest.raises(InputError, match=r"^X has columns that are not numbers: 'donor', 'when'; leave them out"):
        as_rows(frame, "X")


def test_h5py_and_zarr_arrays_are_read_in_blocks(tmp_path: Path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        np.testing.assert_array_equal(as_rows(file.create_dataset("x", data=VALUES), "X").read(1, 4), VALUES[1:4])
    array = zarr.create_array(tmp_path / "x.zarr", data=VALUES, chunks=(2, 2))
    np.testing.assert_array_equal(as_rows(array, "X").read(1, 4), VALUES[1:4])


def test_torch_tensors_are_read():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    values = VALUES.astype("f4")
    np.testing.assert_array_equal(as_rows(torch.from_numpy(values), "X"), values)
    assert np.shares_memory(as_rows(torch.from_numpy(values), "X"), values)
    np.testing.assert_array_equal(as_rows(torch.from_numpy(values).requires_grad_(), "X"), values)
    np.testing.assert_array_equal(as_rows(torch.nn.Parameter(torch.from_numpy(values)), "X"), values)
    np.testing.assert_array_equal(as_rows(torch.from_numpy(values).to(torch.bfloat16), "X"), values)
    np.testing.assert_array_equal(as_rows(torch.from_numpy(values).T, "X"), values.T)
    with pytest.raises(InputError, match=r"^X is a sparse torch tensor; give X.to_dense\(\)"):
        as_rows(torch.from_numpy(values).to_sparse(), "X")


class StrictTensor:
    """Refuses `numpy()` as torch does: on a device, requiring grad, sparse, in bfloat16, with lazy signs."""

    __module__ = "torch"

    def __init__(self, x: np.ndarray, kind: str = "torch.float32", device: str = "cpu", **is_: bool) -> None:
        self._x, self.dtype, self._is = x, kind, is_
        self.device = SimpleNamespace(type=device)
        self.layout = "torch.sparse_coo" if is_.get("sparse") else "torch.strided"
        self.shape = x.shape

    def _changed(self, kind: str | None = None, device: str | None = None, **is_: bool) -> StrictTensor:
        return StrictTensor(self._x, kind or self.dtype, device or self.device.type, **(self._is | is_))

    def detach(self) -> StrictTensor:
        return self._changed(grad=False)

    def cpu(self) -> StrictTensor:
        return self._changed(device="cpu")

    def float(self) -> StrictTensor:
        return self._changed("torch.float32")

    def resolve_conj(self) -> StrictTensor:
        return self._changed(conj=False)

    def resolve_neg(self) -> StrictTensor:
        return self._changed(neg=False)

    def numpy(self) -> np.ndarray:
        if self.dtype == "torch.bfloat16" or self.device.type != "cpu" or any(self._is.values()):
            raise TypeError("torch would refuse")
        return self._x


@pytest.mark.parametrize(
    "how", [{}, {"kind": "torch.bfloat16"}, {"device": "cuda"}, {"grad": True}, {"conj": True, "neg": True}], ids=str
)
def test_torch_tensors_are_converted_before_numpy_reads_them(how: dict[str, Any]) -> None:
    x = VALUES.astype("f4")
    host = to_host(StrictTensor(x, **how), "X")
    assert host is x
    assert is_on_device(StrictTensor(x, **how)) == ("device" in how)


def test_sparse_tensors_are_refused() -> None:
    with pytest.raises(InputError, match=r"^X is a sparse torch tensor; give X.to_dense\(\)"):
        to_host(StrictTensor(VALUES, sparse=True), "X")


class Exporter:
    """Shares memory through DLPack only, as tensors of JAX, TensorFlow or Paddle can."""

    def __init__(self, x: np.ndarray, device: tuple[int, int] = (1, 0)) -> None:
        self._x = x
        self._device = device

    def __dlpack__(self, **kwargs: Any) -> Any:
        if self._device[0] != 1:
            raise BufferError("no way off this device")
        return self._x.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device


def test_dlpack_exporters_are_read():
    x = VALUES.astype("f4")
    rows = as_rows(Exporter(x), "X")
    np.testing.assert_array_equal(rows, x)
    assert np.shares_memory(rows, x)
    with pytest.raises(InputError, match=r"^X cannot be copied to the host \(no way off this device\); give a NumPy"):
        as_rows(Exporter(x, device=(2, 0)), "X")


def on_device(module: str, host: Any) -> Any:
    """Return an object with the module and the `get` of CuPy's arrays, which refuses conversion as they do."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise TypeError("implicit conversion")

    members = {"get": lambda _: host, "__array__": refuse, "shape": host.shape, "dtype": host.dtype}
    members |= {"__getitem__": lambda _, rows: on_device(module, host[rows]), "tocsr": lambda own: own}
    return type("array", (), {**members, "__module__": module})()


def test_device_arrays_stay_there_and_are_read_in_blocks():
    array = on_device("cupy", VALUES)
    rows = as_rows(array, "X")
    assert rows.array is array
    assert (rows.shape, rows.dtype) == (VALUES.shape, VALUES.dtype)
    np.testing.assert_array_equal(rows.read(1, 3), VALUES[1:3])


def test_sparse_device_matrices_stay_there_and_are_read_in_blocks():
    sparse = on_device("cupyx.scipy.sparse", scipy.sparse.csr_matrix(VALUES))
    rows = as_rows(sparse, "X")
    assert rows.node is sparse
    np.testing.assert_array_equal(rows.read(1, 3), VALUES[1:3])
    np.testing.assert_array_equal(rows.read_csr(1, 3).toarray(), VALUES[1:3])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (VALUES.astype(complex), r"^X has dtype complex128; give real numbers, such as X\.astype\('float32'\)$"),
        (VALUES.astype(object), r"^X has dtype object"),
        (VALUES.astype(str), r"^X has dtype <U"),
        (VALUES.astype("M8[s]"), r"^X has dtype datetime64"),
        (scipy.sparse.csr_array(VALUES.astype(complex)), r"^X has dtype complex128"),
        (np.zeros(3), r"^X must be a matrix .* has shape \(3,\); give X\.reshape\(-1, 1\)"),
        (scipy.sparse.coo_array(np.ones(3)), r"^X must be a matrix .* has shape \(3,\)"),
        (
            np.zeros((2, 2, 2)),
            r"^X must be a matrix \(cells x dimensions\) but has shape \(2, 2, 2\); give X\.reshape\(2, -1\)",
        ),
        (np.float32(3), r"^X must be a matrix .* has shape \(\); give one row for each cell$"),
        (np.zeros((0, 2, 2)), r"^X must be a matrix .* has shape \(0, 2, 2\); give one row for each cell$"),
        (5.0, r"^X is of type float, not an array"),
        (None, r"^X is of type NoneType, not an array"),
        ("X_pca", r"^X is of type str, not an array"),
        ({"a": 1}, r"^X is of type dict, not an array"),
        (ad.AnnData(VALUES.astype("f4")), r"^X is of type AnnData, not an array"),
        (np.zeros((0, 3)), r"^X has no rows \(no cells\): its shape is \(0, 3\)"),
        (np.zeros((3, 0)), r"^X has no columns \(no dimensions\): its shape is \(3, 0\)"),
        ([], r"^X must be a matrix"),
        ([[1, 2], [3]], r"^X cannot be made an array: .* give rows of equal length"),
        (np.ma.masked_greater(VALUES, 9), r"^X has 2 masked values; fill them"),
    ],
)
def test_invalid_matrices_are_refused_by_name(x, message):
    with pytest.raises(InputError, match=message) as caught:
        as_rows(x, "X")
    assert "\n" not in str(caught.value)


def test_masked_array_without_masked_values_is_accepted():
    np.testing.assert_array_equal(as_rows(np.ma.masked_greater(VALUES, 99), "X"), VALUES)


class CountingArray:
    """An array in chunks of rows that records which slices were read."""

    def __init__(self, x: np.ndarray, chunk_rows: int) -> None:
        self._x = x
        self.shape, self.dtype, self.chunks = x.shape, x.dtype, (chunk_rows, 1)
        self.slices: list[tuple[int, int]] = []

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.slices.append((rows.start, rows.stop))
        return self._x[rows]


@pytest.mark.parametrize("step", [1, 3, 4, 5, 7, 100])
def test_reading_in_order_reads_each_chunk_once(step):
    x = np.arange(44).reshape(22, 2)
    stored = CountingArray(x, chunk_rows=4)
    rows = SlicedRows(stored, "X")
    np.testing.assert_array_equal(np.concatenate([rows.read(i, min(i + step, 22)) for i in range(0, 22, step)]), x)
    starts = [start for start, _ in stored.slices]
    assert all(start % 4 == 0 for start in starts)
    assert starts == [0, *(stop for _, stop in stored.slices[:-1])]


def test_reading_in_any_order_returns_the_requested_rows(rng):
    x = np.arange(200).reshape(100, 2)
    rows = SlicedRows(CountingArray(x, chunk_rows=8), "X")
    for start in rng.integers(0, 100, 200):
        stop = min(start + int(rng.integers(1, 30)), 100)
        np.testing.assert_array_equal(rows.read(start, stop), x[start:stop])


def test_stacked_rows_match_concatenated_matrices():
    parts = [VALUES, scipy.sparse.csr_array(VALUES[:1] * 10), VALUES.astype("f4") + 0.5]
    expected = np.concatenate([VALUES, VALUES[:1] * 10, VALUES + 0.5])
    rows = StackedRows([as_rows(part, "X") for part in parts])
    assert (rows.shape, rows.dtype) == ((9, 3), np.float64)
    for start in range(9):
        for stop in range(start, 10):
            np.testing.assert_array_equal(rows.read(start, stop), expected[start:stop])
    with pytest.raises(InputError, match=r"matrices of \[2, 3\] columns cannot be stacked"):
        StackedRows([VALUES, VALUES[:, :2]])
