"""The client's stream: golden pairs in streams/, the same however it is read; the promise for every chunk; limits; recorded traffic."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.allowance import Purse
from gateway.assemble import SAID_LIMIT, Assembler, decorate_usage
from gateway.limits import StopRule
from gateway.meter import Meter
from gateway.shape import StreamShape
from gateway.sse import Splitter, data_of
from tests.answers import COST, Case, Run, cases, deployment, run

CASES = cases()
NAMES = [case.name for case in CASES]
TRANSCRIPTS = next((place for parent in Path(__file__).parents if (place := parent / "shared" / "transcripts").is_dir()), None)


def shaped(case: Case, reads: list[bytes], asked: bool = False) -> Run:
    return run(case.deployment, reads, asked=asked, stop=case.stop, choices=case.setup.get("choices", 1))


def single(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def chunks(stream: bytes) -> Iterator[dict[str, Any]]:
    for event in Splitter().feed(stream):
        data = data_of(event)
        if data is not None and data != b"[DONE]":
            yield json.loads(data)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_host_s_bytes_become_the_client_s_and_its_usage(case: Case) -> None:
    for reads in ([case.sent], single(case.sent)):
        quiet, asked = shaped(case, reads), shaped(case, reads, asked=True)

        assert quiet.client.decode() == case.gets.decode()
        assert asked.client.decode() == case.asked_gets.decode()
        assert quiet.result() == case.result
        assert asked.result() == case.result


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(CASES), st.data())
def test_the_way_of_reading_changes_nothing(case: Case, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(case.sent)), max_size=9)))
    reads = [case.sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(case.sent)], strict=True)]

    assert shaped(case, reads).client == case.gets


@pytest.mark.parametrize("case", [case for case in CASES if not case.result["failure"]], ids=lambda case: case.name)
def test_every_chunk_works_in_the_vendor_s_sample_program(case: Case) -> None:
    for chunk in chunks(case.gets):
        delta = chunk["choices"][0]["delta"]
        assert delta["reasoning_content"] or isinstance(delta["content"], str)
        assert not (delta["reasoning_content"] and delta["content"])
        assert not chunk.get("usage")


@pytest.mark.parametrize("case", [case for case in CASES if not case.result["failure"]], ids=lambda case: case.name)
def test_a_stream_cut_at_any_event_is_charged_as_reported_or_counted_and_never_free(case: Case) -> None:
    events = Splitter().feed(case.sent)
    for kept in range(len(events)):
        cut = shaped(case, events[:kept])
        usage = cut.result()["usage"]
        if cut.shape.failure is None:
            # All that the answer needs had come: the finish, or our own limit.
            assert cut.client.endswith(b"data: [DONE]\n\n")
            continue
        assert cut.shape.failure.kind == "no_finish"
        assert cut.result()["sources"]["output"] == "counted"
        assert usage["cache_hit"] + usage["cache_miss"] > 0
        assert bool(usage["output"]) == cut.meter.produced


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_end_of_an_answer_waits_for_the_tail(case: Case) -> None:
    before_tail = run_without_tail(case)

    assert b"[DONE]" not in before_tail.replace(b"data: [DONE]\xe2", b"")
    assert not any(choice["finish_reason"] for chunk in chunks(before_tail) for choice in chunk["choices"])


def run_without_tail(case: Case) -> bytes:
    made = shaped(case, [])
    return b"".join(made.shape.feed(read) for read in [case.sent]) if not made.shape.over else b""


def test_an_untouched_stream_has_the_host_s_own_bytes() -> None:
    events = [
        b'data: {"x": 1.50, "choices": [ {"delta": {"content": "a", "reasoning_content": null} , "index":0} ],\t"z":[1e3]}\n\n',
        b": odd   comment\n\n",
        b'data:{"choices":[{"index":0,"delta":{"content":null,"reasoning_content":"b"},"finish_reason":null}],"usage":null}\r\n\r\n',
    ]
    finish = b'data: {"choices":[{"index":0,"delta":{"content":"","reasoning_content":null},"finish_reason":"stop"}]}\n\n'

    made = run(deployment(), [*events, finish])

    assert made.client == b"".join([*events, finish, b"data: [DONE]\n\n"])
    assert made.shape.edits == set()


def test_reasoning_that_a_host_writes_twice_is_left_as_it_is() -> None:
    event = b'data: {"choices":[{"index":0,"delta":{"content":null,"reasoning":"b","reasoning_content":"b"},"finish_reason":null}]}\n\n'

    made = run(deployment(), [event])

    assert made.client == event
    assert made.meter.reasoning.chunks == 1


WORDS = [" red", " green", " blue", " black", " white"]


def text_chunk(text: str, index: int = 0, key: str = "content", finish: str | None = None) -> bytes:
    delta = {"content": "", "reasoning_content": None, key: text}
    body = {"id": "a", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.lists(st.integers(1, 7), min_size=1, max_size=20))
def test_an_answer_is_cut_exactly_at_its_limit_however_it_is_chunked(limit: int, sizes: list[int]) -> None:
    words = [WORDS[number % 5] for number in range(sum(sizes))]
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    texts = ["".join(words[start : start + size]) for start, size in zip(starts, sizes, strict=True)]
    target = deployment(contract={"tokenizer": "deepseek"})

    made = run(target, [*map(text_chunk, texts), text_chunk("", finish="stop")], stop=StopRule("answer", limit))

    out = list(chunks(made.client))
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in out) == "".join(words[:limit])
    assert out[-1]["choices"][0]["finish_reason"] == ("length" if len(words) >= limit else "stop")
    assert out[-1].get("faregate") == ({"stopped": "limit"} if len(words) >= limit else None)
    assert (made.shape.stopped == "limit") == (len(words) >= limit)


@pytest.mark.parametrize("reported", [0, 9])
@pytest.mark.parametrize("limit", [1, 3, 5])
def test_usage_beside_the_chunk_at_which_we_stop_is_no_bill(reported: int, limit: int) -> None:
    target = deployment(contract={"tokenizer": "deepseek"})
    usage = {"prompt_tokens": 2 * reported, "completion_tokens": reported, "total_tokens": 3 * reported}
    pieces = [text_chunk(word).replace(b'"choices"', f'"usage":{json.dumps(usage)},"choices"'.encode()) for word in WORDS]

    made = run(target, pieces, stop=StopRule("answer", limit))

    assert made.shape.stopped == "limit"
    assert made.meter.billed() is None
    assert made.result()["sources"]["output"] == "counted"
    assert made.result()["usage"] == {"cache_hit": 0, "cache_miss": 2 * reported or 7, "output": max(limit, reported), "reasoning": 0}


def test_usage_beside_a_finish_at_our_limit_is_the_bill() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    last = text_chunk(" green", finish="length").replace(b'"choices"', f'"usage":{json.dumps(usage)},"choices"'.encode())

    made = run(deployment(contract={"tokenizer": "deepseek"}), [text_chunk(" red"), last], stop=StopRule("answer", 2))

    found = made.meter.billed()
    assert found is not None
    assert (found.prompt, found.output) == (9, 2)


def test_each_choice_has_a_limit_of_its_own_and_the_stream_stops_when_all_have_ended() -> None:
    target = deployment(contract={"tokenizer": "deepseek"})
    reads = [text_chunk(word, index) for word in WORDS for index in (0, 1)]

    made = run(target, reads, stop=StopRule("answer", 2), choices=2)

    texts = {0: "", 1: ""}
    for chunk in chunks(made.client):
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["delta"]["content"]
    assert texts == {0: " red green", 1: " red green"}
    assert made.shape.stopped


def test_one_choice_at_its_limit_does_not_stop_the_others() -> None:
    target = deployment(contract={"tokenizer": "deepseek"})
    reads = [text_chunk(word) for word in WORDS] + [text_chunk(" x", 1), text_chunk("", 1, finish="stop")]

    made = run(target, reads[:-1], stop=StopRule("answer", 2), choices=2)
    assert not made.shape.stopped
    assert made.shape.failure is not None

    whole = run(target, reads, stop=StopRule("answer", 2), choices=2)
    assert whole.shape.failure is None
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks(whole.client)][-2:] == ["length", "stop"]


def test_a_tool_call_that_does_not_fit_is_left_out() -> None:
    target = deployment(contract={"tokenizer": "deepseek"})
    call = [{"index": 0, "id": "c", "function": {"name": "f", "arguments": " one two three four five six"}}]
    body = {"choices": [{"index": 0, "delta": {"content": " red", "tool_calls": call}, "finish_reason": None}]}

    made = run(target, [b"data: " + json.dumps(body).encode() + b"\n\n"], stop=StopRule("answer", 3))

    (chunk,) = chunks(made.client)
    assert chunk["choices"][0]["delta"] == {"content": " red", "reasoning_content": None}
    assert chunk["choices"][0]["finish_reason"] == "length"


def test_a_line_over_its_limit_is_a_failure_after_what_came_before() -> None:
    made = run(deployment(), [text_chunk("a") + b"data: " + b"x" * (1 << 21)])

    assert made.shape.failure is not None
    assert made.shape.failure.kind == "too_large"
    assert made.client == text_chunk("a")


def test_nothing_after_the_end_is_read() -> None:
    reads = [text_chunk("a"), text_chunk("", finish="stop"), b"data: [DONE]\n\n", text_chunk("b"), b"junk\n\n"]

    made = run(deployment(), reads)

    assert made.shape.failure is None
    assert made.client == b"".join(reads[:3])


def test_of_two_usage_chunks_a_client_gets_the_last() -> None:
    first, second = (b'data: {"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":1}}\n\n' % count for count in (5, 6))

    made = run(deployment(), [text_chunk("a"), text_chunk("", finish="stop"), first, second, b"data: [DONE]\n\n"], asked=True)

    (usage,) = [chunk["usage"] for chunk in chunks(made.client) if not chunk["choices"]]
    assert usage["prompt_tokens"] == made.meter.usage().prompt == 6


def test_usage_in_a_chunk_of_an_empty_choice_comes_after_the_finish() -> None:
    late = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":null}],"usage":{"prompt_tokens":5,"completion_tokens":1}}\n\n'
    reads = [text_chunk("a"), text_chunk("", finish="stop"), late]

    quiet, asked = run(deployment(), reads), run(deployment(), reads, asked=True)

    assert quiet.client == b"".join(reads[:2]) + b"data: [DONE]\n\n"
    assert [bool(chunk.get("usage")) for chunk in chunks(asked.client)] == [False, False, True]


def test_a_host_that_goes_on_after_its_finish_cannot_fill_the_memory() -> None:
    made = run(deployment(), [text_chunk("", finish="stop"), *[text_chunk("x" * 100_000)] * 60])

    assert made.shape.failure is not None
    assert made.shape.failure.kind == "too_large"


def test_usage_chunks_without_end_are_not_kept() -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1,"x":"' + b"x" * 100_000 + b'"}}\n\n'

    made = run(deployment(), [text_chunk("a"), *[usage] * 60, text_chunk("", finish="stop"), usage], asked=True)

    assert made.shape.failure is None
    assert len(made.client) < 300_000


def test_an_error_event_has_openai_s_shape_and_no_done() -> None:
    made = run(deployment(), [])

    assert made.shape.error_event({"error": {"message": "m"}}) == b'data: {"error":{"message":"m"}}\n\n'
    assert made.shape.error_event({"message": "m"}) == b'data: {"error":{"message":"m"}}\n\n'


# ---- recorded traffic, where it is at hand


def recordings() -> list[tuple[str, bytes]]:
    found = []
    for path in sorted(TRANSCRIPTS.rglob("*.yaml")) if TRANSCRIPTS else ():
        for number, document in enumerate(yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader)):
            body = document["then"]["body"]
            if document["then"]["status"] == 200 and "data: " in body:
                found.append((f"{path.parent.name}/{path.stem}/{number}", body.encode()))
    return found


RECORDED = recordings()


@pytest.mark.skipif(not RECORDED, reason="no recorded traffic beside the project")
def test_recorded_streams_keep_their_content_reasoning_calls_and_usage() -> None:
    target = deployment({"cost": "usage.cost"}, {"context": {"tokens": 1_000_000}})
    for name, sent in RECORDED:
        host, (client, usage) = list(json_lines(sent)), from_client(target, sent)
        last = [chunk["usage"] for chunk in host if chunk.get("usage")][-1]

        assert texts(client) == texts(host), name
        assert (usage.prompt, usage.output) == (last["prompt_tokens"], last["completion_tokens"]), name
        assert usage.cache_hit == last["prompt_tokens_details"]["cached_tokens"], name
        assert usage.sources.cache_hit == "reported", name
        assert all({"content", "reasoning_content"} <= choice["delta"].keys() for chunk in client for choice in chunk["choices"]), name


@pytest.mark.skipif(not RECORDED, reason="no recorded traffic beside the project")
def test_recorded_streams_assemble_to_the_same_answer() -> None:
    target = deployment(contract={"context": {"tokens": 1_000_000}})
    for name, sent in RECORDED:
        made = run(target, [sent])
        assembler = Assembler()
        assembler.feed_events(made.client)
        message = assembler.answer(decorate_usage(made.meter.reported, made.meter.usage(), COST))["choices"][0]["message"]

        content, reasoning, calls = texts(list(json_lines(sent)))
        assert (message["content"], message["reasoning_content"] or "") == (content, reasoning), name
        assert [call["function"]["arguments"] for call in message.get("tool_calls", [])] == list(calls.values()), name


def from_client(target: Any, sent: bytes) -> tuple[list[dict[str, Any]], Any]:
    made = run(target, [sent], asked=True)
    assert made.shape.failure is None
    return list(json_lines(made.client)), made.meter.usage()


def json_lines(stream: bytes) -> Iterator[dict[str, Any]]:
    """A reader that shares nothing with the code under test."""
    for line in stream.decode().split("\n"):
        if line.startswith("data: {"):
            yield json.loads(line[6:])


def texts(stream: list[dict[str, Any]]) -> tuple[str, str, dict[int, str]]:
    content = reasoning = ""
    calls: dict[int, str] = {}
    for chunk in stream:
        for choice in chunk["choices"]:
            delta = choice["delta"]
            content += delta.get("content") or ""
            reasoning += delta.get("reasoning_content") or delta.get("reasoning") or ""
            for call in delta.get("tool_calls") or ():
                calls[call["index"]] = calls.get(call["index"], "") + call["function"]["arguments"]
    return content, reasoning, calls


# ---- what the client was told


def told(client: bytes) -> tuple[str, str, list[dict[str, Any]]] | None:
    """What a client of this stream has at its end, put together from its own bytes; None without reasoning."""
    whole = Assembler()
    whole.feed_events(client)
    message = whole.answer(None)["choices"][0]["message"]
    return (
        (message["reasoning_content"], message["content"] or "", message.get("tool_calls") or []) if message["reasoning_content"] else None
    )


ONE_ANSWER = [case for case in CASES if not case.result["failure"] and case.setup.get("choices", 1) == 1]


@pytest.mark.parametrize("case", ONE_ANSWER, ids=lambda case: case.name)
def test_what_was_said_is_what_the_client_got(case: Case) -> None:
    for reads in ([case.sent], single(case.sent)):
        made = shaped(case, reads)
        assert made.shape.said == told(made.client)


def test_of_several_answers_or_without_reasoning_nothing_is_said() -> None:
    target = deployment()
    thought = [text_chunk("r", index, "reasoning_content", "stop") for index in (0, 1)]
    assert run(target, thought, choices=2).shape.said is None
    assert run(target, [text_chunk("a", finish="stop")]).shape.said is None
    assert run(target, thought[:1]).shape.said == ("r", "", [])


def test_an_answer_that_is_too_long_is_not_repeated() -> None:
    long = [text_chunk("r" * 1000, key="reasoning_content")] * (SAID_LIMIT // 1000)
    assert run(deployment(), [*long, text_chunk("a", finish="stop")]).shape.said is not None
    assert run(deployment(), [*long, text_chunk("a" * 1000, finish="stop")]).shape.said is None


def call_chunk(part: dict[str, Any], content: str = "", finish: str | None = None) -> bytes:
    delta = {"content": content, "reasoning_content": None, "tool_calls": [{"index": 0, **part}]}
    return b"data: " + json.dumps({"id": "a", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"


CALLING = [
    text_chunk("Let me", key="reasoning_content"),
    text_chunk(" see.", key="reasoning_content"),
    call_chunk({"id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}, content="So: "),
    call_chunk({"function": {"arguments": '{"city": '}}),
    call_chunk({"function": {"arguments": '"Paris"}'}}, finish="tool_calls"),
]


def test_calls_are_put_together_and_are_no_part_of_the_text() -> None:
    made = run(deployment(), CALLING)
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"city": "Paris"}'}}
    assert made.shape.said == ("Let me see.", "So: ", [call]) == told(made.client)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["reasoning_content", "content", "both"]), st.integers(1, 5)), min_size=1, max_size=12),
    st.integers(1, 40),
    st.sampled_from(["answer", "total", "money"]),
    st.booleans(),
)
def test_what_was_cut_off_was_not_said(pieces: list[tuple[str, int]], limit: int, ends: str, calls: bool) -> None:
    """At a limit, and where the money ends: told from the client's own bytes."""
    target = deployment(contract={"tokenizer": "deepseek"})
    reads = [text_chunk("".join(WORDS[:size]), key=key) for key, size in pieces if key != "both"]
    for size in [size for key, size in pieces if key == "both"]:
        text = "".join(WORDS[:size])
        delta = {"content": text, "reasoning_content": text}
        reads.append(b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}).encode() + b"\n\n")
    reads += CALLING[2:] if calls else [text_chunk("", finish="stop")]
    meter = Meter(target, 7, 1)
    purse = Purse(meter, "deepseek") if ends == "money" else None
    if purse is not None:
        purse.limit, purse.mark, purse.final, purse.ready = limit, limit, True, True
    stop = StopRule(ends, limit) if ends in ("answer", "total") else None  # type: ignore[arg-type]
    shape = StreamShape(target, include_usage=False, stop=stop, meter=meter, purse=purse)
    client = b""
    for read in reads:
        client += shape.feed(read)
        while shape.unpaid:
            client += shape.resume()
    if not shape.over:
        shape.end()
    client += shape.tail(None)
    assert shape.said == told(client) or (told(client) is None and shape.said is not None and shape.said[0] == "")


@pytest.mark.parametrize("limit", range(1, 20))
def test_of_a_call_at_which_the_money_ended_the_client_has_what_was_paid_for(limit: int) -> None:
    meter = Meter(deployment(contract={"tokenizer": "deepseek"}), 7, 1)
    purse = Purse(meter, "deepseek")
    purse.limit, purse.mark, purse.final, purse.ready = limit, limit, True, True
    shape = StreamShape(deployment(contract={"tokenizer": "deepseek"}), include_usage=False, stop=None, meter=meter, purse=purse)
    client = b""
    for read in CALLING:
        client += shape.feed(read)
        while shape.unpaid:
            client += shape.resume()

    client += shape.tail(None)

    assert (shape.stopped == "budget") == (limit < 14)
    assert shape.said == told(client)
