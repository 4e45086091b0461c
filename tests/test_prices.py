"""Prices: the band of every instant, the shipped cards against the published vectors, dearest bands, own hardware, conversion."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.calendars import Calendar
from gateway.clock import parse_instant
from gateway.errors import PriceUnknown
from gateway.money import Rates, exact_nano
from gateway.policies import Policies, default_folder, load
from gateway.prices import Band, Card, CardRow, Prices

PRO, FLASH, OLD_FLASH = "deepseek-v4-pro", "deepseek-flash", "deepseek-v4-flash"
CHAT, REASONER = "deepseek-chat", "deepseek-reasoner"


@pytest.fixture(scope="module")
def shipped() -> Policies:
    return load(default_folder())


def at(text: str) -> datetime:
    return parse_instant(text if "Z" in text else f"{text}Z")


def price(policies: Policies, model: str, instant: str, currency: str) -> tuple[int, int, int]:
    band = policies.prices.card("deepseek", model, currency, at(instant)).band(at(instant))
    return band.rates.cache_hit, band.rates.cache_miss, band.rates.output


def nano(text: str) -> tuple[int, ...]:
    return tuple(exact_nano(part) for part in text.split("/"))


PRO_OFF, PRO_PEAK, PRO_FLAT = "0.022/0.66/1.98", "0.044/1.32/3.96", "0.003625/0.435/0.87"
V4_FLAT, V4_OFF, V4_PEAK = "0.0028/0.14/0.28", "0.007/0.22/0.66", "0.014/0.44/1.32"
FLASH_OFF, FLASH_PEAK = "0.003/0.15/0.60", "0.006/0.30/1.20"


@pytest.mark.parametrize(
    ("model", "instant", "usd"),
    [
        # Published vectors.
        (PRO, "2026-07-15T02:00", PRO_FLAT),
        (PRO, "2026-07-15T12:00", PRO_FLAT),
        (PRO, "2026-08-16T20:00", PRO_OFF),
        (PRO, "2026-10-01T02:00", PRO_OFF),
        (PRO, "2026-11-20T02:00", PRO_PEAK),
        (PRO, "2026-11-21T02:00", PRO_OFF),
        # Edges of the scheme, its weekdays and holidays.
        (PRO, "2026-08-16T15:59", PRO_FLAT),
        (PRO, "2026-08-16T15:59:59.999999", PRO_FLAT),
        (PRO, "2026-08-16T16:00", PRO_OFF),
        (PRO, "2026-08-17T01:00", PRO_PEAK),
        (PRO, "2026-08-22T02:00", PRO_PEAK),
        (PRO, "2026-08-23T02:00", PRO_OFF),
        (PRO, "2026-09-25T02:00", PRO_OFF),
        (PRO, "2026-09-26T02:00", PRO_OFF),
        (PRO, "2026-09-28T02:00", PRO_PEAK),
        (PRO, "2026-10-07T09:00", PRO_OFF),
        (PRO, "2026-10-08T02:00", PRO_PEAK),
        (PRO, "2026-10-10T02:00", PRO_OFF),
        # Edges of the hours, to the second and below.
        (PRO, "2026-11-20T00:59:59", PRO_OFF),
        (PRO, "2026-11-20T01:00", PRO_PEAK),
        (PRO, "2026-11-20T03:59", PRO_PEAK),
        (PRO, "2026-11-20T03:59:59.999999", PRO_PEAK),
        (PRO, "2026-11-20T04:00", PRO_OFF),
        (PRO, "2026-11-20T05:00", PRO_OFF),
        (PRO, "2026-11-20T05:59:59", PRO_OFF),
        (PRO, "2026-11-20T06:00", PRO_PEAK),
        (PRO, "2026-11-20T09:59", PRO_PEAK),
        (PRO, "2026-11-20T09:59:59", PRO_PEAK),
        (PRO, "2026-11-20T10:00", PRO_OFF),
        # Flash, and the ids that are billed like it.
        (OLD_FLASH, "2026-05-01T02:00", V4_FLAT),
        (OLD_FLASH, "2026-08-17T02:00", V4_PEAK),
        (OLD_FLASH, "2026-09-10T03:59", V4_PEAK),
        (OLD_FLASH, "2026-09-10T03:59:59", V4_PEAK),
        (OLD_FLASH, "2026-09-10T04:00", FLASH_OFF),
        (OLD_FLASH, "2026-09-10T06:00", FLASH_PEAK),
        ("deepseek-v4-flash-vision-exp", "2026-09-10T03:59", V4_PEAK),
        ("deepseek-v4-flash-vision-exp", "2026-09-10T04:00", FLASH_OFF),
        (FLASH, "2026-09-10T04:00", FLASH_OFF),
        (FLASH, "2026-11-20T02:00", FLASH_PEAK),
        (FLASH, "2026-11-21T02:00", FLASH_OFF),
        # R1, its night discount, and what its names became.
        (REASONER, "2025-01-20T12:00", "0.14/0.55/2.19"),
        (REASONER, "2025-03-01T16:29:59", "0.14/0.55/2.19"),
        (REASONER, "2025-03-01T16:30", "0.035/0.135/0.55"),
        (REASONER, "2025-03-02T00:29:59", "0.035/0.135/0.55"),
        (REASONER, "2025-03-02T00:30", "0.14/0.55/2.19"),
        (CHAT, "2025-01-25T12:00", "0.014/0.14/0.28"),
        (CHAT, "2025-03-01T12:00", "0.07/0.27/1.10"),
        (CHAT, "2025-03-01T23:59:59", "0.035/0.135/0.55"),
        (CHAT, "2025-09-05T15:59:59", "0.07/0.27/1.10"),
        (CHAT, "2025-09-05T16:00", "0.07/0.56/1.68"),
        (REASONER, "2025-09-05T16:00", "0.07/0.56/1.68"),
        (REASONER, "2025-09-05T17:00", "0.07/0.56/1.68"),
        (REASONER, "2026-01-15T12:00", "0.028/0.28/0.42"),
        (CHAT, "2026-07-24T15:58:59", V4_FLAT),
    ],
)
def test_shipped_prices_in_dollars(shipped: Policies, model: str, instant: str, usd: str) -> None:
    assert price(shipped, model, instant, "USD") == nano(usd)


@pytest.mark.parametrize(
    ("model", "instant", "cny"),
    [
        (REASONER, "2025-01-20T12:00", "1/4/16"),
        (REASONER, "2025-03-01T16:30", "0.25/1/4"),
        (REASONER, "2025-03-02T00:30", "1/4/16"),
        (CHAT, "2025-03-01T12:00", "0.5/2/8"),
        (CHAT, "2025-03-01T17:00", "0.25/1/4"),
        (REASONER, "2026-01-15T12:00", "0.2/2/3"),
        (OLD_FLASH, "2026-05-01T02:00", "0.02/1/2"),
        (PRO, "2026-07-15T02:00", "0.025/3/6"),
        (PRO, "2026-08-16T15:59:59", "0.025/3/6"),
        (PRO, "2026-08-16T20:00", "0.15/4.5/13.5"),
        (PRO, "2026-08-17T01:00", "0.30/9/27"),
        (PRO, "2026-10-01T02:00", "0.15/4.5/13.5"),
        (PRO, "2026-11-20T02:00", "0.30/9/27"),
        (PRO, "2026-11-21T02:00", "0.15/4.5/13.5"),
        (OLD_FLASH, "2026-08-17T01:00", "0.10/3/9"),
        (OLD_FLASH, "2026-09-10T03:59", "0.10/3/9"),
        (OLD_FLASH, "2026-09-10T04:00", "0.02/1/4"),
        (FLASH, "2026-11-20T09:59", "0.04/2/8"),
        (FLASH, "2026-11-20T10:00", "0.02/1/4"),
    ],
)
def test_shipped_prices_in_yuan_are_a_list_of_their_own(shipped: Policies, model: str, instant: str, cny: str) -> None:
    assert price(shipped, model, instant, "CNY") == nano(cny)


@pytest.mark.parametrize("currency", ["USD", "CNY"])
@pytest.mark.parametrize(
    ("first", "days", "hours"),
    [
        ("2026-11-16", 7, 35),
        ("2026-10-01", 7, 0),
        ("2026-08-17", 7, 42),
        ("2026-09-21", 7, 28),
        ("2026-09-28", 7, 21),
        ("2026-10-05", 7, 14),
    ],
)
def test_peak_hours_of_a_week(shipped: Policies, currency: str, first: str, days: int, hours: int) -> None:
    start = at(f"{first}T00:00")
    quarters = [start + timedelta(minutes=15 * step) for step in range(days * 96)]

    peaks = [instant for instant in quarters if shipped.prices.card("deepseek", PRO, currency, instant).band(instant).window == "peak"]

    assert len(peaks) == hours * 4


@pytest.mark.parametrize("currency", ["USD", "CNY"])
def test_every_peak_price_is_twice_the_other(shipped: Policies, currency: str) -> None:
    cards = [card for card in shipped.prices.cards() if card.host == "deepseek" and card.currency == currency and card.start.year == 2026]
    peaks = [(card, window.band.rates) for card in cards for window in card.windows]

    assert peaks
    for card, peak in peaks:
        assert peak == Rates(2 * card.rates.cache_hit, 2 * card.rates.cache_miss, 2 * card.rates.output), card.name


@pytest.mark.parametrize(
    ("host", "model", "currency", "instant"),
    [
        ("deepseek", CHAT, "USD", "2026-07-24T15:59"),
        ("deepseek", REASONER, "USD", "2026-11-20T02:00"),
        ("deepseek", PRO, "USD", "2026-04-23T12:00"),
        ("deepseek", PRO, "EUR", "2026-11-20T02:00"),
        ("deepseek", "deepseek-v9", "USD", "2026-11-20T02:00"),
        ("nowhere", PRO, "USD", "2026-11-20T02:00"),
    ],
)
def test_an_instant_without_a_card_has_no_price(shipped: Policies, host: str, model: str, currency: str, instant: str) -> None:
    with pytest.raises(PriceUnknown) as refused:
        shipped.prices.card(host, model, currency, at(instant))

    for part in (host, model, currency, instant[:10]):
        assert part in str(refused.value)


def test_a_missing_price_names_the_currencies_that_there_are(shipped: Policies) -> None:
    with pytest.raises(PriceUnknown, match="there is one in CNY and USD"):
        shipped.prices.card("deepseek", PRO, "EUR", at("2026-11-20T02:00"))


def test_currencies_are_those_of_the_instant(shipped: Policies) -> None:
    assert shipped.prices.currencies("deepseek", PRO, at("2026-11-20T02:00")) == ("CNY", "USD")
    assert shipped.prices.currencies("deepseek", PRO, at("2020-01-01T02:00")) == ()
    assert shipped.prices.currencies("deepseek", "deepseek-v9", at("2026-11-20T02:00")) == ()


def test_o1_costs_the_same_for_every_prompt_token(shipped: Policies) -> None:
    card = shipped.prices.baseline(at("2026-11-20T02:00"))

    assert card is not None
    assert card.rates == Rates(*nano("15/15/60"))
    assert shipped.prices.baseline(at("2026-11-20T02:00"), "o2") is None
    assert shipped.prices.baseline(at("2026-11-20T02:00"), PRO) is None


SCHEME = st.datetimes(datetime(2026, 8, 15, tzinfo=None), datetime(2026, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


@given(start=SCHEME, seconds=st.integers(0, 3 * 3600), model=st.sampled_from([PRO, OLD_FLASH]))
def test_the_dearest_band_is_that_of_the_dearest_minute(shipped: Policies, start: datetime, seconds: int, model: str) -> None:
    end = start + timedelta(seconds=seconds)
    minute = start.replace(second=0, microsecond=0)
    instants = [start, *(minute + timedelta(minutes=step) for step in range(1, seconds // 60 + 2))]
    reached = [instant for instant in instants if start <= instant <= end]

    dearest = shipped.prices.dearest("deepseek", model, "USD", start, end)

    bands = [shipped.prices.card("deepseek", model, "USD", instant).band(instant).rates for instant in reached]
    assert dearest.rates.output == max(rates.output for rates in bands)
    assert dearest.rates.cache_miss == max(rates.cache_miss for rates in bands)


# Cards made for a rule each


def row(**changes: Any) -> CardRow:
    base = {
        "card": "c1",
        "host": "h",
        "models": ["m"],
        "currency": "USD",
        "from": "2026-01-01T00:00:00Z",
        "per_million": {"cache_hit": "1", "cache_miss": "10", "output": "20"},
        "source": "test",
        "checked": "2026-01-01",
    }
    return CardRow.model_validate({key: value for key, value in {**base, **changes}.items() if value is not None})


def window(**changes: Any) -> dict[str, Any]:
    return {"name": "peak", "hours": ["01:00-04:00"], "zone": "UTC", "per_million": {"cache_miss": "20", "output": "40"}, **changes}


def prices(*rows: CardRow, calendars: tuple[Calendar, ...] = ()) -> Prices:
    return Prices(row.card_of({calendar.name: calendar for calendar in calendars}) for row in rows)


def only(card_row: CardRow, *calendars: Calendar) -> Card:
    return card_row.card_of({calendar.name: calendar for calendar in calendars})


HOLIDAYS = Calendar("holidays", frozenset({date(2026, 3, 3)}), date(2026, 12, 31), "test")


@pytest.mark.parametrize(
    ("changes", "instant", "name"),
    [
        ({}, "2026-03-02T01:00", "peak"),
        ({}, "2026-03-02T04:00", "standard"),
        ({"hours": ["22:00-24:00"]}, "2026-03-02T23:59:59.999999", "peak"),
        ({"hours": ["22:00-24:00"]}, "2026-03-03T00:00", "standard"),
        ({"hours": ["00:00-24:00"]}, "2026-03-03T00:00", "peak"),
        ({"hours": ["00:00-01:00", "05:00-06:00"]}, "2026-03-02T05:30", "peak"),
        ({"hours": ["00:00-01:00", "05:00-06:00"]}, "2026-03-02T01:30", "standard"),
        ({"days": ["mon"]}, "2026-03-02T02:00", "peak"),
        ({"days": ["mon"]}, "2026-03-03T02:00", "standard"),
        ({"days": ["sun"]}, "2026-03-01T02:00", "peak"),
        ({"except": "holidays"}, "2026-03-03T02:00", "standard"),
        ({"except": "holidays"}, "2026-03-04T02:00", "peak"),
    ],
)
def test_a_window_applies_on_its_days_and_hours(changes: dict[str, Any], instant: str, name: str) -> None:
    card = only(row(windows=[window(**changes)]), HOLIDAYS)

    assert card.band(at(instant)).window == name


@pytest.mark.parametrize(
    ("instant", "name"),
    [
        # 20:00-23:00 UTC of the day before in UTC's own count of days.
        ("2026-03-01T20:00", "peak"),
        ("2026-03-01T19:59:59", "standard"),
        ("2026-03-07T20:00", "standard"),
        ("2026-03-02T21:00", "standard"),
    ],
)
def test_weekday_and_holiday_are_those_of_the_windows_zone(instant: str, name: str) -> None:
    working = ["mon", "tue", "wed", "thu", "fri"]
    card = only(row(windows=[window(hours=["04:00-07:00"], zone="Asia/Shanghai", days=working, **{"except": "holidays"})]), HOLIDAYS)

    assert card.band(at(instant)).window == name


def test_hours_follow_the_clocks_of_a_zone_with_summer_time() -> None:
    card = only(row(windows=[window(hours=["02:00-03:00"], zone="Europe/Berlin")]))

    assert card.band(at("2026-01-15T01:30")).window == "peak"
    assert card.band(at("2026-07-15T00:30")).window == "peak"
    assert card.band(at("2026-10-25T00:30")).window == "peak"
    assert card.band(at("2026-10-25T01:30")).window == "peak"
    assert card.band(at("2026-10-25T02:30")).window == "standard"


def test_no_cached_price_means_that_a_hit_costs_as_a_miss() -> None:
    assert row(per_million={"cache_miss": "10", "output": "20"}).rates() == Rates(*nano("10/10/20"))
    assert row(per_million={"cache_hit": "0", "cache_miss": "10", "output": "20"}).rates() == Rates(*nano("0/10/20"))


def test_a_card_ends_where_the_next_one_of_its_model_begins() -> None:
    later = row(card="c2", models=["m"], **{"from": "2026-02-01T00:00:00Z"})
    found = prices(later, row(models=["m", "n"]))

    assert found.card("h", "m", "USD", at("2026-01-31T23:59:59.999999")).name == "c1"
    assert found.card("h", "m", "USD", at("2026-02-01T00:00")).name == "c2"
    assert found.card("h", "n", "USD", at("2026-02-01T00:00")).name == "c1"
    assert found.card("h", "m", "USD", at("2026-01-01T00:00")).end == at("2026-02-01T00:00")


def test_a_card_with_an_end_leaves_nothing_behind_it() -> None:
    found = prices(row(until="2026-02-01T00:00:00Z"))

    assert found.card("h", "m", "USD", at("2026-01-31T23:59:59")).name == "c1"
    with pytest.raises(PriceUnknown):
        found.card("h", "m", "USD", at("2026-02-01T00:00"))


CHEAP_NIGHT = window(name="night", hours=["01:00-04:00"], per_million={"cache_hit": "0.5", "cache_miss": "5", "output": "10"})
DEARER = row(card="c2", per_million={"cache_hit": "2", "cache_miss": "8", "output": "30"}, **{"from": "2026-02-01T00:00:00Z"})


@pytest.mark.parametrize(
    ("rows", "start", "seconds", "band", "why"),
    [
        ([row()], "2026-01-05T00:00", 10**6, "standard 1/10/20", "one price for ever"),
        ([row(windows=[window()])], "2026-01-05T00:50", 599, "standard 1/10/20", "over before the peak"),
        ([row(windows=[window()])], "2026-01-05T00:50", 600, "peak 20/20/40", "it can end as the peak begins"),
        ([row(windows=[window()])], "2026-01-05T03:59:59.5", 60, "peak 20/20/40", "it can end before the peak does"),
        ([row(windows=[window()])], "2026-01-05T23:00", 2 * 86400, "peak 20/20/40", "a peak of the next day"),
        ([row(windows=[window(hours=["00:00-01:00"])])], "2026-01-05T23:59:59.5", 1, "peak 20/20/40", "a peak from midnight"),
        ([row(windows=[CHEAP_NIGHT])], "2026-01-05T01:00", 600, "night 0.5/5/10", "only the night can be reached"),
        ([row(windows=[CHEAP_NIGHT])], "2026-01-05T03:55", 600, "standard 1/10/20", "the night can end before it does"),
        ([row(tier_at="start", windows=[window()])], "2026-01-05T00:50", 600, "standard 1/10/20", "the start decides"),
        ([row(), DEARER], "2026-01-31T23:59:59", 1, "standard 2/10/30", "the dearer of each class across cards"),
        ([row(), DEARER], "2026-01-31T23:59:58", 1, "standard 1/10/20", "over before the next card"),
        ([row(until="2026-02-01T00:00:00Z")], "2026-01-31T23:59:58", 600, "standard 1/10/20", "the last card goes on"),
        ([row(windows=[window(zone="Europe/Berlin")])], "2026-10-25T00:00", 7200, "peak 20/20/40", "clocks change in between"),
        ([row(windows=[window(hours=["02:00-02:30"], zone="Europe/Berlin")])], "2026-10-25T00:45", 1500, "peak 20/20/40", "02:10 again"),
        ([row(windows=[window(hours=["00:00-01:00"])]), DEARER], "2026-01-31T23:59:59", 1, "standard 2/10/30", "a peak cut off"),
    ],
)
def test_the_dearest_band_that_can_be_reached(rows: list[CardRow], start: str, seconds: int, band: str, why: str) -> None:
    name, rates = band.split()

    dearest = prices(*rows).dearest("h", "m", "USD", at(start), at(start) + timedelta(seconds=seconds))

    assert dearest == Band(name, Rates(*nano(rates))), why


@pytest.mark.parametrize(
    ("tier_at", "started", "completed", "card", "name", "decided"),
    [
        ("completion", "2026-01-05T00:59", "2026-01-05T01:00", "c1", "peak", "2026-01-05T01:00"),
        ("start", "2026-01-05T00:59", "2026-01-05T01:00", "c1", "standard", "2026-01-05T00:59"),
        ("completion", "2026-01-31T23:59", "2026-02-01T00:00", "c2", "standard", "2026-02-01T00:00"),
        ("start", "2026-01-31T23:59", "2026-02-01T00:00", "c1", "standard", "2026-01-31T23:59"),
        ("completion", "2026-02-28T23:59", "2026-03-01T00:01", "c2", "standard", "2026-03-01T00:01"),
    ],
)
def test_the_card_says_which_instant_decides(tier_at: str, started: str, completed: str, card: str, name: str, decided: str) -> None:
    later = row(card="c2", until="2026-03-01T00:00:00Z", **{"from": "2026-02-01T00:00:00Z"})
    found = prices(row(tier_at=tier_at, windows=[window()]), later)

    charged, band, instant = found.settled("h", "m", "USD", at(started), at(completed))

    assert (charged.name, band.window, instant) == (card, name, at(decided))


# Edges of minutes, windows and cards (one of which begins within a minute, one of which ends), and a moment on either side of each.
EDGES = ("2026-01-05T01:00", "2026-01-05T04:00", "2026-01-31T23:59", "2026-02-01T00:00:30", "2026-02-01T00:01", "2026-02-28T23:59:10")
MOMENTS = [at(edge) + timedelta(microseconds=step) for edge in EDGES for step in (-1, 0, 1, 10**7, 59 * 10**6)]
CHANGES = (
    row(windows=[window()]),
    row(card="c2", tier_at="start", windows=[window()], until="2026-02-28T23:59:10Z", **{"from": "2026-02-01T00:00:30Z"}),
)


@pytest.mark.parametrize("seconds", [0, 30, 600])
def test_what_is_remembered_of_a_price_is_what_a_fresh_look_finds(seconds: int) -> None:
    kept, line, length = prices(*CHANGES), ("h", "m", "USD"), timedelta(seconds=seconds)
    # One after the other in every order: a clock may be set back.
    for moment in [moment for pair in product(MOMENTS, MOMENTS) for moment in pair]:
        if moment >= at(EDGES[-1]):
            with pytest.raises(PriceUnknown):
                kept.priced(*line, moment)
            continue
        found, card = kept.priced(*line, moment), kept.card(*line, moment)
        assert (found.card, found.band) == (card, card.band(moment))
        assert found.since <= moment < found.until <= found.since + timedelta(minutes=1)
        dearest = kept.dearest_within(found, "m", seconds)
        assert dearest == dearest.at_least(kept.dearest(*line, moment, moment + length).rates)
        assert dearest == kept.dearest(*line, found.since, found.until + length).rates


def test_every_request_is_charged_at_the_instant_that_its_first_card_names() -> None:
    kept, line, last = prices(*CHANGES), ("h", "m", "USD"), at(EDGES[-1])
    for started, completed in product(MOMENTS, MOMENTS):
        if started < last:
            first = kept.card(*line, started)
            decides = completed if first.tier_at == "completion" else started
            # A card that has ended goes on for what began under it.
            card = first if decides >= last else kept.card(*line, decides)
            assert kept.settled(*line, started, completed) == (card, card.band(decides), decides)


def test_own_hardware_has_an_exact_price_rounded_up() -> None:
    engine = {"gpu_hour": "2.5", "prefill_tokens_per_second": 2200, "decode_tokens_per_second": 1100, "utilisation": "0.5"}
    rates = row(per_million=None, hardware=engine).rates()

    exact = Fraction(5, 2) * 10**15 / (3600 * 2200) / Fraction(1, 2)
    assert rates.cache_hit == 0
    assert 0 <= rates.cache_miss - exact < 1
    assert rates.cache_miss == 631_313_132
    assert rates.output == 1_262_626_263


def test_own_hardware_counts_all_gpus_and_may_price_a_hit() -> None:
    engine = {"gpu_hour": "0.36", "gpus": 8, "prefill_tokens_per_second": 800, "decode_tokens_per_second": 100, "cache_hit": "0.01"}

    assert row(per_million=None, hardware=engine).rates() == Rates(*nano("0.01/1/8"))


def test_own_hardware_is_compared_by_its_marginal_price_and_charged_by_the_whole_one() -> None:
    engine = {"gpu_hour": "0.36", "prefill_tokens_per_second": 100, "decode_tokens_per_second": 100}
    free = row(per_million=None, hardware=engine).card_of({})
    power = row(per_million=None, hardware={**engine, "marginal": {"cache_miss": "0.02", "output": "0.1"}}).card_of({})
    vendor = row(windows=[window()]).card_of({})
    known, peak = prices(), at("2026-06-01T02:00:00Z")

    assert free.rates == power.rates == Rates(*nano("0/1/1"))
    assert known.routing(free, peak) == Rates(0, 0, 0)
    assert known.routing(power, peak) == Rates(*nano("0/0.02/0.1"))
    assert known.routing(vendor, peak) == Rates(*nano("20/20/40"))


@pytest.mark.parametrize(
    ("changes", "path", "text"),
    [
        ({"per_million": None}, (), "either `per_million` or `hardware`"),
        ({"until": "2026-01-01T00:00:00Z"}, ("until",), "not after `from`"),
        ({"models": ["m", "n", "m"]}, ("models", 2), "`m` stands twice"),
        ({"baseline": True}, ("per_million", "cache_hit"), "a baseline has no cached price"),
        ({"windows": [window(), window(hours=["05:00-06:00"])]}, ("windows", 1, "name"), "`peak` is taken"),
        ({"windows": [window(name="standard")]}, ("windows", 0, "name"), "`standard` is taken"),
        ({"windows": [window(), window(name="b", zone="Asia/Tokyo", hours=["08:00-09:00"])]}, ("windows", 1, "zone"), "share one zone"),
        ({"windows": [window(), window(name="b", hours=["03:59-05:00"])]}, ("windows", 1, "hours", 0), "overlaps peak 01:00-04:00 on mon"),
        ({"windows": [window(hours=["01:00-04:00", "02:00-03:00"])]}, ("windows", 0, "hours", 1), "overlaps"),
    ],
)
def test_contradictions_within_a_card_are_problems(changes: dict[str, Any], path: tuple[str | int, ...], text: str) -> None:
    found = list(row(**changes).problems())

    assert [place for place, _ in found] == [path]
    assert text in found[0][1]


@pytest.mark.parametrize("utilisation", ["0", "1.1"])
def test_utilisation_is_a_share(utilisation: str) -> None:
    engine = {"gpu_hour": "1", "prefill_tokens_per_second": 1, "decode_tokens_per_second": 1, "utilisation": utilisation}

    assert [path for path, _ in row(per_million=None, hardware=engine).problems()] == [("hardware", "utilisation")]


@pytest.mark.parametrize(
    "changes",
    [
        {"windows": [window(), window(name="b", hours=["04:00-05:00"])]},
        {"windows": [window(days=["mon"]), window(name="b", days=["tue"])]},
        {"windows": [window(hours=["01:00-02:00", "02:00-03:00"])]},
        {"baseline": True, "per_million": {"cache_miss": "15", "output": "60"}},
    ],
)
def test_windows_that_only_touch_are_fine(changes: dict[str, Any]) -> None:
    assert list(row(**changes).problems()) == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"hours": ["16:30-00:30"]}, 'split it in two, "16:30-24:00" and "00:00-00:30"'),
        ({"hours": ["16:30-00:00"]}, 'write "16:30-24:00"'),
        ({"hours": ["04:00-04:00"]}, "crosses midnight"),
        ({"hours": ["1:00-4:00"]}, "is not a span of hours"),
        ({"hours": ["01:00-24:01"]}, "is not a span of hours"),
        ({"hours": ["24:00-24:00"]}, "is not a span of hours"),
        ({"hours": []}, "at least 1"),
        ({"days": ["Mon"]}, "mon"),
        ({"zone": "Asia/Bejing"}, "is not an IANA time zone"),
        ({"zone": "../etc/passwd"}, "is not an IANA time zone"),
        ({"per_million": {"cache_miss": "1.0000000001", "output": "1"}}, "not exact in nano"),
        ({"per_million": {"cache_miss": "-1", "output": "1"}}, "is not a plain decimal"),
        ({"per_million": {"cache_miss": "1e3", "output": "1"}}, "is not a plain decimal"),
        ({"per_million": {"cache_miss": 0.66, "output": "1"}}, "valid string"),
    ],
)
def test_windows_that_cannot_be_meant_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError) as refused:
        row(windows=[window(**changes)])

    assert text in str(refused.value)


def test_a_card_without_a_zone_in_its_instants_is_refused() -> None:
    with pytest.raises(ValidationError, match="has no time zone"):
        row(**{"from": "2026-01-01T00:00:00"})


def test_an_unverified_card_and_a_calendar_that_ended_are_said() -> None:
    card = only(row(verified=False, windows=[window(**{"except": "holidays"})]), HOLIDAYS)

    assert card.warnings(at("2026-06-01T00:00")) == ("card c1 rests on an unverified source: test",)
    assert len(card.warnings(at("2027-01-01T00:00"))) == 2
    assert only(row()).warnings(at("2027-01-01T00:00")) == ()


def test_cards_are_listed_with_their_time_lines() -> None:
    found = prices(row(models=["m", "n"]), DEARER)

    assert {key: [card.name for card in cards] for key, cards in _lines(found)} == {
        ("h", "m", "USD"): ["c1", "c2"],
        ("h", "n", "USD"): ["c1"],
    }
    assert sorted(card.name for card in found.cards()) == ["c1", "c1", "c2"]


def _lines(found: Prices) -> Iterator[tuple[tuple[str, str, str], tuple[Card, ...]]]:
    return found.lines()
