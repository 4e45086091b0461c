"""News: what replicas tell each other through Redis, subject by subject. Without it, each knows only what it saw itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from redis.exceptions import RedisError

from gateway.shared.link import Link

log = logging.getLogger(__name__)
# Seconds until listening is tried again.
AGAIN: Final = 1.0

Hear = Callable[[str], None]


class News:
    """Listens to all subjects on one connection, for as long as it runs. What is told while Redis is down is lost.

    `subjects` are names with what takes their messages, this process's own among them; a message that it cannot take is logged.
    """

    def __init__(self, link: Link, subjects: Mapping[str, Hear]) -> None:
        self._link = link
        self._hear = {self._channel(subject): hear for subject, hear in subjects.items()}
        self._task: asyncio.Task[None] | None = None
        self._subscribed = 0
        self.listening = asyncio.Event()

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_listening())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def teller(self, subject: str) -> Callable[[bytes], None]:
        """What tells of this subject; it never waits, and raises nothing."""
        return partial(self._link.publish, self._channel(subject))

    def _channel(self, subject: str) -> str:
        # Channels belong to a server, not to one of its databases.
        return f"faregate:{self._link.database}:{subject}"

    async def _keep_listening(self) -> None:
        while True:
            with suppress(RedisError, OSError, TimeoutError, UnicodeDecodeError):
                await self._listen()
            self.listening.clear()
            await asyncio.sleep(AGAIN)

    async def _listen(self) -> None:
        self._subscribed = 0
        async with self._link.client.pubsub() as channels:
            await channels.subscribe(*self._hear)
            async for message in channels.listen():
                self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            self._subscribed += 1
            if self._subscribed == len(self._hear):
                self.listening.set()
        elif message["type"] == "message" and (hear := self._hear.get(message["channel"])) is not None:
            try:
                hear(message["data"])
            except Exception:
                # One message that nobody understands must not end the listening; what it says is not repeated.
                log.exception("a message on %s could not be taken", message["channel"])
