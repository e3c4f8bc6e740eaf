"""Replace functions of other packages under every name that refers to them, and restore them."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import Any

from gpubench.accel.calls import Function, dispatcher, same_parameters


@dataclass(frozen=True, slots=True)
class Patch:
    """Function of another package, and its replacement.

    Attributes
    ----------
    module, attribute : where it is defined; the attribute may be a method, "Class.method", or an entry of a registry,
        "registry[key]", see `registries`
    ours : takes a `Start` and the arguments of the original, by name
    covers : takes some of these arguments; returns why `ours` does not cover them, or None
    name : in the report; by default module and attribute
    """

    module: str
    attribute: str
    ours: Function
    covers: Function
    name: str = ""

    @property
    def title(self) -> str:
        """The name in the report."""
        return self.name or f"{self.module}.{self.attribute}"

    @property
    def everywhere(self) -> bool:
        """Whether other names of the function are patched too; methods and entries of registries have none."""
        return self.attribute.isidentifier()

    def replace(self, original: Any) -> Any:
        """Make the replacement; None where the parameters of the original are not the known ones."""
        if not same_parameters(original, self.ours):
            return None
        return dispatcher.replacement(self.title, original, self.ours, self.covers)


@dataclass(frozen=True, slots=True)
class LocalName:
    """Name in one module that is bound to another object, in that module only.

    Attributes
    ----------
    module, attribute : the name
    value : makes the new object from the old
    """

    module: str
    attribute: str
    value: Callable[[Any], Any]
    everywhere = False

    @property
    def title(self) -> str:
        """The name in messages."""
        return f"{self.module}.{self.attribute}"

    def replace(self, original: Any) -> Any:
        """Make the replacement."""
        return self.value(original)


@dataclass(frozen=True, slots=True)
class Applied:
    """Patch that is applied, with the original and the replacement."""

    patch: Patch | LocalName
    original: Any
    replacement: Any


def registries() -> Mapping[str, dict[str, Any]]:
    """Return czbenchmarks' registry of metrics as "metrics_registry[id]" -> attributes; empty before its import."""
    module = sys.modules.get("czbenchmarks.metrics.implementations")
    registry = getattr(module, "metrics_registry", None)
    if registry is None:
        return {}
    infos = {kind: registry.get_info(kind) for kind in registry.list_metrics()}
    return {f"metrics_registry[{kind.value}]": vars(info) for kind, info in infos.items()}


def read(patch: Patch | LocalName) -> Any:
    """Return the object at the patch's target, or None."""
    return _get(*_find(patch))


def replace(patch: Patch | LocalName) -> Applied | None:
    """Apply a patch; return None where the function does not exist or takes other parameters."""
    holder, key = _find(patch)
    original = _get(holder, key)
    replacement = None if original is None else patch.replace(original)
    if replacement is None:
        return None
    _set(holder, key, replacement)
    return Applied(patch, original, replacement)


def restore(done: Applied) -> None:
    """Restore the original."""
    _set(*_find(done.patch), done.original)


def _find(patch: Patch | LocalName) -> tuple[Any, str]:
    """Return the holder of the patch's target and its name there."""
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
    """Rebind every name of every module, and every entry of the registries, from old objects to new ones."""
    new_of = {id(old): (old, new) for old, new in pairs}
    for names in (*_module_names(), *registries().values()):
        names.update([(name, new_of[id(value)][1]) for name, value in list(names.items()) if id(value) in new_of])


def other_holders(titles: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each holder of a function other than modules and registries: lists, partials, closures, classes.

    Parameters
    ----------
    titles : title of each function -> the function
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
