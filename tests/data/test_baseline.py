"""The PCA baseline, step by step, against naive definitions; deviations from the recipe are noted."""

from __future__ import annotations

import zlib
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csc_matrix, csr_array, csr_matrix
from stores import WRITERS

from gpubench.core.errors import InputError
from gpubench.data import as_rows, expression_baseline, pca_baseline
from gpubench.data import expression as expression_module
from gpubench.data.expression import (
    highly_variable_genes,
    log_normalized,
    measure_depth,
    normalized_dispersions,
    principal_components,
    read_expression,
)


def make_counts(n: int = 150, n_genes: int = 400, seed: int = 0) -> np.ndarray:
    """Three types of cells of uneven depth; some genes are silent, a cell is empty."""
    rng = np.random.default_rng(seed)
    rates = rng.gamma(0.4, 2, (3, n_genes)) * (rng.random(n_genes) < 0.95)
    counts = rng.poisson(rates[rng.integers(0, 3, n)] * rng.uniform(0.3, 3, (n, 1)))
    counts[n // 2] = 0
    return counts.astype(np.float32)


def naive_log(counts: np.ndarray) -> np.ndarray:
    totals = counts.sum(axis=1)
    scale = np.where(totals > 0, totals, 1) / np.median(totals[totals > 0])
    return np.log1p(counts / scale[:, None])


def naive_variable_genes(logged: np.ndarray, n_top: int) -> np.ndarray:
    """Seurat's recipe with the bins and groups of pandas."""
    counts = np.expm1(logged.astype(np.float64))
    means, variances = counts.mean(axis=0), counts.var(axis=0, ddof=1)
    table = pd.DataFrame(
        {"mean": np.log1p(means), "dispersion": np.log(np.where(variances > 0, variances, np.nan) / means)}
    )
    groups = table.groupby(pd.cut(table["mean"], 20), observed=True)["dispersion"]
    alone = groups.transform("count") == 1
    score = ((table["dispersion"] - groups.transform("mean")) / groups.transform("std")).where(~alone, 1.0)
    score = score.where(table["dispersion"].notna())
    return np.sort(score.nlargest(n_top, keep="all").index.to_numpy())


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    return make_counts()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")  # of the naive definition, for silent genes
def test_variable_genes_match_the_naive_definition(seed: int) -> None:
    counts = make_counts(seed=seed)
    expression = read_expression(counts)
    blocks = log_normalized(expression, measure_depth(expression))
    assert_array_equal(highly_variable_genes(blocks, counts.shape, 60), naive_variable_genes(naive_log(counts), 60))


def test_dispersions_of_single_equal_and_constant_genes() -> None:
    means = np.array([1.0, 100, 100, 100, 0, 5000])
    variances = np.array([2.0, 300, 300, 300, 0, 1])
    scores = normalized_dispersions(means, variances)
    assert_array_equal(scores, [1, np.nan, np.nan, np.nan, np.nan, 1])  # three equal ones cannot be standardised


def test_components_match_the_singular_value_decomposition(counts: np.ndarray) -> None:
    baseline = pca_baseline(counts, n_top_genes=100, n_components=10)
    logged = naive_log(counts).astype(np.float64)
    expression = read_expression(counts)
    genes = highly_variable_genes(log_normalized(expression, measure_depth(expression)), counts.shape, 100)
    centred = logged[:, genes] - logged[:, genes].mean(axis=0)
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(vt[np.arange(10), np.abs(vt[:10]).argmax(axis=1)])
    assert baseline.rows.dtype == np.float32
    assert_allclose(baseline.rows, (u * s)[:, :10] * signs, atol=2e-4)
    assert baseline.note == ""


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (60, 60)])
def test_components_of_wide_and_tall_matrices_match(shape: tuple[int, int]) -> None:
    """Fewer rows than columns, or fewer columns than rows: the components are the same."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape) * np.linspace(3, 0.1, shape[1])
    blocks = lambda: ((i, csr_array(x[i : i + 7])) for i in range(0, shape[0], 7))  # noqa: E731
    found = principal_components(blocks, shape, 5)
    u, s, vt = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    assert_allclose(found, (u * s)[:, :5] * np.sign(vt[np.arange(5), np.abs(vt[:5]).argmax(axis=1)]), atol=1e-5)


def test_pca_baseline_is_bitwise_equal_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubench.data.expression._TILE", 16)
    counts = make_counts(300, 90)
    one, three = (pca_baseline(counts, n_components=12, threads=threads).rows for threads in (1, 3))
    assert_array_equal(one, three)
    assert_array_equal(one, pca_baseline(counts, n_components=12, threads=3).rows)


@pytest.mark.slow
def test_pca_baseline_is_the_same_for_every_source_and_block_size(
    counts: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pca_baseline(counts, n_components=8).rows
    monkeypatch.setattr(expression_module, "_BLOCK_VALUES", 37 * counts.shape[1])
    adata = ad.AnnData(csr_matrix(counts))
    stored = [write(adata, tmp_path) for write in WRITERS.values()]
    by_columns = tmp_path / "columns.h5ad"
    ad.AnnData(csc_matrix(counts)).write_h5ad(by_columns)
    backed = ad.read_h5ad(stored[0], backed="r")
    sources = [*stored, by_columns, adata, ad.AnnData(counts), backed, csr_matrix(counts), counts.astype(np.int32)]
    for source in sources:
        assert_allclose(pca_baseline(source, n_components=8).rows, expected, atol=1e-4, err_msg=repr(source))
    backed.file.close()


def test_baseline_is_a_row_source(counts: np.ndarray) -> None:
    baseline = pca_baseline(counts, n_components=5)
    assert as_rows(baseline, "baseline") is baseline
    assert (baseline.shape, baseline.dtype) == ((150, 5), np.float32)
    assert_array_equal(baseline.read(3, 9), baseline.rows[3:9])


def test_deviations_from_the_recipe_are_noted() -> None:
    small = pca_baseline(make_counts(30, 400))
    assert small.shape == (30, 29)
    silent = int((make_counts(30, 400).sum(axis=0) == 0).sum())
    assert small.note == (
        f"{400 - silent} genes that vary, instead of 3,000 highly variable ones; "
        f"29 components instead of 50, for 30 cells and {400 - silent} genes"
    )
    logged = naive_log(make_counts())
    assert pca_baseline(logged, n_top_genes=100, n_components=5).note == (
        "X holds no raw counts but was normalised and logarithmised as if it did"
    )


def test_invalid_expression_has_no_baseline(tmp_path: Path) -> None:
    counts = make_counts(20, 30)
    for value, message in [(-1, "hold negative values"), (np.nan, "hold NaN"), (np.inf, "hold NaN or infinite")]:
        bad = counts.copy()
        bad[[2, 5], 4] = value
        for source in (bad, csr_matrix(bad)):
            with pytest.raises(InputError, match=rf"2 of 20 rows {message}.*: 2, 5"):
                pca_baseline(source)
    with pytest.raises(InputError, match="no gene varies"):
        pca_baseline(np.ones((5, 3)))
    with pytest.raises(InputError, match="no gene varies"):
        pca_baseline(np.zeros((5, 3)))
    no_x = tmp_path / "no_x.h5ad"
    ad.AnnData(obs=pd.DataFrame(index=["a", "b"])).write_h5ad(no_x)
    for baseline in (pca_baseline, expression_baseline):
        with pytest.raises(InputError, match="has no expression in X; give a file that has it"):
            baseline(no_x)


def test_expression_baseline_is_x(counts: np.ndarray, tmp_path: Path) -> None:
    path = WRITERS["h5ad"](ad.AnnData(csr_matrix(counts)), tmp_path)
    baseline = expression_baseline(path)
    assert baseline.shape == counts.shape
    assert_array_equal(baseline.read(10, 20), counts[10:20])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "genes", "variances"),
    [
        ("pbmc3k", 3462695920, [10.430384635925293, 4.079375743865967, 2.6426639556884766, 0.2657729]),
        ("worm_embryo", 784353285, [9.397188186645508, 5.171377658843994, 3.338809013366699, 0.17090552]),
        ("celllines_5batch", 3364475793, [211.61123657226562, 73.48828125, 61.49321746826172, 2.4202123]),
    ],
)
def test_baseline_of_real_cells_matches_scanpy(
    shared_data: Path, file: str, genes: int, variances: list[float]
) -> None:
    """As scanpy 1.11.5 finds them with cz-benchmarks' recipe: which genes (a checksum), the components' variances."""
    expression = read_expression(shared_data / f"{file}.h5ad")
    chosen = np.zeros(expression.shape[1], bool)
    chosen[highly_variable_genes(log_normalized(expression, measure_depth(expression)), expression.shape, 3000)] = True
    assert zlib.crc32(np.packbits(chosen).tobytes()) == genes
    components = pca_baseline(expression).rows
    assert_allclose(components.var(axis=0, ddof=1, dtype=np.float64)[[0, 1, 2, 49]], variances, rtol=1e-5)


def test_named_matrices_need_one_called_x(counts: np.ndarray) -> None:
    assert_array_equal(pca_baseline({"X": counts}, n_components=3).rows, pca_baseline(counts, n_components=3).rows)
    with pytest.raises(InputError, match="'X' is not in data"):
        pca_baseline({"X_pca": counts})


def test_expression_is_x_even_if_obsm_has_a_key_x() -> None:
    cells = ad.AnnData(np.eye(3, dtype=np.float32), obsm={"X": np.zeros((3, 2))})
    assert_array_equal(read_expression(cells).read(0, 3), np.eye(3))
