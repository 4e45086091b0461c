"""Witnesses: who was refused by a host in a way that may be the request's own fault, and whom that keeps away. Pure: time is handed in.

A page of a firewall, a model that one request cannot use: what a host refuses to one caller need not be refused to others. So one
refusal keeps nobody away; another prompt of the same key keeps that key away, another key of the same team that team, and another
team everybody. Any answer of the host proves all of them wrong.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from msgspec import Struct

# Prompts that are refused in the same way until a key that sends nothing else is believed.
SAME: Final = 5
# Seconds until whoever is kept away asks again; where nothing else is left: sooner.
PARKED: Final = 600.0
PARKED_ALONE: Final = 30.0


class Asker(Struct, frozen=True):
    """Who asks: a team and the public name of its key. Without a key: every key of that team; with neither: everybody, or nobody known."""

    team: str = ""
    key: str = ""


EVERYBODY: Final = Asker()


class _Bar(NamedTuple):
    until: float
    until_alone: float


class Witnesses:
    """The refusals since the last answer: at most one first witness, and those that are kept away by now (one team and its keys)."""

    __slots__ = ("_bars", "_first", "_latest", "_prompt", "_times")

    def __init__(self) -> None:
        self._first: Asker | None = None
        self._prompt = self._times = 0
        self._latest = 0.0
        self._bars: dict[Asker, _Bar] = {}

    @property
    def idle(self) -> bool:
        """Whether nobody has been refused since the last answer."""
        return self._first is None

    def refused(self, asker: Asker, prompt: int, at: float) -> Asker | None:
        """One more; `prompt` tells prompts apart. Whom it keeps away from now on: EVERYBODY, a team, a key of it; None: nobody."""
        self._latest = max(self._latest, at) if self._first else at
        first = self._first
        if first is None:
            self._first, self._prompt, self._times = asker, prompt, 1
            return None
        if asker.team != first.team:
            self.forget()
            return EVERYBODY
        self._times += asker == first
        whom = asker
        if asker.key != first.key:
            whom = Asker(asker.team)
        elif prompt == self._prompt and self._times < SAME:
            return None
        if whom != EVERYBODY:
            self._bars[whom] = _Bar(at + PARKED, at + PARKED_ALONE)
        return whom

    def left(self, asker: Asker, at: float, alone: bool) -> float:
        """Seconds for which it is kept away; 0 or less: it is not."""
        left = 0.0
        for whom in (asker, Asker(asker.team)):
            bar = self._bars.get(whom)
            if bar is not None:
                # A clock that was set back must not make it longer.
                left = max(left, min(bar.until_alone - at, PARKED_ALONE) if alone else min(bar.until - at, PARKED))
        return left

    def tried(self, asker: Asker, at: float) -> None:
        """It asks again: until it is answered, others that are kept away with it wait a little longer."""
        for whom in (asker, Asker(asker.team)):
            if whom in self._bars:
                self._bars[whom] = _Bar(at + PARKED_ALONE, at + PARKED_ALONE)

    def answered(self, begun: float) -> bool:
        """An answer to a request that was sent at `begun`: whether it proves them wrong. It says nothing of what was refused after that."""
        if self._latest > begun > self._latest - PARKED:
            return False
        self.forget()
        return True

    def forget(self) -> None:
        self._first = None
        self._bars.clear()
