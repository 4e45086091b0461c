"""Fields by allow-list: the host's rules first, then the contract's; an unknown field passes to open hosts only."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.contracts import Fields, Rule
from gateway.edits import header
from gateway.errors import InvalidRequest
from gateway.fields import sift
from gateway.hosts import Deployment, HostFields
from tests.asking import at_host, contract

SERVED = contract(
    fields=Fields(
        passed=("model", "messages", "stop", "n", "tool_choice", "both"),
        ignored=("temperature",),
        dropped=("store",),
        renamed={"seed": "random_seed"},
        refused={"logprobs": "no logprobs here", "tools": "no tools here"},
        rules=(
            Rule(field="n", allowed=(1,), text="one answer only"),
            Rule(field="tool_choice", values=("required", "function"), thinking=True, text="not while thinking"),
            Rule(field="stop", values=("bad",), text="not this stop"),
            Rule(field="audio", text="never"),
        ),
    )
)
CLOSED = at_host(SERVED)
OPEN = at_host(SERVED, open_fields=True)
OWN = at_host(
    SERVED, fields=HostFields(passed=("logprobs",), dropped=("stop",), renamed={"both": "one"}, refused={"user": "no users here"})
)

KEPT: list[tuple[Deployment, dict[str, Any], dict[str, Any], str]] = [
    (CLOSED, {"stop": ["x"], "n": 1}, {"stop": ["x"], "n": 1}, ""),
    (CLOSED, {"temperature": 0.5}, {"temperature": 0.5}, ""),
    (CLOSED, {"store": True}, {}, "drop_store"),
    (CLOSED, {"seed": 7}, {"random_seed": 7}, "rename_seed"),
    (CLOSED, {"unknown": 1}, {}, "drop_unknown"),
    (OPEN, {"unknown": 1}, {"unknown": 1}, ""),
    (OPEN, {"store": True}, {}, "drop_store"),
    (CLOSED, {"logprobs": False, "tools": []}, {}, "drop_logprobs, drop_tools"),
    (CLOSED, {"logprobs": None}, {}, "drop_logprobs"),
    (CLOSED, {"n": None, "tool_choice": None}, {"n": None, "tool_choice": None}, ""),
    (CLOSED, {"tool_choice": "auto"}, {"tool_choice": "auto"}, ""),
    (OWN, {"logprobs": True, "stop": "x", "both": 2}, {"logprobs": True, "one": 2}, "drop_stop, rename_both"),
    (CLOSED, {"weird\r\nname": 1}, {}, "drop_other"),
]


@pytest.mark.parametrize(("target", "before", "after", "edits"), KEPT)
def test_each_field_is_passed_renamed_or_dropped(target: Deployment, before: dict[str, Any], after: dict[str, Any], edits: str) -> None:
    body = {"model": "m", "messages": [], "stream": True, "stream_options": {}, **before}
    assert header(sift(body, target, True, ())) == edits
    assert body == {"model": "m", "messages": [], "stream": True, "stream_options": {}, **after}


@pytest.mark.parametrize(
    ("target", "body", "text", "param"),
    [
        (CLOSED, {"logprobs": True}, "no logprobs here", "logprobs"),
        (OPEN, {"tools": [{}]}, "no tools here", "tools"),
        (CLOSED, {"n": 2}, "one answer only", "n"),
        (CLOSED, {"n": True}, "one answer only", "n"),
        (CLOSED, {"tool_choice": "required"}, "not while thinking", "tool_choice"),
        (CLOSED, {"tool_choice": {"type": "function", "function": {"name": "f"}}}, "not while thinking", "tool_choice"),
        (CLOSED, {"stop": "bad"}, "not this stop", "stop"),
        (OPEN, {"audio": 1}, "never", "audio"),
        (OWN, {"user": "u"}, "no users here", "user"),
    ],
)
def test_a_refusal_gives_the_vendors_reason_and_names_the_field(target: Deployment, body: dict[str, Any], text: str, param: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        sift(dict(body), target, True, ())
    assert (refusal.value.message, refusal.value.param) == (text, param)


def test_a_rule_for_thinking_holds_only_while_thinking() -> None:
    body: dict[str, Any] = {"tool_choice": "required"}
    assert sift(body, CLOSED, False, ()) == []


def test_settled_fields_are_left_alone() -> None:
    body: dict[str, Any] = {"thinking": {"type": "disabled"}, "max_tokens": 5}
    assert sift(body, CLOSED, False, {"thinking", "max_tokens"}) == []
    assert body == {"thinking": {"type": "disabled"}, "max_tokens": 5}


def test_plain_fields_are_those_that_no_rule_is_about() -> None:
    core = {"model", "messages", "stream", "stream_options"}
    assert CLOSED.plain_fields == core | {"both", "temperature"}
    assert OWN.plain_fields == core | {"temperature", "logprobs"}
    ruled = at_host(contract(fields=Fields(rules=(Rule(field="stream", values=(True,), text="no streams"),))))
    with pytest.raises(InvalidRequest, match="no streams"):
        sift({"stream": True}, ruled, False, ())
