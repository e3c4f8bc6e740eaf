"""Load the compiled C++ functions ("tiles") for this processor and check the arguments of calls.

`native/hatch_build.py` compiles the libraries when gpubench is installed. If they are missing, or if the environment
variable GPUBENCH_TILES is "numpy", the engine uses NumPy.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gpubench.core.errors import EngineUnavailable, InputError

VARIABLE = "GPUBENCH_TILES"
INSTRUCTION_SETS = ("avx512", "avx2", "generic")
NUMPY = "numpy"
TREE_NODE = np.dtype([("feature", np.int32), ("threshold", np.float32), ("child", np.int32)])
"""Data type of a node of a tree; see `native/forest.cpp`."""

SOURCES = (
    *("product.hpp", "nearest.hpp", "splits.hpp"),
    *("topk.cpp", "leaves.cpp", "silhouette.cpp", "distances.cpp"),
    *("graph.cpp", "ranks.cpp", "forest.cpp", "supported.cpp"),
)
"""Source files of the libraries, in the order in which their digest is computed."""

_FOLDER = Path(__file__).parent / "native"


class Tiles:
    """The compiled functions for one instruction set, as methods; the sources in `native/` document them."""

    def __init__(self, name: str) -> None:
        self.name = name
        library = ctypes.CDLL(str(_FOLDER / f"{name}.so"))
        library.sources_digest.restype = ctypes.c_char_p
        if library.sources_digest().decode() != _digest_of_sources():
            raise EngineUnavailable(f"{name}.so is not compiled from the sources in its folder; install gpubench again")
        for function, (result, arguments) in _SIGNATURES.items():
            declared = getattr(library, function)
            declared.restype, declared.argtypes = result, arguments
            setattr(self, function, declared)
        self.columns = int(self.panel_columns())  # that are packed side by side

    def __getattr__(self, name: str) -> Any:
        """Raise AttributeError; defined so that type checkers accept the functions that are set as attributes."""
        raise AttributeError(name)


def load(name: str | None = None) -> Tiles | None:
    """Load the compiled functions; return None if NumPy is to be used.

    `name` is an instruction set or "numpy". If None, it is the value of GPUBENCH_TILES, or the best one available.
    """
    wanted = name or os.environ.get(VARIABLE)
    found = available()
    if not wanted:
        return _loaded(found[0]) if found else None
    if wanted == NUMPY:
        return None
    if wanted not in found:
        raise InputError(f"{VARIABLE}={wanted!r} is not available; use one of: {', '.join((*found, NUMPY))}")
    return _loaded(wanted)


@cache
def available() -> tuple[str, ...]:
    """List the compiled instruction sets that this processor supports, the fastest first."""
    compiled = [name for name in INSTRUCTION_SETS if (_FOLDER / f"{name}.so").exists()]
    if "generic" not in compiled:
        return ()
    library = ctypes.CDLL(str(_FOLDER / "generic.so"))
    return tuple(name for name in compiled if name == "generic" or getattr(library, f"supports_{name}")())


@cache
def _loaded(name: str) -> Tiles:
    return Tiles(name)


@cache
def _digest_of_sources() -> str:
    return hashlib.sha256(b"".join((_FOLDER / name).read_bytes() for name in SOURCES)).hexdigest()


def _array(dtype: Any) -> Any:
    return np.ctypeslib.ndpointer(dtype, flags="C_CONTIGUOUS")


_INT, _FLAG, _DOUBLE = ctypes.c_int64, ctypes.c_int32, ctypes.c_double
_F32, _F64, _I32, _I64, _U64, _BYTE, _BOOL = (
    _array(dtype) for dtype in (np.float32, np.float64, np.int32, np.int64, np.uint64, np.uint8, np.bool_)
)
_STORE = (_INT, _INT, _U64, _I32, _F32)  # keep, space, candidates, counts, limits
_RANKED = (_INT, _INT, _INT, _I32, _I64, _I64, _INT, _INT, _F64, _I64)  # start, stop, width, groups, u, ties
_VALUES, _INDICES = {"f32": np.float32, "f64": np.float64}, {"i32": np.int32, "i64": np.int64}
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "panel_columns": (_INT, ()),
    "pack_columns": (None, (_F32, _INT, _INT, _F32)),
    "topk_tiles": (
        None,
        (_F32, _F32, _INT, _INT, _F32, _F32, _INT, _INT, _INT, _FLAG, _FLAG, *_STORE, _BYTE, _INT),
    ),
    "topk_start": (None, (_F32, _F32, _INT, _INT, _F32, _F32, _INT, *_STORE, _INT)),
    "topk_finish": (
        None,
        (
            *(_F32, _F32, _INT, _I64, _I64, _INT, *_STORE, _F64, _DOUBLE, _DOUBLE, _DOUBLE),
            *(_FLAG, _FLAG, _INT, _I32, _F32, _BOOL),
        ),
    ),
    "exact_squared": (None, (_F32, _F32, _INT, _I64, _I64, _INT, _F64)),
    "join_leaf": (None, (_F32, _F32, _I64, _INT, _INT, *_STORE, _BYTE)),
    "nearest_ids": (None, (_INT, _INT, *_STORE, _INT, _I32)),
    "join_near": (None, (_F32, _INT, _INT, _INT, _DOUBLE, _I32, _INT, *_STORE)),
    "silhouette_tile": (
        _INT,
        (
            *(_F32, _F32, _INT, _F32, _F32, _INT, _INT, _FLAG, ctypes.c_float),
            *(_I64, _INT, _I64, _INT, _F64, _F64),
        ),
    ),
    "strip_rows": (_INT, ()),
    "pack_strips": (None, (_F32, _INT, _INT, _F32)),
    "split_genes": (None, (_F32, _I32, _I64, _I64, _INT, _I32, _F32, _INT, _F32, _I64, _I32, _F32, _F32)),
    "distance_sums": (
        None,
        (
            *(_F32, _F32, _I64, _I32, _F32, _INT, _INT),
            *(_F32, _F32, _I64, _I32, _F32, _F32, _INT, _INT),
            *(_INT, _INT, _FLAG, ctypes.c_float, _F64),
        ),
    ),
    "count_edges": (None, (_I32, _F64, _INT, _INT, _INT, _I64)),
    "write_edges": (None, (_I32, _F64, _INT, _INT, _INT, _I64, _I32, _F64)),
    "forest_bins": (None, (_F32, _INT, _INT, _INT, _INT, _BYTE, _F32, _F32, _I32)),
    "forest_rows": (None, (_BYTE, _INT, _INT, _INT, _INT, _BYTE)),
    "forest_tree": (
        None,
        (
            *(_BYTE, _BYTE, _INT, _INT, _F32, _F32, _I32, _I32, _I32),
            *(_FLAG, ctypes.c_uint64, _INT, _array(TREE_NODE), _I32, _I64),
        ),
    ),
    "forest_predict": (
        None,
        (_F32, _INT, _INT, _INT, _array(TREE_NODE), _I64, _I32, _I64, _INT, _INT, _F64),
    ),
    "sort_edges": (None, (_I64, _INT, _INT, _I32, _F64)),
    **{
        f"rank_dense_{name}": (_FLAG, (np.ctypeslib.ndpointer(dtype, ndim=2, flags="ALIGNED"), _INT, _INT, *_RANKED))
        for name, dtype in _VALUES.items()
    },
    **{
        f"{function}_{value}_{index}": (result, (_array(_VALUES[value]), _array(_INDICES[index]), _I64, *arguments))
        for value in _VALUES
        for index in _INDICES
        for function, result, arguments in (
            ("rank_rows", _FLAG, _RANKED),
            ("rank_columns", _FLAG, (_I32, *_RANKED)),
            ("sum_rows", None, (_I32, _INT, _F64)),
            ("sum_columns", None, (_I32, _INT, _INT, _INT, _F64)),
        )
    },
}
"""Result and argument types by function; arrays must be of the right dtype, and C-contiguous unless strides follow."""
