"""Replay: one trace against one menu under one way of choosing; the result is a bill. Deterministic for a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from gateway.money import charge
from gateway.simulate.hosts import Seller, Store
from gateway.simulate.trace import Trace, Visit

# Dispatches of one request at most, as a route allows by default.
ATTEMPTS = 3
_STEP = 256


class World:
    """What a way of choosing may ask: the prices of an instant, and, for those that are told the truth, what a host has cached."""

    def __init__(self, sellers: Sequence[Seller]) -> None:
        self.sellers = tuple(sellers)
        self.stores = tuple(Store(seller.rule) for seller in sellers)


class Strategy(Protocol):
    """One way of choosing hosts."""

    name: str

    def order(self, visit: Visit, world: World) -> Sequence[int]:
        """Indexes of hosts, in the order in which they are to be tried."""
        ...

    def served(self, visit: Visit, seller: int, hit: int) -> None:
        """A host answered, and reported so many cached tokens."""
        ...

    def failed(self, visit: Visit, seller: int) -> None:
        """A dispatch failed before the first byte; nothing was billed."""
        ...


@dataclass(slots=True)
class Bill:
    """What a strategy paid for the counted requests: nano of the menu's currency, tokens, and where they went."""

    name: str
    nano: int = 0
    input_nano: int = 0
    prompt: int = 0
    hit: int = 0
    output: int = 0
    requests: int = 0
    unserved: int = 0
    retries: int = 0
    switches: int = 0
    wait: float = 0.0
    served: list[int] = field(default_factory=list)
    sessions: dict[int, int] = field(default_factory=dict)

    @property
    def output_nano(self) -> int:
        return self.nano - self.input_nano


def replay(
    trace: Trace,
    sellers: Sequence[Seller],
    strategy: Strategy,
    *,
    seed: int = 0,
    first: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Bill:
    """The bill of a strategy for the sessions from number `first` on; the others are served too, and teach."""
    world = World(sellers)
    bill = Bill(strategy.name, served=[0] * len(sellers))
    luck, faults = Random(seed), Random(seed + 1)
    latest: dict[int, int] = {}
    for number, visit in enumerate(trace.visits):
        if number % _STEP == 0:
            progress(_STEP)
        counted = visit.session >= first
        for index in strategy.order(visit, world)[:ATTEMPTS]:
            seller = sellers[index]
            if seller.fails and faults.random() < seller.fails:
                strategy.failed(visit, index)
                bill.retries += counted
                continue
            hit = world.stores[index].serve(visit, luck)
            strategy.served(visit, index, hit)
            if counted:
                bill.switches += latest.get(visit.session, index) != index
                latest[visit.session] = index
                _count(bill, seller, index, visit, hit)
            break
        else:
            bill.unserved += counted
    return bill


def _count(bill: Bill, seller: Seller, index: int, visit: Visit, hit: int) -> None:
    parts = charge(seller.tariff.charged(visit.at), hit, visit.prompt - hit, visit.output)
    bill.nano += parts.total
    bill.input_nano += parts.cache_hit + parts.cache_miss
    bill.prompt += visit.prompt
    bill.hit += hit
    bill.output += visit.output
    bill.requests += 1
    bill.wait += seller.first_token
    bill.served[index] += 1
    bill.sessions[visit.session] = bill.sessions.get(visit.session, 0) + parts.total
