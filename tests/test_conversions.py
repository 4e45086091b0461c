"""Conversions: dated, exact, rounded up once; nothing without a rate."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import parse_instant
from gateway.conversions import Conversions, RateRow


def at(text: str) -> datetime:
    return parse_instant(f"{text}Z")


def rates(*rows: tuple[str, str, str, str]) -> Conversions:
    return Conversions(
        RateRow.model_validate({"from": source, "to": target, "rate": rate, "at": instant, "source": "test"})
        for source, target, rate, instant in rows
    )


DATED = (("USD", "CNY", "7.1", "2026-01-01T00:00:00Z"), ("USD", "CNY", "7.2", "2026-02-01T00:00:00Z"))


@pytest.mark.parametrize(
    ("amount", "source", "target", "instant", "converted"),
    [
        (10, "USD", "CNY", "2026-01-01T00:00", 71),
        (10, "USD", "CNY", "2026-02-01T00:00", 72),
        (1, "USD", "CNY", "2026-01-31T23:59:59", 8),
        (72, "CNY", "USD", "2026-03-01T00:00", 10),
        (73, "CNY", "USD", "2026-03-01T00:00", 11),
        (10, "USD", "CNY", "2025-12-31T23:59:59", None),
        (10, "USD", "EUR", "2026-03-01T00:00", None),
        (10, "EUR", "EUR", "2020-01-01T00:00", 10),
        (0, "USD", "CNY", "2026-03-01T00:00", 0),
    ],
)
def test_conversion_takes_the_newest_rate_and_rounds_up(amount: int, source: str, target: str, instant: str, converted: int | None) -> None:
    assert rates(*DATED).convert(amount, source, target, at(instant)) == converted


@given(st.integers(0, 10**20), st.sampled_from([("USD", "CNY"), ("CNY", "USD")]))
def test_conversion_is_exact_but_for_less_than_a_nano(amount: int, pair: tuple[str, str]) -> None:
    table = rates(*DATED)
    rate = table.rate(*pair, at("2026-03-01T00:00"))
    converted = table.convert(amount, *pair, at("2026-03-01T00:00"))

    assert rate is not None
    assert converted is not None
    assert 0 <= converted - amount * rate < 1


@given(st.integers(1, 10**12), st.integers(1, 10**9))
def test_a_rate_leads_both_ways_to_the_same(amount: int, rate: int) -> None:
    table, instant = rates(("USD", "CNY", f"{rate // 1000}.{rate % 1000:03d}", "2026-01-01T00:00:00Z")), at("2026-03-01T00:00")
    there, back = table.rate("USD", "CNY", instant), table.rate("CNY", "USD", instant)
    converted = table.convert(amount, "USD", "CNY", instant)

    assert there is not None
    assert back is not None
    assert there * back == 1
    assert converted is not None
    returned = table.convert(converted, "CNY", "USD", instant)
    assert returned is not None
    assert amount <= returned < amount + 1 + back


def test_the_newest_rate_counts_whichever_way_round_it_is_stated() -> None:
    table = rates(("USD", "CNY", "7", "2026-01-01T00:00:00Z"), ("CNY", "USD", "0.1", "2026-02-01T00:00:00Z"))
    assert [table.rate("USD", "CNY", at(f"2026-{month}-15T00:00")) for month in ("01", "02")] == [7, 10]


def test_an_empty_table_converts_nothing() -> None:
    assert rates().convert(1, "USD", "CNY", at("2026-03-01T00:00")) is None


@pytest.mark.parametrize(("source", "target", "rate"), [("USD", "CNY", "0"), ("USD", "USD", "1")])
def test_rates_that_cannot_be_meant_are_problems(source: str, target: str, rate: str) -> None:
    rate_row = RateRow.model_validate({"from": source, "to": target, "rate": rate, "at": "2026-01-01T00:00:00Z", "source": "test"})

    assert len(list(rate_row.problems())) == 1
