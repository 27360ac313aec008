"""A bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import pytest

from app.cohort.progress import progress


def test_the_time_left_is_that_of_the_average_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("rich.console.monotonic", lambda: now[0])
    with progress("patients", 4) as advance:
        left = []
        for took_s in (100.0, 20.0, 60.0, 60.0):
            now[0] += took_s
            left.append(advance(1))
    assert left == [300.0, 120.0, 60.0, 0.0]


@pytest.mark.parametrize(
    ("terminal", "with_bar", "drawn"), [("1", True, True), ("1", False, False), ("0", True, False)]
)
def test_a_bar_is_drawn_on_a_terminal_alone(
    terminal: str,
    with_bar: bool,
    drawn: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", terminal)
    with progress("patients", 2, with_bar) as advance:
        advance(1)
    shown = capsys.readouterr()
    assert ("patients" in shown.err, shown.out) == (drawn, "")
