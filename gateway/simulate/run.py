"""Run: every way of choosing over one trace and one menu."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TextIO

from gateway.clock import instant_text
from gateway.simulate.lookahead import LookAhead
from gateway.simulate.menus import Menu
from gateway.simulate.replay import Bill, Strategy, replay
from gateway.simulate.report import Report
from gateway.simulate.strategies import Hindsight, ListPrice, Myopic, Oracle, Shuffled, Single, Sticky, known
from gateway.simulate.trace import Trace

# Ways of choosing beside each host alone.
OTHERS = 7
_WIDTH = 30


@dataclass(frozen=True, slots=True)
class Options:
    """`begin`: the instant of the trace's first second; `half`: count the later half of the sessions, the earlier one only teaches."""

    begin: datetime
    seed: int = 0
    half: bool = False
    mode: str = "cheapest"


def simulate(trace: Trace, menu: Menu, options: Options, progress: Callable[[int], None] = lambda done: None, longer: str = "") -> Report:
    """The bills of all strategies. The same arguments give the same report, to the nano."""
    first = trace.sessions // 2 if options.half else 0
    learnt = known(trace, first or trace.sessions)
    sellers = menu.sellers

    def billed(strategy: Strategy) -> Bill:
        return replay(trace, sellers, strategy, seed=options.seed, first=first, progress=progress)

    singles = [billed(Single(index, seller.name)) for index, seller in enumerate(sellers)]
    others: list[Strategy] = [
        ListPrice(learnt.output),
        Myopic(learnt.output),
        Sticky(learnt.output),
        Shuffled(trace, len(sellers), first, options.seed),
        LookAhead(sellers, options.begin, options.mode, round(learnt.output)),
        Oracle(learnt),
        Hindsight(singles),
    ]
    bills = (*singles, *map(billed, others))
    counted = [visit.at for visit in trace.visits if visit.session >= first]
    seconds = counted[-1] - counted[0] if counted else 0.0
    hosts = tuple(seller.name for seller in sellers)
    begins = instant_text(options.begin) if menu.dated else ""
    return Report(trace.name, menu.name, menu.currency, hosts, trace.sessions - first, seconds, bills, begins, longer)


class Progress:
    """A bar of what is done of the whole, on a terminal; elsewhere nothing is written."""

    def __init__(self, whole: int, out: TextIO | None = None) -> None:
        self._whole, self._out = max(1, whole), out or sys.stderr
        self._done, self._shown = 0, -1
        self._on = self._out.isatty()

    def __call__(self, done: int) -> None:
        self._done = min(self._whole, self._done + done)
        percent = 100 * self._done // self._whole
        if self._on and percent != self._shown:
            self._shown = percent
            filled = _WIDTH * percent // 100
            self._out.write(f"\r{'#' * filled}{'.' * (_WIDTH - filled)} {percent:3d} %")
            self._out.flush()

    def end(self) -> None:
        """Wipe the bar away."""
        if self._on:
            self._out.write("\r" + " " * (_WIDTH + 6) + "\r")
            self._out.flush()
