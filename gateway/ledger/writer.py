"""One thread writes: operations commit in groups, and a caller learns its result only after the commit that holds it.

The thread waits for one operation, takes what is queued by then (up to BATCH), and commits all of it in one transaction.
A group with a durable operation is flushed to the disk (synchronous FULL); any other is written without a flush (NORMAL):
a killed process loses none of it, a power cut may lose the last groups that no later flush has covered.

An operation that fails leaves nothing behind and does not harm its neighbours: a refusal (HoldError) comes before the
operation's first write; any other failure rolls the whole group back, and its operations are tried again one by one.
What belongs to the ledger's meaning (states, tables) does not live here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from time import sleep
from typing import Any, Final, Literal

import apsw

from gateway.errors import LedgerUnavailable
from gateway.ledger.port import HoldError

BATCH: Final = 256
# While requests come together, the writer waits this long for more of them: a commit costs far more than an operation.
GATHER: Final = 0.000001

# Called in the writer's transaction, with the database's clock in microseconds. HoldError only before its first write.
Operation = Callable[[apsw.Connection, int], Any]

# The store itself has failed: every operation of the group would, so none is tried alone.
STORE_FAILURES: Final = (
    apsw.BusyError,
    apsw.LockedError,
    apsw.FullError,
    apsw.IOError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.NoMemError,
)

# The database's clock, read once for each group. SQLite's own resolution is a millisecond.
_NOW = "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) * 1000"


@dataclass(slots=True)
class _Job:
    operation: Operation
    durable: bool
    future: asyncio.Future[Any]


class Writer:
    """Owns the writing connection. `commits` and `flushes` count groups, and those of them that were flushed."""

    def __init__(self, connection: apsw.Connection, loop: asyncio.AbstractEventLoop) -> None:
        self.commits = 0
        self.flushes = 0
        self._db = connection
        self._loop = loop
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._closing = False
        self._last_batch_taken = False
        self._busy = False
        self._level: Literal["FULL", "NORMAL", ""] = ""
        self._thread = Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation, *, durable: bool) -> asyncio.Future[Any]:
        """Queue one operation, in order. The future has its result after the commit; cancelling it undoes nothing."""
        if self._closing:
            raise LedgerUnavailable("The ledger is closed.")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put(_Job(operation, durable, future))
        return future

    async def close(self) -> None:
        """Commit what was submitted, close the connection, end the thread."""
        if not self._closing:
            self._closing = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while batch := self._take():
            self._tell(batch, self._results(batch))
        self._db.close()

    def _take(self) -> list[_Job]:
        """The next group, in order; empty when close() was called and nothing is left."""
        if self._last_batch_taken:
            return []
        jobs = [self._queue.get()]
        if self._busy:
            sleep(GATHER)
        jobs += [self._queue.get_nowait() for _ in range(min(self._queue.qsize(), BATCH - 1))]
        self._busy = len(jobs) > 1
        self._last_batch_taken = jobs[-1] is None
        return [job for job in jobs if job is not None]

    def _results(self, batch: list[_Job]) -> list[Any]:
        """One result or exception for each operation; never raises, because the thread must live on."""
        try:
            return self._transaction(batch)
        except STORE_FAILURES as problem:
            return [_unavailable(problem) for _ in batch]
        except Exception as problem:  # an operation's own fault: handed to its caller, not swallowed
            return [problem] if len(batch) == 1 else [self._results([job])[0] for job in batch]

    def _transaction(self, batch: list[_Job]) -> list[Any]:
        db = self._db
        durable = any(job.durable for job in batch)
        self._synchronous("FULL" if durable else "NORMAL")
        db.execute("BEGIN IMMEDIATE")
        try:
            now = db.execute(_NOW).get
            results = [_attempt(job.operation, db, now) for job in batch]
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        self.commits += 1
        self.flushes += durable
        return results

    def _synchronous(self, level: Literal["FULL", "NORMAL"]) -> None:
        """SQLite takes a new level only outside a transaction."""
        if level != self._level:
            self._db.execute(f"PRAGMA synchronous = {level}")
            self._level = level

    def _tell(self, batch: list[_Job], results: list[Any]) -> None:
        """Resolve the whole group by one wake-up of the loop."""
        try:
            self._loop.call_soon_threadsafe(_resolve, batch, results)
        except RuntimeError:  # the loop is closed, so nobody waits: what was submitted is committed all the same
            return


def _attempt(operation: Operation, db: apsw.Connection, now: int) -> Any:
    try:
        return operation(db, now)
    except HoldError as refusal:
        return refusal


def _resolve(batch: list[_Job], results: list[Any]) -> None:
    for job, result in zip(batch, results, strict=True):
        if job.future.done():  # its caller was cancelled; the operation stands
            continue
        if isinstance(result, BaseException):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)


def _unavailable(problem: apsw.Error) -> LedgerUnavailable:
    """Without SQLite's text, which may name a file."""
    return LedgerUnavailable(f"The ledger cannot write ({type(problem).__name__}).", retry_after=1)
