"""What the embedded ledger writes: each function is one operation inside a transaction of its caller's.

`now` is the database's clock in microseconds, the only clock that leases know. An operation raises HoldError before its
first write or not at all. Which event leads where is the table in `port`; nothing here decides it again.
Operations share one cursor, because making one costs as much as a small statement: each reads its answers to the end.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import apsw
from msgspec.json import Encoder

from gateway.errors import AlreadyDone, IdempotencyMismatch, InFlight
from gateway.ledger import budget_rows, gone
from gateway.ledger.balances import Balance, Part, first_grant, next_grant, part_of, stretched
from gateway.ledger.columns import REQUEST, hold_columns, instant, lines_of, lines_text, parts_of, parts_text, request_columns, shares_text
from gateway.ledger.port import TRANSITIONS, EntryKind, Event, HoldError
from gateway.outcome import Attempt, Grant, Hold, Idempotency, LedgerRow

REAP: Final = 200

_HOLD = "nano, currency, expected, worst, team, key, route, host, model, card, policies, started"
_MARKS = ", ".join("?" * 13)
# Most holds have neither claims nor an Idempotency-Key: their columns are left out, which costs nothing.
_INSERT_HOLD = f"INSERT INTO hold (rid, {_HOLD}, state, expires, owner) VALUES ({_MARKS}, 'held', ?, ?) ON CONFLICT (rid) DO NOTHING"
_INSERT_FULL = f"INSERT INTO hold (rid, {_HOLD}, state, expires, owner, claims, idem, fingerprint) VALUES ({_MARKS}, 'held', ?, ?, ?, ?, ?)"
_EXTEND_HOLD = f"UPDATE hold SET ({_HOLD}, attempts) = ({', '.join('?' * 13)}) WHERE rid = ? AND state = 'held' AND claims IS NULL"
_STRETCH_HOLD = f"UPDATE hold SET ({_HOLD}, claims, attempts) = ({', '.join('?' * 14)}) WHERE rid = ?"
_END_HOLD = "UPDATE hold SET state = ? WHERE rid = ? AND state = 'held' AND currency = ? AND claims IS NULL"
_FIRST_ENTRY = "INSERT INTO entry VALUES (?, 1, ?, ?, ?, ?, ?, ?)"
# Without the names of its columns, which apsw would read again for each row.
_WRITE_REQUEST = f"INSERT OR REPLACE INTO request VALUES ({', '.join('?' * len(REQUEST))})"
# One statement for all, each found by its id, in the place of one statement for each.
_RENEW = "UPDATE hold SET expires = ? WHERE state = 'held' AND rid IN (SELECT value FROM json_each(?))"
# The index has the open holds only: without it this would read every hold that ever was.
_OVERDUE = (
    f"SELECT rid, {_HOLD}, claims, attempts FROM hold INDEXED BY open_hold WHERE state = 'held' AND expires <= ? ORDER BY expires LIMIT ?"
)
_json = Encoder().encode


def hold(db: apsw.Cursor, now: int, hold: Hold, owner: str, lease: int, *, forced: bool = False) -> Grant:
    """Keep a new hold until `lease` microseconds from now, from all its budgets or from none.

    The same open hold from the same owner again is the answer that was lost; any other id that is known is refused. `forced`: the
    request has been let through already, so nothing refuses it.
    """
    # One that went on without the store may be as old as the archive.
    if forced and (archived := gone.find(db, hold.id)) is not None:
        return Grant(archived.nano)
    if hold.claims or hold.idempotency:
        return _hold_full(db, now, hold, owner, lease, forced)
    db.execute(_INSERT_HOLD, (*hold_columns(hold), now + lease, owner))
    if not db.connection.changes():
        return _made_before(db, hold, owner, forced)
    return Grant(hold.nano)


def _hold_full(db: apsw.Cursor, now: int, hold: Hold, owner: str, lease: int, forced: bool) -> Grant:
    if db.execute("SELECT 1 FROM hold WHERE rid = ?", (hold.id,)).get:
        return _made_before(db, hold, owner, forced)
    idempotency, released = _claim_key(db, hold, forced)
    balances = [budget_rows.limited(db, claim) for claim in hold.claims]
    nano = hold.nano if forced else first_grant(hold, balances)
    # Nothing has been written so far.
    if released is not None:
        db.execute("UPDATE hold SET idem = NULL WHERE rid = ?", (released,))
        gone.give_key_back(db, released)
    parts = [part_of(claim, claim.cost(nano)) for claim in hold.claims]
    grant = _take(db, nano, [0] * len(parts), parts, balances)
    rid, _nano, *columns = hold_columns(hold)
    digests = (idempotency.key, idempotency.body) if idempotency else (None, None)
    db.execute(_INSERT_FULL, (rid, nano, *columns, now + lease, owner, parts_text(parts), *digests))
    return grant


def _take(db: apsw.Cursor, nano: int, before: Sequence[int], parts: Sequence[Part], balances: Sequence[Balance]) -> Grant:
    """Each budget has its part in the place of what it had `before`."""
    states = []
    for had, part, balance in zip(before, parts, balances, strict=True):
        name = part.name
        balance.take(had, part.held)
        budget_rows.write(db, name, balance)
        states.append(balance.state(name))
    return Grant(nano, tuple(states))


def _made_before(db: apsw.Cursor, hold: Hold, owner: str, forced: bool) -> Grant:
    """What a known id was granted, where it is the same request of the same process; else HoldError."""
    state, nano, maker, claims = db.execute("SELECT state, nano, owner, claims FROM hold WHERE rid = ?", (hold.id,)).get
    if not forced and (state != "held" or maker != owner):
        raise HoldError(f"request {hold.id} has a hold already")
    return Grant(nano, tuple(budget_rows.read(db, part.name).state(part.name) for part in parts_of(claims)))


def _claim_key(db: apsw.Cursor, hold: Hold, forced: bool) -> tuple[Idempotency | None, str | None]:
    """What the hold keeps of its Idempotency-Key, and the id of the released request that gives the key back.

    Refuses where the request with this key cost something, or still may; `forced` then goes without the key.
    """
    idempotency = hold.idempotency
    find = "SELECT rid, state, fingerprint FROM hold WHERE idem = ?"
    found = (db.execute(find, (idempotency.key,)).get or gone.with_key(db, idempotency.key)) if idempotency else None
    if idempotency is None or found is None:
        return idempotency, None
    rid, state, fingerprint = found
    if state == "released" and fingerprint == idempotency.body:
        return idempotency, str(rid)
    if forced:
        return None, None
    if fingerprint != idempotency.body:
        raise IdempotencyMismatch("This Idempotency-Key was used for another body. Remedy: use a new key for a new request.")
    if state == "held":
        raise InFlight("The request with this Idempotency-Key is on its way.", retry_after=1)
    raise AlreadyDone(f"The request with this Idempotency-Key was answered as {rid}, and charged.", details={"id": rid})


def extend(db: apsw.Cursor, hold: Hold) -> Grant:
    """Put another hold in the place of an open one, as far as its budgets grant it; its lease stays."""
    if hold.claims:
        return _stretch(db, hold)
    rid, *columns = hold_columns(hold)
    db.execute(_EXTEND_HOLD, (*columns, lines_text(hold.attempts), rid))
    if not db.connection.changes():
        raise HoldError(f"request {hold.id} has no open hold without claims to extend")
    return Grant(hold.nano)


def _stretch(db: apsw.Cursor, hold: Hold) -> Grant:
    found = db.execute("SELECT state, claims FROM hold WHERE rid = ?", (hold.id,)).get
    if found is None or found[0] != "held":
        raise HoldError(f"request {hold.id} has no open hold to extend")
    before = parts_of(found[1])
    balances = [budget_rows.read(db, part.name) for part in before]
    nano = next_grant(hold, before, balances)
    parts = [part_of(claim, claim.cost(nano)) for claim in hold.claims]
    grant = _take(db, nano, [part.held for part in before], parts, balances)
    rid, _nano, *columns = hold_columns(hold)
    db.execute(_STRETCH_HOLD, (nano, *columns, parts_text(parts), lines_text(hold.attempts), rid))
    return grant


def abandon(db: apsw.Cursor, rid: str) -> None:
    """End a hold that its caller never received: nothing can have been dispatched under it, and no row is kept."""
    step = TRANSITIONS["held", "release"]
    found = db.execute("SELECT rid, claims FROM hold WHERE rid = ? AND state = 'held'", (rid,)).get
    if found is not None:
        db.execute("UPDATE hold SET state = ? WHERE rid = ?", (step.to, rid))
        _give_back(db, parts_of(found[1]), None)


def finish(db: apsw.Cursor, now: int, event: Event, row: LedgerRow) -> bool:
    """Apply one event to a hold, and keep its row; False where the table of states knows no such step."""
    step = TRANSITIONS["held", event]
    # Most holds are open, in the row's currency and without claims: try that first, and look only when it is not so.
    db.execute(_END_HOLD, (step.to, row.id, row.currency))
    if not db.connection.changes():
        return _finish_found(db, now, event, row)
    if step.entry is not None:
        _enter(db, now, step.entry, row, ())
    db.execute(_WRITE_REQUEST, request_columns(row))
    return True


def _give_back(db: apsw.Cursor, parts: Sequence[Part], nano: int | None) -> None:
    """End what a hold had of its budgets, and charge them; None: nothing was billed."""
    for part in parts:
        name = part.name
        balance = budget_rows.read(db, name)
        balance.end(part.held, 0 if nano is None else part.cost(nano))
        budget_rows.write(db, name, balance)


def _finish_found(db: apsw.Cursor, now: int, event: Event, row: LedgerRow) -> bool:
    """`finish` for a hold that has claims, is not open, or that the row contradicts."""
    found = db.execute("SELECT state, currency, claims FROM hold WHERE rid = ?", (row.id,)).get
    if found is None:
        return gone.finish(db, now, event, row)
    state, currency, claims = found
    step = TRANSITIONS.get((state, event))
    if step is None:
        return False
    if currency != row.currency:
        raise HoldError(f"request {row.id} is held in {currency} and cannot be charged in {row.currency}")
    db.execute("UPDATE hold SET state = ? WHERE rid = ?", (step.to, row.id))
    parts = parts_of(claims)
    if state == "held":
        _give_back(db, parts, None if step.entry is None else row.nano)
    if step.entry is not None:
        (_adjust if step.entry == "adjust" else _enter)(db, now, step.entry, row, parts)
    db.execute(_WRITE_REQUEST, request_columns(row))
    return True


def _enter(db: apsw.Cursor, now: int, kind: EntryKind, row: LedgerRow, parts: Sequence[Part]) -> None:
    """The first entry of a request whose hold was open."""
    shares = shares_text([part.share(part.cost(row.nano)) for part in parts]) if parts else None
    db.execute(_FIRST_ENTRY, (row.id, kind, row.nano, row.currency, _source(kind, row), now, shares))


def release_open(db: apsw.Cursor, now: int, row: LedgerRow) -> bool:
    """Release a hold that is still open; False (and no effect) when it is not: a late release moves money."""
    state = db.execute("SELECT state FROM hold WHERE rid = ?", (row.id,)).get
    return state == "held" and finish(db, now, "release", row)


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


def _adjust(db: apsw.Cursor, now: int, kind: EntryKind, row: LedgerRow, parts: Sequence[Part]) -> None:
    """Append the entry that makes the request's entries sum to row.nano, and their shares to the cost of that."""
    last, before = db.execute("SELECT coalesce(max(seq), 0), coalesce(sum(nano), 0) FROM entry WHERE rid = ?", (row.id,)).get
    # Rounded up once for the whole charge, not for each of its entries.
    shares = [part.share(part.cost(row.nano) - part.cost(before)) for part in parts]
    for part, share in zip(parts, shares, strict=True):
        balance = budget_rows.read(db, part.name)
        balance.correct(share.cost)
        budget_rows.write(db, part.name, balance)
    entry = (row.id, last + 1, kind, row.nano - before, row.currency, _source(kind, row), now, shares_text(shares))
    db.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?)", entry)


def _source(kind: EntryKind, row: LedgerRow) -> str:
    if kind == "expire":
        return "estimate"
    if row.usage is None:
        return "none"
    return "reported" if row.usage.reported else "counted"


def _expired(columns: tuple[Any, ...], now: int) -> LedgerRow:
    """The row of a request of which only its hold is known: the gateway died, or lost it, while it ran."""
    rid, nano, currency, expected, worst, team, key, route, host, model, card, policies, started, claims, attempts = columns
    # A hold that was stretched followed its stream: it is nearer to the truth than what was expected before.
    charge = nano if stretched(nano, worst, claims) else expected
    earlier = lines_of(attempts)
    last = charge - sum([attempt.nano for attempt in earlier])
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
        nano=charge,
        parts=None,
        card=card,
        window="",
        policies=policies,
        started=instant(started),
        ended=instant(now),
        status="gateway_error",
        stopped="expired",
        attempts=(*earlier, Attempt(host, model, "gateway_error", "possible", last)),
        expected_nano=expected,
        worst_nano=worst,
    )
