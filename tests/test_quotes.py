"""Quotes: the charge of given tokens on the shipped policies, in the shape that the command prints."""

from __future__ import annotations

import pytest

from gateway.clock import parse_instant
from gateway.errors import PriceUnknown
from gateway.policies import Policies, default_folder, load
from gateway.quotes import quote

PEAK = parse_instant("2026-11-20T02:00:00Z")


@pytest.fixture(scope="module")
def shipped() -> Policies:
    return load(default_folder())


def test_a_quote_prints_amount_card_window_and_lines(shipped: Policies) -> None:
    answer = quote(shipped, "deepseek", "deepseek-v4-pro", PEAK, 0, 1_000_000, 1_000_000).to_json()

    assert {key: answer[key] for key in ("currency", "nano", "amount", "window", "verified")} == {
        "currency": "USD",
        "nano": 5_280_000_000,
        "amount": "5.28",
        "window": "peak",
        "verified": True,
    }
    assert answer["lines"] == [
        {"class": "cache_miss", "tokens": 1_000_000, "nano": 1_320_000_000, "per_million": "1.32"},
        {"class": "output", "tokens": 1_000_000, "nano": 3_960_000_000, "per_million": "3.96"},
    ]
    assert answer["card"] in {card.name for card in shipped.prices.cards()}
    assert (answer["host"], answer["model"], answer["at"]) == ("deepseek", "deepseek-v4-pro", "2026-11-20T02:00:00Z")
    assert answer["tier_at"] == "completion"


def test_lines_sum_to_the_amount_however_it_is_rounded(shipped: Policies) -> None:
    found = quote(shipped, "deepseek", "deepseek-v4-pro", PEAK, 7, 11, 13)

    # 7 * 44 + 11 * 1320 + 13 * 3960 nano.
    assert found.nano == 66_308
    assert sum(line["nano"] for line in found.to_json()["lines"]) == found.nano


def test_no_tokens_cost_nothing(shipped: Policies) -> None:
    answer = quote(shipped, "deepseek", "deepseek-v4-pro", PEAK, 0, 0, 0).to_json()

    assert (answer["nano"], answer["amount"], answer["lines"]) == (0, "0", [])


@pytest.mark.parametrize(("currency", "amount"), [(None, "5.28"), ("USD", "5.28"), ("CNY", "36")])
def test_a_quote_is_in_the_currency_that_was_asked_for(shipped: Policies, currency: str | None, amount: str) -> None:
    answer = quote(shipped, "deepseek", "deepseek-v4-pro", PEAK, 0, 1_000_000, 1_000_000, currency).to_json()

    assert (answer["currency"], answer["amount"]) == (currency or "USD", amount)


@pytest.mark.parametrize(
    ("host", "model", "instant", "text"),
    [
        ("deepseek", "deepseek-chat", "2026-07-24T15:59:00Z", "it was retired at 2026-07-24T15:59:00Z"),
        ("deepseek", "deepseek-reasoner", "2026-11-20T02:00:00Z", "it was retired at 2026-07-24T15:59:00Z"),
        ("deepseek", "deepseek-v4-pro", "2026-04-01T00:00:00Z", "it is served from 2026-04-24T00:00:00Z"),
        ("deepseek", "deepseek-v9", "2026-11-20T02:00:00Z", "models of deepseek are deepseek-chat, deepseek-flash"),
        ("deepsek", "deepseek-v4-pro", "2026-11-20T02:00:00Z", "deepseek, fireworks, gmi"),
    ],
)
def test_what_nothing_serves_has_no_quote(shipped: Policies, host: str, model: str, instant: str, text: str) -> None:
    with pytest.raises(PriceUnknown) as refused:
        quote(shipped, host, model, parse_instant(instant), 0, 1, 1)

    assert text in refused.value.message


def test_a_currency_without_a_price_has_no_quote(shipped: Policies) -> None:
    with pytest.raises(PriceUnknown, match="in EUR at 2026-11-20T02:00:00Z"):
        quote(shipped, "deepseek", "deepseek-v4-pro", PEAK, 0, 1, 1, "EUR")


def test_the_alias_still_has_a_quote_in_its_last_second(shipped: Policies) -> None:
    last = parse_instant("2026-07-24T15:58:59Z")

    assert quote(shipped, "deepseek", "deepseek-chat", last, 0, 1_000_000, 0).to_json()["amount"] == "0.14"


def test_a_baseline_has_a_quote_without_being_a_host(shipped: Policies) -> None:
    card = shipped.prices.baseline(PEAK)
    assert card is not None

    answer = quote(shipped, card.host, "o1", PEAK, 1_000_000, 1_000_000, 1_000_000).to_json()

    assert answer["amount"] == "90"


def test_a_quote_beyond_the_calendar_works_and_warns(shipped: Policies) -> None:
    answer = quote(shipped, "deepseek", "deepseek-v4-pro", parse_instant("2027-02-09T02:00:00Z"), 0, 1_000_000, 0).to_json()

    assert answer["amount"] == "1.32"
    assert any("known until 2026-12-31" in text for text in answer["warnings"])


def test_a_quote_on_an_unverified_card_says_so(shipped: Policies) -> None:
    answer = quote(shipped, "novita", "deepseek/deepseek-r1-0528", PEAK, 0, 1_000_000, 1_000_000).to_json()

    assert (answer["amount"], answer["verified"]) == ("3.2", False)
    assert any("unverified" in text for text in answer["warnings"])
