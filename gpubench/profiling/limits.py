"""Limits of a machine: measured rates of large matrix products, distance tiles, and copies of memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from gpubench.engines.common import flop_counts

if TYPE_CHECKING:
    from gpubench.engines.base import Engine

SECONDS = 0.4
"""Seconds for which each of the three is repeated; the fastest repeat counts."""

EDGES = (1024, 2048, 4096, 8192)
LONG_ENOUGH_S = 0.05
"""Products grow until one takes this long, because small ones do not use the whole machine."""

DISTANCES = 4096, 512
"""Cells and dimensions of the distances."""

COPY_BYTES = 1 << 28
"""Size of the copied array, larger than any cache."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Highest rates of an engine's device, with its threads.

    Attributes
    ----------
    blas_flop_s : floating-point operations per second of a square float32 product by BLAS (cuBLAS on a GPU)
    tiles_flop_s : the same for the engine's distances in many dimensions, which may be faster: its compiled tiles use
        instructions that a BLAS built for older processors does not
    bytes_s : bytes per second that copying an array reads and writes
    seconds : duration of the measurement
    """

    blas_flop_s: float
    tiles_flop_s: float
    bytes_s: float
    seconds: float

    @property
    def flop_s(self) -> float:
        """The higher rate of arithmetic."""
        return max(self.blas_flop_s, self.tiles_flop_s)

    def __str__(self) -> str:
        return (
            f"float32 products {self.blas_flop_s / 1e9:,.0f} GFLOP/s by BLAS and {self.tiles_flop_s / 1e9:,.0f} by "
            f"distance tiles, copying memory {self.bytes_s / 1e9:,.1f} GB/s"
        )

    def least_s(self, flop: float, moved_bytes: float) -> float:
        """Return the least seconds of an amount of work: the slower of arithmetic and memory."""
        return max(flop / self.flop_s, moved_bytes / self.bytes_s)


def measure_limits(engine: Engine, n_threads: int) -> Limits:
    """Measure all rates, in about two seconds."""
    begin = time.perf_counter()
    rates = _product_rate(engine, n_threads), _distance_rate(engine), _copy_rate(engine, n_threads)
    return Limits(*rates, time.perf_counter() - begin)


def _product_rate(engine: Engine, n_threads: int) -> float:
    xp = engine.xp

    def multiply() -> None:
        engine.to_host((left @ right)[:1])  # waits until a device is done

    with threadpool_limits(n_threads, user_api="blas"):
        for edge in EDGES:
            left, right = (xp.full((edge, edge), value, np.float32) for value in (1.0, 0.5))
            if _fastest(multiply, 0) >= LONG_ENOUGH_S:
                break
        return 2 * edge**3 / _fastest(multiply, SECONDS)


def _distance_rate(engine: Engine) -> float:
    n, d = DISTANCES
    x = engine.put(np.random.default_rng(0).random((n, d), np.float32))
    clusters = np.arange(n, dtype=np.int32) % 2
    return flop_counts.silhouettes([(n, 2)], d).flop / _fastest(lambda: engine.cluster_distances(x, clusters), SECONDS)


def _copy_rate(engine: Engine, n_threads: int) -> float:
    xp = engine.xp
    size = min(COPY_BYTES, engine.memory_bytes // 4) // 4 * 4
    source, target = (xp.full(size // 4, value, np.float32) for value in (1.0, 0.0))
    # a CPU needs several cores to saturate its memory, a GPU one call
    edges = np.linspace(0, len(source), (n_threads if xp is np else 1) + 1).astype(int)
    pieces = [slice(start, stop) for start, stop in pairwise(edges.tolist())]
    with ThreadPoolExecutor(len(pieces), initializer=engine.timeline.thread_setup()) as pool:

        def copy() -> None:
            list(pool.map(lambda piece: xp.copyto(target[piece], source[piece]), pieces))
            engine.to_host(target[-1:])

        return 2 * size / _fastest(copy, SECONDS)


def _fastest(call: Callable[[], object], seconds: float) -> float:
    """Return the shortest duration of a call that is repeated for some seconds, after a first one that is not timed."""
    call()
    end, best = time.perf_counter() + seconds, math.inf
    while best == math.inf or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return best
