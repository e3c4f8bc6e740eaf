"""Patches of cell_eval2: `compute_metrics`, and the command that runs it, return the same table.

`aggregate_metrics` and `score_metrics` of that table are not patched: they take milliseconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubench.accel.calls import NotCovered, Patch, Start
from gpubench.accel.cell_eval import PDEX
from gpubench.metrics.perturbation import (
    PERTURBATION_METRICS,
    CellEval2Settings,
    PerturbedCells,
    evaluate,
    perturbed_cells,
    prepare,
)

if TYPE_CHECKING:
    from gpubench.metrics.perturbation import PerturbationScores, RealSide

RUN = "cell_eval2.run"

KINDS = ("de", "anndata", "cell")
"""Kinds of metrics, in the order in which the rows of the table follow each other."""


def _run_metrics(
    start: Start,
    pred_ad: Any,
    real_ad: Any,
    cfg: Any,
    de_pred: Any,
    de_real: Any,
    real_store: Any,
    pred_store: Any,
    write_de: bool,
    on_resolved: Callable[[Any], None] | None,
) -> Any:
    """Compute the metrics of a configuration, after the checks of cell_eval2."""
    for reason, given in {
        "a cache": real_store is not None or pred_store is not None,
        "own tables of differential expression": de_pred is not None or de_real is not None,
        "tables of differential expression to write": write_de,
    }.items():
        if given:
            raise NotCovered(reason)
    names = _names(cfg)
    _their("validate_pair")(pred_ad, real_ad, pert_col=cfg.pert_col, control=cfg.control)
    pred_ad, real_ad = _their("_materialize")(pred_ad), _their("_materialize")(real_ad)
    kind = _checked_type(pred_ad, real_ad, cfg)
    if kind == "lognorm" and (cfg.target_sum is None or any(_kind(name) == "cell" for name in names)):
        raise NotCovered("log values, with target_sum=None or metrics of cells")
    cfg = _their("_resolve_target_sum_from_control")(cfg, real_ad)
    real = prepare(
        _cells(real_ad, cfg.pert_col, kind), control=cfg.control, cell_eval2=_settings(cfg, kind), engine=start()
    )
    if all(real.own_gene(name) is None for name in real.perturbations) and not cfg.target_gene_map:
        raise NotCovered("no perturbation is named like a gene")
    if on_resolved is not None:
        on_resolved(_facts(cfg, kind, names, real))
    scores = evaluate(real, _cells(pred_ad, cfg.pert_col, kind), metrics=names)
    if cfg.outdir:
        Path(cfg.outdir).mkdir(parents=True, exist_ok=True)
        cfg.to_yaml(str(Path(cfg.outdir) / "run_params.yaml"))
    return _table(scores, names)


def _their(name: str) -> Any:
    """Return a function or constant of cell_eval2.run."""
    found = getattr(sys.modules[RUN], name, None)
    if found is None:
        raise NotCovered(f"{RUN} without {name}")
    return found


def _kind(name: str) -> str:
    return str(_their("CATALOG")[name].kind)


def _names(cfg: Any) -> list[str]:
    """Return the metrics that a configuration asks for, if all are covered."""
    if cfg.version != "v2":
        raise NotCovered(f"version={cfg.version!r}; gpubench has 'v2'")
    names, missing = _their("resolve_metrics")(cfg.metrics, version=cfg.version)
    unknown = [*missing, *(name for name in names if name not in PERTURBATION_METRICS)]
    if unknown:
        raise NotCovered(f"the metrics {', '.join(unknown)}")
    if any(_kind(name) == "de" for name in names) and (backend := _their("_cache_backend")(cfg)) != "pdex":
        raise NotCovered(f"de.backend={backend!r}; gpubench computes what 'pdex' does")
    if cfg.discrimination.embed_key is not None:
        raise NotCovered("discrimination.embed_key")
    if cfg.de.auc_pval_floor == "preserve" or cfg.de.auc_pval_floor_value != 1e-10:
        raise NotCovered(f"de.auc_pval_floor={cfg.de.auc_pval_floor!r} with {cfg.de.auc_pval_floor_value}")
    if cfg.de.clip_value is not None:
        raise NotCovered(f"de.clip_value={cfg.de.clip_value}")
    return list(names)


def _checked_type(pred_ad: Any, real_ad: Any, cfg: Any) -> str:
    """Return whether values are "counts" or "lognorm" after the checks of cell_eval2, which raise its own errors."""
    sides = {"pred": pred_ad, "real": real_ad}
    kinds = {side: _their("_effective_input_type")(adata, cfg, side=side) for side, adata in sides.items()}
    if len(set(kinds.values())) > 1:
        raise NotCovered("counts on one side and log values on the other")
    for side, adata in sides.items():
        if cfg.validate_input:
            allowed = _their("_val_allow_fractional")(cfg, side=side)
            _their("_validate_input_once")(adata, kinds[side], allow_fractional=allowed)
            _their("_check_scale_limit_once")(adata, kinds[side], cfg.max_counts_per_cell)
    return str(kinds["real"])


def _settings(cfg: Any, kind: str) -> CellEval2Settings:
    return CellEval2Settings(
        control_source=cfg.control_source,
        input_type="counts" if kind == "counts" else "lognorm",
        target_sum=cfg.target_sum,
        bulk_target_sum=cfg.bulk_target_sum,
        min_control_cpm=cfg.filter.filter_gene_min_cpm_cell,
        mean_calc=cfg.de.mean_calc,
        epsilon=cfg.de.epsilon,
        fdr_scope="global" if cfg.de.fdr_scope == "global" else "perturbation",
        p_adj_threshold=cfg.de.p_adj_threshold,
        min_abs_log2fc=cfg.de.min_abs_log2fc,
        nan_lfc_policy=cfg.de.nan_lfc_policy,
        auc_pval_floor=cfg.de.auc_pval_floor,
        sort_by=cfg.de.sort_by,
        exclude_target_gene=cfg.discrimination.exclude_target_gene,
        exclusion_scope=cfg.discrimination.exclusion_scope,
        rank_denominator=cfg.discrimination.rank_denominator,
        tie_policy=cfg.discrimination.tie_policy,
        target_gene_map=dict(cfg.target_gene_map or {}),
    )


def _cells(adata: Any, column: str, kind: str) -> PerturbedCells:
    labels = adata.obs[column].to_numpy().astype(str)
    return perturbed_cells(adata.X, labels, list(map(str, adata.var_names)), counts=kind == "counts")


def _facts(cfg: Any, kind: str, names: list[str], real: RealSide) -> Any:
    """Return what cell_eval2 notes about a run; written by its command line."""
    tested = any(_kind(name) == "de" for name in names)
    return _their("RunFacts")(
        config=cfg,
        input_type_real=kind,
        input_type_pred=kind,
        comparator="bulk_lognorm" if kind == "counts" else "lognorm",
        device=_their("_cache_device")(cfg),
        de_backend=_their("_cache_backend")(cfg) if tested else cfg.de.backend,
        de_backend_used=tested,
        de_real_computed=True,
        scoring_path="in_memory",
        labels=real.perturbations,
    )


def _table(scores: PerturbationScores, names: list[str]) -> Any:
    """Return the table of cell_eval2: a row for each perturbation and metric."""
    import polars as pl

    rows = [row for kind in KINDS for name in names if _kind(name) == kind for row in _rows(scores, name)]
    return pl.DataFrame(rows, schema=_their("_TIDY_SCHEMA"), orient="row")


def _rows(scores: PerturbationScores, name: str) -> Iterator[tuple[str, str, float]]:
    values = scores.values[name]
    if values.rows:
        for p, value, reason in zip(scores.perturbations, values.values.tolist(), values.reasons, strict=True):
            if reason is None or not reason.no_row:
                yield p, name, value


PATCHES = (PDEX, Patch(RUN, "_run_metrics", _run_metrics, "cell_eval2.compute_metrics"))
