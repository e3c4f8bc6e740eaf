"""Where an embedding is placed on a cluster: all of it on every worker where that fits, else in blocks of rows."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.units import bytes_text
from gpubench.data import as_rows
from gpubench.data.locations import find_location
from gpubench.data.matrices import comes_from
from gpubench.engines.dask import worker
from gpubench.engines.dask.array import ClusterArray
from gpubench.engines.dask.blocks import rows as blocks_rows
from gpubench.engines.dask.blocks.rows import BlockRows, Facts
from gpubench.engines.dask.worker import Held, Recipe

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gpubench.core.types import RowSource
    from gpubench.engines.base import Engine
    from gpubench.engines.dask.cluster import Cluster
    from gpubench.engines.dask.transfer import Handover

COPIES = 2.5
"""Matrices that a worker that holds all cells has at most: they, the same sorted and centred, and blocks of them."""

Placing = Literal["auto", "whole", "blocks"]


@dataclass(slots=True)
class Placement:
    """Puts embeddings on the workers.

    Attributes
    ----------
    here : the engine of this process, which looks at cells that are in its memory
    worker_bytes : what one worker may hold
    n_threads : of one worker
    wanted : "whole" or "blocks", or "auto": blocks where all cells do not fit a worker
    """

    cluster: Cluster
    handover: Handover
    here: Engine
    recipe: Recipe
    worker_bytes: int
    n_threads: int
    wanted: Placing = "auto"

    @property
    def part_bytes(self) -> int:
        """What a part of cells in blocks may take."""
        return blocks_rows.part_bytes(self.worker_bytes, self.n_threads)

    def put(self, x: ArrayLike | RowSource, name: str) -> tuple[ClusterArray, int]:
        """The cells on the cluster, and how many bytes they take there; see `Engine.put`.

        Raises
        ------
        InputError
            They do not fit, or cannot be scored.
        """
        rows = as_rows(x, name)
        n, d = (int(size) for size in rows.shape)
        in_blocks = self.in_blocks(n, d, name)
        n_bytes = 4 * n * d
        from_dask = comes_from(getattr(rows, "node", None), "dask")
        if in_blocks:
            return self._blocks(rows, (n, d), name, from_dask=from_dask), n_bytes
        return (self._whole_from_dask if from_dask else self._whole)(rows, name), n_bytes

    def in_blocks(self, n: int, d: int, name: str) -> bool:
        """Whether cells are placed in blocks."""
        n_workers = len(self.cluster.workers())
        needs = int(COPIES * 4 * n * d)
        if self.wanted == "whole" or (self.wanted == "auto" and needs <= self.worker_bytes):
            return False
        in_blocks = blocks_rows.worker_needs(n, d, n_workers, self.part_bytes, self.n_threads)
        if self.wanted == "auto" and in_blocks > self.worker_bytes:
            raise InputError(
                f"{name} ({n:,} x {d}) takes {bytes_text(in_blocks)} on each of {n_workers} workers in blocks, but"
                f" {bytes_text(self.worker_bytes)} may be used; start more workers, with more memory or fewer threads"
                " each, or use fewer cells"
            )
        return True

    def _whole(self, rows: Any, name: str) -> ClusterArray:
        """Each worker reads the cells, from the file where there is one."""
        place = self._place(rows, name)
        facts = tuple(int(size) for size in rows.shape), np.dtype(np.float32)
        if isinstance(place, np.ndarray):  # workers see nothing of this machine: Dask takes the cells to all of them
            future = self.cluster.client.scatter(place, broadcast=True, direct=True)
            return ClusterArray(self.cluster, future, facts)
        held = Held(uuid.uuid4().hex, place, name, self.recipe)
        self.cluster.on_every_worker("put", worker.value_of, held)
        return ClusterArray(self.cluster, held, facts)

    def _whole_from_dask(self, rows: Any, name: str) -> ClusterArray:
        """The chunks of an array of Dask together on one worker, from which Dask takes them to the others."""
        whole = self.cluster.client.compute(rows.node)
        future = self.cluster.submit("put", worker.checked, whole, name, self.recipe)
        self.cluster.wait([whole, future])
        return ClusterArray(self.cluster, future, (rows.shape, np.dtype(np.float32)))

    def _blocks(self, rows: Any, shape: tuple[int, int], name: str, *, from_dask: bool) -> BlockRows:
        """Each worker reads its own rows."""
        n, d = shape
        edges = blocks_rows.edges_of(n, d, len(self.cluster.workers()), self.part_bytes)
        if from_dask:
            blocks = blocks_rows.take_chunks(self.cluster, rows.node, edges, name)
        else:
            place = self._place(rows, name)
            if isinstance(place, np.ndarray):
                parts = [place[start:stop] for start, stop in pairwise(edges)]
                blocks = self.cluster.client.scatter(parts, direct=True)
            else:
                blocks = blocks_rows.read_place(self.cluster, place, edges, name)
        return BlockRows(self.cluster, blocks, edges, Facts(d, name, self.worker_bytes, self.part_bytes))

    def _place(self, rows: Any, name: str) -> Any:
        """Where workers can read the cells; the cells themselves, checked, where there is no such place."""
        place = find_location(rows)
        if place is not None:
            return place
        cells = self.here.put(rows, name)
        self.here.release(cells)
        return cells if self.handover.folder is None else self.handover.leave_matrix(cells)
