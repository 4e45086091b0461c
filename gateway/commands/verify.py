"""faregate verify: the invariants of the ledger, checked on the file itself."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from gateway.app import ledger_file
from gateway.cli import CommandError
from gateway.ledger.verify import verify
from gateway.settings import SettingsError, load

EXAMPLE = "faregate verify --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ledger", help="sqlite:///PATH (default: FAREGATE_LEDGER, or the file in FAREGATE_DATA)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    path = _path(args.ledger)
    if not path.exists():
        raise CommandError(f"there is no ledger at {path}: set FAREGATE_LEDGER or FAREGATE_DATA, or pass --ledger sqlite:///PATH")
    problems = verify(path)
    if args.json:
        print(json.dumps({"ok": not problems, "ledger": str(path), "problems": problems}))
    else:
        print("\n".join(problems) if problems else f"{path}: every invariant holds")
    return 1 if problems else 0


def _path(address: str | None) -> Path:
    try:
        return ledger_file(load({"FAREGATE_LEDGER": address}, None) if address else load())
    except SettingsError as error:
        raise CommandError(str(error)) from None
