"""Operations commit in groups on the event loop's own thread: those of two turns of the loop in one transaction.

A commit writes to the log without a flush, so it takes microseconds and no other thread: a killed process loses none of
it, a power cut may lose the last groups that no later flush has covered. A caller learns its result after the commit; of a
durable operation only after the flusher has made it durable too.

An operation that fails leaves nothing behind and does not harm its neighbours: a refusal (HoldError, or an error that a
client may see) comes before the operation's first write; any other failure rolls the whole group back, and its operations are
tried again one by one.
While another process writes, or our own housekeeping does, operations wait in their order, and the loop goes on.
What belongs to the ledger's meaning (states, tables) does not live here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import apsw
from msgspec import Struct

from gateway.errors import FaregateError, LedgerUnavailable
from gateway.ledger.flusher import Flusher
from gateway.ledger.port import HoldError
from gateway.ledger.transaction import STORE_FAILURES, transact, unavailable

# The most operations of one transaction: about one millisecond of the loop's time.
BATCH: Final = 64
# How often operations look whether another process still holds the file, in seconds.
_RETRY: Final = 0.001

# Called in a transaction, with the database's clock in microseconds. It refuses only before its first write.
Operation = Callable[[apsw.Cursor, int], Any]


class _Job(Struct):
    operation: Operation
    durable: bool
    firm: bool
    future: asyncio.Future[Any]


class Writer:
    """Owns the loop's writing connection, whose busy timeout must be 0. `commits` counts groups.

    `patience` is how long operations wait for another process that holds the file, in seconds.
    """

    def __init__(self, connection: apsw.Connection, flusher: Flusher, loop: asyncio.AbstractEventLoop, patience: float) -> None:
        self.commits = 0
        self._patience = patience
        self._db = connection.cursor()
        self._flusher = flusher
        self._loop = loop
        self._jobs: list[_Job] = []
        self._scheduled = False
        self._pauses = 0
        self._busy_since: float | None = None
        self._closing = False

    def submit(self, operation: Operation, *, durable: bool, firm: bool = True) -> asyncio.Future[Any]:
        """Queue one operation, in order; the future has its result after the commit (and the flush, if durable).

        Cancelling the future undoes nothing; only an operation that is not firm, and still queued, is then left out.
        """
        if self._closing:
            raise LedgerUnavailable("The ledger is closed.")
        if self._flusher.failed is not None:
            raise self._flusher.failed
        future: asyncio.Future[Any] = self._loop.create_future()
        self._jobs.append(_Job(operation, durable, firm, future))
        if not self._scheduled:
            self._schedule()
        return future

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is committed meanwhile: another connection of this process writes."""
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            self._schedule()

    async def close(self) -> None:
        """Everything that was submitted is committed and durable, as far as the store can, and its callers know."""
        if self._closing:
            return
        with suppress(LedgerUnavailable):
            last = self.submit(lambda _db, _now: None, durable=True)
            self._closing = True
            await last
        self._closing = True

    def _schedule(self) -> None:
        if self._jobs and not self._scheduled and not self._pauses:
            self._scheduled = True
            self._loop.call_soon(self._gather)

    def _gather(self) -> None:
        """One more turn: what arrives in it shares the commit, which costs far more than an operation."""
        self._loop.call_soon(self._commit)

    def _commit(self) -> None:
        self._scheduled = False
        if self._pauses:
            return
        jobs = [job for job in self._jobs[:BATCH] if job.firm or not job.future.cancelled()]
        try:
            results = self._results(jobs)
        except apsw.BusyError as problem:
            self._wait(problem)
            return
        del self._jobs[:BATCH]
        self._busy_since = None
        self._tell(jobs, results)
        self._schedule()

    def _wait(self, problem: apsw.BusyError) -> None:
        """Another process writes: look again soon, or tell everyone when it has gone on for too long."""
        now = self._loop.time()
        if self._busy_since is None:
            self._busy_since = now
        if now - self._busy_since < self._patience:
            self._scheduled = True
            self._loop.call_later(_RETRY, self._commit)
            return
        jobs, self._jobs, self._busy_since = self._jobs, [], None
        self._tell(jobs, [unavailable(problem) for _ in jobs])

    def _results(self, jobs: list[_Job]) -> list[Any]:
        """One result or exception for each operation; raises only BusyError, before anything was tried."""
        try:
            return self._transaction(jobs)
        except apsw.BusyError:
            raise
        except STORE_FAILURES as problem:
            return [unavailable(problem) for _ in jobs]
        except Exception:  # some operation's own fault: alone, it is handed to its caller and harms nobody else
            return [self._alone(job) for job in jobs]

    def _alone(self, job: _Job) -> Any:
        try:
            return self._transaction([job])[0]
        except STORE_FAILURES as problem:
            return unavailable(problem)
        except Exception as problem:  # handed to its caller, not swallowed
            return problem

    def _transaction(self, jobs: list[_Job]) -> list[Any]:
        results = transact(self._db, lambda db, now: [_attempt(job.operation, db, now) for job in jobs])
        self.commits += 1
        return results

    def _tell(self, jobs: list[_Job], results: list[Any]) -> None:
        durable = []
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, BaseException):
                if not job.future.done():
                    job.future.set_exception(result)
            elif job.durable:
                durable.append((job.future, result))
            elif not job.future.done():  # done: its caller was cancelled; the operation stands
                job.future.set_result(result)
        if durable:
            self._flusher.release_durable(durable)


def _attempt(operation: Operation, db: apsw.Cursor, now: int) -> Any:
    try:
        return operation(db, now)
    except (HoldError, FaregateError) as refusal:
        return refusal
