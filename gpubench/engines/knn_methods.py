"""The methods of the neighbour search, in one table: which engine has which, by which package, and what limits it.

Engines, `gpubench doctor`, the option `knn`, its completion, error messages and the documentation read this table. A
method may only be used if `why_not` finds nothing against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from gpubench.core import machine
from gpubench.core.errors import InputError

FAISS_ON_GPU = ("faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cuvs")
"""Distributions of faiss that have its GPU functions; its CPU functions are in them as well."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A method as one engine has it.

    Attributes
    ----------
    by : what proposes the candidates: a package or gpubench
    limits : what it cannot do; empty if nothing
    module : module that it imports; empty if it is gpubench's own
    install : what `pip install` needs to be given for it
    distributions : names on PyPI of the packages that bring the module
    """

    by: str = "gpubench"
    limits: str = ""
    module: str = ""
    install: str = ""
    distributions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KnnMethod:
    """A method of the neighbour search, by Euclidean distance.

    Attributes
    ----------
    about : how it finds candidates
    backends : name of an engine -> how the engine has it
    exact : whether all neighbours are the true ones; otherwise their recall is measured and reported
    """

    about: str
    backends: Mapping[str, Backend]
    exact: bool = False


_FAISS_CPU = Backend(
    "faiss", module="faiss", install='"gpubench-sc[faiss]"', distributions=("faiss-cpu", *FAISS_ON_GPU)
)

KNN_METHODS: Mapping[str, KnnMethod] = {
    "exact": KnnMethod(
        "every cell with every cell",
        {"cpu": Backend(), "cuda": Backend(limits="k ≤ 1,792")},
        exact=True,
    ),
    "leaves": KnnMethod(
        "cells of overlapping leaves, then neighbours of neighbours, until the recall is 0.95",
        {"cpu": Backend(limits="needs a C++ compiler at installation")},
    ),
    "ivf": KnnMethod(
        "an inverted file: cells of the nearest lists",
        {"cpu": _FAISS_CPU, "cuda": Backend(limits="k ≤ 1,791")},
    ),
    "faiss": KnnMethod(
        "every cell with every cell in float32 where `auto` is exact, above that an inverted file",
        {
            "cpu": _FAISS_CPU,
            "cuda": Backend(
                "faiss-gpu",
                "k ≤ 1,791; its packages are for CUDA 12",
                module="faiss",
                install='"gpubench-sc[cuda12]"',
                distributions=FAISS_ON_GPU,
            ),
        },
    ),
    "cuvs": KnnMethod(
        "every cell with every cell in float32 where `auto` is exact, above that NN-descent in float32",
        {
            "cuda": Backend(
                "cuVS",
                "k ≤ 1,791; NN-descent takes no seed, so runs may differ",
                module="cuvs",
                install='"gpubench-sc[cuda12]" or "gpubench-sc[cuda13]"',
                distributions=("cuvs-cu12", "cuvs-cu13"),
            )
        },
    ),
    "nn_descent": KnnMethod(
        "NN-descent",
        {
            "cpu": Backend(
                "pynndescent",
                "one thread",
                module="pynndescent",
                install="pynndescent",
                distributions=("pynndescent",),
            )
        },
    ),
}
"""Name of a method -> what it is; "auto" chooses among them."""

KNN_CHOICES = ("auto", *KNN_METHODS)
"""Values of the option `knn`."""

AUTOMATIC: Mapping[str, tuple[str, ...]] = {"cpu": ("leaves", "ivf"), "cuda": ("ivf", "faiss")}
"""Engine -> approximate methods that "auto" tries in this order, where an exact search would take too long.

The fastest is first; on a GPU that is an estimate, until they are timed on one. NN-descent of cuVS is not among them,
because it may find other neighbours in each run.
"""


def offered_by(engine: str) -> tuple[str, ...]:
    """Return the names of the methods that an engine has; the engine "dask" has those of its workers' engines."""
    engines = ("cpu", "cuda") if engine == "dask" else (engine,)
    return tuple(name for name, method in KNN_METHODS.items() if any(each in method.backends for each in engines))


def why_not(name: str, engine: str, is_right: Callable[[str], bool] | None = None) -> str:
    """Return why an engine may not use a method, and the remedy; empty if it may.

    `is_right` says whether a method was found right on this machine, see `Engine.verified`; it is called last, for a
    method that is installed. Whether a method fits the memory is for the engine to decide. A module is imported only on
    the GPU, where faiss must be the right one; on the CPU it only has to be found.
    """
    backend = KNN_METHODS[name].backends.get(engine)
    if backend is None:
        engines = " or ".join(repr(each) for each in KNN_METHODS[name].backends)
        return f"knn={name!r} needs the engine {engines}; the engine {engine!r} has: {', '.join(offered_by(engine))}"
    if name == "leaves":
        from gpubench.engines.cpu import compiled

        return "" if compiled.load() else f"knn={name!r} needs the compiled tiles; see: gpubench doctor"
    problem = _missing(backend, engine)
    remedy = f"install it with: pip install {backend.install}"
    if backend.module == "faiss":
        remedy = faiss_conflict() or remedy
    if problem:
        return f"knn={name!r} needs {backend.by}, which {problem}; {remedy}"
    return "" if is_right is None or is_right(name) else f"knn={name!r} is wrong on this machine"


def require(name: str, engine: str) -> None:
    """Check that a method that the user has named may be used; "auto" always may.

    Raises
    ------
    InputError
        The engine does not have the method, or its package is missing or broken; the message says what to install.
    """
    reason = "" if name == "auto" else why_not(name, engine)
    if reason:
        raise InputError(reason, argument="knn")


def first_usable(engine: str, fits: Callable[[str], bool], is_right: Callable[[str], bool] | None = None) -> str:
    """Return the first approximate method that "auto" may use and that fits; "exact" if there is none.

    See `why_not` for `is_right`.
    """
    return next((name for name in AUTOMATIC[engine] if fits(name) and not why_not(name, engine, is_right)), "exact")


def _missing(backend: Backend, engine: str) -> str:
    """Return what is wrong with the module of a backend; empty if nothing."""
    if not backend.module:
        return ""
    if engine != "cuda":
        return "" if find_spec(backend.module) else "is not installed"
    from gpubench.engines.cuda.library_knn import library_problem

    return library_problem(backend.module)


def faiss_conflict() -> str:
    """Return a message if faiss-cpu and a faiss for GPUs are both installed; else an empty string."""
    on_gpu = [name for name in FAISS_ON_GPU if machine.package_version(name)]
    if not on_gpu or not machine.package_version("faiss-cpu"):
        return ""
    both = f"faiss-cpu and {' and '.join(on_gpu)} are both installed and own the same module"
    return f"{both}; uninstall all of them, then install {on_gpu[0]}, which serves the CPU as well"


def table_rows() -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the rows of the table in the documentation: name, candidates, engine, package, limits."""
    for name, method in KNN_METHODS.items():
        found = method.about + ("" if method.exact else "; recall measured")
        for engine, backend in method.backends.items():
            package = "" if not backend.module else f"{backend.by}: `{backend.install.replace(chr(34), '')}`"
            yield f"`{name}`", found, engine, package, backend.limits
