"""Quotes: what given tokens cost at a host at an instant, by the very rule that charges use, and on which card that rests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.clock import instant_text
from gateway.errors import PriceUnknown
from gateway.hosts import HostModel
from gateway.money import Parts, Rates, charge, decimal_text
from gateway.policies import Policies
from gateway.prices import Band, Card


@dataclass(frozen=True, slots=True)
class Quote:
    """The charge of given tokens: nano-units of the card's currency, with card and band."""

    host: str
    model: str
    at: datetime
    card: Card
    band: Band
    tokens: tuple[int, int, int]
    parts: Parts

    @property
    def nano(self) -> int:
        return self.parts.total

    def to_json(self) -> dict[str, Any]:
        """The shape that `faregate quote --json` prints; lines only for classes that have tokens."""
        return {
            "currency": self.card.currency,
            "nano": self.nano,
            "amount": decimal_text(self.nano),
            "window": self.band.window,
            "card": self.card.name,
            "verified": self.card.verified,
            "lines": self._lines(),
            "host": self.host,
            "model": self.model,
            "at": instant_text(self.at),
            "tier_at": self.card.tier_at,
            "warnings": list(self.card.warnings(self.at)),
        }

    def _lines(self) -> list[dict[str, Any]]:
        classes = ("cache_hit", "cache_miss", "output")
        return [
            {"class": name, "tokens": tokens, "nano": getattr(self.parts, name), "per_million": decimal_text(_rate(self.band.rates, name))}
            for name, tokens in zip(classes, self.tokens, strict=True)
            if tokens
        ]


def _rate(rates: Rates, name: str) -> int:
    nano: int = getattr(rates, name)
    return nano


def quote(policies: Policies, host: str, model: str, at: datetime, hit: int, miss: int, output: int, currency: str | None = None) -> Quote:
    """The price of tokens at a host; raises PriceUnknown where nothing serves or no card covers the instant.

    Without a currency: USD where there is a USD price, else the only one there is.
    """
    _require_served(policies, host, model, at)
    known = policies.prices.currencies(host, model, at)
    chosen = currency or ("USD" if "USD" in known or not known else known[0])
    card = policies.prices.card(host, model, chosen, at)
    band = card.band(at)
    return Quote(host, model, at, card, band, (hit, miss, output), charge(band.rates, hit, miss, output))


def _require_served(policies: Policies, host: str, model: str, at: datetime) -> None:
    rows = [one.model for one in policies.served.get((host, model), ())]
    if not rows:
        baseline = any((card.host, card.baseline) == (host, True) and model in card.models for card in policies.prices.cards())
        if not baseline:
            raise PriceUnknown(f"{host}/{model} is not in the policies. Hint: {_known(policies, host)}")
    elif not any(row.serves(at) for row in rows):
        raise PriceUnknown(f"{host}/{model} is not served at {instant_text(at)}: {_times(rows, at)}")


def _known(policies: Policies, host: str) -> str:
    models = sorted(model for name, model in policies.served if name == host)
    return f"models of {host} are {', '.join(models)}" if models else f"hosts are {', '.join(sorted(policies.hosts))}"


def _times(rows: list[HostModel], at: datetime) -> str:
    ended = [row.until for row in rows if row.until and row.until <= at]
    if ended:
        return f"it was retired at {instant_text(max(ended))}"
    return f"it is served from {instant_text(min(row.from_ for row in rows))}"
