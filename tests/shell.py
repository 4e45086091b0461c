"""The command as a shell runs it, in a process of its own or, faster, in this one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from tests.harness import environment


def run(*words: str, folder: Path, **settings: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of the command in an empty folder."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *words],
        cwd=folder,
        env=environment(PYTHONPATH=str(Path(__file__).parent.parent), **settings),
        capture_output=True,
        text=True,
        timeout=30,
    )
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
