"""The responder: the only writer of an answer. One answer, started once, ended once; later writes have no effect."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from gateway.errors import FaregateError
from gateway.front import errors
from gateway.front.wire import CYCLE, EVENT_STREAM, JSON, Fields, Message, Receive, Scope, Send, dump, event, header_fields


class Responder:
    """Writes one answer. Every answer carries `x-request-id`.

    `started`: a status has gone out. `finished`: the answer is whole, or was given up. `dispatched`: set it once a host
    may have billed; from then on an error tells SDKs not to send the request again.
    Each write waits while the client is slower than we are (back-pressure); after the client has left it does nothing.
    """

    def __init__(self, scope: Scope, send: Send, id: str, extra: Fields) -> None:
        self._scope = scope
        self._send = send
        self._common: Fields = [(b"x-request-id", id.encode()), *extra]
        self.id = id
        self.started = False
        self.finished = False
        self.dispatched = False
        self._json = False

    async def start_stream(self, headers: dict[str, str]) -> None:
        """Begin a 200 answer of server-sent events."""
        await self._send(self._start_message(200, EVENT_STREAM + header_fields(headers)))

    async def start_whole(self, headers: dict[str, str]) -> None:
        """Begin a 200 answer of one JSON value whose end may be far: blanks may go before it, an error in its place."""
        self._json = True
        await self._send(self._start_message(200, [JSON, *header_fields(headers)]))

    async def send(self, data: bytes) -> None:
        """One piece of a stream; returns when the connection can take more."""
        if not self.finished:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """The stream is whole."""
        if not self.finished:
            self.finished = True
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def whole(self, status: int, headers: dict[str, str], body: bytes) -> Coroutine[Any, Any, None]:
        """A complete answer; the content type is JSON unless `headers` (lower-case names) have another."""
        fields = header_fields(headers)
        return self._whole(status, fields if "content-type" in headers else [JSON, *fields], body)

    async def error(self, error: FaregateError, headers: dict[str, str] | None = None) -> None:
        """The error as an answer of its own; inside a stream as its last event, without [DONE]; else as the JSON that was begun."""
        if self.started:
            await self.send(dump(errors.body(error)) if self._json else event(errors.body(error)))
            await self.end()
            return
        own = errors.fields(error, self.dispatched)
        await self._whole(error.status, [JSON, *own, *header_fields(headers or {})], dump(errors.body(error)))

    async def refuse(self, error: FaregateError, receive: Receive, limit: int) -> None:
        """Refuse a request whose body was not read whole: answer at once, then read on a little.

        Closing while a client still writes would reset the connection, and it would never see the answer.
        """
        data = dump(errors.body(error))
        own = [JSON, _length(data), (b"connection", b"close"), *errors.fields(error)]
        await self._send(self._start_message(error.status, own))
        await self.send(data)
        await _discard(receive, limit)
        await self.end()

    async def abort(self) -> None:
        """Break the connection: the client must not take what it has for a whole answer."""
        self.finished = True
        self._scope["extensions"][CYCLE].give_up()

    async def _whole(self, status: int, headers: Fields, body: bytes) -> None:
        await self._send(self._start_message(status, [_length(body), *headers]))
        if not self.finished:
            self.finished = True
            await self._send({"type": "http.response.body", "body": body})

    def _start_message(self, status: int, headers: Fields) -> Message:
        if self.started:
            raise RuntimeError("the answer has been started before")
        self.started = True
        headers.extend(self._common)
        return {"type": "http.response.start", "status": status, "headers": headers}


def _length(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % len(body)


async def _discard(receive: Receive, limit: int) -> None:
    """Read and forget the rest of a body, at most `limit` bytes."""
    size = 0
    while size <= limit:
        message = await receive()
        size += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
