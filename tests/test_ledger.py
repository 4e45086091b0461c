"""The embedded ledger: one charge for each request whatever happens, in groups, and nothing half written."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import get_args

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.budgets import SHARE
from gateway.errors import BudgetExceeded, LedgerUnavailable
from gateway.ledger import operations
from gateway.ledger.columns import REQUEST, request_columns, request_row
from gateway.ledger.flusher import Flusher
from gateway.ledger.port import TRANSITIONS, Event, HoldError, Spend, State
from gateway.ledger.reading import SqliteReader
from gateway.ledger.sqlite import check_sqlite
from gateway.ledger.verify import BUDGETS, INVARIANTS, MONTHS, verify
from gateway.ledger.writer import BATCH, Writer
from gateway.money import Parts
from gateway.outcome import Grant, Idempotency, PlanNote
from gateway.usage import Sources, Usage
from tests.ledgers import AT, HOLD, MONTH, RELEASED, ROW, Embedded, eventually, locked, look, unlock

REAL_VFS = apsw.vfs_names()[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[Embedded]:
    ledger = Embedded(path)
    await ledger.start()
    yield ledger
    problems = await ledger.verify()
    await ledger.close()
    assert problems == []


async def expired_hold(path: Path) -> None:
    """A hold whose lease was over at once, and the reaper that found it."""
    brief = Embedded(path, lease=1e-6)
    await brief.start()
    await brief.hold(HOLD)
    async with asyncio.timeout(10):
        while await brief.request("r1") is None:
            await brief.reap()
    await brief.close()


# -- one request


async def test_a_settled_request_reads_back_as_it_was_written(ledger: Embedded) -> None:
    await ledger.hold(HOLD)
    assert await ledger.request("r1") is None

    assert await ledger.settle(ROW)

    assert await ledger.request("r1") == ROW


async def test_a_released_request_keeps_its_row_and_costs_nothing(ledger: Embedded, path: Path) -> None:
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


async def arrange(ledger: Embedded, path: Path, state: State) -> None:
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
async def test_a_hold_ends_once_and_late_truth_is_an_adjusting_entry(ledger: Embedded, path: Path, state: State, event: Event) -> None:
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


async def test_an_expired_hold_is_charged_what_was_expected_and_marked(ledger: Embedded, path: Path) -> None:
    await expired_hold(path)

    row = await ledger.request("r1")

    assert row is not None
    assert (row.nano, row.status, row.stopped, row.usage, row.parts) == (500, "gateway_error", "expired", None, None)
    assert look(path, "SELECT kind, nano, source FROM entry") == [("expire", 500, "estimate")]


async def test_of_many_settles_at_once_exactly_one_has_an_effect(ledger: Embedded, path: Path) -> None:
    await ledger.hold(HOLD)

    answers = await asyncio.gather(*(ledger.settle(replace(ROW, ended=AT + timedelta(seconds=n))) for n in range(50)))

    assert answers.count(True) == 1
    assert look(path, "SELECT sum(nano), count(*) FROM entry") == [(400, 1)]


async def test_a_charge_above_its_hold_is_recorded_and_shows_as_an_overrun(ledger: Embedded, path: Path) -> None:
    await ledger.hold(HOLD)

    assert await ledger.settle(replace(ROW, nano=1000, parts=Parts(0, 0, 1000)))

    assert look(path, "SELECT * FROM overrun") == [("r1", "USD", 100)]


async def test_an_explicit_charge_of_zero_is_settled(ledger: Embedded, path: Path) -> None:
    await ledger.hold(HOLD)
    assert await ledger.settle(replace(ROW, nano=0, parts=Parts(0, 0, 0), usage=Usage(0, 0, 0)))
    assert look(path, "SELECT kind, nano, source FROM entry") == [("settle", 0, "reported")]


async def test_counted_usage_is_marked_in_the_entry(ledger: Embedded, path: Path) -> None:
    await ledger.hold(HOLD)
    await ledger.settle(replace(ROW, usage=Usage(0, 10, 20, 0, Sources("unknown", "counted", "counted", "counted"))))
    assert look(path, "SELECT source FROM entry") == [("counted",)]


async def test_the_hold_of_the_next_attempt_takes_the_place_of_the_first(ledger: Embedded, path: Path) -> None:
    await ledger.hold(HOLD)

    await ledger.extend(replace(HOLD, host="gmi", model="v4", nano=2000, worst=2000, currency="CNY"))

    assert look(path, "SELECT host, model, nano, currency, state FROM hold") == [("gmi", "v4", 2000, "CNY", "held")]
    assert await ledger.settle(replace(ROW, currency="CNY"))
    with pytest.raises(HoldError):
        await ledger.extend(HOLD)


async def test_what_contradicts_the_hold_is_refused_and_changes_nothing(ledger: Embedded, path: Path) -> None:
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


# -- budgets (that every store keeps them alike: test_stores.py)

# What a budget of 200 shares grants a request that asks 300 and can use 100, whose worst case is 900: (spent, held by others, has,
# grant). No more than a share of what is left, but for the least, and for a worst case that is no more than that.
LIMIT = 200 * SHARE
GRANTS: tuple[tuple[int, int, int, int | None], ...] = (
    (0, 0, 0, 200),
    (100 * SHARE + 1, 0, 0, 100),
    (LIMIT - 100, 0, 0, 100),
    (LIMIT - 99, 0, 0, None),
    (LIMIT - 1000, 900, 0, 100),
    (LIMIT - 1000, 901, 0, None),
    (0, 0, 90, 289),
    (0, 0, 150, 300),  # no more than was asked
    (0, 0, 800, 900),  # the worst case at once
    (LIMIT - 200, 100, 100, 100),
    (LIMIT - 1000, 0, 890, 300),  # it gives back what is not asked any more
    (LIMIT + 500, 0, 100, None),  # the limit was lowered, or something ran over: the hold stays as it is
)


@pytest.mark.parametrize(("spent", "others", "has", "grant"), GRANTS)
async def test_a_budget_grants_a_part_of_what_is_left(
    ledger: Embedded, path: Path, spent: int, others: int, has: int, grant: int | None
) -> None:
    month, whole = replace(MONTH, limit=LIMIT), replace(MONTH, limit=2 * LIMIT)
    for id, nano in (("spent", spent), ("others", others), ("r1", has)):
        if nano:
            await ledger.hold(replace(HOLD, id=id, nano=nano, least=nano, worst=nano, claims=(whole,)))
    if spent:
        await ledger.settle(replace(ROW, id="spent", nano=spent, parts=Parts(0, 0, spent)))
    look(path, f"UPDATE budget SET lim = {LIMIT}")
    asked = replace(HOLD, nano=300, least=100, worst=900, claims=(month,))
    before = look(path, "SELECT * FROM hold"), look(path, "SELECT * FROM budget")

    ask = ledger.extend if has else ledger.hold
    if grant is None:
        with pytest.raises(BudgetExceeded):
            await ask(asked)
        assert (look(path, "SELECT * FROM hold"), look(path, "SELECT * FROM budget")) == before
    else:
        answer = await ask(asked)
        assert answer.nano == grant
        assert answer.budgets == tuple(await ledger.budgets(AT))
        assert look(path, "SELECT held FROM budget") == [(others + grant,)]


async def test_the_tightest_of_several_budgets_decides_in_its_own_currency(ledger: Embedded) -> None:
    yuan = replace(MONTH, budget="day", period="2026-11-20", currency="CNY", limit=100, rate=(71, 10), finish=True)

    grant = await ledger.hold(replace(HOLD, nano=50, least=10, worst=60, claims=(yuan, MONTH)))

    # 10 USD-nano, the least, cost 71 CNY-nano of 100; there are more of the other budget.
    assert grant.nano == 10
    assert [(state.budget, state.currency, state.held, state.left) for state in grant.budgets] == [
        ("day", "CNY", 71, 29),
        ("month", "USD", 10, 9_990),
    ]
    with pytest.raises(BudgetExceeded, match="Budget day of team search") as refusal:
        await ledger.hold(replace(HOLD, id="r2", nano=50, least=5, worst=60, claims=(yuan, MONTH)))
    assert refusal.value.details is not None and refusal.value.details["asked"] == "0.000000036"
    grant = await ledger.extend(replace(HOLD, nano=50, least=20, worst=60, claims=(yuan, MONTH)))
    assert [(state.held, state.overrun) for state in grant.budgets] == [(142, 42), (20, 0)]
    assert await ledger.settle(replace(ROW, nano=15, parts=Parts(0, 0, 15)))
    assert [(state.spent, state.held, state.overrun) for state in await ledger.budgets(AT)] == [(107, 0, 42), (15, 0, 0)]


async def test_what_no_column_can_hold_fails_loudly_and_harms_nothing(ledger: Embedded) -> None:
    endless = replace(MONTH, limit=10**40)
    await ledger.hold(replace(HOLD, nano=2**62, least=2**62, worst=2**62, claims=(endless,)))
    with pytest.raises(BudgetExceeded):
        await ledger.hold(replace(HOLD, id="r2", nano=2**62, least=2**62, worst=2**62, claims=(endless,)))
    with pytest.raises(OverflowError):
        await ledger.settle(replace(ROW, nano=2**63, parts=Parts(0, 0, 2**63)))

    await ledger.hold(replace(HOLD, id="r3", least=900, claims=(endless,)))

    (state,) = await ledger.budgets(AT)
    assert (state.limit, state.held) == (2**63 - 1, 2**62 + 900)


async def test_budgets_are_those_of_a_team_whose_period_is_not_over(ledger: Embedded) -> None:
    day = replace(MONTH, budget="day", period="2026-11-20", resets_at=AT + timedelta(hours=1))
    for team in ("search", "ads"):
        claims = (replace(day, team=team), replace(MONTH, team=team, key="k1"))
        await ledger.hold(replace(HOLD, id=team, team=team, claims=claims))

    seen = [(state.team, state.budget, state.key) for state in await ledger.budgets(AT)]
    assert seen == [("ads", "day", ""), ("ads", "month", "k1"), ("search", "day", ""), ("search", "month", "k1")]
    after = AT + timedelta(hours=1)
    assert [(state.budget, state.resets_at) for state in await ledger.budgets(after, "ads")] == [("month", None)]


# -- leases, by the database's clock alone


async def test_a_renewed_lease_outlives_the_first_and_ends_by_itself(ledger: Embedded, path: Path) -> None:
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


async def test_the_reaper_works_in_bounded_steps_until_nothing_is_overdue(ledger: Embedded, path: Path) -> None:
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
    ledger = Embedded(path, lease=0.06)
    await ledger.start()
    await ledger.hold(HOLD)
    (first,) = look(path, "SELECT expires FROM hold")

    await eventually(lambda: look(path, "SELECT expires - 400000 FROM hold") >= [first])

    assert await ledger.settle(ROW)
    assert look(path, "SELECT kind FROM entry") == [("settle",)]
    await ledger.close()


async def test_a_hold_whose_caller_left_before_it_was_written_never_is(ledger: Embedded, path: Path) -> None:
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

    ledger = Embedded(path)
    await ledger.start()
    holding = asyncio.create_task(ledger.hold(HOLD))
    await asyncio.sleep(0)
    loop.call_soon(cancel_once_written)
    with pytest.raises(asyncio.CancelledError):
        await holding

    await ledger.close()
    assert look(path, "SELECT state FROM hold") == [("released",)]
    assert look(path, "SELECT count(*) FROM request") == [(0,)]


async def test_a_charge_stands_when_its_caller_leaves(ledger: Embedded, path: Path) -> None:
    await ledger.hold(HOLD)
    settling = asyncio.create_task(ledger.settle(ROW))
    await asyncio.sleep(0)
    settling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await settling

    assert not await ledger.settle(ROW)
    assert look(path, "SELECT nano FROM entry") == [(400,)]


# -- groups


async def test_500_requests_at_once_share_a_few_commits(ledger: Embedded, path: Path) -> None:
    async def one(number: int) -> None:
        await ledger.hold(replace(HOLD, id=f"r{number}"))
        assert await ledger.settle(replace(ROW, id=f"r{number}"))

    before = ledger.commits
    await asyncio.gather(*(one(number) for number in range(500)))

    assert 2 * 500 / BATCH <= ledger.commits - before <= 100
    assert look(path, "SELECT count(*), sum(nano) FROM entry") == [(500, 500 * 400)]


async def test_a_refused_operation_does_not_break_up_its_group(ledger: Embedded) -> None:
    await ledger.hold(replace(HOLD, id="r9"))
    before = ledger.commits

    holds = (ledger.hold(replace(HOLD, id=f"r{number}")) for number in range(100))
    answers = await asyncio.gather(*holds, return_exceptions=True)

    assert [number for number, answer in enumerate(answers) if isinstance(answer, Exception)] == [9]
    assert ledger.commits - before < 20


async def test_only_groups_with_a_charge_are_flushed(ledger: Embedded) -> None:
    await asyncio.gather(*(ledger.hold(replace(HOLD, id=f"r{number}")) for number in range(20)))
    await ledger.release(replace(RELEASED, id="r0"))
    assert ledger.flushes == 0

    await ledger.settle(replace(ROW, id="r1"))
    assert ledger.flushes == 1


async def test_an_operation_that_fails_half_way_leaves_nothing_and_harms_no_neighbour(ledger: Embedded, path: Path) -> None:
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
    ledger = Embedded(path, sync=disk.sync)
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


async def test_after_a_flush_that_failed_the_file_acknowledges_nothing_any_more(path: Path) -> None:
    disk = Disk()
    disk.broken = True
    disk.let_go(3)
    ledger = Embedded(path, sync=disk.sync)
    await ledger.start()
    await ledger.hold(HOLD)
    with pytest.raises(LedgerUnavailable, match="flushed"):
        await ledger.store.finish("settle", ROW)

    disk.broken = False
    with pytest.raises(LedgerUnavailable, match="flushed"):
        await ledger.hold(replace(HOLD, id="r2"))
    assert ledger.flushes == 0
    assert not ledger.ready()
    assert await ledger.settle(ROW), "the spool has a disk flush of its own"
    assert ledger.unsettled == 1
    await ledger.close()


async def test_the_log_is_copied_into_the_file_and_starts_anew(path: Path) -> None:
    def times_started() -> int:
        """The log's header counts them, in its fourth word."""
        return int.from_bytes(path.with_name("ledger.db-wal").read_bytes()[12:16])

    ledger = Embedded(path, log_pages=50)
    await ledger.start()
    first = times_started()
    for number in range(50):
        await ledger.hold(replace(HOLD, id=f"r{number}"))

    await eventually(lambda: times_started() > first)
    assert await ledger.verify() == []
    await ledger.close()


async def test_operations_wait_in_order_while_another_process_writes_and_the_loop_goes_on(ledger: Embedded, path: Path) -> None:
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


async def test_reading_goes_on_while_writing_waits(ledger: Embedded, path: Path) -> None:
    await ledger.hold(HOLD)
    await ledger.settle(ROW)
    lock = locked(path)
    waiting = asyncio.create_task(ledger.hold(replace(HOLD, id="r2")))

    assert await ledger.request("r1") == ROW
    assert not waiting.done()

    unlock(lock)
    await waiting


async def test_close_commits_what_was_submitted_and_then_refuses(path: Path) -> None:
    ledger = Embedded(path)
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


async def test_the_newest_requests_come_first(ledger: Embedded) -> None:
    for number, id in enumerate("abc"):
        await ledger.hold(replace(HOLD, id=id))
        await ledger.settle(replace(ROW, id=id, ended=AT + timedelta(seconds=-number)))

    assert [row.id for row in await ledger.requests(2)] == ["a", "b"]


async def test_spend_sums_by_group_and_never_over_currencies(ledger: Embedded) -> None:
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
    ledger = Embedded(path, on_commit=lambda op, seconds: told.append((op, seconds)))
    await ledger.start()
    await ledger.hold(HOLD)
    await ledger.settle(ROW)
    await ledger.close()

    assert {op for op, _ in told} >= {"hold", "settle"}
    assert all(seconds >= 0 for _, seconds in told)


# -- the file


@pytest.mark.parametrize("statement", ["UPDATE entry SET nano = 1", "DELETE FROM entry"])
async def test_entries_are_append_only(ledger: Embedded, path: Path, statement: str) -> None:
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
        ledger = Embedded(path)
        with pytest.raises(LedgerUnavailable):
            await ledger.start()
        await ledger.close()


async def test_a_file_of_the_first_version_goes_on(path: Path) -> None:
    """Made by the tables and with the rows of that version; one request is open, one expired, one settled."""
    db = apsw.Connection(str(path))
    db.execute(files("gateway.ledger").joinpath("schema.sql").read_text("utf-8")).fetchall()
    version = db.pragma("user_version")
    for rid, state in (("open", "held"), ("late", "expired"), ("done", "settled")):
        values = (rid, state, 900, "USD", 500, 900, 2**60, "old", "search", "k", "r", "deepseek", "v4", "card", "9f", 0)
        db.execute(f"INSERT INTO hold VALUES ({', '.join('?' * 16)})", values)
        if state != "held":
            kind = "expire" if state == "expired" else "settle"
            db.execute("INSERT INTO entry VALUES (?, 1, ?, 500, 'USD', 'estimate', 0)", (rid, kind))
            # What has come later stands at the end.
            first = REQUEST[: REQUEST.index("plan")]
            marks = ", ".join("?" * len(first))
            row = replace(ROW, id=rid, nano=500, parts=None, usage=None, stopped="expired")
            db.execute(f"INSERT INTO request VALUES ({marks})", request_columns(row)[: len(first)])
    db.close()
    assert version == 1
    ledger = Embedded(path)
    await ledger.start()
    assert await ledger.verify() == []

    assert await ledger.settle(replace(ROW, id="open"))
    assert await ledger.settle(replace(ROW, id="late"))
    assert not await ledger.settle(replace(ROW, id="done"))
    await ledger.hold(replace(HOLD, least=900, claims=(MONTH,), idempotency=Idempotency("k", "b")))

    assert look(path, "SELECT rid, sum(nano) FROM entry GROUP BY rid") == [("done", 500), ("late", 400), ("open", 400)]
    assert await ledger.verify() == []
    await ledger.close()
    new = path.with_name("new.db")
    fresh = Embedded(new)
    await fresh.start()
    await fresh.close()
    schema = "SELECT type, name, sql FROM sqlite_schema ORDER BY name"
    assert look(path, schema) == look(new, schema)


def written_by_the_second_version(path: Path) -> None:
    path.write_bytes(gzip.decompress((Path(__file__).parent / "ledger_version_2.db.gz").read_bytes()))


async def test_a_file_of_the_second_version_goes_on(path: Path) -> None:
    """Written by the program of that version: `done` was settled, `free` released, `open` is on its way."""
    written_by_the_second_version(path)
    assert look(path, "PRAGMA user_version") == [(2,)]
    reader = SqliteReader(path)
    with pytest.raises(LedgerUnavailable, match="older version: start this version of the gateway once"):
        await reader.start()
    await reader.close()
    ledger = Embedded(path)
    await ledger.start()

    assert await ledger.request("done") == replace(ROW, id="done")
    assert [row.plan for row in await ledger.requests(5)] == [None, None]
    planned = replace(ROW, id="open", plan=PlanNote((), conversation="3f9a", turn=2))
    assert await ledger.settle(planned)
    assert await ledger.request("open") == planned
    assert await ledger.verify() == []
    await ledger.close()
    new = path.with_name("new.db")
    fresh = Embedded(new)
    await fresh.start()
    await fresh.close()
    schema = "SELECT type, name, sql FROM sqlite_schema ORDER BY name"
    assert look(path, schema) == look(new, schema)


async def test_a_migration_that_fails_half_way_changes_nothing(path: Path) -> None:
    db = apsw.Connection(str(path))
    db.execute(files("gateway.ledger").joinpath("schema.sql").read_text("utf-8")).fetchall()
    # The table that the second version makes is there already.
    db.execute("CREATE TABLE budget (x)")
    db.close()
    ledger = Embedded(path)
    with pytest.raises(LedgerUnavailable):
        await ledger.start()
    await ledger.close()
    assert look(path, "PRAGMA user_version") == [(1,)]
    assert look(path, "SELECT count(*) FROM pragma_table_info('hold') WHERE name = 'claims'") == [(0,)]


async def test_two_gateways_on_one_new_file_both_start(path: Path) -> None:
    ledgers = [Embedded(path) for _ in range(4)]
    await asyncio.gather(*(ledger.start() for ledger in ledgers))

    await asyncio.gather(*(ledger.hold(replace(HOLD, id=str(number))) for number, ledger in enumerate(ledgers)))

    assert look(path, "SELECT count(DISTINCT owner) FROM hold") == [(4,)]
    for ledger in ledgers:
        await ledger.close()


async def test_start_waits_for_a_process_that_is_making_the_same_file(path: Path) -> None:
    maker = apsw.Connection(str(path))
    maker.execute("BEGIN IMMEDIATE")
    ledger = Embedded(path)
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
        await Embedded(path, patience=0.05).start()
    maker.close()


ARCHIVED = "INSERT INTO archive VALUES (1, '2026-11', 1, 'f', 'x', 0, 1)"
COUNTED = '[{"team":"search","budget":"month","key":"","period":"2026-11","currency":"USD","nano":5}]'
# What is wrong with a month that was archived.
MONTH_HARM = {
    "INSERT INTO closed VALUES ('2026-11', 'search', 'USD', 1, 1, 0)": "1 closed, requests sum to 0",
    f"{ARCHIVED}; INSERT INTO gone VALUES ('r9', 1, 'settled', 'USD', 3, NULL, NULL, NULL)": "nothing closed, requests sum to 3",
}

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
    f"{ARCHIVED}; INSERT INTO gone VALUES ('r1', 1, 'settled', 'USD', 0, NULL, NULL, NULL)": "it was archived, and is still here",
}


# The same for a budget, with one hold that is settled and one that is open.
BUDGET_HARM = {
    "UPDATE budget SET spent = spent - 1": "its entries do not sum to what it spent",
    "UPDATE budget SET archived = 1": "its entries do not sum to what it spent",
    f"INSERT INTO correction SELECT 1, 'c', 0, '', '', '', '', '', 'USD', 5, '', '', '', NULL, '{COUNTED}', 0": (
        "its entries do not sum to what it spent"
    ),
    "UPDATE budget SET held = held - 1": "its open holds do not sum to what it holds",
    "UPDATE budget SET (lim, ceiling) = (1000, 1000)": "it went beyond its limit and its overruns",
    "UPDATE budget SET peak = 1000": "its peak is below what was committed",
    "UPDATE budget SET lim = lim + 1": "its ceiling is below its limit",
}


async def harmed(path: Path, harm: str) -> list[str]:
    ledger = Embedded(path)
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


@pytest.mark.parametrize("harm", MONTH_HARM)
async def test_verify_names_a_month_that_is_wrong(path: Path, harm: str) -> None:
    (words,) = MONTHS
    assert await harmed(path, harm) == [f"month 2026-11 (USD): {words} ({MONTH_HARM[harm]})"]


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
