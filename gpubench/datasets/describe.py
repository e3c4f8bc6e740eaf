"""What is known of datasets, for people and for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpubench.core.units import bytes_text
from gpubench.datasets.cache import Record, meant, place_of, recorded
from gpubench.datasets.entry import Entry

CHECKED = {
    "sha256": "by the SHA-256 of the catalogue",
    "md5": "by the MD5 that the server keeps",
    "size": "by its size alone: no checksum is published",
}


def facts(entry: Entry) -> dict[str, Any]:
    """Everything about a dataset as JSON values: its entry, "state", and what is recorded of its file.

    "state" is "cached", "not fetched", "local", "missing" (a local file that is not there) or "no address".
    """
    known = {**asdict(entry), "state": "no address", "file": None, "checked": None, "fetched": None, "etag": None}
    if entry.path is None:
        return known
    if not entry.is_remote:
        exists = Path(entry.path).exists()
        return {**known, "state": "local" if exists else "missing", "file": entry.path if exists else None}
    place = place_of(entry)
    record = recorded(place)
    if record is None or not meant(record, entry):
        return {**known, "state": "not fetched"}
    return {**known, "state": "cached", **of_file(place, record)}


def of_file(place: Path, record: Record) -> dict[str, Any]:
    """What is recorded of a fetched file, and where it is."""
    kept = asdict(record)
    return {"file": str(place), **{key: kept[key] for key in ("size", "sha256", "etag", "checked", "fetched")}}


def info_text(known: dict[str, Any]) -> str:
    """All about one dataset, a line for each fact."""
    shown = {
        key: f"{value:,} bytes" if key == "size" else CHECKED[value] if key == "checked" else value
        for key, value in known.items()
        if value is not None
    }
    shown["catalogue"] = shown.pop("where")
    width = max(map(len, shown))
    return "\n".join(f"{key:<{width}}  {value}" for key, value in shown.items())


def list_text(known: Sequence[dict[str, Any]]) -> str:
    """A line for each dataset: its name, whether it is here, and its title."""
    rows = [(one["id"], _state(one), one["title"] or "") for one in known]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{id_:<{widths[0]}}  {state:<{widths[1]}}  {title}".rstrip() for id_, state, title in rows)


def _state(known: dict[str, Any]) -> str:
    return f"cached, {bytes_text(known['size'])}" if known["state"] == "cached" else str(known["state"])
