"""Stores of the ledger for tests: where one is kept, and a model that says what it must answer.

As a program (`python -m tests.stores URL NAME HOLDS`), one replica: it asks for so many holds at once and prints how many it got.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import apsw
import asyncpg
import pytest
from msgspec.structs import replace

from gateway.budgets import granted
from gateway.errors import BudgetExceeded
from gateway.ledger.port import TRANSITIONS, Event, HoldError, State, Store
from gateway.ledger.postgres import PostgresStore
from gateway.ledger.sqlite import SqliteStore
from gateway.money import Parts
from gateway.outcome import BudgetState, Claim, Grant, Hold, LedgerRow
from tests.ledgers import HOLD, ROW

ENDS = datetime(2026, 11, 21, tzinfo=UTC)
LEASE = 30.0
DAY = Claim("search", "day", "", "2026-11-20", "USD", 10_000, ENDS)


def charged(id: str, nano: int, **more: Any) -> LedgerRow:
    """The row of a request that cost so much."""
    return replace(ROW, id=id, nano=nano, parts=Parts(0, 0, nano), **more)


class Place(Protocol):
    """Where a store is kept: it can be opened by several, and looked into by SQL that every database knows."""

    url: str

    def store(self) -> Store: ...

    async def look(self, query: str) -> list[tuple[Any, ...]]: ...


class PostgresPlace:
    def __init__(self, url: str) -> None:
        self.url = url

    def store(self, **options: Any) -> PostgresStore:
        return PostgresStore(self.url, **options)

    async def look(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query, or of the last of several statements; what they change stays."""
        connection = await asyncpg.connect(self.url, server_settings={"search_path": "faregate"})
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()


class SqlitePlace:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = str(path)

    def store(self, **options: Any) -> SqliteStore:
        return SqliteStore(self.path, **options)

    async def look(self, query: str) -> list[tuple[Any, ...]]:
        connection = apsw.Connection(str(self.path))
        try:
            connection.set_busy_timeout(5000)
            return connection.execute(query).fetchall()
        finally:
            connection.close()


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A new place for a store, in one test for each kind."""
    if request.param == "sqlite":
        return SqlitePlace(tmp_path / "ledger.db")
    return PostgresPlace(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    """A store that keeps every invariant when its test is over."""
    store = place.store()
    await store.start()
    yield store
    problems = await store.verify()
    await store.close()
    assert problems == []


@dataclass
class Account:
    """What the model knows of one budget."""

    lim: int = 0
    ceiling: int = 0
    spent: int = 0
    held: int = 0
    peak: int = 0
    overrun: int = 0

    def moved(self) -> None:
        self.peak = max(self.peak, self.spent + self.held)
        assert self.spent + self.held <= self.ceiling + self.overrun


@dataclass
class Running:
    hold: Hold
    state: State = "held"
    parts: list[int] = field(default_factory=list)
    charge: int = 0


class Model:
    """What any store must do, said anew in the plainest words: one request after another, nothing is ever lost."""

    def __init__(self) -> None:
        self.accounts: dict[tuple[str, ...], Account] = {}
        self.requests: dict[str, Running] = {}

    def hold(self, hold: Hold) -> int:
        """The grant; raises what the store must raise, having changed nothing."""
        if hold.id in self.requests:
            raise HoldError
        accounts = [self.accounts.get(name(claim), Account()) for claim in hold.claims]
        grant = self._grant(
            hold, [0] * len(accounts), [c.limit - a.spent - a.held for c, a in zip(hold.claims, accounts, strict=True)], False
        )
        for claim, account in zip(hold.claims, accounts, strict=True):
            self.accounts[name(claim)] = account
            account.lim, account.ceiling = claim.limit, max(account.ceiling, claim.limit)
        self.requests[hold.id] = Running(replace(hold, nano=grant), parts=[0] * len(accounts))
        self._take(self.requests[hold.id])
        return grant

    def extend(self, hold: Hold) -> int:
        running = self.requests.get(hold.id)
        if running is None or running.state != "held" or [name(c) for c in running.hold.claims] != [name(c) for c in hold.claims]:
            raise HoldError
        accounts = [self.accounts[name(claim)] for claim in hold.claims]
        grant = self._grant(hold, running.parts, [a.lim - a.spent - a.held for a in accounts], True)
        running.hold = replace(hold, nano=grant)
        self._take(running)
        return grant

    def finish(self, event: Event, row: LedgerRow) -> bool:
        running = self.requests.get(row.id)
        if running is None:
            raise HoldError
        step = TRANSITIONS.get((running.state, event))
        if step is None:
            return False
        if running.hold.currency != row.currency:
            raise HoldError
        new = row.nano if step.entry else 0
        for number, claim in enumerate(running.hold.claims):
            account = self.accounts[name(claim)]
            if running.state == "held":
                account.held -= running.parts[number]
                account.spent += claim.cost(new)
                account.overrun += max(0, claim.cost(new) - running.parts[number])
            else:
                account.spent += claim.cost(new) - claim.cost(running.charge)
                account.overrun = max(account.overrun, account.spent + account.held - account.ceiling)
            account.moved()
        running.state, running.charge = step.to, new
        return True

    def correct(self, nano: int) -> None:
        """Money of all accounts, in their currency: none gives back more than it has spent."""
        for account in self.accounts.values():
            account.spent += max(nano, -max(0, account.spent))
            account.overrun = max(account.overrun, account.spent + account.held - account.ceiling)
            account.moved()

    def reap(self, ids: Sequence[str]) -> None:
        """The leases of these are over."""
        for id in ids:
            hold = self.requests[id].hold
            nano = hold.nano if hold.claims and hold.nano < hold.worst else hold.expected
            assert self.finish("expire", replace(ROW, id=id, nano=nano, currency=hold.currency))

    def _grant(self, hold: Hold, parts: Sequence[int], lefts: Sequence[int], again: bool) -> int:
        if not hold.claims:
            return hold.nano
        grants = [hold.worst]
        for claim, part, left in zip(hold.claims, parts, lefts, strict=True):
            least = claim.cost(hold.least)
            found = granted(claim.cost(hold.nano), least, claim.cost(hold.worst), part, left)
            if found is None and not (again and claim.finish):
                raise BudgetExceeded(claim.budget)
            grants.append(claim.affords(least if found is None else found))
        return max(hold.least, min(grants))

    def _take(self, running: Running) -> None:
        for number, claim in enumerate(running.hold.claims):
            account, before = self.accounts[name(claim)], running.parts[number]
            committed = account.spent + account.held
            running.parts[number] = claim.cost(running.hold.nano)
            account.held += running.parts[number] - before
            account.overrun += max(0, account.spent + account.held - max(account.lim, committed))
            account.moved()


def name(claim: Claim | BudgetState) -> tuple[str, ...]:
    return claim.team, claim.budget, claim.key, claim.period, claim.currency


def account_of(state: BudgetState) -> Account:
    """What can be seen of a budget; the ceiling cannot."""
    return Account(state.limit, 0, state.spent, state.held, state.peak_committed, state.overrun)


async def many_holds(store: Store, owner: str, holds: Sequence[Hold]) -> list[Grant]:
    """All at once; those that a budget had no room for are left out."""
    answers = await asyncio.gather(*(store.hold(hold, owner, LEASE) for hold in holds), return_exceptions=True)
    assert all(isinstance(answer, Grant | BudgetExceeded) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, Grant)]


async def replica(url: str, owner: str, number: int) -> int:
    store = PostgresStore(url)
    await store.start()
    holds = [replace(HOLD, id=f"{owner}-{n}", nano=100, least=100, worst=100, claims=(DAY,)) for n in range(number)]
    granted = await many_holds(store, owner, holds)
    await store.close()
    return len(granted)


if __name__ == "__main__":
    print(asyncio.run(replica(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
