"""Foresight: what every answer so far teaches about the next one. Deterministic; no clock, no text, bounded memory.

It foretells, for one request at one deployment: tokens of the prompt, how many of them will be a cache hit, the length of the
answer, and how the conversation will probably go on. The router in production and `faregate simulate` use this one.
"""

from __future__ import annotations

from typing import NamedTuple


class Ask(NamedTuple):
    """Who asks, in which conversation, at which of its turns (from 1), when (seconds since 1970, by the gateway's clock)."""

    team: str
    key: str
    conversation: int
    turn: int
    at: float


class Prospect(NamedTuple):
    """What is foretold of one request at one deployment, in its own tokens.

    `known`: the beginning of the prompt that we sent there before; `hit`: as much of it as will probably be cached after `idle`
    seconds; `output`: of all answers that were asked for.
    """

    prompt: int
    known: int
    hit: int
    output: int
    idle: float = 0.0
