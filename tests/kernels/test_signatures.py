"""The signatures agree with kernels/*.cu as a compiler reads them, with their headers and with the README."""

from __future__ import annotations

import inspect
import re
from importlib import import_module

import pytest
from kernels.emulator import NotCompiled

from gpubench.engines.cuda import kernels
from gpubench.engines.cuda.signatures import KERNEL_DIR, KERNELS, NO_CANDIDATE

C_TYPES = {
    "float32": "float",
    "float64": "double",
    "int32": "int",
    "int64": "long long",
    "uint8": "unsigned char",
    "uint64": "unsigned long long",
}

LAUNCHES = {
    "silhouette_tile": (64, {}, 8448),
    "topk_update": (96, {}, 3072),
    "rerank": (64, {"size": 64}, 768),
    "search_exactly": (32, {"size": 128, "together": 3}, 4620),
    "neighbor_entropy": (96, {"bins": 64}, 768),
    "neighbor_value_distance": (96, {}, 0),
    "fuzzy_memberships": (96, {}, 0),
    "symmetrise": (96, {}, 0),
    "rank": (96, {}, 0),
    "group_means": (256, {}, 2048),
    "rank_sums": (96, {}, 0),
}
"""Kernel -> threads per block, scalars, and the bytes of shared memory that its header promises for these."""

names = pytest.mark.parametrize("name", sorted(KERNELS))


def source_file(name: str) -> str:
    return (KERNEL_DIR / f"{name}.cu").read_text()


def test_table_has_every_source() -> None:
    assert {path.stem for path in KERNEL_DIR.glob("*.cu")} == set(KERNELS) == set(LAUNCHES)


def assertion_of_types(name: str, types: list[str]) -> str:
    return f"static_assert(std::is_same_v<decltype(&{name}), void (*)({', '.join(types)})>);\n"


def declared_types(name: str) -> list[str]:
    """The C++ types of the arguments according to the signature; the const of pointers as in the source."""
    types = []
    for parameter in KERNELS[name].parameters:
        is_const = re.search(rf"\bconst [\w ]+\*(?: __restrict__)? {parameter.name}\b", source_file(name))
        types.append(f"{'const ' if is_const else ''}{C_TYPES[parameter.dtype]}{'*' if parameter.is_array else ''}")
    return types


@names
def test_signature_has_the_types_that_the_compiler_sees(compiler, name) -> None:
    compiler.executable(name, kernels.source(name) + assertion_of_types(name, declared_types(name)), "address")


def test_signature_of_wrong_types_is_refused_by_the_compiler(compiler) -> None:
    first, *others = declared_types("rank")
    assert first == "const double*"
    text = kernels.source("rank") + assertion_of_types("rank", ["const float*", *others])
    with pytest.raises(NotCompiled, match="static assertion failed"):
        compiler.executable("rank", text, "address")


@names
def test_table_names_arguments_only(name) -> None:
    kernel = KERNELS[name]
    arrays = [parameter.name for parameter in kernel.parameters if parameter.is_array]
    scalars = {parameter.name for parameter in kernel.parameters if not parameter.is_array}
    assert list(kernel.shapes) == arrays
    assert set(kernel.ranges) <= scalars
    assert set(kernel.aligned) <= set(arrays)
    strides = {scalar.removesuffix("_stride") for scalar in scalars if scalar.endswith("_stride")}
    assert strides <= set(arrays)
    assert kernel.block_threads <= kernel.max_threads


@names
def test_shared_memory_is_what_the_header_promises(name) -> None:
    threads, scalars, n_bytes = LAUNCHES[name]
    kernel = KERNELS[name]
    assert kernel.shared_bytes(scalars | kernel.block_sizes(threads)) == n_bytes
    assert ("DYNAMIC_SHARED" in source_file(name)) == (n_bytes > 0)


@names
def test_header_describes_launch_and_arrays(name) -> None:
    header = source_file(name).partition("\n\n")[0]
    for heading in ("Shapes", "Launch", "Bytes", "Twin"):
        assert re.search(rf"^// {heading} ", header, re.MULTILINE), f"{name}.cu: no {heading} in its header"
    for array in KERNELS[name].shapes:
        assert re.search(rf"\b{array}\b", header), f"{name}.cu: its header does not mention {array}"


@names
def test_twin_is_where_the_header_says(name) -> None:
    pattern = rf"^// Twin\s+{name} in (gpubench/engines/[\w/]+)\.py$"
    path = re.search(pattern, source_file(name), re.MULTILINE)[1]
    module = import_module(path.replace("/", "."))
    classes = [value for _, value in inspect.getmembers(module, inspect.isclass) if value.__module__ == module.__name__]
    twins = [vars(owner)[name] for owner in (module, *classes) if name in vars(owner)]
    assert len(twins) == 1
    assert callable(twins[0])


def test_readme_lists_every_kernel() -> None:
    rows = re.findall(r"^\| `(\w+)` ", (KERNEL_DIR / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(KERNELS)


def test_no_candidate_is_the_same_on_both_sides() -> None:
    assert f"NO_CANDIDATE = {int(NO_CANDIDATE):#x}ull" in kernels.source("rerank")
