"""faregate simulate: what a trace of requests costs under each way of choosing hosts, with the router in production among them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from gateway.cli import CommandError
from gateway.clock import instant_text
from gateway.commands.folder import HELP as FOLDER
from gateway.commands.folder import folder_of
from gateway.commands.reading import HELP as LEDGER
from gateway.commands.reading import instant_of, rows_between, settings_with
from gateway.outcome import LedgerRow
from gateway.policies import Policies, load
from gateway.reports.text import seen_lines
from gateway.simulate.chart import svg
from gateway.simulate.formats import parse, read, turns, written
from gateway.simulate.lookahead import LOOK_AHEAD
from gateway.simulate.menus import Caches, Choice, Market, Menu, shipped
from gateway.simulate.report import Report, amount, counted
from gateway.simulate.run import OTHERS, Options, Progress, simulate
from gateway.simulate.trace import Raw, TraceError, fold
from gateway.simulate.traffic import Part, by_route, known, together
from gateway.simulate.versions import Longer, longer
from gateway.timekeeping import clock_for
from gateway.upstream.accounts import needs

EXAMPLE = """faregate simulate trace.jsonl --menu look-ahead --chart bills.svg
  faregate simulate trace.jsonl --routes deepseek-r1-0528 --at 2026-11-20T02:00:00Z --version deepseek-r1 --next deepseek-r1-0528
  faregate simulate --ledger --days 7 --team search"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("trace", nargs="?", type=Path, help="requests, one JSON object a line (docs/simulate.md has the formats)")
    add("--ledger", nargs="?", const="", metavar="ADDRESS", help=f"instead of a trace: what a ledger has; {LEDGER}")
    add("--team", help="with --ledger: one team's requests only")
    add("--days", type=int, default=30, help="with --ledger: those of so many days, up to now (default: 30)")
    add("--export", type=Path, metavar="FILE", help="with --ledger: write it as a trace, times and lengths without any text, and end")
    add("--policies", type=Path, help=FOLDER)
    hosts = parser.add_mutually_exclusive_group()
    routes = "the hosts of these routes, one simulation each (default with --ledger: the routes that were used, each with its own requests)"
    hosts.add_argument("--routes", "--route", nargs="+", metavar="ROUTE", help=routes)
    hosts.add_argument("--menu", nargs="+", type=Path, help=f"hosts and prices: a YAML file, or one of {', '.join(shipped())}")
    add("--all-hosts", action="store_true", help="with --ledger: also hosts that are not configured here")
    add("--at", help="when the trace begins: an RFC 3339 instant with a zone (default: now; with --ledger, when it did)")
    add("--caches", choices=("shared", "session"), help="with --routes: whether conversations share a host's cache")
    add("--mode", choices=("cheapest", "order", "fastest"), default="cheapest", help="how look-ahead chooses, as `choose` of a route")
    add("--test-half", action="store_true", help="bill the later half of the conversations; the earlier half only teaches")
    add("--block", type=int, metavar="TOKENS", help="tokens of a block, where they are not those of the format")
    add("--seed", type=int, default=0, help="of everything that is drawn (default: 0)")
    add("--next", metavar="CONTRACT", help="also: the same requests with answers as long as this version's")
    add(
        "--version",
        metavar="CONTRACT",
        help="with --next: whose answers the trace has (default: as the ledger, the route or the menu says)",
    )
    add("--next-routes", nargs=1, metavar="ROUTE", help="also: the same requests on the hosts of this route")
    add("--next-menu", nargs=1, type=Path, metavar="MENU", help="also: the same requests on the hosts of this menu")
    add(
        "--chart",
        type=Path,
        metavar="FILE.svg",
        help="draw the bills, not those of --next; of several routes or menus one file each, FILE-NAME.svg",
    )
    add("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    _check(args)
    try:
        rows = None if args.ledger is None else _rows(args)
        if args.export:
            return _export(args, rows or [])
        policies = load(folder_of(args.policies))
        sources = _of_ledger(args, policies, rows) if rows is not None else [_of_trace(args)]
        stage = _Stage(args, policies)
        cases = [case for source in sources for case in stage.cases(source)]
        later = [stage.following(case) for case in cases] if args.next or args.next_routes or args.next_menu else []
        if later and not any(isinstance(one, _Case) for one in later):
            raise ValueError(str(later[0]))
        reports, then = _reports(args, cases), _reports(args, later)
    except (TraceError, ValueError) as error:
        raise CommandError(str(error)) from None
    if args.chart:
        _draw(args.chart, [report for report in reports if isinstance(report, Report)])
    print(json.dumps(_json(cases, reports, then)) if args.json else seen_lines(_text(cases, reports, then)))
    return 0


def _check(args: argparse.Namespace) -> None:
    if (args.trace is None) == (args.ledger is None):
        raise CommandError("name a trace, or --ledger for the requests of our own. `faregate simulate --help` shows an example.")
    if args.all_hosts and args.ledger is None:
        raise CommandError("--all-hosts goes with --ledger: of a trace, all hosts of a route are taken anyway.")
    if args.export and args.ledger is None:
        raise CommandError("--export writes the requests of a ledger: give --ledger with it.")
    if args.chart and args.chart.suffix != ".svg":
        raise CommandError(f"--chart: {args.chart} would be no SVG. Name it {args.chart.with_suffix('.svg')}.")
    if args.days < 1 or (args.block is not None and args.block < 1):
        raise CommandError("--days and --block are at least 1.")


# ---- what is replayed


class _Source(NamedTuple):
    """Requests and the instant of the first, from which on prices are taken; of a ledger, `part` is what it says of them."""

    name: str
    raws: list[Raw]
    begin: datetime
    part: Part | None = None


def _of_trace(args: argparse.Namespace) -> _Source:
    return _Source(args.trace.name, read(args.trace, args.block), instant_of("--at", args.at, _now()).replace(microsecond=0))


def _whose(args: argparse.Namespace) -> str:
    return f"team {args.team}" if args.team else "all teams"


def _rows(args: argparse.Namespace) -> list[LedgerRow]:
    now = _now()
    found = known(rows_between(settings_with(args.ledger or None), now - timedelta(days=args.days), now, args.team))
    if not found:
        raise TraceError(f"the ledger has no request of {_whose(args)} in the last {args.days} days")
    return found


def _export(args: argparse.Namespace, rows: list[LedgerRow]) -> int:
    args.export.write_bytes(b"\n".join(written(turns(rows))) + b"\n")
    what = counted(len(rows), "request")
    print(f"{args.export}: {what} of {_whose(args)}: times, lengths and digests of conversations, no text; the first was made at")
    print(f"{instant_text(together(rows).begin)}, which is what --at takes to replay them at the prices of their time")
    return 0


def _of_ledger(args: argparse.Namespace, policies: Policies, rows: list[LedgerRow]) -> list[_Source]:
    """The traffic of each route that was really used, or all of it where other hosts are named."""
    parts = [together(rows)] if args.routes or args.menu else by_route(rows)
    gone = [part for part in parts if not (args.routes or args.menu) and policies.route(part.route) is None]
    if len(gone) == len(parts):
        names = ", ".join(dict.fromkeys(part.route for part in gone))
        raise TraceError(f"no route of the ledger's is in the policies any more ({names}): name one with --routes, or a --menu")
    for part in gone:
        print(f"left out, because the route is in the policies no more: {part}", file=sys.stderr)
    name = f"ledger, {_whose(args)}, {args.days} days"
    return [
        _Source(name, parse(written(turns(part.rows)), "ledger"), instant_of("--at", args.at, part.begin).replace(microsecond=0), part)
        for part in parts
        if part not in gone
    ]


# ---- against which hosts


class _Case(NamedTuple):
    """What a trace is replayed against: hosts, and answers of another length. `said`: what was assumed, for people."""

    source: _Source
    menu: Menu
    change: Longer | None = None
    said: str = ""


class _Stage:
    """Where requests meet hosts: the policies, and the hosts that can be used here."""

    def __init__(self, args: argparse.Namespace, policies: Policies) -> None:
        self._args = args
        self._policies = policies
        self._settings = settings_with(None)
        self._currencies = {host: self._settings.currency_of(host) for host in policies.hosts}

    def cases(self, source: _Source) -> list[_Case]:
        """The hosts that are asked for, else those of the route that the requests named."""
        if self._args.menu:
            return [_Case(source, self._market(source).menu(path), None, self._assumed(source)) for path in self._args.menu]
        names = self._args.routes or [source.part.route if source.part else _usual(self._policies, source.begin)]
        return [self._of_route(source, name) for name in names]

    def following(self, case: _Case) -> _Case | str:
        """What else the same requests are replayed against: other hosts, another version's lengths, or both; or why they are not."""
        args, hosts = self._args, case
        if args.next_menu:
            hosts = case._replace(menu=self._market(case.source).menu(args.next_menu[0]))
        elif args.next_routes:
            hosts = self._of_route(case.source, args.next_routes[0], same=False)
        if not args.next:
            return hosts
        version = self._version(case)
        if version == args.next and version in self._policies.contracts and hosts is case:
            return f"--next: these answers are those of {version} already, so nothing would change"
        try:
            return hosts._replace(change=longer(self._policies.contracts, version, args.next))
        except ValueError as error:
            return f"--next: {error}"

    def _version(self, case: _Case) -> str:
        """Whose answers the requests had."""
        own = case.source.part.contract if case.source.part else case.menu.contract
        version: str | None = self._args.version or own
        if version:
            return version
        what = "the requests are of several versions" if case.source.part else f"the menu {case.menu.name} does not say"
        raise CommandError(f"--next: whose answers does the trace have? {what[0].upper()}{what[1:]}: name it with --version.")

    def _market(self, source: _Source) -> Market:
        return Market(self._policies, source.begin, self._currencies)

    def _of_route(self, source: _Source, name: str, same: bool = True) -> _Case:
        """A route's hosts; of a ledger's own traffic those that serve its version all the time, and can be used here."""
        route = self._policies.route(name)
        if route is None:
            raise CommandError(f"there is no route {name!r}. Routes are {', '.join(self._policies.routes)}.")
        market, part = self._market(source), source.part
        caches: Caches = self._args.caches or "shared"
        if part is None:
            return _Case(source, market.route(route, caches))
        version = part.contract if same and not self._args.routes else ""
        every = market.route(route, caches, choice=Choice(None, version or None, source.begin + (part.end - part.begin)))
        if self._args.all_hosts:
            return _Case(source, every, None, self._assumed(source))
        usable = self._usable() | part.hosts
        mine = tuple(seller for seller in every.sellers if seller.deployment.host.host in usable)
        if not mine:
            raise CommandError(f"no host of {route.name} is configured here: set the key of one, or give --all-hosts.")
        others = [seller.deployment.host.host for seller in every.sellers if seller not in mine]
        return _Case(source, replace(every, sellers=mine), None, self._assumed(source, others))

    def _usable(self) -> set[str]:
        """The hosts for which nothing is missing here."""
        return {name for name, host in self._policies.hosts.items() if needs(host, self._settings) is None}

    def _assumed(self, source: _Source, others: Sequence[str] = ()) -> str:
        if source.part is None:
            return ""
        of = "named with --at" if self._args.at else "of their time"
        without = f"; without {', '.join(dict.fromkeys(others))}, not configured here (--all-hosts)" if others else ""
        return f"{source.part}. Prices {of}, from {instant_text(source.begin)} on{without}."


def _usual(policies: Policies, begin: datetime) -> str:
    """The first route that leaves a choice at that instant."""
    for name, route in policies.routes.items():
        served = [policies.deployment(target.host, target.model, begin) for target in route.deployments]
        versions = [one.contract.contract for one in served if one is not None]
        if len(versions) > 1 and versions.count(route.contract_at(begin)) > 1:
            return name
    raise CommandError(f"no route leaves a choice: name one with --routes, or a menu with --menu ({', '.join(shipped())}).")


def _reports(args: argparse.Namespace, cases: Sequence[_Case | str]) -> list[Report | str]:
    """The report of each case; where one is the reason why there is none, that reason."""
    played = [case for case in cases if isinstance(case, _Case)]
    progress = Progress(sum((len(case.menu.sellers) + OTHERS) * len(case.source.raws) for case in played))
    reports: list[Report | str] = []
    for case in cases:
        if isinstance(case, str):
            reports.append(case)
            continue
        options = Options(case.source.begin, args.seed, args.test_half, args.mode)
        trace = fold(case.source.name, case.source.raws, case.menu.apart)
        change = case.change
        reports.append(simulate(trace.longer(change.ratio) if change else trace, case.menu, options, progress, str(change or "")))
    progress.end()
    return reports


# ---- what it says


def _draw(file: Path, reports: Sequence[Report]) -> None:
    """One file, or one for each report, named after its hosts."""
    taken: set[str] = set()
    for report in reports:
        stem = file.stem if len(reports) == 1 else f"{file.stem}-{report.menu.replace('/', '-')}"
        stem = next(name for name in (stem, *(f"{stem}-{number}" for number in range(2, len(reports) + 2))) if name not in taken)
        taken.add(stem)
        file.with_name(f"{stem}.svg").write_text(svg(report), encoding="utf-8")


def _json(cases: Sequence[_Case], reports: Sequence[Report | str], later: Sequence[Report | str]) -> dict[str, Any]:
    found: dict[str, Any] = {"reports": [_report(report) | _ledger(case) for case, report in zip(cases, reports, strict=True)]}
    if later:
        found["next"] = [_report(report) for report in later]
    return found


def _report(report: Report | str) -> dict[str, Any]:
    return {"reason": report} if isinstance(report, str) else report.to_json()


def _ledger(case: _Case) -> dict[str, Any]:
    part = case.source.part
    if part is None:
        return {}
    return {"route": part.route or None, "contract": part.contract or None, "ledger_nano": part.charged, "assumed": case.said}


def _text(cases: Sequence[_Case], reports: Sequence[Report | str], later: Sequence[Report | str]) -> str:
    parts = []
    for number, (case, report) in enumerate(zip(cases, reports, strict=True)):
        parts.append("\n".join(filter(None, (case.said, _shown(report)))))
        if later:
            then = later[number]
            parts.append(_shown(then) if isinstance(report, str) or isinstance(then, str) else then.text() + "\n" + _change(report, then))
    return "\n\n".join(parts)


def _shown(report: Report | str) -> str:
    return report if isinstance(report, str) else report.text()


def _change(now: Report, then: Report) -> str:
    before, after = now.bill(LOOK_AHEAD).nano, then.bill(LOOK_AHEAD).nano
    if now.currency != then.currency or not before:
        return f"Looking ahead, the same requests would cost {amount(after)} {then.currency}."
    times = after * 100 // before
    return (
        f"Looking ahead, the same requests would cost {amount(after)} {then.currency} instead of {amount(before)}:"
        f" {times // 100}.{times % 100:02d} times as much."
    )


def _now() -> datetime:
    """The gateway's own time: FAREGATE_CLOCK may set it."""
    return clock_for(settings_with(None).clock).now()
