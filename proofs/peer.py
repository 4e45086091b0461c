"""The peer hardcap 0.1.0 under the same lengths: three of its gateways, one Redis, and its own mock host, whose count is the truth.

Its budgets are in tokens. It runs as its author ships it (reserve the rolling p95, stretch every 64 tokens, truncate), and once more with
its own count-afterwards. Nothing of it is part of Faregate: `make prove-bound` installs it in a folder of its own, where it can.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final, Protocol

import aiohttp

from proofs.clients import session
from proofs.model import percents
from tests.harness import Process, environment, get_json
from tests.servers import RedisServer, free_port, talks

PROGRAM: Final = Path(__file__).resolve().parent.parent / ".bench" / "hardcap" / "bin" / "hardcap"
MODES: Final = ("reserve", "posthoc")
KEY: Final = "sk-proof"
PROMPT: Final = "What is the fare?"
# A client that is told to come again in a second does so sooner: the lengths of the runs are compared by nobody.
AGAIN: Final = 0.3


class Load(Protocol):
    """The scenario of the bound, as far as the peer can play it."""

    @property
    def mean(self) -> int: ...
    @property
    def answers(self) -> int: ...
    @property
    def streams(self) -> int: ...
    @property
    def most(self) -> int: ...
    @property
    def chunk(self) -> int: ...


@dataclass(frozen=True)
class Peer:
    """What is running of it."""

    gateways: Sequence[str]
    mock: str


def measure(load: Load, lengths: Sequence[int]) -> dict[str, Any]:
    """Its overshoot and its usable part in both modes; or why there is none."""
    if not PROGRAM.exists():
        return {"not_measured": "it is not installed: make .bench/hardcap/.made"}
    if shutil.which("redis-server") is None:
        return {"not_measured": "redis-server is not installed"}
    found: dict[str, Any] = {"version": "0.1.0", "budget_tokens": load.answers * load.mean}
    for mode in MODES:
        print(f"bound: hardcap, {mode} …", file=sys.stderr, flush=True)
        try:
            found[mode] = _mode(load, lengths, mode)
        except (AssertionError, OSError, aiohttp.ClientError) as problem:
            found[mode] = {"not_measured": f"it did not run: {type(problem).__name__}"}
    return found


def _mode(load: Load, lengths: Sequence[int], mode: str) -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(mkdtemp(prefix="faregate-proof-peer-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        redis = RedisServer(folder)
        stack.callback(redis.kill)
        redis.start()
        running = _start(stack, folder, load, mode, redis.url)
        began = time.monotonic()
        ends = asyncio.run(_play(running, load, lengths))
        seconds = round(time.monotonic() - began, 1)
        tenant = get_json(f"{running.mock}/admin/stats")["tenants"]["proof"]
    tokens = tenant["prompt_tokens"] + tenant["completion_tokens"]
    return percents(tokens, load.answers * load.mean) | {"tokens": tokens, "seconds": seconds, "answers": dict(ends)}


def _start(stack: ExitStack, folder: Path, load: Load, mode: str, redis: str) -> Peer:
    mock_port = free_port()
    words = [
        "mock",
        "--host",
        "127.0.0.1",
        "--port",
        str(mock_port),
        "--ttft-ms",
        "0",
        "--tpot-ms",
        "0.001",
        "--chunk-tokens",
        str(load.chunk),
    ]
    _process(stack, folder, "mock", words, mock_port)
    config = folder / "config.yaml"
    config.write_text(json.dumps(_config(load, mode, redis, mock_port)))
    ports = [free_port() for _ in range(3)]
    for port in ports:
        _process(stack, folder, f"gateway-{port}", ["serve", "-c", str(config), "--host", "127.0.0.1", "--port", str(port)], port)
    return Peer([f"http://127.0.0.1:{port}/v1/chat/completions" for port in ports], f"http://127.0.0.1:{mock_port}")


def _process(stack: ExitStack, folder: Path, name: str, words: list[str], port: int) -> None:
    process = Process([str(PROGRAM), *words], environment(), folder / f"{name}.log")
    stack.callback(process.close)
    until = time.monotonic() + 20
    while not talks(port, b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"HTTP/1.1 200"):
        assert process.process.poll() is None and time.monotonic() < until, f"hardcap {name} did not start"
        time.sleep(0.05)


def _config(load: Load, mode: str, redis: str, mock_port: int) -> dict[str, Any]:
    """Its defaults, but for the mode; the window is so long that no run sees two."""
    return {
        "redis_url": redis,
        "budget": {"accounting": mode},
        "upstreams": {"mock": {"base_url": f"http://127.0.0.1:{mock_port}"}},
        "routes": {"m": {"targets": [{"upstream": "mock", "model": "m"}]}},
        "tenants": {"proof": {"api_keys": [KEY], "budget": {"window_s": 10**9, "total": load.answers * load.mean}}},
    }


async def _play(peer: Peer, load: Load, lengths: Sequence[int]) -> Counter[str]:
    ends = Counter[str]()
    asks = iter(enumerate(lengths))
    running = [0]
    async with session() as client:
        await asyncio.gather(*(_client(client, peer.gateways[number % 3], load, asks, running, ends) for number in range(load.streams)))
    return ends


async def _client(client: aiohttp.ClientSession, url: str, load: Load, asks: Any, running: list[int], ends: Counter[str]) -> None:
    """Request after request, every other one whole; `busy` asks again, while others run."""
    for number, tokens in asks:
        while True:
            running[0] += 1
            try:
                end = await _one(client, url, load, tokens, stream=number % 2 == 0)
            finally:
                running[0] -= 1
            if end == "200":
                ends["whole or truncated"] += 1
                break
            ends[end] += 1
            if not running[0]:
                return
            await asyncio.sleep(AGAIN * (0.5 + random.random()))


async def _one(client: aiohttp.ClientSession, url: str, load: Load, tokens: int, *, stream: bool) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": PROMPT}], "stream": stream, "max_tokens": load.most}
    body["mock"] = {"output_tokens": tokens}
    async with client.post(url, json=body, headers={"authorization": f"Bearer {KEY}"}) as answer:
        async for _ in answer.content.iter_any():
            pass
        return str(answer.status)
