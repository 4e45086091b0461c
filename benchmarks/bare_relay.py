"""A relay that does nothing else: Faregate's own front and upstream client without any course between them.

No key is asked for, nothing is parsed, held, priced or written down: what Faregate's rows cost beyond it is what Faregate adds.
Run: `python -m benchmarks.bare_relay PORT UPSTREAM`; GET / is answered once it serves.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import uvloop

from gateway.front.server import Plane, listen
from gateway.front.wire import Receive, Scope, Send
from gateway.upstream.client import HttpUpstream
from gateway.upstream.port import Answer, Call

JSON = "application/json"


class Relay:
    """An ASGI app: the body goes to the host as it came, the answer comes back as it is."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._upstream = HttpUpstream(connect=5)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await _whole(send, 200, "text/plain", b"")
            return
        headers = {"content-type": JSON, "accept-encoding": "identity", "authorization": "Bearer upstream-key-1"}
        answer = await self._upstream.open(Call(self._url, headers, await _body(receive)))
        try:
            if answer.content_type == JSON:
                await _whole(send, answer.status, JSON, await _collect(answer))
            else:
                await _stream(send, answer)
        finally:
            answer.close()


async def _body(receive: Receive) -> bytes:
    pieces, more = [], True
    while more:
        message = await receive()
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(pieces)


async def _collect(answer: Answer) -> bytes:
    pieces = [await answer.read()]
    while not answer.ended and (data := await answer.read()):
        pieces.append(data)
    return b"".join(pieces)


async def _whole(send: Send, status: int, kind: str, body: bytes) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _stream(send: Send, answer: Answer) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": [(b"content-type", answer.content_type.encode())]})
    while data := await answer.read():
        await send({"type": "http.response.body", "body": data, "more_body": True})
    await send({"type": "http.response.body"})


async def serve(port: int, upstream: int) -> None:
    relay = Relay(f"http://127.0.0.1:{upstream}/v1/chat/completions")
    plane = Plane(relay, listen("127.0.0.1", port, "PORT"), receive_seconds=30, drain_seconds=1)
    await plane.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, plane.stop)
    await plane.ended()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
