"""Settings of the CPU engine: block sizes, and the numbers of cells from which other algorithms are used."""

from __future__ import annotations

from dataclasses import dataclass

from gpubench.engines import planner


@dataclass(frozen=True, slots=True)
class CpuTuning:
    """Block sizes and thresholds, which determine the speed of the CPU engine and the memory of its blocks.

    Exact results do not depend on them. The fields of the leaf search and of Leiden decide which approximate
    neighbours and which communities are found.
    """

    rows_per_task: int = 8192  # rows that a thread takes at a time if a kernel does little for each
    # values that a thread makes at a time if a kernel makes many for each row; they stay in its cache
    values_per_task: int = 1 << 17
    # NumPy's exact search keeps the right operands of all tiles up to this size; beyond, they are made again for each
    # block of queries, which costs little compared with their product
    operand_bytes: int = 1 << 28
    # share of the memory that candidates may take; beyond it a search passes over the cells repeatedly
    candidate_share: float = planner.BLOCK_SHARE
    # multiplications of one call of a compiled tile, a fraction of a second: progress is shown and an interrupt noticed
    # between calls
    products_per_call: int = 10**10
    leaf_cells: int = 1000  # cells of a leaf on average, or `leaf_cells_per_neighbor` times k if that is more
    leaf_cells_per_neighbor: int = 15  # see `leaf_cells`
    leaves_per_cell: int = 3  # leaves that a cell joins for each set of leaders
    max_leaf_sets: int = 4  # sets of leaders that cells join while the recall is too low, before anything else is tried
    # up to this many leaders each cell is compared with all of them; beyond, with those close to the same pivots, some
    # of the leaders themselves, about as many as the square root of their number
    max_compared_leaders: int = 8000
    near_pivots: int = 32  # pivots nearest to that of a cell with whose leaders it is compared
    # recall at which the leaf search stops; a little more than 0.95, as it is measured on a sample
    min_recall: float = 0.955
    # up to here igraph is given every edge in both directions, as scanpy does. Modularity is the same with each edge
    # once, but the seeded algorithm walks another way; up to here communities are those of cz-benchmarks to the cell.
    # Beyond, once takes half the time and two thirds of the memory (benchmarks/leiden.py)
    max_bidirectional_cells: int = 50_000
    # from here networkit takes less time and memory than igraph for the same modularity (benchmarks/leiden.py); on one
    # thread, as on several its communities vary
    min_networkit_cells: int = 500_000
    # stored entries from which Leiden runs in a process of its own: igraph holds the interpreter's lock for about a
    # second by then
    min_process_edges: int = 1_000_000
    edge_rows: int = 1 << 16  # cells whose edges are handed to a Leiden package at a time
    # cells that a forest of scikit-learn predicts at a time, which copies the probabilities several times
    predicted_rows: int = 1 << 16
    # values of the cells and logits of a tile of logistic regression; half a megabyte of float32 stays in a core's
    # second-level cache
    classifier_values: int = 1 << 17


DEFAULT = CpuTuning()
