"""The receive deadline: a request arrives whole in time or its connection closes; an answer is never timed."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.errors import FaregateError
from gateway.front.respond import Responder
from gateway.front.wire import CYCLE, Receive, Scope, Send
from tests.raw_http import Connection, FakeExchange, chat, connected, front_with, post, served

DEADLINE = 0.3
LATEST = 3.0
STREAM = post(chat("stream"))
GET = b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"


async def closes(client: Connection, not_before: float = DEADLINE / 2) -> bytes:
    """What still comes; fails unless the server closes within LATEST seconds, and not too soon."""
    begun = time.monotonic()
    async with asyncio.timeout(LATEST):
        rest = await client.reader.read()
    assert time.monotonic() - begun > not_before
    return rest


async def drip(client: Connection, data: bytes) -> None:
    """One byte at a time, for ever slower than the deadline."""
    for byte in data:
        await client.send(bytes([byte]))
        await asyncio.sleep(DEADLINE / 5)


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: te", post(chat())[:-5], post(chat(), key="wrong-key-000")[:-5]],
    ids=["nothing", "half a header section", "half a body", "half a body of a refused request"],
)
async def test_a_request_that_stays_half_is_closed(sent: bytes) -> None:
    async with served(front_with(FakeExchange()), receive_seconds=DEADLINE) as port, connected(port) as client:
        await client.send(sent)
        await closes(client)


@pytest.mark.parametrize("sent", [b"GET /healthz HTTP/1.1\r\nHost: " + b"a" * 200, post(chat()) + b"x"], ids=["headers", "body"])
async def test_a_request_that_drips_is_closed_at_the_deadline(sent: bytes) -> None:
    async with served(front_with(FakeExchange()), receive_seconds=DEADLINE) as port, connected(port) as client:
        dripping = asyncio.create_task(drip(client, sent))
        await closes(client)
        dripping.cancel()


async def test_a_slow_second_request_on_a_kept_connection_is_closed() -> None:
    async with served(front_with(FakeExchange()), receive_seconds=DEADLINE) as port, connected(port) as client:
        await client.send(post(chat()))
        assert (await client.answer()).status == 200
        await client.send(post(chat())[:40])
        assert await closes(client) == b""


async def test_a_half_request_pipelined_behind_a_whole_one_is_closed_after_its_answer() -> None:
    async with served(front_with(FakeExchange()), receive_seconds=DEADLINE) as port, connected(port) as client:
        await client.send(GET + post(chat())[:-5])
        assert (await client.answer()).status == 200
        assert await closes(client) == b""


@pytest.mark.parametrize("behind", [b"", post(chat())[:40], post(chat())[:-5]], ids=["nothing", "half headers", "half a body"])
async def test_a_stream_longer_than_the_deadline_is_whole_whatever_waits_behind_it(behind: bytes) -> None:
    exchange = FakeExchange(chunks=6, paced=True)
    async with served(front_with(exchange), receive_seconds=DEADLINE) as port, connected(port) as client:
        await client.send(STREAM + behind)
        for _ in range(6):
            await asyncio.sleep(DEADLINE / 3)
            exchange.proceed.release()
        answer = await client.answer()
        assert answer.body == b"".join(b"data: %d\n\n" % number for number in range(6))


async def test_an_idle_kept_connection_is_not_timed_by_the_deadline() -> None:
    async with served(front_with(FakeExchange()), receive_seconds=DEADLINE) as port, connected(port) as client:
        await client.send(GET)
        await client.answer()
        await asyncio.sleep(DEADLINE * 2)
        await client.send(GET)
        assert (await client.answer()).status == 200


async def test_a_connection_without_a_next_request_is_closed_after_its_own_time() -> None:
    async with served(front_with(FakeExchange()), keep_alive_seconds=DEADLINE) as port, connected(port) as client:
        for _ in range(4):
            await client.send(GET)
            assert (await client.answer()).status == 200
            await asyncio.sleep(DEADLINE / 2)
        await closes(client, DEADLINE / 4)


async def test_what_waits_behind_an_answer_gets_its_full_time_from_its_end() -> None:
    exchange = FakeExchange(chunks=1, paced=True)
    async with served(front_with(exchange), receive_seconds=DEADLINE) as port, connected(port) as client:
        await client.send(STREAM + post(chat())[:-5])
        await asyncio.sleep(DEADLINE * 0.8)
        exchange.proceed.release()
        assert (await client.answer()).status == 200
        await asyncio.sleep(DEADLINE * 0.6)
        await client.send(post(chat())[-5:])
        assert (await client.answer()).status == 200


async def test_a_body_that_comes_after_its_answer_leaves_an_idle_connection() -> None:
    async def hasty(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async with served(hasty, receive_seconds=DEADLINE) as port, connected(port) as client:
        await client.send(post(chat())[:-5])
        assert (await client.answer()).status == 200
        await client.send(post(chat())[-5:])
        await asyncio.sleep(DEADLINE * 2)
        await client.send(GET)
        assert (await client.answer()).status == 200


async def test_a_client_that_leaves_is_noticed_with_a_request_pipelined_behind() -> None:
    exchange = FakeExchange(chunks=1000)
    async with served(front_with(exchange)) as port:
        async with connected(port) as client:
            await client.send(post(chat("wait")) + GET)
            await exchange.begun.wait()
        async with asyncio.timeout(LATEST):
            await exchange.left.wait()


# More than the buffers of two sockets hold.
BIG = b"x" * 24_000_000


class Stalled:
    """Writes more than its client takes, then ends in one of the ways; `ended` when that has returned."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.ended = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        responder = Responder(scope, send, "req-1", [])
        await responder.start_stream({})
        await responder.send(BIG)
        match self.way:
            case "more":
                while not scope["extensions"][CYCLE].departed:
                    await responder.send(BIG)
            case "end":
                await responder.end()
            case "error":
                await responder.error(FaregateError("it failed"))
        self.ended.set()


@pytest.mark.parametrize("way", ["more", "end", "error"])
async def test_an_answer_ends_when_its_client_takes_nothing(way: str) -> None:
    app = Stalled(way)
    async with served(app, write_seconds=DEADLINE) as port, connected(port) as client:
        await client.send(GET)
        async with asyncio.timeout(LATEST):
            await app.ended.wait()
        assert len(await client.until_closed()) < len(BIG)


async def big(scope: Scope, receive: Receive, send: Send) -> None:
    await Responder(scope, send, "req-1", []).whole(200, {}, BIG)


@pytest.mark.parametrize("close", ["", "Connection: close\r\n"], ids=["kept", "last"])
@pytest.mark.parametrize("limit", ["write_seconds", "keep_alive_seconds"])
async def test_a_finished_answer_that_nobody_reads_is_given_up(close: str, limit: str) -> None:
    async with served(big, **{limit: DEADLINE}) as port, connected(port) as client:  # type: ignore[arg-type]
        await client.send(f"GET / HTTP/1.1\r\nHost: test\r\n{close}\r\n".encode())
        await asyncio.sleep(DEADLINE * 5)
        assert len(await client.until_closed()) < len(BIG)


@pytest.mark.parametrize("close", ["", "Connection: close\r\n"], ids=["kept", "last"])
async def test_a_slow_reader_gets_its_whole_answer(close: str) -> None:
    deadlines = dict.fromkeys(("write_seconds", "keep_alive_seconds", "receive_seconds"), 2 * DEADLINE)
    async with served(big, **deadlines) as port, connected(port) as client:  # type: ignore[arg-type]
        await client.send(f"GET / HTTP/1.1\r\nHost: test\r\n{close}\r\n".encode())
        _, headers = await client.head()
        begun, left = time.monotonic(), int(headers["content-length"])
        while left:
            left -= len(await client.reader.readexactly(min(left, 1_000_000)))
            await asyncio.sleep(DEADLINE / 4)
        assert time.monotonic() - begun > 5 * DEADLINE
        assert await client.until_closed() == b""
