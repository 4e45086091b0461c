"""The upstream client against aiohttp and against a bare socket, in one run: prints one JSON line.

Microseconds of this process's CPU, user and system, the least of some rounds: for a small whole request on a kept connection, and for a
chunk of a burst. The host is the stub of these benchmarks, in a process of its own. `socket` writes the same bytes and takes what
comes without reading it: the part that belongs to the kernel and the loop.

    python -m benchmarks.upstream [--requests 2000] [--chunks 2000] [--rounds 7]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import cast

import aiohttp
import uvloop
from yarl import URL

from gateway.upstream.client import HttpUpstream
from gateway.upstream.port import Call

HEADERS = {
    "content-type": "application/json",
    "accept": "application/json",
    "accept-encoding": "identity",
    "user-agent": "faregate",
    "x-request-id": "0199a5c0-0000-7000-8000-000000000000",
    "authorization": "Bearer sk-0123456789abcdef0123456789abcdef",
}
SMALL = json.dumps({"model": "deepseek-flash", "messages": [{"role": "user", "content": "What is the fare?"}]}).encode()
END = b"0\r\n\r\n"

Ask = Callable[[bytes], Awaitable[int]]


def burst(chunks: int) -> bytes:
    order = {"role": "user", "content": f"bench:chunks={chunks},pace=0"}
    return json.dumps({"model": "deepseek-flash", "messages": [order], "stream": True}, separators=(",", ":")).encode()


class BareSocket(asyncio.Protocol):
    """The floor: an answer is over when its last bytes are there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    async def ask(self, request: bytes, last: bytes) -> int:
        self._last, self._size = last, 0
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._done
        return self._size

    def data_received(self, data: bytes) -> None:
        self._size += len(data)
        if data.endswith(self._last):
            self._done.set_result(None)

    def close(self) -> None:
        self._transport.abort()


async def bare(port: int) -> tuple[Ask, Callable[[], Awaitable[None]]]:
    _, wire = await asyncio.get_running_loop().create_connection(BareSocket, "127.0.0.1", port)
    lines = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())

    async def ask(body: bytes) -> int:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n{lines}content-length: {len(body)}\r\n\r\n"
        return await wire.ask(head.encode() + body, b"}" if body is SMALL else END)

    async def close() -> None:
        wire.close()

    return ask, close


async def ours(port: int) -> tuple[Ask, Callable[[], Awaitable[None]]]:
    upstream = HttpUpstream(connect=5)
    url = f"http://127.0.0.1:{port}/v1/chat/completions"

    async def ask(body: bytes) -> int:
        answer = await upstream.open(Call(url, HEADERS, body))
        size = 0
        while data := await answer.read():
            size += len(data)
        answer.close()
        return size

    return ask, upstream.close


async def with_aiohttp(port: int) -> tuple[Ask, Callable[[], Awaitable[None]]]:
    """As lean as it can be set: no cookies, proxies, redirects, decompression, limits or headers of its own."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=15, family=socket.AF_UNSPEC, ttl_dns_cache=60),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, connect=None, sock_read=None),
        auto_decompress=False,
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
    )
    url = URL(f"http://127.0.0.1:{port}/v1/chat/completions", encoded=True)

    async def ask(body: bytes) -> int:
        response = await session.request("POST", url, data=body, headers=HEADERS, allow_redirects=False)
        size = 0
        while data := await response.content.readany():
            size += len(data)
        response.release()
        return size

    return ask, session.close


async def cost(ask: Ask, body: bytes, times: int) -> float:
    """CPU of one exchange, in microseconds."""
    started = time.process_time()
    for _ in range(times):
        await ask(body)
    return (time.process_time() - started) / times * 1e6


async def compare(port: int, requests: int, chunks: int, rounds: int) -> dict[str, dict[str, float]]:
    clients = {"ours": await ours(port), "aiohttp": await with_aiohttp(port), "socket": await bare(port)}
    stream = burst(chunks)
    small: dict[str, list[float]] = {name: [] for name in clients}
    large: dict[str, list[float]] = {name: [] for name in clients}
    for _ in range(rounds):
        for name, (ask, _) in clients.items():
            small[name].append(await cost(ask, SMALL, requests))
            large[name].append(await cost(ask, stream, 20) / chunks)
    for _, close in clients.values():
        await close()
    return {name: {"request_us": round(min(small[name]), 1), "burst_chunk_us": round(min(large[name]), 3)} for name in clients}


@contextmanager
def host() -> Iterator[int]:
    """The stub in a process of its own; gives its port."""
    with subprocess.Popen([sys.executable, "-m", "benchmarks.stub_upstream", "0"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline().split()[1])
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--chunks", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with host() as port, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(compare(port, options.requests, options.chunks, options.rounds))))


if __name__ == "__main__":
    main()
