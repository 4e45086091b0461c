"""Backups of the embedded ledger: one folder with a snapshot of the file, what waits in the spool, and a manifest with checksums.

Taken while gateways write, and put back by `restore`, which checks it before and after. A folder or a file has its name only once it is
whole on the disk, so whoever dies in between leaves what was there as it was.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import file_digest
from pathlib import Path
from typing import Final

import apsw
import msgspec
from msgspec import Struct

from gateway.clock import instant_text
from gateway.errors import LedgerUnavailable
from gateway.ledger import spool
from gateway.ledger.opening import sync_folder
from gateway.ledger.sqlite import VERSION, SqliteStore
from gateway.ledger.verify import verify

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
LEDGER: Final = "ledger.db"
SPOOL: Final = "spool.jsonl"
_TRIAL: Final = "trial.db"
# The first version of the tables in which a ledger has a name.
_FIRST_NAMED: Final = 5
_PATIENCE_MILLISECONDS: Final = 10_000
_SUMS: Final = "SELECT currency, sum(nano), count(*) FROM request GROUP BY currency ORDER BY currency"


class BackupError(ValueError):
    """A backup that cannot be made or put back; the text is one line with the remedy."""


class Total(Struct, frozen=True):
    """What the requests that are in the file cost, in nano-units."""

    currency: str
    nano: int
    requests: int


class Manifest(Struct, frozen=True, kw_only=True):
    """What a backup is: `files` are SHA-256 by name, `problems` what `verify` said of the copy, `schema` the version of its tables."""

    format: int = FORMAT
    made: str
    schema: int
    ledger: str
    totals: tuple[Total, ...]
    waiting: int
    problems: tuple[str, ...]
    files: dict[str, str]


def backup(path: Path, spooled: Path, to: Path) -> Manifest:
    """A consistent snapshot of the file `path` in the new folder `to`, durable when this returns; BackupError where there is one.

    Also of a file of an older version, which stays what it is: what is verified is a copy that was brought up.
    """
    if to.exists():
        raise BackupError(f"{to} is there already. Remedy: name a new folder, such as one with the date in its name")
    partial = to.with_name(to.name + ".partial")
    with _said(to), _alone(partial, 0o700):
        _make_empty(partial)
        # The spool first: what leaves it meanwhile is in the ledger by then, and what is in both has its effect once.
        records = spool.waiting(spooled)
        _write(partial / SPOOL, "".join(f"{record}\n" for record in records).encode())
        copy = partial / LEDGER
        schema, identity, totals = _snapshot(path, copy)
        manifest = Manifest(
            made=instant_text(datetime.now(UTC)),
            schema=schema,
            ledger=identity,
            totals=totals,
            waiting=len(records),
            problems=tuple(verify(copy) if schema == VERSION else _bring_in(copy, partial / _TRIAL)),
            files={name: _digest(partial / name) for name in (LEDGER, SPOOL)},
        )
        (partial / _TRIAL).unlink(missing_ok=True)
        _write(partial / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        sync_folder(partial)
        partial.rename(to)
        sync_folder(to.parent)
    return manifest


@contextmanager
def _alone(folder: Path, mode: int = 0o777) -> Iterator[None]:
    """No other run writes into the folder meanwhile, which is made where there is none."""
    folder.mkdir(parents=True, mode=mode, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as problem:
        raise BackupError(f"another backup or restore writes into {folder}. Remedy: wait for its end") from problem
    finally:
        os.close(descriptor)


def _make_empty(partial: Path) -> None:
    """A folder that nobody else may read; what a run left that ended before its time goes."""
    for name in (SPOOL, MANIFEST, *(base + end for base in (LEDGER, _TRIAL) for end in ("", "-journal", "-wal", "-shm"))):
        (partial / name).unlink(missing_ok=True)
    partial.chmod(0o700)


def _snapshot(path: Path, copy: Path) -> tuple[int, str, tuple[Total, ...]]:
    """Copies the file as it is at one instant: a reader's view, for which no writer waits."""
    os.close(os.open(copy, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
    source = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    target = apsw.Connection(str(copy))
    try:
        source.set_busy_timeout(_PATIENCE_MILLISECONDS)
        with target.backup("main", source, "main") as work:
            work.step()
        # One file, without a log beside it.
        target.execute("PRAGMA journal_mode = DELETE").fetchall()
        schema = target.pragma("user_version")
        if not 0 < schema <= VERSION:
            raise BackupError(f"{path} has tables of version {schema}, this Faregate knows {VERSION}. Remedy: run the newer Faregate")
        identity = str(target.execute("SELECT value FROM meta WHERE name = 'id'").get) if schema >= _FIRST_NAMED else ""
        totals = tuple(Total(*row) for row in target.execute(_SUMS))
    finally:
        target.close()
        source.close()
    _sync(copy)
    return schema, identity, totals


def check(folder: Path) -> Manifest:
    """What a backup says of itself; BackupError where a byte of it is another, or where it is of a newer Faregate."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
        if manifest.format > FORMAT or manifest.schema > VERSION:
            raise BackupError(f"{folder} was made by a newer Faregate (tables {manifest.schema}, known {VERSION}). Remedy: run that one")
        changed = [name for name, digest in manifest.files.items() if _digest(folder / name) != digest]
    except FileNotFoundError as problem:
        raise BackupError(f"{folder} is no whole backup: {Path(problem.filename).name} is not in it") from problem
    except (OSError, msgspec.MsgspecError) as problem:
        raise BackupError(f"{folder} cannot be read ({type(problem).__name__})") from problem
    if changed:
        raise BackupError(f"{folder} has changed since it was made: {', '.join(changed)}. Remedy: take another copy of it")
    return manifest


def restore(folder: Path, path: Path, spooled: Path, *, force: bool = False) -> Path | None:
    """Put a backup in the place of the file `path`; where the file that was there is now (None: there was none).

    Refused over a ledger that is there, and for a backup that keeps not every invariant, unless `force`; and always while a
    gateway runs on the folder of the spool or on the file.
    """
    manifest = check(folder)
    if path.exists() and not force:
        raise BackupError(f"there is a ledger at {path}. Remedy: name another place, or pass --force, which keeps that one beside it")
    if spool.alive(spooled):
        raise BackupError(f"a gateway runs that spools into {spooled}. Remedy: stop it first")
    with _said(path), _alone(path.parent):
        coming = path.with_name(path.name + ".restoring")
        problems = _bring_in(folder / LEDGER, coming)
        if problems and not force:
            coming.unlink()
            raise BackupError(f"the ledger in {folder} is not sound: {problems[0]}. Remedy: take an older backup, or pass --force")
        if path.exists():
            _close_for_all(path)
        # The spool first: a ledger that has its ends already takes them without effect.
        spool.leave(spooled, f"restored-{manifest.files[SPOOL][:16]}", (folder / SPOOL).read_text().splitlines())
        old = _put_aside(path)
        coming.rename(path)
        sync_folder(path.parent)
    return old


def _bring_in(source: Path, coming: Path) -> list[str]:
    """Copies the file beside its place, brings its tables up to this version, and says what is wrong with it."""
    for name in (coming, _log(coming), coming.with_name(coming.name + "-shm")):
        name.unlink(missing_ok=True)
    shutil.copyfile(source, coming)
    coming.chmod(0o600)
    try:
        asyncio.run(_bring_up(coming))
    except LedgerUnavailable as problem:
        return [problem.message]
    _sync(coming)
    return verify(coming)


async def _bring_up(path: Path) -> None:
    store = SqliteStore(path)
    await store.start()
    await store.close()


def _put_aside(path: Path) -> Path | None:
    """Renames the ledger that is there, with its log; BackupError where somebody has it open. None where there is none.

    A log without its file goes aside too: SQLite would take it for the new one's.
    """
    there = path.exists()
    if there:
        _close_for_all(path)
    old = path.with_name(f"{path.name}.before-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
    for found, aside in ((_log(path), _log(old)), (path, old)):
        if found.exists():
            found.rename(aside)
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    return old if there else None


def _close_for_all(path: Path) -> None:
    """Brings the log of a file into it, for which nobody else may have it open."""
    try:
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            db.execute("PRAGMA journal_mode = DELETE").fetchall()
        finally:
            db.close()
    except (apsw.BusyError, apsw.LockedError) as problem:
        raise BackupError(f"{path} is in use. Remedy: stop the gateways and commands that have it open") from problem
    except apsw.Error:
        # Damaged, perhaps: kept as it is.
        pass


def _log(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _write(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def _said(place: Path) -> Iterator[None]:
    """What the disk or SQLite refuses, as one line."""
    try:
        yield
    except OSError as problem:
        why = f"{problem.filename or place} cannot be written ({problem.strerror})"
        raise BackupError(f"{why}. Remedy: name a folder that has room and is yours") from problem
    except apsw.Error as problem:
        raise BackupError(f"the ledger cannot be copied: {problem}") from problem
