"""The overview: what today has cost and where, what caches saved of it, what o1 would have cost, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, time
from typing import Final

from gateway.admin.budgets import present
from gateway.admin.today import Day
from gateway.console import alarms, ledger_rows
from gateway.console.desk import Desk
from gateway.console.figures import NONE, amount, count, instant, money, places, share
from gateway.console.frame import (
    Ask,
    Cell,
    Column,
    Page,
    bar,
    columns_chart,
    commands,
    empty,
    heading,
    link,
    section,
    table,
    tile,
    tiles,
)
from gateway.console.markup import Child, Html, join, tag
from gateway.ledger.port import Spend
from gateway.outcome import Correction

_NEWEST: Final = 8


async def overview(desk: Desk, ask: Ask) -> Page:
    now = desk.now()
    start = datetime.combine(now.astimezone(UTC).date(), time(), UTC)
    by_team, by_host = [await desk.ledger.spend(by, start, now) for by in ("team", "host")]
    rows = await desk.ledger.requests(_NEWEST)
    corrections = await desk.ledger.corrections(start, now)
    day = await desk.today.look()
    _, ready = desk.readiness()
    found = alarms.alarms(ready, desk.hosts(), await present(desk.budgets))
    title = heading("Today", note=f"{now:%A, %-d %B %Y}, since midnight UTC")
    alarm = section("alarms", "Alarms", alarms.shown(found)) if found else None
    if not by_team and not rows:
        return Page("Overview", "/", join(title, alarm, _nothing_yet(desk, ask)), refresh=5)
    spent = [
        tag("div", _spend("team", by_team, "/budgets"), _spend("host", by_host, "/hosts"), class_="pair"),
        _hours(day, now),
        _corrections(corrections),
    ]
    listed = ledger_rows.listed("newest-rows", rows, hide_caption=True)
    newest = section("newest", "Newest requests", listed, note=link("/requests", "All requests"))
    return Page("Overview", "/", join(title, _figures(desk, by_team, day, now), alarm, spent, newest), refresh=5)


def _figures(desk: Desk, spent: Sequence[Spend], day: Day, now: datetime) -> Html:
    totals: dict[str, tuple[int, int]] = {}
    for one in spent:
        nano, estimated = totals.get(one.currency, (0, 0))
        totals[one.currency] = nano + one.nano, estimated + one.estimated
    requests = sum(one.requests for one in spent)
    made = [
        tile(f"Spent, {currency}", amount(nano), _estimated(estimated, currency)) for currency, (nano, estimated) in sorted(totals.items())
    ] or [tile("Spent", "0", "nothing today")]
    made.append(tile("Requests", count(requests), "charged or released"))
    made.append(_cache(day))
    made += _elsewhere(desk, day, now)
    title = tag("h2", "In figures", class_="unseen", id="figures-title")
    return tag("section", title, tiles(made), id="figures", data_live=True)


def _estimated(nano: int, currency: str) -> Html | str:
    return join(money(nano, currency), " of it estimated") if nano else "all of it reported by hosts"


def _cache(day: Day) -> Html:
    cache = day.cache
    if not cache.measured:
        return tile("Prompts from caches", NONE, "no host has reported cached tokens today")
    note = f"{count(cache.hit)} of {count(cache.prompt)} prompt tokens"
    foretold = f"{count(cache.predicted)} foretold, {count(cache.actual)} came" if cache.foretold else None
    return tile("Prompts from caches", share(cache.hit, cache.prompt), note, foretold, _partly(day))


def _partly(day: Day) -> str | None:
    return None if day.whole else f"counted so far: {count(day.cache.requests)} requests"


def _elsewhere(desk: Desk, day: Day, now: datetime) -> Iterable[Html]:
    """What the same tokens would have cost elsewhere, beside what they did cost, where the two can be compared."""
    for (name, currency), nano in sorted(day.elsewhere.items()):
        converted = [desk.policies.rates.convert(paid, own, currency, now) for own, paid in day.paid.items()]
        known = [one for one in converted if one is not None]
        paid = sum(known) if len(known) == len(converted) else None
        times = f"{_times(nano, paid)} what was paid" if paid else "not comparable: policies/rates.yaml lacks a rate"
        yield tile(f"At {name}, {currency}", amount(nano), times, _partly(day))


def _times(nano: int, paid: int) -> str:
    tenths = nano * 10 // paid
    return f"{tenths // 10:,}.{tenths % 10} times"


def _spend(by: str, spent: Sequence[Spend], path: str) -> Html:
    """One table for every currency in it: amounts of two currencies are never beside each other in a bar."""
    totals: dict[str, int] = {}
    for one in spent:
        totals[one.currency] = totals.get(one.currency, 0) + one.nano
    digits = places(one.nano for one in spent)
    rows = [
        (
            Cell(link(path, one.group) if one.group else NONE, one.group),
            Cell(money(one.nano, one.currency, digits), one.nano),
            Cell(_part(one, totals[one.currency]), 1000 * one.nano // (totals[one.currency] or 1)),
            Cell(count(one.requests), one.requests),
        )
        for one in sorted(spent, key=lambda one: (one.currency, -one.nano, one.group))
    ]
    columns = (Column(by.capitalize()), Column("Spent", number=True), Column("Share", number=True), Column("Requests", number=True))
    if not rows:
        return section(f"by-{by}", f"By {by}", empty("Nothing was charged today."))
    return section(f"by-{by}", f"By {by}", table(f"spend-{by}", f"Spent today by {by}", columns, rows, hide_caption=True))


def _part(one: Spend, whole: int) -> Html:
    text = share(one.nano, whole)
    return tag("span", bar(f"{text} of what was spent in {one.currency}", [("spent", one.nano)], whole), tag("span", text), class_="part")


def _corrections(found: Sequence[Correction]) -> Html | None:
    """What was corrected of this day: on lines of its own, for no request was charged so."""
    if not found:
        return None
    digits = places(one.nano for one in found)
    rows = [
        (
            Cell(instant(one.at), one.at.isoformat()),
            one.team or NONE,
            one.host,
            Cell(money(one.nano, one.currency, digits), one.nano),
            join(one.reason, tag("span", one.source, class_="note")),
        )
        for one in found
    ]
    columns = (Column("Of"), Column("Team"), Column("Host"), Column("Amount", number=True), Column("Reason", sort=False))
    made = table("corrections-rows", "Corrections of this day", columns, rows, hide_caption=True)
    return section("corrections", "Corrections", made, note="not in the figures above")


def _hours(day: Day, now: datetime) -> Html | None:
    if not day.hours:
        return None
    charts = [_hours_of(currency, hours, now) for currency, hours in sorted(day.hours.items())]
    return section("hours", "By hour", tag("div", charts, class_="charts"), note=_partly(day) or "UTC; the present hour is marked")


def _hours_of(currency: str, hours: Sequence[int], now: datetime) -> Html:
    highest = max(range(24), key=lambda hour: hours[hour])
    said = f"Spent by hour in {currency}: most at {highest:02d}:00 UTC"
    top: Child = join("most at ", f"{highest:02d}:00: ", money(hours[highest], currency))
    scale = tag("div", [tag("span", f"{hour:02d}") for hour in (0, 6, 12, 18, 24)], class_="scale", aria_hidden="true")
    return tag("figure", columns_chart(said, hours, now.astimezone(UTC).hour), scale, tag("figcaption", top), class_="hours")


def _nothing_yet(desk: Desk, ask: Ask) -> Html:
    route = next(iter(_served(desk)), "deepseek-chat")
    lines = (
        f"curl http://{ask.site}:{desk.port}/v1/chat/completions \\",
        '  -H "Authorization: Bearer $FAREGATE_KEY" -H "Content-Type: application/json" \\',
        f"""  -d '{{"model": "{route}", "messages": [{{"role": "user", "content": "Say hello."}}]}}'""",
    )
    steps = tag(
        "ol",
        tag("li", link("/keys", "Make a key"), " for a team, and keep it in ", tag("code", "FAREGATE_KEY"), "."),
        tag("li", "Ask something:", commands(*lines, name="A first request")),
        tag("li", "Its cost is here within seconds: exact to the billionth, with what o1 would have cost."),
    )
    return section("first", "No requests yet", empty("Nothing has been asked of this gateway, or nothing that the ledger keeps.", steps))


def _served(desk: Desk) -> Iterable[str]:
    """Routes that something configured here serves now."""
    served = {(host["host"], model) for host in desk.hosts() if host["configured"] for model in host["models"]}
    for name, route in desk.policies.routes.items():
        if any((target.host, target.model) in served for target in route.deployments):
            yield name
