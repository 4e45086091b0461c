"""A Ledger made of a store: who holds what, leases, and the ends of requests whatever happens to the store.

What the store cannot take is on this machine's disk before the caller goes on, and the store learns it once, in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from datetime import datetime
from time import monotonic
from typing import Any, Final

from msgspec.structs import replace

from gateway.errors import AlreadyDone, InFlight, LedgerUnavailable
from gateway.ledger.condition import Condition
from gateway.ledger.outage import Outage
from gateway.ledger.patience import Patience
from gateway.ledger.port import Closed, Event, HoldError, Mark, Page, Rates, Spend, SpendBy, Store, Trail, Zones, no_zone, same_currency
from gateway.ledger.spool import Record, Spool
from gateway.outcome import BudgetState, Correction, Grant, Hold, LedgerRow
from gateway.reports.tallies import Question, Take

log = logging.getLogger(__name__)

LEASE_SECONDS: Final = 30.0
# How long the end of a request waits for the store before it goes to the spool.
PATIENCE_SECONDS: Final = 3.0
# The first and the shortest pause between two attempts to tell the store what waits; the longest is a third of a lease.
_PAUSE_SECONDS: Final = 0.25
# Records that are replayed at once.
_REPLAY: Final = 64
# Of refused holds, the most that are asked after; the leases of the rest run out.
_DOUBTS: Final = 5000
_RETRY_AFTER: Final = 5


class Steward:
    """The port `Ledger` on one store. Between start() and close(), a background task replays what waits, keeps the leases of the
    holds that are open here, and expires what is overdue.

    A settle or release that the store does not take within `patience` seconds is in the spool, flushed, when it returns; it raises
    LedgerUnavailable only where the spool cannot be written either: then it waits in memory, and takes effect all the same as
    long as this process lives. `on_commit(op, seconds)` is told how long the store took. `ledger_down` is FAREGATE_LEDGER_DOWN.
    """

    def __init__(
        self,
        store: Store,
        spool: Spool,
        *,
        lease: float = LEASE_SECONDS,
        patience: float = PATIENCE_SECONDS,
        on_commit: Callable[[str, float], None] | None = None,
        ledger_down: str = "closed",
    ) -> None:
        self._store = store
        self._spool = spool
        self._lease = lease
        self._patience = Patience(patience)
        self._on_commit = on_commit
        self._outage = Outage(ledger_down)
        # The holds of requests that are on their way in this process; those whose ends wait are no longer among them.
        self._running: dict[str, Hold] = {}
        # Holds that were refused because no answer came: the store may have them.
        self._doubtful: dict[str, Hold] = {}
        self._keeping: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._open = False
        self._renewed = monotonic()
        self._expired = 0

    async def start(self) -> None:
        """Open the store and the spool, and take over what dead processes left; LedgerUnavailable with the remedy."""
        self._loop = asyncio.get_running_loop()
        await self._store.start()
        await self._spool.open()
        await self._spool.adopt()
        self._open = True
        self._keeping = asyncio.create_task(self._keep_up())

    async def close(self) -> None:
        """Try a last time what waits. What the store still does not take stays in the spool for the next process."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._open:
            self._open = False
            await self._replay()
        await self._store.close()
        await self._spool.close()

    @property
    def unsettled(self) -> int:
        """How many records wait for the store."""
        return len(self._spool)

    @property
    def up(self) -> bool:
        """Whether the store answered the last time that it was asked."""
        return self._open and not self._outage.down

    @property
    def condition(self) -> Condition:
        """How it is now; also for another thread: what changes is copied in one step."""
        running = list(self._running.values())
        return Condition(
            up=self.up,
            waiting=len(self._spool),
            given_up=self._spool.given_up,
            expired=self._expired,
            open_holds=len(running),
            oldest=running[0].started if running else None,
            lease=self._lease,
            lease_age=monotonic() - self._renewed,
        )

    def ready(self) -> bool:
        if not self._open or self._spool.full:
            return False
        return self._outage.open or not (self._spool or self._outage.down)

    def forget(self, id: str) -> None:
        if self._running.pop(id, None) is not None:
            self._outage.ended(id, None)

    async def hold(self, hold: Hold) -> Grant:
        if hold.id in self._running:
            raise HoldError(f"request {hold.id} has a hold already")
        if self._spool.full:
            raise LedgerUnavailable("Too many charges wait for the ledger.", retry_after=_RETRY_AFTER)
        if hold.idempotency and self._spool:
            self._refuse_again(hold)
        self._running[hold.id] = hold
        if self._doubtful:
            self._doubtful.pop(hold.id, None)
        began = self._loop.time()
        try:
            if self._outage.down and self._outage.open:
                # Asked in the background alone, lest every request wait for it.
                return await self._let_through(hold, _down())
            try:
                grant = await self._store.hold(hold, self._spool.owner, self._lease)
            except LedgerUnavailable as problem:
                return await self._hold_again(hold, problem)
        except BaseException:
            self._running.pop(hold.id, None)
            raise
        self._committed("hold", began)
        return grant

    async def _hold_again(self, hold: Hold, problem: LedgerUnavailable) -> Grant:
        """Ask once more: the first answer may have been lost behind its commit, and the same hold again is none more."""
        if self._outage.down:
            return await self._let_through(hold, problem)
        try:
            return await self._store.hold(hold, self._spool.owner, self._lease)
        except LedgerUnavailable as again:
            return await self._let_through(hold, again)
        except asyncio.CancelledError:
            # A caller that left undoes what it asked the second time; the first may have been heard too.
            self._doubt(hold)
            raise

    async def _let_through(self, hold: Hold, problem: LedgerUnavailable) -> Grant:
        """A hold without the store: on this machine's disk before anything is dispatched, where the allowance has room for it."""
        self._failed()
        if self._outage.open and hold.idempotency:
            self._refuse_again(hold)
        # Each that is on its way, this one among them, has an end that must find room too.
        if self._spool.room > len(self._running) and self._outage.admits(hold):
            whole = replace(hold, nano=hold.worst)
            if await self._spooled(Record("hold", self._spool.owner, hold=whole)):
                self._running[hold.id] = whole
                return Grant(whole.nano)
            self._outage.ended(hold.id, 0)
        self._doubt(hold)
        raise LedgerUnavailable(problem.message, retry_after=problem.retry_after or _RETRY_AFTER) from problem

    def _doubt(self, hold: Hold) -> None:
        """The store may have it, and nothing is dispatched under it: it is let go in the next round."""
        if len(self._doubtful) < _DOUBTS:
            self._doubtful[hold.id] = hold

    async def _spooled(self, record: Record) -> bool:
        """Whether a hold is on the disk; where it is not, or its caller leaves, it has not come true."""
        kept = False
        try:
            kept = await self._spool.keep(record)
        finally:
            if not kept:
                await self._spool.drop(record)
        return kept

    def _refuse_again(self, hold: Hold) -> None:
        """What the store does not know yet: the same request again, while it runs here or its charge waits here."""
        others = (other for id, other in self._running.items() if id != hold.id)
        if any(other.idempotency == hold.idempotency for other in others):
            raise InFlight("The request with this Idempotency-Key is on its way.", retry_after=1)
        for record in self._spool.oldest(len(self._spool)):
            same = record.hold is not None and record.hold.idempotency == hold.idempotency
            if same and (record.id, "release") not in self._spool:
                text = f"The request with this Idempotency-Key was answered as {record.id}, and charged."
                raise AlreadyDone(text, details={"id": record.id})

    async def extend(self, hold: Hold) -> Grant:
        if (hold.id, "hold") in self._spool:
            return await self._let_grow(hold, _down())
        began = self._loop.time()
        try:
            grant = await self._ask_more(hold)
        except LedgerUnavailable as problem:
            self._failed()
            return await self._let_grow(hold, problem)
        if hold.id in self._running:
            self._running[hold.id] = hold
        self._committed("extend", began)
        return grant

    async def _ask_more(self, hold: Hold) -> Grant:
        """As `_ask`: to extend to the same twice is to extend once."""
        try:
            return await self._store.extend(hold)
        except LedgerUnavailable:
            if self._outage.down:
                raise
        return await self._store.extend(hold)

    async def _let_grow(self, hold: Hold, problem: LedgerUnavailable) -> Grant:
        """An extension without the store, where the allowance has room for its worst case."""
        before = self._running.get(hold.id)
        unknown = (hold.id, "hold") in self._spool
        # The store's hold stays what it is, and what it is in.
        if before is None or not (unknown or before.currency == hold.currency) or not self._outage.admits(hold):
            raise problem
        whole = replace(hold, nano=hold.worst)
        if unknown and not await self._spool.keep(Record("hold", self._spool.owner, hold=whole)):
            raise problem
        self._running[hold.id] = whole
        return Grant(whole.nano)

    def settle(self, row: LedgerRow) -> Coroutine[Any, Any, bool]:
        return self._end("settle", row)

    async def release(self, row: LedgerRow) -> None:
        if row.nano:
            self.forget(row.id)
            raise HoldError(f"request {row.id} costs {row.nano} nano {row.currency}: settle it")
        await self._end("release", row)

    async def _end(self, event: Event, row: LedgerRow) -> bool:
        """Whatever comes of it, the request is no longer on its way: it has ended, or its end waits for the store."""
        began = self._loop.time()
        try:
            if self._spool and (row.id, "hold") in self._spool:
                return await self._keep(self._record(event, row), _down())
            done = await self._patience.wait(self._store.finish(event, row))
        except HoldError:
            record = self._record(event, row)
            if record.hold is None or record.hold.currency != row.currency:
                raise
            # The store has lost the hold, and learns it anew from the record.
            self._wake.set()
            return await self._keep(record, _down())
        except LedgerUnavailable as problem:
            self._failed()
            return await self._keep(self._record(event, row), problem)
        except TimeoutError:
            self._failed()
            return await self._keep(self._record(event, row), _down())
        except asyncio.CancelledError:
            # A caller that left does not learn whether it was written. To try again settles that: it has an effect once.
            self._spool.keep(self._record(event, row))
            self._wake.set()
            raise
        finally:
            self._running.pop(row.id, None)
            self._outage.ended(row.id, row.nano)
        self._committed(event, began)
        return done

    def _record(self, event: Event, row: LedgerRow) -> Record:
        return Record(event, self._spool.owner, self._running.get(row.id), row)

    async def _keep(self, record: Record, problem: LedgerUnavailable) -> bool:
        """Durable here when it returns; the store learns it later."""
        if not await self._spool.keep(record):
            raise problem
        log.info("ledger: the %s of request %s waits in the spool", record.event, record.id)
        return True

    async def _finish(self, record: Record) -> bool:
        """Tell the store of an end; of the hold first, where the store has lost it."""
        assert record.row is not None and record.event != "hold", "an end has a row"
        try:
            return await self._store.finish(record.event, record.row)
        except HoldError:
            if record.hold is None:
                raise
        await self._store.hold(record.hold, record.owner, self._lease, forced=True)
        return await self._store.finish(record.event, record.row)

    async def renew(self) -> int:
        """Give every hold that is open here, or whose end waits, a new lease; the number of them."""
        began, asked = self._loop.time(), monotonic()
        renewed = await self._store.renew(self._running.keys() | set(self._spool.ids()), self._lease)
        self._renewed = asked
        self._committed("renew", began)
        return renewed

    async def reap(self) -> int:
        """Expire every hold whose lease is over, whoever made it; the number of them."""
        began = self._loop.time()
        reaped = await self._store.reap()
        self._expired += reaped
        self._committed("reap", began)
        return reaped

    async def request(self, id: str) -> LedgerRow | None:
        return await self._store.request(id)

    async def trail(self, id: str) -> Trail | None:
        return await self._store.trail(id)

    async def requests(self, limit: int) -> list[LedgerRow]:
        return await self._store.requests(limit)

    async def page(self, start: datetime, end: datetime, team: str | None, after: Mark | None, limit: int) -> Page:
        return await self._store.page(start, end, team, after, limit)

    async def spend(self, by: SpendBy, start: datetime, end: datetime, team: str | None = None) -> list[Spend]:
        return await self._store.spend(by, start, end, team)

    async def correct(self, corrections: Sequence[Correction], rates: Rates = same_currency, zones: Zones = no_zone) -> int:
        return await self._store.correct(corrections, rates, zones)

    async def corrections(self, start: datetime, end: datetime, team: str | None = None) -> list[Correction]:
        return await self._store.corrections(start, end, team)

    async def closed(self, start: datetime, end: datetime, team: str | None = None) -> list[Closed]:
        return await self._store.closed(start, end, team)

    async def tally(self, question: Question, take: Take) -> None:
        await self._store.tally(question, take)

    async def budgets(self, at: datetime, team: str | None = None) -> list[BudgetState]:
        return await self._store.budgets(at, team)

    async def verify(self) -> list[str]:
        return await self._store.verify()

    def _committed(self, op: str, began: float) -> None:
        if self._outage.down:
            self._works(all_told=not self._spool)
        if self._on_commit is not None:
            self._on_commit(op, self._loop.time() - began)

    def _works(self, *, all_told: bool) -> None:
        if self._outage.down:
            log.warning("ledger: the store answers again; %d records wait in the spool", len(self._spool))
        self._outage.answered(all_told=all_told)

    def _failed(self) -> None:
        if not self._outage.down:
            log.error("ledger: the store does not answer; the ends of requests wait in the spool")
            self._outage.failed()
            self._wake.set()

    async def _keep_up(self) -> None:
        """Rounds, a third of a lease apart; soon after something went wrong, and then at pauses that double."""
        longest = self._lease / 3
        pause = longest
        while True:
            await self._round()
            pause = min(2 * pause, longest) if self._spool or self._outage.down else longest
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
                pause = min(_PAUSE_SECONDS, longest)
                await asyncio.sleep(pause)
            self._wake.clear()

    async def _round(self) -> None:
        """Replay and renew first, then reap: a loop that stood still for longer than a lease does not expire its own holds."""
        try:
            await self._replay()
            await self.renew()
            if reaped := await self.reap():
                log.warning("ledger: %d holds expired and were charged by estimate", reaped)
            await self._release_doubtful()
            if await self._spool.adopt():
                self._wake.set()
        except LedgerUnavailable as problem:
            self._failed()
            log.error("ledger: leases were not renewed: %s", problem)
        except Exception:
            # Our own mistake: the next round must come all the same, or every lease would run out.
            log.exception("ledger: leases were not renewed")

    async def _replay(self) -> None:
        """Tell the store what waits, oldest first, as long as it takes it."""
        if not self._spool:
            return
        while records := self._spool.oldest(_REPLAY):
            # A request's hold before its end.
            holds = [record for record in records if record.event == "hold"]
            ends = [record for record in records if record.event != "hold"]
            if not (await self._replay_all(holds) and await self._replay_all(ends)):
                self._failed()
                return
        self._works(all_told=True)

    async def _replay_all(self, records: Collection[Record]) -> bool:
        """False where the store did not take one of them."""
        answers = await asyncio.gather(*(self._replay_one(record) for record in records), return_exceptions=True)
        told = list(zip(records, answers, strict=True))
        await self._spool.done([record for record, answer in told if not isinstance(answer, BaseException)])
        for record, answer in told:
            if isinstance(answer, BaseException) and not isinstance(answer, LedgerUnavailable | TimeoutError):
                await self._spool.give_up(record, f"the ledger refuses it: {type(answer).__name__}")
        return not any(isinstance(answer, LedgerUnavailable | TimeoutError) for answer in answers)

    async def _replay_one(self, record: Record) -> None:
        if record.event != "hold":
            await self._finish(record)
        elif record.hold is not None:
            await self._store.hold(record.hold, record.owner, self._lease, forced=True)

    async def _release_doubtful(self) -> None:
        for id, hold in list(self._doubtful.items()):
            with suppress(HoldError):  # the store never had it
                await self._store.finish("release", _refused(hold))
            del self._doubtful[id]


def _down() -> LedgerUnavailable:
    return LedgerUnavailable("The ledger does not answer.", retry_after=_RETRY_AFTER)


def _refused(hold: Hold) -> LedgerRow:
    """The row of a request that was refused because nobody knew whether it had a hold: nothing was dispatched."""
    return LedgerRow(
        id=hold.id,
        team=hold.team,
        key=hold.key,
        route=hold.route,
        host=hold.host,
        model=hold.model,
        contract="",
        edits=(),
        usage=None,
        currency=hold.currency,
        nano=0,
        parts=None,
        card=hold.card,
        window="",
        policies=hold.policies,
        started=hold.started,
        ended=hold.started,
        status="gateway_error",
        stopped=None,
        attempts=(),
        expected_nano=hold.expected,
        worst_nano=hold.worst,
    )
