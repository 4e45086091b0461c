"""Sharing: what one process counts and knows beside the ledger; shared by all replicas where there is a Redis.

Three things: limits on the rate, notes of refusals, and what was sent where (prefixes).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.clock import Clock
from gateway.shared.denials import Denials
from gateway.shared.gossip import Gossip
from gateway.shared.link import Link, Watcher
from gateway.shared.memory import MemoryLimits
from gateway.shared.news import News
from gateway.shared.port import Limits
from gateway.shared.redis import RedisLimits, WhenDown


class Prefixes(Protocol):
    """Who knows what was sent where: calls `share` with a note for each prompt, and takes those of others by `hear`, with the time."""

    share: Callable[[bytes], None] | None

    def hear(self, message: bytes, now: float) -> None: ...


class Sharing:
    """`redis` is an address, with its password; None: this process is the only one. `lease` is in seconds.

    `prefixes` come with a tag of the secret under which they are digests: only replicas with the same one understand each other.
    """

    def __init__(
        self, redis: str | None, down: WhenDown, lease: float, clock: Clock, watcher: Watcher, prefixes: tuple[Prefixes, str] | None = None
    ) -> None:
        alone = MemoryLimits(clock)
        self._clock = clock
        self.denials = Denials(clock)
        self.limits: Limits = alone
        self._redis: tuple[RedisLimits, News] | None = None
        self._gossip: Gossip | None = None
        if redis is not None:
            link = Link(redis, watcher)
            shared = self.limits = RedisLimits(link, alone, down, lease)
            self._redis = shared, self._news(link, prefixes)

    def _news(self, link: Link, prefixes: tuple[Prefixes, str] | None) -> News:
        subjects: dict[str, Callable[[str], None]] = {"denials": self.denials.hear}
        if prefixes is not None:
            known, tag = prefixes
            gossip = self._gossip = Gossip(lambda note: known.hear(note, self._clock.now().timestamp()))
            known.share = gossip.say
            subject = f"prefixes:{tag}"
            subjects[subject] = gossip.hear
        news = News(link, subjects)
        self.denials.tell = news.teller("denials")
        if self._gossip is not None:
            self._gossip.tell = news.teller(subject)
        return news

    async def start(self) -> None:
        """Raises nothing: a Redis that is down now may come later."""
        if self._redis is not None:
            limits, news = self._redis
            await limits.start()
            news.start()

    async def close(self) -> None:
        if self._redis is not None:
            limits, news = self._redis
            if self._gossip is not None:
                self._gossip.flush()
            await news.close()
            await limits.close()
