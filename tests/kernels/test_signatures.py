"""The table of signatures, kernels/*.cu, their README and their tests tell of the same kernels and arguments."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import gpubench.engines
from gpubench.engines.cuda import kernels
from gpubench.engines.cuda.signatures import KERNELS, NO_CANDIDATE, Array

SOURCES = sorted(kernels.KERNEL_DIR.glob("*.cu"))

TYPES = {
    "float32": "float",
    "float64": "double",
    "int32": "int",
    "int64": "long long",
    "uint8": "unsigned char",
    "uint64": "unsigned long long",
}
ALIASES = {"Index": "long long", "Candidate": "unsigned long long"}


def parameters_of(text: str, name: str) -> list[str]:
    """The parameters in a source, as "const float* x"."""
    pattern = rf'extern "C" __global__ void\s*__launch_bounds__\(\d+\)\s*{name}\((.*?)\)\s*{{'
    found = re.search(pattern, text, re.DOTALL)
    assert found, f"{name}: no such kernel in its file"
    words = re.sub(r"__restrict__|\s+", " ", found[1])
    for alias, meaning in ALIASES.items():
        words = re.sub(rf"\b{alias}\b", meaning, words)
    return [" ".join(parameter.split()) for parameter in words.split(",")]


def declared(parameter) -> str:
    """A parameter of the table as the source should have it."""
    if isinstance(parameter, Array):
        return f"{'' if parameter.written else 'const '}{TYPES[parameter.dtype]}* {parameter.name}"
    return f"{TYPES[parameter.dtype]} {parameter.name}"


def test_every_source_is_in_the_table() -> None:
    assert {path.stem for path in SOURCES} == set(KERNELS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_table_says_what_the_source_says(path) -> None:
    kernel = KERNELS[path.stem]
    text = path.read_text()
    assert text.count("__global__") == 1, "one kernel a file"
    assert [declared(parameter) for parameter in kernel.parameters] == parameters_of(text, path.stem)
    bound = int(re.search(r"__launch_bounds__\((\d+)\)", text)[1])
    assert bound == kernel.max_threads
    assert ("DYNAMIC_SHARED" in text) == (kernel.shared_bytes(dict.fromkeys(all_names(kernel), 1)) > 0)


def all_names(kernel) -> list[str]:
    return [parameter.name for parameter in kernel.parameters] + ["threads", "warps"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_shapes_and_strides_name_scalars(path) -> None:
    kernel = KERNELS[path.stem]
    scalars = {p.name for p in kernel.parameters if not isinstance(p, Array)}
    for array in (p for p in kernel.parameters if isinstance(p, Array)):
        assert array.stride is None or array.stride in scalars


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_header_says_what_there_is_to_know(path) -> None:
    header = path.read_text().partition("\n\n")[0]
    for heading in ("Shapes", "Launch", "Bytes", "Twin"):
        assert re.search(rf"^// {heading} ", header, re.MULTILINE), f"{path.name}: no {heading} in its header"
    for array in (p for p in KERNELS[path.stem].parameters if isinstance(p, Array)):
        assert re.search(rf"\b{array.name}\b", header), f"{path.name}: its header does not mention {array.name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_twin_is_where_the_header_says(path) -> None:
    pattern = r"^// Twin\s+(\w+) in gpubench/engines/([\w/]+\.py)$"
    name, file = re.search(pattern, path.read_text(), re.MULTILINE).groups()
    assert name == path.stem
    text = Path(gpubench.engines.__file__).parent.joinpath(file).read_text()
    assert re.search(rf"^\s*def {name}\(", text, re.MULTILINE), f"{file} has no {name}"


def test_the_readme_lists_every_kernel() -> None:
    rows = re.findall(r"^\| `(\w+)` ", (kernels.KERNEL_DIR / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(KERNELS)


def test_constants_are_the_same_on_both_sides() -> None:
    assert f"NO_CANDIDATE = {int(NO_CANDIDATE):#x}ull" in kernels.source("rerank")
