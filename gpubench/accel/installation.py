"""Install patches into packages, both those imported already and those imported later, and remove them."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from importlib import metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from gpubench.accel import czbenchmarks, scib, silhouettes
from gpubench.accel.calls import logger
from gpubench.accel.patching import Applied, LocalName, Patch, other_holders, read, rebind_names, replace, restore
from gpubench.accel.startup import LAZY_IMPORTS, gc_paused, lazy_imports
from gpubench.core.errors import InputError, close_matches
from gpubench.engines import get_engine


class ImportHook(MetaPathFinder):
    """Import hook that calls a function when one of some modules has been executed, before names are imported from it.

    Parameters
    ----------
    modules : names of the modules
    executed : called with the name of the module
    """

    def __init__(self, modules: Collection[str], executed: Callable[[str], None]) -> None:
        self._modules = frozenset(modules)
        self._executed = executed

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the module by the other finders, and wrap its execution."""
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


TARGETS: dict[str, tuple[Patch | LocalName, ...]] = {
    # czbenchmarks takes its silhouettes from scib_metrics
    "czbenchmarks": (*czbenchmarks.PATCHES, *silhouettes.SCIB_PATCHES),
    "scib_metrics": (*silhouettes.SCIB_PATCHES, *scib.PATCHES),
    "sklearn": silhouettes.SKLEARN_PATCHES,
}


VERSIONS = {
    "czbenchmarks": ("cz-benchmarks", (0, 15), (0, 15)),
    "scib_metrics": ("scib-metrics", (0, 5), (0, 5)),
    "sklearn": ("scikit-learn", (1, 5), (1, 9)),
}
"""Package -> its name on PyPI, and the first and last version that the patches are tested with."""


def check_version(package: str) -> None:
    """Warn if the installed version of a package is not one of the tested versions."""
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


class Installation:
    """Patches of some targets, applied as their modules are imported.

    Attributes
    ----------
    targets : names of packages
    engine : name of the engine
    verbose : whether each call is logged

    Raises
    ------
    InputError, EngineUnavailable
        If a target is unknown, or as `get_engine`.
    """

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
        packages = {module.partition(".")[0] for module in modules}
        lazy = {module for module in LAZY_IMPORTS if module.partition(".")[0] in packages}
        self._hook = ImportHook(modules | packages | lazy, self._apply_to)

    def apply(self) -> None:
        """Patch the modules that are imported already, under every name, and hook the imports of the others."""
        if self.verbose:
            logger.setLevel(logging.INFO)
            if not logger.hasHandlers():
                logger.addHandler(logging.StreamHandler())
        imported = [patch for patch in self._patches if patch.module in sys.modules]
        originals = {patch.title: read(patch) for patch in imported if patch.everywhere}
        unreached = dict.fromkeys(other_holders(originals)) if originals else ()
        for module in dict.fromkeys(patch.module for patch in imported):
            self._apply_to(module)
        rebind_names([(done.original, done.replacement) for done in self._applied if done.patch.everywhere])
        for where in unreached:
            logger.warning("%s since before gpubench.accel was installed; calls through it are not accelerated", where)
        sys.meta_path.insert(0, self._hook)

    def remove(self) -> None:
        """Restore all originals."""
        sys.meta_path.remove(self._hook)
        for done in self._applied:
            restore(done)
        rebind_names([(done.replacement, done.original) for done in self._applied if done.patch.everywhere])
        self._applied.clear()

    def _apply_to(self, module: str) -> None:
        package = module.partition(".")[0]
        patches = [patch for patch in self._patches if patch.module == module]
        if patches and package not in self._checked:
            self._checked.add(package)
            check_version(package)
        for patch in patches:
            done = replace(patch)
            if done is None:
                logger.warning("%s is not patched: it differs in this version of %s", patch.title, package)
            else:
                self._applied.append(done)
