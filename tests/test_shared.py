"""Limits on the rate: the same promises whether one process counts or Redis does; and early refusals, which last a second."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime

import pytest

from gateway.budgets import exceeded
from gateway.errors import BudgetExceeded, RateLimited
from gateway.outcome import BudgetState, Claim, Hold, Idempotency
from gateway.shared.breaker import FAILURES, Breaker
from gateway.shared.denials import Denials
from gateway.shared.gossip import BYTES, LARGEST, TOGETHER, Gossip
from gateway.shared.link import Link
from gateway.shared.memory import MemoryLimits
from gateway.shared.port import Limits
from gateway.shared.redis import RedisLimits
from gateway.teams import LimitsRow
from tests.servers import RedisServer


class ManualClock:
    """Time that stands still until a test moves it."""

    def __init__(self, at: float = 1_000_000.25) -> None:
        self.at = at

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.at, UTC)

    def monotonic(self) -> float:
        return self.at


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path_factory.mktemp("redis"))
    running.start()
    yield running
    running.stop(signal.SIGKILL)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class Nobody:
    """Watches nothing."""

    def redis_call(self, op: str, outcome: str) -> None: ...

    def redis_up(self, up: bool) -> None: ...


Make = Callable[[], Awaitable[Limits]]


@pytest.fixture(params=["memory", "redis"])
async def make(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[Make]:
    """Makes the limits of one replica; those of Redis share one server."""
    made: list[RedisLimits] = []

    async def one() -> Limits:
        alone = MemoryLimits(clock)
        if request.param == "memory":
            return alone
        link = Link(request.getfixturevalue("server").url, Nobody(), budget=5)
        shared = RedisLimits(link, alone, "closed", lease=3600, now=lambda: round(clock.monotonic() * 1000))
        await shared.start()
        if not made:
            await link.client.flushall()
        made.append(shared)
        return shared

    yield one
    for shared in made:
        await shared.close()


@pytest.fixture
async def limits(make: Make) -> Limits:
    return await make()


async def refused(limits: Limits, rules: LimitsRow, tokens: int = 0, rid: str = "more", team: str = "search") -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        await limits.admit(rid, team, rules, tokens)
    return caught.value


async def admitted(limits: Limits, rules: LimitsRow, tokens: int = 0, rid: str = "one more", team: str = "search") -> bool:
    try:
        await limits.admit(rid, team, rules, tokens)
    except RateLimited:
        return False
    return True


REQUESTS = LimitsRow(requests_per_minute=3)
TOKENS = LimitsRow(tokens_per_minute=1000)
PLACES = LimitsRow(concurrent=2)


class TestLimits:
    """Every store of limits."""

    async def test_a_team_without_limits_is_never_refused(self, limits: Limits) -> None:
        for number in range(50):
            await limits.admit(str(number), "search", LimitsRow(), 1 << 60)
            await limits.finish(str(number), "search", LimitsRow(), 1 << 60, 0)

    async def test_the_fourth_of_three_requests_waits_until_the_first_is_a_minute_old(self, limits: Limits, clock: ManualClock) -> None:
        for rid in "abc":
            await limits.admit(rid, "search", REQUESTS, 0)
            clock.at += 10

        error = await refused(limits, REQUESTS)

        # The first came in second 1,000,000, which leaves the window at 1,000,061; now is 1,000,030.25.
        assert (error.status, error.code, error.retry, error.retry_after) == (429, "rate_limited", True, 31)
        assert error.details == {"limit": "requests_per_minute", "allowed": 3, "used": 3, "asked": 1, "retry_after": 31}
        assert error.message == (
            "Team search may send 3 requests a minute (requests_per_minute), and 3 came in the last minute. Try again in 31 seconds."
        )

    async def test_whoever_waits_as_told_is_let_through_and_not_a_moment_before_the_window_is_over(
        self, limits: Limits, clock: ManualClock
    ) -> None:
        for rid in "abc":
            await limits.admit(rid, "search", REQUESTS, 0)
        wait = (await refused(limits, REQUESTS)).retry_after
        assert wait is not None
        clock.at += 60 - 0.001
        assert not await admitted(limits, REQUESTS)
        clock.at += wait - 60 + 0.001
        assert await admitted(limits, REQUESTS)

    async def test_a_refused_request_counts_for_nothing(self, limits: Limits, clock: ManualClock) -> None:
        both = LimitsRow(requests_per_minute=3, tokens_per_minute=100, concurrent=5)
        await limits.admit("a", "search", both, 60)
        for _ in range(10):
            assert (await refused(limits, both, 60)).details == {
                "limit": "tokens_per_minute", "allowed": 100, "used": 60, "asked": 60, "retry_after": 61,
            }  # fmt: skip
        assert await admitted(limits, both, 40, "b")
        assert await admitted(limits, both, 0, "c")
        assert not await admitted(limits, both, 0, "d")

    async def test_teams_do_not_meet(self, limits: Limits) -> None:
        for rid in "abc":
            await limits.admit(rid, "search", REQUESTS, 0)
        assert not await admitted(limits, REQUESTS)
        assert await admitted(limits, REQUESTS, team="sea")

    async def test_what_was_not_used_is_given_back_to_the_second_it_was_counted_in(self, limits: Limits, clock: ManualClock) -> None:
        await limits.admit("a", "search", TOKENS, 900)
        clock.at += 20
        assert not await admitted(limits, TOKENS, 200, "b")
        await limits.finish("a", "search", TOKENS, 900, 300)
        assert await admitted(limits, TOKENS, 700, "b")
        assert not await admitted(limits, TOKENS, 1, "c")

    async def test_what_was_used_beyond_the_estimate_counts_from_the_end_of_the_answer(self, limits: Limits, clock: ManualClock) -> None:
        await limits.admit("a", "search", TOKENS, 100)
        clock.at += 50
        await limits.finish("a", "search", TOKENS, 100, 1200)
        error = await refused(limits, TOKENS, 1)
        assert (error.details or {})["used"] == 1200
        clock.at += 59
        assert not await admitted(limits, TOKENS, 1)
        clock.at += 2
        assert await admitted(limits, TOKENS, 1)

    async def test_nothing_is_given_back_twice_or_out_of_a_window_that_is_over(self, limits: Limits, clock: ManualClock) -> None:
        await limits.admit("a", "search", TOKENS, 900)
        clock.at += 70
        await limits.admit("b", "search", TOKENS, 900)
        await limits.finish("a", "search", TOKENS, 900, 0)
        await limits.finish("a", "search", TOKENS, 900, 0)
        assert not await admitted(limits, TOKENS, 101, "c")
        await limits.finish("b", "search", TOKENS, 900, 0)
        await limits.finish("b", "search", TOKENS, 900, 0)
        await limits.finish("never admitted", "search", TOKENS, 900, 0)
        assert await admitted(limits, TOKENS, 1000, "c")
        assert not await admitted(limits, TOKENS, 1, "d")

    async def test_one_request_above_the_whole_limit_is_refused_for_good(self, limits: Limits) -> None:
        everything = LimitsRow(requests_per_minute=1, tokens_per_minute=1000, concurrent=1)
        await limits.admit("a", "search", everything, 1000)
        error = await refused(limits, everything, 1001)
        assert (error.retry, error.retry_after) == (False, None)
        assert "it can never be let through" in error.message

    async def test_places_are_given_back_and_only_once(self, limits: Limits) -> None:
        await limits.admit("a", "search", PLACES, 0)
        await limits.admit("b", "search", PLACES, 0)
        error = await refused(limits, PLACES, rid="c")
        assert error.details == {"limit": "concurrent", "allowed": 2, "used": 2, "asked": 1, "retry_after": 1}
        assert error.message.endswith("2 are open. Try again in 1 second.")
        await limits.finish("a", "search", PLACES, 0, 0)
        await limits.finish("a", "search", PLACES, 0, 0)
        assert await admitted(limits, PLACES, rid="c")
        assert not await admitted(limits, PLACES, rid="d")

    async def test_of_two_limits_the_one_that_takes_longer_is_named(self, limits: Limits, clock: ManualClock) -> None:
        both = LimitsRow(requests_per_minute=1, concurrent=1)
        await limits.admit("a", "search", both, 0)
        assert (await refused(limits, both)).retry_after == 61
        clock.at += 61
        assert (await refused(limits, both)).retry_after == 1

    async def test_absurd_numbers_are_no_trouble(self, limits: Limits) -> None:
        wide = LimitsRow(requests_per_minute=10**30, tokens_per_minute=10**30, concurrent=10**30)
        await limits.admit("a", "search", wide, 10**18)
        await limits.finish("a", "search", wide, 10**18, 10**19)
        assert await admitted(limits, wide, 10**18)

    async def test_in_no_sixty_seconds_is_more_let_through_than_the_limit(self, limits: Limits, clock: ManualClock) -> None:
        chance = random.Random(3)
        rules = LimitsRow(requests_per_minute=20, tokens_per_minute=1000)
        passed: list[tuple[float, int]] = []
        for number in range(600):
            clock.at += chance.choice((0, 0, 0.01, 0.3, 1.7, 9))
            tokens = chance.randint(0, 200)
            if await admitted(limits, rules, tokens, str(number)):
                passed.append((clock.at, tokens))
        for end, _ in passed:
            window = [tokens for at, tokens in passed if end - 60 < at <= end]
            assert len(window) <= 20
            assert sum(window) <= 1000
        # Nor is more withheld than the part of a second by which it waits too long.
        assert sum(tokens for _, tokens in passed) >= 0.9 * 1000 * (clock.at - passed[0][0]) / 61


@pytest.mark.parametrize("make", ["redis"], indirect=True)
async def test_replicas_count_together(make: Make) -> None:
    one, two = await make(), await make()
    both = LimitsRow(requests_per_minute=3, concurrent=2)
    await one.admit("a", "search", both, 0)
    await two.admit("b", "search", both, 0)
    assert (await refused(one, both, rid="c")).details == {
        "limit": "concurrent", "allowed": 2, "used": 2, "asked": 1, "retry_after": 1,
    }  # fmt: skip
    await two.finish("b", "search", both, 0, 0)
    assert await admitted(one, both, rid="c")
    await one.finish("c", "search", both, 0, 0)
    assert ((await refused(two, both, rid="d")).details or {})["limit"] == "requests_per_minute"


def test_a_breaker_opens_after_failures_in_a_row_and_is_closed_by_a_probe_alone() -> None:
    breaker = Breaker()
    for _ in range(5):
        assert [breaker.failed() for _ in range(FAILURES - 1)] == [False] * (FAILURES - 1)
        breaker.succeeded()
    assert [breaker.failed() for _ in range(FAILURES + 1)] == [False] * (FAILURES - 1) + [True, False]
    breaker.succeeded()
    after_a_success = breaker.closed
    breaker.close()
    assert (after_a_success, breaker.closed, breaker.failed()) == (False, True, False)


NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def claim(limit: int = 1000, budget: str = "day", key: str = "", period: str = "2026-11-20", rate: tuple[int, int] = (1, 1)) -> Claim:
    return Claim("search", budget, key, period, "USD", limit, NOON, rate)


def hold(least: int, *claims: Claim, idempotency: Idempotency | None = None) -> Hold:
    return Hold(
        "r", "search", "search-1", "route", "host", "model", "USD", least, least, least, "card", "digest", NOON, least, claims, idempotency
    )


def error_of(one: Claim, asked: int, left: int = 5) -> BudgetExceeded:
    """As the ledger words it."""
    state = BudgetState(one.team, one.budget, one.key, one.period, one.currency, one.limit, one.limit - left, 0, 0, 0, one.resets_at)
    return exceeded(state, asked)


class TestDenials:
    @pytest.fixture
    def denials(self, clock: ManualClock) -> Denials:
        found = Denials(clock)
        found.note(hold(10, claim()), error_of(claim(), 10))
        return found

    def test_who_needs_as_much_is_refused_with_the_arithmetic_of_his_own(self, denials: Denials) -> None:
        assert denials.check(hold(9, claim())) is None
        error = denials.check(hold(12, claim(budget="a"), claim()))
        assert error is not None
        assert error.message == error_of(claim(), 12).message
        assert error.details == error_of(claim(), 12).details

    def test_for_a_second_and_no_longer(self, denials: Denials, clock: ManualClock) -> None:
        clock.at += 0.5
        # Another refusal does not prolong the first.
        denials.note(hold(20, claim()), error_of(claim(), 20))
        clock.at += 0.499
        assert denials.check(hold(10, claim())) is not None
        clock.at += 0.002
        assert denials.check(hold(10, claim())) is None

    def test_a_smaller_refusal_says_more_than_a_larger_one(self, denials: Denials) -> None:
        denials.note(hold(7, claim()), error_of(claim(), 7))
        assert denials.check(hold(7, claim())) is not None

    @pytest.mark.parametrize(
        "other",
        [claim(limit=1001), claim(limit=999), claim(budget="month"), claim(key="search-2"), claim(period="2026-11-21")],
        ids=["raised", "lowered", "budget", "key", "period"],
    )
    def test_another_limit_budget_key_or_period_is_not_meant(self, denials: Denials, other: Claim) -> None:
        assert denials.check(hold(500, other)) is None

    def test_money_that_comes_back_ends_it(self, denials: Denials) -> None:
        denials.forget("another")
        assert denials.check(hold(10, claim())) is not None
        denials.forget("search")
        assert denials.check(hold(10, claim())) is None

    def test_amounts_are_compared_in_the_currency_of_the_budget(self, denials: Denials) -> None:
        half = claim(rate=(1, 2))
        assert denials.check(hold(18, half)) is None
        assert denials.check(hold(19, half)) is not None

    def test_what_was_paid_before_is_the_ledgers_to_say(self, denials: Denials) -> None:
        assert denials.check(hold(10, claim(), idempotency=Idempotency("k", "b"))) is None

    def test_a_refusal_that_names_no_budget_of_the_hold_is_not_kept(self, clock: ManualClock) -> None:
        denials = Denials(clock)
        doubtful = claim(key=""), claim(key="search-1")
        denials.note(hold(10, *doubtful), error_of(claim(), 10))
        denials.note(hold(10, claim()), BudgetExceeded("The host says so."))
        denials.note(hold(10, claim(limit=7000)), error_of(claim(), 10))
        assert denials.check(hold(10, *doubtful, claim(limit=7000))) is None

    def test_replicas_tell_each_other(self, clock: ManualClock) -> None:
        here, there = Denials(clock), Denials(clock)
        here.tell = there.hear
        here.note(hold(10, claim()), error_of(claim(), 10))
        assert there.check(hold(10, claim())) is not None
        clock.at += 0.95
        assert there.check(hold(10, claim())) is None
        here.note(hold(9, claim()), error_of(claim(), 9))
        here.forget("search")
        assert there.check(hold(10, claim())) is None

    @pytest.mark.parametrize("message", [b"", b"{}", b"\xff", b"[1]", '{"team":"search","note":{"state":{},"asked":1}}'])
    def test_other_words_are_ignored(self, denials: Denials, message: bytes | str) -> None:
        denials.hear(message)
        assert denials.check(hold(10, claim())) is not None

    def test_notes_are_bounded(self, clock: ManualClock) -> None:
        denials = Denials(clock)
        for number in range(1001):
            one = claim(key=f"k{number}")
            denials.note(hold(10, one), error_of(one, 10))
        assert denials.check(hold(10, claim(key="k999"))) is not None
        assert denials.check(hold(10, claim(key="k1000"))) is None
        clock.at += 2
        denials.note(hold(10, claim(key="k1000")), error_of(claim(key="k1000"), 10))
        assert denials.check(hold(10, claim(key="k1000"))) is not None


class Room:
    """Replicas that hear every message at once."""

    def __init__(self, replicas: int) -> None:
        self.heard: list[list[bytes]] = [[] for _ in range(replicas)]
        self.messages: list[bytes] = []
        self.told = asyncio.Event()
        self.gossips = [Gossip(heard.append) for heard in self.heard]
        for gossip in self.gossips:
            gossip.tell = self.tell

    def tell(self, message: bytes) -> None:
        self.messages.append(message)
        self.told.set()
        for gossip in self.gossips:
            gossip.hear(message.decode())


async def test_gossip_goes_out_in_one_message_to_all_but_its_author() -> None:
    room = Room(3)
    for note in (b"one", b"\x00\xff, two:", b""):
        room.gossips[0].say(note)
    assert room.messages == []
    await asyncio.wait_for(room.told.wait(), 10)
    assert room.heard == [[], [b"one", b"\x00\xff, two:", b""], [b"one", b"\x00\xff, two:", b""]]
    assert len(room.messages) == 1


async def test_gossip_is_bounded() -> None:
    room = Room(2)
    for _ in range(TOGETHER):
        room.gossips[0].say(b"x")
    assert len(room.messages) == 1 and len(room.heard[1]) == TOGETHER
    room.gossips[0].say(b"y" * BYTES)
    assert len(room.messages) == 2
    room.gossips[0].say(b"z" * (LARGEST + 1))
    room.gossips[0].flush()
    assert len(room.messages) == 2
    room.gossips[0].say(b"z" * LARGEST)
    assert room.heard[1][-1] == b"z" * LARGEST


@pytest.mark.parametrize("message", ["", "no colon", "someone:%%%", "someone:ab", "someone:YQ==,***,YQ==", b"\xff\xfe:YQ=="])
def test_gossip_that_is_none_is_ignored(message: str | bytes) -> None:
    heard: list[bytes] = []
    Gossip(heard.append).hear(message)
    assert set(heard) <= {b"a"}
