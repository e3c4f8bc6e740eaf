"""What became of the calls that were patched: how often, on which engine, how long, and what fell back and why."""

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
    """The calls of one function.

    Attributes
    ----------
    ran : calls that gpubench answered
    seconds : that they took together
    engines : where they ran
    fallback_seconds : time of the calls that the original answered
    reasons : why it did -> how often
    """

    ran: int = 0
    seconds: float = 0.0
    engines: set[str] = field(default_factory=set)
    fallback_seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)


class Report:
    """Counts calls, over all installs of this process; threads may count at the same time."""

    def __init__(self) -> None:
        self._calls: dict[str, Calls] = {}
        self._lock = Lock()

    def ran(self, name: str, engine: str, seconds: float, *, calls: int = 1) -> None:
        """Count a call that gpubench answered; 0 calls: more time of one that is counted already."""
        with self._lock:
            of_name = self._calls.setdefault(name, Calls())
            of_name.ran += calls
            of_name.seconds += seconds
            of_name.engines.add(engine)

    def fell_back(self, name: str, reason: str, seconds: float) -> None:
        """Count a call that the original answered."""
        with self._lock:
            of_name = self._calls.setdefault(name, Calls())
            of_name.reasons[reason] += 1
            of_name.fallback_seconds += seconds

    def clear(self) -> None:
        """Start anew."""
        with self._lock:
            self._calls.clear()

    def __len__(self) -> int:
        return len(self._calls)

    def __getitem__(self, name: str) -> Calls:
        return self._calls[name]

    def __contains__(self, name: str) -> bool:
        return name in self._calls

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield what `COLUMNS` names, for each function that was called."""
        with self._lock:
            calls = dict(self._calls)
        for name, of_name in calls.items():
            times = [f"{reason} ({count} times)" if count > 1 else reason for reason, count in of_name.reasons.items()]
            yield (
                name,
                of_name.ran,
                ", ".join(sorted(of_name.engines)),
                of_name.seconds,
                of_name.reasons.total(),
                of_name.fallback_seconds,
                "; ".join(times),
            )

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame, a row for each function that was called."""
        import pandas as pd

        return pd.DataFrame(list(self.rows()), columns=list(COLUMNS))

    def __str__(self) -> str:
        if not len(self):
            return "gpubench.accel: no patched function was called"
        lines = ["gpubench.accel:"]
        for name, ran, engine, seconds, fell_back, fallback_seconds, why in self.rows():
            if ran:
                lines.append(f"  {name}: {ran:,} on {engine}, {seconds:.3g} s")
            if fell_back:
                lines.append(f"  {name}: {fell_back:,} by the original, {fallback_seconds:.3g} s: {why}")
        return "\n".join(lines)

    __repr__ = __str__
