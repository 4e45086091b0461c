"""Bytes of one event: keys put in where that is safe, the same JSON value as a chunk written anew; usage replaced or taken out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import Choice, decode_chunk, read_json
from gateway.rewrite import Part, patch, rewrite, set_usage

TEXT = st.lists(st.sampled_from([*'ab"\\{}:,\n é\u2028', '"delta":{', '"content":null', '"reasoning":']), max_size=4).map("".join)
DELTAS = st.fixed_dictionaries(
    {},
    optional={
        "role": st.just("assistant"),
        "content": st.none() | TEXT,
        "reasoning_content": st.none() | TEXT,
        "reasoning": st.none() | TEXT,
        "reasoning_details": st.just([]),
        'x"delta': st.just({"content": None}),
        "tool_calls": st.just([{"index": 0, "function": {"arguments": '{"delta":{"content":null}}'}}]),
    },
)


def event(delta: dict[str, Any], spaced: bool = False) -> tuple[bytes, Choice]:
    body = {"choices": [{"delta": delta, "index": 0, "logprobs": None, "finish_reason": None}], "usage": None}
    data = json.dumps(body, separators=None if spaced else (",", ":"), ensure_ascii=False).encode()
    return b"data: " + data + b"\n\n", (decode_chunk(data).choices or [])[0]


@given(DELTAS, st.booleans())
def test_patching_gives_what_the_client_needs_or_gives_up(delta: dict[str, Any], spaced: bool) -> None:
    raw, choice = event(delta, spaced)
    assert choice.delta is not None

    patched = patch(raw, choice.delta)

    if patched is None:
        return
    made = json.loads(patched[6:])["choices"][0]["delta"]
    reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
    assert (made["reasoning_content"] or "") == reasoning
    assert made["content"] == (delta.get("content") or (None if reasoning and delta.get("content") is None else ""))
    others = {key: value for key, value in delta.items() if key not in ("content", "reasoning", "reasoning_content")}
    assert {key: made[key] for key in others} == others


@pytest.mark.parametrize("delta", [{"content": "a"}, {"reasoning": "a"}, {"reasoning": None, "content": ""}, {}, {"content": None}])
@pytest.mark.parametrize("spaced", [False, True])
def test_common_gaps_are_closed_without_writing_the_chunk_anew(delta: dict[str, Any], spaced: bool) -> None:
    raw, choice = event(delta, spaced)
    assert choice.delta is not None

    assert patch(raw, choice.delta) not in (None, raw)


def test_bytes_are_not_touched_where_another_key_has_the_same_name() -> None:
    data = b'{"x":{"delta":{}},"choices":[{"index":0,"delta":{"content":"a"}}]}'
    (choice,) = decode_chunk(data).choices or []
    assert choice.delta is not None

    assert patch(b"data: " + data + b"\n\n", choice.delta) is None


def test_a_whole_delta_is_left_alone() -> None:
    raw, choice = event({"content": None, "reasoning_content": "x"})
    assert choice.delta is not None

    assert patch(raw, choice.delta) is raw


def test_a_chunk_written_anew_keeps_what_it_does_not_know_digit_for_digit() -> None:
    body = read_json(b'{"x":[1.50,{"y":1e-7}],"choices":[{"index":0,"delta":{"reasoning":"r","z":0.10},"finish_reason":"eos"}]}')

    (made,) = rewrite(body, [Part("r", "", "stop")])

    choice = b'{"index":0,"delta":{"z":0.10,"content":null,"reasoning_content":"r"},"finish_reason":"stop"}'
    assert made == b'data: {"x":[1.50,{"y":1E-7}],"choices":[' + choice + b"]}\n\n"


def test_reasoning_and_content_at_once_become_two_events_and_nothing_is_said_twice() -> None:
    call = [{"index": 0, "function": {"arguments": "{}"}}]
    delta = {"reasoning": "r", "content": "c", "tool_calls": call, "reasoning_details": [{"text": "r"}]}
    body = {"choices": [{"index": 0, "delta": delta, "logprobs": {"content": []}, "finish_reason": "stop"}], "usage": {"a": 1}}

    first, second = (json.loads(made[6:]) for made in rewrite(body, [Part("r", "c", "stop")]))

    assert first["choices"] == [
        {"index": 0, "delta": {"content": None, "reasoning_details": [{"text": "r"}], "reasoning_content": "r"}, "finish_reason": None}
    ]
    assert "usage" not in first
    assert second["choices"][0]["delta"] == {"content": "c", "tool_calls": call, "reasoning_content": None}
    assert (second["choices"][0]["finish_reason"], second["usage"]) == ("stop", {"a": 1})


USAGE = b'{"prompt_tokens": 1,"x":[1.0]}'


@pytest.mark.parametrize(
    ("sent", "without", "replaced"),
    [
        (b'{"a":1,"usage":' + USAGE + b"}", b'{"a":1}', b'{"a":1,"usage":{"n":2}}'),
        (b'{"usage":' + USAGE + b',"a":1.50}', b'{"a":1.50}', b'{"usage":{"n":2},"a":1.50}'),
        (b'{"a":1, "usage" : ' + USAGE + b" }", b'{"a":1}', b'{"a":1,"usage":{"n":2}}'),
        (b'{"a":{"usage":' + USAGE + b'},"usage":' + USAGE + b"}", b'{"a":{"usage":{"prompt_tokens":1,"x":[1.0]}}}', None),
        (b'{"usage":' + USAGE + b"}", b"{}", b'{"usage":{"n":2}}'),
    ],
)
def test_usage_is_replaced_or_taken_out(sent: bytes, without: bytes, replaced: bytes | None) -> None:
    raw = b"data: " + sent + b"\n\n"

    assert set_usage(raw, USAGE, None) == b"data: " + without + b"\n\n"
    if replaced is not None:
        assert set_usage(raw, USAGE, {"n": 2}) == b"data: " + replaced + b"\n\n"
