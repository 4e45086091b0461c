"""Mixed traffic for a live gateway: what is asked, how the host fails, when the client leaves; played concurrently, within a bound."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pydoc_data.topics import topics
from typing import Any

import aiohttp

CONCURRENT = 24
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city, for a number of days from today.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "number": {"type": "integer"}}},
        },
    }
]
CHINESE = (
    "价格取决于输入和输出的长度。如果前缀已经在缓存里，费用会低很多；如果没有命中，就按照标准价格计算。"  # noqa: RUF001
    "团队可以为每个月设定预算，超过以后请求会被拒绝。请把下面这段文字翻译成英文，并且保留原来的格式。"  # noqa: RUF001
)


@dataclass(frozen=True)
class Ask:
    """One request: its body, the host's fault, and when its client leaves (`events`: after so many; `patience`: seconds)."""

    body: dict[str, Any]
    fault: dict[str, Any] | None = None
    events: int | None = None
    patience: float | None = None

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))


@dataclass(frozen=True)
class Got:
    """What a client saw of one answer; `left` where it went away itself."""

    ask: Ask
    id: str = ""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    left: bool = False


def prompt_text(random_: random.Random, characters: int) -> str:
    """A piece of the standard library's documentation, sometimes Chinese."""
    if random_.random() < 0.15:
        return (CHINESE * (characters // len(CHINESE) + 1))[:characters]
    text = topics[random_.choice(sorted(topics))]
    start = random_.randrange(max(1, len(text) - characters))
    return str(text[start : start + characters])


async def play(url: str, key: str, asks: Sequence[Ask]) -> list[Got]:
    """Every answer, in the order of `asks`; never more than CONCURRENT at once."""
    bound = asyncio.Semaphore(CONCURRENT)
    headers = {"authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=60)) as session:

        async def one(ask: Ask) -> Got:
            async with bound:
                return await _one(session, url, ask)

        return list(await asyncio.gather(*map(one, asks)))


async def _one(session: aiohttp.ClientSession, url: str, ask: Ask) -> Got:
    try:
        async with asyncio.timeout(ask.patience):
            return await _exchange(session, url, ask)
    except TimeoutError:
        return Got(ask, left=True)


async def _exchange(session: aiohttp.ClientSession, url: str, ask: Ask) -> Got:
    async with session.post(url, json=ask.body) as answer:
        data, left = b"", False
        async for piece in answer.content.iter_any():
            data += piece
            if ask.events is not None and data.count(b"data: ") >= ask.events:
                left = True
                answer.close()
                break
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Got(ask, headers["x-request-id"], answer.status, headers, data, left)


def played(url: str, key: str, asks: Sequence[Ask]) -> list[Got]:
    """`play`, for tests that are not coroutines."""
    with suppress(KeyboardInterrupt):
        return asyncio.run(play(url, key, asks))
    return []
