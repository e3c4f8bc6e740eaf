"""Check and time what the CUDA engine does on this GPU, for `gpubench doctor --gpu`."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gpubench.core.errors import GpubenchWarning
from gpubench.core.timeline import Timeline
from gpubench.core.units import bytes_text, seconds_text
from gpubench.engines.cuda.device import Device
from gpubench.engines.cuda.engine import CudaEngine
from gpubench.profiling import gpu_operations, synthetic
from gpubench.profiling.gpu_operations import FULL, BenchSizes, Measured
from gpubench.results.table import Lines, TextTable
from gpubench.running.score import score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpubench.profiling.profile import Limits
    from gpubench.results.result import Result

MIN_STAGE_SHARE = 0.01
"""Smallest share of the time of the run that a stage has to be shown."""

SMALLEST_RATE, LARGE_RATE = 0.01, 1000.0
"""Rates below are not shown, and rates above without decimals."""


@dataclass(frozen=True)
class Examination:
    """What was found of a GPU.

    Attributes
    ----------
    combination : GPU, driver, packages and gpubench, which the verdicts are for
    methods : verdict and times of each method
    limits : rates of the GPU; None if nothing was timed
    memory : result of `gpu_operations.fill_memory`; empty if it was not written
    stages : stages of a run of all tasks; empty without one
    failures : tasks of that run that failed
    """

    combination: dict[str, Any]
    methods: list[Measured]
    limits: Limits | None = None
    memory: dict[str, float] = field(default_factory=dict)
    stages: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)

    @property
    def works(self) -> bool:
        """Whether nothing is wrong."""
        wrong = [found for found in self.methods if found.is_right is False]
        return not wrong and not self.memory.get("wrong_values") and not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a dictionary for JSON, with rates and their shares of the limits."""
        rows = []
        for found in self.methods:
            rate = found.rate()
            share = found.share(self.limits) if self.limits else None
            rows.append(asdict(found) | {"rate": rate[0] if rate else None, "unit": rate and rate[1], "share": share})
            rows[-1]["work"] = found.work._asdict()
        return asdict(self) | {"methods": rows, "works": self.works}


def examine_gpu(device: Device | None = None, *, sizes: BenchSizes | None = None, full: bool = False) -> Examination:
    """Check all methods of the CUDA engine, and time those that are right.

    Parameters
    ----------
    device : the GPU. If None, the current one
    sizes : what is timed. If None, `BenchSizes()`, or `FULL` if `full`

    Raises
    ------
    EngineUnavailable
        There is no GPU that the engine can use.
    """
    device, sizes = device or Device.find(), sizes or (FULL if full else BenchSizes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GpubenchWarning)  # the table says what is wrong
        methods = list(gpu_operations.check_all(device))
        if not all(found.is_right for found in methods if found.operation == "copies"):
            return Examination(device.verdicts.combination, methods)
        limits, bench = gpu_operations.limits_of(device), gpu_operations.Bench(device, sizes)
        methods = [bench.time(found) for found in methods]
        del bench
        memory = gpu_operations.fill_memory(device, sizes.memory_share) if sizes.memory_share else {}
        run = _score(device, *sizes.whole, sizes.n_labels) if sizes.whole else None
    stages, failures = (run.timeline, run.failures) if run else ([], [])
    return Examination(device.verdicts.combination, methods, limits, memory, stages, failures)


def _score(device: Device, n: int, d: int, n_labels: int) -> Result:
    """Score all tasks on synthetic cells."""
    cells = synthetic.make(n, d, n_labels=n_labels)
    engine = CudaEngine(device=device, timeline=Timeline())
    return score({"X": cells.x}, engine=engine, label=cells.label, batch=cells.batch, time=cells.time)


def blocks(found: Examination) -> list[TextTable | Lines]:
    """Return a table of the methods, tables of memory and of the run if there are any, and a verdict."""
    limits = found.limits
    rows = tuple(
        (row.operation, row.method, _verdict(row), _time(row), _rate(row), _share(row, limits)) for row in found.methods
    )
    header = ("operation", "method", "right?", "time", "rate", "limit")
    table = TextTable("", header, rows, numbers=frozenset(header[3:]))
    gpu = f"{found.combination['gpu']}, compute capability {found.combination['capability'] / 10}"
    shown: list[TextTable | Lines] = [Lines([gpu, *_limit_lines(limits)]), table]
    notes = "time: one call on synthetic cells; limit: the rate as a share of the limit of its kind"
    table = replace(table, notes=(notes,) if limits else ())
    texts = [f"{row.operation} by {row.method}: {row.text}" for row in found.methods if row.text]
    if texts:
        shown.append(Lines(texts))
    if found.memory:
        shown.append(Lines([_memory_line(found.memory)]))
    if found.stages:
        shown.append(_stage_table(found.stages))
        shown.append(Lines([f"{failure['task']} failed: {failure['error']}" for failure in found.failures]))
    wrong = "Something is wrong, and is not used: see above. Please report it with the output of --json."
    shown.append(Lines(["All methods that can be used here are right." if found.works else wrong]))
    return shown


def _verdict(row: Measured) -> str:
    return {True: "right", False: "WRONG", None: "-"}[row.is_right]


def _time(row: Measured) -> str:
    return seconds_text(row.seconds) if row.seconds else ""


def _rate(row: Measured) -> str:
    rate = row.rate()
    return f"{_number(rate[0])} {rate[1]}" if rate else ""


def _number(rate: float) -> str:
    return "<0.01" if rate < SMALLEST_RATE else f"{rate:,.3g}" if rate < LARGE_RATE else f"{rate:,.0f}"


def _share(row: Measured, limits: Limits | None) -> str:
    share = row.share(limits) if limits else None
    return f"{share:.0%}" if share is not None else ""


def _limit_lines(limits: Limits | None) -> list[str]:
    if limits is None:
        return []
    flop, moved = limits.flop_s / 1e12, limits.bytes_s / 1e9
    return [f"limits: float32 products {flop:,.3g} TFLOP/s, copies in memory {moved:,.3g} GB/s"]


def _memory_line(memory: dict[str, float]) -> str:
    rate = 2 * memory["bytes"] / memory["seconds"] / 1e9
    state = f"{memory['wrong_values']:,} values were WRONG" if memory["wrong_values"] else "right"
    return f"memory: {bytes_text(memory['bytes'])} written and read, {rate:,.3g} GB/s: {state}"


def _stage_table(stages: Sequence[dict[str, Any]]) -> TextTable:
    """Return the stages of the run that take a percent of its time or more."""
    whole = sum(stage["seconds"] for stage in stages if "/" not in stage["path"])
    rows = tuple(
        (
            "  " * stage["path"].count("/") + stage["path"].rpartition("/")[2],
            f"{stage['seconds']:.2f}",
            _number(stage["flop"] / stage["seconds"] / 1e12) if stage["flop"] else "",
            _number(stage["moved_bytes"] / stage["seconds"] / 1e9) if stage["moved_bytes"] else "",
            bytes_text(stage["peak_bytes"] or 0),
        )
        for stage in stages
        if stage["seconds"] >= MIN_STAGE_SHARE * whole
    )
    header = ("stage", "seconds", "TFLOP/s", "GB/s", "peak")
    return TextTable("a run of all tasks", header, rows, numbers=frozenset(header[1:]))
