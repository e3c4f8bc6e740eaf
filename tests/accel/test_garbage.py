"""Collecting garbage is put off, never switched off."""

from __future__ import annotations

import gc

import pytest

from gpubench.accel import garbage


def collect() -> int:
    return gc.collect()


class Node:
    """In a cycle, which only the collector frees."""

    def __init__(self) -> None:
        self.itself = self


def test_while_paused_nothing_is_collected_and_then_as_before() -> None:
    with garbage.paused(), garbage.paused():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with garbage.paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_method_collects_what_it_made_and_leaves_the_rest_for_later() -> None:
    gc.collect()
    Node()  # garbage from before

    def method(new: int) -> int:
        """Doc."""
        for _ in range(new):
            Node()
        return gc.collect()

    wrapped = garbage.of_its_own(method)
    assert wrapped.__doc__ == "Doc."
    gc.disable()
    try:
        assert wrapped(3) >= 3
        assert gc.get_freeze_count() == 0
        assert gc.collect() >= 1, "garbage from before is never collected"
    finally:
        gc.enable()


def test_what_somebody_froze_stays_frozen() -> None:
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        garbage.of_its_own(collect)()
        assert gc.get_freeze_count() == pytest.approx(frozen, abs=100)
    finally:
        gc.unfreeze()


def test_a_failure_leaves_nothing_frozen() -> None:
    with pytest.raises(ZeroDivisionError):
        garbage.of_its_own(lambda: 1 / 0)()
    assert gc.get_freeze_count() == 0
