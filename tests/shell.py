"""The command as a shell runs it, in a process of its own or, faster, in this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from tests import prepared
from tests.harness import environment


def run(*words: str, folder: Path, given: str = "", **settings: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of the command in an empty folder, with `given` as its standard input."""
    done = prepared.run(words, environment(**settings), folder, given)
    return done.returncode, done.stdout, done.stderr


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """The same in this process."""
    try:
        code = main(words)
    except SystemExit as end:
        code = int(str(end.code))
    out, err = capsys.readouterr()
    return code, out, err


def json_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    code, out, err = said(capsys, *words)
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found
