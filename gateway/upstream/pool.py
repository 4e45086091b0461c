"""Idle connections to one host, each until its next request, its time is up, or it is closed from the other side."""

from __future__ import annotations

import asyncio
from collections import deque

from gateway.upstream.connection import Connection


class Pool:
    """Keeps finished connections for `seconds`; the last one used goes out first. Without a limit on their number."""

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._idle: deque[tuple[float, Connection]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self) -> Connection | None:
        """An open connection on which nothing waits, or None: then a new one is needed."""
        while self._idle:
            connection = self._idle.pop()[1]
            if connection.quiet():
                return connection
            connection.abort()
        return None

    def put(self, connection: Connection) -> None:
        if self._closed:
            connection.abort()
            return
        self._idle.append((self._loop.time() + self._seconds, connection))
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._sweep)

    def close(self) -> None:
        """Close what is idle now and whatever is put back later."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        while self._idle:
            self._idle.pop()[1].abort()

    def _sweep(self) -> None:
        now = self._loop.time()
        while self._idle and self._idle[0][0] <= now:
            self._idle.popleft()[1].abort()
        self._timer = self._loop.call_at(self._idle[0][0], self._sweep) if self._idle else None
