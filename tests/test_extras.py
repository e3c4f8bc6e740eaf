"""The extras of the CUDA engine resolve: one set of versions satisfies them all. Nothing is downloaded but metadata."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLATFORM = "x86_64-manylinux_2_28"
PYTHON = "3.12"

# What uv says where the index cannot be reached, in its own words.
NO_NETWORK = ("Failed to fetch", "error sending request", "dns error", "network connectivity is disabled")


def resolve(*extras: str) -> dict[str, str]:
    """Versions by name that uv chooses for this project with some extras."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    options = ["--python-version", PYTHON, "--python-platform", PLATFORM, "--quiet", "--no-header", "--no-annotate"]
    wanted = [part for extra in extras for part in ("--extra", extra)]
    command = [uv, "pip", "compile", ROOT / "pyproject.toml", *wanted, *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    if done.returncode and any(words in done.stderr for words in NO_NETWORK):
        pytest.skip(f"no package index: {done.stderr.strip().splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", done.stdout, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.parametrize("cuda", ["12", "13"])
def test_the_cuda_extras_resolve_with_one_release_of_rapids(cuda: str) -> None:
    versions = resolve(f"cuda{cuda}", "dask", "dask-cuda", "remote", "test")
    names = *(f"{name}-cu{cuda}" for name in ("cuml", "pylibcugraph", "libcugraph")), "dask-cuda"
    releases = {versions[name].rpartition(".")[0] for name in names}
    assert len(releases) == 1
    assert f"cupy-cuda{cuda}x" in versions
    assert f"nvidia-cuda-nvrtc-cu{cuda}" in versions or "nvidia-cuda-nvrtc" in versions
