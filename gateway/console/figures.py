"""Figures as people read them: amounts exact to the last digit, whole numbers, shares, spans of time and instants."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.clock import instant_text
from gateway.console.markup import Html, join, tag
from gateway.money import NANO, decimal_text, exact_nano
from gateway.reports.writing import per_cent

# What stands where there is no figure: a dash.
NONE: Final = "\u2013"
_DIGITS: Final = 9
# Digits behind the point that are read at a glance; the others are exact, and smaller.
_GLANCE: Final = 4
_LEAST: Final = 2
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def places(nanos: Iterable[int]) -> int:
    """How many digits behind the point a column needs so that all of its amounts are exact, and stand under each other."""
    return max((len(decimal_text(nano).partition(".")[2]) for nano in nanos), default=_LEAST)


def amount(nano: int, digits: int | None = None) -> Html:
    """An amount, exact; with at least `digits` behind the point, or as many as it needs."""
    whole, fraction = divmod(abs(nano), NANO)
    shown = f"{fraction:0{_DIGITS}d}"[: max(digits or 0, places([nano]), _LEAST)]
    glance, rest = shown[:_GLANCE], shown[_GLANCE:]
    sign = "\u2212" if nano < 0 else ""
    return tag("span", f"{sign}{whole:,}.{glance}", tag("span", rest, class_="fine") if rest else None, class_="amount")


def money(nano: int, currency: str, digits: int | None = None) -> Html:
    return join(amount(nano, digits), " ", tag("span", currency, class_="unit"))


def signed(nano: int, currency: str) -> Html:
    """A difference, with its sign."""
    return join("+" if nano > 0 else None, money(nano, currency))


def nano_of(text: str) -> int:
    """The nano-units of an amount of the admin API, which may be below zero."""
    return -exact_nano(text[1:]) if text.startswith("-") else exact_nano(text)


def count(number: int) -> str:
    return f"{number:,}"


def share(part: int, whole: int) -> str:
    """A part in per cent, rounded as `faregate spend` rounds it: only the whole is 100 %, only nothing 0 %; NONE of nothing."""
    return f"{per_cent(part, whole)} %" if whole > 0 else NONE


def percent(part: float) -> str:
    return f"{100 * part:.1f} %"


def span(length: timedelta) -> str:
    """A length of time by its two largest units: "2 d 3 h", "14 min"."""
    seconds = max(0, int(length.total_seconds()))
    if seconds < _MINUTE:
        return f"{seconds} s"
    for size, unit, smaller, name in ((_DAY, "d", _HOUR, "h"), (_HOUR, "h", _MINUTE, "min")):
        if seconds >= size:
            whole, rest = divmod(seconds, size)
            return f"{whole} {unit} {rest // smaller} {name}" if rest >= smaller else f"{whole} {unit}"
    return f"{seconds // _MINUTE} min"


def instant(at: datetime, *, local: bool = False) -> Html:
    """An instant in UTC; the script adds the reader's own time, beside it where `local`."""
    known = at.astimezone(UTC)
    return tag("time", f"{known:%Y-%m-%d %H:%M:%S}", tag("span", " UTC", class_="unit"), datetime=instant_text(known), data_local=local)


def clock(at: datetime, *, local: bool = False) -> Html:
    """An instant without its seconds."""
    known = at.astimezone(UTC)
    return tag("time", f"{known:%Y-%m-%d %H:%M}", tag("span", " UTC", class_="unit"), datetime=instant_text(known), data_local=local)


def until(at: datetime, now: datetime) -> str:
    return f"in {span(at - now)}" if at > now else "now"
