"""One connection to a host: a request goes out in one write, its answer comes back parsed, in bounded memory.

The protocol is HTTP/1.1 as httptools reads it. Nothing here connects, retries or keeps time.
"""

from __future__ import annotations

import asyncio
import select
from typing import cast

from httptools import HttpParserError, HttpResponseParser

from gateway.errors import UpstreamError

# Bytes of a head or of trailers; also how much may come between two pieces of a body without being a part of it.
HEAD_LIMIT = 64 * 1024
# Bytes that wait for `read`, their framing included; one read of the socket may come on top.
BUFFER_LIMIT = 256 * 1024

# What our own workers say, and no host is asked about: of a request that certainly did not reach its host, and of one that its host
# may bill although there is no answer.
UNSENT, BILLED = b"x-faregate-unsent", b"x-faregate-billed"
_KNOWN = frozenset((b"content-type", b"retry-after", b"content-encoding", b"content-length", b"transfer-encoding", UNSENT, BILLED))


class Connection(asyncio.Protocol):
    """One request at a time, each answered before the next; bytes that nobody asked for end the connection.

    `status` is 0 until the head of the answer has come, then `fields` holds those of its headers that matter here, by
    lower-case name. A wait that is given up, by cancellation too, closes the connection.
    """

    __slots__ = (
        "_ended", "_failure", "_framed", "_head", "_held", "_interim", "_keep", "_loop", "_parser", "_paused", "_pieces",
        "_transport", "_unread", "_waiter", "fields", "on_body", "status",
    )  # fmt: skip

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._unread: select.poll
        self._waiter: asyncio.Future[None] | None = None
        self._failure: UpstreamError | None = None
        self._pieces: list[bytes] = []
        self.fields: dict[bytes, bytes] = {}
        self.status = 0
        self._head = 0
        self._held = 0
        # No answer is expected: none was asked for, or it has come to its end.
        self._ended = True
        self._interim = self._framed = self._keep = self._paused = False
        # A bound method of the list: a burst of chunks is collected without a Python frame for each.
        self.on_body = self._pieces.append
        self._parser = HttpResponseParser(self)

    # what the client does

    async def ask(self, request: bytes) -> None:
        """Send one request and wait for the head of its answer; raises UpstreamError.

        A large body waits in the transport, and nothing more is written until it has gone: `finished` sees to that. So there
        is nobody whom `pause_writing` could stop.
        """
        if self._transport.is_closing():
            raise UpstreamError("The host closed the connection before anything was sent.", dispatched=False)
        self.fields.clear()
        self.status = self._head = self._held = 0
        self._ended = self._keep = False
        self._transport.write(request)
        while not self.status:
            await self._more()

    async def read(self) -> bytes:
        """All that has come of the body, at least one byte; b"" at its proper end. Raises UpstreamError where it breaks off."""
        while not self._pieces:
            if self._ended:
                return b""
            await self._more()
        return self._take()

    def drained(self) -> bool:
        """Whether the answer has come to its proper end and nothing of it is left: `read` would give b""."""
        return self._ended and not self._pieces

    def finished(self) -> bool:
        """Whether the exchange is complete and another may follow; what was not read of it is dropped."""
        if not (self._ended and self._keep) or self._transport.is_closing() or self._transport.get_write_buffer_size():
            return False
        if self._pieces:
            self._take()
        return True

    def quiet(self) -> bool:
        """Whether an idle connection is open and nothing waits on it, not even an end that the loop has not yet seen."""
        return not self._transport.is_closing() and not self._unread.poll(0)

    def abort(self) -> None:
        """Close now; the host sees it in one turn of the loop."""
        self._transport.abort()

    # waiting

    async def _more(self) -> None:
        """Wait until something has come; raises what broke the answer."""
        if self._failure is not None:
            raise self._failure
        if self._waiter is not None:
            raise RuntimeError("an answer is read by one task")
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        except BaseException:
            self._transport.abort()
            raise
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return data

    def _break(self, reason: str) -> None:
        """The answer cannot be trusted from here on; the first reason stays."""
        if not self._ended and self._failure is None:
            self._failure = UpstreamError(reason, dispatched=True)
        self._transport.abort()
        self._wake()

    # transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._unread = select.poll()
        self._unread.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if self._ended:
            self._transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            self._break("The host's answer is not valid HTTP.")
            return
        self._held += len(data)
        if self._pieces:
            self._bound()
        elif self._held > HEAD_LIMIT and not self._ended:
            self._break("The host sends endless headers.")
        self._wake()

    def _bound(self) -> None:
        if self._held > BUFFER_LIMIT and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """The end of a body that has no other; of any other, a break, which `connection_lost` tells."""
        if self.status and not self._framed:
            self._ended = True
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        # The parser holds methods of this object: without the cycle both are freed at once.
        del self._parser
        self._break("The host broke the connection.")

    # parser

    def on_message_begin(self) -> None:
        if self._ended:
            raise self._refused("The host sends more than its answer.")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head += len(name) + len(value)
        if self._head > HEAD_LIMIT:
            raise self._refused("The host sends endless headers.")
        name = name.lower()
        # What comes after the head is a trailer.
        if name in _KNOWN and not self.status:
            first = self.fields.get(name)
            self.fields[name] = value if first is None else first + b", " + value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._skip(status)
            return
        fields = self.fields
        if fields.get(b"content-encoding", b"").strip().lower() not in (b"", b"identity"):
            raise self._refused("The host compressed its answer although it was asked not to.")
        coding = fields.get(b"transfer-encoding")
        if coding is not None and coding.strip().lower() != b"chunked":
            raise self._refused("The host sends its answer in a transfer coding other than chunked.")
        self._framed = coding is not None or b"content-length" in fields
        self._keep = self._parser.should_keep_alive()
        self.status = status

    def _skip(self, status: int) -> None:
        """Pass over an interim answer (1xx)."""
        if status < 100 or status == 101:
            raise self._refused("The host's answer is not valid HTTP.")
        self._interim = True
        self.fields.clear()

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        else:
            self._ended = True

    def _refused(self, reason: str) -> UpstreamError:
        """What to raise so that the parser stops."""
        error = UpstreamError(reason, dispatched=True)
        if not self._ended and self._failure is None:
            self._failure = error
        return error
