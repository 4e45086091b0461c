"""Readers: a few questions about one document each, to a real engine whose tokens are counted by itself beforehand."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from gateway.simulate.trace import Raw
from proofs.conversations import Message, prose

MODEL: Final = "gemma3-270m"
_SPACE: Final = 1 << 24
_QUESTIONS: Final = ("What is it about?", "Which word matters most?", "Who should read it?", "What comes first?", "What is left out?")


@dataclass(frozen=True)
class Reader:
    """Who asks about a document: at which seconds of the day, and the length of each answer."""

    number: int
    asks: tuple[tuple[float, list[Message]], ...]
    output: int = 12


def readers(seed: int, count: int, questions: int, hours: tuple[float, float]) -> list[Reader]:
    """So many, each with so many questions, spread over these hours: one after the other, for the engine is small."""
    random, found = Random(seed), list[Reader]()
    step = 3600 * (hours[1] - hours[0]) / (count * questions + 1)
    for number in range(count):
        document = prose(random, 1200, f"Document {number}.")
        asks = []
        for index in range(questions):
            at = 3600 * hours[0] + step * (1 + index * count + number)
            asks.append((at, [{"role": "user", "content": f"{document}\n{_QUESTIONS[index % len(_QUESTIONS)]} ({index})"}]))
        found.append(Reader(number, tuple(asks)))
    return found


def trace(found: Sequence[Reader], url: str) -> list[Raw]:
    """What they ask as lengths and ids, by the engine's own template and vocabulary."""
    return [raw for reader in found for raw in _raws(reader, url.removesuffix("/v1"))]


def _raws(reader: Reader, root: str) -> Iterator[Raw]:
    prompts = [_ids(root, messages) for _, messages in reader.asks]
    shared = next((place for place, ids in enumerate(zip(*prompts, strict=False)) if len(set(ids)) > 1), min(map(len, prompts)))
    base = reader.number * _SPACE
    for index, ((at, _), prompt) in enumerate(zip(reader.asks, prompts, strict=True)):
        own = base + (index + 1) * 65536
        runs = ((base, base + shared - 1), (own, own + len(prompt) - shared - 1))
        yield Raw(at, reader.number, "", len(prompt), reader.output, runs, 1)


def _ids(root: str, messages: list[Message]) -> list[int]:
    text = _post(root + "/apply-template", {"messages": messages})["prompt"]
    found: list[int] = _post(root + "/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
    return found


def _post(url: str, body: Any) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)
