"""Shorter start-up of patched packages: lazy imports of slow dependencies, and fewer garbage collections.

scib_metrics, and czbenchmarks through it, import one name each of umap and pynndescent, which compile most of their
functions while they are imported. gpubench answers the calls of these names, so the import waits for the first call
that still needs it. This saves 4 to 5 s in each process. Garbage collections look at all objects that jax and scanpy
have made, and find nothing; pausing them saves another second, or three in scib_metrics' Benchmarker.
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
"""Importing module -> (imported module, the one name that is imported from it)."""


@contextmanager
def lazy_imports(importer: str) -> Iterator[None]:
    """Replace the slow module that `importer` imports by a stand-in, only while `importer` is executed."""
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
    """A function or class that is imported on first use; it is pickled as the real one."""

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
    """Pause garbage collection while a package is imported, whose objects stay anyway."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def collect_own_garbage(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method so that its calls of `gc.collect` scan only objects that it made itself.

    scib_metrics' Benchmarker collects garbage before each metric. The state is restored when the method returns.
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
