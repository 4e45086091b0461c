"""Budgets: what is spent, held and left of each, and when it begins anew."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from gateway.admin.budgets import present
from gateway.console.desk import Desk
from gateway.console.figures import NONE, amount, clock, money, places, share, until
from gateway.console.frame import Ask, Cell, Column, Page, bar, commands, empty, heading, mark, section, table
from gateway.console.markup import Html, join, tag
from gateway.standings import Standing

_COLUMNS: Final = (
    Column("Team"),
    Column("Budget"),
    Column("Used", sort=True),
    Column("Spent", number=True),
    Column("Held", number=True, hint="for requests under way"),
    Column("Left", number=True),
    Column("Limit", number=True),
    Column("By the end", number=True, hint="what will be spent if it goes on so"),
    Column("Begins anew"),
)


async def budgets(desk: Desk, _ask: Ask) -> Page:
    found = await present(desk.budgets)
    now = desk.now()
    title = heading("Budgets", note="Held is money for requests under way; a request starts only where its hold fits.")
    if not found:
        return Page("Budgets", "/budgets", join(title, _none(desk)), refresh=5)
    digits = places(nano for one in found for nano in (one.state.spent, one.state.held, one.state.left, one.state.limit))
    after = places(one.forecast for one in found if one.forecast is not None)
    rows = [_row(one, digits, after, now) for one in found]
    made = table("budgets", "Budgets of all teams", _COLUMNS, rows, hide_caption=True)
    return Page("Budgets", "/budgets", join(title, section("present", "Present periods", made)), refresh=5)


def _row(one: Standing, digits: int, after: int, now: datetime) -> tuple[Cell, ...]:
    state = one.state
    committed = state.spent + state.held
    return (
        Cell(state.team),
        Cell(_name(one), f"{state.budget} {state.key}"),
        Cell(_use(one), _used(one)),
        Cell(amount(state.spent, digits), state.spent),
        Cell(amount(state.held, digits), state.held),
        Cell(amount(state.left if committed <= state.limit else state.limit - committed, digits), state.limit - committed),
        Cell(money(state.limit, state.currency, digits), state.limit),
        Cell(NONE if one.forecast is None else _forecast(one.forecast, state.limit, after), one.forecast or 0),
        _resets(state.resets_at, now),
    )


def _resets(at: datetime | None, now: datetime) -> Cell:
    if at is None:
        return Cell("never", 1 << 40)
    return Cell(join(clock(at, local=True), tag("span", until(at, now), class_="note")), int(at.timestamp()))


def _used(one: Standing) -> int:
    return 1000 * (one.state.spent + one.state.held) // (one.state.limit or 1)


def _name(one: Standing) -> Html:
    state = one.state
    whose = f"key {state.key}" if state.key else None
    committed = state.spent + state.held
    worry = None
    if not one.in_force:
        worry = mark("not in force")
    elif 10 * committed >= 9 * state.limit:
        worry = mark("used up", "bad") if committed >= state.limit else mark("nearly used up", "warn")
    period = "in total" if state.period == "total" else state.period
    return join(state.budget, " ", worry, tag("span", " · ".join(filter(None, (whose, period))), class_="note"))


def _use(one: Standing) -> Html:
    state = one.state
    committed = state.spent + state.held
    text = share(committed, state.limit)
    said = f"{share(state.spent, state.limit)} spent, {share(state.held, state.limit)} held of {state.budget}"
    drawn = bar(said, [("over" if committed >= state.limit else "spent", state.spent), ("held", state.held)], state.limit)
    return tag("span", drawn, tag("span", text), class_="part wide")


def _forecast(nano: int, limit: int, digits: int) -> Html:
    return join(amount(nano, digits), " ", mark("too much", "warn") if nano > limit else None)


def _none(desk: Desk) -> Html:
    lines = (
        "# policies/teams/search.yaml",
        "team: search",
        "routes: [deepseek-*]",
        "budgets:",
        '  - {budget: month, amount: "500.00", currency: USD, period: month, zone: UTC}',
    )
    what = "No team has a budget." if desk.policies.teams else "No team has a file, so nothing is limited."
    next_step = (
        tag("p", "A budget is a file that is reviewed like code; the gateway takes it over as soon as it is there:"),
        commands(*lines, name="A team with a budget"),
        tag("p", "A key can have a budget of its own: make one under ", tag("a", "Keys", href="/keys"), "."),
    )
    return section("none", "No budgets yet", empty(what, *next_step))
