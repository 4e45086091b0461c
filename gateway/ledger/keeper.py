"""The housekeeping of a ledger file, in a thread and on a connection of its own: checkpoints, leases, the reaper.

All of it may take long or flush the disk, which the event loop must not; while it writes, the loop's writer is paused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import apsw

from gateway.ledger.transaction import STORE_FAILURES, transact, unavailable
from gateway.ledger.writer import Operation, Writer

T = TypeVar("T")


class Keeper:
    """Owns the keeping connection, whose synchronous level must be NORMAL at least, and a reading one to guard the log."""

    def __init__(self, connection: apsw.Connection, guard: apsw.Connection, writer: Writer) -> None:
        self._db = connection
        self._guard = guard
        self._writer = writer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger-keeper")

    async def write(self, operation: Operation) -> int:
        """Commit one operation, not flushed; its number."""
        with self._writer.paused():
            result: int = await self._run(lambda db: transact(db.cursor(), operation))
            return result

    async def checkpoint(self) -> bool:
        """Copy the log into the database file and start it anew; False while a reader still needs it.

        Nearly everything is copied while the writer goes on. It pauses for the rest and for the first write to the new
        log, with which SQLite flushes the log's header: in the loop's connection that flush would stop the loop.
        """
        await self._run(self._copy_most)
        with self._writer.paused():
            return await self._run(self._start_log_anew)

    async def close(self) -> None:
        await self._run(self._close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[apsw.Connection], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._db)
        except STORE_FAILURES as problem:
            raise unavailable(problem) from problem

    def _copy_most(self, db: apsw.Connection) -> None:
        """Copy what is in the log by now. A reader in it keeps the loop's connection from starting it anew."""
        self._let_go()
        self._guard.execute("BEGIN")
        self._guard.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _start_log_anew(self, db: apsw.Connection) -> bool:
        self._let_go()
        pages, copied = db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        if pages != copied:
            return False
        touch_log(db)
        return True

    def _let_go(self) -> None:
        if self._guard.in_transaction:
            self._guard.execute("ROLLBACK")

    def _close(self, db: apsw.Connection) -> None:
        self._guard.close()
        db.close()


def touch_log(db: apsw.Connection) -> None:
    """Write a page to the log that changes nothing."""
    db.pragma("user_version", db.pragma("user_version"))
