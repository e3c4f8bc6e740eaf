"""The progress line: on a terminal only, gone at the end, and never in the way."""

from __future__ import annotations

import io
import threading
import time

import pytest

from gpubench.cli.progress import Progress, _clock
from gpubench.core.timeline import Timeline


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()


def test_a_pipe_gets_nothing() -> None:
    stream = io.StringIO()
    with Progress(stream) as progress:
        timeline = Timeline(progress)
        with timeline.stage("knn"):
            timeline.advance(1, 2)
    assert stream.getvalue() == ""


def test_quiet_draws_nothing_on_a_terminal(terminal: Terminal) -> None:
    with Progress(terminal, shown=False) as progress:
        progress.started("knn")
    assert terminal.getvalue() == ""


def wait_for(text: str, terminal: Terminal, limit_s: float = 10.0) -> None:
    """Wait until the drawing thread has written a text."""
    end = time.monotonic() + limit_s
    while text not in terminal.getvalue():
        assert time.monotonic() < end, f"{text!r} was not drawn: {terminal.getvalue()!r}"
        time.sleep(0.02)


def test_the_stage_its_progress_and_the_time_are_drawn(terminal: Terminal) -> None:
    with Progress(terminal) as progress:
        timeline = Timeline(progress)
        with timeline.stage("X_pca"), timeline.stage("knn"):
            timeline.advance(1234, 5000)
            wait_for("X_pca > knn", terminal)
            wait_for("1,234/5,000", terminal)
            wait_for("0:00", terminal)
        wait_for("0:0", terminal)


def test_progress_line_is_removed_after_an_exception(terminal: Terminal) -> None:
    before = threading.active_count()

    def run_and_fail() -> None:
        with Progress(terminal) as progress:
            progress.started("knn")
            wait_for("knn", terminal)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_and_fail()
    text = terminal.getvalue()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor is shown again"
    assert text.endswith("\x1b[2K"), "the line is erased"
    end = time.monotonic() + 10
    while threading.active_count() > before:  # the drawing thread ends after its last pause
        assert time.monotonic() < end
        time.sleep(0.02)


def test_progress_beyond_the_total_is_drawn(terminal: Terminal) -> None:
    with Progress(terminal) as progress:
        progress.advanced("knn", 7, 5)
        wait_for("7/5", terminal)


def test_listener_calls_are_fast(terminal: Terminal) -> None:
    """A hundred thousand calls, a thousand times what a run makes, in well under a second."""
    with Progress(terminal) as progress:
        begin = time.perf_counter()
        for done in range(100_000):
            progress.advanced("knn", done, 100_000)
        assert time.perf_counter() - begin < 1


@pytest.mark.parametrize(("seconds", "text"), [(0.9, "0:00"), (61, "1:01"), (3723, "1:02:03")])
def test_the_clock(seconds: float, text: str) -> None:
    assert _clock(seconds) == text
