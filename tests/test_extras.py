"""The extras of the CUDA engine resolve: one set of versions satisfies them all. Nothing is downloaded but metadata.

uv is asked for every Python. pip resolves in minutes, as it downloads what has no metadata of its own, so it is asked
only where RESOLVE_WITH_PIP is set in the environment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
MANYLINUX = (*(f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)), "manylinux2014_x86_64")
PYTHONS = ("3.11", "3.12", "3.13")

# What uv says where the index cannot be reached, in its own words.
NO_NETWORK = ("Failed to fetch", "error sending request", "dns error", "network connectivity is disabled")


def resolve_with_uv(python: str, *extras: str) -> dict[str, str]:
    """Versions by name that uv chooses for this project with some extras."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    options = ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28"]
    wanted = [part for extra in extras for part in ("--extra", extra)]
    command = [
        uv,
        "pip",
        "compile",
        ROOT / "pyproject.toml",
        *wanted,
        *options,
        "--quiet",
        "--no-header",
        "--no-annotate",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    if done.returncode and any(words in done.stderr for words in NO_NETWORK):
        pytest.skip(f"no package index: {done.stderr.strip().splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", done.stdout, re.MULTILINE))


def resolve_with_pip(python: str, *extras: str) -> dict[str, str]:
    """Versions by name that pip chooses for this project with some extras."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [
        *project["dependencies"],
        *(name for extra in extras for name in project["optional-dependencies"][extra]),
    ]
    platforms = [part for platform in MANYLINUX for part in ("--platform", platform)]
    target = [
        "--python-version",
        python,
        "--implementation",
        "cp",
        *platforms,
        "--only-binary=:all:",
        "--target",
        "none",
    ]
    report = ["--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    command = [sys.executable, "-m", "pip", "install", *report, *target, *required]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return {item["metadata"]["name"]: item["metadata"]["version"] for item in json.loads(done.stdout)["install"]}


def check(versions: dict[str, str], cuda: str, *more: str) -> None:
    """Releases only, one of RAPIDS, a numba that works with the chosen NumPy, and at most one faiss and one CUDA."""
    beta = re.compile(r"[0-9](a|b|rc|\.dev)[0-9]")
    assert [f"{name} {version}" for name, version in versions.items() if beta.search(version)] == []
    names = *(f"{name}-cu{cuda}" for name in ("cuml", "cuvs", "libcuvs", "pylibcugraph", "libcugraph")), *more
    assert len({versions[name].rpartition(".")[0] for name in names}) == 1
    assert as_numbers(versions[f"cupy-cuda{cuda}x"]) >= (14, 2)
    assert as_numbers(versions["numba"]) >= (0, 64)
    assert f"nvidia-cuda-nvrtc-cu{cuda}" in versions or "nvidia-cuda-nvrtc" in versions
    # faiss-cpu and faiss-gpu write the same files, which of them remain is chance
    assert [name for name in versions if name.startswith("faiss")] == (["faiss-gpu"] if cuda == "12" else [])
    if cuda == "12":
        assert as_numbers(versions["faiss-gpu"]) >= (1, 15)
    else:
        assert [name for name in versions if name.startswith("nvidia-cublas")] == ["nvidia-cublas"]


def as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("cuda", ["12", "13"])
def test_cuda_extras_resolve_with_uv_to_releases_that_fit(cuda: str, python: str) -> None:
    more = ("dask", "dask-cuda", "remote", "test") if python == "3.12" else ()
    check(resolve_with_uv(python, f"cuda{cuda}", *more), cuda, *(["dask-cuda"] if more else []))


@pytest.mark.slow
@pytest.mark.parametrize("cuda", ["12", "13"])
def test_extras_of_cpu_and_gpu_resolve_together_with_one_faiss(cuda: str) -> None:
    versions = resolve_with_uv("3.12", "cpu", f"cuda{cuda}")
    check(versions, cuda)
    assert "networkit" in versions


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("RESOLVE_WITH_PIP"), reason="pip takes minutes; set RESOLVE_WITH_PIP")
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("cuda", ["12", "13"])
def test_cuda_extras_resolve_with_pip_to_releases_that_fit(cuda: str, python: str) -> None:
    check(resolve_with_pip(python, f"cuda{cuda}"), cuda)


@pytest.mark.parametrize("cuda", ["cuda12", "cuda13"])
def test_bounds_of_the_cuda_extras_leave_out_faulty_releases(cuda: str) -> None:
    """CuPy before 14.2 counts many bins out of bounds; numba before 0.64 does not import with NumPy 2.5."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"][cuda]
    lowest = {name: bound for text in extra for name, bound in re.findall(r"^([\w-]+)>=([\d.]+)", text)}
    assert tuple(map(int, lowest[f"cupy-{cuda}x"].split("."))) >= (14, 2)
    assert tuple(map(int, lowest["numba"].split("."))) >= (0, 64)
