"""The door to the compiled tiles: loads the library for this processor and checks what is handed to it.

`native/hatch_build.py` compiles the libraries when gpubench is installed. Where they are missing, or where the
environment variable GPUBENCH_TILES says "numpy", the engine works with NumPy.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gpubench.core.errors import InputError

VARIABLE = "GPUBENCH_TILES"
INSTRUCTION_SETS = ("avx512", "avx2", "generic")
NUMPY = "numpy"
SOURCES = ("product.hpp", "nearest.hpp", "topk.cpp", "leaves.cpp", "silhouette.cpp", "graph.cpp", "supported.cpp")
"""What the libraries are compiled from, in the order in which their digest is taken."""

_FOLDER = Path(__file__).parent / "native"


class Tiles:
    """The compiled functions for one instruction set; what they compute is written beside them in `native/`.

    Attributes
    ----------
    name : the instruction set
    columns : how many columns are packed side by side

    Raises
    ------
    RuntimeError
        The library was compiled from other sources than those beside it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        library = ctypes.CDLL(str(_FOLDER / f"{name}.so"))
        library.sources_digest.restype = ctypes.c_char_p
        if library.sources_digest().decode() != _digest_of_sources():
            raise RuntimeError(f"{name}.so is not compiled from the sources beside it; install gpubench again")
        declared = {function: _declare(library, function) for function in _SIGNATURES}
        self.columns = int(declared["panel_columns"]())
        self.pack_columns = declared["pack_columns"]
        self.topk_start = declared["topk_start"]
        self.topk_tiles = declared["topk_tiles"]
        self.topk_finish = declared["topk_finish"]
        self.exact_squared = declared["exact_squared"]
        self.join_leaf = declared["join_leaf"]
        self.nearest_ids = declared["nearest_ids"]
        self.join_near = declared["join_near"]
        self.silhouette_tile = declared["silhouette_tile"]
        self.count_edges = declared["count_edges"]
        self.write_edges = declared["write_edges"]
        self.sort_edges = declared["sort_edges"]


def load(name: str | None = None) -> Tiles | None:
    """Load the compiled tiles, or None where NumPy is to be used.

    Parameters
    ----------
    name : an instruction set, or "numpy"; None: what GPUBENCH_TILES says, else the best that is here

    Raises
    ------
    InputError
        The name is unknown, or what it names was not compiled or cannot run on this processor.
    """
    wanted = name or os.environ.get(VARIABLE)
    found = available()
    if not wanted:
        return _loaded(found[0]) if found else None
    if wanted == NUMPY:
        return None
    if wanted not in found:
        raise InputError(f"{VARIABLE}={wanted!r} is not here; use one of: {', '.join((*found, NUMPY))}")
    return _loaded(wanted)


@cache
def available() -> tuple[str, ...]:
    """Instruction sets that are compiled and that this processor has, the best first."""
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
    "count_edges": (None, (_I32, _F64, _INT, _INT, _INT, _I64)),
    "write_edges": (None, (_I32, _F64, _INT, _INT, _INT, _I64, _I32, _F64)),
    "sort_edges": (None, (_I64, _INT, _INT, _I32, _F64)),
}
"""Result and arguments of each function; arrays are checked for their dtype and for being C-contiguous."""


def _declare(library: ctypes.CDLL, name: str) -> Any:
    function = getattr(library, name)
    function.restype, function.argtypes = _SIGNATURES[name]
    return function
