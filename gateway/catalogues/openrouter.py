"""OpenRouter's GET /api/v1/models: decimal strings, US dollars per token; hours of UTC without weekdays; a later override wins.

For estimates: what OpenRouter charges is the cost that it reports.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from gateway.catalogues.offers import DAY, Flagged, Offer, Reader, Unusable, Week, constant, is_free, number, week_of
from gateway.money import Rates

HOST = "openrouter"


def read(path: Path) -> str:
    return path.read_text("utf-8")


def offers(text: str, models: Mapping[tuple[str, str], str], round_noise: bool = False) -> Iterator[Offer | Flagged]:
    """Every model of ours in the list, and DeepSeek's that we have no row for (flagged with model ""). Raises ValueError."""
    listed = json.loads(text, parse_float=number)
    listed = listed.get("data") if isinstance(listed, dict) else listed
    if not isinstance(listed, list):
        raise ValueError("is no list of models (`data`)")
    if not any(isinstance(entry, dict) and isinstance(entry.get("id"), str) and "pricing" in entry for entry in listed):
        raise ValueError("has no model with an `id` and a `pricing`")
    for entry in listed:
        key = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(key, str):
            continue
        model = models.get((HOST, key.lower()), "")
        if model:
            yield _offer(key, model, entry, round_noise)
        elif "deepseek" in key.lower():
            yield Flagged(key, HOST, "", "no row in policies/hosts")


def _offer(key: str, model: str, entry: dict[str, Any], round_noise: bool) -> Offer | Flagged:
    reader = Reader(round_noise)
    try:
        pricing = entry.get("pricing")
        if not isinstance(pricing, dict):
            raise Unusable("has no pricing")
        week, states_hits = _week(pricing, reader), pricing.get("input_cache_read") is not None
        return Offer(key, HOST, model, week, tuple(dict.fromkeys(reader.notes)), states_hits)
    except Unusable as reason:
        return Flagged(key, HOST, model, str(reason))


def _week(pricing: dict[str, Any], reader: Reader) -> Week:
    base = _rates(pricing, {}, reader)
    if is_free(base):
        raise Unusable("costs 0 in and out: free or not known, which the catalogue does not tell apart")
    overrides = pricing.get("overrides") or []
    if not isinstance(overrides, list) or not all(isinstance(one, dict) for one in overrides):
        raise Unusable("`overrides` is no list")
    if any(one.get("min_prompt_tokens") for one in overrides):
        raise Unusable("has prices by the length of the prompt, which no card can state")
    if not overrides:
        return constant(base)
    rules = [(_hours(one), _rates(one, pricing, reader)) for one in overrides]

    def rates_at(minute: int) -> Rates:
        return next((rates for hours, rates in reversed(rules) if minute % DAY in hours), base)

    return week_of(rates_at)


def _rates(stated: dict[str, Any], base: dict[str, Any], reader: Reader) -> Rates:
    def rate(name: str) -> int | None:
        value = stated.get(name, base.get(name))
        return None if value is None else reader.rate(name, _number(name, value))

    for name in ("request", "input_cache_write", "input_cache_write_1h"):
        if rate(name):
            raise Unusable(f"has a price for `{name}`, which no card can state")
    miss, output, hit, reasoning = rate("prompt"), rate("completion"), rate("input_cache_read"), rate("internal_reasoning")
    if miss is None or output is None:
        raise Unusable("lacks the price of prompt or of completion")
    if reasoning and reasoning != output:
        raise Unusable("has a price of its own for reasoning, which no card can state")
    return Rates(miss if hit is None else hit, miss, output)


def _number(name: str, value: Any) -> Any:
    try:
        return Decimal(value) if isinstance(value, str) else value
    except InvalidOperation:
        raise Unusable(f"`{name}` is no number: {value[:40]!r}") from None


def _hours(override: dict[str, Any]) -> frozenset[int]:
    """Minutes of a day from HHMM to HHMM, half-open, over midnight where it begins later than it ends; all of it where none are stated."""
    start, end = override.get("utc_start"), override.get("utc_end")
    if start is None and end is None:
        return frozenset(range(DAY))
    first, last = _minute(start), _minute(end) % DAY
    return frozenset(range(first, last) if first < last else (*range(first, DAY), *range(last)))


def _minute(value: Any) -> int:
    text = str(value).zfill(4) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    if not (len(text) == 4 and text.isdigit() and int(text[2:]) < 60 and int(text[:2]) * 60 + int(text[2:]) <= DAY):
        raise Unusable(f"{value!r} is no time of day as HHMM")
    return int(text[:2]) * 60 + int(text[2:])
