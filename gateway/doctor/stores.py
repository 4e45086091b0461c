"""Stores: the ledger and the keys in it, the spool, the disk below them, and Redis; read, and never written to."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import apsw
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from gateway.app import ledger_file, on_postgres
from gateway.doctor.findings import Finding, failure, ok, warning
from gateway.doctor.patient import Patient, real_now, threaded
from gateway.errors import LedgerUnavailable
from gateway.keys.secret import Hasher
from gateway.ledger import postgres_schema
from gateway.ledger.postgres_connection import OLDEST_SERVER, ask, close, connect
from gateway.ledger.sqlite import VERSION
from gateway.ledger.verify import verify_connection
from gateway.reports.text import many
from gateway.shared.link import BUDGET

# Seconds that a look may take; for a large ledger, that is a part of it.
WITHIN: Final = 4.0
VERIFY: Final = 2.5
MIB: Final = 1 << 20
FREE_LOW, FREE_NONE = 1024 * MIB, 128 * MIB
OLDEST_REDIS: Final = (6, 2)
# Seconds that the database's clock may differ: holds and periods of budgets go by it.
SKEW: Final = 2.0
_NEW: Final = "`faregate serve` makes it when it starts"
_KEYS: Final = "SELECT count(*), count(*) FILTER (WHERE revoked IS NULL AND (expires IS NULL OR expires > {now})) FROM {schema}key"


async def ledger(patient: Patient) -> list[Finding]:
    """The ledger opens, is of this version and keeps its invariants; and somebody has a key."""
    if on_postgres(patient.settings):
        return await _database(patient)
    path = ledger_file(patient.settings)
    return await threaded(lambda: list(_file(patient, path)))


def _file(patient: Patient, path: Path) -> Iterator[Finding]:
    if not path.exists():
        yield ok("ledger", str(path), f"is not there yet: {_NEW}")
        yield from _nobody(patient, 0, 0)
        return
    remedy = "Stop the gateways and restore the newest backup (docs/operations.md), then run `faregate verify`."
    try:
        # Not read-only: after a crash, SQLite must first bring the file's log into it.
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    except apsw.Error as problem:
        yield failure("ledger", str(path), f"cannot be opened ({type(problem).__name__})", "Check the file's owner and permissions.")
        return
    try:
        db.pragma("query_only", True)
        db.set_busy_timeout(1000)
        version = int(db.pragma("user_version"))
        yield from _versions("ledger", str(path), version, VERSION)
        if version == VERSION:
            yield from _invariants(db, path)
        yield from _stored_keys(patient, db)
    except apsw.Error as problem:
        yield failure("ledger", str(path), f"cannot be read ({type(problem).__name__})", remedy)
    finally:
        db.close()


def _versions(check: str, subject: str, version: int, known: int) -> Iterator[Finding]:
    if version > known:
        text = f"has schema version {version}, and this program knows {known}: it was written by a newer one"
        yield failure(check, subject, text, "Run the newer Faregate: there is no way back but a backup.", schema=version)
    elif version < known:
        text = f"has schema version {version}, this program's is {known}"
        yield warning(check, subject, text, "Back it up; the next start of `faregate serve` brings it up.", schema=version)
    else:
        yield ok(check, subject, f"schema version {version}", schema=version)


def _invariants(db: apsw.Connection, path: Path) -> Iterator[Finding]:
    until = time.monotonic() + VERIFY
    db.set_progress_handler(lambda: time.monotonic() > until, 20_000)
    try:
        broken = verify_connection(db)
    except apsw.InterruptError:
        size = path.stat().st_size / MIB
        yield ok("ledger", "invariants", f"{size:,.0f} MiB: too much to verify in {VERIFY:g} s; `faregate verify` takes its time")
        return
    finally:
        db.set_progress_handler(None)
    if broken:
        remedy = "Keep a copy of the file as it is, and run `faregate verify`; restore a backup that passes it."
        yield failure("ledger", "invariants", f"{len(broken)} do not hold; the first: {broken[0]}", remedy)
    else:
        yield ok("ledger", "invariants", "every one holds")


def _stored_keys(patient: Patient, db: apsw.Connection) -> Iterator[Finding]:
    if not db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'key_state'").get:
        yield from _nobody(patient, 0, 0)
        return
    now = round(real_now().timestamp() * 1_000_000)
    counted: list[Any] = db.execute(_KEYS.format(now=now, schema="")).fetchall()
    ((stored, usable),) = counted
    yield from _nobody(patient, stored, usable)
    checks: list[Any] = db.execute("SELECT pepper_check FROM key_state").fetchall()
    for (check,) in checks:
        yield from _pepper(patient, stored, bytes(check))


def _nobody(patient: Patient, stored: int, usable: int) -> Iterator[Finding]:
    set_here = len(patient.settings.keys)
    if usable or set_here:
        yield ok("callers", "stored", f"{many(usable, 'key')} in use, of {stored} ever made", stored=stored, usable=usable)
    else:
        remedy = "Make one with `faregate keys create --team NAME`, or set FAREGATE_KEYS=team:key."
        yield failure("callers", "stored", "there is no key, so nobody could ask", remedy, stored=stored, usable=0)


def _pepper(patient: Patient, stored: int, check: bytes) -> Iterator[Finding]:
    """Whether the keys were hashed under the pepper of these settings: else every one of them is refused."""
    own, path = patient.settings.key_pepper, patient.settings.data / "key-pepper"
    try:
        pepper = own.get_secret_value().encode() if own else path.read_bytes().strip()
    except OSError:
        pepper = b""
    if stored and Hasher(pepper).check != check:
        where = "FAREGATE_KEY_PEPPER" if own else str(path)
        remedy = "Put back the pepper under which they were made; without it, make new keys."
        yield failure("callers", "pepper", f"{where} is not the one under which the stored keys were hashed: all are refused", remedy)


async def _database(patient: Patient) -> list[Finding]:
    address = patient.settings.ledger_address
    try:
        connection = await connect(address, WITHIN, VERIFY)
    except LedgerUnavailable as problem:
        text, _, remedy = problem.message.partition("). ")
        return [failure("ledger", "postgresql", text + ")" if remedy else text, remedy or "See docs/ledger.md.")]
    try:
        return [*await _server(connection), *await _schema(patient, connection)]
    except LedgerUnavailable as problem:
        return [failure("ledger", "postgresql", problem.message, "Look into the database's own log.")]
    finally:
        await close(connection, 0.3)


async def _server(connection: Any) -> list[Finding]:
    query = (
        "SELECT pg_is_in_recovery(), current_setting('fsync'), current_setting('synchronous_commit'), clock_timestamp(),"
        " current_setting('max_connections')::int, (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')"
    )
    began = real_now()
    ((standby, fsync, synchronous, then, most, used),) = await ask(connection, query, (), VERIFY)
    version = connection.get_server_version()
    return list(_server_findings(version, standby, (fsync, synchronous), _ahead(began, then, real_now()), (most, used)))


def _ahead(began: datetime, then: datetime, ended: datetime) -> float:
    """Seconds that this machine is ahead of the database; 0 where the question's own time explains it."""
    then = then.astimezone(UTC)
    if began <= then <= ended:
        return 0.0
    return round((ended - then if then > ended else began - then).total_seconds(), 2)


def _server_findings(
    version: Any, standby: bool, durable: tuple[str, str], ahead: float, connections: tuple[int, int]
) -> Iterator[Finding]:
    shown, (fsync, synchronous), (most, used) = f"PostgreSQL {version.major}.{version.minor}", durable, connections
    if (version.major, version.minor) < OLDEST_SERVER:
        yield failure("ledger", "postgresql", f"{shown} is too old", f"Use version {OLDEST_SERVER[0]} or newer.")
    elif standby:
        yield failure("ledger", "postgresql", f"{shown} is a read-only replica", "Name the primary in FAREGATE_LEDGER.")
    else:
        yield ok("ledger", "postgresql", f"{shown}, {used} of {most} connections taken", connections=used, most=most)
    if fsync == "off":
        remedy = "Set fsync = on: a power cut may lose charges, or the whole database."
        yield failure("ledger", "fsync", "is off", remedy)
    if synchronous == "off":
        # Its own commits say what they need, so that a server's default costs nothing here.
        yield ok("ledger", "synchronous_commit", "is off by default there; the gateway's own commits wait for the disk all the same")
    elif fsync != "off":
        yield ok("ledger", "synchronous_commit", f"is {synchronous}")
    if most - used < 10:
        yield warning("ledger", "connections", f"{used} of {most} are taken", "Raise max_connections, or end what does not need them.")
    if abs(ahead) > SKEW:
        text = f"this machine is {abs(ahead):g} s {'ahead of' if ahead > 0 else 'behind'} the database"
        yield warning("clock", "database", text, "Let both keep their time: holds and budgets' periods go by the database's.")
    else:
        yield ok("clock", "database", "agrees with this machine's")


async def _schema(patient: Patient, connection: Any) -> list[Finding]:
    there = await ask(connection, "SELECT to_regclass('faregate.meta') IS NOT NULL, to_regclass('faregate.key') IS NOT NULL", (), VERIFY)
    ((ledger_there, keys_there),) = there
    found: list[Finding] = []
    if not ledger_there:
        found.append(ok("ledger", "schema", f"is not there yet: {_NEW}"))
    else:
        ((version,),) = await ask(connection, "SELECT value FROM faregate.meta WHERE name = 'schema_version'", (), VERIFY)
        found += _versions("ledger", "schema", int(version), len(postgres_schema.MIGRATIONS))
    if not keys_there:
        return [*found, *_nobody(patient, 0, 0)]
    now = round(real_now().timestamp() * 1_000_000)
    ((stored, usable),) = await ask(connection, _KEYS.format(now=now, schema="faregate."), (), VERIFY)
    found += _nobody(patient, stored, usable)
    for (check,) in await ask(connection, "SELECT pepper_check FROM faregate.key_state", (), VERIFY):
        found += _pepper(patient, stored, bytes(check)) if patient.settings.key_pepper else ()
    return found


def data(patient: Patient) -> Iterator[Finding]:
    """The data folder can be written, and has room."""
    folder = patient.settings.data
    there = next((one for one in (folder, *folder.absolute().parents) if one.exists()), Path("/"))
    if not there.is_dir() or not os.access(there, os.W_OK):
        remedy = "Set FAREGATE_DATA to a folder that the gateway's user may write, and that outlives a restart."
        yield failure("data", str(folder), "cannot be written", remedy)
    free = shutil.disk_usage(there).free
    text, remedy = f"{free / MIB:,.0f} MiB free", "Make room: a full disk refuses requests. docs/operations.md says how a ledger grows."
    if free < FREE_NONE:
        yield failure("data", str(folder), text, remedy, free_bytes=free)
    elif free < FREE_LOW:
        yield warning("data", str(folder), text, remedy, free_bytes=free)
    else:
        yield ok("data", str(folder), text, free_bytes=free)


def spool(patient: Patient) -> Iterator[Finding]:
    """Charges that wait on this disk for the ledger."""
    folder, waiting, unread = patient.settings.data / "spool", 0, []
    for path in sorted(folder.glob("*.db")):
        try:
            db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
            try:
                db.set_busy_timeout(500)
                waiting += int(db.execute("SELECT count(*) FROM record").get)
            finally:
                db.close()
        except apsw.Error:
            unread.append(path.name)
    if unread:
        remedy = "Stop the gateway of this folder and keep a copy before anything else: there may be charges in it."
        yield failure("spool", str(folder), f"{', '.join(unread)} cannot be read", remedy)
    if waiting:
        remedy = "Mend the ledger, and let a gateway run on this FAREGATE_DATA: it replays them by itself. Do not delete the folder."
        text = f"{many(waiting, 'record')} {'waits' if waiting == 1 else 'wait'} for the ledger"
        yield warning("spool", str(folder), text, remedy, records=waiting)
    elif not unread:
        yield ok("spool", str(folder), "is empty", records=0)


async def redis(patient: Patient) -> list[Finding]:
    """Redis answers soon enough, is new enough, and may be used; no money depends on it."""
    address = patient.settings.redis
    if address is None:
        return [ok("redis", "none", "is not configured: each gateway counts limits on the rate for itself")]
    remedy = "Check FAREGATE_REDIS, and that the server runs. Budgets hold without it; limits are counted by each gateway alone."
    try:
        client: Any = Redis.from_url(address.get_secret_value(), socket_connect_timeout=2, socket_timeout=2, protocol=2)
    except (ValueError, TypeError):
        return [failure("redis", "address", "is none that can be used", "Write it as redis://:PASSWORD@HOST:PORT/0.")]
    try:
        async with asyncio.timeout(WITHIN):
            return await _redis(client)
    except (AuthenticationError, NoPermissionError) as problem:
        return [failure("redis", "permission", f"is refused ({type(problem).__name__})", "See docs/limits.md for what its user needs.")]
    except (RedisError, OSError, TimeoutError) as problem:
        return [failure("redis", "server", f"does not answer ({type(problem).__name__})", remedy)]
    finally:
        await client.aclose()


async def _redis(client: Any) -> list[Finding]:
    await client.ping()
    start = time.monotonic()
    await client.ping()
    wait = time.monotonic() - start
    await client.script_load("return 1")
    return list(_redis_findings(await client.info(), wait))


def _redis_findings(info: dict[str, Any], wait: float) -> Iterator[Finding]:
    version = str(info.get("redis_version", "0"))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    text = f"version {version}, answers in {wait * 1000:.1f} ms"
    if numbers < OLDEST_REDIS:
        yield failure("redis", "server", text, f"Use version {'.'.join(map(str, OLDEST_REDIS))} or newer.")
    elif wait > BUDGET / 2:
        remedy = f"Put it nearer: a request waits at most {BUDGET * 1000:.0f} ms for it, then goes on without."
        yield warning("redis", "server", text, remedy, milliseconds=round(wait * 1000, 1))
    else:
        yield ok("redis", "server", text, milliseconds=round(wait * 1000, 1))
    if info.get("role") not in ("master", None):
        yield failure("redis", "role", "is a read-only replica", "Name the primary in FAREGATE_REDIS.")
    policy, most = str(info.get("maxmemory_policy", "")), int(info.get("maxmemory", 0))
    if most and policy == "noeviction":
        remedy = "Set maxmemory-policy volatile-ttl or allkeys-lru: everything kept there may be forgotten."
        yield warning("redis", "memory", f"maxmemory {most / MIB:,.0f} MiB with noeviction: once full, it refuses to count", remedy)
    else:
        yield ok("redis", "memory", f"{int(info.get('used_memory', 0)) / MIB:,.1f} MiB used, policy {policy or 'unknown'}")
