"""Survival: how likely a prefix that we sent to a place is still cached there after a pause, learnt from what hosts report.

A host that advertises a cache and rarely hits is found out; one whose cache outlives its advertisement, too. No clock: the
pause is handed in. Deterministic, and of constant size for each place.
"""

from __future__ import annotations

from math import log2, sqrt
from typing import Final

from gateway.contracts import Cache

BUCKETS: Final = 16
# Of each observation, how much of the earlier ones is kept: those of one pause, and those of all pauses.
KEPT, KEPT_ALL = 0.98, 0.97
# The same for each observation of another pause: what is old is believed less, and the place as a whole more.
FADED = 0.993
# Observations that the prior is worth: of a place as a whole, and of one pause beside that.
DOUBT_ALL, DOUBT = 2.0, 3.0
# Tokens from which one observation counts in full.
FULL = 4096
# Answers without any count of cached tokens, although something was known there, after which none is believed in.
SILENT = 4
# The most that is believed.
SURE: Final = 0.999


def bucket(idle: float) -> int:
    """The pause's class: 16, each a little less than the double of the one before."""
    return min(BUCKETS - 1, int(1.2 * log2(1.0 + idle))) if idle > 0 else 0


def prior(cache: Cache, idle: float) -> float:
    """What to think of a place before it has answered: by the time to live that it advertises, else by what is usual."""
    if cache.mode == "none":
        return 0.0
    if cache.ttl is not None:
        return 0.9 if idle <= cache.ttl else 0.05
    return 0.85 if idle <= 1800 else 0.6 if idle <= 6 * 3600 else 0.3


class Survival:
    """One place's record. Figures are shares of a known prefix, between 0 and 1."""

    __slots__ = ("_all", "_cache", "_hits", "_met", "_seen", "_silent", "_spoke", "_when", "beyond", "learnt")

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        # By pause: weight of what was hit and of what was tried, and after how many observations that was last written.
        self._hits = [0.0] * BUCKETS
        self._seen = [0.0] * BUCKETS
        self._when = [0] * BUCKETS
        # Over all pauses: what was hit, and what the prior alone would have foretold.
        self._all = [DOUBT_ALL, DOUBT_ALL]
        self._met = [0.0, 0.0]
        self._silent = 0
        self._spoke = False
        self.learnt = 0
        """How often anything was learnt: a figure worked out at another count is stale."""
        self.beyond = 0.0
        """The share that was hit of what we never sent there: prefixes of others, or answers that the host itself had written."""

    @property
    def mute(self) -> bool:
        """Whether the host does not say what it cached: then it is charged as a miss, so no hit is expected."""
        return self._silent >= (SILENT if self._spoke else 1)

    def _weights(self, idle: float) -> tuple[float, float]:
        """Weight of hits and of all for one pause, the prior included."""
        at = bucket(idle)
        believed = prior(self._cache, idle) * self._all[0] / self._all[1]
        faded = FADED ** (self.learnt - self._when[at]) if self._seen[at] else 0.0
        return self._hits[at] * faded + DOUBT * min(SURE, believed), self._seen[at] * faded + DOUBT

    def mean(self, idle: float) -> float:
        """The expected share that is still cached after a pause of so many seconds."""
        if self._cache.mode == "none" or self.mute:
            return 0.0
        hits, seen = self._weights(idle)
        return hits / seen

    def hope(self, idle: float) -> float:
        """The largest share that the record does not speak against: two deviations above the mean."""
        if self._cache.mode == "none" or self.mute:
            return 0.0
        hits, seen = self._weights(idle)
        mean = hits / seen
        return min(1.0, mean + 2.0 * sqrt(mean * (1.0 - mean) / (seen + 1.0)))

    def learn(self, steps: tuple[tuple[int, float], ...], hit: int) -> None:
        """An answer whose host reported `hit` cached tokens.

        `steps` are the beginnings of its prompt that were known before, (tokens, pause), the longest first.
        """
        self._silent, self._spoke = 0, True
        self.learnt += 1
        for index, (tokens, idle) in enumerate(steps):
            below = steps[index + 1][0] if index + 1 < len(steps) else 0
            if tokens > below:
                self._note(idle, min(1.0, max(0.0, (hit - below) / (tokens - below))), min(1.0, (tokens - below) / FULL))

    def _note(self, idle: float, share: float, weight: float) -> None:
        at = bucket(idle)
        fading = FADED ** (self.learnt - self._when[at]) if self._seen[at] else 0.0
        kept = fading * KEPT**weight
        self._hits[at] = self._hits[at] * kept + weight * share
        self._seen[at] = self._seen[at] * kept + weight
        self._when[at] = self.learnt
        kept = KEPT_ALL**weight
        met, foretold = self._met
        self._met = [met * kept + weight * share, foretold * kept + weight * prior(self._cache, idle)]
        self._all = [self._met[0] + DOUBT_ALL, self._met[1] + DOUBT_ALL]

    def surprise(self, unknown: int, hit: int) -> None:
        """Of `unknown` tokens that we never sent there, `hit` were cached all the same."""
        if unknown > 0:
            weight = 0.05 * min(1.0, unknown / FULL)
            self.beyond += weight * (min(1.0, max(0.0, hit / unknown)) - self.beyond)

    def spoke(self) -> None:
        """An answer to a prompt of which nothing was known, whose host reported what was cached."""
        self._silent, self._spoke = 0, True

    def silence(self) -> None:
        """An answer to a prompt of which much was known, whose host reported everything but what was cached."""
        self._silent += 1
        self.learnt += 1
