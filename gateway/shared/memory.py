"""Limits of one process: exact in it, and its own alone. Nothing is counted for a team without limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.clock import Clock
from gateway.errors import RateLimited
from gateway.shared.port import PLACE_AGAIN, WINDOW, LimitName, State, refusal, unlimited
from gateway.teams import LimitsRow


class Window:
    """What was counted in the last minute, by seconds; a second counts as long as any part of it lies within the last sixty."""

    __slots__ = ("_counts", "_total")

    def __init__(self) -> None:
        # Seconds in the order of time.
        self._counts: dict[int, int] = {}
        self._total = 0

    def total(self, second: int) -> int:
        """What counts now."""
        while self._counts and (first := next(iter(self._counts))) < second - WINDOW:
            self._total -= self._counts.pop(first)
        return self._total

    def add(self, second: int, count: int) -> None:
        self._counts[second] = self._counts.get(second, 0) + count
        self._total += count

    def take(self, second: int, count: int) -> None:
        """Take back what was counted in a second; less where there is no longer so much."""
        less = min(count, self._counts.get(second, 0))
        if less:
            self.add(second, -less)

    def wait(self, now: float, much: int) -> float:
        """Seconds until so much of what is counted has left the window."""
        for second, count in self._counts.items():
            much -= count
            if much <= 0:
                return second + WINDOW + 1 - now
        return WINDOW


@dataclass(slots=True)
class _Team:
    requests: Window = field(default_factory=Window)
    tokens: Window = field(default_factory=Window)
    places: set[str] = field(default_factory=set)


class _Admitted(NamedTuple):
    team: _Team
    second: int
    tokens: bool


class MemoryLimits:
    """Limits that one process counts alone."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._teams: dict[str, _Team] = {}
        self._open: dict[str, _Admitted] = {}

    async def admit(self, rid: str, team: str, rules: LimitsRow, tokens: int) -> None:
        if unlimited(rules):
            return
        self.check(team, rules, tokens)
        self.book(rid, team, rules, tokens)

    def check(self, team: str, rules: LimitsRow, tokens: int) -> None:
        """Raise RateLimited by the limit that keeps the team waiting for longest, where any is reached. Counts nothing."""
        refused = self._refusal(team, rules, tokens)
        if refused is not None:
            raise refused

    def book(self, rid: str, team: str, rules: LimitsRow, tokens: int) -> None:
        """Count a request that somebody else has admitted."""
        counts = self._teams.get(team)
        if counts is None:
            counts = self._teams[team] = _Team()
        second = int(self._clock.monotonic())
        if rules.requests_per_minute is not None:
            counts.requests.total(second)
            counts.requests.add(second, 1)
        if rules.tokens_per_minute is not None:
            counts.tokens.total(second)
            counts.tokens.add(second, tokens)
        if rules.concurrent is not None:
            counts.places.add(rid)
        self._open[rid] = _Admitted(counts, second, rules.tokens_per_minute is not None)

    async def finish(self, rid: str, team: str, rules: LimitsRow, estimated: int, actual: int) -> None:
        self.correct(rid, actual - estimated)

    def correct(self, rid: str, correction: int) -> bool:
        """As finish: more than was estimated counts from now on, less is taken back from where it was counted. False: not open."""
        admitted = self._open.pop(rid, None)
        if admitted is None:
            return False
        admitted.team.places.discard(rid)
        if admitted.tokens and correction > 0:
            admitted.team.tokens.add(int(self._clock.monotonic()), correction)
        elif admitted.tokens and correction < 0:
            admitted.team.tokens.take(admitted.second, -correction)
        return True

    def ready(self) -> bool:
        return True

    def state(self) -> State:
        return "unused"

    def _refusal(self, team: str, rules: LimitsRow, tokens: int) -> RateLimited | None:
        counts = self._teams.get(team) or _Team()
        now = self._clock.monotonic()
        found: list[RateLimited] = []
        rates: tuple[tuple[LimitName, int | None, Window, int], ...] = (
            ("requests_per_minute", rules.requests_per_minute, counts.requests, 1),
            ("tokens_per_minute", rules.tokens_per_minute, counts.tokens, tokens),
        )
        for name, allowed, window, asked in rates:
            if allowed is not None and (used := window.total(int(now))) + asked > allowed:
                found.append(refusal(team, name, allowed, used, asked, window.wait(now, used + asked - allowed)))
        if rules.concurrent is not None and len(counts.places) >= rules.concurrent:
            found.append(refusal(team, "concurrent", rules.concurrent, len(counts.places), 1, PLACE_AGAIN))
        return max(found, key=lambda error: (not error.retry, error.retry_after or 0), default=None)
