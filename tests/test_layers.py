"""The architecture: imports point one way, heavy packages come in by their own doors, kernels have twins and tests."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

import gpubench

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = Path(gpubench.__file__).parent

# From the lowest to the highest: a package may import itself and those above it in this list, also inside functions.
LAYERS = (
    "core",
    "data",
    "datasets",
    "engines",
    "metrics",
    "auditing",
    "tasks",
    "results",
    "comparison",
    "accel",
    "reporting",
    "standings",
    "running",
    "training",
    "profiling",
    "cli",
    "__init__",
    "__main__",
)

# package -> where alone it may be imported
DOORS = {
    "anndata": "data/**",
    "cudf": "engines/cuda/*",
    "cugraph": "engines/cuda/*",
    "cuml": "engines/cuda/*",
    "cupy": "engines/cuda/*",
    "cuvs": "engines/cuda/*",
    "dask": "engines/dask/*",
    "distributed": "engines/dask/*",
    "faiss": "engines/c*/*",
    "h5py": "data/**",
    "igraph": "engines/cpu/*",
    "networkit": "engines/cpu/*",
    "lightning": "training/lightning.py",
    "pylibcugraph": "engines/cuda/*",
    "pytorch_lightning": "training/lightning.py",
    "torch": "training/*",
    "torchmetrics": "training/torchmetrics.py",
    "transformers": "training/transformers.py",
    "zarr": "data/**",
}

HEAVY = {
    "anndata",
    "cupy",
    "dask",
    "distributed",
    "faiss",
    "h5py",
    "igraph",
    "networkit",
    "jinja2",
    "matplotlib",
    "numba",
    "pandas",
    "platformdirs",
    "pyarrow",
    "requests",
    "rich",
    "scipy",
    "sklearn",
    "torch",
    "transformers",
    "yaml",
}


def layer_of(module: str) -> int:
    """The layer of "gpubench.data.matrices", or of "gpubench" itself."""
    top = [*module.split("."), "__init__"][1]
    assert top in LAYERS, f"give {module} its place in LAYERS"
    return LAYERS.index(top)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from ((node.lineno, imported(node.module or "", alias.name)) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from ((node.lineno, arg.value) for arg in node.args if isinstance(arg, ast.Constant))


def imported(module: str, name: str) -> str:
    """What `from module import name` loads: from gpubench itself a module of it, else the module named."""
    is_module = module == "gpubench" and ((PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file())
    return f"{module}.{name}" if is_module else module


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    own = layer_of(".".join(["gpubench", *path.relative_to(PACKAGE).with_suffix("").parts]))
    for line, name in imports(path):
        if name.split(".")[0] == "gpubench":
            assert layer_of(name) <= own, f"{path}:{line} imports {name}, which is in a higher layer"


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_heavy_packages_have_one_door(path: Path) -> None:
    here = path.relative_to(PACKAGE).as_posix()
    for line, name in imports(path):
        door = DOORS.get(name.split(".")[0])
        assert door is None or fnmatch(here, door), f"{here}:{line} imports {name}; only {door} may"


def test_the_walk_sees_every_kind_of_import(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "import a.b\n"
        "def f():\n"
        "    from c import d, e\n"
        "    importlib.import_module('g')\n"
        "    from gpubench import engines, InputError\n"
    )
    names = [name for _, name in imports(tmp_path / "a.py")]
    assert sorted(names) == ["a.b", "c", "c", "g", "gpubench", "gpubench.engines"]


MAX_FILE_LINES = 500
MIN_PRIVATE_LINES = 60
"""A module with one importer is a part of it unless it has as many lines."""

MAX_FLOORS = 12
DOORS_OF_THE_PACKAGE = {"__init__", "__main__"}


def module_name(path: Path) -> str:
    return ".".join(["gpubench", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")


def import_graph() -> dict[str, set[str]]:
    """Module of gpubench -> the modules of gpubench that it imports, at its top or inside functions."""
    paths = {module_name(path): path for path in modules()}
    graph: dict[str, set[str]] = {name: set() for name in paths}
    for name, path in paths.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names if alias.name in paths}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gpubench":
                full = (f"{node.module}.{alias.name}" for alias in node.names)
                graph[name] |= {other if other in paths else str(node.module) for other in full}
        graph[name].discard(name)
    return graph


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that import each other, directly or through others."""
    reached: dict[str, set[str]] = {}
    for name, direct in graph.items():
        seen: set[str] = set()
        waiting = list(direct)
        while waiting:
            other = waiting.pop()
            if other not in seen:
                seen.add(other)
                waiting.extend(graph[other])
        reached[name] = seen
    groups = [frozenset(o for o in reached[name] if name in reached[o]) for name in graph if name in reached[name]]
    return [set(group) for group in dict.fromkeys(groups)]


@pytest.mark.slow
def test_modules_import_in_no_circle() -> None:
    assert circles(import_graph()) == []


def test_a_circle_is_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == [{"b", "c"}]


def test_packages_stand_on_few_floors() -> None:
    packages: dict[str, set[str]] = {name: set() for name in LAYERS}
    for name, others in import_graph().items():
        own, *rest = ([*module.split("."), "__init__"][1] for module in (name, *others))
        packages[own] |= {other for other in rest if other != own}
    floors: dict[str, int] = {}
    for name in LAYERS:  # the packages below come first
        floors[name] = 1 + max((floors[other] for other in packages[name]), default=0)
    assert max(floors.values()) <= MAX_FLOORS


def test_the_package_has_few_doors() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == DOORS_OF_THE_PACKAGE


def test_files_are_short_enough_to_read() -> None:
    lines = {path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines()) for path in modules()}
    assert {name: n for name, n in lines.items() if n > MAX_FILE_LINES} == {}


def test_small_modules_with_one_importer_are_part_of_it() -> None:
    graph = import_graph()
    small = []
    for path in modules():
        name, n = module_name(path), len(path.read_text().splitlines())
        importers = [other for other, imported_ in graph.items() if name in imported_]
        if n < MIN_PRIVATE_LINES and len(importers) == 1 and path.stem not in DOORS_OF_THE_PACKAGE:
            small.append(f"{name} ({n} lines) is imported by {importers[0]} alone")
    assert small == []


def test_class_names_are_unique() -> None:
    places: dict[str, list[str]] = {}
    for path in modules():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module_name(path))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


DEVICES = re.compile(
    r"cupy|cuda|cpu|gpu(?!bench)|nvidia|igraph|faiss|cuml|cugraph|engine\.(name|gpu|device)\b", re.IGNORECASE
)


def mentions_of_devices(text: str) -> list[str]:
    """Lines that name a device, without the examples of docstrings, which choose an engine as users do."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if DEVICES.search(line) and not line.startswith(">>> ")]


@pytest.mark.parametrize(
    "path",
    [path for path in modules() if path.relative_to(PACKAGE).parts[0] in ("metrics", "tasks")],
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)
def test_metrics_and_tasks_are_the_same_code_on_every_engine(path: Path) -> None:
    assert mentions_of_devices(path.read_text()) == []


@pytest.mark.parametrize("line", ['if engine.name == "cuda":', "import cupy as cp", 'engine == "cpu"', "x.GPU"])
def test_a_branch_for_one_engine_is_seen(line: str) -> None:
    assert mentions_of_devices(f"a = 1\n    {line}\n") == [line]


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    "module",
    [
        "",
        ".accel",
        ".datasets",
        ".engines",
        ".metrics",
        ".tasks",
        ".results.result",
        ".running.score",
        ".data",
        ".training.monitor",
    ],
)
def test_importing_loads_nothing_heavy(module: str) -> None:
    loaded = run_python(f"import sys, gpubench{module}; print(*sys.modules)").split()
    assert f"gpubench{module}" in loaded
    assert not HEAVY & set(loaded)


def test_importing_is_fast() -> None:
    code = "import time; begin = time.perf_counter(); import gpubench; print(time.perf_counter() - begin)"
    seconds = statistics.median(float(run_python(code)) for _ in range(5))
    # 0.3 s is what users are promised. A busy machine may take twice as long, and a heavy package takes longer still.
    assert seconds < 0.6


def missing_of_kernels(repository: Path) -> list[str]:
    """What kernels/*.cu lack: a CPU twin and a test file, both of the kernel's name."""
    twins = {
        node.name
        for package in ("common", "cpu")
        for path in (repository / "gpubench" / "engines" / package).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    missing = []
    for kernel in sorted((repository / "kernels").glob("*.cu")):
        test = Path("tests", "kernels", f"test_{kernel.stem}.py")
        if kernel.stem not in twins:
            missing.append(f"{kernel.name}: no function {kernel.stem} in gpubench/engines/{{common,cpu}}/*")
        if not (repository / test).is_file():
            missing.append(f"{kernel.name}: no {test.as_posix()}")
    return missing


def test_every_kernel_has_twin_and_test() -> None:
    assert missing_of_kernels(REPOSITORY) == []


def test_a_kernel_without_twin_or_test_is_seen(tmp_path: Path) -> None:
    for folder in ("kernels", "gpubench/engines/cpu", "tests/kernels"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "gpubench/engines/cpu/kernels.py").write_text("def has_both(): ...\ndef has_twin(): ...\n")
    for name in ("has_both", "has_twin", "has_test"):
        (tmp_path / f"kernels/{name}.cu").touch()
    for name in ("has_both", "has_test"):
        (tmp_path / f"tests/kernels/test_{name}.py").touch()
    assert missing_of_kernels(tmp_path) == [
        "has_test.cu: no function has_test in gpubench/engines/{common,cpu}/*",
        "has_twin.cu: no tests/kernels/test_has_twin.py",
    ]
