"""Knowing when a module is imported, so that packages need not be imported to be patched."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from gpubench.accel import garbage
from gpubench.accel.deferring import deferred


class ImportHook(MetaPathFinder):
    """Calls back when one of some modules has been executed, before anything can import names from it."""

    def __init__(self, modules: Collection[str], then: Callable[[str], None]) -> None:
        self._modules = frozenset(modules)
        self._then = then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Let the other finders find the module, and follow its execution."""
        if fullname not in self._modules:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                self._follow(spec)
                return spec
        return None

    def _follow(self, spec: ModuleSpec) -> None:
        loader = spec.loader
        if loader is None:
            return
        execute = loader.exec_module

        def execute_and_tell(module: ModuleType) -> None:
            with garbage.paused(), deferred(spec.name):
                execute(module)
            self._then(spec.name)

        # On the loader of this one module: a loader of our own would hide what the module's loader can do besides.
        loader.exec_module = execute_and_tell  # type: ignore[method-assign]
