"""Prices: dated rate cards with windows. Data in policies/prices/.

What lives here: which card and band an instant has, the dearest band that a request can reach, exact prices of own hardware.
What does not: how many tokens there were (usage), the rounding of a charge (money), other currencies (conversions).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Literal
from zoneinfo import ZoneInfo

from msgspec import Struct
from pydantic import Field

from gateway.calendars import Calendar
from gateway.clock import instant_text
from gateway.errors import PriceUnknown
from gateway.money import MILLION, Rates, exact_nano
from gateway.notation import Currency, DecimalText, Hours, Price, Zone
from gateway.rows import Instant, Problem, Row

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
TierAt = Literal["start", "completion"]
STANDARD = "standard"
_TICK = timedelta(microseconds=1)
_MINUTE = timedelta(minutes=1)
# Deployments times minutes; a lookup that is not remembered costs ten microseconds, so forgetting all is cheap.
_REMEMBERED = 1024


class PerMillion(Row):
    """Prices of a million tokens as decimal strings. `cache_hit` absent or null: the host has no cached price, a hit costs as a miss."""

    cache_hit: Price | None = None
    cache_miss: Price
    output: Price

    def rates(self) -> Rates:
        miss = exact_nano(self.cache_miss)
        return Rates(miss if self.cache_hit is None else exact_nano(self.cache_hit), miss, exact_nano(self.output))


class Marginal(Row):
    """What a million tokens more cost while an engine runs anyway: its power. Nothing unless it is given."""

    cache_hit: Price = "0"
    cache_miss: Price = "0"
    output: Price = "0"

    def rates(self) -> Rates:
        return Rates(exact_nano(self.cache_hit), exact_nano(self.cache_miss), exact_nano(self.output))


class Hardware(Row):
    """The cost of an own engine: hour price of one GPU, GPUs, tokens per second of the WHOLE engine, utilisation (0, 1].

    A million tokens cost gpu_hour * gpus * 1e6 / (3600 * tokens_per_second * utilisation), rounded up to a nano. `cache_hit`
    is 0 unless it is given: a hit skips the prefill. That is the price of reports and charges; routing goes by `marginal`.
    """

    gpu_hour: Price
    gpus: int = Field(default=1, ge=1)
    prefill_tokens_per_second: int = Field(ge=1)
    decode_tokens_per_second: int = Field(ge=1)
    utilisation: DecimalText = "1"
    cache_hit: Price = "0"
    marginal: Marginal = Marginal()

    def rates(self) -> Rates:
        prefill, decode = self._million(self.prefill_tokens_per_second), self._million(self.decode_tokens_per_second)
        return Rates(exact_nano(self.cache_hit), prefill, decode)

    def _million(self, tokens_per_second: int) -> int:
        exact = Fraction(exact_nano(self.gpu_hour) * self.gpus * MILLION, 3600 * tokens_per_second) / Fraction(self.utilisation)
        return -(-exact.numerator // exact.denominator)


class WindowRow(Row):
    """Hours of a day with their own prices, half-open, in the window's zone; weekday and holiday are the zone's too."""

    name: str
    days: tuple[Day, ...] = Field(default=DAYS, min_length=1)
    hours: tuple[Hours, ...] = Field(min_length=1)
    zone: Zone
    except_: str | None = Field(default=None, alias="except", description="a calendar: on its days the window does not apply")
    per_million: PerMillion

    def spans(self) -> tuple[tuple[int, int], ...]:
        """The hours as (start, end) in seconds of the day."""
        return tuple((_seconds(text[:5]), _seconds(text[6:])) for text in self.hours)


def _seconds(text: str) -> int:
    return int(text[:2]) * 3600 + int(text[3:]) * 60


class CardRow(Row):
    """One rate card as its author writes it. A card ends where the next of its (host, model, currency) begins, or at `until`.

    `per_million`, or `hardware` for an own engine. `baseline: true`: not a host of ours but something to compare with (o1);
    it needs no host row, and every prompt token costs cache_miss.
    """

    card: str
    host: str
    models: tuple[str, ...] = Field(min_length=1)
    currency: Currency
    from_: Instant = Field(alias="from")
    until: Instant | None = None
    tier_at: TierAt = "completion"
    per_million: PerMillion | None = None
    hardware: Hardware | None = None
    windows: tuple[WindowRow, ...] = ()
    baseline: bool = False
    verified: bool = True
    note: str = ""
    source: str
    checked: date

    def problems(self) -> Iterator[Problem]:
        if (self.per_million is None) == (self.hardware is None):
            yield (), f"card `{self.card}` needs either `per_million` or `hardware`"
        if self.until is not None and self.until <= self.from_:
            yield ("until",), "`until` is not after `from`"
        if self.hardware is not None and not 0 < Fraction(self.hardware.utilisation) <= 1:
            yield ("hardware", "utilisation"), f"`utilisation` {self.hardware.utilisation} is not above 0 and at most 1"
        if self.baseline and self.per_million is not None and self.per_million.cache_hit is not None:
            yield ("per_million", "cache_hit"), "a baseline has no cached price: all prompt tokens cost `cache_miss`"
        yield from _repeated(self.models)
        yield from _window_problems(self.windows)

    def rates(self) -> Rates:
        """The standard band. Call it on a row without problems."""
        stated = self.per_million or self.hardware
        assert stated is not None
        return stated.rates()

    def card_of(self, calendars: dict[str, Calendar]) -> Card:
        windows = tuple(_window(row, calendars) for row in self.windows)
        return Card(
            name=self.card,
            host=self.host,
            models=self.models,
            currency=self.currency,
            start=self.from_,
            end=self.until,
            tier_at=self.tier_at,
            standard=Band(STANDARD, self.rates()),
            windows=windows,
            zone=ZoneInfo(self.windows[0].zone) if windows else ZoneInfo("UTC"),
            verified=self.verified,
            baseline=self.baseline,
            source=self.source,
            checked=self.checked,
            marginal=self.hardware.marginal.rates() if self.hardware else None,
        )


def _repeated(models: tuple[str, ...]) -> Iterator[Problem]:
    for index, model in enumerate(models):
        if model in models[:index]:
            yield ("models", index), f"`{model}` stands twice in `models`"


def _window_problems(windows: tuple[WindowRow, ...]) -> Iterator[Problem]:
    for index, window in enumerate(windows):
        if window.name in [STANDARD, *(other.name for other in windows[:index])]:
            yield ("windows", index, "name"), f"the window name `{window.name}` is taken. Hint: one window can have several `hours`"
        if window.zone != windows[0].zone:
            yield ("windows", index, "zone"), f"all windows of a card share one zone: {windows[0].zone}, not {window.zone}"
    taken: list[tuple[str, int, int, str]] = []
    for index, window in enumerate(windows):
        for place, (start, end) in enumerate(window.spans()):
            clash = next((other for other in taken if other[0] in window.days and start < other[2] and other[1] < end), None)
            if clash:
                yield ("windows", index, "hours", place), f"{window.hours[place]} overlaps {clash[3]} on {clash[0]}"
            taken += [(day, start, end, f"{window.name} {window.hours[place]}") for day in window.days]


def _window(row: WindowRow, calendars: dict[str, Calendar]) -> Window:
    calendar = calendars[row.except_] if row.except_ else None
    return Window(
        band=Band(row.name, row.per_million.rates()),
        days=frozenset(DAYS.index(day) for day in row.days),
        spans=row.spans(),
        calendar=calendar,
        off=calendar.days if calendar else frozenset(),
    )


@dataclass(frozen=True, slots=True)
class Band:
    """The prices of an instant: `standard`, or those of a window."""

    window: str
    rates: Rates


@dataclass(frozen=True, slots=True)
class Window:
    """A window ready to be looked up: weekdays 0-6 from Monday, spans in seconds of the day, the dates on which it is off."""

    band: Band
    days: frozenset[int]
    spans: tuple[tuple[int, int], ...]
    calendar: Calendar | None
    off: frozenset[date]

    def covers(self, day: date, second: int) -> bool:
        return any(start <= second < end for start, end in self.spans) and day.weekday() in self.days and day not in self.off


@dataclass(frozen=True, slots=True)
class Card:
    """One rate card, in force from `start` up to but not including `end` (None: open)."""

    name: str
    host: str
    models: tuple[str, ...]
    currency: str
    start: datetime
    end: datetime | None
    tier_at: TierAt
    standard: Band
    windows: tuple[Window, ...]
    zone: ZoneInfo
    verified: bool
    baseline: bool
    source: str
    checked: date
    marginal: Rates | None = None
    """Of own hardware: what one request more costs. Routing goes by it, charges never do."""

    @property
    def rates(self) -> Rates:
        """Outside every window."""
        return self.standard.rates

    def band(self, at: datetime) -> Band:
        """The band of an instant: a window's start is inclusive, its end exclusive, weekday and holiday are those of its zone."""
        if not self.windows:
            return self.standard
        local = at.astimezone(self.zone)
        return self._band(local.date(), local.hour * 3600 + local.minute * 60 + local.second)

    def _band(self, day: date, second: int) -> Band:
        return next((window.band for window in self.windows if window.covers(day, second)), self.standard)

    def bands(self, first: datetime, last: datetime) -> Iterator[Band]:
        """Every band of the instants from `first` to `last`, both included."""
        yield self.band(first)
        if not self.windows:
            return
        start, end = first.astimezone(self.zone), last.astimezone(self.zone)
        if start.utcoffset() != end.utcoffset():
            # The clocks change in between: rather too much than to miss an hour that comes twice.
            yield from (self.standard, *(window.band for window in self.windows))
            return
        yield from self._bands_at_edges(start, end)

    def _bands_at_edges(self, start: datetime, end: datetime) -> Iterator[Band]:
        origin = start.hour * 3600 + start.minute * 60 + start.second
        length = int((end - start.replace(microsecond=0)).total_seconds())
        edges = {edge for window in self.windows for span in window.spans for edge in span}
        for later in range((origin + length) // 86400 + 1):
            day = start.date() + timedelta(days=later)
            for edge in edges:
                if origin < later * 86400 + edge <= origin + length:
                    yield self._band(day, edge) if edge < 86400 else self._band(day + timedelta(days=1), 0)

    def warnings(self, at: datetime) -> tuple[str, ...]:
        """What a price of this instant rests on that nobody has verified."""
        calendars = {window.calendar.name: window.calendar for window in self.windows if window.calendar}
        day = at.astimezone(self.zone).date()
        expired = [text for calendar in calendars.values() if (text := calendar.warning(day))]
        return (*(() if self.verified else (f"card {self.name} rests on an unverified source: {self.source}",)), *expired)


@dataclass(frozen=True, slots=True)
class _Line:
    """The cards of one (host, model, currency) in order of time, each with its real end."""

    starts: tuple[datetime, ...]
    cards: tuple[Card, ...]

    def card(self, at: datetime) -> Card | None:
        index = bisect_right(self.starts, at) - 1
        if index < 0:
            return None
        card = self.cards[index]
        return card if card.end is None or at < card.end else None


def _line(cards: list[Card]) -> _Line:
    ordered = sorted(cards, key=lambda card: card.start)
    followers = [*(card.start for card in ordered[1:]), None]
    ended = (card if card.end else replace(card, end=follower) for card, follower in zip(ordered, followers, strict=True))
    return _Line(tuple(card.start for card in ordered), tuple(ended))


class Priced(Struct, frozen=True):
    """What a time line says from `since` up to but not including `until`, at most a minute: its card and the band of that.

    `dearest` remembers the rates of `Prices.dearest_within`, by the seconds that a request may take.
    """

    since: datetime
    until: datetime
    card: Card
    band: Band
    dearest: dict[int, Rates]


class Prices:
    """Every card, looked up by host, model, currency and instant. Frozen; the loader has checked that cards do not overlap."""

    def __init__(self, cards: Iterable[Card]) -> None:
        groups: dict[tuple[str, str, str], list[Card]] = {}
        for card in cards:
            for model in card.models:
                groups.setdefault((card.host, model, card.currency), []).append(card)
        self._lines = {key: _line(group) for key, group in groups.items()}
        self._currencies: dict[tuple[str, str], tuple[str, ...]] = {}
        for host, model, currency in sorted(groups):
            self._currencies[host, model] = (*self._currencies.get((host, model), ()), currency)
        self._bands: dict[tuple[str, int], Band] = {}
        self._priced: dict[tuple[str, str, str], Priced] = {}
        self._baselines = {(model, currency): line for (_, model, currency), line in self._lines.items() if line.cards[0].baseline}

    def card(self, host: str, model: str, currency: str, at: datetime) -> Card:
        """The card in force; raises PriceUnknown where there is none: an unknown price is never zero."""
        line = self._lines.get((host, model, currency))
        card = line.card(at) if line else None
        if card is None:
            raise PriceUnknown(self._unknown(host, model, currency, at), details={"host": host, "model": model, "currency": currency})
        return card

    def _unknown(self, host: str, model: str, currency: str, at: datetime) -> str:
        others = self.currencies(host, model, at)
        hint = f"there is one in {' and '.join(others)}" if others else f"add a card to policies/prices for {host}"
        return f"no price is known for {host}/{model} in {currency} at {instant_text(at)}: {hint}"

    def band(self, card: Card, at: datetime) -> Band:
        """The card's band of an instant. Windows begin and end with whole minutes, so one look at the calendar serves a minute."""
        if not card.windows:
            return card.standard
        key = (card.name, int(at.timestamp()) // 60)
        band = self._bands.get(key)
        if band is None:
            if len(self._bands) >= _REMEMBERED:
                self._bands.clear()
            band = self._bands[key] = card.band(at)
        return band

    def priced(self, host: str, model: str, currency: str, at: datetime) -> Priced:
        """The card in force and its band, remembered as long as they stand; raises PriceUnknown."""
        key = (host, model, currency)
        found = self._priced.get(key)
        if found is None or not found.since <= at < found.until:
            found = self._priced[key] = self._look(self.card(host, model, currency, at), at)
        return found

    def _look(self, card: Card, at: datetime) -> Priced:
        start = datetime.fromtimestamp(int(at.timestamp()) // 60 * 60, UTC)
        end = start + _MINUTE
        since, until = max(start, card.start), end if card.end is None else min(end, card.end)
        return Priced(since, until, card, self.band(card, at), {})

    def routing(self, card: Card, at: datetime) -> Rates:
        """What deployments are compared by at an instant: the price of one request more. A charge goes by `band`."""
        return self.band(card, at).rates if card.marginal is None else card.marginal

    def settled(self, host: str, model: str, currency: str, started: datetime, completed: datetime) -> tuple[Card, Band, datetime]:
        """Card, band and instant that a finished request is charged at, as the `tier_at` of its first card says.

        Raises PriceUnknown for the start only: where the last card ends while an answer runs, that card goes on for it.
        """
        return self.charged(self.card(host, model, currency, started), model, started, completed)

    def charged(self, first: Card, model: str, started: datetime, completed: datetime) -> tuple[Card, Band, datetime]:
        """The same for a request of which the first card is known."""
        if first.tier_at == "start":
            return first, self.band(first, started), started
        try:
            found = self.priced(first.host, model, first.currency, completed)
        except PriceUnknown:
            return first, self.band(first, completed), completed
        return found.card, found.band, completed

    def dearest(self, host: str, model: str, currency: str, at: datetime, until: datetime) -> Band:
        """The dearest band that a request from `at`, over by `until`, can be charged at, class by class; raises PriceUnknown for `at`."""
        first = self.card(host, model, currency, at)
        if first.tier_at == "start" or (not first.windows and (first.end is None or until < first.end)):
            return first.band(at)
        worst = first.band(at)
        for card in self._lines[host, model, currency].cards:
            if card.start <= until and (card.end is None or card.end > at):
                for band in card.bands(max(at, card.start), until if card.end is None else min(until, card.end - _TICK)):
                    worst = _dearer(worst, band)
        return worst

    def dearest_within(self, priced: Priced, model: str, seconds: int) -> Rates:
        """At least the dearest rates of a request that begins as long as this stands and takes so long; at most those of a minute more."""
        rates = priced.dearest.get(seconds)
        if rates is None:
            card, until = priced.card, priced.until + timedelta(seconds=seconds)
            rates = priced.dearest[seconds] = self.dearest(card.host, model, card.currency, priced.since, until).rates
        return rates

    def currencies(self, host: str, model: str, at: datetime) -> tuple[str, ...]:
        """The currencies in which this model has a price at this instant, sorted."""
        return tuple(c for c in self._currencies.get((host, model), ()) if self._lines[host, model, c].card(at))

    def baseline(self, at: datetime, name: str = "o1", currency: str = "USD") -> Card | None:
        """The card of something to compare with; None when there is none at this instant."""
        line = self._baselines.get((name, currency))
        return line.card(at) if line else None

    def cards(self) -> Iterator[Card]:
        """Every card of every time line, with its real end; a card of several models comes once for each."""
        for line in self._lines.values():
            yield from line.cards

    def line(self, host: str, model: str, currency: str) -> tuple[Card, ...]:
        """The cards of one time line in order of time, each with its real end; none where nothing is known."""
        line = self._lines.get((host, model, currency))
        return line.cards if line else ()

    def lines(self) -> Iterator[tuple[tuple[str, str, str], tuple[Card, ...]]]:
        """The time lines: ((host, model, currency), cards in order of time)."""
        for key, line in self._lines.items():
            yield key, line.cards


def _dearer(one: Band, other: Band) -> Band:
    rates = one.rates.at_least(other.rates)
    return Band(other.window if other.rates.output > one.rates.output else one.window, rates)
