"""Breaker: whether a server is asked at all. It opens after a few failures in a row, and only a probe closes it again."""

from __future__ import annotations

from typing import Final

FAILURES: Final = 3


class Breaker:
    """Closed: the server is asked. Open: it is not, so that nobody waits for it."""

    __slots__ = ("_failures", "closed")

    def __init__(self) -> None:
        self._failures = 0
        self.closed = True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> bool:
        """Count a failure; True where this one opens it."""
        self._failures += 1
        if not self.closed or self._failures < FAILURES:
            return False
        self.closed = False
        return True

    def close(self) -> None:
        """A probe went well."""
        self._failures = 0
        self.closed = True
