"""faregate budgets: what every budget has spent and holds, by whom, and where it will be at the end of its period."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from gateway.cli import CommandError
from gateway.commands.folder import HELP as FOLDER_HELP
from gateway.commands.folder import folder_of
from gateway.commands.reading import HELP, Reader, ask, settings_with
from gateway.ledger.port import Spend
from gateway.money import decimal_text
from gateway.policies import Policies, load
from gateway.reports.text import columns, many, seen
from gateway.standings import Standing, began, standings, zone_of
from gateway.timekeeping import clock_for

EXAMPLE = "faregate budgets --team search --by key"
# Keys are shown in order of what they spent, as many as one can do something about.
_MOST: Final = 10
_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_COLUMNS: Final = (
    "team",
    "budget",
    "key",
    "period",
    "currency",
    "limit",
    "spent",
    "held",
    "peak_committed",
    "left",
    "forecast",
    "resets_at",
)
_NUMBERS: Final = range(5, 11)


class _Report(NamedTuple):
    """One budget and, where it was asked for, its keys with what they were charged in the hosts' currencies."""

    standing: Standing
    keys: tuple[Spend, ...] | None

    def to_json(self) -> dict[str, Any]:
        keys = {} if self.keys is None else {"by_key": [_key_json(one) for one in self.keys]}
        return {**self.standing.to_json(), **keys}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--team", help="the budgets of one team")
    parser.add_argument("--by", choices=["key"], help="also the keys that spent most in the period")
    parser.add_argument("--ledger", help=HELP)
    parser.add_argument("--policies", type=Path, help=FOLDER_HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON array")


def run(args: argparse.Namespace) -> int:
    settings = settings_with(args.ledger)
    policies, now = load(folder_of(args.policies)), clock_for(settings.clock).now()
    reports = ask(settings, lambda reader: _reports(reader, policies, now, args.team, args.by == "key"))
    if args.team and not reports and args.team not in policies.teams:
        raise CommandError(f"team {args.team!r} has no budget and no file. The policies have: {', '.join(policies.teams) or 'no team'}")
    print(json.dumps([report.to_json() for report in reports]) if args.json else _text(reports))
    return 0


async def _reports(reader: Reader, policies: Policies, now: datetime, team: str | None, keys: bool) -> list[_Report]:
    teams = {name: row for name, row in policies.teams.items() if team in (None, name)}
    found = standings(teams, await reader.budgets(now, team), now)
    return [_Report(one, await _keys(reader, one, zone_of(teams, one.state), now) if keys else None) for one in found]


async def _keys(reader: Reader, standing: Standing, zone: str | None, now: datetime) -> tuple[Spend, ...]:
    """Who was charged within the period: by the end of their requests, which may lie after the hold that counts."""
    state = standing.state
    spends = await reader.spend("key", began(state, zone) or _FIRST, state.resets_at or now, state.team)
    mine = [one for one in spends if state.key in ("", one.group)]
    return tuple(sorted(mine, key=lambda one: -one.nano)[:_MOST])


def _key_json(spend: Spend) -> dict[str, Any]:
    return {"key": spend.group, "currency": spend.currency, "spent": decimal_text(spend.nano), "requests": spend.requests}


def _text(reports: Sequence[_Report]) -> str:
    if not reports:
        return "no budget: the policies state none, and the ledger has none"
    head, *lines = columns([_COLUMNS, *(_cells(report.standing) for report in reports)], _NUMBERS)
    shown = [head]
    for line, report in zip(lines, reports, strict=True):
        shown += [line, *map(seen, _notes(report))]
    return "\n".join(shown)


def _cells(standing: Standing) -> tuple[str, ...]:
    found = standing.to_json()
    return tuple(found[name] or "-" for name in _COLUMNS)


def _notes(report: _Report) -> Iterator[str]:
    if not report.standing.in_force:
        yield "  no longer in the policies in this form: nothing new is held against it"
    if report.standing.state.overrun:
        yield f"  {decimal_text(report.standing.state.overrun)} recorded as overrun: charges above holds, holds of streams that may finish"
    for one in report.keys or ():
        yield f"  {one.group}: {decimal_text(one.nano)} {one.currency} in {many(one.requests, 'request')}"
