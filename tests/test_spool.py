"""The spool: what was on its disk is in the store once, whoever dies in between."""

from __future__ import annotations

import asyncio
import fcntl
import json
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import apsw
import pytest
from msgspec.structs import replace

from gateway.errors import LedgerUnavailable
from gateway.ledger.spool import Record, Spool
from gateway.ledger.verify import verify
from gateway.outcome import Hold
from tests.ledgers import HOLD, MONTH, RELEASED, ROW, Embedded, eventually, locked, look, unlock
from tests.test_money_crash import forgetful_disk

CLAIMED = replace(HOLD, least=900, claims=(MONTH,))


def settle_of(id: str, hold: Hold | None = None) -> Record:
    return Record("settle", "somebody", hold, replace(ROW, id=id))


async def opened(folder: Path, **more: int) -> Spool:
    spool = Spool(folder, **more)
    await spool.open()
    return spool


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


# -- records


@pytest.mark.parametrize(
    "record",
    [
        Record("settle", "o", None, ROW),
        Record("release", "o", CLAIMED, RELEASED),
        Record("hold", "o", replace(CLAIMED, claims=(replace(MONTH, rate=(7, 3), resets_at=HOLD.started),))),
    ],
)
async def test_a_record_comes_back_from_the_disk_as_it_was(tmp_path: Path, record: Record) -> None:
    spool = await opened(tmp_path)
    assert await spool.keep(record)
    await spool.close()

    after = await opened(tmp_path)
    assert await after.adopt() == 1
    assert after.oldest(5) == [record]
    await after.close()


async def test_records_come_in_their_order_and_the_first_of_two_ends_stands(tmp_path: Path) -> None:
    spool = await opened(tmp_path)
    records = [settle_of(f"r{number}") for number in range(200)]
    assert await asyncio.gather(*(spool.keep(record) for record in records)) == [True] * 200
    assert await spool.keep(Record("settle", "o", None, replace(ROW, id="r0", nano=1)))
    assert await spool.keep(Record("release", "o", None, replace(RELEASED, id="r0")))
    await spool.close()

    after = await opened(tmp_path)
    await after.adopt()
    assert after.oldest(500) == [*records, Record("release", "o", None, replace(RELEASED, id="r0"))]
    await after.done(after.oldest(500))
    await after.close()


async def test_the_last_of_two_holds_stands(tmp_path: Path) -> None:
    spool = await opened(tmp_path)
    await spool.keep(Record("hold", "o", HOLD))
    await spool.keep(Record("hold", "o", replace(HOLD, host="gmi")))
    await spool.close()

    after = await opened(tmp_path)
    await after.adopt()
    assert [record.hold and record.hold.host for record in after.oldest(5)] == ["gmi"]
    await after.close()


async def test_what_is_done_or_given_up_is_in_no_file_any_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = await opened(tmp_path)
    for id in ("r1", "r2", "r3"):
        await spool.keep(settle_of(id))
    await spool.done([settle_of("r1")])
    await spool.give_up(settle_of("r2"), "the ledger refuses it")
    assert [record.id for record in spool.oldest(5)] == ["r3"]
    assert "r2 is given up: the ledger refuses it" in caplog.text
    await spool.close()

    after = await opened(tmp_path)
    assert await after.adopt() == 1
    await after.close()


async def test_a_full_spool_takes_no_more(tmp_path: Path) -> None:
    spool = await opened(tmp_path, limit=2)
    assert await asyncio.gather(*(spool.keep(settle_of(id)) for id in ("r1", "r2", "r3"))) == [True, True, False]
    assert spool.full and len(spool) == 2
    assert await spool.keep(settle_of("r2")), "it is in there already"
    await spool.close()


async def test_a_folder_that_cannot_be_written_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spool = Spool(tmp_path / "file" / "spool")
    with pytest.raises(LedgerUnavailable, match="FAREGATE_DATA"):
        await spool.open()
    await spool.close()


# -- who is dead


async def test_the_spool_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    living = await opened(tmp_path)
    await living.keep(settle_of("r1"))
    other = await opened(tmp_path)
    assert await other.adopt() == 0

    await living.close()
    assert await other.adopt() == 1
    assert await other.adopt() == 0
    await other.done(other.oldest(5))
    await other.close()
    assert files(tmp_path) == []


async def test_a_process_that_was_taken_for_dead_before_it_had_its_lock_starts_all_the_same(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    path = tmp_path / f"{spool.owner}.lock"
    with path.open("w") as finder:
        fcntl.flock(finder, fcntl.LOCK_EX)
        opening = asyncio.create_task(spool.open())
        done, _ = await asyncio.wait({opening}, timeout=0.05)
        assert not done
        path.unlink()
    await opening

    assert await spool.keep(settle_of("r1"))
    other = await opened(tmp_path)
    assert await other.adopt() == 0
    for one in (spool, other):
        await one.done(one.oldest(5))
        await one.close()


async def test_of_many_that_find_a_dead_process_one_takes_its_records(tmp_path: Path) -> None:
    dead = await opened(tmp_path)
    await asyncio.gather(*(dead.keep(settle_of(f"r{number}")) for number in range(20)))
    await dead.close()
    living = [await opened(tmp_path) for _ in range(8)]

    taken = await asyncio.gather(*(spool.adopt() for spool in living))

    assert sorted(taken) == [0] * 7 + [20]
    for spool in living:
        await spool.done(spool.oldest(50))
        await spool.close()
    assert files(tmp_path) == []


async def test_the_records_of_the_dead_wait_until_there_is_room_for_all(tmp_path: Path) -> None:
    dead = await opened(tmp_path)
    for id in ("r1", "r2", "r3"):
        await dead.keep(settle_of(id))
    await dead.close()
    spool = await opened(tmp_path, limit=3)
    await spool.keep(settle_of("mine"))

    assert await spool.adopt() == 0
    await spool.done([settle_of("mine")])
    assert await spool.adopt() == 3
    await spool.close()


async def test_records_of_a_form_that_nobody_knows_are_left_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dead = await opened(tmp_path)
    await dead.keep(settle_of("r1"))
    await dead.close()
    database = apsw.Connection(str(tmp_path / f"{dead.owner}.db"))
    database.execute("""UPDATE record SET content = replace(content, '"currency"', '"money"')""")
    database.close()

    spool = await opened(tmp_path)
    assert await spool.adopt() == 0
    assert f"{dead.owner}.lock cannot be read" in caplog.text
    assert (tmp_path / f"{dead.owner}.db").exists()
    await spool.close()


async def test_a_spool_that_is_no_database_is_left_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "dead.lock").touch()
    (tmp_path / "dead.db").write_text("not a database, but long enough to be taken for one" * 40)
    spool = await opened(tmp_path)
    assert await spool.adopt() == 0
    assert "dead.lock cannot be read" in caplog.text
    await spool.close()


# -- the process that is killed: it settles while its ledger is kept out, and says what was acknowledged


async def settle_without_a_store(path: str, number: int) -> None:
    ledger = Embedded(path, within=0.02, lease=1000)
    await ledger.start()
    await asyncio.gather(*(ledger.hold(replace(CLAIMED, id=f"r{one}")) for one in range(number)))
    lock = locked(Path(path))
    for one in range(number):
        await ledger.settle(replace(ROW, id=f"r{one}"))
        print(json.dumps(f"r{one}"), flush=True)
    await asyncio.Event().wait()
    unlock(lock)


def killed(path: Path, number: int) -> list[str]:
    """What a process acknowledged until it was killed, all of it in its spool alone."""
    command = [sys.executable, "-m", "tests.test_spool", str(path), str(number)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    assert process.stdout is not None
    said = [json.loads(process.stdout.readline()) for _ in range(number)]
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    return said


async def test_kill_9_between_spool_and_ledger_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    said = killed(path, 5)
    assert look(path, "SELECT count(*) FROM entry") == [(0,)]
    (left,) = (tmp_path / "spool").glob("*.db")
    wal = left.with_name(left.name + "-wal").read_bytes()

    for _ in range(2):
        ledger = Embedded(path)
        await ledger.start()
        await eventually(ledger.ready)
        await ledger.close()
        assert look(path, "SELECT rid, kind, nano FROM entry ORDER BY rid") == [(id, "settle", 400) for id in said]
        assert look(path, "SELECT spent, held FROM budget") == [(2000, 0)]
        # As if that process had been killed too, before it could forget the records: they are replayed once more.
        left.with_suffix(".lock").touch()
        left.with_name(left.name + "-wal").write_bytes(wal)
    assert verify(path) == []


async def test_a_gateway_that_runs_takes_over_from_one_that_died(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Embedded(path, lease=0.9)
    await ledger.start()
    said = await asyncio.to_thread(killed, path, 3)

    await eventually(lambda: look(path, "SELECT rid FROM entry ORDER BY rid") == [(id,) for id in said])

    await ledger.close()
    assert files(tmp_path / "spool") == []
    assert verify(path) == []


async def test_a_hold_that_was_let_through_by_a_dead_process_is_charged_by_estimate(tmp_path: Path) -> None:
    """It was on the disk before anything was dispatched, so what the dead process spent is not free."""
    dead = await opened(tmp_path / "spool")
    await dead.keep(Record("hold", dead.owner, CLAIMED))
    await dead.close()

    ledger = Embedded(tmp_path / "ledger.db", lease=0.06)
    await ledger.start()
    await eventually(lambda: look(tmp_path / "ledger.db", "SELECT state FROM hold") == [("expired",)])
    await ledger.close()
    assert look(tmp_path / "ledger.db", "SELECT kind, nano FROM entry") == [("expire", 500)]
    assert verify(tmp_path / "ledger.db") == []


# -- power


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
async def test_what_the_spool_said_is_durable_survives_a_power_cut_at_any_moment(tmp_path: Path, seed: int | None) -> None:
    chance = None if seed is None else random.Random(seed)
    acknowledged: set[str] = set()
    cuts: list[tuple[Path, set[str]]] = []
    with forgetful_disk() as disk:
        spool = await opened(tmp_path / "spool")

        async def client(number: int) -> None:
            for turn in range(10):
                id = f"{number}-{turn}"
                assert await spool.keep(settle_of(id))
                acknowledged.add(id)
                if turn == number:
                    cuts.append((tmp_path / f"cut{number}", set(acknowledged)))
                    disk.cut(tmp_path / f"cut{number}", chance)

        await asyncio.gather(*(client(number) for number in range(10)))
        await spool.close()

    assert len(cuts) == 10
    for found, said in cuts:
        (left,) = found.glob("*.db")
        left.with_suffix(".lock").touch()
        after = await opened(found, limit=10_000)
        await after.adopt()
        assert said <= {record.id for record in after.oldest(10_000)}
        await after.close()


async def test_a_spool_that_flushed_nothing_would_lose_records(tmp_path: Path) -> None:
    """The test above sees the flush that it is about."""
    with forgetful_disk() as disk:
        db = apsw.Connection(str(tmp_path / "x.db"))
        db.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)").fetchall()
        disk.cut(tmp_path / "after")
        db.close()
    with suppress(apsw.Error):
        assert look(tmp_path / "after" / "x.db", "SELECT * FROM t") == []


if __name__ == "__main__":
    asyncio.run(settle_without_a_store(sys.argv[1], int(sys.argv[2])))
