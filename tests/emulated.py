"""Emulators of hosts at dates, and a plain client of one, for the tests of the emulator itself."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp

from gateway.clock import parse_instant
from gateway.emulator.reader import Shelf, read_shelf
from gateway.emulator.server import Emulator, Setup

POLICIES = Path(__file__).parent.parent / "policies"
R1, R1_0528, V3_2, V4, NOW = (
    "2025-02-03T12:00:00Z",
    "2025-06-02T12:00:00Z",
    "2026-02-02T12:00:00Z",
    "2026-06-02T12:00:00Z",
    "2026-11-20T02:00:00Z",
)
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]


class Still:
    """A clock that stands where it was put."""

    def __init__(self, at: str) -> None:
        self.at = parse_instant(at)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return 0.0


class Client:
    """A plain HTTP client of one emulator."""

    def __init__(self, emulator: Emulator, session: aiohttp.ClientSession) -> None:
        self.emulator = emulator
        self.session = session

    def url(self, path: str = "/chat/completions") -> str:
        return self.emulator.base_url + path

    async def post(self, body: Any, path: str = "/chat/completions", **headers: str) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.post(self.url(path), data=data, headers=headers, allow_redirects=False) as response:
            return response.status, json.loads(await response.read())

    async def stream(self, body: dict[str, Any]) -> tuple[list[Any], bytes]:
        """The parsed data events, and the raw bytes."""
        async with self.session.post(self.url(), json={**body, "stream": True}) as response:
            raw = await response.read()
        return events_of(raw), raw

    async def bill(self) -> list[dict[str, Any]]:
        async with self.session.get(self.emulator.url + "/_emulator/bill?wait=5") as response:
            rows: list[dict[str, Any]] = await response.json()
            return rows

    async def faults(self, *items: Any) -> int:
        async with self.session.post(self.emulator.url + "/_emulator/faults", json=list(items)) as response:
            return response.status


def events_of(raw: bytes) -> list[Any]:
    lines = [line[6:] for line in raw.replace(b"\r\n", b"\n").split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line not in (b"[DONE]",) and _whole(line)]


def _whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def chat(model: str, wish: str = "", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": f"Which is greater? {wish}"}], **fields}


@cache
def shelf(host: str) -> Shelf:
    return read_shelf(POLICIES, host)


class Clients:
    """Starts emulators of hosts at dates, and stops them after the test."""

    def __init__(self) -> None:
        self._started: list[tuple[Emulator, aiohttp.ClientSession]] = []

    async def start(self, host: str = "deepseek", at: str = NOW, key: str = "sk-1", **setup: Any) -> Client:
        emulator = Emulator(Setup(host, setup.pop("shelf", None) or shelf(host), clock=Still(at), **setup))
        await emulator.start()
        session = aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"} if key else {})
        self._started.append((emulator, session))
        return Client(emulator, session)

    async def __aenter__(self) -> Clients:
        return self

    async def __aexit__(self, *error: object) -> None:
        for emulator, session in self._started:
            await session.close()
            await emulator.stop()
