"""A closed-loop load generator: each connection sends its next request when the last answer is whole.

Run: `python -m benchmarks.load < SPEC`, SPEC one JSON object with the fields of `Spec`; prints one JSON object, the fields of `Result`.
The server's CPU time is read at the two ends of the same window, so start-up and warm-up are not in it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import cast

import msgspec
import uvloop

from benchmarks.procs import cpu_seconds

LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
EVENT = b"data: {"


class LoadError(Exception):
    """An answer that is not what the benchmark asked for; a figure made of it would be worthless."""


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    port: int
    path: str
    headers: dict[str, str]
    body: str
    others: tuple[str, ...] = ()  # more bodies: each connection sends all of them in turn, each connection begins with another one
    connections: int = 1
    seconds: float = 2.0
    rounds: int = 0  # when set: this many requests on each connection, instead of `seconds`
    warm: int = 1  # requests on each connection before the window opens
    chunks: int = 0  # data events that each answer must bring at least; 0 for a whole answer
    spread: float = 0.0  # seconds over which the connections start, so that paced streams do not all tick at once
    pid: int = 0  # the server whose CPU is read; 0 for none
    beside: tuple[int, ...] = ()  # servers behind it, whose CPU is read too


@dataclass
class Result:
    requests: int
    seconds: float
    cpu: float  # seconds of the server
    own_cpu: float  # seconds of the generator
    p50_ms: float  # a whole answer, from send to its last byte
    p99_ms: float
    first_p50_ms: float  # to the first byte
    gap_p99_ms: float = 0.0  # between two reads of a stream
    gap_max_ms: float = 0.0
    beside: list[float] = dataclasses.field(default_factory=list)  # seconds of each server behind it


@dataclass
class Answer:
    first: float = 0.0
    last: float = 0.0
    events: int = 0
    gaps: list[float] = dataclasses.field(default_factory=list)


class Client(asyncio.Protocol):
    """One keep-alive connection; reads just enough of HTTP to know where an answer ends."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.waiting: asyncio.Future[Answer] | None = None
        self._begin()

    def _begin(self) -> None:
        self.answer = Answer()
        self.head = b""
        self.tail = b""
        self.left = -1  # bytes of a body with a length; -1 while unknown, -2 for a chunked body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.waiting and not self.waiting.done():
            self.waiting.set_exception(LoadError(f"the connection was closed inside an answer: {self.head[:200]!r}"))

    async def ask(self, request: bytes) -> Answer:
        assert self.transport is not None
        self._begin()
        self.waiting = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.waiting

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self.answer.first:
            self.answer.gaps.append(now - self.answer.last)
        else:
            self.answer.first = now
        self.answer.last = now
        if self.left == -1:
            data = self._read_head(data)
        if self.left >= 0:
            self.left -= len(data)
            done = self.left <= 0
        else:
            seen = self.tail + data
            self.answer.events += seen.count(EVENT)
            self.tail = seen[1 - len(EVENT) :]
            done = self.left == -2 and self.tail.endswith(b"0\r\n\r\n")
        if done and self.waiting and not self.waiting.done():
            self.waiting.set_result(self.answer)

    def _read_head(self, data: bytes) -> bytes:
        self.head += data
        head, found, body = self.head.partition(b"\r\n\r\n")
        if not found:
            return b""
        if b" 200 " not in head[:16]:
            raise_in = LoadError(f"the server answered {head[:60]!r} … {body[:300]!r}")
            if self.waiting and not self.waiting.done():
                self.waiting.set_exception(raise_in)
        length = LENGTH.search(head)
        self.left = int(length[1]) if length else -2
        return body


def request_bytes(spec: Spec, text: str) -> bytes:
    body = text.encode()
    head = [f"POST {spec.path} HTTP/1.1", f"host: 127.0.0.1:{spec.port}", "content-type: application/json", f"content-length: {len(body)}"]
    head += [f"{name}: {value}" for name, value in spec.headers.items()]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


async def _connect(port: int) -> Client:
    _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port)
    return client


async def _one(client: Client, request: bytes, spec: Spec) -> tuple[float, Answer]:
    started = time.perf_counter()
    answer = await client.ask(request)
    if answer.events < spec.chunks * 0.98:  # a proxy's own chunk borders can cut through the few bytes that are counted
        raise LoadError(f"{answer.events} data events came instead of {spec.chunks}")
    return started, answer


async def _drive(client: Client, requests: Iterator[bytes], spec: Spec, delay: float, until: float) -> list[tuple[float, Answer]]:
    await asyncio.sleep(delay)
    done: list[tuple[float, Answer]] = []
    while len(done) < spec.rounds if spec.rounds else time.perf_counter() < until:
        done.append(await _one(client, next(requests), spec))
    return done


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def _cpu(spec: Spec) -> list[float]:
    return [cpu_seconds(pid) if pid else 0.0 for pid in (spec.pid, *spec.beside)]


async def measure(spec: Spec) -> Result:
    requests = [request_bytes(spec, text) for text in (spec.body, *spec.others)]
    clients = [await _connect(spec.port) for _ in range(spec.connections)]
    for _ in range(spec.warm):
        await asyncio.gather(*(_one(client, requests[0], spec) for client in clients))
    step = spec.spread / spec.connections
    turns = [cycle(requests[n % len(requests) :] + requests[: n % len(requests)]) for n in range(spec.connections)]
    cpu, own, began = _cpu(spec), time.process_time(), time.perf_counter()
    until = began + spec.seconds
    rows = await asyncio.gather(*(_drive(client, turns[n], spec, n * step, until) for n, client in enumerate(clients)))
    seconds, own = time.perf_counter() - began, time.process_time() - own
    cpu = [after - before for before, after in zip(cpu, _cpu(spec), strict=True)]
    for client in clients:
        if client.transport:
            client.transport.close()
    return _result([pair for row in rows for pair in row], seconds, cpu, own)


def _result(pairs: list[tuple[float, Answer]], seconds: float, cpu: list[float], own: float) -> Result:
    times = [(answer.last - started) * 1000 for started, answer in pairs]
    gaps = [gap * 1000 for _, answer in pairs for gap in answer.gaps]
    return Result(
        requests=len(pairs),
        seconds=seconds,
        cpu=cpu[0],
        own_cpu=own,
        p50_ms=percentile(times, 0.5),
        p99_ms=percentile(times, 0.99),
        first_p50_ms=percentile([(answer.first - started) * 1000 for started, answer in pairs], 0.5),
        gap_p99_ms=percentile(gaps, 0.99),
        gap_max_ms=max(gaps, default=0.0),
        beside=cpu[1:],
    )


def main() -> int:
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=Spec)
    try:
        result = uvloop.run(measure(spec))
    except (LoadError, OSError) as error:
        print(f"load: {error}", file=sys.stderr)
        return 1
    print(msgspec.json.encode(result).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
