"""Embeddings in blocks on the workers of a cluster: rows, memory, sorting, and how work is cut into tasks."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from cells import Cells, make_cells

pytest.importorskip("distributed", reason="Dask is not installed")

from pathlib import Path

import dask.array
from distributed import LocalCluster
from shared_dask import shared_client

import gpubench as gb
from gpubench.core.errors import InputError
from gpubench.engines import get_engine
from gpubench.engines.common.kmeans import kmeans
from gpubench.engines.common.segments import Segments
from gpubench.engines.dask.cluster import DaskTuning
from gpubench.engines.dask.engine import DaskEngine
from gpubench.engines.dask.knn import block_ranks, grow_tree, leaf_starts, near_rows, query_rows
from gpubench.engines.dask.placement import part_bytes
from gpubench.engines.dask.remote import block_edges
from gpubench.engines.dask.shuffle import n_tasks
from gpubench.engines.dask.silhouette import Layout, cut_parts, group_pieces, pairs, sample_pieces
from gpubench.metrics.silhouette import silhouette_widths

N, K = 3_001, 15


@pytest.fixture(scope="module")
def cells() -> Cells:
    return make_cells(N, 20, n_labels=12, n_batches=4, seed=5)


@pytest.fixture
def engine() -> DaskEngine:
    return DaskEngine(cluster=shared_client())


@pytest.mark.slow
def test_cells_larger_than_a_worker_have_cpu_bits(cells: Cells) -> None:
    """Each of four workers may hold less than all cells, and has its share; what it needs of others goes by Dask."""
    with LocalCluster(n_workers=4, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        engine = DaskEngine(cluster=cluster)
        engine.placement.worker_bytes = int(0.8 * cells.x.nbytes)
        x = engine.put(cells.x)
        held = [block.nbytes for block in engine.cluster.fetch(x.blocks)]
        assert sum(held) == cells.x.nbytes
        assert max(held) < cells.x.nbytes / 8
        for clusters, groups in ((cells.label, None), (cells.batch, cells.label)):
            widths = np.asarray(silhouette_widths(engine, x, clusters, groups))
            assert widths.tobytes() == silhouette_widths(get_engine("cpu"), cells.x, clusters, groups).tobytes()
        found, expected = engine.knn(x, K), get_engine("cpu").knn(cells.x, K)
        np.testing.assert_array_equal(np.asarray(found.indices), expected.indices)
        np.testing.assert_array_equal(np.asarray(found.distances), expected.distances)


@pytest.mark.slow
def test_operations_on_all_cells_without_memory_raise(cells: Cells) -> None:
    engine = DaskEngine(cluster=shared_client(), knn="leaves")
    engine.placement.worker_bytes = int(1.6 * cells.x.nbytes)
    x = engine.put(cells.x)
    wanted = (
        r"^X \(3,001 x 20\) is in blocks on the workers, and {} all cells on one: .* may be used; start workers with"
    )
    with pytest.raises(InputError, match=wanted.format("kmeans needs")):
        engine.run(kmeans, x, 3)
    with pytest.raises(InputError, match=wanted.format("this needs")):
        x - x.mean(axis=0)
    with pytest.raises(InputError, match=wanted.format(r"approximate neighbours \(leaves\) need") + r".*knn=\"exact\""):
        engine.knn(x, K)
    with pytest.raises(InputError, match=r"^2,500 cells of X take .* on one worker"):
        x[np.arange(2500)]


def test_operations_on_all_cells_with_memory_run_on_one_worker(engine: DaskEngine, cells: Cells) -> None:
    x = engine.put(cells.x)
    np.testing.assert_array_equal(engine.run(kmeans, x, 3), get_engine("cpu").run(kmeans, cells.x, 3))
    np.testing.assert_array_equal(np.asarray(x.mean(axis=0)), cells.x.mean(axis=0))


def test_rows_of_blocks_are_those_of_numpy(engine: DaskEngine, cells: Cells) -> None:
    x, some = engine.put(cells.x), np.array([5, 2999, -1, 0, 5])
    keep = cells.label == 2
    for key in (slice(700, 1500), slice(None), slice(5, 5), keep, np.zeros(N, np.bool_), some, some[:0], 17):
        np.testing.assert_array_equal(np.asarray(x[key]), cells.x[key])
    with pytest.raises(IndexError, match=f"of {N}"):
        x[np.array([0, N])]
    assert len(x[keep].blocks) > 1
    codes = cells.batch[keep]
    widths = silhouette_widths(engine, x[keep], codes)
    assert np.asarray(widths).tobytes() == silhouette_widths(get_engine("cpu"), cells.x[keep], codes).tobytes()
    x[0] = 9.0  # blocks do not have what is written
    changed = cells.x.copy()
    changed[0] = 9.0
    expected = silhouette_widths(get_engine("cpu"), changed, cells.label)
    assert np.asarray(silhouette_widths(engine, x, cells.label)).tobytes() == expected.tobytes()


@pytest.mark.slow
def test_put_invalid_cells_counts_them_over_all_blocks(engine: DaskEngine, tmp_path: Path) -> None:
    x = np.zeros((900, 7), np.float32)
    x[[17, 700], 3] = np.nan
    np.save(tmp_path / "emb.npy", x)
    for given in (np.load(tmp_path / "emb.npy", mmap_mode="r"), dask.array.from_array(x, chunks=(150, 4))):
        with pytest.raises(InputError, match=r"^emb: 2 of 900 rows .*17.*700"):
            engine.put(given, "emb")


@pytest.mark.slow
def test_put_from_dask_or_memory_gives_the_same_digest(engine: DaskEngine, cells: Cells) -> None:
    digests = {engine.digest(engine.put(cells.x))}
    expected = silhouette_widths(get_engine("cpu"), cells.x, cells.label)
    engine.cluster.transfer.close()
    engine.cluster.transfer.folder = None
    for given in (dask.array.from_array(cells.x.astype(np.float64), chunks=(700, 8)), cells.x):
        x = engine.put(given)
        assert np.asarray(silhouette_widths(engine, x, cells.label)).tobytes() == expected.tobytes()
        digests.add(engine.digest(x))
    assert len(digests) == 1
    digests.add(engine.digest(engine.put(cells.x[::-1].copy())))
    assert len(digests) == 2


@pytest.mark.slow
def test_silhouette_tiny_parts_has_cpu_bits(
    rng: np.random.Generator,
) -> None:
    """Clusters that several parts share, groups that share a part, singletons; and parts that are much smaller."""
    engine = DaskEngine(cluster=shared_client(), tuning=DaskTuning(part_share=0))
    codes = np.concatenate([np.zeros(2500, np.int32), np.arange(1, N - 2500 + 1, dtype=np.int32)])
    x = rng.standard_normal((N, 1)).astype(np.float32)
    groups = np.repeat(np.arange(3, dtype=np.int32), [2700, 300, 1])
    on, some, cpu = engine.put(x), rng.permutation(N)[:400], get_engine("cpu")
    for given in ((codes, None), (codes, groups), (codes // 2, groups)):
        for cells in (None, some):
            found = silhouette_widths(engine, on, *given, cells=cells)
            assert np.asarray(found).tobytes() == silhouette_widths(cpu, x, *given, cells=cells).tobytes()


@pytest.mark.slow
def test_knn_of_copies_has_cpu_bits(engine: DaskEngine, rng: np.random.Generator) -> None:
    """Copies tie, and all of them are in one leaf of the tree of cuts; cells with few others near; k above a part."""
    x = np.repeat(rng.standard_normal((5, 3)), 300, axis=0).astype(np.float32)
    x[::7] = rng.standard_normal((len(x[::7]), 3))
    x = x[rng.permutation(len(x))]
    on, cpu = engine.put(x), get_engine("cpu")
    for k in (3, 350):
        found, expected = engine.knn(on, k), cpu.knn(x, k)
        np.testing.assert_array_equal(np.asarray(found.indices), expected.indices)
        np.testing.assert_array_equal(np.asarray(found.distances), expected.distances)


def test_tree_ranks_do_not_depend_on_the_blocks(rng: np.random.Generator) -> None:
    x = rng.standard_normal((5000, 4)).astype(np.float32)
    tree = grow_tree(x[::7], 5, 0)
    keys = tree.leaves(x)
    assert np.bincount(keys, minlength=32).max() < 5000 / 32 * 1.6
    spread = np.mean([x[keys == key].var(axis=0).sum() for key in np.unique(keys)])
    assert spread < 0.5 * x.var(axis=0).sum()
    for edges in ([0, 5000], [0, 700, 705, 5000]):
        block_keys = [keys[a:b] for a, b in pairwise(edges)]
        starts = leaf_starts([np.bincount(own, minlength=32) for own in block_keys])
        ranks = np.concatenate([block_ranks(own, starts, i) for i, own in enumerate(block_keys)])
        np.testing.assert_array_equal(np.argsort(ranks), np.argsort(keys, kind="stable"))


@pytest.mark.slow
def test_killing_one_of_two_workers_does_not_change_the_result(tmp_path: Path) -> None:
    cells = make_cells(20_000, 20, n_labels=12, n_batches=4, seed=5)
    np.save(tmp_path / "cells.npy", cells.x)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1") as cluster:
        engine = DaskEngine(cluster=cluster)
        x = engine.put(np.load(tmp_path / "cells.npy", mmap_mode="r"))
        pid = next(iter(engine.cluster.run_on_all(os.getpid).values()))
        killer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
        killer.start()
        widths, knn = silhouette_widths(engine, x, cells.label), engine.knn(x, K)
        killer.join()
        cpu = get_engine("cpu")
        expected = cpu.knn(cells.x, K)
        np.testing.assert_array_equal(np.asarray(knn.indices), expected.indices)
        np.testing.assert_array_equal(np.asarray(knn.distances), expected.distances)
        np.testing.assert_array_equal(np.asarray(widths), silhouette_widths(cpu, cells.x, cells.label))
        assert pid not in engine.cluster.run_on_all(os.getpid).values()


@pytest.mark.slow
def test_score_with_samples_has_cpu_values(engine: DaskEngine, cells: Cells, tmp_path: Path) -> None:
    """Also what is estimated from a sample."""
    np.save(tmp_path / "cells.npy", cells.x)
    given: dict[str, Any] = {"label": cells.label.astype(str), "batch": cells.batch.astype(str), "time": cells.time}
    tasks = ["embedding", "batch_integration", "sequential_organization"]
    cpu = get_engine("cpu")
    for one in (engine, cpu):
        one.policy = replace(one.policy, max_exact_pair_dims=1e7)
    found = gb.score(str(tmp_path / "cells.npy"), tasks=tasks, engine=engine, **given)
    expected = gb.score(str(tmp_path / "cells.npy"), tasks=tasks, engine=cpu, **given)
    assert not found.failures
    assert [(row.metric, row.value, row.note) for row in found.results] == [
        (row.metric, row.value, row.note) for row in expected.results
    ]
    assert any("estimated from" in str(row.note) for row in found.results)


@pytest.mark.slow
def test_tasks_of_a_hundred_million_cells_are_few_and_short() -> None:
    """Of everything that is compared: how many tasks, and how many differences of two values each."""
    n, d, n_workers, rate = 100_000_000, 50, 64, 3e10
    most = part_bytes(12 << 30, 1)
    edges = block_edges(n, d, n_workers, most)
    n_blocks = len(edges) - 1
    sizes = np.diff(np.linspace(0, n, 61).astype(np.int64))
    segments = Segments(np.empty(0, np.int64), np.concatenate([[0], np.cumsum(sizes)]), np.zeros(60, np.int64))
    layout = Layout(segments)
    parts = cut_parts(layout, d, n_blocks, n_workers, most)
    n_pairs = sum(1 for _ in pairs(parts))
    shuffled = n_tasks(n_blocks, len(parts))
    assert shuffled + n_pairs * 1.3 < 100_000
    rows = near_rows(n, d, n_blocks, n_workers, most)
    n_parts = -(-n // rows)
    assert n_tasks(n_blocks, n_parts) + n_parts * n_parts / 2 * 1.3 < 100_000
    # what runs of so many cells: 60,000 of them compared with all, 20,000 of them for their neighbours
    pieces = sample_pieces(np.repeat(np.arange(60), 1000), layout)
    runs = list(group_pieces(pieces, layout, parts, d))
    calls = [(run[-1][1] - run[0][0]) * np.diff(layout.row_range(parts[i].span))[0] for run, of in runs for i in of]
    assert shuffled + len(calls) * 1.3 < 100_000
    seconds = np.array(calls) * d / rate
    assert 1 < np.median(seconds) < 30
    assert seconds.max() < 30
    queries = query_rows(20_000, edges[1], d, n_blocks, n_workers)
    assert 1 < queries * edges[1] * d / rate < 30
    assert -(-20_000 // queries) * n_blocks < 100_000
