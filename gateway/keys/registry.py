"""Making, finding, rotating and revoking keys: what the command line and the admin API share."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace
from pydantic import SecretStr

from gateway.clock import instant_text
from gateway.keys.orders import Order, Rotation, instant_of, later, span
from gateway.keys.port import Key, KeyProblem, KeyStore, NameTaken, Table, UnknownKey
from gateway.keys.secret import Hasher, is_key, name_of, new_key, prefix_of
from gateway.money import decimal_text

log = logging.getLogger("faregate.keys")
# A name that is made of a digest meets one that is in use once in sixteen million.
_TRIES: Final = 5


class Issued(Struct, frozen=True):
    """A key that was made just now, and the only copy of its secret."""

    key: Key
    secret: SecretStr


class Registry:
    """The keys of one store. `now` is the clock by which keys expire."""

    def __init__(self, store: KeyStore, hasher: Hasher, now: Callable[[], datetime]) -> None:
        self.store = store
        self._hasher = hasher
        self._now = now

    async def keys(self, team: str | None = None) -> list[Key]:
        """All of them, the oldest first; also those that have ended."""
        table = await self.store.read()
        return sorted((key for key in table.keys.values() if team in (None, key.team)), key=lambda key: (key.created, key.id))

    def shown(self, key: Key) -> dict[str, Any]:
        return shown(key, self._now())

    async def create(self, order: Order) -> Issued:
        """Make a key. Without a name of its own it is called by its team and six digits of its digest."""
        now = self._now()
        expires = instant_of(order.expires, now) if order.expires else None
        budget = order.budget.budget() if order.budget else None
        for _ in range(_TRIES - 1):
            try:
                return await self._add(Key("", "", order.name or "", order.team, now, expires, budget=budget))
            except NameTaken:
                if order.name:
                    raise
        return await self._add(Key("", "", "", order.team, now, expires, budget=budget))

    async def revoke(self, reference: str) -> list[Key]:
        """End what this id, prefix, name or whole key stands for; those that are ended by it, or the last one if all were before."""
        every = self._find(await self.store.read(), reference)
        found = [key for key in every if key.revoked is None] or every[-1:]
        at = self._now()
        await self.store.revoke([key.id for key in found], at)
        for key in found:
            log.info("key %s (%s) of team %s is revoked", key.id, key.name, key.team)
        return [key if key.revoked else replace(key, revoked=at) for key in found]

    async def rotate(self, reference: str, order: Rotation) -> Issued:
        """Make a successor with the same team, name and budget, so that what was spent stays spent.

        The old key works for the grace, if there is any; else it is revoked. One that has ended may have a successor too.
        """
        now = self._now()
        old = self._current(await self.store.read(), reference)
        issued, digest = self._make(Key("", "", old.name, old.team, now, _expiry(old, order, now), budget=old.budget))
        await self.store.replace(_ended(old, issued.key.id, span(order.grace), now), digest, issued.key)
        log.info("key %s (%s) of team %s is replaced by %s", old.id, old.name, old.team, issued.key.id)
        return issued

    async def _add(self, key: Key) -> Issued:
        issued, digest = self._make(key)
        await self.store.add(digest, issued.key)
        log.info("key %s (%s) of team %s is made", issued.key.id, issued.key.name, issued.key.team)
        return issued

    def _make(self, key: Key) -> tuple[Issued, bytes]:
        secret = new_key()
        digest = self._hasher.digest(secret.encode())
        name = key.name or name_of(key.team, digest)
        return Issued(replace(key, id=f"key-{token_hex(6)}", prefix=prefix_of(secret), name=name), SecretStr(secret)), digest

    def _current(self, table: Table, reference: str) -> Key:
        found = self._find(table, reference)
        current = [key for key in found if key.replaced_by is None]
        if not current:
            raise KeyProblem(f"this key was replaced by {found[0].replaced_by}. Remedy: rotate that one.")
        return current[0]

    def _find(self, table: Table, reference: str) -> list[Key]:
        """A whole key is found by its digest alone; several keys only where they share a name."""
        if is_key(reference):
            key = table.keys.get(self._hasher.digest(reference.encode()))
            found = [key] if key else []
        else:
            found = [key for key in table.keys.values() if reference in (key.id, key.prefix, key.name)]
        if not found:
            raise UnknownKey(f"no stored key has this id, prefix or name.{_nearest(reference, table.keys.values())}")
        if len({key.name for key in found}) > 1:
            raise KeyProblem(f"that stands for several keys. Remedy: name one by its id: {', '.join(sorted(key.id for key in found))}.")
        return sorted(found, key=lambda key: key.created)


def shown(key: Key, at: datetime) -> dict[str, Any]:
    """A key as the command line and the admin API show it: nothing of it is secret."""
    return {
        "id": key.id,
        "name": key.name,
        "team": key.team,
        "prefix": key.prefix,
        "state": key.state(at),
        **{name: instant_text(when) if (when := getattr(key, name)) else None for name in ("created", "expires", "revoked")},
        "replaced_by": key.replaced_by,
        "budget": None
        if key.budget is None
        else {
            "amount": decimal_text(key.budget.nano),
            "currency": key.budget.currency,
            "period": key.budget.period,
            "zone": key.budget.zone,
        },
    }


def _expiry(old: Key, order: Rotation, now: datetime) -> datetime | None:
    if order.expires:
        return instant_of(order.expires, now)
    return later(now, timedelta(seconds=(old.expires - old.created) // timedelta(seconds=1))) if old.expires else None


def _ended(old: Key, successor: str, grace: timedelta, now: datetime) -> Key:
    """The end of a replaced key. Without a grace it does not wait for anybody's clock."""
    if not grace:
        return replace(old, revoked=old.revoked or now, replaced_by=successor)
    until = later(now, grace)
    return replace(old, expires=min(old.expires, until) if old.expires else until, replaced_by=successor)


def _nearest(reference: str, keys: Collection[Key]) -> str:
    near = [] if is_key(reference) else difflib.get_close_matches(reference, {key.name for key in keys}, 1)
    return f" Did you mean {near[0]}?" if near else " `faregate keys list` shows them; those of FAREGATE_KEYS end where they are set."
