"""The tables of the embedded ledger, empty and in memory."""

from __future__ import annotations

import apsw

from gateway.ledger import sqlite


def ledger_tables() -> apsw.Connection:
    """As the store makes them in a new file; without a file, and so without its log, its syncs and its locks."""
    connection = apsw.Connection(":memory:")
    connection.execute("PRAGMA recursive_triggers = ON")
    sqlite._create(connection)
    return connection
