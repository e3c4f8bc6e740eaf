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
    "tasks",
    "results",
    "comparison",
    "accel",
    "reporting",
    "running",
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
    "pylibcugraph": "engines/cuda/*",
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
    ["", ".accel", ".datasets", ".engines", ".metrics", ".tasks", ".results.result", ".running.score", ".data"],
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
