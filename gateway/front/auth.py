"""Authentication: the bytes of a key become a Caller, or a 401 that repeats nothing of them.

Only HMAC-SHA256(pepper, key) is kept and looked up, so neither memory, nor a log, nor the time of a comparison tells a key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import SecretStr

from gateway.clock import Clock, instant_text
from gateway.errors import InvalidKey, InvalidRequest
from gateway.front.guard import Headers
from gateway.keys.port import Key
from gateway.keys.secret import Hasher, name_of, stored_pepper
from gateway.request import Caller
from gateway.timekeeping import RealClock

LONGEST = 512


class Known(NamedTuple):
    """Who is known by which digest: for ever, until an instant, and no more (with what to tell who still sends it)."""

    always: dict[bytes, Caller]
    until: dict[bytes, tuple[datetime, Caller]]
    ended: dict[bytes, str]


class Keys:
    """The keys in force: (team, key) pairs of the settings, and those of the store. A key in both is the settings'."""

    def __init__(self, pairs: Iterable[tuple[str, SecretStr]], pepper: bytes, clock: Clock | None = None) -> None:
        self._digest = Hasher(pepper).digest
        self._now = (clock or RealClock()).now
        self._own: dict[bytes, Caller] = {}
        for team, key in pairs:
            digest = self._digest(key.get_secret_value().encode())
            self._own[digest] = Caller(team, name_of(team, digest))
        self.use(self.known({}))

    def known(self, stored: Mapping[bytes, Key]) -> Known:
        """These stored keys, and those of the settings, sorted for looking up; may run in any thread."""
        found = Known({}, {}, {})
        for digest, key in stored.items():
            caller = Caller(key.team, key.name, key.budget)
            if key.revoked is not None:
                found.ended[digest] = "This key was revoked."
            elif key.expires is not None:
                found.until[digest] = key.expires, caller
            else:
                found.always[digest] = caller
        found.always.update(self._own)
        return found

    def use(self, known: Known) -> None:
        """From now on, these are the keys."""
        self._always, self._until, self._ended = known

    def authenticate(self, headers: Headers) -> Caller:
        """Who sent these headers; raises InvalidKey, or InvalidRequest for two different keys."""
        digest = self._digest(presented(headers))
        # Most keys have no end, and cost no more than this.
        return self._always.get(digest) or self._ending(digest)

    def _ending(self, digest: bytes) -> Caller:
        """Who holds a key that ends. Why it has ended is told to nobody but who has the key."""
        until, caller = self._until.get(digest, (None, None))
        if until is None or caller is None:
            raise InvalidKey(self._ended.get(digest, "This key is not known here."))
        if self._now() >= until:
            raise InvalidKey(f"This key expired at {instant_text(until)}.")
        return caller


def presented(headers: Headers) -> bytes:
    """The one key in the request: Bearer, x-api-key or api-key, equal where there are several."""
    key = b""
    authorization = headers.get(b"authorization")
    if authorization is not None:
        scheme, _, value = authorization.strip().partition(b" ")
        if scheme.lower() != b"bearer":
            raise InvalidKey("The Authorization header must be: Bearer KEY.")
        key = value.strip()
    if b"x-api-key" in headers or b"api-key" in headers:
        found = {value for name in (b"x-api-key", b"api-key") if (value := headers.get(name, b"").strip())}
        if authorization is not None:
            found.add(key)
        if len(found) > 1:
            raise InvalidRequest("The headers carry two different keys.")
        key = found.pop() if found else b""
    if not 0 < len(key) <= LONGEST:
        raise InvalidKey("Send a key: Authorization: Bearer KEY, x-api-key or api-key.")
    return key


def pepper_for(configured: SecretStr | None, data: Path) -> bytes:
    """FAREGATE_KEY_PEPPER, or the one in the data folder; made there (mode 0600) on first use."""
    return configured.get_secret_value().encode() if configured is not None else stored_pepper(data)
