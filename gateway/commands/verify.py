"""faregate verify: the invariants of the ledger, checked on the file or the database itself."""

from __future__ import annotations

import argparse
import asyncio
import json

from gateway.app import ledger_file, on_postgres
from gateway.cli import CommandError
from gateway.commands.reading import HELP, settings_with
from gateway.ledger.postgres_connection import driver, shown
from gateway.ledger.postgres_verify import verify as verify_database
from gateway.ledger.verify import verify as verify_file
from gateway.reports.text import seen
from gateway.settings import Settings

EXAMPLE = "faregate verify --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ledger", help=HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    settings = settings_with(args.ledger)
    name, problems = _database(settings) if on_postgres(settings) else _file(settings)
    if args.json:
        print(json.dumps({"ok": not problems, "ledger": name, "problems": problems}))
    else:
        print("\n".join(map(seen, problems)) if problems else f"{name}: every invariant holds")
    return 1 if problems else 0


def _database(settings: Settings) -> tuple[str, list[str]]:
    # Without it nothing can be said of the ledger: that is a mistake of the caller's, not of the ledger's.
    driver()
    return shown(settings.ledger_address), asyncio.run(verify_database(settings.ledger_address))


def _file(settings: Settings) -> tuple[str, list[str]]:
    path = ledger_file(settings)
    if not path.exists():
        raise CommandError(f"there is no ledger at {path}: set FAREGATE_LEDGER or FAREGATE_DATA, or pass --ledger sqlite:///PATH")
    return str(path), verify_file(path)
