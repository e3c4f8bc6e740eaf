"""The parity suite: the real cz-benchmarks and gpubench, side by side on the same files.

It needs an environment with the extra `parity`. Elsewhere it is skipped as a whole; with --require-parity a missing
cz-benchmarks is an error. Modules whose `SUITE` is "parity-perturbation" compare with cell-eval and cell-eval2 instead,
which need the extra of that name; with --require-parity-perturbation missing ones are an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from cells import make_cells
from parity import peer, peer_perturbation

COLUMNS = {
    "synthetic": {"label": "label", "batch": "batch", "time": "time"},
    "pbmc3k": {"label": "cell_type"},
    "celllines_5batch": {"label": "cell_type", "batch": "batch"},
    "worm_embryo": {"label": "cell_type", "batch": "batch", "time": "time_rank"},
}
"""The columns of each file, by what they are to gpubench."""


@dataclass(frozen=True)
class Case:
    """A file that both score, its cells as cz-benchmarks takes them, and the names of its columns."""

    path: Path
    cells: anndata.AnnData
    columns: dict[str, str]


def cases_with(column: str) -> pytest.MarkDecorator:
    """Run a test on every file that has this column."""
    names = [name for name, columns in COLUMNS.items() if column in columns]
    return pytest.mark.parametrize("case", names, indirect=True, scope="session")


SUITES = {
    "parity": {"cz-benchmarks": peer.VERSION},
    "parity-perturbation": peer_perturbation.VERSIONS,
}
"""Extra of pyproject.toml -> the packages that its tests compare with, and their versions."""


def pytest_addoption(parser: pytest.Parser) -> None:
    for suite, packages in SUITES.items():
        missing = f"a missing {' or '.join(packages)} is an error, not a skip"
        parser.addoption(f"--require-{suite}", action="store_true", help=missing)


@pytest.fixture(scope="module", autouse=True)
def _the_real_ones(request: pytest.FixtureRequest) -> None:
    """Skip the tests of a module without the packages they need, or fail: `SUITE` of a module names its extra."""
    suite = getattr(request.module, "SUITE", "parity")
    reason = next(filter(None, (_why_not(suite, *package) for package in SUITES[suite].items())), None)
    if reason and request.config.getoption(f"--require-{suite}", default=False):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


def _why_not(suite: str, package: str, wanted: str) -> str | None:
    remedy = f"these tests run in an environment of their own: pip install '.[cpu,test,{suite}]'"
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return f"{package} is not installed; {remedy}"
    return None if version == wanted else f"{package} is {version}, not {wanted}; {remedy}"


@pytest.fixture(scope="session")
def case(request: pytest.FixtureRequest) -> Case:
    """One of `COLUMNS`."""
    if request.param == "synthetic":
        path: Path = request.getfixturevalue("synthetic_file")
    else:
        path = request.getfixturevalue("shared_data") / f"{request.param}.h5ad"
    return Case(path, anndata.read_h5ad(path), COLUMNS[request.param])


@pytest.fixture(scope="session")
def synthetic_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,200 cells of 8 labels, the smallest below the ten cells that label prediction asks for.

    No copies of cells: among copies scanpy takes the first for the cell itself, and Leiden's answer moves with it.
    """
    cells = make_cells(1200, 16, n_labels=8, n_batches=3, duplicates=0, seed=1)
    obs = pd.DataFrame({"label": _categories("type", cells.label), "batch": _categories("donor", cells.batch)})
    obs["time"] = cells.time
    return _write(cells.x, obs, tmp_path_factory.mktemp("parity") / "synthetic.h5ad")


@pytest.fixture(scope="session")
def two_species_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two species, the second shifted, of 30 donors each; a sample is a donor's cells of one label."""
    cells = make_cells(960, 12, n_labels=3, n_batches=2, duplicates=0, seed=2)
    donor = np.random.default_rng(3).integers(0, 30, 960)
    obs = pd.DataFrame({"label": _categories("type", cells.label)})
    obs["species"] = np.array(["human", "mouse"])[cells.batch]
    obs["donor"] = [f"{name} {i}" for name, i in zip(obs["species"], donor, strict=True)]
    obs["sample"] = [f"{a} {b} {c}" for a, b, c in zip(obs["species"], cells.label, donor, strict=True)]
    return _write(cells.x, obs, tmp_path_factory.mktemp("parity") / "two_species.h5ad")


def _categories(prefix: str, codes: np.ndarray) -> pd.Categorical:
    return pd.Categorical([f"{prefix} {code}" for code in codes])


def _write(x: np.ndarray, obs: pd.DataFrame, path: Path) -> Path:
    obs.index = [f"cell {i}" for i in range(len(obs))]
    anndata.AnnData(obs=obs, obsm={"X_pca": x}).write_h5ad(path)
    return path


CLASSIFIER_TOLERANCE = {"lr": 2e-3, "knn": 2e-3, "rf": 0.01}
MEAN_TOLERANCE = 5e-3
FOREST_ERRORS = 4
"""Standard errors by which forests may differ where that is more: theirs and ours are grown independently."""


def assert_same_mean(found: Sequence[float], expected: Sequence[float], classifier: str) -> None:
    """The means over the seeds agree; `classifier` is one of the three, or their mean."""
    allowed = CLASSIFIER_TOLERANCE.get(classifier, MEAN_TOLERANCE)
    if classifier not in ("lr", "knn"):
        error = np.std(np.subtract(found, expected), ddof=1) / np.sqrt(len(found))
        allowed = max(allowed, FOREST_ERRORS * float(error))
    assert np.mean(found) == pytest.approx(np.mean(expected), abs=allowed), classifier
