"""One timer for many waits: a timer for each would cost as much as what is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class Patience:
    """Cuts a wait short once it has lasted `seconds`, or up to half as long again."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # Tasks that wait, each with the time at which it began; of `_late`, those that were cut short.
        self._waiting: dict[asyncio.Task[object], float] = {}
        self._late: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, work: Awaitable[T]) -> T:
        """The result of work; it is cancelled, and TimeoutError raised, when it takes too long."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None, "a task waits"
        cancelled_before = task.cancelling()
        self._waiting[task] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._seconds / 2, self._look, loop)
        try:
            return await work
        except asyncio.CancelledError:
            # Our own cancellation, and nobody else's.
            if task in self._late and task.uncancel() <= cancelled_before:
                raise TimeoutError from None
            raise
        finally:
            del self._waiting[task]
            self._late.discard(task)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for task, began in self._waiting.items():
            if now - began >= self._seconds and task not in self._late:
                self._late.add(task)
                task.cancel()
        if self._waiting:
            self._timer = loop.call_later(self._seconds / 2, self._look, loop)
