"""Today's sums: each row counted once, however often one looks, whatever comes late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.admin.budgets import BudgetDesk
from gateway.admin.today import Today, today_json
from gateway.money import decimal_text
from gateway.policies import default_folder, load
from gateway.usage import Sources, Usage
from tests.ledgers import HOLD, ROW, Embedded

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
USED = Usage(60, 40, 30)


class Hands:
    """A clock whose hands the test moves."""

    def __init__(self) -> None:
        self.at = NOON

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return 0.0


class Desk:
    """A ledger, a clock, and the day as it is seen with them."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Embedded(folder / "ledger.db")
        self.clock = Hands()
        policies = load(default_folder())
        self.desk = BudgetDesk(self.ledger, lambda: policies, self.clock)
        self.today = Today(self.desk)

    async def keep(self, name: str, ended: datetime, nano: int = 400, currency: str = "USD", usage: Usage | None = USED) -> None:
        await self.ledger.hold(replace(HOLD, id=name, currency=currency, started=ended))
        row = replace(ROW, id=name, currency=currency, started=ended, ended=ended, nano=nano, usage=usage)
        await self.ledger.settle(row)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    made = Desk(tmp_path)
    await made.ledger.start()
    yield made
    await made.ledger.close()


async def test_a_day_is_summed_by_currency_and_hour(desk: Desk) -> None:
    await desk.keep("yesterday", NOON - timedelta(hours=13))
    await desk.keep("early", NOON - timedelta(hours=12), 100)
    await desk.keep("now", NOON - timedelta(seconds=1), 200)
    await desk.keep("yuan", NOON - timedelta(seconds=1), 7, "CNY")
    await desk.keep("unknown", NOON - timedelta(seconds=2), 1, usage=Usage(0, 50, 5, sources=Sources(cache_hit="unknown")))
    await desk.keep("free", NOON - timedelta(seconds=2), 0, usage=None)

    day = today_json(await desk.today.look())

    # o1: 15 dollars a million tokens of the prompt, 60 of the answer.
    o1 = 3 * (100 * 15_000 + 30 * 60_000) + 50 * 15_000 + 5 * 60_000
    assert day["from"] == "2026-11-20T00:00:00Z" and day["whole"]
    assert (day["requests"], day["measured"], day["cache_hit_tokens"], day["prompt_tokens"]) == (5, 3, 180, 300)
    assert day["paid"] == [{"currency": "CNY", "amount": "0.000000007"}, {"currency": "USD", "amount": "0.000000301"}]
    assert day["baselines"] == [{"baseline": "o1", "currency": "USD", "amount": decimal_text(o1)}]
    amounts = {one["currency"]: one["amounts"] for one in day["hours"]}
    assert (amounts["USD"][0], amounts["USD"][11], amounts["CNY"][11]) == ("0.0000001", "0.000000201", "0.000000007")


async def test_each_row_is_counted_once_and_none_is_left_out(desk: Desk) -> None:
    """Rows that are committed a little after others that ended later are counted too."""
    ends = [NOON - timedelta(seconds=1000 - number) for number in range(990)]
    await asyncio.gather(*(desk.keep(f"r{number}", end) for number, end in enumerate(ends)))
    for _ in range(3):
        assert (await desk.today.look()).cache.requests == 990
    for step in range(4):
        desk.clock.at += timedelta(seconds=4)
        count = 990 + 260 * step
        # Before those of the step before, which were counted already.
        late = desk.clock.at - timedelta(seconds=1 if step % 2 == 0 else 7)
        await asyncio.gather(*(desk.keep(f"late {step} {number}", late + timedelta(milliseconds=number)) for number in range(260)))
        assert [(await desk.today.look()).cache.requests for _ in range(2)] == [count + 260] * 2


async def test_a_long_day_is_read_in_several_looks(desk: Desk) -> None:
    ends = [NOON - timedelta(seconds=9000 - number) for number in range(5300)]
    await asyncio.gather(*(desk.keep(f"r{number}", end) for number, end in enumerate(ends)))
    first = await desk.today.look()
    assert (first.cache.requests, first.whole) == (5000, False)
    second = await desk.today.look()
    assert (second.cache.requests, second.whole) == (5300, True)


async def test_a_new_day_begins_at_nothing(desk: Desk) -> None:
    await desk.keep("before", NOON - timedelta(minutes=1))
    assert (await desk.today.look()).cache.requests == 1
    desk.clock.at += timedelta(days=1)
    assert (await desk.today.look()).cache.requests == 0
    await desk.keep("after", desk.clock.at - timedelta(seconds=1))
    looks = await asyncio.gather(*(desk.today.look() for _ in range(5)))
    assert {look.cache.requests for look in looks} == {1}
