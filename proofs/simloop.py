"""An event loop whose time is virtual and whose order is a seed's: the same seed runs the same interleaving, always."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Coroutine
from math import inf
from typing import Any


class SimLoop(asyncio.SelectorEventLoop):
    """Runs what is ready in a random order, and jumps to the next timer when nothing is: nobody ever waits."""

    # Of the base class, which declares none of them.
    _ready: Any
    _scheduled: list[Any]

    def __init__(self) -> None:
        super().__init__()
        self._random = random.Random(0)
        self._now = 0.0
        # A task that fails unseen is the audit's to judge.
        self.set_exception_handler(lambda _loop, _context: None)

    def time(self) -> float:
        return self._now

    def play(self, seed: int, main: Coroutine[Any, Any, None]) -> None:
        """Run one history from time 0; every task that it leaves behind is ended with it."""
        self._random, self._now = random.Random(seed), 0.0
        try:
            self.run_until_complete(main)
        finally:
            self.run_until_complete(_end_others())
            self._scheduled.clear()

    def _run_once(self) -> None:
        """One turn: what is due, and what was ready, in a random order. Nothing is waited for: there is no other world."""
        if not self._ready:
            self._now = max(self._now, self._next())
            assert self._now < inf, "everybody waits, and for nothing"
        while self._next() <= self._now:
            self._ready.append(heapq.heappop(self._scheduled))
        turn = list(self._ready)
        self._ready.clear()
        self._random.shuffle(turn)
        for handle in turn:
            if not handle._cancelled:
                handle._run()

    def _next(self) -> float:
        """When the next timer is due; those that were cancelled are forgotten."""
        while self._scheduled and self._scheduled[0]._cancelled:
            heapq.heappop(self._scheduled)
        return self._scheduled[0]._when if self._scheduled else inf


async def _end_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
