"""Whole answers: put together from chunks, brought to one shape, and decorated with their cost."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from gateway.assemble import Assembler, decorate_usage, fault_of, normalise_answer
from gateway.dialects import HostError, write_json
from gateway.money import Money
from gateway.usage import Sources, Usage
from tests.answers import COST, deployment

REPORTED = Usage(10, 8, 4, 2)


def chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "a1", "object": "chat.completion.chunk", "created": 5, "model": "m", "choices": [choice], **more}


def assembled(*chunks: dict[str, Any]) -> dict[str, Any]:
    assembler = Assembler()
    for part in chunks:
        assembler.feed(part)
    return assembler.answer({"n": 1})


def test_chunks_become_one_answer() -> None:
    made = assembled(
        chunk({"role": "assistant", "content": "", "reasoning_content": None}, provider="first", system_fingerprint="fp"),
        chunk({"content": None, "reasoning_content": "be"}),
        chunk({"content": None, "reasoning_content": "cause"}, provider=None),
        chunk({"content": "Ye", "reasoning_content": None}, provider="last"),
        chunk({"content": "s", "reasoning_content": None}, id="other"),
        chunk({"content": "", "reasoning_content": None}, "length", faregate={"stopped": "limit"}, usage={"x": 1}),
    )

    assert made == {
        "id": "a1",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "provider": "last",
        "system_fingerprint": "fp",
        "faregate": {"stopped": "limit"},
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Yes", "reasoning_content": "because"},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {"n": 1},
    }


def test_tool_calls_are_joined_by_index_and_names_are_not_doubled() -> None:
    def part(index: int | None, **call: Any) -> dict[str, Any]:
        return chunk({"content": "", "tool_calls": [{"index": index, **call} if index is not None else call]})

    made = assembled(
        part(0, id="c0", type="function", function={"name": "f", "arguments": ""}),
        part(0, function={"arguments": '{"a"'}),
        part(1, id="c1", type="function", function={"name": "g", "arguments": "{}"}),
        part(0, id="c0", function={"name": "f", "arguments": ":1}"}),
        part(None, id="c2", type="function", function={"name": "h", "arguments": "[]"}),
        chunk({}, "tool_calls"),
    )

    assert made["choices"][0]["message"]["tool_calls"] == [
        {"index": 0, "id": "c0", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"index": 1, "id": "c1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        {"index": 2, "id": "c2", "type": "function", "function": {"name": "h", "arguments": "[]"}},
    ]


def test_logprobs_and_details_grow_and_the_first_finish_stands() -> None:
    first, second = chunk({"reasoning_details": [1]}), chunk({"reasoning_details": [2], "refusal": None}, "tool_calls")
    first["choices"][0]["logprobs"] = {"content": ["a"], "refusal": None}
    second["choices"][0]["logprobs"] = {"content": ["b"], "refusal": None}

    (choice,) = assembled(first, second, chunk({}, "stop", native="x"))["choices"]

    assert choice["logprobs"] == {"content": ["a", "b"], "refusal": None}
    assert choice["message"]["reasoning_details"] == [1, 2]
    assert choice["finish_reason"] == "tool_calls"


def test_choices_are_kept_apart_and_in_order() -> None:
    made = assembled(chunk({"content": "b"}, index=1), chunk({"content": "a"}), chunk({"content": "b"}, "stop", 1), chunk({}, "stop"))

    assert [choice["message"]["content"] for choice in made["choices"]] == ["a", "bb"]


def test_events_are_read_wherever_they_are_cut() -> None:
    stream = b": hello\n\n" + b"".join(b"data: " + write_json(chunk({"content": text})) + b"\n\n" for text in "abc") + b"data: [DONE]\n\n"
    assembler = Assembler()
    for at in range(len(stream)):
        assembler.feed_events(stream[at : at + 1])

    body = assembler.answer(None)

    assert body["choices"][0]["message"]["content"] == "abc"
    assert "usage" not in body


# ---- whole answers


def whole(message: dict[str, Any], finish: Any = "stop") -> dict[str, Any]:
    return {"id": "a1", "choices": [{"index": 0, "message": message, "finish_reason": finish}]}


R1 = {"thinking": {"switch": "none", "default": "on"}}
CHAT: dict[str, Any] = {}
# writes.reasoning, contract, message before, message after, whether that is an edit
ANSWERS: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], bool]] = [
    ("auto", R1, {"content": "a", "reasoning_content": "r"}, {"content": "a", "reasoning_content": "r"}, False),
    ("auto", R1, {"content": None, "reasoning_content": "r"}, {"content": None, "reasoning_content": "r"}, False),
    ("auto", R1, {"content": "a", "reasoning": "r"}, {"content": "a", "reasoning_content": "r"}, True),
    ("auto", R1, {"content": "a", "reasoning": None}, {"content": "a", "reasoning_content": None}, True),
    ("auto", R1, {"content": "a"}, {"content": "a", "reasoning_content": None}, True),
    ("auto", CHAT, {"content": "a", "tool_calls": [1]}, {"content": "a", "tool_calls": [1]}, False),
    ("auto", R1, {"content": "a", "reasoning_content": None, "reasoning": "r"}, {"content": "a", "reasoning_content": "r"}, True),
    (
        "auto",
        R1,
        {"content": "a", "reasoning_details": [{"type": "reasoning.text", "text": "r"}]},
        {"content": "a", "reasoning_details": [{"type": "reasoning.text", "text": "r"}], "reasoning_content": "r"},
        True,
    ),
    ("inline", R1, {"content": "<think>\nr\n</think>\n\na"}, {"content": "a", "reasoning_content": "r"}, True),
    ("inline", R1, {"content": "r</think>a"}, {"content": "a", "reasoning_content": "r"}, True),
    ("auto", CHAT, {"content": "<think>r</think>a"}, {"content": "<think>r</think>a"}, False),
]


@pytest.mark.parametrize(("writes", "contract", "before", "after", "edited"), ANSWERS)
def test_a_whole_answer_comes_to_one_shape(
    writes: str, contract: dict[str, Any], before: dict[str, Any], after: dict[str, Any], edited: bool
) -> None:
    body = whole(before)

    edits = normalise_answer(body, deployment({"reasoning": writes}, contract))

    assert body == whole(after)
    assert [str(edit) for edit in edits] == (["normalise_stream"] if edited else [])


def test_a_host_s_word_for_the_finish_is_translated() -> None:
    body = whole({"content": "a"}, "eos")

    assert normalise_answer(body, deployment())
    assert body["choices"][0]["finish_reason"] == "stop"


FAULTS: list[tuple[Any, str]] = [
    ({"error": {"message": "broken", "code": 500}}, "broken"),
    ({"choices": []}, "no chat completion"),
    ({}, "no chat completion"),
    ([], "no chat completion"),
    (whole(None), "no chat completion"),  # type: ignore[arg-type]
    (whole({"content": ""}, "insufficient_system_resource"), "insufficient_system_resource"),
    (whole({"content": "a"}, None), "None"),
    ({"choices": [{"message": {"content": "a"}, "finish_reason": "error", "error": {"message": "partial"}}]}, "partial"),
]


@pytest.mark.parametrize(("body", "words"), FAULTS, ids=str)
def test_a_whole_answer_with_status_200_may_be_none(body: Any, words: str) -> None:
    fault = fault_of(body)

    assert isinstance(fault, HostError)
    assert words in fault.message


def test_a_whole_answer_has_no_fault() -> None:
    assert fault_of(whole({"content": "a"})) is None
    assert fault_of({**whole({"content": None}, "eos"), "error": None}) is None


# ---- usage with its cost


def test_a_reported_usage_is_shown_as_the_host_wrote_it_with_our_cost() -> None:
    reported = {"prompt_tokens": 18, "cost": Decimal("0.00036"), "x": {"y": 1}}

    shown = decorate_usage(reported, REPORTED, COST)

    assert write_json(shown) == b'{"prompt_tokens":18,"x":{"y":1},"host_cost":0.00036,"cost":0.001234567,"cost_currency":"USD"}'
    assert reported == {"prompt_tokens": 18, "cost": Decimal("0.00036"), "x": {"y": 1}}


@pytest.mark.parametrize(("nano", "text"), [(0, "0"), (1, "0.000000001"), (5_280_000_000, "5.28"), (10**18 + 1, "1000000000.000000001")])
def test_a_cost_is_an_exact_json_number_without_exponent(nano: int, text: str) -> None:
    written = write_json(decorate_usage({"a": 1}, REPORTED, Money(nano, "CNY"))).decode()

    assert f'"cost":{text},"cost_currency":"CNY"' in written
    assert json.loads(written, parse_float=Decimal)["cost"] == Decimal(nano) / 10**9


def test_what_we_counted_takes_the_place_of_what_the_host_said() -> None:
    usage = Usage(0, 7, 3, 1, Sources("unknown", "counted", "counted", "counted"))

    shown = decorate_usage({"prompt_tokens": -1, "other": 5}, usage, COST)

    assert shown["other"] == 5
    assert (shown["prompt_tokens"], shown["completion_tokens"], shown["total_tokens"]) == (7, 3, 10)
    assert "prompt_tokens_details" not in shown


@pytest.mark.parametrize("reported", [None, {}])
def test_a_usage_that_never_came_is_made(reported: dict[str, Any] | None) -> None:
    shown = decorate_usage(reported, REPORTED, COST)

    assert (shown["prompt_tokens"], shown["prompt_cache_hit_tokens"], shown["prompt_cache_miss_tokens"]) == (18, 10, 8)
    assert shown["prompt_tokens_details"] == {"cached_tokens": 10}
    assert shown["completion_tokens_details"] == {"reasoning_tokens": 2}
