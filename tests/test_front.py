"""The data plane over real sockets: routes, order of the checks, limits, and what a client sees of each."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gateway.errors import RateLimited
from gateway.front.app import BETA, CHAT
from tests.raw_http import KEY, OTHER_KEY, PATIENCE, Answer, FakeExchange, chat, connected, front_with, post, served


def get(path: str, method: str = "GET", key: str = KEY) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {key}\r\n\r\n".encode()


async def ask(sent: bytes, exchange: FakeExchange | None = None, *, head: bool = False, **options: object) -> Answer:
    async with served(front_with(exchange or FakeExchange(), **options)) as port, connected(port) as client:  # type: ignore[arg-type]
        await client.send(sent)
        return await client.answer(head=head)


@pytest.mark.parametrize("path", [*CHAT, *BETA])
async def test_every_path_of_a_chat_leads_to_the_exchange(path: str) -> None:
    exchange = FakeExchange()
    answer = await ask(post(chat(), path=path + "?beta=true"), exchange)
    request, caller = exchange.seen[0]
    assert answer.status == 200 and answer.json == {"object": "chat.completion"}
    assert answer.headers["x-request-id"] == request.id
    assert answer.headers["content-type"] == "application/json"
    assert (request.model, request.beta, caller.team) == ("whole", path in BETA, "search")


async def test_a_header_value_from_inside_cannot_add_a_header() -> None:
    answer = await ask(post(chat()))
    assert answer.headers["x-faregate-host"] == "fake??x-evil: 1" and "x-evil" not in answer.headers


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (get("/"), 200),
        (get("/", "HEAD"), 200),
        (get("/healthz"), 200),
        (get("/readyz"), 200),
        (get("/v1/models"), 200),
        (get("/models"), 200),
        (get("/v1/models", key="sk-wrong-horse"), 401),
        (get("/v1/chat/completions"), 405),
        (get("/v1/models", "DELETE"), 405),
        (get("/metrics"), 404),
        (get("/docs"), 404),
        (get("/admin/v1/requests"), 404),
        (get("/v1/models/"), 404),
        (get("/V1/models"), 404),
        (post(chat(), path="/v1/completions"), 404),
        (post(chat(), path="/"), 405),
    ],
)
async def test_only_the_routes_of_the_table_exist(sent: bytes, status: int) -> None:
    head = sent.startswith(b"HEAD")
    answer = await ask(sent, head=head)
    assert answer.status == status
    assert answer.headers["x-request-id"].startswith("req-")
    if status >= 400:
        assert answer.error["code"] == {401: "invalid_key", 404: "not_found", 405: "method_not_allowed"}[status]


async def test_models_are_those_of_the_caller() -> None:
    assert [model["id"] for model in (await ask(get("/v1/models", key=OTHER_KEY))).json["data"]] == ["ads-model"]


@pytest.mark.parametrize(("ready", "status"), [({"ledger": "ok"}, 200), ({"ledger": "locked", "ready": False}, 503)])
async def test_readiness_repeats_what_the_stores_say(ready: dict[str, object], status: int) -> None:
    answer = await ask(get("/readyz"), ready=ready)
    assert answer.status == status and answer.json["ledger"] == ready["ledger"] and answer.json["ready"] is (status == 200)


async def test_a_draining_gateway_is_alive_and_not_ready() -> None:
    front = front_with(FakeExchange(), ready={"ready": True})
    front.draining = True
    async with served(front) as port, connected(port) as client:
        await client.send(get("/healthz") + get("/readyz"))
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 503


async def test_a_shifted_clock_is_announced_with_every_answer() -> None:
    assert (await ask(get("/healthz"), clock="2026-11-20T02:00:00Z*60")).headers["x-faregate-clock"] == "2026-11-20T02:00:00Z*60"
    assert "x-faregate-clock" not in (await ask(get("/healthz"))).headers


@pytest.mark.parametrize(
    ("sent", "status", "param"),
    [
        (post(chat(), key="sk-wrong-horse"), 401, None),
        (post(chat(), f"X-Api-Key: {OTHER_KEY}"), 400, None),
        (post(chat(), f"X-Api-Key: {KEY}"), 200, None),
        (post(chat(), "Content-Encoding: gzip"), 415, None),
        (post(chat(), "Content-Type: text/plain"), 415, None),
        (post(chat(), path="/v1/chat/completions?model=other"), 400, "model"),
        (post(chat(api_base="http://127.0.0.1:9")), 400, "api_base"),
        (post(chat(max_tokens=True)), 400, "max_tokens"),
        (post(b"{"), 400, None),
        (post(b""), 400, None),
    ],
)
async def test_a_bad_request_reaches_no_exchange(sent: bytes, status: int, param: str | None) -> None:
    exchange = FakeExchange()
    answer = await ask(sent, exchange)
    assert answer.status == status
    assert len(exchange.seen) == (1 if status == 200 else 0)
    if status != 200:
        assert answer.error["param"] == param


async def test_after_a_bad_body_the_connection_goes_on() -> None:
    async with served(front_with(FakeExchange())) as port, connected(port) as client:
        for body, status in ((b"{", 400), (chat(), 200), (chat(n=0), 400), (chat(), 200)):
            await client.send(post(body))
            assert (await client.answer()).status == status


@pytest.mark.parametrize(("size", "status"), [(2048, 200), (2049, 413)])
async def test_the_limit_of_a_body_is_exact(size: int, status: int) -> None:
    body = chat(padding="")
    assert (await ask(post(body.replace(b'""', b'"' + b"x" * (size - len(body)) + b'"')), max_body=2048)).status == status


async def test_an_announced_size_is_refused_before_it_is_sent() -> None:
    assert (await ask(post(b"").replace(b"Content-Length: 0", b"Content-Length: 10000000000"))).status == 413


async def test_a_chunked_flood_is_answered_at_the_limit_and_cut() -> None:
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    async with served(front_with(FakeExchange(), max_body=1 << 20)) as port, connected(port) as client:
        await client.send(post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
        for _ in range(17):
            await client.send(piece)
        assert (await client.answer()).status == 413
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                await client.send(piece)


async def test_a_client_that_still_writes_sees_why_it_was_refused() -> None:
    async with served(front_with(FakeExchange(), max_body=1 << 20)) as port, connected(port) as client:
        sending = asyncio.create_task(client.send(post(b" " * 1_000_000, key="sk-wrong-horse")))
        answer = await client.answer()
        await sending
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        assert await client.until_closed() == b""


async def test_a_body_in_single_bytes_is_the_same_body() -> None:
    exchange = FakeExchange()
    async with served(front_with(exchange)) as port, connected(port) as client:
        for byte in post(chat(text="żółw 🐢")):
            await client.send(bytes([byte]))
        assert (await client.answer()).status == 200
    assert exchange.seen[0][0].body["text"] == "żółw 🐢"


async def test_an_error_of_the_exchange_becomes_its_answer() -> None:
    exchange = FakeExchange()
    exchange.error = RateLimited("slow down", retry_after=3)
    answer = await ask(post(chat("fail")), exchange)
    assert (answer.status, answer.headers["retry-after"], answer.headers["x-should-retry"]) == (429, "3", "false")


async def test_a_bug_is_a_500_that_says_nothing_of_the_request(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        answer = await ask(post(chat("bug")))
    assert (answer.status, answer.error["code"]) == (500, "internal_error")
    assert "secret" not in answer.body.decode() and answer.headers["x-request-id"] in caplog.text


async def test_an_error_after_the_start_is_one_event_without_done() -> None:
    answer = await ask(post(chat("fail-late")))
    assert answer.status == 200 and answer.body.count(b'data: {"error"') == 1 and b"[DONE]" not in answer.body


async def test_a_stream_arrives_piece_by_piece() -> None:
    exchange = FakeExchange(paced=True)
    async with served(front_with(exchange)) as port, connected(port) as client:
        await client.send(post(chat("stream")))
        await client.head()
        chunks = client.chunks()
        for number in range(3):
            exchange.proceed.release()
            async with asyncio.timeout(PATIENCE):
                assert await anext(chunks) == b"data: %d\n\n" % number


async def test_a_client_that_leaves_while_it_sends_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    exchange = FakeExchange()
    async with served(front_with(exchange)) as port:
        async with connected(port) as client:
            await client.send(post(chat())[:-4])
        async with connected(port) as client:
            await client.send(get("/healthz"))
            await client.answer()
    assert not exchange.seen and not caplog.records
