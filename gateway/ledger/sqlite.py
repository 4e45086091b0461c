"""The embedded ledger: one SQLite file, written on the event loop, flushed and read by threads of their own."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
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
from gateway.ledger.flusher import Flusher
from gateway.ledger.keeper import Keeper, touch_log
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
LOG_PAGES: Final = 4000

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


@dataclass(frozen=True, slots=True)
class _File:
    """The connections of one ledger file, and its log as a file descriptor."""

    writer: apsw.Connection
    keeper: apsw.Connection
    guard: apsw.Connection
    reader: apsw.Connection
    log: int


class SqliteLedger:
    """The port `Ledger` on one file. Between start() and close(), a background task renews leases and expires what is overdue.

    `lease` is in seconds, by the database's clock. `on_commit(op, seconds)` is told how long each operation took until its
    caller could go on. `sync(descriptor)` makes what was written to a file survive a power cut. The log is copied into the
    file whenever it has grown by `log_pages` of 4 KiB.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        lease: float = LEASE_SECONDS,
        on_commit: Callable[[str, float], None] | None = None,
        sync: Callable[[int], None] = os.fdatasync,
        log_pages: int = LOG_PAGES,
    ) -> None:
        self._path = Path(path)
        self._lease = lease
        self._lease_microseconds = round(lease * 1_000_000)
        self._owner = token_hex(8)
        self._on_commit = on_commit
        self._sync = sync
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="ledger-reader")
        self._file: _File | None = None
        self._writer: Writer | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._log_pages = self._checkpoint_at = log_pages
        self._pages = 0
        self._checkpointing = False

    async def start(self) -> None:
        """Open (or create) the file; raises LedgerUnavailable with the remedy when that cannot be."""
        check_sqlite(apsw.sqlite_lib_version())
        try:
            file = await asyncio.to_thread(_open, self._path)
        except (apsw.Error, OSError) as problem:
            text = f"The ledger {self._path} cannot be opened: {problem}. Check the folder and its permissions."
            raise LedgerUnavailable(text) from problem
        self._loop = asyncio.get_running_loop()
        self._file = file
        self._flusher = Flusher(partial(self._sync, file.log), self._loop)
        self._writer = Writer(file.writer, self._flusher, self._loop)
        self._keeper = Keeper(file.keeper, file.guard, self._writer)
        file.writer.set_wal_hook(self._log_grew)
        self._start_task(self._keep_up())

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._file is not None and self._writer is not None:
            file, self._file = self._file, None
            await self._writer.close()
            await self._flusher.close()
            await self._keeper.close()
            await self._loop.run_in_executor(self._readers, _close, file)
        self._readers.shutdown()

    @property
    def commits(self) -> int:
        return self._open_writer.commits

    @property
    def flushes(self) -> int:
        """How often charges were flushed to the disk before their callers went on."""
        return self._flusher.flushes

    async def hold(self, hold: Hold) -> None:
        began = self._loop.time()
        owner, lease = self._owner, self._lease_microseconds
        future = self._open_writer.submit(lambda db, now: operations.hold(db, now, hold, owner, lease), durable=False, firm=False)
        try:
            await future
        except asyncio.CancelledError:
            self._abandon(hold.id, future)
            raise
        self._committed("hold", began)

    async def extend(self, hold: Hold) -> None:
        await self._write("extend", lambda db, _now: operations.extend(db, hold), durable=False)

    async def settle(self, row: LedgerRow) -> bool:
        settled: bool = await self._write("settle", lambda db, now: operations.finish(db, now, "settle", row), durable=True)
        return settled

    async def release(self, row: LedgerRow) -> None:
        if row.nano:
            raise HoldError(f"request {row.id} costs {row.nano} nano {row.currency}: settle it")
        if not await self._write("release", lambda db, now: operations.release_open(db, now, row), durable=False):
            await self._write("release", lambda db, now: operations.finish(db, now, "release", row), durable=True)

    async def renew(self) -> int:
        """Give every open hold of this ledger object a new lease; the number of them."""
        operation = partial(operations.renew, owner=self._owner, lease=self._lease_microseconds)
        return await self._keep("renew", operation)

    async def reap(self) -> int:
        """Expire every hold whose lease is over, whoever made it; the number of them.

        Not flushed: after a power cut the same leases are over, and they expire again.
        """
        total = 0
        while reaped := await self._keep("reap", operations.reap):
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

    async def _keep(self, op: str, operation: Operation) -> int:
        if self._file is None:
            raise LedgerUnavailable("The ledger is not open.")
        began = self._loop.time()
        result = await self._keeper.write(operation)
        self._committed(op, began)
        return result

    def _abandon(self, rid: str, held: asyncio.Future[Any]) -> None:
        """End the hold of a caller that left while it waited: nobody else would, and our own lease would keep it open.

        A cancelled future was still queued, and is left out; any other has its result, and a commit lies behind it.
        """
        if not held.cancelled() and held.exception() is None:
            with suppress(LedgerUnavailable):  # closing: it expires by its lease
                self._open_writer.submit(lambda db, _now: operations.abandon(db, rid), durable=False)

    async def _read(self, query: Callable[[apsw.Connection], T]) -> T:
        """Run a query in the reading thread; the writer and the event loop go on meanwhile."""
        if self._file is None:
            raise LedgerUnavailable("The ledger is not open.")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, query, self._file.reader)
        except apsw.Error as problem:
            raise LedgerUnavailable(f"The ledger cannot be read ({type(problem).__name__}).", retry_after=1) from problem

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _log_grew(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        """SQLite tells, after each commit, how long the log is."""
        self._pages = pages
        if pages >= self._checkpoint_at and not self._checkpointing:
            self._checkpointing = True
            self._start_task(self._checkpoint())
        return apsw.SQLITE_OK

    async def _checkpoint(self) -> None:
        """One at a time: two would undo each other's pauses."""
        anew = False
        try:
            anew = await self._keeper.checkpoint()
        except (LedgerUnavailable, apsw.Error) as problem:
            log.error("ledger: the log could not be copied into the file: %s", problem)
        finally:
            self._checkpointing = False
            # A log that a reader still needs is not tried again at each commit, but when it has grown as much once more.
            self._checkpoint_at = self._log_pages if anew else self._pages + self._log_pages

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


def _open(path: Path) -> _File:
    path.parent.mkdir(parents=True, exist_ok=True)
    keeper = _connect(path)
    keeper.execute("PRAGMA journal_mode = WAL").fetchall()
    keeper.execute("PRAGMA synchronous = FULL")
    _create(keeper)
    # After it the log exists, and the tables and its header are on the disk: the loop's connection need flush none of them.
    touch_log(keeper)
    keeper.execute("PRAGMA synchronous = NORMAL")
    log = os.open(keeper.filename_wal, os.O_RDONLY)
    _sync_folder(path.parent)
    writer = _connect(path)
    writer.set_busy_timeout(0)  # it must not stop the loop while another process writes: the writer asks again
    return _File(writer, keeper, _reader(path), _reader(path), log)


def _connect(path: Path) -> apsw.Connection:
    db = apsw.Connection(str(path))
    db.set_busy_timeout(_BUSY_MILLISECONDS)
    # Commits are not flushed, but checkpoints are, and the log when it starts anew.
    db.execute("PRAGMA synchronous = NORMAL")
    # A checkpoint flushes, so the keeper makes them and no commit does.
    db.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
    # Without it, INSERT OR REPLACE would pass the triggers that keep entries append-only.
    db.execute("PRAGMA recursive_triggers = ON")
    return db


def _reader(path: Path) -> apsw.Connection:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(_BUSY_MILLISECONDS)
    return db


def _sync_folder(folder: Path) -> None:
    """After it, a power cut does not take away files that were made in the folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _close(file: _File) -> None:
    """The last connection to close copies the log into the file and removes it."""
    os.close(file.log)
    file.reader.close()
    file.writer.close()


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
