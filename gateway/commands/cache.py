"""faregate cache: what prompt caches served, how well that was foretold, what broke prefixes, and what that costs a day."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from gateway.cli import CommandError
from gateway.commands.folder import HELP as FOLDER_HELP
from gateway.commands.folder import folder_of
from gateway.commands.reading import HELP, ask, instant_of, settings_with
from gateway.explain import cache_report
from gateway.policies import KINDS, Policies, load
from gateway.policy_files import Problems, read_folder, rows_of
from gateway.reports.text import columns, seen
from gateway.teams import TeamRow
from gateway.timekeeping import clock_for

EXAMPLE = "faregate cache --team search --from 2026-11-20"
_DAY: Final = timedelta(days=1)
# Keys and breaks that are shown: as many as one can do something about. --json has them all.
_MOST: Final = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--team", help="the requests of one team")
    parser.add_argument("--from", dest="start", help="a date, or an instant with its zone (default: a day before --to)")
    parser.add_argument("--to", dest="end", help="a date, or an instant with its zone (default: now)")
    parser.add_argument("--ledger", help=HELP)
    parser.add_argument("--policies", type=Path, help=FOLDER_HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    settings = settings_with(args.ledger)
    folder = folder_of(args.policies)
    policies = load(folder)
    end = instant_of("--to", args.end, clock_for(settings.clock).now())
    start = instant_of("--from", args.start, end - _DAY)
    if start >= end:
        raise CommandError("--from must lie before --to")
    found = ask(settings, lambda reader: cache_report(reader, policies, start, end, args.team))
    lines = [] if args.json else [*_text(found, args.team), *_proposals(found["breaks"][:_MOST], policies, folder)]
    print(json.dumps(found) if args.json else "\n".join(map(seen, lines)))
    return 0


def _text(found: dict[str, Any], team: str | None) -> Iterator[str]:
    if not found["keys"]:
        of = f" of team {team}" if team else ""
        yield f"no request{of} ended from {found['from']} until before {found['to']}"
        return
    most = sorted(found["keys"], key=lambda one: -one["prompt_tokens"])[:_MOST]
    yield from _table(("team", "key", "requests", "prompt tokens", "cached", "expected to be", "was"), _keys(most), 2)
    if len(found["keys"]) > _MOST:
        yield f"and {len(found['keys']) - _MOST} more with fewer tokens; --json has them all"
    yield ""
    yield from _table(("host/model", "requests", "prompt tokens", "cached", "expected to be", "was"), _deployments(found["deployments"]), 1)
    yield ""
    yield from _breaks(found["breaks"])


def _keys(tallies: Sequence[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for one in tallies:
        yield one["team"], one["key"], *_figures(one)


def _deployments(tallies: Sequence[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for one in tallies:
        yield f"{one['host']}/{one['model']}", *_figures(one)


def _figures(one: dict[str, Any]) -> tuple[str, ...]:
    rate = "unknown" if one["hit_rate"] is None else f"{one['hit_rate']:.1%}"
    return (str(one["requests"]), str(one["prompt_tokens"]), rate, str(one["predicted_hit_tokens"]), str(one["actual_hit_tokens"]))


def _breaks(breaks: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not breaks:
        yield "no prefix was broken"
        return
    head = ("lost per day", "lost", "", "tokens", "times", "team", "key", "where", "what")
    yield from _table(head, map(_broken, breaks[:_MOST]), -4)
    if len(breaks) > _MOST:
        yield f"and {len(breaks) - _MOST} more that cost less; --json has them all"
    yield ""
    for kind in dict.fromkeys(one["kind"] for one in breaks[:_MOST]):
        one = next(one for one in breaks if one["kind"] == kind)
        yield f"{kind}: {one['remedy']}"


def _proposals(breaks: Sequence[dict[str, Any]], policies: Policies, folder: Path) -> Iterator[str]:
    """What would mend it, to be copied as it stands: a whole file for a team that has none, else the lines to add to its own."""
    for team in dict.fromkeys(one["team"] for one in breaks):
        wanted = dict.fromkeys(one["policy"] for one in breaks if one["team"] == team and one["policy"])
        own = policies.teams.get(team)
        rows = [row for row in map(_row, wanted) if own is None or not _has(own, row)]
        if not rows:
            continue
        yield ""
        lines = ["volatile:", *(f"  - {row}" for row in rows)]
        if own is None:
            yield f"A new file {folder / 'teams' / f'{team}.yaml'}:"
            lines = [f"team: {_scalar(team)}", 'routes: ["*"]', *lines]
        elif own.volatile:
            yield f"In {_file_of(team, folder)}, at the end of the `volatile` of team {team}:"
            lines = lines[1:]
        else:
            yield f"In {_file_of(team, folder)}, to team {team}:"
        yield from (f"  {line}" for line in lines)
        if not policies.teams:
            yield "No team has a file yet. Once one has, every other team needs one too, and may use nothing until then (403)."
            yield 'Two lines are enough for each of them: team: NAME and routes: ["*"].'


def _row(policy: str) -> str:
    """The row in `volatile: [ROW]   # comment`, with its comment."""
    row, _, comment = policy.removeprefix("volatile: [").partition("]")
    return row + comment


def _has(team: TeamRow, row: str) -> bool:
    """Whether the team's file says that already. A line of its own may be another one that changes, so only the same row counts."""
    return any((one.tools is not None and "tools:" in row) or (one.line == "date" and "line: date" in row) for one in team.volatile)


def _scalar(name: str) -> str:
    """A team's name in YAML; what could be read as something else stands in quotes."""
    plain = re.fullmatch(r"[A-Za-z][\w-]*", name) and name.lower() not in {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
    return name if plain else json.dumps(name)


def _file_of(team: str, folder: Path) -> Path:
    """The file in which a team of a folder that loads is written."""
    problems = Problems()
    for name, data in read_folder(folder, KINDS, problems).items():
        if name.startswith("teams") and any(entry.row.team == team for entry in rows_of(name, data, TeamRow, problems)):
            return folder / name
    return folder / "teams" / f"{team}.yaml"


def _broken(one: dict[str, Any]) -> tuple[str, ...]:
    where = one["part"] if one["offset"] is None else f"{one['part']} from byte {one['offset']} on"
    return (
        one["lost_per_day"],
        one["lost"],
        one["currency"],
        str(one["tokens"]),
        str(one["times"]),
        one["team"],
        one["key"],
        where,
        one["kind"],
    )


def _table(head: tuple[str, ...], rows: Any, texts: int) -> Iterator[str]:
    """Columns of text to the left, of numbers to the right: the first `texts` are text, or the last where it is negative."""
    return columns([head, *rows], range(texts, len(head)) if texts > 0 else range(len(head) + texts))
