"""The plan: the first deployment of a route that can serve, what each candidate would cost at most, and why others were passed over."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.clock import parse_instant
from gateway.errors import ContextExceeded, FaregateError, InvalidRequest, ModelNotFound, NoDeployment, PriceUnknown
from gateway.router import Plan, Terms, plan
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
