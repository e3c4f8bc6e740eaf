"""Looking for garbage where there is none takes seconds in processes with as many objects as jax and scanpy make."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def paused() -> Iterator[None]:
    """While a package is imported: what it makes stays."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def of_its_own(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method whose calls of `gc.collect` look at what it has made itself, and not again at all that was there.

    scib_metrics' Benchmarker collects before each of its metrics. When the method returns, all is as before.
    """

    @functools.wraps(method)
    def collecting_its_own(*args: Any, **kwargs: Any) -> Any:
        if gc.get_freeze_count():  # somebody has frozen objects who counts on it
            return method(*args, **kwargs)
        gc.freeze()
        try:
            return method(*args, **kwargs)
        finally:
            gc.unfreeze()

    return collecting_its_own
