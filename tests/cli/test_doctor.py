"""The doctor says what works, what to install, and whether scoring works."""

from __future__ import annotations

import importlib.metadata
from types import SimpleNamespace

import pytest

from gpubench.cli import doctor
from gpubench.cli.doctor import Finding, blocks, examine, works
from gpubench.core import machine
from gpubench.core.errors import EngineUnavailable
from gpubench.engines import knn_methods
from gpubench.results.table import to_text


def find(about: str) -> Finding:
    """The finding about one thing."""
    return next(finding for finding in examine() if finding.about == about)


def test_scoring_works_here() -> None:
    findings = examine()
    assert works(findings)
    assert find("engine cpu").state == "works"
    text = to_text(blocks(findings))
    assert text.endswith("Scoring works here.")
    assert text.isprintable() or all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.parametrize("error", [ImportError("no igraph"), OSError("bad library"), EngineUnavailable("no device")])
def test_a_broken_engine_is_named(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(doctor, "get_engine", fail)
    findings = examine()
    assert not works(findings)
    assert find("engine cpu").state == "broken"
    assert str(error) in find("engine cpu").text
    assert to_text(blocks(findings)).endswith("Scoring does not work here: see the broken items above.")


def test_a_missing_package_comes_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn_methods, "find_spec", lambda _: None)
    finding = find("faiss, engine cpu")
    assert finding.state == "missing"
    assert finding.text == (
        "for --knn ivf and --knn faiss: faiss, which is not installed; "
        'install it with: pip install "gpubench-sc[faiss]"'
    )
    assert find("pynndescent, engine cpu").text.endswith("pip install pynndescent")
    assert works(examine()), "a package that only makes things faster is not needed"


def test_libraries_of_the_neighbor_search_are_named_with_their_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn_methods, "find_spec", lambda _: True)
    monkeypatch.setattr(machine, "package_version", {"faiss-gpu": "1.15.1"}.get)
    expected = Finding("faiss, engine cpu", "works", "faiss-gpu 1.15.1; for --knn ivf and --knn faiss")
    assert find("faiss, engine cpu") == expected


def test_two_packages_of_faiss_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "package_version", {"faiss-gpu": "1.15.1", "faiss-cpu": "1.15.1"}.get)
    finding = find("faiss")
    assert finding.state == "missing"
    assert works([finding])
    assert finding.text == (
        "faiss-cpu and faiss-gpu are both installed and own the same module; uninstall all of them, then install "
        "faiss-gpu, which serves the CPU as well"
    )


@pytest.mark.parametrize(
    ("about", "package", "extra"), [("engine dask", "distributed", "dask"), ("URLs", "fsspec", "remote")]
)
def test_missing_dask_and_fsspec_come_with_the_command_that_installs_them(
    about: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "package_version", {package: "2.0"}.get)
    assert find(about).state == "works"
    assert find(about).text.startswith(f"{package} 2.0; for ")
    monkeypatch.setattr(machine, "package_version", {}.get)
    assert find(about).state == "missing"
    assert find(about).text.endswith(f'pip install "gpubench-sc[{extra}]"')
    assert works([find(about)])


def test_missing_tiles_come_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.compiled, "available", lambda: ("avx2", "generic"))
    expected = Finding("compiled tiles", "works", "avx2; for faster neighbour search, silhouettes and random forests")
    assert find("compiled tiles") == expected
    monkeypatch.setattr(doctor.compiled, "available", tuple)
    assert find("compiled tiles").state == "missing"
    assert "C++ compiler" in find("compiled tiles").text


def test_every_package_named_is_in_an_extra_that_exists() -> None:
    requires = importlib.metadata.requires(machine.DISTRIBUTION) or []
    for package in doctor.OPTIONAL:
        assert any(line.startswith(package.name) and f"extra == '{package.extra}'" in line for line in requires), (
            package
        )


def test_without_a_driver_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_cuda_driver_version", lambda: None)
    assert find("engine cuda") == Finding(
        "engine cuda", "missing", "no NVIDIA driver on this machine; the CPU engine is used"
    )


def test_with_a_driver_the_engine_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(name: str, **_: object) -> None:
        raise EngineUnavailable(f"{name} needs CuPy")

    monkeypatch.setattr(doctor, "_cuda_driver_version", lambda: "12.4")
    monkeypatch.setattr(machine, "run_briefly", lambda *_: "NVIDIA H200, 143771 MiB")
    monkeypatch.setattr(doctor, "get_engine", unavailable)
    assert find("engine cuda").text == "driver for CUDA 12.4, NVIDIA H200, 143771 MiB; cuda needs CuPy"


def test_a_program_that_is_missing_or_hangs_gives_nothing() -> None:
    assert machine.run_briefly("no-such-program-at-all") is None
    assert machine.run_briefly("sleep", "5", timeout_s=0.05) is None
    assert machine.run_briefly("false") is None
    assert machine.run_briefly("echo", "a") == "a"


def test_missing_cuda_modules_are_reported_with_their_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_cuda_driver_version", lambda: "12.4")
    monkeypatch.setattr(machine, "run_briefly", lambda *_: None)
    monkeypatch.setattr(doctor, "get_engine", lambda *_, **__: SimpleNamespace(device="a GPU"))
    problems = {"cuml": "cannot be imported (AttributeError: no row_stack)", "pylibcugraph": "is not installed"}
    monkeypatch.setattr(doctor, "import_problem", lambda name: problems.get(name, ""))
    reasons = {"faiss": "", "cuvs": "knn='cuvs' needs cuVS, which is not installed; install it"}
    monkeypatch.setattr(knn_methods, "why_not", lambda name, _: reasons[name])
    engine, cuml, cugraph, nvtx, faiss, cuvs = doctor._cuda()
    assert engine == Finding("engine cuda", "works", "driver for CUDA 12.4, GPU not named by nvidia-smi; a GPU")
    assert cuml == Finding(
        "cuml",
        "missing",
        "cannot be imported (AttributeError: no row_stack); random forests run on the CPU without it: "
        'pip install "gpubench-sc[cuda12]"',
    )
    assert (cugraph.state, nvtx.state) == ("missing", "works")
    assert cugraph.text.startswith("is not installed; Leiden runs on the CPU")
    assert (faiss.about, faiss.state) == ("faiss, engine cuda", "works")
    assert cuvs == Finding("cuvs, engine cuda", "missing", "for --knn cuvs: cuVS, which is not installed; install it")
