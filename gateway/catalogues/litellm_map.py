"""litellm's price map: US dollars per token, read as decimals from its text, because that text is the price.

The base rates are the peak's. `off_peak_pricing` replaces them in its windows, which are hours of UTC on weekdays of UTC or of
`weekday_timezone`; a rate that it leaves out is the base's. The map has no dates, no holidays and no currency.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

from gateway.catalogues.offers import MONDAY, Flagged, Offer, Reader, Unusable, Week, constant, fixed_zone, is_free, number, week_of
from gateway.money import Rates

IN_WHEEL = "litellm/model_prices_and_context_window_backup.json"
RESERVED = frozenset(("sample_spec", "fallback_generalizations"))
# litellm's provider -> our host, and the beginnings of its keys that are no part of the model's id.
PROVIDERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "azure_ai": ("azure", ("azure_ai/",)),
    "bedrock": ("bedrock", ("bedrock/", "bedrock/converse/")),
    "bedrock_converse": ("bedrock", ("bedrock/", "bedrock/converse/")),
    "deepinfra": ("deepinfra", ("deepinfra/",)),
    "deepseek": ("deepseek", ("deepseek/",)),
    "fireworks_ai": ("fireworks", ("fireworks_ai/",)),
    "gmi": ("gmi", ("gmi/",)),
    "nebius": ("nebius", ("nebius/",)),
    "novita": ("novita", ("novita/",)),
    "siliconflow": ("siliconflow", ("siliconflow/",)),
    "together_ai": ("together", ("together_ai/",)),
    "vertex_ai-deepseek_models": ("vertex", ("vertex_ai/",)),
}
MISS, OUTPUT = "input_cost_per_token", "output_cost_per_token"
HITS = ("cache_read_input_token_cost", "input_cost_per_token_cache_hit")
# Prices by the length of a prompt, for writing a cache, for reasoning: what no card can state.
BY_LENGTH = re.compile(r"_above_\d+k_tokens$")
_NAMES = {name: day for day, names in enumerate(("mon monday", "tue tuesday", "wed wednesday", "thu thursday", "fri friday",
                                                 "sat saturday", "sun sunday"), 1) for name in names.split()}  # fmt: skip
_SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]|24):([0-5]\d)")


def read(path: Path) -> str:
    """The map's text, out of a wheel too: nothing of the package is imported. Raises OSError, ValueError."""
    if path.suffix == ".whl":
        try:
            with zipfile.ZipFile(path) as wheel:
                return wheel.read(IN_WHEEL).decode()
        except (KeyError, zipfile.BadZipFile):
            raise ValueError(f"has no {IN_WHEEL}") from None
    return path.read_text("utf-8")


def offers(text: str, models: Mapping[tuple[str, str], str], round_noise: bool = False) -> Iterator[Offer | Flagged]:
    """Every entry for DeepSeek's models at our hosts. `models`: (host, model id in small letters) -> our name of the model.

    An entry of a host whose model we have no row for is flagged with model "". Raises ValueError for what is no such map.
    """
    entries = json.loads(text, parse_float=number)
    if not isinstance(entries, dict):
        raise ValueError("is no object of models")
    if not any(isinstance(entry, dict) and isinstance(entry.get("litellm_provider"), str) for entry in entries.values()):
        raise ValueError("has no model with a `litellm_provider`")
    for key, entry in entries.items():
        if key in RESERVED or not isinstance(entry, dict) or entry.get("mode", "chat") != "chat":
            continue
        host, prefixes = PROVIDERS.get(str(entry.get("litellm_provider")), ("", ()))
        if not host:
            continue
        model = next((found for id in _ids(key, prefixes) if (found := models.get((host, id.lower())))), "")
        if model:
            yield _offer(key, host, model, entry, round_noise)
        elif "deepseek" in key.lower():
            yield Flagged(key, host, "", "no row in policies/hosts")


def _ids(key: str, prefixes: tuple[str, ...]) -> Iterator[str]:
    yield key
    yield from (key.removeprefix(prefix) for prefix in prefixes if key.startswith(prefix))


def _offer(key: str, host: str, model: str, entry: dict[str, Any], round_noise: bool) -> Offer | Flagged:
    reader = Reader(round_noise)
    try:
        week = _week(entry, reader)
    except Unusable as reason:
        return Flagged(key, host, model, str(reason))
    ends = entry.get("deprecation_date")
    notes = (*dict.fromkeys(reader.notes), *((f"the catalogue says that it ends on {ends}",) if ends else ()))
    return Offer(key, host, model, week, notes, any(entry.get(name) is not None for name in HITS))


def _week(entry: dict[str, Any], reader: Reader) -> Week:
    _check(entry, reader)
    base = _rates(entry, entry, reader)
    if is_free(base):
        raise Unusable("costs 0 in and out: free or not known, which the catalogue does not tell apart")
    pricing = entry.get("off_peak_pricing")
    if pricing is None:
        return constant(base)
    if not isinstance(pricing, dict):
        raise Unusable("`off_peak_pricing` is no object")
    off, cheap = _rates(pricing, entry, reader), _minutes(pricing)
    return week_of(lambda minute: off if minute in cheap else base)


def _check(entry: dict[str, Any], reader: Reader) -> None:
    if entry.get("tiered_pricing") or any(BY_LENGTH.search(name) and value for name, value in entry.items()):
        raise Unusable("has prices by the length of the prompt, which no card can state")
    if entry.get("cache_creation_input_token_cost"):
        raise Unusable("has a price for writing the cache, which no card can state")
    reasoning = entry.get("output_cost_per_reasoning_token")
    if reasoning is not None and reasoning != entry.get(OUTPUT):
        raise Unusable("has a price of its own for reasoning, which no card can state")


def _rates(stated: dict[str, Any], base: dict[str, Any], reader: Reader) -> Rates:
    def rate(*names: str) -> int | None:
        found = next(((name, row[name]) for row in (stated, base) for name in names if row.get(name) is not None), None)
        return None if found is None else reader.rate(*found)

    miss, output, hit = rate(MISS), rate(OUTPUT), rate(*HITS)
    if miss is None or output is None:
        raise Unusable("lacks the price of input or of output")
    return Rates(miss if hit is None else hit, miss, output)


# ---- windows


def _minutes(pricing: dict[str, Any]) -> frozenset[int]:
    """The minutes of the week, in UTC, at which the off-peak rates count."""
    zone = fixed_zone(pricing["weekday_timezone"]) if pricing.get("weekday_timezone") else timezone(timedelta(0))
    windows = pricing.get("windows") or []
    if not isinstance(windows, list) or not all(isinstance(window, dict) for window in windows):
        raise Unusable("`windows` is no list of windows")
    flat = [{"hours_utc": pricing["hours_utc"]}] if pricing.get("hours_utc") else []
    if not windows and not flat:
        raise Unusable("`off_peak_pricing` has no hours")
    rules = [(_days(window.get("weekdays")), _hours(window.get("hours_utc"))) for window in (*windows, *flat)]
    found = set()
    for minute in range(7 * 1440):
        day = (MONDAY + timedelta(minutes=minute)).astimezone(zone).isoweekday()
        if any(day in days and minute % 1440 in hours for days, hours in rules):
            found.add(minute)
    return frozenset(found)


def _days(stated: Any) -> frozenset[int]:
    if stated is None:
        return frozenset(range(1, 8))
    listed = stated if isinstance(stated, list) else [stated]
    days = [_NAMES.get(str(day).lower()) or (day if type(day) is int and 1 <= day <= 7 else None) for day in listed]
    if not days or None in days:
        raise Unusable(f"{stated!r} are no weekdays")
    return frozenset(day for day in days if day is not None)


def _hours(stated: Any) -> frozenset[int]:
    """Minutes of a day: the start is inclusive, the end is not; over midnight where it begins later than it ends, all day where both
    are the same."""
    listed = stated if isinstance(stated, list) else [stated]
    found: set[int] = set()
    for text in listed:
        match = _SPAN.fullmatch(str(text))
        if match is None:
            raise Unusable(f"{text!r} are no hours")
        start, end = (int(match[at]) * 60 + int(match[at + 1]) for at in (1, 3))
        end %= 1440
        found |= set(range(start, end)) if start < end else {*range(start, 1440), *range(end)}
    return frozenset(found)
