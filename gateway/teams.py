"""Teams: who may ask for which routes, within which budgets and limits. Data in policies/teams/, without any key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from gateway.prices import Currency, Price, Zone
from gateway.rows import Problem, Row


class BudgetRow(Row):
    """An amount that a team may spend in a period; `at_limit: finish` lets running streams end."""

    budget: str
    amount: Price
    currency: Currency
    period: Literal["hour", "day", "week", "month", "total"]
    zone: Zone = "UTC"
    per: Literal["team", "key"] = "team"
    at_limit: Literal["stop", "finish"] = "stop"


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
    only: tuple[str, ...] | None = Field(default=None, description="hosts, or HOST/MODEL")


class TeamRow(Row):
    """One team as its author writes it; `routes` may hold patterns such as deepseek-*."""

    team: str
    routes: tuple[str, ...]
    hosts: tuple[str, ...] | None = None
    budgets: tuple[BudgetRow, ...] = ()
    limits: LimitsRow = LimitsRow()
    steps: tuple[StepRow, ...] = ()
    note: str = ""

    def problems(self) -> Iterator[Problem]:
        names = [row.budget for row in self.budgets]
        for index, name in enumerate(names):
            if name in names[:index]:
                yield ("budgets", index, "budget"), f"budget `{name}` stands twice in team `{self.team}`"
