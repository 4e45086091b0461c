"""Entries: what a store of sealed values promises, whichever it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

# Seconds for which an entry that nobody asks for is kept, and the bytes of all entries together.
AGE: Final = 72 * 3600
ROOM: Final = 256 << 20
# Bytes of one value.
LARGEST: Final = 256 << 10
# What an entry takes beside its value.
OVERHEAD: Final = 128
# A single name that two answers claimed: it leads to none from then on.
CLAIMED: Final = b"*"


class Entry(NamedTuple):
    """A value by its name. `single`: another value under the same name makes it CLAIMED."""

    name: bytes
    value: bytes
    single: bool = False


class Entries(Protocol):
    """What cannot be reached is empty and takes nothing. The least recently used go first."""

    async def start(self) -> None: ...

    async def put(self, entries: Sequence[Entry]) -> None: ...

    async def get(self, names: Sequence[bytes]) -> Mapping[bytes, bytes]: ...

    async def close(self) -> None: ...
