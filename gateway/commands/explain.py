"""faregate explain: why one request went where it went, what it cost, and what it would have cost elsewhere."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from gateway.admin.views import explained_json
from gateway.cli import CommandError
from gateway.commands.folder import HELP as FOLDER_HELP
from gateway.commands.folder import folder_of
from gateway.commands.reading import HELP, Reader, ask, settings_with
from gateway.explain import why
from gateway.ledger.port import Trail
from gateway.money import NANO, decimal_text
from gateway.outcome import LedgerRow
from gateway.policies import load
from gateway.reports.text import columns, seen

EXAMPLE = "faregate explain req-01a20157db3ca23b88f13d7d641a0aa5   # the x-request-id of an answer"
_INDENT: Final = 13
_STATUS: Final = {
    "ok": "answered",
    "stopped": "stopped",
    "client_error": "refused by the host as the client's mistake",
    "upstream_error": "failed at the host",
    "timeout": "timed out",
    "client_gone": "left by the client",
    "gateway_error": "failed inside the gateway",
}
_BILLED: Final = {"none": "not billed", "known": "billed", "possible": "possibly billed"}


class _Found(NamedTuple):
    row: LedgerRow | None
    trail: Trail | None
    file: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", help="the request's id: x-request-id of its answer")
    parser.add_argument("--ledger", help=HELP)
    parser.add_argument("--policies", type=Path, help=FOLDER_HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    settings = settings_with(args.ledger)
    policies = load(folder_of(args.policies))
    row, trail, file = ask(settings, lambda reader: _found(reader, args.id))
    if row is None:
        raise CommandError(_unknown(args.id, trail, file))
    found = explained_json(row, policies, trail)
    print(json.dumps(found) if args.json else "\n".join(map(seen, _text(row, found))))
    return 0


async def _found(reader: Reader, id: str) -> _Found:
    return _Found(await reader.request(id), await reader.trail(id), await reader.archived(id))


def _unknown(id: str, trail: Trail | None, file: str | None) -> str:
    if file is not None:
        return f"request {id} was archived: its rows are in {file}, where `faregate ledger retain` has put it"
    if trail is not None and trail.state == "held":
        return f"request {id} is still under way: it holds {decimal_text(trail.nano)} {trail.currency}"
    return (
        f"there is no request {id!r} in the ledger. It is the x-request-id of an answer; a request that was refused before it held money, "
        "or only explained, has no row"
    )


def _text(row: LedgerRow, found: dict[str, Any]) -> Iterator[str]:
    seconds = (row.ended - row.started).total_seconds()
    yield f"{row.team} ({row.key}) asked for {row.route}; {_outcome(row)}."
    stopped = f" ({row.stopped})" if row.stopped else ""
    yield f"{_STATUS.get(row.status, row.status).capitalize()}{stopped} in {seconds:.2f} s, {row.started:%Y-%m-%d %H:%M:%S} UTC."
    yield ""
    yield from _line("why", [why(row)])
    yield ""
    if found["candidates"] or found["passed_over"]:
        yield from _table(row, found["candidates"])
        yield from _line("passed over", found["passed_over"])
        yield ""
    yield from _line("tokens", _tokens(row, found))
    yield from _line("charge", _charge(row))
    yield from _line("hold", _hold(row, found))
    if len(row.attempts) > 1 or any(each.outcome != "ok" for each in row.attempts):
        yield from _line("attempts", [_attempt(row, each) for each in found["attempts"]])
    yield from _line("edits", [", ".join(row.edits)] if row.edits else [])
    yield from _line("prefix", _broke(found["broke"]))


def _outcome(row: LedgerRow) -> str:
    name, amount = f"{row.host}/{row.model}", f"{decimal_text(row.nano)} {row.currency}"
    if row.status in ("ok", "stopped"):
        return f"{name} served it for {amount}"
    if row.status == "client_gone":
        return f"{name} served it until the client left, for {amount}"
    last = ", the last to be asked" if len(row.attempts) > 1 else ""
    return f"no whole answer came from {name}{last}; charged: {amount}"


def _line(name: str, texts: Sequence[str]) -> Iterator[str]:
    for index, text in enumerate(texts):
        yield f"{name if index == 0 else '':<{_INDENT}}{text}"


def _table(row: LedgerRow, candidates: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not candidates:
        return
    head = ("", "candidate", f"expected {row.currency}", "cached of prompt", "in the end", f"this answer {row.currency}", "", "why")
    yield from columns([head, *(_cells(row, one) for one in candidates)], range(2, 7))


def _cells(row: LedgerRow, one: dict[str, Any]) -> tuple[str, ...]:
    foretold = one["predicted"]
    other = "" if one["currency"] == row.currency else f" {one['currency']}"
    cost = one["would_have_cost"]
    return (
        ">" if one["served"] else " ",
        one["name"],
        one["expected"] + other,
        f"{foretold['cache_hit']} of {foretold['prompt']}",
        "-" if one["nano"]["score"] is None else decimal_text(one["nano"]["score"]),
        "-" if cost is None else cost + other,
        "charged" if one["served"] else _more(row, one["difference"]),
        one["why"] or "",
    )


def _more(row: LedgerRow, difference: str | None) -> str:
    if difference is None:
        return ""
    nano = _nano(difference)
    return f"{nano * 100 / row.nano:+.0f} %" if row.nano else f"+{difference}"


def _nano(text: str) -> int:
    whole, _, fraction = text.removeprefix("-").partition(".")
    nano = int(whole) * NANO + int(fraction.ljust(9, "0"))
    return -nano if text.startswith("-") else nano


def _tokens(row: LedgerRow, found: dict[str, Any]) -> list[str]:
    usage, foretold = row.usage, found["predicted"]
    if usage is None:
        return ["none: certainly nothing was billed" if not row.nano else "unknown: charged by estimate"]
    cached = f"{usage.cache_hit} from the cache" if usage.sources.cache_hit == "reported" else "the host does not say what was cached"
    prompt = f"prompt {usage.prompt}: {cached}"
    expected = f" ({foretold['cache_hit']} of {foretold['prompt']} expected)" if foretold else ""
    output = f"output {usage.output}" + (f" ({foretold['output']} expected)" if foretold else "")
    reasoning = f", {usage.reasoning} of it reasoning" if usage.reasoning else ""
    source = "reported by the host" if usage.reported else "counted by the gateway"
    return [f"{prompt}{expected}; {output}{reasoning}; {source}"]


def _charge(row: LedgerRow) -> list[str]:
    parts = row.parts
    split = (
        f" = {decimal_text(parts.cache_hit)} cached + {decimal_text(parts.cache_miss)} not cached + {decimal_text(parts.output)} output"
        if parts
        else ""
    )
    texts = [f"{decimal_text(row.nano)} {row.currency}{split}; card {row.card}, window {row.window or '-'}, policies {row.policies}"]
    if row.host_nano is not None:
        texts.append(f"the host itself says {decimal_text(row.host_nano)}" + (" (disputed: ours is charged)" if row.disputed else ""))
    return texts


def _hold(row: LedgerRow, found: dict[str, Any]) -> list[str]:
    quote = f"expected {decimal_text(row.expected_nano)}, at most {decimal_text(row.worst_nano)}"
    hold = found["hold"]
    if hold is None:
        return [quote]
    texts = [f"{hold['amount']} {hold['currency']}, {hold['state']} ({quote})"]
    texts += [f"{one['held']} {one['currency']} of budget {one['budget']} of {_whose(one)}" for one in hold["budgets"]]
    if len(found["entries"]) > 1:
        texts += [f"{one['kind']} {one['amount']} ({one['source']}) at {one['at']}" for one in found["entries"]]
    return texts


def _whose(budget: dict[str, Any]) -> str:
    return f"key {budget['key']}" if budget["key"] else f"team {budget['team']}"


def _attempt(row: LedgerRow, attempt: dict[str, Any]) -> str:
    amount = f" {decimal_text(attempt['nano'])} {row.currency}" if attempt["nano"] else ""
    return f"{attempt['host']}/{attempt['model']}: {attempt['outcome']}, {_BILLED[attempt['billed']]}{amount}"


def _broke(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    place = f"{found['part']}, within {found['within']} bytes of byte {found['offset']}"
    lost = f"{found['tokens']} tokens could have been cached, {found['lost']} {found['currency']}"
    return [f"broken at {place} ({found['kind']}): {lost}", *([found["remedy"]] if found["remedy"] else [])]
