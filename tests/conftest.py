"""Fixtures that several modules of tests share."""

from tests.servers import postgres_cluster, postgres_server, postgres_url, redis_server
from tests.stores import place, store

__all__ = ["place", "postgres_cluster", "postgres_server", "postgres_url", "redis_server", "store"]
