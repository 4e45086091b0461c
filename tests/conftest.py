"""Fixtures that several modules of tests share."""

from tests.servers import postgres_cluster, postgres_server, postgres_url, redis_server

__all__ = ["postgres_cluster", "postgres_server", "postgres_url", "redis_server"]
