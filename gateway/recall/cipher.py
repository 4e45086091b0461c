"""Cipher: reasoning as it is stored: pressed together, then sealed with AES-256-GCM under the name that it is stored by."""

from __future__ import annotations

import zlib
from hashlib import blake2b
from os import urandom
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE: Final = 12
# A shorter text gains nothing by being pressed.
_SHORT: Final = 256
# The longest text that a sealed value may become again.
LONGEST: Final = 4 << 20
_PLAIN, _PRESSED = b"\0", b"\1"


def derived(secret: bytes, purpose: bytes) -> bytes:
    """256 bits of this secret's own for one purpose (at most 16 bytes)."""
    return blake2b(blake2b(secret).digest(), key=b"faregate recall", digest_size=32, person=purpose).digest()


class Cipher:
    """One key of 256 bits. A value opens only under the name (and in the place) that it was sealed for."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, name: bytes, text: str) -> bytes:
        data = text.encode("utf-8", "surrogatepass")
        packed = _PLAIN + data if len(data) < _SHORT else _PRESSED + zlib.compress(data, 1)
        nonce = urandom(_NONCE)
        return nonce + self._aead.encrypt(nonce, packed, name)

    def open(self, name: bytes, value: bytes) -> str | None:
        """The text, or None for what was sealed under another key or name, or has been changed."""
        try:
            packed = self._aead.decrypt(value[:_NONCE], value[_NONCE:], name)
        except (InvalidTag, ValueError):
            return None
        data = packed[1:]
        if packed[:1] == _PRESSED:
            data = zlib.decompressobj().decompress(data, LONGEST)
        return data.decode("utf-8", "surrogatepass")
