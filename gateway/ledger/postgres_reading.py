"""Questions to a ledger in PostgreSQL, on a connection of their own: they wait for no batch, and change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from gateway.errors import LedgerUnavailable
from gateway.ledger.columns import REQUEST, instant, microseconds, months, request_row, trail_of
from gateway.ledger.corrections import COLUMNS as CORRECTION
from gateway.ledger.corrections import correction_of
from gateway.ledger.port import Closed, Mark, Page, Spend, SpendBy, Trail
from gateway.ledger.postgres_connection import PATIENCE_SECONDS, Questions
from gateway.ledger.postgres_tallies import tally
from gateway.outcome import BudgetState, Correction, LedgerRow
from gateway.reports.tallies import Question, Take

_COLUMNS = ", ".join(f'"{name}"' for name in REQUEST)
_GROUPS: Final[dict[SpendBy, str]] = {
    "day": "to_char(to_timestamp(ended / 1000000) AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    "team": "team",
    "key": "key",
    "route": "route",
    "host": "host",
    "model": "model",
}
_WITHIN: Final = "ended >= $1 AND ended < $2 AND team = coalesce($3, team)"
# The part that no host has reported; most rows have none, and their JSON is not read.
_ESTIMATED: Final = (
    "CASE WHEN attempts LIKE '%\"possible\"%' THEN coalesce((SELECT sum((line ->> 'nano')::bigint)"
    " FROM jsonb_array_elements(attempts::jsonb) line WHERE line ->> 'billed' = 'possible'), 0) ELSE 0 END AS estimated"
)
# What earlier attempts cost at hosts of their own. Two objects have two ends: most rows are passed over without reading their JSON.
_EARLIER: Final = (
    "SELECT {name}, currency, {sign}(attempt ->> 'nano')::bigint, 0,"
    " CASE attempt ->> 'billed' WHEN 'possible' THEN {sign}(attempt ->> 'nano')::bigint ELSE 0 END"
    " FROM (SELECT host, model, currency, attempts::jsonb AS attempts FROM faregate.request"
    f" WHERE {_WITHIN} AND attempts LIKE '%}}}}%}}}}%') several,"
    " jsonb_array_elements(attempts) WITH ORDINALITY AS line(attempt, at)"
    " WHERE at < jsonb_array_length(attempts) AND (attempt ->> 'nano')::bigint <> 0"
)
# `kept` counts from 1.
_BEFORE_ALL: Final = 0
_PAGE: Final = (
    f"SELECT {_COLUMNS}, kept FROM faregate.request WHERE (ended, kept) > ($1, $2) AND ended < $3 AND team = coalesce($4, team)"
    " ORDER BY ended, kept LIMIT $5"
)
_BUDGETS: Final = (
    "SELECT team, budget, key, period, currency, lim, spent, held, peak, overrun, resets_at FROM faregate.budget"
    " WHERE (resets_at IS NULL OR resets_at > $1) AND team = coalesce($2, team)"
    ' ORDER BY team COLLATE "C", budget COLLATE "C", key COLLATE "C", period COLLATE "C"'
)
_CORRECTIONS: Final = (
    f"SELECT {', '.join(CORRECTION)}, claims::text FROM faregate.correction WHERE at >= $1 AND at < $2 AND team = coalesce($3, team)"
    " ORDER BY at, seq"
)
_CLOSED: Final = (
    "SELECT month, team, currency, nano, requests, estimated FROM faregate.closed"
    " WHERE month >= $1 AND month <= $2 AND team = coalesce($3, team)"
    ' ORDER BY month COLLATE "C", team COLLATE "C", currency COLLATE "C"'
)


def _charges(by: SpendBy) -> str:
    """(group, currency, nano, requests, estimated) of all charges. At a host, or of a model, is what each attempt cost there: it is
    moved from the row's own, so that whatever is moved the sums stay what they are."""
    rows = f"SELECT {_GROUPS[by]} AS name, currency, nano, 1 AS one, {_ESTIMATED} FROM faregate.request WHERE {_WITHIN}"
    if by not in ("host", "model"):
        return rows
    moved = _EARLIER.format(name=f"attempt ->> '{by}'", sign="")
    return f"{rows} UNION ALL {moved} UNION ALL {_EARLIER.format(name=by, sign='-')}"


class PostgresReader:
    """The questions of the port `Store` to one database, while others write it; raises LedgerUnavailable with the remedy."""

    def __init__(self, address: str, *, patience: float = PATIENCE_SECONDS) -> None:
        self._address = address
        self._questions = Questions(address, patience)

    async def start(self) -> None:
        """For commands: refuses a database without a ledger in it."""
        try:
            await self._questions.check_there()
        except LedgerUnavailable:
            await self.close()
            raise

    async def close(self) -> None:
        await self._questions.close()

    async def request(self, id: str) -> LedgerRow | None:
        rows = await self._questions.rows(f"SELECT {_COLUMNS} FROM faregate.request WHERE rid = $1", id)
        return request_row(rows[0]) if rows else None

    async def trail(self, id: str) -> Trail | None:
        holds = await self._questions.rows("SELECT state, currency, nano, claims::text FROM faregate.hold WHERE rid = $1", id)
        if not holds:
            return None
        query = "SELECT kind, nano, source, at FROM faregate.entry WHERE rid = $1 ORDER BY seq"
        return trail_of(tuple(holds[0]), map(tuple, await self._questions.rows(query, id)))

    async def archived(self, id: str) -> str | None:
        """The name of the archive that a request has left for; None where it is here, or never was."""
        query = "SELECT file FROM faregate.gone JOIN faregate.archive ON archive.id = gone.archive WHERE rid = $1"
        return next((str(file) for (file,) in await self._questions.rows(query, id)), None)

    async def requests(self, limit: int) -> list[LedgerRow]:
        query = f"SELECT {_COLUMNS} FROM faregate.request ORDER BY ended DESC, kept DESC LIMIT $1"
        return [request_row(row) for row in await self._questions.rows(query, limit)]

    async def page(self, start: datetime, end: datetime, team: str | None, after: Mark | None, limit: int) -> Page:
        first, last = after or (microseconds(start), _BEFORE_ALL)
        found = await self._questions.rows(_PAGE, first, last, microseconds(end), team, limit)
        mark = (found[-1]["ended"], found[-1]["kept"]) if len(found) == limit else None
        return Page([request_row(tuple(row)[:-1]) for row in found], mark)

    async def spend(self, by: SpendBy, start: datetime, end: datetime, team: str | None = None) -> list[Spend]:
        query = (
            'SELECT name COLLATE "C", currency COLLATE "C", sum(nano)::bigint, sum(one)::bigint, sum(estimated)::bigint'
            f" FROM ({_charges(by)}) charge GROUP BY 1, 2 ORDER BY 1, 2"
        )
        return [Spend(*row) for row in await self._questions.rows(query, microseconds(start), microseconds(end), team)]

    async def tally(self, question: Question, take: Take) -> None:
        await tally(self._address, question, take)

    async def corrections(self, start: datetime, end: datetime, team: str | None = None) -> list[Correction]:
        rows = await self._questions.rows(_CORRECTIONS, microseconds(start), microseconds(end), team)
        return [correction_of(tuple(row)) for row in rows]

    async def closed(self, start: datetime, end: datetime, team: str | None = None) -> list[Closed]:
        return [Closed(*row) for row in await self._questions.rows(_CLOSED, *months(start, end), team)]

    async def budgets(self, at: datetime, team: str | None = None) -> list[BudgetState]:
        rows = await self._questions.rows(_BUDGETS, microseconds(at), team)
        return [BudgetState(*row) for row in map(_with_instant, rows)]


def _with_instant(row: Sequence[Any]) -> list[Any]:
    *found, resets_at = row
    return [*found, None if resets_at is None else instant(resets_at)]
