"""The table `budget`: its rows are read, changed by `balances` and written back within one transaction."""

from __future__ import annotations

from typing import Any, Final

import apsw

from gateway.ledger.balances import Balance, Name, name_of, opened
from gateway.ledger.columns import instant, microseconds
from gateway.outcome import BudgetState, Claim

_NAME: Final = "team, budget, key, period, currency"
_COLUMNS: Final = "lim, ceiling, resets_at, spent, held, peak, overrun, ver"
_WHICH: Final = "team = ? AND budget = ? AND key = ? AND period = ? AND currency = ?"
_READ = f"SELECT {_COLUMNS} FROM budget WHERE {_WHICH}"
_WRITE = f"UPDATE budget SET ({_COLUMNS}) = ({', '.join('?' * 8)}) WHERE {_WHICH}"
_MAKE = f"INSERT INTO budget ({_COLUMNS}, {_NAME}) VALUES ({', '.join('?' * 13)})"
_OPEN = f"SELECT {_NAME}, {_COLUMNS} FROM budget WHERE (resets_at IS NULL OR resets_at > ?) AND team = coalesce(?, team)"
# The largest limit that a column takes, some nine billion units of a currency.
_LARGEST: Final = 2**63 - 1


def limited(db: apsw.Cursor, claim: Claim) -> Balance:
    """The budget that a new hold claims, with the limit that it brings; not written yet, and new where nobody has claimed it."""
    found = _find(db, name_of(claim))
    balance = opened(claim) if found is None else found
    balance.limit_to(min(claim.limit, _LARGEST), claim.resets_at)
    return balance


def read(db: apsw.Cursor, name: Name) -> Balance:
    """A budget that has been claimed."""
    found = _find(db, name)
    assert found is not None, "the budgets of a hold are in the ledger"
    return found


def write(db: apsw.Cursor, name: Name, balance: Balance) -> None:
    resets_at = None if balance.resets_at is None else microseconds(balance.resets_at)
    moved = (balance.spent, balance.held, balance.peak, balance.overrun, balance.ver)
    db.execute(_MAKE if balance.ver == 1 else _WRITE, (balance.lim, balance.ceiling, resets_at, *moved, *name))


def states(db: apsw.Connection, at: int, team: str | None) -> list[BudgetState]:
    """Every budget whose period is not over at an instant, sorted by team, budget and key."""
    rows = db.execute(f"{_OPEN} ORDER BY team, budget, key, period", (at, team))
    return [_balance(row[5:]).state(row[:5]) for row in rows]


def _find(db: apsw.Cursor, name: Name) -> Balance | None:
    row = db.execute(_READ, name).get
    return None if row is None else _balance(row)


def _balance(row: tuple[Any, ...]) -> Balance:
    lim, ceiling, resets_at, *moved = row
    return Balance(lim, ceiling, None if resets_at is None else instant(resets_at), *moved)
