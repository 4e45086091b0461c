"""The clocks that run: the real one, and one that starts at a chosen instant and runs at a chosen rate."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from gateway.clock import Clock, instant_text, parse_instant


@dataclass(frozen=True, slots=True)
class Shift:
    """Where a shifted clock starts, and how many of its seconds pass in one real second.

    `since`: the real instant at which it stands at `start`, so that clocks of several processes agree; None: when it is made.
    """

    start: datetime
    rate: float = 1.0
    since: datetime | None = None

    def __str__(self) -> str:
        rate = "" if self.rate == 1 else f"*{self.rate:g}"
        return instant_text(self.start) + rate + (f"@{instant_text(self.since)}" if self.since else "")


def parse_shift(text: str) -> Shift:
    """INSTANT[*RATE][@REAL], such as 2026-11-20T00:59:00Z*60; raises ValueError that says what is wrong."""
    shifted, at, since_text = text.partition("@")
    instant, star, rate_text = shifted.partition("*")
    try:
        start = parse_instant(instant)
        rate = float(rate_text) if star else 1.0
        since = parse_instant(since_text) if at else None
    except ValueError as error:
        raise ValueError(f"{error}: write INSTANT or INSTANT*RATE, such as 2026-11-20T00:59:00Z*60") from None
    if not 0 < rate <= 1_000_000:
        raise ValueError(f"the rate {rate_text!r} is not in (0, 1000000]")
    return Shift(start, rate, since)


class RealClock:
    """The machine's own time."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class ShiftedClock:
    """Business time from `shift.start`, `shift.rate` times as fast; elapsed time (`monotonic`) stays real."""

    def __init__(self, shift: Shift) -> None:
        self._shift = shift
        past = (datetime.now(UTC) - shift.since).total_seconds() if shift.since else 0.0
        self._began = time.monotonic() - past

    def now(self) -> datetime:
        return self._shift.start + timedelta(seconds=(time.monotonic() - self._began) * self._shift.rate)

    def monotonic(self) -> float:
        return time.monotonic()


def clock_for(shift: Shift | None) -> Clock:
    """The clock that the settings ask for."""
    return ShiftedClock(shift) if shift else RealClock()
