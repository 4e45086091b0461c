"""Shapes: a nested value of another type than later code relies on is a refusal that names it; what passes never makes it fail."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.clock import parse_instant
from gateway.errors import InvalidRequest
from gateway.front.body import parse
from gateway.front.shapes import ROLES
from gateway.sanitise import count_sent, sanitise
from tests.asking import NOW, deployment, policies

USER = {"role": "user", "content": "hi"}


def refusal(body: dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as found:
        parse(json.dumps({"model": "m", "messages": [USER], **body}).encode(), "req-1")
    return found.value


# a field of an assistant's message, its value -> where in it the fault is
MESSAGES: list[tuple[str, Any, str]] = [
    ("tool_calls", [{"function": "abc"}], "[0].function"),
    ("tool_calls", [{}, {"function": ["abc"]}], "[1].function"),
    ("tool_calls", [{"function": {"name": 5}}], "[0].function.name"),
    ("tool_calls", [{"function": {"name": "f", "arguments": {}}}], "[0].function.arguments"),
    ("tool_calls", [None], "[0]"),
    ("tool_calls", "abc", ""),
    ("function_call", "abc", ""),
    ("function_call", {"name": 5}, ".name"),
    ("function_call", {"arguments": {}}, ".arguments"),
    ("tool_call_id", 5, ""),
    ("name", ["a"], ""),
    ("reasoning_content", {"text": "a"}, ""),
    ("reasoning", 1, ""),
    ("reasoning_details", "abc", ""),
    ("reasoning_details", ["abc"], "[0]"),
    ("prefix", 1, ""),
    ("content", 1, ""),
    ("content", [["a"]], "[0]"),
]

# a field of the body, its value -> where in it the fault is
FIELDS: list[tuple[str, Any, str]] = [
    ("tools", {"a": 1}, ""),
    ("tools", [1], "[0]"),
    ("tools", [{"function": "abc"}], "[0].function"),
    ("tools", [{"function": {"name": {}}}], "[0].function.name"),
    ("tool_choice", 1, ""),
    ("functions", [1], "[0]"),
    ("function_call", True, ""),
    ("response_format", "json_object", ""),
    ("thinking", "enabled", ""),
    ("thinking", [], ""),
    ("reasoning", "high", ""),
    ("reasoning_effort", {}, ""),
    ("chat_template_kwargs", [], ""),
    ("logit_bias", [], ""),
    ("stop", 5, ""),
    ("stop", {"a": 1}, ""),
    ("stop", ["a", 5], "[1]"),
    ("stop", ["a", None], "[1]"),
]


@pytest.mark.parametrize(("field", "value", "where"), MESSAGES)
def test_a_wrong_shape_in_a_message_is_named(field: str, value: Any, where: str) -> None:
    error = refusal({"messages": [USER, {"role": "assistant", "content": "a", field: value}]})
    assert error.param == f"messages[1].{field}{where}" and field in error.message


@pytest.mark.parametrize(("field", "value", "where"), FIELDS)
def test_a_wrong_shape_of_a_field_is_named(field: str, value: Any, where: str) -> None:
    assert refusal({field: value}).param == f"{field}{where}"


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None, "audio": None}]},
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"type": "custom", "custom": {"name": "f", "input": "x"}}]}]},
        {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": None, "function_call": None, "name": None}]},
        {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": []}]},
        {"messages": [{"role": "tool", "content": "a", "tool_call_id": "1"}, {"role": "user", "content": [{"type": "text", "text": "a"}]}]},
        {"messages": [{**USER, "name": "Ann"}, {"role": "assistant", "content": "a", "prefix": True, "reasoning_content": None}]},
        {"messages": [{"role": "assistant", "content": "a", "reasoning": "r", "reasoning_details": [{"type": "reasoning.text"}]}]},
        {"stop": "a", "response_format": {"type": "json_object"}, "thinking": {"type": "enabled"}, "reasoning_effort": "high"},
        {"stop": ["a"], "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}], "tool_choice": "auto"},
        {"stop": None, "tools": None, "tool_choice": {"type": "function"}, "response_format": None, "thinking": None, "logit_bias": None},
    ],
)
def test_what_clients_really_send_passes(body: dict[str, Any]) -> None:
    whole = {"model": "m", "messages": [USER], **body}
    assert parse(json.dumps(whole).encode(), "req-1").body == whole


SCALARS = st.none() | st.booleans() | st.integers(-5, 10**7) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3)
NAMES = st.sampled_from("type text function name arguments id effort enabled include_usage parameters thinking strict summary".split())
KINDS = st.sampled_from("text image_url enabled disabled function json_object none high max auto".split())
NESTED = st.recursive(SCALARS | KINDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8)
FUNCTION = st.dictionaries(st.sampled_from(["name", "arguments", "strict"]), SCALARS, max_size=2) | NESTED
WITH_FUNCTION = st.fixed_dictionaries({}, optional={"function": FUNCTION, "id": SCALARS, "type": SCALARS}) | NESTED
TEXT = st.sampled_from(["", "hi", "<think>a</think>b"])
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(sorted(ROLES)), "content": TEXT | NESTED},
    optional={
        "tool_calls": st.lists(WITH_FUNCTION, max_size=2) | NESTED,
        "function_call": FUNCTION,
        "reasoning_details": st.lists(NESTED, max_size=2) | NESTED,
        **{name: TEXT | NESTED for name in ("reasoning_content", "reasoning", "name", "tool_call_id", "prefix", "other")},
    },
)
OF_A_BODY = (
    "stop tool_choice functions function_call response_format thinking reasoning reasoning_effort enable_thinking thinking_budget"
    " chat_template_kwargs logit_bias logprobs top_logprobs temperature top_p max_tokens max_completion_tokens n seed stream"
    " stream_options user metadata other"
).split()
BODY = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGE, min_size=1, max_size=4)},
    optional={"tools": st.lists(WITH_FUNCTION, max_size=2) | NESTED, **{name: NESTED for name in OF_A_BODY}},
)
DEPLOYMENTS = [
    deployment(name, at)
    for at in ("2025-02-01T00:00:00Z", "2025-06-01T00:00:00Z", "2026-01-15T00:00:00Z", NOW)
    for host in policies().hosts.values()
    for name in (f"{host.host}/{model.model}" for model in host.models)
    if policies().deployment(host.host, name.partition("/")[2], parse_instant(at)) is not None
]


@settings(max_examples=400, deadline=None)
@given(BODY, st.sampled_from(DEPLOYMENTS))
def test_what_is_parsed_makes_no_later_code_fail(body: dict[str, Any], target: Any) -> None:
    try:
        request = parse(json.dumps({"model": target.name, **body}, ensure_ascii=False).encode(errors="replace"), "req-1")
        route = policies().route(target.name)
        assert route is not None
        sent = sanitise(request, route, target.contract, target)
    except InvalidRequest:
        return
    count_sent(sent, target)
    json.dumps(sent.body)
