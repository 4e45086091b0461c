"""The store of reasoning: what a team's clients were given and lost comes back, in its own conversation and in no other.

Keeping is done in batches, a moment after the answer; finding waits for what was kept before it. Only long conversations are read
in a thread: for a short one the change of threads costs more than the work. Whatever goes wrong here is a thing forgotten, and
nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic
from typing import Any, Final, TypeVar

from msgspec import Struct

from gateway.recall.cipher import Cipher, Ciphers, derived
from gateway.recall.entries import LARGEST, Entries, Entry
from gateway.recall.marks import Marker, Marks
from gateway.recall.port import Said
from gateway.request import NOTHING, ChatRequest

log = logging.getLogger(__name__)
T = TypeVar("T")
# Seconds between two batches of answers that are sealed and stored: one that comes after a pause is stored at once.
MOMENT: Final = 0.02
# Seconds that a request waits at most, for a disk that hangs, and for which it is left alone then. Redis has a budget of its own,
# which is shorter.
PATIENCE: Final = 2.0
REST: Final = 30.0
# Characters of one reasoning, and bytes of requests and answers that wait to be stored; what comes beyond is forgotten.
LONGEST: Final = 1 << 20
WAITING: Final = 32 << 20
# Characters that are also kept in memory, where finding costs least.
NEAR: Final = 8 << 20
# Seconds after which it is looked up all the same: what is asked for again counts as used, and stays stored.
NEAR_AGE: Final = 3600
# Seconds that the end of the process waits for what was kept last.
FAREWELL: Final = 3.0
# Messages looked up for one request, the newest first.
MOST: Final = 2000
# Bytes of a request, or of an answer, from which it is read in a thread, and answers sealed before other work has its turn.
LARGE: Final = 32 << 10
TOGETHER: Final = 32


class _Kept(Struct, frozen=True):
    team: str
    request: ChatRequest
    said: Said
    size: int


class Near:
    """The reasoning that was kept or found last, by its own name; in bounded memory."""

    def __init__(self, room: int, age: float = NEAR_AGE) -> None:
        self._room = room
        self._age = age
        self._texts: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._size = 0

    def get(self, name: bytes) -> str | None:
        since, text = self._texts.get(name, (0.0, ""))
        if not text or monotonic() - since > self._age:
            return None
        self._texts.move_to_end(name)
        return text

    def holds(self, name: bytes, text: str) -> bool:
        """Whether this very text is here; changes nothing, so that any thread may ask."""
        since, known = self._texts.get(name, (0.0, ""))
        return known == text and monotonic() - since <= self._age

    def put(self, name: bytes, text: str) -> None:
        _, before = self._texts.pop(name, (0.0, ""))
        self._texts[name] = (monotonic(), text)
        self._size += len(text) - len(before)
        while self._size > self._room:
            _, (_, gone) = self._texts.popitem(last=False)
            self._size -= len(gone)


class Store:
    """Reasoning sealed under one secret, in any kind of entries; the same secret and entries are the same memory."""

    def __init__(self, secret: bytes, entries: Entries, *, near: int = NEAR, patience: float = PATIENCE) -> None:
        self._marker = Marker(derived(secret, b"names"))
        self._ciphers = Ciphers(derived(secret, b"values"))
        self._entries = entries
        self._near = Near(near)
        self._patience = patience
        self._rests_until = 0.0
        # Threads that all share may be busy with long answers, and then a request would wait for those.
        self._thread = ThreadPoolExecutor(1, "recall")
        self._waiting: list[_Kept] = []
        self._bytes = 0
        # How many answers were kept, and how many of them are stored (or forgotten); who waits until so many are.
        self._kept = self._stored = 0
        self._until: list[tuple[int, asyncio.Future[None]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._storing: asyncio.Task[None] | None = None
        self._said = False

    async def start(self) -> None:
        try:
            await self._entries.start()
        except Exception as problem:
            self._say(problem)

    async def close(self) -> None:
        """What was kept until now is stored."""
        with suppress(Exception):
            async with asyncio.timeout(FAREWELL):
                await self._caught_up()
        if self._timer is not None:
            self._timer.cancel()
        with suppress(Exception):
            await self._entries.close()
        self._thread.shutdown(wait=False)

    async def _aside(self, work: Callable[..., T], *given: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *given)

    # ---- keeping

    def keep(self, team: str, request: ChatRequest, said: Said) -> None:
        size = request.size + len(said.content) + len(said.reasoning)
        if not said.reasoning or said.reasoning.isspace() or len(said.reasoning) > LONGEST or self._bytes + size > WAITING:
            return
        if request.messages[-1].get("prefix") is True:
            # The client joins it with the beginning that it wrote itself: another message than this one.
            return
        self._waiting.append(_Kept(team, request, said, size))
        self._bytes += size
        self._kept += 1
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(self._due, loop.time()), self._hand_over)

    def _hand_over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting and self._storing is None:
            self._storing = asyncio.create_task(self._store_all())

    async def _caught_up(self) -> None:
        """Until all is stored that was kept before."""
        if self._stored == self._kept:
            return
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._until.append((self._kept, stored))
        self._hand_over()
        await stored

    async def _store_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting, self._bytes = self._waiting, [], 0
                await self._store(batch)
                self._stored += len(batch)
                for count, stored in self._until:
                    if count <= self._stored and not stored.done():
                        stored.set_result(None)
                self._until = [(count, stored) for count, stored in self._until if count > self._stored]
        finally:
            self._storing = None
            self._due = asyncio.get_running_loop().time() + MOMENT

    async def _store(self, batch: Sequence[_Kept]) -> None:
        try:
            entries: list[Entry] = []
            for number, kept in enumerate(batch, 1):
                found = await self._aside(self._sealed, kept) if kept.size > LARGE else self._sealed(kept)
                if found:
                    self._near.put(found[0].name, kept.said.reasoning)
                    entries += found
                if number % TOGETHER == 0:
                    await asyncio.sleep(0)
            if entries:
                await self._entries.put(entries)
        except Exception as problem:
            self._say(problem)

    def _sealed(self, kept: _Kept) -> list[Entry]:
        """What is stored of this answer, under its own name first; nothing where it is here already, or too long."""
        team, said = kept.team, kept.said
        marks = self._marker.answer(team, kept.request.messages, said.content, said.tool_calls)
        if self._near.holds(marks.own, said.reasoning):
            # Asked and answered in the same words a moment ago.
            return []
        cipher = self._ciphers.of(team)
        value = cipher.seal(marks.own, said.reasoning)
        if len(value) > LARGEST:
            return []
        entries = [Entry(marks.own, value)]
        # Its other names lead to its own; a call's id only with all the same calls.
        if marks.loose is not None:
            entries.append(Entry(marks.loose, cipher.point(marks.loose, marks.own), single=True))
        if marks.call is not None:
            entries.append(Entry(marks.call, cipher.point(marks.call, marks.own + marks.agree), single=True))
        return entries

    # ---- finding

    async def find(self, team: str, request: ChatRequest) -> Mapping[int, str]:
        try:
            if monotonic() < self._rests_until:
                return NOTHING
            async with asyncio.timeout(self._patience):
                return await self._find(team, request)
        except Exception as problem:
            if isinstance(problem, TimeoutError):
                self._rests_until = monotonic() + REST
            self._say(problem)
            return NOTHING

    async def _find(self, team: str, request: ChatRequest) -> Mapping[int, str]:
        await self._caught_up()
        if request.size < LARGE:
            missing = self._marker.missing(team, request.messages)
        else:
            missing = await self._aside(self._marker.missing, team, request.messages)
        missing = missing[-MOST:]
        found = {marks.at: text for marks in missing if (text := self._near.get(marks.own)) is not None}
        far = [marks for marks in missing if marks.at not in found]
        return {**found, **await self._fetch(self._ciphers.of(team), far)} if far else found

    async def _fetch(self, cipher: Cipher, missing: Sequence[Marks]) -> dict[int, str]:
        values = await self._entries.get([name for marks in missing for name in marks.names])
        owners = {marks.at: owner for marks in missing if (owner := _owner(cipher, marks, values)) is not None}
        strangers = [owner for owner in owners.values() if owner not in values]
        if strangers:
            values = {**values, **await self._entries.get(strangers)}
        sealed = {owner: values[owner] for owner in owners.values() if owner in values}
        if not sealed:
            return {}
        opened = await self._aside(_opened, cipher, sealed)
        for name, text in opened.items():
            self._near.put(name, text)
        return {at: opened[owner] for at, owner in owners.items() if owner in opened}

    def _say(self, problem: Exception) -> None:
        """Once: what goes on being forgotten shows in the edits of requests."""
        if not self._said:
            self._said = True
            log.warning("reasoning could not be kept or found (%s): it is forgotten", type(problem).__name__)


def _opened(cipher: Cipher, values: Mapping[bytes, bytes]) -> dict[bytes, str]:
    return {name: text for name, value in values.items() if (text := cipher.open(name, value)) is not None}


def _owner(cipher: Cipher, marks: Marks, values: Mapping[bytes, bytes]) -> bytes | None:
    """The own name of the answer that these names lead to: its own first, the others only where they lead to one answer alone."""
    if marks.own in values:
        return marks.own
    if (owner := _led(cipher, marks.loose, values)) is not None:
        return owner
    if (found := _led(cipher, marks.call, values)) is not None:
        owner, agree = found[: len(marks.own)], found[len(marks.own) :]
        return owner if agree == marks.agree else None
    return None


def _led(cipher: Cipher, name: bytes | None, values: Mapping[bytes, bytes]) -> bytes | None:
    """Where this name leads; a name that two answers claimed holds no pointer any more."""
    return cipher.follow(name, values[name]) if name is not None and name in values else None
