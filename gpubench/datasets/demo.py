"""Real cells that ship with gpubench, for `gpubench demo`; celllines.txt says where they come from."""

from __future__ import annotations

from pathlib import Path

SOURCE = (
    "1,021 cells of five human lung cancer cell lines in five batches (Tian et al. 2019,"
    " doi:10.1038/s41592-019-0425-8; LuyiTian/sc_mixology, MIT licence)"
)


def demo_path() -> Path:
    """Return the h5ad file: 1,021 cells, obsm/X_pca, and cell_type (5) and batch (5) in obs."""
    return Path(__file__).with_name("celllines.h5ad")
