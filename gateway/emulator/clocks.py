"""The emulator's own clock: real, or started at an instant and run at a rate (`2026-11-20T02:00:00Z*60`).

With `@REAL` behind it, it stands at its instant at that real one: so clocks of several processes agree.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from gateway.clock import Clock, parse_instant


class RunningClock:
    """Stands at `start` (default: now) when made, or at the real instant `since`, and runs `rate` times as fast as the real one."""

    def __init__(self, start: datetime | None = None, rate: int = 1, since: datetime | None = None) -> None:
        self._start = start or datetime.now(UTC)
        self._rate = rate
        past = (datetime.now(UTC) - since) // timedelta(microseconds=1) * 1000 if since else 0
        self._zero = time.monotonic_ns() - past

    @property
    def rate(self) -> int:
        return self._rate

    def now(self) -> datetime:
        passed = (time.monotonic_ns() - self._zero) // 1000 * self._rate
        return self._start + timedelta(microseconds=passed)

    def monotonic(self) -> float:
        return time.monotonic()


def parse_clock(text: str) -> RunningClock:
    """INSTANT[*RATE][@REAL]; raises ValueError."""
    shifted, _, since = text.partition("@")
    instant, _, rate = shifted.partition("*")
    return RunningClock(parse_instant(instant), int(rate or "1"), parse_instant(since) if since else None)


def rate_of(clock: Clock) -> int:
    """How many seconds of this clock pass in one real second."""
    return clock.rate if isinstance(clock, RunningClock) else 1
