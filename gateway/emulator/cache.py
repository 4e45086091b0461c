"""Prefix caches as the hosts keep them: how many tokens of a prompt are a hit.

blocks: every whole block of N tokens seen before, from token 0 on (DeepSeek before V4: 64; vLLM: 16).
units: a prefix must match a stored unit completely (V4). Units end at the end of a user's input and of an output, rounded
down to N; and at a prefix shared by two requests, once it was seen in both: A+B and A+C miss, A+D hits A.
slots: the longest common prefix with one of the last prompts (llama.cpp).

What is unused for longer than its time to live is gone; what was written just now may not be there yet (`Life`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Protocol

from gateway.emulator.tokens import WIDTH, tokens_of


class PrefixCache(Protocol):
    def lookup(self, prompt: bytes, at: float) -> int:
        """Tokens of this prompt that are a hit at `at` (seconds); at least one is always computed anew. Stores the prompt."""
        ...

    def learn(self, prompt_and_output: bytes, at: float) -> None:
        """The end of an output."""
        ...


# Digests of one cache: beyond them the oldest go, as with any real one.
_MANY: Final = 4_000_000


@dataclass(frozen=True)
class Life:
    """Seconds that something unused is kept (None: for ever; each use begins them anew), and after which it can be hit."""

    ttl: float | None = None
    lag: float = 0.0


FOR_EVER: Final = Life()


class Kept:
    """What is kept, and until when."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._times: dict[bytes, tuple[float, float]] = {}

    def has(self, key: bytes, at: float) -> bool:
        """Whether it is there, and long enough to be hit."""
        times = self._times.get(key)
        return times is not None and self._lives(times, at) and times[0] + self._life.lag <= at

    def put(self, key: bytes, at: float) -> None:
        """Written, or used once more."""
        times = self._times.pop(key, None)
        self._times[key] = (times[0] if times and self._lives(times, at) else at, at)

    def touch(self, key: bytes, at: float) -> None:
        """Used once more, where it is there at all."""
        times = self._times.get(key)
        if times is not None and self._lives(times, at):
            self.put(key, at)

    def drop(self, at: float, most: int = _MANY) -> None:
        """Takes out what is over, and what was unused for longest beyond `most`; what was used last stands last."""
        while self._times:
            oldest = next(iter(self._times))
            if len(self._times) <= most and self._lives(self._times[oldest], at):
                return
            del self._times[oldest]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._times)

    def _lives(self, times: tuple[float, float], at: float) -> bool:
        return self._life.ttl is None or at - times[1] <= self._life.ttl


class Blocks:
    def __init__(self, size: int, life: Life = FOR_EVER) -> None:
        self._size = size
        self._seen = Kept(life)

    def lookup(self, prompt: bytes, at: float) -> int:
        chain = _chain(prompt, self._size)
        hits = _leading(chain, self._seen, at)
        self._store(chain, at)
        return _capped(hits * self._size, prompt, self._size)

    def learn(self, prompt_and_output: bytes, at: float) -> None:
        self._store(_chain(prompt_and_output, self._size), at)

    def _store(self, chain: list[bytes], at: float) -> None:
        for digest in chain:
            self._seen.put(digest, at)
        self._seen.drop(at)


class Units:
    def __init__(self, size: int, life: Life = FOR_EVER) -> None:
        self._size = size
        self._seen = Kept(life)
        self._ends = Kept(life)

    def lookup(self, prompt: bytes, at: float) -> int:
        chain = _chain(prompt, self._size)
        hits = next((count for count in range(len(chain), 0, -1) if self._ends.has(chain[count - 1], at)), 0)
        common = _leading(chain, self._seen, at)
        if common:
            self._ends.put(chain[common - 1], at)
        for digest in chain[:hits]:
            self._ends.touch(digest, at)
        self._store(chain, at)
        return _capped(hits * self._size, prompt, self._size)

    def learn(self, prompt_and_output: bytes, at: float) -> None:
        self._store(_chain(prompt_and_output, self._size), at)

    def _store(self, chain: list[bytes], at: float) -> None:
        for digest in chain:
            self._seen.put(digest, at)
        for digest in chain[-1:]:
            self._ends.put(digest, at)
        self._seen.drop(at)
        self._ends.drop(at)


class Slots:
    def __init__(self, slots: int = 4, life: Life = FOR_EVER) -> None:
        self._slots = slots
        self._prompts = Kept(life)

    def lookup(self, prompt: bytes, at: float) -> int:
        hit = max((_common(prompt, earlier) for earlier in self._prompts if self._prompts.has(earlier, at)), default=0)
        self.learn(prompt, at)
        return min(hit, tokens_of(prompt) - 1)

    def learn(self, prompt_and_output: bytes, at: float) -> None:
        self._prompts.put(prompt_and_output, at)
        self._prompts.drop(at, self._slots)


class Nothing:
    def lookup(self, prompt: bytes, at: float) -> int:
        return 0

    def learn(self, prompt_and_output: bytes, at: float) -> None:
        return None


def make_cache(mode: str, size: int, life: Life = FOR_EVER) -> PrefixCache:
    """The cache of one model for one account (and one user_id)."""
    if mode == "blocks":
        return Blocks(size, life)
    if mode == "units":
        return Units(size, life)
    return Slots(life=life) if mode == "slots" else Nothing()


def _chain(prompt: bytes, size: int) -> list[bytes]:
    """One digest per whole block, each standing for everything up to its end."""
    step, digests, state = size * WIDTH, [], b""
    for start in range(0, len(prompt) - step + 1, step):
        state = blake2b(state + prompt[start : start + step], digest_size=12).digest()
        digests.append(state)
    return digests


def _leading(chain: list[bytes], known: Kept, at: float) -> int:
    return next((index for index, digest in enumerate(chain) if not known.has(digest, at)), len(chain))


def _capped(hit: int, prompt: bytes, size: int) -> int:
    return hit if hit < tokens_of(prompt) else hit - size


def _common(left: bytes, right: bytes) -> int:
    """Tokens that two prompts share from the start on, by bisection."""
    low, high = 0, min(len(left), len(right)) // WIDTH
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if left[: middle * WIDTH] == right[: middle * WIDTH] else (low, middle - 1)
    return low
