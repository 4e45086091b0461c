"""faregate ledger: its care. Old months into archives, backups and what puts them back, and what corrections did."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from gateway.app import ledger_file, on_postgres
from gateway.cli import CommandError
from gateway.clock import instant_text
from gateway.commands.reading import HELP, ask, instant_of, settings_with
from gateway.ledger import archive, backup, retention
from gateway.ledger.archive import ArchiveError, Charge
from gateway.ledger.backup import BackupError, Manifest
from gateway.ledger.postgres_shelf import PostgresShelf
from gateway.ledger.retention import Month, Retention, Shelf, micros, month_after
from gateway.ledger.sqlite import VERSION
from gateway.ledger.sqlite_shelf import SqliteShelf
from gateway.ledger.verify import verify
from gateway.money import decimal_text
from gateway.outcome import Correction, Counted
from gateway.reports.text import many, seen
from gateway.settings import Settings
from gateway.timekeeping import clock_for

EXAMPLE = "faregate ledger retain --keep 13 --archive /backups/archive"
_EXAMPLES: Final = {
    "retain": EXAMPLE,
    "show": "faregate ledger show /backups/archive/ledger-2025-09.jsonl.gz",
    "backup": "faregate ledger backup /backups/ledger-2026-11-22",
    "restore": "faregate ledger restore /backups/ledger-2026-11-22",
    "corrections": "faregate ledger corrections --from 2026-10-01 --to 2026-11-01 --team search",
}
_KEEP: Final = 13
_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY: Final = timedelta(days=1)
# What a dump has of a database is for its own tools to say; each line is tested.
_DUMP: Final = "pg_dump --format=custom --schema=faregate --file=FILE URL"
_PUT_BACK: Final = "pg_restore --exit-on-error --single-transaction --dbname=URL FILE"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar=" | ".join(_EXAMPLES))
    retain = actions.add_parser("retain", help="write whole old months into archives, and then delete them from the ledger")
    retain.add_argument(
        "--keep", type=int, default=_KEEP, metavar="MONTHS", help="whole months (UTC) before this one that stay (default: 13)"
    )
    retain.add_argument("--archive", type=Path, metavar="DIR", help="where the archives go (default: archive in FAREGATE_DATA)")
    lost = "a file that will not come back: what of it is still in the ledger goes into the month's next part"
    retain.add_argument("--lost", metavar="FILE", default="", help=lost)
    retain.add_argument("--dry-run", action="store_true", help="only say what would go")
    show = actions.add_parser("show", help="check an archive or a backup to its last byte, and print its sums")
    show.add_argument("place", type=Path, metavar="ARCHIVE", help="a file that retain wrote, or a folder that backup made")
    made = actions.add_parser("backup", help="a snapshot of the ledger's file and of the spool, while gateways write")
    made.add_argument("to", type=Path, metavar="TO", help="the folder to make")
    back = actions.add_parser("restore", help="put a backup in the place of the ledger; gateways must have stopped")
    back.add_argument("source", type=Path, metavar="FROM", help="a folder that backup made")
    back.add_argument("--force", action="store_true", help="also over a ledger (it is kept beside), and where the backup is not sound")
    listed = actions.add_parser("corrections", help="every correction, and what it did to budgets")
    listed.add_argument("--from", dest="start", metavar="INSTANT", help="2026-10-01 or 2026-10-01T00:00:00Z (default: the first)")
    listed.add_argument("--to", dest="end", metavar="INSTANT", help="the first instant that is not asked for (default: now)")
    listed.add_argument("--team", help="of one team")
    for name, action in actions.choices.items():
        if name != "show":
            action.add_argument("--ledger", help=HELP)
        action.add_argument("--json", action="store_true", help="print JSON")
        action.epilog, action.formatter_class = f"example:\n  {_EXAMPLES[name]}", argparse.RawDescriptionHelpFormatter


def run(args: argparse.Namespace) -> int:
    actions = {"retain": _retain, "show": _show, "backup": _backup, "restore": _restore, "corrections": _corrections}
    try:
        return actions[args.action](args)
    except (ArchiveError, BackupError) as error:
        raise CommandError(str(error)) from None


def _retain(args: argparse.Namespace) -> int:
    if args.keep < 1:
        raise CommandError("--keep: at least one whole month stays, so that whatever is on its way has ended")
    settings = settings_with(args.ledger)
    before = retention.cutoff(clock_for(settings.clock).now(), args.keep)
    if args.dry_run:
        return _said(args, asyncio.run(_planned(settings, before)), "nothing is old enough", _planned_line)
    folder = args.archive or settings.data / "archive"
    return _said(args, asyncio.run(_retained(settings, folder, before, args.lost)), "nothing is old enough", _retained_line)


async def _planned(settings: Settings, before: datetime) -> list[dict[str, Any]]:
    async with _shelf(settings) as shelf:
        starts = [start async for start in retention.months(shelf, before)]
        found = [await shelf.charges(micros(start), micros(month_after(start))) for start in starts]
    return [_planned_json(start, charges) for start, charges in zip(starts, found, strict=True)]


def _planned_json(start: datetime, charges: Sequence[Charge]) -> dict[str, Any]:
    requests = sum(charge.requests for charge in charges)
    return {"month": start.strftime("%Y-%m"), "requests": requests, "charges": [_charge(one) for one in charges]}


def _planned_line(month: dict[str, Any]) -> str:
    return seen(f"{month['month']}: {many(month['requests'], 'request')} would go: {_amounts(month['charges'])}")


async def _retained(settings: Settings, folder: Path, before: datetime, lost: str) -> list[dict[str, Any]]:
    async with _shelf(settings) as shelf:
        return [_retained_json(month) async for month in Retention(shelf, folder, lost=lost).run(before)]


def _retained_json(month: Month) -> dict[str, Any]:
    return {**_archive_json(month.file, month.contents), "gone": month.gone, "longest_lock_seconds": round(month.lock, 4)}


def _retained_line(month: dict[str, Any]) -> str:
    left = month["holds"] - month["gone"]
    changed = f"; {left} stayed or had gone before" if left else ""
    return f"{_archive_line(month)}; {month['gone']} left the ledger{changed}, longest lock {month['longest_lock_seconds'] * 1000:.0f} ms"


@asynccontextmanager
async def _shelf(settings: Settings) -> AsyncIterator[Shelf]:
    shelf: Shelf = PostgresShelf(settings.ledger_address) if on_postgres(settings) else SqliteShelf(ledger_file(settings))
    try:
        await shelf.start()
        yield shelf
    finally:
        await shelf.close()


def _show(args: argparse.Namespace) -> int:
    if args.place.is_dir():
        manifest = backup.check(args.place)
        problems = verify(args.place / backup.LEDGER) if manifest.schema == VERSION else list(manifest.problems)
        print(json.dumps(_backup_json(args.place, manifest)) if args.json else _backup_text(args.place, manifest))
        _print_problems(args, problems)
        return 1 if problems else 0
    return _said(args, [_archive_json(args.place, archive.check(args.place))], "", lambda found: f"{_archive_line(found)}: whole")


def _archive_json(file: Path, contents: archive.Contents) -> dict[str, Any]:
    head, sums = contents.head, contents.sums
    counts = {"requests": sums.requests, "holds": sums.holds, "entries": sums.entries, "corrections": sums.corrections}
    charges = [_charge(one) for one in sums.charges]
    return {
        "file": str(file),
        "month": head.month,
        "part": head.part,
        "ledger": head.ledger,
        **counts,
        "charges": charges,
        "sha256": sums.sha256,
    }


def _archive_line(found: dict[str, Any]) -> str:
    return seen(f"{found['file']}: {found['month']}, {many(found['requests'], 'request')}: {_amounts(found['charges'])}")


def _charge(one: Charge) -> dict[str, Any]:
    amounts = {"amount": decimal_text(one.nano), "estimated": decimal_text(one.estimated)}
    return {"team": one.team, "currency": one.currency, **amounts, "requests": one.requests}


def _amounts(charges: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{one['team']} {one['amount']} {one['currency']}" for one in charges) or "no charge"


def _backup(args: argparse.Namespace) -> int:
    settings = settings_with(args.ledger)
    _only_files(settings, f"pg_dump, which makes a consistent snapshot while gateways write: {_DUMP}")
    path = ledger_file(settings)
    if not path.is_file():
        raise CommandError(f"there is no ledger at {path}: set FAREGATE_LEDGER or FAREGATE_DATA, or pass --ledger sqlite:///PATH")
    manifest = backup.backup(path, settings.data / "spool", args.to)
    print(json.dumps(_backup_json(args.to, manifest)) if args.json else _backup_text(args.to, manifest, _secrets(settings)))
    _print_problems(args, manifest.problems)
    return 1 if manifest.problems else 0


def _backup_json(folder: Path, manifest: Manifest) -> dict[str, Any]:
    totals = [{"currency": one.currency, "amount": decimal_text(one.nano), "requests": one.requests} for one in manifest.totals]
    found = {"made": manifest.made, "schema": manifest.schema, "totals": totals, "waiting": manifest.waiting}
    return {"backup": str(folder), **found, "problems": list(manifest.problems), "files": manifest.files}


def _backup_text(folder: Path, manifest: Manifest, also: str = "") -> str:
    totals = (
        ", ".join(f"{decimal_text(one.nano)} {one.currency} of {many(one.requests, 'request')}" for one in manifest.totals) or "no request"
    )
    state = "every invariant holds" if not manifest.problems else "NOT every invariant holds"
    line = f"{folder}: {totals}; {many(manifest.waiting, 'record')} of the spool; made {manifest.made}; {state}"
    return f"{seen(line)}\n{also}" if also else seen(line)


def _secrets(settings: Settings) -> str:
    pepper = "FAREGATE_KEY_PEPPER" if settings.key_pepper is not None else str(settings.data / "key-pepper")
    stored = "FAREGATE_STORE_KEY" if settings.store_key is not None else str(settings.data / "recall-key")
    return (
        f"Not in it, keep them elsewhere: {pepper} (without it no key of a team is known again), {stored} (without it kept reasoning "
        "cannot be read), host keys, and the policies."
    )


def _print_problems(args: argparse.Namespace, problems: Sequence[str]) -> None:
    if not args.json:
        for problem in problems:
            print(seen(problem))


def _restore(args: argparse.Namespace) -> int:
    settings = settings_with(args.ledger)
    _only_files(settings, f"pg_restore, into a database without the schema faregate: {_PUT_BACK}")
    path = ledger_file(settings)
    old = backup.restore(args.source, path, settings.data / "spool", force=args.force)
    problems = verify(path)
    found = {"ledger": str(path), "from": str(args.source), "before": str(old) if old else None, "problems": problems}
    kept = f" The ledger that was there is {old}." if old else ""
    print(json.dumps(found) if args.json else f"{path}: restored from {args.source}.{kept}")
    if not args.json:
        print("\n".join(map(seen, problems)) if problems else f"{path}: every invariant holds")
    return 1 if problems else 0


def _only_files(settings: Settings, instead: str) -> None:
    if on_postgres(settings):
        raise CommandError(f"a ledger in PostgreSQL has tools of its own. Remedy: {instead}")


def _corrections(args: argparse.Namespace) -> int:
    settings = settings_with(args.ledger)
    now = clock_for(settings.clock).now()
    start, end = instant_of("--from", args.start, _FIRST), instant_of("--to", args.end, now + _DAY)
    found = ask(settings, lambda reader: reader.corrections(start, end, args.team))
    return _said(args, [_correction_json(one) for one in found], "no correction", _correction_line)


def _correction_json(one: Correction) -> dict[str, Any]:
    names = ("id", "team", "key", "route", "host", "model", "currency")
    known = {name: getattr(one, name) or None for name in names}
    about = {"class": one.cls or None, "reason": one.reason, "source": one.source, "request": one.request}
    return {
        "at": instant_text(one.at),
        **known,
        "amount": decimal_text(one.nano),
        **about,
        "budgets": [_counted(part) for part in one.counted],
    }


def _counted(part: Counted) -> dict[str, Any]:
    names = {"budget": part.budget, "key": part.key or None, "period": part.period, "currency": part.currency}
    return {**names, "amount": decimal_text(part.nano), "left_out": decimal_text(part.left_out)}


def _correction_line(one: dict[str, Any]) -> str:
    whose = one["team"] or "no team"
    line = f"{one['at']}  {one['id']}  {whose}  {one['amount']} {one['currency']}  {one['reason']} ({one['source']})"
    budgets = (f"  {part['budget']} in {part['period']}: {part['amount']} {part['currency']}{_left_out(part)}" for part in one["budgets"])
    return "\n".join(map(seen, (line, *budgets)))


def _left_out(part: dict[str, Any]) -> str:
    return f", {part['left_out']} not given back: it had not spent that" if part["left_out"] != "0" else ""


def _said(args: argparse.Namespace, found: list[dict[str, Any]], nothing: str, line: Any) -> int:
    print(json.dumps(found) if args.json else "\n".join(map(line, found)) or nothing)
    return 0
