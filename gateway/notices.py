"""Notices: one line in the log when a host or a replica is put to rest, and one when it is in use again; never one for a request.

It looks each second at what requests have found out: nothing is asked, and no request waits for it. What rests is quiet in the log
until it is wholly back, so that a host that fails again while it comes back is one story.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from gateway.clock import Clock
from gateway.health import Health
from gateway.replicas import Replicas, with_replicas

log = logging.getLogger(__name__)
EVERY: Final = 1.0


class Notices:
    """`rests`: whether a host of this name is ever left alone. Names are of policies; a replica is told by its number."""

    def __init__(self, health: Health, replicas: Replicas, rests: Callable[[str], bool]) -> None:
        self._health = health
        self._replicas = replicas
        self._rests = rests
        self._resting: set[str] = set()

    def look(self, at: float) -> None:
        """Tell what has changed since the last look; `at` is seconds since 1970 by the gateway's clock."""
        found = dict(self._troubled(at))
        told = {f"{alarm.host}/{alarm.model}" for alarm in self._health.alarms(at)}
        for name, why in found.items():
            # An alarm was a line of its own.
            if name not in self._resting and not any(name == one or (one.endswith("/") and name.startswith(one)) for one in told):
                log.warning("%s is left alone (%s)", name, why or "it failed, and is coming back")
        for name in sorted(self._resting - found.keys()):
            log.info("%s is in use again", name)
        self._resting = set(found)

    def _troubled(self, at: float) -> Iterator[tuple[str, str]]:
        """All that is not wholly in use, by name, and why."""
        copies = list(self._replicas.states(at))
        for copy in copies:
            if copy.mood != "closed":
                yield f"replica {copy.number} of {copy.host}", copy.why
        for state in with_replicas(self._health.states(at), copies):
            if state.mood != "closed" and self._rests(state.host):
                yield f"{state.host}/{state.model}", state.why

    async def watch(self, clock: Clock, stop: asyncio.Event, every: float = EVERY) -> None:
        """Look until `stop`."""
        while not stop.is_set():
            self.look(clock.now().timestamp())
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), every)
