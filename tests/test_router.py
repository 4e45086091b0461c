"""The plan: the first deployment of a route that can serve, what each candidate would cost at most, and why others were passed over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.clock import parse_instant
from gateway.conversions import Conversions, RateRow
from gateway.errors import (
    BudgetExceeded,
    ContextExceeded,
    FaregateError,
    InvalidRequest,
    ModelNotFound,
    NoDeployment,
    NotAllowed,
    PriceUnknown,
)
from gateway.money import NANO, decimal_text
from gateway.outcome import BudgetState
from gateway.policies import Policies
from gateway.request import Caller, OwnBudget
from gateway.router import Plan, Terms, capped, plan
from gateway.steps import NO_STEP, Step, Use
from gateway.teams import TeamRow
from tests.asking import ask, policies

R1_DAYS, CHEAP, NOW = "2025-02-03T12:00:00Z", "2026-11-20T00:00:00Z", "2026-11-20T02:00:00Z"
EVERY = {name: "USD" for name in ("deepseek", "openrouter", "novita", "gmi", "nebius", "inference-net", "local")}


def planned(model: str, at: str = NOW, hosts: dict[str, str] | None = None, horizon: int = 600, **body: Any) -> Plan:
    route = policies().route(model)
    assert route is not None
    terms = Terms(policies(), parse_instant(at), EVERY if hosts is None else hosts, horizon)
    return plan(ask({"model": model, **body}), route, terms)


def name_of(found: Plan) -> str:
    return found.chosen.deployment.name


# (route, instant, configured hosts) -> the deployment that serves
CHOICES = (
    ("deepseek-reasoner", R1_DAYS, None, "deepseek/deepseek-reasoner"),
    ("deepseek-reasoner", NOW, None, "openrouter/deepseek/deepseek-r1-0528"),
    ("deepseek-reasoner", NOW, {"novita": "USD", "deepseek": "USD"}, "novita/deepseek/deepseek-r1-0528"),
    ("deepseek-reasoner", NOW, {"deepseek": "USD"}, "deepseek/deepseek-flash"),
    ("deepseek-chat", NOW, None, "deepseek/deepseek-flash"),
    ("deepseek-r1", NOW, {"deepseek": "CNY"}, "deepseek/deepseek-flash"),
    ("novita/deepseek/deepseek-v3.2", NOW, None, "novita/deepseek/deepseek-v3.2"),
    ("local", NOW, None, "local/gemma3-270m"),
)


@pytest.mark.parametrize(("route", "at", "hosts", "serves"), CHOICES)
def test_the_first_that_serves_now_and_is_configured(route: str, at: str, hosts: dict[str, str] | None, serves: str) -> None:
    assert name_of(planned(route, at, hosts)) == serves


def test_a_fixed_thinking_switch_comes_with_the_target() -> None:
    assert planned("deepseek-reasoner", NOW, {"deepseek": "USD"}).chosen.sanitised.thinking
    assert not planned("deepseek-chat", NOW, {"deepseek": "USD"}).chosen.sanitised.thinking


def test_who_was_passed_over_and_why_is_told() -> None:
    found = planned("deepseek-reasoner", NOW, {"novita": "USD"})
    assert [reason.partition(":")[0] for reason in found.passed_over] == [
        "deepseek/deepseek-reasoner",
        "openrouter/deepseek/deepseek-r1-0528",
    ]
    assert "OPENROUTER_API_KEY" in found.passed_over[1]


def test_the_account_currency_chooses_the_card() -> None:
    assert planned("deepseek-flash", NOW, {"deepseek": "CNY"}).chosen.card.currency == "CNY"
    assert planned("deepseek-flash", NOW, {"deepseek": "USD"}).chosen.card.currency == "USD"


def test_a_host_with_more_room_takes_what_the_first_cannot_hold() -> None:
    # R1-0528 has 64K of context at DeepSeek, 160K elsewhere.
    at = "2025-06-03T12:00:00Z"
    short, long = ([{"role": "user", "content": "word " * words}] for words in (30_000, 70_000))
    assert name_of(planned("deepseek-reasoner", at, messages=short)) == "deepseek/deepseek-reasoner"
    assert name_of(planned("deepseek-reasoner", at, messages=long)) == "openrouter/deepseek/deepseek-r1-0528"
    # Where nobody has more room, the first that may hold it tries.
    assert name_of(planned("deepseek-reasoner", at, {"deepseek": "USD"}, messages=long)) == "deepseek/deepseek-reasoner"


FAILURES: tuple[tuple[str, str, dict[str, str] | None, dict[str, Any], type[FaregateError], str], ...] = (
    ("deepseek-reasoner", NOW, {}, {}, NoDeployment, "DEEPSEEK_API_KEY"),
    ("deepseek-flash", R1_DAYS, None, {}, ModelNotFound, "not served"),
    ("deepseek-reasoner", R1_DAYS, None, {"tools": [{"type": "function", "function": {"name": "f"}}]}, InvalidRequest, ""),
    (
        "deepseek-flash",
        NOW,
        {"deepseek": "USD"},
        {"messages": [{"role": "user", "content": "word " * 1_600_000}]},
        ContextExceeded,
        "maximum context length",
    ),
    ("novita/deepseek/deepseek-v3.2", NOW, {"novita": "CNY"}, {}, PriceUnknown, "CNY"),
)


@pytest.mark.parametrize(("route", "at", "hosts", "body", "kind", "text"), FAILURES)
def test_the_error_says_what_is_missing(
    route: str, at: str, hosts: dict[str, str] | None, body: dict[str, Any], kind: type[FaregateError], text: str
) -> None:
    with pytest.raises(kind) as caught:
        planned(route, at, hosts, **body)
    assert text in caught.value.message


def test_the_worst_price_covers_the_dearest_window_within_the_longest_answer() -> None:
    calm = planned("deepseek-flash", CHEAP, horizon=1800).chosen
    near = planned("deepseek-flash", "2026-11-20T00:45:00Z", horizon=1800).chosen
    peak = planned("deepseek-flash", NOW, horizon=1800).chosen
    assert calm.expected == near.expected < peak.expected
    assert calm.worst < near.worst == peak.worst


def test_several_answers_multiply_the_worst_price() -> None:
    one, three = (planned("local", NOW, max_tokens=1000, n=n).chosen for n in (1, 3))
    assert three.worst > 2.5 * one.worst
    assert one.expected <= one.worst


# What a team may use, and what is left of it as its budgets fill up

REASONER = "deepseek-reasoner"


def team(**row: Any) -> TeamRow:
    return TeamRow.model_validate({"team": "search", "routes": ["*"], **row})


def step(percent: int = 96, at: int = 95, currency: str = "USD", **asks: Any) -> Step:
    state = BudgetState(
        "search", "month", "", "2026-11", currency, 500 * NANO, 400 * NANO, 80 * NANO, 0, 0, parse_instant("2026-12-01T00:00:00Z")
    )
    return Step(at=at, use=Use(percent, state), **asks)


def planned_for(whose: TeamRow | None = None, then: Step = NO_STEP, model: str = REASONER, hosts: Any = None, **body: Any) -> Plan:
    known = body.pop("policies", policies())
    route = known.route(model)
    assert route is not None
    terms = Terms(known, parse_instant(NOW), EVERY if hosts is None else hosts, 600, whose, then)
    return plan(ask({"model": model, **body}), route, terms)


@pytest.mark.parametrize(
    ("routes", "model", "allowed"),
    [
        (["deepseek-reasoner"], "deepseek-reasoner", True),
        (["deepseek-reasoner"], "deepseek-chat", False),
        (["deepseek-*"], "deepseek-chat", True),
        (["deepseek-*"], "novita/deepseek/deepseek-v3.2", False),
        (["novita/*"], "novita/deepseek/deepseek-v3.2", True),
        (["novita/deepseek/deepseek-v3.2"], "novita/deepseek/deepseek-v3.2", True),
        (["*"], "novita/deepseek/deepseek-v3.2", True),
    ],
)
def test_a_team_asks_for_its_own_routes_and_pins_only(routes: list[str], model: str, allowed: bool) -> None:
    if allowed:
        assert planned_for(team(routes=routes), model=model)
        return
    with pytest.raises(NotAllowed) as caught:
        planned_for(team(routes=routes), model=model)
    assert f"Team search may not use {model!r}. It may use: " in caught.value.message
    assert (caught.value.param, caught.value.status) == ("model", 403)
    assert caught.value.details is not None
    assert all(name.startswith("deepseek-") for name in caught.value.details["allowed"])


def test_a_refusal_of_a_name_lists_what_the_team_may_use() -> None:
    with pytest.raises(NotAllowed) as caught:
        planned_for(team(routes=["deepseek-r*", "local"]))
        planned_for(team(routes=["deepseek-c*", "local"]))
    assert "It may use: " in caught.value.message
    assert "deepseek-chat" in caught.value.message
    assert "local" in caught.value.message
    assert "deepseek-reasoner" not in caught.value.message.partition("It may use")[2]


def test_hosts_that_a_team_may_not_use_are_passed_over_with_the_reason() -> None:
    found = planned_for(team(hosts=["novita"]))
    assert name_of(found) == "novita/deepseek/deepseek-r1-0528"
    assert "openrouter/deepseek/deepseek-r1-0528: not among the hosts of team search" in found.passed_over


def test_a_route_without_any_host_of_the_team_is_not_allowed() -> None:
    with pytest.raises(NotAllowed) as caught:
        planned_for(team(hosts=["gmi"]), model="novita/deepseek/deepseek-v3.2")
    assert caught.value.message == "Team search may use gmi only, and 'novita/deepseek/deepseek-v3.2' is not served there."


def test_a_step_that_prefers_the_cheapest_takes_it_and_says_by_how_much() -> None:
    hosts = {"openrouter": "USD", "novita": "USD", "gmi": "USD", "deepseek": "USD"}
    plain, cheap = planned_for(hosts=hosts), planned_for(None, step(prefer="cheapest"), hosts=hosts)
    every = [planned_for(hosts={host: "USD"}).chosen for host in hosts]

    assert cheap.chosen.expected == min(one.expected for one in every) < plain.chosen.expected
    assert name_of(plain).startswith("openrouter/")
    assert any(reason.startswith("openrouter/") and "expected to cost 0." in reason for reason in cheap.passed_over)


def test_fastest_keeps_the_order_of_the_route() -> None:
    assert name_of(planned_for(None, step(prefer="fastest"))) == name_of(planned_for())


def with_rate(rate: str | None) -> Policies:
    rows = [{"from": "USD", "to": "CNY", "rate": rate, "at": "2026-11-01T00:00:00Z", "source": "a test"}] if rate else []
    return replace(policies(), rates=Conversions(RateRow.model_validate(row) for row in rows))


# DeepSeek bills this account in CNY, and is the dearer of the two at 7 yuan to the dollar.
@pytest.mark.parametrize(
    ("rate", "currency"), [("7", "USD"), ("7", "CNY"), ("0.001", "USD"), ("0.001", "CNY"), (None, "USD"), (None, "CNY")]
)
def test_prices_of_two_currencies_are_compared_by_the_rate_and_without_one_come_last(rate: str | None, currency: str) -> None:
    known, hosts = with_rate(rate), {"deepseek": "CNY", "novita": "USD"}
    found = planned_for(None, step(currency=currency, prefer="cheapest"), hosts=hosts, policies=known)
    alone = {host: planned_for(hosts={host: hosts[host]}, policies=known).chosen for host in hosts}
    at = parse_instant(NOW)
    prices = {host: known.rates.convert(one.expected, one.card.currency, currency, at) for host, one in alone.items()}
    comparable = {host: price for host, price in prices.items() if price is not None}

    assert name_of(found).partition("/")[0] == min(comparable, key=lambda host: comparable[host])
    if rate is None:
        assert len(comparable) == 1
        assert any("no rate to compare its price by" in reason for reason in found.passed_over)


def test_a_step_caps_the_output_as_an_edit() -> None:
    found = planned_for(None, step(max_output=500), model="novita/deepseek/deepseek-v3.2", max_tokens=4000)
    assert "max_tokens=4000->500" in [str(edit) for edit in found.chosen.sanitised.edits]
    assert found.chosen.sanitised.max_output == 500
    assert found.chosen.worst < planned_for(model="novita/deepseek/deepseek-v3.2", max_tokens=4000).chosen.worst


@pytest.mark.parametrize("only", [("novita",), ("novita/deepseek/deepseek-r1-0528",)])
def test_a_step_leaves_only_what_it_names(only: tuple[str, ...]) -> None:
    found = planned_for(None, step(only=only))
    assert name_of(found) == "novita/deepseek/deepseek-r1-0528"
    assert any("from 95 % of the budget on, only novita" in reason for reason in found.passed_over)


def test_where_a_step_leaves_nothing_the_refusal_is_402_and_explains_the_step() -> None:
    with pytest.raises(BudgetExceeded) as caught:
        planned_for(None, step(only=("local",)))
    assert caught.value.message == (
        "Budget month of team search is used to 96 %: from 95 % of the budget on, only local may serve, and nothing of "
        "'deepseek-reasoner' is served there now. It resets at 2026-12-01T00:00:00Z."
    )
    assert caught.value.details is not None
    asked = caught.value.details.pop("asked")
    assert caught.value.details == {
        "budget": "month", "currency": "USD", "limit": "500", "spent": "400", "held": "80", "resets_at": "2026-12-01T00:00:00Z", "step": 95,
        "only": ["local"],
    }  # fmt: skip
    assert asked == decimal_text(planned_for().chosen.expected)


def test_a_request_that_nobody_could_serve_is_refused_for_its_own_reason() -> None:
    with pytest.raises(InvalidRequest) as caught:
        planned_for(None, step(only=("local",)), max_tokens=0)
    assert caught.value.param == "max_tokens"
    with pytest.raises(NoDeployment):
        planned_for(None, step(only=("local",)), hosts={})


def test_what_the_step_leaves_but_cannot_serve_is_still_the_steps_refusal() -> None:
    """At the host that is left the prompt is too long; without the step it would be served elsewhere."""
    long = [{"role": "user", "content": "word " * 400_000}]
    hosts = {"deepseek": "USD", "novita": "USD"}
    assert planned_for(model=REASONER, hosts=hosts, messages=long)
    with pytest.raises(BudgetExceeded):
        planned_for(None, step(only=("novita",)), hosts=hosts, messages=long)


def test_a_host_that_cannot_stream_serves_whole_answers_only() -> None:
    route = policies().route("deepseek/deepseek-flash")
    assert route is not None
    terms = Terms(policies(), parse_instant(CHEAP), EVERY, 600)
    served = {
        key: tuple(replace(one, host=one.host.model_copy(update={"streams": False})) for one in found)
        for key, found in policies().served.items()
    }
    deaf = terms._replace(policies=replace(policies(), served=served))
    assert plan(ask({"model": "m"}), route, deaf).chosen.deployment.name == "deepseek/deepseek-flash"
    with pytest.raises(NoDeployment, match="cannot stream"):
        plan(ask({"model": "m", "stream": True}), route, deaf)


def test_what_a_budget_affords_is_sent_as_the_limit_and_named_as_an_edit() -> None:
    route = policies().route("deepseek/deepseek-flash")
    assert route is not None
    request, terms = ask({"model": "m", "max_tokens": 4000}), Terms(policies(), parse_instant(CHEAP), EVERY, 600)
    found = plan(request, route, terms)
    less = capped(found, request, terms, 100).chosen
    assert less.sanitised.body["max_tokens"] == 100
    assert "max_tokens=4000->100" in map(str, less.sanitised.edits)
    assert (less.worst, less.card) == (found.chosen.worst, found.chosen.card)
    stepped = terms._replace(step=Step(at=80, max_output=50))
    assert capped(found, request, stepped, 100).chosen.sanitised.body["max_tokens"] == 50


@pytest.mark.parametrize(
    ("budget", "own", "serves"),
    [("USD", None, "novita"), ("CNY", None, "deepseek"), (None, OwnBudget(NANO, "CNY", "day"), "deepseek"), (None, None, "novita")],
)
def test_a_deployment_whose_charge_a_budget_cannot_count_is_passed_over(budget: str | None, own: OwnBudget | None, serves: str) -> None:
    budgets = [{"budget": "month", "amount": "5", "currency": budget, "period": "month"}] if budget else []
    route, hosts = policies().route(REASONER), {"deepseek": "CNY", "novita": "USD"}
    assert route is not None
    terms = Terms(with_rate(None), parse_instant(NOW), hosts, 600, team(budgets=budgets), NO_STEP, Caller("search", "search-1", own))

    assert name_of(plan(ask({"model": REASONER}), route, terms)).startswith(serves)


def test_where_no_deployment_can_be_counted_the_refusal_says_what_to_do() -> None:
    budgets = [{"budget": "month", "amount": "5", "currency": "CNY", "period": "month"}]
    route = policies().route(REASONER)
    assert route is not None
    terms = Terms(with_rate(None), parse_instant(NOW), {"novita": "USD"}, 600, team(budgets=budgets), NO_STEP, Caller("search", "search-1"))
    with pytest.raises(PriceUnknown) as caught:
        plan(ask({"model": REASONER}), route, terms)
    assert "Budget month of team search is in CNY, this request would be charged in USD" in caught.value.message
    assert plan(ask({"model": REASONER}), route, terms._replace(policies=with_rate("7.1")))
