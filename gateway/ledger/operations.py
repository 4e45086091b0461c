"""What the embedded ledger writes: each function is one operation inside a transaction of its caller's.

`now` is the database's clock in microseconds, the only clock that leases know. An operation raises HoldError before its
first write or not at all. Which event leads where is the table in `port`; nothing here decides it again.
Operations share one cursor, because making one costs as much as a small statement: each reads its answers to the end.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import apsw
from msgspec.json import Encoder

from gateway.ledger.columns import REQUEST, hold_columns, instant, request_columns
from gateway.ledger.port import TRANSITIONS, EntryKind, Event, HoldError
from gateway.outcome import Attempt, Hold, LedgerRow

REAP: Final = 200

_HOLD = "nano, currency, expected, worst, team, key, route, host, model, card, policies, started"
_INSERT_HOLD = f"INSERT INTO hold (rid, {_HOLD}, state, expires, owner) VALUES ({', '.join('?' * 13)}, 'held', ?, ?) ON CONFLICT DO NOTHING"
_EXTEND_HOLD = f"UPDATE hold SET ({_HOLD}) = ({', '.join('?' * 12)}) WHERE rid = ? AND state = 'held'"
_END_HOLD = "UPDATE hold SET state = ? WHERE rid = ? AND state = 'held' AND currency = ?"
_FIRST_ENTRY = "INSERT INTO entry VALUES (?, 1, ?, ?, ?, ?, ?)"
# Without the names of its columns, which apsw would read again for each row.
_WRITE_REQUEST = f"INSERT OR REPLACE INTO request VALUES ({', '.join('?' * len(REQUEST))})"
# One statement for all, each found by its id, in the place of one statement for each.
_RENEW = "UPDATE hold SET expires = ? WHERE state = 'held' AND rid IN (SELECT value FROM json_each(?))"
# The index has the open holds only: without it this would read every hold that ever was.
_OVERDUE = f"SELECT rid, {_HOLD} FROM hold INDEXED BY open_hold WHERE state = 'held' AND expires <= ? ORDER BY expires LIMIT ?"
_json = Encoder().encode


def hold(db: apsw.Cursor, now: int, hold: Hold, owner: str, lease: int) -> None:
    """Keep a new hold until `lease` microseconds from now; an id that is known, in whatever state, is refused."""
    db.execute(_INSERT_HOLD, (*hold_columns(hold), now + lease, owner))
    if not db.connection.changes():
        raise HoldError(f"request {hold.id} has a hold already")


def extend(db: apsw.Cursor, hold: Hold) -> None:
    """Put another hold in the place of an open one; its lease stays."""
    rid, *columns = hold_columns(hold)
    db.execute(_EXTEND_HOLD, (*columns, rid))
    if not db.connection.changes():
        raise HoldError(f"request {hold.id} has no open hold to extend")


def abandon(db: apsw.Cursor, rid: str) -> None:
    """End a hold that its caller never received: nothing can have been dispatched under it, and no row is kept."""
    db.execute("UPDATE hold SET state = ? WHERE rid = ? AND state = 'held'", (TRANSITIONS["held", "release"].to, rid))


def finish(db: apsw.Cursor, now: int, event: Event, row: LedgerRow) -> bool:
    """Apply one event to a hold, and keep its row; False where the table of states knows no such step."""
    step = TRANSITIONS["held", event]
    # Nearly every hold is open and in the row's currency: try that first, and look only when it is not so.
    db.execute(_END_HOLD, (step.to, row.id, row.currency))
    if not db.connection.changes():
        return _finish_late(db, now, event, row)
    if step.entry is not None:
        db.execute(_FIRST_ENTRY, (row.id, step.entry, row.nano, row.currency, _source(step.entry, row), now))
    db.execute(_WRITE_REQUEST, request_columns(row))
    return True


def _finish_late(db: apsw.Cursor, now: int, event: Event, row: LedgerRow) -> bool:
    """`finish` for a hold that is not open, or that the row contradicts."""
    found = db.execute("SELECT state, currency FROM hold WHERE rid = ?", (row.id,)).get
    if found is None:
        raise HoldError(f"request {row.id} has no hold")
    state, currency = found
    step = TRANSITIONS.get((state, event))
    if step is None:
        return False
    if currency != row.currency:
        raise HoldError(f"request {row.id} is held in {currency} and cannot be charged in {row.currency}")
    db.execute("UPDATE hold SET state = ? WHERE rid = ?", (step.to, row.id))
    if step.entry is not None:
        _append(db, now, step.entry, row)
    db.execute(_WRITE_REQUEST, request_columns(row))
    return True


def release_open(db: apsw.Cursor, now: int, row: LedgerRow) -> bool:
    """Release a hold that is still open; False (and no effect) when it is not: a late release moves money."""
    state = db.execute("SELECT state FROM hold WHERE rid = ?", (row.id,)).get
    return state in (None, "held") and finish(db, now, "release", row)


def renew(db: apsw.Cursor, now: int, ids: Collection[str], lease: int) -> int:
    """Give those of these holds that are open a new lease; the number of them."""
    db.execute(_RENEW, (now + lease, _json(ids).decode()))
    return db.connection.changes()


def reap(db: apsw.Cursor, now: int) -> int:
    """Expire open holds whose lease is over, at most REAP of them: each is charged what it was expected to cost."""
    overdue = db.execute(_OVERDUE, (now, REAP)).fetchall()
    for columns in overdue:
        finish(db, now, "expire", _expired(columns, now))
    return len(overdue)


def _append(db: apsw.Cursor, now: int, kind: EntryKind, row: LedgerRow) -> None:
    """Append the entry that makes the request's entries sum to row.nano."""
    last, sum_before = db.execute("SELECT coalesce(max(seq), 0), coalesce(sum(nano), 0) FROM entry WHERE rid = ?", (row.id,)).get
    entry = (row.id, last + 1, kind, row.nano - sum_before, row.currency, _source(kind, row), now)
    db.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?)", entry)


def _source(kind: EntryKind, row: LedgerRow) -> str:
    if kind == "expire":
        return "estimate"
    if row.usage is None:
        return "none"
    return "reported" if row.usage.reported else "counted"


def _expired(columns: tuple[Any, ...], now: int) -> LedgerRow:
    """The row of a request of which only its hold is known: the gateway died, or lost it, while it ran."""
    rid, _nano, currency, expected, worst, team, key, route, host, model, card, policies, started = columns
    return LedgerRow(
        id=rid,
        team=team,
        key=key,
        route=route,
        host=host,
        model=model,
        contract="",
        edits=(),
        usage=None,
        currency=currency,
        nano=expected,
        parts=None,
        card=card,
        window="",
        policies=policies,
        started=instant(started),
        ended=instant(now),
        status="gateway_error",
        stopped="expired",
        attempts=(Attempt(host, model, "gateway_error", "possible", expected),),
        expected_nano=expected,
        worst_nano=worst,
    )
