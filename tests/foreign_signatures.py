"""Signatures of the functions of other packages that the CUDA engine calls, read from their sources without a GPU.

Most of these packages do not import without a GPU, and are too large to install for a test, so their signatures are
recorded in foreign_signatures.json, with the versions. Where a package is installed, its own files are read instead.
To record again, from folders into which wheels were unpacked, with CuPy importable:

    python tests/foreign_signatures.py FOLDER...
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

RECORDED = Path(__file__).with_name("foreign_signatures.json")

DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "cupy": ("cupy-cuda12x", "cupy-cuda13x"),
    "cuml": ("cuml-cu12", "cuml-cu13"),
    "cuvs": ("cuvs-cu12", "cuvs-cu13"),
    "pylibcugraph": ("pylibcugraph-cu12", "pylibcugraph-cu13"),
    "rmm": ("rmm-cu12", "rmm-cu13"),
    "faiss": ("faiss-gpu",),
    "cuda": ("cuda-bindings",),
    "nvtx": ("nvtx",),
}
"""Package -> distributions that bring it."""

_FAISS, _RMM = "faiss/swigfaiss.py", "rmm/pylibrmm/memory_resource/_memory_resource.pyx"
_CUVS, _CUML = "cuvs/neighbors", "cuml/ensemble/randomforestclassifier.py"
_REGRESSION, _NEIGHBORS = "cuml/linear_model/logistic_regression", "cuml/neighbors/kneighbors_classifier.pyx"

SOURCES: dict[str, tuple[str, str]] = {
    "faiss.StandardGpuResources": (_FAISS, "StandardGpuResources.__init__"),
    "faiss.StandardGpuResources.setTempMemory": (_FAISS, "StandardGpuResources.setTempMemory"),
    "faiss.StandardGpuResources.setDefaultStream": (_FAISS, "StandardGpuResources.setDefaultStream"),
    "faiss.GpuDistanceParams": (_FAISS, "GpuDistanceParams.__init__"),
    "faiss.GpuIndexIVFFlatConfig": (_FAISS, "GpuIndexIVFFlatConfig.__init__"),
    "faiss.GpuIndexIVFFlat": (_FAISS, "GpuIndexIVFFlat.__init__"),
    "faiss.GpuIndexIVFFlat.train_c": (_FAISS, "GpuIndexIVFFlat.train"),
    "faiss.GpuIndexIVFFlat.add_c": (_FAISS, "GpuIndex.add"),
    "faiss.GpuIndexIVFFlat.search_c": (_FAISS, "GpuIndex.search"),
    "faiss.bfKnn": (_FAISS, "bfKnn"),
    "faiss.cast_integer_to_cudastream_t": (_FAISS, "cast_integer_to_cudastream_t"),
    "faiss.cast_integer_to_float_ptr": (_FAISS, "cast_integer_to_float_ptr"),
    "faiss.cast_integer_to_idx_t_ptr": (_FAISS, "cast_integer_to_idx_t_ptr"),
    "cuvs.common.Resources": ("cuvs/common/resources.pyx", "Resources.__cinit__"),
    "cuvs.common.Resources.sync": ("cuvs/common/resources.pyx", "Resources.sync"),
    "cuvs.neighbors.brute_force.build": (f"{_CUVS}/brute_force/brute_force.pyx", "build"),
    "cuvs.neighbors.brute_force.search": (f"{_CUVS}/brute_force/brute_force.pyx", "search"),
    "cuvs.neighbors.nn_descent.IndexParams": (f"{_CUVS}/nn_descent/nn_descent.pyx", "IndexParams.__init__"),
    "cuvs.neighbors.all_neighbors.AllNeighborsParams": (
        f"{_CUVS}/all_neighbors/all_neighbors.pyx",
        "AllNeighborsParams.__init__",
    ),
    "cuvs.neighbors.all_neighbors.build": (f"{_CUVS}/all_neighbors/all_neighbors.pyx", "build"),
    "cuml.ensemble.RandomForestClassifier": (_CUML, "RandomForestClassifier.__init__"),
    "cuml.ensemble.RandomForestClassifier.fit": (_CUML, "RandomForestClassifier.fit"),
    "cuml.ensemble.RandomForestClassifier.predict_proba": (_CUML, "RandomForestClassifier.predict_proba"),
    "cuml.linear_model.LogisticRegression": (f"{_REGRESSION}.py", "LogisticRegression.__init__"),
    "cuml.linear_model.LogisticRegression.fit": (f"{_REGRESSION}.py", "LogisticRegression.fit"),
    "cuml.linear_model.LogisticRegression.predict_proba": (f"{_REGRESSION}.py", "LogisticRegression.predict_proba"),
    "cuml.neighbors.KNeighborsClassifier": (_NEIGHBORS, "KNeighborsClassifier.__init__"),
    "cuml.neighbors.KNeighborsClassifier.fit": (_NEIGHBORS, "KNeighborsClassifier.fit"),
    "cuml.neighbors.KNeighborsClassifier.predict_proba": (_NEIGHBORS, "KNeighborsClassifier.predict_proba"),
    "cuml.metrics.cluster.silhouette_samples": (
        "cuml/metrics/cluster/silhouette_score.pyx",
        "cython_silhouette_samples",
    ),
    "pylibcugraph.ResourceHandle": ("pylibcugraph/resource_handle.pyx", "ResourceHandle.__cinit__"),
    "pylibcugraph.GraphProperties": ("pylibcugraph/graph_properties.pyx", "GraphProperties.__cinit__"),
    "pylibcugraph.SGGraph": ("pylibcugraph/graphs.pyx", "SGGraph.__cinit__"),
    "pylibcugraph.leiden": ("pylibcugraph/leiden.pyx", "leiden"),
    "rmm.mr.get_per_device_resource": (_RMM, "get_per_device_resource"),
    "rmm.mr.set_per_device_resource": (_RMM, "set_per_device_resource"),
    "rmm.mr.CudaAsyncViewMemoryResource": (_RMM, "CudaAsyncViewMemoryResource.__cinit__"),
    "cuda.bindings.runtime.cudaMemPool_t": ("cuda/bindings/driver.pyx", "CUmemoryPool.__cinit__"),
    "nvtx.push_range": ("nvtx/nvtx.py", "push_range"),
    "nvtx.pop_range": ("nvtx/nvtx.py", "pop_range"),
}
"""Function or class -> the file that defines it, and its name there. CuPy's are found by importing it."""

ATTRIBUTES: dict[str, tuple[str, dict[str, str]]] = {
    "faiss.GpuDistanceParams": (
        _FAISS,
        dict.fromkeys(
            (
                *("metric", "k", "dims", "vectors", "vectorType", "vectorsRowMajor", "numVectors", "queries"),
                *(
                    "queryType",
                    "queriesRowMajor",
                    "numQueries",
                    "outDistances",
                    "outIndicesType",
                    "outIndices",
                    "device",
                ),
            ),
            "GpuDistanceParams",
        ),
    ),
    "faiss.GpuIndexIVFFlat": (_FAISS, {"cp": "Level1Quantizer", "nprobe": "IndexIVFInterface"}),
    "faiss.GpuIndexIVFFlatConfig": (_FAISS, {"device": "GpuIndexConfig"}),
}
"""Class -> its file, and each attribute that the engine sets with the class that has it."""


def body_of(source: str, name: str) -> str:
    """Return the text of a class or function and what follows it."""
    found = re.search(rf"^ *(?:cdef |cpdef |def |class )+{re.escape(name)}\b", source, re.MULTILINE)
    assert found, name
    return source[found.start() :]


def parameters_in(source: str, name: str) -> str:
    """Return the parameters of a function in Python or Cython, such as "index, queries, k, neighbors=..."."""
    for part in name.split(".")[:-1]:
        source = body_of(source, part)
    source = body_of(source, name.rpartition(".")[2])
    source = re.sub(r"#[^\n]*", "", source[source.index("(") + 1 :])
    return ", ".join(_names(_split(source)))


def _split(source: str) -> Iterator[str]:
    """Yield the parameters of a list that ends at its closing parenthesis."""
    depth, begin = 0, 0
    for i, sign in enumerate(source):
        if sign in "([{":
            depth += 1
        elif sign in ")]}":
            if depth == 0:
                yield source[begin:i].strip()
                return
            depth -= 1
        elif sign == "," and depth == 0:
            yield source[begin:i].strip()
            begin = i + 1


def _names(given: Iterable[str]) -> Iterator[str]:
    for parameter in given:
        name, equals, _ = parameter.partition("=")
        name = re.sub(r"^([*\w]+)\s*:.*", r"\1", name.strip(), flags=re.DOTALL)  # without an annotation of Python
        name = name.split()[-1] if name else ""  # or a type of Cython
        if name and name != "self":
            yield name + ("=..." if equals else "")


def of_cupy(cupy: ModuleType, name: str) -> str:
    """Return the parameters of a function or class of CuPy; Cython's are in the first line of the documentation."""
    function: Any = cupy
    for part in name.split(".")[1:]:
        function = getattr(function, part)
    if type(function).__name__ == "ufunc":
        return "*args, out=..., dtype=..., casting=..."
    try:
        return ", ".join(_names(str(each) for each in inspect.signature(function).parameters.values()))
    except ValueError:
        line = (function.__doc__ or "").partition("\n")[0]
        assert "(" in line, f"{name}: {line!r}"
        return ", ".join(_names(_split(line[line.index("(") + 1 :])))


def read_source(distribution: importlib.metadata.Distribution, file: str) -> str:
    return Path(str(distribution.locate_file(file))).read_text(encoding="utf-8")


def recorded() -> dict[str, Any]:
    return dict(json.loads(RECORDED.read_text()))


def parameters(name: str) -> str:
    """Return the parameters of a function: of the installed package, else as recorded."""
    package = name.partition(".")[0]
    if package == "cupy":
        installed = importlib.util.find_spec("cupy")
        return of_cupy(importlib.import_module("cupy"), name) if installed else recorded()["cupy"]["functions"][name]
    for distribution in DISTRIBUTIONS[package]:
        try:
            found = importlib.metadata.distribution(distribution)
            return parameters_in(read_source(found, SOURCES[name][0]), SOURCES[name][1])
        except (importlib.metadata.PackageNotFoundError, FileNotFoundError):
            continue
    return str(recorded()[package]["functions"][name])


def signature(given: str) -> inspect.Signature:
    """Return a signature that arguments can be bound to."""
    names: dict[str, Any] = {}
    exec(f"def function({given.replace('=...', '=None')}): ...", names)
    return inspect.signature(names["function"])


def main(folders: list[Path], cupy_names: Iterable[str]) -> None:
    """Record the signatures of all packages."""
    found: dict[str, Any] = {}
    for package, names in DISTRIBUTIONS.items():
        if package == "cupy":
            import cupy

            functions = {name: of_cupy(cupy, name) for name in sorted(cupy_names)}
            found[package] = {"version": cupy.__version__, "functions": functions}
            continue
        (folder,) = (folder for folder in folders if any(folder.glob(f"{names[0].replace('-', '_')}-*.dist-info")))
        (metadata,) = folder.glob(f"{names[0].replace('-', '_')}-*.dist-info/METADATA")
        version = re.search(r"^Version: (.*)$", metadata.read_text(), re.MULTILINE)
        own = {name: where for name, where in SOURCES.items() if name.startswith(f"{package}.")}
        functions = {name: parameters_in((folder / file).read_text(), inner) for name, (file, inner) in own.items()}
        found[package] = {"version": version and version[1], "functions": functions}
        attributes = {
            f"{name}.{attribute}": bool(
                re.search(rf"^    {attribute} = property", body_of((folder / file).read_text(), holder), re.MULTILINE)
            )
            for name, (file, held) in ATTRIBUTES.items()
            if name.startswith(f"{package}.")
            for attribute, holder in held.items()
        }
        assert all(attributes.values()), attributes
        if attributes:
            found[package]["attributes"] = sorted(attributes)
    RECORDED.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    from foreign_calls import cupy_functions

    main([Path(folder) for folder in sys.argv[1:]], cupy_functions())
