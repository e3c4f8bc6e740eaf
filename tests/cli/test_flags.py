"""What people write on the command line."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.cli.flags import parse_list, parse_options
from gpubench.core.errors import InputError
from gpubench.core.units import parse_bytes, parse_counts
from gpubench.tasks import Options
from gpubench.tasks._scorers import parse_scorers


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("4GB", 4 * 10**9),
        ("4 gb", 4 * 10**9),
        ("1.5G", 1_500_000_000),
        ("500MB", 500_000_000),
        ("2GiB", 2 * 2**30),
        ("64kib", 64 * 2**10),
        ("1T", 10**12),
        ("123", 123),
    ],
)
def test_amounts_of_memory(text: str, amount: int) -> None:
    assert parse_bytes(text) == amount


@pytest.mark.parametrize("text", ["", "GB", "-4GB", "0", "0.1", "4 GB RAM", "four", "nan", "1e9", "inf"])
def test_invalid_amounts_of_memory_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"memory=.*write it as 4GB"):
        parse_bytes(text)


def test_every_option_can_be_given_by_its_default() -> None:
    texts = {name: ",".join(value) if isinstance(value, tuple) else value for name, value in asdict(Options()).items()}
    assert Options(**parse_options([f"{name}={value}" for name, value in texts.items()])) == Options()


@given(st.integers())
def test_whole_numbers(number: int) -> None:
    assert parse_options([f"k={number}"]) == {"k": number}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers(number: float) -> None:
    assert parse_options([f"resolution={number!r}"]) == {"resolution": number}


@pytest.mark.parametrize(("text", "value"), [("yes", True), ("True", True), ("0", False), ("off", False)])
def test_switches(text: str, value: bool) -> None:
    assert parse_options([f"adaptive_k={text}"]) == {"adaptive_k": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("k", "--option 'k' has no value; write it as name=value"),
        ("resolutoin=1", "--option 'resolutoin' is unknown .did you mean 'resolution'"),
        ("k=1.5", "--option k='1.5' is not a whole number"),
        ("k=", "--option k='' is not a whole number"),
        ("resolution=high", "--option resolution='high' is not a number"),
        ("resolution=nan", "--option resolution='nan' is not finite"),
        ("adaptive_k=maybe", "--option adaptive_k='maybe' is neither true nor false"),
        ("aggregation=sum", "--option aggregation='sum' is none of 'none', 'mean', 'median'"),
    ],
)
def test_wrong_options_are_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_options([text])


def test_lists_are_split_and_checked() -> None:
    assert parse_list(["json,csv", "json", " parquet"], ["json", "csv", "parquet"], "format") == [
        "json",
        "csv",
        "parquet",
    ]
    with pytest.raises(InputError, match=r"format='parqet' is unknown .did you mean 'parquet'"):
        parse_list(["parqet"], ["json", "csv", "parquet"], "format")


def test_scorers_are_those_of_scikit_learn() -> None:
    scorers = parse_scorers(["balanced_accuracy"])
    assert scorers is not None
    assert callable(scorers["balanced_accuracy"])
    assert parse_scorers([]) is None
    with pytest.raises(InputError, match=r"scorers='balanced_acuracy' is not a scorer.*mean 'balanced_accuracy'"):
        parse_scorers(["balanced_acuracy"])


def test_counts_have_units() -> None:
    assert parse_counts("300,1.5k, 10K,2M", "cells") == [300, 1500, 10_000, 2_000_000]


@pytest.mark.parametrize("text", ["", "a", "0", "-1", "1.5", "0.0001k", "1e3", "10k,,20k", "10g"])
def test_invalid_counts_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^cells=.* is not a whole number above 0; write numbers such as 10k"):
        parse_counts(text, "cells")
