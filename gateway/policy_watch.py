"""The policies in force: one snapshot at a time, replaced as a whole when the folder changes; a bad folder changes nothing."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from watchfiles import awatch

from gateway.clock import Clock
from gateway.errors import PolicyError
from gateway.policies import KINDS, Policies, load
from gateway.policy_files import Problems, digest_of, read_folder

log = logging.getLogger("faregate.policies")


class PolicyStore:
    """Holds the snapshot in force. Take `current` once per request and use that to its end.

    `error` is None, or the problems of the newest folder, which is not in force. Links that lead out of the folder and
    network file systems send no events, so `watch` also looks at the files every `look` seconds. `reloaded` is called after
    each folder that was read without a problem, changed or not; in whatever thread read it.
    """

    def __init__(self, folder: Path, clock: Clock, look: float = 5.0, reloaded: Callable[[], None] | None = None) -> None:
        self.folder = folder
        self._look_ms = int(look * 1000)
        self._clock = clock
        self._reloaded = reloaded
        self._turn = threading.Lock()
        self.current: Policies = load(folder)
        self.loaded_at: datetime = clock.now()
        self.error: str | None = None

    def reload(self) -> bool:
        """Whether the snapshot in force is that of the folder as it is now; on False the old one stays and `error` says why."""
        with self._turn:
            try:
                loaded = load(self.folder)
            except PolicyError as error:
                self.error = str(error)
                log.error("policies not reloaded, %s stays in force:\n%s", self.current.digest, error)
                return False
            if loaded.digest != self.current.digest:
                log.info("policies %s in force, before %s", loaded.digest, self.current.digest)
                _warn_of_refused(self.current, loaded)
                self.current = loaded
                self.loaded_at = self._clock.now()
            elif self.error is not None:
                log.info("the policies folder is right again; %s is in force as before", loaded.digest)
            self.error = None
            if self._reloaded is not None:
                self._reloaded()
            return True

    async def watch(self, stop: asyncio.Event) -> None:
        """Reloads after every change until `stop` is set; a mounted ConfigMap's swap of its `..data` link is a change too."""
        seen: tuple[str, tuple[str, ...]] = (self.current.digest, ())
        folder = self.folder.absolute()
        async for _ in awatch(folder, watch_filter=None, stop_event=stop, rust_timeout=self._look_ms, yield_on_timeout=True):
            now = await asyncio.to_thread(_look, self.folder)
            if now != seen:
                seen = now
                await asyncio.to_thread(self.reload)


def _warn_of_refused(before: Policies, now: Policies) -> None:
    """Who is refused everything from now on: whoever has no file where others have one."""
    if now.teams and not before.teams:
        names = ", ".join(sorted(now.teams))
        log.warning("policies/teams/ has its first file: only %s is served now, and every other team is refused until it has one", names)
    elif now.teams and (gone := sorted(before.teams.keys() - now.teams.keys())):
        log.warning("refused from now on, because they have no file in policies/teams/ any more: %s", ", ".join(gone))


def _look(folder: Path) -> tuple[str, tuple[str, ...]]:
    """The digest of what the folder holds now, and what could not be read of it."""
    problems = Problems()
    files = read_folder(folder, KINDS, problems)
    return digest_of(files), problems.lines()
