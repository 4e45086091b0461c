"""The steward: whatever happens to the store, each request ends once, and the spool has what the store could not take."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from msgspec.structs import replace

from gateway.errors import AlreadyDone, InFlight, LedgerUnavailable
from gateway.ledger.patience import Patience
from gateway.ledger.port import Event, HoldError, State
from gateway.ledger.sqlite import SqliteStore
from gateway.ledger.verify import verify
from gateway.ledger.writer import BATCH
from gateway.money import Parts
from gateway.outcome import Grant, Hold, Idempotency, LedgerRow
from tests.ledgers import HOLD, MONTH, RELEASED, ROW, Embedded, eventually, locked, look, unlock

IMPATIENT = 0.02
"""Seconds that a store waits for the other process: its writes fail soon while `locked`."""
# The most that wait in the test of the limit.
LIMIT = 300
REAL_VFS = apsw.vfs_names()[0]

# What ends a request, its state afterwards, and the entries that it leaves.
ENDS: dict[Event, tuple[LedgerRow, State, list[tuple[str, int]]]] = {
    "settle": (ROW, "settled", [("settle", 400)]),
    "release": (RELEASED, "released", []),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@asynccontextmanager
async def running(path: Path, **more: Any) -> AsyncIterator[Embedded]:
    """A ledger that keeps its promises to the end."""
    ledger = Embedded(path, **more)
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.close()
    assert verify(path) == []


async def end(ledger: Embedded, event: Event, row: LedgerRow) -> None:
    await (ledger.settle(row) if event == "settle" else ledger.release(row))


def entries(path: Path) -> list[tuple[Any, ...]]:
    return look(path, "SELECT kind, nano FROM entry ORDER BY rid, seq")


def look_into(folder: Path) -> list[Path]:
    return list(folder.iterdir())


# -- the store comes back


@pytest.mark.parametrize("event", ENDS)
async def test_an_end_that_another_process_kept_out_ends_well_and_lands_once(path: Path, event: Event) -> None:
    row, state, expected = ENDS[event]
    async with running(path, lease=0.9, patience=IMPATIENT) as ledger:
        await ledger.hold(HOLD)
        lock = locked(path)
        for _ in range(2):
            await end(ledger, event, row)
        assert (ledger.unsettled, ledger.ready()) == (1, False)
        assert await ledger.request("r1") is None

        unlock(lock)
        await eventually(ledger.ready)

        assert ledger.unsettled == 0
        assert await ledger.request("r1") == row
        await end(ledger, event, row)
        assert look(path, "SELECT state FROM hold") == [(state,)]
        assert entries(path) == expected
    assert not ledger.ready()
    assert look_into(path.parent / "spool") == [], "an empty spool leaves no file"


class FullFile(apsw.VFSFile):
    """Takes no byte past its end while there is no room."""

    def __init__(self, room: threading.Event, name: apsw.URIFilename | str | None, flags: list[int]) -> None:
        self._room = room
        super().__init__(REAL_VFS, name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        if not self._room.is_set() and offset + len(data) > self.xFileSize():
            raise apsw.FullError("no space left on device")
        super().xWrite(data, offset)


class FullVFS(apsw.VFS):
    def __init__(self, room: threading.Event, only: str) -> None:
        self._room = room
        self._only = only
        super().__init__("full", REAL_VFS, makedefault=True)

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> apsw.VFSFile:
        text = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        return FullFile(self._room, name, flags) if self._only in text else apsw.VFSFile(REAL_VFS, name, flags)


@contextmanager
def disk_of_some_room(only: str = "") -> Iterator[threading.Event]:
    """Every database with these letters in its name that is opened meanwhile lives on a disk that has room while the event is set."""
    room = threading.Event()
    room.set()
    vfs = FullVFS(room, only)
    try:
        yield room
    finally:
        vfs.unregister()


async def test_charges_of_a_full_disk_land_once_there_is_room(path: Path) -> None:
    """Ledger and spool are both on it: the callers are told, and the rows wait in memory."""
    rows = [replace(ROW, id=f"r{number}", nano=number, parts=Parts(0, 0, number)) for number in range(1, 2 * BATCH)]
    with disk_of_some_room() as room:
        async with running(path, lease=0.9) as ledger:
            await asyncio.gather(*(ledger.hold(replace(HOLD, id=row.id)) for row in rows))
            room.clear()
            answers = await asyncio.gather(*(ledger.settle(row) for row in rows), return_exceptions=True)
            assert {type(answer) for answer in answers} == {LedgerUnavailable}
            assert ledger.unsettled == len(rows)

            room.set()
            await eventually(ledger.ready)

            assert look(path, "SELECT rid, kind, nano FROM entry ORDER BY nano") == [(row.id, "settle", row.nano) for row in rows]
            assert look(path, "SELECT rid FROM request ORDER BY rowid") == [(row.id,) for row in rows], "the oldest come first"


async def test_charges_of_a_ledger_without_room_end_well_in_the_spool(path: Path) -> None:
    rows = [replace(ROW, id=f"r{number}") for number in range(2 * BATCH)]
    with disk_of_some_room("ledger.db") as room:
        async with running(path, lease=0.9) as ledger:
            await asyncio.gather(*(ledger.hold(replace(HOLD, id=row.id)) for row in rows))
            room.clear()
            assert await asyncio.gather(*(ledger.settle(row) for row in rows)) == [True] * len(rows)
            assert ledger.unsettled == len(rows)

            room.set()
            await eventually(ledger.ready)

            assert look(path, "SELECT count(*), sum(nano) FROM entry") == [(len(rows), 400 * len(rows))]


async def test_a_hold_whose_end_waits_is_renewed_and_one_that_has_ended_is_not(path: Path) -> None:
    async with running(path, patience=IMPATIENT) as ledger:
        await ledger.hold(HOLD)
        lock = locked(path)
        await ledger.settle(ROW)
        unlock(lock)

        assert await ledger.renew() == 1
        assert await ledger.settle(ROW)
        assert await ledger.renew() == 0


async def test_a_charge_whose_caller_left_lands_although_it_could_not_be_written_then(path: Path) -> None:
    async with running(path, lease=0.9, patience=IMPATIENT) as ledger:
        await ledger.hold(HOLD)
        lock = locked(path)
        settling = asyncio.create_task(ledger.settle(ROW))
        await asyncio.sleep(0)
        settling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await settling
        with pytest.raises(LedgerUnavailable):  # it waited behind the charge, so that has failed by now
            await ledger.hold(replace(HOLD, id="r2"))

        unlock(lock)
        await eventually(ledger.ready)

        assert look(path, "SELECT rid, nano FROM entry") == [("r1", 400)]


async def test_close_tries_again_what_waits(path: Path) -> None:
    async with running(path, patience=IMPATIENT) as ledger:
        await ledger.hold(HOLD)
        lock = locked(path)
        await ledger.settle(ROW)
        unlock(lock)

    assert entries(path) == [("settle", 400)]


async def test_what_close_cannot_settle_is_settled_at_the_next_start(path: Path) -> None:
    ledger = Embedded(path, patience=IMPATIENT)
    await ledger.start()
    await ledger.hold(HOLD)
    lock = locked(path)
    await ledger.settle(ROW)
    await ledger.close()
    unlock(lock)
    assert entries(path) == []

    async with running(path) as after:
        await eventually(after.ready)
        assert await after.request("r1") == ROW
    assert entries(path) == [("settle", 400)]


async def test_what_no_disk_takes_is_named_without_content_at_the_end_and_expires(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with disk_of_some_room("spool") as room:
        ledger = Embedded(path, lease=0.06, patience=IMPATIENT)
        await ledger.start()
        await ledger.hold(HOLD)
        room.clear()
        lock = locked(path)
        with pytest.raises(LedgerUnavailable):
            await ledger.settle(ROW)

        await ledger.close()
        unlock(lock)

    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"]
    assert "request r1 " in said
    assert "search" not in said
    assert ledger.unsettled == 0
    async with running(path) as after:
        async with asyncio.timeout(10):
            while look(path, "SELECT 1 FROM hold WHERE state = 'held'"):
                await after.reap()
    assert entries(path) == [("expire", 500)]


async def test_the_hold_of_an_end_that_the_store_refuses_for_good_expires(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(path, lease=0.3, patience=IMPATIENT) as ledger:
        await ledger.hold(HOLD)
        lock = locked(path)
        await ledger.settle(replace(ROW, currency="CNY"))
        unlock(lock)

        await eventually(ledger.ready)

        assert "settle of request r1 is given up" in caplog.text
        await eventually(lambda: look(path, "SELECT state FROM hold") == [("expired",)])
        assert (ledger.condition.given_up, ledger.condition.expired) == (1, 1)
    assert entries(path) == [("expire", 500)]
    async with running(path) as after:
        assert after.unsettled == 0


async def test_its_condition_says_what_is_under_way_and_since_when(path: Path) -> None:
    async with running(path, lease=0.3, patience=IMPATIENT) as ledger:
        for number, started in enumerate((HOLD.started, HOLD.started.replace(year=2027))):
            await ledger.hold(replace(HOLD, id=f"r{number}", started=started))
        found = ledger.condition
        assert (found.up, found.waiting, found.given_up, found.expired, found.open_holds) == (True, 0, 0, 0, 2)
        assert (found.oldest, found.lease) == (HOLD.started, 0.3)

        await ledger.settle(replace(ROW, id="r0"))
        assert (ledger.condition.open_holds, ledger.condition.oldest) == (1, HOLD.started.replace(year=2027))

        # Renewed each third of a lease, as long as the store takes it.
        lock = locked(path)
        await eventually(lambda: ledger.condition.lease_age > 0.3)
        assert not ledger.condition.up
        unlock(lock)
        await eventually(lambda: ledger.condition.lease_age < 0.2)
        await ledger.release(replace(RELEASED, id="r1"))
        assert (ledger.condition.open_holds, ledger.condition.oldest) == (0, None)


async def test_the_hold_of_a_course_that_is_lost_expires_and_the_others_are_renewed(path: Path) -> None:
    async with running(path, lease=0.3) as ledger:
        for id in ("refused", "forgotten", "open"):
            await ledger.hold(replace(HOLD, id=id))
        with pytest.raises(HoldError):
            await ledger.release(replace(ROW, id="refused"))
        ledger.forget("forgotten")

        expired = "SELECT rid FROM hold WHERE state = 'expired' ORDER BY rid"
        await eventually(lambda: look(path, expired) == [("forgotten",), ("refused",)])
        (first,) = look(path, "SELECT expires FROM hold WHERE rid = 'open'")
        await eventually(lambda: look(path, "SELECT expires - 300000 FROM hold WHERE rid = 'open'") > [first])

        assert await ledger.settle(replace(ROW, id="open"))
        assert look(path, "SELECT kind FROM entry WHERE rid = 'open'") == [("settle",)]


async def test_no_more_wait_than_there_is_room_for_and_no_hold_is_taken_meanwhile(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ids = [f"r{number:04}" for number in range(LIMIT + 1)]
    async with running(path, lease=2, patience=IMPATIENT, limit=LIMIT) as ledger:
        await asyncio.gather(*(ledger.hold(replace(HOLD, id=id)) for id in ids))
        lock = locked(path)
        answers = await asyncio.gather(*(ledger.settle(replace(ROW, id=id)) for id in ids), return_exceptions=True)
        assert answers[:-1] == [True] * LIMIT
        assert isinstance(answers[-1], LedgerUnavailable)
        assert ledger.unsettled == LIMIT
        assert not ledger.ready()
        assert f"settle of request {ids[-1]} is given up" in caplog.text
        with pytest.raises(LedgerUnavailable, match="Too many") as refusal:
            await ledger.hold(HOLD)
        assert refusal.value.retry_after

        unlock(lock)
        await eventually(ledger.ready)

        assert look(path, "SELECT count(*), sum(nano) FROM entry WHERE kind = 'settle'") == [(LIMIT, LIMIT * 400)]
        await ledger.hold(HOLD)
        await eventually(lambda: look(path, "SELECT rid FROM hold WHERE state = 'expired'") == [(ids[-1],)])


# -- a store that is a network away: its answers are lost, or do not come


class Distant(SqliteStore):
    """Fails before it has done a thing, after it (the answer is lost), or never answers, as `faults` says of the next calls."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.faults: list[str] = []
        self.down = False
        self.asked: list[str] = []

    async def hold(self, hold: Hold, owner: str, lease: float, *, forced: bool = False) -> Grant:
        await self._before("replay" if forced else "hold")
        answer = await super().hold(hold, owner, lease, forced=forced)
        self._after()
        return answer

    async def extend(self, hold: Hold) -> Grant:
        await self._before("extend")
        answer = await super().extend(hold)
        self._after()
        return answer

    async def finish(self, event: Event, row: LedgerRow) -> bool:
        await self._before(event)
        answer = await super().finish(event, row)
        self._after()
        return answer

    async def renew(self, ids: Collection[str], lease: float) -> int:
        if self.down:
            raise LedgerUnavailable("down")
        return await super().renew(ids, lease)

    async def _before(self, op: str) -> None:
        self.asked.append(op)
        if self.down or (self.faults and self.faults[0] == "fails"):
            self.faults = self.faults[1:]
            raise LedgerUnavailable("down")
        if self.faults and self.faults[0] == "hangs":
            self.faults = self.faults[1:]
            await asyncio.Event().wait()

    def _after(self) -> None:
        if self.faults and self.faults.pop(0) == "loses":
            raise LedgerUnavailable("lost")


class Remote(Embedded):
    def __init__(self, path: Path, **more: Any) -> None:
        super().__init__(path, **more)
        self.distant = Distant(path)
        self.store = self._store = self.distant


@asynccontextmanager
async def remote(path: Path, **more: Any) -> AsyncIterator[Remote]:
    ledger = Remote(path, **more)
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.close()
    assert verify(path) == []


@pytest.mark.parametrize("fault", ["fails", "loses"])
async def test_a_hold_whose_answer_is_lost_is_asked_again_and_held_once(path: Path, fault: str) -> None:
    async with remote(path) as ledger:
        ledger.distant.faults = [fault]
        hold = replace(HOLD, least=900, claims=(MONTH,))
        grant = await ledger.hold(hold)

        assert (grant.nano, [state.held for state in grant.budgets]) == (900, [900])
        assert look(path, "SELECT held FROM budget") == [(900,)]
        ledger.distant.faults = [fault]
        grant = await ledger.extend(replace(hold, least=1000, nano=1000, worst=1000))
        assert (grant.nano, [state.held for state in grant.budgets]) == (1000, [1000])
        assert await ledger.settle(ROW)


async def test_a_hold_that_was_refused_because_no_answer_came_is_let_go(path: Path) -> None:
    async with remote(path, lease=0.9) as ledger:
        ledger.distant.faults = ["loses", "loses"]
        with pytest.raises(LedgerUnavailable) as refusal:
            await ledger.hold(HOLD)
        assert refusal.value.retry_after
        assert look(path, "SELECT state FROM hold") == [("held",)]

        await eventually(lambda: look(path, "SELECT state FROM hold") == [("released",)])
        assert look(path, "SELECT nano, status FROM request") == [(0, "gateway_error")]


async def test_a_hold_whose_caller_leaves_while_it_is_asked_for_again_costs_nothing(path: Path) -> None:
    async with remote(path, lease=0.9) as ledger:
        ledger.distant.faults = ["loses", "hangs"]
        asking = asyncio.create_task(ledger.hold(HOLD))
        await eventually(lambda: ledger.distant.asked == ["hold", "hold"])
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await eventually(lambda: look(path, "SELECT state FROM hold WHERE state <> 'held'") != [])
    assert look(path, "SELECT state FROM hold") == [("released",)]


async def test_an_end_that_is_not_answered_in_time_goes_to_the_spool_and_lands_once(path: Path) -> None:
    async with remote(path, lease=0.9, within=0.05) as ledger:
        await ledger.hold(HOLD)
        ledger.distant.faults = ["hangs"]

        assert await ledger.settle(ROW)

        assert ledger.unsettled == 1
        await eventually(ledger.ready)
    assert entries(path) == [("settle", 400)]


async def test_a_wait_that_is_cut_short_is_cancelled_where_somebody_else_wants_that_too() -> None:
    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            waiting.cancel()

    waiting = asyncio.create_task(Patience(0.01).wait(stubborn()))
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_charge_whose_answer_is_lost_is_one_charge(path: Path) -> None:
    async with remote(path, lease=0.9) as ledger:
        await ledger.hold(replace(HOLD, claims=(MONTH,)))
        ledger.distant.faults = ["loses"]
        assert await ledger.settle(ROW)
        assert ledger.unsettled == 1
        await eventually(ledger.ready)
    assert entries(path) == [("settle", 400)]
    assert look(path, "SELECT spent, held FROM budget") == [(400, 0)]


async def test_a_charge_whose_hold_the_store_has_lost_is_made_all_the_same(path: Path) -> None:
    """A power cut may take the last holds of a file with it, and a failover those of a database."""
    async with running(path) as ledger:
        await ledger.hold(replace(HOLD, claims=(MONTH,)))
        look(path, "DELETE FROM hold")
        look(path, "UPDATE budget SET held = 0")
        assert await ledger.settle(ROW)
    assert entries(path) == [("settle", 400)]


async def test_while_the_store_is_down_it_is_asked_ever_less_often(path: Path) -> None:
    async with remote(path, lease=12) as ledger:
        await ledger.hold(HOLD)
        ledger.distant.down = True
        await ledger.settle(ROW)
        with pytest.raises(LedgerUnavailable):
            await ledger.hold(replace(HOLD, id="r2"))
        assert ledger.distant.asked == ["hold", "settle", "hold"], "while it is known to be down, a hold is not asked for twice"
        ledger.distant.down = False
        await eventually(ledger.ready)


# -- FAREGATE_LEDGER_DOWN=open:AMOUNT: amounts are in nano-units below, so 0.000002 is 2000 of them

OPEN = "open:0.000002"


async def test_each_team_may_spend_the_allowance_in_each_currency_while_the_store_is_down(path: Path) -> None:
    async with remote(path, ledger_down=OPEN) as ledger:
        ledger.distant.down = True
        assert await ledger.hold(HOLD) == Grant(900)
        assert await ledger.hold(replace(HOLD, id="r2", nano=200)) == Grant(900), "the worst case, since nothing can be stretched"
        with pytest.raises(LedgerUnavailable) as refusal:
            await ledger.hold(replace(HOLD, id="r3"))
        assert refusal.value.retry_after
        await ledger.hold(replace(HOLD, id="r4", team="ads"))
        await ledger.hold(replace(HOLD, id="r5", currency="CNY"))

        assert ledger.ready(), "requests may go on"
        assert ledger.distant.asked.count("hold") == 2, "the rest does not wait for a store that is known to be down"
        await ledger.settle(ROW)
        await ledger.hold(replace(HOLD, id="r6", worst=500)), "r1 cost 400 in the end"
        with pytest.raises(LedgerUnavailable):
            await ledger.hold(replace(HOLD, id="r7", worst=300))
        await ledger.release(replace(RELEASED, id="r2"))
        await ledger.hold(replace(HOLD, id="r8"))

        ledger.distant.down = False
        for id in ("r4", "r6", "r8"):
            await ledger.settle(replace(ROW, id=id))
        await ledger.settle(replace(ROW, id="r5", currency="CNY"))
        await eventually(lambda: ledger.unsettled == 0)
    assert look(path, "SELECT rid, nano FROM entry ORDER BY rid") == [(id, 400) for id in ("r1", "r4", "r5", "r6", "r8")]
    assert look(path, "SELECT rid FROM hold WHERE state = 'released'") == [("r2",)]


async def test_what_was_let_through_is_held_once_the_store_is_back_and_its_overrun_recorded(path: Path) -> None:
    claims = (replace(MONTH, limit=700),)
    async with remote(path, lease=0.9, ledger_down=OPEN) as ledger:
        ledger.distant.down = True
        await ledger.hold(replace(HOLD, least=900, claims=claims))
        ledger.distant.down = False
        await eventually(lambda: ledger.unsettled == 0)

        assert look(path, "SELECT state, nano FROM hold") == [("held", 900)]
        assert look(path, "SELECT held, lim, overrun FROM budget") == [(900, 700, 200)]
        assert await ledger.renew() == 1
        await ledger.settle(ROW)
    assert look(path, "SELECT spent, held, peak FROM budget") == [(400, 0, 900)]


async def test_the_allowance_is_whole_again_in_the_next_outage(path: Path) -> None:
    async with remote(path, lease=0.9, ledger_down=OPEN) as ledger:
        for outage in ("a", "b"):
            ledger.distant.down = True
            for number in range(2):
                await ledger.hold(replace(HOLD, id=f"{outage}{number}"))
            with pytest.raises(LedgerUnavailable):
                await ledger.hold(replace(HOLD, id=f"{outage}2"))
            for number in range(2):
                await ledger.settle(replace(ROW, id=f"{outage}{number}"))
            ledger.distant.down = False
            await eventually(lambda: ledger.unsettled == 0)
    assert look(path, "SELECT count(*) FROM entry") == [(4,)]


async def test_without_the_ledger_the_same_request_again_waits_for_the_first(path: Path) -> None:
    again = Idempotency("key", "body")
    async with remote(path, lease=0.9, ledger_down=OPEN) as ledger:
        ledger.distant.down = True
        await ledger.hold(replace(HOLD, idempotency=again))
        with pytest.raises(InFlight):
            await ledger.hold(replace(HOLD, id="r2", idempotency=again))
        await ledger.settle(ROW)
        with pytest.raises(AlreadyDone) as refusal:
            await ledger.hold(replace(HOLD, id="r2", idempotency=again))
        assert refusal.value.details == {"id": "r1"}
        ledger.distant.down = False
        with pytest.raises(AlreadyDone):
            await ledger.hold(replace(HOLD, id="r2", idempotency=again))
        await eventually(lambda: ledger.unsettled == 0)
        with pytest.raises(AlreadyDone):
            await ledger.hold(replace(HOLD, id="r3", idempotency=again))


async def test_without_the_ledger_what_cost_nothing_may_be_asked_again(path: Path) -> None:
    again = Idempotency("key", "body")
    async with remote(path, lease=0.9, ledger_down=OPEN) as ledger:
        ledger.distant.down = True
        await ledger.hold(replace(HOLD, idempotency=again))
        await ledger.release(RELEASED)
        await ledger.hold(replace(HOLD, id="r2", idempotency=again))
        await ledger.settle(replace(ROW, id="r2"))
        ledger.distant.down = False
        await eventually(lambda: ledger.unsettled == 0)
    assert look(path, "SELECT rid, nano FROM entry") == [("r2", 400)]


async def test_no_more_is_let_through_than_there_is_room_for_its_end(path: Path) -> None:
    async with remote(path, lease=0.9, ledger_down="open:1", limit=7) as ledger:
        await ledger.hold(HOLD)
        ledger.distant.down = True
        ids = [f"let{number}" for number in range(7)]
        answers = await asyncio.gather(*(ledger.hold(replace(HOLD, id=id)) for id in ids), return_exceptions=True)
        let = [id for id, answer in zip(ids, answers, strict=True) if isinstance(answer, Grant)]
        # The end of the first one, and a hold and an end of each other.
        assert let == ids[:3]
        assert await asyncio.gather(*(ledger.settle(replace(ROW, id=id)) for id in ["r1", *let])) == [True] * 4
        ledger.distant.down = False
        await eventually(lambda: ledger.unsettled == 0)
    assert look(path, "SELECT kind, count(*), sum(nano) FROM entry GROUP BY kind") == [("settle", 4, 1600)]


async def test_an_extension_without_the_store_is_let_through_within_the_allowance(path: Path) -> None:
    async with remote(path, lease=0.9, ledger_down=OPEN) as ledger:
        await ledger.hold(replace(HOLD, nano=100))
        ledger.distant.down = True
        assert await ledger.extend(replace(HOLD, nano=300)) == Grant(900)
        with pytest.raises(LedgerUnavailable):
            await ledger.extend(replace(HOLD, nano=300, worst=3000))
        await ledger.hold(replace(HOLD, id="r2"))
        assert await ledger.extend(replace(HOLD, id="r2", host="gmi", currency="CNY")) == Grant(900), "nobody knows of it yet"
        ledger.distant.down = False
        await ledger.settle(ROW)
        await ledger.settle(replace(ROW, id="r2", currency="CNY"))
        await eventually(lambda: ledger.unsettled == 0)
    assert look(path, "SELECT rid, currency, nano FROM entry ORDER BY rid") == [("r1", "USD", 400), ("r2", "CNY", 400)]


async def test_nothing_is_let_through_that_no_disk_remembers(path: Path) -> None:
    with disk_of_some_room("spool") as room:
        async with remote(path, lease=0.9, ledger_down=OPEN) as ledger:
            room.clear()
            ledger.distant.down = True
            with pytest.raises(LedgerUnavailable):
                await ledger.hold(HOLD)
            ledger.distant.down = False
            assert ledger.unsettled == 0
    assert look(path, "SELECT count(*) FROM hold") == [(0,)]


async def test_closed_lets_nothing_through(path: Path) -> None:
    async with remote(path) as ledger:
        ledger.distant.down = True
        with pytest.raises(LedgerUnavailable):
            await ledger.hold(HOLD)
        assert not ledger.ready()
        ledger.distant.down = False
