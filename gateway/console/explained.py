"""One request: what became of it, its receipt line by line, its candidates, and the money that was held for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from gateway.admin.views import explained_json
from gateway.console import ledger_rows
from gateway.console.desk import Desk
from gateway.console.figures import NONE, amount, count, instant, money, nano_of, places, share, signed
from gateway.console.frame import Ask, Cell, Column, Page, Tone, bar, code, empty, facts, heading, listed, mark, notice, section, table
from gateway.console.markup import Child, Html, join, tag
from gateway.explain import why
from gateway.ledger.port import Trail
from gateway.money import Rates
from gateway.outcome import LedgerRow

_CLASSES: Final = (("cache_hit", "Prompt, from the cache"), ("cache_miss", "Prompt, computed"), ("output", "Output"))
_SOURCES: Final = {"reported": "reported by the host", "counted": "counted by the gateway", "unknown": "not known"}
_BILLED: Final[dict[str, tuple[str, Tone]]] = {
    "none": ("not billed", "quiet"),
    "known": ("billed", "ok"),
    "possible": ("possibly billed", "warn"),
}


async def explained(desk: Desk, ask: Ask) -> Page:
    id = ask.parts["id"]
    row, trail = await desk.ledger.request(id), await desk.ledger.trail(id)
    if row is None:
        return _absent(id, trail)
    found = explained_json(row, desk.policies, trail)
    state = mark(ledger_rows.WORDS.get(row.status, row.status), ledger_rows.TONES.get(row.status, "quiet"))
    body = join(
        heading(join("Request ", code(row.id)), state, note=f"{row.team} asked for {row.route}; {row.host}/{row.model} {_asked(row)}."),
        _facts(row, found),
        tag("div", _receipt(row, desk), _foretold(row, found), class_="pair"),
        _candidates(row, found),
        _attempts(row),
        tag("div", _hold(row, found), _edits(row, found), class_="pair"),
    )
    return Page(f"Request {row.id}", "/requests", body)


def _absent(id: str, trail: Trail | None) -> Page:
    if trail is not None and trail.state == "held":
        held = join("It holds ", money(trail.nano, trail.currency), ".")
        said = section("state", "Under way", empty("It has not ended yet.", tag("p", held)))
        body = join(heading(join("Request ", code(id)), mark("under way", "warn")), said)
        return Page("Request", "/requests", body, refresh=2)
    body = join(heading("No such request"), notice("bad", tag("p", "No request ", code(id), " is in the ledger.")))
    return Page("No such request", "/requests", body, status=404)


def _facts(row: LedgerRow, found: dict[str, Any]) -> Html:
    seconds = (row.ended - row.started).total_seconds()
    talk = f"{found['conversation']}, turn {found['turn']}" if found["conversation"] else None
    return facts(
        (
            ("Charged", money(row.nano, row.currency)),
            ("Why there", why(row)),
            ("Team and key", f"{row.team}, {row.key}"),
            ("Started", instant(row.started, local=True)),
            ("Took", f"{seconds:.2f} s, {'streamed' if row.stream else 'as a whole'}"),
            ("Stopped by", row.stopped),
            ("Contract", row.contract),
            ("Rate card", row.card),
            ("Price window", row.window),
            ("Policies", code(row.policies)),
            ("Conversation", talk),
        )
    )


def _receipt(row: LedgerRow, desk: Desk) -> Html:
    """Line by line: tokens, the price of a million where one card says it, and what they cost."""
    if row.usage is None or row.parts is None:
        said = "Nothing was billed." if not row.nano else "Its usage is not known: charged by estimate."
        return section("receipt", "Receipt", empty(said, facts((("Charged", money(row.nano, row.currency)),))), live=False)
    rates = _rates(row, desk)
    parts = {name: getattr(row.parts, name) for name, _ in _CLASSES}
    digits = places([*parts.values(), row.nano])
    lines: list[tuple[Cell | Html | str, ...]] = [
        (
            title,
            count(getattr(row.usage, name)),
            _price(rates, name),
            amount(parts[name], digits),
            _SOURCES[getattr(row.usage.sources, name)],
        )
        for name, title in _CLASSES
    ]
    total = tag("strong", "Charged"), "", "", Cell(tag("strong", money(row.nano, row.currency, digits))), "rounded up once"
    columns = (
        Column("Class", sort=False),
        Column("Tokens", number=True, sort=False),
        Column(f"{row.currency} a million", number=True, sort=False),
        Column("Amount", number=True, sort=False),
        Column("Tokens are", sort=False),
    )
    made = table("receipt-rows", "Receipt, line by line", columns, [*lines, total], hide_caption=True)
    return section("receipt", "Receipt", made, tag("ul", _remarks(row), class_="notes"), live=False)


def _price(rates: Rates | None, name: str) -> Html | str:
    return NONE if rates is None else amount(getattr(rates, name))


def _rates(row: LedgerRow, desk: Desk) -> Rates | None:
    """The prices of the row's card and window; None where several attempts were billed, or the card is gone."""
    if sum(each.billed != "none" for each in row.attempts) != 1:
        return None
    for card in desk.policies.prices.line(row.host, row.model, row.currency):
        if card.name == row.card:
            bands = [card.standard, *(window.band for window in card.windows)]
            return next((band.rates for band in bands if band.window == row.window), None)
    return None


def _remarks(row: LedgerRow) -> Iterable[Html]:
    if row.usage is not None and row.usage.reasoning:
        yield tag("li", f"{count(row.usage.reasoning)} of the output tokens are reasoning.")
    if row.host_nano is not None:
        said = " It was not believed: ours is charged, and both are kept." if row.disputed else ""
        yield tag("li", "The host itself says ", money(row.host_nano, row.currency), ".", said)
    if row.usage is not None and row.usage.sources.cache_hit == "unknown":
        yield tag("li", "The host does not say what was cached: the whole prompt is charged as computed.")


def _foretold(row: LedgerRow, found: dict[str, Any]) -> Html | None:
    """What the plan expected of the deployment that served, beside what came."""
    expected, usage = found["predicted"], row.usage
    if expected is None or usage is None:
        return None
    known = usage.sources.cache_hit == "reported"
    rows = [
        ("Prompt tokens", count(expected["prompt"]), count(usage.prompt)),
        ("From the cache", count(expected["cache_hit"]), count(usage.cache_hit) if known else "not said"),
        ("Output tokens", count(expected["output"]), count(usage.output)),
        ("Cost", money(nano_of(expected["expected"]), expected["currency"]), money(row.nano, row.currency)),
    ]
    columns = (Column("What", sort=False), Column("Foretold", number=True, sort=False), Column("Came", number=True, sort=False))
    foretold = share(expected["cache_hit"], expected["prompt"])
    hits = f"{share(usage.cache_hit, usage.prompt)} of the prompt came from the cache; {foretold} was foretold"
    drawn = join(bar(hits, [("spent", usage.cache_hit)], usage.prompt), tag("p", hits, class_="note")) if known else None
    made = table("foretold-rows", "Foretold and actual", columns, rows, hide_caption=True)
    return section("foretold", "Foretold and actual", made, drawn, live=False)


_CANDIDATES: Final = (
    Column("Candidate", sort=False),
    Column("Expected", number=True),
    Column("At most", number=True),
    Column("Cached of prompt", number=True, hint="what was expected to be in its cache"),
    Column("In the end", number=True, hint="what the plan compared, with what is still to come of the conversation"),
    Column("This answer", number=True, hint="what it cost, or would have cost there"),
    Column("Difference", number=True),
    Column("Why", sort=False),
)


def _candidates(row: LedgerRow, found: dict[str, Any]) -> Html:
    order = {"cheapest": "in the order of their cost in the end", "fastest": "the fastest first"}
    note = order.get(found["mode"] or "", "in the order of the route")
    passed = [tag("h3", "Passed over"), listed(found["passed_over"], "notes")] if found["passed_over"] else None
    if not found["candidates"]:
        return section("candidates", "Candidates", empty("Its plan is not known."), passed, live=False)
    rows = [_candidate(row, one) for one in found["candidates"]]
    made = table("candidate-rows", "Candidates of the plan", _CANDIDATES, rows, hide_caption=True)
    return section("candidates", "Candidates", made, passed, note=note, live=False)


def _candidate(row: LedgerRow, one: dict[str, Any]) -> tuple[Cell | str, ...]:
    nano, foretold, currency = one["nano"], one["predicted"], one["currency"]
    cost = None if one["would_have_cost"] is None else nano_of(one["would_have_cost"])
    more = None if one["difference"] is None or one["served"] else nano_of(one["difference"])
    asked = _asked(row)
    return (
        Cell(join(one["name"], " ", mark(asked, "ok" if asked == "served" else "quiet") if one["served"] else None)),
        Cell(money(nano["expected"], currency), nano["expected"]),
        Cell(money(nano["worst"], currency), nano["worst"]),
        Cell(f"{count(foretold['cache_hit'])} of {count(foretold['prompt'])}", foretold["cache_hit"]),
        Cell(NONE if nano["score"] is None else amount(nano["score"]), nano["score"] or 0),
        Cell(NONE if cost is None else money(cost, currency), cost or 0),
        Cell("charged" if one["served"] else NONE if more is None else signed(more, row.currency), more or 0),
        Cell(one["why"] or ""),
    )


def _asked(row: LedgerRow) -> str:
    return "served" if row.status in ("ok", "stopped", "client_gone") else "was asked"


def _attempts(row: LedgerRow) -> Html:
    if not row.attempts:
        return section("attempts", "Attempts", empty("No host was asked."), live=False)
    rows = []
    for number, each in enumerate(row.attempts, 1):
        word, tone = _BILLED[each.billed]
        ended = mark(ledger_rows.WORDS.get(each.outcome, each.outcome), ledger_rows.TONES.get(each.outcome, "quiet"))
        rows.append((str(number), f"{each.host}/{each.model}", ended, mark(word, tone), money(each.nano, row.currency)))
    names = ("No.", "Asked", "Outcome", "Billed", "Amount")
    columns = [Column(name, number=name == "Amount", sort=False) for name in names]
    return section("attempts", "Attempts", table("attempt-rows", "Attempts, in their order", columns, rows, hide_caption=True), live=False)


def _hold(row: LedgerRow, found: dict[str, Any]) -> Html:
    hold = found["hold"]
    quote = (("Expected", money(row.expected_nano, row.currency)), ("At most", money(row.worst_nano, row.currency)))
    if hold is None:
        return section("hold", "Hold", facts(quote), live=False)
    named: Sequence[tuple[str, Child]] = [
        (f"Of {one['budget']}", join(money(nano_of(one["held"]), one["currency"]), f" of {_whose(one)}")) for one in hold["budgets"]
    ]
    state = mark(hold["state"], "ok" if hold["state"] == "settled" else "warn")
    pairs = (*quote, ("Held", join(money(nano_of(hold["amount"]), hold["currency"]), " ", state)), *named)
    return section("hold", "Hold and entries", facts(pairs), _entries(row, found["entries"]), live=False)


def _whose(budget: dict[str, Any]) -> str:
    return f"key {budget['key']}" if budget["key"] else f"team {budget['team']}"


def _entries(row: LedgerRow, entries: Sequence[dict[str, Any]]) -> Html | None:
    if not entries:
        return None
    columns = (Column("Entry", sort=False), Column("Amount", number=True, sort=False), Column("Says", sort=False), Column("At", sort=False))
    rows = [(one["kind"], money(nano_of(one["amount"]), row.currency), one["source"], one["at"]) for one in entries]
    return table("entry-rows", "Entries of the ledger", columns, rows)


def _edits(row: LedgerRow, found: dict[str, Any]) -> Html:
    made = listed([code(edit) for edit in row.edits], "notes") if row.edits else tag("p", "Nothing was changed.", class_="note")
    broke = found["broke"]
    if broke is None:
        return section("edits", "Edits", made, live=False)
    place = f"{broke['part']}, within {broke['within']} bytes of byte {broke['offset']} ({broke['kind']})"
    lost = join(f"{count(broke['tokens'])} tokens could have been cached: ", money(broke["nano"], broke["currency"]))
    told = facts((("Broken at", place), ("Cost", lost), ("Remedy", broke["remedy"])))
    return section("edits", "Edits", made, tag("h3", "Prefix"), told, live=False)
