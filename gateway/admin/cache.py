"""The report on prefix caches on the admin API: what they served, and what broken prefixes cost."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query

from gateway.admin.budgets import BudgetDesk, instant_in
from gateway.explain import cache_report

_DAY: Final = timedelta(days=1)


def add_cache(router: APIRouter, desk: BudgetDesk) -> None:
    """GET /cache."""

    @router.get("/cache", summary="Hit rates, predicted against actual, and where prefixes broke: place, kind, money lost per day")
    async def cache(
        start: Annotated[str | None, Query(alias="from", description="a date or an instant with its zone; else a day before `to`")] = None,
        end: Annotated[str | None, Query(alias="to", description="a date or an instant with its zone; else now")] = None,
        team: str | None = None,
    ) -> dict[str, Any]:
        last = instant_in("to", end) or desk.clock.now()
        first = instant_in("from", start) or last - _DAY
        return await cache_report(desk.ledger, desk.policies(), first, last, team)
