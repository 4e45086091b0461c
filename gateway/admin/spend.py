"""Spend on the admin API: grouped by any names, over any period, in the days of any zone, as JSON or CSV; exact to the nano."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import Response

from gateway.admin.budgets import BudgetDesk
from gateway.ledger.gathering import gather
from gateway.reports.periods import Period, PeriodError, between, last, month, zone_of
from gateway.reports.spending import BY, By, Spending, by_of, tariffs
from gateway.reports.writing import csv_text, line_json

_BY = f"one or several of {', '.join(BY)}, with commas"
Form = Literal["json", "csv"]


def add_spend(router: APIRouter, desk: BudgetDesk) -> None:
    """GET /spend."""

    @router.get("/spend", summary="What requests that ended from `from` until before `to` were charged, by their names, by class or time")
    async def spend(
        by: Annotated[str, Query(description=_BY)] = "team",
        start: Annotated[str | None, Query(alias="from", description="a date or an instant with its zone; else today")] = None,
        end: Annotated[str | None, Query(alias="to", description="a date or an instant with its zone; else now")] = None,
        months: Annotated[str | None, Query(alias="month", description="a calendar month such as 2026-11")] = None,
        lately: Annotated[str | None, Query(alias="last", description="hours, days or weeks until now: 24h, 7d, 4w")] = None,
        zone: Annotated[str, Query(description="the time zone whose days and months are meant")] = "UTC",
        team: str | None = None,
        key: str | None = None,
        route: str | None = None,
        host: str | None = None,
        model: str | None = None,
        form: Annotated[Form, Query(alias="format")] = "json",
    ) -> Response:
        only = {"team": team, "key": key, "route": route, "host": host, "model": model}
        wanted = {name: value for name, value in only.items() if value is not None}
        period = _period(start, end, months, lately, zone, desk.clock.now())
        report = Spending(_by(by), period, wanted, tariffs(desk.policies()))
        await gather(desk.ledger, report)
        # In a thread: many lines take many milliseconds, in which the event loop would pass on no token.
        return await asyncio.to_thread(_response, report, form)


def _response(report: Spending, form: Form) -> Response:
    # What is not counted, which the lines cannot say.
    notes = {"x-faregate-notes": "; ".join(report.notes)} if report.notes else None
    if form == "csv":
        return Response("".join(csv_text(report)), media_type="text/csv; charset=utf-8", headers=notes)
    return Response(json.dumps([line_json(report.by, line) for line in report.lines()]), media_type="application/json", headers=notes)


def _by(text: str) -> tuple[By, ...]:
    try:
        return by_of(text)
    except PeriodError as error:
        raise HTTPException(422, f"`by`: {error}") from None


def _period(start: str | None, end: str | None, months: str | None, lately: str | None, zone: str, now: datetime) -> Period:
    """The one period that a query names; HTTPException (422) that says which word of it cannot be used."""
    if sum([start is not None or end is not None, months is not None, lately is not None]) > 1:
        raise HTTPException(422, "Name one period: `from` and `to`, or `month`, or `last`.")
    name = "month" if months else "last" if lately else "zone"
    try:
        where = zone_of(zone)
        if months is not None:
            return month(months, where)
        if lately is not None:
            return last(lately, now, where)
        name = "from` or `to"
        return between(start, end, now, where)
    except PeriodError as error:
        raise HTTPException(422, f"`{name}`: {error}") from None
