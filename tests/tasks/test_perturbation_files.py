"""Screens that are read in parts from a temporary folder get the same bits as screens in memory."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import screens
from scipy.sparse import csc_matrix, csr_matrix
from screens import COLUMN, CONTROL

import gpubench as gb
from gpubench.core import kept_results
from gpubench.data.perturbation import screens as reading
from gpubench.data.perturbation import stored_matrix
from gpubench.data.perturbation.screens import read_screen
from gpubench.data.perturbation.stored_matrix import StoredMatrix, in_batches

STORAGES: dict[str, Any] = {"dense": lambda x: x.toarray(), "csr": csr_matrix, "csc": csc_matrix}

OF_EVERY_KIND = (
    "mae,overlap_at_N,pearson_edistance,pds_cosine,de_wilcoxon_sig_jaccard,expr_mse_unbiased_capped_norm,cell_cov_corr"
)
"""Metrics that need effects, tables, E-distances, sampling variances and cells."""


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No screen fits into memory; parts have few cells, and buffers few values."""
    monkeypatch.setattr(reading, "IN_MEMORY", 1 << 40)
    monkeypatch.setattr(reading, "MIN_PART_BYTES", 40_000)
    monkeypatch.setattr(reading, "PER_PART", 1 << 40)
    monkeypatch.setattr(stored_matrix, "BUFFER_BYTES", 10_000)
    monkeypatch.setattr("gpubench.data.expression._BLOCK_VALUES", 2_000)
    return monkeypatch


def write(adata: anndata.AnnData, path: Path, storage: str) -> Path:
    stored = anndata.AnnData(STORAGES[storage](adata.X), adata.obs, adata.var, obsm=dict(adata.obsm))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stored.write_h5ad(path) if path.suffix == ".h5ad" else stored.write_zarr(path)
    return path


def score(real: Any, predicted: Any, **given: Any) -> gb.Result:
    options = {"condition": COLUMN, "control": CONTROL, "tasks": "perturbation_prediction", "engine": "cpu", **given}
    return gb.score(real, predictions=predicted, **options)


def facts(result: gb.Result) -> tuple[Any, ...]:
    rows = [(row.embedding, row.metric, row.params, row.value, row.note) for row in result.results]
    table = result.perturbations
    values = (table.prediction, table.perturbation, table.metric, table.reason, np.array(table.value).tobytes())
    return repr(rows), values, result.provenance.get("warnings"), result.provenance["dataset"]["fingerprint"]


def check(real: Path, predicted: Path, in_parts: pytest.MonkeyPatch, **given: Any) -> None:
    got = score(real, predicted, **given)
    assert isinstance(read_screen(real, "real", condition=COLUMN, memory_bytes=0).x, StoredMatrix)
    in_parts.undo()
    assert not isinstance(read_screen(real, "real", condition=COLUMN, memory_bytes=1 << 40).x, StoredMatrix)
    for mine, wanted in zip(facts(got), facts(score(real, predicted, **given)), strict=True):
        assert mine == wanted


def write_pair(folder: Path, suffix: str, storage: str, *, log: bool = False) -> tuple[Path, Path]:
    real = screens.make_screen(0, n=55)
    sides = {"real": real, "pred": screens.predict(real, n=53)}
    if log:
        sides = {name: screens.log_normalised(side) for name, side in sides.items()}
    real_path, predicted_path = (write(side, folder / f"{name}.{suffix}", storage) for name, side in sides.items())
    return real_path, predicted_path


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.parametrize("storage", STORAGES)
def test_parts_of_files_have_the_bits_of_files_in_memory(
    tmp_path: Path, in_parts: pytest.MonkeyPatch, suffix: str, storage: str
) -> None:
    check(*write_pair(tmp_path, suffix, storage), in_parts, metrics=OF_EVERY_KIND)


@pytest.mark.slow
@pytest.mark.parametrize(("profile", "log"), [("cell_eval", True), ("cell_eval", False), ("full", False)])
def test_whole_profiles_have_the_same_bits_in_parts(
    tmp_path: Path, in_parts: pytest.MonkeyPatch, profile: str, log: bool
) -> None:
    check(*write_pair(tmp_path, "h5ad", "csr", log=log), in_parts, profile=profile)


@pytest.mark.slow
def test_contexts_baselines_and_gene_order_are_the_same_in_parts(tmp_path: Path, in_parts: pytest.MonkeyPatch) -> None:
    real = screens.make_screen(0)
    predicted = screens.predict(real)[:, ::-1].copy()
    for side in (real, predicted):
        side.obs["line"] = np.where(np.arange(side.n_obs) % 3 > 0, "A", "B")
    paths = write(real, tmp_path / "real.h5ad", "csr"), write(predicted, tmp_path / "pred.h5ad", "csc")
    check(*paths, in_parts, profile="vcc2025", context="line", baseline=["mean", "control", "replicate"])


def test_parts_hold_whole_groups_and_the_folder_is_removed(tmp_path: Path, in_parts: pytest.MonkeyPatch) -> None:
    in_parts.setattr(tempfile, "tempdir", str(tmp_path))
    real = screens.make_screen(0)
    screen = read_screen(real, "the real data", condition=COLUMN, control=CONTROL, memory_bytes=0)
    held = [set(screen.perturbations.codes[rows]) for rows, _ in screen.blocks()]
    assert sum(map(len, held)) == len(set.union(*held)) == screen.perturbations.n_classes
    assert {screen.perturbations.names.index(CONTROL)} in held
    assert len(held) > 3
    taken = screen.x.take(np.arange(5, 300, 7))
    np.testing.assert_array_equal(taken.toarray(), real.X.toarray()[5:300:7])
    with pytest.raises(ValueError, match="not all rows"):
        screen.select(np.arange(5))
    assert len(list(tmp_path.iterdir())) == 1
    del screen
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_that_is_too_small_is_refused(in_parts: pytest.MonkeyPatch) -> None:
    in_parts.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    real = screens.make_screen(0)
    with pytest.raises(gb.InputError, match=r"the real data: .* do not fit into memory, nor into .* TMPDIR"):
        score(real, real)


def test_values_that_are_not_finite_are_found_in_parts(tmp_path: Path, in_parts: pytest.MonkeyPatch) -> None:
    del in_parts
    real = screens.make_screen(0)
    x = real.X.toarray()
    x[7, 3] = np.nan
    with pytest.raises(gb.InputError, match="1 values are NaN or infinite"):
        score(write(screens.with_x(real, x), tmp_path / "real.h5ad", "csc"), real)


def test_damaged_columns_are_refused(tmp_path: Path, in_parts: pytest.MonkeyPatch) -> None:
    import h5py

    del in_parts
    path = write(screens.make_screen(0), tmp_path / "real.h5ad", "csc")
    with h5py.File(path, "a") as file:
        file["X/indices"][3] = 5_000
    with pytest.raises(gb.InputError, match="indices beyond its shape"):
        score(path, path)


def test_batches_have_at_most_the_limit_or_one_group() -> None:
    assert in_batches([3, 4, 9, 1, 1, 5], 7) == [[0, 1], [2], [3, 4, 5]]
    assert in_batches([], 7) == []


@pytest.mark.slow
def test_real_data_are_prepared_once_for_several_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_results, "MIN_SECONDS", 0.0)
    monkeypatch.setenv("GPUBENCH_CACHE", str(tmp_path))
    real = screens.make_screen(0, n=55)
    predicted, other = screens.predict(real, n=53), screens.predict(real, 2, n=53)
    given: dict[str, Any] = {"metrics": OF_EVERY_KIND, "baseline": "replicate", "n_splits": 1}
    wanted = score(real, predicted, **given)
    files = {file.name for file in (tmp_path / "results").iterdir()}
    assert len(files) == 7  # profiles, means, two tables, E-distances, variances, replicate
    again = score(real, predicted, **given)
    assert facts(again) == facts(wanted)
    (note,) = [note for note in again.provenance["engine"]["notes"] if "earlier run" in note]
    assert "tests of cell-eval2" in note
    assert "replicate" in note
    score(real, other, **given)
    assert {file.name for file in (tmp_path / "results").iterdir()} == files
    changed = screens.with_x(real, real.X + (np.arange(real.X.shape[0]) == 3)[:, None])
    score(changed, other, **given)
    assert len(list((tmp_path / "results").iterdir())) == 14


def test_settings_and_labels_are_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_results, "MIN_SECONDS", 0.0)
    monkeypatch.setenv("GPUBENCH_CACHE", str(tmp_path))
    real = screens.make_screen(0)
    renamed = real.copy()
    renamed.obs[COLUMN] = renamed.obs[COLUMN].replace({screens.PERTURBATIONS[0]: "other"})
    for n, (side, given) in enumerate(
        [(real, {}), (renamed, {}), (real, {"control": screens.PERTURBATIONS[0]}), (real, {"seed": 1})], start=1
    ):
        score(side, side, metrics="mae", **given)
        assert len(list((tmp_path / "results").iterdir())) == n
