"""Deadlines and departures: interrupts a wait for the host when a limit passes or the client leaves.

One timer for each request, re-armed lazily: a read costs one assignment. Only waits inside `guard` are interrupted,
so that settling a charge never is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterator
from operator import itemgetter
from time import monotonic
from typing import Any, TypeVar

from gateway.errors import UpstreamTimeout
from gateway.upstream.port import Deadlines

T = TypeVar("T")


class ClientGone(Exception):
    """The client has closed its connection."""


class Watch:
    """Raises, inside `guard` and `deliver` only, UpstreamTimeout or ClientGone; use it from the one task that serves the request."""

    def __init__(self, deadlines: Deadlines) -> None:
        task = asyncio.current_task()
        assert task is not None, "a watch belongs to the task that serves a request"
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._deadlines = deadlines
        self._start = self._activity = monotonic()
        self._opened = False
        self._waiting_for = ""
        self.reason: Exception | None = None
        """Why the wait is over, once it is."""
        self.first_content: float | None = None
        self.waited = 0.0
        # The first look is at the shortest limit; each look finds out when the next one is due.
        self._timer = self._loop.call_later(min(deadlines.first_byte, deadlines.idle, deadlines.total), self._check)

    def guard(self, wait: Awaitable[T]) -> Coroutine[Any, Any, T]:
        """Await the host; an interrupt that came earlier is raised at once."""
        return self._interruptible(wait, "host")

    def deliver(self, wait: Awaitable[T]) -> Coroutine[Any, Any, T]:
        """Await the client; one that takes nothing for as long as a host may be idle counts as gone."""
        return self._interruptible(wait, "client")

    async def _interruptible(self, wait: Awaitable[T], whom: str) -> T:
        reason = self.reason
        if reason is not None:
            self._discard(wait)
            raise reason
        self._waiting_for = whom
        begun = self._activity = monotonic()
        try:
            return await wait
        except asyncio.CancelledError:
            reason = self.reason
            if reason is None or self._task.uncancel() > 0:
                raise
            raise reason from None
        finally:
            self._waiting_for = ""
            self.waited += monotonic() - begun

    def opened(self) -> None:
        """The host has begun to answer: from now on the idle limit counts."""
        self._opened = True

    def content_seen(self) -> None:
        """The first content has come: from now on only the idle and total limits count."""
        if self.first_content is None:
            self.first_content = monotonic()

    def interrupt(self, reason: Exception) -> None:
        """Stop waiting; the first reason stays."""
        if self.reason is None:
            self.reason = reason
            if self._waiting_for:
                self._task.cancel()

    def client_left(self) -> None:
        self.interrupt(ClientGone())

    @property
    def elapsed(self) -> float:
        """Seconds since the dispatch."""
        return monotonic() - self._start

    def close(self) -> None:
        self._timer.cancel()

    def _limits(self) -> Iterator[tuple[float, Exception]]:
        """The limits that count now: when each is over, and what it means."""
        limits = self._deadlines
        yield self._start + limits.total, _late("in all")
        if self.first_content is None and self._waiting_for != "client":
            yield self._start + limits.first_byte, _late("to the first token")
        if self._waiting_for == "client":
            yield self._activity + limits.idle, ClientGone()
        elif self._waiting_for and self._opened:
            yield self._activity + limits.idle, _late("between two reads")

    def _check(self) -> None:
        now = monotonic()
        due, reason = min(self._limits(), key=itemgetter(0))
        if due <= now:
            self.interrupt(reason)
            return
        # A wait that begins later may be over sooner than what is due now.
        self._timer = self._loop.call_later(min(due - now, self._deadlines.idle), self._check)

    @staticmethod
    def _discard(wait: Awaitable[T]) -> None:
        if asyncio.iscoroutine(wait):
            wait.close()


def _late(phase: str) -> UpstreamTimeout:
    return UpstreamTimeout(f"The host exceeded the time limit {phase}.", dispatched=True)
