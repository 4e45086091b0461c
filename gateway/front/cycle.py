"""The cycle: one request as it comes in and its answer as it goes out, as ASGI's receive and send.

It builds nothing that only a wait would need, and writes a head of known length together with the body: a small answer is one
write. A line break in a header, a body of another length than announced, and a second answer are errors, never bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol

from gateway.errors import InternalError
from gateway.front.errors import answer_bytes
from gateway.front.wire import App, Fields, Message, Scope

log = logging.getLogger(__name__)

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EXPECTS = (b"expect", b"100-continue")
STATUS_LINES = {int(status): b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}
BODILESS = (204, 304)


class Gone:
    """The client's departure before its answer was whole."""

    def __init__(self) -> None:
        self.departed = False
        self._callbacks: list[Callable[[], object]] = []

    def then(self, callback: Callable[[], object]) -> None:
        """Call back once, at the departure; now, if it has happened. Forgotten when the application has ended."""
        if self.departed:
            callback()
        else:
            self._callbacks.append(callback)

    def stay(self) -> None:
        """Nobody is to be told any more. Whoever waited for it mostly has this too: without the circle both are freed at once."""
        self._callbacks.clear()

    def depart(self) -> None:
        """The client has closed its connection."""
        if not self.departed:
            self.departed = True
            for callback in self._callbacks:
                callback()


class Line(Protocol):
    """What a cycle needs of its connection."""

    transport: asyncio.Transport
    write_paused: bool

    @property
    def constant_headers(self) -> Fields: ...

    async def writable(self) -> None: ...

    def resume_reading(self) -> None: ...

    def left(self, cycle: Cycle) -> None: ...

    def answered(self, cycle: Cycle) -> None: ...

    def break_off(self) -> None: ...


class Cycle(Gone):
    """One request and its answer.

    `more_body`: the request has not come whole. `started`: the answer has a status. `complete`: the answer is whole.
    `over`: nothing more is written or read, because of `complete`, the client's departure, or `give_up`. `waiting`: bytes of its
    body that nobody has read yet. `task`: in which the application runs, once it does.
    """

    task: asyncio.Task[None]

    def __init__(self, line: Line, keep_alive: bool) -> None:
        super().__init__()
        self._line = line
        self.keep_alive = keep_alive
        self.more_body = True
        self.started = self.complete = self.over = False
        self._pieces: list[bytes] = []
        self.waiting = 0
        self._news = False
        self._event: asyncio.Event | None = None
        self._head = b""
        self._left = 0
        self._chunked = self._bodiless = self._continued = False
        self._headers: Fields = []

    # the request

    def feed(self, piece: bytes) -> int:
        """A piece of the body has come; returns how many bytes of it now wait to be read."""
        if self.over:
            return 0
        self._pieces.append(piece)
        self.waiting += len(piece)
        self._wake()
        return self.waiting

    def end_of_request(self) -> None:
        """The body is whole."""
        self.more_body = False
        self._wake()

    def depart(self) -> None:
        self.over = True
        self._wake()
        super().depart()

    def _wake(self) -> None:
        self._news = True
        if self._event is not None:
            self._event.set()

    # the application

    async def run(self, app: App, scope: Scope) -> None:
        """Let the app answer; what it leaves unanswered ends with an error, or without its end once it has begun."""
        self._bodiless = scope["method"] == "HEAD"
        self._headers = scope["headers"]
        try:
            await app(scope, self.receive, self.send)
        except Exception:
            # The connection must still learn that this answer is over, whatever the application's mistake was.
            log.exception("an application failed")
        finally:
            self.stay()
            self._line.left(self)
            if not self.over:
                if not self.started or self._head:
                    self._line.transport.write(answer_bytes(InternalError("The gateway ended before it could answer.")))
                self._line.break_off()

    async def receive(self) -> Message:
        if not self._news and not self.over:
            await self._wait()
        self._news = False
        if self.over:
            return {"type": "http.disconnect"}
        body = b"".join(self._pieces)
        self._pieces.clear()
        self.waiting = 0
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def _wait(self) -> None:
        if not (self._pieces or self.started or self._continued) and EXPECTS in self._headers:
            self._line.transport.write(CONTINUE)
        self._continued = True
        if self._event is None:
            self._event = asyncio.Event()
        self._event.clear()
        self._line.resume_reading()
        await self._event.wait()

    async def send(self, message: Message) -> None:
        """Write a part of the answer; waits while the client is slower than we are, does nothing once it has left."""
        if self._line.write_paused and not self.over:
            await self._line.writable()
        if not self.over:
            if message["type"] == ("http.response.body" if self.started else "http.response.start"):
                (self._body if self.started else self._start)(message)
                return
        elif not self.complete:
            return
        raise RuntimeError(f"{message['type']} does not come next in this answer")

    def give_up(self) -> None:
        """End the answer without its end: what has been written goes out, then the connection closes."""
        self.over = True
        self._wake()
        self._line.break_off()

    def _start(self, message: Message) -> None:
        status, headers = message["status"], [*self._line.constant_headers, *message["headers"]]
        named = dict(headers)
        length = named.get(b"content-length")
        self._chunked = length is None and not self._bodiless and status not in BODILESS
        if self._chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        if b"connection" in named:
            self.keep_alive = self.keep_alive and named[b"connection"].lower() != b"close"
        elif not self.keep_alive:
            headers.append((b"connection", b"close"))
        head = b"\r\n".join(map(b": ".join, headers))
        if not head.count(b"\n") == head.count(b"\r") == len(headers) - 1:
            raise RuntimeError("a header holds a line break")
        self.started = True
        self._left = int(length or 0)
        self._head = b"%b%b\r\n\r\n" % (STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, head)
        if self._chunked:
            # A stream's head does not wait for its first chunk.
            self._flush(b"")

    def _body(self, message: Message) -> None:
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._bodiless:
            body = b""
        elif self._chunked:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                body += b"0\r\n\r\n"
        else:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the body has another length than its header says")
        self._flush(body)
        if not more:
            self.complete = self.over = True
            if self._event is not None:
                self._event.set()
            self._line.answered(self)

    def _flush(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        if data:
            self._line.transport.write(data)
