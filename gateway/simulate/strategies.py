"""Ways of choosing to compare the router with: one host, by list price, by this request, at random, and two that know the truth.

They are given more than they would have in life: the mean length of an answer, and what each host really has cached.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from random import Random
from statistics import median
from typing import NamedTuple

from gateway.money import cost
from gateway.simulate.hosts import Seller
from gateway.simulate.replay import ATTEMPTS, Bill, World
from gateway.simulate.trace import Trace, Visit

# Turns beyond which further ones are foreseen alike.
_DEEP = 20


class Known(NamedTuple):
    """What a trace, or its learning half, says of conversations: mean answer, mean turns to come by turn, median growth, idle gaps."""

    output: float
    further: tuple[float, ...]
    growth: float
    gaps: tuple[float, ...]

    def turns(self, turn: int) -> float:
        """Further turns that follow this one, on average."""
        return self.further[min(turn, len(self.further)) - 1] if self.further else 0.0

    def within(self, seconds: float | None) -> float:
        """The share of gaps that are at most so long."""
        if seconds is None or not self.gaps:
            return 1.0
        return bisect_right(self.gaps, seconds) / len(self.gaps)


def known(trace: Trace, before: int) -> Known:
    """What the sessions of a number below `before` teach."""
    sessions: dict[int, list[Visit]] = {}
    for visit in trace.visits:
        if visit.session < before:
            sessions.setdefault(visit.session, []).append(visit)
    left: list[list[int]] = [[] for _ in range(_DEEP)]
    growth, gaps, outputs = [], [], []
    for visits in sessions.values():
        for index, visit in enumerate(visits):
            left[min(index, _DEEP - 1)].append(len(visits) - index - 1)
            outputs.append(visit.output)
            if index:
                growth.append(max(0, visit.prompt - visits[index - 1].prompt))
                gaps.append(visit.at - visits[index - 1].at)
    further = tuple(sum(found) / len(found) for found in left if found)
    mean = sum(outputs) / len(outputs) if outputs else 0.0
    return Known(mean, further, median(growth) if growth else 0.0, tuple(sorted(gaps)))


class Base:
    """A way of choosing that learns nothing from answers."""

    name = ""

    def served(self, visit: Visit, seller: int, hit: int) -> None:
        pass

    def failed(self, visit: Visit, seller: int) -> None:
        pass


class Single(Base):
    """Always the same host."""

    def __init__(self, index: int, name: str) -> None:
        self.name = f"only {name}"
        self._order = (index,) * ATTEMPTS

    def order(self, visit: Visit, world: World) -> Sequence[int]:
        return self._order


class ListPrice(Base):
    """The lowest price of the list for this prompt and a mean answer, as if nothing were ever cached."""

    name = "list price"

    def __init__(self, output: float) -> None:
        self._output = round(output)

    def order(self, visit: Visit, world: World) -> Sequence[int]:
        return _ranked([cost(seller.tariff.charged(visit.at), 0, visit.prompt, self._output) for seller in world.sellers])


class Myopic(Base):
    """The lowest price of this request with what each host has cached, as if no other followed."""

    name = "myopic"

    def __init__(self, output: float) -> None:
        self._output = round(output)

    def order(self, visit: Visit, world: World) -> Sequence[int]:
        prices = []
        for seller, store in zip(world.sellers, world.stores, strict=True):
            hit, _ = store.known(visit)
            prices.append(cost(seller.tariff.charged(visit.at), hit, visit.prompt - hit, self._output))
        return _ranked(prices)


class Sticky(Myopic):
    """The myopic choice at the first request of a conversation, and the same host for the rest of it."""

    name = "sticky"

    def __init__(self, output: float) -> None:
        super().__init__(output)
        self._home: dict[int, Sequence[int]] = {}

    def order(self, visit: Visit, world: World) -> Sequence[int]:
        home = self._home.get(visit.session)
        if home is None:
            home = self._home[visit.session] = super().order(visit, world)
        return home


class Shuffled(Base):
    """Any host, evenly: drawn session after session, request after request, so that the draws do not depend on other sessions."""

    name = "random"

    def __init__(self, trace: Trace, hosts: int, first: int, seed: int) -> None:
        draw = Random(seed)
        places = range(hosts)
        mine = sorted((visit for visit in trace.visits), key=lambda visit: (visit.session < first, visit.session, visit.turn))
        self._drawn = {(visit.session, visit.turn): draw.choice(places) for visit in mine}

    def order(self, visit: Visit, world: World) -> Sequence[int]:
        chosen = self._drawn[visit.session, visit.turn]
        return (chosen, *(index for index in range(len(world.sellers)) if index != chosen))


class Oracle(Base):
    """Look-ahead by the textbook formula, told every host's true cache and the trace's mean conversation."""

    name = "oracle"

    def __init__(self, learnt: Known, name: str = "oracle") -> None:
        self._known = learnt
        self.name = name
        self._chances: dict[int, float] = {}

    def order(self, visit: Visit, world: World) -> Sequence[int]:
        scores = []
        for index, (seller, store) in enumerate(zip(world.sellers, world.stores, strict=True)):
            found, idle = store.known(visit)
            hit = int(found * seller.rule.chance(idle))
            now = cost(seller.tariff.charged(visit.at), hit, visit.prompt - hit, round(self._known.output))
            scores.append(now + self._later(index, seller, visit))
        return _ranked(scores)

    def _later(self, index: int, seller: Seller, visit: Visit) -> int:
        turns = self._known.turns(visit.turn)
        growth, answers = self._known.growth, self._known.output
        chance = self._chances.get(index)
        if chance is None:
            chance = self._chances[index] = self._chance(seller)
        kept = turns * (visit.prompt + growth * max(0.0, turns - 1) / 2)
        hit = int(chance * kept)
        return cost(seller.tariff.charged(visit.at), hit, round(kept + turns * growth) - hit, round(turns * answers))

    def _chance(self, seller: Seller) -> float:
        """The mean chance of a hit over the gaps of conversations."""
        gaps = self._known.gaps
        if seller.rule.mode == "none":
            return 0.0
        if seller.rule.life is None and not seller.rule.lag:
            return seller.rule.hit * self._known.within(seller.rule.ttl)
        return sum(map(seller.rule.chance, gaps)) / len(gaps) if gaps else seller.rule.hit


class Hindsight(Base):
    """For each conversation the one host that would have been cheapest for the whole of it: known only afterwards."""

    name = "hindsight"

    def __init__(self, singles: Sequence[Bill]) -> None:
        self._singles = singles
        self._all = tuple(range(len(singles)))

    def order(self, visit: Visit, world: World) -> Sequence[int]:
        best = min(self._all, key=lambda index: self._singles[index].sessions.get(visit.session, 0))
        return (best,) * ATTEMPTS


def _ranked(scores: Sequence[int]) -> Sequence[int]:
    """Indexes from the lowest score on; the first of equals first."""
    return sorted(range(len(scores)), key=scores.__getitem__)
