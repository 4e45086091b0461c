"""The keys in the ledger's PostgreSQL, schema faregate: one connection, made again after it broke."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from typing import Any, Final, TypeVar

from gateway.errors import LedgerUnavailable
from gateway.keys.columns import COLUMNS, NAMES, SCHEMA_VERSION, keys_of, micros, tables, values
from gateway.keys.port import Key, KeyProblem, NameTaken, PepperDiffers, Table
from gateway.ledger.columns import microseconds
from gateway.ledger.postgres_connection import close, connect, connect_soon, driver, failures

T = TypeVar("T")
# Seconds for a connection, and for each question with all its statements.
PATIENCE_SECONDS: Final = 3.0
_INSERT: Final = f"INSERT INTO faregate.key ({NAMES}) VALUES ({', '.join(f'${number}' for number in range(1, len(COLUMNS) + 1))})"
_STATE: Final = "SELECT changes, pepper_check FROM faregate.key_state"
_NEW_PEPPER: Final = "UPDATE faregate.key_state SET pepper_check = $1 WHERE NOT EXISTS (SELECT 1 FROM faregate.key)"
_PRIVILEGES: Final = "The table of keys cannot be made or used by this user. Remedy: make it the owner of the schema faregate."
# The ledger's tables are in the same schema, and take the same turn: IF NOT EXISTS alone lets two who come at once collide.
_TURN: Final = "SELECT pg_advisory_xact_lock(hashtext('faregate schema'))"


class PostgresKeys:
    """The port `KeyStore` on a PostgreSQL database; every replica and the command line may use it at once."""

    def __init__(self, address: str, check: bytes, patience: float = PATIENCE_SECONDS) -> None:
        self._address = address
        self._check = check
        self._patience = patience
        self._driver = driver()
        self._turn = asyncio.Lock()
        self._db: Any = None

    async def start(self) -> None:
        await self._ask(self._create, connect_soon)

    async def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            await close(db, self._patience)

    async def version(self) -> int:
        return await self._ask(self._version)

    async def read(self) -> Table:
        async def table(db: Any) -> Table:
            async with db.transaction(isolation="repeatable_read", readonly=True):
                return Table(await self._version(db), keys_of(await db.fetch(f"SELECT {NAMES} FROM faregate.key")))

        return await self._ask(table)

    async def add(self, digest: bytes, key: Key) -> None:
        await self._change(lambda db: db.execute(_INSERT, *values(digest, key)))

    async def replace(self, old: Key, digest: bytes, key: Key) -> None:
        async def work(db: Any) -> None:
            update = (
                "UPDATE faregate.key SET expires = $1, revoked = coalesce(revoked, $2), replaced_by = $3"
                " WHERE id = $4 AND replaced_by IS NULL"
            )
            done = await db.execute(update, micros(old.expires), micros(old.revoked), key.id, old.id)
            if done != "UPDATE 1":
                raise KeyProblem("this key was replaced just now. Remedy: rotate its successor.")
            await db.execute(_INSERT, *values(digest, key))

        await self._change(work)

    async def revoke(self, ids: Collection[str], at: datetime) -> None:
        update = "UPDATE faregate.key SET revoked = $1 WHERE id = ANY($2) AND revoked IS NULL"
        await self._change(lambda db: db.execute(update, microseconds(at), list(ids)))

    async def _change(self, work: Callable[[Any], Awaitable[object]]) -> None:
        async def changed(db: Any) -> None:
            async with db.transaction():
                await db.execute("SET LOCAL synchronous_commit = on")
                # It locks the row, so that changes come one after the other.
                await db.execute("UPDATE faregate.key_state SET changes = changes + 1")
                await self._version(db)
                await work(db)

        try:
            await self._ask(changed)
        except self._driver.UniqueViolationError:
            raise NameTaken from None

    async def _create(self, db: Any) -> None:
        async with db.transaction():
            await db.execute(_TURN)
            if await db.fetchval("SELECT to_regclass('faregate.key_state')") is None:
                # A role that may not create schemas can still use one that is there.
                if not await db.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname = 'faregate'"):
                    await db.execute("CREATE SCHEMA faregate")
                for statement in tables("faregate.", "BYTEA", "BIGINT"):
                    await db.execute(statement)
                await db.execute("INSERT INTO faregate.key_state VALUES (1, $1, 0, $2)", SCHEMA_VERSION, self._check)
            schema = await db.fetchval("SELECT schema_version FROM faregate.key_state")
            if schema != SCHEMA_VERSION:
                raise LedgerUnavailable(f"The table of keys has schema version {schema}; this Faregate knows {SCHEMA_VERSION}.")
            if await db.fetchval("SELECT pepper_check FROM faregate.key_state") != self._check:
                await db.execute(_NEW_PEPPER, self._check)
            await self._version(db)

    async def _version(self, db: Any) -> int:
        changes, found = await db.fetchrow(_STATE)
        if bytes(found) != self._check:
            raise PepperDiffers
        return int(changes)

    async def _ask(self, question: Callable[[Any], Awaitable[T]], connect: Callable[[str, float], Awaitable[Any]] = connect) -> T:
        async with self._turn:
            if self._db is None or self._db.is_closed():
                self._db = await connect(self._address, self._patience)
            # Not a timeout: a transaction that is cancelled still waits for a server that answers nothing.
            timer = asyncio.get_running_loop().call_later(self._patience, self._db.terminate)
            try:
                return await question(self._db)
            except self._driver.UniqueViolationError:
                raise
            except self._driver.InsufficientPrivilegeError:
                raise LedgerUnavailable(_PRIVILEGES) from None
            except failures() as problem:
                self._give_up()
                # Without the text, which may hold values.
                raise LedgerUnavailable(f"The keys cannot be reached ({type(problem).__name__}).", retry_after=1) from None
            except asyncio.CancelledError:
                self._give_up()
                raise
            finally:
                timer.cancel()

    def _give_up(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.terminate()
