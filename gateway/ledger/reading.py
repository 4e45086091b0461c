"""Reading a ledger file beside the gateway that writes it: for commands. Changes no row and no table."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

import apsw

from gateway.errors import LedgerUnavailable
from gateway.ledger import budget_rows
from gateway.ledger.columns import microseconds
from gateway.ledger.port import Spend, SpendBy
from gateway.outcome import BudgetState

T = TypeVar("T")
_PATIENCE_MILLISECONDS: Final = 5000
# The first version of the tables that knows budgets.
_OLDEST: Final = 2
_GROUPS: Final[dict[SpendBy, str]] = {
    "day": "strftime('%Y-%m-%d', ended / 1000000, 'unixepoch')",
    "team": "team",
    "key": "key",
    "route": "route",
    "host": "host",
    "model": "model",
}


def spend(db: apsw.Connection, by: SpendBy, start: datetime, end: datetime, team: str | None = None) -> list[Spend]:
    """As Ledger.spend, on a connection to the file."""
    query = (
        f"SELECT {_GROUPS[by]} AS name, currency, sum(nano), count(*) FROM request WHERE ended >= ? AND ended < ?"
        " AND team = coalesce(?, team) GROUP BY name, currency ORDER BY name, currency"
    )
    return [Spend(*found) for found in db.execute(query, (microseconds(start), microseconds(end), team))]


class SqliteReader:
    """The questions of the port `Store` to a file, while others write it; raises LedgerUnavailable with the remedy."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: apsw.Connection | None = None

    async def start(self) -> None:
        if not self._path.is_file():
            remedy = "set FAREGATE_LEDGER or FAREGATE_DATA, or pass --ledger sqlite:///PATH"
            raise LedgerUnavailable(f"there is no ledger at {self._path}: {remedy}")
        # Not read-only: after a crash, SQLite must first bring the file's log into it.
        self._db = self._answer(lambda: apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE))
        self._db.set_busy_timeout(_PATIENCE_MILLISECONDS)
        version = self._answer(lambda: self._open.pragma("user_version"))
        if version < _OLDEST:
            raise LedgerUnavailable(f"the ledger {self._path} is of a version without budgets: start the gateway once, which brings it up")
        self._open.pragma("query_only", True)

    async def budgets(self, at: datetime, team: str | None = None) -> list[BudgetState]:
        return self._answer(lambda: budget_rows.states(self._open, microseconds(at), team))

    async def spend(self, by: SpendBy, start: datetime, end: datetime, team: str | None = None) -> list[Spend]:
        return self._answer(lambda: spend(self._open, by, start, end, team))

    async def close(self) -> None:
        if self._db is not None:
            self._db.close()

    @property
    def _open(self) -> apsw.Connection:
        assert self._db is not None, "a reader is started first"
        return self._db

    def _answer(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except apsw.Error as problem:
            raise LedgerUnavailable(f"the ledger {self._path} cannot be read: {problem}") from problem
