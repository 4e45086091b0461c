"""One transaction on one connection, and what its failures mean to a caller."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import apsw

from gateway.errors import LedgerUnavailable

T = TypeVar("T")

# The store itself has failed: whatever is tried next on it would fail too.
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
    apsw.ProtocolError,
)


def transact(db: apsw.Cursor, work: Callable[[apsw.Cursor, int], T]) -> T:
    """Commit work(db, now) as one transaction, or nothing of it; `now` is the database's clock in microseconds.

    SQLite runs inside this process, so the clock of its machine is the database's clock.
    """
    # Not `with connection`: it waits for another process's lock without letting the other threads of this one run.
    db.execute("BEGIN IMMEDIATE")
    try:
        result = work(db, time.time_ns() // 1000)
        db.execute("COMMIT")
    except BaseException:
        if db.connection.in_transaction:
            db.execute("ROLLBACK")
        raise
    return result


def unavailable(problem: Exception) -> LedgerUnavailable:
    """Without SQLite's text, which may name a file."""
    return LedgerUnavailable(f"The ledger cannot write ({type(problem).__name__}).", retry_after=1)
