"""What limits on the rate promise, whether one process counts them or Redis does for all replicas.

    admit --refused--> (nothing was counted)
      |
      +--admitted--> a request, its estimated tokens and a place are counted --finish--> tokens corrected, place given back

In any 60 seconds no more than `requests_per_minute` requests and `tokens_per_minute` estimated tokens are admitted, and at
no moment more than `concurrent` requests are open. What an answer needs beyond its estimate is counted when it is known.
"""

from __future__ import annotations

from math import ceil
from typing import Any, Final, Literal, Protocol

from gateway.errors import RateLimited
from gateway.teams import LimitsRow

LimitName = Literal["requests_per_minute", "tokens_per_minute", "concurrent"]
State = Literal["up", "down", "unused"]
# Seconds of the window of both rates.
WINDOW: Final = 60
# Seconds after which it is worth asking for a place again: nobody knows when an answer ends.
PLACE_AGAIN: Final = 1


class Limits(Protocol):
    """The rates of teams."""

    async def admit(self, rid: str, team: str, rules: LimitsRow, tokens: int) -> None:
        """Count this request, or raise RateLimited and count nothing. `tokens` is the estimate of prompt and answer.

        Overloaded where Redis cannot be reached and FAREGATE_REDIS_DOWN is `closed`.
        """
        ...

    async def finish(self, rid: str, team: str, rules: LimitsRow, estimated: int, actual: int) -> None:
        """Correct the tokens of an admitted request and give its place back; never raises. No effect on one that was not admitted.

        Of a request that was refused after all (a budget, no host), `actual` is 0.
        """
        ...

    def ready(self) -> bool:
        """Whether new requests should come."""
        ...

    def state(self) -> State:
        """What /readyz says of Redis."""
        ...


def unlimited(rules: LimitsRow) -> bool:
    """Whether there is nothing to count."""
    return rules.requests_per_minute is None and rules.tokens_per_minute is None and rules.concurrent is None


def refusal(team: str, limit: LimitName, allowed: int, used: int, asked: int, wait: float) -> RateLimited:
    """The 429 of one limit: what it is, how much of it is used, and after how many whole seconds to try again."""
    if limit == "tokens_per_minute" and asked > allowed:
        return _too_large(team, allowed, asked)
    seconds = max(1, ceil(wait))
    details: dict[str, Any] = {"limit": limit, "allowed": allowed, "used": used, "asked": asked, "retry_after": seconds}
    message = f"Team {team} {_reached(limit, allowed, used, asked)} Try again in {seconds} second{'s' if seconds > 1 else ''}."
    return RateLimited(message, details=details, retry_after=seconds)


def _reached(limit: LimitName, allowed: int, used: int, asked: int) -> str:
    if limit == "concurrent":
        return f"may have {allowed} requests open at once ({limit}), and {used} are open."
    if limit == "requests_per_minute":
        return f"may send {allowed} requests a minute ({limit}), and {used} came in the last minute."
    return f"may use {allowed} tokens a minute ({limit}): {used} are counted in the last minute, and this request needs about {asked}."


def _too_large(team: str, allowed: int, asked: int) -> RateLimited:
    """No waiting helps: an SDK is told not to try again."""
    error = RateLimited(
        f"Team {team} may use {allowed} tokens a minute (tokens_per_minute), and this request alone needs about {asked}: it can never "
        f"be let through. Remedy: shorten it or lower max_tokens, or have tokens_per_minute raised.",
        details={"limit": "tokens_per_minute", "allowed": allowed, "used": 0, "asked": asked, "retry_after": None},
    )
    error.retry = False
    return error
