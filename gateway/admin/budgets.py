"""Budgets, teams and spend on the admin API. Amounts are decimal texts; currencies never add."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query

from gateway.clock import Clock, instant_text, parse_instant
from gateway.ledger.port import Ledger, Spend, SpendBy
from gateway.money import decimal_text
from gateway.policies import Policies
from gateway.standings import standings


@dataclass(frozen=True, slots=True)
class BudgetDesk:
    """What the answers are made of: the ledger, the policies in force, the clock that prices go by."""

    ledger: Ledger
    policies: Callable[[], Policies]
    clock: Clock


def add_budgets(router: APIRouter, desk: BudgetDesk) -> None:
    """GET /budgets, /teams and /spend."""

    @router.get("/budgets", summary="Every budget in its present period: limit, spent, held, and a forecast to its end")
    async def budgets(team: str | None = None) -> list[dict[str, Any]]:
        now = desk.clock.now()
        teams = {name: row for name, row in desk.policies().teams.items() if team in (None, name)}
        return [standing.to_json() for standing in standings(teams, await desk.ledger.budgets(now, team), now)]

    @router.get("/teams", summary="The teams of the policies, as their files state them")
    async def teams() -> list[dict[str, Any]]:
        return [row.model_dump(mode="json") for row in desk.policies().teams.values()]

    @router.get("/spend", summary="What requests that ended from `from` until before `to` were charged, by one of their names")
    async def spend(
        by: SpendBy = "team",
        start: Annotated[str | None, Query(alias="from", description="a date or an instant with its zone; else today, UTC")] = None,
        end: Annotated[str | None, Query(alias="to", description="a date or an instant with its zone; else now")] = None,
        team: str | None = None,
    ) -> list[dict[str, Any]]:
        now = desk.clock.now()
        first = instant_in("from", start) or datetime.combine(now.date(), time(), UTC)
        last = instant_in("to", end) or now
        return [_spend_json(by, one) for one in await desk.ledger.spend(by, first, last, team)]


def _spend_json(by: SpendBy, spend: Spend) -> dict[str, Any]:
    amounts = {"spent": decimal_text(spend.nano), "nano": spend.nano, "estimated": decimal_text(spend.estimated)}
    return {by: spend.group, "currency": spend.currency, **amounts, "requests": spend.requests}


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
