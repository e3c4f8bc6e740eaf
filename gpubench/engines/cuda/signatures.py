"""Signatures of the CUDA kernels, against which the arguments of launches are checked.

Names, types and order of a kernel's parameters are read from kernels/*.cu. The table below adds requirements that C++
does not express. The shape of an array is written with the names of the kernel's scalar parameters, so that an array of
a wrong size is found before the GPU reads beyond its end: "n k+2" means n rows and k + 2 columns. A name that is not a
scalar parameter stands for any size, but the same size everywhere in the kernel. Arrays are C-contiguous, unless there
is a scalar parameter `<array>_stride`, the distance between rows in elements.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

_PACKAGE = Path(__file__).resolve().parents[2]
# in a wheel the sources are inside the package, in a checkout next to it
KERNEL_DIR = next(folder for folder in (_PACKAGE / "kernels", _PACKAGE.parent / "kernels") if folder.is_dir())

WARP = 32
NO_CANDIDATE = np.uint64(0xFF800000FFFFFFFF)
"""Greater than every candidate, as in kernels/common.cuh: the initial limit of a row, and an unused entry."""

Sizes = Mapping[str, int | float]
"""Values of a launch by name: the scalars, the sizes found in shapes, and `threads` and `warps` per block."""

DTYPES = {
    "float": "float32",
    "double": "float64",
    "int": "int32",
    "Index": "int64",
    "long long": "int64",
    "unsigned char": "uint8",
    "Candidate": "uint64",
}
"""Types of the kernels' arguments."""


class Range(NamedTuple):
    """Valid values of a scalar parameter: multiples of `step` between `low` and `high`."""

    low: float
    high: float = np.inf
    step: int = 1


FLAG = Range(0, 1)
POSITIVE = Range(float(np.finfo(np.float32).tiny))
MAX_TOGETHER = 4
"""Largest number of rows that a block of `search_exactly` compares with each cell that it reads."""

INT32_IDS = 2**31 - 2
"""Largest id of a cell; the next one is padding."""


class Parameter(NamedTuple):
    """A parameter of a kernel, an array or a scalar with this dtype."""

    name: str
    dtype: str
    is_array: bool


@dataclass(frozen=True)
class Kernel:
    """The signature of a kernel, and the requirements on its launches.

    Attributes
    ----------
    name : name of the kernel and of its file
    shapes : shape of each array parameter, such as "n k+2", by parameter name; see the module docstring
    ranges : valid range of scalar parameters by name; by default integers must be at least 1, strides and
        floating-point numbers at least 0
    rules : further conditions, as functions of all sizes and scalars, by the description used in error messages
    aligned : names of the arrays whose address must be a multiple of 16 bytes
    shared_bytes : function that returns the bytes of dynamic shared memory per block, given the scalars and
        `block_sizes`
    block_threads : number of threads per block with which the engine launches the kernel
    fixed_block : whether `block_threads` is the only valid number of threads per block
    grid_dimensions : 2 if the kernel uses the y dimension of the grid, else 1
    """

    name: str
    shapes: Mapping[str, str]
    ranges: Mapping[str, Range] = field(default_factory=dict)
    rules: Mapping[str, Callable[[Sizes], bool]] = field(default_factory=dict)
    aligned: tuple[str, ...] = ()
    shared_bytes: Callable[[Sizes], float] = lambda _: 0
    block_threads: int = 256
    fixed_block: bool = False
    grid_dimensions: int = 1

    @cached_property
    def _declaration(self) -> tuple[str, str]:
        pattern = rf'extern "C" __global__ void\s+__launch_bounds__\((\d+)\)\s+{self.name}\((.*?)\)'
        found = re.search(pattern, (KERNEL_DIR / f"{self.name}.cu").read_text(), re.DOTALL)
        assert found, f"kernels/{self.name}.cu declares no kernel {self.name}"
        return found[1], found[2]

    @property
    def max_threads(self) -> int:
        """Largest number of threads per block that the kernel is compiled for."""
        return int(self._declaration[0])

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters of the kernel in the order of its declaration."""
        parameters = []
        for declared in self._declaration[1].split(","):
            *words, name = [word for word in declared.split() if word not in ("const", "__restrict__")]
            kind = " ".join(words)
            parameters.append(Parameter(name, DTYPES[kind.removesuffix("*")], kind.endswith("*")))
        return tuple(parameters)

    def range_of(self, parameter: Parameter) -> Range:
        """Return the valid range of a scalar parameter."""
        is_size = parameter.dtype.startswith("int") and not parameter.name.endswith("_stride")
        return self.ranges.get(parameter.name, Range(1 if is_size else 0))

    @staticmethod
    def block_sizes(threads: int) -> dict[str, int]:
        """Return the numbers of threads and of warps per block, by the names used in rules and shapes."""
        return {"threads": threads, "warps": threads // WARP}


def _is_power_of_two(sizes: Sizes) -> bool:
    return int(sizes["size"]) & (int(sizes["size"]) - 1) == 0


_KERNELS = (
    Kernel(
        "silhouette_tile",
        {
            "products": "n_rows products_stride",
            "row_terms": "n_rows",
            "column_terms": "n_columns",
            "row_segments": "n_rows",
            "column_segments": "n_columns",
            "x": "n d",
            "order": "n",
            "row_sums": "column_segments_here n_rows",
            "column_sums": "row_segments_here n_columns",
        },
        ranges={
            "products_stride": Range(4, step=4),
            "first_row": Range(0),
            "first_column": Range(0),
            "scale": POSITIVE,
            "unit": POSITIVE,
            "shift": Range(0, 39),
            "both_sides": FLAG,
        },
        rules={
            "products_stride >= n_columns": lambda s: s["products_stride"] >= s["n_columns"],
            "first_row + n_rows <= n": lambda s: s["first_row"] + s["n_rows"] <= s["n"],
            "first_column + n_columns <= n": lambda s: s["first_column"] + s["n_columns"] <= s["n"],
        },
        aligned=("products",),
        shared_bytes=lambda s: 32 * 33 * 4 * s["warps"],
        block_threads=128,
    ),
    Kernel(
        "topk_update",
        {
            "products": "n_rows products_stride",
            "column_terms": "n_columns",
            "candidates": "n_rows capacity",
            "counts": "n_rows",
            "limits": "n_rows",
        },
        ranges={
            "products_stride": Range(4, step=4),
            "first_row": Range(-1),
            "first_column": Range(0, INT32_IDS),
            "last": FLAG,
        },
        rules={
            "products_stride >= n_columns": lambda s: s["products_stride"] >= s["n_columns"],
            "capacity >= keep + 32": lambda s: s["capacity"] >= s["keep"] + 32,
        },
        aligned=("products", "column_terms"),
        shared_bytes=lambda s: 256 * 4 * s["warps"],
    ),
    Kernel(
        "rerank",
        {
            "queries": "n_rows d",
            "x": "n d",
            "candidates": "n_rows capacity",
            "counts": "n_rows",
            "limits": "n_rows",
            "offsets": "n_rows",
            "indices": "n_rows k",
            "distances": "n_rows k",
            "uncertain": "n_rows",
        },
        ranges={"inverse_square_scale": Range(float(np.finfo(np.float64).tiny))},
        rules={"size is a power of two": _is_power_of_two},
        shared_bytes=lambda s: 12 * s["size"],
        block_threads=64,
    ),
    Kernel(
        "search_exactly",
        {"queries": "m d", "x": "n d", "rows": "n_rows", "candidates": "n_rows n_pieces k"},
        ranges={"n": Range(1, INT32_IDS), "same_cells": FLAG, "together": Range(1, MAX_TOGETHER)},
        rules={
            "size is a power of two": _is_power_of_two,
            "size >= k + threads of a block": lambda s: s["size"] >= s["k"] + s["threads"],
        },
        shared_bytes=lambda s: (12 * s["size"] + 4) * s["together"],
    ),
    Kernel(
        "neighbor_entropy",
        {"indices": "m k", "own": "m", "codes": "n", "count_log_count": "k+2", "entropy": "m"},
        ranges={"bins": Range(32, step=32)},
        shared_bytes=lambda s: 4 * s["bins"] * s["warps"],
    ),
    Kernel("neighbor_value_distance", {"indices": "m k", "own": "m", "values": "n", "k_per_cell": "m", "out": "m"}),
    Kernel("fuzzy_memberships", {"distances": "n k", "memberships": "n k"}),
    Kernel("symmetrise", {"indices": "n k", "memberships": "n k", "weights": "n k", "one_sided": "n k"}),
    Kernel("rank", {"sorted": "n_rows n", "order": "n_rows n", "ranks": "n_rows n"}, grid_dimensions=2),
    Kernel(
        "group_means",
        {"x": "n d", "order": "n", "starts": "n_groups+1", "means": "n_groups d"},
        shared_bytes=lambda s: 8 * s["threads"],
        fixed_block=True,
    ),
    Kernel(
        "rank_sums",
        {"values": "n_values", "starts": "n_segments+1", "sizes": "n_groups", "u": "n_segments", "ties": "n_segments"},
        ranges={"control": Range(0)},
        rules={
            "control < n_groups": lambda s: s["control"] < s["n_groups"],
            "n_segments is a multiple of n_groups": lambda s: int(s["n_segments"]) % int(s["n_groups"]) == 0,
        },
    ),
)

KERNELS: Mapping[str, Kernel] = {kernel.name: kernel for kernel in _KERNELS}
"""Every kernel in kernels/, by name."""
