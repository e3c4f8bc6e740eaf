"""cell_eval and cell_eval2 with gpubench in their place: the same tables, types, order and files as without."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from perturbation_cases import CONTROL, GENES, make_sides
from scipy.sparse import csr_matrix

from gpubench import accel

pytest.importorskip("cell_eval", reason="cell-eval is not installed; pip install '.[test,parity-perturbation]'")
pl = pytest.importorskip("polars")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import cell_eval
    import cell_eval2
    import pdex

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]

TOLERANCE = 1e-6
"""They average float32 values in float32."""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    accel.uninstall()
    accel.report().clear()
    yield
    accel.uninstall()
    accel.report().clear()


@cache
def sides() -> tuple[anndata.AnnData, ...]:
    """Counts, real and predicted."""
    made = make_sides()
    pairs = (made.real, made.real_labels), (made.predicted, made.predicted_labels)
    return tuple(_cells(x, labels) for x, labels in pairs)


def _cells(x: Any, labels: Any) -> anndata.AnnData:
    obs = pd.DataFrame({"target": labels}, index=[f"cell {i}" for i in range(len(labels))])
    cells = anndata.AnnData(csr_matrix(x.astype(np.float32)), obs=obs, var=pd.DataFrame(index=pd.Index(GENES)))
    cells.obsm["X_few"] = np.asarray(x[:, :8], np.float32)
    return cells


def both(call: Callable[[], Any]) -> tuple[Any, Any]:
    """Return what a call returns without and with gpubench."""
    theirs = call()
    with accel.accelerated(["cell_eval", "cell_eval2"], "cpu"):
        return theirs, call()


def assert_same(theirs: Any, ours: Any, tolerance: float = TOLERANCE) -> None:
    """The same columns, types and rows in the same order; numbers within the tolerance."""
    assert ours.schema == theirs.schema
    for name in theirs.columns:
        if theirs[name].dtype.is_float():
            assert ours[name].is_null().to_list() == theirs[name].is_null().to_list(), name
            left, right = (one[name].to_numpy() for one in (theirs, ours))
            np.testing.assert_allclose(right, left, rtol=tolerance, atol=tolerance, err_msg=name)
        else:
            assert ours[name].to_list() == theirs[name].to_list(), name


@pytest.mark.parametrize("geometric", [True, False])
@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("convert", [None, np.float64, "dense"])
def test_pdex(geometric: bool, log: bool, convert: Any) -> None:
    cells = sides()[0].copy()
    if log:
        cells.X = cells.X.log1p()
    cells.X = cells.X.toarray() if convert == "dense" else cells.X if convert is None else cells.X.astype(convert)
    # the order of the categories, of which one is missing in some cells
    labels = pd.Categorical(cells.obs["target"], [CONTROL, *sorted(set(cells.obs["target"]) - {CONTROL})[::-1]])
    labels[5] = np.nan
    cells.obs["target"] = labels
    given = {"groupby": "target", "reference": CONTROL, "threads": 1, "is_log1p": log, "geometric_mean": geometric}
    theirs, ours = both(lambda: pdex.pdex(cells, **given, cpm_filter=5000.0 if geometric else None))
    assert_same(theirs, ours, 2e-5)
    assert accel.report()["pdex.pdex"].ran == 1


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"mode": "all"}, "mode='all'"),
        ({"reference": CONTROL}, "is_log1p=None"),
    ],
)
def test_pdex_leaves_the_rest_to_the_original(given: dict[str, Any], reason: str) -> None:
    theirs, ours = both(lambda: pdex.pdex(sides()[0], groupby="target", threads=1, **given))
    assert_same(theirs, ours, 0)
    assert reason in " ".join(accel.report()["pdex.pdex"].reasons)


def evaluate(folder: Path, **options: Any) -> tuple[Any, ...]:
    real, predicted = (side.copy() for side in sides())
    given = {"control_pert": CONTROL, "num_threads": 1, "outdir": str(folder), "allow_discrete": False}
    evaluator = cell_eval.MetricsEvaluator(predicted, real, **given)
    return (*evaluator.compute(**options), *evaluator.compute_ceiling(**options))


@pytest.mark.parametrize("profile", ["full", "de", "anndata", "minimal", "vcc", "pds"])
def test_evaluator(profile: str, tmp_path: Path) -> None:
    folders = iter([tmp_path / "theirs", tmp_path / "ours"])
    theirs, ours = both(lambda: evaluate(next(folders), profile=profile))
    for before, after in zip(theirs, ours, strict=True):
        assert_same(before, after)
    entry = accel.report()["cell_eval.metrics_registry.compute"]
    assert entry.ran
    assert not entry.reasons
    files = [sorted(file.name for file in (tmp_path / name).iterdir()) for name in ("theirs", "ours")]
    assert files[0] == files[1]
    for name in files[0]:
        before, after = (pl.read_csv(tmp_path / side / name) for side in ("theirs", "ours"))
        assert_same(before, after, 2e-5)


def test_options_of_metrics(tmp_path: Path) -> None:
    """Also those that the registry remembers."""
    options = {
        "overlap_at_50": {"fdr_threshold": 0.01, "sort_by": cell_eval.DESortBy.PVALUE},
        "discrimination_score_l2": {"embed_key": "X_few"},
        "discrimination_score_l1": {"embed_key": "X_few", "exclude_target_gene": False},
        "clustering_agreement": {"metric": "nmi", "pred_resolutions": (1.0,)},
        "de_direction_match": {"fdr_threshold": 0.01},
        "pearson_edistance": {"n_jobs": 1, "embed_key": "X_few"},
        "mae": {"embed_key": "X_few"},
    }
    before = {name: dict(info.kwargs) for name, info in cell_eval.metrics_registry.metrics.items()}
    try:
        theirs, ours = both(lambda: evaluate(tmp_path, metric_configs=options)[:2])
    finally:
        for name, info in cell_eval.metrics_registry.metrics.items():
            info.kwargs = before[name]
    for left, right in zip(theirs, ours, strict=True):
        assert_same(left, right)
    assert not accel.report()["cell_eval.metrics_registry.compute"].reasons


@pytest.mark.parametrize("shuffled", [False, True])
def test_given_tables(shuffled: bool, tmp_path: Path) -> None:
    """In the order of pdex, or in another one and without some pairs."""
    tables = []
    for i, side in enumerate(sides()):
        log = side.copy()
        log.X = log.X.log1p()
        table = pdex.pdex(log, "target", reference=CONTROL, threads=1, is_log1p=True, epsilon=0.0)
        tables.append(table.sample(fraction=0.9, shuffle=True, seed=i) if shuffled else table)

    def call() -> tuple[Any, Any]:
        real, predicted = (side.copy() for side in sides())
        given = {"control_pert": CONTROL, "num_threads": 1, "outdir": str(tmp_path)}
        evaluator = cell_eval.MetricsEvaluator(predicted, real, tables[1], tables[0], **given)
        return evaluator.compute(profile="de")

    for before, after in zip(*both(call), strict=True):
        assert_same(before.sort(before.columns[0]), after.sort(after.columns[0]))
    assert not accel.report()["cell_eval.metrics_registry.compute"].reasons


def test_views_and_missing_labels(tmp_path: Path) -> None:
    """As with a column of cell types; cells without a label are a perturbation named "nan" there."""

    def call() -> tuple[Any, Any]:
        views = []
        for side in sides():
            whole = side.copy()
            whole.obs["target"] = whole.obs["target"].astype(object)
            whole.obs.loc[whole.obs_names[:9], "target"] = np.nan
            whole.obs["type"] = np.where(np.arange(whole.n_obs) % 9, "a", "b")
            views.append(whole[whole.obs["type"] == "a"])
        given = {"control_pert": CONTROL, "num_threads": 1, "outdir": str(tmp_path)}
        skipped = ["pearson_edistance", "clustering_agreement"]
        return cell_eval.MetricsEvaluator(views[1], views[0], **given).compute(skip_metrics=skipped)

    for before, after in zip(*both(call), strict=True):
        assert_same(before, after)


def test_a_metric_of_the_users_is_left_to_the_original(tmp_path: Path) -> None:
    kind, best = cell_eval.MetricType.ANNDATA_PAIR, cell_eval.metrics_registry.get_metric("mae").best_value
    cell_eval.metrics_registry.register("mine", kind, "one", lambda data: dict.fromkeys(data.perts, 1.0), best)
    try:
        with accel.accelerated("cell_eval", "cpu"):
            results = evaluate(tmp_path, profile="anndata")[0]
    finally:
        del cell_eval.metrics_registry.metrics["mine"]
    assert results["mine"].to_list() == [1.0] * results.height
    reasons = accel.report()["cell_eval.metrics_registry.compute"].reasons
    assert list(reasons) == ["'mine' is not a metric of cell_eval itself"]


def config(metrics: Any, **changes: Any) -> Any:
    given = cell_eval2.EvalConfig.from_preset("v2")
    de = dataclasses.replace(given.de, backend="pdex", **changes.pop("de", {}))
    fixed = {"metrics": metrics, "control": CONTROL, "num_threads": 1, "device": "cpu", "de": de}
    return dataclasses.replace(given, **{**fixed, **changes})


@pytest.mark.parametrize(
    ("metrics", "changes"),
    [
        ("full", {}),
        ("vcc2026", {}),
        ("cell", {}),
        (["pds_l1", "cell_cov_corr", "de_wilcoxon_overlap"], {"control_source": "pred", "target_sum": None}),
        (["de_wilcoxon_lfc_nmae", "de_wilcoxon_pr_auc"], {"de": {"mean_calc": "geometric", "sort_by": "p_adj"}}),
    ],
)
def test_compute_metrics(metrics: Any, changes: dict[str, Any]) -> None:
    real, predicted = sides()

    def call() -> Any:
        return cell_eval2.compute_metrics(predicted, real, config=config(metrics, **changes))

    theirs, ours = both(call)
    unordered = pl.col("metric") == "de_wilcoxon_lfc_nmae"  # whose rows follow another order in each run of theirs
    allowed = 1e-6 if "cell" in str(metrics) else 1e-9
    assert_same(theirs.filter(~unordered), ours.filter(~unordered), allowed)
    assert_same(*(one.filter(unordered).sort("perturbation") for one in (theirs, ours)), allowed)
    assert_same(cell_eval2.aggregate_metrics(theirs), cell_eval2.aggregate_metrics(ours))
    entry = accel.report()["cell_eval2.compute_metrics"]
    assert (entry.ran, list(entry.reasons)) == (1, [])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"de": {"backend": "scanpy"}}, "de.backend='scanpy'"),
        ({"cache": True}, "a cache"),
        ({"de": {"auc_pval_floor": "preserve"}}, "de.auc_pval_floor='preserve'"),
    ],
)
def test_compute_metrics_leaves_the_rest_to_the_original(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    real, predicted = sides()
    metrics, options = ["de_wilcoxon_pr_auc", "pds_cosine"], dict(changes)
    backend = options.get("de", {}).pop("backend", "pdex") if "de" in options else "pdex"
    folders = iter([tmp_path / "theirs", tmp_path / "ours"])

    def call() -> Any:
        more = {"cache_pred": str(next(folders))} if options.get("cache") else {}
        given = config(metrics, de=dict(options.get("de", {})), **more)
        given = dataclasses.replace(given, de=dataclasses.replace(given.de, backend=backend))
        return cell_eval2.compute_metrics(predicted, real, config=given)

    theirs, ours = both(call)
    assert_same(theirs, ours)
    assert reason in " ".join(accel.report()["cell_eval2.compute_metrics"].reasons)


def test_errors_are_those_of_the_original() -> None:
    real, predicted = sides()
    negative = predicted.copy()
    negative.X.data[0] = -1
    with accel.accelerated("cell_eval2", "cpu"), pytest.raises(ValueError, match="negative"):
        cell_eval2.compute_metrics(negative, real, config=config("vcc2026"))


@pytest.mark.parametrize("package", ["cell_eval", "cell_eval2"])
def test_command_lines(package: str, tmp_path: Path) -> None:
    """The commands write the same files."""
    for name, side in zip(("real", "predicted"), sides(), strict=True):
        side.write_h5ad(tmp_path / f"{name}.h5ad")
    files = ["run", "-ap", "predicted.h5ad", "-ar", "real.h5ad", "-o"]
    names = {
        "cell_eval": ["--control-pert", CONTROL, "--pert-col", "target", "--ceiling"],
        "cell_eval2": ["--control", CONTROL, "--set", "de.backend=pdex", "--set", "num_threads=1"],
    }[package]
    script = ["-m", "cell_eval"] if package == "cell_eval" else [str(Path(sys.executable).parent / "cell-eval2")]
    for folder, start in {"theirs": [], "ours": ["-m", "gpubench.accel", "--engine", "cpu", "--report"]}.items():
        done = subprocess.run(
            [sys.executable, *start, *script, *files, folder, *names],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "on cpu" in done.stderr
    assert "by the original" not in done.stderr
    written = [sorted(file.name for file in (tmp_path / side).iterdir()) for side in ("theirs", "ours")]
    assert written[0] == written[1]
    for name in written[0]:
        if name.endswith(".csv"):
            tables = [pl.read_csv(tmp_path / side / name) for side in ("theirs", "ours")]
            if "metric" in tables[0].columns:
                tables = [table.sort("metric", *(set(table.columns) & {"perturbation"})) for table in tables]
            assert_same(*tables, 2e-5)
