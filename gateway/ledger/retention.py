"""Retention: months that are old enough leave the ledger, each into one archive that is whole on the disk before anything is deleted.

1. The month's requests are read in pages and written to `FILE.partial`, which is flushed and read back.
2. The ledger learns the file's name and checksum; then the file gets its name.
3. In short transactions, requests leave the ledger that are in the file as they are in the ledger: their sums go to the month's and to
   their budgets', and what must be known of them for ever stays. One that has changed since stays whole, for the next part.
4. The file is marked done.

Whoever dies in between loses nothing, and the next run goes on where that one ended.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from gateway.clock import instant_text
from gateway.ledger import archive
from gateway.ledger.archive import ArchiveError, Charge, Contents, Head, Request
from gateway.ledger.opening import sync_folder
from gateway.outcome import Correction

# The requests of the first transaction and the most of any, and for how long (seconds) one should keep others waiting: the next has
# half as many after one that took longer.
_FIRST: Final = 32
BATCH: Final = 128
SHORT: Final = 0.01
_FEWEST: Final = 4
_PAGE: Final = 500
# After each, others have at least as much time as it took from them.
_LEAST_PAUSE: Final = 0.001


class Record(NamedTuple):
    """What the ledger knows of an archive."""

    id: int
    month: str
    part: int
    file: str
    sha256: str


class Retired(NamedTuple):
    """How many requests left the ledger in one transaction, and for how long (seconds) it kept others from writing."""

    number: int
    lock: float


class Shelf(Protocol):
    """What retention asks of a ledger, whatever store keeps it. Instants are microseconds, UTC."""

    async def start(self) -> None:
        """LedgerUnavailable with the remedy where there is no ledger of this version."""
        ...

    async def close(self) -> None: ...

    async def identity(self) -> str: ...

    async def unfinished(self) -> Record | None:
        """The archive whose requests are not all gone yet."""
        ...

    async def first_end(self, start: int, before: int) -> int | None:
        """When the first request ended that ended in [start, before)."""
        ...

    async def charges(self, start: int, before: int) -> list[Charge]: ...

    def requests(self, start: int, before: int, page: int) -> AsyncIterator[Sequence[Request]]:
        """What ended in [start, before), in pages; and what nobody received that started before that end."""
        ...

    async def again(self, ids: Sequence[str]) -> dict[str, Request]:
        """These requests as they are now; those that are gone are left out."""
        ...

    async def corrections(self, start: int, before: int) -> list[Correction]: ...

    async def next_part(self, month: str) -> int: ...

    async def begin(self, month: str, part: int, file: str, sha256: str) -> Record:
        """Durable when it returns; ArchiveError where another run has begun that part."""
        ...

    async def retire(self, record: Record, requests: Sequence[Request]) -> Retired:
        """In one transaction, those of them that are still in the state that they were in leave the ledger."""
        ...

    async def finish(self, record: Record) -> None: ...


class Month(NamedTuple):
    """One archive that a run has made or finished; `lock` is the longest (seconds) that it kept others from writing."""

    file: Path
    contents: Contents
    gone: int
    lock: float


def cutoff(now: datetime, keep: int) -> datetime:
    """The beginning (UTC) of the oldest month that is kept: the present one and `keep` whole ones before it."""
    months = max(12, now.astimezone(UTC).year * 12 + now.astimezone(UTC).month - 1 - keep)
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)


def month_after(at: datetime) -> datetime:
    return datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC)


def file_name(month: str, part: int) -> str:
    return f"ledger-{month}.jsonl.gz" if part == 1 else f"ledger-{month}.{part}.jsonl.gz"


class Retention:
    """One run over one ledger, into one folder, with at most `batch` requests in a transaction.

    `lost` names a file that will not come back. What of it is still in the ledger goes into the month's next part; what had left is in the
    month's sums and its budgets, as before, and its rows are nowhere. Should the file turn up after all, nothing was counted twice.
    """

    def __init__(self, shelf: Shelf, folder: Path, *, batch: int = BATCH, short: float = SHORT, lost: str = "") -> None:
        self._shelf = shelf
        self._folder = folder
        self._lost = lost
        self._most, self._batch = batch, min(batch, _FIRST)
        self._short = short

    async def run(self, before: datetime) -> AsyncIterator[Month]:
        """Archive every month that ended before an instant, the oldest first; what another run has begun comes before them."""
        with _alone(self._folder):
            if (record := await self._begun()) is not None:
                yield await self._finish(record)
            async for start in months(self._shelf, before):
                if (record := await self._write(start)) is not None:
                    yield await self._finish(record)

    async def _begun(self) -> Record | None:
        """What another run has left unfinished, unless it is given up."""
        record = await self._shelf.unfinished()
        if not self._lost:
            return record
        if record is None or record.file != self._lost:
            what = f"{self._lost} is not what is leaving the ledger" + (f": that is {record.file}" if record else "")
            raise ArchiveError(f"{what}. Remedy: give up only what a run says that it misses")
        path = self._folder / record.file
        if path.exists() or _partial(path).exists():
            raise ArchiveError(f"{path} is there. Remedy: run again without --lost")
        await self._shelf.finish(record)
        return None

    async def _write(self, start: datetime) -> Record | None:
        """The archive of a month, on the disk and known to the ledger; None where nothing of it can go."""
        month = start.strftime("%Y-%m")
        part = await self._shelf.next_part(month)
        path = self._folder / file_name(month, part)
        if path.exists():
            raise ArchiveError(f"{path} is there, and not known to this ledger. Remedy: name another folder by --archive, or move it away")
        partial = _partial(path)
        head = Head(ledger=await self._shelf.identity(), month=month, part=part, made=instant_text(datetime.now(UTC)))
        written = await self._fill(partial, head, start)
        if not written:
            partial.unlink()
            return None
        contents = archive.check(partial)
        try:
            return await self._shelf.begin(month, part, path.name, contents.sums.sha256)
        except ArchiveError:
            partial.unlink()
            raise

    async def _fill(self, partial: Path, head: Head, start: datetime) -> int:
        begin, end = micros(start), micros(month_after(start))
        written = 0
        with archive.writing(partial, head) as file:
            async for page in self._shelf.requests(begin, end, _PAGE):
                for one in page:
                    file.request(one)
                written += len(page)
            for correction in await self._shelf.corrections(begin, end):
                file.correction(msgspec.to_builtins(correction))
            file.end()
        return written

    async def _finish(self, record: Record) -> Month:
        path = self._folder / record.file
        contents = self._present(path, record)
        gone, lock, pages = 0, 0.0, archive.requests(path)
        while batch := list(islice(pages, self._batch)):
            retired = await self._retire(record, batch)
            gone, lock = gone + retired.number, max(lock, retired.lock)
        await self._shelf.finish(record)
        return Month(path, contents, gone, lock)

    def _present(self, path: Path, record: Record) -> Contents:
        """The archive under its name, and what is in it: that which the ledger knows."""
        partial = _partial(path)
        if not path.exists() and not partial.exists():
            where = f"{path.name} is not in {path.parent}, and what is in it is leaving the ledger"
            remedy = "name the folder that has it by --archive; where another run is at work, wait for its end"
            raise ArchiveError(f"{where}. Remedy: {remedy}; where it is lost for ever: --lost {path.name}")
        contents = archive.check(path if path.exists() else partial)
        if contents.sums.sha256 != record.sha256:
            raise ArchiveError(f"{path} is not the file that this ledger wrote. Remedy: name the folder that has that by --archive")
        if not path.exists():
            partial.rename(path)
            sync_folder(path.parent)
        return contents

    async def _retire(self, record: Record, batch: Sequence[Request]) -> Retired:
        """Delete what is as it was written, and then leave others the time that this took from them."""
        now = await self._shelf.again([one.rid for one in batch])
        same = [one for one in batch if now.get(one.rid) == one]
        if not same:
            return Retired(0, 0.0)
        retired = await self._shelf.retire(record, same)
        if retired.lock > self._short:
            self._batch = max(_FEWEST, self._batch // 2)
        elif retired.lock < self._short / 4:
            self._batch = min(self._most, self._batch * 2)
        await asyncio.sleep(max(_LEAST_PAUSE, retired.lock))
        return retired


async def months(shelf: Shelf, before: datetime) -> AsyncIterator[datetime]:
    """The beginnings of the months before an instant in which a request ended that is in the ledger."""
    since = 0
    while (found := await shelf.first_end(since, micros(before))) is not None:
        at = datetime.fromtimestamp(found // 1_000_000, UTC)
        start = datetime(at.year, at.month, 1, tzinfo=UTC)
        yield start
        since = micros(month_after(start))


def micros(at: datetime) -> int:
    return int(at.timestamp()) * 1_000_000


def request_of(hold: dict[str, Any], request: dict[str, Any] | None, entries: Sequence[dict[str, Any]]) -> Request:
    """The rows of one request as an archive has them: what the tables keep as JSON text is a list."""
    if request is not None:
        request = {**request, **_read(request, "edits", "attempts", "plan")}
    claims = [{**entry, **_read(entry, "claims")} for entry in entries]
    return Request(hold={**hold, **_read(hold, "claims", "attempts")}, request=request, entries=claims)


def _read(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: msgspec.json.decode(row[name]) if row[name] else None for name in names}


def taken(month: str) -> ArchiveError:
    return ArchiveError(f"another run archives {month} just now. Remedy: wait for its end, and use its folder")


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other run writes into the folder meanwhile."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        raise ArchiveError(f"{folder} cannot be written ({problem.strerror}). Remedy: name another folder by --archive") from problem
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as problem:
        raise ArchiveError(f"another run writes into {folder}. Remedy: wait for its end") from problem
    except OSError as problem:
        raise archive.unusable(Path(problem.filename or folder), problem) from problem
    finally:
        os.close(descriptor)
