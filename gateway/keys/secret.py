"""What a key is made of, and how it is kept: only HMAC-SHA256(pepper, key) is, so no file and no dump tells a key."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tempfile
from pathlib import Path
from typing import Final

from gateway.ledger.opening import sync_folder

# What every key begins with, so that people and scanners know one when they see it.
MARK: Final = "fg-"
_RANDOM_BYTES: Final = 32
_SHOWN: Final = len(MARK) + 6
_KEY: Final = re.compile(r"fg-[A-Za-z0-9_-]{43}")
# Bytes that SHA-256 takes at once.
_BLOCK: Final = 64
# Two peppers are told apart by what they make of it. No key holds a space.
_CHECKED: Final = b"faregate key pepper"
_TEAM: Final = b"faregate team "
_PSEUDONYM: Final = 32


class Hasher:
    """HMAC-SHA256 under one pepper, by RFC 2104."""

    def __init__(self, pepper: bytes) -> None:
        # Copies of the two hashes that have taken the pepper cost a third of a new HMAC each time.
        padded = hashlib.sha256(pepper).digest() if len(pepper) > _BLOCK else pepper
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded.ljust(_BLOCK, b"\0")))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded.ljust(_BLOCK, b"\0")))

    def digest(self, key: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(key)
        outer.update(inner.digest())
        return outer.digest()

    @property
    def check(self) -> bytes:
        """The same for the same pepper, and of no use for anything else."""
        return self.digest(_CHECKED)


def new_key() -> str:
    """256 random bits, as they are shown once: `fg-` and 43 characters of base64url."""
    return MARK + secrets.token_urlsafe(_RANDOM_BYTES)


def is_key(text: str) -> bool:
    """Whether this looks like a whole key: then it is not to be repeated."""
    return _KEY.fullmatch(text) is not None


def prefix_of(key: str) -> str:
    """The part of a key by which people may know it: 36 of its 256 random bits."""
    return key[:_SHOWN]


def name_of(team: str, digest: bytes) -> str:
    """What ledger and receipts call a key that has no name of its own."""
    return f"{team}-{digest.hex()[:6]}"


def pseudonym(pepper: bytes, team: str) -> str:
    """What others may know a team by: always the same under one pepper, and of letters and digits alone."""
    return Hasher(pepper).digest(_TEAM + team.encode()).hex()[:_PSEUDONYM]


def stored_pepper(data: Path) -> bytes:
    """The pepper in the data folder; made there (mode 0600) on first use."""
    return stored_secret(data / "key-pepper")


def stored_secret(path: Path) -> bytes:
    """The secret in this file; made there (256 random bits as text, mode 0600) on first use."""
    if not path.exists():
        _create(path)
    return path.read_bytes().strip()


def _create(path: Path) -> None:
    """Write a new secret whole or not at all; of two processes that start together, the first one's stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)  # created with mode 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            # What is stored depends on it: a power cut must not take it and leave that.
            os.fsync(file.fileno())
        os.link(name, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(name)
    sync_folder(path.parent)
