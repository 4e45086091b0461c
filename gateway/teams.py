"""Teams: who may ask for which routes, within which budgets and limits. Data in policies/teams/, without any key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Final, Literal

from pydantic import Field

from gateway.money import exact_nano
from gateway.notation import Currency, Price, Zone
from gateway.patterns import Pattern, Unsafe, pattern
from gateway.rows import Problem, Row

# The name under which the ledger keeps the budget that one key has to itself.
RESERVED: Final = "key"


class BudgetRow(Row):
    """An amount that a team may spend in a period; `at_limit: finish` lets running streams end."""

    budget: str
    amount: Price
    currency: Currency
    period: Literal["hour", "day", "week", "month", "total"]
    zone: Zone = "UTC"
    per: Literal["team", "key"] = "team"
    at_limit: Literal["stop", "finish"] = "stop"

    @cached_property
    def nano(self) -> int:
        """The amount in nano-units of its currency; every request asks for it."""
        return exact_nano(self.amount)


class LimitsRow(Row):
    """Rates of a team; None: no limit."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    concurrent: int | None = Field(default=None, ge=1)


class StepRow(Row):
    """What changes once `at` per cent of a budget is spent or held."""

    at: int = Field(ge=1, le=100)
    prefer: Literal["cheapest", "fastest"] | None = None
    max_output: int | None = Field(default=None, ge=1)
    only: tuple[str, ...] | None = Field(default=None, min_length=1, description="hosts, or HOST/MODEL")

    @property
    def effect(self) -> bool:
        return (self.prefer, self.max_output, self.only) != (None, None, None)


class VolatileRow(Row):
    """Something in prompts that changes without need and so breaks their prefix, and what becomes of it.

    `line` is matched by whole lines of system messages, and taken out or moved behind the last message; `tools: sort` puts the tools
    in the order of their names.
    """

    line: str | None = Field(default=None, description="claude-code-billing, date, or a regular expression; a group marks what changes")
    do: Literal["remove", "move"] = "remove"
    tools: Literal["sort"] | None = None

    @cached_property
    def pattern(self) -> Pattern | None:
        return None if self.line is None else pattern(self.line)


class TeamRow(Row):
    """One team as its author writes it; `routes` may hold patterns such as deepseek-* (a * stands for any text)."""

    team: str
    routes: tuple[str, ...] = Field(min_length=1)
    hosts: tuple[str, ...] | None = Field(default=None, min_length=1)
    regions: tuple[str, ...] | None = Field(default=None, min_length=1, description="regions of hosts that may serve; null: all")
    isolate: bool = Field(default=False, description="a cache of its own at hosts that can keep one, instead of the account's")
    recall: bool = Field(default=True, description="whether reasoning that its clients lose may be kept, encrypted, and restored")
    volatile: tuple[VolatileRow, ...] = ()
    budgets: tuple[BudgetRow, ...] = ()
    limits: LimitsRow = LimitsRow()
    steps: tuple[StepRow, ...] = ()
    note: str = ""

    def may_ask(self, name: str) -> bool:
        """Whether a name, a route's or HOST/MODEL, is among `routes`."""
        return any(matches(pattern, name) for pattern in self.routes)

    def onlys(self) -> dict[tuple[str, ...], int]:
        """What the `only` of its steps leaves, and the per cent from which it does."""
        return {row.only: row.at for row in reversed(self.steps) if row.only}

    def may_use(self, host: str) -> bool:
        return self.hosts is None or host in self.hosts

    def problems(self) -> Iterator[Problem]:
        yield from self._budget_problems()
        yield from self._step_problems()
        yield from self._volatile_problems()

    def _budget_problems(self) -> Iterator[Problem]:
        names = [row.budget for row in self.budgets]
        for index, row in enumerate(self.budgets):
            if row.budget in names[:index]:
                yield (
                    ("budgets", index, "budget"),
                    f"budget `{row.budget}` stands twice in team `{self.team}`. Hint: give each its own name",
                )
            if row.budget == RESERVED:
                yield ("budgets", index, "budget"), f"`{RESERVED}` is the name of a key's own budget. Hint: name this one by its period"
            if not row.nano:
                text = (
                    "a budget of 0 refuses every request. Hint: state an amount, or leave the budget out and take the names out of `routes`"
                )
                yield ("budgets", index, "amount"), text

    def _volatile_problems(self) -> Iterator[Problem]:
        for index, row in enumerate(self.volatile):
            if (row.line is None) == (row.tools is None):
                yield ("volatile", index), "says nothing, or two things. Hint: write `line: PATTERN` or `tools: sort`"
                continue
            try:
                _ = row.pattern
            except Unsafe as problem:
                yield ("volatile", index, "line"), f"`{row.line}` {problem}"

    def _step_problems(self) -> Iterator[Problem]:
        for index, row in enumerate(self.steps):
            if not row.effect:
                yield ("steps", index), "a step that changes nothing. Hint: say `prefer`, `max_output` or `only`"
            for other in row.only or ():
                if not self.may_use(other.partition("/")[0]):
                    yield ("steps", index, "only"), f"`{other}` is not among the `hosts` of team `{self.team}`. Hint: add its host there"
        for index, (lower, higher) in enumerate(pairwise(self.steps), start=1):
            if higher.at <= lower.at:
                text = f"`at: {higher.at}` does not follow `at: {lower.at}`. Hint: write the steps in rising order, one for each `at`"
                yield ("steps", index, "at"), text
            elif higher.effect and _repeats(lower, higher):
                text = f"the step at {higher.at} only repeats the one at {lower.at}, which goes on. Hint: leave it out"
                yield ("steps", index), text


def _repeats(lower: StepRow, higher: StepRow) -> bool:
    return all(getattr(higher, key) in (None, getattr(lower, key)) for key in ("prefer", "max_output", "only"))


def admits(only: tuple[str, ...] | None, host: str, model: str) -> bool:
    """Whether the `only` of a step leaves this deployment."""
    return only is None or host in only or f"{host}/{model}" in only


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern, in which * stands for any text and all else for itself, is this name."""
    return pattern == name or ("*" in pattern and _expression(pattern).fullmatch(name) is not None)


@lru_cache(maxsize=1024)
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)
