"""Retention in every store: old months leave the ledger whole, once, and whatever happens meanwhile nothing is lost."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from glob import glob
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from msgspec.structs import replace

from gateway.errors import AlreadyDone, IdempotencyMismatch, LedgerUnavailable
from gateway.ledger import archive
from gateway.ledger.archive import ArchiveError, Charge
from gateway.ledger.gathering import gather
from gateway.ledger.port import Closed, Event, HoldError, Store
from gateway.ledger.retention import cutoff
from gateway.ledger.spool import Record, leave
from gateway.outcome import Attempt, Claim, Correction, Grant, Hold, Idempotency, LedgerRow
from gateway.policies import default_folder, load
from gateway.reports.periods import Period
from gateway.reports.spending import Spending, tariffs
from gateway.reports.tallies import Question, Take
from tests.dying import NOW, Watched, retained, shelf_at
from tests.ledgers import AT, HOLD, RELEASED, ROW, Embedded, eventually
from tests.stores import LEASE, Place, SqlitePlace, charged

ROOT = Path(__file__).parent.parent
TOTAL = Claim("search", "total", "", "total", "CNY", 1_000_000, None, (7, 1))
LONG_AGO, LATER = datetime(1970, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)
CORRECTION = Correction("c1", datetime(2025, 9, 30, tzinfo=UTC), "search", "", "", "deepseek", "", "USD", 50, "", "why", "file")


# What is learned of a request after it was archived, in this order, and what each piece of it moves.
LATE: dict[str, tuple[list[tuple[Event, int]], list[int]]] = {
    "less": ([("settle", 400)], [-100]),
    "twice": ([("settle", 400), ("settle", 450), ("release", 0)], [-100]),
    "nothing": ([("release", 0), ("release", 0)], [-500]),
    "nothing, then something": ([("release", 0), ("settle", 650)], [-500, 650]),
    "the same": ([("settle", 500)], [0]),
}


def month_claim(at: datetime) -> Claim:
    ends = datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC)
    return Claim("search", "month", "", at.strftime("%Y-%m"), "USD", 10_000, ends)


def asks(id: str, at: datetime, team: str = "search") -> Hold:
    claims = (month_claim(at), TOTAL) if team == "search" else ()
    return replace(HOLD, id=id, team=team, started=at, claims=claims)


def cost(id: str, at: datetime, nano: int, team: str = "search") -> LedgerRow:
    return charged(id, nano, team=team, started=at, ended=at)


def day(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}T00:00:00+00:00")


OLD = {
    f"r{number}": day(text)
    for number, text in enumerate(["2025-08-01", "2025-08-31", "2025-09-01", "2025-09-30", "2025-10-01", "2026-11-01"])
}


async def filled(store: Store) -> None:
    """Requests of August and September 2025 of two teams, and others that stay. `late` has expired and `free` was released in August; of
    `unheard` there is only a hold."""
    for number, (id, at) in enumerate(OLD.items()):
        team = "chat" if number % 3 == 2 else "search"
        keyed = Idempotency(f"key {id}", "body") if number == 1 else None
        await store.hold(replace(asks(id, at, team), idempotency=keyed), "me", LEASE)
        await store.finish("settle", cost(id, at, 100 + number, team))
    await store.hold(replace(asks("free", OLD["r1"]), idempotency=Idempotency("key free", "body")), "me", LEASE)
    await store.finish("release", replace(RELEASED, id="free", ended=OLD["r1"]))
    await expired(store, "late", OLD["r1"])
    await store.correct(
        [replace(CORRECTION, nano=70, id="c2", at=OLD["r5"]), CORRECTION],
        lambda source, target, _at: Fraction(7 if source != target else 1),
    )


async def expired(store: Store, id: str, at: datetime) -> None:
    """A request that was charged what was expected in a month that is old, as if its lease had run out then."""
    await store.hold(asks(id, at), "me", LEASE)
    attempts = (Attempt("deepseek", "v4", "gateway_error", "possible", 500),)
    row = replace(ROW, id=id, nano=500, parts=None, usage=None, stopped="expired", attempts=attempts, started=at, ended=at)
    await store.finish("expire", row)


async def clean_up(place: Place, folder: Path, **more: Any) -> list[tuple[str, int]]:
    """One run; each archive and how many requests left for it."""
    return [(month.file.name, month.gone) for month in await retained(shelf_at(place.url), folder, **more)]


async def spent(store: Store) -> dict[str, int]:
    return {state.period: state.spent for state in await store.budgets(LONG_AGO)}


async def everything(store: Store, folder: Path) -> dict[str, int]:
    """What each request and correction cost, wherever it is; each exactly once."""
    found = [(row.id, row.nano) for row in await store.requests(1000)]
    for file in sorted(Path(name) for name in glob(f"{folder}/*.gz")):
        found += [(one.rid, one.request["nano"]) for one in archive.requests(file) if one.request]
    found += [(one.id, one.nano) for one in await store.corrections(LONG_AGO, LATER)]
    assert len(found) == len(dict(found)), "something is in two places"
    return dict(found)


class TestRetention:
    """Each test has an empty store, which keeps every invariant when the test is over."""

    async def test_whole_months_leave_and_their_sums_stay(self, store: Store, place: Place, tmp_path: Path) -> None:
        await filled(store)
        before, budgets = await everything(store, tmp_path / "none"), await spent(store)

        assert await clean_up(place, tmp_path / "a") == [("ledger-2025-08.jsonl.gz", 4), ("ledger-2025-09.jsonl.gz", 2)]

        assert await everything(store, tmp_path / "a") == before
        assert await spent(store) == budgets
        assert {row.id for row in await store.requests(100)} == {"r4", "r5"}
        assert await store.closed(LONG_AGO, LATER) == [
            Closed("2025-08", "search", "USD", 701, 4, 500),
            Closed("2025-09", "chat", "USD", 102, 1, 0),
            Closed("2025-09", "search", "USD", 103, 1, 0),
        ]
        assert await store.closed(day("2025-09-30"), day("2025-10-01"), "chat") == [Closed("2025-09", "chat", "USD", 102, 1, 0)]
        assert await store.closed(day("2025-10-01"), LATER) == []
        assert await store.closed(datetime(300, 1, 1, tzinfo=UTC), LATER) == await store.closed(LONG_AGO, LATER)
        assert await store.request("r1") is None and await store.request("r4") == cost("r4", OLD["r4"], 104)
        assert await clean_up(place, tmp_path / "a") == []

    async def test_an_archive_has_all_rows_and_says_that_it_is_whole(self, store: Store, place: Place, tmp_path: Path) -> None:
        await filled(store)
        row = await store.request("late")
        await clean_up(place, tmp_path)

        contents = archive.check(tmp_path / "ledger-2025-08.jsonl.gz")
        assert contents.sums.charges == (Charge("search", "USD", 701, 4, 500),)
        assert [(share.period, share.nano) for share in contents.sums.budgets] == [("2025-08", 701), ("total", 4907)]
        lines = [json.loads(line) for line in gzip.open(tmp_path / "ledger-2025-08.jsonl.gz")]
        (late,) = [line for line in lines if line["kind"] == "request" and line["hold"]["rid"] == "late"]
        assert row is not None
        assert (late["request"]["attempts"][0]["nano"], late["entries"][0]["kind"], late["hold"]["state"]) == (500, "expire", "expired")
        (line,) = [json.loads(line) for line in gzip.open(tmp_path / "ledger-2025-09.jsonl.gz") if b'"correction"' in line[:24]]
        assert (line["id"], line["nano"], line["counted"][0]["nano"]) == ("c1", 50, 50)
        assert (tmp_path / "ledger-2025-08.jsonl.gz").stat().st_mode & 0o077 == 0

    async def test_a_hold_that_nobody_received_goes_too_and_an_open_one_stays(self, store: Store, place: Place, tmp_path: Path) -> None:
        await filled(store)
        await place.look("DELETE FROM request WHERE rid = 'free'" + (" RETURNING 1" if isinstance(place, SqlitePlace) else ""))
        await store.hold(asks("open", OLD["r1"]), "me", LEASE)
        # Nobody does so; a run would not make it worse.
        await place.look("UPDATE hold SET state = 'held' WHERE rid = 'r0'")

        await clean_up(place, tmp_path)

        assert await place.look("SELECT rid FROM hold ORDER BY rid") == [("open",), ("r0",), ("r4",), ("r5",)]
        assert archive.check(tmp_path / "ledger-2025-08.jsonl.gz").sums.holds == 3
        assert archive.check(tmp_path / "ledger-2025-08.jsonl.gz").sums.requests == 2
        await place.look("UPDATE hold SET state = 'settled' WHERE rid = 'r0'")

    async def test_what_is_learned_late_is_neither_lost_nor_charged_twice(self, store: Store, place: Place, tmp_path: Path) -> None:
        """Each of these was charged 500 by estimate before it was archived."""
        for id in LATE:
            await expired(store, id, OLD["r1"])
        await clean_up(place, tmp_path)
        before = await spent(store)

        for id, (ends, _) in LATE.items():
            for event, nano in ends:
                row = cost(id, OLD["r1"], nano) if event == "settle" else replace(RELEASED, id=id, ended=OLD["r1"])
                await store.finish(event, row)

        found = [(one.request, one.nano) for one in await store.corrections(day("2025-08-01"), day("2025-09-01"))]
        assert sorted(found) == sorted((id, nano) for id, (_, moved) in LATE.items() for nano in moved)
        moved = sum(nano for _, nano in found)
        after = await spent(store)
        assert (after["2025-08"] - before["2025-08"], after["total"] - before["total"]) == (moved, 7 * moved)

    async def test_a_charge_that_was_archived_is_not_made_again(self, store: Store, place: Place, tmp_path: Path) -> None:
        await filled(store)
        await clean_up(place, tmp_path)
        before = await everything(store, tmp_path)
        assert not await store.finish("settle", cost("r0", OLD["r0"], 999))
        # What went on without the ledger learns it anew, hold first.
        assert isinstance(await store.hold(asks("r0", OLD["r0"]), "me", LEASE, forced=True), Grant)
        assert not await store.finish("settle", cost("r0", OLD["r0"], 999))
        assert await store.finish("settle", cost("free", OLD["r1"], 30))
        with pytest.raises(HoldError, match="no hold"):
            await store.finish("settle", cost("nobody's", OLD["r0"], 1))
        with pytest.raises(HoldError, match="is held in USD and cannot be charged in CNY"):
            await store.finish("settle", replace(cost("late", OLD["r1"], 1), currency="CNY"))
        assert await everything(store, tmp_path) == before | {"late:free:settle": 30}

    async def test_an_idempotency_key_outlives_its_request(self, store: Store, place: Place, tmp_path: Path) -> None:
        await filled(store)
        await clean_up(place, tmp_path)
        new = replace(HOLD, id="new", idempotency=Idempotency("key r1", "body"))
        with pytest.raises(AlreadyDone, match="answered as r1, and charged"):
            await store.hold(new, "me", LEASE)
        with pytest.raises(IdempotencyMismatch):
            await store.hold(replace(new, idempotency=Idempotency("key r1", "another body")), "me", LEASE)
        # What was released gives its key back, once.
        again = replace(new, idempotency=Idempotency("key free", "body"))
        await store.hold(again, "me", LEASE)
        await store.finish("settle", replace(ROW, id="new"))
        with pytest.raises(AlreadyDone, match="answered as new"):
            await store.hold(replace(again, id="newer"), "me", LEASE)

    @pytest.mark.parametrize("charged", [True, False])
    async def test_a_key_that_was_given_back_is_archived_once(self, store: Store, place: Place, tmp_path: Path, charged: bool) -> None:
        """A released request was archived with its key; the one that took the key is archived too."""
        first, second = day("2025-08-03"), day("2025-09-03")
        keyed = replace(asks("first", first), idempotency=Idempotency("K", "body"))
        await store.hold(keyed, "me", LEASE)
        await store.finish("release", replace(RELEASED, id="first", ended=first))
        await clean_up(place, tmp_path, keep=14)
        await store.hold(replace(keyed, id="second", started=second), "me", LEASE)
        ended = cost("second", second, 100) if charged else replace(RELEASED, id="second", ended=second)
        await store.finish("settle" if charged else "release", ended)
        assert await clean_up(place, tmp_path) == [("ledger-2025-09.jsonl.gz", 1)]

        third = replace(keyed, id="third", started=NOW)
        if charged:
            with pytest.raises(AlreadyDone, match="answered as second"):
                await store.hold(third, "me", LEASE)
        else:
            assert isinstance(await store.hold(third, "me", LEASE), Grant)
            assert await place.look("SELECT count(*) FROM gone WHERE idem IS NOT NULL") == [(0,)]

    @pytest.mark.parametrize("archived", [True, False])
    async def test_a_hold_that_is_forced_takes_a_key_that_was_given_back(
        self, store: Store, place: Place, tmp_path: Path, archived: bool
    ) -> None:
        """What was charged while the ledger could not be asked is not charged again with its key."""
        first = replace(asks("first", day("2025-08-03")), idempotency=Idempotency("K", "body"))
        await store.hold(first, "me", LEASE)
        await store.finish("release", replace(RELEASED, id="first", ended=day("2025-08-03")))
        if archived:
            await clean_up(place, tmp_path)
        await asyncio.gather(*(store.hold(replace(first, id=f"r{n}", started=NOW), "me", LEASE, forced=True) for n in range(2)))
        for number in range(2):
            assert await store.finish("settle", cost(f"r{number}", NOW, 5))
        with pytest.raises(AlreadyDone, match="answered as r"):
            await store.hold(replace(first, id="next", started=NOW), "me", LEASE)

    async def test_what_changes_after_it_was_written_stays_for_the_next_part(self, store: Store, place: Place, tmp_path: Path) -> None:
        await filled(store)

        def before(step: str, number: int) -> Any:
            return store.finish("settle", cost("late", OLD["r1"], 420)) if (step, number) == ("begin", 1) else None

        await retained(Watched(shelf_at(place.url), before), tmp_path)

        row = await store.request("late")
        assert row is not None and row.nano == 420
        assert await clean_up(place, tmp_path) == [("ledger-2025-08.2.jsonl.gz", 1)]
        assert await store.request("late") is None
        assert (await store.closed(LONG_AGO, day("2025-09-01")))[0].nano == 621

    async def test_what_is_not_in_the_file_as_it_is_here_stays(self, store: Store, place: Place, tmp_path: Path) -> None:
        """Whatever changed it: what is deleted is in the archive to the letter."""
        await filled(store)
        changes = {"r0": "UPDATE request SET route = 'other' WHERE rid = 'r0'", "r1": "UPDATE hold SET card = 'other' WHERE rid = 'r1'"}

        async def change() -> None:
            for one in changes.values():
                await place.look(one)

        await retained(Watched(shelf_at(place.url), lambda step, number: change() if (step, number) == ("begin", 1) else None), tmp_path)

        assert {row.id for row in await store.requests(9)} == {"r0", "r1", "r4", "r5"}

    async def test_what_changes_in_the_last_moment_stays_too(self, store: Store, place: Place, tmp_path: Path) -> None:
        """Between the last look at a request and the transaction in which it would leave."""
        await filled(store)

        def before(step: str, number: int) -> Any:
            return store.finish("settle", cost("late", OLD["r1"], 420)) if (step, number) == ("retire", 1) else None

        months = await retained(Watched(shelf_at(place.url), before), tmp_path, batch=32)

        assert [month.gone for month in months] == [3, 2]
        row = await store.request("late")
        assert row is not None and row.nano == 420

    async def test_entries_go_only_with_their_archived_request(self, store: Store, place: Place, tmp_path: Path) -> None:
        await filled(store)
        await clean_up(place, tmp_path)
        for change in ("DELETE FROM entry", "UPDATE entry SET nano = 0"):
            with pytest.raises(Exception, match="append-only"):
                await place.look(change)

    async def test_whoever_is_killed_loses_nothing_and_the_next_run_goes_on(self, store: Store, place: Place, tmp_path: Path) -> None:
        """One run after another dies, each a little later than the one before."""
        await filled(store)
        before, budgets = await everything(store, tmp_path / "none"), await spent(store)
        folder = tmp_path / "a"
        gone = []
        for step in ("begin", "again", "retire", "retire 2", "finish"):
            dying = [sys.executable, "-m", "tests.dying", "retain", place.url, str(folder), step]
            done = await asyncio.to_thread(subprocess.run, dying, cwd=ROOT, capture_output=True, check=False)

            assert done.returncode == -signal.SIGKILL, done.stderr
            assert await store.verify() == []
            assert await spent(store) == budgets
            gone += await place.look("SELECT count(*) FROM gone")

        assert gone == [(0,), (0,), (0,), (2,), (4,)]
        assert await clean_up(place, folder) == [("ledger-2025-08.jsonl.gz", 0), ("ledger-2025-09.jsonl.gz", 2)]
        assert sorted(os.listdir(folder)) == [".lock", "ledger-2025-08.jsonl.gz", "ledger-2025-09.jsonl.gz"]
        assert await everything(store, folder) == before
        assert [one.nano for one in await store.closed(LONG_AGO, LATER)] == [701, 102, 103]

    async def test_a_run_that_was_killed_wants_its_own_file_back(self, store: Store, place: Place, tmp_path: Path) -> None:
        await filled(store)

        def before(step: str, number: int) -> None:
            if (step, number) == ("retire", 2):
                raise LedgerUnavailable("as if it had been killed")

        with pytest.raises(LedgerUnavailable):
            await retained(Watched(shelf_at(place.url), before), tmp_path / "a")

        with pytest.raises(ArchiveError, match="Remedy: name the folder that has it by --archive"):
            await clean_up(place, tmp_path / "b")
        file = tmp_path / "a" / "ledger-2025-08.jsonl.gz"
        whole = file.read_bytes()
        file.write_bytes(whole[:-9])
        with pytest.raises(ArchiveError, match="is not a whole archive"):
            await clean_up(place, tmp_path / "a")
        other = tmp_path / "other.gz"
        with archive.writing(other, archive.check(_with(file, whole)).head) as empty:
            empty.end()
        file.write_bytes(other.read_bytes())
        with pytest.raises(ArchiveError, match="is not the file that this ledger wrote"):
            await clean_up(place, tmp_path / "a")
        file.write_bytes(whole)
        assert await clean_up(place, tmp_path / "a") == [("ledger-2025-08.jsonl.gz", 2), ("ledger-2025-09.jsonl.gz", 2)]

    async def test_the_file_of_another_ledger_is_never_written_over(self, store: Store, place: Place, tmp_path: Path) -> None:
        await filled(store)
        (tmp_path / "ledger-2025-08.jsonl.gz").write_text("another's")
        with pytest.raises(ArchiveError, match=r"not known to this ledger\. Remedy: name another folder"):
            await clean_up(place, tmp_path)
        assert (tmp_path / "ledger-2025-08.jsonl.gz").read_text() == "another's"

    async def test_of_two_runs_at_once_one_says_that_the_other_runs(self, store: Store, place: Place, tmp_path: Path) -> None:
        await filled(store)

        async def second() -> None:
            with pytest.raises(ArchiveError, match="another run writes into"):
                await clean_up(place, tmp_path)

        months = await retained(Watched(shelf_at(place.url), lambda step, _: second() if step == "begin" else None), tmp_path)
        assert len(months) == 2

    async def test_of_two_runs_into_two_folders_one_says_that_the_other_was_first(self, store: Store, place: Place, tmp_path: Path) -> None:
        await filled(store)
        before, budgets = await everything(store, tmp_path / "none"), await spent(store)

        async def second() -> None:
            assert len(await clean_up(place, tmp_path / "b")) == 2

        with pytest.raises(ArchiveError, match="another run archives 2025-08 just now"):
            await retained(Watched(shelf_at(place.url), lambda step, _: second() if step == "begin" else None), tmp_path / "a")

        assert os.listdir(tmp_path / "a") == [".lock"]
        assert await everything(store, tmp_path / "b") == before and await spent(store) == budgets
        assert await clean_up(place, tmp_path / "b") == []

    async def test_a_folder_that_is_lost_in_between_is_named_and_once_it_is_back_the_next_run_goes_on(
        self, store: Store, place: Place, tmp_path: Path
    ) -> None:
        await filled(store)
        before, folder, away = await everything(store, tmp_path / "none"), tmp_path / "a", tmp_path / "away"

        def lose(step: str, number: int) -> None:
            if (step, number) == ("again", 1):
                folder.rename(away)
            elif (step, number) == ("next_part", 1) and away.exists():
                shutil.rmtree(folder)

        for _run in range(2):
            with pytest.raises(ArchiveError, match=f"{folder}/ledger-2025-09.jsonl.gz.partial cannot be written .* Remedy: "):
                await retained(Watched(shelf_at(place.url), lose), folder)

        away.rename(folder)
        assert await clean_up(place, folder) == [("ledger-2025-09.jsonl.gz", 2)]
        assert await everything(store, folder) == before

    async def test_a_file_that_will_not_come_back_is_given_up_by_its_name(self, store: Store, place: Place, tmp_path: Path) -> None:
        await filled(store)
        before, budgets = await everything(store, tmp_path / "none"), await spent(store)
        name, sums = "ledger-2025-08.jsonl.gz", [701, 102, 103]

        def die(step: str, number: int) -> None:
            if (step, number) == ("retire", 2):
                raise LedgerUnavailable("as if it had been killed")

        with pytest.raises(LedgerUnavailable):
            await retained(Watched(shelf_at(place.url), die), tmp_path / "a")
        with pytest.raises(ArchiveError, match=f"{name} is not in {tmp_path}/b, .*lost for ever: --lost {name}"):
            await clean_up(place, tmp_path / "b")
        with pytest.raises(ArchiveError, match="Remedy: run again without --lost"):
            await clean_up(place, tmp_path / "a", lost=name)
        with pytest.raises(ArchiveError, match=f"nonsense is not what is leaving the ledger: that is {name}"):
            await clean_up(place, tmp_path / "b", lost="nonsense")

        assert await clean_up(place, tmp_path / "b", lost=name) == [("ledger-2025-08.2.jsonl.gz", 2), ("ledger-2025-09.jsonl.gz", 2)]

        left = {one.rid: one.request["nano"] for one in archive.requests(tmp_path / "a" / name) if one.request}
        found = await everything(store, tmp_path / "b")
        assert {**left, **found} == before and len(before) - len(found) == 2, "only the rows of what had left are nowhere else"
        assert [one.nano for one in await store.closed(LONG_AGO, LATER)] == sums and await spent(store) == budgets
        with pytest.raises(ArchiveError, match=f"{name} is not what is leaving the ledger. Remedy: "):
            await clean_up(place, tmp_path / "b", lost=name)

    async def test_a_disk_that_fails_is_not_called_a_damaged_archive(self, store: Store, place: Place, tmp_path: Path) -> None:
        await filled(store)
        file = tmp_path / "ledger-2025-08.jsonl.gz"
        with pytest.raises(ArchiveError, match=f"{file} cannot be used .*Remedy: bring the folder back, and run again"):
            await retained(Watched(shelf_at(place.url), lambda step, _: file.mkdir() if step == "begin" else None), tmp_path)
        file.rmdir()
        assert len(await clean_up(place, tmp_path)) == 2

    async def test_no_report_counts_twice_what_leaves_meanwhile(self, store: Store, place: Place, tmp_path: Path) -> None:
        await filled(store)

        class Meanwhile:
            corrections, closed = store.corrections, store.closed

            async def tally(self, question: Question, take: Take) -> None:
                await store.tally(question, take)
                await clean_up(place, tmp_path)

        def report(month: str) -> Spending:
            return Spending(("team",), Period(day(month), day("2025-10-01"), ZoneInfo("UTC")), {}, tariffs(load(default_folder())))

        with pytest.raises(LedgerUnavailable, match="are being archived just now"):
            await gather(Meanwhile(), report("2025-08-01"))
        again = report("2025-08-01")
        await gather(store, again)
        assert sum(line.group.nano for line in again.lines() if line.kind != "correction") == 701 + 102 + 103

    async def test_gateways_go_on_meanwhile(self, store: Store, place: Place, tmp_path: Path) -> None:
        """Requests are held and settled, and old ones expire, while hundreds leave in many transactions."""
        await asyncio.gather(*(store.hold(asks(f"o{n}", OLD["r1"]), "me", LEASE) for n in range(300)))
        await asyncio.gather(*(store.finish("settle", cost(f"o{n}", OLD["r1"], 10)) for n in range(300)))
        run = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(clean_up(place, tmp_path, batch=16))))
        made = 0
        while not run.done():
            await store.hold(asks(f"n{made}", AT), "me", LEASE)
            assert await store.finish("settle", cost(f"n{made}", AT, 1))
            made += 1

        assert await run == [("ledger-2025-08.jsonl.gz", 300)]
        assert made > 10
        assert await spent(store) == {"2025-08": 3000, "2026-11": made, "total": 7 * (3000 + made)}


def _with(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    ("now", "keep", "first"),
    [
        (NOW, 13, "2025-10-01"),
        (NOW, 99_999, "0001-01-01"),
        (datetime(2026, 12, 31, 23, 59, tzinfo=UTC), 11, "2026-01-01"),
        (datetime(2026, 12, 31, 23, 59, tzinfo=UTC), 12, "2025-12-01"),
        (datetime(2027, 1, 1, 0, 0, tzinfo=UTC), 1, "2026-12-01"),
        (datetime.fromisoformat("2027-01-01T07:59:59+08:00"), 1, "2026-11-01"),
    ],
)
def test_whole_months_are_kept(now: datetime, keep: int, first: str) -> None:
    assert cutoff(now, keep) == day(first)


DAMAGE: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a byte less": lambda lines: [*lines[:-1], lines[-1][:-2]],
    "no end": lambda lines: lines[:-1],
    "an amount": lambda lines: [line.replace(b'"nano":10', b'"nano":11') for line in lines],
    "a team": lambda lines: [line.replace(b"search", b"hcraes") for line in lines[:-1]] + [lines[-1]],
    "a request less": lambda lines: [*lines[:1], *lines[2:]],
    "a request twice": lambda lines: [*lines[:2], *lines[1:]],
    "a sum": lambda lines: [*lines[:-1], lines[-1].replace(b'"entries":', b'"entries":1')],
    "something after it": lambda lines: [*lines, lines[0]],
    "another kind": lambda lines: [lines[0], b'{"kind":"x"}\n', *lines[1:]],
    "no line": lambda _lines: [],
    "no JSON": lambda lines: [lines[0], b"\xff\n", *lines[1:]],
}


async def test_every_damage_to_an_archive_is_found(tmp_path: Path) -> None:
    place = SqlitePlace(tmp_path / "ledger.db")
    store = place.store()
    await store.start()
    await filled(store)
    await store.close()
    await clean_up(place, tmp_path)
    file = tmp_path / "ledger-2025-08.jsonl.gz"
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    for name, harm in DAMAGE.items():
        file.write_bytes(gzip.compress(b"".join(harm(list(lines)))))
        with pytest.raises(ArchiveError, match=r"is not a whole archive: .*Remedy: take another copy"):
            raise AssertionError(f"{name}: {archive.check(file)}")
    file.write_bytes(gzip.compress(b"".join(lines).replace(b'"route":"r"', b'"route":"s"')))
    with pytest.raises(ArchiveError, match="its checksum is another"):
        archive.check(file)
    file.write_bytes(gzip.compress(b"".join(lines))[:-20])
    with pytest.raises(ArchiveError, match="is not a whole archive"):
        archive.check(file)
    file.write_bytes(gzip.compress(lines[0].replace(b'"format":1', b'"format":9') + b"".join(lines[1:])))
    with pytest.raises(ArchiveError, match="of format 9"):
        archive.check(file)


async def test_a_spool_that_comes_back_from_an_old_disk_charges_nothing_twice(tmp_path: Path) -> None:
    """It has the end of a request that expired, and a request that went on without the ledger, whose charge has arrived since."""
    place = SqlitePlace(tmp_path / "ledger.db")
    store = place.store()
    await store.start()
    await filled(store)
    await clean_up(place, tmp_path / "a")
    before = await everything(store, tmp_path / "a")
    await store.close()
    late, done = cost("late", OLD["r1"], 420), cost("r0", OLD["r0"], 100)
    records = [
        Record("settle", "old", asks("late", OLD["r1"]), late),
        Record("hold", "old", asks("r0", OLD["r0"])),
        Record("settle", "old", asks("r0", OLD["r0"]), done),
    ]
    leave(tmp_path / "spool", "old", [msgspec.json.encode(record).decode() for record in records])

    ledger = Embedded(tmp_path / "ledger.db")
    await ledger.start()
    await eventually(lambda: not ledger.unsettled)

    assert await everything(ledger.store, tmp_path / "a") == before | {"late:late:settle": -80}
    assert await ledger.verify() == []
    await ledger.close()


async def test_a_ledger_of_another_version_is_left_alone(tmp_path: Path) -> None:
    place = SqlitePlace(tmp_path / "ledger.db")
    with pytest.raises(LedgerUnavailable, match="there is no ledger"):
        await clean_up(place, tmp_path)
    await place.look("PRAGMA user_version = 4")
    with pytest.raises(LedgerUnavailable, match="start this version of the gateway once"):
        await clean_up(place, tmp_path)
    assert timedelta(0) < NOW - AT
