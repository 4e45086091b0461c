"""The tables and functions of the ledger in PostgreSQL: made once, whoever comes first, and migrated step by step."""

from __future__ import annotations

import logging
from importlib.resources import files
from typing import Any, Final

from gateway.errors import LedgerUnavailable
from gateway.ledger.postgres_connection import OLDEST_SERVER, driver, failures, unavailable

log = logging.getLogger(__name__)

# The files that lead from one version to the next: version 1 is what the first ones make of an empty database.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    ("postgres.sql", "postgres_apply.sql"),
    ("postgres_2.sql",),
    ("postgres_3.sql",),
    ("postgres_4.sql",),
)
_VERSION: Final = "schema_version"
# Another than that of batches, which are short. The keys' tables are in the same schema, and take the same turn.
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtext('faregate schema'))"


async def prepare(connection: Any) -> None:
    """Bring the database to the version of this program; LedgerUnavailable with the remedy when it is newer, or not ours to change."""
    asyncpg = driver()
    _check_server(connection.get_server_version())
    try:
        await _warn(connection)
        async with connection.transaction():
            await connection.execute("SET LOCAL statement_timeout = 0")
            await connection.execute(_LOCK)
            # A user who may not create schemas can still use one that is there.
            if not await connection.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname = 'faregate'"):
                await connection.execute("CREATE SCHEMA faregate")
            await _migrate(connection, await _version(connection))
    except asyncpg.InsufficientPrivilegeError as problem:
        text = "This user may not make or use the ledger's tables. Remedy: let it own the database, or the schema faregate."
        raise LedgerUnavailable(text) from problem
    except failures() as problem:
        raise unavailable(problem) from problem


def _check_server(version: Any) -> None:
    if (version.major, version.minor) < OLDEST_SERVER:
        raise LedgerUnavailable(f"PostgreSQL {version.major} is too old for the ledger. Remedy: use version {OLDEST_SERVER[0]} or newer.")


async def _warn(connection: Any) -> None:
    if await connection.fetchval("SELECT pg_is_in_recovery()"):
        raise LedgerUnavailable("The ledger's server is a read-only replica. Remedy: name the primary in FAREGATE_LEDGER.")
    if await connection.fetchval("SHOW fsync") == "off":
        log.warning("ledger: the server runs with fsync off: a power cut may lose charges")


async def _version(connection: Any) -> int:
    if not await connection.fetchval("SELECT to_regclass('faregate.meta') IS NOT NULL"):
        return 0
    return int(await connection.fetchval("SELECT value FROM faregate.meta WHERE name = $1", _VERSION) or 0)


async def _migrate(connection: Any, version: int) -> None:
    if version > len(MIGRATIONS):
        known = len(MIGRATIONS)
        raise LedgerUnavailable(f"The ledger has schema version {version}; this Faregate knows {known}. Remedy: run the newer Faregate.")
    for names in MIGRATIONS[version:]:
        for name in names:
            await connection.execute(files("gateway.ledger").joinpath(name).read_text("utf-8"))
    if version < len(MIGRATIONS):
        query = "INSERT INTO faregate.meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        await connection.execute(query, _VERSION, str(len(MIGRATIONS)))
