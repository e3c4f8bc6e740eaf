"""Write the synthetic cells of gpubench's profiles (`gpubench.profiling.synthetic`) as files.

    python benchmarks/synthetic.py FOLDER --n 20000 --d 50

writes x.npy (n, d) float32, label.npy, batch.npy and time.npy, and the three columns again as obs.parquet. The same
numbers give the same bits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from gpubench.profiling.synthetic import Cells, make


def write(cells: Cells, folder: Path) -> None:
    """Write the cells as the files that the benchmarks read."""
    import pyarrow as pa
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    columns = {"label": cells.label, "batch": cells.batch, "time": cells.time}
    for name, values in {"x": cells.x, **columns}.items():
        np.save(folder / f"{name}.npy", values)
    parquet.write_table(pa.table(columns), folder / "obs.parquet")


def main() -> None:
    """Write the cells that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=20_000, help="cells")
    parser.add_argument("--d", type=int, default=50, help="dimensions")
    parser.add_argument("--labels", type=int, default=30)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    cells = make(given.n, given.d, n_labels=given.labels, n_batches=given.batches, seed=given.seed)
    write(cells, given.folder)


if __name__ == "__main__":
    main()
