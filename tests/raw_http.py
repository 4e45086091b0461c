"""Raw sockets against a real server: what a test writes is what goes over the wire, byte for byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from gateway.errors import FaregateError
from gateway.front.app import Front
from gateway.front.auth import Keys
from gateway.front.cycle import Gone
from gateway.front.respond import Responder
from gateway.front.server import Plane, listen
from gateway.front.wire import App
from gateway.request import Caller, ChatRequest

KEY = "sk-correct-horse"
OTHER_KEY = "sk-battery-staple"
# No step of a test on loopback takes this long unless it has failed.
PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer; `headers` by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        return error


class Connection:
    """A client that writes bytes and reads answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, head: bool = False) -> Answer:
        """The next whole answer; raises IncompleteReadError when the connection ends before it does."""
        async with asyncio.timeout(PATIENCE):
            status, headers = await self.head()
            if head:
                return Answer(status, headers, b"")
            if headers.get("transfer-encoding") == "chunked":
                return Answer(status, headers, b"".join([piece async for piece in self.chunks()]))
            return Answer(status, headers, await self.reader.readexactly(int(headers["content-length"])))

    async def head(self) -> tuple[int, dict[str, str]]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), {name.lower(): value for name, value in headers.items()}

    async def chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)

    async def until_closed(self) -> bytes:
        """Whatever still comes until the server closes."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()

    def close(self) -> None:
        self.writer.close()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield connection
    finally:
        connection.close()


@asynccontextmanager
async def served(
    app: App, *, receive_seconds: float = 30.0, drain_seconds: int = 5, keep_alive_seconds: float = 75, write_seconds: float = 120
) -> AsyncIterator[int]:
    """The app behind the real server on a free port."""
    plane = Plane(
        app,
        listen("127.0.0.1", 0, "FAREGATE_PORT"),
        receive_seconds=receive_seconds,
        drain_seconds=drain_seconds,
        keep_alive_seconds=keep_alive_seconds,
        write_seconds=write_seconds,
    )
    await plane.start()
    try:
        yield plane.address[1]
    finally:
        plane.stop(now=True)
        await plane.ended()


class FakeExchange:
    """Answers by the model's name: `whole`, `stream`, `wait` (until the client has gone), `break`, `fail`, `fail-late`, `bug`.

    `proceed` paces `stream`: one permit for each chunk; without pacing it starts with enough.
    """

    def __init__(self, *, chunks: int = 3, paced: bool = False) -> None:
        self.seen: list[tuple[ChatRequest, Caller]] = []
        self.left = asyncio.Event()
        self.begun = asyncio.Event()
        self.chunks = chunks
        self.sent = 0
        self.proceed = asyncio.Semaphore(0 if paced else chunks)
        self.error: FaregateError = FaregateError("it failed")

    async def chat(self, request: ChatRequest, caller: Caller, responder: Responder, gone: Gone) -> None:
        self.seen.append((request, caller))
        self.begun.set()
        match request.model:
            case "wait":
                gone.then(self.left.set)
                await self.left.wait()
            case "fail":
                responder.dispatched = True
                raise self.error
            case "bug":
                raise ZeroDivisionError("secret prompt")
            case "stream" | "break" | "fail-late":
                await self._stream(request.model, responder)
            case _:
                await responder.whole(200, {"x-faregate-host": "fake\r\nx-evil: 1"}, b'{"object":"chat.completion"}')

    async def _stream(self, model: str, responder: Responder) -> None:
        await responder.start_stream({"x-faregate-host": "fake"})
        for number in range(self.chunks):
            await self.proceed.acquire()
            await responder.send(b"data: %d\n\n" % number)
            self.sent += 1
        if model == "break":
            await responder.abort()
        elif model == "fail-late":
            await responder.error(self.error)
        else:
            await responder.end()


def front_with(exchange: FakeExchange, *, max_body: int = 1 << 20, ready: dict[str, Any] | None = None, clock: str | None = None) -> Front:
    keys = Keys([("search", SecretStr(KEY)), ("ads", SecretStr(OTHER_KEY))], b"pepper of the tests")
    return Front(
        exchange=exchange,
        authenticate=keys.authenticate,
        models=lambda caller: [{"id": f"{caller.team}-model"}],
        ready=lambda: ready or {"policies": "digest", "ledger": "ok"},
        max_body=max_body,
        notice=(lambda: clock) if clock else None,
    )


def post(body: bytes, *headers: str, path: str = "/v1/chat/completions", key: str = KEY, host: str = "Host: test") -> bytes:
    """A well-formed chat request with these further header lines."""
    lines = [f"POST {path} HTTP/1.1", host, f"Authorization: Bearer {key}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chat(model: str = "whole", **more: Any) -> bytes:
    """A small chat body."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], **more}).encode()
