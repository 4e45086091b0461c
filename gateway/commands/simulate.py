"""faregate simulate: what a trace of requests costs under each way of choosing hosts, with the router in production among them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from gateway.cli import CommandError
from gateway.commands.folder import HELP as FOLDER
from gateway.commands.folder import folder_of
from gateway.commands.reading import HELP as LEDGER
from gateway.commands.reading import instant_of, rows_between, settings_with
from gateway.policies import Policies, load
from gateway.simulate.chart import svg
from gateway.simulate.formats import Turn, parse, read, turns, written
from gateway.simulate.lookahead import LOOK_AHEAD
from gateway.simulate.menus import Caches, Market, Menu, shipped
from gateway.simulate.report import Report, amount
from gateway.simulate.run import OTHERS, Options, Progress, simulate
from gateway.simulate.trace import Raw, TraceError, fold
from gateway.simulate.versions import Longer, longer
from gateway.timekeeping import clock_for

EXAMPLE = """faregate simulate trace.jsonl --menu look-ahead --chart bills.svg
  faregate simulate trace.jsonl --routes deepseek-r1-0528 --at 2026-11-20T02:00:00Z --next deepseek-r1-0528
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
    hosts.add_argument("--routes", "--route", nargs="+", metavar="ROUTE", help="the hosts of these routes, one simulation each")
    hosts.add_argument("--menu", nargs="+", type=Path, help=f"hosts and prices: a YAML file, or one of {', '.join(shipped())}")
    add("--at", help="when the trace begins: an RFC 3339 instant with a zone (default: now)")
    add("--caches", choices=("shared", "session"), help="with --routes: whether conversations share a host's cache")
    add("--mode", choices=("cheapest", "order", "fastest"), default="cheapest", help="how look-ahead chooses, as `choose` of a route")
    add("--test-half", action="store_true", help="bill the later half of the conversations; the earlier half only teaches")
    add("--block", type=int, metavar="TOKENS", help="tokens of a block, where they are not those of the format")
    add("--seed", type=int, default=0, help="of everything that is drawn (default: 0)")
    add("--next", metavar="CONTRACT", help="also: the same requests with answers as long as this version's")
    add("--version", metavar="CONTRACT", help="with --next: whose answers the trace has (default: as the route or the menu says)")
    add("--next-routes", nargs=1, metavar="ROUTE", help="also: the same requests on the hosts of this route")
    add("--next-menu", nargs=1, type=Path, metavar="MENU", help="also: the same requests on the hosts of this menu")
    add("--chart", type=Path, metavar="FILE.svg", help="draw the bills")
    add("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    _check(args)
    try:
        name, raws = _requests(args)
        if args.export:
            return 0
        policies = load(folder_of(args.policies))
        begin = instant_of("--at", args.at, _now()).replace(microsecond=0)
        market = _market(args, policies, begin)
        menus = _menus(args, policies, market, begin)
        reports = _reports(args, begin, name, raws, [_Case(menu) for menu in menus])
        later = _reports(args, begin, name, raws, _following(args, policies, market, menus))
    except (TraceError, ValueError) as error:
        raise CommandError(str(error)) from None
    if args.chart:
        _draw(args.chart, reports)
    print(json.dumps(_json(reports, later)) if args.json else _text(reports, later))
    return 0


def _check(args: argparse.Namespace) -> None:
    if (args.trace is None) == (args.ledger is None):
        raise CommandError("name a trace, or --ledger for the requests of our own. `faregate simulate --help` shows an example.")
    if args.export and args.ledger is None:
        raise CommandError("--export writes the requests of a ledger: give --ledger with it.")
    if args.chart and args.chart.suffix != ".svg":
        raise CommandError(f"--chart: {args.chart} would be no SVG. Name it {args.chart.with_suffix('.svg')}.")
    if args.days < 1 or (args.block is not None and args.block < 1):
        raise CommandError("--days and --block are at least 1.")


def _requests(args: argparse.Namespace) -> tuple[str, list[Raw]]:
    if args.trace is not None:
        return args.trace.name, read(args.trace, args.block)
    settings = settings_with(args.ledger or None)
    now = _now()
    found: list[Turn] = list(turns(rows_between(settings, now - timedelta(days=args.days), now, args.team)))
    whose = f"team {args.team}" if args.team else "all teams"
    if not found:
        raise TraceError(f"the ledger has no request of {whose} in the last {args.days} days")
    if args.export:
        args.export.write_bytes(b"\n".join(written(found)) + b"\n")
        print(f"{args.export}: {len(found):,} requests of {whose}: times, lengths and digests of conversations, no text")
    return f"ledger, {whose}, {args.days} days", parse(written(found), "ledger")


def _market(args: argparse.Namespace, policies: Policies, begin: datetime) -> Market:
    settings = settings_with(None)
    return Market(policies, begin, {host: settings.currency_of(host) for host in policies.hosts})


def _menus(args: argparse.Namespace, policies: Policies, market: Market, begin: datetime) -> list[Menu]:
    if args.menu:
        return [market.menu(path) for path in args.menu]
    return [_of_route(policies, market, name, args.caches) for name in args.routes or [_usual(policies, begin)]]


def _of_route(policies: Policies, market: Market, name: str, caches: Caches | None) -> Menu:
    route = policies.route(name)
    if route is None:
        raise CommandError(f"there is no route {name!r}. Routes are {', '.join(policies.routes)}.")
    return market.route(route, caches or "shared")


def _usual(policies: Policies, begin: datetime) -> str:
    """The first route that leaves a choice at that instant."""
    for name, route in policies.routes.items():
        served = [policies.deployment(target.host, target.model, begin) for target in route.deployments]
        versions = [one.contract.contract for one in served if one is not None]
        if len(versions) > 1 and versions.count(route.contract_at(begin)) > 1:
            return name
    raise CommandError(f"no route leaves a choice: name one with --routes, or a menu with --menu ({', '.join(shipped())}).")


class _Case(NamedTuple):
    """What a trace is replayed against: hosts, and answers of another length."""

    menu: Menu
    change: Longer | None = None


def _following(args: argparse.Namespace, policies: Policies, market: Market, menus: Sequence[Menu]) -> list[_Case]:
    """What else the same requests are replayed against: other hosts, another version's lengths, or both."""
    if not (args.next or args.next_routes or args.next_menu):
        return []
    if args.next_menu:
        hosts = [market.menu(args.next_menu[0])] * len(menus)
    elif args.next_routes:
        hosts = [_of_route(policies, market, args.next_routes[0], args.caches)] * len(menus)
    else:
        hosts = list(menus)
    return [_Case(host, _change_of(args, policies, menu)) for menu, host in zip(menus, hosts, strict=True)]


def _change_of(args: argparse.Namespace, policies: Policies, menu: Menu) -> Longer | None:
    if not args.next:
        return None
    version = args.version or menu.contract
    if version is None:
        raise CommandError(f"--next: whose answers does the trace have? The menu {menu.name} does not say: name it with --version.")
    return longer(policies.contracts, version, args.next)


def _reports(args: argparse.Namespace, begin: datetime, name: str, raws: list[Raw], cases: Sequence[_Case]) -> list[Report]:
    options = Options(begin, args.seed, args.test_half, args.mode)
    progress = Progress(sum((len(case.menu.sellers) + OTHERS) * len(raws) for case in cases))
    reports = []
    for menu, change in cases:
        trace = fold(name, raws, menu.apart)
        reports.append(simulate(trace.longer(change.ratio) if change else trace, menu, options, progress, str(change or "")))
    progress.end()
    return reports


def _draw(file: Path, reports: Sequence[Report]) -> None:
    for report in reports:
        own = file if len(reports) == 1 else file.with_stem(f"{file.stem}-{report.menu.replace('/', '-')}")
        own.write_text(svg(report), encoding="utf-8")


def _json(reports: Sequence[Report], later: Sequence[Report]) -> dict[str, Any]:
    found: dict[str, Any] = {"reports": [report.to_json() for report in reports]}
    if later:
        found["next"] = [report.to_json() for report in later]
    return found


def _text(reports: Sequence[Report], later: Sequence[Report]) -> str:
    parts = [report.text() for report in reports]
    for now, then in zip(reports, later, strict=True) if later else ():
        parts.append(then.text() + "\n" + _change(now, then))
    return "\n\n".join(parts)


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
