"""What a profile holds: the limits of the machine, the stages of each size, and how they grow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.files import write_atomically

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from gpubench.profiling.limits import Limits


SHORTEST_S = 0.05
"""Shorter stages are the overhead of calls and what else the machine does: such times say little about growth."""

MIN_SPAN = 3.0
"""Largest size over smallest: over less, a tenth more or less of a time moves an exponent by more than a tenth."""

SMALLEST_BYTES = 1 << 26
"""The same of memory: less is within what allocators round and threads keep for themselves."""


@dataclass(frozen=True, slots=True)
class Exponent:
    """p in y = c n^p, with its standard error; None where the points are as few as the parameters."""

    value: float
    stderr: float | None


@dataclass(frozen=True, slots=True)
class Growth:
    """Exponents of one stage; None where its sizes do not tell.

    Attributes
    ----------
    seconds_by_cells, seconds_by_dims : of the time
    memory_by_cells, memory_by_dims : of the peak memory beyond what the process held before the cells were made
    """

    seconds_by_cells: Exponent | None
    seconds_by_dims: Exponent | None
    memory_by_cells: Exponent | None
    memory_by_dims: Exponent | None


def fit_growth(runs: Sequence[Run], path: str) -> Growth:
    """Fit the growth of the stage of a path over all runs that have it, as far as these are long or large enough."""
    found = [(run, stage) for run in runs if (stage := run.stage(path)) is not None]
    times = [(run.cells, run.dims, stage.seconds) for run, stage in found]
    beyond = [(run.cells, run.dims, (stage.peak_bytes or 0) - run.base_bytes) for run, stage in found]
    return Growth(*_told(times, SHORTEST_S), *_told(beyond, SMALLEST_BYTES))


def _told(points: Sequence[tuple[int, int, float]], least: float) -> tuple[Exponent | None, Exponent | None]:
    """Exponents of what is at least so large, for sizes that span enough to tell."""
    told = [point for point in points if point[2] >= least]
    by_cells, by_dims = (
        exponent if exponent is not None and max(size) >= MIN_SPAN * min(size) else None
        for exponent, size in zip(fit_powers(told), list(zip(*told, strict=True))[:2] or ((), ()), strict=True)
    )
    return by_cells, by_dims


def fit_powers(points: Sequence[tuple[int, int, float]]) -> tuple[Exponent | None, Exponent | None]:
    """Exponents p and q of y = c n^p d^q by ordinary least squares of log y on log n and log d.

    Standard errors are those of the linear model, sqrt(s^2 (X^T X)^-1) with s^2 the residual sum of squares over the
    degrees of freedom.

    Parameters
    ----------
    points : (n, d, y), all above 0

    Returns
    -------
    p and q; None for a size that does not vary, and both where n and d vary together only.
    """
    if not points:
        return None, None
    logs = np.log(np.array(points, np.float64))
    varies = np.ptp(logs[:, :2], axis=0) > 0
    sizes = logs[:, :2][:, varies] - logs[:, :2][:, varies].mean(axis=0)
    n_parameters = 1 + sizes.shape[1]
    if np.linalg.matrix_rank(sizes) < sizes.shape[1]:
        return None, None
    fitted = iter(_least_squares(sizes, logs[:, 2], len(points) - n_parameters))
    by_cells, by_dims = (next(fitted) if there else None for there in varies)
    return by_cells, by_dims


def _least_squares(centred: NDArray[np.float64], y: NDArray[np.float64], freedom: int) -> list[Exponent]:
    """Slopes of y on columns of mean 0."""
    slopes = np.linalg.lstsq(centred, y - y.mean())[0]
    if freedom < 1:
        return [Exponent(float(slope), None) for slope in slopes]
    residuals = y - y.mean() - centred @ slopes
    variance = float(residuals @ residuals) / freedom
    errors = np.sqrt(variance * np.diag(np.linalg.inv(centred.T @ centred)))
    return [Exponent(float(slope), float(error)) for slope, error in zip(slopes, errors, strict=True)]


SCHEMA = 1
"""Version of the layout of `profile.json`."""

EMBEDDING = "X"
"""What the synthetic cells are called."""

WHOLE = "whole run"
"""What the stage is called that has all others inside it: an embedding from being put to its last score."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of one run; stages of the same name and place are added up.

    Attributes
    ----------
    path : its name, after those of the stages that it runs inside
    seconds, flop, moved_bytes, put_bytes : sums, as in `gpubench.core.timeline.Span`
    peak_bytes : the highest; None where it is not known
    own_s : its seconds without those of the stages inside it
    innermost : whether no other stage runs inside it
    """

    path: str
    seconds: float
    flop: int
    moved_bytes: int
    put_bytes: int
    peak_bytes: int | None
    own_s: float
    innermost: bool

    @property
    def depth(self) -> int:
        """How many stages it runs inside, the whole run not counted."""
        return self.path.count("/")

    def rate(self, amount: float) -> float | None:
        """An amount of work a second; None where nothing was counted."""
        return amount / self.seconds if amount and self.seconds > 0 else None

    def fraction(self, limits: Limits) -> float | None:
        """The least time that the counted work takes on this machine, as a share of the time that it took.

        None where nothing was counted, and for stages that have others inside, of which some may count nothing.
        """
        if not self.innermost or self.seconds <= 0 or not (self.flop or self.moved_bytes):
            return None
        return limits.least_s(self.flop, self.moved_bytes) / self.seconds

    def bound(self, limits: Limits) -> str | None:
        """Which limit that is: "arithmetic" or "memory"."""
        if self.fraction(limits) is None:
            return None
        return "arithmetic" if self.flop / limits.flop_s > self.moved_bytes / limits.bytes_s else "memory"


@dataclass(frozen=True, slots=True)
class Run:
    """The suite on cells of one size, in a process of its own.

    Attributes
    ----------
    cells, dims : the size
    warm_up_s : seconds of the run on few cells before, which imports what is needed
    base_bytes : the most memory in use until the cells were made
    stages : in the order in which they began, the whole run first
    scores : each {"task", "metric", "value"}
    failures : tasks that failed, a line each
    notes : of the engine
    """

    cells: int
    dims: int
    warm_up_s: float
    base_bytes: int
    stages: tuple[Stage, ...]
    scores: Sequence[Mapping[str, Any]] = ()
    failures: Sequence[str] = ()
    notes: Sequence[str] = ()

    def stage(self, path: str) -> Stage | None:
        """The stage of a path."""
        return next((stage for stage in self.stages if stage.path == path), None)

    @property
    def whole(self) -> Stage:
        """All stages together."""
        return self.stages[0]


@dataclass(frozen=True, slots=True)
class Failure:
    """A size that was not scored, and why."""

    cells: int
    dims: int
    error: str


@dataclass(frozen=True)
class Profile:
    """Where time and memory went at growing size; made by `profile`.

    Attributes
    ----------
    limits : of the machine
    provenance : as that of a result
    runs : the sizes that were scored, in the order in which they ran
    failures : those that were not
    interrupted : whether the profile was stopped before its end
    """

    limits: Limits
    provenance: Mapping[str, Any]
    runs: tuple[Run, ...] = ()
    failures: tuple[Failure, ...] = ()
    interrupted: bool = False
    _growth: dict[str, Growth] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Fit how each stage grows."""
        object.__setattr__(self, "_growth", {path: fit_growth(self.runs, path) for path in self.paths()})

    def paths(self) -> list[str]:
        """Of all stages of all runs, in the order in which they first began."""
        return list(dict.fromkeys(stage.path for run in self.runs for stage in run.stages))

    @property
    def growth(self) -> Mapping[str, Growth]:
        """How time and memory of each stage grow with cells and dimensions."""
        return self._growth

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; what is not known is None."""
        return {
            "schema": SCHEMA,
            "provenance": dict(self.provenance),
            "limits": {**asdict(self.limits), "flop_s": self.limits.flop_s},
            "runs": [_run_to_dict(run, self.limits) for run in self.runs],
            "growth": [{"path": path, **asdict(growth)} for path, growth in self.growth.items()],
            "failures": [asdict(failure) for failure in self.failures],
            "interrupted": self.interrupted,
        }

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a JSON file, whole or not at all.

        Raises
        ------
        InputError
            The file cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        write_atomically(path, lambda file: file.write(f"{text}\n".encode()))


def stages_of(timeline: Sequence[Mapping[str, Any]]) -> tuple[Stage, ...]:
    """Stages of the timeline of one embedding: those of the same path added up, the embedding's own name left out."""
    stages: dict[str, Stage] = {}
    for span in timeline:
        embedding, _, path = span["path"].partition("/")
        if embedding != EMBEDDING:
            continue
        path = path or WHOLE
        counts = {key: span[key] for key in ("seconds", "flop", "moved_bytes", "put_bytes", "peak_bytes")}
        known = stages.get(path)
        stages[path] = Stage(path, **counts, own_s=0.0, innermost=True) if known is None else _added(known, counts)
    inside_s: dict[str, float] = {}
    for path, stage in stages.items():
        if path != WHOLE:
            outer = path.rpartition("/")[0] or WHOLE
            inside_s[outer] = inside_s.get(outer, 0.0) + stage.seconds
    return tuple(
        replace(stage, own_s=stage.seconds - inside_s.get(path, 0.0), innermost=path not in inside_s)
        for path, stage in stages.items()
    )


def _added(stage: Stage, counts: Mapping[str, Any]) -> Stage:
    peaks = [peak for peak in (stage.peak_bytes, counts["peak_bytes"]) if peak is not None]
    sums = {key: getattr(stage, key) + count for key, count in counts.items() if key != "peak_bytes"}
    return replace(stage, **sums, peak_bytes=max(peaks, default=None))


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
