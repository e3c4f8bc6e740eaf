"""What a run would take on this machine: `gpubench score --plan`, and `gpubench.plan` in Python."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubench.core import machine
from gpubench.core.checkpoint import digest_of
from gpubench.core.errors import InputError
from gpubench.core.files import cache_folder, write_atomically
from gpubench.core.memory import resident_bytes
from gpubench.core.units import bytes_text, seconds_text
from gpubench.engines.cpu.costs import PACKAGES_BYTES
from gpubench.engines.cpu.rates import Rates
from gpubench.running.forecast import Stage, refusal, stages_of
from gpubench.running.options import RunOptions
from gpubench.running.prepare import prepare

if TYPE_CHECKING:
    from gpubench.core.timeline import Listener
    from gpubench.engines.base import Engine

RATES = "rates.json"
"""The file of the measured rates in the cache folder: one entry for each machine and number of threads."""


SMALL_BYTES = 16 << 20
"""What a run takes for all that is in no plan: small arrays, modules of Python, buffers of files."""


@dataclass(frozen=True)
class Plan:
    """The stages of a run with what each is expected to take.

    Attributes
    ----------
    stages : in the order in which they run
    not_known : tasks and baselines of which nothing is known
    process_bytes : what this process holds already, the data among it
    memory_bytes : what the run may use beyond its input
    device : on which it would run
    measured : the day on which the machine's rates were measured
    notes : what the engine does otherwise than asked, and why rates are measured again
    workers : of a Dask cluster; where there are any, the memory of stages is that of the worker that holds most
    """

    stages: Sequence[Stage]
    not_known: Sequence[str]
    process_bytes: int
    memory_bytes: int
    device: str
    measured: str
    notes: Sequence[str] = ()
    workers: int = 0

    @property
    def used_bytes(self) -> int:
        """The most memory beyond the data and the packages."""
        return max((stage.used_bytes for stage in self.stages), default=0)

    @property
    def peak_bytes(self) -> int:
        """The most memory that the process will hold; that of a worker where there are workers."""
        packages = {package for stage in self.stages for package in stage.packages}
        imported = sum(PACKAGES_BYTES.get(package, 0) for package in packages)  # in the background, from the start
        return self.process_bytes + SMALL_BYTES + imported + self.used_bytes

    @property
    def seconds(self) -> float:
        """How long the run will take."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def refusal(self) -> str:
        """Which stage cannot fit and what would make it fit; empty where all do."""
        too_large = (stage for stage in self.stages if stage.least_bytes > self.memory_bytes)
        return next((refusal(stage, self.memory_bytes) for stage in too_large), "")

    def to_dict(self) -> dict[str, Any]:
        """Everything as a JSON-ready dictionary."""
        return {**asdict(self), "peak_bytes": self.peak_bytes, "seconds": self.seconds, "refusal": self.refusal}

    def __str__(self) -> str:
        rows = [("stage", "how", "memory", "time")]
        rows += [
            (stage.path, stage.how, bytes_text(stage.used_bytes), seconds_text(stage.seconds)) for stage in self.stages
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}" for a, b, c, d in rows]
        how_many = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        device = self.device.replace("workers", how_many, 1) if self.workers else self.device
        lines += ["", f"About {seconds_text(self.seconds)} on {device}, by its rates of {self.measured}."]
        used, may, holds = map(bytes_text, (self.used_bytes, self.memory_bytes, self.peak_bytes))
        beside, whose = ("on a worker", "its") if self.workers else ("beyond the data", "the")
        lines.append(f"{used} {beside} at most, of {may} that may be used; {whose} process will hold {holds}.")
        if self.not_known:
            lines.append(f"Not in this plan, for nothing is known of them: {', '.join(self.not_known)}.")
        return "\n".join([*lines, *(f"{note[0].upper()}{note[1:]}." for note in self.notes)])

    __repr__ = __str__


def plan(
    data: Any,
    embeddings: str | Sequence[str] | Mapping[str, Any] | None = None,
    *,
    measure_again: bool = False,
    listener: Listener | None = None,
    **given: Any,
) -> Plan:
    """Say what `gpubench.score` would take with the same arguments; columns are read, but no cells.

    Seconds are right within a few times, and memory is at least what the run will hold, and at most about twice that.

    Parameters
    ----------
    data, embeddings, given : as `gpubench.score` takes them
    measure_again : the machine's rates, which are measured in about two seconds and kept in the cache folder
    listener : receives the stages of reading

    Raises
    ------
    InputError
        What `gpubench.score` refuses, or an engine whose costs are not known.
    """
    given.pop("checkpoint", None)
    return plan_run(RunOptions.of(data=data, embeddings=embeddings, **given), listener, measure_again=measure_again)


def plan_run(run: RunOptions, listener: Listener | None = None, *, measure_again: bool = False) -> Plan:
    """Plan what the options of a run ask for; see `plan`."""
    prepared = prepare(run, listener)
    engine = prepared.engine
    model = engine.cost_model
    if model is None:
        raise InputError(f"engine={engine.name!r} has no plan; use 'cpu'", argument="engine")
    process_bytes = resident_bytes() or 0  # before measuring
    rates, measured = rates_of(engine, measure_again=measure_again)
    unknown = [task.id for task in prepared.tasks if task.steps is None]
    baselines = [f"baseline_{name}" for name in prepared.baselines]
    stages = list(stages_of(prepared, rates))
    told = process_bytes, model.memory_bytes, engine.device, measured, tuple(engine.notes)
    return Plan(stages, [*unknown, *baselines], *told, model.n_workers)


def rates_of(engine: Engine, *, measure_again: bool = False) -> tuple[Rates, str]:
    """The machine's rates and the day on which they were measured; measured now where nothing is in the cache.

    Parameters
    ----------
    engine : that of the CPU, or of Dask, of which those of one worker are measured
    """
    file = cache_folder() / RATES
    known = _read(file)
    model = engine.cost_model
    assert model is not None, "the costs of this engine are not known"
    key = digest_of(*model.machine, machine.package_version("gpubench"))
    if key not in known or measure_again:
        known[key] = {"date": datetime.now(UTC).date().isoformat(), "rates": asdict(model.measure_rates())}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, lambda out: out.write(json.dumps(known, indent=1).encode()))
        except (InputError, OSError):
            engine.notes.append(f"{file} cannot be written, so rates are measured each time")
    told: dict[str, Any] = {
        name: tuple(rate) if isinstance(rate, list) else rate for name, rate in known[key]["rates"].items()
    }
    return Rates(**told), known[key]["date"]


def _read(file: Path) -> dict[str, Any]:
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        return {key: entry for key, entry in known.items() if _is_whole(entry)}
    except (OSError, ValueError, AttributeError):  # a cache that cannot be read is made anew
        return {}


def _is_whole(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("rates"), dict):
        return False
    return "date" in entry and set(entry["rates"]) == {field.name for field in fields(Rates)}
