"""Standings: every budget of the ledger and the policies, its forecast, and what is left as DeepSeek would say it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.budgets import PeriodKind, period
from gateway.clock import parse_instant
from gateway.money import NANO
from gateway.outcome import BudgetState
from gateway.request import Caller, OwnBudget
from gateway.standings import balance, began, forecast, mine, named, standings
from gateway.teams import TeamRow

NOW = parse_instant("2026-11-20T12:00:00Z")
CALLER = Caller("search", "search-1")


def team(*budgets: dict[str, Any]) -> TeamRow:
    usual = {"currency": "USD", "period": "month"}
    return TeamRow.model_validate({"team": "search", "routes": ["*"], "budgets": [{**usual, **row} for row in budgets]})


def state(budget: str = "month", key: str = "", kind: PeriodKind = "month", **more: Any) -> BudgetState:
    name, ends = period(kind, "UTC", NOW)
    facts = {
        "currency": "USD",
        "limit": 10 * NANO,
        "spent": 0,
        "held": 0,
        "peak_committed": 0,
        "overrun": 0,
        "resets_at": ends,
        "period": name,
    }
    return BudgetState(team="search", budget=budget, key=key, **{**facts, **more})


def test_a_budget_that_nobody_claimed_stands_at_zero_until_it_resets() -> None:
    (found,) = standings({"search": team({"budget": "month", "amount": "500"})}, [], NOW)

    assert found.to_json() == {
        "team": "search", "budget": "month", "key": None, "period": "2026-11", "currency": "USD", "limit": "500", "spent": "0", "held": "0",
        "peak_committed": "0", "overrun": "0", "left": "500", "forecast": None, "resets_at": "2026-12-01T00:00:00Z", "in_force": True,
    }  # fmt: skip


def test_a_claimed_budget_has_the_policies_limit_and_the_ledgers_figures() -> None:
    claimed = state(spent=4 * NANO, held=NANO, peak_committed=5 * NANO)
    (found,) = standings({"search": team({"budget": "month", "amount": "3"})}, [claimed], NOW)

    assert (found.state.limit, found.state.spent, found.state.held, found.state.left) == (3 * NANO, 4 * NANO, NANO, 0)
    assert found.in_force


@pytest.mark.parametrize(
    "row",
    [
        {"budget": "monthly", "amount": "10"},
        {"budget": "month", "amount": "10", "currency": "CNY"},
        {"budget": "month", "amount": "10", "period": "week"},
        {"budget": "month", "amount": "10", "per": "key"},
    ],
)
def test_what_the_policies_state_no_more_is_history_and_its_successor_starts_at_zero(row: dict[str, Any]) -> None:
    found = standings({"search": team(row)}, [state(spent=NANO)], NOW)

    assert [(one.state.spent, one.in_force) for one in found if one.state.spent] == [(NANO, False)]
    assert [one.state.spent for one in found if one.in_force] == ([] if row.get("per") else [0])


def test_a_keys_own_budget_is_in_force_though_no_file_states_it() -> None:
    (found,) = standings({}, [state("key", "search-1", spent=NANO)], NOW)
    assert found.in_force


# Forecasts


@pytest.mark.parametrize(
    ("kind", "at", "spent", "expected"),
    [
        ("month", "2026-11-16T00:00:00Z", 100, 200),
        ("month", "2026-11-11T00:00:00Z", 100, 300),
        ("month", "2026-11-01T14:24:00Z", 1, 50),
        ("month", "2026-11-01T14:23:59Z", 1, None),
        ("week", "2026-11-18T12:00:00Z", 100, 280),
        ("day", "2026-11-20T06:00:00Z", 100, 400),
        ("day", "2026-11-20T01:00:00Z", 1, 24),
        ("day", "2026-11-20T00:59:59Z", 1, None),
        ("hour", "2026-11-20T12:30:00Z", 7, 14),
        ("hour", "2026-11-20T12:01:12Z", 1, 50),
        ("hour", "2026-11-20T12:01:11Z", 1, None),
        ("total", "2026-11-20T12:00:00Z", 7, None),
        ("month", "2026-11-20T12:00:00Z", 0, 0),
    ],
)
def test_a_forecast_goes_on_as_until_now_once_there_is_enough_to_go_by(kind: PeriodKind, at: str, spent: int, expected: int | None) -> None:
    instant = parse_instant(at)
    name, ends = period(kind, "UTC", instant)
    assert forecast(state(period=name, resets_at=ends, spent=spent), instant) == expected


@given(
    st.sampled_from(["hour", "day", "week", "month"]),
    st.integers(0, 3 * 365 * 86_400_000),
    st.integers(0, 10**18),
)
def test_a_forecast_is_never_below_what_is_spent_and_exact_but_for_less_than_a_nano(kind: PeriodKind, after: int, spent: int) -> None:
    at = parse_instant("2025-01-01T00:00:00Z") + timedelta(milliseconds=after)
    name, ends = period(kind, "UTC", at)
    found = state(period=name, resets_at=ends, spent=spent)
    start, expected = began(found, None), forecast(found, at)

    assert ends is not None
    assert start is not None
    assert period(kind, "UTC", start).name == name
    assert period(kind, "UTC", start - timedelta(seconds=1)).name != name
    if expected is not None:
        elapsed, length = (at - start) // timedelta(microseconds=1), (ends - start) // timedelta(microseconds=1)
        assert 0 <= expected * elapsed - spent * length < elapsed


def test_a_period_of_another_zone_begins_at_its_midnight() -> None:
    name, ends = period("day", "Asia/Shanghai", NOW)
    for zone in ("Asia/Shanghai", None, "UTC"):
        assert began(state(period=name, resets_at=ends), zone) == parse_instant("2026-11-19T16:00:00Z")


@given(
    st.sampled_from(["hour", "day", "week", "month"]),
    st.sampled_from(["America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Africa/Cairo", "America/Santiago", "Asia/Shanghai"]),
    st.integers(0, 3 * 365 * 86_400),
)
def test_a_period_begins_where_the_one_before_it_ends(kind: PeriodKind, zone: str, after: int) -> None:
    name, ends = period(kind, zone, parse_instant("2025-01-01T00:00:00Z") + timedelta(seconds=after))
    start = began(state(period=name, resets_at=ends), zone)

    assert start is not None
    assert period(kind, zone, start) == (name, ends)
    assert period(kind, zone, start - timedelta(seconds=1)).ends == start


def test_a_forecast_knows_how_long_the_day_is_in_which_clocks_change() -> None:
    name, ends = period("day", "America/New_York", parse_instant("2026-11-01T12:00:00Z"))
    found = state(period=name, resets_at=ends, spent=10)
    assert forecast(found, parse_instant("2026-11-01T09:00:00Z"), "America/New_York") == 50


# What a caller has


def known(*states: BudgetState) -> Any:
    return {named(one): one for one in states}


def test_a_caller_has_the_budgets_of_the_team_of_its_key_and_of_itself() -> None:
    rows = team({"budget": "month", "amount": "10"}, {"budget": "each", "amount": "2", "per": "key"})
    caller = Caller("search", "search-1", OwnBudget(5 * NANO, "CNY", "day"))
    others = state("each", "search-2", spent=9)

    found = mine(rows, caller, known(state(spent=NANO), state("each", "search-1", spent=1), others), NOW)

    assert [(one.budget, one.key, one.currency, one.spent, one.limit) for one in found] == [
        ("month", "", "USD", NANO, 10 * NANO),
        ("each", "search-1", "USD", 1, 2 * NANO),
        ("key", "search-1", "CNY", 0, 5 * NANO),
    ]


def test_what_was_spent_in_an_earlier_period_does_not_count() -> None:
    assert mine(team({"budget": "month", "amount": "10"}), CALLER, known(state(period="2026-10", spent=NANO)), NOW)[0].spent == 0


def test_a_balance_is_the_tightest_budget_of_each_currency_rounded_down() -> None:
    found = balance([state(spent=1), state("day", limit=2 * NANO, held=10_000_001), state("yuan", currency="CNY", limit=110 * NANO)])
    assert found == {
        "is_available": True,
        "balance_infos": [
            {"currency": "CNY", "total_balance": "110.00", "granted_balance": "0.00", "topped_up_balance": "110.00"},
            {"currency": "USD", "total_balance": "1.98", "granted_balance": "0.00", "topped_up_balance": "1.98"},
        ],
    }


def test_a_balance_is_unavailable_when_any_budget_is_used_up() -> None:
    found = balance([state(spent=10 * NANO), state("yuan", currency="CNY")])
    assert not found["is_available"]
    assert [info["total_balance"] for info in found["balance_infos"]] == ["10.00", "0.00"]


def test_without_a_budget_no_figure_is_invented() -> None:
    assert balance(mine(None, CALLER, {}, NOW)) == {"is_available": True, "balance_infos": []}


@given(st.integers(0, 10**15))
def test_a_balance_never_shows_more_than_is_left(left: int) -> None:
    shown = balance([state(limit=left)])["balance_infos"][0]["total_balance"]
    whole, _, cents = shown.partition(".")
    assert 0 <= left - (int(whole) * 100 + int(cents)) * NANO // 100 < NANO // 100
