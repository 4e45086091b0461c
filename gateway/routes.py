"""Routes: what an app may ask for. Data in policies/routes.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import Field

from gateway.rows import Instant, Problem, Row

Choose = Literal["order", "cheapest", "fastest"]
OutOfRange = Literal["clamp", "refuse"]
Switch = Literal["on", "off"]


class DatedContract(Row):
    """The contract that a route's client may rely on, until an instant (the last row has none)."""

    until: Instant | None = None
    contract: str


class TargetRow(Row):
    """A deployment of a route with thinking fixed: `{deployment: host/model, thinking: on}`."""

    deployment: str
    thinking: Switch | None = None


class RouteRow(Row):
    """One name that an app may ask for, as its author writes it. A deployment is `HOST/MODEL`: the host ends at the first slash."""

    route: str
    contract: str | tuple[DatedContract, ...] = Field(description="rules max_tokens and parameters for the client; may be dated")
    deployments: tuple[str | TargetRow, ...] = Field(min_length=1)
    choose: Choose = "cheapest"
    out_of_range: OutOfRange = "clamp"
    attempts: int = Field(default=3, ge=1, le=10, description="dispatches of one request at most, the first included")
    never_pay_twice: bool = Field(default=True, description="no other attempt after one that may have been billed")
    queue: int | None = Field(default=None, ge=0, description="requests that may wait for a replica of a local engine before others serve")
    note: str = ""

    @property
    def dated(self) -> tuple[DatedContract, ...]:
        return (DatedContract(contract=self.contract),) if isinstance(self.contract, str) else self.contract

    @property
    def targets(self) -> tuple[RouteTarget, ...]:
        return tuple(_target(item) for item in self.deployments)

    def problems(self) -> Iterator[Problem]:
        for index, target in enumerate(self.targets):
            if not target.host or not target.model:
                yield ("deployments", index), f"`{target.name}` is not HOST/MODEL. Hint: write it as novita/deepseek/deepseek-r1-0528"
        if not isinstance(self.contract, str):
            yield from _dated_problems(self.contract)


def _target(item: str | TargetRow) -> RouteTarget:
    text, thinking = (item, None) if isinstance(item, str) else (item.deployment, item.thinking)
    host, _, model = text.partition("/")
    return RouteTarget(host, model, thinking)


def _dated_problems(rows: tuple[DatedContract, ...]) -> Iterator[Problem]:
    if not rows or rows[-1].until is not None:
        yield ("contract",), "the last contract of a route has no `until`: it holds from there on"
    untils = [row.until for row in rows[:-1]]
    for index, until in enumerate(untils):
        previous = untils[index - 1] if index else None
        if until is None:
            yield ("contract", index), "`until` is missing: only the last contract holds for ever"
        elif previous is not None and until <= previous:
            yield ("contract", index, "until"), "`until` does not follow the one before it. Hint: write the rows in order of time"


@dataclass(frozen=True, slots=True)
class RouteTarget:
    """One deployment of a route; `thinking` fixes the switch there, None leaves it to the request."""

    host: str
    model: str
    thinking: Switch | None = None

    @property
    def name(self) -> str:
        return f"{self.host}/{self.model}"


@dataclass(frozen=True, slots=True)
class Route:
    """What one name means: the client's contract by date, and the deployments in order of preference."""

    name: str
    contracts: tuple[tuple[datetime | None, str], ...]
    deployments: tuple[RouteTarget, ...]
    choose: Choose = "cheapest"
    out_of_range: OutOfRange = "clamp"
    attempts: int = 3
    never_pay_twice: bool = True
    queue: int | None = None

    def contract_at(self, at: datetime) -> str:
        """The name of the contract that rules this instant for the client."""
        for until, name in self.contracts:
            if until is None or at < until:
                return name
        raise LookupError(f"the last contract of route {self.name} has an end")


def route_of(row: RouteRow) -> Route:
    contracts = tuple((dated.until, dated.contract) for dated in row.dated)
    return Route(row.route, contracts, row.targets, row.choose, row.out_of_range, row.attempts, row.never_pay_twice, row.queue)
