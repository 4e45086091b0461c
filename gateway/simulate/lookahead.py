"""Look-ahead: the router in production, in a simulation. It is told what it would be told: prices, what it sent, what came back, and when.

Nothing is decided here: `Foresight` foretells, `Health` bars, `rank` chooses, as for a request over the wire.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from heapq import heappop, heappush
from typing import NamedTuple

from gateway.forecast import Outlook
from gateway.foresight import TYPICAL_OUTPUT, Ask, Foresight, Prospect
from gateway.gate import Trouble
from gateway.health import Health, Ticket
from gateway.prefix import Prints
from gateway.ranking import Rated, rank
from gateway.simulate.hosts import Seller
from gateway.simulate.replay import World
from gateway.simulate.trace import Visit
from gateway.usage import Usage

LOOK_AHEAD = "look-ahead"
_TEAM, _KEY = "trace", "trace"
_MIX, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1


class _Asked(NamedTuple):
    """One request while it is being placed: its prints, for caches of blocks and of units, and what was foretold of it, by host."""

    ask: Ask
    prints: tuple[Prints, Prints]
    prospects: dict[int, Prospect]


class _Answer(NamedTuple):
    """One answer on its way, and what it will teach when it ends."""

    ends: float
    number: int
    asked: _Asked
    seller: int
    usage: Usage
    ticket: Ticket | None


class LookAhead:
    """Routes a trace as the gateway would. `begin`: the instant of the trace's begin; `mode` as a route's `choose`.

    `typical`: output tokens of an answer before any has come back, as a contract states them of its version (None: what the contracts
    of these hosts state; the trace may have been another's). An answer teaches when it has ended, not when it is sent.
    """

    name = LOOK_AHEAD

    def __init__(self, sellers: Sequence[Seller], begin: datetime, mode: str = "cheapest", typical: int | None = None) -> None:
        self._sellers = tuple(sellers)
        self._begin = begin.timestamp()
        self._mode = mode
        self._foresight = Foresight(b"simulation")
        self._health = Health()
        self._places = tuple(self._foresight.place(seller.deployment, _TEAM, False) for seller in sellers)
        self._units = tuple(place.cache.mode == "units" for place in self._places)
        self._typical = tuple(typical or seller.deployment.contract.baseline_output or TYPICAL_OUTPUT for seller in sellers)
        self._open: list[_Answer] = []
        self._answers = 0
        self._asked: _Asked | None = None

    def order(self, visit: Visit, world: World) -> Sequence[int]:
        at = self._begin + visit.at
        self._hear(at)
        ask = Ask(_TEAM, _KEY, (visit.session + 1) * _MIX & _MASK, visit.turn, at)
        prints = _prints(visit)
        prospects = {
            index: self._foresight.prospect(ask, self._places[index], prints[self._units[index]], visit.prompt, 1, self._typical[index])
            for index, seller in enumerate(self._sellers)
            if self._health.barred(seller.deployment, at) is None
        }
        self._asked = _Asked(ask, prints, prospects)
        outlook = self._foresight.outlook(ask, visit.prompt)
        warm = self._foresight.warm(ask)
        rated = [self._rated(index, prospect, outlook, warm, visit.at) for index, prospect in prospects.items()]
        indexes = tuple(prospects)
        return [indexes[one.number] for one in rank(rated, outlook, self._mode, ask.conversation, visit.turn == 1)] if rated else ()

    def _rated(self, index: int, prospect: Prospect, outlook: Outlook, warm: str, at: float) -> Rated:
        seller, place = self._sellers[index], self._places[index]
        later, edge = seller.tariff.ahead(at, outlook)
        name = seller.deployment.name
        return Rated(
            name=name,
            prospect=prospect,
            rates=seller.tariff.compared(at),
            keep=self._foresight.keep(place, outlook),
            later_rates=later,
            edge=edge,
            failing=self._health.failing(name),
            first_token=self._health.first_token(name),
            pace=self._health.pace(name),
            warm=place.name == warm,
        )

    def served(self, visit: Visit, seller: int, hit: int) -> None:
        asked, host = self._placed(), self._sellers[seller]
        self._foresight.sent(asked.ask, self._places[seller], asked.prints[self._units[seller]], asked.prospects[seller])
        ticket = self._health.begun(host.deployment, asked.ask.at, visit.prompt)
        self._answers += 1
        ends = asked.ask.at + host.first_token + visit.output / host.pace
        heappush(self._open, _Answer(ends, self._answers, asked, seller, Usage(hit, visit.prompt - hit, visit.output), ticket))

    def failed(self, visit: Visit, seller: int) -> None:
        at = self._placed().ask.at
        ticket = self._health.begun(self._sellers[seller].deployment, at, visit.prompt)
        if ticket is not None:
            self._health.ended(ticket, at, Trouble("failed"))

    def _placed(self) -> _Asked:
        assert self._asked is not None, "a request is placed before it is sent"
        return self._asked

    def _hear(self, at: float) -> None:
        """What has ended by now teaches."""
        while self._open and self._open[0].ends <= at:
            answer = heappop(self._open)
            asked, index = answer.asked, answer.seller
            prints = asked.prints[self._units[index]]
            self._foresight.learn(asked.ask, self._places[index], prints, asked.prospects[index], answer.usage)
            if answer.ticket is not None:
                host = self._sellers[index]
                self._health.ended(answer.ticket, answer.ends, first_token=host.first_token, pace=host.pace)


def _prints(visit: Visit) -> tuple[Prints, Prints]:
    """The prompt as caches of blocks know it, and as caches of whole units do.

    Over the wire a prompt ends where its last message does, which the next prompt repeats. A trace has blocks, of which the last is not
    full: the last full one stands for the end.
    """
    blocks = Prints(visit.ends, visit.path)
    whole = visit.whole
    if whole == len(visit.path):
        return blocks, blocks
    return blocks, Prints((*visit.ends[: whole - 1], visit.prompt), visit.path[:whole])
