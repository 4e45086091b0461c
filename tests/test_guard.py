"""The golden table of the edge: raw bytes, and what the pinned server with its guard answers to them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from gateway.front.guard import Guard, inspect
from gateway.front.wire import Receive, Scope, Send
from tests.raw_http import KEY, FakeExchange, chat, connected, front_with, served

BODY = chat()
CHUNKED = b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY)
AUTH = f"Authorization: Bearer {KEY}\r\n".encode()
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
START = b"POST /v1/chat/completions HTTP/1.1\r\n"
HOST = b"Host: test\r\n"
TE = b"Transfer-Encoding: chunked\r\n"


@dataclass(frozen=True)
class Case:
    """Bytes sent, and the statuses of the answers; the connection must close after any status but 200."""

    name: str
    sent: bytes
    statuses: tuple[int, ...]


def request(headers: bytes, body: bytes = BODY, start: bytes = START) -> bytes:
    return start + headers + b"\r\n" + body


def with_length(value: bytes) -> bytes:
    return request(HOST + AUTH + b"Content-Length: " + value + b"\r\n")


def chunked(te: bytes, body: bytes = CHUNKED + b"\r\n", start: bytes = START) -> bytes:
    return request(HOST + AUTH + te, body, start)


def get(target: bytes, headers: bytes = HOST + AUTH, version: bytes = b"HTTP/1.1") -> bytes:
    return b"GET " + target + b" " + version + b"\r\n" + headers + b"\r\n"


GOOD = request(HOST + AUTH + LENGTH)
MODELS = get(b"/v1/models")

CASES = [
    Case("a plain request", GOOD, (200,)),
    Case("a chunked request", chunked(TE), (200,)),
    Case("two Host", request(HOST + HOST + AUTH + LENGTH), (400,)),
    Case("no Host", request(AUTH + LENGTH), (400,)),
    Case("a Host with a path", request(b"Host: x/abc?q=\r\n" + AUTH + LENGTH), (400,)),
    Case("a Host with credentials", request(b"Host: a@b\r\n" + AUTH + LENGTH), (400,)),
    Case("an empty Host", request(b"Host:\r\n" + AUTH + LENGTH), (400,)),
    Case("a Host with a port", request(b"Host: gateway.example:8080\r\n" + AUTH + LENGTH), (200,)),
    Case("a Host in IPv6", request(b"Host: [::1]:8080\r\n" + AUTH + LENGTH), (200,)),
    Case("two different lengths", request(HOST + AUTH + LENGTH + b"Content-Length: 1\r\n"), (400,)),
    Case("two equal lengths", request(HOST + AUTH + LENGTH + LENGTH), (400,)),
    Case("length 3, 3", with_length(b"3, 3"), (400,)),
    Case("length +3", with_length(b"+3"), (400,)),
    Case("length -1", with_length(b"-1"), (400,)),
    Case("length and transfer-encoding", request(HOST + AUTH + LENGTH + TE, CHUNKED + b"\r\n"), (400,)),
    Case("TE xchunked", chunked(b"Transfer-Encoding: xchunked\r\n"), (400,)),
    Case("TE chunked, identity", chunked(b"Transfer-Encoding: chunked, identity\r\n"), (400,)),
    Case("TE identity, chunked", chunked(b"Transfer-Encoding: identity, chunked\r\n"), (400,)),
    Case("TE gzip, chunked", chunked(b"Transfer-Encoding: gzip, chunked\r\n"), (400,)),
    Case("TE with a space before the colon", chunked(b"Transfer-Encoding : chunked\r\n"), (400,)),
    Case("two TE", chunked(TE + TE), (400,)),
    Case("TE in HTTP/1.0", chunked(TE, start=b"POST /v1/chat/completions HTTP/1.0\r\n"), (400,)),
    Case("a bad chunk terminator", chunked(TE, b"3\r\nabcXX0\r\n\r\n"), (400,)),
    Case("chunk size 0x1", chunked(TE, b"0x1\r\na\r\n0\r\n\r\n"), (400,)),
    Case("chunk size -1", chunked(TE, b"-1\r\na\r\n0\r\n\r\n"), (400,)),
    Case("chunk size of 17 F", chunked(TE, b"F" * 17 + b"\r\na\r\n0\r\n\r\n"), (400,)),
    Case("a chunk extension with LF", chunked(TE, b"1;a\nb\r\nx\r\n0\r\n\r\n"), (400,)),
    Case("bare LF", GOOD.replace(b"\r\n", b"\n"), (400,)),
    Case("bare CR", request(HOST + AUTH + b"X-A: 1\rX-B: 2\r\n" + LENGTH), (400,)),
    Case("a folded header", request(HOST + AUTH + b"X-A: 1\r\n 2\r\n" + LENGTH), (400,)),
    Case("NUL in a header", request(HOST + AUTH + b"X-A: 1\x002\r\n" + LENGTH), (400,)),
    Case("X_Api_Key beside X-Api-Key", request(HOST + f"X_Api_Key: a\r\nX-Api-Key: {KEY}\r\n".encode() + LENGTH), (400,)),
    Case("two Authorization", request(HOST + AUTH + AUTH + LENGTH), (400,)),
    Case("two Idempotency-Key", request(HOST + AUTH + LENGTH + b"Idempotency-Key: a\r\nIdempotency-Key: a\r\n"), (400,)),
    Case("two content types", request(HOST + AUTH + b"Content-Type: application/json\r\n" * 2 + LENGTH), (400,)),
    Case("an absolute target", get(b"http://evil.example/v1/models"), (400,)),
    Case("an asterisk target", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", (400,)),
    Case("CONNECT", b"CONNECT evil.example:80 HTTP/1.1\r\n" + HOST + b"\r\n", (400,)),
    Case("an empty segment", get(b"//admin/../v1"), (400,)),
    Case("a dot segment", get(b"/v1/./models"), (400,)),
    Case("a dot segment at the end", get(b"/v1/.."), (400,)),
    Case("encoded dots and a slash", get(b"/v1/%2e%2e/admin%2fkeys"), (400,)),
    Case("an encoded backslash", get(b"/v1%5cmodels"), (400,)),
    Case("an encoded NUL", get(b"/v1/models%00"), (400,)),
    Case("an encoded letter is another path", get(b"/v1/%6dodels"), (200,)),
    Case("latin-1 in the path", get(b"/v1/mod\xe9ls"), (400,)),
    Case("HTTP/1.2", get(b"/v1/models", version=b"HTTP/1.2"), (400,)),
    Case("HTTP/2.0", get(b"/v1/models", version=b"HTTP/2.0"), (400,)),
    Case("HTTP/0.9", b"GET /v1/models\r\n\r\n", (400,)),
    Case("HTTP/1.0 without a Host", get(b"/v1/models", AUTH, b"HTTP/1.0"), (200,)),
    Case("GET with a body", get(b"/v1/models", HOST + AUTH + b"Content-Length: 2\r\n") + b"{}", (400,)),
    Case("two pipelined", MODELS + MODELS, (200, 200)),
    Case("two pipelined with bodies", GOOD + GOOD, (200, 200)),
    Case("a trailer after the body", chunked(TE, CHUNKED + b"X-Team: evil\r\n\r\n"), (200,)),
    Case("a key in a trailer only", request(HOST + TE, CHUNKED + AUTH + b"\r\n"), (401,)),
    Case("a length in a trailer", chunked(TE, CHUNKED + LENGTH + b"\r\n"), (400,)),
    Case("a gzip body", request(HOST + AUTH + b"Content-Encoding: gzip\r\n" + LENGTH), (415,)),
    Case("an upgrade", request(HOST + AUTH + b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + LENGTH), (400,)),
    Case("a header of 70 KB", request(HOST + AUTH + b"X-A: " + b"a" * 70_000 + b"\r\n" + LENGTH), (431,)),
    Case("a header without an end", START + HOST + b"X-A: " + b"a" * 70_000, (431,)),
    Case("2,000 headers", request(HOST + AUTH + b"X-A: 1\r\n" * 2000 + LENGTH), (431,)),
    Case("101 headers", request(HOST + AUTH + b"X-A: 1\r\n" * 98 + LENGTH), (431,)),
    Case("100 headers", request(HOST + AUTH + b"X-A: 1\r\n" * 97 + LENGTH), (200,)),
    Case("latin-1 in a header", request(HOST + AUTH + b"X-Name: caf\xe9\r\n" + LENGTH), (200,)),
    Case("latin-1 in a key", request(HOST + b"Authorization: Bearer \xe9\xe9\xe9\r\n" + LENGTH), (401,)),
    Case("no HTTP at all", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (400,)),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def port() -> AsyncIterator[int]:
    async with served(front_with(FakeExchange())) as port:
        yield port


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_the_golden_table(port: int, case: Case) -> None:
    async with connected(port) as client:
        await client.send(case.sent)
        answers = [await client.answer() for _ in case.statuses]

        assert tuple(answer.status for answer in answers) == case.statuses
        for answer in answers:
            assert answer.headers["x-request-id"].startswith("req-")
            if answer.status != 200:
                assert answer.error["code"]
                assert answer.headers["x-should-retry"] == "false"
        if case.statuses != (200,) * len(case.statuses):
            assert await client.until_closed() == b""


async def test_a_trailer_never_becomes_a_header() -> None:
    seen: list[list[tuple[bytes, bytes]]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        seen.append(list(scope["headers"]))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async with served(Guard(app)) as port, connected(port) as client:
        await client.send(request(HOST + TE, CHUNKED + b"Authorization: Bearer evil\r\nX-Team: evil\r\n\r\n"))
        await client.answer()

    assert [name for name, _ in seen[0]] == [b"host", b"transfer-encoding"]


@pytest.mark.asyncio(loop_scope="module")
async def test_trailers_without_an_end_are_refused(port: int) -> None:
    async with connected(port) as client:
        await client.send(chunked(TE, CHUNKED))
        with pytest.raises(ConnectionError):
            for _ in range(20_000):
                await client.send(b"X-A: 1\r\n" * 1000)


async def test_an_expected_continue_is_answered_before_the_body_is_sent() -> None:
    async with served(front_with(FakeExchange())) as port, connected(port) as client:
        await client.send(request(HOST + AUTH + LENGTH + b"Expect: 100-continue\r\n", b""))
        assert await client.head() == (100, {})
        await client.send(BODY)
        assert (await client.answer()).status == 200


async def test_a_refusal_asks_for_no_body_that_was_not_sent_yet() -> None:
    async with served(front_with(FakeExchange())) as port, connected(port) as client:
        await client.send(request(HOST + LENGTH + b"Expect: 100-continue\r\n", b""))
        assert (await client.answer()).status == 401


async def test_garbage_behind_a_request_does_not_break_into_its_answer() -> None:
    exchange = FakeExchange(paced=True)
    async with served(front_with(exchange)) as port, connected(port) as client:
        await client.send(request(HOST + AUTH + b"Content-Length: %d\r\n" % len(chat("stream")), chat("stream")))
        assert (await client.head())[0] == 200
        await client.send(b"\x00\x01garbage\r\n\r\n")
        assert b"HTTP/1.1 400" not in await client.until_closed()


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("team=%00", "team"),
        ("by=team&key=a%0ab", "key"),
        ("last=7d&zone=UTC%7F", "zone"),
        ("te%1fam=a", "te\x1fam"),
        ("team=%0", None),
        ("team=100%25+of%20it%C3%A9&to=%2500", None),
        ("", None),
    ],
)
async def test_a_parameter_with_a_control_character_is_refused_by_its_name(query: str, named: str | None) -> None:
    """Before any ledger is asked: PostgreSQL takes no NUL in a text, where SQLite does."""
    asked: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["query_string"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async with served(Guard(app)) as port, connected(port) as client:
        await client.send(f"GET /admin/v1/spend?{query} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        answer = await client.answer()

    if named is None:
        assert (answer.status, asked) == (200, [query.encode()])
    else:
        error = json.loads(answer.body)["error"]
        assert (answer.status, error["param"], repr(named) in error["message"], asked) == (400, named, True, [])


def test_the_headers_come_back_by_name() -> None:
    scope = {"http_version": "1.1", "raw_path": b"/", "method": "GET", "headers": [(b"host", b"a"), (b"x-a", b"1"), (b"x-a", b"2")]}
    assert inspect(scope) == {b"host": b"a", b"x-a": b"2"}
