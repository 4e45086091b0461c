"""Budgets: which ones a request falls under, in which period, and how a refusal is worded. Pure.

The ledger counts and decides; nothing here knows what is spent.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

from gateway.clock import instant_text
from gateway.conversions import Conversions
from gateway.errors import BudgetExceeded, PriceUnknown
from gateway.money import decimal_text
from gateway.outcome import BudgetState, Claim
from gateway.request import Caller, OwnBudget
from gateway.teams import RESERVED, BudgetRow, TeamRow

PeriodKind = Literal["hour", "day", "week", "month", "total"]
# The name of the budget that a key has to itself.
OWN: Final = RESERVED
# No grant is more than this part of what is left, so that the last of a budget is shared by all who run, and spent.
SHARE: Final = 512


class Period(NamedTuple):
    """One period of a budget: its name, unique and sortable for its kind, and the instant at which the next one begins."""

    name: str
    ends: datetime | None


def period(kind: PeriodKind, zone: str, at: datetime) -> Period:
    """The period that an instant falls into, by the wall clock of an IANA zone."""
    # No zone changes its offset, and none begins a day, but on a quarter of an hour.
    return _period(kind, zone, at.replace(minute=at.minute // 15 * 15, second=0, microsecond=0))


@lru_cache(maxsize=256)
def _period(kind: PeriodKind, zone: str, at: datetime) -> Period:
    if kind == "total":
        return Period("total", None)
    place = ZoneInfo(zone)
    local = at.astimezone(place)
    if kind == "hour":
        # An hour that the clock repeats in autumn is two: they differ in their offset.
        return Period(local.isoformat(timespec="minutes")[:13] + local.strftime("%z"), _hour_end(at, local))
    day = local.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    if kind == "day":
        return Period(day.strftime("%Y-%m-%d"), _begins(day + timedelta(1), place))
    if kind == "week":
        year, week, weekday = local.isocalendar()
        return Period(f"{year}-W{week:02d}", _begins(day + timedelta(8 - weekday), place))
    first = day.replace(day=1)
    return Period(first.strftime("%Y-%m"), _begins((first + timedelta(32)).replace(day=1), place))


def beginning(kind: Literal["day", "week", "month"], zone: str, at: datetime) -> datetime:
    """When the period began that an instant falls into; where clocks changed since, that is an hour off its usual length."""
    place = ZoneInfo(zone)
    day = at.astimezone(place).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    gone = {"day": 0, "week": day.weekday(), "month": day.day - 1}[kind]
    return _begins(day - timedelta(gone), place)


def _hour_end(at: datetime, local: datetime) -> datetime:
    return at + timedelta(minutes=60 - local.minute)


def _begins(day: datetime, place: ZoneInfo) -> datetime:
    return day.replace(tzinfo=place).astimezone(ZoneInfo("UTC"))


def claims(team: TeamRow | None, caller: Caller, currency: str, at: datetime, rates: Conversions) -> tuple[Claim, ...]:
    """Every budget that a charge in `currency` falls under; sorted, so that all who claim several take them in one order.

    Raises PriceUnknown where a budget is in another currency and the rate table has no rate: amounts never add.
    """
    found = [_claim(row, caller, currency, at, rates) for row in (team.budgets if team else ())]
    if caller.budget is not None:
        found.append(_own_claim(caller.budget, caller, currency, at, rates))
    return tuple(sorted(found, key=lambda claim: (claim.budget, claim.key)))


def check_currency(team: TeamRow | None, caller: Caller, currency: str, at: datetime, rates: Conversions) -> None:
    """Raises PriceUnknown, as `claims` would, where a charge in `currency` could not be counted in one of the budgets."""
    stated = [(row.budget, row.currency) for row in (team.budgets if team else ())]
    if caller.budget is not None:
        stated.append((OWN, caller.budget.currency))
    for name, its in stated:
        if its != currency:
            _rate(name, its, caller, currency, at, rates)


def _claim(row: BudgetRow, caller: Caller, currency: str, at: datetime, rates: Conversions) -> Claim:
    name, ends = period(row.period, row.zone, at)
    return Claim(
        team=caller.team,
        budget=row.budget,
        key=caller.key if row.per == "key" else "",
        period=name,
        currency=row.currency,
        limit=row.nano,
        resets_at=ends,
        rate=_rate(row.budget, row.currency, caller, currency, at, rates),
        finish=row.at_limit == "finish",
    )


def _own_claim(own: OwnBudget, caller: Caller, currency: str, at: datetime, rates: Conversions) -> Claim:
    name, ends = period(own.period, own.zone, at)
    rate = _rate(OWN, own.currency, caller, currency, at, rates)
    return Claim(caller.team, OWN, caller.key, name, own.currency, own.nano, ends, rate)


def _rate(budget: str, budget_currency: str, caller: Caller, currency: str, at: datetime, rates: Conversions) -> tuple[int, int]:
    rate = rates.rate(currency, budget_currency, at)
    if rate is None:
        raise PriceUnknown(
            f"Budget {budget} of team {caller.team} is in {budget_currency}, this request would be charged in {currency}, and "
            f"policies/rates.yaml has no rate between them at {instant_text(at)}. Remedy: state one there."
        )
    return rate.numerator, rate.denominator


def granted(asked: int, least: int, worst: int, held: int, left: int) -> int | None:
    """What one budget grants a hold in all, in its own currency; None: not even `least`.

    `held` is what this hold has already, `left` what nobody has. The worst case at once where it is a small part of what is
    left: then the hold need never be stretched. Else no more than a small part, and `least` as long as there is that much.
    """
    part = held + left // SHARE
    if worst <= part:
        return worst
    # What costs nothing fits in a budget that went beyond its limit, too.
    if least > max(0, held + left):
        return None
    return max(least, min(asked, part))


def exceeded(state: BudgetState, asked: int) -> BudgetExceeded:
    """The refusal with its arithmetic; `asked` is in the budget's currency."""
    until = f" It resets at {instant_text(state.resets_at)}." if state.resets_at else ""
    message = (
        f"Budget {state.budget} of {whose(state)}: {decimal_text(state.spent)} spent and {decimal_text(state.held)} held of "
        f"{decimal_text(state.limit)} {state.currency}; this request needs {decimal_text(asked)} more.{until}"
    )
    return BudgetExceeded(message, details=arithmetic(state, asked))


def whose(state: BudgetState) -> str:
    """`team search`, or `key search-1` where the budget is one key's."""
    return f"key {state.key}" if state.key else f"team {state.team}"


def arithmetic(state: BudgetState, asked: int | None) -> dict[str, Any]:
    """The details of a refusal: decimal texts in the budget's currency; None where what was asked has no price in it."""
    return {
        "budget": state.budget,
        "currency": state.currency,
        **{name: decimal_text(getattr(state, name)) for name in ("limit", "spent", "held")},
        "asked": None if asked is None else decimal_text(asked),
        "resets_at": instant_text(state.resets_at) if state.resets_at else None,
    }


def left_text(budgets: tuple[BudgetState, ...]) -> str:
    """What is left of each budget, as `x-faregate-budget-left` shows it: `day=0.2 USD, month=1.25 USD`."""
    return ", ".join(_lefts(budgets))


def _lefts(budgets: tuple[BudgetState, ...]) -> Iterator[str]:
    for state in budgets:
        yield f"{state.budget}={decimal_text(state.left)} {state.currency}"
