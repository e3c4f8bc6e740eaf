"""The calls of other packages in the source of the CUDA engine, found in its syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import foreign_signatures

ENGINE = Path(__file__).resolve().parents[1] / "gpubench" / "engines" / "cuda"

RETURNS = {"cupy.cuda.get_current_stream": "cupy.cuda.Stream", "cupy.get_default_memory_pool": "cupy.cuda.MemoryPool"}
"""Functions that return an object whose methods are called -> its class."""


class ForeignCall(NamedTuple):
    """A call of another package."""

    where: str  # file and line
    name: str  # what is called, such as "faiss.bfKnn"
    call: ast.Call

    def problem(self, parameters: str) -> str:
        """Return why the arguments do not fit the parameters; empty if they do."""
        starred = any(isinstance(value, ast.Starred) for value in self.call.args)
        given = [] if starred else self.call.args
        named = {keyword.arg: None for keyword in self.call.keywords if keyword.arg is not None}
        bound = foreign_signatures.signature(parameters)
        try:
            (bound.bind_partial if starred or len(named) < len(self.call.keywords) else bound.bind)(*given, **named)
        except TypeError as error:
            return f"{self.where}: {self.name}({parameters}): {error}"
        return ""


class _Finder(ast.NodeVisitor):
    """Follows the names of other packages, and of objects made by them, through one function or class."""

    def __init__(self, file: str, own: dict[str, str]) -> None:
        self.file, self.own = file, own  # text of an expression -> the foreign name that it stands for
        self.local: dict[str, str] = {}
        self.found: list[ForeignCall] = []

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self.local = self.local, dict(self.local)
        self.generic_visit(node)
        self.local = outer

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            if name.name.split(".")[0] in foreign_signatures.DISTRIBUTIONS:
                self.local[name.asname or name.name.split(".")[0]] = name.name

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if module.split(".")[0] in foreign_signatures.DISTRIBUTIONS:
            self.local.update({name.asname or name.name: f"{module}.{name.name}" for name in node.names})

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            for to, value in pairs:
                self._bind(to, value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            self._bind(node.target, node.value)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        name = self._name(node.func)
        if name and "." in name:
            self.found.append(ForeignCall(f"{self.file}:{node.lineno}", name, node))

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        name, text = self._name(value), ast.unparse(target)
        if isinstance(value, ast.Call) and name is not None and not _is_class(name):
            return  # a result, such as an array
        if name is not None:
            (self.own if text.startswith("self.") else self.local)[text] = name

    def _name(self, node: ast.expr) -> str | None:
        """Return the foreign name that an expression stands for; None if it is none."""
        text = ast.unparse(node)
        known = self.local.get(text) or self.own.get(text)
        if known:
            return known
        if isinstance(node, ast.Attribute):
            if node.attr in ("xp", "_xp"):
                return "cupy"
            inner = self._name(node.value)
            return None if inner is None else f"{inner}.{node.attr}"
        if isinstance(node, ast.IfExp):
            return self._name(node.body)
        if isinstance(node, ast.Call):
            return "nvtx" if text == "import_module('nvtx')" else self._result(node)
        return {"xp": "cupy", "rmm": "rmm"}.get(text)

    def _result(self, call: ast.Call) -> str | None:
        """Return the class of what a call returns, which for functions of CuPy is an array; None if unknown."""
        name = self._name(call.func)
        if name is None or _is_class(name):
            return name
        return RETURNS.get(name, "cupy.ndarray" if name.startswith("cupy.") else None)


def _is_class(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last[:1].isupper() or last == "ndarray"


def foreign_calls() -> Iterator[ForeignCall]:
    """Yield all calls of other packages in the engine."""
    for path in sorted(ENGINE.glob("*.py")):
        tree = ast.parse(path.read_text())
        of_class: dict[str, dict[str, str]] = {}
        for node in tree.body:
            own: dict[str, str] = {}
            if isinstance(node, ast.ClassDef):
                for base in node.bases:
                    own |= of_class.get(ast.unparse(base), {})
                of_class[node.name] = own
            _Finder(path.name, own).visit(node)  # finds what attributes stand for in all methods
            finder = _Finder(path.name, own)
            finder.visit(node)
            yield from finder.found


def cupy_functions() -> set[str]:
    """Return the names of everything of CuPy that is called."""
    return {call.name for call in foreign_calls() if call.name.startswith("cupy.")}
