"""Entries in Redis, which all replicas share. Redis sees sealed values under names that tell nothing.

A connection of their own: values are larger than what limits ask for, and must neither delay nor fail them.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gateway.recall.entries import AGE, CLAIMED, OVERHEAD, ROOM, Entry
from gateway.shared.link import Down, Link, Outcome, Watcher, script

# Bytes in one call, so that none takes long.
TOGETHER: Final = 512 << 10


class Calls:
    """A watcher of calls alone: whether Redis is up is told by those on whom requests depend."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def redis_call(self, op: str, outcome: Outcome) -> None:
        self._watcher.redis_call(op, outcome)

    def redis_up(self, up: bool) -> None:
        return None


class RedisEntries:
    """`now` (seconds) stands in for the server's clock in tests."""

    def __init__(self, link: Link, age: float = AGE, room: int = ROOM, now: Callable[[], float] | None = None) -> None:
        self._link = link
        self._age = round(age * 1000)
        self._room = room
        self._now = now
        self._keys = [f"faregate:{{recall}}:{name}" for name in ("values", "ages", "size")]

    async def start(self) -> None:
        await self._link.start()

    async def close(self) -> None:
        # Its answer comes after all that was sent before it.
        await self.get([])
        await self._link.close()

    async def put(self, entries: Sequence[Entry]) -> None:
        """Waits for nothing: calls keep their order, so whoever asks next finds it."""
        words: list[str] = []
        size = 0
        for entry in entries:
            words += [_text(entry.name), _text(entry.value), "1" if entry.single else ""]
            size += len(entry.value)
            if size > TOGETHER:
                self._keep(words)
                words, size = [], 0
        if words:
            self._keep(words)

    def _keep(self, words: list[str]) -> None:
        self._link.post("recall_keep", script("recall_keep"), self._keys, self._time, self._age, self._room, OVERHEAD, *words)

    async def get(self, names: Sequence[bytes]) -> Mapping[bytes, bytes]:
        try:
            values = await self._link.call("recall_find", script("recall_find"), self._keys[:2], self._time, self._age, *map(_text, names))
        except Down:
            return {}
        return {name: _bytes(value) for name, value in zip(names, values, strict=True) if value}

    @property
    def _time(self) -> int | str:
        return "" if self._now is None else round(self._now() * 1000)


def _text(value: bytes) -> str:
    """Redis is read as text here."""
    return b64encode(value).decode()


def _bytes(text: str) -> bytes:
    return CLAIMED if text == CLAIMED.decode() else b64decode(text)
