"""Clocks: the shifted one starts where it is told, runs as fast as it is told, and leaves elapsed time alone."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from gateway.timekeeping import RealClock, Shift, ShiftedClock, clock_for, parse_shift

START = datetime(2026, 11, 20, 0, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "shift"),
    [
        ("2026-11-20T00:59:00Z", Shift(START)),
        ("2026-11-20T00:59:00Z*60", Shift(START, 60)),
        ("2026-11-20T08:59:00+08:00*0.5", Shift(START, 0.5)),
        (" 2026-11-20T00:59:00Z *1", Shift(START)),
    ],
)
def test_a_clock_is_an_instant_and_a_rate(text: str, shift: Shift) -> None:
    assert parse_shift(text) == shift
    assert parse_shift(str(shift)) == shift


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-11-20T00:59:00",
        "2026-11-20T00:59:00Z*",
        *(f"2026-11-20T00:59:00Z*{rate}" for rate in ("0", "-1", "nan", "inf", "x", "1e9")),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"2026-11-20T00:59:00Z|not in"):
        parse_shift(text)


def test_a_shifted_clock_runs_from_its_start_at_its_rate() -> None:
    clock = ShiftedClock(Shift(START, 100_000))
    begun = time.monotonic()
    while time.monotonic() - begun < 0.01:
        pass
    ran = clock.now() - START
    assert timedelta(seconds=1000) <= ran < timedelta(seconds=100_000 * 10)
    assert clock.now().tzinfo is UTC


def test_elapsed_time_is_never_shifted() -> None:
    before = time.monotonic()
    assert before <= clock_for(Shift(START, 1000)).monotonic() <= time.monotonic()


def test_without_a_shift_the_clock_is_the_machine_s() -> None:
    clock = clock_for(None)
    assert isinstance(clock, RealClock)
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=1)
