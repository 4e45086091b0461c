"""How a host really behaves, whatever its row promises: its cache, its lengths, its speed, its failures. One record, drawn from a seed.

Times are seconds of the emulator's own clock: on one that runs 600 times as fast, 300 s are half a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Any, Final

from gateway.emulator.faults import NO_FAULT, Fault, FaultError, read_faults
from gateway.emulator.output import Wish
from gateway.emulator.reader import Row

_MODES: Final = ("blocks", "units", "slots", "none")
# Below this, pauses are the event loop's and not the host's: events grow instead.
_SHORTEST_PAUSE: Final = 0.002


class BehaviourError(ValueError):
    """A behaviour that no host can have; the text names the field."""


@dataclass(frozen=True)
class Behaviour:
    """What a host does; every field left at its default is what its row, its contract and the request's wish say."""

    cache: str = ""
    """MODE or MODE:TOKENS: blocks, units, slots, none."""
    ttl: float | None = None
    """Seconds that an unused prefix lives; each use begins them anew."""
    lag: float = 0.0
    """Seconds after which a prefix can be hit."""
    hit_rate: float = 1.0
    """How probable it is that a known prefix is hit; else none of it is."""
    output: int = 0
    """Mean tokens of an answer, drawn from a heavy tail; 0: as the wish says."""
    first_token: float = 0.0
    """Seconds until the first token."""
    pace: float = 0.0
    """Tokens a second of one stream; 0: at once."""
    fail_rate: float = 0.0
    """How many of the requests fail, each by itself."""
    fault: Any = None
    """What those that fail get, as in a script; default: a 503 before any work."""
    seed: int = 0

    def __post_init__(self) -> None:
        mode, colon, tokens = self.cache.partition(":")
        if self.cache and (mode not in _MODES or (colon and not (tokens.isdecimal() and int(tokens)))):
            raise BehaviourError(f"cache {self.cache!r}: write MODE or MODE:TOKENS, of {', '.join(_MODES)}")
        for name in ("hit_rate", "fail_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise BehaviourError(f"{name} {getattr(self, name)}: a probability is from 0 to 1")
        for name in ("ttl", "lag", "output", "first_token", "pace"):
            if (getattr(self, name) or 0) < 0:
                raise BehaviourError(f"{name} {getattr(self, name)}: not below 0")
        try:
            read_faults([self.fault])
        except FaultError as error:
            raise BehaviourError(f"fault: {error}") from None

    @property
    def failure(self) -> Fault:
        return read_faults([self.fault or {"status": 503}])[0]

    @property
    def caching(self) -> tuple[str, float | None, float]:
        """What its caches depend on."""
        return self.cache, self.ttl, self.lag

    def rules(self, stated: Row) -> tuple[str, int, float | None]:
        """(mode, tokens, ttl) of a cache, over what a row states."""
        mode, _, tokens = self.cache.partition(":")
        ttl = stated.get("ttl") if self.ttl is None else self.ttl
        return mode or str(stated.get("mode", "blocks")), int(tokens or stated.get("tokens", 64)), ttl

    def usual(self, rate: float) -> Wish:
        """What an answer is unless its request says otherwise; `rate`: how fast the host's clock runs."""
        pace = 1000 / (self.pace * rate) if self.pace else 0.0
        return Wish(mean=self.output, pace=pace, chunk=max(1, round(_SHORTEST_PAUSE * 1000 / pace)) if pace else 1)


AS_STATED: Final = Behaviour()


def read_behaviour(items: Mapping[str, Any], base: Behaviour = AS_STATED) -> Behaviour:
    """A behaviour with these fields changed; raises BehaviourError."""
    kinds = {item.name: type(getattr(AS_STATED, item.name)) for item in fields(Behaviour)}
    for name, value in items.items():
        if name not in kinds:
            raise BehaviourError(f"unknown: {name}; known: {', '.join(kinds)}")
        number = kinds[name] in (int, float) or name == "ttl"
        if number and (isinstance(value, bool) or not isinstance(value, int | float) or (kinds[name] is int and value != int(value))):
            raise BehaviourError(f"{name} {value!r}: write a number")
    return replace(base, **dict(items))


class Chance:
    """What is left to chance at one host: drawn in the order of its requests, the same for the same seed."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._failing = Random(f"failing {behaviour.seed}")
        self._hitting = Random(f"hitting {behaviour.seed}")

    def fault(self) -> Fault:
        """What goes wrong with the next request."""
        behaviour = self._behaviour
        return behaviour.failure if behaviour.fail_rate and self._failing.random() < behaviour.fail_rate else NO_FAULT

    def hit(self, known: int) -> int:
        """How much of a known prefix is hit: all of it or nothing."""
        rate = self._behaviour.hit_rate
        return known if not known or rate == 1 or self._hitting.random() < rate else 0
