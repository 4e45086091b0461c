"""faregate export: the ledger as a file for the tools of finance. FOCUS 1.2, as CSV; its costs are the ledger's, to the nano."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from gateway.cli import CommandError
from gateway.clock import instant_text
from gateway.commands.folder import HELP as FOLDER_HELP
from gateway.commands.folder import folder_of
from gateway.commands.reading import HELP, Reader, ask, settings_with
from gateway.focus.columns import DETAILS, VERSION
from gateway.focus.lines import Export, FocusError
from gateway.ledger.gathering import gather
from gateway.money import decimal_text
from gateway.policies import load
from gateway.reports.periods import Period, PeriodError, month, zone_of
from gateway.reports.spending import tariffs
from gateway.reports.text import many
from gateway.timekeeping import clock_for

EXAMPLE = "faregate export focus --month 2026-11 --out focus-2026-11.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("format", choices=["focus"], help="FinOps Open Cost and Usage Specification")
    parser.add_argument("--month", required=True, metavar="2026-11", help="the billing period: a calendar month")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write it (default: standard output)")
    parser.add_argument("--zone", default="UTC", help="the time zone in which the month begins and ends (default: UTC)")
    parser.add_argument("--focus-version", choices=[VERSION], default=VERSION, help=f"only {VERSION} can be validated offline")
    parser.add_argument("--with", dest="details", default="", metavar="key,route", help="also tell lines apart by key or route")
    parser.add_argument("--account", metavar="NAME", help="BillingAccountId of every line (default: the name of the host)")
    parser.add_argument("--ledger", help=HELP)
    parser.add_argument("--policies", type=Path, help=FOLDER_HELP)
    parser.add_argument("--json", action="store_true", help="print what was written as one JSON object (needs --out)")


def run(args: argparse.Namespace) -> int:
    settings = settings_with(args.ledger)
    if args.json and args.out is None:
        raise CommandError("--json says what was written into a file: add --out FILE.")
    period, details = _period(args), tuple(name for name in args.details.split(",") if name)
    for name in details:
        if name not in DETAILS:
            raise CommandError(f"--with: {name!r} is not one of {', '.join(DETAILS)}.")
    prices = tariffs(load(folder_of(args.policies)))
    with _opened(args.out) as file:
        export = Export(period, prices, file.write, tuple(name for name in DETAILS if name in details), args.account)  # type: ignore[misc]
        try:
            ask(settings, lambda reader: _fill(reader, export))
        except FocusError as error:
            raise CommandError(str(error)) from None
    now = clock_for(settings.clock).now()
    _tell(args, export, _unfinished(period, now > period.end))
    return 0


async def _fill(reader: Reader, export: Export) -> None:
    """Standard output takes nothing back: what cannot be whole is refused before the first line."""
    export.archive(await reader.closed(export.period.start, export.period.end))
    export.begin()
    await gather(reader, export)


def _period(args: argparse.Namespace) -> Period:
    option = "--zone"
    try:
        zone = zone_of(args.zone)
        option = "--month"
        return month(args.month, zone)
    except PeriodError as error:
        raise CommandError(f"{option}: {error}") from None


@contextmanager
def _opened(path: Path | None) -> Iterator[TextIO]:
    """The file, which takes its name when it is whole; standard output where none is named."""
    if path is None:
        yield sys.stdout
        return
    if path.exists() and not path.is_file():
        raise CommandError(f"--out: {path} is there, and no file. Name another file, or leave --out away for standard output.")
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            yield file
        os.replace(partial, path)
    except OSError as problem:
        partial.unlink(missing_ok=True)
        raise CommandError(f"--out: {path} cannot be written: {problem.strerror}. Name another file.") from None
    except BaseException:
        # Whatever it is, raised again: half a file must not stay.
        partial.unlink(missing_ok=True)
        raise


def _unfinished(period: Period, over: bool) -> str | None:
    return None if over else f"the month is not over: it ends at {instant_text(period.end)}. Export it again then."


def _tell(args: argparse.Namespace, export: Export, note: str | None) -> None:
    """What was written, on standard output only where that is not the file itself."""
    if args.json:
        costs = {currency: decimal_text(nano) for currency, nano in sorted(export.costs.items())}
        found: dict[str, Any] = {"file": str(args.out), "focus": VERSION, "lines": export.written, "costs": costs, "note": note}
        print(json.dumps(found))
        return
    costs_text = ", ".join(f"{decimal_text(nano)} {currency}" for currency, nano in sorted(export.costs.items()))
    if args.out is not None:
        print(f"{args.out}: FOCUS {VERSION}, {many(export.written, 'line')}, {costs_text or 'nothing charged'}")
    if note is not None:
        print(f"faregate: {note}", file=sys.stderr)
