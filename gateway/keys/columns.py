"""A key as a row of the table `key`, the same in SQLite and PostgreSQL; instants are microseconds UTC since 1970."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from gateway.keys.port import Key
from gateway.ledger.columns import instant, microseconds
from gateway.request import OwnBudget

COLUMNS: Final = (
    "digest",
    "id",
    "prefix",
    "name",
    "team",
    "created",
    "expires",
    "revoked",
    "replaced_by",
    "budget_nano",
    "budget_currency",
    "budget_period",
    "budget_zone",
)
NAMES: Final = ", ".join(COLUMNS)
# Of the tables; a store refuses those of another one.
SCHEMA_VERSION: Final = 1


def tables(schema: str, blob: str, integer: str) -> Sequence[str]:
    """The statements that make the tables, in the words of one database. `schema` ends in a dot, or is empty."""
    return (
        f"CREATE TABLE IF NOT EXISTS {schema}key (digest {blob} NOT NULL PRIMARY KEY, id TEXT NOT NULL UNIQUE, prefix TEXT NOT NULL,"
        f" name TEXT NOT NULL, team TEXT NOT NULL, created {integer} NOT NULL, expires {integer}, revoked {integer}, replaced_by TEXT,"
        f" budget_nano {integer} CHECK (budget_nano >= 0), budget_currency TEXT, budget_period TEXT, budget_zone TEXT)",
        # A key and its successors share a name, and nobody else has it.
        f"CREATE UNIQUE INDEX IF NOT EXISTS key_name ON {schema}key (name) WHERE replaced_by IS NULL",
        # One row: what these tables are, how often they have changed, and what the pepper of the digests makes of a fixed word.
        f"CREATE TABLE IF NOT EXISTS {schema}key_state (one {integer} NOT NULL PRIMARY KEY CHECK (one = 1),"
        f" schema_version {integer} NOT NULL, changes {integer} NOT NULL, pepper_check {blob} NOT NULL)",
    )


def values(digest: bytes, key: Key) -> tuple[bytes | str | int | None, ...]:
    """A key in the order of COLUMNS."""
    own = key.budget
    return (
        digest,
        key.id,
        key.prefix,
        key.name,
        key.team,
        microseconds(key.created),
        micros(key.expires),
        micros(key.revoked),
        key.replaced_by,
        *((own.nano, own.currency, own.period, own.zone) if own else (None, None, None, None)),
    )


def keys_of(rows: Iterable[Sequence[Any]]) -> dict[bytes, Key]:
    return {bytes(row[0]): _key(*row[1:]) for row in rows}


def _key(
    id: str, prefix: str, name: str, team: str, created: int, expires: int | None, revoked: int | None, replaced_by: str | None, *own: Any
) -> Key:
    return Key(
        id=id,
        prefix=prefix,
        name=name,
        team=team,
        created=instant(created),
        expires=None if expires is None else instant(expires),
        revoked=None if revoked is None else instant(revoked),
        replaced_by=replaced_by,
        budget=None if own[0] is None else OwnBudget(*own),
    )


def micros(at: datetime | None) -> int | None:
    return None if at is None else microseconds(at)
