"""The `faregate` command: one verb, one module of gateway.commands, imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn, Protocol

from gateway.errors import FaregateError, PolicyError
from gateway.reports.text import seen_lines


class CommandError(Exception):
    """A command that cannot go on; the text is one line with the remedy."""


class Command(Protocol):
    """What a module of gateway.commands offers."""

    EXAMPLE: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


# verb -> what it does, in the order of a first day with Faregate.
VERBS = {
    "demo": "start a real engine, emulated hosts and the gateway, and play a priced conversation",
    "serve": "run the gateway",
    "doctor": "look at the whole installation, and say what to do about what is wrong",
    "env": "print the lines that point a tool at this gateway",
    "keys": "make, list, revoke and rotate the keys of teams",
    "check": "validate a policies folder",
    "quote": "price a request at any host, model and instant",
    "simulate": "replay a trace of requests, and show what each way of choosing hosts would cost",
    "prices": "compare the price lists that others publish with ours, and propose cards",
    "schema": "print the JSON Schemas of the policies for editors",
    "budgets": "show what every budget has spent and holds, and its forecast",
    "spend": "show what was spent: by team, key, route, host, model, price window, class, day or hour",
    "export": "write the ledger as a file for the tools of finance (FOCUS)",
    "reconcile": "compare a host's usage export with the ledger, and propose corrections",
    "explain": "say why a request went where it went, and what it would have cost elsewhere",
    "cache": "find what breaks prompt caches, and what that costs",
    "verify": "check the ledger's invariants",
    "ledger": "archive old months of the ledger, back it up and restore it",
    "emulate": "play a host, strictly, with a bill of its own",
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}. `{self.prog} --help` shows an example.\n")


def command(verb: str) -> Command:
    """The module that carries out a verb."""
    module: Command = importlib.import_module(f"gateway.commands.{verb}")
    return module


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; errors are one line on standard error and a non-zero exit."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in {"-h", "--help"}:
        print(_overview())
        return 0 if words else 2
    verb, rest = words[0], words[1:]
    if verb in {"-V", "--version"}:
        print(f"faregate {version('faregate')}")
        return 0
    if verb not in VERBS:
        print(f"faregate: {verb!r} is not a command. `faregate --help` lists them.", file=sys.stderr)
        return 2
    chosen = command(verb)
    parser = _Parser(
        prog=f"faregate {verb}",
        description=VERBS[verb][0].upper() + VERBS[verb][1:] + ".",
        epilog=f"example:\n  {chosen.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    chosen.add_arguments(parser)
    return _run(chosen, parser.parse_args(rest))


def _run(chosen: Command, args: argparse.Namespace) -> int:
    try:
        return chosen.run(args)
    except CommandError as error:
        print(seen_lines(f"faregate: {error}"), file=sys.stderr)
        return 2
    except PolicyError as error:
        print(seen_lines("\n".join(error.problems)), file=sys.stderr)
        return 1
    except FaregateError as error:
        print(seen_lines(f"faregate: {error.message}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has left (`| head`): there is nobody to tell, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()]
    return "usage: faregate COMMAND …\n\n" + "\n".join(lines) + "\n\n`faregate COMMAND --help` shows an example of each."
