"""Deadlines and departures: interrupts a wait for the host when a limit passes or the client leaves.

One timer for each request, re-armed lazily: a read costs one assignment. Only waits inside `guard` are interrupted,
so that settling a charge never is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from operator import itemgetter
from time import monotonic
from typing import Any, TypeVar

from gateway.errors import UpstreamTimeout
from gateway.upstream.port import Deadlines

T = TypeVar("T")
# Seconds without a word from a host after which it looks as if it hangs: most say that they are at work long before.
SILENCE = 15.0


class ClientGone(Exception):
    """The client has closed its connection."""


class Watch:
    """Raises, inside `guard` and `deliver` only, UpstreamTimeout or ClientGone; use it from the one task that serves the request."""

    def __init__(
        self,
        deadlines: Deadlines,
        silent: Callable[[], None] | None = None,
        silence: float = SILENCE,
        proved: Callable[[], None] | None = None,
    ) -> None:
        """`silent` is called once for each dispatch that has not been answered at all after `silence` seconds; it goes on. `proved` is
        called once for each that has got its first content."""
        task = asyncio.current_task()
        assert task is not None, "a watch belongs to the task that serves a request"
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._start = monotonic()
        self._waiting_for = ""
        self._silent = silent
        self._proved = proved
        self._silence = silence
        self.reason: Exception | None = None
        """Why the wait is over, once it is."""
        self.waited = 0.0
        self._waited_for_client = 0.0
        self._dispatch(deadlines, self._start)

    def _dispatch(self, deadlines: Deadlines, now: float) -> None:
        self._deadlines = deadlines
        self._began = self._activity = now
        self._waited_before = self.waited
        self._client_before = self._waited_for_client
        self._opened = 0.0
        self._deserted: tuple[float, float] | None = None
        self._suspected = self._silent is None
        self.first_content: float | None = None
        # The first look is at the shortest limit; each look finds out when the next one is due.
        soonest = min(deadlines.first_byte, deadlines.idle, deadlines.total)
        self._timer = self._loop.call_later(soonest if self._suspected else min(soonest, self._silence), self._check)

    def again(self, deadlines: Deadlines) -> bool:
        """Begin another dispatch: each limit but the total begins anew. False: the client has left, or no time is left for it."""
        now = monotonic()
        left = self._start + deadlines.total - now
        if (self.reason is not None and not isinstance(self.reason, UpstreamTimeout)) or left < _enough(deadlines):
            return False
        self.reason = None
        self._timer.cancel()
        self._dispatch(deadlines, now)
        return True

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
            took = monotonic() - begun
            self.waited += took
            if whom == "client":
                self._waited_for_client += took

    def opened(self) -> None:
        """The host has begun to answer: from now on the idle limit counts."""
        self._opened = monotonic()

    def content_seen(self) -> None:
        """The first content has come: from now on only the idle and total limits count."""
        if self.first_content is None:
            self.first_content = monotonic()
            if self._proved is not None:
                self._proved()

    def interrupt(self, reason: Exception) -> None:
        """Stop waiting; the first reason stays."""
        if self.reason is None:
            self.reason = reason
            if self._waiting_for:
                self._task.cancel()

    def forgive(self) -> None:
        """The host took too long over what nobody waits for: the answer is good, and what is waited for next counts anew."""
        if isinstance(self.reason, UpstreamTimeout):
            self.reason = None
            self._timer = self._loop.call_later(self._deadlines.idle, self._check)

    def client_left(self) -> None:
        self.interrupt(ClientGone())

    def hear_out(self, seconds: float) -> None:
        """The client has left, and the host is heard on all the same: until it has said nothing for so long."""
        if self._timer.cancelled():
            # It is over.
            return
        self._deserted = monotonic(), seconds
        # What was looked for until now may be far away.
        self._timer.cancel()
        self._check()

    @property
    def elapsed(self) -> float:
        """Seconds since the dispatch."""
        return monotonic() - self._began

    @property
    def opening(self) -> float | None:
        """Seconds from the dispatch to the head of the answer; None: none has come."""
        return self._opened - self._began if self._opened else None

    @property
    def waited_here(self) -> float:
        """Seconds spent waiting since the dispatch."""
        return self.waited - self._waited_before

    @property
    def waited_for_client(self) -> float:
        """Those of them that the client took to read."""
        return self._waited_for_client - self._client_before

    @property
    def first_token(self) -> float | None:
        """Seconds from the dispatch to the first content; None: there was none."""
        return None if self.first_content is None else self.first_content - self._began

    def pace(self, tokens: int) -> float | None:
        """Tokens a second that the host wrote, of so many in all; None where it waited for its client: nobody knows then."""
        writing = self.waited - self._waited_before - (self.first_token or 0.0)
        return tokens / writing if writing > 10 * (self._waited_for_client - self._client_before) else None

    def close(self) -> None:
        self._timer.cancel()
        # Whoever is to be told has this watch: without the cycle both are freed at once.
        self._silent = self._proved = None

    def _limits(self) -> Iterator[tuple[float, Exception]]:
        """The limits that count now: when each is over, and what it means."""
        limits = self._deadlines
        yield self._start + limits.total, self._over()
        if self.first_content is None and self._waiting_for != "client":
            yield self._began + limits.first_byte, _late("to the first token")
        if self._waiting_for == "client":
            yield self._activity + limits.idle, ClientGone()
        elif self._waiting_for and self._opened:
            yield self._activity + limits.idle, _late("between two reads")
        if self._deserted is not None and self._waiting_for == "host":
            left, patience = self._deserted
            yield max(left, self._activity) + patience, _late("after the client had left")

    def _over(self) -> Exception:
        """The time is up. Where it went by while the client read, that says nothing of the host."""
        if self._waiting_for == "client":
            return ClientGone()
        found = _late("in all")
        if 2 * self.waited_for_client >= self.elapsed:
            found = UpstreamTimeout("The client read so slowly that the time limit in all was exceeded.", dispatched=True)
            found.slow_client = True
        return found

    def _check(self) -> None:
        now = monotonic()
        if not self._suspected:
            self._suspect(now)
        due, reason = min(self._limits(), key=itemgetter(0))
        if due <= now:
            self.interrupt(reason)
            return
        # A wait that begins later may be over sooner than what is due now.
        wait = min(due - now, self._deadlines.idle if self._deserted is None else self._deserted[1])
        self._timer = self._loop.call_later(
            wait if self._suspected else min(wait, max(0.0, self._began + self._silence - now)), self._check
        )

    def _suspect(self, now: float) -> None:
        if self._silent is not None and now >= self._began + self._silence:
            self._suspected = True
            if not self._opened and self._waiting_for == "host":
                self._silent()

    @staticmethod
    def _discard(wait: Awaitable[T]) -> None:
        if asyncio.iscoroutine(wait):
            wait.close()


def _enough(limits: Deadlines) -> float:
    """Seconds without which another dispatch is no use: those in which most hosts begin to answer."""
    return min(limits.first_byte, limits.total / 4)


def _late(phase: str) -> UpstreamTimeout:
    return UpstreamTimeout(f"The host exceeded the time limit {phase}.", dispatched=True)
