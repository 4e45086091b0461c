"""A host on a raw loopback socket: plays one script for each connection, and what a script says goes over the wire as it is."""

from __future__ import annotations

import asyncio
import inspect
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from gateway.upstream.client import HttpAnswer, HttpUpstream
from gateway.upstream.port import Call

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
WHOLE = OK + b"content-length: 2\r\n\r\n{}"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
# No step of a test on loopback takes this long unless it has failed.
PATIENCE = 10.0


class Wire:
    """One connection, seen from the host."""

    def __init__(self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._peer = peer
        self.reader = reader
        self.writer = writer

    async def request(self) -> bytes:
        """The next whole request."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        request = head + await self.reader.readexactly(length)
        self._peer.requests.append(request)
        return request

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def drip(self, data: bytes) -> None:
        """One write for each byte, with a turn of the loop between them."""
        for byte in data:
            await self.send(bytes((byte,)))
            await asyncio.sleep(0)

    async def left(self) -> None:
        """Until the other side has closed."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass
        self._peer.lefts.release()


Script = Callable[[Wire], Awaitable[None]]


class Peer:
    """Listens while it is entered. `opened` counts connections; a script's failed assertion fails the test."""

    def __init__(self, script: Script, context: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()
        self.opened = 0
        self.requests: list[bytes] = []
        self.lefts = asyncio.Semaphore(0)

    async def __aenter__(self) -> Peer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._script(Wire(self, reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, AssertionError):
                raise result


# Loads no authorities, which takes longer than most tests.
TRUSTS_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def client(connect: float = 2, **more: Any) -> HttpUpstream:
    return HttpUpstream(connect, **{"context": TRUSTS_NOBODY, **more})


def answers(*pieces: bytes) -> Script:
    """A script: one of these for each request of a connection, then nothing more and a close."""

    async def script(wire: Wire) -> None:
        for piece in pieces:
            await wire.request()
            await wire.send(piece)

    return script


def forever(piece: bytes) -> Script:
    """A script: the same answer for each request."""

    async def script(wire: Wire) -> None:
        while await wire.request():
            await wire.send(piece)

    return script


def call(url: str, body: bytes = b"{}", **headers: str) -> Call:
    return Call(url, {"authorization": "Bearer k", **headers}, body)


async def body_of(answer: HttpAnswer) -> bytes:
    """Read to the end and close."""
    try:
        pieces = []
        while piece := await answer.read():
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        answer.close()


async def ask(upstream: HttpUpstream, url: str, body: bytes = b"{}") -> bytes:
    """One whole exchange."""
    return await body_of(await upstream.open(call(url, body)))


EITHER_LOOP = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


def on_both_loops(case: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async case on the standard loop and on uvloop, which serves in production."""

    async def bounded(given: dict[str, Any]) -> None:
        lost: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: lost.append(context))
        async with asyncio.timeout(PATIENCE):
            await case(**given)
        assert lost == [], f"escaped into the loop: {lost}"

    def run(loop: Callable[[], asyncio.AbstractEventLoop], **given: Any) -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(bounded(given))

    # pytest reads the signature to learn what to give.
    named = inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = inspect.Signature([named, *inspect.signature(case).parameters.values()])
    vars(run)["__signature__"] = signature
    tested: Callable[..., None] = EITHER_LOOP(run)
    return tested
