"""Authentication: the bytes of a key become a Caller, or a 401 that repeats nothing of them.

Only HMAC-SHA256(pepper, key) is kept and looked up, so neither memory, nor a log, nor the time of a comparison tells a key.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path

from pydantic import SecretStr

from gateway.errors import InvalidKey, InvalidRequest
from gateway.front.guard import Headers
from gateway.request import Caller

LONGEST = 512
# Bytes that SHA-256 takes at once.
BLOCK = 64


class Keys:
    """The keys of a gateway without an admin; from (team, key) pairs of the settings."""

    def __init__(self, pairs: Iterable[tuple[str, SecretStr]], pepper: bytes) -> None:
        # Copies of the two hashes that have taken the pepper cost a third of a new HMAC each time.
        padded = hashlib.sha256(pepper).digest() if len(pepper) > BLOCK else pepper
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded.ljust(BLOCK, b"\0")))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded.ljust(BLOCK, b"\0")))
        self._callers: dict[bytes, Caller] = {}
        for team, key in pairs:
            digest = self._digest(key.get_secret_value().encode())
            self._callers[digest] = Caller(team, f"{team}-{digest.hex()[:6]}")

    def authenticate(self, headers: Headers) -> Caller:
        """Who sent these headers; raises InvalidKey, or InvalidRequest for two different keys."""
        caller = self._callers.get(self._digest(presented(headers)))
        if caller is None:
            raise InvalidKey("This key is not known here.")
        return caller

    def _digest(self, key: bytes) -> bytes:
        """HMAC-SHA256(pepper, key) by RFC 2104."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(key)
        outer.update(inner.digest())
        return outer.digest()


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
    if configured is not None:
        return configured.get_secret_value().encode()
    path = data / "key-pepper"
    if not path.exists():
        _create(path)
    return path.read_bytes().strip()


def _create(path: Path) -> None:
    """Write a new pepper whole or not at all; of two processes that start together, the first one's stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)  # created with mode 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        os.link(name, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(name)
