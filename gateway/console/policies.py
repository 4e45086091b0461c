"""Policies: what is in force since when, why a newer folder is not, and the button that reads it again."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Final

from gateway.console.desk import Desk
from gateway.console.figures import NONE, count, instant
from gateway.console.frame import Ask, Column, Go, Page, button, code, facts, heading, listed, mark, notice, section, table
from gateway.console.markup import Html, join, tag

# What a loader says: the file, the line in it, and the problem with its hint.
_PROBLEM: Final = re.compile(r"(?P<file>[^\s:][^:]*):(?P<line>\d+): (?P<text>.*)")


async def policies(desk: Desk, ask: Ask) -> Page:
    said = notice("ok", tag("p", "The folder was read again, and it is in force.")) if ask.query.get("done") else None
    return _page(desk, ask, said)


async def reload(desk: Desk, ask: Ask) -> Page | Go:
    if await asyncio.to_thread(desk.book.reload):
        return Go("/policies?done=1")
    said = notice("bad", tag("p", "The folder has an error, so nothing was changed: the policies below stay in force."))
    return _page(desk, ask, said, 409)


def _page(desk: Desk, ask: Ask, said: Html | None, status: int = 200) -> Page:
    read = ask.form("/policies/reload", button("Read the folder again"))
    title = heading("Policies", read, note="A folder that changes is read by itself; this reads it at once.")
    body = join(title, said, _error(desk.book.error), _in_force(desk), _warnings(desk))
    return Page("Policies", "/policies", body, refresh=0 if said else 10, status=status)


def _in_force(desk: Desk) -> Html:
    known = desk.policies
    cards = len({card.name for card in known.prices.cards()})
    pairs = (
        ("Digest", code(known.digest)),
        ("In force since", instant(desk.book.loaded_at, local=True)),
        ("Newest folder", mark("has an error", "bad") if desk.book.error else mark("in force", "ok")),
        ("Contracts", count(len(known.contracts))),
        ("Hosts", count(len(known.hosts))),
        ("Rate cards", count(cards)),
        ("Routes", count(len(known.routes))),
        ("Teams", count(len(known.teams))),
        ("Calendars", _calendars(desk)),
    )
    return section("in-force", "In force", facts(pairs), note="The digest stands on every row of the ledger.")


def _calendars(desk: Desk) -> Html:
    today = desk.now().date()
    found = sorted(desk.policies.calendars.values(), key=lambda one: one.name)
    return listed([f"{one.name}: known until {one.known_until}, {one.days_left(today)} days" for one in found])


def _error(error: str | None) -> Html | None:
    """Every problem of the newest folder: where, what, and what to do."""
    if not error:
        return None
    # The loader's own lines end with LF; a name in one may hold any other sign.
    lines = [line for line in error.split("\n") if line.strip()]
    columns = (Column("File", sort=False), Column("Line", number=True, sort=False), Column("Problem", sort=False))
    shown = table("errors", "Problems of the newest folder", columns, [_problem(line) for line in lines], hide_caption=True)
    return section("error", "The last reading failed", shown, note="Until this is mended, the policies before it stay in force.")


def _problem(line: str) -> Sequence[Html | str]:
    found = _PROBLEM.fullmatch(line.strip())
    if found is None:
        return NONE, NONE, line.strip()
    said, hint, remedy = found["text"].partition(" Hint: ")
    return code(found["file"]), found["line"], join(said, tag("span", f"Hint: {remedy}", class_="note") if hint else None)


def _warnings(desk: Desk) -> Html | None:
    found = desk.policies.warnings_at(desk.now())
    if not found:
        return None
    return section("warnings", "Warnings", listed(found, "notes"), note="They work, and should be looked at.")
