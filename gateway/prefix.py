"""Prefix: what was sent where, as chained digests, so that what a host has cached can be foretold. No text is kept.

A prompt is a stream of bytes: its tools, then its messages. Digest i stands for everything up to `ends[i]`, so that two
prompts share exactly as much as they share digests.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.contracts import Cache


class Prints(NamedTuple):
    """One prompt: `digests[i]` (64 bits, under a secret) stands for its first `ends[i]` bytes.

    `parts` has the index of the last digest of each part: the tools first where there are any (`tools`), then each message.
    """

    ends: tuple[int, ...]
    digests: tuple[int, ...]
    parts: tuple[int, ...] = ()
    tools: bool = False

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.ends[-1] if self.ends else 0


class Place(NamedTuple):
    """Where prompts are cached together: one deployment's account, or one team's part of it; and by which rule."""

    name: str
    cache: Cache


class Match(NamedTuple):
    """The longest known beginning of a prompt at one place: its bytes, and the seconds since it was last used there."""

    size: int
    idle: float


NO_MATCH = Match(0, 0.0)
