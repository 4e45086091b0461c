"""Tariffs: what a host of a simulation charges at each second of a trace, and what the router compares it by."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol

from gateway.errors import PriceUnknown
from gateway.forecast import Outlook
from gateway.money import Rates
from gateway.policies import Policies
from gateway.prices import Card
from gateway.router import ahead

Later = tuple[Rates | None, float | None]


class Tariff(Protocol):
    """Prices of one host at seconds after the trace's begin, all in the menu's currency."""

    def charged(self, at: float) -> Rates:
        """What a request is charged."""
        ...

    def compared(self, at: float) -> Rates:
        """What the router compares by: own hardware has a price of its own for one request more."""
        ...

    def ahead(self, at: float, outlook: Outlook) -> Later:
        """The rates that the conversation may live to see, and the seconds until then; None: these go on."""
        ...


class Fixed:
    """One price for ever."""

    def __init__(self, rates: Rates) -> None:
        self._rates = rates

    def charged(self, at: float) -> Rates:
        return self._rates

    def compared(self, at: float) -> Rates:
        return self._rates

    def ahead(self, at: float, outlook: Outlook) -> Later:
        return None, None


class Listed:
    """The cards of a deployment, converted into one currency; looked up once a minute. PriceUnknown where there is none."""

    def __init__(self, policies: Policies, host: str, model: str, own: str | None, currency: str, begin: datetime) -> None:
        known = policies.prices.currencies(host, model, begin)
        self._own = own if own in known else currency if currency in known or not known else known[0]
        self._policies, self._host, self._model, self._currency, self._begin = policies, host, model, currency, begin
        self._offset = begin.second + begin.microsecond / 1_000_000
        self._minutes: dict[int, tuple[Card, Rates, Rates]] = {}
        self._at(0.0)

    def charged(self, at: float) -> Rates:
        return self._at(at)[1]

    def compared(self, at: float) -> Rates:
        return self._at(at)[2]

    def ahead(self, at: float, outlook: Outlook) -> Later:
        card = self._at(at)[0]
        if not card.windows:
            return None, None
        instant = self._begin + timedelta(seconds=at)
        rates, edge = ahead(self._policies.prices, card, instant, outlook)
        return (None if rates is None else self._converted(rates, instant)), edge

    def _at(self, at: float) -> tuple[Card, Rates, Rates]:
        # Windows begin and end with whole minutes.
        minute = int(at + self._offset) // 60
        found = self._minutes.get(minute)
        if found is None:
            found = self._minutes[minute] = self._looked_up(self._begin + timedelta(seconds=at))
        return found

    def _looked_up(self, instant: datetime) -> tuple[Card, Rates, Rates]:
        prices = self._policies.prices
        card = prices.card(self._host, self._model, self._own, instant)
        charged, compared = (self._converted(rates, instant) for rates in (card.band(instant).rates, prices.routing(card, instant)))
        return card, charged, compared

    def _converted(self, rates: Rates, instant: datetime) -> Rates:
        if self._own == self._currency:
            return rates
        rate = self._policies.rates.rate(self._own, self._currency, instant)
        if rate is None:
            raise PriceUnknown(
                f"{self._host}/{self._model} is priced in {self._own}, and rates.yaml has no rate to {self._currency} at that instant"
            )
        return Rates(*(-(-nano * rate.numerator // rate.denominator) for nano in (rates.cache_hit, rates.cache_miss, rates.output)))
