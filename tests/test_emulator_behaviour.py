"""How an emulated host really behaves, whatever its row promises: caches that forget, hits that are luck, lengths, speed, failures."""

from __future__ import annotations

import asyncio
import json
from argparse import ArgumentParser
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.emulator import command
from gateway.emulator.behaviour import AS_STATED, Behaviour, BehaviourError, Chance, read_behaviour
from gateway.emulator.cache import Life, make_cache
from gateway.emulator.clocks import RunningClock
from gateway.emulator.tokens import pack
from tests.emulated import NOW, POLICIES, Client, Clients, Still, chat, shelf
from tests.harness import EmulatedHost, post, post_json

TEXT = "alpha beta " * 200
MODEL = "deepseek-flash"


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    async with Clients() as started:
        yield started


async def ask(client: Client, text: str = TEXT, **fields: Any) -> dict[str, Any]:
    _, answer = await client.post({"model": MODEL, "messages": [{"role": "user", "content": text}], **fields})
    found: dict[str, Any] = answer
    return found


async def hit(client: Client, text: str = TEXT) -> int:
    return int((await ask(client, text))["usage"]["prompt_cache_hit_tokens"])


def later(client: Client, seconds: float) -> None:
    clock = client.emulator.clock
    assert isinstance(clock, Still)
    clock.at += timedelta(seconds=seconds)


# --- caches -----------------------------------------------------------------------------------------------------------


async def test_an_unused_prefix_dies_by_the_emulators_own_clock_and_each_use_begins_its_life_anew(clients: Clients) -> None:
    client = await clients.start(behaviour=Behaviour(cache="blocks:64", ttl=300))
    assert await hit(client) == 0
    for _ in range(3):
        later(client, 300)
        assert await hit(client) == 384
    later(client, 301)
    assert await hit(client) == 0
    assert await hit(client) == 384


async def test_the_cache_that_a_row_states_is_kept_unless_the_behaviour_says_otherwise(clients: Clients) -> None:
    known = shelf("deepseek")
    rows = [row | {"cache": {"mode": "blocks", "tokens": 64, "ttl": 60}} for row in known.host["models"]]
    stated = replace(known, host=known.host | {"models": rows})
    for behaviour, expected in ((AS_STATED, 0), (Behaviour(ttl=1000), 384), (Behaviour(cache="none"), 0)):
        client = await clients.start(behaviour=behaviour, shelf=stated)
        await hit(client)
        later(client, 61)
        assert await hit(client) == expected


async def test_what_was_written_just_now_cannot_be_hit_yet(clients: Clients) -> None:
    client = await clients.start(behaviour=Behaviour(cache="blocks:64", lag=5))
    found = []
    for wait in (0, 4, 1):
        later(client, wait)
        found.append(await hit(client))
    assert found == [0, 0, 384]


async def test_a_known_prefix_is_hit_with_the_stated_probability_and_wholly_or_not_at_all(clients: Clients) -> None:
    client = await clients.start(behaviour=Behaviour(cache="blocks:64", hit_rate=0.25))
    found = [await hit(client) for _ in range(201)]
    assert found[0] == 0
    assert set(found) == {0, 384}
    assert 30 < found.count(384) < 75


@pytest.mark.parametrize(("cache", "expected"), [("none", 0), ("blocks:16", 400), ("blocks:128", 384), ("slots", 404), ("units:64", 384)])
async def test_the_mode_and_its_tokens_are_what_the_behaviour_says(clients: Clients, cache: str, expected: int) -> None:
    client = await clients.start(behaviour=Behaviour(cache=cache))
    await hit(client)
    assert await hit(client) == expected


PROMPTS = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(0, 40)),
    min_size=1,
    max_size=12,
)


@given(PROMPTS, st.sampled_from(["blocks", "units", "slots"]), st.integers(1, 60), st.integers(0, 20))
def test_a_hit_is_of_something_that_was_used_within_the_life_of_it(
    prompts: list[tuple[list[int], int]], mode: str, ttl: int, lag: int
) -> None:
    cache, seen, at = make_cache(mode, 4, Life(ttl, lag)), list[tuple[list[int], float]](), 0.0
    for ids, wait in prompts:
        at += wait
        found = cache.lookup(pack(ids), at)
        sources = [earlier for earlier, then in seen if at - then <= ttl and earlier[:found] == ids[:found]]
        assert found == 0 or sources
        assert found == 0 or any(at - then >= lag for earlier, then in seen if earlier[:found] == ids[:found])
        seen.append((ids, at))


@given(PROMPTS, st.sampled_from(["blocks", "units", "slots"]))
def test_a_life_without_end_forgets_nothing(prompts: list[tuple[list[int], int]], mode: str) -> None:
    endless, long, at = make_cache(mode, 4), make_cache(mode, 4, Life(10**6)), 0.0
    for ids, wait in prompts:
        at += wait
        assert endless.lookup(pack(ids), at) == long.lookup(pack(ids), at)


# --- lengths, speed, failures -----------------------------------------------------------------------------------------


async def test_answers_that_are_told_no_length_are_drawn_around_the_hosts_mean(clients: Clients) -> None:
    client = await clients.start(behaviour=Behaviour(output=500), vocabulary="fast")
    outputs = [(await ask(client, f"question {number}"))["usage"]["completion_tokens"] for number in range(60)]
    assert 350 < sum(outputs) / len(outputs) < 650
    assert len(set(outputs)) > 40
    assert (await ask(client, "short [[answer=3 reasoning=0]]"))["usage"]["completion_tokens"] == 3


async def test_speed_is_in_seconds_of_the_hosts_clock(clients: Clients) -> None:
    """A minute to the first token and 10 tokens a second for 600 tokens: two minutes, which pass here in a fifth of a second."""
    emulator = await clients.start(behaviour=Behaviour(first_token=60, pace=10))
    emulator.emulator.clock, emulator.emulator.rate = RunningClock(Still(NOW).now(), 600), 600
    loop = asyncio.get_running_loop()
    for fields in ({}, {"stream": True}):
        began = loop.time()
        async with emulator.session.post(emulator.url(), json=chat(MODEL, "[[answer=600 reasoning=0]]", **fields)) as response:
            await response.read()
        assert 0.19 < loop.time() - began < 1.5


async def test_requests_fail_by_themselves_at_the_stated_rate_and_are_not_billed(clients: Clients) -> None:
    client = await clients.start(behaviour=Behaviour(fail_rate=0.3, fault={"status": 429, "retry_after": 2}), vocabulary="fast")
    statuses = [(await client.post(chat(MODEL, "[[answer=1]]")))[0] for _ in range(200)]
    assert set(statuses) == {200, 429}
    assert 40 < statuses.count(429) < 80
    assert len(await client.bill()) == statuses.count(200)


def test_chance_is_the_same_for_the_same_seed() -> None:
    def drawn(seed: int) -> list[tuple[int, int]]:
        chance = Chance(Behaviour(fail_rate=0.5, hit_rate=0.5, seed=seed))
        return [(chance.fault().status, chance.hit(64)) for _ in range(50)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


# --- control ----------------------------------------------------------------------------------------------------------

WRONG = [
    ({"cache": "sometimes"}, "write MODE or MODE:TOKENS"),
    ({"cache": "blocks:0"}, "write MODE or MODE:TOKENS"),
    ({"hit_rate": 1.5}, "from 0 to 1"),
    ({"ttl": -1}, "not below 0"),
    ({"ttl": "soon"}, "write a number"),
    ({"output": 1.5}, "write a number"),
    ({"pace": True}, "write a number"),
    ({"fault": {"explode": 1}}, "unknown fault explode"),
    ({"nonsense": 1}, "unknown: nonsense; known: cache"),
]


@pytest.mark.parametrize(("items", "text"), WRONG)
def test_a_wrong_behaviour_is_refused_with_the_remedy(items: dict[str, Any], text: str) -> None:
    with pytest.raises(BehaviourError, match=text):
        read_behaviour(items)


def test_a_behaviour_is_changed_while_the_host_runs_and_options_say_the_same(tmp_path: Path) -> None:
    host = EmulatedHost("deepseek", tmp_path, NOW, "--vocabulary", "fast", "--cache", "blocks:64", "--ttl", "600", "--hit-rate", "1")
    try:
        changed = post_json(host.root + "/_emulator/behaviour", {"fail_rate": 1.0})
        assert (changed["cache"], changed["ttl"], changed["fail_rate"]) == ("blocks:64", 600, 1.0)
        body = json.dumps(chat(MODEL)).encode()
        assert post(host.url + "/chat/completions", body, {"authorization": "Bearer k"})[0] == 503
        status, _, said = post(host.root + "/_emulator/behaviour", b'{"hit_rate": 7}', {"content-type": "application/json"})
        assert (status, "from 0 to 1" in said.decode()) == (400, True)
    finally:
        host.close()


async def test_only_other_rules_of_caching_empty_the_caches(clients: Clients) -> None:
    client = await clients.start(behaviour=Behaviour(cache="blocks:64"))
    assert await hit(client) == 0
    client.emulator.behave(read_behaviour({"fail_rate": 0.0, "hit_rate": 1, "pace": 1000}, client.emulator.behaviour))
    assert await hit(client) == 384
    client.emulator.behave(read_behaviour({"ttl": 60}, client.emulator.behaviour))
    assert await hit(client) == 0


def test_options_that_make_no_sense_are_one_line() -> None:
    parser = ArgumentParser()
    command.add_arguments(parser)
    with pytest.raises(command.CommandError, match="hit_rate"):
        command.setup_of(parser.parse_args(["--host", "deepseek", "--hit-rate", "2"]), POLICIES)


async def test_what_a_host_charges_can_be_another_than_what_its_cards_say(clients: Clients, tmp_path: Path) -> None:
    cards = tmp_path / "dear.yaml"
    cards.write_text(
        f"- {{card: dear, host: deepseek, models: [{MODEL}], currency: USD, from: 2026-01-01T00:00:00Z,"
        " per_million: {cache_hit: '1', cache_miss: '2', output: '3'}}\n"
    )
    client = await clients.start(prices=cards)
    usage = (await ask(client, "Hi [[answer=5 reasoning=5]]"))["usage"]
    row = (await client.bill())[0]
    assert (row["card"], row["nano"]) == ("dear", usage["prompt_tokens"] * 2000 + 10 * 3000)
    with pytest.raises(Exception, match="has no card of host"):
        await clients.start("novita", prices=cards)
