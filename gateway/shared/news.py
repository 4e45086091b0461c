"""News: the notes of refusals that replicas tell each other through Redis. Without it, each has its own."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

from redis.exceptions import RedisError

from gateway.shared.denials import Denials
from gateway.shared.link import Link

# Seconds until listening is tried again.
AGAIN: Final = 1.0


class News:
    """Listens for as long as it runs; what is told while Redis is down is lost, and no note lives longer than a second."""

    def __init__(self, link: Link, denials: Denials) -> None:
        self._link = link
        self._denials = denials
        # Channels belong to a server, not to one of its databases.
        self._channel = f"faregate:{link.database}:denials"
        self._task: asyncio.Task[None] | None = None
        self.listening = asyncio.Event()
        denials.tell = self._tell

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_listening())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def _tell(self, message: bytes) -> None:
        self._link.publish(self._channel, message)

    async def _keep_listening(self) -> None:
        while True:
            with suppress(RedisError, OSError, TimeoutError, UnicodeDecodeError):
                await self._listen()
            self.listening.clear()
            await asyncio.sleep(AGAIN)

    async def _listen(self) -> None:
        async with self._link.client.pubsub() as channels:
            await channels.subscribe(self._channel)
            async for message in channels.listen():
                self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            self.listening.set()
        elif message["type"] == "message":
            self._denials.hear(message["data"])
