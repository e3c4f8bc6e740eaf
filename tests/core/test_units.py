"""Amounts of bytes and seconds as text."""

from __future__ import annotations

import pytest

from gpubench.core.units import bytes_text, seconds_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "<1 ms"),
        (0.04, "40 ms"),
        (1.23, "1.2 s"),
        (12.3, "12 s"),
        (100, "1.7 min"),
        (3000, "50 min"),
        (7200, "2.0 h"),
        (1e6, "278 h"),
    ],
)
def test_seconds_text_uses_two_or_three_digits(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (3.44e8, "344 MB"), (1.25e10, "12.5 GB"), (2e12, "2.0 TB")],
)
def test_bytes_text_uses_two_or_three_digits(n_bytes: float, text: str) -> None:
    assert bytes_text(n_bytes) == text
