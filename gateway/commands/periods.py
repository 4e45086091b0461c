"""The options with which commands name a period and its time zone."""

from __future__ import annotations

import argparse
from datetime import datetime

from gateway.cli import CommandError
from gateway.reports.periods import Period, PeriodError, between, last, month, today, zone_of


def add_period(parser: argparse.ArgumentParser, otherwise: str) -> None:
    """--from, --to, --today, --month, --last and --zone; `otherwise` says what holds where none is given."""
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--today", action="store_true", help="from midnight until now")
    one.add_argument("--month", metavar="2026-11", help="a calendar month")
    one.add_argument("--last", metavar="7d", help="the last hours, days or weeks until now: 24h, 7d, 4w")
    one.add_argument("--from", dest="start", metavar="DATE", help=f"a date or an instant with its zone (default: {otherwise})")
    parser.add_argument("--to", dest="end", metavar="DATE", help="up to but not including this date or instant (default: now)")
    parser.add_argument("--zone", default="UTC", help="the time zone whose days, hours and months are meant (default: UTC)")


def period_of(args: argparse.Namespace, now: datetime) -> Period:
    """The period that the options name; CommandError with the remedy."""
    try:
        zone = zone_of(args.zone)
    except PeriodError as error:
        raise CommandError(f"--zone: {error}") from None
    if args.end is not None and (args.today or args.month or args.last):
        raise CommandError("--to belongs to --from. Leave it out, or write --from instead.")
    option = "--month" if args.month else "--last" if args.last else "--from or --to"
    try:
        if args.month:
            return month(args.month, zone)
        if args.last:
            return last(args.last, now, zone)
        return today(now, zone) if args.today else between(args.start, args.end, now, zone)
    except PeriodError as error:
        raise CommandError(f"{option}: {error}") from None
