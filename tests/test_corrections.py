"""Corrections: money that a host billed otherwise than was charged, in every store."""

from __future__ import annotations

import asyncio
from dataclasses import replace as replaced
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace

from gateway.budgets import PeriodKind
from gateway.budgets import period as period_of
from gateway.cli import CommandError
from gateway.commands.reconcile import _apply
from gateway.errors import BudgetExceeded
from gateway.ledger.corrections import wanted
from gateway.ledger.port import CorrectionError, Store, no_zone, same_currency
from gateway.ledger.sqlite import SqliteStore
from gateway.outcome import BudgetState, Claim, Correction, Counted
from gateway.policies import default_folder
from gateway.policies import load as load_policies
from gateway.settings import Settings, load
from gateway.teams import TeamRow
from tests.ledgers import AT, HOLD
from tests.stores import DAY, LEASE, Place, charged

MONTH = Claim("search", "month", "", "2026-11", "CNY", 70_000, datetime(2026, 12, 1, tzinfo=UTC), (7, 1))
KEY = Claim("search", "key", "search-1a2b3c", "2026-11-20", "USD", 5_000, DAY.resets_at)
ASKS = replace(HOLD, nano=1000, least=200, worst=9000, claims=(DAY,))
BILLED = Correction("deepseek-2026-11-20-1", AT, "search", "", "r", "deepseek", "v4", "USD", 250, "output", "billed more", "usage.csv")


def yuan(source: str, target: str, _at: datetime) -> Fraction | None:
    return Fraction(1) if source == target else Fraction(7) if (source, target) == ("USD", "CNY") else None


def settings_of(place: Place) -> Settings:
    return load({"FAREGATE_LEDGER": f"sqlite:///{place.url}" if "://" not in place.url else place.url}, None)


async def spent(store: Store) -> dict[str, int]:
    return {f"{state.budget}{'/' + state.key if state.key else ''}": state.spent for state in await store.budgets(AT)}


async def charge(store: Store, nano: int, *claims: Claim, id: str = "r1") -> None:
    await store.hold(replace(ASKS, id=id, claims=claims), "me", LEASE)
    await store.finish("settle", charged(id, nano))


class TestCorrections:
    """Each test has an empty store, which keeps every invariant when the test is over."""

    async def test_one_reads_back_with_what_it_did(self, store: Store) -> None:
        await charge(store, 400, DAY)

        assert await store.correct([BILLED]) == 1

        counted = Counted("search", "day", "", "2026-11-20", "USD", 250)
        assert await store.corrections(AT, AT + timedelta(1)) == [replace(BILLED, counted=(counted,))]
        assert await spent(store) == {"day": 650}
        assert sum(one.nano for one in await store.spend("team", AT, AT + timedelta(1))) == 400

    async def test_the_same_again_has_no_effect_and_other_contents_are_refused(self, store: Store) -> None:
        await charge(store, 400, DAY)
        others = [replace(BILLED, id=f"c{number}", nano=number) for number in range(40)]
        assert await store.correct([BILLED, *others, BILLED]) == 41
        assert await store.correct([*others, BILLED]) == 0
        before = await spent(store)

        last = replace(BILLED, id="last", nano=1)
        for changed in (replace(BILLED, nano=251), replace(BILLED, request="r1"), replace(BILLED, at=AT + timedelta(microseconds=1))):
            with pytest.raises(CorrectionError, match=r"in the ledger with other contents\. Remedy: give the new one an id of its own"):
                await store.correct([last, changed, replace(BILLED, id="never", nano=1)])

        assert await spent(store) == {"day": before["day"] + 1}
        assert len(await store.corrections(AT, AT + timedelta(1))) == 42

    async def test_of_many_at_once_each_counts_once(self, store: Store, place: Place) -> None:
        await charge(store, 400, DAY)
        other = place.store()
        await other.start()
        given = [replace(BILLED, id=f"c{number}", nano=10) for number in range(20)]

        made = await asyncio.gather(store.correct(given), other.correct(given), store.correct(given[::-1]))

        await other.close()
        assert sum(made) == 20
        assert await spent(store) == {"day": 600}

    async def test_it_counts_in_the_budgets_of_its_team_and_key_whose_period_it_falls_into(self, store: Store) -> None:
        await charge(store, 400, DAY, KEY, MONTH)
        both = {"day": 400, "key/search-1a2b3c": 400, "month": 2800}
        elsewhere = (
            replace(BILLED, id="yesterday", at=datetime(2026, 11, 19, 23, 59, 59, tzinfo=UTC)),
            replace(BILLED, id="key", key="search-1a2b3c"),
            replace(BILLED, id="another key", key="search-zzzzzz"),
            replace(BILLED, id="another team", team="chat"),
            replace(BILLED, id="nobody", team="", key="search-1a2b3c"),
            replace(BILLED, id="last month", at=datetime(2026, 10, 31, 23, tzinfo=UTC)),
        )
        after = []
        for correction in elsewhere:
            assert await store.correct([correction], yuan) == 1
            now = await spent(store)
            after.append({name: now[name] - nano for name, nano in both.items()})
            both = now

        assert after == [
            {"day": 0, "key/search-1a2b3c": 0, "month": 1750},
            {"day": 250, "key/search-1a2b3c": 250, "month": 1750},
            {"day": 250, "key/search-1a2b3c": 0, "month": 1750},
            *([{"day": 0, "key/search-1a2b3c": 0, "month": 0}] * 3),
        ]
        assert [one.id for one in await store.corrections(AT, AT + timedelta(1), "search")] == ["key", "another key"]

    async def test_another_currency_is_rounded_up_and_without_a_rate_nothing_is_written(self, store: Store) -> None:
        await charge(store, 400, DAY)
        in_yuan = replace(BILLED, currency="CNY", nano=10)
        with pytest.raises(CorrectionError, match=r"is in CNY, budget day of search in USD, .* Remedy: state one there"):
            await store.correct([in_yuan])
        assert await store.corrections(AT, AT + timedelta(1)) == []

        await store.correct([in_yuan, replace(in_yuan, id="less", nano=-10)], lambda *_: Fraction(1, 7))

        assert [one.counted[0].nano for one in await store.corrections(AT, AT + timedelta(1))] == [2, -1]

    async def test_a_reconciliation_without_a_rate_appends_nothing(self, store: Store, place: Place) -> None:
        """Not even what stands before it: a part of a cell would be charged to some of its teams only."""
        await charge(store, 400, MONTH)
        settings = settings_of(place)
        shipped, given = load_policies(default_folder()), [replace(BILLED, id="c0", team="chat"), BILLED]
        with pytest.raises(CommandError, match=r"^nothing was appended: .* has no rate between them"):
            await _apply(settings, shipped, given)
        assert await store.corrections(AT, AT + timedelta(1)) == []
        with pytest.raises(CommandError, match=r"^what stands before it was appended, and the rest not: .* with other contents"):
            await _apply(settings, shipped, [given[0], replace(given[0], nano=9)])
        assert [one.id for one in await store.corrections(AT, AT + timedelta(1))] == ["c0"]

    async def test_what_goes_beyond_a_limit_is_an_overrun_and_the_next_hold_is_refused(self, store: Store) -> None:
        await charge(store, 400, DAY)
        await store.hold(replace(ASKS, id="running", claims=(DAY,), nano=500, least=500, worst=500), "me", LEASE)

        await store.correct([replace(BILLED, nano=DAY.limit)])

        (state,) = await store.budgets(AT)
        assert (state.spent, state.held, state.overrun, state.peak_committed) == (10_400, 500, 900, 10_900)
        with pytest.raises(BudgetExceeded):
            await store.hold(replace(ASKS, id="next"), "me", LEASE)

    async def test_a_budget_gets_back_what_it_has_spent_and_the_rest_is_seen(self, store: Store) -> None:
        await charge(store, 400, DAY)

        await store.correct([replace(BILLED, nano=-300), replace(BILLED, id="more", nano=-300), replace(BILLED, id="again", nano=-1)])

        assert await spent(store) == {"day": 0}
        counted = [one.counted[0] for one in await store.corrections(AT, AT + timedelta(1))]
        assert [(one.nano, one.left_out) for one in counted] == [(-300, 0), (-100, -200), (0, -1)]

    async def test_what_was_given_back_may_be_spent_again(self, store: Store) -> None:
        await charge(store, DAY.limit, DAY)
        with pytest.raises(BudgetExceeded):
            await store.hold(replace(ASKS, id="r2"), "me", LEASE)

        await store.correct([replace(BILLED, nano=-1000)])

        assert (await store.hold(replace(ASKS, id="r2"), "me", LEASE)).nano >= 200

    async def test_they_are_append_only(self, store: Store, place: Place) -> None:
        await store.correct([BILLED])
        for change in ("UPDATE correction SET nano = 0", "DELETE FROM correction"):
            with pytest.raises(Exception, match="append-only"):
                await place.look(change)

    @pytest.mark.parametrize(
        "wrong", [replace(BILLED, id=""), replace(BILLED, cls="input"), replace(BILLED, nano=2**63)], ids=["id", "class", "amount"]
    )
    async def test_what_no_ledger_can_keep_is_refused(self, store: Store, wrong: Correction) -> None:
        with pytest.raises(CorrectionError):
            await store.correct([wrong])


async def test_they_are_on_the_disk_when_they_are_acknowledged(tmp_path: object) -> None:
    store = SqliteStore(f"{tmp_path}/ledger.db")
    await store.start()
    await store.correct([BILLED])
    assert store.flushes == 1
    await store.close()


NEW_YORK = "America/New_York"
# Where its clocks change: on 8 March and on 1 November. The first day of each period.
CHANGES: list[tuple[PeriodKind, str]] = [
    *(("day", "2026-11-01"), ("week", "2026-10-26"), ("month", "2026-11-01")),
    *(("day", "2026-03-08"), ("week", "2026-03-02"), ("month", "2026-03-01")),
]


@pytest.mark.parametrize("claimed_before", [False, True])
@pytest.mark.parametrize(("kind", "day"), CHANGES)
async def test_a_period_in_which_clocks_change_counts_from_its_first_second_to_its_last(
    store: Store, place: Place, kind: PeriodKind, day: str, claimed_before: bool
) -> None:
    """By the zone that the policies state."""
    start, second = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(NEW_YORK)).astimezone(UTC), timedelta(seconds=1)
    name, ends = period_of(kind, NEW_YORK, start)
    before = period_of(kind, NEW_YORK, start - second)
    assert ends is not None
    await charge(store, 400, Claim("search", "b", "", name, "USD", 9_000, ends))
    if claimed_before:
        await charge(store, 400, Claim("search", "b", "", before.name, "USD", 9_000, before.ends), id="r2")
    stated = {"budget": "b", "amount": "1", "currency": "USD", "period": kind, "zone": NEW_YORK}
    team = TeamRow.model_validate({"team": "search", "routes": ["*"], "budgets": [stated]})
    instants = {"before": start - second, "first": start, "last": ends - second, "after": ends}

    given = [replace(BILLED, id=id, at=at) for id, at in instants.items()]
    assert await _apply(settings_of(place), replaced(load_policies(default_folder()), teams={"search": team}), given) == 4

    counted = {one.id: [part.period for part in one.counted] for one in await store.corrections(instants["before"], ends + second)}
    assert counted == {"before": [before.name] if claimed_before else [], "first": [name], "last": [name], "after": []}


@pytest.mark.parametrize(("kind", "day"), CHANGES[:3])
async def test_where_no_file_states_the_zone_the_first_hour_counts_all_the_same(store: Store, kind: PeriodKind, day: str) -> None:
    """As of the budget that a key has to itself: where clocks go back, its day is longer than others."""
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(NEW_YORK)).astimezone(UTC)
    name, ends = period_of(kind, NEW_YORK, start)
    await charge(store, 400, Claim("search", "key", "search-1a2b3c", name, "USD", 9_000, ends))

    mine = replace(BILLED, key="search-1a2b3c")
    await store.correct([replace(mine, id=str(early), at=start - timedelta(seconds=early)) for early in (0, 1)])

    counted = {one.id: len(one.counted) for one in await store.corrections(start - timedelta(1), AT)}
    assert counted == {"0": 1, "1": 0}


def period(name: str, ends: datetime | None) -> BudgetState:
    return BudgetState("search", "b", "", name, "USD", 1, 1, 0, 1, 0, ends)


# In Berlin's night of 25 October 2026 the clock goes back: its day has 25 hours.
LONG = [period("2026-10-24", datetime(2026, 10, 24, 22, tzinfo=UTC)), period("2026-10-25", datetime(2026, 10, 25, 23, tzinfo=UTC))]
# And on 29 March it goes forward: its day has 23, so that by its length it would begin an hour earlier, in the day before.
SHORT = [period("2026-03-29", datetime(2026, 3, 29, 22, tzinfo=UTC)), period("2026-03-28", datetime(2026, 3, 28, 23, tzinfo=UTC))]
PERIODS = [period("2026-11-20", datetime(2026, 11, 21, tzinfo=UTC)), period("2026-11-21", datetime(2026, 11, 22, tzinfo=UTC))]
OTHERS = [period("2026-11-20T02+0000", datetime(2026, 11, 20, 3, tzinfo=UTC)), period("2026-W47", datetime(2026, 11, 23, tzinfo=UTC))]


@pytest.mark.parametrize(
    ("at", "states", "names"),
    [
        (datetime(2026, 11, 20, 2, 59, 59, tzinfo=UTC), [*PERIODS, *OTHERS], ["2026-11-20", "2026-11-20T02+0000", "2026-W47"]),
        (datetime(2026, 11, 20, 3, tzinfo=UTC), [*PERIODS, *OTHERS], ["2026-11-20", "2026-W47"]),
        (datetime(2026, 11, 21, tzinfo=UTC), [*PERIODS, *OTHERS], ["2026-11-21", "2026-W47"]),
        (datetime(2026, 11, 23, tzinfo=UTC), [*PERIODS, *OTHERS, period("total", None)], ["total"]),
        (datetime(2026, 10, 25, 22, 30, tzinfo=UTC), LONG, ["2026-10-25"]),
        (datetime(2026, 10, 24, 21, 30, tzinfo=UTC), LONG, ["2026-10-24"]),
        (datetime(2026, 3, 28, 22, 30, tzinfo=UTC), SHORT, ["2026-03-28"]),
        (datetime(2026, 3, 28, 22, 30, tzinfo=UTC), SHORT[::-1], ["2026-03-28"]),
    ],
)
def test_each_budget_has_one_period_of_a_kind(at: datetime, states: list[BudgetState], names: list[str]) -> None:
    assert [one.name[3] for one in wanted(replace(BILLED, at=at), states, same_currency, no_zone)] == names
