"""Imports that take as long as the first kernels, and need one core while those run: begun in the background."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from importlib import import_module
from threading import Thread

from gpubench.engines.cpu_forest import MODULES, forest_package

IMPORTED = {"leiden": ("scipy.sparse",), "lr": ("scipy.optimize",), "folds": ("sklearn.model_selection",)}
"""What is done -> what it imports, whatever the number of cells; of a forest that depends on it."""


def import_ahead(operations: Collection[str], n: int) -> None:
    """Import in a thread what these operations on n cells will import; a forest is named "rf"."""
    names = [name for operation in operations for name in IMPORTED.get(operation, ())]
    if "rf" in operations:
        names.append(MODULES[forest_package(n)])
    if names:
        # not a daemon: a process that ends sooner waits until the import is whole
        Thread(target=_import, args=(names,), name="gpubench imports").start()


def _import(names: Collection[str]) -> None:
    for name in names:
        # Whatever is wrong with a package (compiled ones fail with OSError, too), the operation that needs it
        # imports it again, meets the same error, and tells it as its own; from here it would be a thread's traceback.
        with suppress(Exception):
            import_module(name)
