"""Definitions of the metrics of predicted perturbations: float64, one perturbation and one gene at a time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu, pearsonr, spearmanr, t
from sklearn.metrics import average_precision_score, roc_auc_score

F64 = NDArray[np.float64]
NAN = math.nan
ALPHA = 0.05
DEPTHS = {"N": None, "50": 50, "100": 100, "200": 200, "500": 500}


@dataclass
class Data:
    """One data set: dense values, labels, names of the genes."""

    x: F64
    labels: NDArray[Any]
    genes: list[str]
    control: str = "control"
    perturbations: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.perturbations = sorted(set(self.labels) - {self.control})

    def cells(self, name: str) -> F64:
        return self.x[self.labels == name]

    def own(self, name: str) -> int | None:
        return self.genes.index(name) if name in self.genes else None


@dataclass
class Gene:
    """The test of one gene."""

    change: float
    p: float
    adjusted: float = NAN


def tests(cells: F64, control: F64, change: Callable[[F64, F64], float]) -> list[Gene]:
    p = mannwhitneyu(cells, control, method="asymptotic", use_continuity=True, axis=0).pvalue
    constant = np.ptp(np.concatenate([cells, control]), axis=0) == 0
    return [
        Gene(change(x, y), 1.0 if same else float(value))
        for x, y, value, same in zip(cells.T, control.T, p, constant, strict=True)
    ]


def adjust(genes: list[Gene]) -> list[Gene]:
    order = sorted(range(len(genes)), key=lambda g: genes[g].p)
    smallest = 1.0
    for rank in range(len(order), 0, -1):
        gene = genes[order[rank - 1]]
        smallest = min(smallest, gene.p * len(order) / rank)
        gene.adjusted = smallest
    return genes


def log2_ratio(a: float, b: float) -> float:
    if a == b == 0:
        return 0.0
    return math.inf if b == 0 else -math.inf if a == 0 else math.log2(a / b)


def first_table(data: Data) -> dict[str, list[Gene]]:
    def change(x: F64, y: F64) -> float:
        return log2_ratio(math.expm1(x.mean()), math.expm1(y.mean()))

    return {p: adjust(tests(data.cells(p), data.cells(data.control), change)) for p in data.perturbations}


def second_tables(real: Data, predicted: Data) -> tuple[list[int], dict[str, list[Gene]], dict[str, list[Gene]]]:
    """The genes that are tested, and the tables of both sides against the real control."""

    def per_million(x: F64) -> F64:
        total = x.sum(axis=1, keepdims=True) / 1e6
        return x / np.where(total > 0, total, 1)

    control = per_million(real.cells(real.control))
    kept = [g for g in range(len(real.genes)) if control[:, g].mean() > 5]

    def change(x: F64, y: F64) -> float:
        return math.log2((np.expm1(x).mean() + 1e-9) / (np.expm1(y).mean() + 1e-9))

    tables = [
        {p: adjust(tests(np.log1p(per_million(d.cells(p))[:, kept]), np.log1p(control[:, kept]), change))
         for p in real.perturbations}
        for d in (real, predicted)
    ]  # fmt: skip
    return kept, tables[0], tables[1]


def significant(genes: list[Gene]) -> list[int]:
    return [g for g, gene in enumerate(genes) if gene.adjusted < ALPHA]


def ranked(genes: list[Gene]) -> list[int]:
    return sorted(significant(genes), key=lambda g: -abs(genes[g].change))


def shared(a: list[Gene], b: list[Gene], k: int | None, side: str) -> float:
    first, second = ranked(a), ranked(b)
    n = len(first if side == "real" else second)
    k = n if k is None else min(k, n)
    return len(set(first[:k]) & set(second[:k])) / k if k else 0.0


def correlation(function: Any, a: Any, b: Any) -> float:
    if len(a) < 2 or np.ptp(a) < 1e-12 or np.ptp(b) < 1e-12:
        return NAN
    return float(function(a, b)[0])


def evidence(genes: list[Gene], floor: float) -> F64:
    return -np.log10([min(max(gene.adjusted, floor), 1) for gene in genes])


def energy(data: Data, p: str) -> float:
    x, c = data.cells(p), data.cells(data.control)
    return float(2 * cdist(x, c).mean() - cdist(x, x).mean() - cdist(c, c).mean())


def first_generation(real: Data, predicted: Data) -> dict[str, dict[str, float]]:
    """Every metric of cell-eval but the clusters; a missing perturbation has no value."""
    out: dict[str, dict[str, float]] = {}

    def put(metric: str, p: str, value: float) -> None:
        out.setdefault(metric, {})[p] = float(value)

    names, n_genes = real.perturbations, len(real.genes)
    means = [{p: d.cells(p).mean(axis=0) for p in [*names, d.control]} for d in (real, predicted)]
    effects = [{p: m[p] - m[real.control] for p in names} for m in means]
    table, other = first_table(real), first_table(predicted)
    for p in names:
        for name, sides in (("", means), ("_delta", effects)):
            error = sides[1][p] - sides[0][p]
            put(f"mae{name}", p, np.abs(error).mean())
            put(f"mse{name}", p, (error**2).mean())
        put("pearson_delta", p, correlation(pearsonr, effects[1][p], effects[0][p]))
        keep = [g for g in range(n_genes) if g != real.own(p)]
        for metric, name in (("l1", "cityblock"), ("l2", "euclidean"), ("cosine", "cosine")):
            d = [cdist([effects[1][p][keep]], [effects[0][q][keep]], name)[0, 0] for q in names]
            nearer = sum(value < d[names.index(p)] for value in d)
            put(f"discrimination_score_{metric}", p, 1 - nearer / len(names))
        a, b = table[p], other[p]
        sa, sb = significant(a), significant(b)
        for depth, k in DEPTHS.items():
            put(f"overlap_at_{depth}", p, shared(a, b, k, "real"))
            put(f"precision_at_{depth}", p, shared(a, b, k, "predicted"))
        put("de_nsig_counts_real", p, len(sa))
        put("de_nsig_counts_pred", p, len(sb))
        if sa:
            put("de_direction_match", p, np.mean([np.sign(a[g].change) == np.sign(b[g].change) for g in sa]))
            changes = [[side[g].change for g in sa] for side in (a, b)]
            put("de_spearman_lfc_sig", p, correlation(spearmanr, *changes))
            put("de_sig_genes_recall", p, len(set(sa) & set(sb)) / len(sa))
        labels = [g in sa for g in range(n_genes)]
        for metric, area in (("pr_auc", average_precision_score), ("roc_auc", roc_auc_score)):
            put(metric, p, area(labels, evidence(b, 1e-10)) if 0 < len(sa) < n_genes else NAN)
    some = [p for p in names if significant(table[p])]
    counts = [[len(significant(side[p])) for p in some] for side in (table, other)]
    energies = [[energy(d, p) for p in names] for d in (real, predicted)]
    for p in names:
        put("de_spearman_sig", p, correlation(spearmanr, *counts) if some else 1.0)
        put("pearson_edistance", p, correlation(pearsonr, *energies))
    return out


def bulk(x: F64) -> F64:
    total = x.sum(axis=0)
    return np.log1p(5e4 * total / total.sum()) if total.sum() else np.zeros(x.shape[1])


def jackknife(x: F64) -> float:
    n = len(x)
    profiles = np.array([bulk(np.delete(x, i, axis=0)) for i in range(n)])
    return float((n - 1) / n * ((profiles - profiles.mean(axis=0)) ** 2).sum())


def depth(genes: list[int], confidence: dict[int, Any], defined: list[bool], right: list[bool], purity: float) -> int:
    seen = matched = best = 0
    for g in sorted(genes, key=lambda g: confidence[g]):
        seen, matched = seen + defined[g], matched + right[g]
        if seen and matched / seen >= purity:
            best = max(best, seen)
    return best


def chance_corrected(kind: str, a: set[int], b: set[int], g: int) -> float:
    n, m, both = len(a), len(b), len(a & b)
    if kind == "recall":
        return both / n - (m - both) / (g - n)
    if not 0 < m < g:
        return -1.0
    if kind == "precision":
        return both / m - (n - both) / (g - m)
    return (both * g - n * m) / math.sqrt(n * m * (g - n) * (g - m))


def directions(
    a: list[Gene], b: list[Gene], own: int | None, names: list[str], put: Callable[[str, float], None]
) -> None:
    """The direction family for one perturbation."""
    every = range(len(a))
    sa, sb = significant(a), significant(b)
    defined = [a[g].change != 0 for g in every]
    right = [defined[g] and np.sign(a[g].change) == np.sign(b[g].change) for g in every]
    confidence = {g: (g not in sb, b[g].adjusted, b[g].p, -abs(b[g].change), names[g]) for g in every}
    if sum(defined) >= 10:
        called = [g for g in sb if defined[g]]
        put("direction_precision", np.mean([right[g] for g in called]) if called else 0.0)
        put("model_direction_match", np.mean([np.sign(a[g].change) == np.sign(b[g].change) for g in sb]) if sb else 0)
    if len(sa) >= 10:
        put("direction_sensitivity", depth(sa, confidence, defined, right, 0.975) / len(sa))
        put("direction_sensitivity_universe", depth(list(every), confidence, defined, right, 0.975) / len(sa))
    mine = [g for g in every if g != own]
    real = [g for g in sa if g != own]
    called = [g for g in sb if g != own and defined[g]]
    k = sum(right[g] for g in called)
    signs = [a[g].change > 0 for g in real if defined[g]]
    q = max(sum(signs), len(signs) - sum(signs)) / len(signs) if signs else NAN
    put("direction_fidelity_raw", k / len(called) if called else NAN)
    put("direction_fidelity_yield_raw", k / max(len(called), len(real)) if called or real else NAN)
    if not real:
        for kind in ("fidelity", "fidelity_yield"):
            put(f"direction_{kind}", float(not called))
        for kind in ("coverage", "yield", "yield_raw", "reach", "reach_raw", "reach_unbounded", "reach_unbounded_raw"):
            put(f"direction_{kind}", NAN)
        return
    room = max(1 - q, 0.05)
    fidelity = (k / len(called) - q) / room if called else NAN
    put("direction_fidelity", fidelity)
    put("direction_fidelity_yield", min(1, len(called) / len(real)) * fidelity if called else 0.0)
    put("direction_coverage", len(called) / len(real))
    put("direction_yield_raw", k / len(real))
    put("direction_yield", (k - q * len(called)) / (len(real) * room))
    for suffix, pool in (("", real), ("_unbounded", mine)):
        put(f"direction_reach{suffix}_raw", depth(pool, confidence, defined, right, 0.9) / len(real))
        put(f"direction_reach{suffix}", depth(pool, confidence, defined, right, q + 0.95 * (1 - q)) / len(real))


def second_generation(real: Data, predicted: Data) -> dict[str, dict[str, float]]:
    """Every metric of cell-eval2; a missing perturbation has no value. One value of all is under the name ""."""
    out: dict[str, dict[str, float]] = {}

    def put(metric: str, p: str, value: float) -> None:
        out.setdefault(metric, {})[p] = float(value)

    names = real.perturbations
    _profiles(real, predicted, put)
    _noise(real, predicted, put)
    _cells(real, predicted, put)
    kept, table, other = second_tables(real, predicted)
    genes = [real.genes[g] for g in kept]
    floor = min(gene.adjusted for p in names for gene in other[p] if gene.adjusted > 0)
    counts = [[len(significant(side[p])) for p in names if significant(table[p])] for side in (table, other)]
    for p in names:

        def mine(metric: str, value: float, p: str = p) -> None:
            put(f"de_wilcoxon_{metric}", p, value)

        own = genes.index(p) if p in genes else None
        _sets(table[p], other[p], own, floor, mine)
        directions(table[p], other[p], own, genes, mine)
        value = correlation(spearmanr, *counts)
        mine("nsig_spearman", (-1.0 if math.isnan(value) else value) if len(counts[0]) >= 10 else NAN)
    return out


def _sets(a: list[Gene], b: list[Gene], own: int | None, floor: float, put: Callable[[str, float], None]) -> None:
    sa, sb, g = significant(a), significant(b), len(a)
    put("nsig_counts_real", len(sa))
    put("nsig_counts_pred", len(sb))
    for name, k in DEPTHS.items():
        suffix = "" if k is None else f"_top{name}"
        put(f"overlap{suffix}", shared(a, b, k, "real"))
        put(f"precision{suffix}", shared(a, b, k, "predicted"))
    union = (set(sa) | set(sb)) - {own}
    put("sig_jaccard", len((set(sa) & set(sb)) - {own}) / len(union) if union else 1.0)
    put("precision_adjusted", chance_corrected("precision", set(sa), set(sb), g))
    if 10 <= len(sa) < g:
        put("sig_recall_adjusted", chance_corrected("recall", set(sa), set(sb), g))
        put("sig_mcc", chance_corrected("mcc", set(sa), set(sb), g))
        put("overlap_adjusted", chance_corrected("mcc", set(sa), set(ranked(b)[: len(sa)]), g))
        labels = [i in sa for i in range(g)]
        score = -np.log10([gene.adjusted or floor for gene in b])
        put("pr_auc", average_precision_score(labels, score))
        put("roc_auc", roc_auc_score(labels, score))
    if len(sa) >= 10:
        put("sig_recall", len(set(sa) & set(sb)) / len(sa))
        put("direction_match", np.mean([np.sign(a[i].change) == np.sign(b[i].change) for i in sa]))
    for suffix, chosen in (
        ("", sa),
        ("_pos", [i for i in sa if a[i].change > 0]),
        ("_neg", [i for i in sa if a[i].change < 0]),
    ):
        if len(chosen) >= 10:
            value = correlation(spearmanr, *([side[i].change for i in chosen] for side in (a, b)))
            put(f"lfc_spearman{suffix}", -1.0 if math.isnan(value) else value)
    chosen = [i for i in sa if i != own]
    if len(chosen) >= 10:
        size = sum(abs(a[i].change) for i in chosen)
        put("lfc_nmae", sum(abs(b[i].change - a[i].change) for i in chosen) / size)


def _profiles(real: Data, predicted: Data, put: Callable[[str, str, float], None]) -> None:
    names = real.perturbations
    control = bulk(real.cells(real.control))
    profiles = [{p: bulk(d.cells(p)) for p in names} for d in (real, predicted)]
    targets = {real.own(p) for p in names}
    keep = [g for g in range(len(real.genes)) if g not in targets]
    for p in names:
        a, b = profiles[0][p], profiles[1][p]
        for name in ("expr", "delta"):  # the same control is subtracted from both
            put(f"{name}_mae", p, np.abs(b - a).mean())
            put(f"{name}_mse", p, ((b - a) ** 2).mean())
        value = correlation(pearsonr, b - control, a - control)
        put("delta_pearson", p, -1.0 if math.isnan(value) else value)
        put("expr_real_mass_ratio", p, np.expm1(a).sum() / 5e4)
        for metric, name in (("l1", "cityblock"), ("l2", "euclidean"), ("cosine", "cosine")):
            effect = (b - control)[keep]
            d = [cdist([effect], [(profiles[0][q] - control)[keep]], name)[0, 0] for q in names]
            mine = d[names.index(p)]
            rank = sum(v < mine for v in d) + (sum(v == mine for v in d) - 1) / 2
            put(f"pds_{metric}", p, 1 - rank / (len(names) - 1))


def _noise(real: Data, predicted: Data, put: Callable[[str, str, float], None]) -> None:
    names, n_genes = real.perturbations, len(real.genes)
    profiles = [{p: bulk(d.cells(p)) for p in names} for d in (real, predicted)]
    noise = [{p: jackknife(d.cells(p)) for p in names} for d in (real, predicted)]
    control, control_noise = bulk(real.cells(real.control)), jackknife(real.cells(real.control))
    keep = {p: [g for g in range(n_genes) if g != real.own(p)] for p in names}
    claim = sum(min(noise[0][p], noise[1][p]) / len(keep[p]) for p in names)
    budget = 0.0
    for g in range(n_genes):
        mine = [p for p in names if g in keep[p]]
        if len(mine) >= 2:
            weights = np.array([1 / len(keep[p]) for p in mine])
            values = np.array([profiles[1][p][g] for p in mine])
            mean = (weights * values).sum() / weights.sum()
            budget += (weights * (values - mean) ** 2).sum()
    rho = min(1.0, budget / claim)
    totals = [0.0, 0.0]
    for p in names:
        g = keep[p]
        squared = ((profiles[1][p] - profiles[0][p])[g] ** 2).sum()
        put("expr_mse_unbiased", p, (squared - noise[1][p] - noise[0][p]) / len(g))
        capped = (squared - rho * min(noise[0][p], noise[1][p]) - noise[0][p]) / len(g)
        distance = (((profiles[0][p] - control)[g] ** 2).sum() - noise[0][p] - control_noise) / len(g)
        put("expr_mse_unbiased_capped", p, capped)
        put("expr_distance_unbiased", p, distance)
        totals = [totals[0] + capped, totals[1] + distance]
    put("expr_mse_unbiased_capped_norm", "", totals[0] / totals[1] if totals[1] > 0 else NAN)


def drawn_cells(data: Data, p: str, side: str, n: int) -> F64:
    """Cells of one side as log1p of counts per 10,000."""
    rows = np.flatnonzero(data.labels == p)
    if len(rows) > n:
        seed = int.from_bytes(hashlib.sha256(f"0:{p}|{side}".encode()).digest()[:8], "big")
        rows = np.sort(np.random.default_rng(seed).choice(rows, size=n, replace=False))
    x = data.x[rows].astype(np.float32)
    totals = np.float32(x.sum(axis=1, keepdims=True, dtype=np.float64))
    return np.log1p(np.float32(1e4) * (x / np.where(totals > 0, totals, 1))).astype(np.float64)


def _cells(real: Data, predicted: Data, put: Callable[[str, str, float], None]) -> None:
    def mean(x: F64) -> F64:
        return (1e4 * x / x.sum(axis=1, keepdims=True)).mean(axis=0)

    for p in real.perturbations:
        n = min(500, len(real.cells(p)), len(predicted.cells(p)))
        if n < 50:
            continue
        a, b = drawn_cells(real, p, "real", n), drawn_cells(predicted, p, "pred", n)
        fold = np.abs(np.log2((mean(real.cells(p)) + 1) / (mean(real.cells(real.control)) + 1)))
        able = [g for g in range(len(real.genes)) if (real.cells(p)[:, g] > 0).sum() >= 10 and g != real.own(p)]
        genes = [g for g in sorted(able, key=lambda g: -fold[g])[:100] if min(a[:, g].std(), b[:, g].std()) > 1e-6]
        if len(genes) >= 20:
            matrices = [np.corrcoef(x[:, genes], rowvar=False) for x in (a, b)]
            upper = np.triu_indices(len(genes), 1)
            put("cell_cov_corr", p, correlation(pearsonr, *(m[upper] for m in matrices)))
            put("cell_cov_eig_ratio", p, np.divide(*(np.linalg.eigvalsh(m)[-1] for m in matrices[::-1])))
        least = t.ppf(0.975, n - 2)
        least /= math.sqrt(n - 2 + least**2)
        vary = [g for g in range(len(real.genes)) if min(a[:, g].std(), b[:, g].std()) > 1e-6]
        r, s = (np.corrcoef(x[:, vary], rowvar=False) for x in (a, b))
        pairs = [(r[i, j], s[i, j]) for i in range(len(vary)) for j in range(i)]
        pairs = [pair for pair in pairs if min(map(abs, pair)) >= least]
        if len(pairs) >= 3:
            x, y = np.array(pairs).T
            concordance = 2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
            put("cell_cov_ccc", p, concordance)
        else:
            put("cell_cov_ccc", p, NAN)
