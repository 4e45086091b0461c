"""The base of every policy row: frozen, unknown keys refused, exact types."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

Problem = tuple[tuple[str | int, ...], str]
"""What is wrong and where: the path of keys and indexes within the row, and a message for its author."""


class Row(BaseModel):
    """One row of a policies file as its author writes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    def problems(self) -> Iterator[Problem]:
        """What types alone cannot see: keys of this row that contradict each other."""
        return iter(())


def _utc(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise ValueError("has no time zone: write it as 2026-11-20T02:00:00Z")
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("lies outside the years 1 to 9999 in UTC") from None


Instant = Annotated[datetime, AfterValidator(_utc)]
