"""Stages of a run, with their time and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpubench.results.table import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.results.result import Result

_MAX_SHOWN, _MIN_SHARE = 16, 0.005


@dataclass(frozen=True, slots=True)
class ReportedStage:
    """Stage of a run.

    Attributes
    ----------
    name : its own, without the stages that contain it
    path : names of all of them
    depth : number of stages that contain it
    start_s, seconds : start since the run began, and duration
    share : of the time of the whole run
    peak_bytes, put_bytes : as in `gpubench.core.timeline.Span`
    """

    name: str
    path: str
    depth: int
    start_s: float
    seconds: float
    share: float
    peak_bytes: int | None
    put_bytes: int

    @property
    def peak_text(self) -> str:
        """The peak memory in megabytes."""
        return "" if self.peak_bytes is None else f"{self.peak_bytes / 1e6:,.0f}"


def stages(result: Result) -> list[ReportedStage]:
    """Return all stages of a run in the order in which they began."""
    total = max((stage["start_s"] + stage["seconds"] for stage in result.timeline), default=0.0)
    return [
        ReportedStage(
            name=printable(stage["path"].rpartition("/")[2]),
            path=printable(stage["path"]),
            depth=stage["path"].count("/"),
            start_s=stage["start_s"],
            seconds=stage["seconds"],
            share=stage["seconds"] / total if total else 0.0,
            peak_bytes=stage["peak_bytes"],
            put_bytes=stage["put_bytes"],
        )
        for stage in result.timeline
    ]


def longest(all_stages: list[ReportedStage]) -> list[ReportedStage]:
    """Return the longest stages that fit in a figure, without very short ones, in the order in which they began."""
    chosen = sorted(
        (stage for stage in all_stages if stage.share >= _MIN_SHARE), key=lambda stage: stage.seconds, reverse=True
    )[:_MAX_SHOWN]
    return sorted(chosen, key=lambda stage: (stage.start_s, stage.depth))


def memory_over_time(all_stages: list[ReportedStage]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the peak memory of the innermost running stage over time.

    Returns
    -------
    (m,) bytes, NaN where unknown, and the (m + 1,) edges in seconds of their intervals.
    """
    edges = np.unique([[stage.start_s, stage.start_s + stage.seconds] for stage in all_stages])
    middles = (edges[1:] + edges[:-1]) / 2
    peaks = np.full(len(middles), np.nan)
    for stage in sorted(all_stages, key=lambda stage: stage.depth):
        if stage.peak_bytes is not None:
            peaks[(middles >= stage.start_s) & (middles <= stage.start_s + stage.seconds)] = stage.peak_bytes
    return peaks, edges
