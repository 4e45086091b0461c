"""A day as it is lived: hosts that do what a menu says, a real engine, one gateway, clients that talk; every clock runs fast."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import aiohttp

from gateway.clock import instant_text
from gateway.emulator.tokens import Vocabulary
from gateway.simulate.hosts import Seller
from proofs.clients import session
from proofs.conversations import Conversation, Message, Turn
from proofs.evidence import SqliteEvidence
from proofs.readers import MODEL, Reader
from tests.harness import EmulatedHost, LiveGateway, Process, environment, get_json

ROUTE: Final = "flash"
LOCAL: Final = "local"
# Starts of one process in which all have started, side by side, and the day begins.
STARTS: Final = 7.0
# How often a client asks again, and the real seconds between.
TRIES: Final = 3
PAUSE: Final = 0.02
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Scene:
    """What is played: which day, from which second of it, how fast, in which policies, before which hosts."""

    day: datetime
    first: float
    rate: int
    policies: Path
    sellers: Sequence[Seller]
    seed: int
    vocabulary: Vocabulary = "deepseek"

    def clock(self, since: datetime) -> str:
        return f"{instant_text(self.day + timedelta(seconds=self.first))}*{self.rate}@{since.isoformat()}"


@dataclass
class Played:
    """What became of it: the ledger's rows, each host's bill, and what clients saw."""

    rows: Rows = field(default_factory=list)
    bills: dict[str, Rows] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    late: list[float] = field(default_factory=list)
    """Seconds of the day by which requests came later than in the trace."""
    other: int = 0
    """Answers with another text than was asked for."""
    engine: Rows = field(default_factory=list)
    """What the engine itself counted of each answer."""
    rate: int = 1


@dataclass
class Stage:
    """What is running."""

    hosts: dict[str, EmulatedHost]
    gateway: LiveGateway
    scene: Scene
    since: datetime
    played: Played = field(default_factory=Played)

    def seconds(self) -> float:
        """Of the day."""
        return self.scene.first + (datetime.now(UTC) - self.since).total_seconds() * self.scene.rate

    async def until(self, at: float) -> None:
        """Waits for this second of the day, and notes how late it is."""
        await asyncio.sleep(max(0.0, (at - self.seconds()) / self.scene.rate))
        self.played.late.append(max(0.0, self.seconds() - at))


def options(scene: Scene, seller: Seller) -> list[str]:
    """What an emulated host must be told to do as a menu says."""
    rule = seller.rule
    assert not (rule.life or rule.least or rule.every), f"the emulator cannot do all that the menu says of {seller.name}"
    found: dict[str, Any] = {
        "--policies": scene.policies,
        "--vocabulary": scene.vocabulary,
        "--cache": rule.mode if rule.mode == "none" else f"{rule.mode}:{rule.tokens}",
        "--hit-rate": rule.hit,
        "--lag": rule.lag,
        "--fail-rate": seller.fails,
        "--first-token": seller.first_token,
        "--pace": seller.pace,
        "--seed": scene.seed + scene.sellers.index(seller),
    }
    found |= {} if rule.ttl is None else {"--ttl": rule.ttl}
    return [text for name, value in found.items() for text in (name, str(value))]


@contextmanager
def engine(folder: Path) -> Iterator[str]:
    """The real engine's address."""
    process = Process([sys.executable, "-m", "gateway.demo.engine", "--port", "0"], environment(), folder / "engine.log")
    try:
        yield process.wait_for("ready ").removeprefix("ready ").strip()
    finally:
        process.close()


def _hosts(scene: Scene, folder: Path, clock: str, stack: ExitStack) -> dict[str, EmulatedHost]:
    """Started together: each takes its time."""

    def started(seller: Seller) -> EmulatedHost:
        host = EmulatedHost(seller.name, folder, clock, *options(scene, seller))
        stack.callback(host.close)
        return host

    with ThreadPoolExecutor() as pool:
        return {host.host: host for host in pool.map(started, scene.sellers)}


def _start_of_one(scene: Scene, folder: Path) -> timedelta:
    """How long a process takes to start, on this machine and just now."""
    began = datetime.now(UTC)
    EmulatedHost(scene.sellers[0].name, folder, None, "--vocabulary", scene.vocabulary).close()
    return datetime.now(UTC) - began


@contextmanager
def stage(scene: Scene, folder: Path, keys: Mapping[str, str], engine_url: str | None) -> Iterator[Stage]:
    """Everything started, with the day about to begin; ended afterwards."""
    since = datetime.now(UTC) + STARTS * _start_of_one(scene, folder)
    clock = scene.clock(since)
    with ExitStack() as stack:
        hosts = _hosts(scene, folder, clock, stack)
        urls = {name: host.url for name, host in hosts.items()} | ({LOCAL: engine_url} if engine_url else {})
        settings = {"FAREGATE_POLICIES": str(scene.policies), "FAREGATE_KEYS": ",".join(f"{team}:{key}" for team, key in keys.items())}
        gateway = stack.enter_context(LiveGateway(folder, (), clock, settings, urls))
        yield Stage(hosts, gateway, scene, since, Played(rate=scene.rate))


async def play(stage: Stage, found: Sequence[Conversation], readers: Sequence[Reader], cuts: Sequence[float], key: str) -> Played:
    """Every conversation at its times, its next turn after the answer to the one before; then the books are read.

    At each of `cuts`, in seconds of the day, the next answer of one host breaks off in its middle.
    """
    async with session() as client:
        talks = [_talk(stage, client, one, key) for one in found]
        reading = [_read(stage, client, reader, key) for reader in readers]
        await asyncio.gather(*talks, *reading, _cut(stage, client, cuts))
    for name, host in stage.hosts.items():
        stage.played.bills[name] = await asyncio.to_thread(get_json, f"{host.root}/_emulator/bill?wait=5")
    stage.played.rows = await _ledger(stage.gateway.ledger)
    return stage.played


async def _cut(stage: Stage, client: aiohttp.ClientSession, cuts: Sequence[float]) -> None:
    roots = [host.root for host in stage.hosts.values()]
    for number, at in enumerate(cuts):
        await asyncio.sleep(max(0.0, (at - stage.seconds()) / stage.scene.rate))
        async with client.post(f"{roots[number % 2]}/_emulator/faults", json=[{"cut_after": 1, "how": "rst"}]) as answer:
            answer.raise_for_status()


async def _talk(stage: Stage, client: aiohttp.ClientSession, one: Conversation, key: str) -> None:
    messages: list[Message] = [{"role": "system", "content": one.app.system}]
    # Agents name their session, as many do; chats are known by their first question.
    named = {"x-session-id": f"{one.kind}-{one.number}"} if one.kind == "agent" else {}
    for turn in one.turns:
        messages.append({"role": "user", "content": turn.user})
        await stage.until(turn.at)
        text = await _ask(stage, client, turn, messages, key, named)
        stage.played.other += text not in ("", turn.answer)
        # Who got no answer goes on all the same, with what the trace says.
        messages.append({"role": "assistant", "content": text or turn.answer})


async def _ask(stage: Stage, client: aiohttp.ClientSession, turn: Turn, messages: list[Message], key: str, named: Mapping[str, str]) -> str:
    """The text of the answer, tried again as clients do; "" where there is none."""
    body: dict[str, Any] = {"model": ROUTE, "messages": messages}
    body |= {"stream": True, "stream_options": {"include_usage": True}} if turn.stream else {}
    for _ in range(TRIES):
        text = await _once(stage, client, body, {"authorization": f"Bearer {key}", **named})
        if text:
            return text
        await asyncio.sleep(PAUSE)
    return ""


async def _once(
    stage: Stage, client: aiohttp.ClientSession, body: Mapping[str, Any], headers: Mapping[str, str], counted: Rows | None = None
) -> str:
    """The text of one answer, "" where there is none; `counted` gets its usage."""
    seen = stage.played.seen
    try:
        async with client.post(f"{stage.gateway.root}/v1/chat/completions", json=body, headers=headers) as answer:
            data = await answer.read()
    except (aiohttp.ClientError, OSError) as problem:
        seen[type(problem).__name__] += 1
        return ""
    if answer.status != 200:
        seen[f"{answer.status} {_code(data)}"] += 1
        return ""
    if not body.get("stream"):
        seen["200"] += 1
        said = json.loads(data)
        if counted is not None:
            counted.append({"id": answer.headers["x-request-id"], **said["usage"]})
        return str(said["choices"][0]["message"]["content"])
    whole = data.endswith(b"data: [DONE]\n\n") and b'"error"' not in data[-2000:]
    seen["200" if whole else "200 broken"] += 1
    return _streamed(data) if whole else ""


def _streamed(data: bytes) -> str:
    found = []
    for line in data.split(b"\n"):
        if line.startswith(b"data: {"):
            found += [choice["delta"].get("content") or "" for choice in json.loads(line[6:])["choices"]]
    return "".join(found)


def _code(data: bytes) -> str:
    try:
        return str(json.loads(data)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""


async def _read(stage: Stage, client: aiohttp.ClientSession, reader: Reader, key: str) -> None:
    """Questions about one document, to the engine; its own count of each is its bill."""
    for at, messages in reader.asks:
        await stage.until(at)
        body = {"model": LOCAL, "messages": messages, "max_tokens": reader.output, "temperature": 0, "ignore_eos": True}
        await _once(stage, client, body, {"authorization": f"Bearer {key}"}, stage.played.engine)


QUERY: Final = """
    SELECT rid, host, route, status, nano, cache_hit, cache_miss, output, cache_miss_source, attempts, plan, started, ended,
        card, "window"
    FROM request"""


async def _ledger(path: Path) -> Rows:
    """The ledger's rows, once everything is in it."""
    evidence = SqliteEvidence(path)
    names = [name.strip(' "\n') for name in QUERY.replace("SELECT", "").partition("FROM")[0].split(",")]
    try:
        return [dict(zip(names, row, strict=True)) for row in await evidence.read(QUERY)]
    finally:
        await evidence.close()


__all__ = ["LOCAL", "MODEL", "ROUTE", "Played", "Scene", "Stage", "engine", "options", "play", "stage"]
