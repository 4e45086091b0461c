"""The calibration on the admin API: what was foretold against what came, per deployment and day."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query

from gateway.admin.budgets import BudgetDesk, instant_in
from gateway.calibration import Day, by_day
from gateway.ledger.port import Mark
from gateway.money import decimal_text

_WEEK: Final = timedelta(days=7)
# Rows that are looked at together: a few milliseconds, in which the event loop passes on no token.
_PAGE: Final = 200


def add_calibration(router: APIRouter, desk: BudgetDesk) -> None:
    """GET /calibration."""

    @router.get("/calibration", summary="Predicted against actual hit tokens and cost, per deployment and day")
    async def calibration(
        start: Annotated[str | None, Query(alias="from", description="a date or an instant with its zone; else a week before `to`")] = None,
        end: Annotated[str | None, Query(alias="to", description="a date or an instant with its zone; else now")] = None,
        team: str | None = None,
    ) -> list[dict[str, Any]]:
        last = instant_in("to", end) or desk.clock.now()
        first = instant_in("from", start) or datetime.combine((last - _WEEK).date(), time(), UTC)
        days: dict[tuple[str, str, str, str], Day] = {}
        mark: Mark | None = None
        while True:
            page = await desk.ledger.page(first, last, team, mark, _PAGE)
            by_day(page.rows, days)
            mark = page.mark
            if mark is None:
                return [_day_json(days[key]) for key in sorted(days)]


def _day_json(day: Day) -> dict[str, Any]:
    return {
        "day": day.day,
        "host": day.host,
        "model": day.model,
        "currency": day.currency,
        "requests": day.requests,
        "compared": day.compared,
        "prompt_tokens": day.prompt,
        "predicted_hit_tokens": day.predicted_hit,
        "actual_hit_tokens": day.hit,
        "predicted": decimal_text(day.predicted_nano),
        "actual": decimal_text(day.nano),
    }
