"""Secrets from a folder: each file is one variable, its name the variable's and its text the value.

So are mounted the Secrets of Kubernetes, the secrets of Compose and Swarm, and systemd's credentials: nothing secret stands in the
environment, where children and crash reports would carry it on.
"""

from __future__ import annotations

import re
from pathlib import Path

VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
# A key or an address, never a file that was mounted by mistake.
LARGEST = 64 * 1024


class UnusableSecret(ValueError):
    """A folder or file that cannot be read; one line with the path and the remedy, and nothing of what is in it."""


def read_secrets(folder: Path) -> dict[str, tuple[Path, str]]:
    """(file, text) by variable; white space around a text is taken off, an empty file counts as absent. Raises UnusableSecret.

    Names that are no variable's are left alone: Kubernetes keeps links such as ..data beside the files, and people keep READMEs.
    """
    try:
        files = sorted(file for file in folder.iterdir() if VARIABLE.fullmatch(file.name) and file.is_file())
    except OSError as error:
        raise UnusableSecret(
            f"{folder} is no folder that can be read ({error.strerror}). Remedy: mount the secrets there, or unset FAREGATE_SECRETS."
        ) from None
    found = {file.name: (file, _text(file)) for file in files}
    return {name: entry for name, entry in found.items() if entry[1]}


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > LARGEST:
            raise UnusableSecret(f"{file} is larger than any secret. Remedy: put there the value of {file.name} alone.")
        return file.read_text("utf-8").strip()
    except OSError as error:
        raise UnusableSecret(
            f"{file} cannot be read ({error.strerror}). Remedy: make it readable to the user that Faregate runs as, or remove it."
        ) from None
    except UnicodeDecodeError:
        raise UnusableSecret(f"{file} is no text. Remedy: put there the value of {file.name} in UTF-8.") from None
