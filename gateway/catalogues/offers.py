"""Offers: what a catalogue says a model costs, as exact rates over the minutes of a week in UTC.

Two offers, or an offer and one of our cards, are the same price when their weeks are equal, however either is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Context, Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.money import MoneyError, Rates, exact_nano
from gateway.prices import DAYS, Card

DAY = 1440
WEEK = 7 * DAY
# Digits beyond which a price is the noise of binary floats: 1.6000000000000001e-06.
SIGNIFICANT = 12
# Powers of ten of dollars per token beyond which nothing is a price.
LEAST, MOST = -40, 6
# A Monday at midnight UTC; weeks are alike, but for the days on which clocks change.
MONDAY = datetime(2026, 1, 5, tzinfo=UTC)

Week = tuple[tuple[int, Rates], ...]
"""Rates of a week: (minute since Monday 00:00 UTC, rates from then on), the first at minute 0, neighbours differ."""


class Unusable(ValueError):
    """A price that no card can state, or that nobody should take unseen; the text says why."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One model's price in a catalogue. `key`: its name there; `host` and `model`: ours. `notes` are for the reviewer.

    `states_hits`: whether it has a price for cached tokens; where it has none, its week has the price of others for them.
    """

    key: str
    host: str
    model: str
    week: Week
    notes: tuple[str, ...] = ()
    states_hits: bool = True


@dataclass(frozen=True, slots=True)
class Flagged:
    """An entry of a catalogue that is no offer, and why."""

    key: str
    host: str
    model: str
    reason: str


def week_of(rates_at: Callable[[int], Rates]) -> Week:
    """The week of a rule that is asked for every minute."""
    found: list[tuple[int, Rates]] = []
    for minute in range(WEEK):
        rates = rates_at(minute)
        if not found or found[-1][1] != rates:
            found.append((minute, rates))
    return tuple(found)


def without_hits(week: Week) -> Week:
    """The same week where cached tokens cost what others do."""
    return tuple((start, Rates(rates.cache_miss, rates.cache_miss, rates.output)) for start, rates in week)


def constant(rates: Rates) -> Week:
    return ((0, rates),)


def week_of_card(card: Card) -> Week:
    """A card's prices on days that no calendar excepts: catalogues know no holidays."""
    if not card.windows:
        return constant(card.rates)

    def rates_at(minute: int) -> Rates:
        local = (MONDAY + timedelta(minutes=minute)).astimezone(card.zone)
        second = local.hour * 3600 + local.minute * 60
        for window in card.windows:
            if local.weekday() in window.days and any(start <= second < end for start, end in window.spans):
                return window.band.rates
        return card.rates

    return week_of(rates_at)


@dataclass(frozen=True, slots=True)
class Shape:
    """A week as a card writes it: the standard band, and windows of (name, days, hours, rates)."""

    standard: Rates
    windows: tuple[tuple[str, tuple[str, ...], tuple[str, ...], Rates], ...] = ()

    @property
    def dearer(self) -> frozenset[str]:
        """The windows in which something costs more than outside."""
        return frozenset(name for name, _, _, rates in self.windows if rates.at_least(self.standard) != self.standard)


def shape_of(week: Week) -> Shape:
    """The band that covers most of the week is the standard; the others are windows of it."""
    spans = list(_spans(week))
    lengths: dict[Rates, int] = {}
    for start, end, rates in spans:
        lengths[rates] = lengths.get(rates, 0) + end - start
    standard = max(lengths, key=lambda rates: lengths[rates])
    windows = [window for rates in lengths if rates != standard for window in _windows(rates, spans)]
    names: list[str] = []
    for rates, _, _ in windows:
        kind = "peak" if rates.at_least(standard) != standard else "off-peak"
        names.append(kind if kind not in names else f"{kind}-{len(names) + 1}")
    return Shape(standard, tuple((name, days, hours, rates) for name, (rates, days, hours) in zip(names, windows, strict=True)))


def _spans(week: Week) -> Iterator[tuple[int, int, Rates]]:
    """(start, end, rates) within one day each."""
    ends = [start for start, _ in week[1:]] + [WEEK]
    for (start, rates), end in zip(week, ends, strict=True):
        while start < end:
            stop = min(end, (start // DAY + 1) * DAY)
            yield start, stop, rates
            start = stop


def _windows(rates: Rates, spans: list[tuple[int, int, Rates]]) -> Iterator[tuple[Rates, tuple[str, ...], tuple[str, ...]]]:
    """One window for all days with the same hours."""
    hours: dict[int, tuple[str, ...]] = {}
    for start, end, found in spans:
        if found == rates:
            day = start // DAY
            hours[day] = (*hours.get(day, ()), f"{_clock(start - day * DAY)}-{_clock(end - day * DAY)}")
    for same in dict.fromkeys(hours.values()):
        yield rates, tuple(DAYS[day] for day, own in hours.items() if own == same), same


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


# ---- figures


def number(text: str) -> Decimal | str:
    """A number of a catalogue, exactly; the text itself where no decimal holds it, which is then no price."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return text


@dataclass(slots=True)
class Reader:
    """Reads the figures of one entry, US dollars per token, to nano per million tokens. `round_noise`: take 1.6000000000000001 for 1.6."""

    round_noise: bool = False
    notes: tuple[str, ...] = ()

    def rate(self, name: str, value: Any) -> int:
        """Raises Unusable for what is no exact, non-negative price."""
        if isinstance(value, bool) or not isinstance(value, (Decimal, int)):
            raise Unusable(f"`{name}` is no number{f': {value!s:.40}' if isinstance(value, str) else ''}")
        exact = Decimal(value)
        if not exact.is_finite() or exact < 0:
            raise Unusable(f"`{name}` is no price")
        if exact and not LEAST <= exact.adjusted() <= MOST:
            raise Unusable(f"`{name}` is no price: {value!s:.40}")
        exact = exact.scaleb(6)
        text = format(exact, "f")
        try:
            return exact_nano(text)
        except MoneyError:
            return self._noisy(name, exact, text)

    def _noisy(self, name: str, exact: Decimal, text: str) -> int:
        rounded = format(Context(prec=SIGNIFICANT).plus(exact), "f")
        try:
            nano = exact_nano(rounded)
        except MoneyError:
            raise Unusable(f"`{name}` is {text} per million, which is not exact in nano") from None
        if not self.round_noise:
            raise Unusable(f"`{name}` is {text} per million: probably float noise for {_short(rounded)}. --round-noise takes that")
        self.notes = (*self.notes, f"{_short(rounded)} was {text} in the catalogue")
        return nano


def _short(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def is_free(rates: Rates) -> bool:
    """Zero in and out: catalogues write what is free and what is not known alike."""
    return rates.cache_miss == 0 and rates.output == 0


def fixed_zone(name: Any) -> timezone:
    """A zone whose clocks never change, as its offset; raises Unusable for any other."""
    try:
        zone = ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        raise Unusable(f"{name!r} is no time zone") from None
    offsets = {(MONDAY + timedelta(days=days)).astimezone(zone).utcoffset() for days in range(0, 366, 7)}
    offset = offsets.pop()
    if offsets or offset is None:
        raise Unusable(f"the clocks of {name} change: its windows are no fixed hours of UTC")
    return timezone(offset)
