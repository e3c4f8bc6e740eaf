"""What a worker keeps: made once, and by the next who asks where making it has failed."""

from __future__ import annotations

from threading import Event, Thread

import numpy as np
import pytest

pytest.importorskip("distributed", reason="pip install gpubench-sc[dask]")

from gpubench.core.types import Knn
from gpubench.engines.dask.worker import TYPE_KEY, WorkerState, decode


def test_cached_object_is_made_once() -> None:
    state, made = WorkerState(), []
    for _ in range(2):
        assert state.cached("key", lambda: made.append(1) or len(made)) == 1


@pytest.mark.parametrize("error", [ValueError("no rows"), SystemExit()])
def test_cached_waiter_tries_again_after_a_failure(error: BaseException) -> None:
    state, began, goes_on, answers = WorkerState(), Event(), Event(), []

    def fail() -> int:
        began.set()
        assert goes_on.wait(10)
        raise error

    def make_first() -> None:
        with pytest.raises(type(error)):
            state.cached("key", fail)

    first = Thread(target=make_first)
    second = Thread(target=lambda: answers.append(state.cached("key", lambda: 7)))
    first.start()
    assert began.wait(10)
    second.start()
    goes_on.set()
    first.join(10)
    second.join(10)
    assert answers == [7]
    assert state.cached("key", lambda: 8) == 7


def test_decode_aligns_arrays_of_other_workers() -> None:
    x = np.arange(12, dtype=np.float32)
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32)
    assert not unaligned.flags.aligned
    encoded = {"one": [unaligned, (unaligned,)], "knn": {TYPE_KEY: Knn, "indices": unaligned, "distances": x}}
    found = decode(encoded)
    for array in (found["one"][0], found["one"][1][0], found["knn"].indices):
        assert array.flags.aligned
        assert (array == x).all()
    assert found["knn"].distances is x
