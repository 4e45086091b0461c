"""Connections to PostgreSQL by asyncpg, which is imported on first use; what its failures mean; and one that answers questions."""

from __future__ import annotations

import asyncio
import importlib
import logging
import re
from collections.abc import Sequence
from typing import Any, Final

from gateway.errors import LedgerUnavailable

log = logging.getLogger(__name__)

APPLICATION: Final = "faregate"
PATIENCE_SECONDS: Final = 5.0
# jsonb_to_recordset with a list of columns in ROWS FROM, assignments to elements of a record's array: older servers have not all of it.
OLDEST_SERVER: Final = (14, 0)
# The server gives a statement up before its client does: then it is known that it had no effect.
_SERVER_SHARE: Final = 0.8
_RETRY_SECONDS: Final = 0.1


def driver() -> Any:
    """The module asyncpg; LedgerUnavailable with the remedy where it is not installed."""
    try:
        return importlib.import_module("asyncpg")
    except ImportError as error:
        text = "A ledger in PostgreSQL needs the package asyncpg. Remedy: pip install 'faregate[postgres]'."
        raise LedgerUnavailable(text) from error


def failures() -> tuple[type[Exception], ...]:
    """What asyncpg raises where the server or the connection fails. InternalClientError: a connection that the server is just ending."""
    asyncpg = driver()
    return (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def shown(address: str) -> str:
    """A URL as it may stand in a log: without user, password and options.

    Also where the password holds what it should not (`/`, `?`, `#`, `@`): everything up to the last @ goes.
    """
    return re.sub(r"^(\w+://)(?:.*@)?([^?#]*).*$", r"\1\2", address, flags=re.DOTALL)


async def connect(address: str, patience: float, statement: float | None = None) -> Any:
    """A connection on which no statement runs for longer than `statement` (else `patience`); LedgerUnavailable with the remedy."""
    asyncpg = driver()
    refusals: tuple[type[Exception], ...] = (*failures(), TimeoutError, ValueError)
    settings = {
        "application_name": APPLICATION,
        "default_transaction_isolation": "read committed",
        "statement_timeout": str(max(1, round((statement or patience) * 1000 * _SERVER_SHARE))),
    }
    try:
        async with asyncio.timeout(patience):
            return await asyncpg.connect(address, timeout=patience, server_settings=settings)
    except refusals as problem:
        raise _unreachable(address, problem) from problem


async def connect_soon(address: str, patience: float) -> Any:
    """As `connect`, but tried again as long as `patience` allows: a server that starts just now is waited for."""
    loop = asyncio.get_running_loop()
    until = loop.time() + patience
    while True:
        try:
            return await connect(address, patience)
        except LedgerUnavailable as problem:
            if not isinstance(problem.__cause__, OSError | driver().CannotConnectNowError) or loop.time() > until:
                raise
            await asyncio.sleep(_RETRY_SECONDS)


def _unreachable(address: str, problem: Exception) -> LedgerUnavailable:
    why = getattr(problem, "sqlstate", None) or type(problem).__name__
    remedy = "Check FAREGATE_LEDGER, that the server runs and lets this user in, and that the database exists"
    return LedgerUnavailable(f"The ledger {shown(address)} cannot be reached ({why}). {remedy}.", retry_after=1)


def unavailable(problem: BaseException) -> LedgerUnavailable:
    """Without PostgreSQL's text, which may hold values."""
    why = getattr(problem, "sqlstate", None) or type(problem).__name__
    return LedgerUnavailable(f"The ledger's database failed ({why}).", retry_after=1)


def is_about_data(problem: BaseException) -> bool:
    """Whether a statement failed for what was in it: it would again, and others would not."""
    return str(getattr(problem, "sqlstate", None) or "")[:2] in ("22", "23")


def is_about_connection(problem: BaseException) -> bool:
    """Whether nothing more can be expected of this connection: it is lost, the server ends, or has become a read-only replica."""
    state = str(getattr(problem, "sqlstate", None) or "")
    return not state or state[:2] == "08" or state[:3] == "57P" or state == "25006"


async def ask(connection: Any, query: str, values: Sequence[Any], within: float) -> list[Any]:
    """The rows of one statement. A server that answers nothing loses the connection after so many seconds."""
    timer = asyncio.get_running_loop().call_later(within, connection.terminate)
    try:
        rows: list[Any] = await connection.fetch(query, *values)
        return rows
    except failures() as problem:
        if is_about_connection(problem):
            connection.terminate()
        raise unavailable(problem) from problem
    finally:
        timer.cancel()


async def check_there(connection: Any, address: str, within: float) -> None:
    """LedgerUnavailable with the remedy where the database has no ledger in it."""
    query = "SELECT to_regclass('faregate.budget') IS NOT NULL, to_regclass('faregate.correction') IS NOT NULL"
    ((found, young),) = await ask(connection, query, (), within)
    if not found:
        remedy = "set FAREGATE_LEDGER to the database of the gateway, and start the gateway once"
        raise LedgerUnavailable(f"There is no ledger in {shown(address)}: {remedy}.")
    if not young:
        remedy = "start this version of the gateway once, which brings it up"
        raise LedgerUnavailable(f"The ledger in {shown(address)} is of an older version: {remedy}.")


class Questions:
    """One connection for questions, opened when the first one is asked, and again after it was lost; one question at a time."""

    def __init__(self, address: str, patience: float) -> None:
        self._address = address
        self._patience = patience
        self._turn = asyncio.Lock()
        self._connection: Any = None

    async def rows(self, query: str, *values: Any) -> list[Any]:
        try:
            async with asyncio.timeout(2 * self._patience), self._turn:
                return await ask(await self._open(), query, values, self._patience)
        except TimeoutError as problem:
            raise unavailable(problem) from problem

    async def check_there(self) -> None:
        await check_there(await self._open(), self._address, self._patience)

    async def _open(self) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._address, self._patience)
        return self._connection

    async def close(self) -> None:
        if self._connection is not None:
            await close(self._connection, self._patience)


async def close(connection: Any, within: float) -> None:
    """End a connection; one that does not end by itself is dropped."""
    timer = asyncio.get_running_loop().call_later(within, connection.terminate)
    try:
        await connection.close()
    except failures():
        connection.terminate()
    finally:
        timer.cancel()
