"""Work of each operation: floating-point operations, bytes moved and items, for plans and profiles.

A multiplication and an addition count as two operations; the distance of a pair of cells counts once where it is
computed once. Memory traffic is the least possible: every array that is read or written counts once.
"""

from __future__ import annotations

from collections.abc import Iterable

from gpubench.core.timeline import Work


def put(n: int, d: int, itemsize: int, *, copied: bool) -> Work:
    """Count the work of checking n rows for finite values and of copying them to float32."""
    return Work(0, n * d * (itemsize + (4 if copied else 0)), n * d)


def search(n_queries: int, n: int, d: int, k: int, *, symmetric: bool) -> Work:
    """Count the work of finding k neighbours of queries among n cells; each pair once if `symmetric`."""
    pairs = n * (n - 1) // 2 if symmetric else n_queries * n
    rows = n if symmetric else n_queries + n
    return Work(2 * pairs * d, 4 * rows * d + 8 * n_queries * k, pairs)


def leaves(sizes: Iterable[int], d: int) -> Work:
    """Count the work of comparing all pairs of cells within each leaf, given the numbers of cells of the leaves."""
    sizes = [int(size) for size in sizes]
    pairs = sum(size * (size - 1) for size in sizes) // 2
    return Work(2 * pairs * d, 4 * sum(sizes) * d, pairs)


def silhouettes(groups: Iterable[tuple[int, int]], d: int) -> Work:
    """Count the work of silhouette distances between all pairs of cells of each group.

    `groups` has the numbers of cells and of clusters of each group.
    """
    sizes = [size for size, _ in groups]
    pairs, n = sum(size * (size - 1) for size in sizes) // 2, sum(sizes)
    return Work(2 * pairs * d, 4 * n * d + 16 * n, pairs)


def sampled(pieces: Iterable[tuple[float, int]], n: int, d: int) -> Work:
    """Count the work of silhouette distances of a sample of n cells.

    `pieces` has pairs of numbers: of sampled cells, and of the cells that each of these is compared with.
    """
    pairs = sum(m * others for m, others in pieces)
    return Work(2 * pairs * d, 4 * n * d, pairs)


def closed_silhouettes(groups: Iterable[tuple[int, int]], d: int) -> Work:
    """Count the work of cosine silhouettes: one product of each cell with the sum of the cells of each cluster.

    `groups` has the numbers of cells and of clusters of each set of cells that is scored by itself, such as a label.
    """
    groups = list(groups)
    pairs, n = sum(size * n_clusters for size, n_clusters in groups), sum(size for size, _ in groups)
    return Work(2 * pairs * d, 8 * n * d + 16 * n, pairs)


def look_up(shape: tuple[int, ...], value_bytes: int) -> Work:
    """Count the work of reading a value of each neighbour in a table of `shape` (n, k), and of writing one per cell."""
    n, k = shape
    return Work(0, n * k * (4 + value_bytes) + 8 * n, n * k)


def rank_sums(n_stored: int, itemsize: int, n_groups: int, n_genes: int) -> Work:
    """Count the work of ranking the stored values and of summing the ranks of each group in each gene."""
    return Work(0, n_stored * (itemsize + 4) + 16 * n_groups * n_genes, n_stored)


def assign(n: int, d: int, n_centres: int) -> Work:
    """Count the work of finding the nearest of `n_centres` centres for n cells."""
    return Work(2 * n * d * n_centres, 4 * n * d + 4 * n, n * n_centres)


def gradients(n: int, d: int, n_classes: int, n_evaluations: int) -> Work:
    """Count the work of `n_evaluations` of the loss and gradient of logistic regression, each of which reads x once."""
    return Work(4 * n * d * n_classes * n_evaluations, 4 * n * d * n_evaluations, n * n_classes * n_evaluations)
