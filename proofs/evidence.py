"""What a ledger's tables say, read while gateways write: one consistent answer for each question, from SQLite or PostgreSQL."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Protocol

import apsw
import asyncpg

Rows = list[tuple[Any, ...]]


class Evidence(Protocol):
    """One ledger. `read` raises ConnectionError while its server is down."""

    async def read(self, query: str) -> Rows: ...

    async def close(self) -> None: ...


class SqliteEvidence:
    def __init__(self, path: Path) -> None:
        self._db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        self._db.set_busy_timeout(5000)

    async def read(self, query: str) -> Rows:
        return self._db.execute(query).fetchall()

    async def close(self) -> None:
        self._db.close()


class PostgresEvidence:
    """Connects again after the server was away."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._db: asyncpg.Connection | None = None
        self._turn = asyncio.Lock()

    async def read(self, query: str) -> Rows:
        async with self._turn:
            return await self._read(query)

    async def _read(self, query: str) -> Rows:
        try:
            if self._db is None or self._db.is_closed():
                self._db = await asyncpg.connect(self._address, timeout=5, server_settings={"search_path": "faregate"})
            return [tuple(row) for row in await self._db.fetch(query)]
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as problem:
            self._db = None
            raise ConnectionError(str(problem)) from problem

    async def close(self) -> None:
        if self._db is not None:
            await self._db.close()
            self._db = None
