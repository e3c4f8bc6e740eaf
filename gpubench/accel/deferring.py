"""Imports that compile for seconds, of functions that are hardly ever called once gpubench is in place.

scib_metrics, and czbenchmarks through it, import one name each of umap and pynndescent, and these compile most of
their functions while they are imported. Here they are imported when that name is first called.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

DEFERRED = {
    "scib_metrics.nearest_neighbors._dataclass": ("umap.umap_", "fuzzy_simplicial_set"),
    "scib_metrics.nearest_neighbors._pynndescent": ("pynndescent", "NNDescent"),
}
"""Module that imports -> (module that is imported, the one name of it that is taken)."""


@contextmanager
def deferred(importer: str) -> Iterator[None]:
    """While `importer` is executed, what it imports of the table is a stand-in; before and after, the real one."""
    module, name = DEFERRED.get(importer, ("", ""))
    if not module or module in sys.modules or find_spec(module.partition(".")[0]) is None:
        yield
        return
    stand_in = _StandIn(module, name)
    sys.modules[module] = stand_in
    try:
        yield
    finally:
        stand_in.leave()


class _StandIn(ModuleType):
    """A module with one function, which imports the real module when it is called."""

    def __init__(self, module: str, name: str) -> None:
        super().__init__(module, f"Stands for {module} until it is needed.")
        setattr(self, name, _Late(module, name))

    def leave(self) -> None:
        """Let the next import find the real module."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by the import system, of any module
            raise AttributeError(name)
        self.leave()
        return getattr(import_module(self.__name__), name)


class _Late:
    """A function or class of another module, imported when this is first used; pickled as the real one."""

    def __init__(self, module: str, name: str) -> None:
        self.__module__ = module
        self.__name__ = self.__qualname__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _find(self.__module__, self.__name__)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by copying and pickling, of any object
            raise AttributeError(name)
        return getattr(_find(self.__module__, self.__name__), name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _find, (self.__module__, self.__name__)


def _find(module: str, name: str) -> Any:
    return getattr(import_module(module), name)
