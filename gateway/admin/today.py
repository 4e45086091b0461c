"""What the requests of this day used: how much of their prompts was cached, and what o1 would have cost, counted as it is asked for.

A day may have more rows than can be read for every look at a page: each row is read once, and the sums are kept.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import Any, Final

from fastapi import APIRouter

from gateway.admin.budgets import BudgetDesk
from gateway.clock import instant_text
from gateway.ledger.port import Mark, Page
from gateway.losses import Tally
from gateway.money import decimal_text
from gateway.outcome import LedgerRow
from gateway.receipts import baselines

# Rows that are looked at together: about a millisecond, in which the event loop passes on no token.
_PAGE: Final = 200
# Rows that one look reads at most; the next one goes on from there.
_MOST: Final = 25
# Rows are kept in the order in which they ended, but may be committed a little later: the last of them are read again.
_LATE: Final = timedelta(seconds=10)


@dataclass(slots=True)
class Day:
    """One day's sums: `paid` are nano-units by currency of those requests of which `elsewhere` (by name and currency) is known.

    `hours` are nano-units by currency for each hour of the day. `whole`: every row of the day so far has been counted.
    """

    start: datetime
    cache: Tally = field(default_factory=Tally)
    paid: dict[str, int] = field(default_factory=dict)
    elsewhere: dict[tuple[str, str], int] = field(default_factory=dict)
    hours: dict[str, list[int]] = field(default_factory=dict)
    whole: bool = True

    def add(self, row: LedgerRow, desk: BudgetDesk) -> None:
        self.cache.add(row)
        if row.nano:
            self.hours.setdefault(row.currency, [0] * 24)[row.ended.astimezone(UTC).hour] += row.nano
        compared = baselines(desk.policies(), row.usage, row.started) if row.usage else ()
        if compared:
            self.paid[row.currency] = self.paid.get(row.currency, 0) + row.nano
        for one in compared:
            name = one.name, one.currency
            self.elsewhere[name] = self.elsewhere.get(name, 0) + one.nano


class Today:
    """The day that it is now, UTC. A charge that comes to the ledger later than ten seconds after its end may be left out here."""

    def __init__(self, desk: BudgetDesk) -> None:
        self._desk = desk
        self._turn = asyncio.Lock()
        self._day = Day(datetime.min.replace(tzinfo=UTC))
        self._mark: Mark | None = None
        # What was counted of the rows after the mark.
        self._seen: set[str] = set()

    async def look(self) -> Day:
        """The sums up to now, or as far as one look reads: `whole` says which. LedgerUnavailable where the ledger cannot be read."""
        async with self._turn:
            now = self._desk.clock.now()
            start = datetime.combine(now.date(), time(), UTC)
            if start != self._day.start:
                self._day, self._mark, self._seen = Day(start), None, set()
            await self._read(now)
            return self._day

    async def _read(self, now: datetime) -> None:
        after = self._mark
        for _ in range(_MOST):
            page = await self._desk.ledger.page(self._day.start, now, None, after, _PAGE)
            self._count(page.rows)
            after = page.mark
            self._remember(page, now)
            if after is None:
                break
        self._day.whole = after is None

    def _count(self, rows: list[LedgerRow]) -> None:
        for row in rows:
            if row.id not in self._seen:
                self._seen.add(row.id)
                self._day.add(row, self._desk)

    def _remember(self, page: Page, now: datetime) -> None:
        if page.mark is not None and page.rows[-1].ended < now - _LATE:
            self._mark = page.mark
            self._seen.difference_update(row.id for row in page.rows)


def add_today(router: APIRouter, today: Today) -> None:
    """GET /today."""

    @router.get("/today", summary="What the requests of this day, UTC, found in caches, and what o1 would have cost")
    async def day() -> dict[str, Any]:
        return today_json(await today.look())


def today_json(day: Day) -> dict[str, Any]:
    return {
        "from": instant_text(day.start),
        "whole": day.whole,
        **day.cache.to_json(),
        "paid": [{"currency": currency, "amount": decimal_text(nano)} for currency, nano in sorted(day.paid.items())],
        "baselines": [
            {"baseline": name, "currency": currency, "amount": decimal_text(nano)}
            for (name, currency), nano in sorted(day.elsewhere.items())
        ],
        "hours": [
            {"currency": currency, "amounts": [decimal_text(nano) for nano in hours]} for currency, hours in sorted(day.hours.items())
        ],
    }
