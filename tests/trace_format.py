"""Checks of the trace-event format (the JSON that Perfetto and chrome://tracing open).

They cover complete events, counters and metadata, the kinds that gpubench writes.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

NAMED_BY = {"process_name": "name", "thread_name": "name", "process_labels": "labels"}


def read_trace(text: str) -> Any:
    """Parse strict JSON, without NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def violations(trace: Any) -> list[str]:
    """List violations of the format, one line each."""
    if not isinstance(trace, dict) or not isinstance(trace.get("traceEvents"), list):
        return ["no object with a list of traceEvents"]
    found = [] if trace.get("displayTimeUnit", "ms") in ("ms", "ns") else ["displayTimeUnit is neither ms nor ns"]
    tracks: dict[tuple[int, int], list[tuple[float, float, str]]] = defaultdict(list)
    for i, event in enumerate(trace["traceEvents"]):
        broken = [f"event {i}: {what}" for what in _event_violations(event)]
        found += broken
        if not broken and event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append((event["ts"], event["dur"], event["name"]))
    return found + [line for events in tracks.values() for line in _nesting_violations(events)]


def _event_violations(event: Any) -> Iterator[str]:
    if not isinstance(event, dict):
        yield "is not an object"
        return
    phase = event.get("ph")
    if phase not in ("X", "C", "M"):
        yield f"phase {phase!r} is unknown"
    if not isinstance(event.get("name"), str) or not event["name"]:
        yield "has no name"
    yield from (f"{key} is not a whole number" for key in ("pid", "tid") if type(event.get(key)) is not int)
    times = {"X": ("ts", "dur"), "C": ("ts",)}.get(phase, ())
    yield from (f"{key} is not a time" for key in times if not _is_time(event.get(key)))
    args = event.get("args", {})
    if not isinstance(args, dict):
        yield "args is not an object"
    elif phase == "C" and (not args or not all(_is_number(value) for value in args.values())):
        yield "a counter needs numbers"
    elif phase == "M" and NAMED_BY.get(event.get("name", "")) not in args:
        yield "metadata lacks the name"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_time(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _nesting_violations(events: list[tuple[float, float, str]]) -> Iterator[str]:
    """Find complete events of one track that overlap without being nested."""
    stack: list[tuple[float, str]] = []
    for begin, duration, name in sorted(events, key=lambda event: (event[0], -event[1])):
        while stack and stack[-1][0] <= begin:
            stack.pop()
        if stack and begin + duration > stack[-1][0]:
            yield f"{name} ends after {stack[-1][1]}, which it began in"
        stack.append((begin + duration, name))
