"""Price changes: the next one is exactly where the price looked up by itself is another, and none is missed before it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.calendars import Calendar
from gateway.clock import parse_instant
from gateway.errors import PriceUnknown
from gateway.money import NANO
from gateway.price_changes import HORIZON, next_change, price_end
from gateway.prices import CardRow, Prices

CALENDARS = {
    "holidays": Calendar("holidays", frozenset({date(2026, 3, 27), date(2026, 3, 28), date(2026, 3, 29)}), date(2026, 12, 31), "law")
}
CARD: Mapping[str, Any] = {
    "card": "first", "host": "h", "models": ["m"], "currency": "USD", "from": "2026-01-01T00:00:00Z",
    "per_million": {"cache_hit": "0.1", "cache_miss": "1", "output": "2"}, "source": "s", "checked": "2026-01-01",
}  # fmt: skip
DEAR = {"cache_hit": "0.2", "cache_miss": "2", "output": "4"}
PEAK: Mapping[str, Any] = {"name": "peak", "hours": ["09:00-12:00", "14:00-24:00"], "zone": "UTC", "per_million": DEAR}
NIGHT: Mapping[str, Any] = {"name": "night", "hours": ["00:00-02:30"], "zone": "UTC", "per_million": {**DEAR, "output": "1"}}


def prices(*cards: Mapping[str, Any]) -> Prices:
    return Prices(CardRow.model_validate({**CARD, **card}).card_of(CALENDARS) for card in cards)


def march(text: str) -> datetime:
    return parse_instant(f"2026-03-{text}")


LEAP: Mapping[str, Any] = {**PEAK, "hours": ["02:30-04:00"], "zone": "Europe/Berlin"}
NEXT: Mapping[str, Any] = {"card": "next", "from": "2026-03-10T04:00:00Z"}
# Cards, an instant of March, and the next change with the window and the output price from then on.
CASES: list[tuple[str, list[Mapping[str, Any]], str, str | None, str, int]] = [
    ("one card without windows", [CARD], "03T03:00:00Z", None, "", 0),
    ("a window begins", [{"windows": [PEAK]}], "03T03:00:00Z", "03T09:00:00Z", "peak", 4),
    ("its start is its own", [{"windows": [PEAK]}], "03T09:00:00Z", "03T12:00:00Z", "standard", 2),
    ("a moment before", [{"windows": [PEAK]}], "03T08:59:59.999999Z", "03T09:00:00Z", "peak", 4),
    ("24:00 is midnight", [{"windows": [PEAK]}], "03T20:00:00Z", "04T00:00:00Z", "standard", 2),
    ("from one window into the next", [{"windows": [PEAK, NIGHT]}], "03T20:00:00Z", "04T00:00:00Z", "night", 1),
    ("only on Mondays", [{"windows": [{**PEAK, "days": ["mon"]}]}], "03T03:00:00Z", "09T09:00:00Z", "peak", 4),
    ("not on holidays", [{"windows": [{**PEAK, "except": "holidays"}]}], "26T23:59:00Z", "27T00:00:00Z", "standard", 2),
    ("after the holidays", [{"windows": [{**PEAK, "except": "holidays"}]}], "27T00:00:00Z", "30T09:00:00Z", "peak", 4),
    ("Shanghai's hours", [{"windows": [{**PEAK, "zone": "Asia/Shanghai"}]}], "02T23:00:00Z", "03T01:00:00Z", "peak", 4),
    ("New York's midnight", [{"windows": [{**PEAK, "zone": "America/New_York"}]}], "03T20:00:00Z", "04T05:00:00Z", "standard", 2),
    ("it begins in an hour that the clocks leave out", [{"windows": [LEAP]}], "29T00:15:00Z", "29T01:00:00Z", "peak", 4),
    ("a new card", [CARD, {**NEXT, "per_million": DEAR}], "03T03:00:00Z", "10T04:00:00Z", "standard", 4),
    ("a new card at the same price", [CARD, NEXT], "03T03:00:00Z", None, "", 0),
    ("a card that ends", [{"until": "2026-03-10T04:00:00Z"}], "03T03:00:00Z", "10T04:00:00Z", "", 0),
    ("a price that begins", [{"from": "2026-03-10T04:00:00Z"}], "03T03:00:00Z", "10T04:00:00Z", "standard", 2),
    ("further off than is looked", [{"until": "2026-05-10T04:00:00Z"}], "03T03:00:00Z", None, "", 0),
]


@pytest.mark.parametrize(("cards", "at", "then", "window", "output"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_next_change(cards: list[Mapping[str, Any]], at: str, then: str | None, window: str, output: int) -> None:
    found = next_change(prices(*cards), "h", "m", "USD", march(at))
    if then is None:
        assert found is None
        return
    assert found is not None
    assert found.at == march(then)
    assert (found.price is None) == (window == "")
    if found.price is not None:
        assert (found.price.window, found.price.rates.output) == (window, output * NANO)


ENDS: Mapping[str, Any] = {"until": "2026-05-10T04:00:00Z"}
# Cards, and when the price ends that is in force on the 3rd of March.
ENDINGS: list[tuple[str, list[Mapping[str, Any]], str | None]] = [
    ("no end", [CARD], None),
    ("further off than the next change is looked for", [ENDS], "2026-05-10T04:00:00Z"),
    ("windows are no end", [{**ENDS, "windows": [PEAK, NIGHT]}], "2026-05-10T04:00:00Z"),
    ("a card follows, without an end", [ENDS, {"card": "next", "from": "2026-05-10T04:00:00Z"}], None),
    ("a card follows, and ends", [CARD, {**NEXT, **ENDS}], "2026-05-10T04:00:00Z"),
    ("a card follows, but not at once", [ENDS, {"card": "next", "from": "2026-05-10T05:00:00Z"}], "2026-05-10T04:00:00Z"),
    ("it ended before", [{"until": "2026-03-02T00:00:00Z"}], None),
    ("it begins later", [{"from": "2026-03-10T04:00:00Z", **ENDS}], None),
]


@pytest.mark.parametrize(("cards", "end"), [case[1:] for case in ENDINGS], ids=[case[0] for case in ENDINGS])
def test_when_the_price_ends(cards: list[Mapping[str, Any]], end: str | None) -> None:
    assert price_end(prices(*cards), "h", "m", "USD", march("03T03:00:00Z")) == (None if end is None else parse_instant(end))


def test_an_hour_that_comes_twice_has_its_window_twice() -> None:
    found = prices({"windows": [{**LEAP, "hours": ["02:07-02:53"]}]})
    at, times = datetime(2026, 10, 25, tzinfo=UTC), []
    for _ in range(4):
        change = next_change(found, "h", "m", "USD", at)
        assert change is not None
        times.append(f"{at:%H:%M}")
        at = change.at
    assert [*times, f"{at:%H:%M}"] == ["00:00", "00:07", "00:53", "01:07", "01:53"]


def test_an_unknown_model_has_no_change() -> None:
    assert next_change(prices(CARD), "h", "another", "USD", datetime(2026, 3, 3, tzinfo=UTC)) is None


def known(found: Prices, at: datetime) -> Any:
    """The price looked up by itself; None where none is known."""
    try:
        band = found.card("h", "m", "USD", at).band(at)
    except PriceUnknown:
        return None
    return band.window, band.rates


TICK = timedelta(microseconds=1)
HOURS = st.sampled_from(["00:00-02:30", "01:30-04:00", "02:00-03:00", "09:00-12:00", "14:00-24:00", "00:00-24:00"])


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from(["UTC", "Asia/Shanghai", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]),
    hours=HOURS,
    days=st.lists(st.sampled_from(["mon", "tue", "wed", "thu", "fri", "sat", "sun"]), min_size=1, unique=True),
    away=st.booleans(),
    minutes=st.integers(0, 400 * 24 * 60),
)
def test_nothing_changes_before_it_and_something_does_at_it(zone: str, hours: str, days: list[str], away: bool, minutes: int) -> None:
    window = {**PEAK, "hours": [hours], "days": days, "zone": zone, **({"except": "holidays"} if away else {})}
    found = prices(
        {"windows": [window]}, {"card": "next", "from": "2026-10-25T01:17:00Z", "windows": [window], "per_million": {**DEAR, "output": "9"}}
    )
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    change = next_change(found, "h", "m", "USD", at)
    end = change.at if change is not None else at + HORIZON
    now = known(found, at)
    probes = [at + timedelta(minutes=15 * number) for number in range(int((end - at) / timedelta(minutes=15)) + 1)]
    assert all(known(found, probe) == now for probe in [*probes, end - TICK] if at <= probe < end)
    if change is not None:
        assert change.at > at
        then = known(found, change.at)
        assert then != now
        assert then == (None if change.price is None else (change.price.window, change.price.rates))
