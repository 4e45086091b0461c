"""Routes: names, dated client contracts, deployments as HOST/MODEL."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.clock import parse_instant
from gateway.routes import RouteRow, RouteTarget, route_of

DATED = [
    {"until": "2025-05-28T00:00:00Z", "contract": "deepseek-r1"},
    {"until": "2025-08-21T00:00:00Z", "contract": "deepseek-r1-0528"},
    {"contract": "deepseek-v3.1-reasoner"},
]


def row(**changes: Any) -> RouteRow:
    return RouteRow.model_validate({"route": "r", "contract": "c", "deployments": ["h/m"], **changes})


def test_a_host_ends_at_the_first_slash_and_a_model_may_have_more() -> None:
    targets = row(deployments=["deepseek/deepseek-chat", "novita/deepseek/deepseek-r1-0528"]).targets

    assert targets == (RouteTarget("deepseek", "deepseek-chat"), RouteTarget("novita", "deepseek/deepseek-r1-0528"))
    assert targets[1].name == "novita/deepseek/deepseek-r1-0528"


@pytest.mark.parametrize(
    ("item", "target"),
    [
        ("h/m", RouteTarget("h", "m")),
        ({"deployment": "h/m"}, RouteTarget("h", "m")),
        ({"deployment": "h/m", "thinking": "on"}, RouteTarget("h", "m", "on")),
        ({"deployment": "h/m/x", "thinking": "off"}, RouteTarget("h", "m/x", "off")),
    ],
)
def test_a_deployment_may_fix_thinking(item: object, target: RouteTarget) -> None:
    assert row(deployments=[item]).targets == (target,)


@pytest.mark.parametrize(
    ("instant", "contract"),
    [
        ("2020-01-01T00:00:00Z", "deepseek-r1"),
        ("2025-05-27T23:59:59.999999Z", "deepseek-r1"),
        ("2025-05-28T00:00:00Z", "deepseek-r1-0528"),
        ("2025-08-20T23:59:59Z", "deepseek-r1-0528"),
        ("2025-08-21T00:00:00Z", "deepseek-v3.1-reasoner"),
        ("2030-01-01T00:00:00Z", "deepseek-v3.1-reasoner"),
    ],
)
def test_the_clients_contract_is_that_of_the_instant(instant: str, contract: str) -> None:
    assert route_of(row(contract=DATED)).contract_at(parse_instant(instant)) == contract


def test_one_contract_holds_at_any_time() -> None:
    route = route_of(row(choose="order", out_of_range="refuse"))

    assert route.contract_at(parse_instant("1999-01-01T00:00:00Z")) == "c"
    assert (route.name, route.choose, route.out_of_range) == ("r", "order", "refuse")


def test_a_route_takes_the_cheapest_and_clamps_unless_it_says_otherwise() -> None:
    assert (row().choose, row().out_of_range) == ("cheapest", "clamp")


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"deployments": ["h/m", "model"]}, ("deployments", 1)),
        ({"deployments": ["/model"]}, ("deployments", 0)),
        ({"deployments": ["host/"]}, ("deployments", 0)),
        ({"contract": []}, ("contract",)),
        ({"contract": DATED[:2]}, ("contract",)),
        ({"contract": [DATED[2], DATED[2]]}, ("contract", 0)),
        ({"contract": [DATED[1], DATED[0], DATED[2]]}, ("contract", 1, "until")),
        ({"contract": [DATED[0], DATED[0], DATED[2]]}, ("contract", 1, "until")),
    ],
)
def test_contradictions_within_a_route_are_problems(changes: dict[str, Any], path: tuple[str | int, ...]) -> None:
    assert [place for place, _ in row(**changes).problems()] == [path]


def test_a_right_route_has_no_problems() -> None:
    assert list(row(contract=DATED).problems()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"deployments": []},
        {"choose": "random"},
        {"out_of_range": "ignore"},
        {"deployments": [{"deployment": "h/m", "thinking": "maybe"}]},
        {"deployments": [{"deployment": "h/m", "thinkin": "on"}]},
    ],
)
def test_what_a_route_cannot_mean_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        row(**changes)
