"""Survival: how likely a prefix that we sent to a place is still cached there after a pause, learnt from what hosts report.

Two worlds are weighed against each other. In the sound one the cache keeps everything up to some pause; one where nothing was ever
missed is soon believed wholly. In the other it hits as often as its record says, pause by pause. A host that advertises a cache and rarely
hits is found out; one whose cache outlives its advertisement, too. No clock: the pause is handed in. Deterministic, and of constant
size for each place.
"""

from __future__ import annotations

from math import exp, lgamma, log, log2, sqrt
from typing import Final

from gateway.contracts import Cache

BUCKETS: Final = 16
# Of the earlier observations, how much each one keeps: of the same pause, of others, and of all pauses together.
KEPT, FADED, KEPT_ALL = 0.98, 0.993, 0.97
# Observations that a guess is worth: the prior of a place as a whole; at one pause, what is known of the pause before it.
DOUBT_ALL, DOUBT = 2.0, 3.0
# Tokens from which one observation counts in full.
FULL = 4096
# Answers without any count of cached tokens, although something was known there, after which none is believed in.
SILENT = 4
# The most that is believed: what a sound cache keeps.
SURE: Final = 0.999
# How many times likelier than not a cache is sound, as far as it advertises.
SOUND: Final = 6.0
_HIT, _MISS, _LOG_2 = log(SURE), log(1.0 - SURE), log(2.0)
# Seconds at which each class of pauses begins, about.
_IDLES: Final = tuple(2.0 ** (at / 1.2) - 1.0 for at in range(BUCKETS))
# What is worked out holds for so many answers, or until they were together so many prefixes off.
_STALE, _OFF = 64, 0.1
_GROWN: Final = 1e6
# The share of a prefix from which it was not missed as a whole: hosts cut it into blocks, and count them otherwise than we do.
WHOLE: Final = 0.5


def bucket(idle: float) -> int:
    """The pause's class: 16, each a little less than the double of the one before."""
    return min(BUCKETS - 1, int(1.2 * log2(1.0 + idle))) if idle > 0 else 0


def prior(cache: Cache, idle: float) -> float:
    """What to think of a place that is not sound before it has answered: by the time to live that it advertises, else by what is usual."""
    if cache.mode == "none":
        return 0.0
    if cache.ttl is not None:
        return 0.9 if idle <= cache.ttl else 0.05
    return 0.85 if idle <= 1800 else 0.6 if idle <= 6 * 3600 else 0.3


def odds(cache: Cache, idle: float) -> float:
    """How many times likelier than not a cache keeps everything for so long, before it has answered."""
    if cache.ttl is not None:
        return SOUND if idle <= cache.ttl else 1 / 100
    return SOUND if idle <= 1800 else 1.0 if idle <= 6 * 3600 else 1 / 4


class Survival:
    """One place's record. Figures are shares of a known prefix, between 0 and 1."""

    __slots__ = (
        "_all", "_answers", "_cache", "_fit", "_found", "_grown", "_hits", "_lost", "_means", "_met", "_misses", "_odds", "_off", "_priors",
        "_silent", "_since", "_spoke", "_trusts", "beyond", "version",
    )  # fmt: skip

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._odds = [log(odds(cache, idle)) for idle in _IDLES]
        self._priors = [prior(cache, idle) for idle in _IDLES]
        # By pause: the weights of what was hit and missed, times what all weights have lost since the first.
        self._hits = [0.0] * BUCKETS
        self._misses = [0.0] * BUCKETS
        # Of the misses those of a whole prefix: where a prefix ends, a host counts otherwise than we do.
        self._lost = [0.0] * BUCKETS
        self._grown = 1.0
        # Of prefixes that were not missed: tokens that hit, and all of them; and the share that a sound cache therefore keeps.
        self._found = (float(FULL), float(FULL))
        self._fit = SURE
        # Over all pauses: what was hit, and what the prior alone would have foretold.
        self._all = [DOUBT_ALL, DOUBT_ALL]
        self._met = [0.0, 0.0]
        self._silent = 0
        self._spoke = False
        self.version = 0
        """A figure worked out at another version is stale."""
        self.beyond = 0.0
        """The share that was hit of what we never sent there: prefixes of others, or answers that the host itself had written."""
        self._answers = 0
        self._since = 0
        self._off = 0.0
        self._means: list[float] = []
        self._trusts: list[float] = []
        self._work_out()

    @property
    def mute(self) -> bool:
        """Whether the host does not say what it cached: then it is charged as a miss, so no hit is expected."""
        return self._silent >= (SILENT if self._spoke else 1)

    def _work_out(self) -> None:
        """The figures that follow from the record, for each class of pauses."""
        self.version += 1
        self._since, self._off = 0, 0.0
        grown = self._grown
        guess = before = 1.0
        if self._cache.mode == "none":
            return
        confirmed = sum(self._hits) / grown
        against, trust = 0.0, 1.0
        self._means, self._trusts = [], []
        for at in range(BUCKETS):
            # What was found after a longer pause would have been found after this one; what was missed after a shorter one, not.
            hits, misses = self._hits[at] / grown, self._misses[at] / grown
            against += self._lost[at] / grown
            likelier = self._odds[at] + confirmed * _HIT + against * _MISS
            likelier -= lgamma(2.0 + confirmed) + lgamma(1.0 + against) - lgamma(3.0 + confirmed + against) + _LOG_2
            confirmed = max(0.0, confirmed - hits)
            trust = min(trust, 1.0 / (1.0 + exp(min(50.0, -likelier))))
            # Where little is known of a pause, it is as the one before it, less what the prior makes of the difference.
            likely = self._priors[at]
            guess = guess * likely / before if at else min(SURE, likely * self._all[0] / self._all[1])
            guess = (hits + DOUBT * guess) / (hits + misses + DOUBT)
            before = likely
            self._means.append(guess)
            self._trusts.append(trust)

    def mean(self, idle: float) -> float:
        """The expected share that is still cached after a pause of so many seconds."""
        if self._cache.mode == "none" or self.mute:
            return 0.0
        at = bucket(idle)
        return self._trusts[at] * self._fit + (1.0 - self._trusts[at]) * self._means[at]

    def hope(self, idle: float) -> float:
        """The largest share that the record does not speak against: two deviations above the mean."""
        if self._cache.mode == "none" or self.mute:
            return 0.0
        mean, at = self.mean(idle), bucket(idle)
        seen = (self._hits[at] + self._misses[at]) / self._grown + DOUBT
        return min(1.0, mean + 2.0 * sqrt(mean * (1.0 - mean) / (seen + 1.0)))

    def worlds(self, idle: float) -> tuple[float, float, float]:
        """(how far the cache is trusted to be sound at all, the share that is kept for so long if it is, the share if not).

        Sound at all: for no time. So what is known to be lost after a pause is lost in both worlds.
        """
        if self._cache.mode == "none" or self.mute:
            return 0.0, 0.0, 0.0
        at = bucket(idle)
        trust, doubted = self._trusts[0], self._means[at]
        held = self._trusts[at] / trust if trust > 0.0 else 0.0
        return trust, held * self._fit + (1.0 - held) * doubted, doubted

    def learn(self, steps: tuple[tuple[int, float], ...], hit: int) -> None:
        """An answer whose host reported `hit` cached tokens.

        `steps` are the beginnings of its prompt that were known before, (tokens, pause), the longest first.
        """
        self._silent, self._spoke = 0, True
        for index, (tokens, idle) in enumerate(steps):
            below = steps[index + 1][0] if index + 1 < len(steps) else 0
            if tokens > below:
                self._note(idle, tokens - below, min(1.0, max(0.0, (hit - below) / (tokens - below))))
        self._grown /= FADED
        if self._grown > _GROWN:
            self._hits = [weight / self._grown for weight in self._hits]
            self._misses = [weight / self._grown for weight in self._misses]
            self._lost = [weight / self._grown for weight in self._lost]
            self._grown = 1.0
        self._answers += 1
        self._since += 1
        if self._off > _OFF or self._since > min(_STALE, self._answers // 8):
            self._work_out()

    def _note(self, idle: float, tokens: int, share: float) -> None:
        at, weight = bucket(idle), min(1.0, tokens / FULL)
        if self._means:
            trust = self._trusts[at]
            self._off += weight * abs(share - trust * self._fit - (1.0 - trust) * self._means[at])
        kept, grown = KEPT**weight / FADED**weight, weight * self._grown
        self._hits[at] = self._hits[at] * kept + grown * share
        self._misses[at] = self._misses[at] * kept + grown * (1.0 - share)
        self._lost[at] = self._lost[at] * kept + (grown if share < WHOLE else 0.0)
        kept = KEPT_ALL**weight
        if share >= WHOLE:
            hit, known = self._found
            self._found = hit, known = hit * kept + tokens * share, known * kept + tokens
            self._fit = SURE * hit / known
        met, foretold = self._met
        self._met = [met * kept + weight * share, foretold * kept + weight * self._priors[at]]
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
        self.version += 1
