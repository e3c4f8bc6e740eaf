"""BLAS on one thread: our own threads share the work out, and the order of sums must not depend on their number."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

from threadpoolctl import ThreadpoolController


def one_blas_thread() -> AbstractContextManager[Any]:
    """Return a context in which BLAS computes on the thread that calls it: on several it sums in another order."""
    limited: AbstractContextManager[Any] = _blas(len(sys.modules)).limit(limits=1)
    return limited


@lru_cache(maxsize=1)
def _blas(n_modules: int) -> ThreadpoolController:  # noqa: ARG001
    """Find the BLAS libraries of this process, again when modules were imported: they may load another one.

    The search takes milliseconds, which would dominate many small calls.
    """
    return ThreadpoolController().select(user_api="blas")
