"""Errors, finish reasons and JSON as hosts really write them."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from msgspec import Raw

from gateway.dialects import (
    PAGE,
    HostError,
    clean,
    detail_text,
    error_of,
    good_finish,
    inline_splitter,
    read_chunk,
    read_error,
    read_json,
    tool_text,
    write_json,
)
from tests.answers import deployment

ENGINE = json.dumps({"error": {"message": "prompt is longer than the model's context length", "code": 400}})
GENERAL = "The host reported an error."

# body, (status, code, message)
ERRORS: list[tuple[Any, tuple[int | None, str | None, str]]] = [
    ({"error": {"message": "no", "type": "BadRequestError", "param": None, "code": 400}}, (400, "BadRequestError", "no")),
    ({"error": {"message": "no", "type": "invalid_request_error", "code": "model_not_found"}}, (None, "model_not_found", "no")),
    ({"error": {"message": "wait", "code": "429", "type": None}}, (429, None, "wait")),
    ({"error": {"code": 429, "message": "slow", "metadata": {"error_type": "rate_limit_exceeded"}}}, (429, "rate_limit_exceeded", "slow")),
    (
        {"error": {"code": 400, "message": "long", "type": "exceed_context_size_error", "n_ctx": 9}},
        (400, "exceed_context_size_error", "long"),
    ),
    ({"error": {"message": "bad", "code": 500, "details": ENGINE}}, (400, None, "prompt is longer than the model's context length")),
    ({"error": {"message": "bad", "code": 500, "details": "not json"}}, (500, None, "bad")),
    ({"object": "error", "message": "flat", "type": "BadRequest", "param": None, "code": 400}, (400, "BadRequest", "flat")),
    ({"code": 401, "reason": "FAILED_TO_AUTH", "message": "who"}, (401, "FAILED_TO_AUTH", "who")),
    ({"code": 20012, "message": "unknown model", "data": None}, (None, None, "unknown model")),
    ({"detail": "Couldn't authenticate."}, (None, None, "Couldn't authenticate.")),
    ({"detail": [{"loc": ["body"], "msg": "field required"}, "and more"]}, (None, None, "field required; and more")),
    ({"error": "inputs too long", "error_type": "validation"}, (None, "validation", "inputs too long")),
    ({"error": {}}, (None, None, GENERAL)),
    ({"error": {"message": {"a": 1}}}, (None, None, GENERAL)),
    ({"error": [1]}, (None, None, "[1]")),
    ({"choices": [{"finish_reason": "error", "error": {"code": 502, "message": "gone"}}]}, (502, None, "gone")),
]


@pytest.mark.parametrize(("body", "expected"), ERRORS, ids=lambda value: json.dumps(value)[:60])
def test_an_error_is_read_in_every_dialect(body: Any, expected: tuple[int | None, str | None, str]) -> None:
    assert error_of(body) == HostError(*expected)
    assert read_error(418, json.dumps(body).encode()) == HostError(418, *expected[1:])


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {"content": "error"}}], "error": None},
        {"choices": [], "usage": {}},
        {"id": "a", "object": "chat.completion", "choices": [{}], "message": "m", "code": 0, "detail": "d"},
        {"message": "only a message"},
        {},
        [],
        "error",
        None,
    ],
    ids=str,
)
def test_what_is_no_error_is_not_taken_for_one(body: Any) -> None:
    assert error_of(body) is None


@pytest.mark.parametrize("body", [b"", b"[1]", b"\xff", b"[" * 100_000])
def test_an_error_body_in_no_dialect_still_has_a_text(body: bytes) -> None:
    assert read_error(502, body) == HostError(502, None, "The host answered 502 without an explanation.")


def test_a_web_page_is_told_from_an_error_of_the_host() -> None:
    assert read_error(502, b" <html>502</html>") == HostError(502, PAGE, "The host answered 502 with a web page.")


@pytest.mark.parametrize(
    "secret",
    [
        "sk-abcdef0123456789",
        "sk-or-v1-0123456789abcdef",
        "Bearer abc.def",
        "eyJhbGciOiJIUzI1NiJ9.payload",
        "api key: ****3f2a",
        "a" * 41,
        "pk_live_12345678",
    ],
)
def test_a_message_holds_nothing_that_looks_like_a_key(secret: str) -> None:
    found = clean(f"Authentication failed, your {secret} is invalid")

    assert "[removed]" in found
    assert not any(part in found for part in secret.replace("api key: ", "").replace("Bearer ", "").split(".") if len(part) > 2)


def test_a_message_is_one_short_line() -> None:
    assert clean("a\r\n\x00b") == "a b"
    assert len(clean("ab " * 1000)) <= 500
    text = "This model's maximum context length is 65536 tokens. Please reduce deepseek-ai/DeepSeek-R1-0528-Qwen3-8B."
    assert clean(text) == text


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("stop", "stop"),
        ("eos", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("function_call", "function_call"),
        ("content_filter", "content_filter"),
        ("insufficient_system_resource", None),
        ("error", None),
        ("abort", None),
        ("aborted", None),
        ("STOP", None),
        ("", None),
        (None, None),
        (1, None),
    ],
)
def test_only_known_finish_reasons_are_answers(reason: Any, word: str | None) -> None:
    assert good_finish(reason) == word


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":0.10,"b":1e-7}', {"a": Decimal("0.10"), "b": Decimal("1E-7")}),
        (b'{"a":NaN,"b":-Infinity}', {"a": None, "b": None}),
        (b'{"a":"\\ud83d x \\ud83d\\ude00 \\\\ud83d \\ude00"}', {"a": "\ufffd x \U0001f600 \\ud83d \ufffd"}),
    ],
)
def test_json_is_read_exactly_and_leniently(data: bytes, value: Any) -> None:
    assert read_json(data) == value


@pytest.mark.parametrize("data", [b"", b"{", b"{} {}", b'{"a":\xff}', b'{"a":"\xff"}', b"[" * 100_000, b"nul"])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_json(data)
    with pytest.raises(ValueError, match=r"\w"):
        read_chunk(data)


def test_decimals_are_written_digit_for_digit() -> None:
    assert write_json(read_json(b'{"a":0.10,"b":[1e-7,100,"x"]}')) == b'{"a":0.10,"b":[1E-7,100,"x"]}'


def test_tool_calls_and_details_in_an_unknown_form_have_no_text() -> None:
    assert tool_text(Raw(b'[{"function":{"name":"f","arguments":"{}"}},{"custom":1}]')) == "f{}"
    assert tool_text(Raw(b'{"a":1}')) == tool_text(Raw(b"null")) == tool_text(Raw()) == ""
    assert tool_text(Raw(), Raw(b'{"name":"f","arguments":"{}"}')) == "f{}"
    assert tool_text(Raw(), Raw(b"null")) == tool_text(Raw(), Raw(b"1")) == ""
    assert detail_text(Raw(b'[{"text":"a"},{"summary":"b"},{"data":"x"}]')) == "ab"
    assert detail_text(Raw(b'"a"')) == detail_text(Raw(b"null")) == detail_text(Raw()) == ""


@pytest.mark.parametrize(
    ("writes", "thinking", "fixed", "text", "parts"),
    [
        ("inline", {"switch": "none", "default": "on"}, None, "a</think>b", ("a", "b")),
        ("inline", {"switch": "none", "default": "on"}, "off", "a</think>b", ("", "a</think>b")),
        ("inline", {"switch": "thinking", "default": "on"}, None, "a</think>b", ("", "a</think>b")),
        ("inline", {"switch": "thinking", "default": "on"}, None, "<think>a</think>b", ("a", "b")),
        ("auto", {"switch": "none", "default": "on"}, None, "<think>a</think>b", None),
    ],
)
def test_tags_are_split_only_where_the_host_s_row_says_so(
    writes: str, thinking: dict[str, str], fixed: str | None, text: str, parts: tuple[str, str] | None
) -> None:
    splitter = inline_splitter(deployment({"reasoning": writes}, {"thinking": thinking}, fixed))

    if splitter is None:
        assert parts is None
        return
    first, last = splitter.feed(text), splitter.close()
    assert (first[0] + last[0], first[1] + last[1]) == parts
