"""One install: which packages, and what is in place of them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from gpubench.accel import czbenchmarks, garbage, scib, scikit_learn
from gpubench.accel.calls import logger
from gpubench.accel.deferring import DEFERRED, deferred
from gpubench.accel.patching import Applied, LocalName, Patch, apply, held_elsewhere, read, restore, swap_names
from gpubench.core.errors import InputError, close_matches


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


TARGETS: dict[str, tuple[Patch | LocalName, ...]] = {
    # czbenchmarks takes its silhouettes from scib_metrics
    "czbenchmarks": (*czbenchmarks.PATCHES, *scib.SILHOUETTES),
    "scib_metrics": (*scib.SILHOUETTES, *scib.PATCHES),
    "sklearn": scikit_learn.PATCHES,
}


@dataclass(frozen=True, slots=True)
class Tested:
    """Versions that this is tested with.

    Attributes
    ----------
    distribution : what the package is called where it is installed from
    first, last : (major, minor), both included
    """

    distribution: str
    first: tuple[int, int]
    last: tuple[int, int]

    def __str__(self) -> str:
        first, last = (".".join(map(str, version)) for version in (self.first, self.last))
        return first if first == last else f"{first} to {last}"


VERSIONS = {
    "czbenchmarks": Tested("cz-benchmarks", (0, 15), (0, 15)),
    "scib_metrics": Tested("scib-metrics", (0, 5), (0, 5)),
    "sklearn": Tested("scikit-learn", (1, 5), (1, 9)),
}
"""Package -> versions."""


def check_version(package: str) -> None:
    """Warn of a version that this is not tested with."""
    tested = VERSIONS[package]
    version = metadata.version(tested.distribution)
    release = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if not tested.first <= release <= tested.last:
        warnings.warn(
            f"gpubench.accel is tested with {tested.distribution} {tested}, and this is {version};"
            " compare some numbers with those without it",
            stacklevel=2,
        )


def tables() -> Mapping[str, dict[str, Any]]:
    """Entries of czbenchmarks' registry of metrics: "metrics_registry[id]" -> attributes; none before its import."""
    module = sys.modules.get("czbenchmarks.metrics.implementations")
    registry = getattr(module, "metrics_registry", None)
    if registry is None:
        return {}
    infos = {kind: registry.get_info(kind) for kind in registry.list_metrics()}
    return {f"metrics_registry[{kind.value}]": vars(info) for kind, info in infos.items()}


class Installation:
    """Patches some targets, as their modules are imported.

    Attributes
    ----------
    targets : their names
    engine, verbose : as in `install`
    """

    def __init__(self, targets: Iterable[str] | None, engine: str, *, verbose: bool) -> None:
        """Check the targets.

        Raises
        ------
        InputError
            An unknown one.
        """
        self.targets = list(TARGETS) if targets is None else [targets] if isinstance(targets, str) else list(targets)
        self.engine = engine
        self.verbose = verbose
        for name in self.targets:
            if name not in TARGETS:
                raise InputError(f"targets: {name!r} is unknown{close_matches(name, TARGETS)}")
        # a target may patch what another patches too
        self._patches = list(dict.fromkeys(patch for name in self.targets for patch in TARGETS[name]))
        self._applied: list[Applied] = []
        self._checked: set[str] = set()
        modules = {patch.module for patch in self._patches}
        packages = {module.partition(".")[0] for module in modules}
        self._hook = ImportHook({*DEFERRED, *modules, *packages}, self._patch_module)

    def put_in_place(self) -> None:
        """Patch what is imported already, under every name, and wait for the rest."""
        imported = [patch for patch in self._patches if patch.module in sys.modules]
        originals = {patch.title: read(patch, tables) for patch in imported if patch.everywhere}
        unreached = dict.fromkeys(held_elsewhere(originals, tables)) if originals else ()
        for patch in imported:
            self._apply(patch)
        swap_names([(done.original, done.replacement) for done in self._applied if done.patch.everywhere], tables)
        for where in unreached:
            logger.warning("%s since before gpubench.accel was installed; calls from there run as before", where)
        sys.meta_path.insert(0, self._hook)

    def take_out(self) -> None:
        """Put all originals back."""
        sys.meta_path.remove(self._hook)
        for done in self._applied:
            restore(done, tables)
        swap_names([(done.replacement, done.original) for done in self._applied if done.patch.everywhere], tables)
        self._applied.clear()

    def _patch_module(self, module: str) -> None:
        for patch in self._patches:
            if patch.module == module:
                self._apply(patch)

    def _apply(self, patch: Patch | LocalName) -> None:
        package = patch.module.partition(".")[0]
        if package not in self._checked:
            self._checked.add(package)
            check_version(package)
        done = apply(patch, tables)
        if done is None:
            logger.warning("%s is not patched: this version of %s has another function there", patch.title, package)
        else:
            self._applied.append(done)
