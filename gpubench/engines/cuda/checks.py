"""Checks of the CUDA engine's methods on a few cells against the CPU engine; see `verdicts`.

Numbers of cells are odd, and there are copies of cells, ties and groups of one cell, because that is where kernels go
wrong. Coordinates are multiples of 1/8, so that distances in float64 are exact: neighbours must be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.timeline import Timeline
from gpubench.core.types import Graph, Knn
from gpubench.engines.common import neighborhoods
from gpubench.engines.common.rank_sums import group_cells
from gpubench.engines.common.segments import in_cell_order, sort_cells
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.cuda import cuml_models, exact_knn, graphs, ivf, library_knn, rank_sums, silhouette, tables
from gpubench.engines.cuda.arithmetic import ARITHMETICS, PRODUCTS, padded
from gpubench.engines.cuda.classifiers import CudaObjective, CumlForest
from gpubench.engines.cuda.cuml_models import CumlLogisticRegression, CumlNeighbors
from gpubench.engines.cuda.device import Copier
from gpubench.engines.cuda.tiles import Operand
from gpubench.engines.cuda.workspace import CudaTuning, Workspace, row_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cuda.device import Device

DIMENSIONS = (3, 50, 512)
N_CELLS, N_LABELS = 97, 4
N_NEIGHBORS = 7
EDGES = (32, CudaTuning().max_tile_rows)
"""Tile sizes: several tiles, and one for all cells."""

ROOM_BYTES = 64 << 20
"""Memory that a check may use."""

EXACT, ROUNDED = 1e-8, 2e-5
"""Largest differences relative to the largest value: of sums in float64, and of float32."""

MAX_FAST_DIFFERENCE = 2e-3
"""Largest relative difference of mean distances whose cells are rounded to TF32."""

MIN_RECALL = 0.9
MIN_MODULARITY_SHARE = 0.97
"""Smallest modularity of clusters, relative to that of igraph's."""

MIN_TRAINING_ACCURACY = 0.95

Comparison = tuple[str, Any, Any, float]
"""What is compared, what was found, what is expected, and the largest relative difference allowed."""


def compared(compare: Callable[[Device, str], Iterator[Comparison]], device: Device, method: str) -> str:
    """Return the first difference of a method, "" if there is none."""
    found = (differs(device, *comparison) for comparison in compare(device.current(), method))
    return next(filter(None, found), "")


def differs(device: Device, what: str, found: Any, expected: Any, tolerance: float) -> str:
    """Describe how numbers found on the GPU differ from the expected ones; "" if they do not."""
    found, expected = np.asarray(device.xp.asnumpy(found)), np.asarray(expected)
    if found.shape != expected.shape:
        return f"{what} have shape {found.shape}, not {expected.shape}"
    finite = np.isfinite(expected)
    size = np.abs(expected[finite]).max(initial=0)
    with np.errstate(invalid="ignore"):
        apart = np.abs(found.astype(np.float64) - expected)
        same = (found == expected) | (np.isnan(found) & np.isnan(expected))
        wrong = ~np.where(finite, apart <= tolerance * size, same)
    if not wrong.any():
        return ""
    largest = np.nan_to_num(apart[wrong], nan=np.inf, posinf=np.inf).max()
    return f"{int(wrong.sum())} of {wrong.size} {what} differ, by up to {largest:.3g}"


@cache
def cells_of(n: int, d: int) -> NDArray[np.float32]:
    """Return cells in clusters, a fifth of them copies; coordinates are multiples of 1/8."""
    random = np.random.default_rng(n + d)
    x = np.round(8 * (random.standard_normal((n, d)) + 2 * (np.arange(n) % N_LABELS)[:, None])) / 8
    x[n - n // 5 :] = x[: n // 5]
    return x.astype(np.float32)


def codes_of(n: int, n_codes: int) -> NDArray[np.int32]:
    """Return codes of uneven frequency; the last code has one cell."""
    codes = (np.arange(n) ** 2 % 7 % max(n_codes - 1, 1)).astype(np.int32)
    codes[n // 2] = n_codes - 1
    return codes


def workspace_of(device: Device, precision: Any = "exact", edge: int = EDGES[0]) -> Workspace:
    """Return the settings of a check, which is not part of the timeline of a run."""
    room_bytes = min(ROOM_BYTES, device.free_bytes())
    return Workspace(device, precision, room_bytes, Timeline(), CudaTuning(max_tile_rows=edge))


@cache
def host() -> CpuEngine:
    """Return the engine whose results are right."""
    return CpuEngine(threads=1, memory_bytes=1 << 30)


def copies(device: Device, _: str) -> Iterator[Comparison]:
    """Check that cells copied to the GPU in blocks, or read there from host memory, arrive unchanged."""
    x = cells_of(N_CELLS, 3)
    array = device.xp.empty(x.shape, np.float32)
    with Copier(device) as copier:
        for rows in row_blocks(len(x), 10):
            copier.copy(x[rows].astype(np.float64), array[rows])
    yield "copied values", array, x, 0
    mapped, buffer = device.mapped(x.shape, np.float32)
    buffer[...] = x
    yield "values in host memory", mapped + np.float32(0), x, 0


def products(device: Device, method: str) -> Iterator[Comparison]:
    """Check squared distances from matrix products against float64, within the error that the search allows for."""
    xp, way = device.xp, ARITHMETICS[method]
    for d in DIMENSIONS:
        x = cells_of(N_CELLS, d) / np.float32(64)
        rows = xp.zeros((N_CELLS, padded(d)), np.float32)
        rows[:, :d] = xp.asarray(x)
        operand = Operand.of(device, rows, way)
        tile = operand.products(device, operand.left(device), xp.empty(N_CELLS * padded(N_CELLS), np.float32))
        found = xp.asnumpy(operand.squares[:, None] + operand.squares + tile[:, :N_CELLS])
        exact, lengths = x.astype(np.float64), np.linalg.norm(x.astype(np.float64), axis=1)
        expected = np.square(exact[:, None] - exact).sum(axis=2)
        allowed = way.slack(d) * (lengths[:, None] + lengths) ** 2
        within = np.abs(found - expected) <= allowed
        yield f"products of {d} dimensions", device.xp.asarray(np.where(within, expected, found)), expected, 0


def knn(device: Device, method: str) -> Iterator[Comparison]:
    """Check neighbours, also of many copies of one cell, against those of the CPU engine; see `KNN`."""
    for d in DIMENSIONS if method == "exact" else DIMENSIONS[1:2]:
        yield from KNN[method](device, cells_of(N_CELLS, d), N_NEIGHBORS)
    if method == "exact":  # more copies than candidates, so that cells are compared one by one
        yield from KNN[method](device, np.repeat(cells_of(5, 3), 31, axis=0), N_NEIGHBORS)


def exact_neighbors(device: Device, x: NDArray[np.float32], k: int) -> Iterator[Comparison]:
    """Check exact neighbours within a set of cells, and from a few other cells to that set, against the CPU engine."""
    cells, expected = device.xp.asarray(x), host().knn(x, k)
    settings = [("exact", EDGES[0])]
    if x.shape[1] == DIMENSIONS[1]:
        settings += [("fast", EDGES[0]), ("exact", EDGES[1])]
    for precision, edge in settings:
        found = exact_knn.knn_between(workspace_of(device, precision, edge), cells, cells, k)
        yield "neighbours", found.indices, expected.indices, 0
        yield "distances of neighbours", found.distances, expected.distances, ROUNDED
    others = x[:9] + np.float32(1 / 8)
    found = exact_knn.knn_between(workspace_of(device), device.xp.asarray(others), cells, k)
    yield "neighbours of others", found.indices, host().knn_between(others, x, k).indices, 0


def ivf_neighbors(device: Device, x: NDArray[np.float32], k: int) -> Iterator[Comparison]:
    """Check that distances of approximate neighbours are Euclidean distances; see `approximate`."""
    found = ivf.ivf_knn(workspace_of(device), device.xp.asarray(x), k, seed=0)
    return approximate(device, x, found)


def approximate(device: Device, x: NDArray[np.float32], found: Knn) -> Iterator[Comparison]:
    """Compare approximate neighbours with what any search must give.

    They are different cells and not the cell itself, their distances ascend and are those of the definition, and few
    are farther than the true neighbours.
    """
    indices, distances = device.xp.asnumpy(found.indices), device.xp.asnumpy(found.distances)
    exact = x.astype(np.float64)
    expected = np.sqrt(np.square(exact[indices] - exact[:, None]).sum(axis=2))
    yield "distances of neighbours", found.distances, expected, ROUNDED
    n_distinct = [len(set(row) - {i}) for i, row in enumerate(indices.tolist())]
    yield "numbers of neighbours", n_distinct, np.full(len(x), found.k), 0
    yield "steps between distances", np.minimum(np.diff(distances, axis=1), 0), np.zeros((len(x), found.k - 1)), 0
    true = host().knn(x, found.k).distances
    recall = np.mean(distances <= true * (1 + 1e-6))
    yield "recalls", [min(recall, MIN_RECALL)], [MIN_RECALL], 0


def library_neighbors(method: str, device: Device, x: NDArray[np.float32], k: int) -> Iterator[Comparison]:
    """Check the neighbours that a library proposes, with each of its two indices; see `approximate`."""
    for exact_knn_cells in (len(x), 0):
        workspace = workspace_of(device)
        tuning = replace(workspace.tuning, exact_knn_cells=exact_knn_cells)
        found = library_knn.library_knn(replace(workspace, tuning=tuning), device.xp.asarray(x), k, method, seed=0)
        yield from approximate(device, x, found)


KNN: dict[str, Callable[[Device, NDArray[np.float32], int], Iterator[Comparison]]] = {
    "exact": exact_neighbors,
    "ivf": ivf_neighbors,
    "faiss": partial(library_neighbors, "faiss"),
    "cuvs": partial(library_neighbors, "cuvs"),
}
"""Comparison of each search for neighbours: of the k neighbours of each of x (n, d) with the CPU engine's."""


def silhouettes(device: Device, precision: str) -> Iterator[Comparison]:
    """Check mean Euclidean distances to clusters, also within groups of cells; `precision` is "exact" or "fast"."""
    tolerance = ROUNDED if precision == "exact" else MAX_FAST_DIFFERENCE
    for d in DIMENSIONS:
        for edge in EDGES:
            means = partial(silhouette.euclidean_means, workspace_of(device, precision, edge))
            yield from _mean_distances(device, means, "euclidean", d, tolerance)


def cosine_silhouettes(device: Device, _: str) -> Iterator[Comparison]:
    """Check mean cosine distances to clusters against the CPU engine."""
    for d in DIMENSIONS:
        means = partial(silhouette.cosine_means, workspace_of(device))
        yield from _mean_distances(device, means, "cosine", d, ROUNDED)


def _mean_distances(
    device: Device, means: Callable[..., Any], metric: Any, d: int, tolerance: float
) -> Iterator[Comparison]:
    for n in (1, N_CELLS):
        x, clusters = cells_of(n, d), codes_of(n, min(n, N_LABELS))
        for groups in (None, (np.arange(n) % 3).astype(np.int32)):
            segments = sort_cells(clusters, groups)
            own, nearest = (device.xp.asnumpy(found) for found in means(device.xp.asarray(x), segments))
            found = in_cell_order(own, nearest, segments)
            expected = host().cluster_distances(x, clusters, groups, metric)
            for name, ours, theirs in zip("ab", found, expected, strict=True):
                yield f"mean distances {name} of {d} dimensions", ours, theirs, tolerance


@cache
def graph_of_neighbors() -> Knn:
    """Return the neighbours of some cells, on the host."""
    return host().knn(cells_of(N_CELLS, 3), N_NEIGHBORS)


def _on_device(device: Device, found: Knn) -> Knn:
    return Knn(device.xp.asarray(found.indices), device.xp.asarray(found.distances))


def neighbor_statistics(name: str, device: Device, method: str) -> Iterator[Comparison]:
    """Check a statistic of `common.neighborhoods` against the CPU engine; `method` is "kernel" or "array code"."""
    xp, found = device.xp, graph_of_neighbors()
    cells, compute = np.arange(N_CELLS), getattr(neighborhoods, name)
    for columns in STATISTICS[name]():
        expected = compute(np, found, cells, *columns)
        if method == "kernel":
            ours = tables.NEIGHBOR_KERNELS[name](device, _on_device(device, found), None, *columns)
        else:
            given = [xp.asarray(column) if isinstance(column, np.ndarray) else column for column in columns]
            ours = compute(xp, _on_device(device, found), xp.asarray(cells), *given)
        yield "statistics of neighbours", ours, expected, EXACT


def _entropy_columns() -> Iterator[tuple[Any, ...]]:
    yield from ((codes_of(N_CELLS, n_codes), n_codes) for n_codes in (1, N_LABELS, 3000))


def _chi_square_columns() -> Iterator[tuple[Any, ...]]:
    yield codes_of(N_CELLS, N_LABELS), np.full(N_LABELS, 1 / N_LABELS)
    # so many bins that a histogram does not fit the memory of a block
    yield codes_of(N_CELLS, 25_000), np.full(25_000, 1 / 25_000)


def _value_columns() -> Iterator[tuple[Any, ...]]:
    values = cells_of(N_CELLS, 3)[:, 0].astype(np.float64)
    yield values, None
    yield values, np.arange(N_CELLS) % N_NEIGHBORS + 1


def _simpson_columns() -> Iterator[tuple[Any, ...]]:
    yield codes_of(N_CELLS, N_LABELS), N_LABELS, 3.0


STATISTICS: dict[str, Callable[[], Iterator[tuple[Any, ...]]]] = {
    "neighbor_entropy": _entropy_columns,
    "neighbor_chi_square": _chi_square_columns,
    "neighbor_simpson": _simpson_columns,
    "neighbor_value_distance": _value_columns,
}
"""Columns for the statistics of neighbourhoods that are checked."""


def fuzzy_graph(device: Device, _: str) -> Iterator[Comparison]:
    """Check the connectivities of a neighbour graph against the CPU engine."""
    expected = host().fuzzy_graph(graph_of_neighbors())
    found = graphs.fuzzy_graph(device, _on_device(device, graph_of_neighbors()))
    yield "starts of rows", found.indptr, expected.indptr, 0
    yield "columns", found.indices, expected.indices, 0
    yield "weights", found.weights, expected.weights, 2 * ROUNDED


def leiden(device: Device, _: str) -> Iterator[Comparison]:
    """Check that the modularity of cuGraph's clusters is near that of the CPU engine's."""
    on_host = host().fuzzy_graph(graph_of_neighbors())
    given = Graph(*(device.xp.asarray(array) for array in (on_host.indptr, on_host.indices, on_host.weights)))
    found = graphs.by_cugraph(device, given, 1.0, 0)
    enough = MIN_MODULARITY_SHARE * _modularity(on_host, host().leiden(on_host))
    yield "modularities", [min(_modularity(on_host, found), enough)], [enough], 0


def _modularity(graph: Graph, codes: NDArray[np.int32]) -> float:
    rows = np.repeat(np.arange(graph.n), np.diff(graph.indptr))
    total, inside = graph.weights.sum(), codes[rows] == codes[graph.indices]
    degrees = np.bincount(codes, np.bincount(rows, graph.weights, graph.n))
    return float(graph.weights[inside].sum() / total - np.square(degrees / total).sum())


def forest(device: Device, _: str) -> Iterator[Comparison]:
    """Check that cuML's forest predicts the classes of the cells it was trained on."""
    x, codes = cells_of(N_CELLS, 3), (np.arange(N_CELLS) % N_LABELS).astype(np.int32)
    codes[N_CELLS - N_CELLS // 5 :] = codes[: N_CELLS // 5]  # copies have the class of the original
    cells = device.xp.asarray(x)
    trained = CumlForest(device, 0, n_estimators=20).fit(cells, codes, N_LABELS + 1)
    shares = device.xp.asnumpy(trained.predict_proba(cells))
    yield "sums of probabilities", shares.sum(axis=1), np.ones(N_CELLS), 1e-5
    accuracy = float((shares.argmax(axis=1) == codes).mean())
    yield "accuracies", [min(accuracy, MIN_TRAINING_ACCURACY)], [MIN_TRAINING_ACCURACY], 0


CUML_CLASSIFIERS: Mapping[str, type[CumlLogisticRegression | CumlNeighbors]] = {
    "lr": CumlLogisticRegression,
    "knn": CumlNeighbors,
}
"""Classifiers of cuML that are used if the user names cuML."""


def cuml(device: Device, method: str) -> Iterator[Comparison]:
    """Check cuML's predictions for its training cells, or its silhouette widths against the CPU engine's."""
    x, codes = cells_of(N_CELLS, 50), (np.arange(N_CELLS) % N_LABELS).astype(np.int32)
    codes[N_CELLS - N_CELLS // 5 :] = codes[: N_CELLS // 5]  # copies have the class of the original
    cells = device.xp.asarray(x)
    if method != "silhouettes":
        trained = CUML_CLASSIFIERS[method](device).fit(cells, codes, N_LABELS + 1)
        shares = device.xp.asnumpy(trained.predict_proba(cells))
        yield "sums of probabilities", shares.sum(axis=1), np.ones(N_CELLS), 1e-5
        accuracy = float((shares.argmax(axis=1) == codes).mean())
        yield "accuracies", [min(accuracy, MIN_TRAINING_ACCURACY)], [MIN_TRAINING_ACCURACY], 0
        return
    metrics: tuple[Any, ...] = ("euclidean", "cosine")
    for metric in metrics:
        a, b = host().cluster_distances(x, codes, metric=metric)
        found = cuml_models.silhouette_widths(device, cells, codes, metric, ROOM_BYTES)
        yield "silhouette widths", found, (b - a) / np.maximum(a, b), MAX_FAST_DIFFERENCE


def logistic_regression(device: Device, _: str) -> Iterator[Comparison]:
    """Check the loss of logistic regression, and the gradient of that loss, against the CPU engine."""
    random = np.random.default_rng(0)
    for d in DIMENSIONS:
        x, y = cells_of(N_CELLS, d), np.arange(N_CELLS) % N_LABELS
        weights = random.standard_normal((N_LABELS, d)).astype(np.float32) / np.float32(d)
        intercepts = random.standard_normal(N_LABELS).astype(np.float32)
        objective = CudaObjective(workspace_of(device), device.xp.asarray(x), y, N_LABELS, 1.0)
        found = objective.sum_over_cells(weights, intercepts)
        logits = x.astype(np.float64) @ weights.T.astype(np.float64) + intercepts
        normaliser = np.log(np.exp(logits).sum(axis=1))
        derivative = np.exp(logits - normaliser[:, None])
        derivative[np.arange(N_CELLS), y] -= 1
        tolerance = 5 * ROUNDED  # float32 logits are rounded before they are exponentiated
        yield "losses", found.loss, (normaliser - logits[np.arange(N_CELLS), y]).sum(), tolerance
        yield "derivatives by weights", found.weights, derivative.T @ x, tolerance
        yield "derivatives by intercepts", found.intercepts, derivative.sum(axis=0), tolerance


def group_means(device: Device, _: str) -> Iterator[Comparison]:
    """Check means of groups of cells, one of them empty, against the CPU engine."""
    for n in (1, N_CELLS):
        for d in DIMENSIONS:
            x, codes = cells_of(n, d), codes_of(n, N_LABELS)
            codes[::5] = -1
            found = tables.group_means(device, device.xp.asarray(x), codes, N_LABELS + 1)
            yield "means of groups", found, host().group_means(x, codes, N_LABELS + 1), EXACT


def rank(device: Device, _: str) -> Iterator[Comparison]:
    """Check ranks of values with ties against the CPU engine."""
    for shape in ((1, 1), (5, N_CELLS)):
        values = np.round(cells_of(*shape[::-1]).T)
        yield "ranks", tables.rank(device, device.xp.asarray(values), ROOM_BYTES), host().rank(values), 0


def group_rank_sums(device: Device, _: str) -> Iterator[Comparison]:
    """Check rank sums of groups, of values with ties and many zeros, against the CPU engine."""
    values = np.maximum(np.round(cells_of(N_CELLS, 50) - 3), 0)
    groups = codes_of(N_CELLS, N_LABELS)
    cells = group_cells(groups, N_LABELS, 0, values.shape)
    found = rank_sums.rank_sums(device, values, cells, ROOM_BYTES)
    expected = host().rank_sums(values, groups, N_LABELS, 0)
    yield "rank sums", found.u, expected.u, 0
    yield "sums of ties", found.ties, expected.ties, 0


def digest(device: Device, _: str) -> Iterator[Comparison]:
    """Check the sums from which the digest of an embedding is made against NumPy."""
    x = cells_of(N_CELLS, 50)
    expected = tables.mixed_sums(SimpleNamespace(xp=np), x, 1000)  # type: ignore[arg-type]
    found = tables.mixed_sums(device, device.xp.asarray(x), 1000)
    yield "sums of digests", np.array(found, np.uint64) == np.array(expected, np.uint64), np.ones(2), 0


_COMPARISONS: Mapping[str, Callable[[Device, str], Iterator[Comparison]]] = {
    "copies": copies,
    PRODUCTS: products,
    "knn": knn,
    "silhouettes": silhouettes,
    "cosine_silhouettes": cosine_silhouettes,
    **{name: partial(neighbor_statistics, name) for name in STATISTICS},
    "fuzzy_graph": fuzzy_graph,
    "leiden": leiden,
    "rf": forest,
    "cuml": cuml,
    "lr": logistic_regression,
    "group_means": group_means,
    "rank": rank,
    "rank_sums": group_rank_sums,
    "digest": digest,
}

CHECKS: Mapping[str, Callable[[Device, str], str]] = {
    operation: partial(compared, compare) for operation, compare in _COMPARISONS.items()
}
"""Function that checks the methods of each operation; see `verdicts.Check`."""

METHODS: Mapping[str, tuple[str, ...]] = {
    "copies": ("pinned memory",),
    PRODUCTS: tuple(ARITHMETICS),
    "knn": tuple(KNN),
    "silhouettes": ("fast", "exact"),
    "cosine_silhouettes": ("closed form",),
    "neighbor_entropy": ("kernel", "array code"),
    "neighbor_chi_square": ("array code",),
    "neighbor_simpson": ("array code",),
    "neighbor_value_distance": ("kernel", "array code"),
    "fuzzy_graph": ("kernel",),
    "leiden": ("cugraph",),
    "rf": ("cuml",),
    "cuml": (*CUML_CLASSIFIERS, "silhouettes"),
    "lr": ("products",),
    "group_means": ("kernel",),
    "rank": ("kernel",),
    "rank_sums": ("kernel",),
    "digest": ("array code",),
}
"""Methods of each operation, in the order of preference."""
