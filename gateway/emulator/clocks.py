"""The emulator's own clock: real, or started at an instant and run at a rate (`2026-11-20T02:00:00Z*60`)."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from gateway.clock import parse_instant


class RunningClock:
    """Starts at `start` (default: now) when made, and runs `rate` times as fast as the real one."""

    def __init__(self, start: datetime | None = None, rate: int = 1) -> None:
        self._start = start or datetime.now(UTC)
        self._rate = rate
        self._zero = time.monotonic_ns()

    def now(self) -> datetime:
        passed = (time.monotonic_ns() - self._zero) // 1000 * self._rate
        return self._start + timedelta(microseconds=passed)

    def monotonic(self) -> float:
        return time.monotonic()


def parse_clock(text: str) -> RunningClock:
    """INSTANT or INSTANT*RATE; raises ValueError."""
    instant, _, rate = text.partition("*")
    return RunningClock(parse_instant(instant), int(rate or "1"))
