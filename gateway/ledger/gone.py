"""Requests that were archived, as the embedded ledger remembers them: none is charged twice, and what is learned late is not lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import apsw
from msgspec import Struct

from gateway.ledger import budget_rows, corrections
from gateway.ledger.balances import Part
from gateway.ledger.columns import parts_of
from gateway.ledger.port import TRANSITIONS, Event, HoldError, State
from gateway.outcome import Correction, Counted, LedgerRow

REASON: Final = "learned after its month was archived"
_FIND: Final = "SELECT state, currency, nano, claims FROM gone WHERE rid = ?"
_LATE: Final = "SELECT coalesce(sum(nano), 0) FROM correction WHERE id IN (?, ?)"


class Gone(Struct, frozen=True):
    """What is known of an archived request; `nano` is what it was charged by now, with what was learned late."""

    state: State
    currency: str
    nano: int
    parts: tuple[Part, ...]


def find(db: apsw.Cursor, rid: str) -> Gone | None:
    row = db.execute(_FIND, (rid,)).get
    if row is None:
        return None
    state, currency, nano, claims = row
    late = db.execute(_LATE, (late_id(rid, "settle"), late_id(rid, "release"))).get
    return Gone(state, currency, nano + late, parts_of(claims))


def with_key(db: apsw.Cursor, idem: str) -> tuple[Any, ...] | None:
    """(rid, state, fingerprint) of the archived request that had this Idempotency-Key."""
    row: tuple[Any, ...] | None = db.execute("SELECT rid, state, fingerprint FROM gone WHERE idem = ?", (idem,)).get
    return row


def give_key_back(db: apsw.Cursor, rid: str) -> None:
    """A key has one request at most, here or archived."""
    db.execute("UPDATE gone SET idem = NULL, fingerprint = NULL WHERE rid = ?", (rid,))


def late_id(rid: str, event: Event) -> str:
    return f"late:{rid}:{event}"


def late_of(event: Event, row: LedgerRow, nano: int, counted: Sequence[Counted]) -> Correction:
    """The correction that carries what was learned late of an archived request."""
    names = (row.team, row.key, row.route, row.host, row.model, row.currency)
    return Correction(late_id(row.id, event), row.ended, *names, nano, "", REASON, "gateway", row.id, tuple(counted))


def finish(db: apsw.Cursor, now: int, event: Event, row: LedgerRow) -> bool:
    """As `operations.finish`, for a request that was archived: the difference is a correction. HoldError where it never had a hold."""
    gone = find(db, row.id)
    if gone is None:
        raise HoldError(f"request {row.id} has no hold")
    step = TRANSITIONS.get((gone.state, event))
    if step is None:
        return False
    if gone.currency != row.currency:
        raise HoldError(f"request {row.id} is held in {gone.currency} and cannot be charged in {row.currency}")
    counted = [_correct(db, part, part.cost(row.nano) - part.cost(gone.nano)) for part in gone.parts]
    corrections.keep_late(db, now, late_of(event, row, row.nano - gone.nano, counted))
    # `nano` stays what the archive has of it.
    db.execute("UPDATE gone SET state = ? WHERE rid = ?", (step.to, row.id))
    return True


def _correct(db: apsw.Cursor, part: Part, cost: int) -> Counted:
    balance = budget_rows.read(db, part.name)
    balance.correct(cost)
    budget_rows.write(db, part.name, balance)
    return Counted(*part.name, cost)
