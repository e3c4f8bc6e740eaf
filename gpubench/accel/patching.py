"""Putting a replacement in the place of another package's function, wherever that is held, and taking it out again."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import Any

from gpubench.accel.calls import Function, same_parameters, stand_in


@dataclass(frozen=True, slots=True)
class Patch:
    """One function of another package, and what runs in its place.

    Attributes
    ----------
    module, attribute : where it is defined; the attribute may be a method, "Class.method", or an entry of a table,
        "table[key]", for which the target says where the table is
    ours : takes a `Start` and the arguments of the original, by name
    covers : takes the arguments of the original; says why `ours` does not cover them, or None
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
        """Whether other names of the function are patched too; methods and entries of tables have no others."""
        return self.attribute.isidentifier()

    def replace(self, original: Any) -> Any:
        """Make the replacement, or None where the original takes other parameters than the one that we know."""
        return stand_in(self.title, original, self.ours, self.covers) if same_parameters(original, self.ours) else None


@dataclass(frozen=True, slots=True)
class LocalName:
    """A name of one module that is bound to something of our own there, and nowhere else.

    Attributes
    ----------
    module, attribute : the name
    value : makes what it is bound to from what it was
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
    """A patch that is in place."""

    patch: Patch | LocalName
    original: Any
    replacement: Any


Tables = Callable[[], Mapping[str, dict[str, Any]]]
"""Where a package keeps functions apart from its modules: "table[key]" -> the dict that holds it as "func"."""


def read(patch: Patch | LocalName, tables: Tables) -> Any:
    """What stands now where a patch belongs, or None."""
    return _get(*_find(patch, tables))


def apply(patch: Patch | LocalName, tables: Tables) -> Applied | None:
    """Put a replacement in place; None where it has none: the function is gone, or takes other parameters."""
    holder, key = _find(patch, tables)
    original = _get(holder, key)
    replacement = None if original is None else patch.replace(original)
    if replacement is None:
        return None
    _set(holder, key, replacement)
    return Applied(patch, original, replacement)


def restore(done: Applied, tables: Tables) -> None:
    """Put the original back."""
    _set(*_find(done.patch, tables), done.original)


def _find(patch: Patch | LocalName, tables: Tables) -> tuple[Any, str]:
    """The holder of what is patched, and its name there."""
    if patch.attribute.endswith("]"):
        return tables().get(patch.attribute, {}), "func"
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


def swap_names(pairs: Iterable[tuple[Any, Any]], tables: Tables) -> None:
    """Let every name of every module, and every entry of the tables, that is bound to the old be bound to the new."""
    new_of = {id(old): (old, new) for old, new in pairs}
    for names in (*_module_names(), *tables().values()):
        found = [(name, new_of[id(value)][1]) for name, value in list(names.items()) if id(value) in new_of]
        names.update(found)


def held_elsewhere(titles: Mapping[str, Any], tables: Tables) -> Iterator[str]:
    """Say what holds functions besides the names of modules and the tables: lists, partials, closures, classes.

    Parameters
    ----------
    titles : title of each function -> the function
    """
    known = {id(names) for names in (*_module_names(), *tables().values(), titles)}
    title_of = {id(function): title for title, function in titles.items()}
    for holder in gc.get_referrers(*titles.values()):
        if id(holder) in known or isinstance(holder, FrameType):
            continue
        for held in gc.get_referents(holder):
            if id(held) in title_of:
                yield f"{title_of[id(held)]} is held by a {type(holder).__name__}"


def _module_names() -> Iterator[dict[str, Any]]:
    for module in list(sys.modules.values()):
        if issubclass(type(module), ModuleType):  # isinstance() believes what cffi's libraries say of themselves
            # not vars(): a module that is loaded on first use would be loaded by it
            yield object.__getattribute__(module, "__dict__")
