"""Retention of the embedded ledger: what `retention` asks of a ledger, on a connection of its own beside the gateways that write."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw
from msgspec.json import Encoder

from gateway.errors import LedgerUnavailable
from gateway.ledger import corrections
from gateway.ledger.archive import Charge, Request
from gateway.ledger.columns import instant
from gateway.ledger.retention import Record, Retired, request_of, taken
from gateway.ledger.sqlite import VERSION
from gateway.ledger.transaction import transact
from gateway.outcome import Correction

T = TypeVar("T")
PATIENCE_MILLISECONDS: Final = 10_000
# Pages of the log, 64 MiB: gateways that run copy it into the file long before, so this is for when none does.
_LOG_PAGES: Final = 16384
# What no host has reported; as in `reading`, most rows are passed over without reading their JSON.
_ESTIMATED: Final = (
    "CASE WHEN attempts LIKE '%\"possible\"%' THEN coalesce((SELECT sum(value ->> 'nano') FROM json_each(attempts)"
    " WHERE value ->> 'billed' = 'possible'), 0) ELSE 0 END"
)
_CHARGES: Final = (
    f"SELECT team, currency, sum(nano), count(*), sum({_ESTIMATED}) FROM request WHERE ended >= ? AND ended < ?"
    " GROUP BY team, currency ORDER BY team, currency"
)
_ENDED: Final = (
    "SELECT request.rid, ended, request.rowid FROM request JOIN hold USING (rid)"
    " WHERE (ended, request.rowid) > (?, ?) AND ended < ? AND state <> 'held' ORDER BY ended, request.rowid LIMIT ?"
)
# Holds that nobody received have no row.
_UNHEARD: Final = (
    "SELECT rid FROM hold WHERE rid > ? AND state = 'released' AND started < ?"
    " AND NOT EXISTS (SELECT 1 FROM request WHERE request.rid = hold.rid) ORDER BY rid LIMIT ?"
)
_THESE: Final = "(SELECT value FROM json_each(?))"
_RECORD: Final = "SELECT id, month, part, file, sha256 FROM archive"
# One transaction: `leaving` has the ids and the states in which they were read, and then those that are still in it.
_LEAVING: Final = "CREATE TEMP TABLE leaving (rid TEXT NOT NULL PRIMARY KEY, state TEXT NOT NULL) STRICT, WITHOUT ROWID"
_FILL: Final = "INSERT INTO leaving SELECT value ->> '$[0]', value ->> '$[1]' FROM json_each(?)"
_CHANGED: Final = "DELETE FROM leaving WHERE NOT EXISTS (SELECT 1 FROM hold WHERE hold.rid = leaving.rid AND hold.state = leaving.state)"
_REMEMBER: Final = (
    "INSERT INTO gone SELECT hold.rid, ?, hold.state, hold.currency, coalesce(request.nano, 0), iif(hold.state = 'settled', NULL, claims),"
    " idem, iif(idem IS NULL, NULL, fingerprint) FROM leaving CROSS JOIN hold USING (rid) LEFT JOIN request USING (rid)"
)
_CLOSE: Final = (
    f"INSERT INTO closed SELECT ?, team, currency, sum(nano), count(*), sum({_ESTIMATED}) FROM leaving CROSS JOIN request USING (rid)"
    " WHERE true GROUP BY team, currency ON CONFLICT DO UPDATE SET nano = nano + excluded.nano, requests = requests + excluded.requests,"
    " estimated = estimated + excluded.estimated"
)
_BUDGETS: Final = (
    "UPDATE budget SET archived = archived + sums.cost FROM (SELECT claim.value ->> 'team' AS team, claim.value ->> 'budget' AS budget,"
    " claim.value ->> 'key' AS key, claim.value ->> 'period' AS period, claim.value ->> 'currency' AS currency,"
    " sum(claim.value ->> 'cost') AS cost FROM leaving CROSS JOIN entry USING (rid), json_each(entry.claims) AS claim"
    " GROUP BY 1, 2, 3, 4, 5) AS sums WHERE (budget.team, budget.budget, budget.key, budget.period, budget.currency)"
    " = (sums.team, sums.budget, sums.key, sums.period, sums.currency)"
)
_DELETE: Final = tuple(f"DELETE FROM {table} WHERE rid IN (SELECT rid FROM leaving)" for table in ("entry", "request", "hold"))
_json = Encoder().encode


class SqliteShelf:
    """The port `Shelf` on one file; raises LedgerUnavailable with the remedy."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: apsw.Connection | None = None

    async def start(self) -> None:
        if not self._path.is_file():
            raise LedgerUnavailable(f"there is no ledger at {self._path}: set FAREGATE_LEDGER or FAREGATE_DATA, or pass --ledger")
        self._db = self._try(lambda: apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE))
        self._try(self._prepare)

    def _prepare(self) -> None:
        db = self._open
        db.set_busy_timeout(PATIENCE_MILLISECONDS)
        if (version := db.pragma("user_version")) != VERSION:
            remedy = "start this version of the gateway once, which brings it up" if version < VERSION else "run the newer Faregate"
            raise LedgerUnavailable(f"the ledger {self._path} is of version {version}, this Faregate's {VERSION}: {remedy}")
        db.execute("PRAGMA recursive_triggers = ON")
        # A checkpoint of ours would make the gateway's next commit flush; it makes its own.
        db.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        db.set_wal_hook(self._log_grew)
        db.execute(_LEAVING)

    async def close(self) -> None:
        if self._db is not None:
            self._db.close()

    async def identity(self) -> str:
        return str(self._rows("SELECT value FROM meta WHERE name = 'id'")[0][0])

    async def unfinished(self) -> Record | None:
        found = self._rows(f"{_RECORD} WHERE NOT done ORDER BY id")
        return Record(*found[0]) if found else None

    async def first_end(self, start: int, before: int) -> int | None:
        ((found,),) = self._rows("SELECT min(ended) FROM request WHERE ended >= ? AND ended < ?", start, before)
        return None if found is None else int(found)

    async def charges(self, start: int, before: int) -> list[Charge]:
        return [Charge(*row) for row in self._rows(_CHARGES, start, before)]

    async def requests(self, start: int, before: int, page: int) -> AsyncIterator[Sequence[Request]]:
        mark = (start, 0)
        while found := self._rows(_ENDED, *mark, before, page):
            yield self._read([row[0] for row in found])
            mark = found[-1][1:]
        last = ""
        while found := self._rows(_UNHEARD, last, before, page):
            yield self._read([row[0] for row in found])
            last = found[-1][0]

    async def again(self, ids: Sequence[str]) -> dict[str, Request]:
        return {one.rid: one for one in self._read(ids)}

    async def corrections(self, start: int, before: int) -> list[Correction]:
        return self._try(lambda: corrections.within(self._open, instant(start), instant(before), None))

    async def next_part(self, month: str) -> int:
        return int(self._rows("SELECT coalesce(max(part), 0) + 1 FROM archive WHERE month = ?", month)[0][0])

    async def begin(self, month: str, part: int, file: str, sha256: str) -> Record:
        query = "INSERT INTO archive (month, part, file, sha256, made, done) VALUES (?, ?, ?, ?, ?, 0) RETURNING id"
        self._sync("FULL")
        try:
            id = self._write(lambda db, now: db.execute(query, (month, part, file, sha256, now)).get)
        except LedgerUnavailable as problem:
            if isinstance(problem.__cause__, apsw.ConstraintError):
                raise taken(month) from problem
            raise
        return Record(id, month, part, file, sha256)

    async def retire(self, record: Record, requests: Sequence[Request]) -> Retired:
        pairs = _json([(one.rid, one.state) for one in requests]).decode()
        # A power cut may undo the last deletions, and the file has what they deleted: nobody need wait for the disk.
        self._sync("NORMAL")
        self._try(lambda: self._open.execute("DELETE FROM leaving"))
        self._try(lambda: self._open.execute(_FILL, (pairs,)))
        began, number = self._write(lambda db, _now: (time.monotonic(), _retire(db, record)))
        return Retired(number, time.monotonic() - began)

    async def finish(self, record: Record) -> None:
        self._sync("FULL")
        self._write(lambda db, _now: db.execute("UPDATE archive SET done = 1 WHERE id = ?", (record.id,)).get)

    def _sync(self, level: str) -> None:
        self._try(lambda: self._open.execute(f"PRAGMA synchronous = {level}"))

    def _read(self, ids: Sequence[str]) -> list[Request]:
        """These requests in this order."""
        wanted = _json(ids).decode()
        holds = self._dicts(f"SELECT * FROM hold WHERE rid IN {_THESE}", wanted)
        rows = self._dicts(f"SELECT * FROM request WHERE rid IN {_THESE}", wanted)
        entries: dict[str, list[dict[str, Any]]] = {}
        for entry in self._all(f"SELECT * FROM entry WHERE rid IN {_THESE} ORDER BY rid, seq", wanted):
            entries.setdefault(entry["rid"], []).append(entry)
        return [request_of(holds[rid], rows.get(rid), entries.get(rid, [])) for rid in ids if rid in holds]

    def _dicts(self, query: str, wanted: str) -> dict[str, dict[str, Any]]:
        return {row["rid"]: row for row in self._all(query, wanted)}

    def _all(self, query: str, wanted: str) -> list[dict[str, Any]]:
        """Rows by the names of their columns."""
        return self._try(lambda: [_named(cursor, row) for cursor in [self._open.execute(query, (wanted,))] for row in cursor])

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._try(lambda: self._open.execute(query, values).fetchall())

    def _write(self, work: Callable[[apsw.Cursor, int], T]) -> T:
        return self._try(lambda: transact(self._open.cursor(), work))

    def _try(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except apsw.Error as problem:
            raise LedgerUnavailable(f"the ledger {self._path} cannot be used: {problem}") from problem

    @property
    def _open(self) -> apsw.Connection:
        assert self._db is not None, "a shelf is started first"
        return self._db

    def _log_grew(self, db: apsw.Connection, _name: str, pages: int) -> int:
        if pages > _LOG_PAGES:
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        return apsw.SQLITE_OK


def _named(cursor: apsw.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip((name for name, *_ in cursor.get_description()), row, strict=True))


def _retire(db: apsw.Cursor, record: Record) -> int:
    db.execute(_CHANGED)
    db.execute(_REMEMBER, (record.id,))
    number: int = db.connection.changes()
    db.execute(_CLOSE, (record.month,))
    db.execute(_BUDGETS)
    for delete in _DELETE:
        db.execute(delete)
    return number
