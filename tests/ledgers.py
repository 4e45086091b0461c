"""The embedded ledger as the tests make it, one hold and its row, and a look into its file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apsw
from msgspec.structs import replace

from gateway.ledger.spool import LIMIT, Spool
from gateway.ledger.sqlite import LOG_PAGES, SqliteStore
from gateway.ledger.sqlite import PATIENCE_SECONDS as STORE_PATIENCE
from gateway.ledger.steward import LEASE_SECONDS, PATIENCE_SECONDS, Steward
from gateway.money import Parts
from gateway.outcome import Attempt, Claim, Hold, LedgerRow
from gateway.usage import Sources, Usage

AT = datetime(2026, 11, 20, 2, 0, 0, 123456, tzinfo=UTC)
HOLD = Hold("r1", "search", "search-1a2b3c", "r", "deepseek", "deepseek-v4-pro", "USD", 900, 500, 900, "card", "9f", AT)
ROW = LedgerRow(
    id="r1",
    team="search",
    key="search-1a2b3c",
    route="r",
    host="deepseek",
    model="deepseek-v4-pro",
    contract="deepseek-v4-pro",
    edits=("max_tokens=9000->8192", "drop_user"),
    usage=Usage(64, 10, 30, 12, Sources(reasoning="unknown")),
    currency="USD",
    nano=400,
    parts=Parts(50, 150, 200),
    card="card",
    window="peak",
    policies="9f",
    started=AT,
    ended=AT + timedelta(seconds=3, microseconds=1),
    status="ok",
    stopped=None,
    attempts=(Attempt("gmi", "v4", "upstream_error", "none", 0), Attempt("deepseek", "deepseek-v4-pro", "ok", "known", 400)),
    expected_nano=500,
    worst_nano=900,
    host_nano=399,
    disputed=True,
    stream=True,
)
MONTH = Claim("search", "month", "", "2026-11", "USD", 10_000, None)
RELEASED = replace(ROW, nano=0, usage=None, parts=None, status="client_error", attempts=())


class Embedded(Steward):
    """The ledger of one process: a file, and a spool in the folder `spool` beside it."""

    def __init__(
        self,
        path: Path | str,
        *,
        lease: float = LEASE_SECONDS,
        on_commit: Callable[[str, float], None] | None = None,
        ledger_down: str = "closed",
        within: float = PATIENCE_SECONDS,
        limit: int = LIMIT,
        sync: Callable[[int], None] = os.fdatasync,
        log_pages: int = LOG_PAGES,
        patience: float = STORE_PATIENCE,
    ) -> None:
        self.store = SqliteStore(path, sync=sync, log_pages=log_pages, patience=patience)
        self.spool = Spool(Path(path).parent / "spool", limit=limit)
        super().__init__(self.store, self.spool, lease=lease, patience=within, on_commit=on_commit, ledger_down=ledger_down)

    @property
    def commits(self) -> int:
        return self.store.commits

    @property
    def flushes(self) -> int:
        return self.store.flushes


def look(path: Path, query: str) -> list[tuple[apsw.SQLiteValue, ...]]:
    connection = apsw.Connection(str(path))
    # The ledger's own housekeeping may be writing just now.
    connection.set_busy_timeout(5000)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


async def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come true within 10 s")


def locked(path: Path) -> apsw.Connection:
    """Another process's write transaction, as far as the ledger can tell."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(5000)
    connection.execute("BEGIN IMMEDIATE")
    return connection


def unlock(connection: apsw.Connection) -> None:
    connection.execute("COMMIT")
    connection.close()
