"""The HTTP/1.1 connection: a request arrives whole within a deadline, in bounded memory, and a trailer never becomes a header.

Built on httptools' parser; uvicorn's server makes one for each connection. Upgrades, targets that are not paths and endless
header sections are refused here; what can be read in two ways is left to the guard.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections import deque
from typing import Any

import httptools
from uvicorn import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from gateway.errors import FaregateError, InvalidRequest
from gateway.front.cycle import Cycle
from gateway.front.errors import HeadersTooLarge, answer_bytes
from gateway.front.guard import HEADER_BYTES
from gateway.front.wire import CYCLE, Fields, Scope

UPGRADE = "Faregate speaks plain HTTP/1.1 only: send no Upgrade header (Java's HttpClient: version(HTTP_1_1))."
# Seconds in which a client may still take what was written of an answer that has been broken off.
LINGER = 5.0
# Seconds after which every connection looks at its deadlines, and at whether its client still reads.
LOOK = 10.0
# Bytes of the body of the request whose turn it is that wait to be read, before reading stops.
WAITING_BYTES = 64 * 1024
# Whole requests, and bytes of their bodies, that may wait behind an answer. Reading never stops there: nothing would tell of the
# departure of the client, whose answer costs money.
BEHIND_REQUESTS = 64
BEHIND_BYTES = 1024 * 1024


class Protocol(asyncio.Protocol):
    """One connection. `receive_seconds` is the time in which a whole request (headers and body) must arrive, `keep_alive_seconds`
    how long the connection waits for the next one; after `write_seconds` in which a client took nothing of what was written for it, it
    counts as gone.

    An answer whose client reads is never timed: not even when a half request has been pipelined behind it.
    """

    receive_seconds = 30.0
    keep_alive_seconds = 75.0
    write_seconds = 120.0
    transport: asyncio.Transport

    def __init__(self, config: Config, server_state: ServerState, app_state: object, _loop: object = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._app = config.loaded_app
        self._server_state = server_state
        self._parser: Any = httptools.HttpRequestParser(self)
        # Bytes behind a request that ends the connection must not spoil its answer.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.write_paused = False
        self._read_paused = False
        self._writable = asyncio.Event()
        self._url = b""
        self._headers: Fields = []
        self._silent = 0
        self._refusal: FaregateError = InvalidRequest("This is not a valid HTTP/1.1 request.")
        # Requests that have not been answered whole, with their scopes: the first one's app runs, the last one may still arrive.
        self._unanswered: deque[tuple[Cycle, Scope]] = deque()
        self._newest: Cycle | None = None
        # Bytes that wait behind the first of them; after too many, nothing more is heard.
        self._behind = 0
        self._deaf = False
        # Bytes written that the client had not taken when we last looked, and the time since when it has taken none.
        self._unsent = 0
        self._stalled_since = 0.0
        # The time at which the connection closes unless something happens. One timer looks at it: to move a timer for each
        # request would cost more than to parse the request.
        self._receiving = True
        self._due = 0.0

    # transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self._server, self._client = get_local_addr(transport), get_remote_addr(transport)
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # uvicorn asks for shutdown() only
        self._due = self._loop.time() + self.receive_seconds
        self._check()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server_state.connections.discard(self)
        self._timer.cancel()
        self._parser = None
        self._newest = None
        self.resume_writing()
        for cycle, _ in self._unanswered:
            cycle.depart()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        # Bytes that complete neither headers nor body: a huge header, endless trailers or chunk extensions.
        self._silent += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self._deaf:
                self._reject()
            return
        if self._silent > HEADER_BYTES and not self.transport.is_closing():
            self._refusal = HeadersTooLarge(f"The header section is longer than {HEADER_BYTES} bytes.")
            self._reject()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._writable.clear()

    def resume_writing(self) -> None:
        self.write_paused = False
        self._writable.set()

    def shutdown(self) -> None:
        """Called by the server when it ends: finish the answers that are owed, then close."""
        if self._unanswered:
            self._unanswered[-1][0].keep_alive = False
        else:
            self._close()

    # parser

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []
        if not self._receiving:
            self._receiving = True
            self._due = self._loop.time() + self.receive_seconds

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._silent = 0
        if self._parser.should_upgrade():
            self._refuse(UPGRADE)
        if not self._url.startswith(b"/"):
            self._refuse("The request target must be a path.")
        version = self._parser.get_http_version()
        cycle = self._newest = Cycle(self, version != "1.0" and self._parser.should_keep_alive())
        self._unanswered.append((cycle, self._scope(version, cycle)))
        # The scope keeps the list as it is now; trailers land in one that nobody reads.
        self._headers = []
        if len(self._unanswered) == 1:
            self._begin()
        elif len(self._unanswered) > BEHIND_REQUESTS:
            self._stop_listening()

    def on_body(self, body: bytes) -> None:
        self._silent = 0
        if self._newest is None:
            return
        waiting = self._newest.feed(body)
        if len(self._unanswered) > 1:
            self._behind += len(body)
            if self._behind > BEHIND_BYTES:
                self._stop_listening()
        elif waiting > WAITING_BYTES:
            self._pause_reading()

    def on_message_complete(self) -> None:
        self._silent = 0
        self._receiving = False
        if not self._unanswered:
            # It was answered before it had come whole.
            self._due = self._loop.time() + self.keep_alive_seconds
        if self._newest is not None:
            self._newest.end_of_request()
            self._newest = None

    def _scope(self, version: str, cycle: Cycle) -> Scope:
        raw_path, _, query = self._url.partition(b"?")
        path = raw_path.decode("ascii")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "method": self._parser.get_method().decode("ascii"),
            "scheme": "http",
            "server": self._server,
            "client": self._client,
            "root_path": "",
            "path": urllib.parse.unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self._headers,
            "extensions": {CYCLE: cycle},
        }

    def _refuse(self, reason: str) -> None:
        self._refusal = InvalidRequest(reason)
        raise ValueError(reason)

    def _reject(self) -> None:
        """Refuse what is no request; in the middle of an answer only the connection can be closed."""
        if not any(cycle.started or not cycle.more_body for cycle, _ in self._unanswered):
            self.transport.write(answer_bytes(self._refusal))
        if self._unanswered:
            self.break_off()
        else:
            self._close()

    def _stop_listening(self) -> None:
        """Too much waits behind an answer: what came whole gets its answer, the rest is read and forgotten."""
        self._deaf = True
        self._newest = None
        self._unanswered.pop()
        self._unanswered[-1][0].keep_alive = False
        raise OverflowError("the parser stops here")

    # what the cycles need

    @property
    def constant_headers(self) -> Fields:
        """The Date header, as the server renews it every second."""
        return self._server_state.default_headers

    async def writable(self) -> None:
        await self._writable.wait()

    def resume_reading(self) -> None:
        if self._read_paused:
            self._read_paused = False
            self.transport.resume_reading()

    def _pause_reading(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()

    def left(self, cycle: Cycle) -> None:
        """An application has ended. Cheaper than a callback of its task, which takes a turn of the loop."""
        self._server_state.tasks.discard(cycle.task)

    def answered(self, cycle: Cycle) -> None:
        """An answer is whole: the next request's turn, if there is one."""
        self._unanswered.popleft()
        if not cycle.keep_alive:
            self._close()
        if self.transport.is_closing():
            return
        self.resume_reading()
        if self._unanswered:
            self._behind -= self._unanswered[0][0].waiting
            self._begin()
        if self._receiving or not self._unanswered:
            # What waited behind this answer gets its full time from now.
            self._due = self._loop.time() + (self.receive_seconds if self._receiving else self.keep_alive_seconds)

    def break_off(self) -> None:
        """End the connection although an answer is not whole: what was written goes out if the client takes it soon."""
        self.transport.close()
        self._loop.call_later(LINGER, self.transport.abort)

    def _close(self) -> None:
        """End the connection after its last answer: when that has gone out, or the client takes no more of it."""
        if self._deaf:
            # Closing while the client still writes would reset the connection, and destroy what it has not read yet.
            self.transport.write_eof()
            self._loop.call_later(LINGER, self.transport.close)
        else:
            self.transport.close()

    def _begin(self) -> None:
        cycle, scope = self._unanswered[0]
        # With a name of its own it costs a fifth less than the loop's, which counts them.
        cycle.task = asyncio.Task(cycle.run(self._app, scope), loop=self._loop, name="request")
        self._server_state.tasks.add(cycle.task)

    # deadlines

    def _check(self) -> None:
        now = self._loop.time()
        if self._stalled(now):
            self.transport.abort()
            return
        if now >= self._due:
            # Something that arrives behind an answer under way is not timed before its own turn.
            if all(cycle.more_body for cycle, _ in self._unanswered):
                self._close()
            self._due = now + self.receive_seconds
        look = min(self._due - now, LOOK, self.receive_seconds, self.keep_alive_seconds, self.write_seconds)
        self._timer = self._loop.call_later(look, self._check)

    def _stalled(self, now: float) -> bool:
        """Whether the client has long taken nothing of what was written for it.

        After its last answer, "long" is no longer than a connection waits for the next request.
        """
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent or not unsent:
            self._unsent, self._stalled_since = unsent, now
        patience = self.write_seconds if self._unanswered else min(self.write_seconds, self.keep_alive_seconds)
        return unsent > 0 and now - self._stalled_since >= patience


def protocol_with(receive_seconds: float, keep_alive_seconds: float, write_seconds: float) -> type[Protocol]:
    """The protocol with these deadlines, as uvicorn wants it: a class."""
    times = {"receive_seconds": receive_seconds, "keep_alive_seconds": keep_alive_seconds, "write_seconds": write_seconds}
    return type("Protocol", (Protocol,), times)
