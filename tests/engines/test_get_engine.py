"""Starting an engine: a named one starts or raises, and what it is told is what it does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gpubench.engines import ENGINES, get_engine
from gpubench.engines.base import Engine
from gpubench.engines.embedding import on_engine
from gpubench.errors import InputError
from gpubench.timeline import Timeline


@pytest.mark.parametrize("name", ["gpu", "CPU", "", None])
def test_an_unknown_engine_is_refused_with_those_there_are(name: str | None) -> None:
    with pytest.raises(InputError, match=r"engine=.* is unknown; use one of: auto, cpu, cuda"):
        get_engine(name)


def test_a_named_engine_is_that_engine(engine_name: str) -> None:
    assert get_engine(engine_name).name == engine_name


def test_auto_is_one_of_them() -> None:
    assert get_engine("auto").name in ENGINES


def test_an_engine_keeps_its_seed_and_timeline(start_engine: Callable[..., Engine]) -> None:
    timeline = Timeline()
    engine = start_engine(seed=7, timeline=timeline, memory_bytes=1 << 30)
    assert engine.seed == 7
    assert engine.timeline is timeline
    assert engine.memory_bytes == 1 << 30
    assert engine.device


@pytest.mark.parametrize("option", [{"threads": 0}, {"threads": -2}, {"memory_bytes": 0}, {"memory_bytes": -1}])
def test_options_that_no_run_can_have(start_engine: Callable[..., Engine], option: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(option)).removesuffix('_bytes')}="):
        start_engine(**option)


def test_an_embedding_stays_on_its_engine(engine: Engine, start_engine: Callable[..., Engine]) -> None:
    embedding = on_engine([[1.0, 2.0], [3.0, 4.0]], engine)
    assert on_engine(embedding) is embedding
    assert on_engine(embedding, engine) is embedding
    for other in (start_engine(), "cpu"):
        with pytest.raises(InputError, match="already on the engine"):
            on_engine(embedding, other)


def test_one_graph_serves_every_k(engine: Engine, rng: np.random.Generator) -> None:
    embedding = on_engine(rng.normal(size=(50, 3)), engine)
    embedding.plan_knn(20)
    small = embedding.knn(5)
    assert small.k == 5
    assert (embedding.knn(20).indices[:, :5] == small.indices).all()
    searches = [span for span in engine.timeline.spans() if span.path.endswith("knn")]
    embedding.knn(20)
    embedding.knn(1)
    assert [span for span in engine.timeline.spans() if span.path.endswith("knn")] == searches
    assert embedding.knn(30).k == 30


@pytest.mark.parametrize("k", [0, -1, 50, 51])
def test_a_graph_of_more_neighbors_than_cells(engine: Engine, rng: np.random.Generator, k: int) -> None:
    embedding = on_engine(rng.normal(size=(50, 3)), engine)
    with pytest.raises(InputError, match=rf"k={k} .* use 1 to 49"):
        embedding.knn(k)
