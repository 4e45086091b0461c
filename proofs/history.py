"""One simulated history: gateways that hold, stretch, settle, die and come back, over the ledger's real operations.

Simulated are only the network between a gateway and its database (late, cut before a commit, cut after it), the hosts and
time. The operations, the accounts and the tables are those of the embedded ledger; `audit` checks them after each commit.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import apsw
from msgspec.structs import replace

from gateway.errors import AlreadyDone, BudgetExceeded, IdempotencyMismatch, InFlight, LedgerUnavailable
from gateway.ledger import operations
from gateway.ledger.columns import microseconds
from gateway.ledger.port import Event, HoldError
from gateway.money import Parts
from gateway.outcome import Attempt, Claim, Grant, Hold, Idempotency, LedgerRow
from gateway.usage import Usage
from proofs.audit import Audit

T = TypeVar("T")
EPOCH: Final = datetime(2026, 11, 20, 2, tzinfo=UTC)
# Seconds of the virtual clock.
LEASE: Final = 5.0
PERIOD: Final = 20.0
MICROSECONDS: Final = 1_000_000
CNY: Final = (71, 10)


@dataclass
class Ask:
    """One request as its client and its host know it: what it will have cost when nobody stops it, and how long it takes."""

    id: str
    cost: int
    first: int
    worst: int
    expected: int
    step: int
    seconds: float
    key: str
    idempotency: Idempotency | None = None
    billed: int = 0
    """What the host has produced by now."""
    acknowledged: int | None = None
    """The charge that the ledger, or a spool on a disk, has said it keeps."""
    released: bool = False


@dataclass
class History:
    """What one seed decides, and what all gateways share: the database, the policies, the truth."""

    db: apsw.Cursor
    random: random.Random
    loop: asyncio.AbstractEventLoop
    audit: Audit = field(init=False)
    limits: dict[str, int] = field(default_factory=dict)
    asks: list[Ask] = field(default_factory=list)
    finish: bool = False

    def __post_init__(self) -> None:
        self.audit = Audit(self.db)
        self.finish = self.random.random() < 0.2
        self.limits = {"period": self.random.randint(300, 6_000), "total": self.random.randint(3_000, 60_000), "key": 1_000}

    # ---- the database

    @property
    def now(self) -> int:
        return microseconds(EPOCH) + round(self.loop.time() * MICROSECONDS)

    def commit(self, work: Callable[[apsw.Cursor, int], T], *ids: str) -> T:
        """As the writer of the embedded ledger commits it: a refusal rolls nothing back, so if it wrote, the audit sees that."""
        self.db.execute("SAVEPOINT one")
        try:
            return work(self.db, self.now)
        except apsw.Error as failure:
            self.audit.fail(f"{', '.join(ids)}: {failure}")
            self.db.execute("ROLLBACK TO one")
            raise
        finally:
            self.db.execute("RELEASE one")
            self.audit.after(ids)

    async def call(self, work: Callable[[apsw.Cursor, int], T], *ids: str) -> T:
        """There and back; a connection may be cut before the commit, or after it."""
        await self.pause()
        if self.random.random() < 0.03:
            raise LedgerUnavailable("cut on the way there")
        result = self.commit(work, *ids)
        await self.pause()
        if self.random.random() < 0.05:
            raise LedgerUnavailable("cut on the way back")
        return result

    async def pause(self) -> None:
        await asyncio.sleep(self.random.random() * 0.05)

    # ---- the policies

    def claims(self, limits: dict[str, int], ask: Ask) -> tuple[Claim, ...]:
        """Two budgets of the team, one of them in another currency, and sometimes one of the key, as gateway.budgets sorts them."""
        number = int(self.loop.time() // PERIOD)
        ends = EPOCH + timedelta(seconds=PERIOD * (number + 1))
        found = [
            Claim("team", "period", "", f"p{number}", "USD", limits["period"], ends),
            Claim("team", "total", "", "total", "CNY", limits["total"], None, CNY, self.finish),
        ]
        if ask.key:
            found.insert(0, Claim("team", "key", ask.key, "total", "USD", limits["key"], None))
        return tuple(found)

    async def change_policies(self) -> None:
        """Limits rise and fall while requests run; a gateway learns of it late."""
        for _ in range(3):
            await asyncio.sleep(self.random.random() * 15)
            name = self.random.choice(("period", "total"))
            self.limits[name] = max(100, round(self.limits[name] * self.random.choice((0.2, 0.7, 1.5, 3))))


class Gateway:
    """One process: its requests, its lease keeper, and its spool, which is on a disk and so survives it."""

    def __init__(self, history: History, name: str, spool: list[tuple[Event, LedgerRow]]) -> None:
        self.history, self.name, self.spool = history, name, spool
        self.limits = dict(history.limits)
        self.running: dict[str, None] = {}
        self.stalled_until = 0.0
        self.tasks: list[asyncio.Task[None]] = []
        self.start(self._keep())
        self.start(self._watch())

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self.tasks.append(task)
        return task

    def kill(self) -> None:
        """As `kill -9`: nothing of it runs on, and only what it wrote remains."""
        for task in self.tasks:
            task.cancel()

    # ---- one request

    async def serve(self, ask: Ask) -> None:
        # HoldError: its hold expired while the gateway tried to learn whether it had one.
        with suppress(BudgetExceeded, InFlight, AlreadyDone, IdempotencyMismatch, HoldError):
            await self._serve(ask)

    async def _serve(self, ask: Ask) -> None:
        history, chance = self.history, self.history.random
        hold = self._hold(ask)
        # The database was away and the operator lets requests through: its hold comes whatever the budget says.
        forced = ask.idempotency is None and chance.random() < 0.02
        held = (await self._held(hold, forced)).nano
        if chance.random() < 0.02:  # the client left while its request waited
            with suppress(LedgerUnavailable):
                await history.call(lambda db, _now: operations.abandon(db, ask.id), ask.id)
            return
        self.running[ask.id] = None
        history.audit.dispatched(ask.id, ask.idempotency)
        if chance.random() < 0.05:
            await self._end("release", ask, 0, twice=False)
            return
        cost = await self._stream(ask, hold, held)
        if chance.random() < 0.05:  # our own mistake: the request ends without an end
            self.running.pop(ask.id, None)
            return
        if chance.random() < 0.05:  # the host reports more than was counted
            cost += chance.randint(1, 50)
            ask.billed = cost
        await self._end("settle", ask, cost, twice=chance.random() < 0.3)

    def _hold(self, ask: Ask) -> Hold:
        claims = self.history.claims(self.limits, ask)
        return Hold(
            ask.id, "team", ask.key or "k", "r", "h", "m", "USD", ask.first, ask.expected, ask.worst, "card", "9f", EPOCH,
            min(ask.step, ask.first), claims, ask.idempotency,
        )  # fmt: skip

    async def _held(self, hold: Hold, forced: bool) -> Grant:
        """Tries again when the answer was lost, as the steward does: the same id from the same owner is no second hold."""

        def work(db: apsw.Cursor, now: int) -> Grant:
            return operations.hold(db, now, hold, self.name, round(LEASE * MICROSECONDS), forced=forced)

        while True:
            with suppress(LedgerUnavailable):
                return await self.history.call(self.history.audit.granting(work, hold, forced), hold.id)

    async def _stream(self, ask: Ask, hold: Hold, held: int) -> int:
        """The host produces; the hold is stretched before the cost would reach it; the cost when the stream ended."""
        while ask.billed < ask.cost:
            following = min(ask.cost, ask.billed + ask.step)
            if following > held:
                longer = replace(hold, nano=min(hold.worst, following * 2), least=following)
                try:
                    held = await self._stretched(longer)
                except (BudgetExceeded, HoldError):
                    return ask.billed
                except LedgerUnavailable:
                    continue
            await asyncio.sleep(ask.seconds * ask.step / ask.cost * self.history.random.random() * 2)
            await self._stall()
            ask.billed = following
        return ask.billed

    async def _stretched(self, hold: Hold) -> int:
        work = self.history.audit.granting(lambda db, _now: operations.extend(db, hold), hold)
        return (await self.history.call(work, hold.id)).nano

    async def _stall(self) -> None:
        if self.history.random.random() < 0.01:
            self.stalled_until = self.history.loop.time() + self.history.random.random() * 4 * LEASE
        # What stalls one of its requests stalls the whole process.
        left = self.stalled_until - self.history.loop.time()
        if left > 0:
            await asyncio.sleep(left)

    async def _end(self, event: Event, ask: Ask, nano: int, *, twice: bool) -> None:
        row = row_of(ask, nano)
        self.spool.append((event, row))
        if twice:
            self.start(self._finish(event, row))
        await self._finish(event, row)
        # Acknowledged: the ledger has said so, or the spool has it on the disk and tries again.
        ask.acknowledged, ask.released = nano, event == "release"

    async def _finish(self, event: Event, row: LedgerRow) -> None:
        with suppress(LedgerUnavailable):
            await self.history.call(lambda db, now: operations.finish(db, now, event, row), row.id)
            if (event, row) in self.spool:
                self.spool.remove((event, row))
            self.running.pop(row.id, None)

    # ---- housekeeping

    async def _keep(self) -> None:
        """Spool, leases, reaper, as the steward does them; a gateway that stands still does none of it."""
        history = self.history
        while True:
            await self._stall()
            for event, row in list(self.spool):
                await self._finish(event, row)
            with suppress(LedgerUnavailable):
                if ids := list(self.running):
                    await history.call(lambda db, now: operations.renew(db, now, ids, round(LEASE * MICROSECONDS)), *ids)
                if overdue := history.audit.open():
                    await history.call(operations.reap, *overdue)
            # Less often where there is nothing to keep: most of a history would else be empty rounds.
            await asyncio.sleep(LEASE / 3 if self.running or history.audit.open() else LEASE / 2)

    async def _watch(self) -> None:
        """Policies are read anew now and then."""
        while True:
            await asyncio.sleep(self.history.random.random() * 8)
            self.limits = dict(self.history.limits)


def row_of(ask: Ask, nano: int) -> LedgerRow:
    return LedgerRow(
        ask.id, "team", ask.key or "k", "r", "h", "m", "v4", (), Usage(0, 1, nano, 0), "USD", nano, Parts(0, 0, nano), "card", "standard",
        "9f", EPOCH, EPOCH, "ok", None, (Attempt("h", "m", "ok", "known", nano),), ask.expected, ask.worst,
    )  # fmt: skip


async def run(history: History) -> None:
    """Some gateways with some requests each, until every hold has ended."""
    chance = history.random
    history.loop.create_task(history.change_policies())
    gateways = [Gateway(history, f"g{number}", []) for number in range(chance.randint(2, 4))]
    work = [asyncio.ensure_future(_live(history, gateway)) for gateway in gateways]
    await asyncio.gather(*work)
    keeper = Gateway(history, "last", [])
    async with asyncio.timeout(40 * LEASE):
        while history.audit.open() or any(gateway.spool for gateway in gateways):  # noqa: ASYNC110 - nobody waits in virtual time
            await asyncio.sleep(LEASE)
    keeper.kill()


async def _live(history: History, gateway: Gateway) -> None:
    """A gateway with its requests; a third of them are killed in the middle, and come back with their spool."""
    chance = history.random
    asks = [_ask(history, f"{gateway.name}-{number}") for number in range(chance.randint(1, 4))]
    tasks = [gateway.start(_later(gateway, ask, chance.random() * 12)) for ask in asks]
    if chance.random() < 0.35:
        await asyncio.sleep(chance.random() * 15)
        gateway.kill()
        await asyncio.sleep(chance.random() * 3 * LEASE)
        Gateway(history, gateway.name + "'", gateway.spool)
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled() and isinstance(problem := task.exception(), Exception):
            raise problem


async def _later(gateway: Gateway, ask: Ask, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await gateway.serve(ask)


def _ask(history: History, id: str) -> Ask:
    chance = history.random
    cost = round(chance.lognormvariate(5.5, 0.9)) + 10
    worst = max(cost, chance.choice((600, 2_000)))
    # A client that tries again does so with its key, often elsewhere; sometimes with another body.
    again = Idempotency(f"i{chance.randint(1, 3)}", "body" if chance.random() < 0.9 else "other") if chance.random() < 0.3 else None
    expected = chance.randint(1, worst)
    key = "k1" if chance.random() < 0.3 else ""
    ask = Ask(id, cost, max(20, cost // 3), worst, expected, max(5, cost // 6), chance.random() * 20, key, again)
    history.asks.append(ask)
    return ask


def judge(history: History) -> list[str]:
    """What is not true at the end of a history, or was not at some commit; [] when all was well."""
    audit = history.audit
    audit.whole()
    for ask in history.asks:
        state, charge = audit.outcome(ask.id)
        if ask.acknowledged is not None:
            want = "released" if ask.released else "settled"
            if (state, charge) != (want, ask.acknowledged):
                audit.fail(f"{ask.id}: {want} with {ask.acknowledged} was acknowledged, the ledger has {state} with {charge}")
        elif state == "expired" and charge < audit.least_of(ask.id, ask.billed):
            audit.fail(f"{ask.id}: its host billed {ask.billed}, the ledger charged {charge}")
        elif state == "none" and ask.billed:
            audit.fail(f"{ask.id}: its host billed {ask.billed}, the ledger does not know it")
    return audit.broken
