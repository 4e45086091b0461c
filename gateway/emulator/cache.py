"""Prefix caches as the hosts keep them: how many tokens of a prompt are a hit.

blocks: every whole block of N tokens seen before, from token 0 on (DeepSeek before V4: 64; vLLM: 16).
units: a prefix must match a stored unit completely (V4). Units end at the end of a user's input and of an output, rounded
down to N; and at a prefix shared by two requests, once it was seen in both: A+B and A+C miss, A+D hits A.
slots: the longest common prefix with one of the last prompts (llama.cpp).
"""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from typing import Protocol

from gateway.emulator.tokens import WIDTH, tokens_of


class PrefixCache(Protocol):
    def lookup(self, prompt: bytes) -> int:
        """Tokens of this prompt that are a hit; at least one token is always computed anew. Stores the prompt."""
        ...

    def learn(self, prompt_and_output: bytes) -> None:
        """The end of an output."""
        ...


class Blocks:
    def __init__(self, size: int) -> None:
        self._size = size
        self._seen: set[bytes] = set()

    def lookup(self, prompt: bytes) -> int:
        chain = _chain(prompt, self._size)
        hits = _leading(chain, self._seen)
        self._seen.update(chain)
        return _capped(hits * self._size, prompt, self._size)

    def learn(self, prompt_and_output: bytes) -> None:
        self._seen.update(_chain(prompt_and_output, self._size))


class Units:
    def __init__(self, size: int) -> None:
        self._size = size
        self._seen: set[bytes] = set()
        self._ends: set[bytes] = set()

    def lookup(self, prompt: bytes) -> int:
        chain = _chain(prompt, self._size)
        hits = next((count for count in range(len(chain), 0, -1) if chain[count - 1] in self._ends), 0)
        common = _leading(chain, self._seen)
        if common:
            self._ends.add(chain[common - 1])
        self._store(chain)
        return _capped(hits * self._size, prompt, self._size)

    def learn(self, prompt_and_output: bytes) -> None:
        self._store(_chain(prompt_and_output, self._size))

    def _store(self, chain: list[bytes]) -> None:
        self._seen.update(chain)
        self._ends.update(chain[-1:])


class Slots:
    def __init__(self, slots: int = 4) -> None:
        self._prompts: deque[bytes] = deque(maxlen=slots)

    def lookup(self, prompt: bytes) -> int:
        hit = max((_common(prompt, earlier) for earlier in self._prompts), default=0)
        self._prompts.append(prompt)
        return min(hit, tokens_of(prompt) - 1)

    def learn(self, prompt_and_output: bytes) -> None:
        self._prompts.append(prompt_and_output)


class Nothing:
    def lookup(self, prompt: bytes) -> int:
        return 0

    def learn(self, prompt_and_output: bytes) -> None:
        return None


def make_cache(mode: str, size: int) -> PrefixCache:
    """The cache of one model for one account (and one user_id)."""
    if mode == "blocks":
        return Blocks(size)
    if mode == "units":
        return Units(size)
    return Slots() if mode == "slots" else Nothing()


def _chain(prompt: bytes, size: int) -> list[bytes]:
    """One digest per whole block, each standing for everything up to its end."""
    step, digests, state = size * WIDTH, [], b""
    for start in range(0, len(prompt) - step + 1, step):
        state = blake2b(state + prompt[start : start + step], digest_size=12).digest()
        digests.append(state)
    return digests


def _leading(chain: list[bytes], known: set[bytes]) -> int:
    return next((index for index, digest in enumerate(chain) if digest not in known), len(chain))


def _capped(hit: int, prompt: bytes, size: int) -> int:
    return hit if hit < tokens_of(prompt) else hit - size


def _common(left: bytes, right: bytes) -> int:
    """Tokens that two prompts share from the start on, by bisection."""
    low, high = 0, min(len(left), len(right)) // WIDTH
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if left[: middle * WIDTH] == right[: middle * WIDTH] else (low, middle - 1)
    return low
