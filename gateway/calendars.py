"""Calendars: the days on which a price window does not apply, and up to which date that is known. Data in policies/calendars/."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from pydantic import Field

from gateway.rows import Problem, Row


class CalendarRow(Row):
    """One calendar as its author writes it: `{calendar, known_until, source, days: [2026-10-01, …]}`."""

    calendar: str
    known_until: date = Field(description="the last date for which the list is complete; later dates work and warn")
    source: str
    days: tuple[date, ...]
    note: str = ""

    def problems(self) -> Iterator[Problem]:
        seen: set[date] = set()
        for index, day in enumerate(self.days):
            if day in seen:
                yield ("days", index), f"{day} stands twice in `days`"
            if day > self.known_until:
                text = f"{day} is after `known_until` {self.known_until}"
                yield ("days", index), f"{text}. Hint: move `known_until` to the end of what the source states"
            seen.add(day)

    def calendar_of(self) -> Calendar:
        return Calendar(self.calendar, frozenset(self.days), self.known_until, self.source)


@dataclass(frozen=True, slots=True)
class Calendar:
    """A set of dates, complete up to `known_until`. Dates are those of the window's zone."""

    name: str
    days: frozenset[date]
    known_until: date
    source: str

    def days_left(self, today: date) -> int:
        """Days from `today` until the list ends; negative once it has."""
        return (self.known_until - today).days

    def warning(self, day: date) -> str | None:
        """What to say of a price on this day, where the list does not reach it."""
        if day <= self.known_until:
            return None
        return f"calendar {self.name} is known until {self.known_until}: {day} counts as an ordinary day. Add the days of {day.year}"
