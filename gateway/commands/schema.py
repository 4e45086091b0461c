"""faregate schema: the JSON Schemas of the policies files, for editors."""

from __future__ import annotations

import argparse
import json

from gateway.cli import CommandError
from gateway.policies import schemas

EXAMPLE = "faregate schema prices > prices.schema.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="one schema (default: all, as one object)")
    parser.add_argument("--json", action="store_true", help="accepted for symmetry: the output is JSON anyway")


def run(args: argparse.Namespace) -> int:
    found = schemas()
    if args.name is not None and args.name not in found:
        raise CommandError(f"no schema is named {args.name!r}: choose one of {', '.join(found)}")
    print(json.dumps(found if args.name is None else found[args.name], indent=2, sort_keys=True))
    return 0
