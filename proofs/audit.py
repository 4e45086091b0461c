"""What must hold after every commit of the ledger, computed anew from its rows by other code than the ledger's own.

It reads what a commit touched, keeps its own sums, and compares: budgets with the holds and entries that make them, grants with
the limit they were made under, refusals with the room that there was, dispatches with their holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import apsw
from msgspec import Struct
from msgspec.json import Decoder

from gateway.errors import BudgetExceeded
from gateway.ledger.verify import BUDGETS, INVARIANTS
from gateway.outcome import Claim, Grant, Hold, Idempotency

Name = tuple[str, str, str, str, str]


class _Part(Struct, frozen=True):
    team: str
    budget: str
    key: str
    period: str
    currency: str
    rate: tuple[int, int]
    held: int

    @property
    def name(self) -> Name:
        return self.team, self.budget, self.key, self.period, self.currency

    def cost(self, nano: int) -> int:
        numerator, denominator = self.rate
        return (nano * numerator + denominator - 1) // denominator


class Row(NamedTuple):
    """A row of the table `budget`, as far as money goes."""

    lim: int
    ceiling: int
    spent: int
    held: int
    peak: int
    overrun: int


class _Known(NamedTuple):
    """What one request was when it was last read."""

    state: str
    nano: int
    worst: int
    parts: tuple[_Part, ...]
    charge: int
    entries: int

    def held(self) -> dict[Name, int]:
        return {part.name: part.held for part in self.parts} if self.state == "held" else {}

    def spent(self) -> dict[Name, int]:
        return {part.name: part.cost(self.charge) for part in self.parts} if self.entries else {}


_NOBODY: Final = _Known("none", 0, 0, (), 0, 0)
_BUDGETS: Final = "SELECT team, budget, key, period, currency, lim, ceiling, spent, held, peak, overrun FROM budget"
_parts = Decoder(tuple[_Part, ...]).decode


class Audit:
    """Follows one ledger from its first commit on."""

    def __init__(self, db: apsw.Cursor) -> None:
        self._db = db
        self._known: dict[str, _Known] = {}
        self._held: dict[Name, int] = {}
        self._spent: dict[Name, int] = {}
        self._most: dict[Name, int] = {}
        self._excused: dict[Name, int] = {}
        self._rows: dict[Name, Row] = {}
        self._paying: dict[str, str] = {}
        self.commits = 0
        self.broken: list[str] = []
        """What did not hold, the first few."""

    def fail(self, text: str) -> None:
        if len(self.broken) < 3:
            self.broken.append(text)

    # ---- around a commit

    def after(self, ids: Sequence[str]) -> None:
        """Everything that a commit which touched these requests must leave true."""
        self.commits += 1
        for id in ids:
            self._read(id)
        self._rows = self._read_budgets()
        for name, row in self._rows.items():
            self._check(name, row)

    def _check(self, name: Name, row: Row) -> None:
        if row.held != self._held.get(name, 0):
            self.fail(f"{name}: held is {row.held}, its open holds have {self._held.get(name, 0)}")
        if row.spent != self._spent.get(name, 0):
            self.fail(f"{name}: spent is {row.spent}, its charges are {self._spent.get(name, 0)}")
        if row.spent + row.held > row.ceiling + row.overrun:
            self.fail(f"{name}: {row.spent} spent and {row.held} held are more than {row.ceiling} and {row.overrun} overrun")
        self._most[name] = max(self._most.get(name, 0), row.spent + row.held)
        if row.peak != self._most[name]:
            self.fail(f"{name}: peak is {row.peak}, {self._most[name]} was committed")
        if row.overrun > self._excused.get(name, 0):
            self.fail(f"{name}: overrun is {row.overrun}, charges beyond their holds explain {self._excused.get(name, 0)}")

    def _read_budgets(self) -> dict[Name, Row]:
        return {
            (team, budget, key, period, currency): Row(*money) for team, budget, key, period, currency, *money in self._db.execute(_BUDGETS)
        }

    def _read(self, id: str) -> None:
        old, new = self._known.get(id, _NOBODY), self._row(id)
        if new == old:
            return
        self._known[id] = new
        for sums, sign, amounts in (
            (self._held, -1, old.held()), (self._held, 1, new.held()),
            (self._spent, -1, old.spent()), (self._spent, 1, new.spent()),
        ):  # fmt: skip
            for budget, amount in amounts.items():
                sums[budget] = sums.get(budget, 0) + sign * amount
        self._excuse(old, new)

    def _row(self, id: str) -> _Known:
        found: list[Any] = self._db.execute("SELECT state, nano, worst, claims FROM hold WHERE rid = ?", (id,)).fetchall()
        if not found:
            return _NOBODY
        state, nano, worst, claims = found[0]
        entries: list[Any] = self._db.execute("SELECT kind, nano FROM entry WHERE rid = ?", (id,)).fetchall()
        if sum(kind != "adjust" for kind, _ in entries) > 1:
            self.fail(f"{id}: it was settled or expired more than once")
        return _Known(state, nano, worst, _parts(claims) if claims else (), sum(amount for _, amount in entries), len(entries))

    def _excuse(self, old: _Known, new: _Known) -> None:
        """A charge beyond its hold, a late charge beyond the earlier one, a stretch that was let finish: no more may be overrun."""
        had = old.held() or old.spent()
        for name, cost in new.spent().items():
            self._excused[name] = self._excused.get(name, 0) + max(0, cost - had.get(name, 0))

    # ---- what the ledger says, against what it could say

    def granting(self, work: Callable[[apsw.Cursor, int], Grant], hold: Hold, forced: bool = False) -> Callable[[apsw.Cursor, int], Grant]:
        """The same operation, with its answer checked against the budgets as they were and as they are."""

        def checked(db: apsw.Cursor, now: int) -> Grant:
            rows, had = self._rows, self._known.get(hold.id, _NOBODY)
            try:
                grant = work(db, now)
            except BudgetExceeded:
                self._refused(hold, rows, had.held())
                raise
            self._read(hold.id)
            self._granted(hold, had, self._known[hold.id], forced)
            return grant

        return checked

    def _granted(self, hold: Hold, had: _Known, has: _Known, forced: bool) -> None:
        now = self._read_budgets()
        for claim in hold.claims:
            name, before, after = _name(claim), had.held().get(_name(claim), 0), has.held().get(_name(claim), 0)
            beyond = now[name].spent + now[name].held - now[name].lim
            if after <= before or beyond <= 0:
                continue
            if not forced and not (claim.finish and had.state == "held"):
                self.fail(f"{hold.id}: {after - before} more was granted, {beyond} beyond the limit of {name}")
            self._excused[name] = self._excused.get(name, 0) + min(beyond, after - before)

    def _refused(self, hold: Hold, rows: dict[Name, Row], had: dict[Name, int]) -> None:
        for claim in hold.claims:
            row = rows.get(_name(claim))
            # A stretch goes by the limit that the last new hold found.
            limit = row.lim if row and had else claim.limit
            left = limit - (row.spent + row.held if row else 0)
            if claim.cost(hold.least) - had.get(_name(claim), 0) > left:
                return
        self.fail(f"{hold.id}: refused although every budget has room for it")

    def dispatched(self, id: str, idempotency: Idempotency | None) -> None:
        """The host gets the request now."""
        if self._row(id) == _NOBODY:
            self.fail(f"{id}: dispatched without a hold")
        if idempotency is None:
            return
        other = self._paying.get(idempotency.key)
        if other is not None and self._known[other].state != "released":
            self.fail(f"{id}: dispatched under the key of {other}")
        self._paying[idempotency.key] = id

    # ---- the end

    def open(self) -> list[str]:
        return [id for id, known in self._known.items() if known.state == "held"]

    def outcome(self, id: str) -> tuple[str, int]:
        known = self._known.get(id, _NOBODY)
        return known.state, known.charge

    def least_of(self, id: str, billed: int) -> int:
        """What an expired request is charged at least: what its host billed, where its hold was stretched along with that."""
        known = self._known[id]
        return min(billed, known.nano) if known.parts and known.nano < known.worst else 0

    def whole(self) -> None:
        """Every invariant of `faregate verify`, once more from the tables alone."""
        for text, query in {**INVARIANTS, **BUDGETS}.items():
            found: list[Any] = self._db.execute(query).fetchall()
            if found:
                self.fail(f"{text}: {found[:3]}")


def _name(claim: Claim) -> Name:
    return claim.team, claim.budget, claim.key, claim.period, claim.currency
