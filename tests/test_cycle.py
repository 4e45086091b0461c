"""The cycle over real sockets: framing of every kind of answer, what an app leaves undone, and when a departure is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.front.protocol import BEHIND_REQUESTS
from gateway.front.wire import CYCLE, Fields, Message, Receive, Scope, Send
from tests.raw_http import PATIENCE, Answer, Connection, connected, served

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: test\r\n\r\n"
FIVE = (b"content-length", b"5")


def post(body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def start(*headers: tuple[bytes, bytes], status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


class App:
    """Reads the body, then sends these messages; `bodies` are those that it got whole."""

    def __init__(self, *messages: Message) -> None:
        self.messages = messages
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pieces, more = [], True
        while more:
            message = await receive()
            pieces.append(message.get("body", b""))
            more = message.get("more_body", False)
        self.bodies.append(b"".join(pieces))
        for message in self.messages:
            await send(message)


async def ask(app: Any, sent: bytes, *, head: bool = False) -> tuple[Answer, Connection]:
    async with served(app) as port, connected(port) as client:
        await client.send(sent)
        answer = await client.answer(head=head)
        return answer, client


async def test_an_answer_of_known_length_is_framed_by_it_and_dated() -> None:
    answer, _ = await ask(App(start(FIVE, (b"x-a", b"1")), body(b"12345")), GET)
    assert (answer.status, answer.body, answer.headers["x-a"]) == (200, b"12345", "1")
    assert "date" in answer.headers and not {"transfer-encoding", "connection"} & answer.headers.keys()


async def test_an_answer_without_a_length_is_chunked() -> None:
    answer, _ = await ask(
        App(
            start(),
            body(b"one", True),
            body(b"", True),
            body(b"two"),
        ),
        GET,
    )
    assert answer.body == b"onetwo" and answer.headers["transfer-encoding"] == "chunked"


async def test_the_head_of_a_stream_goes_out_before_its_first_chunk() -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await go_on.wait()
        await send(body(b"late"))

    async with served(app) as port, connected(port) as client:
        await client.send(GET)
        async with asyncio.timeout(PATIENCE):
            assert (await client.head())[0] == 200
        go_on.set()
        assert [piece async for piece in client.chunks()] == [b"late"]


@pytest.mark.parametrize("messages", [(start(FIVE), body(b"12345")), (start(), body(b"12345"))], ids=["length", "chunks"])
@pytest.mark.parametrize("sent", [CLOSE, OLD], ids=["connection: close", "HTTP/1.0"])
async def test_a_client_that_wants_no_second_request_is_told_and_the_connection_closes(sent: bytes, messages: tuple[Message, ...]) -> None:
    async with served(App(*messages)) as port, connected(port) as client:
        await client.send(sent)
        answer = await client.answer()
        assert (answer.body, answer.headers["connection"]) == (b"12345", "close")
        assert await client.until_closed() == b""


async def test_an_app_can_end_the_connection() -> None:
    async with served(App(start(FIVE, (b"connection", b"close")), body(b"12345"))) as port, connected(port) as client:
        await client.send(GET)
        assert (await client.answer()).headers["connection"] == "close"
        assert await client.until_closed() == b""


@pytest.mark.parametrize("headers", [(FIVE,), ()], ids=["length", "none"])
async def test_head_has_the_headers_and_no_body_and_the_connection_goes_on(headers: Fields) -> None:
    async with served(App(start(*headers), body(b"12345"))) as port, connected(port) as client:
        for _ in range(2):
            await client.send(HEAD)
            answer = await client.answer(head=True)
            assert answer.status == 200 and answer.headers.get("content-length") == ("5" if headers else None)
        await client.send(CLOSE)
        assert (await client.answer()).body == b"12345"
        assert await client.until_closed() == b""


async def test_a_status_without_a_body_is_not_framed() -> None:
    answer, _ = await ask(App(start(status=204), body(b"")), GET, head=True)
    assert answer.status == 204 and "transfer-encoding" not in answer.headers


UNDONE: dict[str, tuple[Message, ...]] = {
    "nothing": (),
    "a body first": (body(b"x"),),
    "a header with a line break": (start((b"x-a", b"1\r\nx-b: 2")), body(b"")),
    "more than the length": (start(FIVE), body(b"123456")),
    "less than the length": (start(FIVE), body(b"1234")),
    "a head alone": (start(FIVE),),
}


@pytest.mark.parametrize("messages", UNDONE.values(), ids=UNDONE.keys())
async def test_what_an_app_leaves_undone_is_a_500_and_the_end(messages: tuple[Message, ...]) -> None:
    async with served(App(*messages)) as port, connected(port) as client:
        await client.send(GET)
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (500, "internal_error")
        assert await client.until_closed() == b""


async def test_a_stream_that_its_app_leaves_has_no_end() -> None:
    async with served(App(start(), body(b"x", True))) as port, connected(port) as client:
        await client.send(GET)
        with pytest.raises(asyncio.IncompleteReadError):
            await client.answer()


async def test_a_second_answer_is_never_written() -> None:
    async with served(App(start(FIVE), body(b"12345"), start(FIVE), body(b"67890"))) as port, connected(port) as client:
        for _ in range(2):
            await client.send(GET)
            assert (await client.answer()).body == b"12345"


async def test_a_large_body_comes_whole_and_the_connection_goes_on() -> None:
    app = App(start(FIVE), body(b"12345"))
    sent = [bytes([65 + number]) * size for number, size in enumerate((3_000_000, 10, 200_000))]
    async with served(app) as port, connected(port) as client:
        for each in sent:
            await client.send(post(each))
            assert (await client.answer()).status == 200
    assert app.bodies == sent


async def test_every_pipelined_request_is_answered_in_its_turn() -> None:
    app = App(start(FIVE), body(b"12345"))
    sent = [b"%d" % number * 5000 for number in range(50)]
    async with served(app) as port, connected(port) as client:
        sending = asyncio.create_task(client.send(b"".join(map(post, sent))))
        for _ in sent:
            assert (await client.answer()).body == b"12345"
        await sending
    assert app.bodies == sent


class Waiting:
    """Reads the body and waits until its client has left."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        scope["extensions"][CYCLE].then(self.left.set)
        self.begun.set()
        await self.left.wait()


BEHIND = {
    "nothing": b"",
    "one": GET,
    "ten": GET * 10,
    "half a request": post(b"x" * 1000)[:-1],
    "a hundred": GET * 100,
    "a large body": post(b"x" * 200_000),
    "half of a huge body": post(b"x" * 5_000_000)[:-1],
    "many bodies": post(b"x" * 100_000) * 30,
    "no request": GET * 100 + b"\0" * 100_000,
}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND.keys())
@pytest.mark.parametrize("half", [False, True], ids=["close", "half-close"])
async def test_a_departure_is_told_at_once_whatever_came_behind(behind: bytes, half: bool) -> None:
    app = Waiting()
    async with served(app) as port, connected(port) as client:
        await client.send(post(b"hello"))
        async with asyncio.timeout(PATIENCE):
            await app.begun.wait()
            await client.send(behind)
            await asyncio.sleep(0.02)  # behind it in a read of its own, not together with the end
            if half:
                client.writer.write_eof()
            else:
                client.close()
            await app.left.wait()


# what comes behind a request under way -> how many of them all are answered
TOO_MUCH = [
    (GET * 200, BEHIND_REQUESTS),
    (post(b"x" * 5_000_000), 1),
    (GET + post(b"x" * 5_000_000) + GET, 2),
    (post(b"x" * 300_000) * 9, 4),
]


@pytest.mark.parametrize(("behind", "answered"), TOO_MUCH, ids=["requests", "a body", "a body behind another", "bodies"])
async def test_what_is_too_much_behind_an_answer_is_forgotten_and_the_rest_answered(behind: bytes, answered: int) -> None:
    whole = App(start(FIVE), body(b"12345"))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if not whole.bodies:
            # Turns of the loop in which all of it is read, although nothing is answered.
            for _ in range(2000):
                await asyncio.sleep(0)
        await whole(scope, receive, send)

    async with served(app) as port, connected(port) as client:
        await client.send(GET + behind)
        answers = [await client.answer() for _ in range(answered)]
        assert await client.until_closed() == b""
    assert [answer.headers.get("connection") for answer in answers] == [None] * (answered - 1) + ["close"]
    assert len(whole.bodies) == answered


async def test_the_last_answer_comes_whole_although_its_client_goes_on_writing() -> None:
    size = 12_000_000

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(2000):
            await asyncio.sleep(0)
        await send(start((b"content-length", b"%d" % size)))
        await send(body(b"x" * size))

    async with served(app) as port, connected(port) as client:
        await client.send(GET + post(b"x" * 2_000_000))
        assert (await client.head())[1]["connection"] == "close"
        for _ in range(size // 1_000_000):
            client.writer.write(b"x" * 10_000)
            await client.reader.readexactly(1_000_000)
            await asyncio.sleep(0.01)


async def test_a_client_may_always_have_a_few_requests_under_way() -> None:
    app = App(start(FIVE), body(b"12345"))
    async with served(app) as port, connected(port) as client:
        await client.send(post(b"x" * 100_000) * 3)
        for _ in range(30):
            await client.send(post(b"x" * 100_000))
            assert (await client.answer()).status == 200


async def test_an_answered_client_that_leaves_is_no_departure() -> None:
    told: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        scope["extensions"][CYCLE].then(lambda: told.append("left"))
        await send(start(FIVE))
        await send(body(b"12345"))
        async with asyncio.timeout(PATIENCE):
            # The disconnect: the answer is whole.
            assert (await receive())["type"] == "http.disconnect"

    async with served(app) as port:
        async with connected(port) as client:
            await client.send(GET)
            await client.answer()
        async with connected(port) as client:
            await client.send(GET)
            await client.answer()
    assert told == []
