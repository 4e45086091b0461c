"""Gossip: small notes that replicas tell each other, many at a time. Each is worth a little knowledge, and none is waited for.

What is said within a moment goes out as one message. What cannot be sent is lost, and so is a note that is too large: whoever
missed it knows less, and nothing else happens.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections.abc import Callable
from secrets import token_hex
from typing import Final

from msgspec import MsgspecError

# Seconds for which notes are gathered, and what is sent at once however soon it comes together: notes, and bytes of them.
MOMENT: Final = 0.05
TOGETHER: Final = 64
BYTES: Final = 64 * 1024
# Bytes of one note: the digests of a prompt of 64 MB; that of an ordinary one takes some hundred.
LARGEST: Final = 64 * 1024


class Gossip:
    """One subject in one process. `tell` sends a message to every replica, `heard` takes each note of the others, or cannot read it.

    Call `say` from the event loop only. A message is text, since Redis is read as text here: who sends it, and the notes in base64.
    """

    def __init__(self, heard: Callable[[bytes], None]) -> None:
        self._heard = heard
        self.tell: Callable[[bytes], None] = lambda message: None
        self._me = token_hex(8)
        self._waiting: list[bytes] = []
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None

    def say(self, note: bytes) -> None:
        """Tell the others, in a moment."""
        if len(note) > LARGEST:
            return
        self._waiting.append(note)
        self._size += len(note)
        if len(self._waiting) >= TOGETHER or self._size >= BYTES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(MOMENT, self.flush)

    def flush(self) -> None:
        """Tell what waits now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            notes, self._waiting, self._size = self._waiting, [], 0
            self.tell(self._me.encode() + b":" + b",".join(map(b64encode, notes)))

    def hear(self, message: str | bytes) -> None:
        """Take in what a replica said; what this one said itself, and what nobody can have said, is ignored."""
        text = message.decode("latin-1") if isinstance(message, bytes) else message
        sender, colon, notes = text.partition(":")
        if not colon or sender == self._me or len(notes) > 2 * (LARGEST + BYTES):
            return
        for note in notes.split(",")[:TOGETHER]:
            try:
                self._heard(b64decode(note, validate=True))
            except (ValueError, MsgspecError):
                continue
