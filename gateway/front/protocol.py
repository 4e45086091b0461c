"""The HTTP/1.1 parser's edge: a request arrives whole within a deadline, in bounded memory, and a trailer never becomes a header.

Built on uvicorn's httptools protocol, of which it closes what the parser leaves open: no limit on the time or the size of a
header section, trailers appended to the headers, upgrades that lose the body, targets that are not paths.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.errors import FaregateError, InvalidRequest
from gateway.front.errors import HeadersTooLarge, answer_bytes
from gateway.front.guard import HEADER_BYTES
from gateway.front.wire import GIVE_UP

UPGRADE = "Faregate speaks plain HTTP/1.1 only: send no Upgrade header (Java's HttpClient: version(HTTP_1_1))."
# Seconds in which a client that does not read may still take what was written for it.
LINGER = 5.0


class Protocol(HttpToolsProtocol):
    """One connection. `receive_seconds` is the time in which a whole request (headers and body) must arrive.

    An answer under way is never timed: not even when a half request has been pipelined behind it.
    """

    receive_seconds = 30.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._silent = 0
        self._refusal: FaregateError = InvalidRequest("This is not a valid HTTP/1.1 request.")
        self._unanswered: deque[RequestResponseCycle] = deque()

    # transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)
        # The parent tells only the newest of several pipelined requests.
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        # Bytes that complete neither headers nor body: a huge header, endless trailers or chunk extensions.
        self._silent += len(data)
        super().data_received(data)
        if self._silent > HEADER_BYTES and not self.transport.is_closing():
            self._refusal = HeadersTooLarge(f"The header section is longer than {HEADER_BYTES} bytes.")
            self.send_400_response("")

    # parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._arm()

    def on_headers_complete(self) -> None:
        self._silent = 0
        if self.parser.should_upgrade():
            self._refuse(UPGRADE)
        if not self.url.startswith(b"/"):
            self._refuse("The request target must be a path.")
        super().on_headers_complete()
        # The scope keeps the list as it is now; trailers land in one that nobody reads.
        self.headers = []
        self._unanswered.append(self.cycle)
        self.scope["extensions"] = {GIVE_UP: {"close": partial(self._give_up, self.cycle)}}

    def on_body(self, body: bytes) -> None:
        self._silent = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._silent = 0
        self._disarm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._unanswered.popleft()
        super().on_response_complete()
        if self._deadline is not None:
            # What waited behind this answer gets its full time from now.
            self._disarm()
            self._arm()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request; in the middle of an answer only the connection can be closed."""
        if not any(cycle.response_started or not cycle.more_body for cycle in self._unanswered):
            self.transport.write(answer_bytes(self._refusal))
        self.transport.close()

    # deadline

    def _refuse(self, reason: str) -> None:
        self._refusal = InvalidRequest(reason)
        raise ValueError(reason)

    def _give_up(self, cycle: RequestResponseCycle) -> None:
        """End an answer without its end: what has been written goes out, then the connection closes."""
        cycle.disconnected = True
        cycle.message_event.set()
        self.transport.close()
        self.loop.call_later(LINGER, self.transport.abort)

    def _answering(self) -> bool:
        """Whether a request that has arrived whole has not yet been answered whole."""
        return any(not cycle.more_body for cycle in self._unanswered)

    def _arm(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.receive_seconds, self._late)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self._answering():
            self._arm()
        elif not self.transport.is_closing():
            self.transport.close()


def protocol_with(receive_seconds: float) -> type[Protocol]:
    """The protocol with this deadline, as uvicorn wants it: a class."""
    return type("Protocol", (Protocol,), {"receive_seconds": receive_seconds})
