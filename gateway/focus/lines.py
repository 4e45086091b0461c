"""Lines of a FOCUS export: one for each hour, team, host, model, card, window and class of tokens; their costs are the ledger, to the nano.

A charge belongs to the hour in which its request ended. What a host billed otherwise is a line of its own, ChargeClass "Correction".
Lines are handed on hour by hour, so that a month needs the memory of an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import add
from typing import Final, NamedTuple

from gateway.focus.columns import (
    DETAILS,
    OURS,
    STANDARD,
    amount,
    csv_line,
    instant,
    list_cost,
    meets,
    millions,
    pairs,
    unit_price,
    whole,
)
from gateway.money import MILLION
from gateway.outcome import Correction
from gateway.prices import STANDARD as STANDARD_WINDOW
from gateway.reports.periods import Period, Slice
from gateway.reports.spending import CLASSES, Archived, Tariffs
from gateway.reports.tallies import Name, Question, Sums

METERS: Final = {
    "cache_hit": "Input Tokens (cache hit)",
    "cache_miss": "Input Tokens (cache miss)",
    "output": "Output Tokens",
    "": "Charges (tokens unknown)",
}
_NAMES: Final[tuple[Name, ...]] = ("team", "host", "model", "card", "window", "estimated", "disputed")
_UNKNOWN: Final = "unknown"


class FocusError(ValueError):
    """The ledger has no longer what a whole export needs."""


class _Part(NamedTuple):
    """One class of tokens of a group; without tokens, what it was charged all the same."""

    cls: str
    tokens: int
    nano: int
    reasoning: int

    @property
    def meter(self) -> str:
        """What is measured: what cost something without a token has no price by the token."""
        return self.cls if self.tokens else ""


@dataclass(slots=True)
class Export:
    """Gathers an export: ask a ledger its `question`, hand it `take`, then its corrections; `write` is given the file line by line.

    `details` are further names ("key", "route") by which lines are told apart. `account` names the account that is billed; the
    host's own name where it is None. `written` counts the lines, `costs` their sums by currency.
    """

    period: Period
    tariffs: Tariffs
    write: Callable[[str], object]
    details: tuple[Name, ...] = ()
    account: str | None = None
    written: int = 0
    costs: dict[str, int] = field(default_factory=dict)
    _hour: Slice | None = None
    _groups: dict[tuple[tuple[str, ...], str], Sums] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        return (*STANDARD, *OURS, *(DETAILS[name] for name in self.details))

    @property
    def question(self) -> Question:
        return Question(self.period, (*_NAMES, *self.details))

    def begin(self) -> None:
        """Write the names of the columns."""
        self.write(csv_line({name: name for name in self.columns}, self.columns))

    def take(self, slice: Slice, names: Sequence[str], currency: str, sums: Sums) -> None:
        if self._hour != slice:
            self.flush()
            self._hour = slice
        key = tuple(names), currency
        self._groups[key] = Sums(*map(add, self._groups[key], sums)) if key in self._groups else sums

    def flush(self) -> None:
        """Write the lines of the last hour."""
        hour, groups = self._hour, sorted(self._groups.items())
        self._groups.clear()
        for (names, currency), sums in groups:
            assert hour is not None
            known: dict[str, str] = dict(zip(self.question.names, names, strict=True))
            for cells, nano in self._lines(hour, known, currency, sums):
                self._emit(cells, currency, nano)

    def correct(self, corrections: Iterable[Correction]) -> None:
        """Write the corrections; nothing may be taken after it."""
        self.flush()
        for one in corrections:
            self._emit(self._correction(one), one.currency, one.nano)

    def archive(self, months: Iterable[Archived]) -> None:
        """Raises FocusError: of an archived month there are sums only."""
        for one in months:
            raise FocusError(
                f"the requests of {one.month} are archived, and no longer in this ledger. Export from a backup that has them: --ledger sqlite:///PATH"
            )

    def _emit(self, cells: Mapping[str, str], currency: str, nano: int) -> None:
        self.write(csv_line(cells, self.columns))
        self.written += 1
        self.costs[currency] = self.costs.get(currency, 0) + nano

    def _lines(self, hour: Slice, known: Mapping[str, str], currency: str, sums: Sums) -> Iterator[tuple[dict[str, str], int]]:
        parts = [part for part in _parts(sums) if part.tokens or part.nano]
        common = self._common(hour, known["team"], known["host"], currency)
        for part in parts:
            # So that they can be added up, a group's requests stand on its last line only.
            requests = sums.requests if part is parts[-1] else 0
            cells = {**common, **self._ours(known, part, requests), **self._sku(known, part), **self._priced(known, part, sums.requests)}
            cells["ChargeDescription"] = f"{known['model']} at {known['host']}: {METERS[part.meter]}"
            yield cells, part.nano

    def _common(self, hour: Slice, team: str, host: str, currency: str) -> dict[str, str]:
        """What every line of a team at a host has in an hour. The host bills, and is paid: others may not stand in between."""
        account = self.account or host
        tags = {"team": team} if team else {}
        return {
            "BillingAccountId": account,
            "BillingAccountName": account,
            "BillingAccountType": "Account",
            "BillingPeriodStart": instant(self.period.start),
            "BillingPeriodEnd": instant(self.period.end),
            "BillingCurrency": currency,
            "ChargePeriodStart": instant(hour.start),
            "ChargePeriodEnd": instant(hour.end),
            "ChargeCategory": "Usage",
            "ChargeFrequency": "Usage-Based",
            "InvoiceIssuerName": host,
            "ProviderName": host,
            "PublisherName": host,
            "ServiceCategory": "AI and Machine Learning",
            "ServiceSubcategory": "Generative AI",
            "ServiceName": f"{host} API",
            **({"SubAccountId": team, "SubAccountName": team, "SubAccountType": "Team"} if team else {}),
            "Tags": pairs(tags),
            "x_Host": host,
        }

    def _ours(self, known: Mapping[str, str], part: _Part, requests: int) -> dict[str, str]:
        tags: dict[str, str] = {name: known[name] for name in ("team", *self.details)}
        return {
            "Tags": pairs(tags),
            "x_Model": known["model"],
            "x_Card": known["card"],
            "x_Window": known["window"],
            "x_TokenClass": part.cls,
            "x_ReasoningTokens": str(part.reasoning),
            "x_Requests": str(requests),
            "x_Estimated": known["estimated"],
            "x_Disputed": known["disputed"],
            **{DETAILS[name]: known[name] for name in self.details},
        }

    def _sku(self, known: Mapping[str, str], part: _Part) -> dict[str, str]:
        """A price belongs to one model: cards of several models have one for each."""
        window = known["window"]
        sku = f"{known['host']}/{known['model']}"
        priced = "/".join((known["card"] or _UNKNOWN, sku, window or _UNKNOWN, part.meter or _UNKNOWN))
        details = {"x_TokenClass": part.meter or _UNKNOWN, "x_Card": known["card"] or _UNKNOWN, "x_Window": window or _UNKNOWN}
        category = "Standard" if window == STANDARD_WINDOW else "Dynamic" if window else "Other"
        return {
            "SkuId": sku,
            "SkuPriceId": priced,
            "SkuMeter": METERS[part.meter],
            "SkuPriceDetails": pairs(details),
            "PricingCategory": category,
        }

    def _priced(self, known: Mapping[str, str], part: _Part, requests: int) -> dict[str, str]:
        """Quantities, prices and costs. A cost is the ledger's; the contracted price is the one that gives it back.

        That is the list price, but where charges are a host's own figures, or where the rounding of each charge adds up.
        """
        costs = dict.fromkeys(("ContractedCost", "EffectiveCost", "BilledCost"), amount(part.nano))
        if not part.tokens:
            charges = max(1, requests)
            price = unit_price(part.nano, charges, 1)
            quantities = {"PricingQuantity": whole(charges), "ConsumedQuantity": whole(charges)}
            units = {"PricingUnit": "Charges", "ConsumedUnit": "Charges"}
            return {**quantities, **units, "ListUnitPrice": price, "ContractedUnitPrice": price, "ListCost": amount(part.nano), **costs}
        rates = self.tariffs.rates(known["card"], known["window"])
        rate = None if rates is None else getattr(rates, part.cls)
        contracted = unit_price(part.nano, part.tokens, MILLION)
        listed, list_total = contracted, amount(part.nano)
        if rate is not None:
            listed, list_total = amount(rate), list_cost(rate, part.tokens)
            contracted = listed if meets(rate, part.tokens, part.nano) else contracted
        return {
            "PricingQuantity": millions(part.tokens),
            "PricingUnit": "1000000 Tokens",
            "ConsumedQuantity": whole(part.tokens),
            "ConsumedUnit": "Tokens",
            "ListUnitPrice": listed,
            "ContractedUnitPrice": contracted,
            "ListCost": list_total,
            **costs,
        }

    def _correction(self, one: Correction) -> dict[str, str]:
        """No price, no quantity: only the amount, and who says so. Its hour is that to which the money belongs."""
        host, cost = one.host or _UNKNOWN, amount(one.nano)
        sku = {"SkuId": f"{one.host}/{one.model}", "SkuMeter": METERS[one.cls]} if one.host and one.model else {}
        tags = {name: value for name, value in (("team", one.team), ("key", one.key), ("route", one.route)) if value}
        return {
            **self._common(self.period.hour_of(one.at), one.team, host, one.currency),
            **sku,
            "Tags": pairs({name: value for name, value in tags.items() if name in ("team", *self.details)}),
            "ChargeClass": "Correction",
            "ChargeDescription": f"Correction of {one.model or 'usage'} at {host}: {one.reason}",
            "ConsumedQuantity": whole(0),
            "ConsumedUnit": "Tokens",
            **dict.fromkeys(("ListCost", "ContractedCost", "EffectiveCost", "BilledCost"), cost),
            "x_Model": one.model,
            "x_TokenClass": one.cls,
            "x_Requests": "0",
            "x_CorrectionId": one.id,
            "x_CorrectionReason": one.reason,
            "x_CorrectionSource": one.source,
            "x_CorrectedRequest": one.request or "",
            **{DETAILS[name]: getattr(one, name) for name in self.details},
        }


def _parts(sums: Sums) -> Iterator[_Part]:
    for cls in CLASSES:
        yield _Part(cls, getattr(sums, cls), getattr(sums, f"{cls}_nano"), sums.reasoning if cls == "output" else 0)
    yield _Part("", 0, sums.unsplit, 0)
