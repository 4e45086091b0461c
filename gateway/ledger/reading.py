"""Reading a ledger file beside the gateway that writes it: for commands. Changes no row and no table."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

import apsw

from gateway.errors import LedgerUnavailable
from gateway.ledger import budget_rows, corrections
from gateway.ledger.columns import REQUEST, microseconds, months, request_row, trail_of
from gateway.ledger.port import Closed, Mark, Page, Spend, SpendBy, Trail
from gateway.ledger.tallies import tally
from gateway.outcome import BudgetState, Correction, LedgerRow
from gateway.reports.tallies import Question, Take

T = TypeVar("T")
_PATIENCE_MILLISECONDS: Final = 5000
# The first version of the tables that knows all that is asked.
_OLDEST: Final = 5
_COLUMNS: Final = ", ".join(REQUEST)
# Ids of rows count from 1.
_BEFORE_ALL: Final = 0
_PAGE: Final = (
    f"SELECT {_COLUMNS}, rowid FROM request WHERE (ended, rowid) > (?, ?) AND ended < ? AND team = coalesce(?, team)"
    " ORDER BY ended, rowid LIMIT ?"
)
_ARCHIVED: Final = "SELECT file FROM gone JOIN archive ON archive.id = gone.archive WHERE rid = ?"
_CLOSED: Final = (
    "SELECT month, team, currency, nano, requests, estimated FROM closed WHERE month >= ? AND month <= ? AND team = coalesce(?, team)"
    " ORDER BY month, team, currency"
)
_GROUPS: Final[dict[SpendBy, str]] = {
    "day": "strftime('%Y-%m-%d', ended / 1000000, 'unixepoch')",
    "team": "team",
    "key": "key",
    "route": "route",
    "host": "host",
    "model": "model",
}
_WITHIN: Final = "ended >= ?1 AND ended < ?2 AND team = coalesce(?3, team)"
# The part that no host has reported; most rows have none, and their JSON is not read.
_ESTIMATED: Final = (
    "CASE WHEN attempts LIKE '%\"possible\"%' THEN coalesce((SELECT sum(value ->> 'nano') FROM json_each(attempts)"
    " WHERE value ->> 'billed' = 'possible'), 0) ELSE 0 END AS estimated"
)
# What earlier attempts cost at hosts of their own. Two objects have two ends: most rows are passed over without reading their JSON.
_EARLIER: Final = (
    "SELECT {name}, currency, {sign}(attempt.value ->> 'nano'), 0,"
    " CASE attempt.value ->> 'billed' WHEN 'possible' THEN {sign}(attempt.value ->> 'nano') ELSE 0 END"
    f" FROM request, json_each(attempts) AS attempt WHERE {_WITHIN} AND attempts LIKE '%}}}}%}}}}%'"
    " AND attempt.key < json_array_length(attempts) - 1 AND attempt.value ->> 'nano' <> 0"
)


def _charges(by: SpendBy) -> str:
    """(group, currency, nano, requests, estimated) of all charges. At a host, or of a model, is what each attempt cost there: it is
    moved from the row's own, so that whatever is moved the sums stay what they are."""
    rows = f"SELECT {_GROUPS[by]} AS name, currency, nano, 1 AS one, {_ESTIMATED} FROM request WHERE {_WITHIN}"
    if by not in ("host", "model"):
        return rows
    moved = _EARLIER.format(name=f"attempt.value ->> '{by}'", sign="")
    return f"{rows} UNION ALL {moved} UNION ALL {_EARLIER.format(name=by, sign='-')}"


def spend(db: apsw.Connection, by: SpendBy, start: datetime, end: datetime, team: str | None = None) -> list[Spend]:
    """As Ledger.spend, on a connection to the file."""
    sums = "sum(nano), sum(one), sum(estimated)"
    query = f"SELECT name, currency, {sums} FROM ({_charges(by)}) GROUP BY name, currency ORDER BY name, currency"
    return [Spend(*found) for found in db.execute(query, (microseconds(start), microseconds(end), team))]


def request(db: apsw.Connection, id: str) -> LedgerRow | None:
    """As Ledger.request, on a connection to the file."""
    return next((request_row(columns) for columns in db.execute(f"SELECT {_COLUMNS} FROM request WHERE rid = ?", (id,))), None)


def trail(db: apsw.Connection, id: str) -> Trail | None:
    """As Ledger.trail, on a connection to the file."""
    hold = db.execute("SELECT state, currency, nano, claims FROM hold WHERE rid = ?", (id,)).get
    if hold is None:
        return None
    return trail_of(hold, db.execute("SELECT kind, nano, source, at FROM entry WHERE rid = ? ORDER BY seq", (id,)))


def page(db: apsw.Connection, start: datetime, end: datetime, team: str | None, after: Mark | None, limit: int) -> Page:
    """As Ledger.page, on a connection to the file."""
    first, last = after or (microseconds(start), _BEFORE_ALL)
    found = db.execute(_PAGE, (first, last, microseconds(end), team, limit)).fetchall()
    rows = [request_row(columns) for *columns, _rowid in found]
    return Page(rows, (microseconds(rows[-1].ended), int(str(found[-1][-1]))) if len(found) == limit else None)


def closed(db: apsw.Connection, start: datetime, end: datetime, team: str | None = None) -> list[Closed]:
    """As Ledger.closed, on a connection to the file."""
    return [Closed(*found) for found in db.execute(_CLOSED, (*months(start, end), team))]


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
            remedy = "start this version of the gateway once, which brings it up"
            raise LedgerUnavailable(f"the ledger {self._path} is of an older version: {remedy}")
        self._open.pragma("query_only", True)

    async def budgets(self, at: datetime, team: str | None = None) -> list[BudgetState]:
        return self._answer(lambda: budget_rows.states(self._open, microseconds(at), team))

    async def spend(self, by: SpendBy, start: datetime, end: datetime, team: str | None = None) -> list[Spend]:
        return self._answer(lambda: spend(self._open, by, start, end, team))

    async def tally(self, question: Question, take: Take) -> None:
        self._answer(lambda: tally(self._open, question, take))

    async def corrections(self, start: datetime, end: datetime, team: str | None = None) -> list[Correction]:
        return self._answer(lambda: corrections.within(self._open, start, end, team))

    async def closed(self, start: datetime, end: datetime, team: str | None = None) -> list[Closed]:
        return self._answer(lambda: closed(self._open, start, end, team))

    async def request(self, id: str) -> LedgerRow | None:
        return self._answer(lambda: request(self._open, id))

    async def trail(self, id: str) -> Trail | None:
        return self._answer(lambda: trail(self._open, id))

    async def archived(self, id: str) -> str | None:
        """The name of the archive that a request has left for; None where it is here, or never was."""
        return self._answer(lambda: next((str(file) for (file,) in self._open.execute(_ARCHIVED, (id,))), None))

    async def page(self, start: datetime, end: datetime, team: str | None, after: Mark | None, limit: int) -> Page:
        return self._answer(lambda: page(self._open, start, end, team, after, limit))

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
