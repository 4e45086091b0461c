"""faregate spend: what was charged, by whom, where and when; exact to the nano, from the ledger itself."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from gateway.cli import CommandError
from gateway.commands.folder import HELP as FOLDER_HELP
from gateway.commands.folder import folder_of
from gateway.commands.periods import add_period, period_of
from gateway.commands.reading import HELP, ask, settings_with
from gateway.ledger.gathering import gather
from gateway.policies import load
from gateway.reports.chart import bars, svg
from gateway.reports.periods import PeriodError
from gateway.reports.spending import BY, Spending, by_of, tariffs
from gateway.reports.tallies import FILTERS
from gateway.reports.writing import csv_text, report_json, table
from gateway.timekeeping import clock_for

EXAMPLE = "faregate spend --by team,day --month 2026-11 --zone Asia/Shanghai"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", default="team", help=f"what to group by, several with commas: {', '.join(BY)} (default: team)")
    add_period(parser, "today")
    for name in FILTERS:
        parser.add_argument(f"--{name}", help=f"only this {name}")
    parser.add_argument(
        "--chart", nargs="?", const="-", metavar="FILE.svg", help="draw it: as bars in the terminal, or into a file of this name"
    )
    parser.add_argument("--ledger", help=HELP)
    parser.add_argument("--policies", type=Path, help=FOLDER_HELP)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    form.add_argument("--csv", action="store_true", help="print CSV")


def run(args: argparse.Namespace) -> int:
    if args.chart == "-" and (args.csv or args.json):
        form = "--csv" if args.csv else "--json"
        raise CommandError(f"--chart draws bars, and {form} prints data: pass one of them, or name a file: --chart FILE.svg {form}.")
    settings = settings_with(args.ledger)
    period = period_of(args, clock_for(settings.clock).now())
    try:
        by = by_of(args.by)
    except PeriodError as error:
        raise CommandError(f"--by: {error}") from None
    only = {name: value for name in FILTERS if (value := getattr(args, name)) is not None}
    report = Spending(by, period, only, tariffs(load(folder_of(args.policies))))
    ask(settings, lambda reader: gather(reader, report))
    if args.chart and args.chart != "-":
        _draw(Path(args.chart), report)
    _show(args, report)
    return 0


def _draw(file: Path, report: Spending) -> None:
    if file.suffix != ".svg":
        raise CommandError(f"--chart: {file.name} does not end in .svg. Without a file name it draws bars in the terminal.")
    try:
        file.write_text(svg(report), "utf-8")
    except OSError as problem:
        raise CommandError(f"--chart: {file} cannot be written: {problem.strerror}. Name another file.") from None
    print(f"faregate: the picture is in {file}", file=sys.stderr)


def _show(args: argparse.Namespace, report: Spending) -> None:
    if args.json:
        print(json.dumps(report_json(report)))
    elif args.csv:
        sys.stdout.writelines(csv_text(report))
        for note in report.notes:
            print(f"faregate: {note}", file=sys.stderr)
    else:
        print(bars(report) if args.chart == "-" else table(report))
