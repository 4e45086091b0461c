"""The view of budgets: of this process's grants at once, of other replicas' at the next reading; away, what was seen stands."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.budget_view import BudgetView
from gateway.clock import parse_instant
from gateway.errors import LedgerUnavailable
from gateway.money import NANO
from gateway.outcome import BudgetState
from gateway.request import Caller, OwnBudget
from gateway.steps import NO_STEP
from gateway.teams import TeamRow

NOW = parse_instant("2026-11-20T12:00:00Z")
CALLER = Caller("search", "search-1")
BUDGET = {"budget": "month", "amount": "10", "currency": "USD", "period": "month"}


def team(*budgets: dict[str, Any]) -> TeamRow:
    return TeamRow.model_validate({"team": "search", "routes": ["*"], "budgets": budgets, "steps": [{"at": 80, "max_output": 100}]})


def state(spent: int, held: int = 0, budget: str = "month", key: str = "", **more: Any) -> BudgetState:
    facts = {"team": "search", "period": "2026-11", "currency": "USD", "limit": 10 * NANO, "peak_committed": 0, "overrun": 0}
    return BudgetState(**{**facts, "budget": budget, "key": key, "spent": spent, "held": held, "resets_at": None, **more})


class Book:
    """A ledger's budgets; `while_reading` runs between the question and the answer."""

    def __init__(self, *states: BudgetState) -> None:
        self.states = list(states)
        self.away = False
        self.readings = asyncio.Semaphore(0)
        self.while_reading: Any = None

    async def budgets(self, at: Any, team: str | None = None) -> list[BudgetState]:
        self.readings.release()
        if self.away:
            raise LedgerUnavailable("away")
        found = list(self.states)
        if self.while_reading:
            self.while_reading()
        return found

    async def read(self, times: int) -> None:
        """Until it has been asked so often from now on; all but the last answer have been taken then."""
        while not self.readings.locked():
            await self.readings.acquire()
        for _ in range(times):
            await asyncio.wait_for(self.readings.acquire(), 5)


def step_at(view: BudgetView, row: TeamRow, caller: Caller = CALLER) -> int:
    return view.step(row, caller, NOW).at


def test_a_grant_of_this_process_counts_at_once() -> None:
    view = BudgetView()
    assert step_at(view, team(BUDGET)) == 0
    view.learn([state(7 * NANO, NANO)])
    assert step_at(view, team(BUDGET)) == 80
    view.learn([state(7 * NANO, NANO - 1)])
    assert step_at(view, team(BUDGET)) == 0


def test_the_limit_is_that_of_the_policies_now() -> None:
    view = BudgetView()
    view.learn([state(8 * NANO)])
    assert [step_at(view, team({**BUDGET, "amount": amount})) for amount in ("10", "11", "1")] == [80, 0, 80]


def test_another_period_currency_key_or_team_does_not_count() -> None:
    view = BudgetView()
    view.learn(
        [state(9 * NANO, period="2026-10"), state(9 * NANO, currency="CNY"), state(9 * NANO, key="search-2"), state(9 * NANO, team="x")]
    )
    assert step_at(view, team(BUDGET)) == step_at(view, team({**BUDGET, "per": "key"})) == 0


def test_a_keys_own_budget_reaches_the_steps_of_its_team() -> None:
    view = BudgetView()
    caller = Caller("search", "search-1", OwnBudget(2 * NANO, "USD", "month"))
    view.learn([state(2 * NANO, budget="key", key="search-1")])
    assert (step_at(view, team(), caller), step_at(view, team())) == (80, 0)


def test_a_team_without_steps_or_without_a_file_has_none() -> None:
    view = BudgetView()
    view.learn([state(10 * NANO)])
    assert view.step(None, CALLER, NOW) is NO_STEP
    assert view.step(TeamRow(team="search", routes=("*",)), CALLER, NOW) is NO_STEP


async def test_a_reading_replaces_what_was_seen_but_not_what_grants_said_meanwhile() -> None:
    view, book = BudgetView(), Book(state(1), state(2, budget="day"))
    view.learn([state(9, budget="gone")])
    book.while_reading = lambda: view.learn([state(3, budget="day")])

    await view.refresh(book, NOW)  # type: ignore[arg-type]

    assert {one.budget: one.spent for one in view.states()} == {"month": 1, "day": 3}


class Still:
    def now(self) -> Any:
        return NOW

    def monotonic(self) -> float:
        return 0.0


async def test_it_goes_on_reading_while_the_ledger_is_away_and_ends_when_told() -> None:
    view, book, stop = BudgetView(), Book(state(1)), asyncio.Event()
    watching = asyncio.create_task(view.watch(book, Still(), stop, every=0.0001))  # type: ignore[arg-type]
    await book.read(2)
    book.away = True
    await book.read(4)
    assert [one.spent for one in view.states()] == [1]
    book.away, book.states = False, [state(2)]
    await book.read(2)
    assert [one.spent for one in view.states()] == [2]
    stop.set()
    await asyncio.wait_for(watching, 5)
