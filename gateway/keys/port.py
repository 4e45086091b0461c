"""What a store of keys promises, whatever database keeps it.

A key is never changed but at its end: it expires, it is revoked, or another one replaces it. No row is ever deleted, so a
name that stands in the ledger says for ever whose key it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

from gateway.request import OwnBudget

State = Literal["active", "expired", "revoked"]


class Key(Struct, frozen=True):
    """One key without anything secret. `name` is what ledger and receipts call it, and its successors have the same.

    `expires` is the first instant at which it is refused. `replaced_by` is the id of its successor.
    """

    id: str
    prefix: str
    name: str
    team: str
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None
    replaced_by: str | None = None
    budget: OwnBudget | None = None

    def state(self, at: datetime) -> State:
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= at else "active"


class Table(NamedTuple):
    """Every key by its digest, as of one change of the table."""

    version: int
    keys: Mapping[bytes, Key]


class KeyProblem(ValueError):
    """The operation contradicts the table of keys: one line with the remedy. Nothing was written."""


class UnknownKey(KeyProblem):
    """No key has this id, prefix or name."""


class NameTaken(KeyProblem):
    """Another key has this name."""

    def __init__(self) -> None:
        super().__init__("a key of this name exists, and its spending stands under it. Remedy: choose another name, or rotate that key.")


class PepperDiffers(KeyProblem):
    """The digests in the table were made with another pepper."""

    def __init__(self) -> None:
        super().__init__(
            "the stored keys were made with another pepper, so none of them would be known. Remedy: set FAREGATE_KEY_PEPPER to "
            "the one that the other gateways have, or FAREGATE_DATA to the folder whose key-pepper it is."
        )


class KeyStore(Protocol):
    """The table of keys in one database. `check` stands for the pepper, and every method compares it.

    All may raise PepperDiffers, and LedgerUnavailable when the database cannot be asked: then it is not known whether a
    change took effect. A change is durable through power loss when the method returns.
    """

    async def start(self) -> None:
        """Open it, and make its tables where there are none. A table without a key takes a new pepper."""
        ...

    async def close(self) -> None: ...

    async def version(self) -> int:
        """A number that every change of the table raises: cheap to ask."""
        ...

    async def read(self) -> Table: ...

    async def add(self, digest: bytes, key: Key) -> None:
        """Keep a new key; NameTaken where its name is in use."""
        ...

    async def replace(self, old: Key, digest: bytes, key: Key) -> None:
        """Keep `key` as the successor of `old`, whose end is as its record now says; KeyProblem where it has a successor."""
        ...

    async def revoke(self, ids: Collection[str], at: datetime) -> None:
        """End these keys. One that is revoked keeps the instant at which it was."""
        ...
