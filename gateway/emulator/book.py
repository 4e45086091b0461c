"""The host's own book: its reading of the price cards, its arithmetic, and one row per billed request.

Exact fractions, rounded up once to a nano of the currency. Written apart from the gateway's price code, to check it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from fractions import Fraction
from math import ceil
from typing import Any
from zoneinfo import ZoneInfo

from gateway.clock import instant_text
from gateway.emulator.reader import Row, Shelf, day, instant

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
NANO = 10**9


@dataclass(frozen=True)
class Counts:
    """Tokens of one answer as the host counts them; output includes reasoning."""

    hit: int
    miss: int
    output: int
    reasoning: int = 0


@dataclass(frozen=True)
class Price:
    """Nano per million tokens, and where that stands."""

    hit: int
    miss: int
    output: int
    card: str
    window: str

    def exact(self, counts: Counts) -> Fraction:
        """The charge in nano, unrounded."""
        return Fraction(counts.hit * self.hit + counts.miss * self.miss + counts.output * self.output, 10**6)


class Book:
    """Prices of one host in one currency."""

    def __init__(self, shelf: Shelf, currency: str) -> None:
        self._shelf = shelf
        self._currency = currency

    def price(self, model: str, started: datetime, completed: datetime) -> tuple[Price | None, datetime]:
        """The price of a request, and the instant that decided: the card of the start says whether start or completion does."""
        card = self._card(model, started)
        at = started if card is not None and card.get("tier_at", "completion") == "start" else completed
        card = self._card(model, at)
        return (self._band(card, at) if card else None), at

    def _card(self, model: str, at: datetime) -> Row | None:
        running = [card for card in self._shelf.cards if self._covers(card, model, at)]
        return max(running, key=lambda card: instant(card["from"]), default=None)

    def _covers(self, card: Row, model: str, at: datetime) -> bool:
        until = card.get("until")
        open_then = instant(card["from"]) <= at and (until is None or at < instant(until))
        return open_then and card["currency"] == self._currency and model in card["models"]

    def _band(self, card: Row, at: datetime) -> Price:
        for window in card.get("windows") or ():
            if self._inside(window, at):
                return _price(window["per_million"], str(card["card"]), str(window["name"]))
        if card.get("hardware"):
            return _hardware(card["hardware"], str(card["card"]))
        return _price(card["per_million"], str(card["card"]), "standard")

    def _inside(self, window: Row, at: datetime) -> bool:
        local = at.astimezone(ZoneInfo(str(window.get("zone", "UTC"))))
        days = window.get("days") or _DAYS
        if _DAYS[local.weekday()] not in days or self._holiday(window, local.date()):
            return False
        minute = Fraction(local.hour * 60 + local.minute) + Fraction(local.second * 10**6 + local.microsecond, 60 * 10**6)
        return any(_minutes(start) <= minute < _minutes(end) for start, end in _spans(window["hours"]))

    def _holiday(self, window: Row, today: date) -> bool:
        name = window.get("except")
        return name is not None and today in {day(d) for d in self._shelf.calendars[str(name)]}


def _spans(hours: Any) -> Iterable[tuple[str, str]]:
    for span in [hours] if isinstance(hours, str) else hours:
        start, end = span.split("-")
        yield start, end


def _minutes(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)


def _nano(text: Any) -> int:
    exact = Fraction(str(text)) * NANO
    if exact.denominator != 1:
        raise ValueError(f"{text} is not exact in nano")
    return exact.numerator


def _price(rates: Row, card: str, window: str) -> Price:
    miss = _nano(rates["cache_miss"])
    hit = rates.get("cache_hit")
    return Price(miss if hit is None else _nano(hit), miss, _nano(rates["output"]), card, window)


def _hardware(row: Row, card: str) -> Price:
    """An own engine: what its GPUs cost while they compute a million tokens, rounded up to a nano."""
    hour = Fraction(str(row["gpu_hour"])) * int(row.get("gpus", 1)) * NANO / Fraction(str(row.get("utilisation", "1")))

    def per_million(speed: Any) -> int:
        return ceil(hour * 10**6 / (3600 * Fraction(str(speed))))

    hit = _nano(row.get("cache_hit", "0"))
    return Price(hit, per_million(row["prefill_tokens_per_second"]), per_million(row["decode_tokens_per_second"]), card, "standard")


def bill_row(request: str, counts: Counts, price: Price | None, currency: str, at: datetime, outcome: str, **more: Any) -> Row:
    """One line of the bill as `GET /_emulator/bill` shows it. `nano` is null where no card has a price."""
    row: Row = {"id": request, "hit": counts.hit, "miss": counts.miss, "output": counts.output, "reasoning": counts.reasoning}
    row |= {"nano": ceil(price.exact(counts)) if price else None, "currency": currency, "at": instant_text(at), "outcome": outcome}
    row |= {"card": price.card if price else None, "window": price.window if price else None}
    return row | {"rates": [price.hit, price.miss, price.output] if price else None} | more


def amount_text(amount: Fraction) -> str:
    """A decimal number as a JSON number, exactly; below a millionth with an exponent, as JavaScript and Rust write it."""
    digits = 0
    while (amount * 10**digits).denominator != 1:
        digits += 1
    scaled = str(int(amount * 10**digits))
    if amount and amount < Fraction(1, 10**6):
        head, tail = scaled[0], scaled[1:].rstrip("0")
        return f"{head}{'.' + tail if tail else ''}e-{digits - len(scaled) + 1}"
    whole, fraction = (scaled[:-digits] or "0", scaled[-digits:].rjust(digits, "0")) if digits else (scaled, "")
    return f"{whole}.{fraction}" if fraction else whole
