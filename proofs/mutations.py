"""Planted faults of the ledger: each replaces one small thing in memory, and a proof that stays green with it is worth nothing.

`planted(name)` plants one in this process and takes it out again; `python -m proofs.mutant NAME serve` is a gateway with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, Final

import apsw
from msgspec.structs import replace

from gateway.ledger import balances, operations, writer
from gateway.ledger.balances import Balance, Name, Part, name_of
from gateway.ledger.port import TRANSITIONS, Step
from gateway.outcome import Grant, Hold, LedgerRow
from proofs.history import History


class Soil:
    """Where faults are planted: remembers what stood there."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        before = owner.__dict__[name]
        self._undo.append(lambda: setattr(owner, name, before))
        setattr(owner, name, value)

    def put(self, table: MutableMapping[Any, Any], key: Any, value: Any) -> None:
        before = dict(table)

        def restore() -> None:
            table.clear()
            table.update(before)

        self._undo.append(restore)
        table[key] = value

    def drop(self, table: MutableMapping[Any, Any], key: Any) -> None:
        self.put(table, key, table[key])
        del table[key]

    def clear(self) -> None:
        for undo in reversed(self._undo):
            undo()


@dataclass(frozen=True)
class Mutation:
    """One fault: what it does, how it is planted, and whether the proof with real processes is run with it too."""

    what: str
    plant: Callable[[Soil], None]
    kill: bool = False


def _refund_on_expiry(soil: Soil) -> None:
    expired = operations._expired
    soil.set(operations, "_expired", lambda columns, now: replace(expired(columns, now), nano=0))


def _settle_twice(soil: Soil) -> None:
    adjust = operations._adjust

    def again(db: apsw.Cursor, now: int, kind: Any, row: LedgerRow, parts: Any) -> None:
        before = db.execute("SELECT coalesce(sum(nano), 0) FROM entry WHERE rid = ?", (row.id,)).get
        adjust(db, now, kind, replace(row, nano=row.nano + before), parts)

    soil.put(TRANSITIONS, ("settled", "settle"), Step("settled", "adjust"))
    soil.set(operations, "_adjust", again)


def _acknowledge_first(soil: Soil) -> None:
    """In the simulation the network answers for the database; in a gateway the writer answers before it commits."""

    async def call(self: History, work: Callable[[apsw.Cursor, int], Any], *ids: str) -> Any:
        await self.pause()
        commit = asyncio.ensure_future(_later(self, work, ids))
        await self.pause()
        return commit.result() if commit.done() else Grant(1 << 40)

    soil.set(History, "call", call)
    soil.set(writer.Writer, "submit", _answered_first(writer.Writer.submit))


async def _later(history: History, work: Callable[[apsw.Cursor, int], Any], ids: tuple[str, ...]) -> Any:
    await history.pause()
    return history.commit(work, *ids)


def _answered_first(submit: Any) -> Any:
    def hasty(self: Any, operation: Any, **how: Any) -> Any:
        if self._closing:
            return submit(self, operation, **how)
        future = self._loop.create_future()
        # What the operation would say if it were committed alone, now; the commit comes half a second later, or never.
        self._db.execute("BEGIN IMMEDIATE")
        try:
            future.set_result(operation(self._db, 0))
        except Exception as refusal:
            future.set_exception(refusal)
        finally:
            self._db.execute("ROLLBACK")
        self._loop.call_later(0.5, lambda: submit(self, operation, **how).add_done_callback(lambda done: done.exception()))
        return future

    return hasty


def _stale_admission(soil: Soil) -> None:
    """Grants go by what a budget was up to eight changes ago."""
    grant, cache = balances._grant, dict[Name, Balance]()

    def stale(hold: Hold, now: Any, held: Any, *, first: bool) -> int:
        for claim, balance in zip(hold.claims, now, strict=True):
            seen = cache.get(name_of(claim))
            if seen is None or not 0 <= balance.ver - seen.ver < 8:
                cache[name_of(claim)] = copy(balance)
        return grant(hold, [cache[name_of(claim)] for claim in hold.claims], held, first=first)

    soil.set(balances, "_grant", stale)


def _held_not_given_back(soil: Soil) -> None:
    end = Balance.end
    soil.set(Balance, "end", lambda self, held, cost: end(self, 0, cost))


def _overrun_not_recorded(soil: Soil) -> None:
    moved = Balance._moved

    def forgetful(self: Balance) -> None:
        self.overrun = 0
        moved(self)

    soil.set(Balance, "_moved", forgetful)


def _grant_above_left(soil: Soil) -> None:
    soil.set(balances, "granted", lambda asked, least, worst, held, left: max(least, min(asked, worst)))


def _only_the_first_budget(soil: Soil) -> None:
    grant = balances._grant

    def first_only(hold: Hold, now: Any, held: Any, *, first: bool) -> int:
        return grant(replace(hold, claims=hold.claims[:1]), now[:1], held[:1], first=first)

    soil.set(balances, "_grant", first_only)


def _late_truth_dropped(soil: Soil) -> None:
    soil.drop(TRANSITIONS, ("expired", "settle"))


def _key_used_again(soil: Soil) -> None:
    soil.set(operations, "_claim_key", lambda db, hold, forced: (None, None))


def _rounded_down(soil: Soil) -> None:
    soil.set(Part, "cost", lambda self, nano: nano * self.rate[0] // self.rate[1])


def _peak_forgotten(soil: Soil) -> None:
    def level(self: Balance) -> None:
        self.peak, self.ver = self.spent + self.held, self.ver + 1

    soil.set(Balance, "_moved", level)


# The name under which a gateway runs as the mutants do, but without a fault.
SOUND: Final = "sound"
MUTATIONS: Final[dict[str, Mutation]] = {
    "refund-on-expiry": Mutation("a hold whose lease ran out costs nothing", _refund_on_expiry, kill=True),
    "settle-twice": Mutation("the same settle twice is two charges", _settle_twice, kill=True),
    "ack-before-commit": Mutation("the ledger answers before it has committed", _acknowledge_first, kill=True),
    "stale-admission": Mutation("a grant goes by a cached balance", _stale_admission, kill=True),
    "held-not-given-back": Mutation("a hold that ends keeps its part of the budget", _held_not_given_back),
    "overrun-not-recorded": Mutation("what goes beyond its hold is nowhere", _overrun_not_recorded),
    "grant-above-left": Mutation("a hold gets what it asks for", _grant_above_left),
    "only-the-first-budget": Mutation("of several budgets only the first is asked", _only_the_first_budget),
    "late-truth-dropped": Mutation("a settle after the lease has no effect", _late_truth_dropped),
    "key-used-again": Mutation("an Idempotency-Key is given away while its request runs", _key_used_again),
    "rounded-down": Mutation("a charge in another currency is rounded down", _rounded_down),
    "peak-forgotten": Mutation("peak_committed is the present instead of the most", _peak_forgotten),
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """This process has the fault within the block; processes that it forks there have it too."""
    soil = Soil()
    try:
        MUTATIONS[name].plant(soil)
        yield
    finally:
        soil.clear()
