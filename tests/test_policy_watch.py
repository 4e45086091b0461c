"""The policies in force: replaced as a whole by a good folder, kept against a bad one, also when a mounted folder's link is swapped."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.errors import PolicyError
from gateway.policies import default_folder
from gateway.policy_watch import PolicyStore

RATES = '[{from: USD, to: CNY, rate: "7.1", at: 2026-01-01T00:00:00Z, source: bank}]'
NEW = RATES.replace("7.1", "7.2")
BAD = "[{from: USD, to: CNY}]"


class ManualClock:
    """A clock that moves only when told."""

    def __init__(self) -> None:
        self.instant = datetime(2026, 11, 20, tzinfo=UTC)

    def now(self) -> datetime:
        return self.instant

    def monotonic(self) -> float:
        return 0.0


def copy(folder: Path, rates: str = RATES) -> Path:
    shutil.copytree(default_folder(), folder)
    (folder / "rates.yaml").write_text(rates)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy(tmp_path / "policies")


def test_a_store_begins_with_the_folder_as_it_is(folder: Path) -> None:
    clock = ManualClock()
    store = PolicyStore(folder, clock)

    assert (store.error, store.loaded_at) == (None, clock.instant)
    assert "deepseek" in store.current.hosts


def test_a_store_does_not_begin_with_a_bad_folder(folder: Path) -> None:
    (folder / "rates.yaml").write_text(BAD)

    with pytest.raises(PolicyError, match=r"rates\.yaml:1: `rate` is missing"):
        PolicyStore(folder, ManualClock())


def test_a_good_folder_replaces_the_snapshot_as_a_whole(folder: Path) -> None:
    clock = ManualClock()
    store = PolicyStore(folder, clock)
    before = store.current
    clock.instant += timedelta(minutes=1)
    (folder / "rates.yaml").write_text(NEW)

    assert store.reload()

    assert store.current is not before
    assert store.current.digest != before.digest
    assert store.loaded_at == clock.instant
    assert str(before.rates.rate("USD", "CNY", clock.instant)) == "71/10"


def test_an_unchanged_folder_keeps_the_snapshot(folder: Path) -> None:
    store = PolicyStore(folder, ManualClock())
    before = store.current

    assert store.reload()
    assert store.current is before


def test_a_bad_folder_changes_nothing_and_is_said_until_it_is_mended(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = PolicyStore(folder, ManualClock())
    before = store.current
    (folder / "rates.yaml").write_text(BAD)

    assert not store.reload()
    assert store.current is before
    assert "rates.yaml:1: `rate` is missing" in (store.error or "")

    (folder / "rates.yaml").write_text(RATES)
    assert store.reload()
    assert (store.error, "is right again" in caplog.text) == (None, True)


def test_who_is_refused_from_now_on_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, teams = PolicyStore(folder, ManualClock()), folder / "teams"

    def said(after: Callable[[], object]) -> list[str]:
        caplog.clear()
        after()
        assert store.reload()
        return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

    teams.mkdir(exist_ok=True)
    (first,) = said(lambda: (teams / "search.yaml").write_text("team: search\nroutes: ['*']\n"))
    assert "only search is served now" in first
    assert said(lambda: (teams / "ads.yaml").write_text("team: ads\nroutes: ['*']\n")) == []
    (gone,) = said((teams / "ads.yaml").unlink)
    assert gone.endswith("any more: ads")
    assert said((teams / "search.yaml").unlink) == []


def test_a_folder_that_went_away_changes_nothing(folder: Path) -> None:
    store = PolicyStore(folder, ManualClock())
    before = store.current
    shutil.rmtree(folder)

    assert not store.reload()
    assert store.current is before


@asynccontextmanager
async def watched(store: PolicyStore) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(store.watch(stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)


async def repeat(change: Callable[[], object], until: Callable[[], bool]) -> None:
    """Makes a change, again and again: nothing tells a test when the kernel has begun to report them."""
    async with asyncio.timeout(10):
        while not until():
            change()
            await asyncio.sleep(0.2)


async def test_a_changed_file_is_loaded(folder: Path) -> None:
    store = PolicyStore(folder, ManualClock(), look=3600)
    before = store.current.digest

    async with watched(store):
        await repeat(lambda: (folder / "rates.yaml").write_text(NEW), until=lambda: store.current.digest != before)

    assert store.error is None


async def test_a_file_that_became_bad_is_said_and_a_mended_one_loaded(folder: Path) -> None:
    store = PolicyStore(folder, ManualClock(), look=3600)
    before = store.current.digest

    async with watched(store):
        await repeat(lambda: (folder / "rates.yaml").write_text(BAD), until=lambda: store.error is not None)
        assert store.current.digest == before
        await repeat(lambda: (folder / "rates.yaml").write_text(RATES), until=lambda: store.error is None)

    assert store.current.digest == before


def mount(folder: Path, version: Path) -> None:
    """As a kubelet does: the versions lie beside, `..data` names one of them, and every name leads through it."""
    (folder / "..data_new").symlink_to(version.name)
    (folder / "..data_new").replace(folder / "..data")
    for item in version.iterdir():
        if not (folder / item.name).is_symlink():
            (folder / item.name).symlink_to(Path("..data") / item.name)


async def test_a_swapped_link_of_a_mounted_folder_is_a_change(tmp_path: Path) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    mount(folder, copy(folder / "..2026_11_20"))
    store = PolicyStore(folder, ManualClock(), look=3600)
    before = store.current.digest
    newer = copy(folder / "..2026_11_21", NEW)

    async with watched(store):
        await repeat(lambda: mount(folder, newer), until=lambda: store.current.digest != before)

    assert store.error is None


async def test_a_bad_version_of_a_mounted_folder_is_kept_out(tmp_path: Path) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    mount(folder, copy(folder / "..2026_11_20"))
    store = PolicyStore(folder, ManualClock(), look=3600)
    before = store.current
    newer = copy(folder / "..2026_11_21", BAD)

    async with watched(store):
        await repeat(lambda: mount(folder, newer), until=lambda: store.error is not None)

    assert store.current is before


async def test_a_change_behind_a_link_out_of_the_folder_is_found_too(tmp_path: Path) -> None:
    elsewhere = copy(tmp_path / "elsewhere")
    folder = tmp_path / "policies"
    folder.symlink_to(elsewhere)
    store = PolicyStore(folder, ManualClock(), look=0.1)
    before = store.current.digest
    (tmp_path / "new").symlink_to(copy(tmp_path / "other", NEW))
    (tmp_path / "new").replace(folder)

    async with watched(store):
        await repeat(lambda: None, until=lambda: store.current.digest != before)
