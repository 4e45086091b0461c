"""What holds and charges do to a budget: the arithmetic that every store shares, in integers that do not overflow. Pure.

A store reads a Balance, lets it change here, and writes it back in the same transaction. spent + held <= ceiling + overrun
holds after each of these changes; peak is the most that spent + held has been.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from gateway.budgets import exceeded, granted
from gateway.ledger.port import HoldError
from gateway.outcome import BudgetState, Claim, Hold

# Which budget in which period, the key of its row: team, budget, key, period, currency.
Name = tuple[str, str, str, str, str]


class Part(Struct, frozen=True):
    """What one hold has of one budget, as the row of the hold keeps it: `held` nano-units of the budget's currency."""

    team: str
    budget: str
    key: str
    period: str
    currency: str
    rate: tuple[int, int]
    held: int

    @property
    def name(self) -> Name:
        return self.team, self.budget, self.key, self.period, self.currency

    def cost(self, nano: int) -> int:
        """As Claim.cost, for a charge that is known after the request's policies are gone."""
        numerator, denominator = self.rate
        return -(-nano * numerator // denominator)

    def share(self, cost: int) -> Share:
        return Share(self.team, self.budget, self.key, self.period, self.currency, self.rate, cost)


class Share(Struct, frozen=True):
    """What one entry costs one budget, as the entry keeps it: `cost` nano-units of the budget's currency, at this rate."""

    team: str
    budget: str
    key: str
    period: str
    currency: str
    rate: tuple[int, int]
    cost: int


class Balance(Struct):
    """One budget in one period: a row of the table `budget`, to be changed and written back."""

    lim: int
    ceiling: int
    resets_at: datetime | None
    spent: int = 0
    held: int = 0
    peak: int = 0
    overrun: int = 0
    ver: int = 0

    @property
    def left(self) -> int:
        """What nobody has; below 0 where the limit was lowered or something ran over."""
        return self.lim - self.spent - self.held

    def limit_to(self, limit: int, resets_at: datetime | None) -> None:
        """The limit that a new hold found in the policies applies from now on."""
        self.lim, self.resets_at = limit, resets_at
        self.ceiling = max(self.ceiling, limit)

    def take(self, before: int, after: int) -> None:
        """A hold has `after` in the place of `before`. What goes beyond the limit by that is an overrun."""
        committed = self.spent + self.held
        self.held += after - before
        self.overrun += max(0, self.spent + self.held - max(self.lim, committed))
        self._moved()

    def end(self, held: int, cost: int) -> None:
        """A hold ends with a charge. What costs more than was held is an overrun."""
        self.held -= held
        self.spent += cost
        self.overrun += max(0, cost - held)
        self._moved()

    def correct(self, difference: int) -> None:
        """A charge that was known before has changed."""
        self.spent += difference
        self.overrun = max(self.overrun, self.spent + self.held - self.ceiling)
        self._moved()

    def give_back(self, difference: int) -> int:
        """As `correct`, but never below zero: a budget that had spent less than it would get back was not charged that money. What
        was moved."""
        moved = max(difference, -max(0, self.spent))
        self.correct(moved)
        return moved

    def _moved(self) -> None:
        self.peak = max(self.peak, self.spent + self.held)
        self.ver += 1

    def state(self, name: Name) -> BudgetState:
        return BudgetState(*name, self.lim, self.spent, self.held, self.peak, self.overrun, self.resets_at)


def name_of(claim: Claim) -> Name:
    return claim.team, claim.budget, claim.key, claim.period, claim.currency


def part_of(claim: Claim, held: int) -> Part:
    return Part(claim.team, claim.budget, claim.key, claim.period, claim.currency, claim.rate, held)


def opened(claim: Claim) -> Balance:
    """A budget that nobody has claimed in this period."""
    return Balance(0, 0, claim.resets_at)


def first_grant(hold: Hold, balances: Sequence[Balance]) -> int:
    """What all budgets of a new hold grant it, in its own currency; raises BudgetExceeded where one has no room."""
    return _grant(hold, balances, (0,) * len(balances), first=True)


def next_grant(hold: Hold, parts: Sequence[Part], balances: Sequence[Balance]) -> int:
    """What all budgets grant in the place of what the hold has, in all; HoldError where its claims are others."""
    if [part.name for part in parts] != [name_of(claim) for claim in hold.claims]:
        raise HoldError(f"request {hold.id} claims other budgets than its hold")
    return _grant(hold, balances, [part.held for part in parts], first=False)


def _grant(hold: Hold, balances: Sequence[Balance], held: Sequence[int], *, first: bool) -> int:
    most = hold.worst if hold.claims else hold.nano
    for claim, balance, has in zip(hold.claims, balances, held, strict=True):
        least = claim.cost(hold.least)
        part = granted(claim.cost(hold.nano), least, claim.cost(hold.worst), has, balance.left)
        if part is None and (first or not claim.finish):
            raise exceeded(balance.state(name_of(claim)), least - has)
        most = min(most, claim.affords(least if part is None else part))
    return max(most, hold.least) if hold.claims else most


def stretched(nano: int, worst: int, claims: str | None) -> bool:
    """Whether a hold with claims is smaller than its worst case."""
    return claims is not None and nano < worst
