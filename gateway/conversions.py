"""Conversions: amounts of one currency in another, by a dated table. Data in policies/rates.yaml.

For budgets, comparisons and baselines only: a host is charged in its own currency, from its own price list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from fractions import Fraction

from pydantic import Field

from gateway.notation import Currency, DecimalText
from gateway.rows import Instant, Problem, Row


class RateRow(Row):
    """How many units of `to` one unit of `from` was worth from an instant on: `{from: USD, to: CNY, rate: "7.1", at: …, source}`."""

    from_: Currency = Field(alias="from")
    to: Currency
    rate: DecimalText
    at: Instant
    source: str
    note: str = ""

    def problems(self) -> Iterator[Problem]:
        if not Fraction(self.rate):
            yield ("rate",), "a rate is not zero"
        if self.from_ == self.to:
            yield ("to",), f"{self.to} needs no rate to itself"


class Conversions:
    """The dated table of exchange rates; each pair works in both directions."""

    def __init__(self, rows: Iterable[RateRow] = ()) -> None:
        self._rates: dict[tuple[str, str], list[tuple[datetime, Fraction]]] = {}
        for row in sorted(rows, key=lambda row: row.at):
            self._rates.setdefault((row.from_, row.to), []).append((row.at, Fraction(row.rate)))

    def rate(self, source: str, target: str, at: datetime) -> Fraction | None:
        """The newest rate stated at or before `at`, in either direction; None when there is none."""
        if source == target:
            return Fraction(1)
        stated = [(since, rate) for since, rate in self._rates.get((source, target), ()) if since <= at]
        stated += [(since, 1 / rate) for since, rate in self._rates.get((target, source), ()) if since <= at]
        return max(stated)[1] if stated else None

    def convert(self, nano: int, source: str, target: str, at: datetime) -> int | None:
        """An amount in nano of `target`, exact and rounded up once; None without a rate: amounts of two currencies never add."""
        rate = self.rate(source, target, at)
        if rate is None:
            return None
        return -(-nano * rate.numerator // rate.denominator)
