"""Every call of another package in the CUDA engine fits the signature of the real function. No GPU is needed."""

from __future__ import annotations

import ast
import re

import fake_libraries
import foreign_calls
import foreign_signatures
import pytest

CALLS = list(foreign_calls.foreign_calls())


def test_calls_are_found_in_all_ways_that_they_are_written() -> None:
    found = {call.name for call in CALLS}
    assert {
        "faiss.bfKnn",  # by a name that a local variable was given
        "faiss.GpuIndexIVFFlat.search_c",  # of an object that another method made
        "cuvs.neighbors.brute_force.search",  # of a function that an attribute holds
        "cuml.ensemble.RandomForestClassifier.fit",
        "pylibcugraph.leiden",
        "rmm.mr.set_per_device_resource",
        "cuda.bindings.runtime.cudaMemPool_t",
        "nvtx.push_range",
        "cupy.searchsorted",
        "cupy.cuda.runtime.memPoolSetAttribute",  # of a module that an attribute holds
        "cupy.cuda.Stream.synchronize",  # of what a function returns
        "cupy._core._routines_linalg.set_compute_type",
    } <= found
    assert {name.partition(".")[0] for name in found} == set(foreign_signatures.DISTRIBUTIONS)


@pytest.mark.parametrize("name", sorted({call.name for call in CALLS}))
def test_arguments_fit_the_parameters(name: str) -> None:
    package = name.partition(".")[0]
    listed = name in foreign_signatures.recorded()[package]["functions"]
    assert listed, f"{name} has no recorded signature: add it to foreign_signatures.py, and record"
    given = foreign_signatures.parameters(name)
    assert [problem for call in CALLS if call.name == name and (problem := call.problem(given))] == []


def test_nothing_is_recorded_that_is_not_called() -> None:
    recorded = {name for each in foreign_signatures.recorded().values() for name in each["functions"]}
    assert recorded == {call.name for call in CALLS}


@pytest.mark.parametrize(
    ("code", "parameters", "fits"),
    [
        ("f(a, b=1)", "a, b=..., *, c=...", True),
        ("f(a, b=1, d=2)", "a, b=..., *, c=...", False),
        ("f(a, b, c)", "a, b=..., *, c=...", False),
        ("f()", "a, b=...", False),
        ("f(*many, b=1)", "a, b=...", True),
        ("f(*many, d=1)", "a, b=...", False),
        ("f(1, 2, 3, out=x)", "*args, out=..., dtype=...", True),
    ],
)
def test_misfits_are_noticed(code: str, parameters: str, fits: bool) -> None:
    call = ast.parse(code).body[0].value  # type: ignore[attr-defined]
    assert (foreign_calls.ForeignCall("here", "f", call).problem(parameters) == "") is fits


def test_signatures_are_read_from_python_and_cython() -> None:
    source = """
cdef class Index:
    def __cinit__(self, Handle handle, int n=3,  # a comment, with commas
                  *, double[:] values=(1, 2)):
        pass


@decorated
def search(Index index,
           queries, k: int = 5, *args, filter=None) -> object:
    return f(index)
"""
    assert foreign_signatures.parameters_in(source, "Index.__cinit__") == "handle, n=..., *, values=..."
    assert foreign_signatures.parameters_in(source, "search") == "index, queries, k=..., *args, filter=..."


def test_attributes_that_faiss_is_given_exist() -> None:
    """SWIG accepts any other name as well, and it does nothing."""
    known = foreign_signatures.recorded()["faiss"]["attributes"]
    source = (foreign_calls.ENGINE / "library_knn.py").read_text()
    for variable, name in (
        ("args", "GpuDistanceParams"),
        ("index", "GpuIndexIVFFlat"),
        ("config", "GpuIndexIVFFlatConfig"),
    ):
        given = re.findall(rf"\b{variable}\.(\w+)(?:\.\w+)?(?=[^=\n]*[^=!<>]= )", source)
        assert given
        assert {f"faiss.{name}.{attribute}" for attribute in given} <= set(known)
    slots = {f"faiss.GpuDistanceParams.{slot}" for slot in fake_libraries.GpuDistanceParams.__slots__}
    assert {name for name in known if "DistanceParams" in name} <= slots
