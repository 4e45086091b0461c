"""Clocks: the shifted one starts where it is told, runs as fast as it is told, and leaves elapsed time alone."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from gateway.clock import Clock
from gateway.emulator.clocks import parse_clock
from gateway.timekeeping import RealClock, Shift, ShiftedClock, clock_for, parse_shift

START = datetime(2026, 11, 20, 0, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "shift"),
    [
        ("2026-11-20T00:59:00Z", Shift(START)),
        ("2026-11-20T00:59:00Z*60", Shift(START, 60)),
        ("2026-11-20T08:59:00+08:00*0.5", Shift(START, 0.5)),
        (" 2026-11-20T00:59:00Z *1", Shift(START)),
        ("2026-11-20T00:59:00Z*60@2026-11-22T03:00:00Z", Shift(START, 60, datetime(2026, 11, 22, 3, tzinfo=UTC))),
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
        "2026-11-20T00:59:00Z*60@",
        "2026-11-20T00:59:00Z@soon",
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


def test_clocks_of_several_processes_agree_by_the_real_instant_that_they_share() -> None:
    since = datetime.now(UTC) - timedelta(seconds=10)
    text = f"2026-11-20T00:59:00Z*600@{since.isoformat()}"
    clocks: list[Clock] = [ShiftedClock(parse_shift(text)), parse_clock(text), ShiftedClock(parse_shift(text))]
    told = [clock.now() for clock in clocks]
    assert all(timedelta(seconds=6000) <= now - START < timedelta(seconds=6600) for now in told)
    assert max(told) - min(told) < timedelta(seconds=60)


def test_elapsed_time_is_never_shifted() -> None:
    before = time.monotonic()
    assert before <= clock_for(Shift(START, 1000)).monotonic() <= time.monotonic()


def test_without_a_shift_the_clock_is_the_machine_s() -> None:
    clock = clock_for(None)
    assert isinstance(clock, RealClock)
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=1)
