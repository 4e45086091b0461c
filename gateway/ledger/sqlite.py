"""The embedded store of a ledger: one SQLite file, written on the event loop, flushed and read by threads of their own."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw

from gateway.errors import LedgerUnavailable
from gateway.ledger import budget_rows, corrections, operations, reading
from gateway.ledger.columns import REQUEST, microseconds, request_row
from gateway.ledger.flusher import Flusher
from gateway.ledger.keeper import Keeper, touch_log
from gateway.ledger.opening import keep_a_log, private_file, sync_folder
from gateway.ledger.port import Closed, CorrectionError, Event, Mark, Page, Rates, Spend, SpendBy, Trail, Zones, no_zone, same_currency
from gateway.ledger.tallies import tally_file
from gateway.ledger.verify import verify_connection
from gateway.ledger.writer import Operation, Writer
from gateway.outcome import BudgetState, Correction, Grant, Hold, LedgerRow
from gateway.reports.tallies import Question, Take

log = logging.getLogger(__name__)
T = TypeVar("T")

# Below it, two connections that write and checkpoint at once can corrupt a WAL file.
OLDEST_SQLITE: Final = (3, 51, 3)
# Each makes the next version of the tables, in a new file and in one that is older.
_SCHEMAS: Final = ("schema.sql", "schema_2.sql", "schema_3.sql", "schema_4.sql", "schema_5.sql")
VERSION: Final = len(_SCHEMAS)
PATIENCE_SECONDS: Final = 5.0
LOG_PAGES: Final = 4000
# Of one transaction: each is a few statements on the event loop.
_CORRECTIONS: Final = 32

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


class SqliteStore:
    """The port `Store` on one file, which processes of one machine may share.

    `patience` is in seconds: how long to wait for another process that holds the file. `sync(descriptor)` makes what was written to
    a file survive a power cut. The log is copied into the file whenever it has grown by `log_pages` of 4 KiB.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        sync: Callable[[int], None] = os.fdatasync,
        log_pages: int = LOG_PAGES,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._path = Path(path)
        self._patience = patience
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
            file = await asyncio.to_thread(_open, self._path, self._patience)
        except (apsw.Error, OSError) as problem:
            text = f"The ledger {self._path} cannot be opened: {problem}. Check the folder and its permissions."
            raise LedgerUnavailable(text) from problem
        self._loop = asyncio.get_running_loop()
        self._file = file
        self._flusher = Flusher(partial(_flush, self._sync, file.log), self._loop)
        self._writer = Writer(file.writer, self._flusher, self._loop, self._patience)
        self._keeper = Keeper(file.keeper, file.guard, self._writer)
        file.writer.set_wal_hook(self._log_grew)

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

    async def hold(self, hold: Hold, owner: str, lease: float, *, forced: bool = False) -> Grant:
        """A caller that leaves before it has its answer has no hold."""
        microseconds = round(lease * 1_000_000)
        future = self._open_writer.submit(
            lambda db, now: operations.hold(db, now, hold, owner, microseconds, forced=forced), durable=False, firm=False
        )
        try:
            grant: Grant = await future
        except asyncio.CancelledError:
            self._abandon(hold.id, future)
            raise
        return grant

    async def extend(self, hold: Hold) -> Grant:
        grant: Grant = await self._open_writer.submit(lambda db, _now: operations.extend(db, hold), durable=False)
        return grant

    async def finish(self, event: Event, row: LedgerRow) -> bool:
        """Not flushed where an open hold is released: without its release it expires."""
        write = self._open_writer.submit
        if event == "release" and await write(lambda db, now: operations.release_open(db, now, row), durable=False):
            return True
        done: bool = await write(lambda db, now: operations.finish(db, now, event, row), durable=True)
        return done

    async def renew(self, ids: Collection[str], lease: float) -> int:
        return await self._keep(partial(operations.renew, ids=list(ids), lease=round(lease * 1_000_000)))

    async def reap(self) -> int:
        """Not flushed: after a power cut the same leases are over, and they expire again."""
        total = 0
        while reaped := await self._keep(operations.reap):
            total += reaped
        return total

    async def request(self, id: str) -> LedgerRow | None:
        return await self._read(lambda db: reading.request(db, id))

    async def trail(self, id: str) -> Trail | None:
        return await self._read(lambda db: reading.trail(db, id))

    async def requests(self, limit: int) -> list[LedgerRow]:
        query = f"SELECT {_COLUMNS} FROM request ORDER BY ended DESC, rowid DESC LIMIT ?"
        return await self._read(lambda db: [request_row(columns) for columns in db.execute(query, (limit,))])

    async def page(self, start: datetime, end: datetime, team: str | None, after: Mark | None, limit: int) -> Page:
        return await self._read(lambda db: reading.page(db, start, end, team, after, limit))

    async def spend(self, by: SpendBy, start: datetime, end: datetime, team: str | None = None) -> list[Spend]:
        return await self._read(lambda db: reading.spend(db, by, start, end, team))

    async def tally(self, question: Question, take: Take) -> None:
        """On a connection and in a thread of its own: it may take long, and other questions do not wait for it."""
        if self._file is None:
            raise LedgerUnavailable("The ledger is not open.")
        try:
            await asyncio.to_thread(tally_file, self._path, question, take)
        except apsw.Error as problem:
            raise LedgerUnavailable(f"The ledger cannot be read ({type(problem).__name__}).", retry_after=1) from problem

    async def correct(self, given: Sequence[Correction], rates: Rates = same_currency, zones: Zones = no_zone) -> int:
        new = 0
        for first in range(0, len(given), _CORRECTIONS):
            some = given[first : first + _CORRECTIONS]
            made, refusal = await self._open_writer.submit(partial(_correct, some, rates, zones), durable=True)
            new += made
            if refusal is not None:
                raise refusal
        return new

    async def corrections(self, start: datetime, end: datetime, team: str | None = None) -> list[Correction]:
        return await self._read(lambda db: corrections.within(db, start, end, team))

    async def closed(self, start: datetime, end: datetime, team: str | None = None) -> list[Closed]:
        return await self._read(lambda db: reading.closed(db, start, end, team))

    async def budgets(self, at: datetime, team: str | None = None) -> list[BudgetState]:
        return await self._read(lambda db: budget_rows.states(db, microseconds(at), team))

    async def verify(self) -> list[str]:
        return await self._read(verify_connection)

    @property
    def _open_writer(self) -> Writer:
        if self._writer is None:
            raise LedgerUnavailable("The ledger is not started.")
        return self._writer

    async def _keep(self, operation: Operation) -> int:
        if self._file is None:
            raise LedgerUnavailable("The ledger is not open.")
        return await self._keeper.write(operation)

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
            # Another gateway on this file may be copying the log just now.
            level = logging.DEBUG if isinstance(problem.__cause__, apsw.BusyError) else logging.ERROR
            log.log(level, "ledger: the log could not be copied into the file: %s", problem)
        finally:
            self._checkpointing = False
            # A log that a reader still needs is not tried again at each commit, but when it has grown as much once more.
            self._checkpoint_at = self._log_pages if anew else self._pages + self._log_pages


def _correct(given: Sequence[Correction], rates: Rates, zones: Zones, db: apsw.Cursor, now: int) -> tuple[int, CorrectionError | None]:
    """How many were new, up to the first that is refused."""
    new = 0
    for correction in given:
        try:
            new += corrections.correct(db, now, correction, rates, zones)
        except CorrectionError as refusal:
            return new, refusal
    return new, None


def _flush(sync: Callable[[int], None], log: int) -> None:
    """What was written to the log is on the disk; OSError where the log is no more in its folder, for it ends with this process."""
    sync(log)
    if not os.fstat(log).st_nlink:
        raise FileNotFoundError("another program has removed it")


def _open(path: Path, patience: float) -> _File:
    path.parent.mkdir(parents=True, exist_ok=True)
    private_file(path)
    keeper = _connect(path, patience)
    keep_a_log(keeper, patience)
    keeper.execute("PRAGMA synchronous = FULL")
    _create(keeper)
    # After it the log exists, and the tables and its header are on the disk: the loop's connection need flush none of them.
    touch_log(keeper)
    keeper.execute("PRAGMA synchronous = NORMAL")
    log = os.open(keeper.filename_wal, os.O_RDONLY)
    sync_folder(path.parent)
    # Without a timeout: it must not stop the loop while another process writes, so the writer asks again.
    writer = _connect(path, 0)
    return _File(writer, keeper, _reader(path, patience), _reader(path, patience), log)


def _connect(path: Path, patience: float) -> apsw.Connection:
    db = apsw.Connection(str(path))
    db.set_busy_timeout(round(patience * 1000))
    # Commits are not flushed, but checkpoints are, and the log when it starts anew.
    db.execute("PRAGMA synchronous = NORMAL")
    # A checkpoint flushes, so the keeper makes them and no commit does.
    db.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
    # Without it, INSERT OR REPLACE would pass the triggers that keep entries append-only.
    db.execute("PRAGMA recursive_triggers = ON")
    return db


def _reader(path: Path, patience: float) -> apsw.Connection:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(round(patience * 1000))
    return db


def _close(file: _File) -> None:
    """The last connection to close copies the log into the file and removes it."""
    os.close(file.log)
    file.reader.close()
    file.writer.close()


def _create(db: apsw.Connection) -> None:
    """Make the tables in a new file, or bring those of an older version up to this one; refuse a newer file."""
    # Not `with db`: it waits for another process's lock without letting the other threads of this one run.
    db.execute("BEGIN IMMEDIATE")
    try:
        version = db.pragma("user_version")
        if not 0 <= version <= len(_SCHEMAS):
            raise LedgerUnavailable(f"The ledger has schema version {version}; this Faregate knows {len(_SCHEMAS)}.")
        for name in _SCHEMAS[version:]:
            db.execute(files("gateway.ledger").joinpath(name).read_text("utf-8"))
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
