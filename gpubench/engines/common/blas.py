"""Limit BLAS to one thread: our own threads divide the work, and the order of sums must not depend on their number."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

from threadpoolctl import ThreadpoolController


def one_blas_thread() -> AbstractContextManager[Any]:
    """Return a context in which BLAS uses one thread, because several threads would change the order of sums."""
    limited: AbstractContextManager[Any] = _blas(len(sys.modules)).limit(limits=1)
    return limited


@lru_cache(maxsize=1)
def _blas(n_modules: int) -> ThreadpoolController:  # noqa: ARG001
    """Return a controller of the BLAS libraries of this process, cached for a number of imported modules.

    The search takes milliseconds and is repeated only after further imports, which may have loaded another BLAS.
    """
    return ThreadpoolController().select(user_api="blas")
