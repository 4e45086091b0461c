"""Entries in a file of SQLite of their own: they survive a restart. What the last moments brought may be lost with the power."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import time
from typing import Any, Final

import apsw

from gateway.ledger.opening import keep_a_log, private_file
from gateway.recall.entries import AGE, OVERHEAD, ROOM, Entry

log = logging.getLogger(__name__)
VERSION: Final = 1
# Milliseconds to wait for another process that writes the same file.
PATIENCE: Final = 1000
# Names in one question.
TOGETHER: Final = 500
# An entry that is asked for counts as used at most this often: a part of its age (1 of so many).
REFRESH: Final = 24
# Batches between two looks at how large everything is.
LOOK: Final = 64
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS entries (
  name BLOB NOT NULL PRIMARY KEY, value BLOB NOT NULL, used INTEGER NOT NULL, size INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS by_use ON entries (used, size);
"""
_PUT: Final = """
INSERT INTO entries (name, value, used, size) VALUES (?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET value = excluded.value, used = excluded.used, size = excluded.size
"""
_PUT_SINGLE: Final = """
INSERT INTO entries (name, value, used, size) VALUES (?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET used = excluded.used, value = CASE WHEN value = excluded.value THEN value ELSE x'2a' END
"""


class SqliteEntries:
    """One file; several processes may share it. A file that cannot be read is made anew; one that cannot be made is done without.

    `now` gives seconds.
    """

    def __init__(self, path: Path, age: float = AGE, room: int = ROOM, now: Callable[[], float] = time) -> None:
        self._path = path
        self._age = age
        self._room = room
        self._now = now
        self._thread = ThreadPoolExecutor(1, "recall")
        self._db: apsw.Connection | None = None
        self._batches = 0
        self._size = 0
        self._said = False

    async def start(self) -> None:
        await self._run(self._open)

    async def put(self, entries: Sequence[Entry]) -> None:
        await self._run(partial(self._put, entries))

    async def get(self, names: Sequence[bytes]) -> Mapping[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        await self._run(partial(self._get, names, found))
        return found

    async def close(self) -> None:
        await self._run(self._close)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._try, work)

    # ---- in the thread

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (apsw.Error, OSError) as problem:
            if not self._said:
                self._said = True
                log.warning("reasoning cannot be kept in %s now (%s)", self._path, type(problem).__name__)
            if isinstance(problem, apsw.NotADBError | apsw.CorruptError):
                self._anew()

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        private_file(self._path)
        db = apsw.Connection(str(self._path))
        try:
            db.set_busy_timeout(PATIENCE)
            keep_a_log(db, PATIENCE / 1000)
            # No wait for the disk: a power cut may take the last moments, but never the file.
            db.execute("PRAGMA synchronous = NORMAL")
            version = db.execute("PRAGMA user_version").get
            with db:
                if version not in (0, VERSION):
                    db.execute("DROP TABLE IF EXISTS entries")
                db.execute(_SCHEMA)
                db.execute(f"PRAGMA user_version = {VERSION}")
        except apsw.Error:
            db.close()
            raise
        self._db = db

    def _anew(self) -> None:
        """What is lost is not asked for again: an answer's reasoning, which can be done without."""
        self._close()
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                Path(f"{self._path}{suffix}").unlink()
        with suppress(apsw.Error, OSError):
            self._open()

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def _put(self, entries: Sequence[Entry]) -> None:
        if self._db is None:
            return
        now = int(self._now())
        with self._db as db:
            db.execute("DELETE FROM entries WHERE used < ?", (now - self._age,))
            for name, value, single in entries:
                size = len(name) + len(value) + OVERHEAD
                db.execute(_PUT_SINGLE if single else _PUT, (name, value, now, size))
                self._size += size
            if self._batches % LOOK == 0 or self._size > self._room:
                self._shrink(db)
            self._batches += 1

    def _shrink(self, db: apsw.Connection) -> None:
        """Less than there is room for: what was used longest ago goes."""
        total: int = db.execute("SELECT ifnull(sum(size), 0) FROM entries").get
        self._size = total
        if self._size <= self._room:
            return
        excess = self._size - self._room * 7 // 8
        oldest: list[Any] = db.execute("SELECT rowid, size FROM entries ORDER BY used, rowid").fetchall()
        for row, size in oldest:
            if excess <= 0:
                break
            db.execute("DELETE FROM entries WHERE rowid = ?", (row,))
            excess -= size
            self._size -= size

    def _get(self, names: Sequence[bytes], found: dict[bytes, bytes]) -> None:
        db, now = self._db, int(self._now())
        if db is None:
            return
        stale: list[tuple[int, int]] = []
        for begin in range(0, len(names), TOGETHER):
            some = names[begin : begin + TOGETHER]
            asked = f"SELECT rowid, name, value, used FROM entries WHERE used >= ? AND name IN ({','.join('?' * len(some))})"
            for row, name, value, used in db.execute(asked, (now - self._age, *some)):
                found[name] = value
                if used < now - self._age / REFRESH:
                    stale.append((now, row))
        if stale:
            with db:
                db.executemany("UPDATE entries SET used = ? WHERE rowid = ?", stale)
