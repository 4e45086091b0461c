"""Keys of teams: made once, shown once, revoked everywhere within seconds; the same on both databases, and with real gateways."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import repeat
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from gateway.errors import InvalidKey, LedgerUnavailable
from gateway.front.auth import Keys
from gateway.keys.following import Following
from gateway.keys.orders import Order, Rotation, checked, fits
from gateway.keys.port import Key, KeyProblem, KeyStore, NameTaken, PepperDiffers, Table, UnknownKey
from gateway.keys.postgres import PostgresKeys
from gateway.keys.registry import Issued, Registry, shown
from gateway.keys.secret import Hasher, is_key, prefix_of
from gateway.keys.sqlite import SqliteKeys
from gateway.policies import Policies, default_folder, load
from gateway.request import OwnBudget
from tests.harness import ADMIN, KEY, LiveGateway, get_json, post
from tests.servers import PostgresServer
from tests.shell import run, said
from tests.test_money_crash import forgetful_disk

AT = datetime(2026, 11, 20, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
HASHER = Hasher(b"pepper of the tests")
OTHER = Hasher(b"another pepper than that")
BUDGET = OwnBudget(5 * 10**9, "CNY", "week", "Asia/Shanghai")
CI = Key("key-1", "fg-aaaaaa", "ci", "search", AT, AT + HOUR, budget=BUDGET)
WITHIN = 5.0

Open = Callable[..., KeyStore]


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Makes stores on one database, all the same."""
    if request.param == "sqlite":
        return lambda hasher=HASHER: SqliteKeys(tmp_path / "data" / "ledger.db", hasher.check)
    url = request.getfixturevalue("postgres_url")
    return lambda hasher=HASHER: PostgresKeys(url, hasher.check)


@asynccontextmanager
async def started(store: KeyStore) -> AsyncIterator[KeyStore]:
    try:
        await store.start()
        yield store
    finally:
        await store.close()


async def test_what_one_adds_another_reads_whole(place: Open) -> None:
    bare = Key("key-2", "fg-bbbbbb", "search-2", "search", AT)
    async with started(place()) as one, started(place()) as other:
        before = await other.version()
        await one.add(b"1" * 32, CI)
        await one.add(b"2" * 32, bare)
        assert await other.read() == Table(before + 2, {b"1" * 32: CI, b"2" * 32: bare})
        assert await other.version() == before + 2


async def test_a_name_is_used_once(place: Open) -> None:
    async with started(place()) as store:
        await store.add(b"1" * 32, CI)
        before = await store.read()
        with pytest.raises(NameTaken):
            await store.add(b"2" * 32, replace(CI, id="key-2"))
        assert await store.read() == before


async def test_a_successor_takes_the_name_and_there_is_one(place: Open) -> None:
    old = replace(CI, expires=AT + HOUR / 2, replaced_by="key-2")
    new = replace(CI, id="key-2")
    async with started(place()) as store:
        await store.add(b"1" * 32, CI)
        await store.replace(old, b"2" * 32, new)
        after = await store.read()
        assert dict(after.keys) == {b"1" * 32: old, b"2" * 32: new}
        with pytest.raises(KeyProblem, match="rotate its successor"):
            await store.replace(replace(old, replaced_by="key-3"), b"3" * 32, replace(CI, id="key-3"))
        assert await store.read() == after


async def test_a_key_that_was_revoked_stays_so(place: Open) -> None:
    """Also when a rotation that has read the table earlier comes after it."""
    async with started(place()) as store:
        await store.add(b"1" * 32, CI)
        await store.revoke(["key-1"], AT)
        await store.revoke(["key-1", "key-9"], AT + HOUR)
        assert (await store.read()).keys[b"1" * 32].revoked == AT
        await store.replace(replace(CI, replaced_by="key-2"), b"2" * 32, replace(CI, id="key-2"))
        assert (await store.read()).keys[b"1" * 32].revoked == AT


async def test_stored_keys_bind_the_pepper(place: Open) -> None:
    async with started(place()) as store:
        async with started(place(OTHER)) as empty:
            assert (await empty.read()).keys == {}
        # The other gateway has taken the empty table: from here on, a key that is made under this pepper would be lost.
        with pytest.raises(PepperDiffers):
            await store.add(b"1" * 32, CI)
        with pytest.raises(PepperDiffers):
            await store.version()
    async with started(place()) as store:
        await store.add(b"1" * 32, CI)
    with pytest.raises(PepperDiffers, match="FAREGATE_KEY_PEPPER"):
        async with started(place(OTHER)):
            pass


async def test_many_start_and_write_at_once(place: Open) -> None:
    stores = [place() for _ in range(6)]
    try:
        await asyncio.gather(*(store.start() for store in stores))
        keys = [replace(CI, id=f"key-{number}", name=f"ci-{number}") for number in range(30)]
        await asyncio.gather(*(stores[number % 6].add(b"%032d" % number, key) for number, key in enumerate(keys)))
        table = await stores[0].read()
        assert (table.version, len(table.keys)) == (30, 30)
    finally:
        await asyncio.gather(*(store.close() for store in stores))


async def test_a_store_that_is_closed_or_newer_says_so(tmp_path: Path) -> None:
    store = SqliteKeys(tmp_path / "ledger.db", HASHER.check)
    with pytest.raises(LedgerUnavailable):
        await store.version()
    await store.close()
    (tmp_path / "file").write_text("no folder")
    store = SqliteKeys(tmp_path / "file" / "ledger.db", HASHER.check)
    with pytest.raises(LedgerUnavailable, match="Check the folder"):
        await store.start()
    await store.close()


async def test_a_database_that_comes_back_is_used_again(postgres_server: PostgresServer, postgres_url: str) -> None:
    async with started(PostgresKeys(postgres_url, HASHER.check)) as store:
        await store.add(b"1" * 32, CI)
        postgres_server.restart(signal.SIGINT)
        with pytest.raises(LedgerUnavailable) as problem:
            await store.version()
        assert postgres_url not in str(problem.value)
        assert (await store.read()).keys == {b"1" * 32: CI}


async def test_a_change_outlives_the_server_that_acknowledged_it(postgres_server: PostgresServer, postgres_url: str) -> None:
    async with started(PostgresKeys(postgres_url, HASHER.check)) as store:
        await store.add(b"1" * 32, CI)
        await store.revoke(["key-1"], AT)
        postgres_server.restart(signal.SIGKILL)
    async with started(PostgresKeys(postgres_url, HASHER.check)) as store:
        assert (await store.read()).keys == {b"1" * 32: replace(CI, revoked=AT)}


async def test_a_change_outlives_a_power_cut(tmp_path: Path) -> None:
    """On a disk that forgets every write that was not synced."""
    with forgetful_disk() as disk:
        async with started(SqliteKeys(tmp_path / "ledger.db", HASHER.check)) as store:
            await store.add(b"1" * 32, CI)
            await store.revoke(["key-1"], AT)
            disk.cut(tmp_path / "after")
    async with started(SqliteKeys(tmp_path / "after" / "ledger.db", HASHER.check)) as store:
        assert (await store.read()).keys == {b"1" * 32: replace(CI, revoked=AT)}


async def test_a_database_that_hangs_is_given_up(postgres_server: PostgresServer, postgres_url: str) -> None:
    async with started(PostgresKeys(postgres_url, HASHER.check, patience=0.2)) as store:
        postgres_server.pause()
        try:
            # First in a transaction on the connection that is there, then on the way to a new one.
            async with asyncio.timeout(WITHIN):
                with pytest.raises(LedgerUnavailable):
                    await store.add(b"1" * 32, CI)
                with pytest.raises(LedgerUnavailable):
                    await store.version()
        finally:
            postgres_server.resume()


async def test_a_server_that_has_become_a_replica_is_left(postgres_url: str) -> None:
    """After a failover, the old connection goes to a server that only reads; the address may lead to another one by now."""
    owner = await asyncpg.connect(postgres_url)
    database = postgres_url.rpartition("/")[2]
    try:
        async with started(PostgresKeys(postgres_url, HASHER.check)):
            pass
        await owner.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
        async with started(PostgresKeys(postgres_url, HASHER.check)) as store:
            await owner.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")
            with pytest.raises(LedgerUnavailable, match="ReadOnly"):
                await store.add(b"1" * 32, CI)
            await store.add(b"1" * 32, CI)
            assert (await store.read()).keys == {b"1" * 32: CI}
    finally:
        await owner.close()


async def test_a_user_without_the_right_to_the_tables_is_told_the_remedy(postgres_url: str) -> None:
    owner = await asyncpg.connect(postgres_url)
    user = f"reader_{postgres_url[-6:]}"
    try:
        await owner.execute(f"CREATE ROLE {user} LOGIN")
        store = PostgresKeys(postgres_url.replace("faregate@", f"{user}@"), HASHER.check)
        with pytest.raises(LedgerUnavailable, match="owner of the schema"):
            await store.start()
        await store.close()
    finally:
        await owner.close()


class Hand:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.at = AT

    def now(self) -> datetime:
        return self.at


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
async def registry(tmp_path: Path, hand: Hand) -> AsyncIterator[Registry]:
    async with started(SqliteKeys(tmp_path / "ledger.db", HASHER.check)) as store:
        yield Registry(store, HASHER, hand.now)


def order(**fields: Any) -> Order:
    made: Order = checked(Order, {"team": "search", **fields})
    return made


async def rotated(registry: Registry, reference: str, **fields: Any) -> Issued:
    return await registry.rotate(reference, checked(Rotation, fields))


async def test_a_key_has_256_random_bits_and_is_kept_as_its_digest_alone(registry: Registry) -> None:
    made = [await registry.create(order()) for _ in range(3)]
    secrets = {issued.secret.get_secret_value() for issued in made}
    assert len(secrets) == 3
    for issued in made:
        secret = issued.secret.get_secret_value()
        assert re.fullmatch(r"fg-[A-Za-z0-9_-]{43}", secret) and is_key(secret)
        assert issued.key.prefix == secret[:9] == prefix_of(secret)
        assert secret not in repr(issued)
        assert (await registry.store.read()).keys[HASHER.digest(secret.encode())] == issued.key


async def test_a_key_is_called_by_its_name_or_by_its_team_and_six_digits(registry: Registry) -> None:
    plain, named = await registry.create(order()), await registry.create(order(name="ci", expires="90d", budget={"amount": "5.00"}))
    digest = HASHER.digest(plain.secret.get_secret_value().encode())
    assert plain.key == Key(plain.key.id, plain.key.prefix, f"search-{digest.hex()[:6]}", "search", AT)
    assert (named.key.name, named.key.expires) == ("ci", AT + timedelta(days=90))
    assert named.key.budget == OwnBudget(5 * 10**9, "USD", "month", "UTC")
    with pytest.raises(NameTaken):
        await registry.create(order(name="ci", team="ads"))


class Unlucky:
    """A store in which the first names are taken."""

    def __init__(self, taken: int) -> None:
        self.taken = taken
        self.kept: list[Key] = []

    async def add(self, digest: bytes, key: Key) -> None:
        if self.taken:
            self.taken -= 1
            raise NameTaken
        self.kept.append(key)


async def test_a_made_up_name_that_is_taken_makes_another_key() -> None:
    store: Any = Unlucky(3)
    issued = await Registry(store, HASHER, lambda: AT).create(order())
    assert store.kept == [issued.key]
    with pytest.raises(NameTaken):
        await Registry(Unlucky(1000), HASHER, lambda: AT).create(order())  # type: ignore[arg-type]


async def test_a_successor_has_the_same_team_name_and_budget_and_the_old_key_ends(registry: Registry, hand: Hand) -> None:
    old = await registry.create(order(name="ci", expires="10d", budget={"amount": "5"}))
    hand.at += timedelta(days=1, microseconds=1)
    new = await rotated(registry, old.key.id)
    assert (new.key.team, new.key.name, new.key.budget) == ("search", "ci", old.key.budget)
    assert new.key.expires == hand.at.replace(microsecond=0) + timedelta(days=10, seconds=1), "a lifetime as the old one's"
    first, second = await registry.keys()
    assert (first.revoked, first.expires, first.replaced_by) == (hand.at, old.key.expires, new.key.id)
    assert second == new.key
    with pytest.raises(KeyProblem, match=new.key.id):
        await rotated(registry, old.key.id)


@pytest.mark.parametrize(("grace", "expires", "ends"), [("1h", None, HOUR), ("1h", "30m", HOUR / 2), ("1h", "2h", HOUR)])
async def test_a_grace_ends_the_old_key_later_but_not_later_than_it_ended(
    registry: Registry, grace: str, expires: str | None, ends: timedelta
) -> None:
    old = await registry.create(order(expires=expires))
    await rotated(registry, old.key.prefix, grace=grace, expires="1w")
    first, second = sorted(await registry.keys(), key=lambda key: key.replaced_by is None)
    assert (first.revoked, first.expires) == (None, AT + ends)
    assert second.expires == AT + timedelta(weeks=1)


async def test_a_name_stands_for_the_present_key_when_rotating_and_for_all_when_revoking(registry: Registry, hand: Hand) -> None:
    first = await registry.create(order(name="ci"))
    second = await rotated(registry, "ci", grace="1d")
    third = await rotated(registry, "ci", grace="1d")
    assert {key.replaced_by for key in await registry.keys()} == {second.key.id, third.key.id, None}
    assert {key.id for key in await registry.revoke("ci")} == {first.key.id, second.key.id, third.key.id}
    assert {key.state(AT) for key in await registry.keys()} == {"revoked"}
    fourth = await rotated(registry, "ci")
    assert fourth.key.state(AT) == "active", "a key that has ended may have a successor"


async def test_a_key_is_found_by_id_prefix_name_or_itself(registry: Registry, hand: Hand, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    made = [await registry.create(order(name=f"ci-{number}")) for number in range(4)]
    references = [made[0].key.id, made[1].key.prefix, made[2].key.name, made[3].secret.get_secret_value()]
    assert [[key.id for key in await registry.revoke(reference)] for reference in references] == [[issued.key.id] for issued in made]
    assert all(f"key {issued.key.id} (ci-{number}) of team search is revoked" in caplog.text for number, issued in enumerate(made))
    assert not [issued for issued in made if issued.secret.get_secret_value()[9:] in caplog.text]
    hand.at += HOUR
    (again,) = await registry.revoke(made[0].key.id)
    assert again.revoked == AT, "it was revoked then, and not again"


async def test_what_stands_for_no_key_or_for_several_ends_none(registry: Registry) -> None:
    first, second = await registry.create(order(name="batch")), await registry.create(order())
    with pytest.raises(UnknownKey, match="Did you mean batch"):
        await registry.revoke("bach")
    stranger = "fg-" + "x" * 43
    with pytest.raises(UnknownKey) as unknown:
        await registry.revoke(stranger)
    assert stranger not in str(unknown.value)
    await registry.store.add(b"3" * 32, replace(second.key, id="key-3", name="other", prefix=first.key.prefix))
    with pytest.raises(KeyProblem, match=f"by its id: .*{first.key.id}"):
        await registry.revoke(first.key.prefix)
    assert {key.state(AT) for key in await registry.keys()} == {"active"}
    assert [key.id for key in await registry.keys("ads")] == []


def test_what_is_shown_of_a_key_is_not_secret() -> None:
    assert shown(CI, AT + HOUR) == {
        "id": "key-1",
        "name": "ci",
        "team": "search",
        "prefix": "fg-aaaaaa",
        "state": "expired",
        "created": "2026-11-20T02:00:00Z",
        "expires": "2026-11-20T03:00:00Z",
        "revoked": None,
        "replaced_by": None,
        "budget": {"amount": "5", "currency": "CNY", "period": "week", "zone": "Asia/Shanghai"},
    }
    assert shown(replace(CI, revoked=AT, budget=None), AT)["state"] == "revoked"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "team: field required"),
    ({"team": "a team"}, "team: must be up to 64"),
    ({"team": "search", "name": "fg-" + "x" * 43}, "name: must be up to 64"),
    ({"team": "search", "nmae": "ci"}, "nmae: is not a known field. Hint: did you mean `name`?"),
    ({"team": "search", "colour": "red"}, "colour: is not a known field. Hint: known here are team, name, expires, budget"),
    ({"team": "search", "budget": {"curency": "USD", "amount": "1"}}, "budget.curency: is not a known field. Hint: did you mean `curr"),
    ({"team": "search", "budget": {"amount": "1", "currency": "usd"}}, "budget.currency: must be a currency code in capitals such as USD"),
    ({"team": "search", "expires": "soon"}, "expires: must be a length of time such as 90d"),
    ({"team": "search", "expires": "2026-12-31T00:00:00"}, "expires: must be a length of time"),
    ({"team": "search", "expires": "2026-11-20T02:00:00Z"}, "expires: lies in the past"),
    ({"team": "search", "expires": "0d"}, "expires: lies in the past"),
    ({"team": "search", "expires": "999999w"}, "expires: lies beyond the year 9999"),
    ({"team": "search", "budget": {"amount": 5}}, "budget.amount: must be a text, not the number 5. Hint: write it in quotes, \"5\""),
    ({"team": "search", "budget": {"amount": "0.00"}}, "budget.amount: a budget of 0"),
    ({"team": "search", "budget": {"amount": "-1"}}, "budget.amount: is not a plain decimal"),
    ({"team": "search", "budget": {"amount": "1", "period": "year"}}, "budget.period: input should be 'hour', 'day'"),
    ({"team": "search", "budget": {"amount": "1", "zone": "Mars"}}, "budget.zone: is not an IANA"),
    ({"team": "search", "budget": {"amount": "1", "currency": "EUR"}}, "budget.currency: no price is in EUR"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "text"), WRONG, ids=[text for _, text in WRONG])
async def test_what_is_wrong_with_an_order_is_one_line(registry: Registry, shipped: Policies, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(KeyProblem) as problem:
        wanted: Order = checked(Order, fields)
        fits(wanted, shipped, AT)
        await registry.create(wanted)
    assert str(problem.value).startswith(text)
    assert "\n" not in str(problem.value) and "xxxx" not in str(problem.value)
    assert await registry.keys() == []


@pytest.fixture(scope="module")
def shipped() -> Policies:
    return load(default_folder())


class Scripted:
    """A store whose next answers are set by the test."""

    def __init__(self) -> None:
        self.table = Table(0, {})
        self.problem: Exception | None = None
        self.reads = 0
        self.before_read: Callable[[], Awaitable[object]] | None = None

    async def start(self) -> None: ...

    async def version(self) -> int:
        if self.problem:
            raise self.problem
        return self.table.version

    async def read(self) -> Table:
        self.reads += 1
        found = self.table
        if self.before_read:
            await self.before_read()
        return found


def following(store: Any, look: float = 0.01) -> tuple[Following[Mapping[bytes, Key]], list[Mapping[bytes, Key]]]:
    used: list[Mapping[bytes, Key]] = []
    return Following(store, lambda keys: keys, used.append, look), used


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN):
        for _ in repeat(None):
            if condition():
                return
            await asyncio.sleep(0.001)


async def test_a_table_is_read_when_it_has_changed_and_only_then() -> None:
    store = Scripted()
    follower, used = following(store)
    await follower.start()
    await follower.look()
    assert (store.reads, used) == (1, [{}])
    store.table = Table(1, {b"1": CI})
    await follower.look()
    assert (used[-1], follower.count) == ({b"1": CI}, 1)
    store.table = Table(0, {})
    await follower.look()
    assert used[-1] == {}, "a database that was put back to an older state"


@pytest.mark.parametrize("problem", [LedgerUnavailable("no text of this"), PepperDiffers(), ValueError("no text of this")])
async def test_keys_that_cannot_be_read_stay_in_force_and_it_is_told(problem: Exception, caplog: pytest.LogCaptureFixture) -> None:
    store = Scripted()
    store.table = Table(1, {b"1": CI})
    follower, used = following(store)
    await follower.start()
    store.problem = problem
    stop = asyncio.Event()
    watching = asyncio.create_task(follower.watch(stop))
    await until(lambda: follower.error is not None)
    assert used == [{b"1": CI}] and "no text" not in str(follower.error)
    store.problem, store.table = None, Table(2, {})
    await until(lambda: follower.error is None)
    assert used[-1] == {}
    stop.set()
    await watching
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1


async def test_an_older_table_does_not_take_the_place_of_a_newer_one() -> None:
    store = Scripted()
    follower, used = following(store)
    await follower.start()
    store.table = Table(1, {b"1": CI})
    go = asyncio.Event()
    store.before_read = go.wait
    slow = asyncio.create_task(follower.look())
    await until(lambda: store.reads == 2)
    store.table = Table(2, {})
    store.before_read = None
    quick = asyncio.create_task(follower.look())
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(slow, quick)
    assert used[-1] == {}


async def test_what_the_command_does_in_postgresql_is_in_force_in_every_process_within_five_seconds(
    postgres_url: str, tmp_path: Path
) -> None:
    """As gateways do it, with their own pace, two of them on one database."""
    pepper = "p" * 32
    settings = {"FAREGATE_LEDGER": postgres_url, "FAREGATE_KEY_PEPPER": pepper}
    tables = [Keys([], pepper.encode()) for _ in range(2)]
    stores = [PostgresKeys(postgres_url, Hasher(pepper.encode()).check) for _ in tables]
    followers = [Following(store, keys.known, keys.use) for store, keys in zip(stores, tables, strict=True)]
    stop = asyncio.Event()
    try:
        await asyncio.gather(*(follower.start() for follower in followers))
        watching = asyncio.gather(*(follower.watch(stop) for follower in followers))
        made = await asyncio.to_thread(faregate, tmp_path, "create", "--team", "search", "--name", "ci", **settings)
        await until(lambda: [_told(keys, made["key"]) for keys in tables] == ["ci", "ci"])
        new = await asyncio.to_thread(faregate, tmp_path, "rotate", made["id"], "--grace", "1h", **settings)
        await until(lambda: [_told(keys, new["key"]) for keys in tables] == ["ci", "ci"])
        assert [_told(keys, made["key"]) for keys in tables] == ["ci", "ci"]
        await asyncio.to_thread(faregate, tmp_path, "revoke", made["key"], **settings)
        await until(lambda: [_told(keys, made["key"]) for keys in tables] == ["This key was revoked."] * 2)
        assert [_told(keys, new["key"]) for keys in tables] == ["ci", "ci"]
        stop.set()
        await watching
    finally:
        await asyncio.gather(*(store.close() for store in stores))


def _told(keys: Keys, key: str) -> str:
    try:
        return keys.authenticate({b"x-api-key": key.encode()}).key
    except InvalidKey as refusal:
        return refusal.message


# With real gateways.

CLOCK = "2026-11-20T02:00:00Z"
NO_KEYS = {"FAREGATE_KEYS": ""}
HI = {"model": "deepseek-flash", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}


def faregate(folder: Path, *words: str, **settings: str) -> Any:
    """The JSON of one `faregate keys` command on a gateway's data."""
    code, out, err = run("keys", *words, "--json", folder=folder, **{"FAREGATE_DATA": str(folder / "data"), **settings})
    assert (code, err) == (0, ""), err
    return json.loads(out)


def models(gateway: LiveGateway, key: str) -> tuple[int, str]:
    """(status, message) of a request that needs nothing but a key."""
    status, _, data = _ask(gateway.base_url + "/models", "GET", {"authorization": f"Bearer {key}"})
    return status, data.get("error", {}).get("message", "")


def admin(gateway: LiveGateway, method: str, path: str, body: Any = None, token: str = ADMIN) -> tuple[int, dict[str, str], Any]:
    return _ask(gateway.admin_url + "/admin/v1" + path, method, {"authorization": f"Bearer {token}"}, body)


def _ask(url: str, method: str, headers: Mapping[str, str], body: Any = None) -> tuple[int, dict[str, str], Any]:
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    status, found, answer = post(url, data, headers, method)
    return status, found, json.loads(answer or b"null")


def eventually(gateway: LiveGateway, key: str, status: int) -> str:
    """Ask until this is the status; the message. Fails after the time that is promised."""
    until = time.monotonic() + WITHIN
    while (found := models(gateway, key))[0] != status:
        assert time.monotonic() < until, found
    return found[1]


def folder_of_another(tmp_path: Path, *, shared: bool) -> Path:
    """A folder for another gateway; `shared`: on the same data."""
    folder = tmp_path / "other"
    folder.mkdir()
    if shared:
        (folder / "data").symlink_to(tmp_path / "data")
    return folder


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> dict[str, str]:
    """The settings of all who share one database."""
    if request.param == "sqlite":
        return {}
    return {"FAREGATE_LEDGER": request.getfixturevalue("postgres_url"), "FAREGATE_KEY_PEPPER": "p" * 32}


def test_a_key_is_made_used_and_revoked_on_every_gateway_while_they_run(tmp_path: Path, database: dict[str, str]) -> None:
    first = faregate(tmp_path, "create", "--team", "search", **database)
    other = folder_of_another(tmp_path, shared=not database)
    settings = NO_KEYS | database
    with LiveGateway(tmp_path, clock=CLOCK, settings=settings) as one, LiveGateway(other, (), CLOCK, settings) as two:
        assert [models(gateway, first["key"])[0] for gateway in (one, two)] == [200, 200]
        second = faregate(tmp_path, "create", "--team", "search", "--name", "ci", "--budget", "5.00", **database)
        for gateway in (one, two):
            eventually(gateway, second["key"], 200)
        status, headers, _ = one.chat(HI, second["key"])
        assert status == 200
        assert (one.row(headers["x-request-id"])["team"], one.row(headers["x-request-id"])["key"]) == ("search", "ci")

        third = faregate(tmp_path, "rotate", "ci", "--grace", "1h", **database)
        for gateway in (one, two):
            eventually(gateway, third["key"], 200)
            assert models(gateway, second["key"])[0] == 200
        status, headers, _ = one.chat(HI, third["key"])
        assert (status, one.row(headers["x-request-id"])["key"]) == (200, "ci"), "what was spent stays under its name"

        faregate(tmp_path, "revoke", second["id"], **database)
        began = time.monotonic()
        for gateway in (one, two):
            assert eventually(gateway, second["key"], 401) == "This key was revoked."
            assert [models(gateway, key)[0] for key in (first["key"], third["key"])] == [200, 200]
        assert time.monotonic() - began < WITHIN
        both = {"authorization": f"Bearer {first['key']}", "x-api-key": third["key"]}
        assert _ask(one.base_url + "/models", "GET", both)[0] == 400

        texts = [one.metrics(), one.log, two.log, json.dumps(one.rows()), json.dumps(admin(one, "GET", "/keys")[2])]
        texts += [json.dumps(faregate(tmp_path, "list", **database))]
        kept = _everything(tmp_path, database)
        pepper = database.get("FAREGATE_KEY_PEPPER") or (tmp_path / "data" / "key-pepper").read_text()
        for key in (first["key"], second["key"], third["key"]):
            digest = Hasher(pepper.encode()).digest(key.encode())
            assert digest in kept, "the look sees what is kept"
            assert key.encode() not in kept and key[9:].encode() not in kept
            assert not [text for text in texts if key in text or key[9:] in text or digest.hex() in text]


def _everything(folder: Path, database: Mapping[str, str]) -> bytes:
    """Every byte that is kept: the files, and the tables in PostgreSQL."""
    files = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    return files + (asyncio.run(_tables(database["FAREGATE_LEDGER"])) if database else b"")


async def _tables(url: str) -> bytes:
    connection = await asyncpg.connect(url)
    try:
        names = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'faregate'")
        rows = [row for (name,) in names for row in await connection.fetch(f"SELECT * FROM faregate.{name}")]
        cells = [cell for row in rows for cell in row.values()]
        return b"\n".join(cell if isinstance(cell, bytes) else str(cell).encode() for cell in cells)
    finally:
        await connection.close()


def test_the_last_keys_stay_in_force_while_the_database_is_away_and_it_is_told(
    tmp_path: Path, postgres_server: PostgresServer, postgres_url: str
) -> None:
    database = {"FAREGATE_LEDGER": postgres_url, "FAREGATE_KEY_PEPPER": "p" * 32}
    kept, leaked = (faregate(tmp_path, "create", "--team", "search", **database) for _ in range(2))
    with LiveGateway(tmp_path, (), CLOCK, NO_KEYS | database) as gateway:
        assert _keys_error(gateway, lambda error: error is None) is None
        postgres_server.stop(signal.SIGINT)
        assert _keys_error(gateway, lambda error: error is not None) == "The stored keys cannot be read; those last read stay in force."
        assert [models(gateway, made["key"])[0] for made in (kept, leaked)] == [200, 200]
        status, _, body = admin(gateway, "DELETE", f"/keys/{leaked['id']}")
        assert (status, body["error"]["code"]) == (503, "ledger_unavailable")
        postgres_server.start()
        assert _keys_error(gateway, lambda error: error is None) is None
        assert admin(gateway, "DELETE", f"/keys/{leaked['id']}")[0] == 200
        assert [models(gateway, made["key"])[0] for made in (kept, leaked)] == [200, 401]


def _keys_error(gateway: LiveGateway, condition: Callable[[Any], bool]) -> Any:
    """What /readyz says of the keys, as soon as it is so."""
    until = time.monotonic() + 2 * WITHIN
    while True:
        error = _ask(gateway.root + "/readyz", "GET", {})[2]["keys_error"]
        if condition(error) or time.monotonic() > until:
            return error


def test_a_leaked_key_is_replaced_at_once(tmp_path: Path) -> None:
    old = faregate(tmp_path, "create", "--team", "search")
    with LiveGateway(tmp_path, (), CLOCK, NO_KEYS) as gateway:
        new = faregate(tmp_path, "rotate", old["prefix"])
        assert eventually(gateway, old["key"], 401) == "This key was revoked."
        assert models(gateway, new["key"])[0] == 200
        assert [(row["name"], row["state"]) for row in faregate(tmp_path, "list", "--team", "search")["keys"]] == [
            (old["name"], "revoked"),
            (old["name"], "active"),
        ]


def test_what_a_key_has_spent_of_its_budget_its_successor_has_spent(tmp_path: Path) -> None:
    old = faregate(tmp_path, "create", "--team", "search", "--budget", "0.00006")
    with LiveGateway(tmp_path, clock=CLOCK, settings=NO_KEYS) as gateway:
        assert _refusal(gateway, old["key"]) is None
        refused = next(filter(None, (_refusal(gateway, old["key"]) for _ in range(20))))
        assert (refused["budget"], refused["limit"]) == ("key", "0.00006") and refused["spent"] != "0"
        new = faregate(tmp_path, "rotate", old["name"])
        eventually(gateway, new["key"], 200)
        assert _refusal(gateway, new["key"]) == refused


def _refusal(gateway: LiveGateway, key: str) -> dict[str, Any] | None:
    """The arithmetic of a 402; None: it was answered."""
    status, _, data = gateway.chat(HI, key)
    assert status in (200, 402), data
    found: dict[str, Any] | None = json.loads(data)["error"]["details"] if status == 402 else None
    return found


def test_an_expired_key_is_refused_from_its_instant_on_by_the_gateway_s_clock(tmp_path: Path) -> None:
    ends = "2026-11-20T02:02:00Z"
    made = faregate(tmp_path, "create", "--team", "search", "--expires", ends, FAREGATE_CLOCK=CLOCK)
    with LiveGateway(tmp_path, (), f"{CLOCK}*30", NO_KEYS) as gateway:
        until = time.monotonic() + 20
        seen: dict[int, list[str]] = {200: [], 401: []}
        while len(seen[401]) < 3:
            status, headers, data = _ask(gateway.base_url + "/models", "GET", {"x-api-key": made["key"]})
            seen[status].append(headers["x-faregate-clock"])
            assert time.monotonic() < until, seen
        assert data["error"] | {"type": ""} == {
            "message": f"This key expired at {ends}.",
            "type": "",
            "param": None,
            "code": "invalid_key",
        }
        # The header's instant is taken before the key is looked at.
        assert seen[200] and max(map(instant, seen[200])) < instant(ends)
        assert instant(ends) - timedelta(seconds=3) < min(map(instant, seen[401]))


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGateway]:
    folder = tmp_path_factory.mktemp("keys")
    with LiveGateway(folder, (), CLOCK, {"FAREGATE_POLICIES": str(_with_teams(folder))}) as gateway:
        yield gateway


def _with_teams(folder: Path) -> Path:
    policies = folder / "policies"
    policies.mkdir()
    for file in default_folder().iterdir():
        (policies / file.name).symlink_to(file)
    (policies / "teams").mkdir()
    for team in ("search", "research"):
        (policies / "teams" / f"{team}.yaml").write_text(f'team: {team}\nroutes: ["*"]\n')
    return policies


def test_the_admin_api_makes_lists_rotates_and_revokes(live: LiveGateway) -> None:
    status, headers, made = admin(live, "POST", "/keys", {"team": "search", "name": "app", "expires": "1d", "budget": {"amount": "1.50"}})
    assert (status, headers["cache-control"]) == (201, "no-store")
    assert models(live, made["key"])[0] == 200, "in force here at once"
    public = {name: value for name, value in made.items() if name != "key"}
    assert public["budget"] == {"amount": "1.5", "currency": "USD", "period": "month", "zone": "UTC"}
    status, headers, listed = admin(live, "GET", "/keys?team=search")
    assert (status, headers["cache-control"], listed) == (200, "no-store", [public])
    assert admin(live, "GET", "/keys?team=ads")[2] == []

    status, headers, new = admin(live, "POST", f"/keys/{made['id']}/rotate", {"grace": "1h"})
    assert (status, headers["cache-control"], new["name"]) == (201, "no-store", "app")
    assert [models(live, key)[0] for key in (made["key"], new["key"])] == [200, 200]

    status, headers, ended = admin(live, "DELETE", f"/keys/{made['id']}")
    assert (status, headers["cache-control"], ended["state"]) == (200, "no-store", "revoked")
    assert models(live, made["key"]) == (401, "This key was revoked.")
    assert models(live, new["key"])[0] == 200
    assert models(live, KEY)[0] == 200, "the keys of the settings go on beside them"
    _, _, again = admin(live, "POST", f"/keys/{new['id']}/rotate")
    assert [models(live, key)[0] for key in (new["key"], again["key"])] == [401, 200]
    assert not [key for key in (made["key"], new["key"], again["key"]) if key in live.log or key[9:] in live.log]


REFUSED: list[tuple[str, str, Any, int, str]] = [
    ("POST", "/keys", {"team": "serch"}, 400, "team: no file in policies/teams/ is for it. Remedy: write one, or use search, research."),
    ("POST", "/keys", {"team": "search", "budget": {"amount": 1}}, 400, "budget.amount: "),
    ("POST", "/keys", [], 400, "the body: "),
    ("POST", "/keys", b"{", 400, "the body: must be a JSON object"),
    ("POST", "/keys", b" " * 20_000, 413, "The body is larger"),
    ("POST", "/keys/key-0/rotate", None, 404, "no stored key"),
    ("POST", "/keys/key-0/rotate", {"grace": "long"}, 400, "grace: "),
    ("DELETE", "/keys/key-0", None, 404, "no stored key"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "text"), REFUSED, ids=[text for *_, text in REFUSED])
def test_what_the_admin_api_refuses_is_one_line(live: LiveGateway, method: str, path: str, body: Any, status: int, text: str) -> None:
    found, _, answer = admin(live, method, path, body)
    assert (found, answer["error"]["message"][: len(text)]) == (status, text)


def test_a_name_that_is_taken_is_a_conflict(live: LiveGateway) -> None:
    assert admin(live, "POST", "/keys", {"team": "search", "name": "twice"})[0] == 201
    assert admin(live, "POST", "/keys", {"team": "research", "name": "twice"})[0] == 409


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/keys"), ("POST", "/keys"), ("DELETE", "/keys/key-1"), ("POST", "/keys/key-1/rotate")]
)
def test_the_admin_api_of_keys_needs_the_token(live: LiveGateway, method: str, path: str) -> None:
    for token in ("", "wrong", KEY):
        assert admin(live, method, path, None if method == "GET" else {"team": "search"}, token)[0] == 401


def test_readiness_and_a_key_in_both_tables(tmp_path: Path) -> None:
    """A key in both is the settings': revoking the stored one does not end it."""
    made = faregate(tmp_path, "create", "--team", "search")
    faregate(tmp_path, "revoke", made["id"])
    with LiveGateway(tmp_path, (), CLOCK, {"FAREGATE_KEYS": f"ads:{made['key']}"}) as gateway:
        assert models(gateway, made["key"])[0] == 200
        assert get_json(gateway.root + "/readyz")["keys_error"] is None


# What `serve` and `keys` refuse: words, settings, exit code, a piece of the line.
PEPPER = "p" * 16
LINES: list[tuple[str, dict[str, str], int, str]] = [
    ("serve", {}, 2, "faregate keys create"),
    ("serve", {"FAREGATE_LEDGER": "postgresql://h/d", "FAREGATE_KEYS": "a:12345678"}, 2, "FAREGATE_KEY_PEPPER"),
    ("keys list", {"FAREGATE_LEDGER": "postgresql://h/d"}, 2, "FAREGATE_KEY_PEPPER"),
    ("keys list", {"FAREGATE_LEDGER": "postgresql://127.0.0.1:1/d", "FAREGATE_KEY_PEPPER": PEPPER}, 1, "cannot be reached"),
    ("keys list", {"FAREGATE_DATA": "nowhere"}, 2, "there is no ledger at nowhere/ledger.db"),
    ("keys revoke x", {"FAREGATE_DATA": "nowhere"}, 2, "there is no ledger"),
    ("keys create --team search", {"FAREGATE_DATA": "file/data"}, 2, "Remedy"),
    ("keys create", {}, 2, "--team"),
    ("keys create --team search --zone UTC", {}, 2, "--budget 5.00"),
    ("keys create --team search --expires never", {}, 2, "expires: must be a length of time"),
    ("keys", {}, 2, "create | list | revoke | rotate"),
    ("keys rotate x --grace soon", {}, 2, "grace: must be a length of time"),
]


@pytest.mark.parametrize(("words", "settings", "code", "piece"), LINES, ids=[f"{words} {piece}" for words, _, _, piece in LINES])
def test_what_a_command_refuses_is_one_line(tmp_path: Path, words: str, settings: dict[str, str], code: int, piece: str) -> None:
    (tmp_path / "file").write_text("no folder")
    got, out, err = run(*words.split(), folder=tmp_path, **settings)
    assert (got, out, err.count("\n")) == (code, "", 1), err
    assert piece in err
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("action", ["create", "list", "revoke", "rotate"])
def test_every_help_shows_an_example(capsys: pytest.CaptureFixture[str], action: str) -> None:
    code, out, _ = said(capsys, "keys", action, "--help")
    assert code == 0 and f"example:\n  faregate keys {action}" in out


def test_another_pepper_is_refused_at_the_start_and_by_the_command(tmp_path: Path) -> None:
    faregate(tmp_path, "create", "--team", "search")
    settings = {"FAREGATE_DATA": str(tmp_path / "data"), "FAREGATE_KEY_PEPPER": PEPPER, "FAREGATE_KEYS": "a:12345678"}
    for words in ("serve", "keys list", "keys create --team search"):
        code, out, err = run(*words.split(), folder=tmp_path, **settings)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert "another pepper" in err and "FAREGATE_KEY_PEPPER" in err


def test_the_command_shows_the_key_once_and_the_table_without_it(tmp_path: Path) -> None:
    words = "create --team search --name ci --expires 2100-01-01T00:00:00Z --budget 5.00 --period total"
    code, out, _ = run("keys", *words.split(), folder=tmp_path)
    key, about, where = out.splitlines()
    assert (code, is_key(key)) == (0, True)
    assert f"ci of team search, {key[:9]}…, expires 2100-01-01T00:00:00Z, 5 USD in total" in about
    assert "data/ledger.db" in where
    _, out, _ = run("keys", "list", folder=tmp_path)
    heading, row = out.splitlines()
    assert heading.split() == ["ID", "NAME", "TEAM", "PREFIX", "STATE", "CREATED", "EXPIRES", "BUDGET"]
    assert row.split()[1:5] == ["ci", "search", key[:9], "active"]
    assert key not in out
    _, out, _ = run("keys", "revoke", key, folder=tmp_path)
    assert out.startswith("revoked key-") and key not in out
    _, out, _ = run("keys", "list", "--team", "ads", folder=tmp_path)
    assert "There is no key" in out
