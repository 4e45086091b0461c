"""A model host that costs almost nothing: canned bytes in DeepSeek's shape over a raw asyncio protocol.

What it answers stands in the request's own text, which every gateway passes on: a message that holds `bench:chunks=2000,pace=20` asks for
2,000 chunks, one each 20 ms (0: as fast as the socket takes them). Without `"stream":true` the answer is one JSON body.
Run: `python -m benchmarks.stub_upstream PORT`; it prints `ready` when it listens.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
import sys
from typing import Any, cast

import uvloop

ORDER = re.compile(rb"bench:chunks=(\d+),pace=(\d+)")
STREAM = re.compile(rb'"stream"\s*:\s*true')
LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)
WORDS = ("We", " need", " the", " fare", " of", " a", " ride", " to", " town", ",", " then", " add", " it", " up", ".", "\n")
PROMPT_TOKENS = 14
ANSWER = "The fare is two coins, one for each gate on the way to the old town."
HEAD_WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
HEAD_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
LAST = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


def usage(output: int) -> dict[str, Any]:
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": output,
        "total_tokens": PROMPT_TOKENS + output,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": output // 2},
        "prompt_cache_hit_tokens": 0,
        "prompt_cache_miss_tokens": PROMPT_TOKENS,
    }


def _body(kind: str, choice: dict[str, Any], used: dict[str, Any] | None) -> bytes:
    shown = {
        "id": "a5e0c2a4-6b19-4d0a-9d5e-6f1c5a3c7b21",
        "object": kind,
        "created": 1795000000,
        "model": "deepseek-flash",
        "system_fingerprint": "fp_bench",
        "choices": [{"index": 0, **choice, "logprobs": None}],
        "usage": used,
    }
    return json.dumps(shown, separators=(",", ":")).encode()


@functools.cache
def whole() -> bytes:
    message = {"role": "assistant", "content": ANSWER, "reasoning_content": "Two gates, one coin each."}
    body = _body("chat.completion", {"message": message, "finish_reason": "stop"}, usage(32))
    return HEAD_WHOLE % len(body) + body


def _event(delta: dict[str, Any], finish: str | None, used: dict[str, Any] | None) -> bytes:
    body = b"data: " + _body("chat.completion.chunk", {"delta": delta, "finish_reason": finish}, used) + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(body), body)


@functools.cache
def events(chunks: int) -> tuple[bytes, ...]:
    """The stream's HTTP chunks, one event each: first half reasoning, then the answer; usage rides on the finish chunk."""
    half = chunks // 2
    made = [_event({"role": "assistant", "content": None, "reasoning_content": ""}, None, None)]
    for n in range(chunks):
        word = WORDS[n % len(WORDS)]
        reasoning, content = (word, None) if n < half else (None, word)
        made.append(_event({"content": content, "reasoning_content": reasoning}, None, None))
    made.append(_event({"content": "", "reasoning_content": None}, "stop", usage(chunks)))
    return (*made, LAST)


@functools.cache
def burst(chunks: int) -> bytes:
    return HEAD_STREAM + b"".join(events(chunks))


class Stub(asyncio.Protocol):
    """One connection: answers each whole request in order; forgets a paced stream when its client leaves."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.transport: asyncio.Transport | None = None
        self.paced: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def connection_lost(self, exc: Exception | None) -> None:
        if self.paced:
            self.paced.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while self.buffer:
            request = self._take()
            if request is None:
                return
            self._answer(*request)

    def _take(self) -> tuple[bytes, bytes] | None:
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head, start = bytes(self.buffer[: end + 2]), end + 4
        if CHUNKED.search(head):
            stop = self.buffer.find(b"0\r\n\r\n", start)
            size = stop + 5 - start if stop >= 0 else -1
        else:
            length = LENGTH.search(head)
            size = int(length[1]) if length else 0
        if size < 0 or len(self.buffer) < start + size:
            return None
        body = bytes(self.buffer[start : start + size])
        del self.buffer[: start + size]
        return head, body

    def _answer(self, head: bytes, body: bytes) -> None:
        assert self.transport is not None
        if not head.startswith(b"POST "):
            self.transport.write(NOT_FOUND)
            return
        if not STREAM.search(body):
            self.transport.write(whole())
            return
        order = ORDER.search(body)
        chunks, pace = (int(order[1]), int(order[2])) if order else (32, 0)
        if pace:
            self.paced = asyncio.get_running_loop().create_task(self._pace(chunks, pace / 1000))
        else:
            self.transport.write(burst(chunks))

    async def _pace(self, chunks: int, gap: float) -> None:
        """Keeps to a timetable from the start, so that a late chunk does not delay the ones behind it."""
        assert self.transport is not None
        loop = asyncio.get_running_loop()
        started = loop.time()
        self.transport.write(HEAD_STREAM)
        for n, event in enumerate(events(chunks)):
            await asyncio.sleep(started + n * gap - loop.time())
            self.transport.write(event)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", port, backlog=1024)
    print("ready", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
