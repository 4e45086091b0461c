"""Makes the log durable outside the event loop: one flush at a time, and each covers everything committed before it began.

SQLite commits without a flush (synchronous NORMAL); what waits for its durability is released here, after one fdatasync
of the log. Charges that are committed while a flush runs share the next one. That is as durable as synchronous FULL:

- every frame that was written to the log before the flush began is on the disk after it, whichever process wrote it;
- SQLite flushes the log before it copies frames into the database file, and that file before the log may start anew, so a
  frame that is no longer in the log is in a flushed database file;
- a log that starts anew is the same file, and its new header is flushed before the first new frame.

A flush that fails cannot be repeated (the system may have dropped what it could not write), and later frames are worth
nothing without the lost ones: the ledger then refuses to write until it is opened again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any

from gateway.errors import LedgerUnavailable

log = logging.getLogger(__name__)

Waiting = list[tuple[asyncio.Future[Any], Any]]
"""Futures, each with the result that it gets."""


class Flusher:
    """Runs `sync` in a thread. All methods are called on the event loop. `flushes` counts those that succeeded."""

    def __init__(self, sync: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self.flushes = 0
        self.failed: LedgerUnavailable | None = None
        self._sync = sync
        self._loop = loop
        self._waiting: Waiting = []
        self._flushing = False
        self._groups: SimpleQueue[Waiting | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="ledger-flusher", daemon=True)
        self._thread.start()

    def release_durable(self, waiting: Waiting) -> None:
        """Resolve these futures once everything that has been committed by now is on the disk."""
        self._waiting += waiting
        if not self._flushing:
            self._start()

    async def close(self) -> None:
        """End the thread, after the flush that it is in."""
        self._groups.put(None)
        await asyncio.to_thread(self._thread.join)

    def _start(self) -> None:
        self._flushing = True
        self._groups.put(self._waiting)
        self._waiting = []

    def _run(self) -> None:
        while group := self._groups.get():
            problem = None
            try:
                self._sync()
            except OSError as failure:
                problem = failure
            try:
                self._loop.call_soon_threadsafe(self._flushed, group, problem)
            except RuntimeError:  # the loop is closed, so nobody waits: what was submitted is flushed all the same
                return

    def _flushed(self, group: Waiting, problem: OSError | None) -> None:
        self._flushing = False
        if problem is None:
            self.flushes += 1
        elif self.failed is None:
            log.critical("ledger: the log could not be flushed, so nothing more is written: %s", problem)
            self.failed = LedgerUnavailable(f"The ledger could not be flushed to its disk: {problem}. Check the disk, then start again.")
        for future, result in group:
            self._release(future, result)
        if self._waiting:
            self._start()

    def _release(self, future: asyncio.Future[Any], result: Any) -> None:
        if future.done():  # its caller was cancelled; the operation stands
            return
        if self.failed is None:
            future.set_result(result)
        else:
            future.set_exception(self.failed)
