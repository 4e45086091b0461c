"""A seeded day of conversations: texts whose shared beginnings are real, and the trace that says which token is shared with which.

Two kinds: agents, whose long prompts grow by what their tools found, turn after turn, seconds apart; and chats, short, with pauses of
minutes. Conversations of one app begin with the same system prompt. What a host will answer is known beforehand: a marker tells it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import log
from pydoc_data.topics import topics
from random import Random
from typing import Any, Final

from gateway.emulator.prompts import render
from gateway.emulator.tokens import Tokens, tokens_of
from gateway.emulator.words import text_pieces
from gateway.simulate.trace import Raw

Message = dict[str, Any]
# Characters of a token of English prose, about.
_CHARACTERS: Final = 4.4
# Ids of tokens: each app and each conversation has so many of its own.
_SPACE: Final = 1 << 24
# The hours (UTC) at which people work, as weights of each: most are in China, whose peak hours are 1 to 4 and 6 to 10.
_HOURS: Final = (4, 9, 9, 9, 5, 5, 9, 9, 9, 8, 4, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 1, 1, 2)


@dataclass(frozen=True)
class App:
    """Who asks: a team with its key, and the system prompt of all its conversations."""

    team: str
    system: str


@dataclass(frozen=True)
class Turn:
    """One request: at so many seconds of the day, this user's message, answered with so many tokens."""

    at: float
    user: str
    reasoning: int
    answer: str
    output: int
    stream: bool


@dataclass(frozen=True)
class Conversation:
    number: int
    kind: str
    app: App
    turns: tuple[Turn, ...]

    def messages(self, turn: int) -> list[Message]:
        """What its client sends at this turn (from 0): everything so far, without the reasoning, as most clients do."""
        messages: list[Message] = [{"role": "system", "content": self.app.system}]
        for earlier in self.turns[:turn]:
            messages += [{"role": "user", "content": earlier.user}, {"role": "assistant", "content": earlier.answer}]
        return [*messages, {"role": "user", "content": self.turns[turn].user}]


@dataclass(frozen=True)
class Kind:
    """How one kind of conversation goes: tokens of the system prompt, of the first message and the later ones, turns, gaps, answers."""

    name: str
    apps: int
    system: int
    first: int
    later: int
    turns: float
    gap: float
    spread: float
    output: int


AGENT: Final = Kind("agent", apps=2, system=5000, first=700, later=420, turns=20, gap=45, spread=0.5, output=180)
CHAT: Final = Kind("chat", apps=3, system=350, first=120, later=80, turns=3.2, gap=240, spread=1.0, output=420)


def conversations(seed: int, agents: int, chats: int, hours: tuple[float, float] = (0, 24)) -> list[Conversation]:
    """So many of each, which begin within these hours of the day; the same for the same seed."""
    random, found = Random(seed), list[Conversation]()
    for kind, count in ((AGENT, agents), (CHAT, chats)):
        apps = [App(f"{kind.name}{number}", _text(random, kind.system, f"You are {kind.name} {number}.")) for number in range(kind.apps)]
        found += [_conversation(random, kind, random.choice(apps), len(found) + number, hours) for number in range(count)]
    return found


def _conversation(random: Random, kind: Kind, app: App, number: int, hours: tuple[float, float]) -> Conversation:
    at = _begin(random, *hours)
    turns = list[Turn]()
    for index in range(_turns(random, kind.turns)):
        if at > 3600 * hours[1]:
            break
        output = max(8, round(_around(random, kind.output, 0.6)))
        answer = max(1, output // 3)
        wish = f"[[answer={answer} reasoning={output - answer} seed={random.randrange(1 << 30)}]]"
        size = kind.later if index else kind.first
        user = _text(random, _around(random, size, 0.5), f"{kind.name} {number}-{index}:") + f"\n{wish}"
        text = "".join(text_pieces(_seed(wish), answer))
        turns.append(Turn(at, user, output - answer, text, output, random.random() < 0.5))
        at += max(kind.gap / 2, _around(random, kind.gap, kind.spread))
    return Conversation(number, kind.name, app, tuple(turns))


def _begin(random: Random, first: float, last: float) -> float:
    """Seconds of the day: an hour by its weight, and any second of it."""
    hours = [(hour, weight * max(0.0, min(hour + 1, last) - max(hour, first))) for hour, weight in enumerate(_HOURS)]
    hour = random.choices([hour for hour, _ in hours], [weight for _, weight in hours])[0]
    return 3600 * random.uniform(max(hour, first), min(hour + 1, last))


def _turns(random: Random, mean: float) -> int:
    """At least one; after each the conversation goes on with the same probability."""
    count = 1
    while random.random() < 1 - 1 / mean:
        count += 1
    return count


def _around(random: Random, mean: float, spread: float) -> float:
    return random.lognormvariate(log(mean) - spread**2 / 2, spread)


def _seed(wish: str) -> int:
    return int(wish.partition("seed=")[2].rstrip("]"))


@cache
def _prose() -> str:
    return " ".join(" ".join(topics.values()).replace("[", "(").replace("]", ")").split())


def prose(random: Random, characters: int, title: str) -> str:
    """A piece of the standard library's documentation of so many characters, behind a title of its own."""
    start = random.randrange(len(_prose()) - characters)
    return f"{title} {_prose()[start : start + characters]}"


def _text(random: Random, tokens: float, title: str) -> str:
    return prose(random, round(tokens * _CHARACTERS), title)


# ---- the trace


def trace(found: Sequence[Conversation], tokens: Tokens) -> list[Raw]:
    """The same conversations as lengths and ids: counted by the emulator's own code, one id for each token."""
    apps = {app: number for number, app in enumerate(dict.fromkeys(one.app for one in found))}
    return [raw for one in found for raw in _raws(one, apps[one.app], len(apps), tokens)]


def _raws(one: Conversation, app: int, apps: int, tokens: Tokens) -> Iterator[Raw]:
    shared = tokens_of(render(tokens, one.messages(0)[:1], None, True, lambda _: None)) - 2
    own = (apps + one.number) * _SPACE
    for index, turn in enumerate(one.turns):
        prompt = tokens_of(render(tokens, one.messages(index), None, True, lambda _: None))
        runs = ((app * _SPACE, app * _SPACE + shared - 1), (own, own + prompt - shared - 1))
        yield Raw(turn.at, one.number, "", prompt, turn.output, runs, 1)
