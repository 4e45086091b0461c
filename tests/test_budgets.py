"""Budgets: which ones a request falls under, in which period; what they grant, and how a refusal is worded."""

from __future__ import annotations

import json
import re
import shutil
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.budgets import SHARE, PeriodKind, claims, exceeded, granted, left_text, period
from gateway.clock import instant_text, parse_instant
from gateway.conversions import Conversions, RateRow
from gateway.errors import PriceUnknown
from gateway.money import NANO, decimal_text, exact_nano
from gateway.outcome import BudgetState, Claim
from gateway.policies import Policies, default_folder, load
from gateway.quotes import quote
from gateway.request import Caller, OwnBudget
from gateway.standings import balance, forecast
from gateway.steps import reached, used
from gateway.teams import TeamRow

NOW = parse_instant("2026-11-20T02:00:00Z")
CALLER = Caller("search", "search-1")
KINDS: tuple[PeriodKind, ...] = ("hour", "day", "week", "month")


# Periods


@pytest.mark.parametrize(
    ("kind", "zone", "at", "name", "ends"),
    [
        ("total", "UTC", "2026-11-20T02:00:00Z", "total", None),
        ("hour", "UTC", "2026-11-20T02:59:59Z", "2026-11-20T02+0000", "2026-11-20T03:00:00Z"),
        ("hour", "Asia/Kolkata", "2026-11-20T02:40:00Z", "2026-11-20T08+0530", "2026-11-20T03:30:00Z"),
        ("day", "UTC", "2026-11-20T23:59:59Z", "2026-11-20", "2026-11-21T00:00:00Z"),
        ("day", "Asia/Shanghai", "2026-11-20T16:00:00Z", "2026-11-21", "2026-11-21T16:00:00Z"),
        ("day", "Asia/Shanghai", "2026-11-20T15:59:59Z", "2026-11-20", "2026-11-20T16:00:00Z"),
        ("week", "UTC", "2026-11-22T23:59:59Z", "2026-W47", "2026-11-23T00:00:00Z"),
        ("week", "UTC", "2027-01-01T00:00:00Z", "2026-W53", "2027-01-04T00:00:00Z"),
        ("month", "UTC", "2026-12-31T23:59:59Z", "2026-12", "2027-01-01T00:00:00Z"),
        ("month", "Asia/Shanghai", "2026-11-30T16:00:00Z", "2026-12", "2026-12-31T16:00:00Z"),
        # A day of 23 and one of 25 hours, and the two hours of one name.
        ("day", "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-29", "2026-03-29T22:00:00Z"),
        ("day", "Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-25", "2026-10-25T23:00:00Z"),
        ("hour", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T02+0200", "2026-10-25T01:00:00Z"),
        ("hour", "Europe/Berlin", "2026-10-25T01:30:00Z", "2026-10-25T02+0100", "2026-10-25T02:00:00Z"),
    ],
)
def test_a_period_goes_by_the_wall_clock_of_its_zone(kind: PeriodKind, zone: str, at: str, name: str, ends: str | None) -> None:
    found = period(kind, zone, parse_instant(at))
    assert (found.name, found.ends and instant_text(found.ends)) == (name, ends)


ZONES = st.sampled_from(
    ["UTC", "Asia/Shanghai", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Havana"]
)


@given(st.sampled_from(KINDS), ZONES, st.integers(0, 3 * 365 * 86_400))
def test_periods_follow_each_other_without_a_gap(kind: PeriodKind, zone: str, after: int) -> None:
    at = parse_instant("2025-01-01T00:00:00Z") + timedelta(seconds=after)
    here = period(kind, zone, at)
    assert here.ends is not None
    last, following = period(kind, zone, here.ends - timedelta(microseconds=1)), period(kind, zone, here.ends)
    assert at < here.ends
    assert last == here
    assert following.name > here.name or (kind == "hour" and here.ends.astimezone(ZoneInfo(zone)).fold)
    assert following.ends is not None
    assert following.ends > here.ends


# Claims


def team(*budgets: dict[str, Any]) -> TeamRow:
    usual = {"currency": "USD", "period": "month", "zone": "Asia/Shanghai"}
    return TeamRow.model_validate({"team": "search", "routes": ["*"], "budgets": [{**usual, **row} for row in budgets]})


def rates(rate: str = "7.1") -> Conversions:
    row = {"from": "USD", "to": "CNY", "rate": rate, "at": "2026-11-01T00:00:00Z", "source": "a test"}
    return Conversions([RateRow.model_validate(row)])


def test_a_request_claims_every_budget_of_its_team_and_its_key_in_one_order() -> None:
    caller = Caller("search", "search-1", OwnBudget(3 * NANO, "USD", "day"))
    rows = team(
        {"budget": "month", "amount": "500", "at_limit": "finish"}, {"budget": "each", "amount": "5", "per": "key", "period": "day"}
    )

    found = claims(rows, caller, "USD", NOW, rates())

    month = Claim("search", "month", "", "2026-11", "USD", 500 * NANO, parse_instant("2026-11-30T16:00:00Z"), finish=True)
    each = Claim("search", "each", "search-1", "2026-11-20", "USD", 5 * NANO, parse_instant("2026-11-20T16:00:00Z"))
    own = Claim("search", "key", "search-1", "2026-11-20", "USD", 3 * NANO, parse_instant("2026-11-21T00:00:00Z"))
    assert found == (each, own, month)


def test_without_budgets_nothing_is_claimed() -> None:
    assert claims(None, CALLER, "USD", NOW, rates()) == claims(team(), CALLER, "USD", NOW, rates()) == ()


@pytest.mark.parametrize(
    ("budget", "charged", "nano", "cost"), [("CNY", "USD", 10, 71), ("CNY", "USD", 1, 8), ("USD", "CNY", 71, 10), ("USD", "CNY", 72, 11)]
)
def test_a_charge_in_another_currency_is_converted_at_the_instant_and_rounded_up_once(
    budget: str, charged: str, nano: int, cost: int
) -> None:
    (claim,) = claims(team({"budget": "month", "amount": "500", "currency": budget}), CALLER, charged, NOW, rates())
    assert claim.cost(nano) == cost


@pytest.mark.parametrize("at", ["2026-10-31T23:59:59Z", "2026-11-20T02:00:00Z"])
def test_without_a_rate_the_request_is_refused_with_the_remedy(at: str) -> None:
    table = rates() if at < "2026-11" else Conversions()
    with pytest.raises(PriceUnknown) as caught:
        claims(team({"budget": "month", "amount": "5", "currency": "CNY"}), CALLER, "USD", parse_instant(at), table)
    assert "Budget month of team search is in CNY" in caught.value.message
    assert "Remedy" in caught.value.message


@given(
    st.integers(1, 10**12),
    st.integers(0, 9),
    st.sampled_from([("USD", "CNY"), ("CNY", "USD"), ("USD", "USD")]),
    st.integers(0, 10**18),
)
def test_what_is_left_affords_no_charge_that_costs_more_and_the_largest_that_does_not(
    digits: int, places: int, pair: tuple[str, str], left: int
) -> None:
    rate = f"{digits // 10**places}.{digits % 10**places:0{places}d}" if places else str(digits)
    charged, budget = pair
    (claim,) = claims(team({"budget": "month", "amount": "5", "currency": budget}), CALLER, charged, NOW, rates(rate))

    most = claim.affords(left)

    assert claim.cost(most) <= left
    assert claim.cost(most + 1) > left
    assert claim.affords(-left - 1) == 0


@given(st.lists(st.integers(0, 10**12), max_size=20), st.sampled_from([("USD", "CNY"), ("CNY", "USD")]))
def test_the_parts_of_a_budget_cost_at_least_what_their_sum_does(charges: list[int], pair: tuple[str, str]) -> None:
    (claim,) = claims(team({"budget": "month", "amount": "5", "currency": pair[1]}), CALLER, pair[0], NOW, rates())
    assert 0 <= sum(map(claim.cost, charges)) - claim.cost(sum(charges)) < max(1, len(charges))


# Grants


@given(*(st.integers(0, 10**9) for _ in range(5)))
def test_a_grant_is_of_use_and_never_beyond_what_is_left_or_the_worst_case(
    asked: int, least: int, worst: int, held: int, left: int
) -> None:
    least = min(least, worst)
    found = granted(asked, least, worst, held, left)
    if found is None:
        assert least > held + left
    else:
        assert least <= found <= max(worst, least)
        assert found <= held + left


@pytest.mark.parametrize(
    ("asked", "least", "worst", "held", "left", "found"),
    [
        (500, 100, 900, 0, 900 * SHARE, 900),
        (500, 100, 900, 0, 900 * SHARE - SHARE, 500),
        (500, 100, 900, 0, 400 * SHARE, 400),
        (500, 100, 900, 0, 640, 100),
        (500, 100, 900, 0, 100, 100),
        (500, 100, 900, 0, 99, None),
        (500, 100, 900, 90, 10, 100),
        (500, 100, 900, 90, 9, None),
        (0, 0, 0, 0, -1, 0),
        (100, 100, 900, 100, -5, None),
    ],
)
def test_the_last_of_a_budget_is_shared_by_all_who_run(asked: int, least: int, worst: int, held: int, left: int, found: int | None) -> None:
    assert granted(asked, least, worst, held, left) == found


# Words


RESETS = parse_instant("2026-12-01T00:00:00Z")


def state(key: str = "", resets_at: datetime | None = RESETS) -> BudgetState:
    return BudgetState("search", "month", key, "2026-11", "USD", 500 * NANO, 499 * NANO, NANO // 4, 0, 0, resets_at)


def test_a_refusal_carries_its_arithmetic() -> None:
    error = exceeded(state(), 800_000_001)
    assert error.message == (
        "Budget month of team search: 499 spent and 0.25 held of 500 USD; this request needs 0.800000001 more."
        " It resets at 2026-12-01T00:00:00Z."
    )
    assert error.details == {
        "budget": "month", "currency": "USD", "limit": "500", "spent": "499", "held": "0.25", "asked": "0.800000001",
        "resets_at": "2026-12-01T00:00:00Z",
    }  # fmt: skip
    assert (error.status, error.retry) == (402, False)


def test_a_budget_of_a_key_names_the_key_and_one_without_an_end_no_instant() -> None:
    error = exceeded(state("search-1", None), 1)
    assert error.message.startswith("Budget month of key search-1: ")
    assert error.message.endswith(" more.")
    assert error.details is not None
    assert error.details["resets_at"] is None


def test_what_is_left_is_shown_for_each_budget() -> None:
    assert left_text((state(), state("k"))) == "month=0.75 USD, month=0.75 USD"


# The example of docs/budgets.md


DOCS = (Path(__file__).parents[1] / "docs" / "budgets.md").read_text()
TEAM_FILE, RATES_FILE = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
NOON = parse_instant("2026-11-20T04:00:00Z")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Policies:
    folder = tmp_path_factory.mktemp("example") / "policies"
    shutil.copytree(default_folder(), folder)
    (folder / "teams").mkdir(exist_ok=True)
    (folder / "teams" / "search.yaml").write_text(TEAM_FILE)
    (folder / "rates.yaml").write_text(RATES_FILE)
    return load(folder)


def days(example: Policies, answers: int, held: int = 0) -> tuple[BudgetState, ...]:
    """What the budgets of key search-1 are after so many of the example's answers."""
    found = claims(example.teams["search"], CALLER, "USD", NOON, example.rates)
    each = charge_of(example, 1234, 23_456)
    return tuple(
        BudgetState(one.team, one.budget, one.key, one.period, one.currency, one.limit, answers * one.cost(each), held, 0, 0, one.resets_at)
        for one in found
    )


def charge_of(example: Policies, prompt: int, output: int) -> int:
    return quote(example, "novita", "deepseek/deepseek-r1-0528", NOON, 0, prompt, output).nano


def day(example: Policies, answers: int, held: int = 0) -> BudgetState:
    return next(one for one in days(example, answers, held) if one.budget == "day")


def test_the_documented_files_are_right(example: Policies) -> None:
    (text,) = [text for text in example.warnings_at(NOON) if "team" in text]
    assert text.startswith("team search: from 95 % on, only local may serve, and none of its routes has a deployment there")
    assert [row.budget for row in example.teams["search"].budgets] == ["day", "month", "each"]


def test_the_documented_charges_are_the_computed_ones(example: Policies) -> None:
    nano = charge_of(example, 1234, 23_456)
    (claim,) = [one for one in claims(example.teams["search"], CALLER, "USD", NOON, example.rates) if one.budget == "day"]
    exact = Fraction(nano * claim.rate[0], claim.rate[1])
    assert (decimal_text(nano), decimal_text(claim.cost(nano)), exact) == ("0.0595038", "0.423869369", Fraction("0.42386936892") * NANO)
    assert f"costs {decimal_text(nano)} USD" in DOCS
    assert f"that is 0.42386936892 CNY, so the budgets in CNY count {decimal_text(claim.cost(nano))}." in DOCS
    least = charge_of(example, 1234, 16)
    assert f"would cost {decimal_text(least)} USD, which are {decimal_text(claim.cost(least))} CNY" in DOCS
    left = claim.affords(day(example, 117).left)
    tokens = max(tokens for tokens in range(22_000, 23_456) if charge_of(example, 1234, tokens) <= left)
    assert 22_450 <= tokens < 22_550, "some 22,500 tokens"


@pytest.mark.parametrize(("answers", "at"), [(94, 0), (95, 80), (112, 80), (113, 95), (117, 95)])
def test_the_documented_steps_are_reached_when_the_table_says(example: Policies, answers: int, at: int) -> None:
    found = day(example, answers)
    use = used(found)
    assert reached(example.teams["search"].steps, [use]).at == at
    if answers != 112:
        assert re.search(rf"(?m)^\| {answers}\b.*\| {re.escape(decimal_text(found.spent))} CNY \| {use.percent} % \|", DOCS)


def test_the_documented_forecast_balance_and_refusal_are_the_computed_ones(example: Policies) -> None:
    expected = forecast(day(example, 95), NOON)
    assert expected is not None
    assert f"the forecast for the day is {decimal_text(expected)} CNY" in DOCS
    shown = {info["currency"]: info["total_balance"] for info in balance(days(example, 117))["balance_infos"]}
    assert f"shows {shown['CNY']} CNY (the day) and {shown['USD']} USD" in DOCS
    each = next(one for one in days(example, 117) if one.budget == "each")
    assert f"which counts {decimal_text(each.spent)} USD" in DOCS
    refusal = exceeded(day(example, 117, held=exact_nano("0.407")), exact_nano("0.006438129"))
    (documented,) = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", DOCS, re.DOTALL)]
    assert documented["error"] == {"code": refusal.code, "message": refusal.message, "details": refusal.details}
