"""The embedded ledger: one SQLite file, written by one thread, read on a connection of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from functools import partial
from importlib.resources import files
from pathlib import Path
from secrets import token_hex
from typing import Any, Final, TypeVar

import apsw

from gateway.errors import LedgerUnavailable
from gateway.ledger import operations
from gateway.ledger.columns import REQUEST, microseconds, request_row
from gateway.ledger.port import HoldError, Spend, SpendBy
from gateway.ledger.verify import verify_connection
from gateway.ledger.writer import Operation, Writer
from gateway.outcome import Hold, LedgerRow

log = logging.getLogger(__name__)
T = TypeVar("T")

# Below it, two connections that write and checkpoint at once can corrupt a WAL file.
OLDEST_SQLITE: Final = (3, 51, 3)
LEASE_SECONDS: Final = 30.0
_SCHEMA_VERSION: Final = 1
_BUSY_MILLISECONDS: Final = 5000

_GROUPS: Final[dict[SpendBy, str]] = {
    "day": "strftime('%Y-%m-%d', ended / 1000000, 'unixepoch')",
    "team": "team",
    "route": "route",
    "host": "host",
    "model": "model",
}
_COLUMNS = ", ".join(REQUEST)


def check_sqlite(version: str) -> None:
    """Refuse a SQLite that may corrupt the file."""
    if tuple(int(part) for part in version.split(".")[:3]) < OLDEST_SQLITE:
        oldest = ".".join(str(part) for part in OLDEST_SQLITE)
        raise LedgerUnavailable(f"SQLite {version} can corrupt a ledger: install an apsw that carries SQLite {oldest} or later.")


class SqliteLedger:
    """The port `Ledger` on one file. Between start() and close(), a background task renews leases and expires what is overdue.

    `lease` is in seconds, by the database's clock. `on_commit(op, seconds)` is told how long each operation took until its
    caller could go on.
    """

    def __init__(self, path: Path | str, *, lease: float = LEASE_SECONDS, on_commit: Callable[[str, float], None] | None = None) -> None:
        self._path = Path(path)
        self._lease = lease
        self._lease_microseconds = round(lease * 1_000_000)
        self._owner = token_hex(8)
        self._on_commit = on_commit
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="ledger-reader")
        self._writer: Writer | None = None
        self._reader: apsw.Connection | None = None
        self._upkeep: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open (or create) the file; raises LedgerUnavailable with the remedy when that cannot be."""
        check_sqlite(apsw.sqlite_lib_version())
        try:
            connection, self._reader = await asyncio.to_thread(self._open)
        except (apsw.Error, OSError) as problem:
            text = f"The ledger {self._path} cannot be opened: {problem}. Check the folder and its permissions."
            raise LedgerUnavailable(text) from problem
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(connection, self._loop)
        self._upkeep = asyncio.create_task(self._keep_up())

    async def close(self) -> None:
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.gather(self._upkeep, return_exceptions=True)
        if self._reader is not None:
            await self._read(lambda db: db.close())
            self._reader = None
        if self._writer is not None:
            await self._writer.close()
        self._readers.shutdown()

    @property
    def commits(self) -> int:
        return self._open_writer.commits

    @property
    def flushes(self) -> int:
        """Groups that were flushed to the disk before their callers went on."""
        return self._open_writer.flushes

    async def hold(self, hold: Hold) -> None:
        began = self._loop.time()
        operation = partial(operations.hold, hold=hold, owner=self._owner, lease=self._lease_microseconds)
        future = self._open_writer.submit(operation, durable=False)
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(partial(self._abandon, hold.id))
            raise
        self._committed("hold", began)

    async def extend(self, hold: Hold) -> None:
        await self._write("extend", lambda db, _now: operations.extend(db, hold), durable=False)

    async def settle(self, row: LedgerRow) -> bool:
        settled: bool = await self._write("settle", partial(operations.finish, event="settle", row=row), durable=True)
        return settled

    async def release(self, row: LedgerRow) -> None:
        if row.nano:
            raise HoldError(f"request {row.id} costs {row.nano} nano {row.currency}: settle it")
        if not await self._write("release", partial(operations.release_open, row=row), durable=False):
            await self._write("release", partial(operations.finish, event="release", row=row), durable=True)

    async def renew(self) -> int:
        """Give every open hold of this ledger object a new lease; the number of them."""
        operation = partial(operations.renew, owner=self._owner, lease=self._lease_microseconds)
        renewed: int = await self._write("renew", operation, durable=False)
        return renewed

    async def reap(self) -> int:
        """Expire every hold whose lease is over, whoever made it; the number of them.

        Not flushed: after a power cut the same leases are over, and they expire again.
        """
        total = 0
        while reaped := await self._write("reap", operations.reap, durable=False):
            total += reaped
        return total

    async def request(self, id: str) -> LedgerRow | None:
        query = f"SELECT {_COLUMNS} FROM request WHERE rid = ?"
        return next(iter(await self._read(lambda db: _rows(db, query, (id,)))), None)

    async def requests(self, limit: int) -> list[LedgerRow]:
        query = f"SELECT {_COLUMNS} FROM request ORDER BY ended DESC, rowid DESC LIMIT ?"
        return await self._read(lambda db: _rows(db, query, (limit,)))

    async def spend(self, by: SpendBy, start: datetime, end: datetime) -> list[Spend]:
        query = (
            f"SELECT {_GROUPS[by]} AS name, currency, sum(nano), count(*) FROM request WHERE ended >= ? AND ended < ?"
            " GROUP BY name, currency ORDER BY name, currency"
        )
        span = (microseconds(start), microseconds(end))
        return await self._read(lambda db: [Spend(*found) for found in db.execute(query, span)])

    async def verify(self) -> list[str]:
        return await self._read(verify_connection)

    @property
    def _open_writer(self) -> Writer:
        if self._writer is None:
            raise LedgerUnavailable("The ledger is not started.")
        return self._writer

    async def _write(self, op: str, operation: Operation, *, durable: bool) -> Any:
        began = self._loop.time()
        result = await self._open_writer.submit(operation, durable=durable)
        self._committed(op, began)
        return result

    def _committed(self, op: str, began: float) -> None:
        if self._on_commit is not None:
            self._on_commit(op, self._loop.time() - began)

    def _abandon(self, rid: str, held: asyncio.Future[Any]) -> None:
        """End the hold of a caller that left while it waited: nobody else would, and our own lease would keep it open."""
        if not held.cancelled() and held.exception() is None:
            with suppress(LedgerUnavailable):  # closing: it expires by its lease
                self._open_writer.submit(lambda db, _now: operations.abandon(db, rid), durable=False)

    async def _read(self, query: Callable[[apsw.Connection], T]) -> T:
        """Run a query in the reading thread; the writer and the event loop go on meanwhile."""
        reader = self._reader
        if reader is None:
            raise LedgerUnavailable("The ledger is not open.")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, query, reader)
        except apsw.Error as problem:
            raise LedgerUnavailable(f"The ledger cannot be read ({type(problem).__name__}).", retry_after=1) from problem

    async def _keep_up(self) -> None:
        """Renew first, then reap: a loop that stood still for longer than a lease does not expire its own holds."""
        while True:
            try:
                await self.renew()
                if reaped := await self.reap():
                    log.warning("ledger: %d holds expired and were charged by estimate", reaped)
            except (LedgerUnavailable, apsw.Error) as problem:
                log.error("ledger: leases were not renewed: %s", problem)
            await asyncio.sleep(self._lease / 3)

    def _open(self) -> tuple[apsw.Connection, apsw.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        writer = apsw.Connection(str(self._path))
        writer.set_busy_timeout(_BUSY_MILLISECONDS)
        writer.execute("PRAGMA journal_mode = WAL").fetchall()
        # Without it, INSERT OR REPLACE would pass the triggers that keep entries append-only.
        writer.execute("PRAGMA recursive_triggers = ON")
        _create(writer)
        reader = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
        reader.set_busy_timeout(_BUSY_MILLISECONDS)
        return writer, reader


def _create(db: apsw.Connection) -> None:
    """Make the tables in a new file; refuse a file of another version."""
    # Not `with db`: it waits for another process's lock without letting the other threads of this one run.
    db.execute("BEGIN IMMEDIATE")
    try:
        version = db.pragma("user_version")
        if version == 0:
            db.execute(files("gateway.ledger").joinpath("schema.sql").read_text("utf-8"))
        elif version != _SCHEMA_VERSION:
            raise LedgerUnavailable(f"The ledger has schema version {version}; this Faregate knows {_SCHEMA_VERSION}.")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _rows(db: apsw.Connection, query: str, values: tuple[str | int, ...]) -> list[LedgerRow]:
    return [request_row(columns) for columns in db.execute(query, values)]
