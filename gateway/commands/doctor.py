"""faregate doctor: what is wrong with this installation, or soon will be, and what to do about each finding."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from gateway.commands.folder import HELP
from gateway.doctor.findings import Finding, failure, lines, report, worst
from gateway.doctor.patient import patient_of
from gateway.doctor.run import examine
from gateway.errors import PolicyError
from gateway.policies import default_folder, load
from gateway.reports.text import seen
from gateway.settings import SettingsError
from gateway.settings import load as load_settings

EXAMPLE = "faregate doctor\n  faregate doctor --offline --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--offline", action="store_true", help="ask no host, no Redis and no database: only this machine")
    parser.add_argument("--policies", type=Path, help=HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    found = _examined(args.policies, args.offline)
    print(json.dumps(report(found)) if args.json else "\n".join(map(seen, lines(found))))
    return 1 if worst(found) == "failure" else 0


def _examined(named: Path | None, offline: bool) -> list[Finding]:
    try:
        settings = load_settings()
    except SettingsError as problem:
        return [_setting(line) for line in str(problem).split("\n")]
    folder = named or settings.policies or default_folder()
    try:
        policies = load(folder)
    except PolicyError as problem:
        return [failure("policies", str(folder), line, "Mend the file; `faregate check` shows it again.") for line in problem.problems]
    return asyncio.run(examine(patient_of(settings, policies, folder), offline=offline))


def _setting(line: str) -> Finding:
    name, _, text = line.partition(": ")
    return failure("settings", name, text or line, "Set it as docs/settings.md says; nothing else was looked at.")
