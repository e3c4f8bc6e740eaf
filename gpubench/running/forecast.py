"""What a run will take, stage by stage, before it takes it: memory, and time where the machine's rates are known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.types import Labels
from gpubench.core.units import bytes_text
from gpubench.engines.cpu.rates import UNKNOWN, Rates
from gpubench.engines.steps import Sizes, Step, knn_step, put_step, view_step
from gpubench.running.views import CELLS

if TYPE_CHECKING:
    from gpubench.running.prepare import Prepared


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage as it is expected.

    Attributes
    ----------
    path : as in the timeline
    how : the method, where there are several
    used_bytes : beyond the input and the packages, at its peak
    least_bytes : the same where blocks are as small as can be
    packages : what it imports
    seconds : how long it takes
    remedy : what makes it smaller
    beside : beside what the bytes are counted
    option : what gives it more room
    """

    path: str
    how: str
    used_bytes: int
    least_bytes: int
    packages: tuple[str, ...]
    seconds: float
    remedy: str
    beside: str
    option: str


def stages_of(prepared: Prepared, rates: Rates = UNKNOWN) -> Iterator[Stage]:
    """The stages of a run; baselines and tasks without known steps are left out."""
    model = prepared.engine.cost_model
    assert model is not None, "the costs of this engine are not known"
    for name, matrix in (prepared.dataset.embeddings if prepared.dataset else {}).items():
        held = 0
        for path, step in _steps(prepared, matrix):
            expected = model.cost(step, max(0, model.memory_bytes - held), rates)
            held += expected.held_bytes
            least = held + expected.scratch_bytes
            yield Stage(
                f"{name}/{path}",
                expected.how,
                least + expected.block_bytes,
                least,
                expected.packages,
                expected.seconds,
                step.remedy,
                model.beside,
                model.option(least),
            )


def _steps(prepared: Prepared, matrix: Any) -> Iterator[tuple[str, Step]]:
    n, d = matrix.shape
    tasks, options = prepared.tasks, prepared.options
    engine = prepared.engine
    k = min(max(task.graph_k(options, engine, n, d) for task in tasks), n - 1)
    columns = {role: column for role, column in prepared.inputs.columns.items() if isinstance(column, Labels)}
    sizes = Sizes(int(n), int(d), int(k), columns, engine.policy.samples_neighborhoods(n, d))
    in_memory = isinstance(matrix, np.ndarray) and not isinstance(matrix, np.memmap)
    in_place = in_memory and matrix.dtype == np.float32 and matrix.flags.c_contiguous
    yield "put", put_step(sizes, matrix.dtype.itemsize, copied=not in_place)
    yield "view", view_step(sizes, CELLS)
    if k > 0:
        yield "knn", knn_step(sizes)
    for task in tasks:
        for step in task.steps(sizes, options) if task.steps else ():
            yield f"{task.id}/{step.name}", step


def check_fits(prepared: Prepared) -> None:
    """Refuse a run of which a stage cannot fit the memory, before anything is computed.

    Raises
    ------
    InputError
        Which stage, what it takes, and what would make it fit.
    """
    model = prepared.engine.cost_model
    if model is None:
        return
    budget = model.memory_bytes
    for stage in stages_of(prepared):
        if stage.least_bytes > budget:
            raise InputError(refusal(stage, budget))


def refusal(stage: Stage, budget: int) -> str:
    """Why a stage cannot run."""
    needs, has = bytes_text(stage.least_bytes), bytes_text(budget)
    return f"{stage.path} takes {needs} {stage.beside}, but {has} may be used; {stage.option}, or {stage.remedy}"
