"""One install: which packages, and what is in place of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from gpubench.accel.calls import logger
from gpubench.accel.deferring import DEFERRED
from gpubench.accel.importing import ImportHook
from gpubench.accel.patching import Applied, LocalName, Patch, apply, held_elsewhere, read, restore, swap_names
from gpubench.accel.targets import TARGETS, check_version, tables
from gpubench.data import close_matches
from gpubench.errors import InputError


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
