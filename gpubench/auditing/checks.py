"""Checks of predictions and real data; each is a generator of faults, whose messages say how many and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from gpubench.auditing.values import MAX_LOG, AuditedScreen, Profiles
from gpubench.core.errors import close_matches, quoted

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """One fault of the real data or of a prediction.

    Attributes
    ----------
    check : name of the check
    severity : "error" if nothing can be scored, "warning" if the scores would mislead
    message : one line that says what is wrong, in how many cells or genes, and what to do
    prediction : name of the prediction; empty if only the real data are at fault
    """

    check: str
    severity: Severity
    message: str
    prediction: str = ""

    def __str__(self) -> str:
        return f"{self.severity}: {self.message} [{self.check}]"


Fault = tuple[Severity, str]
Faults = Iterator[Fault]


def error(message: str) -> Fault:
    """Return a fault with which nothing can be scored."""
    return "error", message


def warning(message: str) -> Fault:
    """Return a fault with which scores would mislead."""
    return "warning", message


def check_values(side: AuditedScreen) -> Faults:
    """Check for values that are NaN, infinite or negative, which expression cannot be."""
    facts, name = side.facts, side.name
    if facts.not_finite:
        yield error(f"{name}: {facts.not_finite:,} values are NaN or infinite; write finite values")
    if facts.negative:
        yield error(f"{name}: {facts.negative:,} values are negative; write counts, or log1p of normalised counts")


def check_scale(side: AuditedScreen) -> Faults:
    """Check for values that are neither counts nor log1p, for cells on different scales, and for empty cells."""
    facts, name = side.facts, side.name
    whole, filled = facts.whole_cells, facts.filled_cells
    if facts.scale == "log" and facts.largest >= MAX_LOG:
        yield error(
            f"{name}: {facts.fractional:,} values have fractions but the largest is {facts.largest:,.4g}, which is no"
            " log1p value; write log1p of normalised counts, or round predicted counts to whole numbers"
        )
    elif facts.scale == "log" and whole >= 2 and filled >= 10 and 0.01 < whole / filled < 1:
        yield warning(
            f"{name}: scales are mixed: {whole:,} of {filled:,} cells hold whole numbers only, the others fractions;"
            " write all cells on one scale"
        )
    if facts.scale == "log" and not facts.negative and side.totals.size:
        once, twice = (_variation(totals) for totals in (side.totals, side.twice_totals))
        if once > 0.05 and twice < 0.01:
            yield warning(
                f"{name}: values seem to be log-transformed twice: cells have equal totals (to {twice:.2%}) only after"
                f" expm1 is applied twice (largest value {facts.largest:.3g}); apply log1p once"
            )
    empty = len(side.totals) - filled
    if empty:
        yield warning(f"{name}: {empty:,} of {len(side.totals):,} cells have no expression at all; remove them")


def _variation(totals: np.ndarray) -> float:
    filled = totals[totals > 0]
    if len(filled) < 10 or not np.isfinite(filled).all():
        return float("inf")
    return float(filled.std() / filled.mean())


def check_names(side: AuditedScreen) -> Faults:
    """Check for names of genes or cells that occur twice, and for data that consist of control cells only."""
    for names, what, severity in ((side.screen.genes, "genes", error), (side.screen.cells or (), "cells", warning)):
        if len(set(names)) < len(names):
            twice = [name for name, count in Counter(names).items() if count > 1]
            yield severity(
                f"{side.name}: {len(twice):,} names of {what} occur more than once ({quoted(twice)}); make them unique"
            )
    if not side.perturbations:
        yield error(
            f"{side.name}: all {side.screen.n:,} cells are labelled {side.control!r}; give cells under perturbations"
        )


def check_group_sizes(side: AuditedScreen) -> Faults:
    """Check for perturbations with a single cell, for which tests have no power."""
    sizes = np.bincount(side.labels.codes, minlength=side.labels.n_classes)
    single = [name for name, n in zip(side.labels.names, sizes, strict=True) if n == 1]
    if single:
        yield warning(
            f"{side.name}: {len(single):,} of {len(sizes):,} labels have one cell ({quoted(single)}); their tests can"
            " find nothing, give more cells or leave them out of both files"
        )


def check_duplicates(side: AuditedScreen) -> Faults:
    """Check for cells that are exact copies of other cells in the same file."""
    digests = side.digests[side.digests != 0]
    _, counts = np.unique(digests, return_counts=True)
    repeated = int(counts.sum() - len(counts))
    if repeated > max(1, 0.005 * len(digests)):
        yield warning(
            f"{side.name}: {repeated:,} of {side.screen.n:,} cells repeat another cell exactly; tests count each as"
            " an observation, so give distinct cells"
        )


OF_ONE_SIDE = {
    "values": check_values,
    "scale": check_scale,
    "names": check_names,
    "group_sizes": check_group_sizes,
    "duplicates": check_duplicates,
}
"""Name -> check of a single file, the real data or a prediction."""


class AuditedPair:
    """Real data and a prediction with the same genes, perturbations and scale, and the profiles to compare them by."""

    def __init__(self, real: AuditedScreen, predicted: AuditedScreen) -> None:
        self.real, self.predicted = real, predicted

    @property
    def has_same_control(self) -> bool:
        """Whether both the real data and the prediction have control cells."""
        return all(len(side.rows_of(side.control)) for side in (self.real, self.predicted))

    @cached_property
    def target(self) -> float:
        """Total counts to which each cell is scaled: the median of the real cells."""
        filled = self.real.totals[self.real.totals > 0]
        return float(np.median(filled)) if len(filled) else 1.0

    @cached_property
    def profiles(self) -> tuple[Profiles, Profiles]:
        """Profiles of the real data and of the prediction, with the genes in the order of the real data."""
        real = self.real.profiles(self.target)
        predicted = self.predicted.profiles(self.target)
        place = {gene: column for column, gene in enumerate(self.predicted.screen.genes)}
        columns = [place[gene] for gene in self.real.screen.genes]
        means, variances = predicted.means[:, columns], predicted.variances[:, columns]
        return real, Profiles(predicted.names, predicted.n, means, variances)

    @cached_property
    def perturbed_profiles(self) -> tuple[Profiles, Profiles]:
        """Profiles of the perturbations alone, in the same order in the real data and in the prediction."""
        return tuple(_rows(profiles, self.real.perturbations) for profiles in self.profiles)  # type: ignore[return-value]


def _rows(profiles: Profiles, names: Sequence[str]) -> Profiles:
    rows = [profiles.row(name) for name in names]
    return Profiles(tuple(names), profiles.n[rows], profiles.means[rows], profiles.variances[rows])


def check_swapped(real: AuditedScreen, predicted: AuditedScreen) -> Faults:
    """Check whether the real data and the prediction were probably swapped."""
    has_control = [bool(len(side.rows_of(side.control))) for side in (real, predicted)]
    if has_control == [False, True]:
        yield error(
            f"{real.name} has no cell of the control {real.control!r} but {predicted.name} has"
            f" {len(predicted.rows_of(real.control)):,}: the files seem to be swapped; give the real data first"
        )
        return
    spreads = [_share_without_spread(side) for side in (real, predicted)]
    if spreads[0] > 0.5 and spreads[1] < 0.1:
        yield error(
            f"{real.name}: in {spreads[0]:.0%} of its perturbations all cells are equal, in {predicted.name} in"
            f" {spreads[1]:.0%}: the files seem to be swapped; give the real data first"
        )


def _share_without_spread(side: AuditedScreen) -> float:
    """Return the share of perturbations whose cells are all equal, among perturbations with several cells."""
    equal = several = 0
    for name in side.perturbations:
        rows = side.rows_of(name)
        if len(rows) > 1:
            several += 1
            digests = side.digests[rows]
            equal += bool(digests[0] and (digests == digests[0]).all())
    return equal / several if several else 0.0


def check_control(real: AuditedScreen, predicted: AuditedScreen, *, own_control: bool) -> Faults:
    """Check for missing control cells; a prediction without any is an error only if `own_control`."""
    if not len(real.rows_of(real.control)):
        matches = close_matches(real.control, real.labels.names)
        yield error(f"{real.name}: none of {real.screen.n:,} cells is labelled {real.control!r}{matches}")
    elif not len(predicted.rows_of(real.control)):
        fault = f"{predicted.name}: none of {predicted.screen.n:,} cells is labelled {real.control!r}"
        if own_control:
            yield error(f"{fault}; add control cells, such as the real ones, or choose profile=full or vcc2026")
        else:
            yield warning(f"{fault}; effects and tests refer to the real control cells")


def check_perturbations(real: AuditedScreen, predicted: AuditedScreen) -> Faults:
    """Check for perturbations that are in only one of the files."""
    remedies = "predict them, or leave them out of the real data", "leave them out of the prediction"
    for own, other, remedy in ((real, predicted, remedies[0]), (predicted, real, remedies[1])):
        missing = [name for name in own.perturbations if name not in other.perturbations]
        if missing and own.perturbations:
            yield error(
                f"{len(missing):,} of {len(own.perturbations):,} perturbations of {own.name} are not in"
                f" {other.name} ({quoted(missing)}); {remedy}"
            )


def check_genes(real: AuditedScreen, predicted: AuditedScreen) -> Faults:
    """Check for genes that are in only one of the files, or in another order."""
    if real.screen.genes == predicted.screen.genes:
        return
    sets = [set(side.screen.genes) for side in (real, predicted)]
    if sets[0] == sets[1]:
        if len(real.screen.genes) == len(predicted.screen.genes):
            moved = sum(a != b for a, b in zip(real.screen.genes, predicted.screen.genes, strict=True))
            yield warning(
                f"{moved:,} of {len(sets[0]):,} genes are at another place in {predicted.name}; they are aligned by"
                " name here, write them in the order of the real data for other tools"
            )
        return
    parts = [
        f"{len(names):,} only in {side.name} ({quoted(names)})"
        for side, names in ((real, sorted(sets[0] - sets[1])), (predicted, sorted(sets[1] - sets[0])))
        if names
    ]
    yield error(f"genes differ: {', '.join(parts)}; give both files the same {len(sets[0]):,} genes")


def check_same_scale(real: AuditedScreen, predicted: AuditedScreen) -> Faults:
    """Check for counts in one file and log1p values in the other."""
    if real.facts.scale != predicted.facts.scale:
        yield error(
            f"scales differ: {real.name} holds {real.facts}, {predicted.name} {predicted.facts}; write both as counts,"
            " or both as log1p of normalised counts"
        )


BETWEEN_FILES: dict[str, Callable[[AuditedScreen, AuditedScreen], Faults]] = {
    "swapped": check_swapped,
    "perturbations": check_perturbations,
    "genes": check_genes,
    "scales": check_same_scale,
}
"""Name -> check that compares labels, genes and scale of both files; `check_control` runs in addition."""


def check_library_sizes(pair: AuditedPair) -> Faults:
    """Check whether the library sizes of predicted cells differ from those of real cells."""
    real, predicted = (float(np.median(side.totals)) for side in (pair.real, pair.predicted))
    limit = 2.0 if pair.real.facts.scale == "counts" else 1.25
    if min(real, predicted) <= 0 or 1 / limit <= predicted / real <= limit:
        return
    of = "counts" if pair.real.facts.scale == "counts" else "expm1 of the values"
    yield warning(
        f"{pair.predicted.name}: the median total of a cell is {predicted:,.4g}, in the real data {real:,.4g} (sums of"
        f" {of}); normalise the prediction as the real data"
    )


def check_copies(pair: AuditedPair) -> Faults:
    """Check for predicted cells that are copies of real perturbed cells or of real control cells."""
    real, predicted = pair.real, pair.predicted
    mine = np.flatnonzero(predicted.labels.codes != _code(predicted))
    digests = predicted.digests[mine]
    controls = real.digests[real.rows_of(real.control)]
    others = real.digests[real.labels.codes != _code(real)]
    for known, what, remedy in (
        (others, "perturbed cells", "a prediction must not contain the answer"),
        (controls, "control cells", "they predict no effect"),
    ):
        n = int((np.isin(digests, known) & (digests != 0)).sum())
        if n > max(1, 0.005 * len(mine)):
            yield warning(
                f"{predicted.name}: {n:,} of {len(mine):,} predicted cells ({n / len(mine):.0%}) are copies of real"
                f" {what}; {remedy}"
            )


def _code(side: AuditedScreen) -> int:
    return side.labels.names.index(side.control) if side.control in side.labels.names else -1


def check_effects(pair: AuditedPair) -> Faults:
    """Check for predictions that hardly depend on the perturbation, such as a constant mean or control profile."""
    real, predicted = pair.perturbed_profiles
    if len(real.names) < 3:
        return
    spread = [_spread(profiles) for profiles in (real, predicted)]
    if spread[0] <= 0:
        yield warning(
            f"{pair.real.name}: the {len(real.names):,} perturbations do not differ beyond the noise of their means;"
            " no metric can tell predictions apart on these data"
        )
        return
    if spread[1] >= 0.02 * spread[0]:
        return
    centre = predicted.means.mean(axis=0)
    known = {"the mean of the real perturbations": real.means.mean(axis=0)}
    if len(pair.real.rows_of(pair.real.control)):
        known["the real control"] = pair.profiles[0].means[pair.profiles[0].row(pair.real.control)]
    nearest = min(known, key=lambda name: float(((centre - known[name]) ** 2).sum()))
    yield warning(
        f"{pair.predicted.name}: predicted profiles hardly depend on the perturbation (their variation is"
        f" {max(spread[1], 0) / spread[0]:.1%} of the real one) and are closest to {nearest}; check how they were made"
    )


def _spread(profiles: Profiles) -> float:
    """Return the variance of mean profiles between perturbations, less their sampling noise, summed over genes."""
    noise = (profiles.variances / profiles.n[:, None]).sum(axis=1).mean()
    return float(profiles.means.var(axis=0, ddof=1).sum() - noise)


def check_variance(pair: AuditedPair) -> Faults:
    """Check whether predicted cells vary less or more within a perturbation than real cells."""
    real, predicted = pair.perturbed_profiles
    several = (real.n > 1) & (predicted.n > 1)
    if not several.any():
        return
    flat = several & (predicted.variances.sum(axis=1) <= 1e-8 * np.maximum(real.variances.sum(axis=1), 1e-300))
    if flat.any():
        yield warning(
            f"{pair.predicted.name}: in {flat.sum():,} of {several.sum():,} perturbations all predicted cells are"
            " equal; tests then find nearly every gene, so predict cells that vary as real ones do"
        )
    rest = several & ~flat & (real.variances.sum(axis=1) > 0)
    if not rest.any():
        return
    ratio = float(np.median(predicted.variances[rest].sum(axis=1) / real.variances[rest].sum(axis=1)))
    if not 0.5 <= ratio <= 2:
        word, effect = ("collapsed", "too many") if ratio < 1 else ("inflated", "too few")
        yield warning(
            f"{pair.predicted.name}: the variance within perturbations is {word}, {ratio:.2g} times that of real cells"
            f" (median of {rest.sum():,} perturbations); tests find {effect} genes, predict cells that vary as real"
            " ones"
        )


def check_controls_differ(pair: AuditedPair) -> Faults:
    """Check whether the means of predicted control cells differ from those of real control cells beyond sampling."""
    if not pair.has_same_control:
        return
    (a, i), (b, j) = ((profiles, profiles.row(pair.real.control)) for profiles in pair.profiles)
    noise = a.variances[i] / a.n[i] + b.variances[j] / b.n[j]
    genes = noise > 0
    if min(a.n[i], b.n[j]) < 10 or genes.sum() < 10:
        return
    excess = float(((a.means[i] - b.means[j])[genes] ** 2 / noise[genes]).mean())
    if excess > 2:
        yield warning(
            f"{pair.predicted.name}: its {b.n[j]:,.0f} control cells differ from the {a.n[i]:,.0f} real ones: squared"
            f" differences of their means are {excess:.3g} times what sampling explains; use the real control cells"
        )


def check_log_twice(pair: AuditedPair) -> Faults:
    """Check whether one file was log-transformed once more than the other, by comparing their control cells."""
    if pair.real.facts.scale != "log" or not pair.has_same_control:
        return
    (a, i), (b, j) = ((profiles, profiles.row(pair.real.control)) for profiles in pair.profiles)
    genes = a.means[i] > 0.1
    if genes.sum() < 10:
        return
    once, twice = b.means[j, genes] / a.means[i, genes], b.means[j, genes] / np.log1p(a.means[i, genes])
    for own, other, name in ((once, twice, pair.predicted.name), (1 / once, None, pair.real.name)):
        shifts = [
            abs(float(np.median(np.log(np.maximum(ratio, 1e-12))))) for ratio in (own, other) if ratio is not None
        ]
        if other is None:
            reverse = a.means[i, genes] / np.log1p(np.maximum(b.means[j, genes], 1e-12))
            shifts.append(abs(float(np.median(np.log(np.maximum(reverse, 1e-12))))))
        if shifts[0] > 0.15 and shifts[1] < 0.25 * shifts[0]:
            yield warning(
                f"{name}: values seem to be log-transformed once more than in the other file: means of"
                f" {genes.sum():,} genes over control cells agree after one log1p of those; write both alike"
            )


BETWEEN_VALUES: dict[str, Callable[[AuditedPair], Faults]] = {
    "library_sizes": check_library_sizes,
    "copies": check_copies,
    "effects": check_effects,
    "variance": check_variance,
    "controls": check_controls_differ,
    "log_twice": check_log_twice,
}
"""Name -> check that compares the values of both files, run only if genes, perturbations and scale agree."""


def check_leak(real: AuditedScreen, train: Sequence[str], test: Sequence[str] | None) -> Faults:
    """Check for scored perturbations that the model was trained on, and for names that the real data do not have."""
    scored = list(real.perturbations) if test is None else [name for name in test if name != real.control]
    leaked = [name for name in scored if name in set(train)]
    if leaked:
        yield warning(
            f"{len(leaked):,} of {len(scored):,} scored perturbations are in the list of training ones"
            f" ({quoted(leaked)}); score perturbations that the model has not seen"
        )
    for name, given in (("train", train), ("test", test or ())):
        unknown = [one for one in given if one not in real.labels.names]
        if name == "test" and unknown:
            yield warning(
                f"{len(unknown):,} of {len(given):,} perturbations of the list of test ones are not in {real.name}"
                f" ({quoted(unknown)}); check the names"
            )
