"""The one rounding, exact amounts, and currencies that never mix."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.money import MILLION, NANO, Money, MoneyError, Parts, Rates, charge, decimal_text, exact_nano

V4_PRO_PEAK = Rates(44_000_000, 1_320_000_000, 3_960_000_000)
TOKENS = st.integers(0, 10**9)
RATES = st.builds(Rates, st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**12))


@given(RATES, TOKENS, TOKENS, TOKENS)
def test_a_charge_is_the_exact_amount_rounded_up_by_less_than_a_nano(rates: Rates, hit: int, miss: int, output: int) -> None:
    exact = Fraction(hit * rates.cache_hit + miss * rates.cache_miss + output * rates.output, MILLION)

    total = charge(rates, hit, miss, output).total

    assert 0 <= total - exact < 1


@given(RATES, TOKENS, TOKENS, TOKENS)
def test_parts_are_floors_but_for_the_one_that_takes_the_remainder(rates: Rates, hit: int, miss: int, output: int) -> None:
    parts = charge(rates, hit, miss, output)

    floors = (hit * rates.cache_hit // MILLION, miss * rates.cache_miss // MILLION, output * rates.output // MILLION)
    above = [part - floor for part, floor in zip((parts.cache_hit, parts.cache_miss, parts.output), floors, strict=True)]
    assert all(0 <= extra <= 3 for extra in above)
    assert sum(extra > 0 for extra in above) <= 1


@given(RATES, TOKENS, TOKENS, TOKENS)
def test_a_class_without_tokens_costs_nothing(rates: Rates, hit: int, miss: int, output: int) -> None:
    assert charge(rates, 0, miss, output).cache_hit == 0
    assert charge(rates, hit, 0, output).cache_miss == 0
    assert charge(rates, hit, miss, 0).output == 0


@given(RATES, st.tuples(TOKENS, TOKENS, TOKENS), st.tuples(TOKENS, TOKENS, TOKENS))
def test_one_charge_is_never_above_two_for_the_same_tokens(rates: Rates, one: tuple[int, int, int], two: tuple[int, int, int]) -> None:
    whole = charge(rates, one[0] + two[0], one[1] + two[1], one[2] + two[2]).total

    assert 0 <= charge(rates, *one).total + charge(rates, *two).total - whole <= 1


@pytest.mark.parametrize(
    ("tokens", "parts"),
    [
        ((0, 1_000_000, 1_000_000), Parts(0, 1_320_000_000, 3_960_000_000)),
        ((1, 0, 0), Parts(44, 0, 0)),
        ((0, 0, 0), Parts(0, 0, 0)),
    ],
)
def test_charges_at_v4_pro_peak(tokens: tuple[int, int, int], parts: Parts) -> None:
    assert charge(V4_PRO_PEAK, *tokens) == parts


@pytest.mark.parametrize(
    ("tokens", "parts"),
    [((1, 1, 1), Parts(0, 0, 1)), ((1, 1, 0), Parts(0, 1, 0)), ((1, 0, 0), Parts(1, 0, 0))],
    ids=["to output", "else to miss", "else to hit"],
)
def test_the_remainder_goes_to_the_last_class_that_is_charged(tokens: tuple[int, int, int], parts: Parts) -> None:
    assert charge(Rates(1, 1, 1), *tokens) == parts


@given(RATES, RATES)
def test_the_dearer_of_two_bands_is_so_class_by_class(one: Rates, other: Rates) -> None:
    dearer = one.at_least(other)

    assert (dearer.cache_hit, dearer.output) == (max(one.cache_hit, other.cache_hit), max(one.output, other.output))
    assert dearer.cache_miss == max(one.cache_miss, other.cache_miss)


@given(st.integers(0, 10**30))
def test_the_text_of_an_amount_reads_back_as_the_same_amount(nano: int) -> None:
    text = decimal_text(nano)

    assert exact_nano(text) == nano
    assert "e" not in text.lower()


@pytest.mark.parametrize(
    ("nano", "text"),
    [(5_280_000_000, "5.28"), (1_234_567, "0.001234567"), (0, "0"), (-1, "-0.000000001"), (-1_500_000_000, "-1.5"), (NANO, "1")],
)
def test_amounts_are_written_as_the_shortest_plain_decimals(nano: int, text: str) -> None:
    assert decimal_text(nano) == text


@pytest.mark.parametrize(("text", "nano"), [("0.003625", 3_625_000), ("15", 15 * NANO), ("0.000000001", 1), ("2.190", 2_190_000_000)])
def test_prices_are_read_exactly(text: str, nano: int) -> None:
    assert exact_nano(text) == nano


TOO_FINE = ["0.0000000001", "1.0000000000000000000000000000001", "1e-999999999"]


@pytest.mark.parametrize("text", [*TOO_FINE, "1e999999999", "-1", "NaN", "Infinity", "", "1,5"])
def test_what_is_not_an_exact_amount_is_refused(text: str) -> None:
    with pytest.raises(MoneyError):
        exact_nano(text)


def test_two_currencies_never_add() -> None:
    assert Money(1, "USD") + Money(2, "USD") == Money(3, "USD")
    with pytest.raises(MoneyError, match="convert"):
        Money(1, "USD") + Money(1, "CNY")


def test_an_amount_names_its_currency() -> None:
    assert str(Money(1_234_567, "USD")) == "0.001234567 USD"
