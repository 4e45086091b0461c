"""What an operator must look at, out of what hosts, readiness, budgets and policies say: worst first, each with where to look."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from gateway.console.frame import Tone
from gateway.console.markup import Html, join, tag
from gateway.standings import Standing


class Alarm(NamedTuple):
    """One thing that is wrong, and the page that tells more."""

    tone: Tone
    text: str
    path: str


def alarms(ready: Mapping[str, Any], hosts: Iterable[Mapping[str, Any]], budgets: Iterable[Standing]) -> list[Alarm]:
    found = [*_of_gateway(ready), *_of_hosts(hosts), *_of_budgets(budgets)]
    return sorted(found, key=lambda alarm: alarm.tone != "bad")


def _of_gateway(ready: Mapping[str, Any]) -> Iterator[Alarm]:
    if not ready.get("ready", True):
        yield Alarm("bad", "This gateway is not ready for requests: /readyz says what it waits for.", "/policies")
    if ready.get("policies_error"):
        yield Alarm("bad", "The newest policies are not in force: they have an error.", "/policies")
    if ready.get("keys_error"):
        yield Alarm("bad", str(ready["keys_error"]), "/keys")
    if ready.get("redis") == "down":
        yield Alarm("warn", "Redis is down: replicas share less until it is back, and money is not touched.", "/policies")
    if waiting := ready.get("unsettled"):
        yield Alarm("bad", f"{waiting} charges wait on this machine's disk for the ledger's store.", "/policies")


def _of_hosts(hosts: Iterable[Mapping[str, Any]]) -> Iterator[Alarm]:
    rows = list(hosts)
    if not any(row.get("configured") for row in rows):
        yield Alarm("bad", "No host is configured, so nothing can be served.", "/hosts")
    for row in rows:
        yield from (Alarm("bad", str(text), "/hosts") for text in row.get("alarms", ()))
        for one in row.get("deployments", ()):
            if not one["up"]:
                yield Alarm("bad", f"{row['host']}/{one['model']} is left out: {one['why']}", "/hosts")
            if fell := one.get("hit_rate_fell"):
                was, now = round(100 * fell["from"]), round(100 * fell["to"])
                text = f"{row['host']}/{one['model']} hits {now} % of the prefixes that it knows, and hit {was} % before."
                yield Alarm("warn", text, "/hosts")
        for one in row.get("replicas", ()):
            if not one["up"]:
                yield Alarm("warn", f"{row['host']} at {one['url']} is left out: {one['why']}", "/hosts")


def _of_budgets(budgets: Iterable[Standing]) -> Iterator[Alarm]:
    for one in budgets:
        state = one.state
        if not one.in_force or not state.limit:
            continue
        name = f"Budget {state.budget} of team {state.team}" + (f", key {state.key}" if state.key else "")
        used = 100 * (state.spent + state.held) // state.limit
        if used >= 100:
            yield Alarm("bad", f"{name} is used up: {used} % is spent or held.", "/budgets")
        elif used >= 90:
            yield Alarm("warn", f"{name}: {used} % is spent or held.", "/budgets")
        elif one.forecast is not None and one.forecast > state.limit:
            pace = 100 * one.forecast // state.limit
            yield Alarm("warn", f"{name} will not last: at this pace, {pace} % by the end of its period.", "/budgets")


def shown(found: Iterable[Alarm]) -> Html:
    words = {"bad": "Alarm", "warn": "Warning", "ok": "", "quiet": ""}
    rows = [
        tag("li", tag("span", words[one.tone], class_=f"mark {one.tone}"), " ", tag("a", one.text, href=one.path), class_="alarm")
        for one in found
    ]
    return tag("ul", rows, class_="alarms") if rows else join()
