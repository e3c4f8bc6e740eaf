"""Shorter start-up of patched packages: lazy imports of slow dependencies, and fewer garbage collections.

scib_metrics, and czbenchmarks through it, import one name each from umap and pynndescent, which compile most of their
functions during import. gpubench computes the functions that use these names, so the import is delayed until a call
needs the real package. This saves 4 to 5 s per process. Garbage collections scan all objects of jax and scanpy but
free nothing; pausing them saves another second, or three in scib_metrics' Benchmarker.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

LAZY_IMPORTS = {
    "scib_metrics.nearest_neighbors._dataclass": ("umap.umap_", "fuzzy_simplicial_set"),
    "scib_metrics.nearest_neighbors._pynndescent": ("pynndescent", "NNDescent"),
}
"""Importing module -> (slow module that it imports, the one name that it takes from it)."""


@contextmanager
def lazy_imports(importer: str) -> Iterator[None]:
    """Context manager that speeds up the import of the module `importer`, which is to take place inside of it.

    The slow module that `importer` imports is replaced by a placeholder, which imports it on first use. Which module
    that is stands in `LAZY_IMPORTS`; for modules that are not among its keys, nothing is replaced.
    """
    module, name = LAZY_IMPORTS.get(importer, ("", ""))
    if not module or module in sys.modules or find_spec(module.partition(".")[0]) is None:
        yield
        return
    stand_in = ModuleType(module, f"Stand-in for {module} until it is needed.")

    def remove() -> None:
        """Let the next import find the real module."""
        if sys.modules.get(module) is stand_in:
            del sys.modules[module]

    def load(attribute: str) -> Any:
        if attribute.startswith("__"):  # the import system looks for such names in every module
            raise AttributeError(attribute)
        remove()
        return _load(module, attribute)

    vars(stand_in).update({name: _LazyName(module, name), "__getattr__": load})
    sys.modules[module] = stand_in
    try:
        yield
    finally:
        remove()


class _LazyName:
    """Placeholder for a function or class, which is imported on first use; pickled as the real object."""

    def __init__(self, module: str, name: str) -> None:
        self.__module__ = module
        self.__name__ = self.__qualname__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _load(self.__module__, self.__name__)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copying and pickling look for such names in every object
            raise AttributeError(name)
        return getattr(_load(self.__module__, self.__name__), name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (self.__module__, self.__name__)


def _load(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause garbage collection in a `with` block, such as an import, whose objects are kept anyway."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def collect_own_garbage(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method so that `gc.collect`, called inside it, scans only objects that the method created.

    scib_metrics' Benchmarker collects garbage before each metric. All objects are scanned again once the method
    returns.
    """

    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if gc.get_freeze_count():  # someone else relies on frozen objects
            return method(*args, **kwargs)
        gc.freeze()
        try:
            return method(*args, **kwargs)
        finally:
            gc.unfreeze()

    return wrapped
