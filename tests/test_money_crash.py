"""What the ledger acknowledged survives `kill -9`, and its charges survive a power cut too."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import pytest

from gateway.ledger.sqlite import LOG_PAGES
from gateway.ledger.verify import verify
from gateway.money import Parts
from gateway.outcome import Attempt, Hold, LedgerRow
from gateway.usage import Usage
from tests.ledgers import Embedded

AT = datetime(2026, 11, 20, 2, tzinfo=UTC)
EXPECTED = 500
LEASE = 0.3
ROUNDS = 3
ACKNOWLEDGED = 400
REAL_VFS = apsw.vfs_names()[0]


def hold_of(id: str) -> Hold:
    return Hold(id, "search", "search-1", "r", "deepseek", "v4", "USD", 900, EXPECTED, 900, "card", "9f", AT)


def row_of(id: str, nano: int) -> LedgerRow:
    return LedgerRow(
        id, "search", "search-1", "r", "deepseek", "v4", "v4", (), Usage(0, 1, nano, 0), "USD", nano, Parts(0, 0, nano), "card",
        "standard", "9f", AT, AT, "ok", None, (Attempt("deepseek", "v4", "ok", "known", nano),), EXPECTED, 900,
    )  # fmt: skip


# -- the process that is killed: 20 clients that hold and settle for ever, and say what was acknowledged


async def write_for_ever(path: str, prefix: str) -> None:
    ledger = Embedded(path, lease=LEASE)
    await ledger.start()

    async def client(number: int) -> None:
        turn = 0
        while True:
            turn += 1
            id = f"{prefix}-{number}-{turn}"
            await ledger.hold(hold_of(id))
            os.write(1, f"held {id} 0\n".encode())
            if turn % 10 == 0:  # its answer never ends, so the process dies while the hold is open
                continue
            await ledger.settle(row_of(id, turn))
            os.write(1, f"settled {id} {turn}\n".encode())

    await asyncio.gather(*(client(number) for number in range(20)))


def killed_while_writing(path: Path, prefix: str) -> list[tuple[str, str, int]]:
    """What a process acknowledged until it was killed in the middle of its work."""
    command = [sys.executable, "-m", "tests.test_money_crash", str(path), prefix]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(ACKNOWLEDGED)]
        process.send_signal(signal.SIGKILL)
        # Not communicate(), which would pass by what readline() has read ahead.
        rest = process.stdout.read()
    words = [line.decode().split() for line in [*lines, *rest.splitlines(keepends=True)] if line.endswith(b"\n")]
    return [(word, id, int(nano)) for word, id, nano in words]


async def expire_all(path: Path) -> None:
    """A second gateway on the same file, until the leases of the dead one are over."""
    ledger = Embedded(path)
    await ledger.start()
    async with asyncio.timeout(20):
        while look(path, "SELECT 1 FROM hold WHERE state = 'held' LIMIT 1"):
            await ledger.reap()
    assert await ledger.verify() == []
    await ledger.close()


def look(path: Path, query: str) -> list[tuple[Any, ...]]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


async def test_kill_9_loses_no_acknowledged_hold_or_charge(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    said = [line for number in range(ROUNDS) for line in killed_while_writing(path, f"round{number}")]
    assert verify(path) == []

    await expire_all(path)

    charges = {id: (nano, kind) for id, nano, kind in look(path, "SELECT rid, nano, kind FROM entry")}
    states = dict(look(path, "SELECT rid, state FROM hold"))
    assert {id for _, id, _ in said} <= states.keys()
    settled = {id: nano for word, id, nano in said if word == "settled"}
    assert len(settled) > 100
    assert {id: charges[id] for id in settled} == {id: (nano, "settle") for id, nano in settled.items()}
    expired = {id for id, state in states.items() if state == "expired"}
    assert len(expired) > ROUNDS
    assert {charges[id] for id in expired} == {(EXPECTED, "expire")}
    assert expired.isdisjoint(settled)


# -- a power cut: a disk that forgets what was not synced


class Disk:
    """What the platters hold: bytes reach a file's image only by a sync; until then they are in order, in memory."""

    def __init__(self) -> None:
        self.images: dict[str, bytearray] = {}
        self.unsynced: dict[str, list[tuple[int, bytes | None]]] = {}
        self.flushed_by: set[threading.Thread] = set()
        self._lock = threading.Lock()

    def write(self, name: str, at: int, data: bytes | None) -> None:
        """Data at a place of the file, or (None) its end there."""
        with self._lock:
            self.unsynced.setdefault(name, []).append((at, data))

    def sync(self, name: str) -> None:
        with self._lock:
            for change in self.unsynced.pop(name, []):
                self._apply(self.images.setdefault(name, bytearray()), change)

    def forget(self, name: str) -> None:
        with self._lock:
            self.images.pop(name, None)
            self.unsynced.pop(name, None)

    def cut(self, folder: Path, chance: random.Random | None = None) -> None:
        """Write the files as they are found after the power cut; of unsynced writes none, or some at random, arrived."""
        folder.mkdir()
        with self._lock:
            for name in sorted(self.images.keys() | self.unsynced.keys()):
                image = bytearray(self.images.get(name, b""))
                for change in self.unsynced.get(name, []):
                    if chance is not None and chance.random() < 0.5:
                        self._apply(image, change)
                (folder / Path(name).name).write_bytes(image)

    @staticmethod
    def _apply(image: bytearray, change: tuple[int, bytes | None]) -> None:
        at, data = change
        if data is None:
            del image[at:]
            return
        image.extend(bytes(max(0, at - len(image))))
        image[at : at + len(data)] = data


class ForgetfulFile(apsw.VFSFile):
    def __init__(self, disk: Disk, name: apsw.URIFilename | str | None, flags: list[int]) -> None:
        self._disk = disk
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        super().__init__(REAL_VFS, name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.write(self._name, offset, bytes(data))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._disk.write(self._name, newsize, None)
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        self._disk.flushed_by.add(threading.current_thread())
        self._disk.sync(self._name)
        super().xSync(flags)


class ForgetfulVFS(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        super().__init__("forgetful", REAL_VFS, makedefault=True)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self._disk.forget(filename)
        super().xDelete(filename, syncdir)

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> apsw.VFSFile:
        return ForgetfulFile(self._disk, name, flags)


@contextmanager
def forgetful_disk() -> Iterator[Disk]:
    """Every database that is opened meanwhile lives on a forgetful disk."""
    disk = Disk()
    vfs = ForgetfulVFS(disk)
    try:
        yield disk
    finally:
        vfs.unregister()


def ledger_on(disk: Disk, path: Path, *, flushes: bool = True, log_pages: int = LOG_PAGES) -> Embedded:
    """A ledger whose own flushes reach the forgetful disk, as SQLite's do; or, to see what they are for, do not."""

    def sync(_log: int) -> None:
        if flushes:
            disk.sync(f"{path}-wal")

    return Embedded(path, sync=sync, log_pages=log_pages)


async def write_then_cut(path: Path, found: Path, *, seed: int | None, flushes: bool = True) -> set[str]:
    """300 settled requests, the power cut after the last acknowledgement; 50 more were only held."""
    with forgetful_disk() as disk:
        ledger = ledger_on(disk, path, flushes=flushes)
        await ledger.start()

        async def one(id: str) -> str:
            await ledger.hold(hold_of(id))
            assert await ledger.settle(row_of(id, 7))
            return id

        settled = set(await asyncio.gather(*(one(f"s{number}") for number in range(300))))
        await asyncio.gather(*(ledger.hold(hold_of(f"h{number}")) for number in range(50)))
        disk.cut(found, None if seed is None else random.Random(seed))
        await ledger.close()
    return settled


def charged(path: Path) -> set[str]:
    return {id for (id,) in look(path, "SELECT rid FROM entry")}


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
async def test_every_acknowledged_charge_survives_a_power_cut(tmp_path: Path, seed: int | None) -> None:
    found = tmp_path / "after"

    settled = await write_then_cut(tmp_path / "ledger.db", found, seed=seed)

    assert verify(found / "ledger.db") == []
    assert charged(found / "ledger.db") == settled


async def test_without_the_flush_a_power_cut_would_take_charges(tmp_path: Path) -> None:
    """The test above sees the flush that it is about."""
    found = tmp_path / "after"

    settled = await write_then_cut(tmp_path / "ledger.db", found, seed=None, flushes=False)

    assert verify(found / "ledger.db") == []
    assert charged(found / "ledger.db") < settled


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
async def test_every_acknowledged_charge_survives_a_power_cut_at_any_moment(tmp_path: Path, seed: int) -> None:
    """20 clients; the log is copied and starts anew all the time; the power is cut at 40 moments, in so many worlds."""
    chance = random.Random(seed)
    acknowledged: set[str] = set()
    cuts: list[tuple[Path, set[str]]] = []
    with forgetful_disk() as disk:
        ledger = ledger_on(disk, tmp_path / "ledger.db", log_pages=20)
        await ledger.start()

        async def client(number: int) -> None:
            for turn in range(20):
                id = f"{number}-{turn}"
                await ledger.hold(hold_of(id))
                assert await ledger.settle(row_of(id, 7))
                acknowledged.add(id)
                if turn % 10 == number % 10:
                    cuts.append((tmp_path / id, set(acknowledged)))
                    disk.cut(tmp_path / id, chance if number % 2 else None)

        await asyncio.gather(*(client(number) for number in range(20)))
        log = disk.images[f"{tmp_path / 'ledger.db'}-wal"]
        await ledger.close()

    assert len(cuts) == 40
    assert len(log) < 2_000_000
    assert disk.flushed_by and threading.current_thread() not in disk.flushed_by, "a flush stopped the event loop"
    for found, settled in cuts:
        assert verify(found / "ledger.db") == []
        assert settled <= charged(found / "ledger.db")


async def test_a_power_cut_may_lose_holds_that_no_later_charge_has_flushed(tmp_path: Path) -> None:
    """The stated exposure of the embedded ledger: what is lost here is a hold, never a charge."""
    found = tmp_path / "after"

    await write_then_cut(tmp_path / "ledger.db", found, seed=None)

    assert look(found / "ledger.db", "SELECT count(*) FROM hold WHERE state = 'held'") == [(0,)]


if __name__ == "__main__":
    asyncio.run(write_for_ever(sys.argv[1], sys.argv[2]))
