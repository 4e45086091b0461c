"""What is asked for when a key is made, checked: the words of the command line and of the admin API."""

from __future__ import annotations

import difflib
import re
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, ValidationError

from gateway.clock import parse_instant
from gateway.keys.port import KeyProblem
from gateway.keys.secret import MARK
from gateway.money import exact_nano
from gateway.notation import Currency, Price, Zone
from gateway.policies import Policies
from gateway.policy_files import keys_of, suggest
from gateway.request import OwnBudget
from gateway.rows import Row

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SPAN: Final = re.compile(r"(\d{1,6})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _name(text: str) -> str:
    # Not shown again: it may be a key that was put in the wrong place.
    if not _NAME.fullmatch(text) or text.startswith(MARK):
        raise ValueError(f"must be up to 64 letters, digits, '.', '_' or '-', and may not begin with {MARK}")
    return text


def _span(text: str) -> str:
    span(text)
    return text


def _until(text: str) -> str:
    if not _SPAN.fullmatch(text):
        _instant(text)
    return text


def _some(amount: str) -> str:
    if not exact_nano(amount):
        raise ValueError("a budget of 0 refuses every request: state an amount, or no budget")
    return amount


Name = Annotated[str, AfterValidator(_name)]


class OwnRow(Row):
    """The budget of one key; amounts are decimal strings."""

    amount: Annotated[Price, AfterValidator(_some)]
    currency: Currency = "USD"
    period: Literal["hour", "day", "week", "month", "total"] = "month"
    zone: Zone = "UTC"

    def budget(self) -> OwnBudget:
        return OwnBudget(exact_nano(self.amount), self.currency, self.period, self.zone)


class Order(Row):
    """A new key. `expires` is a span from now (90d) or an instant."""

    team: Name
    name: Name | None = None
    expires: Annotated[str, AfterValidator(_until)] | None = None
    budget: OwnRow | None = None


class Rotation(Row):
    """A successor; the old key works for `grace` more. `expires` as in Order; None: a lifetime as the old key's."""

    grace: Annotated[str, AfterValidator(_span)] = "0s"
    expires: Annotated[str, AfterValidator(_until)] | None = None


def checked(kind: type[Order] | type[Rotation], fields: Any) -> Any:
    """The fields as a row of this kind; KeyProblem with one line for all that is wrong with them."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise KeyProblem("; ".join(_problem(entry, kind) for entry in error.errors(include_url=False))) from None


def _problem(entry: Any, kind: type[Row]) -> str:
    loc, given = entry["loc"], entry["input"]
    where = ".".join(str(part) for part in loc) or "the body"
    if entry["type"] == "extra_forbidden":
        return f"{where}: is not a known field. {suggest(str(loc[-1]), keys_of(kind, loc[:-1]))}"
    # Only a number is shown again: a text may be a key that was put in the wrong place.
    if entry["type"] == "string_type" and isinstance(given, (int, float)) and not isinstance(given, bool):
        return f'{where}: must be a text, not the number {given}. Hint: write it in quotes, "{given}"'
    reason = entry["msg"].removeprefix("Value error, ")
    return f"{where}: {reason[:1].lower()}{reason[1:]}"


def fits(order: Order, policies: Policies, at: datetime) -> None:
    """KeyProblem where no policy knows the team, or no charge could be converted to the budget's currency."""
    teams = policies.teams
    if teams and order.team not in teams:
        near = difflib.get_close_matches(order.team, teams, 3) or sorted(teams)[:10]
        raise KeyProblem(f"team: no file in policies/teams/ is for it. Remedy: write one, or use {', '.join(near)}.")
    if order.budget is None:
        return
    billed = {card.currency for card in policies.prices.cards()}
    if all(policies.rates.rate(currency, order.budget.currency, at) is None for currency in billed):
        raise KeyProblem(
            f"budget.currency: no price is in {order.budget.currency} or has a rate to it. Remedy: use {' or '.join(sorted(billed))}."
        )


def span(text: str) -> timedelta:
    """A length of time such as 90d, 12h, 30m, 45s or 2w."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise ValueError("must be a length of time such as 90d, 12h or 30m")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def instant_of(text: str, now: datetime) -> datetime:
    """The instant at which a key ends: a span from now, or an instant to come."""
    at = later(now, span(text)) if _SPAN.fullmatch(text) else _instant(text)
    if at <= now:
        raise KeyProblem("expires: lies in the past, so the key would never work")
    return at


def later(now: datetime, length: timedelta) -> datetime:
    """A whole second, not before that length of time is over."""
    try:
        at = now + length
        return at.replace(microsecond=0) + timedelta(seconds=at.microsecond > 0)
    except OverflowError:
        raise KeyProblem("expires: lies beyond the year 9999") from None


def _instant(text: str) -> datetime:
    try:
        return parse_instant(text)
    except (ValueError, OverflowError):
        raise ValueError("must be a length of time such as 90d, or an instant with a zone such as 2026-12-31T00:00:00Z") from None
