"""Hosts: how they are, what they charge now, and when that changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from gateway.console.desk import Desk
from gateway.console.figures import NONE, amount, clock, money, nano_of, percent, places, until
from gateway.console.frame import Ask, Cell, Column, Page, code, commands, empty, heading, listed, mark, section, table
from gateway.console.markup import Html, join, tag
from gateway.errors import PriceUnknown
from gateway.money import Rates
from gateway.price_changes import Change, next_change

_PRICES: Final = (
    Column("Model"),
    Column("Price window"),
    Column("Cache hit", number=True, hint="for a million prompt tokens from the cache"),
    Column("Cache miss", number=True, hint="for a million prompt tokens that are computed"),
    Column("Output", number=True, hint="for a million output tokens"),
    Column("Next change"),
)
_HEALTH: Final = (
    Column("Deployment"),
    Column("State"),
    Column("Requests now", number=True),
    Column("At most", number=True, hint="requests at once, as the host allows or as was learned"),
    Column("Failing", number=True),
    Column("First token", number=True),
    Column("Tokens a second", number=True),
    Column("Hit rate"),
)
_REPLICAS: Final = (Column("Replica"), Column("State"), Column("Requests now", number=True))


async def hosts(desk: Desk, _ask: Ask) -> Page:
    now, rows = desk.now(), desk.hosts()
    here = [row for row in rows if row["configured"]]
    away = [row for row in rows if not row["configured"]]
    title = heading("Hosts", note="Prices are for a million tokens, now; health is what this gateway has seen since its start.")
    parts = [_host(number, row, desk, now) for number, row in enumerate(here)]
    return Page("Hosts", "/hosts", join(title, parts or _none(), _away(away)), refresh=5)


def _host(number: int, row: Mapping[str, Any], desk: Desk, now: datetime) -> Html:
    name = f"host-{number}"
    alarms = tag("ul", [tag("li", mark("Alarm", "bad"), " ", text, class_="alarm") for text in row["alarms"]], class_="alarms")
    beside = [f"billed in {row['currency']}" if row["currency"] else None, *map(_balance, row.get("balances", ()))]
    return section(
        name,
        row["host"],
        alarms if row["alarms"] else None,
        _prices(name, row, desk, now),
        _health(name, row),
        _replicas(name, row),
        note=join(*(part if index == 0 else join(" · ", part) for index, part in enumerate(filter(None, beside)))),
    )


def _balance(balance: Mapping[str, Any]) -> Html:
    return join("balance ", money(nano_of(str(balance["amount"])), str(balance["currency"])))


def _prices(name: str, row: Mapping[str, Any], desk: Desk, now: datetime) -> Html:
    if not row["models"]:
        return empty("None of its models is served at this time.")
    found = [_price(row["host"], model, row["currency"] or "USD", desk, now) for model in row["models"]]
    known = [rates for _, rates, _, _ in found if rates]
    digits = places(nano for rates in known for nano in _classes(rates))
    shown = [
        (
            Cell(join(model, " ", None if verified else mark("not verified", "warn")), model),
            mark(window, "quiet" if window == "standard" else "warn" if rates else "bad"),
            *(Cell(amount(nano, digits), nano) if rates else NONE for nano in _classes(rates)),
            _change(change, now),
        )
        for model, (window, rates, change, verified) in zip(row["models"], found, strict=True)
    ]
    return table(f"{name}-prices", f"Prices at {row['host']}, in {row['currency']} for a million tokens", _PRICES, shown)


def _classes(rates: Rates | None) -> tuple[int, int, int]:
    return (rates.cache_hit, rates.cache_miss, rates.output) if rates else (0, 0, 0)


def _price(host: str, model: str, currency: str, desk: Desk, now: datetime) -> tuple[str, Rates | None, Change | None, bool]:
    prices = desk.policies.prices
    change = next_change(prices, host, model, currency, now)
    try:
        card = prices.card(host, model, currency, now)
    except PriceUnknown:
        return "no price", None, change, True
    band = card.band(now)
    return band.window, band.rates, change, card.verified


def _change(change: Change | None, now: datetime) -> Cell:
    if change is None:
        return Cell(tag("span", "none known in the next 40 days", class_="note"), 1 << 40)
    then = mark("no price", "bad") if change.price is None else mark(change.price.window)
    when = tag("span", until(change.at, now), class_="note")
    return Cell(join(clock(change.at, local=True), when, "then ", then), int(change.at.timestamp()))


def _health(name: str, row: Mapping[str, Any]) -> Html | None:
    if not row["deployments"]:
        return tag("p", "No request has been sent there since the start, so nothing is known of its health.", class_="note")
    shown = [_deployment(one) for one in row["deployments"]]
    return table(f"{name}-health", f"Health of {row['host']}", _HEALTH, shown)


def _deployment(one: Mapping[str, Any]) -> Sequence[Cell | Html | str]:
    fell = one["hit_rate_fell"]
    return (
        one["model"],
        _state(one),
        Cell(str(one["requests"]), one["requests"]),
        NONE if one["limit"] is None else str(one["limit"]),
        Cell(percent(one["failing"]), round(10_000 * one["failing"])) if one["failed"] else Cell("none seen", -1),
        NONE if one["first_token"] is None else f"{one['first_token']:.2f} s",
        NONE if one["pace"] is None else f"{one['pace']:.0f}",
        "as before" if fell is None else mark(f"fell from {percent(fell['from'])} to {percent(fell['to'])}", "warn"),
    )


def _state(one: Mapping[str, Any]) -> Html:
    return mark("in use", "ok") if one["up"] else join(mark("left out", "bad"), " ", tag("span", one["why"], class_="note"))


def _replicas(name: str, row: Mapping[str, Any]) -> Html | None:
    if not row["replicas"]:
        return None
    shown = [(code(one["url"]), _state(one), str(one["requests"])) for one in row["replicas"]]
    return table(f"{name}-replicas", f"Replicas of {row['host']}", _REPLICAS, shown)


def _none() -> Html:
    lines = ("export DEEPSEEK_API_KEY=sk-…        # or the variable of another host, below", "faregate serve")
    said = "Nothing can be served yet. Give the gateway a key of a host and start it again:"
    return section("none", "No host is configured", empty(said, commands(*lines)))


def _away(rows: Sequence[Mapping[str, Any]]) -> Html | None:
    if not rows:
        return None
    shown = [join(tag("strong", row["host"]), tag("span", f" needs {row['needs'] or 'more settings'}", class_="note")) for row in rows]
    return tag("details", tag("summary", f"{len(rows)} hosts are not configured here"), listed(shown, "notes"), class_="away")
