"""The ledger in PostgreSQL: what only it does. What every store does is in test_stores.py."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.budgets import SHARE, granted
from gateway.errors import BudgetExceeded, LedgerUnavailable
from gateway.ledger.port import HoldError
from gateway.ledger.postgres import PostgresStore
from gateway.ledger.postgres_connection import connect, shown
from gateway.ledger.postgres_reading import PostgresReader
from gateway.ledger.postgres_schema import MIGRATIONS
from gateway.ledger.postgres_verify import BUDGETS, INVARIANTS, MONTHS, verify
from gateway.ledger.postgres_writer import GRACE_SECONDS, Writer
from gateway.ledger.verify import BUDGETS as BUDGETS_OF_A_FILE
from gateway.ledger.verify import INVARIANTS as INVARIANTS_OF_A_FILE
from gateway.ledger.verify import MONTHS as MONTHS_OF_A_FILE
from gateway.outcome import Claim, Grant, PlanNote
from tests.harness import LiveGateway
from tests.ledgers import AT, HOLD, ROW
from tests.servers import PostgresServer, free_port, program
from tests.shell import json_of, said
from tests.stores import DAY, LEASE, PostgresPlace, charged, many_holds

ASKS = replace(HOLD, nano=100, least=100, worst=100, claims=(DAY,))
QUICK = 0.5
QUESTION = {"model": "deepseek-flash", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def place(postgres_url: str) -> PostgresPlace:
    return PostgresPlace(postgres_url)


@pytest.fixture
async def store(place: PostgresPlace) -> AsyncIterator[PostgresStore]:
    store = place.store(patience=QUICK)
    await store.start()
    yield store
    await store.close()


@contextlib.asynccontextmanager
async def session(url: str) -> AsyncIterator[Any]:
    """A connection of somebody else's."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def until(true: Callable[[], Awaitable[Any]]) -> None:
    end = time.monotonic() + 20
    while not await true():
        assert time.monotonic() < end, "it did not come true within 20 s"
        await asyncio.sleep(0.005)


async def enough(found: list[str]) -> bool:
    return len(found) >= 500


async def eventually(work: Callable[[], Awaitable[Any]]) -> Any:
    """What it gives once the ledger is available again."""
    until = time.monotonic() + 20
    while True:
        try:
            return await work()
        except LedgerUnavailable:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.02)


class Proxy:
    """Between a store and its server: hands bytes on, until it is told to lose answers, or to cut everything."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.mute = False
        self.linger = False
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, far_writer}
        await asyncio.gather(self._hand_on(reader, far_writer, False), self._hand_on(far_reader, writer, True))

    async def _hand_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if not (answers and self.mute):
                    writer.write(data)
        if not self.linger:
            writer.close()

    def cut(self) -> None:
        """Every connection that there is, with a reset."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def close(self) -> None:
        self._server.close()
        self.cut()
        await asyncio.sleep(0)


@pytest.fixture
async def proxy(postgres_server: PostgresServer) -> AsyncIterator[Proxy]:
    proxy = Proxy(postgres_server.port)
    yield proxy
    await proxy.close()


# -- the same arithmetic

NUMBERS = st.one_of(st.integers(0, 2000), st.integers(0, 2**62))
LEFTS = st.one_of(st.integers(-200, 2000), st.integers(-(2**62), 2**62))


async def test_grants_are_those_of_the_gateway_bit_for_bit(store: PostgresStore, postgres_url: str) -> None:
    query = """SELECT faregate.granted(a::numeric, l::numeric, w::numeric, h::numeric, r::numeric, $6::numeric)
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) WITH ORDINALITY AS x(a, l, w, h, r, n) ORDER BY n"""
    cases: list[tuple[int, int, int, int, int]] = []

    @settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS, LEFTS))
    def collect(case: tuple[int, int, int, int, int]) -> None:
        cases.append(case)

    collect()
    async with session(postgres_url) as db:
        found = await db.fetch(query, *[[str(case[place]) for case in cases] for place in range(5)], SHARE)

    assert [None if row[0] is None else int(row[0]) for row in found] == [granted(*case) for case in cases]
    assert len({granted(*case) is None for case in cases}) == 2


async def test_conversions_are_those_of_a_claim_to_the_last_nano(store: PostgresStore, postgres_url: str) -> None:
    query = """SELECT faregate.cost(a::numeric, n::numeric, d::numeric), faregate.affords(b::numeric, n::numeric, d::numeric)
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS x(a, b, n, d, i) ORDER BY i"""
    cases: list[tuple[int, int, int, int]] = []

    @settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.tuples(NUMBERS, LEFTS, st.integers(1, 10**25), st.integers(1, 10**25)))
    def collect(case: tuple[int, int, int, int]) -> None:
        cases.append(case)

    collect()
    async with session(postgres_url) as db:
        found = await db.fetch(query, *[[str(case[place]) for case in cases] for place in range(4)])

    claims = [replace(DAY, rate=(case[2], case[3])) for case in cases]
    assert [(int(a), int(b)) for a, b in found] == [(c.cost(case[0]), c.affords(case[1])) for c, case in zip(claims, cases, strict=True)]


# -- batches


async def test_what_waits_together_is_committed_together(store: PostgresStore) -> None:
    await asyncio.gather(*(store.hold(replace(HOLD, id=f"r{n}"), "me", LEASE) for n in range(100)))
    assert store.commits <= 3


async def test_an_operation_that_cannot_be_kept_fails_alone(store: PostgresStore, place: PostgresPlace) -> None:
    holds = [replace(ASKS, id=f"r{n}" + ("\0" if n == 3 else ""), worst=2**70 if n == 4 else 100) for n in range(8)]

    answers = await asyncio.gather(*(store.hold(hold, "me", LEASE) for hold in holds), return_exceptions=True)

    assert [n for n, answer in enumerate(answers) if isinstance(answer, HoldError)] == [3, 4]
    assert await place.look("SELECT count(*) FROM hold") == [(6,)]
    assert await store.verify() == []


async def test_a_hold_whose_caller_left_while_it_waited_is_never_sent(store: PostgresStore, place: PostgresPlace) -> None:
    first, second = (asyncio.create_task(store.hold(replace(HOLD, id=id), "me", LEASE)) for id in ("r1", "r2"))
    await asyncio.sleep(0)
    second.cancel()
    await first
    await store.hold(replace(HOLD, id="r3"), "me", LEASE)
    assert await place.look("SELECT rid FROM hold ORDER BY rid") == [("r1",), ("r3",)]


async def test_one_request_twice_in_a_row_is_applied_in_order(store: PostgresStore) -> None:
    answers = await asyncio.gather(
        store.hold(ASKS, "me", LEASE),
        store.extend(replace(ASKS, nano=300, least=300, worst=300)),
        store.finish("settle", charged("r1", 250)),
        store.finish("settle", charged("r1", 251)),
    )
    assert [answer.nano if isinstance(answer, Grant) else answer for answer in answers] == [100, 300, True, False]


async def test_everything_submitted_is_written_before_the_store_is_closed(place: PostgresPlace) -> None:
    store = place.store()
    await store.start()
    tasks = [asyncio.create_task(store.hold(replace(HOLD, id=f"r{n}"), "me", LEASE)) for n in range(300)]
    await asyncio.sleep(0)

    await store.close()

    assert len([await task for task in tasks]) == 300
    with pytest.raises(LedgerUnavailable):
        await store.hold(HOLD, "me", LEASE)
    with pytest.raises(LedgerUnavailable):
        await place.store().hold(HOLD, "me", LEASE)


# -- several replicas


async def test_three_processes_take_exactly_what_one_budget_has(store: PostgresStore, place: PostgresPlace) -> None:
    root = Path(__file__).parent.parent
    replicas = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.stores", place.url, owner, "150"), cwd=root, stdout=asyncio.subprocess.PIPE
        )
        for owner in "abc"
    ]

    got = [int((await replica.communicate())[0]) for replica in replicas]

    assert sum(got) == 100
    (state,) = await store.budgets(AT)
    assert (state.held, state.peak_committed, state.overrun) == (10_000, 10_000, 0)
    assert await store.verify() == []


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
async def test_a_replica_that_is_stopped_or_killed_while_it_writes_holds_nobody_up(
    store: PostgresStore, place: PostgresPlace, how: signal.Signals
) -> None:
    words = (sys.executable, "-m", "tests.stores", place.url, "busy", "30000")
    replica = await asyncio.create_subprocess_exec(*words, cwd=Path(__file__).parent.parent, stdout=asyncio.subprocess.DEVNULL)
    await until(partial(place.look, "SELECT 1 FROM hold"))

    replica.send_signal(how)

    for number in range(20):
        await store.hold(replace(HOLD, id=f"r{number}"), "me", LEASE)
    with contextlib.suppress(ProcessLookupError):
        replica.kill()
    await replica.wait()
    assert await store.verify() == []


async def test_three_that_start_at_once_on_an_empty_database_make_one_ledger(place: PostgresPlace) -> None:
    stores = [place.store() for _ in range(3)]
    await asyncio.gather(*(store.start() for store in stores))

    grants = await asyncio.gather(*(many_holds(store, str(n), [replace(ASKS, id=f"{n}")]) for n, store in enumerate(stores)))

    assert [len(got) for got in grants] == [1, 1, 1]
    assert await place.look("SELECT value FROM meta WHERE name = 'schema_version'") == [(str(len(MIGRATIONS)),)]
    for store in stores:
        await store.close()


# -- faults


async def test_a_commit_whose_answer_was_lost_is_answered_when_asked_again_and_counts_once(
    proxy: Proxy, place: PostgresPlace, store: PostgresStore
) -> None:
    port = await proxy.start()
    far = PostgresStore(f"postgresql://faregate@127.0.0.1:{port}{place.url[place.url.rindex('/') :]}")
    await far.start()
    # From here on the server knows the statement: what is sent next is the batch itself.
    await far.hold(replace(HOLD, id="first"), "me", LEASE)
    for work, written in (
        (lambda: far.hold(ASKS, "me", LEASE), "SELECT 1 FROM hold WHERE rid = 'r1'"),
        (lambda: far.extend(replace(ASKS, nano=300, least=300, worst=300)), "SELECT 1 FROM hold WHERE nano = 300"),
        (lambda: far.finish("settle", charged("r1", 250)), "SELECT 1 FROM entry"),
    ):
        proxy.mute = True
        lost = asyncio.ensure_future(work())
        await until(partial(place.look, written))
        proxy.cut()
        with pytest.raises(LedgerUnavailable):
            await lost
        proxy.mute = False

        answer = await eventually(work)

        assert answer is False or answer.nano in (100, 300)
    (state,) = await store.budgets(AT)
    assert (state.spent, state.held, state.overrun) == (250, 0, 0)
    assert await store.verify() == []
    await far.close()


async def test_a_killed_server_has_every_commit_that_was_answered(
    postgres_server: PostgresServer, store: PostgresStore, place: PostgresPlace
) -> None:
    # Its own setting is synchronous_commit = off: what is not flushed at the commit would be gone.
    held: list[str] = []
    settled: list[str] = []

    async def client(owner: int) -> None:
        for number in range(1_000_000):
            id = f"{owner}-{number}"
            await store.hold(replace(ASKS, id=id, claims=(replace(DAY, limit=10**15),)), "me", LEASE)
            held.append(id)
            if number % 2:
                await store.finish("settle", charged(id, 90))
                settled.append(id)

    clients = [asyncio.create_task(client(n)) for n in range(30)]
    await until(lambda: enough(settled))
    postgres_server.kill()
    ends = await asyncio.gather(*clients, return_exceptions=True)
    postgres_server.start()

    assert {type(end) for end in ends} == {LedgerUnavailable}
    known = {rid: state for rid, state in await place.look("SELECT rid, state FROM hold")}
    assert [id for id in held if id not in known] == []
    assert [id for id in settled if known[id] != "settled"] == []
    assert (await eventually(lambda: store.hold(replace(HOLD, id="next"), "me", LEASE))).nano == 900
    assert await store.verify() == []


async def test_a_server_that_hangs_keeps_nobody_waiting(postgres_server: PostgresServer, store: PostgresStore) -> None:
    await store.hold(replace(HOLD, id="before"), "me", LEASE)
    postgres_server.pause()
    began = time.monotonic()

    async def refused(work: Awaitable[Any]) -> float:
        with pytest.raises(LedgerUnavailable):
            await work
        return time.monotonic() - began

    first = refused(store.hold(replace(HOLD, id="first"), "me", LEASE))
    more = [refused(store.finish("settle", replace(ROW, id="before"))), refused(store.request("before")), refused(store.reap())]
    waits = await asyncio.gather(first, *more)

    assert max(waits) < GRACE_SECONDS + 4 * QUICK
    # By now it is known to be down: nobody waits any more.
    await until(lambda: refused_at_once(store))
    postgres_server.resume()
    assert await eventually(lambda: store.finish("settle", replace(ROW, id="before"))) in (True, False)
    assert await eventually(lambda: store.request("before")) == replace(ROW, id="before")


async def refused_at_once(store: PostgresStore) -> bool:
    began = time.monotonic()
    with pytest.raises(LedgerUnavailable):
        await store.hold(replace(HOLD, id="late"), "me", LEASE)
    return time.monotonic() - began < 0.05 and not store.connected


async def test_a_batch_that_waits_too_long_for_its_turn_has_no_effect(store: PostgresStore, place: PostgresPlace) -> None:
    async with session(place.url) as other, other.transaction():
        await other.execute("SELECT faregate.begin_batch()")
        with pytest.raises(LedgerUnavailable):
            await store.hold(HOLD, "me", LEASE)
    assert await place.look("SELECT count(*) FROM hold") == [(0,)]
    assert (await store.hold(HOLD, "me", LEASE)).nano == 900


async def test_a_connection_that_the_server_ends_is_made_again(store: PostgresStore, place: PostgresPlace) -> None:
    await store.request("r1")
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'faregate' AND datname = current_database()"
    assert len(await place.look(ended)) == 2

    assert (await eventually(lambda: store.hold(HOLD, "me", LEASE))).nano == 900
    assert await eventually(lambda: store.request("r1")) is None


async def test_an_operation_between_the_last_word_of_a_server_and_the_end_of_its_connection_is_refused(
    proxy: Proxy, place: PostgresPlace
) -> None:
    port = await proxy.start()
    proxy.linger = True
    far = PostgresStore(f"postgresql://faregate@127.0.0.1:{port}{place.url[place.url.rindex('/') :]}", patience=QUICK)
    await far.start()
    await far.request("r1")
    await place.look("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'faregate'")

    assert (await eventually(lambda: far.hold(HOLD, "me", LEASE))).nano == 900
    assert await eventually(lambda: far.request("r1")) is None
    await far.close()


# -- the start


async def test_a_database_that_is_newer_is_refused_with_the_remedy(store: PostgresStore, place: PostgresPlace) -> None:
    await place.look("UPDATE meta SET value = '99' WHERE name = 'schema_version'")
    with pytest.raises(LedgerUnavailable, match="schema version 99; this Faregate knows 4"):
        await place.store().start()


async def test_a_database_of_the_first_version_goes_on(place: PostgresPlace, postgres_url: str) -> None:
    """A replica of that version writes on while one of this version brings the tables up."""
    folder = files("gateway.ledger")
    async with session(postgres_url) as db:
        await db.execute("CREATE SCHEMA faregate")
        for name in MIGRATIONS[0]:
            await db.execute(folder.joinpath(name).read_text("utf-8"))
        await db.execute("INSERT INTO faregate.meta VALUES ('schema_version', '1')")
    old = place.store()
    # What the first version does at its start, when it finds its own tables.
    old._writer.start(await connect(postgres_url, QUICK))
    await old.hold(replace(HOLD, id="before"), "old", LEASE)
    await old.finish("settle", charged("before", 5))
    with pytest.raises(LedgerUnavailable, match="older version: start this version of the gateway once"):
        await PostgresReader(postgres_url).start()

    new = place.store()
    await new.start()

    for store, id in ((old, "during"), (new, "after")):
        await store.hold(replace(HOLD, id=id), "me", LEASE)
        row = charged(id, 5, plan=PlanNote((), conversation="3f9a", turn=2))
        await store.finish("settle", row)
        assert await new.request(id) == row
    assert await new.request("before") == charged("before", 5)
    assert await new.verify() == []
    await old.close()
    await new.close()


async def test_a_user_without_rights_is_told_which(place: PostgresPlace, postgres_url: str) -> None:
    async with session(postgres_url) as db:
        await db.execute("DO $$ BEGIN CREATE ROLE guest LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    with pytest.raises(LedgerUnavailable, match="Remedy: let it own the database, or the schema faregate"):
        await PostgresStore(postgres_url.replace("faregate@", "guest@")).start()


async def test_what_cannot_be_reached_is_named_without_its_password(postgres_url: str) -> None:
    for url in (
        f"postgresql://someone:secret@127.0.0.1:{free_port()}/x?sslmode=disable",
        postgres_url.replace("faregate@", "faregate:secret@") + "_gone",
        "postgresql://someone:secret@127.0.0.1:port/x",
    ):
        with pytest.raises(LedgerUnavailable, match="FAREGATE_LEDGER") as refusal:
            await PostgresStore(url, patience=0.2).start()
        assert "secret" not in str(refusal.value) and "someone" not in str(refusal.value)


def test_an_address_is_shown_without_what_is_secret() -> None:
    assert shown("postgresql://u:p@ss@host:1/db?password=x") == "postgresql://host:1/db"
    assert shown("postgres://host/db") == "postgres://host/db"
    for password in ("pa/ss", "p?ss", "p#ss", "p@/s?s#"):
        assert shown(f"postgresql://u:{password}@host/db") == "postgresql://host/db", "not even one that should have been escaped"


async def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(LedgerUnavailable, match=r"pip install 'faregate\[postgres\]'"):
        await PostgresStore("postgresql://127.0.0.1/x").start()


async def test_a_server_that_does_not_sync_is_announced(place: PostgresPlace, caplog: pytest.LogCaptureFixture) -> None:
    store = place.store()
    with caplog.at_level(logging.WARNING):
        await store.start()
    await store.close()
    assert "fsync off" in caplog.text


async def test_a_reader_refuses_a_database_without_a_ledger_and_reads_beside_a_gateway(place: PostgresPlace) -> None:
    with pytest.raises(LedgerUnavailable, match="There is no ledger in postgresql"):
        await PostgresReader(place.url).start()
    store = place.store()
    await store.start()
    await store.hold(ASKS, "me", LEASE)

    reader = PostgresReader(place.url)
    await reader.start()

    assert await reader.budgets(AT) == await store.budgets(AT)
    await reader.close()
    await store.close()


# -- what must never be in the tables


async def test_entries_are_append_only(store: PostgresStore, place: PostgresPlace) -> None:
    await store.hold(HOLD, "me", LEASE)
    await store.finish("settle", ROW)
    for change in ("UPDATE entry SET nano = 0", "DELETE FROM entry", "TRUNCATE entry"):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="append-only"):
            await place.look(change)


async def test_the_database_itself_refuses_a_budget_beyond_its_bound(store: PostgresStore, place: PostgresPlace) -> None:
    await store.hold(ASKS, "me", LEASE)
    with pytest.raises(asyncpg.CheckViolationError):
        await place.look("UPDATE budget SET held = held + 10000")


def test_the_invariants_are_those_of_a_file() -> None:
    ours = (list(INVARIANTS), list(BUDGETS), list(MONTHS))
    assert ours == (list(INVARIANTS_OF_A_FILE), list(BUDGETS_OF_A_FILE), list(MONTHS_OF_A_FILE))


BROKEN = {
    "its entries do not sum to its charge": "UPDATE request SET nano = 401, output_nano = output_nano + 1",
    "its parts do not sum to its charge": "UPDATE request SET output_nano = output_nano + 1",
    "it was settled or expired more than once": "INSERT INTO entry SELECT rid, 2, kind, 0, currency, source, at FROM entry",
    "it was both settled and expired": "INSERT INTO entry SELECT rid, 2, 'expire', 0, currency, source, at FROM entry",
    "its hold is open, yet it was charged": "UPDATE hold SET state = 'held'",
    "its hold is closed, yet it has no entry": "INSERT INTO hold SELECT (h).* FROM (SELECT hold #= 'x' AS h FROM hold) AS x",
    "its hold is closed, yet it has no row": "DELETE FROM request",
    "it has no hold": "DELETE FROM hold",
    "its currencies differ": "UPDATE hold SET currency = 'CNY'",
    "it was released, yet it costs something": "UPDATE hold SET state = 'released'",
    "its budgets were not charged what it costs": "UPDATE hold SET claims = jsonb_set(claims, '{0,rate}', '[2, 1]')",
    "its entries do not sum to what it spent": "UPDATE budget SET spent = spent + 1, ceiling = ceiling + 1",
    "its open holds do not sum to what it holds": "UPDATE budget SET held = held + 1",
    "its peak is below what was committed": "UPDATE budget SET peak = 1",
    "its ceiling is below its limit": "UPDATE budget SET lim = ceiling + 1",
}
BROKEN["it was archived, and is still here"] = (
    "WITH file AS (INSERT INTO archive (month, part, file, sha256, made, done) VALUES ('2026-11', 1, 'f', 'x', 0, 1) RETURNING id)"
    " INSERT INTO gone (rid, archive, state, currency, nano) SELECT rid, file.id, 'settled', 'USD', 0 FROM request, file"
)
BROKEN["its requests do not sum to what was archived of it"] = "INSERT INTO closed VALUES ('2026-11', 'search', 'USD', 1, 1, 0)"
BROKEN["its hold is closed, yet it has no entry"] = (
    "INSERT INTO hold SELECT 'r2', state, nano, currency, expected, worst, expires, owner, team, key, route, host, model, card, policies,"
    " started FROM hold"
)


@pytest.mark.parametrize(
    "words", [words for words in (*INVARIANTS, *BUDGETS, *MONTHS) if words != "it went beyond its limit and its overruns"]
)
async def test_a_broken_invariant_is_found_and_named(store: PostgresStore, place: PostgresPlace, words: str) -> None:
    await store.hold(ASKS, "me", LEASE)
    await store.finish("settle", ROW)
    assert await store.verify() == []

    await place.look(BROKEN[words])

    assert any(words in line for line in await store.verify())


async def test_the_bound_is_checked_even_where_the_table_does_not(store: PostgresStore, place: PostgresPlace) -> None:
    await store.hold(ASKS, "me", LEASE)
    await place.look("ALTER TABLE budget DROP CONSTRAINT budget_check")
    await place.look("UPDATE budget SET ceiling = 1")
    assert any("it went beyond its limit and its overruns" in line for line in await store.verify())


async def test_verify_says_why_it_cannot_read(postgres_url: str) -> None:
    with pytest.raises(LedgerUnavailable, match="There is no ledger in"):
        await verify(postgres_url)
    with pytest.raises(LedgerUnavailable, match="cannot be reached") as refusal:
        await verify(f"postgresql://x:secret@127.0.0.1:{free_port()}/x")
    assert "secret" not in str(refusal.value)


def test_the_command_judges_a_database(capsys: pytest.CaptureFixture[str], postgres_url: str) -> None:
    place = PostgresPlace(postgres_url)
    asyncio.run(one_charge(place))
    found = json_of(capsys, "verify", "--ledger", postgres_url, "--json")
    assert found == {"ok": True, "ledger": shown(postgres_url), "problems": []}

    asyncio.run(place.look("UPDATE request SET nano = nano + 1"))

    code, out, err = said(capsys, "verify", "--ledger", postgres_url)
    assert (code, err) == (1, "")
    assert "request r1: its entries do not sum to its charge" in out
    code, out, err = said(capsys, "verify", "--ledger", postgres_url + "_gone")
    assert code != 0 and out == "" and "cannot be reached" in err and err.count("\n") == 1


async def one_charge(place: PostgresPlace) -> None:
    store = place.store()
    await store.start()
    await store.hold(ASKS, "me", LEASE)
    await store.finish("settle", ROW)
    await store.close()


async def test_a_claim_of_an_unlikely_name_is_its_own_budget(store: PostgresStore) -> None:
    """Names are told apart whatever characters they hold."""
    claims = (Claim('a"b', "c,d", "", "p", "USD", 5000, None), Claim('a"', 'b","c,d', "", "p", "USD", 5000, None))
    grant = await store.hold(replace(ASKS, claims=claims), "me", LEASE)
    assert [state.held for state in grant.budgets] == [100, 100]
    with pytest.raises(BudgetExceeded):
        await store.hold(replace(ASKS, id="r2", claims=claims, nano=5000, least=5000, worst=5000), "me", LEASE)


# -- the servers of these tests


def test_a_missing_server_is_a_failure_in_ci_and_elsewhere_a_skip_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install some-package"):
        program("no-such-server", "some-package")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="apt-get install some-package"):
        program("no-such-server", "some-package")


# -- the whole gateway on it

SETTINGS = {"FAREGATE_KEY_PEPPER": "0" * 32, "FAREGATE_LEASE": "2"}


def test_two_gateways_share_a_ledger_and_finish_each_others_work(
    tmp_path: Path, postgres_url: str, postgres_server: PostgresServer
) -> None:
    settings = SETTINGS | {"FAREGATE_LEDGER": postgres_url}
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    with LiveGateway(folders[0], settings=settings) as first, LiveGateway(folders[1], settings=settings) as second:
        ids = [gateway.chat(QUESTION)[1]["x-request-id"] for gateway in (first, second, first)]
        assert [second.row(id)["id"] for id in ids] == ids

        # A restart of the database between two requests is no client's matter.
        postgres_server.restart()
        status, _, _ = first.chat(QUESTION)
        assert status in (200, 503)
        bills = {**first.hosts["deepseek"].bill(), **second.hosts["deepseek"].bill()}
    charges = dict(asyncio.run(PostgresPlace(postgres_url).look("SELECT rid, nano FROM request")))
    assert {id: charges.get(id) for id in bills} == {id: row["nano"] for id, row in bills.items()}
    assert len(charges) == len(bills) == (4 if status == 200 else 3)
    assert asyncio.run(verify(postgres_url)) == []


class _Lost:
    """A connection that is lost when the writer gets it."""

    def add_termination_listener(self, _listener: Any) -> None: ...

    def is_closed(self) -> bool:
        return True


class _Coarse(asyncio.SelectorEventLoop):
    """A loop whose clock stands still for a while, as that of uvloop does for a millisecond."""

    def time(self) -> float:
        return super().time() // 0.125 * 0.125


def test_who_asks_again_as_soon_as_it_is_refused_is_refused_too() -> None:
    async def ask_again() -> None:
        writer = Writer(f"postgresql://nobody@127.0.0.1:{free_port()}/none", QUICK)
        writer.start(_Lost())
        with pytest.raises(LedgerUnavailable):
            await writer.submit(b"{}", ("one",))
        async with asyncio.timeout(5 * GRACE_SECONDS):
            with pytest.raises(LedgerUnavailable):
                await writer.submit(b"{}", ("one",))
        await writer.close()

    with asyncio.Runner(loop_factory=_Coarse) as runner:
        runner.run(ask_again())
