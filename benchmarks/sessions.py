"""Made-up traffic as a trace: agents, long shared prompts, one-shot questions, volatile passages, chats, and all of them at once.

    python -m benchmarks.sessions agents --seed 1 --sessions 200 > agents.jsonl
    faregate simulate agents.jsonl --menu look-ahead

The same words give the same bytes. Lines are those of Mooncake's traces with a session: `hash_ids` are chained blocks of 512 tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from math import log
from random import Random
from typing import NamedTuple

UNIT = 512
SESSIONS = 200
# Seconds from the first session's begin to the last one's.
SPAN = 6 * 3600.0


class Line(NamedTuple):
    """One request: milliseconds, its session, tokens, blocks."""

    timestamp: int
    session: str
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...]

    def text(self) -> str:
        return json.dumps(self._asdict())


class _Blocks:
    """Ids of blocks: one for each content behind each beginning."""

    def __init__(self) -> None:
        self._ids: dict[tuple[object, ...], int] = {}

    def chain(self, parts: list[tuple[object, int]]) -> tuple[int, ...]:
        """The ids of a prompt made of named parts of so many tokens; equal ids exactly where two prompts are equal up to there."""
        ends, at = [], 0
        for name, tokens in parts:
            at += tokens
            ends.append((at, name))
        found, behind, index = [], -1, 0
        for start in range(0, at, UNIT):
            stop = min(start + UNIT, at)
            inside = []
            while index < len(ends):
                end, name = ends[index]
                inside.append((name, min(end, stop)))
                if end > stop:
                    break
                index += 1
            behind = self._ids.setdefault((behind, stop, *inside), len(self._ids))
            found.append(behind)
        return tuple(found)


def _tokens(luck: Random, middle: float, spread: float, least: int = 1, most: int = 120_000) -> int:
    """A length drawn from a log-normal distribution with this median."""
    return max(least, min(most, round(luck.lognormvariate(log(middle), spread))))


def _agent(luck: Random, blocks: _Blocks, begin: float, name: str) -> Iterator[Line]:
    """A tool loop behind one of two long prompts of tools and rules; now and then a person thinks, and a full window is compacted."""
    rules = luck.choice(("coder", "analyst"))
    head: list[tuple[object, int]] = [(rules, 15_000 if rules == "coder" else 11_000)]
    parts = [*head, ((name, 0), _tokens(luck, 1200, 0.8))]
    at, turns = begin, _tokens(luck, 25, 1.1, least=1, most=250)
    for turn in range(1, turns + 1):
        output = _tokens(luck, 216, 1.1, most=8000)
        prompt = sum(tokens for _, tokens in parts)
        yield Line(round(at * 1000), name, prompt, output, blocks.chain(parts))
        at += output / 40 + (_tokens(luck, 900, 0.8) if luck.random() < 0.03 else _tokens(luck, 12, 1.1))
        if prompt > 110_000:
            parts = [*head, ((name, "summary", turn), _tokens(luck, 3000, 0.4))]
        parts = [*parts, ((name, turn), output + _tokens(luck, 350, 1.2, most=20_000))]


def _shared(luck: Random, blocks: _Blocks, begin: float, name: str) -> Iterator[Line]:
    """A few questions about one of eight long documents that many ask about."""
    document = luck.randrange(8)
    parts: list[tuple[object, int]] = [("library", 700), (("document", document), 18_000 + 5_000 * document)]
    at = begin
    for turn in range(luck.choice((1, 1, 1, 2, 2, 3, 5))):
        parts = [*parts, ((name, turn), _tokens(luck, 120, 0.7))]
        output = _tokens(luck, 350, 0.6)
        yield Line(round(at * 1000), name, sum(tokens for _, tokens in parts), output, blocks.chain(parts))
        parts = [*parts, ((name, turn, "answer"), output)]
        at += output / 40 + _tokens(luck, 60, 1.0)


def _single(luck: Random, blocks: _Blocks, begin: float, name: str) -> Iterator[Line]:
    """One question, and never another."""
    parts: list[tuple[object, int]] = [("short rules", 300), (name, _tokens(luck, 3000, 1.0))]
    yield Line(round(begin * 1000), name, sum(tokens for _, tokens in parts), _tokens(luck, 400, 0.9), blocks.chain(parts))


def _volatile(luck: Random, blocks: _Blocks, begin: float, name: str) -> Iterator[Line]:
    """A chat whose passages come before its history and change with every turn: only the rules are ever repeated."""
    at, history = begin, 0
    for turn in range(luck.choice((1, 2, 3, 4, 6, 9))):
        question, output = _tokens(luck, 60, 0.7), _tokens(luck, 283, 0.6)
        passages = _tokens(luck, 4000, 0.4)
        parts: list[tuple[object, int]] = [("desk rules", 1100), ((name, "passages", turn), passages), ((name, turn), history + question)]
        yield Line(round(at * 1000), name, sum(tokens for _, tokens in parts), output, blocks.chain(parts))
        history += question + output
        at += output / 40 + _tokens(luck, 45, 0.9)


def _chat(luck: Random, blocks: _Blocks, begin: float, name: str) -> Iterator[Line]:
    """A person and a model in turns, with pauses for reading and some for lunch."""
    parts: list[tuple[object, int]] = [("chat rules", 600)]
    at = begin
    for turn in range(_tokens(luck, 3, 0.9, most=40)):
        parts = [*parts, ((name, turn), _tokens(luck, 180, 1.3, most=30_000))]
        output = _tokens(luck, 350, 0.6)
        yield Line(round(at * 1000), name, sum(tokens for _, tokens in parts), output, blocks.chain(parts))
        parts = [*parts, ((name, turn, "answer"), output)]
        at += output / 40 + (_tokens(luck, 3000, 0.5) if luck.random() < 0.08 else _tokens(luck, 90, 1.0))


Kind = Callable[[Random, _Blocks, float, str], Iterator[Line]]
KINDS: Mapping[str, tuple[Kind, ...]] = {
    "agents": (_agent,),
    "shared": (_shared,),
    "one-shot": (_single,),
    "volatile": (_volatile,),
    "chats": (_chat,),
    "mixed": (_agent, _shared, _shared, _single, _single, _single, _volatile, _chat, _chat),
}


def sessions(kind: str, seed: int = 0, count: int = SESSIONS, span: float = SPAN) -> list[Line]:
    """The requests of so many sessions in order of time; the same arguments give the same requests."""
    luck, blocks = Random(f"{kind} {seed}"), _Blocks()
    found: list[Line] = []
    for number in range(count):
        make = luck.choice(KINDS[kind])
        found += make(luck, blocks, luck.random() * span, f"{kind}-{number}")
    return sorted(found, key=lambda line: line.timestamp)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    parser.add_argument("--hours", type=float, default=SPAN / 3600, help="from the first session's begin to the last one's")
    args = parser.parse_args()
    for line in sessions(args.kind, args.seed, args.sessions, args.hours * 3600):
        sys.stdout.write(line.text() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
