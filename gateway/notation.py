"""Notation: how people write a price, a currency, a time zone and hours, and what they may have meant where they wrote it otherwise."""

from __future__ import annotations

import re
from difflib import SequenceMatcher, get_close_matches
from fractions import Fraction
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import AfterValidator, WithJsonSchema

from gateway.money import exact_nano

_DECIMAL = re.compile(r"\d+(\.\d+)?")
_GROUPED = re.compile(r"[1-9]\d{0,2}(?:([,.])\d{3})(?:\1\d{3})*")
_NEAR = Fraction(4, 5)
_CURRENCY = re.compile(r"[A-Z]{3}")
_CALLED = {"dollar": "USD", "dollars": "USD", "us$": "USD", "$": "USD", "yuan": "CNY", "rmb": "CNY"}
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(([01]\d|2[0-3]):([0-5]\d)|24:00)")


def _decimal(text: str) -> str:
    if not _DECIMAL.fullmatch(text):
        guesses = " or ".join(f'"{guess}"' for guess in decimals(text))
        hint = f"write it as {guesses}" if guesses else 'write digits and a dot, such as "0.66"'
        raise ValueError(f"is not a plain decimal: {text!r}. Hint: {hint}")
    return text


def decimals(text: str) -> tuple[str, ...]:
    """The plain decimals that a number may have been meant as: 5,00 -> 5.00; two for 1,000, whose comma may be either; perhaps none."""
    bare = re.sub(r"^([A-Z]{3}|[$¥￥€])|([A-Z]{3}|[$¥￥€])$", "", text.strip()).strip().replace("\uff0c", ",")
    bare = re.sub(r"(?<=\d)[ _'](?=\d{3})", "", bare)
    whole, mark, places = bare.rpartition("," if bare.rfind(",") > bare.rfind(".") else ".")
    if _GROUPED.fullmatch(bare) and (mark == "," or "." in whole):
        found = [re.sub("[.,]", "", bare), bare.replace(",", ".")]
    elif mark and _GROUPED.fullmatch(whole) and mark not in whole:
        found = [re.sub("[.,]", "", whole) + f".{places}"]
    else:
        found = [f"{whole or '0'}.{places}" if mark and places else whole or bare]
    return tuple(guess for guess in found if _DECIMAL.fullmatch(guess))


def _currency(text: str) -> str:
    if not _CURRENCY.fullmatch(text):
        known = _CALLED.get(text.strip().lower()) or text.strip().upper()
        hint = known if _CURRENCY.fullmatch(known) else "USD or CNY"
        raise ValueError(f"must be a currency code in capitals such as USD or CNY, not {text!r}. Hint: write {hint}")
    return text


def _price(text: str) -> str:
    exact_nano(_decimal(text))
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        near = _near_zone(name)
        hint = f"did you mean {near}?" if near else "write UTC or Asia/Shanghai"
        raise ValueError(f"is not an IANA time zone: {name!r}. Hint: {hint}") from None
    return name


def _near_zone(name: str) -> str | None:
    # Zones with a number are no answer to a misspelling: the sign of Etc/GMT+8 is the other way round.
    known = {zone.lower(): zone for zone in sorted(available_timezones()) if not re.search(r"\d", zone)}
    city = next((zone for low, zone in known.items() if low.rpartition("/")[2] == name.lower()), None)
    # Further off it is another city that only begins alike: Asia/Beirut for Asia/Bejing.
    near = (low for low in get_close_matches(name.lower(), known, n=1) if SequenceMatcher(None, low, name.lower()).ratio() >= _NEAR)
    return known.get(next(near, "")) or city


def _hours(text: str) -> str:
    if not _HOURS.fullmatch(text):
        raise ValueError(f'is not a span of hours: {text!r}. Hint: write it as "01:00-04:00"; the latest end is 24:00')
    start, end = text.split("-")
    if end == "00:00":
        raise ValueError(f'{text} ends at midnight. Hint: write "{start}-24:00"')
    if end <= start:
        split = f'"{start}-24:00" and "00:00-{end}"'
        raise ValueError(f"{text} crosses midnight. Hint: split it in two, {split}, or state it in a zone where it does not")
    return text


def _pattern(pattern: re.Pattern[str]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern.pattern}$"})


DecimalText = Annotated[str, AfterValidator(_decimal), _pattern(_DECIMAL)]
Price = Annotated[str, AfterValidator(_price), _pattern(_DECIMAL)]
Zone = Annotated[str, AfterValidator(_zone)]
Hours = Annotated[str, AfterValidator(_hours), _pattern(_HOURS)]
Currency = Annotated[str, AfterValidator(_currency), _pattern(_CURRENCY)]
