"""A monitor on the CUDA engine, emulated on the host: rows in the memory of the GPU stay there."""

from __future__ import annotations

import numpy as np
import pytest
import strict_cupy
from emulated import StartOn

import gpubench as gb

N, D = 90, 4


@pytest.fixture
def cells() -> tuple[np.ndarray, np.ndarray]:
    label = np.repeat(["a", "b", "c"], N // 3)
    x = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32) + 2 * (label == "b")[:, None]
    return x.astype(np.float32), label


def test_rows_on_the_gpu_are_scored_there(
    cells: tuple[np.ndarray, np.ndarray], start_on: StartOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, label = cells
    engine = start_on(seed=0)
    monitor = gb.Monitor(label, tasks="embedding", sample=60, engine=engine)
    copied: list[int] = []
    get = strict_cupy.ndarray.get
    monkeypatch.setattr(strict_cupy.ndarray, "get", lambda self: copied.append(self._host.nbytes) or get(self))
    batches = [engine.xp.asarray(part) for part in np.array_split(x, 4)]
    for _ in range(2):
        monitor.reset()
        for batch in batches:
            monitor.update(batch)
        values = monitor.compute()
    assert sum(stage["put_bytes"] for stage in engine.timeline.to_dicts()) == 0, "nothing is copied to the GPU"
    assert all(size < 60 * D * 4 for size in copied), "the embedding is not copied to the host"
    expected = gb.score(x[monitor.index], label=label[monitor.index], tasks="embedding", engine="cpu", seed=0)
    assert values["embedding/silhouette_score"] == pytest.approx(expected.value("silhouette_score"), abs=1e-5)


def test_rows_of_the_host_are_copied_and_give_the_same(cells: tuple[np.ndarray, np.ndarray], start_on: StartOn) -> None:
    x, label = cells
    engine = start_on(seed=0)
    values = []
    for batch in (x, engine.xp.asarray(x), x.astype(np.float64), engine.xp.asarray(x.astype(np.float64))):
        monitor = gb.Monitor(label, tasks="embedding", sample=60, engine=engine)
        monitor.update(batch)
        values.append(monitor.compute())
    assert values == values[:1] * 4
