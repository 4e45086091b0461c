"""SQLite's log, in which the newest charges stand, is there as long as a gateway writes it, whoever else looks into the ledger's file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from tests.harness import LiveGateway
from tests.replicas import ask

# What an operator's shell does: look, and leave. Whoever takes himself for the last one copies the log and removes it.
LOOK = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('SELECT count(*) FROM hold').fetchall(); db.close()"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[LiveGateway]:
    live = LiveGateway(tmp_path)
    yield live
    live.close()


def look_into(path: Path) -> None:
    subprocess.run([sys.executable, "-c", LOOK, str(path)], check=True, timeout=60)


def charged(gateway: LiveGateway) -> str:
    """The id of one more request, whose charge its client has been told."""
    status, headers, _ = gateway.chat(ask())
    assert status == 200 and "x-faregate-cost" in headers
    return headers["x-request-id"]


def on_disk(path: Path) -> set[str]:
    """The requests that whoever opens the file finds charged."""
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)) as db:
        return {rid for (rid,) in db.execute("SELECT rid FROM request WHERE nano > 0")}


@pytest.mark.parametrize("restarts", [False, True], ids=["a new ledger", "one that was there"])
def test_who_looks_into_the_ledger_and_leaves_takes_nothing_along(tmp_path: Path, restarts: bool) -> None:
    told = set()
    if restarts:
        with closing(LiveGateway(tmp_path)) as earlier:
            told.add(charged(earlier))
    with closing(LiveGateway(tmp_path)) as gateway:
        look_into(gateway.ledger)
        told.add(charged(gateway))
        look_into(gateway.ledger)
        told.add(charged(gateway))
        os.kill(gateway.pid, signal.SIGKILL)
        assert on_disk(gateway.ledger) == told


def test_beside_its_own_commands_nothing_is_lost(gateway: LiveGateway) -> None:
    own, told = {**os.environ, "FAREGATE_DATA": str(gateway.folder / "data")}, set()
    for words in ("verify", "spend", "keys create --team search", "budgets", f"ledger backup {gateway.folder}/backup", "doctor --offline"):
        command = [sys.executable, "-m", "gateway", *words.split()]
        run = subprocess.run(command, env=own, capture_output=True, text=True, check=False, timeout=60)
        assert "Traceback" not in run.stderr and "usage:" not in run.stderr, run.stderr
        told.add(charged(gateway))
    os.kill(gateway.pid, signal.SIGKILL)
    assert on_disk(gateway.ledger) == told


def test_a_log_that_is_removed_is_noticed_and_the_charge_is_kept_elsewhere(tmp_path: Path) -> None:
    with closing(LiveGateway(tmp_path)) as gateway:
        told = {charged(gateway)}
        look_into(gateway.ledger)
        Path(f"{gateway.ledger}-wal").unlink()
        status, headers, _ = gateway.chat(ask())
        told |= {headers["x-request-id"]} if status == 200 else set()
        assert "another program has removed it" in gateway.log
        # Nothing more is held in a ledger that will not remember it.
        assert gateway.chat(ask())[0] == 503
    with closing(LiveGateway(tmp_path)) as again:
        assert all(again.row(id)["status"] == "ok" for id in told)
