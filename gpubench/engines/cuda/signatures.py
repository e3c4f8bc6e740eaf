"""The signature of every CUDA kernel: the table that launches are checked against.

A shape is written with the names of the kernel's own scalars, so that an array of a wrong size is found before the GPU
reads beyond its end: "n k+2" has n rows and k + 2 columns. A name that is no scalar stands for any size, the same
wherever it occurs in the kernel. The tests compile the kernels against this table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

Sizes = Mapping[str, int | float]
"""Values of a launch by name: the scalars, the sizes found in shapes, and `threads` and `warps` per block."""

WARP = 32

NO_CANDIDATE = np.uint64(0xFF800000FFFFFFFF)
"""Greater than every candidate, as in kernels/common.cuh: the initial limit of a row, and an unused entry."""


@dataclass(frozen=True, slots=True)
class Array:
    """An array argument.

    Attributes
    ----------
    name, dtype : as in the source
    shape : sizes by name; see the module
    written : whether the kernel writes to it (if not, the source declares a pointer to const)
    stride : the scalar that holds the distance between its rows in elements; None: C-contiguous
    align : required alignment of its address in bytes
    """

    name: str
    dtype: str
    shape: str
    written: bool = False
    stride: str | None = None
    align: int = 1


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number argument between `low` and `high`, a multiple of `step` if that is given."""

    name: str
    dtype: str
    low: float = 0
    high: float = np.inf
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Kernel:
    """The arguments of a kernel in order, and the requirements on its launches.

    Attributes
    ----------
    rules : conditions on the sizes: description -> test
    shared_bytes : dynamic shared memory that a block needs, from the scalars and `block_sizes`
    block_threads : threads per block that the engine launches
    max_threads : largest block that the kernel is compiled for
    fixed_block : whether `block_threads` is the only valid size of a block
    grid_dimensions : 1, or 2 if the kernel uses the y of the grid
    """

    name: str
    parameters: tuple[Array | Scalar, ...]
    rules: Mapping[str, Callable[[Sizes], bool]] = field(default_factory=dict)
    shared_bytes: Callable[[Sizes], float] = lambda _: 0
    block_threads: int = 256
    max_threads: int = 256
    fixed_block: bool = False
    grid_dimensions: int = 1

    @staticmethod
    def block_sizes(threads: int) -> dict[str, int]:
        """Return the sizes that follow from the number of threads per block."""
        return {"threads": threads, "warps": threads // WARP}


def _flag(name: str) -> Scalar:
    return Scalar(name, "int32", 0, 1)


def _count(name: str, dtype: str = "int32") -> Scalar:
    return Scalar(name, dtype, 1)


def _power_of_two(name: str) -> dict[str, Callable[[Sizes], bool]]:
    return {f"{name} is a power of two": lambda s: int(s[name]) & (int(s[name]) - 1) == 0}


_KERNELS = (
    Kernel(
        "silhouette_tile",
        (
            Array("products", "float32", "n_rows products_stride", align=16),
            Scalar("products_stride", "int64", 4, step=4),
            Array("row_terms", "float32", "n_rows"),
            Array("column_terms", "float32", "n_columns"),
            Array("row_segments", "int32", "n_rows"),
            Array("column_segments", "int32", "n_columns"),
            _count("n_rows"),
            _count("n_columns"),
            Scalar("first_row", "int64"),
            Scalar("first_column", "int64"),
            Array("x", "float32", "n d"),
            Array("order", "int32", "n"),
            _count("d"),
            Scalar("scale", "float32", float(np.finfo(np.float32).tiny)),
            Scalar("close", "float32"),
            Scalar("unit", "float32", float(np.finfo(np.float32).tiny)),
            Scalar("shift", "int32", 0, 39),
            _flag("both_sides"),
            Array("row_sums", "int64", "column_segments_here n_rows", written=True, stride="row_sums_stride"),
            Scalar("row_sums_stride", "int64"),
            Array("column_sums", "int64", "row_segments_here n_columns", written=True, stride="column_sums_stride"),
            Scalar("column_sums_stride", "int64"),
        ),
        rules={
            "products_stride >= n_columns": lambda s: s["products_stride"] >= s["n_columns"],
            "first_row + n_rows <= n": lambda s: s["first_row"] + s["n_rows"] <= s["n"],
            "first_column + n_columns <= n": lambda s: s["first_column"] + s["n_columns"] <= s["n"],
        },
        shared_bytes=lambda s: 32 * 33 * 4 * s["warps"],
        block_threads=128,
        max_threads=128,
    ),
    Kernel(
        "topk_update",
        (
            Array("products", "float32", "n_rows products_stride", align=16),
            Scalar("products_stride", "int64", 4, step=4),
            Array("column_terms", "float32", "n_columns"),
            _count("n_rows"),
            _count("n_columns"),
            Scalar("first_row", "int64", -1),
            Scalar("first_column", "int64", 0, 2**31 - 2),
            _count("keep"),
            _count("capacity"),
            _flag("last"),
            Array("candidates", "uint64", "n_rows capacity", written=True),
            Array("counts", "int32", "n_rows", written=True),
            Array("limits", "uint64", "n_rows", written=True),
        ),
        rules={
            "products_stride >= n_columns": lambda s: s["products_stride"] >= s["n_columns"],
            "capacity >= keep + 32": lambda s: s["capacity"] >= s["keep"] + 32,
        },
        shared_bytes=lambda s: 256 * 4 * s["warps"],
    ),
    Kernel(
        "rerank",
        (
            Array("queries", "float32", "n_rows d"),
            Array("x", "float32", "n d"),
            _count("d"),
            _count("n_rows", "int64"),
            Array("candidates", "uint64", "n_rows capacity"),
            _count("capacity"),
            Array("counts", "int32", "n_rows"),
            Array("limits", "uint64", "n_rows"),
            Array("offsets", "float64", "n_rows"),
            Scalar("inverse_square_scale", "float64", np.finfo(np.float64).tiny),
            _count("k"),
            _count("size"),
            Array("indices", "int32", "n_rows k", written=True),
            Array("distances", "float32", "n_rows k", written=True),
            Array("uncertain", "uint8", "n_rows", written=True),
        ),
        rules=_power_of_two("size"),
        shared_bytes=lambda s: 12 * s["size"],
        block_threads=64,
    ),
    Kernel(
        "search_exactly",
        (
            Array("queries", "float32", "m d"),
            Array("x", "float32", "n d"),
            _count("d"),
            Scalar("n", "int64", 1, 2**31 - 2),
            Array("rows", "int32", "n_rows"),
            _count("n_rows", "int64"),
            _flag("same_cells"),
            _count("n_pieces"),
            _count("k"),
            _count("size"),
            Array("candidates", "uint64", "n_rows n_pieces k", written=True),
        ),
        rules={
            **_power_of_two("size"),
            "size >= k + threads of a block": lambda s: s["size"] >= s["k"] + s["threads"],
        },
        shared_bytes=lambda s: 12 * s["size"] + 4,
    ),
    Kernel(
        "neighbor_entropy",
        (
            Array("indices", "int32", "m k", stride="indices_stride"),
            Scalar("indices_stride", "int64"),
            Array("own", "int32", "m"),
            Array("codes", "int32", "n"),
            _count("m", "int64"),
            _count("k"),
            _count("n_codes"),
            Scalar("bins", "int32", 32, step=32),
            Array("count_log_count", "float64", "k+2"),
            Array("entropy", "float64", "m", written=True),
        ),
        shared_bytes=lambda s: 4 * s["bins"] * s["warps"],
    ),
    Kernel(
        "neighbor_value_distance",
        (
            Array("indices", "int32", "m k", stride="indices_stride"),
            Scalar("indices_stride", "int64"),
            Array("own", "float64", "m"),
            Array("values", "float64", "n"),
            Array("k_per_cell", "int32", "m"),
            _count("m", "int64"),
            Array("out", "float64", "m", written=True),
        ),
    ),
    Kernel(
        "fuzzy_memberships",
        (
            Array("distances", "float32", "n k", stride="distances_stride"),
            Scalar("distances_stride", "int64"),
            _count("n", "int64"),
            _count("k"),
            Scalar("mean_distance", "float64"),
            Array("memberships", "float64", "n k", written=True),
        ),
    ),
    Kernel(
        "symmetrise",
        (
            Array("indices", "int32", "n k", stride="indices_stride"),
            Scalar("indices_stride", "int64"),
            Array("memberships", "float64", "n k"),
            _count("n", "int64"),
            _count("k"),
            Array("weights", "float64", "n k", written=True),
            Array("one_sided", "uint8", "n k", written=True),
        ),
    ),
    Kernel(
        "rank",
        (
            Array("sorted", "float64", "n_rows n"),
            Array("order", "int64", "n_rows n"),
            _count("n_rows", "int64"),
            _count("n", "int64"),
            Array("ranks", "float64", "n_rows n", written=True),
        ),
        grid_dimensions=2,
    ),
    Kernel(
        "group_means",
        (
            Array("x", "float32", "n d"),
            Array("order", "int32", "n"),
            Array("starts", "int64", "n_groups+1"),
            _count("n_groups"),
            _count("d"),
            Array("means", "float64", "n_groups d", written=True),
        ),
        shared_bytes=lambda s: 8 * s["threads"],
        fixed_block=True,
    ),
)

KERNELS: Mapping[str, Kernel] = {kernel.name: kernel for kernel in _KERNELS}
"""Every kernel in kernels/, by name."""
