"""Budgets and teams on the admin API. Amounts are decimal texts; currencies never add."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, HTTPException

from gateway.clock import Clock, instant_text, parse_instant
from gateway.ledger.port import Ledger
from gateway.policies import Policies
from gateway.standings import Standing, standings


@dataclass(frozen=True, slots=True)
class BudgetDesk:
    """What the answers are made of: the ledger, the policies in force, the clock that prices go by."""

    ledger: Ledger
    policies: Callable[[], Policies]
    clock: Clock


def add_budgets(router: APIRouter, desk: BudgetDesk) -> None:
    """GET /budgets and /teams."""

    @router.get("/budgets", summary="Every budget in its present period: limit, spent, held, and a forecast to its end")
    async def budgets(team: str | None = None) -> list[dict[str, Any]]:
        return [standing.to_json() for standing in await present(desk, team)]

    @router.get("/teams", summary="The teams of the policies, as their files state them")
    async def teams() -> list[dict[str, Any]]:
        return [row.model_dump(mode="json") for row in desk.policies().teams.values()]


async def present(desk: BudgetDesk, team: str | None = None) -> tuple[Standing, ...]:
    """Every budget (of one team) in its present period."""
    now = desk.clock.now()
    teams = {name: row for name, row in desk.policies().teams.items() if team in (None, name)}
    return standings(teams, await desk.ledger.budgets(now, team), now)


def instant_in(name: str, text: str | None) -> datetime | None:
    """The instant that a query says; a date is its midnight, UTC. Raises HTTPException (422)."""
    if text is None:
        return None
    try:
        # A plus sign in a query that was not quoted arrives as a space.
        return parse_instant(f"{text}T00:00:00Z" if len(text) == len("2026-11-20") else text.replace(" ", "+"))
    except ValueError:
        example = instant_text(datetime(2026, 11, 20, 2, tzinfo=UTC))
        raise HTTPException(422, f"`{name}` is no instant: write it as 2026-11-20 or {example}.") from None
