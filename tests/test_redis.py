"""Redis, a real one, in every state that it can be in: limits stay correct, and a request waits for it once at most.

What the limits promise while all is well is tested in test_shared.py.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import time
import urllib.error
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError

from gateway.app import Gateway
from gateway.budgets import exceeded
from gateway.errors import Overloaded, RateLimited
from gateway.outcome import BudgetState, Claim, Hold
from gateway.policies import default_folder
from gateway.settings import SettingsError, load
from gateway.shared.breaker import FAILURES
from gateway.shared.denials import Denials
from gateway.shared.link import Link, script
from gateway.shared.memory import MemoryLimits
from gateway.shared.news import News
from gateway.shared.redis import RedisLimits, WhenDown
from gateway.shared.sharing import Sharing
from gateway.teams import LimitsRow
from gateway.timekeeping import RealClock
from tests.harness import KEY, EmulatedHost, LiveGateway, get_json, post
from tests.servers import RedisServer

# Longer than in service, so that a busy machine is not taken for a slow Redis.
BUDGET = 0.3
# One wait and no second one.
ONCE = 1.9 * BUDGET
RULES = LimitsRow(requests_per_minute=6, tokens_per_minute=600, concurrent=6)
# Less than the third of a lease, after which open requests are renewed anyway.
WITHIN = 8.0
NOW = "2026-11-20T12:00:00Z"


class Replica:
    """The limits of one gateway, with what was counted of its calls."""

    def __init__(self, url: str, down: WhenDown = "ledger", lease: float = 30) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.ups: list[bool] = []
        self.link = Link(url, self, BUDGET)
        self.limits = RedisLimits(self.link, MemoryLimits(RealClock()), down, lease)
        self.client: Any = self.link.client
        self.longest = 0.0

    def redis_call(self, op: str, outcome: str) -> None:
        self.calls[op, outcome] += 1

    def redis_up(self, up: bool) -> None:
        self.ups.append(up)

    async def admit(self, rid: str, rules: LimitsRow = RULES, tokens: int = 10, team: str = "search") -> bool:
        begun = time.monotonic()
        try:
            await self.limits.admit(rid, team, rules, tokens)
        except RateLimited:
            return False
        finally:
            self.longest = max(self.longest, time.monotonic() - begun)
        return True

    async def finish(self, rid: str, rules: LimitsRow = RULES, actual: int = 10, team: str = "search") -> None:
        begun = time.monotonic()
        await self.limits.finish(rid, team, rules, 10, actual)
        self.longest = max(self.longest, time.monotonic() - begun)

    async def state(self, wanted: str) -> None:
        await until(lambda: self.limits.state() == wanted, f"redis {wanted}")

    async def places(self, team: str = "search") -> int:
        found: int = await self.client.zcard(f"faregate:{{{team}}}:places")
        return found

    async def count(self, what: str = "requests") -> int:
        counts: dict[str, str] = await self.client.hgetall(f"faregate:{{search}}:{what}")
        return sum(map(int, counts.values()))


async def until(true: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    """Waits for a state that comes by itself."""
    deadline = time.monotonic() + WITHIN
    while True:
        found = true()
        if found if isinstance(found, bool) else await found:
            return
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.01)


Replicas = Callable[..., Awaitable[Replica]]


@pytest.fixture
async def replica() -> AsyncIterator[Replicas]:
    made: list[Replica] = []

    async def make(url: str, down: WhenDown = "ledger", lease: float = 30) -> Replica:
        one = Replica(url, down, lease)
        made.append(one)
        await one.limits.start()
        return one

    yield make
    for one in made:
        await one.limits.close()


class Proxy:
    """Stands before a server: can delay every answer, cut every connection, and lead to another server."""

    def __init__(self, port: int) -> None:
        self.target, self.delay = port, 0.0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers |= {writer, back}
        for source, sink, slow in ((reader, back, False), (there, writer, True)):
            task = asyncio.create_task(self._pump(source, sink, slow))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, slow: bool) -> None:
        try:
            while data := await source.read(65536):
                await asyncio.sleep(self.delay if slow else 0)
                sink.write(data)
        except OSError:
            pass
        sink.close()

    def cut(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    async def close(self) -> None:
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[tuple[Proxy, str]]:
    found = Proxy(redis_server.port)
    yield found, await found.start()
    await found.close()


async def goes_on_alone(one: Replica) -> None:
    """With two of six admitted before: four more are, wherever Redis is, and the next is refused; nobody waits twice."""
    assert [await one.admit(f"alone {number}") for number in range(6)] == [True] * 4 + [False] * 2
    for number in range(4):
        await one.finish(f"alone {number}")
    assert one.longest < ONCE


async def two_before(one: Replica) -> None:
    assert await one.admit("before 1")
    assert await one.admit("before 2")
    assert one.limits.state() == "up"


async def shares_again(one: Replica, two: Replica, room: int) -> None:
    """Replicas count together: of a new team's `room`, what one took is missing at the other."""
    rules = LimitsRow(requests_per_minute=room)
    assert [await one.admit(f"x{number}", rules, team="new") for number in range(room)] == [True] * room
    assert not await two.admit("y", rules, team="new")


async def test_a_restart_costs_no_answer(redis_server: RedisServer, replica: Replicas) -> None:
    one, two = await replica(redis_server.url), await replica(redis_server.url)
    await two_before(one)

    redis_server.restart(signal.SIGKILL)
    # Connections are dead: this call fails, and the script must be loaded again.
    for number in range(3):
        assert await one.admit(f"after {number}")

    assert one.longest < ONCE
    await one.state("up")
    await two.state("up")
    await shares_again(one, two, 2)
    # An empty server gets the places of open requests back with the next renewal.
    one.limits.renew()
    await until(lambda: at_least(one, 5), "places taken again")


async def at_least(one: Replica, places: int) -> bool:
    return await one.places() >= places


async def exactly(one: Replica, places: int) -> bool:
    return await one.places() == places


async def test_while_it_is_gone_each_replica_counts_alone_and_nobody_waits(redis_server: RedisServer, replica: Replicas) -> None:
    one, two = await replica(redis_server.url), await replica(redis_server.url)
    await two_before(one)
    redis_server.stop(signal.SIGKILL)

    await goes_on_alone(one)
    await one.state("down")
    assert one.calls["admit", "skipped"] >= 1
    assert one.ups == [True, False]
    # The other has the whole limit for itself.
    assert [await two.admit(f"two {number}") for number in range(7)] == [True] * 6 + [False]

    redis_server.start()
    await one.state("up")
    await two.state("up")
    await shares_again(one, two, 3)
    # Those that are still open count at once: two here, six there, admitted before it went and without it.
    assert one.ups == [True, False, True]
    await until(lambda: at_least(one, 8), "places of open requests")
    assert not await two.admit("ninth", LimitsRow(concurrent=8))
    await one.finish("before 1")
    await two.finish("two 0")
    await until(lambda: exactly(one, 6), "both places given back")


async def test_one_that_hangs_is_waited_for_once_and_then_left_alone(redis_server: RedisServer, replica: Replicas) -> None:
    one, two = await replica(redis_server.url), await replica(redis_server.url)
    await two_before(one)
    redis_server.pause()

    # The finish of a request that was admitted by Redis waits once, too.
    await one.finish("before 1")
    assert one.longest < ONCE
    await goes_on_alone(one)

    assert one.limits.state() == "down"
    assert sum(count for (_, outcome), count in one.calls.items() if outcome == "timeout") >= FAILURES
    redis_server.resume()
    await one.state("up")
    await two.state("up")
    await shares_again(one, two, 2)


async def test_a_burst_waits_as_long_as_one(redis_server: RedisServer, replica: Replicas) -> None:
    one = await replica(redis_server.url)
    wide = LimitsRow(requests_per_minute=10_000, concurrent=10_000)
    await one.admit("first", wide)
    redis_server.pause()

    begun = time.monotonic()
    assert all(await asyncio.gather(*(one.admit(str(number), wide) for number in range(500))))
    # One after another they would wait 500 times as long.
    assert time.monotonic() - begun < 20 * BUDGET
    redis_server.resume()


@pytest.mark.parametrize("rounds", range(8))
async def test_a_busy_gateway_is_not_taken_for_a_slow_redis(rounds: int, redis_server: RedisServer, replica: Replicas) -> None:
    one = await replica(redis_server.url)
    await two_before(one)
    asking = [asyncio.create_task(one.admit(str(number))) for number in range(4)]
    for _ in range(rounds):
        await asyncio.sleep(0)
    # The loop stands still for longer than the budget, in whichever state the call is.
    time.sleep(1.2 * BUDGET)  # noqa: ASYNC251
    assert await asyncio.gather(*asking) == [True] * 4
    assert (one.calls["admit", "timeout"], one.calls["admit", "ok"]) == (0, 6)


async def test_half_a_second_of_latency_counts_as_down(proxy: tuple[Proxy, str], redis_server: RedisServer, replica: Replicas) -> None:
    slow, url = proxy
    one, two = await replica(url), await replica(redis_server.url)
    await two_before(one)
    slow.delay = 0.5

    await goes_on_alone(one)
    assert one.limits.state() == "down"
    assert two.limits.state() == "up"

    slow.delay = 0
    await one.state("up")
    await shares_again(one, two, 2)


async def test_a_late_answer_is_never_taken_for_another_calls(
    proxy: tuple[Proxy, str], redis_server: RedisServer, replica: Replicas
) -> None:
    """The answer to the call that was given up comes on a connection that nobody reads any more."""
    slow, url = proxy
    one, judge = await replica(url), await replica(redis_server.url)
    full, free = LimitsRow(requests_per_minute=1), LimitsRow(requests_per_minute=100)
    assert await judge.admit("taken", full, team="full")
    slow.delay = 1.2 * BUDGET
    # Here Redis will answer "refused", too late; this replica alone has room.
    assert await one.admit("late", full, team="full")
    slow.delay = 0
    assert one.calls["admit", "timeout"] == 1
    assert [await one.admit(str(number), free, team="free") for number in range(5)] == [True] * 5
    assert one.calls["admit", "ok"] == 5


# What the log says, what breaks it, what heals it.
REFUSING = {
    "out of memory": ("OutOfMemoryError", "CONFIG SET maxmemory 1mb maxmemory-policy noeviction", "CONFIG SET maxmemory 0"),
    "read only": ("ReadOnlyError", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
    "no permission": ("can't run this command", "ACL SETUSER default -@write", "ACL SETUSER default +@all"),
}


@pytest.mark.parametrize("case", REFUSING)
async def test_one_that_refuses_writes_counts_as_down(
    case: str, redis_server: RedisServer, replica: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    word, breaks, heals = REFUSING[case]
    one, two = await replica(redis_server.url), await replica(redis_server.url)
    await two_before(one)
    await two.client.execute_command(*breaks.split())

    await goes_on_alone(one)
    await one.state("down")
    assert word in caplog.text
    # It is looked at again, and found as bad as before, for as long as it is.
    await until(lambda: one.calls["probe", "error"] > 1, "probes that fail")
    assert one.limits.state() == "down"

    await two.client.execute_command(*heals.split())
    await one.state("up")
    await two.state("up")
    # The writes that were refused left nothing half done.
    assert (await one.count(), await one.count("tokens")) == (2, 20)
    await shares_again(one, two, 2)


async def test_a_busy_script_of_somebody_elses_counts_as_down(redis_server: RedisServer, replica: Replicas) -> None:
    one, two = await replica(redis_server.url), await replica(redis_server.url)
    await two_before(one)
    await two.client.config_set("busy-reply-threshold", 10)
    endless = asyncio.create_task(two.client.eval("while true do end", 0))
    await until(lambda: is_busy(one), "a busy server")

    await goes_on_alone(one)

    assert one.limits.state() == "down"
    await one.client.execute_command("SCRIPT", "KILL")
    with pytest.raises(RedisError):
        await endless
    await one.state("up")
    await shares_again(one, two, 2)


async def is_busy(one: Replica) -> bool:
    try:
        await one.client.ping()
    except RedisError as error:
        return "busy" in str(error).lower()
    return False


async def test_forgotten_scripts_are_loaded_again_without_a_failure(redis_server: RedisServer, replica: Replicas) -> None:
    one = await replica(redis_server.url)
    await two_before(one)
    await one.client.script_flush()

    results = await asyncio.gather(*(one.admit(str(number)) for number in range(5)), one.finish("before 1"))

    # One place came back before or after: the rest is exact.
    assert results[:4] == [True] * 4
    assert {outcome for op, outcome in one.calls if op in ("admit", "finish")} == {"ok"}
    assert await one.count() == 6


async def test_a_key_of_another_type_is_one_teams_trouble(
    redis_server: RedisServer, replica: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    one = await replica(redis_server.url)
    await two_before(one)
    for key in ("requests", "tokens", "places"):
        await one.client.set(f"faregate:{{broken}}:{key}", "x")

    assert [await one.admit(f"b{number}", team="broken") for number in range(7)] == [True] * 6 + [False]
    for number in range(6):
        await one.finish(f"b{number}", team="broken")

    assert one.limits.state() == "up"
    assert one.calls["admit", "error"] == 7
    assert ["redis refused admit: ResponseError: WRONGTYPE" in record.getMessage() for record in caplog.records].count(True) == 1
    assert [await one.admit(f"s{number}") for number in range(5)] == [True] * 4 + [False]


async def test_a_wrong_type_in_one_window_leaves_the_others_untouched(redis_server: RedisServer, replica: Replicas) -> None:
    """All checks come before the first write."""
    one = await replica(redis_server.url)
    await one.client.set("faregate:{search}:places", "x")
    assert await one.admit("a")
    assert (await one.count(), await one.count("tokens")) == (0, 0)


async def test_an_emptied_server_begins_anew_and_learns_who_is_open(redis_server: RedisServer, replica: Replicas) -> None:
    one, two = await replica(redis_server.url), await replica(redis_server.url)
    rules = LimitsRow(tokens_per_minute=100, concurrent=3)
    for rid in "abc":
        assert await one.admit(rid, rules)
    await one.client.flushall()

    # What had been counted is gone: giving it back takes nothing below zero.
    await one.finish("a", rules, actual=0)
    assert await one.count("tokens") == 0
    one.limits.renew()
    await until(lambda: at_least(one, 2), "places taken again")
    assert await two.admit("d", rules)
    assert not await two.admit("e", rules)


async def test_a_failover_to_an_empty_server_is_followed(
    proxy: tuple[Proxy, str], redis_server: RedisServer, replica: Replicas, tmp_path: Path
) -> None:
    lead, url = proxy
    folder = tmp_path / "other"
    folder.mkdir()
    other = RedisServer(folder)
    other.start()
    try:
        one, two = await replica(url), await replica(url)
        await two_before(one)
        lead.target = other.port
        lead.cut()

        # The first call finds its connection gone, and is counted here alone; the new server knows of nobody.
        assert [await one.admit(str(number)) for number in range(8)] == [True] * 7 + [False]
        assert one.longest < ONCE
        assert one.limits.state() == "up"
        await two.state("up")
        await shares_again(one, two, 2)
        one.limits.renew()
        await until(lambda: at_least(one, 9), "places at the new server")
    finally:
        other.stop(signal.SIGKILL)


async def test_places_of_a_dead_gateway_come_back_with_its_lease_and_those_of_a_living_one_stay(
    redis_server: RedisServer, replica: Replicas
) -> None:
    rules = LimitsRow(concurrent=2)
    dead, alive = await replica(redis_server.url, lease=0.6), await replica(redis_server.url, lease=0.6)
    assert await dead.admit("d", rules)
    assert await alive.admit("a", rules)
    # As kill -9: nothing is given back, nothing renewed.
    await dead.limits.close()
    assert not await alive.admit("c", rules)

    async def room() -> bool:
        return await alive.admit("c", rules)

    await until(room, "the place of the dead")
    begun = time.monotonic()
    while time.monotonic() - begun < 1.5:
        assert not await alive.admit("e", rules)
        await asyncio.sleep(0.05)


async def test_a_renewal_takes_no_place_again_that_was_given_back_meanwhile(redis_server: RedisServer, replica: Replicas) -> None:
    one = await replica(redis_server.url)
    rules = LimitsRow(concurrent=2000)
    for number in range(1100):
        await one.limits.admit(str(number), "search", rules, 0)
    one.limits.renew()
    while not one.calls["renew", "ok"]:  # noqa: ASYNC110
        await asyncio.sleep(0)
    for number in range(1100):
        await one.finish(str(number), rules, 10)
    await until(lambda: one.calls["renew", "ok"] == 3, "the whole renewal")
    assert await one.places() == 0


async def test_a_request_that_is_given_up_while_it_asks_leaves_no_place(redis_server: RedisServer, replica: Replicas) -> None:
    one = await replica(redis_server.url)
    asking = asyncio.create_task(one.admit("gone"))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await until(lambda: one.calls["finish", "ok"] == 1, "the place given back")
    assert await one.places() == 0


async def test_closed_refuses_what_it_cannot_check(redis_server: RedisServer, replica: Replicas) -> None:
    one = await replica(redis_server.url, "closed")
    await two_before(one)
    assert one.limits.ready()
    redis_server.stop(signal.SIGKILL)
    for _ in range(5):
        with pytest.raises(Overloaded) as refused:
            await one.admit("a")
        assert (refused.value.status, refused.value.retry_after) == (503, 1)
    assert (one.limits.ready(), one.limits.state()) == (False, "down")
    # A team without limits needs nobody's leave.
    assert await one.admit("free", LimitsRow())
    redis_server.start()
    await one.state("up")
    assert one.limits.ready()
    assert await one.admit("a")


async def test_open_enforces_nothing_meanwhile_and_counts_it_all(redis_server: RedisServer, replica: Replicas) -> None:
    one = await replica(redis_server.url, "open")
    redis_server.stop(signal.SIGKILL)
    assert [await one.admit(str(number)) for number in range(20)] == [True] * 20
    assert (one.limits.ready(), one.limits.state()) == (True, "down")
    redis_server.start()
    await one.state("up")
    await until(lambda: at_least(one, 20), "places of open requests")
    assert not await one.admit("more")


async def test_a_start_without_redis_is_a_start(redis_server: RedisServer, replica: Replicas) -> None:
    redis_server.stop(signal.SIGKILL)
    one = await replica(redis_server.url)
    assert one.limits.state() == "down"
    assert await one.admit("a")
    assert one.calls["admit", "timeout"] + one.calls["admit", "error"] == 0
    redis_server.start()
    await one.state("up")


async def test_numbers_beyond_a_double_are_kept_exactly(redis_server: RedisServer, replica: Replicas) -> None:
    """The windows count in whole numbers of 64 bits; only comparisons are doubles, and no number sent comes near 2^53."""
    one = await replica(redis_server.url)
    rules = LimitsRow(tokens_per_minute=1 << 48)
    assert await one.admit("a", rules, (1 << 47) + 1)
    assert await one.admit("b", rules, (1 << 47) - 1)
    assert not await one.admit("c", rules, 1)
    assert await one.count("tokens") == 1 << 48


async def test_keys_expire_by_themselves_and_share_a_slot(redis_server: RedisServer, replica: Replicas) -> None:
    one = await replica(redis_server.url)
    assert await one.admit("a")
    keys = [key async for key in one.client.scan_iter("faregate:{search}:*")]
    assert len(keys) == 3
    for key in keys:
        assert 0 < await one.client.pttl(key) <= 62_000
    # A cluster takes what stands in braces for the place of a key.
    assert {key[: key.index("}") + 1] for key in keys} == {"faregate:{search}"}


async def test_time_is_the_servers(redis_server: RedisServer, replica: Replicas) -> None:
    one = await replica(redis_server.url)
    assert await one.admit("a")
    (second,) = await one.client.hkeys("faregate:{search}:requests")
    seconds, _ = await one.client.time()
    assert 0 <= seconds - int(second) <= 5


async def test_a_clock_that_was_put_back_does_not_close_a_team_for_ever(redis_server: RedisServer, replica: Replicas) -> None:
    one = await replica(redis_server.url)
    far = int(time.time()) + 100_000
    await one.client.hset("faregate:{search}:requests", str(far), 6)
    assert await one.admit("a")
    assert await one.count() == 1


async def test_a_socket_of_this_machine_and_a_database_with_a_password_serve_too(replica: Replicas, tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    server = RedisServer(tmp_path, "--unixsocket", str(path))
    server.start()
    try:
        one = await replica(f"unix://{path}?db=3")
        assert await one.admit("a")
        assert (one.limits.state(), one.link.database, await one.client.dbsize()) == ("up", 3, 4)
        await one.client.config_set("requirepass", "secret")
        two = await replica(server.url.replace("127", ":secret@127"))
        assert two.limits.state() == "up"
        wrong = await replica(server.url)
        assert wrong.limits.state() == "down"
        assert await wrong.admit("b")
    finally:
        server.stop(signal.SIGKILL)


async def test_scripts_say_what_they_count() -> None:
    for name in ("admit", "finish", "renew"):
        assert "Time is in milliseconds in this script" in script(name).text


def budget_hold() -> Hold:
    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    claim = Claim("search", "day", "", "2026-11-20", "USD", 1000, None)
    return Hold("r", "search", "k", "r", "h", "m", "USD", 10, 10, 10, "c", "d", noon, 10, (claim,))


async def test_a_refusal_is_known_to_all_replicas_and_forgotten_by_all(redis_server: RedisServer, replica: Replicas) -> None:
    hold = budget_hold()
    state = BudgetState("search", "day", "", "2026-11-20", "USD", 1000, 995, 0, 0, 0, None)
    replicas = [(await replica(redis_server.url), Denials(RealClock())) for _ in range(2)]
    news = [News(one.link, {"denials": denials.hear}) for one, denials in replicas]
    for one, (_, denials) in zip(news, replicas, strict=True):
        denials.tell = one.teller("denials")
        one.start()
    try:
        for one in news:
            await asyncio.wait_for(one.listening.wait(), WITHIN)
        (_, here), (_, there) = replicas
        here.note(hold, exceeded(state, 10))
        await until(lambda: there.check(hold) is not None, "the note at the other")
        there.forget("search")
        await until(lambda: here.check(hold) is None, "both without the note")
        # A server that comes back is listened to again.
        redis_server.restart(signal.SIGKILL)
        await until(lambda: not news[0].listening.is_set() and not news[1].listening.is_set(), "both cut off")
        for one in news:
            await asyncio.wait_for(one.listening.wait(), WITHIN)
        await until(lambda: all(one.link.up for one, _ in replicas), "both up")
        there.note(hold, exceeded(state, 10))
        await until(lambda: here.check(hold) is not None, "the note after the restart")
    finally:
        for one in news:
            await one.close()


HELLO = b"hello"


class Knowledge:
    """What one replica was told."""

    def __init__(self) -> None:
        self.share: Callable[[bytes], None] | None = None
        self.heard: list[bytes] = []

    def hear(self, message: bytes, now: float) -> None:
        if message == b"nobody understands this":
            raise ZeroDivisionError
        self.heard.append(message)

    @property
    def told(self) -> list[bytes]:
        return [message for message in self.heard if message != HELLO]

    def say(self, *notes: bytes) -> None:
        assert self.share is not None
        for note in notes:
            self.share(note)


async def test_what_was_sent_where_is_known_to_replicas_with_the_same_secret(redis_server: RedisServer) -> None:
    here, there, stranger = Knowledge(), Knowledge(), Knowledge()
    tags = ((here, "secret"), (there, "secret"), (stranger, "another"))
    sharings = [Sharing(redis_server.url, "ledger", 30, RealClock(), Replica(redis_server.url), pair) for pair in tags]
    notes = [bytes([number]) * number for number in range(200)]
    try:
        for sharing in sharings:
            await sharing.start()
        await acquainted(here, there)
        here.say(b"nobody understands this")
        await acquainted(here, there)
        here.say(*notes)
        await until(lambda: len(there.told) == len(notes), "all notes at the other replica")
        assert there.told == notes
        # While Redis is down notes are lost and nobody waits; afterwards they pass again.
        redis_server.stop(signal.SIGKILL)
        here.say(*notes)
        redis_server.start()
        await acquainted(here, there)
        assert here.told == stranger.told == []
    finally:
        for sharing in sharings:
            await sharing.close()


async def acquainted(one: Knowledge, other: Knowledge) -> None:
    """Until each hears the other, which it does as soon as both listen."""

    def both() -> bool:
        one.say(HELLO)
        other.say(HELLO)
        return HELLO in one.heard and HELLO in other.heard

    one.heard.clear()
    other.heard.clear()
    await until(both, "each hears the other")


TEAM = """
team: search
routes: ["*"]
limits: {requests_per_minute: 3, concurrent: 2}
"""


def live(folder: Path, redis: str, host: EmulatedHost, **settings: str) -> LiveGateway:
    policies = folder / "policies"
    shutil.copytree(default_folder(), policies)
    (policies / "teams").mkdir(exist_ok=True)
    (policies / "teams" / "search.yaml").write_text(TEAM)
    own = {"FAREGATE_REDIS": redis, "FAREGATE_POLICIES": str(policies), **settings}
    return LiveGateway(folder, (), NOW, own, {"deepseek": host.url})


BODY = {"model": "deepseek-flash", "messages": [{"role": "user", "content": "Hi [[answer=3 reasoning=0]]"}]}


def test_two_gateways_share_the_limits_of_a_team(redis_server: RedisServer, tmp_path: Path) -> None:
    folders = tmp_path / "one", tmp_path / "two"
    for folder in folders:
        folder.mkdir()
    host = EmulatedHost("deepseek", tmp_path, NOW)
    try:
        with live(folders[0], redis_server.url, host) as one, live(folders[1], redis_server.url, host, FAREGATE_REDIS_DOWN="closed") as two:
            assert [gateway.chat(BODY)[0] for gateway in (one, two, one)] == [200, 200, 200]
            status, headers, data = two.chat(BODY)
            error = json.loads(data)["error"]
            assert (status, error["code"], error["details"]["limit"]) == (429, "rate_limited", "requests_per_minute")
            assert (headers["retry-after"], "x-should-retry" in headers) == (str(error["details"]["retry_after"]), False)
            assert [get_json(gateway.root + "/readyz")["redis"] for gateway in (one, two)] == ["up", "up"]
            assert "\nfaregate_redis_up 1.0\n" in one.metrics()
            assert 'outcome="rate_limited"' in two.metrics()

            redis_server.stop(signal.SIGKILL)
            # Alone it has let through two of three.
            assert [one.chat(BODY)[0] for _ in range(4)] == [200, 429, 429, 429]
            for _ in range(4):
                status, headers, data = two.chat(BODY)
                assert (status, json.loads(data)["error"]["code"], headers["retry-after"]) == (503, "overloaded", "1")
            ready = get_json(one.root + "/readyz")
            assert (ready["ready"], ready["redis"]) == (True, "down")
            with pytest.raises(urllib.error.HTTPError) as answer:
                get_json(two.root + "/readyz")
            with answer.value as refusal:
                report = json.load(refusal)
            assert (refusal.code, report["ready"], report["redis"]) == (503, False, "down")
            assert "\nfaregate_redis_up 0.0\n" in one.metrics()
            assert "redis is down" in one.log

            redis_server.start()
            deadline = time.monotonic() + WITHIN
            while any("\nfaregate_redis_up 1.0\n" not in gateway.metrics() for gateway in (one, two)):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert two.chat(BODY)[0] == 200
            assert get_json(two.root + "/readyz")["redis"] == "up"
            assert (one.close(), two.close()) == (0, 0)
    finally:
        host.close()


@pytest.mark.parametrize("address", ["redis://h:port/0", "redis://h/0?no_such_option=1", "redis://:secret@h:port/0"])
def test_an_address_that_cannot_be_one_ends_the_start_with_a_line(address: str, tmp_path: Path) -> None:
    settings = load({"FAREGATE_DATA": str(tmp_path), "FAREGATE_KEYS": "search:0123456789", "FAREGATE_REDIS": address}, None)
    with pytest.raises(SettingsError, match="FAREGATE_REDIS: no address") as refused:
        Gateway(settings)
    assert "secret" not in str(refused.value)


SHARED = """
- route: shared
  contract: deepseek-v3.2
  deployments: [novita/deepseek/deepseek-v3.2, deepinfra/deepseek-ai/DeepSeek-V3.2]

- route: local
"""
PINNED = "novita/deepseek/deepseek-v3.2"


def conversation(name: str, *texts: str, model: str = "shared") -> dict[str, Any]:
    instructions = f"This is {name}. " + "These are the instructions of an agent, repeated with every request. " * 400
    said = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]
    return {"model": model, "messages": [{"role": "system", "content": instructions}, *said], "max_tokens": 100}


def chosen(gateway: LiveGateway, body: dict[str, Any]) -> str:
    """Where it would send this now."""
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json", "x-faregate-dry-run": "1"}
    status, _, data = post(gateway.root + "/v1/chat/completions", json.dumps(body).encode(), headers)
    assert status == 200, data
    name: str = json.loads(data)["candidates"][0]["name"]
    return name.partition("/")[0]


def test_a_conversation_begun_at_one_gateway_goes_on_at_another_where_its_prefix_is(redis_server: RedisServer, tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    shutil.copytree(default_folder(), policies)
    routes = policies / "routes.yaml"
    routes.write_text(routes.read_text().replace("\n- route: local\n", SHARED))
    with ExitStack() as stack:
        hosts = {}
        for name in ("novita", "deepinfra"):
            hosts[name] = EmulatedHost(name, tmp_path, NOW)
            stack.callback(hosts[name].close)
        urls = {name: host.url for name, host in hosts.items()}
        gateways = []
        for number in (1, 2):
            folder = tmp_path / str(number)
            folder.mkdir()
            own = {"FAREGATE_REDIS": redis_server.url, "FAREGATE_POLICIES": str(policies), "FAREGATE_KEY_PEPPER": "the-same-for-both"}
            gateways.append(stack.enter_context(LiveGateway(folder, (), NOW, own, urls)))
        one, two = gateways
        assert chosen(two, conversation("a stranger", "Begin.")) == "deepinfra", "what is new goes to the lower price"
        status, _, data = one.chat(conversation("ours", "Begin.", model=PINNED))
        answer = json.loads(data)["choices"][0]["message"]["content"]
        assert status == 200
        ours = conversation("ours", "Begin.", answer, "Go on.")
        deadline = time.monotonic() + WITHIN
        while chosen(two, ours) != "novita":
            assert time.monotonic() < deadline, "the second gateway never heard of it"
            time.sleep(0.02)
        assert chosen(two, conversation("another", "Begin.", answer, "Go on.")) == "deepinfra"
        status, headers, data = two.chat(ours)
        assert (status, headers["x-faregate-host"]) == (200, "novita")
        assert json.loads(data)["usage"]["prompt_tokens_details"]["cached_tokens"] > 4000
        redis_server.stop(signal.SIGKILL)
        assert two.chat(ours)[1]["x-faregate-host"] == "novita", "what is known stays known"


@pytest.mark.parametrize("how", ["gone", "hangs"])
def test_a_redis_that_nobody_calls_is_found_out_within_five_seconds(redis_server: RedisServer, tmp_path: Path, how: str) -> None:
    server = redis_server
    with LiveGateway(tmp_path, (), NOW, {"FAREGATE_REDIS": server.url}, {"deepseek": "http://127.0.0.1:1"}) as gateway:

        def shown() -> tuple[str, bool]:
            report = get_json(gateway.root + "/readyz")
            return report["redis"], "faregate_redis_up 1.0" in gateway.metrics()

        assert shown() == ("up", True)
        server.stop(signal.SIGKILL) if how == "gone" else server.pause()
        begun = time.monotonic()
        while shown() != ("down", False):
            assert time.monotonic() - begun < 5
            time.sleep(0.05)
        assert gateway.log.count("redis is down") == 1
        server.start() if how == "gone" else server.resume()
        while shown() != ("up", True):
            assert time.monotonic() - begun < 30
            time.sleep(0.05)
