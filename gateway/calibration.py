"""Calibration: what was foretold against what came, per deployment and day; and the alarm when a host's hit rate falls. Pure.

The alarm compares what a host makes of prefixes that it must know with what it made of such prefixes before, after pauses of the
same length: longer pauses or shorter prompts are no fault of the host, and raise none.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Final, NamedTuple

from gateway.clock import instant_text
from gateway.outcome import LedgerRow, Option

# Answers that are recent, and those before them that make the level from which a fall is measured.
RECENT: Final = 32
EARLIER: Final = 512
# Recent answers and earlier ones (at one length of pause) from which there is a verdict.
ENOUGH_RECENT: Final = 12
ENOUGH_EARLIER: Final = 24
# A fall: below the earlier level by this part of it, and by so many standard deviations.
PART: Final = 0.3
SURELY: Final = 4.0
# Prompt tokens that count as a whole answer; a short prefix says less.
WHOLE: Final = 4096
# Seconds that an alarm lasts at most: by then the new level is the host's level.
LASTS: Final = 86_400.0
# Pauses in seconds: what a host hit after a minute says nothing of an hour.
PAUSES: Final = (60.0, 600.0, 3600.0)
# Deployments; those of policies are far fewer.
MOST: Final = 1024


class Fall(NamedTuple):
    """A deployment's hit rate on known prefixes: what it was, what it is, and since when it is that low."""

    name: str
    before: float
    now: float
    since: float


class _Level:
    """A mean of shares between 0 and 1 over the latest `span` answers, by their weight."""

    __slots__ = ("count", "mean", "span", "square", "weight")

    def __init__(self, span: int) -> None:
        self.span = span
        self.mean = self.square = self.weight = self.count = 0.0

    def add(self, share: float, weight: float) -> None:
        self.weight = self.weight * (1 - weight / self.span) + weight
        self.count += weight
        self.mean += (share - self.mean) * weight / self.weight
        self.square += (share * share - self.square) * weight / self.weight

    def lower(self, other: _Level) -> None:
        """At most what the other one is."""
        if other.mean < self.mean:
            self.mean, self.square = other.mean, other.square

    @property
    def variance(self) -> float:
        return max(0.0, self.square - self.mean * self.mean)


class _Host:
    """What one deployment hit, after pauses of each length, and of late compared with that."""

    __slots__ = ("earlier", "expected", "found", "since", "variance")

    def __init__(self) -> None:
        self.earlier = [_Level(EARLIER) for _ in range(len(PAUSES) + 1)]
        self.start()

    def start(self) -> None:
        self.found, self.expected, self.variance = _Level(RECENT), _Level(RECENT), _Level(RECENT)
        self.since: float | None = None

    def learn(self, share: float, weight: float, idle: float, at: float) -> None:
        if self.since is not None and at - self.since >= LASTS:
            for level in self.earlier:
                level.lower(self.found)
            self.start()
        earlier = self.earlier[sum(idle > pause for pause in PAUSES)]
        if earlier.count >= ENOUGH_EARLIER:
            self.found.add(share, weight)
            self.expected.add(earlier.mean, weight)
            self.variance.add(earlier.variance, weight)
        if self.since is None:
            # The level of before is not dragged down by what is compared with it.
            earlier.add(share, weight)
        self._judge(at)

    def fall(self, name: str, at: float) -> Fall | None:
        since = self.since
        return None if since is None or at - since >= LASTS else Fall(name, self.expected.mean, self.found.mean, since)

    def _judge(self, at: float) -> None:
        if self.found.count < ENOUGH_RECENT:
            return
        expected = self.expected.mean
        # A mean that forgets with each answer varies as one of twice as many answers.
        margin = max(PART * expected, SURELY * sqrt(self.variance.mean / min(self.found.count, 2 * RECENT)))
        if self.since is None:
            if self.found.mean < expected - margin:
                self.since = at
        elif self.found.mean >= expected - margin / 2:
            self.since = None


class HitWatch:
    """Every deployment that reports its hits, by HOST/MODEL. `at` is seconds since 1970."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}

    def learn(self, name: str, known: int, hit: int, idle: float, at: float) -> Fall | None:
        """One answer whose host had seen the first `known` tokens of the prompt `idle` seconds ago and reports `hit` cached ones.

        The fall that this answer makes certain, once; None otherwise.
        """
        if known <= 0:
            return None
        host = self._hosts.get(name)
        if host is None:
            if len(self._hosts) >= MOST:
                return None
            host = self._hosts[name] = _Host()
        fallen = host.since is not None
        host.learn(min(1.0, hit / known), min(1.0, known / WHOLE), idle, at)
        return None if fallen else host.fall(name, at)

    def falls(self, at: float) -> dict[str, Fall | None]:
        """Every deployment that is watched, with its alarm where there is one."""
        return {name: host.fall(name, at) for name, host in list(self._hosts.items())}


def foretold(row: LedgerRow) -> Option | None:
    """What the plan foretold of the deployment that served; None where it foretold nothing.

    What several attempts used is in one sum, of which no single forecast spoke.
    """
    if row.plan is None or (len(row.attempts) > 1 and sum(each.billed != "none" for each in row.attempts) > 1):
        return None
    name = f"{row.host}/{row.model}"
    for option in row.plan.options:
        if option.name == name:
            return option
    return None


class Day(NamedTuple):
    """One deployment on one day (UTC, by the end of the request), in one currency: sums over the requests that were charged.

    The hits are of those whose host reports them and of which a plan foretold some number; money is in nano-units.
    """

    day: str
    host: str
    model: str
    currency: str
    requests: int = 0
    compared: int = 0
    prompt: int = 0
    predicted_hit: int = 0
    hit: int = 0
    predicted_nano: int = 0
    nano: int = 0


def by_day(rows: Iterable[LedgerRow], days: dict[tuple[str, str, str, str], Day]) -> None:
    """Add rows of the ledger to the days. Of several attempts only the last one, of which the forecast spoke."""
    for row in rows:
        if row.usage is None or (len(row.attempts) > 1 and row.attempts[-1].billed == "none"):
            continue
        nano = row.nano - sum([attempt.nano for attempt in row.attempts[:-1]])
        key = (instant_text(row.ended)[:10], row.host, row.model, row.currency)
        day = days.get(key) or Day(*key)
        day = day._replace(requests=day.requests + 1, predicted_nano=day.predicted_nano + row.expected_nano, nano=day.nano + nano)
        option = foretold(row)
        if option is not None and row.usage.sources.cache_hit == "reported":
            day = day._replace(
                compared=day.compared + 1,
                prompt=day.prompt + row.usage.prompt,
                predicted_hit=day.predicted_hit + option.hit,
                hit=day.hit + row.usage.cache_hit,
            )
        days[key] = day
