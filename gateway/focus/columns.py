"""Columns of FOCUS 1.2 and how their values are written: exactly, with a point and without an exponent. No float is on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from gateway.clock import instant_text
from gateway.money import MILLION, NANO
from gateway.reports.writing import csv_row

VERSION: Final = "1.2"
STANDARD: Final = tuple(
    "BillingAccountId BillingAccountName BillingAccountType BillingPeriodStart BillingPeriodEnd BillingCurrency"
    " ChargePeriodStart ChargePeriodEnd ChargeCategory ChargeClass ChargeDescription ChargeFrequency"
    " InvoiceId InvoiceIssuerName ProviderName PublisherName ServiceCategory ServiceSubcategory ServiceName"
    " SubAccountId SubAccountName SubAccountType SkuId SkuPriceId SkuMeter SkuPriceDetails"
    " PricingCategory PricingQuantity PricingUnit ConsumedQuantity ConsumedUnit"
    " ListUnitPrice ContractedUnitPrice ListCost ContractedCost EffectiveCost BilledCost Tags".split()
)
# Ours come after the standard ones, as the specification wants it.
OURS: Final = tuple(
    "x_Host x_Model x_Card x_Window x_TokenClass x_ReasoningTokens x_Requests x_Estimated x_Disputed x_CorrectionId x_CorrectionReason"
    " x_CorrectionSource x_CorrectedRequest".split()
)
DETAILS: Final = {"key": "x_Key", "route": "x_Route"}
_NANO_PLACES: Final = 9
_MILLION_PLACES: Final = 6
# Beyond it, no price is written more exactly: a cost of all the world's money, in nano, has fewer digits.
_MOST_PLACES: Final = 40


def scaled_text(number: int, places: int) -> str:
    """number / 10^places, exactly: at least one digit on either side of the point."""
    whole, fraction = divmod(abs(number), 10**places)
    digits = f"{fraction:0{places}d}".rstrip("0") if places else ""
    return f"{'-' if number < 0 else ''}{whole}.{digits or '0'}"


def amount(nano: int) -> str:
    """An amount of nano-units: 5280000000 is 5.28, a whole one 12.0."""
    return scaled_text(nano, _NANO_PLACES)


def millions(tokens: int) -> str:
    return scaled_text(tokens, _MILLION_PLACES)


def whole(number: int) -> str:
    return scaled_text(number, 0)


def list_cost(rate: int, tokens: int) -> str:
    """What tokens cost at nano per million, not rounded."""
    return scaled_text(rate * tokens, _NANO_PLACES + _MILLION_PLACES)


def meets(rate: int, tokens: int, nano: int) -> bool:
    """Whether the list price times the quantity is the cost, but for less than half a nano."""
    return 2 * abs(rate * tokens - nano * MILLION) < MILLION


def unit_price(nano: int, quantity: int, of: int) -> str:
    """The price of one unit, where `quantity` / `of` units cost so many nano: with as few digits as give the cost back, to the nano."""
    for places in range(_NANO_PLACES, _MOST_PLACES):
        numerator, denominator = nano * of * 10**places, NANO * quantity
        price = (2 * numerator + denominator) // (2 * denominator)
        # price / 10^places * quantity / of, in nano, is off by less than half of one.
        if 2 * abs(price * quantity * NANO - nano * of * 10**places) < of * 10**places:
            return scaled_text(price, places)
    raise ValueError(f"no price of {_MOST_PLACES} digits gives back {nano} nano for {quantity}")


def instant(at: datetime) -> str:
    return instant_text(at)


def pairs(values: Mapping[str, str]) -> str:
    """A column of keys and values, as JSON."""
    return json.dumps(dict(values), separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def csv_line(cells: Mapping[str, str], columns: tuple[str, ...]) -> str:
    """One line of the file; a column that is not among the cells is null."""
    return csv_row(cells.get(name, "") for name in columns)
