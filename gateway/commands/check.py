"""faregate check: every mistake of a policies folder, each with file, line and hint."""

from __future__ import annotations

import argparse
import json
import re
from datetime import UTC, datetime
from pathlib import Path

from gateway.commands.folder import HELP, folder_of
from gateway.errors import PolicyError
from gateway.policies import Policies, load
from gateway.reports.text import many

EXAMPLE = "faregate check policies/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", type=Path, help=HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    folder = folder_of(args.folder)
    try:
        policies = load(folder)
    except PolicyError as error:
        if not args.json:
            # As an editor or a terminal can open it: the path from where the command was given.
            raise PolicyError(tuple(_located(folder, line) for line in error.problems)) from None
        print(json.dumps({"ok": False, "problems": list(error.problems)}))
        return 1
    print(json.dumps(_summary(policies)) if args.json else _text(folder, policies))
    return 0


def _located(folder: Path, problem: str) -> str:
    return f"{folder / problem}" if re.match(r"[\w./-]+\.ya?ml:\d+:", problem) else problem


def _summary(policies: Policies) -> dict[str, object]:
    return {
        "ok": True,
        "digest": policies.digest,
        **{f"{what}s": number for what, number in _counts(policies).items()},
        "warnings": list(policies.warnings_at(datetime.now(UTC))),
    }


def _counts(policies: Policies) -> dict[str, int]:
    return {
        "contract": len(policies.contracts),
        "host": len(policies.hosts),
        "card": len({card.name for card in policies.prices.cards()}),
        "route": len(policies.routes),
        "team": len(policies.teams),
    }


def _text(folder: Path, policies: Policies) -> str:
    counts = ", ".join(many(number, what) for what, number in _counts(policies).items())
    lines = [f"{folder}: {counts}; digest {policies.digest}"]
    lines += [f"warning: {text}" for text in policies.warnings_at(datetime.now(UTC))]
    return "\n".join(lines)
