"""Comparing: a host's bill and our charges side by side, by day, model, class of token and price. Pure.

A Cell is one (day, model, class). In it stand piles by price: tokens that cost the same, theirs and ours. Where a host states amounts and
no prices, there is one pile at the price None, and its quantity is the amount itself in nano.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple

from gateway.money import MILLION, Rates
from gateway.outcome import Correction
from gateway.reconcile.bills import CLASSES, Bill, BillKey, Class, Rate, Span, filled
from gateway.reconcile.charges import Charge, Sort, Tariff, Who

Side = Literal["start", "end", ""]
# The three classes that have a price each.
_PRICED: Final = CLASSES[:3]


def worth(quantity: int, rate: Rate) -> int:
    """What a quantity costs at a price, in nano (rounded down)."""
    return quantity if rate is None else quantity * rate // MILLION


@dataclass
class Pile:
    """What costs the same: tokens (or nano, at the price None), and the amount. `who`: of ours, whose they are, by quantity."""

    quantity: int = 0
    nano: int = 0
    tokens: int = 0
    lines: int = 0
    who: dict[Who, int] = field(default_factory=dict)


class Mark(NamedTuple):
    """A charge of ours that may be billed otherwise: so many at this price, of whom; `others` are the prices it may have had
    instead, `side` is the edge of the day that it is near, `nano` and `worst` are what it was and could have been charged."""

    sort: Sort
    rate: Rate
    quantity: int
    who: Who
    others: tuple[int, ...]
    side: Side
    nano: int
    worst: int


@dataclass
class Cell:
    """One class of one model in one day. `corrected` is what earlier corrections added to ours, `extra` what a host billed beside
    its tokens, `step` how fine its figure for that is."""

    span: Span
    model: str
    cls: Class
    theirs: dict[Rate, Pile] = field(default_factory=dict)
    ours: dict[Rate, Pile] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    known: frozenset[int] = frozenset()
    cards: dict[Rate, str] = field(default_factory=dict)
    corrected: int = 0
    extra: int = 0
    step: int = 0

    @property
    def billed(self) -> int:
        return sum(pile.nano for pile in self.theirs.values()) + self.extra

    @property
    def charged(self) -> int:
        """Ours, with what was corrected before."""
        return sum(pile.nano for pile in self.ours.values()) + self.corrected


@dataclass
class Talk:
    """The requests of one model in one day: as many as the host says (None: it says nothing), as we charged, and those that we took as
    free, by whose they are, with the most that these can have cost."""

    theirs: int | None = None
    cancelled: int = 0
    ours: int = 0
    free: dict[Who, int] = field(default_factory=dict)
    worst: int = 0


@dataclass
class Beside:
    """What another key of the account was billed."""

    key: BillKey
    nano: int = 0
    tokens: int = 0
    requests: int = 0


@dataclass
class Table:
    """A bill and our charges, side by side."""

    spans: tuple[Span, ...]
    cells: dict[tuple[Span, str, Class], Cell] = field(default_factory=dict)
    talks: dict[tuple[Span, str], Talk] = field(default_factory=dict)
    beside: dict[BillKey, Beside] = field(default_factory=dict)
    # Marks just outside the first and the last day: (model, class) -> marks whose `side` is that of the bill.
    outside: dict[tuple[str, Class], list[Mark]] = field(default_factory=dict)
    silent: set[Span] = field(default_factory=set)
    """Days of which the bill says nothing."""
    idle: set[Span] = field(default_factory=set)
    """Days of which our ledger says nothing."""

    def cell(self, span: Span, model: str, cls: Class) -> Cell:
        return self.cells.setdefault((span, model, cls), Cell(span, model, cls))

    def talk(self, span: Span, model: str) -> Talk:
        return self.talks.setdefault((span, model), Talk())


class Reach(NamedTuple):
    """Which part of time is compared, and of whose traffic: `keys` are those of the bill that are this ledger's."""

    spans: tuple[Span, ...]
    keys: frozenset[BillKey]
    classes: bool
    """Whether the bill tells classes of tokens apart."""


class Comparison:
    """Takes the bill, then our charges one after another, and gives the table. Memory grows with days, models and teams, not with
    requests; only charges that may be billed otherwise are remembered one by one."""

    def __init__(self, bill: Bill, reach: Reach, tariff: Tariff) -> None:
        self._reach = reach
        self._tariff = tariff
        self._starts = [span.start for span in reach.spans]
        self.table: Final = Table(reach.spans)
        self._known: dict[tuple[Span, str], frozenset[Rates]] = {}
        self._take(bill)

    def _take(self, bill: Bill) -> None:
        table = self.table
        for line in bill.lines:
            if line.key not in self._reach.keys:
                other = table.beside.setdefault(line.key, Beside(line.key))
                other.nano += line.nano
                other.tokens += line.tokens or 0
                continue
            pile = table.cell(line.span, line.model, line.cls).theirs.setdefault(line.rate, Pile())
            pile.quantity += line.nano if line.rate is None else line.tokens or 0
            pile.nano += line.nano
            pile.tokens += line.tokens or 0
            pile.lines += 1
        for count in bill.counts:
            if count.key not in self._reach.keys:
                table.beside.setdefault(count.key, Beside(count.key)).requests += count.requests
                continue
            talk = table.talk(count.span, count.model)
            talk.theirs = (talk.theirs or 0) + count.requests
            talk.cancelled += count.cancelled
        _take_totals(table, bill)

    def add(self, charge: Charge) -> None:
        """One charge of ours; one outside the bill's days is looked at for its edges only."""
        span = self._at(charge.at)
        if span is None:
            self._outside(charge)
            return
        talk = self.table.talk(span, charge.model)
        if charge.sort == "free":
            talk.free[charge.who] = talk.free.get(charge.who, 0) + 1
            talk.worst += charge.worst
            return
        talk.ours += 1
        side = self._side(span, charge)
        for cls, rate, quantity, tokens, nano in self._shares(charge):
            cell = self.table.cell(span, charge.model, cls)
            pile = cell.ours.setdefault(rate, Pile())
            pile.quantity += quantity
            pile.nano += nano
            pile.tokens += tokens
            pile.lines += 1
            pile.who[charge.who] = pile.who.get(charge.who, 0) + quantity
            cell.cards.setdefault(rate, charge.card)
            others = tuple(getattr(rates, cls) for rates in charge.near) if cls and rate is not None else ()
            if others or side or charge.sort != "told":
                cell.marks.append(Mark(charge.sort, rate, quantity, charge.who, others, side, nano, charge.worst))

    def correct(self, corrections: Iterable[Correction]) -> None:
        """Corrections of this host that are in the ledger already count as ours."""
        for correction in corrections:
            span = self._within(correction)
            if span is not None:
                named: Iterable[Class] = (name for name in _PRICED if name == correction.cls and self._reach.classes)
                cls: Class = next(iter(named), "")
                self.table.cell(span, correction.model, cls).corrected += correction.nano

    def done(self) -> Table:
        """The table, with what is known of every cell's prices and of days without anything."""
        table = self.table
        for (span, model, cls), cell in table.cells.items():
            known = self._known.get((span, model))
            if known is None:
                known = self._known[span, model] = self._tariff.known(model, span.start, span.end)
            cell.known = frozenset(getattr(rates, cls) for rates in known) if cls else frozenset()
        billed = {cell.span for cell in table.cells.values() if cell.theirs or cell.extra}
        charged = {cell.span for cell in table.cells.values() if cell.ours}
        table.silent = set(table.spans) - billed
        table.idle = set(table.spans) - charged
        return table

    def _within(self, correction: Correction) -> Span | None:
        if correction.host != self._tariff.host or correction.currency != self._tariff.currency:
            return None
        return self._at(correction.at)

    def _at(self, at: datetime) -> Span | None:
        index = bisect_right(self._starts, at) - 1
        if index < 0:
            return None
        span = self._reach.spans[index]
        return span if at < span.end else None

    def _side(self, span: Span, charge: Charge) -> Side:
        """The edge of its day that a charge is near: it may be counted in the day beyond."""
        if charge.started < span.start or charge.at - self._tariff.edge < span.start:
            return "start"
        return "end" if charge.at + self._tariff.edge >= span.end else ""

    def _outside(self, charge: Charge) -> None:
        if charge.sort == "free" or not self._reach.spans:
            return
        first, last = self._reach.spans[0], self._reach.spans[-1]
        side: Side = ""
        if first.start - self._tariff.edge <= charge.at < first.start:
            side = "start"
        elif last.end <= charge.at and (charge.started < last.end or charge.at - self._tariff.edge < last.end):
            side = "end"
        if side:
            for cls, rate, quantity, _tokens, nano in self._shares(charge):
                mark = Mark(charge.sort, rate, quantity, charge.who, (), side, nano, charge.worst)
                self.table.outside.setdefault((charge.model, cls), []).append(mark)

    def _shares(self, charge: Charge) -> Iterable[tuple[Class, Rate, int, int, int]]:
        """(class, price, quantity, tokens, nano) of a charge, as finely as the bill tells them apart and we know them."""
        if not self._reach.classes or charge.tokens is None or charge.parts is None or charge.rates is None:
            yield "", None, charge.nano, sum(charge.tokens or ()), charge.nano
            return
        for cls, tokens in zip(_PRICED, charge.tokens, strict=True):
            nano: int = getattr(charge.parts, cls)
            if tokens or nano:
                yield cls, getattr(charge.rates, cls), tokens, tokens, nano


def _take_totals(table: Table, bill: Bill) -> None:
    """What a day cost beside the tokens of all keys together; the whole of it where the bill has no lines of tokens."""
    lines: dict[tuple[Span, str], list[int]] = {}
    for line in bill.lines:
        lines.setdefault((line.span, line.model), []).append(line.nano)
    for total in bill.totals:
        stated = lines.get((total.span, total.model), [])
        cell = table.cell(total.span, total.model, "")
        if bill.lines:
            cell.extra += total.nano - sum(stated)
        else:
            pile = cell.theirs.setdefault(None, Pile())
            pile.quantity += total.nano
            pile.nano += total.nano
            pile.lines += 1
        cell.step += total.step + len(stated)


def reach_of(bill: Bill, keys: Iterable[BillKey], days: Sequence[Span] | None = None) -> Reach:
    """What is compared: the bill's days and those between them, and these of its keys."""
    return Reach(tuple(days) if days is not None else filled(bill.spans), frozenset(keys), any(line.cls for line in bill.lines))


def margin(reach: Reach, edge: timedelta) -> Span:
    """The time of which charges are needed: the bill's days, and what is near to them."""
    return Span(reach.spans[0].start - edge, reach.spans[-1].end + edge + timedelta(hours=1), "")
