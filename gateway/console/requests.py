"""The pages of requests: the newest, those from an instant on, and the way to one of them by its id."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Final
from urllib.parse import quote, urlencode

from gateway.clock import instant_text, parse_instant
from gateway.console import ledger_rows
from gateway.console.desk import Desk
from gateway.console.figures import count
from gateway.console.frame import Ask, Go, Page, button, choice, empty, entry, heading, link, notice, section
from gateway.console.markup import Html, join, tag
from gateway.ledger.port import Mark

_PAGE: Final = 50
# The ledger hands out its newest rows all at once, so no more than the last thousand of them are shown so.
_NEWEST: Final = 1000


async def requests(desk: Desk, ask: Ask) -> Page | Go:
    if id := ask.query.get("id", "").strip():
        return await _by_id(desk, ask, id)
    if ask.query.get("from") or ask.query.get("team"):
        return await _since(desk, ask)
    number = min(max(1, _number(ask.query.get("page", "1"))), _NEWEST // _PAGE)
    rows = await desk.ledger.requests(number * _PAGE + 1)
    shown = rows[(number - 1) * _PAGE : number * _PAGE]
    if not shown:
        return Page("Requests", "/requests", join(_head(desk, ask), _nothing(number)), refresh=5)
    older = len(rows) > number * _PAGE and number * _PAGE < _NEWEST
    caption = f"Requests, the newest first: {count(number * _PAGE - _PAGE + 1)} to {count(number * _PAGE - _PAGE + len(shown))}"
    last = None
    if number * _PAGE >= _NEWEST:
        last = tag("p", "Older ones are found by the day on which they ended, above.", class_="note")
    turn = _turn("/requests?page=" + str(number - 1) if number > 1 else None, f"/requests?page={number + 1}" if older else None)
    body = join(_head(desk, ask), section("rows", "Newest", ledger_rows.listed("requests", shown, caption), turn, last))
    return Page("Requests", "/requests", body, refresh=5 if number == 1 else 0)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 1


async def _by_id(desk: Desk, ask: Ask, id: str) -> Page | Go:
    if ledger_rows.linkable(id) and (await desk.ledger.request(id) is not None or await desk.ledger.trail(id) is not None):
        return Go(f"/requests/{quote(id)}")
    said = notice("bad", tag("p", "No request ", tag("code", id), " is in the ledger. ", _WHY_NOT))
    return Page("Requests", "/requests", join(_head(desk, ask), said), status=404)


_WHY_NOT: Final = "The id is the x-request-id of an answer; a request that was refused before it held money, or only explained, has no row."


async def _since(desk: Desk, ask: Ask) -> Page:
    """From an instant on, the oldest first: so a page stays what it is while requests come."""
    start, problem = _instant(ask.query.get("from", ""), desk.now())
    team = ask.query.get("team", "").strip() or None
    if start is None:
        return Page("Requests", "/requests", join(_head(desk, ask), notice("bad", tag("p", problem))), status=422)
    page = await desk.ledger.page(start, desk.now() + timedelta(microseconds=1), team, _mark(ask.query.get("after", "")), _PAGE)
    said = f"Requests{f' of team {team}' if team else ''} from {start:%Y-%m-%d %H:%M:%S} UTC on, the oldest first"
    if not page.rows:
        none = empty("None ended in this time.", tag("p", link("/requests", "Show the newest")))
        return Page("Requests", "/requests", join(_head(desk, ask), section("rows", said, none)))
    more = None
    if page.mark is not None:
        same = {"from": instant_text(start), **({"team": team} if team else {}), "after": f"{page.mark[0]}.{page.mark[1]}"}
        more = "/requests?" + urlencode(same)
    body = section("rows", "From an instant on", ledger_rows.listed("requests", page.rows, said), _turn(None, more, "Later"), live=False)
    return Page("Requests", "/requests", join(_head(desk, ask), body))


def _instant(text: str, now: datetime) -> tuple[datetime | None, str]:
    """What a form of a browser sends, 2026-11-20T10:00, is in UTC; a date is its midnight; nothing is today's."""
    text = text.strip()
    if not text:
        return datetime.combine(now.astimezone(UTC).date(), time(), UTC), ""
    try:
        at = datetime.fromisoformat(text.replace(" ", "+", 1) if text.count(" ") == 1 and "T" in text else text)
        return (at.replace(tzinfo=UTC) if at.tzinfo is None else parse_instant(text.replace(" ", "+"))), ""
    except (ValueError, OverflowError):
        return None, f"{text!r} is no instant: write it as 2026-11-20 or 2026-11-20T10:00."


def _mark(text: str) -> Mark | None:
    ended, dot, order = text.partition(".")
    if not dot or not all(part.isascii() and part.isdigit() and len(part) <= 18 for part in (ended, order)):
        return None
    return int(ended), int(order)


def _head(desk: Desk, ask: Ask) -> Html:
    teams = sorted(desk.policies.teams)
    by_id = tag(
        "form",
        entry("id", "Request id", type="search", value=ask.query.get("id"), placeholder="req-…", maxlength=128, required=True),
        button("Explain"),
        method="get",
        action="/requests",
        class_="line",
        role="search",
        aria_label="By id",
    )
    chosen = ask.query.get("team", "")
    who = (
        entry("team", "Team", control=choice("team", [("", "all"), *((team, team) for team in teams)], chosen))
        if teams
        else entry("team", "Team", value=chosen, maxlength=64, placeholder="all")
    )
    by_time = tag(
        "form",
        entry("from", "Ended from, UTC", type="datetime-local", value=_shown(ask.query.get("from", ""))),
        who,
        button("Show"),
        method="get",
        action="/requests",
        class_="line",
        aria_label="From an instant on",
    )
    return join(heading("Requests", note="Every request that held money, with its receipt"), tag("div", by_id, by_time, class_="searches"))


def _shown(text: str) -> str | None:
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%dT%H:%M}" if text else None
    except ValueError:
        return None


def _turn(newer: str | None, older: str | None, word: str = "Older") -> Html | None:
    links = [link(newer, "Newer", rel="prev") if newer else None, link(older, word, rel="next") if older else None]
    return tag("nav", links, class_="turn", aria_label="Pages") if newer or older else None


def _nothing(number: int) -> Html:
    step = link("/requests", "Show the newest") if number > 1 else link("/", "How to ask something")
    return section("rows", "No requests", empty("There is none here yet." if number == 1 else "There are no more.", tag("p", step)))
