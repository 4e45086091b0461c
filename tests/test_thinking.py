"""Who decides whether a deployment thinks, and in which form that is said. More rows: tests/requests/thinking.json."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from gateway import thinking
from gateway.contracts import Contract, Thinking
from gateway.errors import InvalidRequest
from gateway.hosts import Deployment
from gateway.thinking import Switch, Wish
from tests.asking import at_host, contract, fixed

State = Literal["on", "off"]

SWITCHED_ON = contract(
    "new", thinking=Thinking(switch="thinking", default="on", efforts=("low", "high"), effort_aliases={"medium": "high", "off": "none"})
)
SWITCHED_OFF = contract("chat", thinking=Thinking(switch="thinking", default="off"))
ALWAYS = contract("always", thinking=Thinking(switch="none", default="on"))
NEVER = contract("never", thinking=Thinking(switch="none", default="off"))

READINGS: list[tuple[dict[str, Any], Wish]] = [
    ({}, Wish()),
    ({"thinking": None, "reasoning": {}, "reasoning_effort": None}, Wish()),
    ({"thinking": {"type": "enabled"}}, Wish("on")),
    ({"thinking": {"type": "disabled"}}, Wish("off")),
    ({"reasoning_effort": "high"}, Wish(None, "high")),
    ({"reasoning_effort": "none"}, Wish("off")),
    ({"reasoning": {"effort": "none"}}, Wish("off")),
    ({"reasoning": {"enabled": True, "effort": "low"}}, Wish("on", "low")),
    ({"enable_thinking": False}, Wish("off")),
    ({"thinking_budget": 0}, Wish("off")),
    ({"thinking_budget": 100}, Wish()),
    ({"chat_template_kwargs": {"thinking": True}}, Wish("on")),
    ({"chat_template_kwargs": {"enable_thinking": False, "other": 1}}, Wish("off")),
    ({"thinking": {"type": "enabled"}, "enable_thinking": True, "reasoning_effort": "low"}, Wish("on", "low")),
]


@pytest.mark.parametrize(("body", "wish"), READINGS)
def test_every_form_is_read(body: dict[str, Any], wish: Wish) -> None:
    assert thinking.read(body) == wish


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"thinking": {"type": "enabled"}, "reasoning_effort": "none"}, ("thinking.type", "reasoning_effort")),
        ({"enable_thinking": True, "reasoning": {"enabled": False}}, ("reasoning.enabled", "enable_thinking")),
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, ("reasoning_effort", "reasoning.effort")),
        ({"chat_template_kwargs": {"thinking": True, "enable_thinking": False}}, ("thinking", "enable_thinking")),
    ],
)
def test_two_forms_that_contradict_each_other_are_named(body: dict[str, Any], names: tuple[str, str]) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        thinking.read(body)
    assert all(name in refusal.value.message for name in names)


@pytest.mark.parametrize(
    "body",
    [
        {"thinking": True},
        {"thinking": {}},
        {"thinking": {"type": ["enabled"]}},
        {"reasoning_effort": 3},
        {"reasoning": "high"},
        {"reasoning": {"effort": 1}},
        {"enable_thinking": "true"},
        {"thinking_budget": True},
        {"chat_template_kwargs": {"thinking": 1}},
    ],
)
def test_a_malformed_form_is_refused_by_name(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        thinking.read(body)
    assert refusal.value.param == next(iter(body))


DECISIONS: list[tuple[str, Wish, Contract, Deployment, State, bool]] = [
    # what, wish, client, target, state, forced (an edit of ours)
    ("nothing said: the version's default", Wish(), SWITCHED_ON, at_host(SWITCHED_ON), "on", False),
    ("the client's word", Wish("off"), SWITCHED_ON, at_host(SWITCHED_ON), "off", False),
    ("the route fixes it", Wish(), SWITCHED_ON, fixed(at_host(SWITCHED_ON), "off"), "off", True),
    ("a client that knows the switch overrides the route", Wish("on"), SWITCHED_ON, fixed(at_host(SWITCHED_ON), "off"), "on", False),
    ("one that knows none does not", Wish("off"), ALWAYS, fixed(at_host(SWITCHED_ON), "on"), "on", False),
    ("another contract: what the client's does by itself", Wish(), NEVER, at_host(SWITCHED_ON), "off", True),
    ("the same, switched on", Wish(), ALWAYS, at_host(SWITCHED_OFF), "on", False),
    ("a version that always thinks", Wish("off"), ALWAYS, at_host(ALWAYS), "on", False),
    ("a version that never thinks", Wish("on"), NEVER, at_host(NEVER), "off", False),
    ("an id that fixes it", Wish("on"), SWITCHED_ON, at_host(SWITCHED_ON, model={"thinking": "off"}), "off", False),
    ("a host that reads no switch", Wish("off"), SWITCHED_ON, at_host(SWITCHED_ON, {"thinking": "none"}), "on", False),
    ("an effort whose other name is none", Wish(None, "off"), SWITCHED_ON, at_host(SWITCHED_ON), "off", False),
]


@pytest.mark.parametrize(("wish", "client", "target", "state", "forced"), [row[1:] for row in DECISIONS], ids=[row[0] for row in DECISIONS])
def test_who_decides(wish: Wish, client: Contract, target: Deployment, state: State, forced: bool) -> None:
    switch = thinking.settle(wish, client, target)
    assert (switch.state, switch.forced) == (state, forced)


def test_what_cannot_be_switched_is_refused_with_the_reason() -> None:
    with pytest.raises(InvalidRequest, match="must be passed back"):
        Switch("on", "on", fixed=True).turned_off("it must be passed back")
    assert Switch("on", "on", fixed=False).turned_off("") == Switch("off", "on", fixed=False, forced=True)


WRITINGS: list[tuple[str, str, dict[str, Any]]] = [
    # the host's form for the switch, for the effort, what "off" and "on with high" become
    (
        "thinking",
        "reasoning_effort",
        {"off": {"thinking": {"type": "disabled"}}, "on": {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}},
    ),
    ("enable_thinking", "none", {"off": {"enable_thinking": False}, "on": {"enable_thinking": True}}),
    ("reasoning", "reasoning", {"off": {"reasoning": {"enabled": False}}, "on": {"reasoning": {"effort": "high"}}}),
    (
        "chat_template_kwargs",
        "reasoning_effort",
        {
            "off": {"chat_template_kwargs": {"thinking": False, "enable_thinking": False}},
            "on": {"chat_template_kwargs": {"thinking": True, "enable_thinking": True}, "reasoning_effort": "high"},
        },
    ),
]
SAYINGS: list[dict[str, dict[str, Any]]] = [
    {"off": {"thinking": {"type": "disabled"}}, "on": {"thinking": {"type": "enabled"}, "reasoning_effort": "medium"}},
    {"off": {"enable_thinking": False}, "on": {"enable_thinking": True, "reasoning_effort": "high"}},
    {"off": {"reasoning": {"enabled": False}}, "on": {"reasoning": {"enabled": True, "effort": "high"}}},
]


@pytest.mark.parametrize("said", SAYINGS)
@pytest.mark.parametrize(("switch", "effort", "written"), WRITINGS)
@pytest.mark.parametrize("state", ["on", "off"])
def test_every_form_becomes_every_hosts_form(said: dict[str, Any], switch: str, effort: str, written: dict[str, Any], state: State) -> None:
    target = at_host(SWITCHED_ON, {"thinking": switch, "effort": effort})
    body = dict(said[state])
    wish = thinking.read(body)
    settled, edits = thinking.write(body, wish, thinking.settle(wish, SWITCHED_ON, target), target)

    if switch == "reasoning" and "reasoning" in said[state]:
        # The host's own form stays as the client wrote it.
        assert body == said[state]
    else:
        assert body == written[state]
    assert set(body) <= settled
    assert bool(edits) == (body != said[state])


def test_turning_off_for_one_request_is_told_even_where_nothing_was_asked() -> None:
    target = at_host(contract(thinking=Thinking(switch="thinking", default="off")))
    body: dict[str, Any] = {}

    _, edits = thinking.write(body, thinking.read(body), Switch("on", "off", fixed=False).turned_off("no"), target)

    assert [edit.name for edit in edits] == ["disable_thinking"]


def test_a_route_fixes_thinking_without_a_new_deployment_for_each_request() -> None:
    target = at_host(SWITCHED_ON)
    assert target.fixed(None) is target
    assert target.fixed("off") is target.fixed("off")
    assert (target.fixed("off").thinking, target.fixed("off").contract) == ("off", SWITCHED_ON)
