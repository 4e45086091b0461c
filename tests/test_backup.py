"""Backups, what puts them back, and the words of `faregate ledger`: on files, and on PostgreSQL by its own tools."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.ledger.backup import BackupError, backup, check, restore
from gateway.ledger.spool import waiting
from gateway.ledger.sqlite import VERSION
from gateway.ledger.verify import verify
from gateway.outcome import Idempotency
from tests.harness import environment
from tests.ledgers import AT, HOLD, MONTH, ROW, Embedded, eventually, locked, look, unlock
from tests.servers import PostgresServer
from tests.shell import json_of, run, said
from tests.stores import PostgresPlace, SqlitePlace, charged
from tests.test_retention import CORRECTION, OLD, filled

ROOT = Path(__file__).parent.parent


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder that commands of this process find, at noon of 22 November 2026."""
    for name in ("FAREGATE_LEDGER", "FAREGATE_KEY_PEPPER", "FAREGATE_STORE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FAREGATE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FAREGATE_CLOCK", "2026-11-22T12:00:00Z")
    (tmp_path / "data").mkdir()
    yield tmp_path / "data"


async def charges(path: Path, *ids: str) -> None:
    ledger = Embedded(path)
    await ledger.start()
    for id in ids:
        await ledger.hold(replace(HOLD, id=id, least=900, claims=(MONTH,), idempotency=Idempotency(id, "b")))
        await ledger.settle(charged(id, 100))
    await ledger.close()


def ids(path: Path) -> list[Any]:
    return [id for (id,) in look(path, "SELECT rid FROM request ORDER BY rid")]


# -- a backup


async def test_a_backup_is_one_instant_of_a_ledger_that_is_being_written(tmp_path: Path) -> None:
    """Everything that was settled before it began is in it, and it keeps every invariant."""
    path = tmp_path / "data" / "ledger.db"
    ledger = Embedded(path)
    await ledger.start()
    settled: list[str] = []

    async def one(id: str) -> None:
        await ledger.hold(replace(HOLD, id=id, least=900, worst=900, claims=(replace(MONTH, limit=10**9),)))
        await ledger.settle(charged(id, 100))
        settled.append(id)

    await asyncio.gather(*(one(f"before-{number}") for number in range(500)))
    known = list(settled)
    task = asyncio.create_task(asyncio.to_thread(backup, path, tmp_path / "data" / "spool", tmp_path / "b"))
    number = 0
    while not task.done():
        await one(f"during-{number}")
        number += 1
    manifest = await task
    await ledger.close()

    copy = tmp_path / "b" / "ledger.db"
    assert manifest.problems == () and verify(copy) == []
    assert set(known) <= set(ids(copy)) <= set(settled)
    assert manifest.totals[0].nano == 100 * len(ids(copy)) == 100 * manifest.totals[0].requests
    assert number > 0
    assert sorted(file.name for file in (tmp_path / "b").iterdir()) == ["ledger.db", "manifest.json", "spool.jsonl"]
    assert {file.stat().st_mode & 0o077 for file in [tmp_path / "b", *(tmp_path / "b").iterdir()]} == {0}
    with pytest.raises(BackupError, match="there already"):
        backup(path, tmp_path / "data" / "spool", tmp_path / "b")


async def test_two_at_once_do_not_write_into_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, spool = tmp_path / "data" / "ledger.db", tmp_path / "data" / "spool"
    await charges(path, "r1")
    refused: list[str] = []

    def meanwhile(copy: Path) -> list[str]:
        for other in (lambda: backup(path, spool, tmp_path / "b"), lambda: restore(tmp_path / "a", copy, spool, force=True)):
            with pytest.raises(BackupError, match="another backup or restore writes into") as caught:
                other()
            refused.append(str(caught.value))
        return verify(copy)

    backup(path, spool, tmp_path / "a")
    monkeypatch.setattr("gateway.ledger.backup.verify", meanwhile)
    backup(path, spool, tmp_path / "b")
    assert len(refused) == 2
    assert check(tmp_path / "b").totals[0].requests == 1


async def test_what_waits_in_the_spool_is_in_it_and_lands_where_it_is_restored(tmp_path: Path) -> None:
    path, spool = tmp_path / "data" / "ledger.db", tmp_path / "data" / "spool"
    ledger = Embedded(path, patience=0.05, within=0.05)
    await ledger.start()
    for number in range(3):
        await ledger.hold(replace(HOLD, id=f"r{number}"))
    other = locked(path)
    for number in range(3):
        assert await ledger.settle(charged(f"r{number}", 7))
    assert len(waiting(spool)) == 3

    manifest = await asyncio.to_thread(backup, path, spool, tmp_path / "b")

    unlock(other)
    await ledger.close()
    assert (manifest.waiting, manifest.totals) == (3, ())
    new = tmp_path / "new" / "ledger.db"
    for _ in range(2):
        # The second time as after a run that died in between.
        await asyncio.to_thread(restore, tmp_path / "b", new, tmp_path / "new" / "spool", force=True)
    again = Embedded(new)
    await again.start()
    with pytest.raises(BackupError, match="in use"):
        await asyncio.to_thread(restore, tmp_path / "b", new, tmp_path / "another spool", force=True)
    assert not (tmp_path / "another spool").exists(), "nothing was put back"
    await eventually(lambda: not again.unsettled)
    assert sorted(row.nano for row in await again.requests(9)) == [7, 7, 7]
    assert await again.verify() == []
    await again.close()


async def test_a_file_of_an_older_version_is_backed_up_as_it_is_and_brought_up_where_it_is_restored(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(gzip.decompress((ROOT / "tests" / "ledger_version_2.db.gz").read_bytes()))

    manifest = await asyncio.to_thread(backup, path, tmp_path / "spool", tmp_path / "b")

    assert (manifest.schema, manifest.problems) == (2, ())
    assert look(path, "PRAGMA user_version") == look(tmp_path / "b" / "ledger.db", "PRAGMA user_version") == [(2,)]
    await asyncio.to_thread(restore, tmp_path / "b", tmp_path / "new.db", tmp_path / "spool")
    assert look(tmp_path / "new.db", "PRAGMA user_version") == [(VERSION,)]
    assert ids(tmp_path / "new.db") == ids(path)
    assert verify(tmp_path / "new.db") == []


# -- a restore


async def test_a_ledger_that_is_there_is_never_lost(tmp_path: Path) -> None:
    path, spool = tmp_path / "ledger.db", tmp_path / "spool"
    await charges(path, "r1")
    backup_of(path)
    await charges(path, "r2")
    with pytest.raises(BackupError, match=r"there is a ledger at .* --force"):
        restored(path)

    old = await asyncio.to_thread(restored, path, force=True)

    assert old is not None
    assert (ids(path), ids(old)) == (["r1"], ["r1", "r2"])
    assert not list(spool.glob("*"))
    await charges(path, "r3")
    assert (ids(path), verify(path)) == (["r1", "r3"], [])


async def test_a_gateway_that_runs_is_not_pulled_its_ledger_away(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    await charges(path, "r1")
    backup_of(path)
    ledger = Embedded(path)
    await ledger.start()
    with pytest.raises(BackupError, match=r"a gateway runs that spools into .* stop it first"):
        await asyncio.to_thread(restored, path, force=True)
    with pytest.raises(BackupError, match=r"in use\. Remedy: stop the gateways"):
        await asyncio.to_thread(restore, tmp_path / "b", path, tmp_path / "another spool", force=True)
    await ledger.close()
    await asyncio.to_thread(restored, path, force=True)


def rows_of(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    code, out, err = said(capsys, *words, "--json")
    assert (code, err) == (0, "")
    found: list[dict[str, Any]] = json.loads(out)
    return found


def backup_of(path: Path) -> None:
    backup(path, path.parent / "spool", path.parent / "b")


def restored(path: Path, *, force: bool = False) -> Path | None:
    return restore(path.parent / "b", path, path.parent / "spool", force=force)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (
            lambda folder: (folder / "ledger.db").write_bytes((folder / "ledger.db").read_bytes() + b"0"),
            "has changed since it was made: ledger.db",
        ),
        (lambda folder: (folder / "spool.jsonl").write_text("{}"), "has changed since it was made: spool.jsonl"),
        (lambda folder: (folder / "ledger.db").unlink(), "no whole backup: ledger.db"),
        (lambda folder: (folder / "manifest.json").unlink(), "no whole backup: manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "cannot be read"),
        (lambda folder: _manifest(folder, schema=99), "made by a newer Faregate"),
        (lambda folder: _manifest(folder, format=2), "made by a newer Faregate"),
    ],
)
def test_a_backup_that_is_not_whole_is_not_put_back(tmp_path: Path, harm: Any, words: str) -> None:
    asyncio.run(charges(tmp_path / "ledger.db", "r1"))
    backup_of(tmp_path / "ledger.db")
    harm(tmp_path / "b")
    with pytest.raises(BackupError, match=words):
        restore(tmp_path / "b", tmp_path / "new.db", tmp_path / "spool", force=True)
    assert not (tmp_path / "new.db").exists()


def _manifest(folder: Path, **other: Any) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | other))


def test_a_ledger_that_is_not_sound_is_backed_up_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    asyncio.run(charges(path, "r1"))
    look(path, "UPDATE budget SET spent = spent + 1, peak = peak + 1")
    manifest = backup(path, tmp_path / "spool", tmp_path / "b")
    assert "its entries do not sum to what it spent" in manifest.problems[0]
    with pytest.raises(BackupError, match="is not sound: budget month of search"):
        restore(tmp_path / "b", tmp_path / "new.db", tmp_path / "spool")
    assert not list(tmp_path.glob("new.db*"))
    restore(tmp_path / "b", tmp_path / "new.db", tmp_path / "spool", force=True)
    assert ids(tmp_path / "new.db") == ["r1"]


def test_a_damaged_ledger_is_put_aside_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    asyncio.run(charges(path, "r1"))
    backup_of(path)
    path.write_bytes(b"not a ledger any more" * 500)
    old = restored(path, force=True)
    assert old is not None and old.read_bytes().startswith(b"not a ledger any more")
    assert (ids(path), verify(path)) == (["r1"], [])


async def test_the_log_of_a_ledger_that_is_gone_is_not_taken_for_that_of_the_restored_one(tmp_path: Path) -> None:
    path, new = tmp_path / "ledger.db", tmp_path / "new" / "ledger.db"
    await charges(path, "r1")
    await asyncio.to_thread(backup_of, path)
    ledger = Embedded(path)
    await ledger.start()
    await ledger.hold(replace(HOLD, id="r2"))
    await ledger.settle(charged("r2", 5))
    new.parent.mkdir()
    for end in ("-wal", "-shm"):
        shutil.copyfile(f"{path}{end}", f"{new}{end}")
    await ledger.close()

    assert await asyncio.to_thread(restore, tmp_path / "b", new, tmp_path / "spool") is None

    assert (ids(new), verify(new)) == (["r1"], [])
    assert len(list(new.parent.glob("ledger.db.before-*-wal"))) == 1


# -- kill -9


@pytest.mark.parametrize("number", [1, 2])
def test_whoever_is_killed_while_it_restores_loses_neither_ledger(tmp_path: Path, number: int) -> None:
    """Right before the old ledger is put aside, and right before the new one takes its place."""
    path = tmp_path / "data" / "ledger.db"
    asyncio.run(charges(path, "r1"))
    backup(path, tmp_path / "data" / "spool", tmp_path / "b")
    asyncio.run(charges(path, "r2"))
    words = ["ledger", "restore", str(tmp_path / "b"), "--force"]

    assert killed(tmp_path, number, *words) == -signal.SIGKILL

    old = [found for found in (tmp_path / "data").glob("ledger.db*") if found.name != "ledger.db.restoring"]
    assert ["r1", "r2"] in [ids(found) for found in old if found.suffix != "-wal"]
    assert run(*words, folder=tmp_path, FAREGATE_DATA=str(tmp_path / "data"))[0] == 0
    assert (ids(path), verify(path)) == (["r1"], [])
    assert not (tmp_path / "data" / "ledger.db.restoring").exists()


def test_whoever_is_killed_while_it_backs_up_leaves_no_half_backup(tmp_path: Path) -> None:
    path = tmp_path / "data" / "ledger.db"
    asyncio.run(charges(path, "r1"))

    assert killed(tmp_path, 1, "ledger", "backup", str(tmp_path / "b")) == -signal.SIGKILL

    assert not (tmp_path / "b").exists()
    (tmp_path / "b.partial" / "ledger.db-journal").write_text("from another death")
    assert backup(path, tmp_path / "data" / "spool", tmp_path / "b").problems == ()
    assert not (tmp_path / "b.partial").exists()


def killed(tmp_path: Path, number: int, *words: str) -> int:
    settings = environment(PYTHONPATH=str(ROOT), FAREGATE_DATA=str(tmp_path / "data"))
    command = [sys.executable, "-m", "tests.dying", "renames", str(number), *words]
    return subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, check=False).returncode


# -- the command


async def _filled(place: SqlitePlace | PostgresPlace) -> None:
    store = place.store()
    await store.start()
    await filled(store)
    await store.close()


def test_a_job_that_archives_a_database_needs_its_address_and_nothing_else(tmp_path: Path, postgres_url: str) -> None:
    asyncio.run(_filled(PostgresPlace(postgres_url)))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "FAREGATE_LEDGER").write_text(postgres_url)
    own = {"FAREGATE_SECRETS": str(tmp_path / "secrets"), "FAREGATE_DATA": "/nonexistent", "FAREGATE_CLOCK": "2026-11-22T12:00:00Z"}

    code, out, err = run("ledger", "retain", "--keep", "13", "--archive", str(tmp_path / "archive"), folder=tmp_path, **own)

    assert (code, err) == (0, "") and "ledger-2025-08.jsonl.gz: 2025-08, 4 requests: search 0.000000701 USD" in out
    code, out, err = run("ledger", "retain", "--lost", "ledger-2025-08.jsonl.gz", folder=tmp_path, **own | {"FAREGATE_DATA": str(tmp_path)})
    assert (code, out) == (2, "") and "faregate: ledger-2025-08.jsonl.gz is not what is leaving the ledger" in err


def test_no_name_in_the_ledger_steers_the_terminal(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b[2Jb\nc"

    async def fill() -> None:
        store = SqlitePlace(data / "ledger.db").store()
        await store.start()
        await store.hold(replace(HOLD, team=evil), "me", 1000)
        await store.finish("settle", replace(ROW, team=evil, started=OLD["r1"], ended=OLD["r1"]))
        await store.correct([replace(CORRECTION, team=evil, reason=evil)])
        await store.close()

    asyncio.run(fill())
    for words in (("ledger", "retain", "--dry-run", "--keep", "1"), ("ledger", "corrections"), ("ledger", "retain", "--keep", "1")):
        code, out, err = said(capsys, *words)
        assert (code, err) == (0, "") and r"a\x1b[2Jb\nc" in out and all(line.isprintable() for line in out.split("\n")), out


def test_the_command_archives_shows_and_says_what_it_did(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(_filled(SqlitePlace(data / "ledger.db")))
    would = rows_of(capsys, "ledger", "retain", "--dry-run")
    assert [(month["month"], month["requests"], month["charges"][0]["amount"]) for month in would] == [
        ("2025-08", 4, "0.000000701"),
        ("2025-09", 2, "0.000000102"),
    ]
    code, out, err = said(capsys, "ledger", "retain", "--dry-run")
    assert (code, err) == (0, "") and "2025-08: 4 requests would go: search 0.000000701 USD" in out
    assert not (data / "archive").exists()

    code, out, err = said(capsys, "ledger", "retain")

    assert (code, err) == (0, "")
    assert "ledger-2025-08.jsonl.gz: 2025-08, 4 requests: search 0.000000701 USD; 4 left the ledger, longest lock " in out
    assert said(capsys, "ledger", "retain") == (0, "nothing is old enough\n", "")
    shown = rows_of(capsys, "ledger", "show", str(data / "archive" / "ledger-2025-08.jsonl.gz"))
    assert (shown[0]["entries"], shown[0]["charges"][0]["estimated"]) == (3, "0.0000005")
    assert said(capsys, "verify")[0] == 0
    assert "request late was archived: its rows are in ledger-2025-08.jsonl.gz" in said(capsys, "explain", "late")[2]
    code, out, _ = said(capsys, "ledger", "corrections", "--from", "2025-09-01", "--to", "2025-10-01")
    assert out.startswith("2025-09-30T00:00:00Z  c1  search  0.00000005 USD  why (file)\n  month in 2025-09: 0.00000005 USD\n")
    assert [one["id"] for one in rows_of(capsys, "ledger", "corrections", "--team", "search")] == ["c1", "c2"]
    assert CORRECTION.at.date().isoformat() == "2025-09-30" and OLD["r5"].month == 11


def test_the_command_backs_up_and_restores(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(charges(data / "ledger.db", "r1"))
    code, out, err = said(capsys, "ledger", "backup", str(tmp_path / "b"))
    assert (code, err) == (0, "")
    assert "0.0000001 USD of 1 request; 0 records of the spool; made 20" in out and "every invariant holds" in out
    assert f"Not in it, keep them elsewhere: {data / 'key-pepper'}" in out and f"{data / 'recall-key'}" in out
    assert json_of(capsys, "ledger", "show", str(tmp_path / "b"), "--json")["totals"] == [
        {"currency": "USD", "amount": "0.0000001", "requests": 1}
    ]
    code, out, err = said(capsys, "ledger", "restore", str(tmp_path / "b"))
    assert (code, out) == (2, "") and err.count("\n") == 1 and "--force" in err
    found = json_of(capsys, "ledger", "restore", str(tmp_path / "b"), "--force", "--json")
    assert found["problems"] == [] and Path(found["before"]).is_file()
    look(data / "ledger.db", "UPDATE budget SET spent = spent + 1, peak = peak + 1")
    code, out, _ = said(capsys, "ledger", "backup", str(tmp_path / "c"))
    assert code == 1 and "NOT every invariant holds" in out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("retain", "--keep", "0"), "at least one whole month stays"),
        (("retain",), "there is no ledger at"),
        (("backup", "b"), "there is no ledger at"),
        (("restore", "b"), "no whole backup"),
        (("show", "nothing.gz"), "there is no archive nothing.gz"),
        (("retain", "--archive", "/proc/nowhere"), "there is no ledger at"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(
    data: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], error: str
) -> None:
    code, out, err = said(capsys, "ledger", *words)
    assert code != 0 and out == "" and error in err and err.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(_filled(SqlitePlace(data / "ledger.db")))
    (data / "file").touch()
    code, _, err = said(capsys, "ledger", "retain", "--archive", str(data / "file"))
    assert code == 2 and "cannot be written" in err and err.count("\n") == 1
    code, _, err = said(capsys, "ledger", "backup", str(data / "file" / "b"))
    assert code == 2 and "cannot be written" in err and err.count("\n") == 1


# -- PostgreSQL


def test_a_database_is_backed_up_and_restored_by_its_own_tools(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands are those that `faregate ledger` and the documentation name."""
    place = PostgresPlace(postgres_url)
    asyncio.run(_filled(place))
    code, _, err = said(capsys, "ledger", "backup", "b", "--ledger", postgres_url)
    assert code == 2
    dump = err.strip().rpartition(": ")[2]
    _, _, err = said(capsys, "ledger", "restore", "b", "--ledger", postgres_url)
    back = err.strip().rpartition(": ")[2]
    file, new = str(tmp_path / "ledger.dump"), f"{postgres_url}_restored"
    postgres_server.create(new.rpartition("/")[2])

    for command, url in ((dump, postgres_url), (back, new)):
        words = [
            {"URL": url, "--dbname=URL": f"--dbname={url}", "FILE": file, "--file=FILE": f"--file={file}"}.get(word, word)
            for word in command.split()
        ]
        postgres_server.run(*words)

    assert said(capsys, "verify", "--ledger", new)[0] == 0
    kept = [rows_of(capsys, "ledger", "corrections", "--ledger", url) for url in (postgres_url, new)]
    assert kept[0] == kept[1] and len(kept[0]) == 2
    both = [asyncio.run(PostgresPlace(url).look("SELECT * FROM request ORDER BY rid")) for url in (postgres_url, new)]
    assert both[0] == both[1] and len(both[0]) == 8
    asyncio.run(_goes_on(PostgresPlace(new)))


async def _goes_on(place: PostgresPlace) -> None:
    """A gateway uses the restored database like any other: its functions, its triggers and its bound are there."""
    store = place.store()
    await store.start()
    await store.hold(replace(HOLD, id="after", claims=(MONTH,)), "me", 30)
    assert await store.finish("settle", replace(ROW, id="after"))
    assert await store.verify() == []
    assert (await store.spend("team", AT, datetime(2027, 1, 1, tzinfo=UTC)))[0].nano == 400
    with pytest.raises(Exception, match="append-only"):
        await place.look("DELETE FROM entry")
    await store.close()


def test_the_command_archives_a_database(postgres_url: str, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(_filled(PostgresPlace(postgres_url)))
    code, out, err = said(capsys, "ledger", "retain", "--ledger", postgres_url, "--archive", str(tmp_path / "a"))
    assert (code, err) == (0, "") and out.count(" left the ledger, longest lock ") == 2
    assert "its rows are in ledger-2025-08.jsonl.gz" in said(capsys, "explain", "r0", "--ledger", postgres_url)[2]
    assert said(capsys, "verify", "--ledger", postgres_url)[0] == 0
