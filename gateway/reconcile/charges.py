"""Charges: what the ledger says that we owe one host, one line for each attempt there. Pure.

A request that went on elsewhere after a failure has a line at each host that was asked: each bills its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple

from gateway.errors import PriceUnknown
from gateway.money import MILLION, Parts, Rates, charge
from gateway.outcome import Attempt, LedgerRow
from gateway.prices import Prices

# How sure a charge is: the host told its usage; we counted because the client or the host had left, or because no usage came; the
# gateway died and the hold expired; it was told, but the answer did not end well; nothing was billed, as far as we know.
Sort = Literal["told", "disconnect", "counted", "expired", "failed", "free"]
_ENDED_WELL: Final = frozenset({"ok", "stopped"})


class Who(NamedTuple):
    """Whose charge it is."""

    team: str
    key: str
    route: str


NOBODY: Final = Who("", "", "")


class Charge(NamedTuple):
    """What one attempt was charged; tokens and parts are None where only a sum is known.

    `at` is the instant that decides its price and its day; `near` are the prices that it could have had instead: those of its start,
    and those just before and after `at`.
    """

    id: str
    who: Who
    model: str
    currency: str
    started: datetime
    at: datetime
    sort: Sort
    nano: int
    worst: int
    tokens: tuple[int, int, int] | None
    parts: Parts | None
    rates: Rates | None
    card: str
    near: tuple[Rates, ...] = ()


class Tariff:
    """The prices of one host in our account's currency, at any instant; `edge` is how near counts as near."""

    def __init__(self, prices: Prices, host: str, currency: str, edge: timedelta) -> None:
        self.host: Final = host
        self.currency: Final = currency
        self.edge: Final = edge
        self._prices = prices
        self._named = {
            (model, card.name): card
            for (at, model, unit), cards in prices.lines()
            if (at, unit) == (host, currency)
            for card in cards
        }  # fmt: skip

    def stated(self, model: str, card: str, window: str) -> Rates | None:
        """The rates of a card's window by their names, as a ledger's row has them."""
        found = self._named.get((model, card))
        if found is None:
            return None
        bands = (found.standard, *(each.band for each in found.windows))
        return next((band.rates for band in bands if band.window == window), None)

    def at(self, model: str, at: datetime) -> Rates | None:
        try:
            card = self._prices.card(self.host, model, self.currency, at)
        except PriceUnknown:
            return None
        return self._prices.band(card, at).rates

    def settled(self, model: str, started: datetime, ended: datetime) -> tuple[str, Rates, datetime] | None:
        """Card, rates and the instant that decided, of a request between these."""
        try:
            card, band, at = self._prices.settled(self.host, model, self.currency, started, ended)
        except PriceUnknown:
            return None
        return card.name, band.rates, at

    def known(self, model: str, start: datetime, end: datetime) -> frozenset[Rates]:
        """Every price of the cards that are in force in [start, end)."""
        cards = [card for (name, _), card in self._named.items() if name == model and card.start < end]
        cards = [card for card in cards if card.end is None or card.end > start]
        return frozenset(band.rates for card in cards for band in (card.standard, *(each.band for each in card.windows)))

    def near(self, model: str, started: datetime, at: datetime, own: Rates) -> tuple[Rates, ...]:
        """The other prices within reach of an instant, and that of the start."""
        instants = (started, at - self.edge, at + self.edge)
        found = dict.fromkeys(rates for instant in instants if (rates := self.at(model, instant)) is not None and rates != own)
        return tuple(found)


def charges(row: LedgerRow, tariff: Tariff) -> Iterator[Charge]:
    """One line for every attempt of a request at the tariff's host, in its currency."""
    for index, attempt in enumerate(row.attempts):
        if attempt.host == tariff.host and row.currency == tariff.currency:
            yield _charge(row, attempt, index, tariff)


def _charge(row: LedgerRow, attempt: Attempt, index: int, tariff: Tariff) -> Charge:
    last = index == len(row.attempts) - 1
    settled = tariff.settled(attempt.model, row.started, row.ended)
    card, rates, at = settled or (row.card, None, row.ended)
    named = (attempt.card, attempt.window) if attempt.card else (row.card, row.window) if last else ("", "")
    if stated := tariff.stated(attempt.model, *named):
        card, rates = named[0], stated
    tokens = _tokens(row, attempt)
    return Charge(
        id=row.id,
        who=Who(row.team, row.key, row.route),
        model=attempt.model,
        currency=row.currency,
        started=row.started,
        at=at,
        sort=_sort(row, attempt, last),
        nano=attempt.nano,
        worst=max(row.worst_nano, attempt.nano),
        tokens=tokens,
        parts=_parts(row, attempt, tokens, rates),
        rates=rates,
        card=card,
        near=tariff.near(attempt.model, row.started, at, rates) if rates else (),
    )


def _sort(row: LedgerRow, attempt: Attempt, last: bool) -> Sort:
    if attempt.billed == "none":
        return "free"
    if attempt.billed == "known":
        return "told" if attempt.outcome in _ENDED_WELL else "failed"
    if last and row.stopped == "expired":
        return "expired"
    return "counted" if attempt.outcome == "ok" else "disconnect"


def _tokens(row: LedgerRow, attempt: Attempt) -> tuple[int, int, int] | None:
    if attempt.billed == "none":
        return 0, 0, 0
    if attempt.tokens is not None:
        return attempt.tokens
    alone = sum(each.billed != "none" for each in row.attempts) == 1
    return (row.usage.cache_hit, row.usage.cache_miss, row.usage.output) if alone and row.usage is not None else None


def _parts(row: LedgerRow, attempt: Attempt, tokens: tuple[int, int, int] | None, rates: Rates | None) -> Parts | None:
    """The charge by class; None where it is not known, or would not sum to the charge."""
    if attempt.parts is not None:
        return Parts(*attempt.parts)
    if row.parts is not None and row.parts.total == attempt.nano:
        return row.parts
    if tokens is None or rates is None:
        return None
    found = charge(rates, *tokens)
    return found if found.total == attempt.nano else _scaled(found, attempt.nano)


def _scaled(parts: Parts, nano: int) -> Parts:
    """A charge of another sum, split in the same proportion."""
    total = parts.total or MILLION
    hit, miss = parts.cache_hit * nano // total, parts.cache_miss * nano // total
    return Parts(hit, miss, nano - hit - miss)
