"""Counts of the patched calls: how often, on which engine, how long, and which fell back to the original and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("call", "ran", "engine", "seconds", "fell_back", "fallback_seconds", "why")


@dataclass(slots=True)
class Calls:
    """Counts of the calls of one function.

    Attributes
    ----------
    ran : calls that gpubench computed
    seconds : their total time
    engines : names of the engines that computed them
    fallback_seconds : total time of the calls that the original computed
    reasons : reason for calling the original -> how often
    """

    ran: int = 0
    seconds: float = 0.0
    engines: set[str] = field(default_factory=set)
    fallback_seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)


class Report(dict[str, Calls]):
    """Counts of the calls of all patched functions in this process, by name; safe to use from several threads."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = Lock()

    def ran(self, name: str, engine: str, seconds: float, *, calls: int = 1) -> None:
        """Count a call that gpubench computed; `calls=0` adds time to one that is counted already."""
        with self._lock:
            entry = self.setdefault(name, Calls())
            entry.ran += calls
            entry.seconds += seconds
            entry.engines.add(engine)

    def fell_back(self, name: str, reason: str, seconds: float) -> None:
        """Count a call that the original computed."""
        with self._lock:
            entry = self.setdefault(name, Calls())
            entry.reasons[reason] += 1
            entry.fallback_seconds += seconds

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the values of `COLUMNS` for each function that was called."""
        with self._lock:
            calls = dict(self)
        for name, entry in calls.items():
            times = [f"{reason} ({count} times)" if count > 1 else reason for reason, count in entry.reasons.items()]
            yield (
                name,
                entry.ran,
                ", ".join(sorted(entry.engines)),
                entry.seconds,
                entry.reasons.total(),
                entry.fallback_seconds,
                "; ".join(times),
            )

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame with one row per function that was called."""
        import pandas as pd

        return pd.DataFrame(list(self.rows()), columns=list(COLUMNS))

    def __str__(self) -> str:
        if not self:
            return "gpubench.accel: no patched function was called"
        lines = ["gpubench.accel:"]
        for name, ran, engine, seconds, fell_back, fallback_seconds, why in self.rows():
            if ran:
                lines.append(f"  {name}: {ran:,} on {engine}, {seconds:.3g} s")
            if fell_back:
                lines.append(f"  {name}: {fell_back:,} by the original, {fallback_seconds:.3g} s: {why}")
        return "\n".join(lines)

    __repr__ = __str__
