"""Fixtures that several modules of tests share."""

import gc

from tests.servers import postgres_cluster, postgres_server, postgres_url, redis_server
from tests.stores import place, store

__all__ = ["place", "postgres_cluster", "postgres_server", "postgres_url", "redis_server", "store"]


def pytest_collection_finish() -> None:
    """Thousands of tests, and all that they import, stay to the end: the collector need not look through them a hundred times."""
    gc.collect()
    gc.freeze()
