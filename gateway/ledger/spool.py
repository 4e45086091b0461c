"""What the store must still learn, kept on this machine's disk: it outlives the process, and is replayed by whoever comes next.

One SQLite file for each process, `OWNER.db`, beside `OWNER.lock`, which its process has locked as long as it lives: a file whose
lock is free belongs to a dead process, and a living one takes its records over. Each record stands until the store has taken it;
to replay one twice is harmless, since every operation of a store has its effect once. No prompt, no answer and no key is in it.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from secrets import token_hex
from time import monotonic, sleep
from typing import Final, Literal, TypeVar

import apsw
from msgspec import DecodeError, Struct
from msgspec.json import Decoder, Encoder

from gateway.errors import LedgerUnavailable
from gateway.ledger.opening import private_file, sync_folder
from gateway.ledger.port import Event
from gateway.outcome import Hold, LedgerRow

T = TypeVar("T")
log = logging.getLogger(__name__)

# The most records that wait, some 10 MB.
LIMIT: Final = 5000
# Records of one file that is left for the next process, which takes a file over where it has room for all of it.
_LEFT: Final = 500
_LOCK_WITHIN: Final = 5.0
_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS record (
        seq INTEGER PRIMARY KEY, rid TEXT NOT NULL, event TEXT NOT NULL, content TEXT NOT NULL, UNIQUE (rid, event)) STRICT"""
_KEEP: Final = "INSERT INTO record (rid, event, content) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET content = excluded.content"
_FORGET: Final = "DELETE FROM record WHERE rid = ? AND event = ?"


class Record(Struct, frozen=True):
    """One thing that the store must learn: a hold that was let through without it, or the end of a request.

    `owner` made the hold. An end carries its hold where it is known, in case the store does not have it.
    """

    event: Literal["hold"] | Event
    owner: str
    hold: Hold | None = None
    row: LedgerRow | None = None

    @property
    def id(self) -> str:
        found = self.row or self.hold
        assert found is not None, "a record is of a hold or of a row"
        return found.id

    @property
    def name(self) -> tuple[str, str]:
        """A charge and a release of one request are two truths; the store knows which one wins."""
        return self.id, self.event


_encode = Encoder().encode
_decode = Decoder(Record).decode
_Kept = tuple[Record, "asyncio.Future[bool]"]


class Spool:
    """At most `limit` records, in the order in which they came. Between open() and close(); all methods on the event loop.

    What is written is flushed by a thread of its own, in groups. What is given up is logged by its id, never by its content.
    """

    def __init__(self, folder: Path | str, *, limit: int = LIMIT) -> None:
        self.owner = token_hex(8)
        self.given_up = 0
        """Records that nobody will replay."""
        self._folder = Path(folder)
        self._limit = limit
        self._records: dict[tuple[str, str], Record] = {}
        self._durable: set[tuple[str, str]] = set()
        self._queue: list[_Kept] = []
        self._writing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger-spool")
        self._file: _File | None = None

    async def open(self) -> None:
        """Make the file; LedgerUnavailable with the remedy when that cannot be."""
        try:
            self._file = await self._run(lambda: _File.make(self._folder, self.owner))
        except (apsw.Error, OSError) as problem:
            text = f"The spool {self._folder} cannot be written: {problem}. Remedy: set FAREGATE_DATA to a folder that can."
            raise LedgerUnavailable(text) from problem

    async def close(self) -> None:
        """What is not durable is given up; what is durable waits for the next process, and nothing at all leaves no file."""
        while self._writing is not None:
            await asyncio.wait({self._writing})
        for name in self._records.keys() - self._durable:
            self._lose(self._records.pop(name), "the ledger is closed")
        if self._records:
            log.warning("ledger: %d records wait in the spool for the next start", len(self._records))
        if (file := self._file) is not None:
            self._file = None
            await self._run(lambda: file.close(remove=not self._records))
        self._thread.shutdown()

    def __len__(self) -> int:
        return len(self._records)

    @property
    def full(self) -> bool:
        return len(self._records) >= self._limit

    @property
    def room(self) -> int:
        """How many records more would find a place."""
        return self._limit - len(self._records)

    def __contains__(self, name: tuple[str, str]) -> bool:
        return name in self._records

    def ids(self) -> Iterator[str]:
        """Of the requests; one that is in here with two events comes twice."""
        return (id for id, _ in self._records)

    def oldest(self, number: int) -> list[Record]:
        return list(islice(self._records.values(), number))

    def keep(self, record: Record) -> asyncio.Future[bool]:
        """Keep a record, at once in memory; the future says whether it is on the disk. Cancelling that undoes nothing.

        Of two ends of one name the first stands, as it would in the store; of two holds the last.
        """
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if record.name not in self._records and self.full:
            self._lose(record, "too many wait already")
            future.set_result(False)
            return future
        if record.event == "hold":
            self._records[record.name] = record
        elif record.name in self._durable:
            future.set_result(True)
            return future
        self._queue.append((self._records.setdefault(record.name, record), future))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        return future

    async def done(self, records: Collection[Record]) -> None:
        """The store has taken them."""
        for record in records:
            self._records.pop(record.name, None)
            log.info("ledger: the %s of request %s is in the ledger now", record.event, record.id)
        await self._forget(records)

    async def give_up(self, record: Record, why: str) -> None:
        """The store will never take it: nobody replays it again."""
        self._records.pop(record.name, None)
        self._lose(record, why)
        await self._forget([record])

    def _lose(self, record: Record, why: str) -> None:
        self.given_up += 1
        text = "ledger: the %s of request %s is given up: %s. If its hold is open, it expires, charged by estimate"
        log.critical(text, record.event, record.id, why)

    async def drop(self, record: Record) -> None:
        """It has not become true."""
        self._records.pop(record.name, None)
        await self._forget([record])

    async def adopt(self) -> int:
        """Take over the records of dead processes, as far as there is room; the number of them."""
        taken = 0
        for path in await self._run(lambda: sorted(self._folder.glob("*.lock"))):
            if path.stem != self.owner:
                taken += await self._adopt(path)
        return taken

    async def _adopt(self, path: Path) -> int:
        try:
            left = await self._run(lambda: _File.left_by_the_dead(path, self.room))
        except (apsw.Error, OSError, DecodeError) as problem:
            log.error("ledger: the spool %s cannot be read: %s", path.name, problem)
            return 0
        if left is None:
            return 0
        file, records = left
        # First into our own file: whoever dies now leaves each record in one of the two.
        safe = all(await asyncio.gather(*(self.keep(record) for record in records)))
        await self._run(lambda: file.close(remove=safe))
        return len(records)

    async def _write(self) -> None:
        """Append what has come, and what comes meanwhile in the next group, each group with one flush."""
        while self._queue:
            group, self._queue = self._queue, []
            written = await self._try([record for record, _ in group])
            for record, future in group:
                if written and record.name in self._records:
                    self._durable.add(record.name)
                if not future.done():
                    future.set_result(written)
        self._writing = None

    async def _try(self, records: Collection[Record]) -> bool:
        if (file := self._file) is None:
            return False
        try:
            await self._run(lambda: file.append(records))
        except (apsw.Error, OSError) as problem:
            log.error("ledger: the spool could not be written: %s", problem)
            return False
        return True

    async def _forget(self, records: Collection[Record]) -> None:
        names = [record.name for record in records]
        self._durable.difference_update(names)
        if (file := self._file) is None:
            return
        try:
            await self._run(lambda: file.forget(names))
        except (apsw.Error, OSError) as problem:  # they are replayed once more by the next process, to no effect
            log.error("ledger: the spool could not be written: %s", problem)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def waiting(folder: Path) -> list[str]:
    """Every record in a folder as text, whoever wrote it, while gateways go on; a record may be there twice, in effect once.

    Looked at again where a file went meanwhile: another process has taken its records over.
    """
    while True:
        paths = sorted(folder.glob("*.db"))
        try:
            return [content for path in paths for content in _contents(path)]
        except apsw.CantOpenError:
            if all(path.exists() for path in paths):
                raise


def _contents(path: Path) -> list[str]:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        db.set_busy_timeout(5000)
        # One that is being made just now has no table yet.
        if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'record'").get:
            return []
        return [str(content) for (content,) in db.execute("SELECT content FROM record ORDER BY seq")]
    finally:
        db.close()


def leave(folder: Path, name: str, contents: Sequence[str]) -> None:
    """Records for the next process that starts on this folder, as a dead one would have left them; the same name again is the same."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(contents), _LEFT):
        lock = folder / f"{name}-{first}.lock"
        descriptor = _lock(lock, os.O_CREAT)
        if descriptor is None:
            raise OSError(f"{lock.name} is locked by somebody else")
        file = _File(lock, descriptor, _connect(lock))
        file.append([_decode(content) for content in contents[first : first + _LEFT]])
        file.close(remove=False)
    sync_folder(folder)


def alive(folder: Path) -> bool:
    """Whether a process runs that spools into this folder."""
    found = False
    for path in folder.glob("*.lock"):
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found = True
            finally:
                os.close(descriptor)
    return found


class _File:
    """One spool file and its lock, both open; used by one thread at a time."""

    def __init__(self, path: Path, lock: int, db: apsw.Connection) -> None:
        self._path = path
        self._lock = lock
        self._db = db

    @classmethod
    def make(cls, folder: Path, owner: str) -> _File:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{owner}.lock"
        # Whoever finds it before we have it locked takes us for dead, and removes it.
        until = monotonic() + _LOCK_WITHIN
        while (lock := _lock(path, os.O_CREAT)) is None:
            if monotonic() > until:
                raise OSError(f"{path.name} is locked by somebody else")
            sleep(0.005)
        file = cls(path, lock, _connect(path))
        sync_folder(folder)
        return file

    @classmethod
    def left_by_the_dead(cls, path: Path, room: int) -> tuple[_File, list[Record]] | None:
        """The file whose lock this is, if its process is dead and there is room for all of its records."""
        lock = _lock(path, 0)
        if lock is None:
            return None
        try:
            file = cls(path, lock, _connect(path))
            records = file.records()
        except BaseException:
            # Whatever it is, raised again: the lock goes with who held it.
            os.close(lock)
            raise
        if len(records) > room:
            file.close(remove=False)
            return None
        return file, records

    def records(self) -> list[Record]:
        return [_decode(content) for (content,) in self._db.execute("SELECT content FROM record ORDER BY seq")]

    def append(self, records: Collection[Record]) -> None:
        """All of them or none, flushed to the disk."""
        self._change(_KEEP, [(*record.name, _encode(record).decode()) for record in records])

    def forget(self, names: Collection[tuple[str, str]]) -> None:
        self._change(_FORGET, names)

    def _change(self, statement: str, values: Collection[tuple[str, ...]]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(statement, values)
            self._db.execute("COMMIT")
        except BaseException:
            # Whatever it is, raised again: half a record must not stay.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def close(self, *, remove: bool) -> None:
        """Let the file go; its lock last, so that nobody finds half of it."""
        try:
            self._db.close()
            if remove:
                for name in (self._path.with_suffix(".db"), self._path):
                    name.unlink(missing_ok=True)
        except (apsw.Error, OSError) as problem:
            log.error("ledger: the spool could not be closed: %s", problem)
        finally:
            os.close(self._lock)


def _connect(lock: Path) -> apsw.Connection:
    path = lock.with_suffix(".db")
    private_file(path)
    db = apsw.Connection(str(path))
    db.set_busy_timeout(5000)
    db.execute("PRAGMA journal_mode = WAL").fetchall()
    # Each commit is flushed: what it says is durable.
    db.execute("PRAGMA synchronous = FULL")
    db.execute(_SCHEMA)
    return db


def _lock(path: Path, flags: int) -> int | None:
    """The lock file, locked; None while its process lives, or where it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever removed it while we waited has taken its records.
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        # Whatever it is, raised again: the file is nobody's then.
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
