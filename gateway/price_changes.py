"""Price changes: when the price of a deployment is another one next, by the edges of its windows and cards, and when it ends. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Final, NamedTuple

from gateway.money import Rates
from gateway.prices import Card, Prices

# How far is looked ahead: the longest holidays are over by then.
HORIZON: Final = timedelta(days=40)
_DAY: Final = timedelta(days=1)
_QUARTER: Final = timedelta(minutes=15)
_TICK: Final = timedelta(microseconds=1)


class Price(NamedTuple):
    """What a deployment costs at an instant, and the names of the window and the card that say so."""

    card: str
    window: str
    rates: Rates


class Change(NamedTuple):
    """The first instant at which the price is another one, and that price; None: none is known from then on."""

    at: datetime
    price: Price | None


def next_change(prices: Prices, host: str, model: str, currency: str, at: datetime) -> Change | None:
    """The first change after `at`; None where the price stays the same for HORIZON, as far as is known."""
    cards = prices.line(host, model, currency)
    now = _price(_card(cards, at), at)
    for instant in _edges(cards, at, at + HORIZON):
        then = _price(_card(cards, instant), instant)
        if _differ(now, then):
            return Change(instant, then)
    return None


def price_end(prices: Prices, host: str, model: str, currency: str, at: datetime) -> datetime | None:
    """The first instant after `at` from which no card follows the one in force; None where there is none in force, or no end."""
    cards = prices.line(host, model, currency)
    end, card = None, _card(cards, at)
    while card is not None and card.end is not None:
        end = card.end
        card = _card(cards, end)
    return end if card is None else None


def _differ(one: Price | None, other: Price | None) -> bool:
    """A new card with the prices and windows of the one before is no change."""
    if one is None or other is None:
        return one is not other
    return (one.window, one.rates) != (other.window, other.rates)


def _card(cards: Sequence[Card], at: datetime) -> Card | None:
    return next((card for card in cards if card.start <= at and (card.end is None or at < card.end)), None)


def _price(card: Card | None, at: datetime) -> Price | None:
    if card is None:
        return None
    band = card.band(at)
    return Price(card.name, band.window, band.rates)


def _edges(cards: Sequence[Card], after: datetime, until: datetime) -> Iterator[datetime]:
    """Every instant in (after, until] at which a price may change, in order; day by day, for most changes are near."""
    ends = {edge for card in cards for edge in (card.start, card.end) if edge is not None}
    windowed = [card for card in cards if card.windows and card.start <= until and (card.end is None or card.end > after)]
    if not windowed:
        yield from sorted(edge for edge in ends if after < edge <= until)
        return
    day = after.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    while day <= until:
        found = {edge for card in windowed for edge in _edges_near(card, day.date())} | ends
        yield from sorted(edge for edge in found if max(after, day - _TICK) < edge <= until and edge < day + _DAY)
        day += _DAY


def _edges_near(card: Card, day: date) -> Iterator[datetime]:
    """The edges of a card's windows on the local days that a UTC day touches."""
    seconds = {edge for window in card.windows for span in window.spans for edge in span}
    days = [day - _DAY, day, day + _DAY]
    for local in days:
        for second in seconds:
            whole, rest = divmod(second, 86_400)
            wall = datetime.combine(local + whole * _DAY, time()) + timedelta(seconds=rest)
            yield from (wall.replace(tzinfo=card.zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    for first, last in pairwise([*days, day + 2 * _DAY]):
        yield from _leaps(card, first, last)


def _leaps(card: Card, first: date, last: date) -> Iterator[datetime]:
    """Where the clocks change between two midnights, every quarter of an hour may be an edge."""
    start, end = (datetime.combine(midnight, time(), card.zone).astimezone(UTC) for midnight in (first, last))
    if end - start != _DAY:
        while start < end:
            yield start
            start += _QUARTER
