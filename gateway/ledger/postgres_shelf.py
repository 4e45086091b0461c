"""Retention of a ledger in PostgreSQL: what `retention` asks of a ledger, on a connection of its own beside the gateways that write."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec

from gateway.ledger.archive import Charge, Request
from gateway.ledger.columns import REQUEST
from gateway.ledger.corrections import COLUMNS as CORRECTION
from gateway.ledger.corrections import correction_of
from gateway.ledger.postgres_connection import ask, check_there, close, connect
from gateway.ledger.retention import Record, Retired, request_of, taken
from gateway.outcome import Correction

# A page of old rows comes from the disk; a gateway's own statements have less time.
PATIENCE_SECONDS: Final = 60.0
_CONNECT_SECONDS: Final = 5.0
_ROWS: Final = ", ".join(f'"{name}"' for name in REQUEST)
_HOLD: Final = (
    "rid, state, nano, currency, expected, worst, expires, owner, team, key, route, host, model, card, policies, started, claims::text,"
    " idem, fingerprint, attempts"
)
_ENTRY: Final = "rid, seq, kind, nano, currency, source, at, claims::text"
_CHARGES: Final = (
    'SELECT team COLLATE "C", currency COLLATE "C", sum(nano)::bigint, count(*),'
    " sum(CASE WHEN attempts LIKE '%\"possible\"%' THEN coalesce((SELECT sum((line ->> 'nano')::bigint)"
    " FROM jsonb_array_elements(attempts::jsonb) line WHERE line ->> 'billed' = 'possible'), 0) ELSE 0 END)::bigint"
    " FROM faregate.request WHERE ended >= $1 AND ended < $2 GROUP BY 1, 2 ORDER BY 1, 2"
)
_ENDED: Final = (
    "SELECT r.rid, r.ended, r.kept FROM faregate.request r JOIN faregate.hold h USING (rid)"
    " WHERE (r.ended, r.kept) > ($1, $2) AND r.ended < $3 AND h.state <> 'held' ORDER BY r.ended, r.kept LIMIT $4"
)
# Holds that nobody received have no row.
_UNHEARD: Final = (
    "SELECT rid FROM faregate.hold h WHERE rid > $1 AND state = 'released' AND started < $2"
    " AND NOT EXISTS (SELECT FROM faregate.request r WHERE r.rid = h.rid) ORDER BY rid LIMIT $3"
)
_CORRECTIONS: Final = f"SELECT {', '.join(CORRECTION)}, claims::text FROM faregate.correction WHERE at >= $1 AND at < $2 ORDER BY at, seq"
_UNFINISHED: Final = "SELECT id, month, part, file, sha256 FROM faregate.archive WHERE done = 0 ORDER BY id LIMIT 1"
_PART: Final = "SELECT coalesce(max(part), 0) + 1 FROM faregate.archive WHERE month = $1"
_BEGIN: Final = (
    "INSERT INTO faregate.archive (month, part, file, sha256, made, done)"
    " VALUES ($1, $2, $3, $4, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, 0)"
    " ON CONFLICT DO NOTHING RETURNING id"
)


class PostgresShelf:
    """The port `Shelf` on one database; raises LedgerUnavailable with the remedy."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection: Any = None

    async def start(self) -> None:
        self._connection = await connect(self._address, _CONNECT_SECONDS, PATIENCE_SECONDS)
        # What the server acknowledges is on its disk, whatever it is set to.
        await self._rows("SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'")
        await check_there(self._connection, self._address, PATIENCE_SECONDS)

    async def close(self) -> None:
        if self._connection is not None:
            await close(self._connection, _CONNECT_SECONDS)

    async def identity(self) -> str:
        return str((await self._rows("SELECT value FROM faregate.meta WHERE name = 'id'"))[0][0])

    async def unfinished(self) -> Record | None:
        found = await self._rows(_UNFINISHED)
        return Record(*found[0]) if found else None

    async def first_end(self, start: int, before: int) -> int | None:
        ((found,),) = await self._rows("SELECT min(ended) FROM faregate.request WHERE ended >= $1 AND ended < $2", start, before)
        return None if found is None else int(found)

    async def charges(self, start: int, before: int) -> list[Charge]:
        return [Charge(*row) for row in await self._rows(_CHARGES, start, before)]

    async def requests(self, start: int, before: int, page: int) -> AsyncIterator[Sequence[Request]]:
        mark = (start, 0)
        while found := await self._rows(_ENDED, *mark, before, page):
            yield await self._read([row[0] for row in found])
            mark = tuple(found[-1])[1:]
        last = ""
        while found := await self._rows(_UNHEARD, last, before, page):
            yield await self._read([row[0] for row in found])
            last = found[-1][0]

    async def again(self, ids: Sequence[str]) -> dict[str, Request]:
        return {one.rid: one for one in await self._read(ids)}

    async def corrections(self, start: int, before: int) -> list[Correction]:
        return [correction_of(tuple(row)) for row in await self._rows(_CORRECTIONS, start, before)]

    async def next_part(self, month: str) -> int:
        return int((await self._rows(_PART, month))[0][0])

    async def begin(self, month: str, part: int, file: str, sha256: str) -> Record:
        found = await self._rows(_BEGIN, month, part, file, sha256)
        if not found:
            raise taken(month)
        ((id,),) = found
        return Record(id, month, part, file, sha256)

    async def retire(self, record: Record, requests: Sequence[Request]) -> Retired:
        pairs = msgspec.json.encode([(one.rid, one.state) for one in requests]).decode()
        ((found,),) = await self._rows("SELECT faregate.retire($1, $2::jsonb)", record.id, pairs)
        number, lock = found
        return Retired(number, lock / 1_000_000)

    async def finish(self, record: Record) -> None:
        await self._rows("UPDATE faregate.archive SET done = 1 WHERE id = $1", record.id)

    async def _read(self, ids: Sequence[str]) -> list[Request]:
        """These requests in this order."""
        holds = {row["rid"]: row for row in await self._dicts(f"SELECT {_HOLD} FROM faregate.hold WHERE rid = ANY ($1)", ids)}
        rows = {row["rid"]: row for row in await self._dicts(f"SELECT {_ROWS} FROM faregate.request WHERE rid = ANY ($1)", ids)}
        entries: dict[str, list[dict[str, Any]]] = {}
        for entry in await self._dicts(f"SELECT {_ENTRY} FROM faregate.entry WHERE rid = ANY ($1) ORDER BY rid, seq", ids):
            entries.setdefault(entry["rid"], []).append(entry)
        return [request_of(holds[rid], rows.get(rid), entries.get(rid, [])) for rid in ids if rid in holds]

    async def _dicts(self, query: str, ids: Sequence[str]) -> list[dict[str, Any]]:
        return [dict(row) for row in await self._rows(query, list(ids))]

    async def _rows(self, query: str, *values: Any) -> list[Any]:
        return await ask(self._connection, query, values, PATIENCE_SECONDS)
