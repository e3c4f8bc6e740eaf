"""`gpubench.audit`: check real data and predictions of perturbations before anything is scored."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gpubench.auditing.checks import (
    BETWEEN_FILES,
    BETWEEN_VALUES,
    OF_ONE_SIDE,
    AuditedPair,
    AuditFinding,
    Faults,
    check_control,
    check_leak,
)
from gpubench.auditing.values import AuditedScreen
from gpubench.core.errors import InputError, quoted
from gpubench.core.scores import plain
from gpubench.core.units import parse_bytes
from gpubench.data.perturbation.screens import Screen, read_screen
from gpubench.engines.planner import budget_bytes


@dataclass(frozen=True)
class Audit:
    """Result of `gpubench.audit`; prints one line for each finding.

    Attributes
    ----------
    facts : a line with the numbers of cells, genes and perturbations of the real data, and one for each prediction
    findings : errors and warnings, those of the real data first
    """

    facts: tuple[str, ...]
    findings: tuple[AuditFinding, ...]

    @property
    def errors(self) -> tuple[AuditFinding, ...]:
        """Findings of severity "error", with which nothing can be scored."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def raise_errors(self, *, strict: bool = False) -> None:
        """Raise InputError with the first error, if there is one; if `strict`, also with the first warning."""
        refused = self.findings if strict else self.errors
        if refused:
            first = refused[0]
            more = f" (and {len(refused) - 1:,} more: see gpubench audit)" if len(refused) > 1 else ""
            raise InputError(f"{first.message}{more}")

    def to_dict(self) -> dict[str, Any]:
        """Return facts and findings as a JSON-ready dictionary."""
        facts: dict[str, Any] = plain(asdict(self))
        return facts

    def __str__(self) -> str:
        n = len(self.findings)
        last = "No findings." if not n else f"{n:,} finding{'s' if n > 1 else ''}, {len(self.errors):,} of them errors."
        return "\n".join([*self.facts, *map(str, self.findings), last])

    __repr__ = __str__


def audit(
    real: Any,
    predictions: Any,
    *,
    condition: str,
    control: str,
    context: str | None = None,
    own_control: bool = True,
    train: Sequence[str] | str | os.PathLike[str] | None = None,
    test: Sequence[str] | str | os.PathLike[str] | None = None,
    memory: int | str | None = None,
) -> Audit:
    """Check real data and predictions of perturbation effects for faults that make scores wrong or meaningless.

    Errors, with which nothing can be scored: values that are negative or not finite, or are neither counts nor log1p
    values; counts in one file and log1p values in the other; genes or perturbations that are in one file only; names of
    genes that occur twice; a missing control; swapped files.

    Warnings: cells on different scales, or log-transformed twice; library sizes that differ between real and predicted
    cells; genes in another order; repeated cells; predicted cells that are copies of real perturbed or control cells;
    predictions that do not depend on the perturbation; collapsed or inflated variance; predicted control cells that
    differ from the real ones; scored perturbations that the model was trained on.

    Parameters
    ----------
    real : path or URL of an h5ad file or a zarr store, or an AnnData
    predictions : one prediction in the same form, or a dict name -> prediction
    condition : column of obs with the perturbation of each cell
    control : value of that column for control cells
    context : column of obs with the context of each cell, such as its cell line
    own_control : whether a prediction must contain control cells, which the metrics of cell-eval need
    train : perturbations that the models were trained on: a list, or the path of a text file with one in each line.
        If None, they are not checked
    test : perturbations that will be scored, in the same form. If None, all perturbations of the real data
    memory : maximum memory, in bytes or as "4GB"; files that need more are read in parts. If None, 80% of the free
        memory

    Returns
    -------
    Audit
        Findings, printed as one line each.

    Raises
    ------
    InputError
        A file that cannot be read, or a column that does not exist or has missing values.

    Examples
    --------
    >>> import anndata
    >>> import numpy as np
    >>> import gpubench as gb
    >>> obs = {"gene": ["none", "none", "KLF1", "KLF1"]}
    >>> real = anndata.AnnData(np.ones((4, 2), "float32"), obs)
    >>> real.var_names = ["A", "B"]
    >>> predicted = real[:2].copy()
    >>> gb.audit(real, predicted, condition="gene", control="none").errors[0].check
    'perturbations'
    """
    named = predictions if isinstance(predictions, Mapping) else {"": predictions}
    limit = budget_bytes(parse_bytes(memory) if isinstance(memory, str) else memory)
    given: dict[str, Any] = {"condition": condition, "context": context, "control": control}
    given["memory_bytes"] = limit // (1 + len(named))
    screen = read_screen(real, "the real data", **given)
    screens = {name: read_screen(source, prediction_name(name), **given) for name, source in named.items()}
    lists = [None if given is None else _names(given, role) for role, given in (("train", train), ("test", test))]
    return audit_screens(screen, screens, control=control, own_control=own_control, train=lists[0], test=lists[1])


def prediction_name(name: str) -> str:
    """Return the phrase by which messages refer to a prediction: "prediction 'name'", or "the prediction"."""
    return f"prediction {name!r}" if name else "the prediction"


def _names(given: Sequence[str] | str | os.PathLike[str], argument: str) -> list[str]:
    """Return a list of names, read from a text file if it is a path."""
    if not isinstance(given, str | os.PathLike):
        return [str(name) for name in given]
    try:
        lines = Path(given).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{argument}={str(given)!r} cannot be read ({error}); give a text file with one perturbation in each line",
            argument=argument,
        ) from error
    return [line.strip() for line in lines if line.strip()]


def audit_screens(
    real: Screen,
    predictions: Mapping[str, Screen],
    *,
    control: str,
    own_control: bool,
    train: Sequence[str] | None = None,
    test: Sequence[str] | None = None,
) -> Audit:
    """Check screens, separately in each context; parameters as in `audit`."""
    contexts = real.by_context()
    if len(contexts) == 1:
        only = next(iter(contexts.values()))
        parts = {name: next(iter(screen.by_context().values())) for name, screen in predictions.items()}
        differ = _context_findings(real, predictions)
        found = _audit_context(only, parts, control=control, own_control=own_control, train=train, test=test)
        return Audit(found.facts, (*differ, *found.findings))
    facts: list[str] = []
    findings = _context_findings(real, predictions)
    for context, truth in contexts.items():
        own = {name: screen.by_context().get(context) for name, screen in predictions.items()}
        present = {name: screen for name, screen in own.items() if screen is not None}
        found = _audit_context(truth, present, control=control, own_control=own_control, train=train, test=test)
        facts += [f"{context}: {fact}" for fact in found.facts]
        findings += [replace(one, message=f"context {context!r}: {one.message}") for one in found.findings]
    return Audit(tuple(facts), tuple(findings))


def _context_findings(real: Screen, predictions: Mapping[str, Screen]) -> list[AuditFinding]:
    """Return an error for each file that lacks contexts of the other file."""
    findings = []
    for name, screen in predictions.items():
        if real.contexts is None or screen.contexts is None:
            continue
        for own, other, side in ((real.contexts, screen.contexts, real), (screen.contexts, real.contexts, screen)):
            missing = [context for context in own.names if context not in other.names]
            if missing:
                message = (
                    f"{len(missing):,} of {own.n_classes:,} contexts are only in {side.name} ({quoted(missing)});"
                    " give both files the same contexts"
                )
                findings.append(AuditFinding("contexts", "error", message, name))
    return findings


def _audit_context(
    real: Screen,
    predictions: Mapping[str, Screen],
    *,
    control: str,
    own_control: bool,
    train: Sequence[str] | None,
    test: Sequence[str] | None,
) -> Audit:
    """Check the cells of one context."""
    truth = AuditedScreen(real, control)
    facts = [_fact(truth)]
    findings = [*_side_findings(truth, "")]
    if train is not None:
        findings += _findings("leak", check_leak(truth, train, test), "")
    for name, screen in predictions.items():
        predicted = AuditedScreen(screen, control)
        facts.append(_fact(predicted))
        own = [*_side_findings(predicted, name), *_between(truth, predicted, name, own_control=own_control)]
        usable = not any(finding.severity == "error" for finding in [*findings, *own])
        if usable:
            pair = AuditedPair(truth, predicted)
            own += [one for check, run in BETWEEN_VALUES.items() for one in _findings(check, run(pair), name)]
        findings += own
    distinct: dict[tuple[str, str], AuditFinding] = {}  # a fault of the real data is said once
    for one in findings:
        distinct.setdefault((one.check, one.message), one)
    return Audit(tuple(facts), tuple(distinct.values()))


def _fact(side: AuditedScreen) -> str:
    screen = side.screen
    n_control = len(side.rows_of(side.control))
    return (
        f"{screen.name}: {screen.n:,} cells, {len(screen.genes):,} genes, {len(side.perturbations):,} perturbations and"
        f" {n_control:,} control cells, {side.facts}"
    )


def _findings(check: str, faults: Faults, name: str) -> list[AuditFinding]:
    return [AuditFinding(check, severity, message, name) for severity, message in faults]


def _side_findings(side: AuditedScreen, name: str) -> list[AuditFinding]:
    return [one for check, run in OF_ONE_SIDE.items() for one in _findings(check, run(side), name)]


def _between(real: AuditedScreen, predicted: AuditedScreen, name: str, *, own_control: bool) -> list[AuditFinding]:
    found = [one for check, run in BETWEEN_FILES.items() for one in _findings(check, run(real, predicted), name)]
    if any(one.check == "swapped" for one in found):
        return found
    return [*_findings("control", check_control(real, predicted, own_control=own_control), name), *found]
