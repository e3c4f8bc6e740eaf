"""Where a result comes from is recorded, and nothing about the person."""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gpubench.core.machine import cpu_model, package_versions
from gpubench.core.memory import total_memory_bytes
from gpubench.engines import get_engine
from gpubench.running.provenance import provenance


def test_provenance_describes_the_run() -> None:
    record = provenance(
        get_engine("cpu", seed=7, threads=1),
        options={"tasks": ["embedding"]},
        source="a.h5ad",
        fingerprint="00",
        columns="01",
        n_cells=9,
    )
    assert record["seed"] == 7
    assert record["engine"]["name"] == "cpu"
    assert record["dataset"] == {"source": "a.h5ad", "fingerprint": "00", "columns": "01", "n_cells": 9}
    assert record["options"] == {"tasks": ["embedding"]}
    assert record["packages"].keys() >= {"numpy", "scipy", "scikit-learn", "igraph"}
    assert datetime.now(UTC) - datetime.fromisoformat(record["date"]) < timedelta(minutes=1)
    assert json.loads(json.dumps(record)) == record


def test_provenance_has_nothing_about_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUBENCH_SECRET", "hunter2")
    text = json.dumps(provenance(get_engine("cpu"), options={}))
    assert "hunter2" not in text
    assert str(Path.home()) not in text
    assert getpass.getuser() == "root" or getpass.getuser() not in text


def test_facts_about_the_machine() -> None:
    assert cpu_model()
    assert (total_memory_bytes() or 0) > 2**28
    assert "gpubench" not in package_versions(), "it has a field of its own"
