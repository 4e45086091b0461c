"""The demonstration as a newcomer runs it: one command, a receipt for every answer, nothing left running."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from gateway.demo import engine
from tests.harness import environment


def run(*options: str, **extra: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", "demo", "--once", "--port", "0", "--admin-port", "0", *options]
    return subprocess.run(command, env=environment(**extra), capture_output=True, text=True, timeout=150, check=False)


def test_the_hosts_are_played_and_every_answer_has_its_receipt() -> None:
    done = run("--without-engine")
    assert done.returncode == 0, done.stderr
    receipts = re.findall(r"[\d.]+ USD at (\w+); o1 would have cost [\d.]+ USD", done.stdout)
    assert receipts == ["deepseek"] * 2 + ["openrouter"] * 2 + ["novita"] * 2
    assert done.stdout.count("prompt tokens = ") == 6
    assert done.stdout.count("card ") == 6


def test_another_date_has_its_own_price() -> None:
    done = run("--without-engine", "--clock", "2025-02-03T12:00:00Z")
    assert done.returncode == 0, done.stderr
    assert "card deepseek-reasoner-usd-2025-01-20" in done.stdout


@pytest.mark.engine
@pytest.mark.skipif(not engine.available() and not os.environ.get("CI"), reason="the extra `local` is not installed")
def test_the_engine_is_real() -> None:
    done = run("--only-engine")
    assert done.returncode == 0, done.stderr
    assert "USD at local" in done.stdout
    hits = [int(hit) for hit in re.findall(r"= (\d+) hit", done.stdout)]
    assert len(hits) == 2, "two rounds"
