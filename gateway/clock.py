"""Time as a port: instants are aware UTC datetimes. The real clock is made in app; nothing else reads one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Business time (prices, names, receipts) and elapsed time (timeouts, latencies)."""

    def now(self) -> datetime:
        """The present instant, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that only grow, unaffected by FAREGATE_CLOCK."""
        ...


def instant_text(at: datetime) -> str:
    """RFC 3339 in UTC with a Z; microseconds only where there are any."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parse_instant(text: str) -> datetime:
    """An aware instant in UTC; raises ValueError for a text without a zone."""
    at = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    if at.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone: write it as 2026-11-20T02:00:00Z")
    return at.astimezone(UTC)
