"""Periods of a report: from an instant up to but not including another, in days and hours of a time zone.

A day is from midnight to midnight of the zone: 23 or 25 hours where the clocks change. An hour that comes twice is two hours,
told apart by their offsets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from pydantic import TypeAdapter, ValidationError

from gateway.clock import parse_instant
from gateway.notation import Zone

_ZONE: Final = TypeAdapter(Zone)
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_MONTH: Final = re.compile(r"(\d{4})-(\d{2})")
_LAST: Final = re.compile(r"([1-9]\d{0,4})([hdw])")
# Every time zone changes its hour, and its offset, at a multiple of it.
_QUARTER: Final = timedelta(minutes=15)


class PeriodError(ValueError):
    """A text that names no period; the message says how to write it."""


class Slice(NamedTuple):
    """An hour of a zone, or the part of it that a period covers: [start, end), the day and the hour as reports call them."""

    start: datetime
    end: datetime
    day: str
    hour: str


@dataclass(frozen=True, slots=True)
class Period:
    """The instants of [start, end), both UTC, in the days of a zone."""

    start: datetime
    end: datetime
    zone: ZoneInfo

    def slices(self, first: datetime | None = None, last: datetime | None = None) -> Iterator[Slice]:
        """Its hours in the order of time; only those from that of `first` to that of `last` where these are given."""
        at = self.start if first is None else self.hour_of(first).start
        end = self.end if last is None else self.hour_of(last).end
        while at < end:
            found = self.hour_of(at)
            yield found
            at = found.end

    def hour_of(self, at: datetime) -> Slice:
        """The hour of the zone in which an instant is, as far as the period covers it."""
        label = self._label(at)
        start = _quarter(at)
        while self._label(start - _QUARTER) == label:
            start -= _QUARTER
        end = _quarter(at) + _QUARTER
        while self._label(end) == label:
            end += _QUARTER
        return Slice(max(start, self.start), min(end, self.end), label[:10], label)

    def _label(self, at: datetime) -> str:
        """With the offset of the instant itself: the hour's first minute may have had another."""
        local = at.astimezone(self.zone).isoformat(timespec="minutes")
        return f"{local[:14]}00{local[16:]}"


def _quarter(at: datetime) -> datetime:
    return at - timedelta(minutes=at.minute % 15, seconds=at.second, microseconds=at.microsecond)


def zone_of(name: str) -> ZoneInfo:
    """The time zone of an IANA name; raises PeriodError with the one that was probably meant."""
    try:
        return ZoneInfo(_ZONE.validate_python(name))
    except ValidationError as error:
        raise PeriodError(str(error.errors()[0]["ctx"]["error"])) from None


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """The first instant of a day in its zone, also where the clocks skip midnight."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def month(text: str, zone: ZoneInfo) -> Period:
    """A calendar month, written 2026-11."""
    found = _MONTH.fullmatch(text)
    if found is None or not 1 <= int(found[2]) <= 12 or not 1 <= int(found[1]) < 9999:
        raise PeriodError(f"{text!r} is no month. Write it as 2026-11.")
    first = date(int(found[1]), int(found[2]), 1)
    after = (first + timedelta(days=31)).replace(day=1)
    try:
        return Period(midnight(first, zone), midnight(after, zone), zone)
    except OverflowError:
        raise PeriodError(f"{text!r} begins before the year 1. Write it as 2026-11.") from None


def today(now: datetime, zone: ZoneInfo) -> Period:
    """From the last midnight of the zone until now."""
    return Period(midnight(now.astimezone(zone).date(), zone), now, zone)


def last(text: str, now: datetime, zone: ZoneInfo) -> Period:
    """So many hours, days or weeks until now, written 24h, 7d, 4w. A day ago is the same time of the zone's day before."""
    found = _LAST.fullmatch(text)
    if found is None:
        raise PeriodError(f"{text!r} is no length of time. Write it as 24h, 7d or 4w.")
    number, unit = int(found[1]), found[2]
    if unit == "h":
        return Period(now - timedelta(hours=number), now, zone)
    return Period((now.astimezone(zone) - timedelta(days=number * (7 if unit == "w" else 1))).astimezone(UTC), now, zone)


def instant(text: str, zone: ZoneInfo) -> datetime:
    """An instant with its zone, or a date: the midnight of the report's zone with which it begins."""
    try:
        if _DATE.fullmatch(text):
            return midnight(date.fromisoformat(text), zone)
        # A plus sign in a query that was not quoted arrives as a space.
        return parse_instant(text.replace(" ", "+"))
    except (ValueError, OverflowError) as error:
        what = "has no time zone" if "zone" in str(error) else "is no instant"
        raise PeriodError(f"{text!r} {what}. Write it as 2026-11-20 or 2026-11-20T02:00:00Z.") from None


def between(start: str | None, end: str | None, now: datetime, zone: ZoneInfo) -> Period:
    """From `start` (else the last midnight) up to but not including `end` (else now)."""
    first = today(now, zone).start if start is None else instant(start, zone)
    after = now if end is None else instant(end, zone)
    if after <= first and not start is end is None:
        earlier, later = start or "the last midnight", end or "now"
        raise PeriodError(f"{later} is not after {earlier}, so nothing lies between. Begin with the earlier one.")
    return Period(first, after, zone)
