"""Cipher: reasoning as it is stored: pressed together, then sealed with AES-256-GCM for one team and one name.

Who can write to the store can take away and bring back, and nothing else: what was sealed or signed for one team, or under one name,
is nothing for another.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from hashlib import blake2b
from hmac import compare_digest
from os import urandom
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE: Final = 12
_TAG: Final = 16
# A shorter text gains nothing by being pressed.
_SHORT: Final = 256
# The longest text that a sealed value may become again.
LONGEST: Final = 4 << 20
_PLAIN, _PRESSED = b"\0", b"\1"


def derived(secret: bytes, purpose: bytes) -> bytes:
    """256 bits of this secret's own for one purpose (at most 16 bytes)."""
    return blake2b(blake2b(secret).digest(), key=b"faregate recall", digest_size=32, person=purpose).digest()


class Ciphers:
    """Every team's own cipher under one secret of at most 64 bytes. Any thread may ask."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.of = lru_cache(maxsize=1024)(self._of)

    def _of(self, team: str) -> Cipher:
        return Cipher(self._secret, team.encode())


class Cipher:
    """A team's keys of 256 bits. A value opens, and a pointer leads on, only for the team and under the name that it was made for."""

    def __init__(self, secret: bytes, team: bytes) -> None:
        self._team = team
        self._aead = AESGCM(self._key(secret, b"faregate seal"))
        self._sign = self._key(secret, b"faregate sign")

    def _key(self, secret: bytes, purpose: bytes) -> bytes:
        return blake2b(self._team, key=secret, digest_size=32, person=purpose).digest()

    def _place(self, name: bytes) -> bytes:
        return len(name).to_bytes(4, "big") + name + self._team

    def seal(self, name: bytes, text: str) -> bytes:
        data = text.encode("utf-8", "surrogatepass")
        packed = _PLAIN + data if len(data) < _SHORT else _PRESSED + zlib.compress(data, 1)
        nonce = urandom(_NONCE)
        return nonce + self._aead.encrypt(nonce, packed, self._place(name))

    def open(self, name: bytes, value: bytes) -> str | None:
        """The text, or None for what was sealed for another team or name or under another secret, or has been changed."""
        try:
            packed = self._aead.decrypt(value[:_NONCE], value[_NONCE:], self._place(name))
        except (InvalidTag, ValueError):
            return None
        data = packed[1:]
        if packed[:1] == _PRESSED:
            data = zlib.decompressobj().decompress(data, LONGEST)
        return data.decode("utf-8", "surrogatepass")

    def point(self, name: bytes, target: bytes) -> bytes:
        """What is stored under `name` to lead to `target`, signed; the same for the same."""
        return target + self._tag(name, target)

    def follow(self, name: bytes, pointer: bytes) -> bytes | None:
        """Where a pointer leads; None for one that was made for another team or name or under another secret, or has been changed."""
        target, tag = pointer[:-_TAG], pointer[-_TAG:]
        return target if compare_digest(tag, self._tag(name, target)) else None

    def _tag(self, name: bytes, target: bytes) -> bytes:
        return blake2b(self._place(name) + target, key=self._sign, digest_size=_TAG).digest()
