"""Reasons: every difference between a bill and our charges in parts, each with its likely cause. Pure.

For each cell the parts and what nobody can explain sum to the difference, to the nano. Evidence is used up in the order of its strength:
a part of the difference is explained once, and by no more than what the ledger has of it. What is left is said to be left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from gateway.money import decimal_text
from gateway.reconcile.bills import CLASSES, Class, Rate, Span
from gateway.reconcile.charges import NOBODY, Sort, Who
from gateway.reconcile.compare import Cell, Mark, Pile, Table, Talk, worth
from gateway.reports.text import many

Reason = Literal[
    "peak_edge", "window", "price_change", "day_edge", "disconnects", "counted", "expired", "cancelled", "taken_as_free",
    "other_traffic", "not_billed", "missing_day", "missing_model", "not_in_ledger", "extras", "corrected", "rounding", "unexplained",
]  # fmt: skip

MEANINGS: Final[dict[Reason, str]] = {
    "peak_edge": "answers near the edge of a price window, billed at the price on its other side",
    "window": "the same tokens at the price of another window, far from its edges: the host's calendar is not that of the card",
    "price_change": "the same tokens at a price that no card of ours has",
    "day_edge": "requests near midnight, which the host counts in the day beside",
    "disconnects": "answers that were broken off, whose tokens we counted ourselves",
    "counted": "answers without usage, whose tokens we counted ourselves",
    "expired": "requests of a gateway that died, charged by estimate",
    "cancelled": "answers that did not end well, which the host has not billed",
    "taken_as_free": "attempts that we took for free and the host billed",
    "other_traffic": "requests with the same key that did not go through this ledger",
    "not_billed": "requests that the host has not billed",
    "missing_day": "the export has nothing of this day",
    "missing_model": "the export has nothing of this model on this day",
    "not_in_ledger": "the ledger has nothing of this day",
    "extras": "charges beside tokens: searches, files",
    "corrected": "corrections that are in the ledger already",
    "rounding": "charges are rounded up one by one, bills in sum",
    "unexplained": "no reason was found",
}
# What the totals may be off by rounding: each charge by less than this many nano in one class.
ROUNDING: Final = 3
# Parts that balance out by themselves, and belong to no gap.
SETTLED: Final[frozenset[Reason]] = frozenset({"rounding", "day_edge"})
_ESTIMATES: Final[tuple[tuple[Sort, Reason], ...]] = (("disconnect", "disconnects"), ("counted", "counted"), ("expired", "expired"))
# A shift between windows is one where the whole is the same, but for a part in so many.
_LOOSE: Final = 10
_PROMPT: Final = frozenset({"cache_hit", "cache_miss"})


@dataclass
class Part:
    """A part of one cell's difference: nano of theirs minus ours, and as many tokens. `who`: whose requests it is about, by weight."""

    reason: Reason
    nano: int
    tokens: int = 0
    detail: str = ""
    who: dict[Who, int] = field(default_factory=dict)


@dataclass
class Finding:
    """A cell with its difference in parts."""

    cell: Cell
    parts: list[Part]

    @property
    def difference(self) -> int:
        return self.cell.billed - self.cell.charged

    @property
    def gap(self) -> int:
        """The difference without what balances out by itself."""
        return sum(part.nano for part in self.parts if part.reason not in SETTLED)


def explain(table: Table) -> list[Finding]:
    """Every cell with its parts, in order of days, models and classes."""
    open_cells = {place: _Open(cell) for place, cell in table.cells.items()}
    for (span, _model, _cls), one in open_cells.items():
        _silence(one, table, span)
    for one in open_cells.values():
        _prices(one)
    _edges_of_days(table, open_cells)
    for span, model in sorted({place[:2] for place in open_cells}):
        cells = [open_cells[span, model, cls] for cls in CLASSES if (span, model, cls) in open_cells]
        _estimates(cells, table.talk(span, model))
        _traffic(cells, table.talk(span, model))
    order = sorted(open_cells, key=lambda place: (place[0], place[1], CLASSES.index(place[2])))
    return [_closed(open_cells[place]) for place in order]


class _Open:
    """A cell while it is being explained: what is left, by price, in quantities of theirs minus ours."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.parts: list[Part] = []
        none = Pile()
        rates = sorted({*cell.theirs, *cell.ours}, key=lambda rate: (rate is None, rate or 0))
        self.left: dict[Rate, int] = {
            rate: cell.theirs.get(rate, none).quantity - cell.ours.get(rate, none).quantity for rate in rates
        }  # fmt: skip

    def add(self, reason: Reason, quantity: int, rate: Rate, who: dict[Who, int] | None = None, detail: str = "") -> None:
        """Take so much at one price as explained."""
        if quantity:
            self.left[rate] -= quantity
            self._put(reason, worth(quantity, rate), 0 if rate is None else quantity, who, detail)

    def move(self, reason: Reason, quantity: int, ours: int, theirs: int, who: dict[Who, int], detail: str = "") -> None:
        """Tokens that we have at one price and they have at another."""
        self.left[ours] += quantity
        self.left[theirs] -= quantity
        self._put(reason, worth(quantity, theirs) - worth(quantity, ours), quantity, who, detail)

    def _put(self, reason: Reason, nano: int, tokens: int, who: dict[Who, int] | None, detail: str) -> None:
        part = next((each for each in self.parts if each.reason == reason and each.detail == detail), None)
        if part is None:
            self.parts.append(part := Part(reason, 0, detail=detail))
        part.nano += nano
        part.tokens += tokens
        for name, weight in (who or {}).items():
            part.who[name] = part.who.get(name, 0) + weight

    def below(self) -> list[int]:
        """Prices at which we have more."""
        return [rate for rate, left in self.left.items() if rate is not None and left < 0]

    def above(self) -> list[int]:
        return [rate for rate, left in self.left.items() if rate is not None and left > 0]

    def owners(self, rate: Rate) -> dict[Who, int]:
        """Whose our tokens at a price are."""
        pile = self.cell.ours.get(rate)
        return dict(pile.who) if pile else {}


def _weights(marks: Iterable[Mark]) -> dict[Who, int]:
    found: dict[Who, int] = {}
    for mark in marks:
        found[mark.who] = found.get(mark.who, 0) + (mark.quantity or mark.nano)
    return found


# --- days and models that one side does not have --------------------------------------------------------------------------


def _silence(one: _Open, table: Table, span: Span) -> None:
    cell = one.cell
    if cell.ours and not cell.theirs:
        billed = any(other.theirs for place, other in table.cells.items() if place[:2] == (span, cell.model))
        if span in table.silent:
            _all(one, "missing_day")
        elif not billed:
            _all(one, "missing_model")
    elif cell.theirs and span in table.idle:
        _all(one, "not_in_ledger")


def _all(one: _Open, reason: Reason) -> None:
    for rate, left in list(one.left.items()):
        one.add(reason, left, rate, one.owners(rate))


# --- the same tokens at other prices --------------------------------------------------------------------------------------


def _prices(one: _Open) -> None:
    """Tokens that are at one price here and at another there: near an edge, else a price that is not ours, else another window."""
    _shifts(one, "peak_edge", lambda ours, theirs: [mark for mark in one.cell.marks if mark.rate == ours and theirs in mark.others])
    for strange in (True, False):
        # Piles of one size belong together; what is left over goes in the order of prices.
        for equal in (True, False):
            for theirs in [rate for rate in one.above() if (rate not in one.cell.known) is strange]:
                for ours in one.below():
                    _reprice(one, ours, theirs, strange, equal)


def _reprice(one: _Open, ours: int, theirs: int, strange: bool, equal: bool) -> None:
    quantity = min(one.left[theirs], -one.left[ours])
    if quantity <= 0 or (equal and one.left[theirs] != -one.left[ours]):
        return
    whole = sum(left for rate, left in one.left.items() if rate is not None)
    if strange:
        one.move("price_change", quantity, ours, theirs, one.owners(ours), _price_detail(one.cell, ours, theirs))
    elif abs(whole) <= quantity // _LOOSE:
        # Else it is rather more here and less there than the same at another price.
        one.move("window", quantity, ours, theirs, one.owners(ours), _window_detail(one.cell, ours, theirs))


def _shifts(one: _Open, reason: Reason, candidates: Callable[[int, int], list[Mark]]) -> None:
    for ours in one.below():
        for theirs in one.above():
            marks = candidates(ours, theirs)
            quantity = min(-one.left[ours], one.left[theirs], sum(mark.quantity for mark in marks))
            if quantity > 0:
                detail = f"{_price(ours)} with us, {_price(theirs)} with the host; {many(len(marks), 'such answer')}"
                one.move(reason, quantity, ours, theirs, _weights(marks), detail)


def _price(rate: int) -> str:
    return f"{decimal_text(rate)} a million"


def _price_detail(cell: Cell, ours: int, theirs: int) -> str:
    return f"card {cell.cards.get(ours, '?')} has {_price(ours)}, the bill {_price(theirs)}"


def _window_detail(cell: Cell, ours: int, theirs: int) -> str:
    return f"card {cell.cards.get(ours, '?')} says {_price(ours)} at that hour, the bill {_price(theirs)}"


# --- midnight -------------------------------------------------------------------------------------------------------------


def _edges_of_days(table: Table, cells: dict[tuple[Span, str, Class], _Open]) -> None:
    """What is missing in one day and too much in the day beside it, as far as requests near that midnight go."""
    after = dict(zip(table.spans, table.spans[1:], strict=False))
    for (span, model, cls), one in sorted(cells.items(), key=lambda item: item[0]):
        other = cells.get((after[span], model, cls)) if span in after else None
        if other is not None:
            for rate in [rate for rate in one.left if rate in other.left]:
                _over_midnight(one, other, rate)
        marks = table.outside.get((model, cls), [])
        if span == table.spans[0]:
            _beyond(one, "start", marks)
        if span == table.spans[-1]:
            _beyond(one, "end", marks)


def _over_midnight(one: _Open, other: _Open, rate: Rate) -> None:
    before, after = one.left[rate], other.left[rate]
    if before * after >= 0:
        return
    # What we have too much of is ours on that side.
    giver, side = (one, "end") if before < 0 else (other, "start")
    marks = [mark for mark in giver.cell.marks if mark.side == side and mark.rate == rate]
    quantity = min(abs(before), abs(after), sum(mark.quantity for mark in marks))
    sign = -1 if before < 0 else 1
    one.add("day_edge", sign * quantity, rate, _weights(marks))
    other.add("day_edge", -sign * quantity, rate, _weights(marks))


def _beyond(one: _Open, side: str, outside: list[Mark]) -> None:
    """The same at the first and the last midnight, of whose other side there is no bill."""
    for rate, left in list(one.left.items()):
        marks = [mark for mark in (outside if left > 0 else one.cell.marks) if mark.side == side and mark.rate == rate]
        quantity = min(abs(left), sum(mark.quantity for mark in marks))
        one.add("day_edge", quantity if left > 0 else -quantity, rate, _weights(marks))


# --- what we counted ourselves --------------------------------------------------------------------------------------------


def _estimates(cells: list[_Open], talk: Talk) -> None:
    """Of one model in one day: answers whose usage nobody told us may be billed at less, or at up to double. Where the host has billed
    more requests than we have, what it has more of belongs to those."""
    crowded = talk.theirs is not None and talk.theirs > talk.ours
    for sort, reason in _ESTIMATES:
        for one in cells:
            marks = [mark for mark in one.cell.marks if mark.sort == sort]
            _less(one, reason, marks)
            if one.cell.cls and not crowded:
                reach = [mark for other in cells if _pooled(one, other) for mark in other.cell.marks if mark.sort == sort]
                _more(one, reason, sum(mark.quantity for mark in reach), _weights(reach))
        _sums(cells, sort, reason, crowded)
    for one in cells:
        _less(one, "cancelled", [mark for mark in one.cell.marks if mark.sort == "failed"])


def _pooled(one: _Open, other: _Open) -> bool:
    """Whether what was counted in one class may have been billed in the other: a hit for a miss."""
    mine, theirs = one.cell.cls, other.cell.cls
    return mine == theirs or (mine in _PROMPT and theirs in _PROMPT)


def _less(one: _Open, reason: Reason, marks: list[Mark]) -> None:
    for rate in [rate for rate, left in one.left.items() if left < 0]:
        mine = [mark for mark in marks if mark.rate == rate]
        one.add(reason, -min(-one.left[rate], sum(mark.quantity for mark in mine)), rate, _weights(mine))


def _more(one: _Open, reason: Reason, quantity: int, who: dict[Who, int]) -> None:
    for rate in one.above():
        part = min(one.left[rate], quantity)
        one.add(reason, part, rate, who)
        quantity -= part


def _sums(cells: list[_Open], sort: Sort, reason: Reason, crowded: bool) -> None:
    """Charges of which we know only the sum may have been billed in any class, up to the most that they can have cost.

    Where classes are told apart, all that we have of them was taken out above, and all that the host has stands in the classes.
    """
    marks = [mark for one in cells for mark in one.cell.marks if mark.sort == sort and mark.rate is None]
    money = whole = sum(mark.nano for mark in marks)
    if not crowded:
        money = sum(max(mark.worst, 2 * mark.nano) if sort == "expired" else 2 * mark.nano for mark in marks)
    if not any(one.cell.cls for one in cells):
        money -= whole
    for one in cells:
        for rate in [rate for rate, left in one.left.items() if left > 0]:
            quantity = _within(one.left[rate], rate, money)
            one.add(reason, quantity, rate, _weights(marks))
            money -= worth(quantity, rate)


def _within(quantity: int, rate: Rate, money: int) -> int:
    """As much of a quantity as so many nano pay for."""
    if worth(quantity, rate) <= money:
        return quantity
    return max(0, money if not rate else money * 10**6 // rate)


# --- requests that one side does not have ---------------------------------------------------------------------------------


def _traffic(cells: list[_Open], talk: Talk) -> None:
    more = None if talk.theirs is None else talk.theirs - talk.ours
    free, money = sum(talk.free.values()), talk.worst
    for one in cells:
        for rate, left in list(one.left.items()):
            if left > 0 and free and (more is None or 0 < more <= free):
                taken = _within(left, rate, money)
                money -= worth(taken, rate)
                one.add("taken_as_free", taken, rate, dict(talk.free), many(free, "attempt"))
                left -= taken
            if left > 0 and (more is None or more > 0):
                one.add("other_traffic", left, rate, {NOBODY: 1}, "" if more is None else many(more, "request"))
            elif left < 0 and more is not None and more < 0:
                one.add("not_billed", left, rate, one.owners(rate), many(-more, "request"))


# --- the rest -------------------------------------------------------------------------------------------------------------


def _closed(one: _Open) -> Finding:
    """The parts, with what was corrected, what is beside tokens, what rounding can do, and what is left over."""
    cell = one.cell
    for rate, left in list(one.left.items()):
        if rate is None and abs(left) <= _noise(cell):
            one.add("rounding", left, rate, one.owners(rate))
        else:
            same = _same_tokens(cell, rate)
            one.add("price_change" if same else "unexplained", left, rate, one.owners(rate), same)
    finding = Finding(cell, one.parts)
    if cell.extra:
        small = abs(cell.extra) <= cell.step
        finding.parts.append(Part("rounding" if small else "extras", cell.extra, who={NOBODY: 1}))
    if cell.corrected:
        finding.parts.append(Part("corrected", -cell.corrected))
    rest = finding.difference - sum(part.nano for part in finding.parts)
    if rest:
        small = abs(rest) <= _noise(cell) + ROUNDING * len(finding.parts)
        finding.parts.append(Part("rounding" if small else "unexplained", rest, who=_owners(cell)))
    finding.parts = list(_tidied(finding.parts))
    return finding


def _noise(cell: Cell) -> int:
    """What sums may differ by though every line is right, in nano."""
    return ROUNDING * sum(pile.lines for pile in (*cell.ours.values(), *cell.theirs.values())) + (0 if cell.cls else cell.step)


def _same_tokens(cell: Cell, rate: Rate) -> str:
    """What to say of an amount without prices, where the tokens are the same; "" where they are not."""
    theirs, ours = cell.theirs.get(rate), cell.ours.get(rate)
    if rate is not None or theirs is None or ours is None or not theirs.tokens or theirs.tokens != ours.tokens:
        return ""
    return (
        f"card {cell.cards.get(rate, '?')}: {_mean(ours)} with us, {_mean(theirs)} with the host, for the same {many(ours.tokens, 'token')}"
    )


def _mean(pile: Pile) -> str:
    return f"{_price(pile.nano * 10**6 // pile.tokens)} on average"


def _owners(cell: Cell) -> dict[Who, int]:
    found: dict[Who, int] = {}
    for pile in cell.ours.values():
        for who, weight in pile.who.items():
            found[who] = found.get(who, 0) + weight
    return found


def _tidied(parts: list[Part]) -> Iterator[Part]:
    """One part for each reason and detail, without those that come to nothing."""
    found: dict[tuple[Reason, str], Part] = {}
    for part in parts:
        known = found.setdefault((part.reason, part.detail), Part(part.reason, 0, 0, part.detail))
        known.nano += part.nano
        known.tokens += part.tokens
        for who, weight in part.who.items():
            known.who[who] = known.who.get(who, 0) + weight
    yield from (part for part in found.values() if part.nano or part.tokens)
