"""Replies: keep-alive blanks before a whole answer are held while they are few, and reach a client that must wait long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.experience import Experience
from gateway.front.respond import Responder
from gateway.front.wire import Message
from gateway.outcome import Attempt, LedgerRow
from gateway.policies import Policies, default_folder, load
from gateway.recall.port import Said
from gateway.receipts import Journey
from gateway.replies import AssembledReply, WholeReply
from gateway.request import Caller, ChatRequest
from gateway.router import Terms, plan
from gateway.upstream.port import Deadlines
from gateway.usage import Usage
from gateway.watch import Watch

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
MODEL = "deepseek-flash"
BODY = json.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13},
    }
).encode()
ROW = LedgerRow(
    "r1", "t", "k", MODEL, "deepseek", MODEL, "c", (), Usage(0, 10, 3), "USD", 42, None, "card", "standard", "9f", AT, AT, "ok", None,
    (Attempt("deepseek", MODEL, "ok", "known", 42),), 0, 0,
)  # fmt: skip


class Client:
    """What the client has got so far, as ASGI messages."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.responder = Responder({}, self.send, "req-1", [])

    async def send(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def names(self) -> set[str]:
        return {name.decode() for name, _ in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])


class Scripted:
    """A host's answer in these pieces; notes what the client had got when each was asked for."""

    status = 200
    content_type = "application/json"
    retry_after: str | None = None
    ended = False

    def __init__(self, pieces: list[bytes], client: Client) -> None:
        self._pieces = iter(pieces)
        self._client = client
        self.seen: list[bytes] = []

    async def read(self) -> bytes:
        self.seen.append(self._client.body)
        return next(self._pieces, b"")

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def policies() -> Policies:
    return load(default_folder())


CHUNKS = [
    b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}\n\n' % word for word in (b"Hel", b"lo", b".")
]
LAST = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


@asynccontextmanager
async def assembled(policies: Policies, client: Client, silence: float) -> AsyncIterator[AssembledReply]:
    async with reply(policies, client, 60.0) as whole:
        yield AssembledReply(whole._journey, client.responder, whole._watch, Experience(), silence=silence)


@pytest.mark.parametrize(("silence", "blanks"), [(60.0, 0), (0.0, 3)])
async def test_a_client_that_waits_for_an_assembled_answer_is_kept_from_giving_up(policies: Policies, silence: float, blanks: int) -> None:
    client = Client()
    answer = Scripted([*CHUNKS, LAST], client)
    answer.content_type = "text/event-stream"
    async with assembled(policies, client, silence) as whole:
        await whole.take(answer)
        assert client.body == b"\n" * blanks
        await whole.finish(ROW)
    assert json.loads(client.body)["choices"][0]["message"]["content"] == "Hello."
    assert client.body.startswith(b"\n" * blanks + b"{") and client.responder.finished
    assert ("x-faregate-cost" in client.names) == (not blanks)


async def test_an_assembled_answer_that_breaks_after_a_blank_is_an_error_in_its_json(policies: Policies) -> None:
    client = Client()
    answer = Scripted(CHUNKS[:2], client)
    answer.content_type = "text/event-stream"
    async with assembled(policies, client, 0.0) as whole:
        await whole.take(answer)
        assert whole.failure is not None
        await client.responder.error(whole.failure, whole.headers)
    assert json.loads(client.body)["error"]["code"] == "upstream_error"


@asynccontextmanager
async def reply(policies: Policies, client: Client, after: float) -> AsyncIterator[WholeReply]:
    request = ChatRequest("r1", MODEL, {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}, False, False, False, 80)
    route = policies.route(MODEL)
    assert route is not None
    journey = Journey(request, Caller("t", "k"), plan(request, route, Terms(policies, AT, {"deepseek": "USD"}, 3600)), policies, AT)
    watch = Watch(Deadlines(1, 1, 1, 1))
    try:
        async with asyncio.timeout(1):
            yield WholeReply(journey, client.responder, watch, Experience(), keep_alive_after=after)
    finally:
        watch.close()


async def test_blanks_that_are_soon_over_go_before_a_whole_answer(policies: Policies) -> None:
    client = Client()
    answer = Scripted([b"\n", b"\n\n", b"\n" + BODY[:9], BODY[9:]], client)
    async with reply(policies, client, 60.0) as whole:
        await whole.take(answer)
        assert client.messages == []
        await whole.finish(ROW)
    assert {"content-length", "x-faregate-cost"} <= client.names
    assert client.body.startswith(b'\n\n\n\n{"id"') and b'"cost":0.000000042' in client.body


async def test_blanks_that_go_on_reach_the_client_as_they_come(policies: Policies) -> None:
    client = Client()
    answer = Scripted([b"\n", b"\n", BODY[:9], BODY[9:]], client)
    async with reply(policies, client, 0.0) as whole:
        await whole.take(answer)
        await whole.finish(ROW)
    assert answer.seen == [b"", b"\n", b"\n\n", b"\n\n", b"\n\n"]
    assert client.messages[0]["status"] == 200 and "x-faregate-host" in client.names
    assert not {"content-length", "x-faregate-cost"} & client.names
    assert json.loads(client.body)["usage"]["total_tokens"] == 13 and b'"cost":0.000000042' in client.body
    assert client.responder.finished and not client.messages[-1]["more_body"]


@pytest.mark.parametrize(("after", "status"), [(60.0, None), (0.0, 200)])
async def test_a_failure_after_the_blanks_is_the_json_that_was_begun(policies: Policies, after: float, status: int | None) -> None:
    client = Client()
    failed: dict[str, Any] = {"error": {"message": "no", "code": 500}}
    async with reply(policies, client, after) as whole:
        await whole.take(Scripted([b"\n", json.dumps(failed).encode()], client))
        assert whole.failure is not None
        assert (client.messages[0]["status"] if client.messages else None) == status
        await client.responder.error(whole.failure, whole.headers)
    assert client.messages[0]["status"] == (status or 502)
    assert json.loads(client.body)["error"]["code"] == "upstream_error" and client.responder.finished


CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SAID: list[tuple[dict[str, Any], Said | None]] = [
    ({"content": "Hello."}, None),
    ({"content": "Hello.", "reasoning_content": ""}, None),
    ({"content": "Hello.", "reasoning_content": "So."}, Said("Hello.", "So.")),
    ({"content": "Hello.", "reasoning": "So."}, Said("Hello.", "So.")),
    ({"content": None, "reasoning_content": "So.", "tool_calls": [CALL]}, Said("", "So.", (CALL,))),
    ({"content": "x" * (1 << 20), "reasoning_content": "So."}, None),
]


@pytest.mark.parametrize(("message", "said"), SAID)
async def test_what_a_whole_answer_said_is_known_once_it_is_here(policies: Policies, message: dict[str, Any], said: Said | None) -> None:
    client = Client()
    body = json.loads(BODY)
    body["choices"][0]["message"].update(message)
    async with reply(policies, client, 60.0) as whole:
        assert whole.said is None
        await whole.take(Scripted([json.dumps(body).encode()], client))
        assert whole.said == said
        body["choices"].append({**body["choices"][0], "index": 1})
        await whole.take(Scripted([json.dumps(body).encode()], client))
        assert whole.said is None, "which of them is sent back nobody knows"


async def test_what_an_assembled_answer_said_is_what_its_stream_said(policies: Policies) -> None:
    client = Client()
    thought = b'data: {"id":"x","choices":[{"index":0,"delta":{"reasoning_content":"So."},"finish_reason":null}]}\n\n'
    answer = Scripted([thought, *CHUNKS, LAST], client)
    answer.content_type = "text/event-stream"
    async with assembled(policies, client, 60.0) as whole:
        await whole.take(answer)
        assert whole.said == Said("Hello.", "So.")
