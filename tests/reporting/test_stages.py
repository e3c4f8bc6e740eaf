"""Stages of a report: order, shares, memory."""

from __future__ import annotations

import numpy as np
from report_cases import make_result, stage

from gpubench.reporting.figures import longest, memory_over_time, stages


def test_memory_is_that_of_the_innermost_stage() -> None:
    timeline = [stage("a", 0, 10, 50), stage("a/b", 2, 4, 30), stage("a/b/c", 3, 1, 20), stage("d", 12, 1, None)]
    peaks, edges = memory_over_time(stages(make_result(timeline=timeline)))
    np.testing.assert_array_equal(edges, [0, 2, 3, 4, 6, 10, 12, 13])
    np.testing.assert_array_equal(peaks, [50, 30, 20, 30, 50, np.nan, np.nan])


def test_longest_stages_are_in_order_without_short_ones() -> None:
    timeline = [stage("moment", 0, 0.001), *(stage(f"s{i}", i, 1 + i % 7) for i in range(30))]
    shown = longest(stages(make_result(timeline=timeline)))
    assert len(shown) == 16
    assert [s.start_s for s in shown] == sorted(s.start_s for s in shown)
    assert min(s.seconds for s in shown) >= 4
    assert [s.name for s in longest(stages(make_result(timeline=[stage("long", 0, 9), timeline[0]])))] == ["long"]


def test_shares_are_of_the_whole_run() -> None:
    first, second = stages(make_result(timeline=[stage("a", 0, 1), stage("a/b", 1, 3)]))
    assert (first.share, second.share) == (0.25, 0.75)
    assert (second.name, second.depth, second.peak_text) == ("b", 1, "1")
