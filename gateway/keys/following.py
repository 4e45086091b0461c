"""The table of keys in force in one gateway: read again when it has changed, kept when it cannot be read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

from gateway.errors import LedgerUnavailable
from gateway.keys.port import Key, KeyStore, PepperDiffers

log = logging.getLogger("faregate.keys")
T = TypeVar("T")
# A revocation must be in force within five seconds of it: one look may be slow, or come just before.
LOOK_SECONDS: Final = 1.0
_AWAY: Final = "The stored keys cannot be read; those last read stay in force."


class Following(Generic[T]):
    """Hands every change of the stored keys to `use`, on the event loop, after `prepare` has run in a thread.

    `error` is None, or why the keys in force may be older than those in the store; everybody may read it.
    """

    def __init__(
        self, store: KeyStore, prepare: Callable[[Mapping[bytes, Key]], T], use: Callable[[T], None], look: float = LOOK_SECONDS
    ) -> None:
        self._store = store
        self._prepare = prepare
        self._use = use
        self._look = look
        self._seen: int | None = None
        self._turn = asyncio.Lock()
        self.error: str | None = None
        self.count = 0

    async def start(self) -> None:
        """Open the store and take its keys; raises what the store raises."""
        await self._store.start()
        await self._read()

    async def look(self) -> None:
        """The keys in force are those of the store when this returns, or `error` says why they may not be."""
        try:
            await self._read()
        except PepperDiffers as problem:
            self._failed(str(problem), str(problem))
        except LedgerUnavailable as problem:
            self._failed(_AWAY, problem.message)
        except Exception as problem:
            # Whatever it is: a gateway that looks no more would take revoked keys for ever, and nobody would know.
            self._failed(_AWAY, type(problem).__name__)
        else:
            if self.error is not None:
                log.info("the keys can be read again")
            self.error = None

    def _failed(self, error: str, why: str) -> None:
        if self.error is None:
            log.error("the keys cannot be read, and those last read stay in force: %s", why)
        self.error = error

    async def watch(self, stop: asyncio.Event) -> None:
        """Looks again and again until `stop` is set."""
        while not stop.is_set():
            try:
                async with asyncio.timeout(self._look):
                    await stop.wait()
            except TimeoutError:
                await self.look()

    async def _read(self) -> None:
        # One after the other: an older answer must not take the place of a newer one.
        async with self._turn:
            if await self._store.version() == self._seen:
                return
            table = await self._store.read()
            self._use(await asyncio.to_thread(self._prepare, table.keys))
            self._seen, self.count = table.version, len(table.keys)
