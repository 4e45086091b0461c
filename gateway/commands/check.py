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
        "contracts": len(policies.contracts),
        "hosts": len(policies.hosts),
        "cards": len({card.name for card in policies.prices.cards()}),
        "routes": len(policies.routes),
        "teams": len(policies.teams),
        "warnings": list(policies.warnings_at(datetime.now(UTC))),
    }


def _text(folder: Path, policies: Policies) -> str:
    found = _summary(policies)
    counts = ", ".join(f"{found[name]} {name}" for name in ("contracts", "hosts", "cards", "routes", "teams"))
    lines = [f"{folder}: {counts}; digest {policies.digest}"]
    lines += [f"warning: {text}" for text in policies.warnings_at(datetime.now(UTC))]
    return "\n".join(lines)
