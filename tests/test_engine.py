"""The same promises against a real engine: llama.cpp with a small model, on this machine."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.demo import engine
from tests.harness import KEY, LiveGateway, Process, environment, events, get_json
from tests.load import Ask, played

pytestmark = [pytest.mark.engine, pytest.mark.skipif(not engine.available(), reason="the extra `local` is not installed")]

MODEL = "local/gemma3-270m"
STORY = "Mira kept a lighthouse on a cold coast. " * 40


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveGateway, str]]:
    """(gateway, the engine's own address)."""
    folder = tmp_path_factory.mktemp("engine")
    process = Process([sys.executable, "-m", "gateway.demo.engine", "--port", "0"], environment(), folder / "engine.log")
    try:
        url = process.wait_for("ready ").removeprefix("ready ").strip()
        with LiveGateway(folder, (), None, None, {"local": url}) as gateway:
            yield gateway, url
    finally:
        process.close()


def ask(question: str, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "temperature": 0, "max_tokens": 24, "messages": [{"role": "user", "content": question}], **more}


def row_of(gateway: LiveGateway, headers: dict[str, str]) -> dict[str, Any]:
    return gateway.row(headers["x-request-id"])


@pytest.mark.parametrize("stream", [False, True])
def test_cached_tokens_grow_with_a_repeated_prefix_and_stand_in_the_ledger(live: tuple[LiveGateway, str], stream: bool) -> None:
    gateway, _ = live
    opening = f"{stream} {STORY}"
    first = ask(opening + "What did Mira keep?", stream=stream, stream_options={"include_usage": True} if stream else None)
    status, headers, data = gateway.chat(first)
    assert status == 200, data
    row, said = row_of(gateway, headers), usage_of(data, stream)
    assert row["usage"]["cache_hit"] + row["usage"]["cache_miss"] == said["prompt_tokens"]
    assert row["usage"]["output"] == said["completion_tokens"]
    status, headers, data = gateway.chat({**first, "messages": ask(opening + "Where did she live?")["messages"]})
    assert status == 200, data
    later, said = row_of(gateway, headers), usage_of(data, stream)
    assert later["usage"]["cache_hit"] > row["usage"]["cache_hit"]
    assert later["usage"]["cache_hit"] > 0.8 * said["prompt_tokens"]
    assert later["usage"]["cache_hit"] == said["prompt_tokens_details"]["cached_tokens"]
    assert set(later["usage"]["sources"].values()) <= {"reported", "counted"}
    assert later["usage"]["sources"]["cache_hit"] == "reported"
    assert 0 < later["nano"] < row["nano"]


def usage_of(data: bytes, stream: bool) -> dict[str, Any]:
    if not stream:
        usage: dict[str, Any] = json.loads(data)["usage"]
        return usage
    return next(event["usage"] for event in reversed(events(data)) if event.get("usage"))


@pytest.mark.parametrize("stream", [False, True])
def test_max_tokens_bounds_the_answer(live: tuple[LiveGateway, str], stream: bool) -> None:
    gateway, _ = live
    status, headers, data = gateway.chat(ask("Count from one to one hundred in words.", stream=stream, max_tokens=7))
    assert status == 200, data
    row = row_of(gateway, headers)
    assert (row["usage"]["output"], row["usage"]["sources"]["output"], row["status"]) == (7, "reported", "ok")
    choices = [event["choices"][0] for event in events(data)] if stream else json.loads(data)["choices"]
    assert choices[-1]["finish_reason"] == "length"


def test_a_stream_has_the_shape_that_the_guide_relies_on(live: tuple[LiveGateway, str]) -> None:
    gateway, _ = live
    status, headers, data = gateway.chat(ask("Say hello.", stream=True))
    assert status == 200, data
    for event in events(data):
        delta = event["choices"][0]["delta"]
        assert delta["reasoning_content"] or isinstance(delta["content"], str)
        assert "usage" not in event or event["usage"] is None
    assert data.endswith(b"data: [DONE]\n\n")
    assert row_of(gateway, headers)["usage"]["sources"]["output"] == "reported"


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_the_engine_cannot_hold_is_refused_in_our_words(live: tuple[LiveGateway, str], stream: bool) -> None:
    gateway, _ = live
    status, headers, data = gateway.chat(ask("many words in a row " * 3000, stream=stream))
    assert (status, json.loads(data)["error"]["code"]) == (400, "context_exceeded")
    assert headers["x-should-retry"] == "false"
    row = row_of(gateway, headers)
    assert (row["nano"], row["usage"], row["status"]) == (0, None, "client_error")


def test_fields_that_only_the_engine_knows_reach_it(live: tuple[LiveGateway, str]) -> None:
    gateway, _ = live
    status, headers, data = gateway.chat(ask("Is water wet?", grammar='root ::= "certainly not"'))
    assert status == 200, data
    assert json.loads(data)["choices"][0]["message"]["content"] == "certainly not"
    assert "x-faregate-edits" not in headers or "drop_" not in headers["x-faregate-edits"]


def test_a_client_that_leaves_a_stream_frees_the_engine_at_once(live: tuple[LiveGateway, str]) -> None:
    gateway, url = live
    body = ask("Write a very long story.", stream=True, max_tokens=7000, ignore_eos=True)
    (got,) = played(gateway.root + "/v1/chat/completions", KEY, [Ask(body, events=12)])
    assert got.left
    deadline = time.monotonic() + 5
    while any(slot["is_processing"] for slot in get_json(url.removesuffix("/v1") + "/slots")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    row = gateway.row(got.id)
    assert (row["status"], row["usage"]["sources"]["output"]) == ("client_gone", "counted")
    assert 5 <= row["usage"]["output"] < 500
    assert row["nano"] > 0


def test_a_client_that_leaves_a_whole_answer_is_charged_an_estimate(live: tuple[LiveGateway, str]) -> None:
    """This engine does not notice that nobody waits for a whole answer; the gateway's row does not wait for it."""
    gateway, _ = live
    body = ask("Write a long story.", max_tokens=120, ignore_eos=True)
    (got,) = played(gateway.root + "/v1/chat/completions", KEY, [Ask(body, patience=0.2)])
    assert got.left
    deadline = time.monotonic() + 5
    while (row := gateway.rows(1)[0])["status"] != "client_gone" or row["stream"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert row["usage"]["sources"]["output"] == "unknown"
    assert row["nano"] > 0
