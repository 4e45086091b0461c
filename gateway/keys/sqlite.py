"""The keys in the embedded ledger's file: tables and a connection of their own, used by a thread of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import apsw

from gateway.errors import LedgerUnavailable
from gateway.keys.columns import COLUMNS, NAMES, SCHEMA_VERSION, keys_of, micros, tables, values
from gateway.keys.port import Key, KeyProblem, NameTaken, PepperDiffers, Table
from gateway.ledger.columns import microseconds
from gateway.ledger.opening import keep_a_log, private_file

T = TypeVar("T")
PATIENCE_SECONDS: Final = 5.0
_INSERT: Final = f"INSERT INTO key ({NAMES}) VALUES ({', '.join('?' * len(COLUMNS))})"


class SqliteKeys:
    """The port `KeyStore` on the ledger's file; the command line and several gateways may have it open at once.

    `patience` is how long, in seconds, to wait for another process that writes.
    """

    def __init__(self, path: Path, check: bytes, patience: float = PATIENCE_SECONDS) -> None:
        self._path = path
        self._check = check
        self._patience = patience
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keys")
        self._db: apsw.Connection | None = None

    async def start(self) -> None:
        try:
            self._db = await self._in_thread(partial(_open, self._path, self._patience, self._check))
        except (apsw.Error, OSError) as problem:
            text = f"The keys in {self._path} cannot be opened: {problem}. Check the folder and its permissions."
            raise LedgerUnavailable(text) from problem

    async def close(self) -> None:
        if self._db is not None:
            db, self._db = self._db, None
            await self._in_thread(db.close)
        self._thread.shutdown()

    async def version(self) -> int:
        return await self._ask(lambda db: _version(db, self._check))

    async def read(self) -> Table:
        return await self._ask(lambda db: _transact(db, "BEGIN", lambda: _table(db, self._check)))

    async def add(self, digest: bytes, key: Key) -> None:
        await self._change(lambda db: _insert(db, digest, key))

    async def replace(self, old: Key, digest: bytes, key: Key) -> None:
        await self._change(lambda db: _replace(db, old, digest, key))

    async def revoke(self, ids: Collection[str], at: datetime) -> None:
        rows = [(microseconds(at), id) for id in ids]
        await self._change(lambda db: db.executemany("UPDATE key SET revoked = ? WHERE id = ? AND revoked IS NULL", rows))

    async def _change(self, work: Callable[[apsw.Connection], object]) -> None:
        def changed(db: apsw.Connection) -> None:
            def write() -> None:
                _version(db, self._check)
                work(db)
                db.execute("UPDATE key_state SET changes = changes + 1")

            _transact(db, "BEGIN IMMEDIATE", write)

        await self._ask(changed)

    async def _ask(self, question: Callable[[apsw.Connection], T]) -> T:
        if self._db is None:
            raise LedgerUnavailable("The keys are not open.")
        try:
            return await self._in_thread(partial(question, self._db))
        except apsw.Error as problem:
            raise LedgerUnavailable(f"The keys cannot be reached ({type(problem).__name__}).", retry_after=1) from problem

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def stored_check(path: Path) -> bytes | None:
    """What stands for the pepper of the keys in this file, which is left as it is; None where there is no key, or it cannot be read."""
    if not path.is_file():
        return None
    try:
        # Not read-only: after a crash, SQLite must first bring the file's log into it.
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            db.pragma("query_only", True)
            db.set_busy_timeout(round(PATIENCE_SECONDS * 1000))
            if not db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'key_state'").get:
                return None
            found = db.execute("SELECT pepper_check FROM key_state WHERE EXISTS (SELECT 1 FROM key)").get
            return None if found is None else bytes(found)
        finally:
            db.close()
    except apsw.Error:
        # Whoever opens it to use it says what is wrong with it.
        return None


def _open(path: Path, patience: float, check: bytes) -> apsw.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    private_file(path)
    db = apsw.Connection(str(path))
    try:
        db.set_busy_timeout(round(patience * 1000))
        keep_a_log(db, patience)
        # A key that was shown, and one that was revoked, stay so through a power cut. The ledger makes the checkpoints.
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        _transact(db, "BEGIN IMMEDIATE", lambda: _create(db, check))
    except BaseException:
        # Whatever it is, raised again: a connection that nobody has must not stay open.
        db.close()
        raise
    return db


def _create(db: apsw.Connection, check: bytes) -> None:
    for statement in tables("", "BLOB", "INTEGER"):
        db.execute(statement)
    db.execute("INSERT OR IGNORE INTO key_state VALUES (1, ?, 0, ?)", (SCHEMA_VERSION, check))
    [(schema,)] = db.execute("SELECT schema_version FROM key_state")
    if schema != SCHEMA_VERSION:
        raise LedgerUnavailable(f"The table of keys has schema version {schema}; this Faregate knows {SCHEMA_VERSION}.")
    db.execute("UPDATE key_state SET pepper_check = ? WHERE NOT EXISTS (SELECT 1 FROM key)", (check,))
    _version(db, check)


def _version(db: apsw.Connection, check: bytes) -> int:
    [(changes, found)] = db.execute("SELECT changes, pepper_check FROM key_state")
    if found != check:
        raise PepperDiffers
    return int(changes)


def _table(db: apsw.Connection, check: bytes) -> Table:
    return Table(_version(db, check), keys_of(db.execute(f"SELECT {NAMES} FROM key")))


def _insert(db: apsw.Connection, digest: bytes, key: Key) -> None:
    try:
        db.execute(_INSERT, values(digest, key))
    except apsw.ConstraintError:
        raise NameTaken from None


def _replace(db: apsw.Connection, old: Key, digest: bytes, key: Key) -> None:
    ends = micros(old.expires), micros(old.revoked), key.id, old.id
    db.execute("UPDATE key SET expires = ?, revoked = coalesce(revoked, ?), replaced_by = ? WHERE id = ? AND replaced_by IS NULL", ends)
    if db.changes() != 1:
        raise KeyProblem("this key was replaced just now. Remedy: rotate its successor.")
    _insert(db, digest, key)


def _transact(db: apsw.Connection, begin: str, work: Callable[[], T]) -> T:
    # Not `with db`: it waits for another process's lock without letting the other threads of this one run.
    db.execute(begin)
    try:
        result = work()
        db.execute("COMMIT")
    except BaseException:
        # Whatever it is, raised again: half a change must not stay.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return result
