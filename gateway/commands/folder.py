"""Which policies folder a command looks at: the one named, else FAREGATE_POLICIES, else the shipped one."""

from __future__ import annotations

from pathlib import Path

from gateway.cli import CommandError
from gateway.policies import default_folder
from gateway.settings import SettingsError, load

HELP = "the policies folder (default: FAREGATE_POLICIES, else the one that is shipped)"


def folder_of(named: Path | None) -> Path:
    """The folder; raises CommandError where the settings cannot be read."""
    try:
        return named or load().policies or default_folder()
    except SettingsError as error:
        raise CommandError(str(error)) from None
