"""Standings: how budgets are doing at an instant, out of what the ledger has of them and what the policies state. Pure.

The ledger knows a budget once a hold has claimed it; one that nobody has claimed in its period yet stands at zero.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple

from msgspec.structs import replace

from gateway.budgets import OWN, beginning, period
from gateway.clock import instant_text
from gateway.money import NANO, decimal_text
from gateway.outcome import BudgetState
from gateway.request import Caller, OwnBudget
from gateway.teams import BudgetRow, TeamRow

# A budget's team, name, key ("" where it is the team's), period and currency.
Name = tuple[str, str, str, str, str]
_MICROSECOND: Final = timedelta(microseconds=1)
_HOUR: Final = timedelta(hours=1)
# No forecast before one fiftieth of the period is over.
_PART: Final = 50
_CENT: Final = NANO // 100


class Standing(NamedTuple):
    """One budget now; `forecast` is what it will have spent at the end of its period if it goes on so, None while that is
    a guess. `in_force` is False for what the policies state no more (or state in another period or currency): it is only history.
    """

    state: BudgetState
    forecast: int | None
    in_force: bool

    def to_json(self) -> dict[str, Any]:
        state = self.state
        amounts = {name: decimal_text(getattr(state, name)) for name in ("limit", "spent", "held", "peak_committed", "overrun", "left")}
        return {
            "team": state.team,
            "budget": state.budget,
            "key": state.key or None,
            "period": state.period,
            "currency": state.currency,
            **amounts,
            "forecast": None if self.forecast is None else decimal_text(self.forecast),
            "resets_at": instant_text(state.resets_at) if state.resets_at else None,
            "in_force": self.in_force,
        }


def standings(teams: Mapping[str, TeamRow], states: Iterable[BudgetState], at: datetime) -> tuple[Standing, ...]:
    """Every budget that the ledger has or the policies state, by team, budget and key; limits are those of the policies now."""
    wanted = {(team.team, row.budget): (row, _unclaimed(team, row, at)) for team in teams.values() for row in team.budgets}
    found = [_standing(state, wanted.get((state.team, state.budget)), at) for state in states]
    claimed = {(one.state.team, one.state.budget) for one in found if one.in_force}
    # Whose keys would have a budget each is not known before they ask.
    found += [Standing(zero, None, True) for name, (row, zero) in wanted.items() if row.per == "team" and name not in claimed]
    return tuple(sorted(found, key=lambda one: named(one.state)))


def _unclaimed(team: TeamRow, row: BudgetRow, at: datetime) -> BudgetState:
    name, ends = period(row.period, row.zone, at)
    return BudgetState(team.team, row.budget, "", name, row.currency, row.nano, 0, 0, 0, 0, ends)


def _standing(state: BudgetState, stated: tuple[BudgetRow, BudgetState] | None, at: datetime) -> Standing:
    if stated is None:
        # The budget of a key to itself is in no file.
        return Standing(state, forecast(state, at), state.budget == OWN)
    row, zero = stated
    in_force = (state.period, state.currency, bool(state.key)) == (zero.period, zero.currency, row.per == "key")
    shown = replace(state, limit=zero.limit) if in_force else state
    return Standing(shown, forecast(shown, at, row.zone), in_force)


def forecast(state: BudgetState, at: datetime, zone: str | None = None) -> int | None:
    """spent + spent / elapsed x remaining, rounded up; None without an end, and until 2 % of the period are over (and an
    hour, where the period is longer than that)."""
    start = began(state, zone)
    if state.resets_at is None or start is None:
        return None
    elapsed, remaining = at - start, state.resets_at - at
    length = elapsed + remaining
    if elapsed < max(length // _PART, min(_HOUR, length - _HOUR)) or remaining < timedelta(0):
        return None
    return state.spent - (-state.spent * (remaining // _MICROSECOND) // (elapsed // _MICROSECOND))


def zone_of(teams: Mapping[str, TeamRow], state: BudgetState) -> str | None:
    """The zone by whose days the policies count a budget; None where they do not state it, such as the budget of a key to itself."""
    rows = teams[state.team].budgets if state.team in teams else ()
    return next((row.zone for row in rows if row.budget == state.budget), None)


def began(state: BudgetState, zone: str | None) -> datetime | None:
    """When the period of a budget began; None for one without an end. `zone` is that of its days (see zone_of).

    Without it, or where it is another one by now, the clocks are taken not to have changed within the period.
    """
    if state.resets_at is None or state.period == "total":
        return None
    if "T" in state.period:
        # An hour that the clock repeats has a name of its own.
        return state.resets_at - _HOUR
    kind, length = _kind(state.period)
    usual = state.resets_at - length
    within = usual + 2 * _HOUR
    if zone is None or period(kind, zone, within) != (state.period, state.resets_at):
        return usual
    return beginning(kind, zone, within)


def _kind(name: str) -> tuple[Literal["day", "week", "month"], timedelta]:
    """What the period of this name is, and how long it is, but for a change of the clock within it."""
    if "W" in name:
        return "week", timedelta(days=7)
    year, month, *day = map(int, name.split("-"))
    return ("day", timedelta(days=1)) if day else ("month", timedelta(days=monthrange(year, month)[1]))


def summed(found: Iterable[Standing]) -> Iterator[BudgetState]:
    """The budgets in force with the parts of all keys added up: one for each team and name."""
    totals: dict[tuple[str, str, str], BudgetState] = {}
    for state in (one.state for one in found if one.in_force):
        name = (state.team, state.budget, state.currency)
        totals[name] = _plus(totals[name], state) if name in totals else state
    yield from totals.values()


def _plus(one: BudgetState, other: BudgetState) -> BudgetState:
    return replace(one, key="", limit=one.limit + other.limit, spent=one.spent + other.spent, held=one.held + other.held)


def named(state: BudgetState) -> Name:
    return state.team, state.budget, state.key, state.period, state.currency


def mine(team: TeamRow | None, caller: Caller, known: Mapping[Name, BudgetState], at: datetime) -> tuple[BudgetState, ...]:
    """Every budget that a request of this caller falls under, with what is spent of it and its limit as the policies have it now."""
    wanted = [_blank(row, caller, at) for row in (team.budgets if team else ())]
    if caller.budget is not None:
        wanted.append(_own(caller.budget, caller, at))
    found = ((blank, known.get(named(blank))) for blank in wanted)
    return tuple(replace(claimed, limit=blank.limit) if claimed else blank for blank, claimed in found)


def _blank(row: BudgetRow, caller: Caller, at: datetime) -> BudgetState:
    name, ends = period(row.period, row.zone, at)
    key = caller.key if row.per == "key" else ""
    return BudgetState(caller.team, row.budget, key, name, row.currency, row.nano, 0, 0, 0, 0, ends)


def _own(own: OwnBudget, caller: Caller, at: datetime) -> BudgetState:
    name, ends = period(own.period, own.zone, at)
    return BudgetState(caller.team, OWN, caller.key, name, own.currency, own.nano, 0, 0, 0, 0, ends)


def balance(budgets: Iterable[BudgetState]) -> dict[str, Any]:
    """What is left, as DeepSeek's GET /user/balance says it: of each currency the tightest budget, never more than there is.

    Without a budget nothing is limited, so no figure would be true: the list is empty.
    """
    tightest: dict[str, int] = {}
    for state in budgets:
        tightest[state.currency] = min(state.left, tightest.get(state.currency, state.left))
    return {
        "is_available": all(left > 0 for left in tightest.values()),
        "balance_infos": [_balance_info(currency, left) for currency, left in sorted(tightest.items())],
    }


def _balance_info(currency: str, left: int) -> dict[str, str]:
    whole, cents = divmod(left // _CENT, 100)
    total = f"{whole}.{cents:02d}"
    return {"currency": currency, "total_balance": total, "granted_balance": "0.00", "topped_up_balance": total}
