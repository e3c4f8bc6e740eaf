"""Which seeds a run can have."""

from __future__ import annotations

from operator import index
from typing import Any

from gpubench.errors import InputError

LARGEST_SEED = 2**32 - 1
"""Of NumPy's older generators, which igraph and scikit-learn are seeded through."""


def check_seed(seed: Any) -> int:
    """Return the seed as an integer.

    Raises
    ------
    InputError
        It is no whole number from 0 to `LARGEST_SEED`.
    """
    try:
        number = index(seed)
    except TypeError:
        number = -1
    if not 0 <= number <= LARGEST_SEED:
        raise InputError(f"seed={seed!r} is no whole number from 0 to {LARGEST_SEED}; give one that is")
    return number
