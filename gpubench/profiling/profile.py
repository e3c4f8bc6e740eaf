"""Profile: limits of the machine, stages of the runs at each size, and the stages' scaling exponents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.files import write_atomically

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

Point = tuple[int, int, float]
"""Number of cells, number of dimensions, and a time in seconds or memory in bytes."""

MIN_SECONDS = 0.05
"""Shortest time in seconds that is fitted: shorter times are mostly overhead of calls and noise of the machine."""

MIN_BYTES = 1 << 26
"""Smallest memory in bytes that is fitted: less is within what allocators round up and threads keep."""

MIN_SPAN = 3.0
"""Smallest ratio of the largest to the smallest size in a fit: below it, an error of 10% in a time changes an exponent
by more than 0.1."""

SCHEMA = 1
"""Version of the layout of `profile.json`."""

EMBEDDING = "X"
"""Name of the embedding of the synthetic cells."""

WHOLE = "whole run"
"""Name of the outermost stage, from putting an embedding on the engine to its last score."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Highest measured rates of an engine's device, with the number of threads that the engine uses."""

    blas_flop_s: float  # floating-point operations per second of a square float32 product by BLAS (cuBLAS on a GPU)
    # floating-point operations per second of the engine's distances in many dimensions; they may be faster than BLAS,
    # because the compiled tiles use instructions that a BLAS built for older processors does not
    tiles_flop_s: float
    bytes_s: float  # bytes read and written per second while copying an array
    seconds: float  # duration of the measurement

    @property
    def flop_s(self) -> float:
        """Highest rate of arithmetic, in floating-point operations per second."""
        return max(self.blas_flop_s, self.tiles_flop_s)

    def __str__(self) -> str:
        return (
            f"float32 products {self.blas_flop_s / 1e9:,.0f} GFLOP/s by BLAS and {self.tiles_flop_s / 1e9:,.0f} by "
            f"distance tiles, copying memory {self.bytes_s / 1e9:,.1f} GB/s"
        )

    def least_s(self, flop: float, moved_bytes: float) -> float:
        """Return the least seconds for an amount of work: those of arithmetic or of memory, whichever is longer."""
        return max(flop / self.flop_s, moved_bytes / self.bytes_s)


@dataclass(frozen=True, slots=True)
class Exponent:
    """Exponent p in y = c n^p, with its standard error.

    The standard error is None if there are only as many points as parameters.
    """

    value: float
    stderr: float | None


@dataclass(frozen=True, slots=True)
class ScalingExponents:
    """Exponents with which a stage's time and peak memory grow with the numbers of cells and of dimensions.

    An exponent is None if the runs do not determine it.
    """

    seconds_by_cells: Exponent | None
    seconds_by_dims: Exponent | None
    # peak memory counts beyond what the process held before the cells were drawn
    memory_by_cells: Exponent | None
    memory_by_dims: Exponent | None


def fit_scaling(runs: Sequence[Run], path: str) -> ScalingExponents:
    """Fit the scaling exponents of the stage with a path.

    Runs count if the stage takes `MIN_SECONDS`, for exponents of time, or `MIN_BYTES`, for those of memory.
    """
    found = [(run, stage) for run in runs if (stage := run.stage(path)) is not None]
    times = [(run.cells, run.dims, stage.seconds) for run, stage in found]
    memory = [(run.cells, run.dims, float((stage.peak_bytes or 0) - run.base_bytes)) for run, stage in found]
    return ScalingExponents(*_fit_from(times, MIN_SECONDS), *_fit_from(memory, MIN_BYTES))


def _fit_from(points: Sequence[Point], least: float) -> tuple[Exponent | None, Exponent | None]:
    """Fit exponents to the points whose value is at least `least`; None for sizes that span less than `MIN_SPAN`."""
    points = [point for point in points if point[2] >= least]
    by_cells, by_dims = (
        exponent if exponent is not None and max(sizes) >= MIN_SPAN * min(sizes) else None
        for exponent, sizes in zip(fit_powers(points), list(zip(*points, strict=True))[:2] or ((), ()), strict=True)
    )
    return by_cells, by_dims


def fit_powers(points: Sequence[Point]) -> tuple[Exponent | None, Exponent | None]:
    r"""Fit p and q of y = c n^p d^q by ordinary least squares of log y on log n and log d.

    Standard errors are those of the linear model, :math:`\sqrt{s^2 (X^T X)^{-1}}` with :math:`s^2` the residual sum of
    squares over the degrees of freedom.

    Parameters
    ----------
    points : triples (n, d, y) of positive numbers

    Returns
    -------
    p, q
        The exponents of n and d. An exponent is None if its size does not vary; both are None if n and d vary only
        together.
    """
    if not points:
        return None, None
    logs = np.log(np.array(points, np.float64))
    logs -= logs.mean(axis=0)
    varies = np.ptp(logs[:, :2], axis=0) > 0
    sizes, y = logs[:, :2][:, varies], logs[:, 2]
    n_sizes = sizes.shape[1]
    if np.linalg.matrix_rank(sizes) < n_sizes:
        return None, None
    slopes, freedom = np.linalg.lstsq(sizes, y)[0], len(points) - 1 - n_sizes
    errors: Sequence[float | None] = [None] * n_sizes
    if freedom > 0:
        variance = float(((y - sizes @ slopes) ** 2).sum()) / freedom
        errors = np.sqrt(variance * np.diag(np.linalg.inv(sizes.T @ sizes))).tolist()
    fitted = iter([Exponent(*both) for both in zip(slopes.tolist(), errors, strict=True)])
    by_cells, by_dims = (next(fitted) if there else None for there in varies)
    return by_cells, by_dims


@dataclass(frozen=True, slots=True)
class ProfiledStage:
    """Sums over all spans of a run's timeline that have the same path; see `gpubench.core.timeline.Span`."""

    path: str  # names of the containing stages and of the stage itself, joined by "/"
    seconds: float
    flop: int  # counted floating-point operations
    moved_bytes: int  # counted bytes read and written
    put_bytes: int  # bytes copied to the engine
    peak_bytes: int | None  # maximum over the spans; None if unknown
    own_s: float  # seconds outside of the stages that this one contains
    innermost: bool  # whether it contains no other stages

    def rate(self, amount: float) -> float | None:
        """Return an amount divided by the stage's seconds; None if either is 0."""
        return amount / self.seconds if amount and self.seconds > 0 else None

    def fraction(self, limits: Limits) -> float | None:
        """Return the least time that the counted work can take within these limits, divided by the measured time.

        None if no work was counted, or if the stage contains other stages, because some of those may not count theirs.
        """
        if not self.innermost or self.seconds <= 0 or not (self.flop or self.moved_bytes):
            return None
        return limits.least_s(self.flop, self.moved_bytes) / self.seconds

    def bound(self, limits: Limits) -> str | None:
        """Return the limit that determines the least time: "arithmetic" or "memory"; None if `fraction` is None."""
        if self.fraction(limits) is None:
            return None
        return "arithmetic" if self.flop / limits.flop_s > self.moved_bytes / limits.bytes_s else "memory"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the tasks on synthetic cells, in its own process.

    Attributes
    ----------
    cells, dims : numbers of cells and dimensions
    warm_up_s : seconds of an earlier run in the same process on a few cells, which imported all packages
    base_bytes : peak memory of that earlier run, before the cells of this run were drawn
    stages : stages in the order in which they began; the first is the whole run
    scores : dicts with the keys "task", "metric" and "value"
    failures : one line of text for each failed task
    notes : messages of the engine, such as where it deviates from the request
    """

    cells: int
    dims: int
    warm_up_s: float
    base_bytes: int
    stages: tuple[ProfiledStage, ...]
    scores: Sequence[Mapping[str, Any]] = ()
    failures: Sequence[str] = ()
    notes: Sequence[str] = ()

    def stage(self, path: str) -> ProfiledStage | None:
        """Return the stage with a path; None if the run has no such stage."""
        return next((stage for stage in self.stages if stage.path == path), None)

    @property
    def whole(self) -> ProfiledStage:
        """Stage that spans the whole run."""
        return self.stages[0]


@dataclass(frozen=True, slots=True)
class Failure:
    """Numbers of cells and dimensions of a run that failed, and its error message."""

    cells: int
    dims: int
    error: str


@dataclass(frozen=True)
class Profile:
    """Time and memory of runs of growing size; the result of `profile`.

    Attributes
    ----------
    limits : highest measured rates of the machine
    provenance : versions, machine, engine, seed and options, as in a `Result`
    runs : successful runs, in the order in which they ran
    failures : sizes whose run failed, with the error messages
    interrupted : whether Ctrl-C stopped the profile before all sizes had run
    """

    limits: Limits
    provenance: Mapping[str, Any]
    runs: tuple[Run, ...] = ()
    failures: tuple[Failure, ...] = ()
    interrupted: bool = False

    @cached_property
    def growth(self) -> Mapping[str, ScalingExponents]:
        """Path of each stage -> its scaling exponents, in the order in which the stages first began."""
        paths = dict.fromkeys(stage.path for run in self.runs for stage in run.stages)
        return {path: fit_scaling(self.runs, path) for path in paths}

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as a JSON-ready dictionary; unknown values are None."""
        return {
            "schema": SCHEMA,
            "provenance": dict(self.provenance),
            "limits": {**asdict(self.limits), "flop_s": self.limits.flop_s},
            "runs": [_run_to_dict(run, self.limits) for run in self.runs],
            "growth": [{"path": path, **asdict(exponents)} for path, exponents in self.growth.items()],
            "failures": [asdict(failure) for failure in self.failures],
            "interrupted": self.interrupted,
        }

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the profile to a JSON file atomically.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        write_atomically(path, lambda file: file.write(f"{text}\n".encode()))


def stages_of(timeline: Sequence[Mapping[str, Any]]) -> tuple[ProfiledStage, ...]:
    """Add up the spans of a timeline by path; paths no longer begin with the embedding's name.

    `timeline` has the spans of a run on the one embedding `EMBEDDING`, as dicts.
    """
    spans: dict[str, list[Mapping[str, Any]]] = {}
    for span in timeline:
        embedding, _, path = span["path"].partition("/")
        if embedding == EMBEDDING:
            spans.setdefault(path or WHOLE, []).append(span)
    stages = []
    for path, own in spans.items():
        sums = {key: sum(span[key] for span in own) for key in ("seconds", "flop", "moved_bytes", "put_bytes")}
        peak_bytes = max((span["peak_bytes"] for span in own if span["peak_bytes"] is not None), default=None)
        inner = [other for other in spans if other != WHOLE and (other.rpartition("/")[0] or WHOLE) == path]
        own_s = sums["seconds"] - sum(span["seconds"] for other in inner for span in spans[other])
        stages.append(ProfiledStage(path, **sums, peak_bytes=peak_bytes, own_s=own_s, innermost=not inner))
    return tuple(stages)


def _run_to_dict(run: Run, limits: Limits) -> dict[str, Any]:
    content = asdict(run)
    for stage, written in zip(run.stages, content["stages"], strict=True):
        written |= {
            "flop_s": stage.rate(stage.flop),
            "moved_bytes_s": stage.rate(stage.moved_bytes),
            "fraction_of_limit": stage.fraction(limits),
            "bound": stage.bound(limits),
        }
    return content
