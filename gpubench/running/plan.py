"""Estimate the time and memory of a run on this machine: `gpubench score --plan`, or `gpubench.plan` in Python."""

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
from gpubench.running.given_neighbors import belongs_to
from gpubench.running.options import RunOptions
from gpubench.running.prepare import prepare
from gpubench.running.views import CELLS

if TYPE_CHECKING:
    from gpubench.core.timeline import Listener
    from gpubench.running.prepare import Prepared

RATES = "rates.json"
"""File in the cache folder with the measured rates of each machine and number of threads."""

SMALL_BYTES = 16 << 20
"""Memory in bytes that a run uses in addition to its stages: small arrays, Python modules, buffers of files."""


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """Estimated time and memory of one stage of a run.

    Attributes
    ----------
    path : path of the stage in the timeline, such as "X_pca/knn"
    how : method that the stage will use; empty if it has only one
    used_bytes : peak memory of the stage in bytes, without the input and imported packages
    least_bytes : peak memory in bytes if the stage used the smallest possible blocks
    packages : names of the packages that the stage imports
    seconds : estimated duration; 0 if the machine's rates were not measured
    remedy : advice that reduces the stage's memory, for error messages
    """

    path: str
    how: str
    used_bytes: int
    least_bytes: int
    packages: tuple[str, ...]
    seconds: float
    remedy: str


def plan_stages(prepared: Prepared, model: CostModel, rates: Rates | None = None) -> Iterator[PlannedStage]:
    """Yield the estimated stages of a run, without baselines and tasks of unknown cost.

    Parameters
    ----------
    prepared : checked inputs, engine and tasks of the run
    model : cost model of the engine
    rates : measured rates of the machine. If None, all seconds are 0
    """
    for name, matrix in (prepared.dataset.embeddings if prepared.dataset else {}).items():
        held = 0
        for path, cost in _costs(prepared, model, name, matrix):
            least = held + cost.held_bytes + cost.scratch_bytes
            used = held + cost.used_bytes(max(0, model.budget_bytes - held))
            seconds = cost.seconds(rates) if rates else 0.0
            held += cost.held_bytes
            yield PlannedStage(f"{name}/{path}", cost.how, used, least, cost.packages, seconds, cost.remedy)


def _costs(prepared: Prepared, model: CostModel, name: str, matrix: Any) -> Iterator[tuple[str, Cost]]:
    n, d = map(int, matrix.shape)
    tasks, options, engine = prepared.tasks, prepared.run.options, prepared.engine
    columns = {role: column for role, column in prepared.inputs.columns.items() if isinstance(column, Labels)}
    in_memory = isinstance(matrix, np.ndarray) and not isinstance(matrix, np.memmap)
    in_place = in_memory and matrix.dtype == np.float32 and matrix.flags.c_contiguous
    yield "put", model.put(n, d, matrix.dtype.itemsize, copied=not in_place)
    yield "view", model.view(min(n, CELLS), d)
    k = min(max(task.graph_k(options, engine, n, d) for task in tasks), n - 1)
    neighbors = prepared.inputs.neighbors
    if k > 0 and not (neighbors and belongs_to(neighbors, name)):
        yield "knn", model.knn(n, d, k)
    for task in tasks:
        for stage, cost in (task.costs(model, Sizes(n, d, columns), options) if task.costs else {}).items():
            yield f"{task.id}/{stage}", cost


def refusal(stages: Iterable[PlannedStage], model: CostModel) -> str:
    """Return an error message about the first stage that cannot fit in memory, with a remedy; empty if all fit."""
    budget, scope = model.budget_bytes, "on a worker" if model.n_workers else "beyond the data"
    for stage in stages:
        if stage.least_bytes > budget:
            needs, has, option = bytes_text(stage.least_bytes), bytes_text(budget), model.option(stage.least_bytes)
            return f"{stage.path} takes {needs} {scope}, but {has} may be used; {option}, or {stage.remedy}"
    return ""


def check_fits(prepared: Prepared) -> None:
    """Raise `InputError` if a stage of a run cannot fit in memory."""
    model = prepared.engine.cost_model
    if model is not None and (reason := refusal(plan_stages(prepared, model), model)):
        raise InputError(reason)


@dataclass(frozen=True)
class Plan:
    """Estimated time and memory of a run; printed as a table of its stages.

    Attributes
    ----------
    stages : estimated stages, in the order in which they will run
    not_known : names of the tasks and baselines whose cost is unknown, so that no stage accounts for them
    process_bytes : memory in bytes that this process holds before the run, including data that have been read
    memory_bytes : limit in bytes on the memory that the run may use in addition to its input
    device : name of the CPU, GPU or cluster on which the run will compute
    measured : date, as "YYYY-MM-DD", on which the machine's rates (operations and bytes per second) were measured
    notes : messages for the user: where the engine deviates from the request, and whether measured rates could not be
        saved for the next plan
    workers : number of Dask workers; 0 without a cluster. With workers, the memory of a stage is that of the worker
        that holds most
    refusal : error message about a stage that cannot fit in memory, with a remedy; empty if all fit
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
        """Largest peak memory of any stage in bytes, without the data and imported packages."""
        return max((stage.used_bytes for stage in self.stages), default=0)

    @property
    def peak_bytes(self) -> int:
        """Peak memory in bytes of the process, or of a Dask worker, including the data and imported packages."""
        packages = {package for stage in self.stages for package in stage.packages}
        imported = sum(PACKAGES_BYTES.get(package, 0) for package in packages)  # in the background, from the start
        return self.process_bytes + SMALL_BYTES + imported + self.used_bytes

    @property
    def seconds(self) -> float:
        """Estimated duration of the run in seconds."""
        return sum(stage.seconds for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes, with `peak_bytes` and `seconds`, as a JSON-ready dictionary."""
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
    """Estimate the memory and time that `gpubench.score` needs with the same arguments.

    Columns of `obs` are read, but not the embeddings, and nothing is scored. The time is right within a factor of a
    few. The estimated memory is at least the memory that the run will use, and at most about twice as much.

    Parameters
    ----------
    data, embeddings, **given : arguments of `gpubench.score`
    measure_again : whether to measure the machine's rates (about two seconds) even if an earlier plan has saved them
    listener : object that is notified of the stages of reading the data

    Returns
    -------
    Plan
        The estimated stages; printing the plan shows a table.

    Raises
    ------
    InputError
        If `gpubench.score` would refuse the arguments, or the costs of the engine are unknown.

    Examples
    --------
    >>> import numpy as np
    >>> import gpubench as gb
    >>> cells = np.random.default_rng(0).normal(size=(500, 4))
    >>> expected = gb.plan(cells, label=["T", "B"] * 250, engine="cpu", tasks="embedding")
    >>> [stage.path for stage in expected.stages]
    ['X/put', 'X/view', 'X/embedding/silhouette_score']
    """
    for name in ("checkpoint", "key_added"):
        given.pop(name, None)
    return plan_run(RunOptions.of(data=data, embeddings=embeddings, **given), listener, measure_again=measure_again)


def plan_run(run: RunOptions, listener: Listener | None = None, *, measure_again: bool = False) -> Plan:
    """Estimate the memory and time of a run with the given options; see `plan`."""
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
    """Return the machine's rates, and the date on which they were measured.

    Rates are read from the cache folder. If they are not there, or with `measure_again`, they are measured and cached.
    A message is appended to `notes` if they cannot be cached.
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
    """Read the valid entries of the file with measured rates; return none if the file cannot be read."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        return {
            key: entry for key, entry in known.items() if "date" in entry and entry["rates"].keys() == FEATURES.keys()
        }
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return {}
