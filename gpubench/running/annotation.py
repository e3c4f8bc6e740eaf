"""Write a summary of a result to `uns` of the AnnData object that was scored."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gpubench.core.errors import InputError
from gpubench.core.scores import plain
from gpubench.data._formats.anndata_store import is_anndata
from gpubench.results.table import FIELDS

if TYPE_CHECKING:
    import pandas as pd

    from gpubench.results.result import Result

SCORES = "scores"
"""Key of the table of scores in the summary, by which a summary of gpubench is recognised as well."""

_NUMBERS = ("value", "stderr", "n", "seconds")
_TEXTS = ("embedding", "task", "metric", "note")


def check_annotation(data: Any, key_added: Any) -> None:
    """Raise `InputError` if a summary cannot be written to `data.uns[key_added]`; called before anything is scored."""
    fault = ""
    if not is_anndata(data):
        fault = "the data are not an AnnData object; give one, or leave key_added out"
    elif data.is_view:
        fault = "the AnnData object is a view, which has no `uns` of its own; score a copy: adata = adata[...].copy()"
    elif not isinstance(key_added, str) or not key_added or "/" in key_added:
        fault = "the name must be text without '/'; give another name, such as 'gpubench'"
    elif key_added in data.uns and not _is_summary(data.uns[key_added]):
        fault = "uns has this key, which gpubench did not write; give another name"
    if fault:
        raise InputError(f"key_added={key_added!r} cannot be written: {fault}", argument="key_added")


def annotate(data: Any, key_added: str, result: Result) -> None:
    """Write `summary_of(result)` to `data.uns[key_added]`."""
    data.uns[key_added] = summary_of(result)


def summary_of(result: Result) -> dict[str, Any]:
    """Summarise a result in text and floats, which `AnnData.write_h5ad` and `write_zarr` can write.

    Returns
    -------
    dict
        "scores" is a DataFrame with a row for each score: embedding, task, metric, params (JSON), value, stderr, n,
        seconds, note. The other values are text or floats: the version of gpubench, date, seed, engine, options (JSON),
        the fingerprint of the data, and notes and failures with one line for each.
    """
    about = result.provenance
    return {
        SCORES: _table(result),
        "gpubench": str(about["gpubench"]),
        "date": str(about["date"]),
        "seed": float(about["seed"]),
        "engine": str(about["engine"]["name"]),
        "options": json.dumps(plain(about["options"])),
        "fingerprint": str(about["dataset"]["fingerprint"]),
        "notes": "\n".join([*about.get("notes", ()), *about.get("warnings", ()), *about["engine"]["notes"]]),
        "failures": "\n".join(f"{one['task']} on {one['embedding']}: {one['error']}" for one in result.failures),
        "interrupted": str(result.interrupted),
    }


def _table(result: Result) -> pd.DataFrame:
    import pandas as pd

    rows = result.results
    columns: dict[str, Any] = {
        name: pd.Series([str(getattr(row, name)) for row in rows], dtype=object) for name in _TEXTS
    }
    columns |= {name: pd.Series([getattr(row, name) for row in rows], dtype=float) for name in _NUMBERS}
    columns["params"] = pd.Series([json.dumps(plain(row.params)) for row in rows], dtype=object)
    order = [*(name for name in FIELDS if name in columns and name != "note"), "params", "note"]
    table = pd.DataFrame({name: columns[name] for name in order})
    return table.set_axis(table.index.astype(str))


def _is_summary(value: Any) -> bool:
    return hasattr(value, "keys") and {SCORES, "gpubench"} <= set(value.keys())
