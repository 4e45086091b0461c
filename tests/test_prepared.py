"""A copy of a prepared process is the command: it says, takes and returns the same."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import prepared
from tests.harness import environment


@pytest.mark.parametrize(
    "words", [["--version"], ["nonsense"], ["check"], ["check", "here"], ["check", "nowhere"], ["check", "--nonsense"], ["keys", "list"]]
)
def test_a_copy_says_and_returns_what_the_command_does(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    given = environment(FAREGATE_DATA="data", PYTHONPATH=str(prepared.ROOT))
    real = subprocess.run([sys.executable, "-m", "gateway", *words], cwd=tmp_path, env=given, capture_output=True, text=True, check=False)
    copy = prepared.run(words, given, tmp_path)
    assert (copy.returncode, copy.stdout, copy.stderr) == (real.returncode, real.stdout, real.stderr)


def test_a_copy_has_the_environment_that_it_is_given(tmp_path: Path) -> None:
    for name in ("one", "other"):
        assert f"no ledger at {name}/" in prepared.run(["budgets"], environment(FAREGATE_DATA=name), tmp_path).stderr


def test_an_end_by_a_signal_is_told_as_such(tmp_path: Path) -> None:
    copies = [prepared.start(["emulate", "--host", "deepseek"], environment(), tmp_path / f"{number}.log") for number in range(3)]
    copies[0].kill()
    assert copies[0].wait(20) == -signal.SIGKILL
    assert [copy.poll() for copy in copies[1:]] == [None, None]
    for copy in copies:
        copy.kill()
    assert [copy.wait(20) for copy in copies] == [-signal.SIGKILL] * 3
