"""Install patches in modules imported already and in those imported later, and remove patches."""

from __future__ import annotations

import gc
import logging
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType
from typing import Any, ClassVar

from gpubench.accel import cell_eval, cell_eval2, czbenchmarks, scib
from gpubench.accel.calls import Patch, dispatcher, logger
from gpubench.accel.startup import LAZY_IMPORTS, gc_paused, lazy_imports
from gpubench.core.errors import InputError, close_matches
from gpubench.engines import get_engine

TARGETS: dict[str, tuple[Patch, ...]] = {
    "czbenchmarks": (*czbenchmarks.PATCHES, *scib.SILHOUETTE_PATCHES),
    "scib_metrics": scib.PATCHES,
    "sklearn": scib.SKLEARN_PATCHES,
    "cell_eval": cell_eval.PATCHES,
    "cell_eval2": cell_eval2.PATCHES,
}

VERSIONS = {
    "czbenchmarks": ("cz-benchmarks", (0, 15), (0, 15)),
    "scib_metrics": ("scib-metrics", (0, 5), (0, 5)),
    "sklearn": ("scikit-learn", (1, 5), (1, 9)),
    "cell_eval": ("cell-eval", (0, 8), (0, 8)),
    "cell_eval2": ("cell-eval2", (0, 20), (0, 20)),
    "pdex": ("pdex", (0, 3), (0, 3)),
}
"""Package -> its name on PyPI, and the first and last version that the patches are tested with."""


@dataclass(frozen=True, slots=True)
class Applied:
    """Patch that has been applied, with the original function and its replacement."""

    patch: Patch
    original: Any
    replacement: Any


class Installation:
    """Patches of some packages, each applied once its module is imported.

    Attributes
    ----------
    current : the `Installation` in effect in this process; None if nothing is installed
    targets, engine, verbose : see `gpubench.accel.install`
    """

    current: ClassVar[Installation | None] = None

    def __init__(self, targets: Iterable[str] | None, engine: str, *, verbose: bool) -> None:
        self.targets = list(TARGETS) if targets is None else [targets] if isinstance(targets, str) else list(targets)
        self.verbose = verbose
        for name in self.targets:
            if name not in TARGETS:
                raise InputError(f"targets: {name!r} is unknown{close_matches(name, TARGETS)}")
        self.engine = get_engine(engine).name
        # targets may share patches
        self._patches = list(dict.fromkeys(patch for name in self.targets for patch in TARGETS[name]))
        self._applied: list[Applied] = []
        self._checked: set[str] = set()
        modules = {patch.module for patch in self._patches}
        packages = {_package(module) for module in modules}
        lazy = {module for module in LAZY_IMPORTS if _package(module) in packages}
        self._hook = ImportHook(modules | packages | lazy, self._apply_to)

    def apply(self) -> None:
        """Patch the modules imported so far, under every name, and patch others when they are imported."""
        if self.verbose:
            logger.setLevel(logging.INFO)
            if not logger.hasHandlers():
                logger.addHandler(logging.StreamHandler())
        imported = [patch for patch in self._patches if patch.module in sys.modules]
        originals = {patch.title: _get(*_find(patch)) for patch in imported if patch.everywhere}
        unreached = dict.fromkeys(other_holders(originals)) if originals else ()
        for module in dict.fromkeys(patch.module for patch in imported):
            self._apply_to(module)
        rebind_names([(done.original, done.replacement) for done in self._applied if done.patch.everywhere])
        for where in unreached:
            logger.warning("%s since before gpubench.accel was installed; calls through it are not accelerated", where)
        sys.meta_path.insert(0, self._hook)
        dispatcher.engine, dispatcher.verbose = self.engine, self.verbose
        Installation.current = self

    def remove(self) -> None:
        """Restore all original functions and remove the import hook."""
        Installation.current = dispatcher.engine = None
        sys.meta_path.remove(self._hook)
        for done in self._applied:
            _set(*_find(done.patch), done.original)
        rebind_names([(done.replacement, done.original) for done in self._applied if done.patch.everywhere])
        self._applied.clear()

    def _apply_to(self, module: str) -> None:
        package = _package(module)
        patches = [patch for patch in self._patches if patch.module == module]
        if patches and package not in self._checked:
            self._checked.add(package)
            _check_version(package)
        for patch in patches:
            holder, key = _find(patch)
            original = _get(holder, key)
            replacement = None if original is None else patch.replace(original)
            if replacement is None:
                logger.warning("%s is not patched: it differs in this version of %s", patch.title, package)
            else:
                _set(holder, key, replacement)
                self._applied.append(Applied(patch, original, replacement))


def _package(module: str) -> str:
    return module.partition(".")[0]


def _check_version(package: str) -> None:
    distribution, first, last = VERSIONS[package]
    version = metadata.version(distribution)
    release = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if not first <= release <= last:
        tested = " to ".join(dict.fromkeys(".".join(map(str, release)) for release in (first, last)))
        warnings.warn(
            f"gpubench.accel is tested with {distribution} {tested}, but {version} is installed;"
            " compare some results with those without gpubench.accel",
            stacklevel=2,
        )


class ImportHook(MetaPathFinder):
    """Import hook that calls `executed(name)` for each of `modules` right after its import.

    The importing module has not taken any names from it by then.
    """

    def __init__(self, modules: Collection[str], executed: Callable[[str], None]) -> None:
        self._modules = frozenset(modules)
        self._executed = executed

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find one of the modules by the other finders and wrap its execution; return None for other modules."""
        if fullname not in self._modules:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    self._wrap(spec, spec.loader)
                return spec
        return None

    def _wrap(self, spec: ModuleSpec, loader: Loader) -> None:
        execute = loader.exec_module

        def execute_and_notify(module: ModuleType) -> None:
            with gc_paused(), lazy_imports(spec.name):
                execute(module)
            self._executed(spec.name)

        # Set on the loader of this one module: a loader class of our own would hide the other methods of its loader.
        loader.exec_module = execute_and_notify  # type: ignore[method-assign]


def registries() -> Mapping[str, dict[str, Any]]:
    """Return "metrics_registry[id]" -> attributes of each metric in czbenchmarks' registry.

    Empty if czbenchmarks has not been imported.
    """
    module = sys.modules.get("czbenchmarks.metrics.implementations")
    registry = getattr(module, "metrics_registry", None)
    if registry is None:
        return {}
    infos = {kind: registry.get_info(kind) for kind in registry.list_metrics()}
    return {f"metrics_registry[{kind.value}]": vars(info) for kind, info in infos.items()}


def _find(patch: Patch) -> tuple[Any, str]:
    """Return the object or dict that holds the function to patch, and the function's name or key in it."""
    if patch.attribute.endswith("]"):
        return registries().get(patch.attribute, {}), "func"
    *path, name = patch.attribute.split(".")
    holder: Any = sys.modules[patch.module]
    for step in path:
        holder = getattr(holder, step, None)
    return holder, name


def _get(holder: Any, key: str) -> Any:
    return holder.get(key) if isinstance(holder, dict) else getattr(holder, key, None)


def _set(holder: Any, key: str, value: Any) -> None:
    if isinstance(holder, dict):
        holder[key] = value
    else:
        setattr(holder, key, value)


def rebind_names(pairs: Iterable[tuple[Any, Any]]) -> None:
    """Replace objects in every imported module and in the registries, under every name; `pairs` are (old, new)."""
    new_of = {id(old): (old, new) for old, new in pairs}
    for names in (*_module_names(), *registries().values()):
        names.update([(name, new_of[id(value)][1]) for name, value in list(names.items()) if id(value) in new_of])


def other_holders(titles: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line of text for each reference to a function that cannot be patched.

    Such references are held by lists, partials, closures and classes, rather than by modules or registries. `titles`
    maps each function's title in the line to the function.
    """
    known = {id(names) for names in (*_module_names(), *registries().values(), titles)}
    title_of = {id(function): title for title, function in titles.items()}
    for holder in gc.get_referrers(*titles.values()):
        if id(holder) in known or isinstance(holder, FrameType):
            continue
        for held in gc.get_referents(holder):
            if id(held) in title_of:
                yield f"{title_of[id(held)]} is held by a {type(holder).__name__}"


def _module_names() -> Iterator[dict[str, Any]]:
    for module in list(sys.modules.values()):
        if issubclass(type(module), ModuleType):  # isinstance() is fooled by cffi's libraries
            # not vars(): it would load a module that is loaded on first use
            yield object.__getattribute__(module, "__dict__")
