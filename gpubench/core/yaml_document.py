"""YAML documents whose values know their file and line, which error messages name."""

from __future__ import annotations

import os
from collections.abc import Collection
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubench.core.errors import InputError, close_matches

if TYPE_CHECKING:
    import yaml

_KINDS = {
    "tag:yaml.org,2002:null": "nothing",
    "tag:yaml.org,2002:bool": "a boolean",
    "tag:yaml.org,2002:int": "a number",
    "tag:yaml.org,2002:float": "a number",
    "tag:yaml.org,2002:timestamp": "a date",
}


def read_document(path: str | os.PathLike[str], argument: str) -> Value:
    """Read a YAML file with a single document; error messages call the file `argument`.

    Raises InputError if the file cannot be read, is not YAML, or is empty.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{argument} {str(path)!r} is not text in UTF-8 ({error.reason}); save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{argument} {str(path)!r} cannot be read: {error.strerror}; check the path") from error
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)  # the C loader is faster, but optional
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: this is not YAML: {error.problem}; correct that line") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}; correct it") from error
    if node is None:
        raise InputError(f"{argument} {str(path)!r} is empty; add its content")
    return Value(node, loader, str(path))


class Value:
    """Value of a YAML file: a mapping, a list or a scalar. Its methods raise InputError for values of other kinds."""

    def __init__(self, node: Any, loader: yaml.SafeLoader, file: str) -> None:
        self._node = node
        self._loader = loader
        self._file = file

    @property
    def where(self) -> str:
        """File and line of the value, such as "run.yaml:7"."""
        return f"{self._file}:{self._node.start_mark.line + 1}"

    @property
    def is_mapping(self) -> bool:
        """Whether the value is a mapping."""
        return self._kind == "mapping"

    @property
    def is_list(self) -> bool:
        """Whether it is a list."""
        return self._kind == "sequence"

    @property
    def _kind(self) -> str:
        return str(self._node.id)

    def error(self, message: str) -> InputError:
        """Return an InputError whose message begins with the file and line of this value."""
        return InputError(f"{self.where}: {message}")

    def mapping(self, known: Collection[str] | None = None, what: str = "key") -> dict[str, Value]:
        """Return a mapping as key -> value, in the order of the file.

        Keys must be text and unique. If `known` is given, they must be among these. Error messages call a key `what`.
        """
        if not self.is_mapping:
            raise self.error(f"expected a mapping, lines of '{what}: ...', not {self._described()}")
        found: dict[str, Value] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in self._node.value:
            key = Value(key_node, self._loader, self._file)
            name = key.text(what)
            if known is not None and name not in known:
                raise key.error(f"{what} {name!r} is unknown{close_matches(name, known)}")
            if name in found:
                raise key.error(f"{what} {name!r} is repeated (first in line {lines[name]})")
            found[name] = Value(value_node, self._loader, self._file)
            lines[name] = key_node.start_mark.line + 1
        return found

    def items(self) -> list[Value]:
        """Return the items of a list; for any other value, a list that contains only this value."""
        if not self.is_list:
            return [self]
        return [Value(node, self._loader, self._file) for node in self._node.value]

    def text(self, what: str) -> str:
        """Return the value as non-empty text; numbers, dates and booleans are refused unless quoted.

        Error messages call the value `what`.
        """
        value = self.plain()
        if isinstance(value, str) and value:
            return value
        hint = "; put it in quotes" if isinstance(value, bool | int | float | date) else ""
        raise self.error(f"{what} must be a text, not {self._described()}{hint}")

    def written(self, what: str) -> str:
        """Return a scalar as it is spelled in the file, without YAML's conversion; error messages call it `what`."""
        if self._kind != "scalar":
            raise self.error(f"{what} must be a text, not {self._described()}")
        return str(self._node.value)

    def plain(self) -> Any:
        """Return the value converted to Python objects; InputError if it has a tag that safe YAML does not allow."""
        import yaml

        try:
            return self._loader.construct_object(self._node, deep=True)
        except (yaml.YAMLError, ValueError) as error:
            reason = getattr(error, "problem", None) or str(error)
            raise self.error(f"this cannot be read as YAML: {' '.join(reason.split())}; correct it") from error

    def _described(self) -> str:
        if self._kind != "scalar":
            return f"a {'list' if self.is_list else 'mapping'}"
        kind = _KINDS.get(self._node.tag)
        return f"{kind} ({self._node.value})" if kind and self._node.value else kind or repr(self._node.value)
