"""faregate serve: the gateway, until a signal ends it."""

from __future__ import annotations

import argparse

from gateway import logs
from gateway.app import Gateway
from gateway.cli import CommandError
from gateway.front.server import run as run_loop
from gateway.settings import Settings, SettingsError, load

EXAMPLE = "FAREGATE_KEYS=search:a-key-of-yours DEEPSEEK_API_KEY=… faregate serve"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (parser.epilog or "") + "\n\nEvery setting is a FAREGATE_* variable or a line of .env: see docs/settings.md."


def run(args: argparse.Namespace) -> int:
    try:
        settings = load()
        logs.configure(settings.log_level, settings.log_format)
        run_loop(_gateway(settings).serve())
    except SettingsError as error:
        raise CommandError(str(error)) from None
    return 0


def _gateway(settings: Settings) -> Gateway:
    try:
        return Gateway(settings)
    except OSError as error:
        raise CommandError(f"{settings.data} cannot be used ({error.strerror}). Remedy: set FAREGATE_DATA to another folder.") from None
