"""Calendars: what is known, until when, and what is said beyond that."""

from __future__ import annotations

from datetime import date

import pytest

from gateway.calendars import CalendarRow

ROW = CalendarRow(calendar="cn", known_until=date(2026, 12, 31), source="notice", days=(date(2026, 10, 1), date(2026, 10, 2)))


def test_a_calendar_has_the_days_of_its_row() -> None:
    calendar = ROW.calendar_of()

    assert calendar.days == {date(2026, 10, 1), date(2026, 10, 2)}
    assert (calendar.name, calendar.source) == ("cn", "notice")


@pytest.mark.parametrize(
    ("day", "left", "warned"),
    [(date(2026, 12, 30), 1, False), (date(2026, 12, 31), 0, False), (date(2027, 1, 1), -1, True), (date(2027, 10, 1), -274, True)],
)
def test_a_day_beyond_the_known_ones_works_and_warns(day: date, left: int, warned: bool) -> None:
    calendar = ROW.calendar_of()

    assert calendar.days_left(day) == left
    assert bool(calendar.warning(day)) is warned


def test_a_warning_names_the_calendar_its_end_and_the_remedy() -> None:
    text = ROW.calendar_of().warning(date(2027, 1, 4))

    assert text == "calendar cn is known until 2026-12-31: 2027-01-04 counts as an ordinary day. Add the days of 2027"


def test_a_row_without_contradictions_has_no_problems() -> None:
    assert list(ROW.problems()) == []


def test_days_stated_twice_or_beyond_the_known_ones_are_problems() -> None:
    row = ROW.model_copy(update={"days": (date(2026, 10, 1), date(2026, 10, 1), date(2027, 1, 1))})

    assert [(path, text.partition(".")[0]) for path, text in row.problems()] == [
        (("days", 1), "2026-10-01 stands twice in `days`"),
        (("days", 2), "2027-01-01 is after `known_until` 2026-12-31"),
    ]
