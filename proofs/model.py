"""What two common rules make of the same requests: a small model, not a gateway.

Every stream that runs produces one token in each step of the model, in the same order and of the same lengths as the requests of the
proof; a request starts as soon as one of the streams is free. Money is booked on the ledger's own Balance. Only the rule differs:

- count afterwards: a request is let in while anything is left; its charge is booked when it has ended;
- worst case: a request is let in when the most that it can cost is left; that is held until it has ended, and never stretched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Literal

from gateway.ledger.balances import Balance

Rule = Literal["count_afterwards", "worst_case"]


@dataclass(frozen=True)
class Crowd:
    """The requests: output tokens of each, how many run at once, and whether who is refused asks again while others run."""

    lengths: Sequence[int]
    streams: int
    patient: bool
    input_nano: int
    token_nano: int
    most_tokens: int

    def cost(self, tokens: int) -> int:
        return self.input_nano + tokens * self.token_nano


def play(crowd: Crowd, rule: Rule, limit: int) -> Balance:
    """The budget after everything has ended."""
    balance = Balance(limit, limit, None)
    running: list[tuple[int, int]] = []
    waiting = list(reversed(crowd.lengths))
    worst = crowd.cost(crowd.most_tokens) if rule == "worst_case" else 0
    now = 0
    while waiting or running:
        while waiting and len(running) < crowd.streams and _admitted(balance, rule, worst):
            length = waiting.pop()
            balance.take(0, worst)
            heappush(running, (now + length, crowd.cost(length)))
        if waiting and (not running or not crowd.patient) and len(running) < crowd.streams:
            waiting.clear()  # refused, and nothing that still runs would change that for them
        if running:
            now, cost = heappop(running)
            balance.end(worst, cost)
    return balance


def _admitted(balance: Balance, rule: Rule, worst: int) -> bool:
    return balance.left >= worst if rule == "worst_case" else balance.left > 0


def compared(crowd: Crowd, limit: int) -> dict[str, dict[str, float]]:
    """How far each rule goes over, and how much of the budget it can use, in per cent."""
    rules: tuple[Rule, ...] = ("count_afterwards", "worst_case")
    return {rule: percents(play(crowd, rule, limit).spent, limit) for rule in rules}


def percents(spent: int, limit: int) -> dict[str, float]:
    return {"overshoot_percent": round(max(0, spent - limit) / limit * 100, 3), "usable_percent": round(min(spent, limit) / limit * 100, 3)}
