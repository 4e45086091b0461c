"""What the host hands out about its bill: DeepSeek's usage export in both of its shapes, OpenRouter's records of generations.

Made of the bill alone: day sums of tokens at each price, exact, as the real files have them, and no request of ours by name.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from fractions import Fraction
from typing import NamedTuple

from gateway.emulator.book import NANO, amount_text
from gateway.emulator.reader import Row, instant

_TYPES = (("input_cache_hit_tokens", "hit"), ("input_cache_miss_tokens", "miss"), ("output_tokens", "output"))
_USER = "emulated-user"
_SHOWN = 6


class ExportRefused(ValueError):
    """Parameters that no export has; the text says which are known."""


class _Place(NamedTuple):
    """One line of an export: a day, a model, a key."""

    day: date
    model: str
    account: str


def offset_of(text: str) -> timezone:
    """`+08:00` as a zone: the viewer's, in which the new export has its days."""
    try:
        sign, hours, minutes = text[:1], int(text[1:3]), int(text[4:6] or 0)
        return timezone((-1 if sign == "-" else 1) * timedelta(hours=hours, minutes=minutes))
    except ValueError:
        raise ExportRefused(f"offset {text!r} is not one such as +08:00") from None


def tables(rows: Iterable[Row], columns: str, zone: timezone) -> dict[str, str]:
    """The amount and the cost file by their names; days are those of UTC in the old one, of the viewer's zone in the new."""
    if columns not in ("new", "old"):
        raise ExportRefused("columns are new or old")
    billed = [row for row in rows if row.get("rates")]
    zone = UTC if columns == "old" else zone
    places: dict[_Place, list[Row]] = {}
    for row in billed:
        places.setdefault(_Place(instant(row["at"]).astimezone(zone).date(), row["model"], row["account"]), []).append(row)
    names = {account: f"key-{number}" for number, account in enumerate(dict.fromkeys(row["account"] for row in billed), 1)}
    days = sorted({place.day for place in places}) or [date(1970, 1, 1)]
    if columns == "old":
        name = f"{days[0].year}-{days[0].month}"
    else:
        name = f"{days[0].isoformat()}_{days[-1].isoformat()}"
    return {f"amount-{name}.csv": _amounts(places, names, columns, zone), f"cost-{name}.csv": _costs(places, columns, zone)}


def archive(files: Mapping[str, str]) -> bytes:
    """The files in one ZIP, as the console hands them out."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as folder:
        for name, text in files.items():
            folder.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), text)
    return data.getvalue()


def generations(rows: Iterable[Row]) -> str:
    """Records of `GET /generation`, one a line, with the cost as the exact number that the answer had."""
    return "".join(_generation(number, row) for number, row in enumerate(rows, 1))


def _amounts(places: Mapping[_Place, list[Row]], names: Mapping[str, str], columns: str, zone: timezone) -> str:
    lines = [[*_dated(columns), "model", "api_key_name", "api_key", "type", "price", "amount"]]
    for place, rows in sorted(places.items()):
        head = [*_day(place.day, columns, zone), place.model, names[place.account], _masked(place.account)]
        for index, (kind, name) in enumerate(_TYPES):
            sums: dict[int, int] = {}
            for row in rows:
                sums[row["rates"][index]] = sums.get(row["rates"][index], 0) + row[name]
            lines += [[*head, kind, _price(rate), str(tokens)] for rate, tokens in sorted(sums.items()) if tokens]
        lines.append([*head, "request_count", "", str(len(rows))])
    return _csv(lines)


def _costs(places: Mapping[_Place, list[Row]], columns: str, zone: timezone) -> str:
    sums: dict[tuple[date, str, str], Fraction] = {}
    for place, rows in places.items():
        for row in rows:
            cell = place.day, place.model, row["currency"]
            sums[cell] = sums.get(cell, Fraction(0)) + _exact(row)
    lines = [[*_dated(columns), "model", "wallet_type", "cost", "currency"]]
    lines += [
        [*_day(day, columns, zone), model, "TOPPED_UP", _plain(Fraction(round(cost), NANO)), currency]
        for (day, model, currency), cost in sorted(sums.items())
    ]
    return _csv(lines)


def _dated(columns: str) -> list[str]:
    return ["user_id", "utc_date"] if columns == "old" else ["user_id", "start_time_iso", "end_time_iso"]


def _day(day: date, columns: str, zone: timezone) -> list[str]:
    if columns == "old":
        return [_USER, day.isoformat()]
    start, end = (datetime.combine(each, time(), zone).isoformat() for each in (day, day + timedelta(days=1)))
    return [_USER, start, end]


def _exact(row: Row) -> Fraction:
    """In nano, unrounded."""
    hit, miss, output = row["rates"]
    return Fraction(row["hit"] * hit + row["miss"] * miss + row["output"] * output, 10**6)


def _price(rate: int) -> str:
    """Of one token."""
    return _plain(Fraction(rate, 10**6 * NANO))


def _plain(amount: Fraction) -> str:
    """A decimal number without an exponent."""
    digits = 0
    while (amount * 10**digits).denominator != 1:
        digits += 1
    text = str(int(amount * 10**digits)).rjust(digits + 1, "0")
    return f"{text[:-digits]}.{text[-digits:]}" if digits else text


def _masked(key: str) -> str:
    return f"{key[:_SHOWN]}********{key[-4:]}"


def _csv(lines: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _generation(number: int, row: Row) -> str:
    fields = {
        "id": f"gen-{number:024d}",
        "created_at": row["at"],
        "model": row["model"],
        "native_tokens_prompt": row["hit"] + row["miss"],
        "native_tokens_cached": row["hit"],
        "native_tokens_completion": row["output"],
        "native_tokens_reasoning": row["reasoning"],
        "cancelled": row["outcome"] == "cancelled",
        "native_finish_reason": row["finish"],
        "is_byok": False,
    }
    cost = amount_text(_exact(row) / NANO) if row.get("rates") else "0"
    return f'{{"data": {json.dumps(fields)[:-1]}, "total_cost": {cost}}}}}\n'
