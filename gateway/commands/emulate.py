"""faregate emulate: a strict stand-in for a host, with its own bill."""

from __future__ import annotations

import argparse
import asyncio

from gateway.cli import CommandError
from gateway.emulator import command
from gateway.policies import default_folder

EXAMPLE = command.EXAMPLE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    try:
        asyncio.run(command.run(command.setup_of(args, default_folder())))
    except command.CommandError as error:
        raise CommandError(str(error)) from None
    return 0
