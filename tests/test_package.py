"""What is built and shipped: the wheel, the sdist, the image, and the commands that must not drift apart."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import gpubench
from gpubench.engines.cpu import compiled

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEST_COMMAND = 'pip install ".[cpu,faiss,test]" && pytest'
DEMO_COMMAND = 'pip install ".[cpu]" && gpubench demo'


def build(source: Path, target: str, out: Path, *, tiles: bool = False) -> Path:
    """Build a "wheel" or an "sdist" of a source tree; no network, no isolation. Without tiles, the compiler fails."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(out)]
    environment = os.environ | ({} if tiles else {"CXX": "false"})
    subprocess.run(command, cwd=source, check=True, capture_output=True, env=environment)
    (built,) = out.iterdir()
    return built


def files_below(folder: Path) -> set[str]:
    """Files of the checkout by path from its root, without caches and compiled files."""
    names = {path.relative_to(ROOT).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if "__pycache__/" not in name and "/." not in name and not name.endswith(".so")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in the wheel."""
    return set(zipfile.ZipFile(build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))).namelist())


def test_wheel_holds_the_package_and_the_kernels(wheel: set[str]) -> None:
    kernels = {f"gpubench/{path}" for path in files_below(ROOT / "kernels")}
    assert kernels
    shipped = {name for name in wheel if ".dist-info/" not in name and not name.endswith(".so")}
    assert shipped == files_below(ROOT / "gpubench") | kernels
    assert {"gpubench/py.typed", "gpubench/datasets/celllines.h5ad", "gpubench/datasets/knockouts.h5ad"} <= shipped


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler")
def test_wheel_holds_the_compiled_tiles(tmp_path: Path) -> None:
    built = build(ROOT, "wheel", tmp_path, tiles=True)
    libraries = {Path(name).name for name in zipfile.ZipFile(built).namelist() if name.endswith(".so")}
    expected = {"generic.so"} | ({"avx2.so", "avx512.so"} if platform.machine() == "x86_64" else set())
    assert libraries == expected
    assert "-py3-none-" in built.name
    assert not built.name.endswith("-any.whl")


def test_a_compiler_that_fails_leaves_the_tiles_out(tmp_path: Path) -> None:
    built = build(ROOT, "wheel", tmp_path)
    assert not [name for name in zipfile.ZipFile(built).namelist() if name.endswith(".so")]
    assert built.name.endswith("-py3-none-any.whl")


def test_the_door_and_the_build_take_the_same_sources() -> None:
    build_script = (ROOT / "gpubench/engines/cpu/native/hatch_build.py").read_text()
    found = re.findall(r'"(\w+\.[ch]pp)"', build_script)
    assert sorted(found) == sorted(compiled.SOURCES)


def test_wheel_holds_the_licence(wheel: set[str]) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)


@pytest.mark.slow
def test_sdist_holds_what_developers_need(tmp_path: Path) -> None:
    with tarfile.open(build(ROOT, "sdist", tmp_path)) as archive:
        shipped = {name.partition("/")[2] for name in archive.getnames()}
    assert files_below(ROOT / "gpubench") | files_below(ROOT / "kernels") <= shipped
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", ".ci/run", "tests/reference.py"} <= shipped
    assert {"docs/report.png", "docs/first-session.md"} <= shipped


def test_version_is_the_same_everywhere() -> None:
    assert gpubench.__version__ == PROJECT["version"]


def test_readme_has_the_two_commands() -> None:
    lines = README.splitlines()
    assert DEMO_COMMAND in lines
    assert TEST_COMMAND in lines


def test_ci_runs_the_readme_test_command() -> None:
    lines = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    assert TEST_COMMAND in lines


@pytest.mark.parametrize("dockerfile", sorted((ROOT / "docker").glob("*.Dockerfile")), ids=lambda path: path.stem)
class TestImage:
    def test_installs_as_the_readme_does(self, dockerfile: Path) -> None:
        text = dockerfile.read_text()
        (installed,) = re.findall(r"^RUN (pip install \S+)$", text, re.MULTILINE)
        assert installed == {"cpu": 'pip install ".[cpu]"', "cuda": 'pip install ".[cuda${CUDA}]"'}[dockerfile.stem]
        for extra in [f"cuda{number}" for number in re.findall(r"\bCUDA=(\d+)", text)] or [dockerfile.stem]:
            assert extra in PROJECT["optional-dependencies"]

    def test_any_user_may_write_results_and_caches(self, dockerfile: Path) -> None:
        text = dockerfile.read_text()
        (folders,) = re.findall(r"install -d -m 1777 (.+)$", text, re.MULTILINE)
        variables = dict(re.findall(r"\b([A-Z_]+)=(/\S*)", "\n".join(re.findall(r"^ENV (.+)$", text, re.MULTILINE))))
        written = ["/data", *(variables[name] for name in variables if name == "HOME" or "CACHE" in name)]
        assert all(any(path == f or path.startswith(f"{f}/") for f in folders.split()) for path in written)
        assert "HOME" in variables
        assert text.index("find /cache -mindepth 1 -delete") > text.index("gpubench demo")

    def test_runs_as_a_user_and_runs_the_demo(self, dockerfile: Path) -> None:
        text = dockerfile.read_text()
        assert 0 < text.index("\nUSER gpubench\n") < text.index("\nRUN gpubench demo")

    def test_copies_what_the_build_needs(self, dockerfile: Path, tmp_path: Path, wheel: set[str]) -> None:
        source, out = tmp_path / "source", tmp_path / "out"
        source.mkdir()
        for *copied, _ in map(str.split, re.findall(r"^COPY (?!--from)(.+)$", dockerfile.read_text(), re.MULTILINE)):
            for name in copied:
                path = ROOT / name
                shutil.copytree(path, source / name) if path.is_dir() else shutil.copy(path, source)
        assert set(zipfile.ZipFile(build(source, "wheel", out)).namelist()) == wheel
