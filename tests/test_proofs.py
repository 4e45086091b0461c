"""Short forms of the proofs, and of the proof that they see faults; docs/proofs.md says how to run the whole of them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from gateway.emulator.output import Wish, lengths
from proofs import bound, kill, planting, rolling, simulate
from proofs.model import Crowd, play
from proofs.mutations import MUTATIONS, planted
from proofs.simloop import SimLoop

SEEDS = 2000


def test_no_interleaving_breaks_the_ledger() -> None:
    total = simulate.simulate(range(SEEDS))

    assert total.failed == {}
    assert total.seeds == SEEDS
    assert total.commits > 30 * SEEDS


def test_a_seed_plays_the_same_history_again() -> None:
    assert [simulate.play(seed) for seed in (1, 2, 3)] == [simulate.play(seed) for seed in (1, 2, 3)]


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_planted_fault_turns_the_simulation_red(name: str) -> None:
    with planted(name):
        assert any(simulate.play(seed).failed for seed in range(planting.SEEDS))


def test_a_planted_fault_is_taken_out_again() -> None:
    for name in MUTATIONS:
        with planted(name):
            pass

    assert simulate.play_all(range(20)).failed == {}


def test_a_failing_seed_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with planted("held-not-given-back"):
        assert simulate.main(["--seed", "0"]) == 1

    said = capsys.readouterr()
    assert "seed 0 failed; replay it with --seed 0" in said.err
    assert json.loads(said.out.splitlines()[-1])["failed"] == [0]


def test_virtual_time_jumps_and_the_seed_orders_what_is_ready() -> None:
    loop, orders = SimLoop(), list[tuple[int, ...]]()

    async def main() -> None:
        order: list[int] = []

        async def one(number: int) -> None:
            await asyncio.sleep(3600)
            order.append(number)

        await asyncio.gather(*(one(number) for number in range(5)))
        assert loop.time() == 3600
        orders.append(tuple(order))

    for seed in (1, 1, 2, 3):
        loop.play(seed, main())
    loop.close()
    assert orders[0] == orders[1]
    assert len(set(orders)) > 1


def test_killed_gateways_lose_nothing_and_charge_nothing_twice() -> None:
    verdict = kill.prove(5, "sqlite", lease=1.0)

    assert verdict.problems == []
    assert verdict.figures["kills"] > 1
    assert verdict.figures["billed"] > 20


def test_gateways_that_are_restarted_in_turn_lose_nothing() -> None:
    verdict = rolling.prove(1, "sqlite")

    assert verdict.problems == []
    assert verdict.figures["requests_drained"] > 0


def test_many_streams_stay_within_their_budget_and_use_it_up() -> None:
    scenario = replace(bound.SCENARIOS[0].scaled(10), mean=2_000, chunk=1)

    verdict = bound.prove(scenario, "sqlite", warm_seconds=1)

    assert verdict.problems == []
    assert verdict.figures["answers"]["streamed length"] > 0
    assert verdict.figures["answers"]["whole length"] > 0


def test_drawn_lengths_have_their_mean_and_a_heavy_tail() -> None:
    drawn = [lengths(Wish(mean=12_000), seed) for seed in range(20_000)]
    totals = sorted(wish.answer + wish.reasoning for wish in drawn)

    assert 11_500 < sum(totals) / len(totals) < 12_500
    assert totals[len(totals) // 2] < 9_500
    assert totals[len(totals) * 99 // 100] > 4 * 12_000
    assert drawn[7] == lengths(Wish(mean=12_000), 7)


def test_the_model_of_the_other_rules() -> None:
    """Four streams of 10 tokens at a time against 25 tokens: one rule lets in eight of them, the other two at a time."""
    crowd = Crowd(lengths=[10] * 12, streams=4, patient=True, input_nano=0, token_nano=1, most_tokens=12)

    assert play(crowd, "count_afterwards", 25).spent == 60
    assert play(crowd, "worst_case", 25).spent == 20
