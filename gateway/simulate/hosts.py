"""Hosts as a simulation plays them: a price at each instant, and a prefix cache with its own rules, luck and life.

A host's truth (`Rule`) stays hidden from whoever chooses: it sees prices, what a host says of its cache, and returned hit counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp
from random import Random
from typing import Literal, NamedTuple

from gateway.hosts import Deployment
from gateway.simulate.tariffs import Tariff
from gateway.simulate.trace import Visit

# A stream of this family, where a menu does not say: seconds to the first token, tokens a second.
FIRST_TOKEN = 1.0
PACE = 30.0


class Rule(NamedTuple):
    """How a cache really behaves: granularity `tokens`, prefixes below `least` never, seconds of life since the last use (None: for ever).

    A known prefix is a hit with the probability hit * exp(-idle / life), once it is `lag` seconds old; else nothing of it is.
    `every`: whole-unit caches keep a unit at each so many tokens too (0: none).
    """

    mode: Literal["blocks", "units", "none"] = "blocks"
    tokens: int = 1
    ttl: float | None = None
    least: int = 0
    hit: float = 1.0
    life: float | None = None
    lag: float = 0.0
    every: int = 0

    def chance(self, idle: float) -> float:
        """The probability that a known prefix is a hit after so many idle seconds."""
        if idle < self.lag or (self.ttl is not None and idle > self.ttl):
            return 0.0
        return self.hit if self.life is None else self.hit * exp(-idle / self.life)


@dataclass(frozen=True, slots=True)
class Seller:
    """One host of a simulation; its deployment is what it says of itself, `rule` what is true of its cache.

    `fails`: the share of dispatches that fail. `first_token` in seconds, `pace` in tokens a second.
    """

    name: str
    deployment: Deployment
    tariff: Tariff
    rule: Rule
    fails: float = 0.0
    first_token: float = FIRST_TOKEN
    pace: float = PACE


@dataclass(slots=True)
class Store:
    """One host's prefix cache in one run. Only prompts are kept; every use refreshes all of a prompt."""

    rule: Rule
    _touched: dict[int, float] = field(default_factory=dict)
    _units: set[int] = field(default_factory=set)

    def known(self, visit: Visit) -> tuple[int, float]:
        """(tokens of the prompt that are there, seconds since they were last used)."""
        return self._whole(visit, self._depth(visit))

    def serve(self, visit: Visit, luck: Random) -> int:
        """The cached tokens that the host reports for this prompt, which it then has; luck is drawn only for a known prefix."""
        rule = self.rule
        if rule.mode == "none":
            return 0
        depth = self._depth(visit)
        tokens, idle = self._whole(visit, depth)
        hit = tokens if tokens and self._lucky(idle, luck) else 0
        if rule.mode == "units":
            self._units.add(visit.path[visit.whole - 1])
            if depth:
                self._units.add(visit.path[depth - 1])
        self._touched.update(dict.fromkeys(visit.path, visit.at))
        return hit

    def _lucky(self, idle: float, luck: Random) -> bool:
        rule = self.rule
        if luck.random() >= rule.hit or idle < rule.lag:
            return False
        return rule.life is None or luck.random() < exp(-idle / rule.life)

    def _depth(self, visit: Visit) -> int:
        """Pieces of the prompt that are there: those further on were used no later than those before them."""
        ttl, touched, at = self.rule.ttl, self._touched, visit.at
        depth = 0
        for piece in visit.path:
            last = touched.get(piece)
            if last is None or (ttl is not None and at - last > ttl):
                break
            depth += 1
        return depth

    def _whole(self, visit: Visit, depth: int) -> tuple[int, float]:
        rule = self.rule
        if not depth or rule.mode == "none":
            return 0, 0.0
        idle = visit.at - self._touched[visit.path[depth - 1]]
        tokens = visit.ends[depth - 1]
        if rule.mode == "units":
            unit = next((visit.ends[index] for index in range(depth - 1, -1, -1) if visit.path[index] in self._units), 0)
            # A unit ends with a whole number of tokens, however long the prompt was.
            tokens = max(unit // rule.tokens * rule.tokens, tokens // rule.every * rule.every if rule.every else 0)
        else:
            tokens = tokens // rule.tokens * rule.tokens
        return (tokens, idle) if tokens and tokens >= rule.least else (0, 0.0)
