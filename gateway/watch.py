"""Deadlines and departures: interrupts a wait for the host when a limit passes or the client leaves.

One timer for each request, re-armed lazily: a read costs one assignment. Only waits inside `guard` are interrupted,
so that settling a charge never is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from time import monotonic
from typing import TypeVar

from gateway.errors import UpstreamTimeout
from gateway.upstream.port import Deadlines

T = TypeVar("T")


class ClientGone(Exception):
    """The client has closed its connection."""


class Watch:
    """Raises, inside `guard` only, UpstreamTimeout or ClientGone; use it from the one task that serves the request."""

    def __init__(self, deadlines: Deadlines) -> None:
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None, "a watch belongs to the task that serves a request"
        self._task = task
        self._deadlines = deadlines
        self._start = monotonic()
        self._activity = self._start
        self._opened = False
        self.first_content: float | None = None
        self.waited = 0.0
        self._waiting = False
        self._reason: Exception | None = None
        self._arm()

    async def guard(self, wait: Awaitable[T]) -> T:
        """Await the host; an interrupt that came earlier is raised at once."""
        if (reason := self.reason) is not None:
            self._discard(wait)
            raise reason
        self._waiting = True
        begun = self._activity = monotonic()
        try:
            return await wait
        except asyncio.CancelledError:
            reason = self.reason
            if reason is None or self._task.uncancel() > 0:
                raise
            raise reason from None
        finally:
            self._waiting = False
            self.waited += monotonic() - begun

    @property
    def reason(self) -> Exception | None:
        """Why the wait for the host is over, once it is."""
        return self._reason

    def opened(self) -> None:
        """The host has begun to answer: from now on the idle limit counts."""
        self._opened = True
        self._timer.cancel()
        self._arm()

    def content_seen(self) -> None:
        """The first content has come: from now on only the idle and total limits count."""
        if self.first_content is None:
            self.first_content = monotonic()

    def interrupt(self, reason: Exception) -> None:
        """Stop waiting for the host; the first reason stays."""
        if self._reason is None:
            self._reason = reason
            if self._waiting:
                self._task.cancel()

    def client_left(self) -> None:
        self.interrupt(ClientGone())

    @property
    def elapsed(self) -> float:
        """Seconds since the dispatch."""
        return monotonic() - self._start

    def close(self) -> None:
        self._timer.cancel()

    def _due(self) -> tuple[float, str]:
        limits = self._deadlines
        due = [(self._start + limits.total, "in all")]
        if self.first_content is None:
            due.append((self._start + limits.first_byte, "to the first token"))
        if self._opened:
            due.append((self._activity + limits.idle, "between two reads"))
        return min(due)

    def _arm(self) -> None:
        self._timer = self._loop.call_later(self._due()[0] - monotonic(), self._check)

    def _check(self) -> None:
        due, phase = self._due()
        now = monotonic()
        # While the client is slow to read, the host is not waited for, so it cannot be late.
        idle = phase == "between two reads" and not self._waiting
        if now < due or idle:
            again = now + self._deadlines.idle if idle else due
            self._timer = self._loop.call_later(again - now, self._check)
            return
        self.interrupt(UpstreamTimeout(f"The host exceeded the time limit {phase}.", dispatched=True))

    @staticmethod
    def _discard(wait: Awaitable[T]) -> None:
        if asyncio.iscoroutine(wait):
            wait.close()
