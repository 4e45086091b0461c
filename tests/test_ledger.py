"""The embedded ledger: one charge for each request whatever happens, in groups, and nothing half written."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.errors import LedgerUnavailable
from gateway.ledger import operations
from gateway.ledger.columns import request_columns, request_row
from gateway.ledger.flusher import Flusher
from gateway.ledger.port import TRANSITIONS, Event, HoldError, Spend, State
from gateway.ledger.sqlite import SqliteLedger, check_sqlite
from gateway.ledger.unsettled import LIMIT
from gateway.ledger.verify import BUDGETS, INVARIANTS, verify
from gateway.ledger.writer import BATCH, Writer
from gateway.money import Parts
from gateway.outcome import Attempt, Claim, Grant, Hold, LedgerRow
from gateway.usage import Sources, Usage

AT = datetime(2026, 11, 20, 2, 0, 0, 123456, tzinfo=UTC)
HOLD = Hold("r1", "search", "search-1a2b3c", "r", "deepseek", "deepseek-v4-pro", "USD", 900, 500, 900, "card", "9f", AT)
ROW = LedgerRow(
    id="r1",
    team="search",
    key="search-1a2b3c",
    route="r",
    host="deepseek",
    model="deepseek-v4-pro",
    contract="deepseek-v4-pro",
    edits=("max_tokens=9000->8192", "drop_user"),
    usage=Usage(64, 10, 30, 12, Sources(reasoning="unknown")),
    currency="USD",
    nano=400,
    parts=Parts(50, 150, 200),
    card="card",
    window="peak",
    policies="9f",
    started=AT,
    ended=AT + timedelta(seconds=3, microseconds=1),
    status="ok",
    stopped=None,
    attempts=(Attempt("gmi", "v4", "upstream_error", "none", 0), Attempt("deepseek", "deepseek-v4-pro", "ok", "known", 400)),
    expected_nano=500,
    worst_nano=900,
    host_nano=399,
    disputed=True,
    stream=True,
)
MONTH = Claim("search", "month", "", "2026-11", "USD", 10_000, None)
REAL_VFS = apsw.vfs_names()[0]
RELEASED = replace(ROW, nano=0, usage=None, parts=None, status="client_error", attempts=())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[SqliteLedger]:
    ledger = SqliteLedger(path)
    await ledger.start()
    yield ledger
    problems = await ledger.verify()
    await ledger.close()
    assert problems == []


def look(path: Path, query: str) -> list[tuple[apsw.SQLiteValue, ...]]:
    connection = apsw.Connection(str(path))
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


async def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come true within 10 s")


def locked(path: Path) -> apsw.Connection:
    """Another process's write transaction, as far as the ledger can tell."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(5000)
    connection.execute("BEGIN IMMEDIATE")
    return connection


def unlock(connection: apsw.Connection) -> None:
    connection.execute("COMMIT")
    connection.close()


async def expired_hold(path: Path) -> None:
    """A hold whose lease was over at once, and the reaper that found it."""
    brief = SqliteLedger(path, lease=1e-6)
    await brief.start()
    await brief.hold(HOLD)
    async with asyncio.timeout(10):
        while await brief.request("r1") is None:
            await brief.reap()
    await brief.close()


# -- one request


async def test_a_settled_request_reads_back_as_it_was_written(ledger: SqliteLedger) -> None:
    await ledger.hold(HOLD)
    assert await ledger.request("r1") is None

    assert await ledger.settle(ROW)

    assert await ledger.request("r1") == ROW


async def test_a_released_request_keeps_its_row_and_costs_nothing(ledger: SqliteLedger, path: Path) -> None:
    await ledger.hold(HOLD)
    await ledger.release(RELEASED)

    assert await ledger.request("r1") == RELEASED
    assert look(path, "SELECT * FROM entry") == []


usages = st.builds(
    lambda hit, miss, output, reasoning, source: Usage(hit, miss, output + reasoning, reasoning, Sources(source, source, source, source)),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.sampled_from(["reported", "counted", "unknown"]),
)
instants = st.datetimes(timezones=st.just(UTC))


@given(
    usage=st.none() | usages,
    parts=st.none() | st.builds(Parts, *[st.integers(0, 2**40)] * 3),
    started=instants,
    edits=st.lists(st.text(max_size=20)).map(tuple),
    stopped=st.none() | st.text(max_size=20),
    host_nano=st.none() | st.integers(0, 2**62),
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_no_row_loses_anything_in_columns(
    usage: Usage | None,
    parts: Parts | None,
    started: datetime,
    edits: tuple[str, ...],
    stopped: str | None,
    host_nano: int | None,
    flags: tuple[bool, bool],
) -> None:
    row = replace(ROW, usage=usage, parts=parts, started=started, edits=edits, stopped=stopped, host_nano=host_nano)
    row = replace(row, disputed=flags[0], stream=flags[1])
    assert request_row(request_columns(row)) == row


# -- the states of a hold


async def arrange(ledger: SqliteLedger, path: Path, state: State) -> None:
    if state == "expired":
        await expired_hold(path)
        return
    await ledger.hold(HOLD)
    if state == "settled":
        await ledger.settle(replace(ROW, nano=300, parts=Parts(0, 100, 200)))
    elif state == "released":
        await ledger.release(RELEASED)


# (state, event): the state after it, the kinds of all entries, and the charge. What expired was charged its expected 500.
AFTER: dict[tuple[State, Event], tuple[State, list[tuple[str, int]], int]] = {
    ("held", "settle"): ("settled", [("settle", 400)], 400),
    ("held", "release"): ("released", [], 0),
    ("expired", "settle"): ("settled", [("expire", 500), ("adjust", -100)], 400),
    ("expired", "release"): ("released", [("expire", 500), ("adjust", -500)], 0),
    ("released", "settle"): ("settled", [("adjust", 400)], 400),
    ("settled", "settle"): ("settled", [("settle", 300)], 300),
    ("settled", "release"): ("settled", [("settle", 300)], 300),
    ("released", "release"): ("released", [], 0),
}


@pytest.mark.parametrize(("state", "event"), AFTER)
async def test_a_hold_ends_once_and_late_truth_is_an_adjusting_entry(ledger: SqliteLedger, path: Path, state: State, event: Event) -> None:
    await arrange(ledger, path, state)

    if event == "settle":
        assert await ledger.settle(ROW) is ((state, event) in TRANSITIONS)
    else:
        await ledger.release(RELEASED)

    state_after, entries, charge = AFTER[state, event]
    assert look(path, "SELECT state FROM hold") == [(state_after,)]
    assert look(path, "SELECT kind, nano FROM entry ORDER BY seq") == entries
    row = await ledger.request("r1")
    assert row is not None and row.nano == charge


def test_the_table_of_states_leaves_settled_for_nothing() -> None:
    asked = {(state, event) for state, event in AFTER if (state, event) in TRANSITIONS}
    assert asked | {("held", "expire")} == set(TRANSITIONS)
    assert {step.to for step in TRANSITIONS.values()} <= set(get_args(State))
    assert not [event for state, event in TRANSITIONS if state == "settled"]


async def test_an_expired_hold_is_charged_what_was_expected_and_marked(ledger: SqliteLedger, path: Path) -> None:
    await expired_hold(path)

    row = await ledger.request("r1")

    assert row is not None
    assert (row.nano, row.status, row.stopped, row.usage, row.parts) == (500, "gateway_error", "expired", None, None)
    assert look(path, "SELECT kind, nano, source FROM entry") == [("expire", 500, "estimate")]


async def test_of_many_settles_at_once_exactly_one_has_an_effect(ledger: SqliteLedger, path: Path) -> None:
    await ledger.hold(HOLD)

    answers = await asyncio.gather(*(ledger.settle(replace(ROW, ended=AT + timedelta(seconds=n))) for n in range(50)))

    assert answers.count(True) == 1
    assert look(path, "SELECT sum(nano), count(*) FROM entry") == [(400, 1)]


async def test_a_charge_above_its_hold_is_recorded_and_shows_as_an_overrun(ledger: SqliteLedger, path: Path) -> None:
    await ledger.hold(HOLD)

    assert await ledger.settle(replace(ROW, nano=1000, parts=Parts(0, 0, 1000)))

    assert look(path, "SELECT * FROM overrun") == [("r1", "USD", 100)]


async def test_an_explicit_charge_of_zero_is_settled(ledger: SqliteLedger, path: Path) -> None:
    await ledger.hold(HOLD)
    assert await ledger.settle(replace(ROW, nano=0, parts=Parts(0, 0, 0), usage=Usage(0, 0, 0)))
    assert look(path, "SELECT kind, nano, source FROM entry") == [("settle", 0, "reported")]


async def test_counted_usage_is_marked_in_the_entry(ledger: SqliteLedger, path: Path) -> None:
    await ledger.hold(HOLD)
    await ledger.settle(replace(ROW, usage=Usage(0, 10, 20, 0, Sources("unknown", "counted", "counted", "counted"))))
    assert look(path, "SELECT source FROM entry") == [("counted",)]


async def test_the_hold_of_the_next_attempt_takes_the_place_of_the_first(ledger: SqliteLedger, path: Path) -> None:
    await ledger.hold(HOLD)

    await ledger.extend(replace(HOLD, host="gmi", model="v4", nano=2000, worst=2000, currency="CNY"))

    assert look(path, "SELECT host, model, nano, currency, state FROM hold") == [("gmi", "v4", 2000, "CNY", "held")]
    assert await ledger.settle(replace(ROW, currency="CNY"))
    with pytest.raises(HoldError):
        await ledger.extend(HOLD)


async def test_what_contradicts_the_hold_is_refused_and_changes_nothing(ledger: SqliteLedger, path: Path) -> None:
    await ledger.hold(HOLD)
    before = look(path, "SELECT * FROM hold")

    for wrong in (
        ledger.hold(replace(HOLD, nano=1)),
        ledger.settle(replace(ROW, currency="CNY")),
        ledger.settle(replace(ROW, id="unknown")),
        ledger.release(replace(RELEASED, id="unknown")),
        ledger.release(ROW),
    ):
        with pytest.raises(HoldError):
            await wrong

    assert look(path, "SELECT * FROM hold") == before
    assert look(path, "SELECT count(*) FROM request") == [(0,)]


# -- leases, by the database's clock alone


async def test_a_renewed_lease_outlives_the_first_and_ends_by_itself(ledger: SqliteLedger, path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(5000)
    db = connection.cursor()
    operations.hold(db, 1000, replace(HOLD, id="mine"), "me", 30)
    operations.hold(db, 1000, replace(HOLD, id="yours"), "you", 30)

    assert operations.renew(db, 1020, {"mine", "of nobody"}, 30) == 1

    assert operations.reap(db, 1029) == 0
    assert operations.reap(db, 1030) == 1
    assert db.execute("SELECT rid, state FROM hold ORDER BY rid").fetchall() == [("mine", "held"), ("yours", "expired")]
    assert operations.reap(db, 1049) == 0
    assert operations.reap(db, 1050) == 1
    connection.close()


async def test_the_reaper_works_in_bounded_steps_until_nothing_is_overdue(ledger: SqliteLedger, path: Path) -> None:
    connection = locked(path)
    db = connection.cursor()
    for number in range(operations.REAP + 50):
        operations.hold(db, 0, replace(HOLD, id=f"r{number}"), "gone", 1)
    assert operations.reap(db, 1) == operations.REAP
    db.execute("COMMIT")
    connection.close()

    await ledger.reap()

    assert look(path, "SELECT state, count(*) FROM hold GROUP BY state") == [("expired", operations.REAP + 50)]


async def test_a_lease_goes_on_while_its_ledger_lives(path: Path) -> None:
    # A lease of 60 ms, until it has been moved by 400 ms: without renewal the hold would expire.
    ledger = SqliteLedger(path, lease=0.06)
    await ledger.start()
    await ledger.hold(HOLD)
    (first,) = look(path, "SELECT expires FROM hold")

    await eventually(lambda: look(path, "SELECT expires - 400000 FROM hold") >= [first])

    assert await ledger.settle(ROW)
    assert look(path, "SELECT kind FROM entry") == [("settle",)]
    await ledger.close()


async def test_a_hold_whose_caller_left_before_it_was_written_never_is(ledger: SqliteLedger, path: Path) -> None:
    lock = locked(path)
    holding = asyncio.create_task(ledger.hold(HOLD))
    await asyncio.sleep(0)
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding
    unlock(lock)

    await ledger.hold(replace(HOLD, id="r2"))

    assert look(path, "SELECT rid FROM hold") == [("r2",)]


async def test_a_hold_whose_caller_left_after_it_was_written_ends_released(path: Path) -> None:
    holding: asyncio.Task[Grant] | None = None
    loop = asyncio.get_running_loop()

    def cancel_once_written() -> None:
        assert holding is not None
        if look(path, "SELECT rid FROM hold"):
            holding.cancel()
        elif not holding.done():
            loop.call_soon(cancel_once_written)

    ledger = SqliteLedger(path)
    await ledger.start()
    holding = asyncio.create_task(ledger.hold(HOLD))
    await asyncio.sleep(0)
    loop.call_soon(cancel_once_written)
    with pytest.raises(asyncio.CancelledError):
        await holding

    await ledger.close()
    assert look(path, "SELECT state FROM hold") == [("released",)]
    assert look(path, "SELECT count(*) FROM request") == [(0,)]


async def test_a_charge_stands_when_its_caller_leaves(ledger: SqliteLedger, path: Path) -> None:
    await ledger.hold(HOLD)
    settling = asyncio.create_task(ledger.settle(ROW))
    await asyncio.sleep(0)
    settling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await settling

    assert not await ledger.settle(ROW)
    assert look(path, "SELECT nano FROM entry") == [(400,)]


# -- groups


async def test_500_requests_at_once_share_a_few_commits(ledger: SqliteLedger, path: Path) -> None:
    async def one(number: int) -> None:
        await ledger.hold(replace(HOLD, id=f"r{number}"))
        assert await ledger.settle(replace(ROW, id=f"r{number}"))

    before = ledger.commits
    await asyncio.gather(*(one(number) for number in range(500)))

    assert 2 * 500 / BATCH <= ledger.commits - before <= 100
    assert look(path, "SELECT count(*), sum(nano) FROM entry") == [(500, 500 * 400)]


async def test_a_refused_operation_does_not_break_up_its_group(ledger: SqliteLedger) -> None:
    await ledger.hold(replace(HOLD, id="r9"))
    before = ledger.commits

    holds = (ledger.hold(replace(HOLD, id=f"r{number}")) for number in range(100))
    answers = await asyncio.gather(*holds, return_exceptions=True)

    assert [number for number, answer in enumerate(answers) if isinstance(answer, Exception)] == [9]
    assert ledger.commits - before < 20


async def test_only_groups_with_a_charge_are_flushed(ledger: SqliteLedger) -> None:
    await asyncio.gather(*(ledger.hold(replace(HOLD, id=f"r{number}")) for number in range(20)))
    await ledger.release(replace(RELEASED, id="r0"))
    assert ledger.flushes == 0

    await ledger.settle(replace(ROW, id="r1"))
    assert ledger.flushes == 1


async def test_an_operation_that_fails_half_way_leaves_nothing_and_harms_no_neighbour(ledger: SqliteLedger, path: Path) -> None:
    ids = [f"r{number}" for number in range(40)]
    await asyncio.gather(*(ledger.hold(replace(HOLD, id=id)) for id in ids))

    # An amount that no 64-bit column takes fails after the hold's state was written; a second hold is refused.
    rows = [replace(ROW, id=id, nano=2**70 if id == "r20" else 400) for id in ids]
    settles = (ledger.settle(row) for row in rows)
    answers = await asyncio.gather(ledger.hold(replace(HOLD, id="r7")), *settles, return_exceptions=True)

    assert isinstance(answers[0], HoldError)
    assert isinstance(answers[21], OverflowError)
    assert answers.count(True) == 39
    assert look(path, "SELECT rid FROM hold WHERE state = 'held'") == [("r20",)]
    assert look(path, "SELECT count(*) FROM entry") == [(39,)]
    assert await ledger.settle(replace(ROW, id="r20"))


async def test_a_store_that_is_full_fails_the_group_and_works_again_with_room(path: Path) -> None:
    db = apsw.Connection(str(path))
    db.execute("PRAGMA journal_mode = WAL; CREATE TABLE t (x)").fetchall()
    pages = db.pragma("page_count")
    db.pragma("max_page_count", pages)
    flusher = Flusher(lambda: None, asyncio.get_running_loop())
    writer = Writer(db, flusher, asyncio.get_running_loop(), patience=5)

    def fill(db: apsw.Cursor, _now: int) -> None:
        db.execute("INSERT INTO t VALUES (zeroblob(20000))")

    answers = await asyncio.gather(*(writer.submit(fill, durable=True) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [LedgerUnavailable] * 3
    assert "/" not in str(answers[0])

    db.pragma("max_page_count", 10_000)
    await writer.submit(fill, durable=True)
    await writer.close()
    await flusher.close()
    db.close()
    assert look(path, "SELECT count(*) FROM t") == [(1,)]


# -- what the store could not take


IMPATIENT = 0.02
"""Seconds that a ledger waits for the other process: its writes fail soon while `locked`."""

# What ends a request, its state afterwards, and the entries that it leaves.
ENDS: dict[Event, tuple[LedgerRow, State, list[tuple[str, int]]]] = {
    "settle": (ROW, "settled", [("settle", 400)]),
    "release": (RELEASED, "released", []),
}


async def end(ledger: SqliteLedger, event: Event, row: LedgerRow) -> None:
    await (ledger.settle(row) if event == "settle" else ledger.release(row))


async def ends_expired(path: Path) -> list[tuple[apsw.SQLiteValue, ...]]:
    """The entries, once another gateway has found that no hold is open any more."""
    other = SqliteLedger(path)
    await other.start()
    async with asyncio.timeout(10):
        while look(path, "SELECT 1 FROM hold WHERE state = 'held'"):
            await other.reap()
    assert await other.verify() == []
    await other.close()
    return look(path, "SELECT rid, kind, nano FROM entry ORDER BY rid")


@pytest.mark.parametrize("event", ENDS)
async def test_what_another_process_kept_out_lands_once_as_soon_as_it_is_gone(path: Path, event: Event) -> None:
    row, state, entries = ENDS[event]
    ledger = SqliteLedger(path, lease=0.9, patience=IMPATIENT)
    await ledger.start()
    await ledger.hold(HOLD)
    lock = locked(path)
    for _ in range(2):
        with pytest.raises(LedgerUnavailable):
            await end(ledger, event, row)
    assert (ledger.unsettled, ledger.ready()) == (1, False)
    assert await ledger.request("r1") is None

    unlock(lock)
    await eventually(ledger.ready)

    assert ledger.unsettled == 0
    assert await ledger.request("r1") == row
    await end(ledger, event, row)
    assert look(path, "SELECT state FROM hold") == [(state,)]
    assert look(path, "SELECT kind, nano FROM entry") == entries
    assert await ledger.verify() == []
    await ledger.close()
    assert not ledger.ready()


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
    def __init__(self, room: threading.Event) -> None:
        self._room = room
        super().__init__("full", REAL_VFS, makedefault=True)

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> apsw.VFSFile:
        return FullFile(self._room, name, flags)


@contextmanager
def disk_of_some_room() -> Iterator[threading.Event]:
    """Every database that is opened meanwhile lives on a disk that has room while the event is set."""
    room = threading.Event()
    room.set()
    vfs = FullVFS(room)
    try:
        yield room
    finally:
        vfs.unregister()


async def test_charges_of_a_full_disk_land_once_there_is_room(path: Path) -> None:
    rows = [replace(ROW, id=f"r{number}", nano=number, parts=Parts(0, 0, number)) for number in range(1, 2 * BATCH)]
    with disk_of_some_room() as room:
        ledger = SqliteLedger(path, lease=0.9)
        await ledger.start()
        await asyncio.gather(*(ledger.hold(replace(HOLD, id=row.id)) for row in rows))
        room.clear()
        answers = await asyncio.gather(*(ledger.settle(row) for row in rows), return_exceptions=True)
        assert {type(answer) for answer in answers} == {LedgerUnavailable}
        assert ledger.unsettled == len(rows)

        room.set()
        await eventually(ledger.ready)

        assert look(path, "SELECT rid, kind, nano FROM entry ORDER BY nano") == [(row.id, "settle", row.nano) for row in rows]
        assert look(path, "SELECT rid FROM request ORDER BY rowid") == [(row.id,) for row in rows], "the oldest come first"
        assert await ledger.verify() == []
        await ledger.close()


async def test_a_hold_whose_charge_waits_is_renewed_and_one_that_has_ended_is_not(path: Path) -> None:
    ledger = SqliteLedger(path, patience=IMPATIENT)
    await ledger.start()
    await ledger.hold(HOLD)
    lock = locked(path)
    with pytest.raises(LedgerUnavailable):
        await ledger.settle(ROW)
    unlock(lock)

    assert await ledger.renew() == 1
    assert await ledger.settle(ROW)
    assert await ledger.renew() == 0
    await ledger.close()


async def test_a_charge_whose_caller_left_lands_although_it_could_not_be_written_then(path: Path) -> None:
    ledger = SqliteLedger(path, lease=0.9, patience=IMPATIENT)
    await ledger.start()
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
    await ledger.close()


async def test_close_tries_again_what_waits(path: Path) -> None:
    ledger = SqliteLedger(path, patience=IMPATIENT)
    await ledger.start()
    await ledger.hold(HOLD)
    lock = locked(path)
    with pytest.raises(LedgerUnavailable):
        await ledger.settle(ROW)
    unlock(lock)

    await ledger.close()

    assert look(path, "SELECT kind, nano FROM entry") == [("settle", 400)]


async def test_what_close_cannot_settle_is_named_without_content_and_expires(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ledger = SqliteLedger(path, lease=0.06, patience=IMPATIENT)
    await ledger.start()
    await ledger.hold(HOLD)
    lock = locked(path)
    with pytest.raises(LedgerUnavailable):
        await ledger.settle(ROW)

    await ledger.close()
    unlock(lock)

    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"]
    assert "request r1 " in said
    assert "search" not in said
    assert ledger.unsettled == 0
    assert await ends_expired(path) == [("r1", "expire", 500)]


async def test_the_hold_of_a_charge_that_is_given_up_expires(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ledger = SqliteLedger(path, lease=0.3, patience=IMPATIENT)
    await ledger.start()
    await ledger.hold(HOLD)
    lock = locked(path)
    with pytest.raises(LedgerUnavailable):
        await ledger.settle(replace(ROW, currency="CNY"))
    unlock(lock)

    await eventually(ledger.ready)

    assert "settle of request r1 is given up" in caplog.text
    await eventually(lambda: look(path, "SELECT state FROM hold") == [("expired",)])
    assert look(path, "SELECT kind, nano FROM entry") == [("expire", 500)]
    await ledger.close()


async def test_the_hold_of_a_course_that_is_lost_expires_and_the_others_are_renewed(path: Path) -> None:
    ledger = SqliteLedger(path, lease=0.3)
    await ledger.start()
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
    await ledger.close()


async def test_no_more_wait_than_there_is_room_for_and_no_hold_is_taken_meanwhile(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ids = [f"r{number:04}" for number in range(LIMIT + 1)]
    ledger = SqliteLedger(path, lease=2, patience=IMPATIENT)
    await ledger.start()
    await asyncio.gather(*(ledger.hold(replace(HOLD, id=id)) for id in ids))
    lock = locked(path)
    await asyncio.gather(*(ledger.settle(replace(ROW, id=id)) for id in ids), return_exceptions=True)
    assert ledger.unsettled == LIMIT
    assert f"settle of request {ids[-1]} is given up" in caplog.text
    with pytest.raises(LedgerUnavailable, match="Too many"):
        await ledger.hold(HOLD)

    unlock(lock)
    await eventually(ledger.ready)

    assert look(path, "SELECT count(*), sum(nano) FROM entry WHERE kind = 'settle'") == [(LIMIT, LIMIT * 400)]
    await ledger.hold(HOLD)
    await eventually(lambda: look(path, "SELECT rid FROM hold WHERE state = 'expired'") == [(ids[-1],)])
    await ledger.close()


# -- flushes


class Disk:
    """A disk whose flush lasts until it is let go."""

    def __init__(self) -> None:
        self.asked = 0
        self._turn = threading.Semaphore(0)
        self.broken = False

    def sync(self, _descriptor: int) -> None:
        self.asked += 1
        assert self._turn.acquire(timeout=20)
        if self.broken:
            raise OSError(5, "Input/output error")

    def let_go(self, flushes: int = 1) -> None:
        self._turn.release(flushes)


async def test_charges_wait_for_a_flush_and_share_it_and_holds_do_not(path: Path) -> None:
    disk = Disk()
    ledger = SqliteLedger(path, sync=disk.sync)
    await ledger.start()
    ids = [f"r{number}" for number in range(10)]
    await asyncio.gather(*(ledger.hold(replace(HOLD, id=id)) for id in ids))

    first = asyncio.create_task(ledger.settle(replace(ROW, id="r0")))
    await eventually(lambda: disk.asked == 1)
    others = [asyncio.create_task(ledger.settle(replace(ROW, id=id))) for id in ids[1:]]
    await ledger.hold(replace(HOLD, id="r10"))
    await eventually(lambda: look(path, "SELECT count(*) FROM entry") == [(10,)])
    assert not [task for task in (first, *others) if task.done()]

    disk.let_go()
    assert await first
    assert not [task for task in others if task.done()]
    disk.let_go()
    assert await asyncio.gather(*others) == [True] * 9
    assert ledger.flushes == disk.asked == 2
    disk.let_go()
    await ledger.close()


async def test_after_a_flush_that_failed_nothing_is_acknowledged_any_more(path: Path) -> None:
    disk = Disk()
    disk.broken = True
    disk.let_go(3)
    ledger = SqliteLedger(path, sync=disk.sync)
    await ledger.start()
    await ledger.hold(HOLD)
    with pytest.raises(LedgerUnavailable, match="flushed"):
        await ledger.settle(ROW)

    disk.broken = False
    with pytest.raises(LedgerUnavailable, match="flushed"):
        await ledger.hold(replace(HOLD, id="r2"))
    assert ledger.flushes == 0
    assert (ledger.unsettled, ledger.ready()) == (1, False)
    await ledger.close()


async def test_the_log_is_copied_into_the_file_and_starts_anew(path: Path) -> None:
    def times_started() -> int:
        """The log's header counts them, in its fourth word."""
        return int.from_bytes(path.with_name("ledger.db-wal").read_bytes()[12:16])

    ledger = SqliteLedger(path, log_pages=50)
    await ledger.start()
    first = times_started()
    for number in range(50):
        await ledger.hold(replace(HOLD, id=f"r{number}"))

    await eventually(lambda: times_started() > first)
    assert await ledger.verify() == []
    await ledger.close()


async def test_operations_wait_in_order_while_another_process_writes_and_the_loop_goes_on(ledger: SqliteLedger, path: Path) -> None:
    await ledger.hold(HOLD)
    lock = locked(path)
    settling = asyncio.create_task(ledger.settle(ROW))
    again = asyncio.create_task(ledger.settle(ROW))
    loop = asyncio.get_running_loop()
    longest, last = 0.0, loop.time()
    for _ in range(50):
        await asyncio.sleep(0.001)
        longest, last = max(longest, loop.time() - last), loop.time()
    assert not settling.done()
    unlock(lock)

    assert list(await asyncio.gather(settling, again)) == [True, False]
    assert longest < 1, "a busy timeout of seconds would have stopped the loop"


async def test_reading_goes_on_while_writing_waits(ledger: SqliteLedger, path: Path) -> None:
    await ledger.hold(HOLD)
    await ledger.settle(ROW)
    lock = locked(path)
    waiting = asyncio.create_task(ledger.hold(replace(HOLD, id="r2")))

    assert await ledger.request("r1") == ROW
    assert not waiting.done()

    unlock(lock)
    await waiting


async def test_close_commits_what_was_submitted_and_then_refuses(path: Path) -> None:
    ledger = SqliteLedger(path)
    await ledger.start()
    holds = [asyncio.create_task(ledger.hold(replace(HOLD, id=f"r{number}"))) for number in range(300)]
    await asyncio.sleep(0)

    await ledger.close()

    await asyncio.gather(*holds)
    assert look(path, "SELECT count(*) FROM hold") == [(300,)]
    with pytest.raises(LedgerUnavailable):
        await ledger.hold(replace(HOLD, id="r300"))
    with pytest.raises(LedgerUnavailable):
        await ledger.request("r1")


# -- questions


async def test_the_newest_requests_come_first(ledger: SqliteLedger) -> None:
    for number, id in enumerate("abc"):
        await ledger.hold(replace(HOLD, id=id))
        await ledger.settle(replace(ROW, id=id, ended=AT + timedelta(seconds=-number)))

    assert [row.id for row in await ledger.requests(2)] == ["a", "b"]


async def test_spend_sums_by_group_and_never_over_currencies(ledger: SqliteLedger) -> None:
    cases = [
        ("a", "search", "USD", 0),
        ("b", "search", "USD", 1),
        ("c", "search", "CNY", 0),
        ("d", "ads", "USD", 0),
        ("e", "ads", "USD", 2),
    ]
    for id, team, currency, days in cases:
        await ledger.hold(replace(HOLD, id=id, team=team, currency=currency))
        await ledger.settle(replace(ROW, id=id, team=team, currency=currency, ended=AT + timedelta(days=days)))

    spend = await ledger.spend("team", AT, AT + timedelta(days=2))
    assert spend == [Spend("ads", "USD", 400, 1), Spend("search", "CNY", 400, 1), Spend("search", "USD", 800, 2)]
    spend = await ledger.spend("day", AT, AT + timedelta(days=3))
    assert [(one.group, one.currency, one.nano) for one in spend] == [
        ("2026-11-20", "CNY", 400),
        ("2026-11-20", "USD", 800),
        ("2026-11-21", "USD", 400),
        ("2026-11-22", "USD", 400),
    ]
    assert await ledger.spend("host", AT + timedelta(days=3), AT + timedelta(days=4)) == []


async def test_every_operation_reports_how_long_it_took(path: Path) -> None:
    told: list[tuple[str, float]] = []
    ledger = SqliteLedger(path, on_commit=lambda op, seconds: told.append((op, seconds)))
    await ledger.start()
    await ledger.hold(HOLD)
    await ledger.settle(ROW)
    await ledger.close()

    assert {op for op, _ in told} >= {"hold", "settle"}
    assert all(seconds >= 0 for _, seconds in told)


# -- the file


@pytest.mark.parametrize("statement", ["UPDATE entry SET nano = 1", "DELETE FROM entry"])
async def test_entries_are_append_only(ledger: SqliteLedger, path: Path, statement: str) -> None:
    await ledger.hold(HOLD)
    await ledger.settle(ROW)
    with pytest.raises(apsw.ConstraintError, match="append-only"):
        look(path, statement)


@pytest.mark.parametrize(
    ("version", "good"),
    [("3.40.1", False), ("3.51.2", False), ("3.51.3", True), ("3.54.1", True), ("3.100.0", True), ("4.0.0", True), ("3.9.9", False)],
)
def test_a_sqlite_with_the_wal_reset_bug_is_refused(version: str, good: bool) -> None:
    if good:
        check_sqlite(version)
    else:
        with pytest.raises(LedgerUnavailable, match=version):
            check_sqlite(version)


async def test_a_file_of_another_version_or_kind_is_refused(tmp_path: Path) -> None:
    look(tmp_path / "newer.db", "PRAGMA user_version = 99")
    (tmp_path / "text.db").write_text("not a database, but long enough to be taken for one" * 40)
    (tmp_path / "file").touch()

    for path in (tmp_path / "newer.db", tmp_path / "text.db", tmp_path / "file" / "ledger.db"):
        ledger = SqliteLedger(path)
        with pytest.raises(LedgerUnavailable):
            await ledger.start()
        await ledger.close()


async def test_two_gateways_on_one_new_file_both_start(path: Path) -> None:
    ledgers = [SqliteLedger(path) for _ in range(4)]
    await asyncio.gather(*(ledger.start() for ledger in ledgers))

    await asyncio.gather(*(ledger.hold(replace(HOLD, id=str(number))) for number, ledger in enumerate(ledgers)))

    assert look(path, "SELECT count(DISTINCT owner) FROM hold") == [(4,)]
    for ledger in ledgers:
        await ledger.close()


async def test_start_waits_for_a_process_that_is_making_the_same_file(path: Path) -> None:
    maker = apsw.Connection(str(path))
    maker.execute("BEGIN IMMEDIATE")
    ledger = SqliteLedger(path)
    start = asyncio.create_task(ledger.start())

    done, _ = await asyncio.wait({start}, timeout=0.1)
    assert not done
    maker.execute("ROLLBACK")
    maker.close()
    await start
    await ledger.close()


async def test_start_does_not_wait_for_ever(path: Path) -> None:
    maker = apsw.Connection(str(path))
    maker.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnavailable, match="cannot be opened: database is locked"):
        await SqliteLedger(path, patience=0.05).start()
    maker.close()


# What somebody might do to a file, and the words that name it.
HARM = {
    "UPDATE request SET nano = nano + 1": "its entries do not sum to its charge",
    "UPDATE request SET output_nano = 0": "its parts do not sum to its charge",
    "UPDATE request SET cache_hit_nano = NULL": "its parts do not sum to its charge",
    "INSERT INTO entry VALUES ('r1', 2, 'settle', 0, 'USD', 'none', 0, NULL)": "it was settled or expired more than once",
    "INSERT INTO entry VALUES ('r1', 2, 'expire', 0, 'USD', 'none', 0, NULL)": "it was both settled and expired",
    "UPDATE hold SET state = 'held'": "its hold is open, yet it was charged",
    "DROP TRIGGER entry_is_not_deleted; DELETE FROM entry": "its hold is closed, yet it has no entry",
    "DELETE FROM request": "its hold is closed, yet it has no row",
    "DELETE FROM hold": "it has no hold",
    "UPDATE hold SET currency = 'CNY'": "its currencies differ",
    "UPDATE hold SET state = 'released'": "it was released, yet it costs something",
    "UPDATE hold SET claims = replace(claims, '[1,1]', '[2,1]')": "its budgets were not charged what it costs",
}


# The same for a budget, with one hold that is settled and one that is open.
BUDGET_HARM = {
    "UPDATE budget SET spent = spent - 1": "its entries do not sum to what it spent",
    "UPDATE budget SET held = held - 1": "its open holds do not sum to what it holds",
    "UPDATE budget SET (lim, ceiling) = (1000, 1000)": "it went beyond its limit and its overruns",
    "UPDATE budget SET peak = 1000": "its peak is below what was committed",
    "UPDATE budget SET lim = lim + 1": "its ceiling is below its limit",
}


async def harmed(path: Path, harm: str) -> list[str]:
    ledger = SqliteLedger(path)
    await ledger.start()
    await ledger.hold(replace(HOLD, least=900, claims=(MONTH,)))
    await ledger.settle(ROW)
    await ledger.hold(replace(HOLD, id="r2", least=900, claims=(MONTH,)))
    await ledger.close()
    assert verify(path) == []
    look(path, harm)
    return verify(path)


@pytest.mark.parametrize("harm", HARM)
async def test_verify_names_what_is_wrong(path: Path, harm: str) -> None:
    assert any(f"request r1: {HARM[harm]}" in problem for problem in await harmed(path, harm))


@pytest.mark.parametrize("harm", BUDGET_HARM)
async def test_verify_names_a_budget_that_is_wrong(path: Path, harm: str) -> None:
    (problem,) = await harmed(path, harm)
    assert problem.startswith(f"budget month of search in 2026-11: {BUDGET_HARM[harm]} (")


async def test_verify_finds_a_budget_that_is_gone(path: Path) -> None:
    problems = await harmed(path, "DELETE FROM budget")
    assert [problem.split("(")[1] for problem in problems] == [
        "nothing spent, entries sum to 400)",
        "nothing held, open holds sum to 900)",
    ]


def test_verify_tests_every_invariant() -> None:
    assert set(HARM.values()) == set(INVARIANTS)
    assert set(BUDGET_HARM.values()) == set(BUDGETS)


def test_verify_says_what_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, but long enough to be taken for one" * 40)
    assert verify(tmp_path / "none.db") == [f"there is no ledger at {tmp_path / 'none.db'}"]
    assert "cannot be read" in verify(tmp_path / "text.db")[0]
    assert not (tmp_path / "none.db").exists()
