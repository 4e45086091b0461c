"""Sharing: the limits and the notes of refusals of one process; shared by all replicas where there is a Redis."""

from __future__ import annotations

from gateway.clock import Clock
from gateway.shared.denials import Denials
from gateway.shared.link import Link, Watcher
from gateway.shared.memory import MemoryLimits
from gateway.shared.news import News
from gateway.shared.port import Limits
from gateway.shared.redis import RedisLimits, WhenDown


class Sharing:
    """`redis` is an address, with its password; None: this process is the only one. `lease` is in seconds."""

    def __init__(self, redis: str | None, down: WhenDown, lease: float, clock: Clock, watcher: Watcher) -> None:
        alone = MemoryLimits(clock)
        self.denials = Denials(clock)
        self.limits: Limits = alone
        self._redis: tuple[RedisLimits, News] | None = None
        if redis is not None:
            link = Link(redis, watcher)
            shared = self.limits = RedisLimits(link, alone, down, lease)
            self._redis = shared, News(link, self.denials)

    async def start(self) -> None:
        """Raises nothing: a Redis that is down now may come later."""
        if self._redis is not None:
            limits, news = self._redis
            await limits.start()
            news.start()

    async def close(self) -> None:
        if self._redis is not None:
            limits, news = self._redis
            await news.close()
            await limits.close()
