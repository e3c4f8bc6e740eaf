"""Installation of patches under every name, and their removal."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
from cells import Cells

from gpubench import accel
from gpubench.accel import installation
from gpubench.accel.calls import dispatcher
from gpubench.core.errors import InputError

NAME = "sklearn.metrics.silhouette_samples"


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """Remove patches, counts and earlier warnings before and after each test."""
    accel.uninstall()
    dispatcher.reset()
    yield
    accel.uninstall()
    accel.report().clear()


def test_install_and_uninstall() -> None:
    original = [sklearn.metrics.silhouette_samples]
    accel.install("sklearn", engine="cpu")
    assert sklearn.metrics.silhouette_samples is not original[0]
    assert sklearn.metrics.cluster.silhouette_samples is sklearn.metrics.silhouette_samples
    accel.uninstall()
    assert sklearn.metrics.silhouette_samples is original[0]
    assert sklearn.metrics.cluster.silhouette_samples is original[0]
    accel.uninstall()


def test_replacement_has_name_and_docstring_of_the_original() -> None:
    original = [sklearn.metrics.silhouette_samples]
    accel.install("sklearn", engine="cpu")
    replacement = sklearn.metrics.silhouette_samples
    for name in ("__name__", "__module__", "__qualname__", "__doc__"):
        assert getattr(replacement, name) == getattr(original[0], name)
    assert pickle.loads(pickle.dumps(replacement)) is replacement


def test_names_imported_before_are_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    user = types.ModuleType("users_module")
    user.asw = sklearn.metrics.silhouette_samples  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "users_module", user)
    original = [user.asw]
    accel.install("sklearn", engine="cpu")
    assert user.asw is sklearn.metrics.silhouette_samples is not original[0]
    accel.uninstall()
    assert user.asw is original[0]


class NoModule:
    """Object that pretends to be a module, as libraries of cffi do."""

    __slots__ = ()
    __class__ = types.ModuleType


def test_object_that_pretends_to_be_a_module_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "a_library", NoModule())
    assert isinstance(sys.modules["a_library"], types.ModuleType)
    accel.install("sklearn", engine="cpu")
    accel.uninstall()


@pytest.mark.parametrize("hold", [lambda f: [f], partial, lambda f: {"asw": f}], ids=["list", "partial", "dict"])
def test_unreachable_references_are_named_in_a_warning(hold, caplog: pytest.LogCaptureFixture) -> None:
    held = hold(sklearn.metrics.silhouette_samples)
    accel.install("sklearn", engine="cpu")
    (record,) = caplog.records
    assert f"{NAME} is held by a {type(held).__name__}" in record.message


def test_no_warning_if_all_references_are_patched(caplog: pytest.LogCaptureFixture) -> None:
    accel.install(engine="cpu")
    assert not caplog.records


def test_installing_again_changes_the_options() -> None:
    original = [sklearn.metrics.silhouette_samples]
    accel.install("sklearn", engine="cpu")
    accel.install([], engine="cpu")
    assert sklearn.metrics.silhouette_samples is original[0]


def test_accelerated_installs_for_a_block() -> None:
    original = [sklearn.metrics.silhouette_samples]
    with accel.accelerated("sklearn", "cpu") as report:
        assert sklearn.metrics.silhouette_samples is not original[0]
        assert report is accel.report()
    assert sklearn.metrics.silhouette_samples is original[0]


def test_accelerated_restores_the_previous_installation() -> None:
    original = [sklearn.metrics.silhouette_samples]
    accel.install("sklearn", engine="cpu")
    with accel.accelerated([]):
        assert sklearn.metrics.silhouette_samples is original[0]
    assert sklearn.metrics.silhouette_samples is not original[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "sklaern"}, "did you mean 'sklearn'"),
        ({"targets": ["x"]}, "there are: 'czbenchmarks', 'scib_metrics', 'sklearn', 'cell_eval', 'cell_eval2'"),
        ({"engine": "gpu"}, "engine='gpu' is unknown"),
    ],
)
def test_wrong_options_raise_and_change_nothing(options, message) -> None:
    accel.install("sklearn", engine="cpu")
    installed = [sklearn.metrics.silhouette_samples]
    with pytest.raises(InputError, match=message):
        accel.install(**options)
    assert sklearn.metrics.silhouette_samples is installed[0]
    installed[0]([[0.0], [1.0], [5.0], [6.0]], [0, 0, 1, 1])
    assert NAME in accel.report()


def test_untested_version_gives_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(installation.VERSIONS, "sklearn", ("scikit-learn", (0, 1), (0, 2)))
    with pytest.warns(UserWarning, match=r"tested with scikit-learn 0\.1 to 0\.2, but"):
        accel.install("sklearn", engine="cpu")


def test_function_with_other_parameters_is_not_patched(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def silhouette_samples(X, labels, *, metric="euclidean", weights=None, **kwds):
        return None

    monkeypatch.setattr("sklearn.metrics.cluster._unsupervised.silhouette_samples", silhouette_samples)
    accel.install("sklearn", engine="cpu")
    assert sklearn.metrics.cluster._unsupervised.silhouette_samples is silhouette_samples
    assert f"{NAME} is not patched" in caplog.text


def test_reference_held_after_uninstall_calls_the_original(small_cells: Cells) -> None:
    accel.install("sklearn", engine="cpu")
    held = [sklearn.metrics.silhouette_samples]
    accel.uninstall()
    held[0](small_cells.x, small_cells.label)
    assert len(accel.report()) == 0


def test_verbose_logs_each_call(small_cells: Cells, caplog: pytest.LogCaptureFixture) -> None:
    accel.install("sklearn", engine="cpu", verbose=True)
    logging.getLogger("gpubench.accel").setLevel(logging.INFO)
    sklearn.metrics.silhouette_samples(small_cells.x, small_cells.label)
    assert f"{NAME}: cpu, " in caplog.text


def run_python(*args: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, check=False, **options)


def test_installing_imports_nothing_that_is_patched() -> None:
    code = "import sys, gpubench.accel as a; a.install(engine='cpu'); print(*sys.modules)"
    loaded = run_python("-W", "error", "-c", code).stdout.split()
    assert "gpubench.accel" in loaded
    assert not {"sklearn", "scib_metrics", "czbenchmarks", "pandas", "jax"} & set(loaded)


@pytest.mark.slow
def test_later_imports_are_patched() -> None:
    code = (
        "import gpubench.accel as a; a.install(engine='cpu')\n"
        "from sklearn.metrics import silhouette_samples, silhouette_score\n"
        "silhouette_score([[0.], [1.], [5.], [6.]], [0, 0, 1, 1])\n"
        "print(a.report()); a.uninstall(); print(silhouette_samples.__module__)"
    )
    assert f"{NAME}: 1 on cpu" in run_python("-c", code).stdout


SCRIPT = """\
import sys
from sklearn.metrics import silhouette_score
if __name__ == "__main__":
    print(sys.argv[1:], round(silhouette_score([[0.], [1.], [5.], [6.]], [0, 0, 1, 1]), 3))
    sys.exit(3)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [["users_script.py"], ["-m", "users_script"]], ids=["script", "module"])
def test_command_runs_a_script_or_module(tmp_path: Path, how: list[str]) -> None:
    (tmp_path / "users_script.py").write_text(SCRIPT)
    alone = run_python(*how, "--a", "b", cwd=tmp_path)
    ours = run_python("-m", "gpubench.accel", "--engine", "cpu", "--report", *how, "--a", "b", cwd=tmp_path)
    assert alone.stdout == ours.stdout == "['--a', 'b'] 0.798\n"
    assert alone.returncode == ours.returncode == 3
    assert f"{NAME}: 1 on cpu" in ours.stderr


def test_command_with_unknown_engine_fails() -> None:
    done = run_python("-m", "gpubench.accel", "--engine", "gpu", "script.py")
    assert done.returncode == 2
    assert "engine='gpu' is unknown" in done.stderr


@pytest.mark.slow
def test_new_process_has_the_original(small_cells: Cells) -> None:
    from joblib import Parallel, delayed

    accel.install("sklearn", engine="cpu")
    there = Parallel(n_jobs=2)(
        delayed(sklearn.metrics.silhouette_samples)(small_cells.x, small_cells.label) for _ in range(2)
    )
    assert len(accel.report()) == 0  # counted in this process
    here = sklearn.metrics.silhouette_samples(small_cells.x, small_cells.label)
    np.testing.assert_allclose(there, [here, here], atol=1e-5)


def test_notebook_extension_installs_and_uninstalls() -> None:
    original = [sklearn.metrics.silhouette_samples]
    accel.load_ipython_extension(None)
    assert sklearn.metrics.silhouette_samples is not original[0]
    accel.unload_ipython_extension(None)
    assert sklearn.metrics.silhouette_samples is original[0]


@pytest.mark.slow
def test_pytest_plugin_installs_and_reports(tmp_path: Path) -> None:
    (tmp_path / "test_users.py").write_text(
        "from sklearn.metrics import silhouette_score\n"
        "def test_it(): assert silhouette_score([[0.], [1.], [5.], [6.]], [0, 0, 1, 1]) > 0.7\n"
    )
    arguments = ("-m", "pytest", "-p", "gpubench.accel.pytest_plugin", "--accel-engine", "cpu", "test_users.py")
    done = run_python(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert f"{NAME}: 1 on cpu" in done.stdout


def test_engine_is_exact_unless_the_original_approximates() -> None:
    accel.install([], engine="cpu")
    (exact, approximate), ours = dispatcher.run("two engines", lambda start: (start(seed=7), start(exact=False)), list)
    assert ours
    assert (exact.policy.max_exact_pair_dims, exact.policy.knn_method, exact.seed) == (np.inf, "exact", 7)
    assert approximate.policy.knn_method == "auto"
