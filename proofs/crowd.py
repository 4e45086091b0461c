"""A working day of four teams before three gateways: agents, chats, long answers and a nightly batch, with what goes wrong in a day.

`crowd` asks as many times a second as `Day.pace` says; what is asked follows from the seed alone.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import pi, sin
from typing import Any, Final

import aiohttp

from tests.load import prompt_text
from tests.replicas import key_of

Body = dict[str, Any]

FLASH, PRO, CHAT, V3 = "deepseek-flash", "deepseek-v4-pro", "deepseek-chat", "deepseek-v3.2"
HOSTS: Final = ("deepseek", "novita", "openrouter")
LATE: Final = 0.3
# How often each team asks, of all requests.
SHARES: Final = {"search": 45, "support": 30, "research": 13, "batch": 12}


def _budget(name: str, amount: str, period: str, currency: str = "USD", **more: Any) -> Body:
    return {"budget": name, "amount": amount, "currency": currency, "period": period, "zone": "Asia/Shanghai", **more}


def teams(search: str = "4.00", support: str = "0.50", research: str = "6.00") -> list[Body]:
    """The teams with the amounts of their daily budgets; the month has twenty-two of them, where it is not unlimited."""
    return [
        {"team": "search", "routes": ["*"], "budgets": [_budget("day", search, "day"), _budget("month", "60.00", "month")]},
        {"team": "support", "routes": ["*"], "budgets": [_budget("day", support, "day")]},
        {"team": "research", "routes": ["*"], "budgets": [_budget("day", research, "day"), _budget("month", "90.00", "month")]},
        {"team": "batch", "routes": ["*"], "budgets": [_budget("week", "5.00", "week")], "limits": {"requests_per_minute": 90}},
    ]


@dataclass(frozen=True)
class Day:
    """How long it is played (real seconds), how many requests a second at its height, and how long answers are."""

    seconds: float
    height: float
    seed: int = 1
    prompt: int = 12_000
    answer: int = 90
    paced: float = 12.0
    chunk: int = 6

    def pace(self, done: float) -> float:
        """Requests a second when this part (0..1) of the day is over: two humps, before and after lunch."""
        return self.height * (0.35 + 0.65 * sin(2 * pi * min(max(done, 0.0), 1.0)) ** 2)


@dataclass
class Talk:
    """A conversation of an agent: it grows by a turn with each request."""

    messages: list[Body]

    def turn(self, text: str) -> list[Body]:
        self.messages = [*self.messages, {"role": "user", "content": text}]
        return self.messages

    def answered(self, text: str) -> None:
        self.messages = [*self.messages, {"role": "assistant", "content": text}]


@dataclass
class Crowd:
    """Everybody who asks; `seen` counts answers by status, `trouble` what broke."""

    urls: Sequence[str]
    day: Day
    seen: Counter[int] = field(default_factory=Counter)
    trouble: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.day.seed)
        self._system = prompt_text(self._random, self.day.prompt)
        self._talks = [self._new_talk(number) for number in range(8)]
        self._asked = 0

    async def play(self, ended: Callable[[], bool] | None = None) -> None:
        """The whole day, or until `ended`; returns when every answer has come to its end."""
        timeout = aiohttp.ClientTimeout(total=60, sock_connect=5)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as client:
            loop, running = asyncio.get_running_loop(), set[asyncio.Task[None]]()
            began = due = loop.time()
            while (done := (loop.time() - began) / self.day.seconds) < 1 and not (ended and ended()):
                # Where this machine was held up, nobody asks all at once what was not asked meanwhile.
                due = max(due, loop.time() - LATE) + self._random.expovariate(self.day.pace(done))
                await asyncio.sleep(max(0.0, due - loop.time()))
                task = asyncio.create_task(self._one(client))
                running.add(task)
                task.add_done_callback(running.discard)
            await asyncio.gather(*running)

    async def _one(self, client: aiohttp.ClientSession) -> None:
        team = self._random.choices(list(SHARES), list(SHARES.values()))[0]
        self._asked += 1
        url = self.urls[self._asked % len(self.urls)]
        body = getattr(self, f"_{team}")()
        leaves = self._random.random() < 0.04
        headers = {"authorization": f"Bearer {key_of(team)}"}
        try:
            await self._exchange(client, url, body, headers, leaves)
        except (aiohttp.ClientError, TimeoutError) as error:
            self.trouble[type(error).__name__] += 1

    async def _exchange(self, client: aiohttp.ClientSession, url: str, body: Body, headers: dict[str, str], leaves: bool) -> None:
        talk: Talk | None = body.pop("_talk", None)
        async with client.post(url, json=body, headers=headers) as answer:
            self.seen[answer.status] += 1
            if leaves and body.get("stream"):
                await asyncio.sleep(self._random.uniform(0.2, 0.6))
                answer.close()
                return
            with suppress(aiohttp.ClientPayloadError):
                data = await answer.read()
                if talk is not None and answer.status == 200 and not body.get("stream"):
                    talk.answered(str(len(data)))

    # ---- what each team asks

    def _marker(self, scale: float = 1.0, streamed: bool = True) -> str:
        tokens = max(8, round(self._random.lognormvariate(0, 0.6) * self.day.answer * scale))
        thought = tokens // 2
        pace = self._random.uniform(0.7, 1.4) * self.day.paced if streamed else self.day.paced / 3
        return f"[[answer={tokens} reasoning={thought} pace={pace:.1f} chunk={self.day.chunk} seed={self._asked}]]"

    def _new_talk(self, number: int) -> Talk:
        return Talk([{"role": "system", "content": f"{self._system}\nYou are agent {number}."}])

    def _search(self) -> Body:
        """Agents: long prompts that grow, mostly known to the host's cache."""
        number = self._random.randrange(len(self._talks))
        if len(self._talks[number].messages) > 24 or self._random.random() < 0.02:
            self._talks[number] = self._new_talk(self._random.randrange(1000))
        talk = self._talks[number]
        text = prompt_text(self._random, self._random.randrange(200, 1500))
        messages = talk.turn(f"{text}\nWhat next? {self._marker()}")
        talk.answered("It was looked up.")
        return {
            "model": FLASH,
            "messages": messages[:],
            "stream": True,
            "max_tokens": 4 * self.day.answer,
            "stream_options": {"include_usage": True},
        }

    def _support(self) -> Body:
        """Short chats, by the old name of the model; some with a mistake."""
        wrong = self._random.random()
        messages: list[Body] = [
            {"role": "system", "content": self._system[:1500]},
            {"role": "user", "content": f"{prompt_text(self._random, 300)} {self._marker(0.6)}"},
        ]
        body: Body = {
            "model": CHAT,
            "messages": messages,
            "stream": True,
            "temperature": 0.6,
            "max_tokens": 4 * self.day.answer,
            "user": "u-1",
        }
        if wrong < 0.02:
            return {**body, "model": "gpt-4"}
        if wrong < 0.05:
            return {**body, "temperature": 9}
        return body

    def _research(self) -> Body:
        """Long answers of the dear model."""
        text = prompt_text(self._random, self._random.randrange(self.day.prompt // 2, self.day.prompt * 2))
        messages = [{"role": "user", "content": f"{text}\nSummarise. {self._marker(2.2)}"}]
        return {
            "model": PRO,
            "messages": messages,
            "stream": True,
            "max_tokens": 6 * self.day.answer,
            "stream_options": {"include_usage": True},
        }

    def _batch(self) -> Body:
        """Whole answers from the hosts of V3.2, faster than the limit allows."""
        text = f"{self._system[: self.day.prompt // 3]}\n{prompt_text(self._random, 900)}"
        return {"model": V3, "messages": [{"role": "user", "content": f"{text} {self._marker(0.8, streamed=False)}"}]}
