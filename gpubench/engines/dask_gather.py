"""Answers of many tasks about the same rows, put together while other tasks still run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

MERGED = 8
"""Answers about the same rows that wait to be put together: fewer take less memory, more take fewer tasks."""

Answers = list[tuple[Any, int]]
"""Futures of tuples, and which of the tuple's items it is."""


class Gathered:
    """Puts together what tasks find for each part.

    Attributes
    ----------
    found : futures of everything that was found for each part, once all its answers are there

    Parameters
    ----------
    n_answers : that there will be for each part
    merge : given the number of a part and some of its answers: the future of a tuple of one, which stands for them
    finish : given the number of a part and all its answers: the future of what is found
    """

    def __init__(
        self, n_answers: Sequence[int], merge: Callable[[int, Answers], Any], finish: Callable[[int, Answers], Any]
    ) -> None:
        self._missing, self._merge, self._finish = [int(n) for n in n_answers], merge, finish
        self._waiting: list[Answers] = [[] for _ in self._missing]
        self.found: list[Any] = [None] * len(self._missing)

    def add(self, part: int, future: Any, side: int) -> None:
        """Take what a task has found for a part."""
        waiting = self._waiting[part]
        waiting.append((future, side))
        self._missing[part] -= 1
        if not self._missing[part]:
            self.found[part] = self._finish(part, waiting)
            self._waiting[part] = []
        elif len(waiting) >= MERGED:
            self._waiting[part] = [(self._merge(part, waiting), 0)]
