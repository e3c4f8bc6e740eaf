"""Plan of a run on this machine: `gpubench score --plan`, and `gpubench.plan` in Python."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core import machine
from gpubench.core.checkpoint import digest_of
from gpubench.core.errors import InputError
from gpubench.core.files import cache_folder, write_atomically
from gpubench.core.memory import resident_bytes
from gpubench.core.types import Labels
from gpubench.core.units import bytes_text, seconds_text
from gpubench.engines.costs import PACKAGES_BYTES, Cost, CostModel, Rates, Sizes
from gpubench.engines.cpu.rates import FEATURES
from gpubench.results.table import Lines, TextTable, to_text
from gpubench.running.options import RunOptions
from gpubench.running.prepare import prepare
from gpubench.running.views import CELLS

if TYPE_CHECKING:
    from gpubench.core.timeline import Listener
    from gpubench.running.prepare import Prepared

RATES = "rates.json"
"""File in the cache folder with the measured rates of each machine and number of threads."""

SMALL_BYTES = 16 << 20
"""Memory of a run that no stage accounts for: small arrays, Python modules, buffers of files."""


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """Expected stage of a run.

    Attributes
    ----------
    path : as in the timeline
    how : the method, if there are several
    used_bytes : peak memory beyond the input and the packages
    least_bytes : the same with the smallest possible blocks
    packages : packages that it imports
    seconds : duration; 0 without measured rates
    remedy : what makes it smaller
    """

    path: str
    how: str
    used_bytes: int
    least_bytes: int
    packages: tuple[str, ...]
    seconds: float
    remedy: str


def plan_stages(prepared: Prepared, model: CostModel, rates: Rates | None = None) -> Iterator[PlannedStage]:
    """Yield the stages of a run; baselines and tasks of unknown cost are left out."""
    for name, matrix in (prepared.dataset.embeddings if prepared.dataset else {}).items():
        held = 0
        for path, cost in _costs(prepared, model, matrix):
            least = held + cost.held_bytes + cost.scratch_bytes
            used = held + cost.used_bytes(max(0, model.budget_bytes - held))
            seconds = cost.seconds(rates) if rates else 0.0
            held += cost.held_bytes
            yield PlannedStage(f"{name}/{path}", cost.how, used, least, cost.packages, seconds, cost.remedy)


def _costs(prepared: Prepared, model: CostModel, matrix: Any) -> Iterator[tuple[str, Cost]]:
    n, d = map(int, matrix.shape)
    tasks, options, engine = prepared.tasks, prepared.run.options, prepared.engine
    columns = {role: column for role, column in prepared.inputs.columns.items() if isinstance(column, Labels)}
    in_memory = isinstance(matrix, np.ndarray) and not isinstance(matrix, np.memmap)
    in_place = in_memory and matrix.dtype == np.float32 and matrix.flags.c_contiguous
    yield "put", model.put(n, d, matrix.dtype.itemsize, copied=not in_place)
    yield "view", model.view(min(n, CELLS), d)
    k = min(max(task.graph_k(options, engine, n, d) for task in tasks), n - 1)
    if k > 0:
        yield "knn", model.knn(n, d, k)
    for task in tasks:
        for stage, cost in (task.costs(model, Sizes(n, d, columns), options) if task.costs else {}).items():
            yield f"{task.id}/{stage}", cost


def refusal(stages: Iterable[PlannedStage], model: CostModel) -> str:
    """Say which stage cannot fit the memory, and what would make it fit; empty if all fit."""
    budget, scope = model.budget_bytes, "on a worker" if model.n_workers else "beyond the data"
    for stage in stages:
        if stage.least_bytes > budget:
            needs, has, option = bytes_text(stage.least_bytes), bytes_text(budget), model.option(stage.least_bytes)
            return f"{stage.path} takes {needs} {scope}, but {has} may be used; {option}, or {stage.remedy}"
    return ""


def check_fits(prepared: Prepared) -> None:
    """Refuse a run with a stage that cannot fit the memory, before anything is computed."""
    model = prepared.engine.cost_model
    if model is not None and (reason := refusal(plan_stages(prepared, model), model)):
        raise InputError(reason)


@dataclass(frozen=True)
class Plan:
    """Expected stages of a run.

    Attributes
    ----------
    stages : in the order in which they run
    not_known : tasks and baselines of unknown cost
    process_bytes : memory that this process holds already, including the data
    memory_bytes : memory that the run may use beyond its input
    device : device of the run
    measured : date on which the machine's rates were measured
    notes : where the engine deviates from the request, and why rates are measured again
    workers : workers of a Dask cluster; if there are any, the memory of a stage is that of the worker that holds most
    refusal : which stage cannot fit the memory and what would make it fit; empty if all fit
    """

    stages: Sequence[PlannedStage]
    not_known: Sequence[str]
    process_bytes: int
    memory_bytes: int
    device: str
    measured: str
    notes: Sequence[str] = ()
    workers: int = 0
    refusal: str = ""

    @property
    def used_bytes(self) -> int:
        """Peak memory beyond the data and the packages."""
        return max((stage.used_bytes for stage in self.stages), default=0)

    @property
    def peak_bytes(self) -> int:
        """Peak memory of the process, or of a worker."""
        packages = {package for stage in self.stages for package in stage.packages}
        imported = sum(PACKAGES_BYTES.get(package, 0) for package in packages)  # in the background, from the start
        return self.process_bytes + SMALL_BYTES + imported + self.used_bytes

    @property
    def seconds(self) -> float:
        """Duration of the run."""
        return sum(stage.seconds for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a JSON-ready dictionary."""
        return {**asdict(self), "peak_bytes": self.peak_bytes, "seconds": self.seconds}

    def __str__(self) -> str:
        header = "stage", "how", "memory", "time"
        rows = (
            (stage.path, stage.how, bytes_text(stage.used_bytes), seconds_text(stage.seconds)) for stage in self.stages
        )
        table = TextTable("", header, tuple(rows), numbers=frozenset(header[2:]))
        how_many = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        device = self.device.replace("workers", how_many, 1) if self.workers else self.device
        lines = [f"About {seconds_text(self.seconds)} on {device}, calibrated {self.measured}."]
        used, limit, total = map(bytes_text, (self.used_bytes, self.memory_bytes, self.peak_bytes))
        scope = "on a worker" if self.workers else "beyond the data"
        lines.append(f"Peak: {used} {scope} (limit {limit}), {total} in total.")
        if self.not_known:
            lines.append(f"Not in this plan, because their cost is unknown: {', '.join(self.not_known)}.")
        lines += [f"{note[0].upper()}{note[1:]}." for note in self.notes]
        return to_text([table, Lines(lines)])

    __repr__ = __str__


def plan(
    data: Any,
    embeddings: str | Sequence[str] | Mapping[str, Any] | None = None,
    *,
    measure_again: bool = False,
    listener: Listener | None = None,
    **given: Any,
) -> Plan:
    """Estimate memory and time of `gpubench.score` with the same arguments; columns are read, but no cells.

    Seconds are right within a few times. Memory is at least what the run will hold, and at most about twice that.

    Parameters
    ----------
    data, embeddings, given : as in `gpubench.score`
    measure_again : measure the machine's rates (about two seconds) even if they are in the cache folder
    listener : receives the stages of reading

    Returns
    -------
    Plan
        Prints as a table of stages.

    Raises
    ------
    InputError
        As `gpubench.score`, or the engine's costs are unknown.

    Examples
    --------
    >>> import numpy as np
    >>> import gpubench as gb
    >>> cells = np.random.default_rng(0).normal(size=(500, 4))
    >>> expected = gb.plan(cells, label=["T", "B"] * 250, engine="cpu", tasks="embedding")
    >>> [stage.path for stage in expected.stages]
    ['X/put', 'X/view', 'X/embedding/silhouette_score']
    """
    given.pop("checkpoint", None)
    return plan_run(RunOptions.of(data=data, embeddings=embeddings, **given), listener, measure_again=measure_again)


def plan_run(run: RunOptions, listener: Listener | None = None, *, measure_again: bool = False) -> Plan:
    """Plan a run with these options; see `plan`."""
    prepared = prepare(run, listener)
    engine, model = prepared.engine, prepared.engine.cost_model
    if model is None:
        raise InputError(f"engine={engine.name!r} has no plan; use 'cpu'", argument="engine")
    process_bytes = resident_bytes() or 0  # before measuring
    rates, measured = rates_of(model, engine.notes, measure_again=measure_again)
    stages = list(plan_stages(prepared, model, rates))
    unknown = [task.id for task in prepared.tasks if task.costs is None]
    return Plan(
        stages=stages,
        not_known=[*unknown, *(f"baseline_{name}" for name in prepared.baselines)],
        process_bytes=process_bytes,
        memory_bytes=model.budget_bytes,
        device=engine.device,
        measured=measured,
        notes=tuple(engine.notes),
        workers=model.n_workers,
        refusal=refusal(stages, model),
    )


def rates_of(model: CostModel, notes: list[str], *, measure_again: bool = False) -> tuple[Rates, str]:
    """Return the machine's rates and the date on which they were measured, now if they are not in the cache folder.

    `notes` receives a message if the rates cannot be cached.
    """
    file = cache_folder() / RATES
    known = _read_rates(file)
    key = digest_of(*model.machine, machine.package_version(machine.DISTRIBUTION))
    if key not in known or measure_again:
        known[key] = {"date": datetime.now(UTC).date().isoformat(), "rates": model.measure_rates()}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, lambda out: out.write(json.dumps(known, indent=1).encode()))
        except (InputError, OSError):
            notes.append(f"{file} cannot be written, so rates are measured each time")
    return known[key]["rates"], known[key]["date"]


def _read_rates(file: Path) -> dict[str, Any]:
    """Read the valid entries of the cache; it is created again if it cannot be read."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        return {
            key: entry for key, entry in known.items() if "date" in entry and entry["rates"].keys() == FEATURES.keys()
        }
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return {}
