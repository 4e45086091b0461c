"""Corrections in a ledger: which budgets one counts in and with how much, its columns, and its writing into the embedded ledger."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final, NamedTuple
from zoneinfo import available_timezones

import apsw
import msgspec

from gateway.ledger import budget_rows
from gateway.ledger.balances import Name
from gateway.ledger.columns import instant, microseconds
from gateway.ledger.port import CorrectionError, Rates, Zones
from gateway.outcome import BudgetState, Correction, Counted
from gateway.standings import began

# The columns of a correction as it is given, in the order of its table, which has `seq` before and `claims` and `made` after them.
COLUMNS: Final = "id at team key route host model currency nano cls reason source request".split()
CLASSES: Final = ("", "cache_hit", "cache_miss", "output")
_LARGEST: Final = 2**63 - 1
# No clock goes back by more.
_SHIFT: Final = timedelta(hours=2)
_NAMES: Final = ", ".join(COLUMNS)
_KNOWN: Final = f"SELECT {_NAMES} FROM correction WHERE id = ?"
_KEEP: Final = f"INSERT INTO correction ({_NAMES}, claims, made) VALUES ({', '.join('?' * (len(COLUMNS) + 2))})"
_WITHIN: Final = f"SELECT {_NAMES}, claims FROM correction WHERE at >= ? AND at < ? AND team = coalesce(?, team) ORDER BY at, seq"
_encode = msgspec.json.Encoder().encode
_counted = msgspec.json.Decoder(tuple[Counted, ...]).decode


class Wanted(NamedTuple):
    """What a correction would move in one budget, in nano-units of the budget's currency."""

    name: Name
    nano: int


def columns_of(correction: Correction) -> tuple[Any, ...]:
    """A correction in the order of COLUMNS; CorrectionError where no ledger can keep it."""
    if not correction.id or correction.cls not in CLASSES or abs(correction.nano) > _LARGEST:
        raise CorrectionError(f"correction {correction.id!r} has no id, an unknown class, or an amount beyond nine billion units")
    given = (correction.team, correction.key, correction.route, correction.host, correction.model, correction.currency, correction.nano)
    return (correction.id, microseconds(correction.at), *given, correction.cls, correction.reason, correction.source, correction.request)


def correction_of(columns: Sequence[Any]) -> Correction:
    """What was kept as COLUMNS and `claims`."""
    id, at, team, key, route, host, model, currency, nano, cls, reason, source, request, claims = columns
    counted = _counted(claims) if claims else ()
    return Correction(id, instant(at), team, key, route, host, model, currency, nano, cls, reason, source, request, counted)


def counted_text(counted: Sequence[Counted]) -> str | None:
    return _encode(counted).decode() if counted else None


def known_otherwise(id: str) -> CorrectionError:
    """A known id with the same contents has no effect; with others it is somebody's mistake."""
    return CorrectionError(f"correction {id} is in the ledger with other contents. Remedy: give the new one an id of its own.")


def wanted(correction: Correction, budgets: Iterable[BudgetState], rates: Rates, zones: Zones) -> list[Wanted]:
    """What it would move in each of these budgets of its team that it falls under, rounded up once like any charge."""
    return [Wanted(_name(state), _converted(correction, state, rates)) for state in _covering(correction, budgets, zones)]


def _covering(correction: Correction, budgets: Iterable[BudgetState], zones: Zones) -> list[BudgetState]:
    """Of each budget the period that the instant falls into: the first that ends after it, where that had begun."""
    found: dict[tuple[str, str, str, str], BudgetState] = {}
    for state in budgets:
        if state.key in ("", correction.key) and _covers(state, zones(state), correction.at):
            # A day and a month are two budgets, also where the policies gave the second the name of the first.
            kind = (state.budget, state.key, state.currency, re.sub(r"\d", "0", state.period))
            other = found.get(kind)
            if other is None or _ends(state) < _ends(other):
                found[kind] = state
    return sorted(found.values(), key=_name)


def _covers(state: BudgetState, zone: str | None, at: datetime) -> bool:
    start = began(state, zone)
    if state.resets_at is None or start is None:
        return True
    if zone is None and at < start <= at + _SHIFT:
        # In the zone of a key's own budget, which no file states, clocks may have gone back: it began earlier, where there is such a zone.
        start = min(began(state, one) or start for one in _zones())
    return start <= at < state.resets_at


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _ends(state: BudgetState) -> int:
    return _LARGEST if state.resets_at is None else microseconds(state.resets_at)


def _name(state: BudgetState) -> Name:
    return state.team, state.budget, state.key, state.period, state.currency


def _converted(correction: Correction, state: BudgetState, rates: Rates) -> int:
    rate = rates(correction.currency, state.currency, correction.at)
    if rate is None:
        raise CorrectionError(
            f"correction {correction.id} is in {correction.currency}, budget {state.budget} of {state.team} in {state.currency}, and "
            "policies/rates.yaml has no rate between them at its instant. Remedy: state one there."
        )
    return -(-correction.nano * rate.numerator // rate.denominator)


def correct(db: apsw.Cursor, now: int, correction: Correction, rates: Rates, zones: Zones) -> bool:
    """Append one correction and count it in its budgets; False where it is known."""
    columns = columns_of(correction)
    known = db.execute(_KNOWN, (correction.id,)).get
    if known is not None:
        if known != columns:
            raise known_otherwise(correction.id)
        return False
    states = budget_rows.states(db.connection, columns[1], correction.team) if correction.team else []
    counted = [_count(db, one) for one in wanted(correction, states, rates, zones)]
    db.execute(_KEEP, (*columns, counted_text(counted), now))
    return True


def _count(db: apsw.Cursor, one: Wanted) -> Counted:
    balance = budget_rows.read(db, one.name)
    moved = balance.give_back(one.nano)
    budget_rows.write(db, one.name, balance)
    return Counted(*one.name, moved, one.nano - moved)


def keep_late(db: apsw.Cursor, now: int, correction: Correction) -> None:
    """Append what was learned late of an archived request; its budgets have been charged already."""
    db.execute(_KEEP, (*columns_of(correction), counted_text(correction.counted), now))


def within(db: apsw.Connection, start: datetime, end: datetime, team: str | None) -> list[Correction]:
    """As Ledger.corrections, on a connection to the file."""
    return [correction_of(row) for row in db.execute(_WITHIN, (microseconds(start), microseconds(end), team))]
