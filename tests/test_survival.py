"""The survival of prefixes: found out from reports, pause by pause, and never believed of a host that does not report."""

from __future__ import annotations

import random
from math import exp, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contracts import Cache
from gateway.survival import BUCKETS, Survival, bucket, prior

BLOCKS = Cache()
LONG = 8192


def learnt(chance: float, answers: int = 100, idle: float = 20.0, cache: Cache = BLOCKS, seed: int = 1) -> Survival:
    survival, draw = Survival(cache), random.Random(seed)
    for _ in range(answers):
        survival.learn(((LONG, idle),), LONG if draw.random() < chance else 0)
    return survival


def test_pauses_are_told_apart_by_their_size() -> None:
    assert bucket(0.0) == bucket(-1.0) == 0
    found = [bucket(2.0**power) for power in range(20)]
    assert found == sorted(found)
    assert found[-1] == BUCKETS - 1


@pytest.mark.parametrize(
    ("cache", "idle", "believed", "mean"),
    [
        (Cache(mode="none"), 1.0, 0.0, 0.0),
        (Cache(ttl=300), 200.0, 0.9, 0.985),
        (Cache(ttl=300), 600.0, 0.05, 0.06),
        (BLOCKS, 60.0, 0.85, 0.978),
        (BLOCKS, 7200.0, 0.6, 0.8),
        (BLOCKS, 86_400.0, 0.3, 0.7),
    ],
)
def test_before_it_has_answered_the_advertisement_counts(cache: Cache, idle: float, believed: float, mean: float) -> None:
    assert prior(cache, idle) == believed
    assert Survival(cache).mean(idle) == pytest.approx(mean, abs=0.1)


def test_where_nothing_was_ever_missed_next_to_nothing_is_doubted() -> None:
    survival = learnt(1.0, 100)
    assert survival.mean(20.0) > 0.998
    # What was found after a long pause would have been found after a shorter one; the reverse does not follow.
    assert survival.mean(5.0) > 0.998
    assert survival.mean(4000.0) < 0.95


def test_a_few_misses_end_the_trust_that_a_hundred_hits_have_made() -> None:
    survival = learnt(1.0, 100)
    for _ in range(3):
        survival.learn(((LONG, 20.0),), 0)
    trust, sound, doubted = survival.worlds(20.0)
    assert doubted <= survival.mean(20.0) <= sound < 0.94
    # That of shorter pauses is another matter: nothing was missed there.
    assert trust > 0.9
    for _ in range(30):
        survival.learn(((LONG, 20.0),), 0)
    assert survival.mean(20.0) < 0.6


def test_a_prefix_whose_end_is_counted_otherwise_is_no_miss() -> None:
    survival = Survival(BLOCKS)
    for _ in range(50):
        survival.learn(((LONG, 20.0),), int(0.9 * LONG))
    assert survival.mean(20.0) == pytest.approx(0.9, abs=0.01)
    # A miss more counts as one of a host that never misses, and not as one of many.
    careless = learnt(0.9, 50)
    for one in (survival, careless):
        one.learn(((LONG, 20.0),), 0)
    assert survival.mean(20.0) > 0.88


@pytest.mark.parametrize("chance", [0.05, 0.25, 0.6, 0.95])
def test_what_comes_back_is_believed_whatever_was_advertised(chance: float) -> None:
    for cache in (BLOCKS, Cache(ttl=3600)):
        assert learnt(chance, 300, cache=cache).mean(20.0) == pytest.approx(chance, abs=0.12)


def test_a_host_that_rarely_hits_is_found_out_within_ten_answers() -> None:
    assert learnt(0.0, 10).mean(20.0) < 0.2
    # What is learnt of one pause says something of all.
    assert learnt(0.0, 10).mean(600.0) < 0.25


def test_a_cache_that_lives_shorter_than_it_says_is_learnt_pause_by_pause() -> None:
    survival = Survival(Cache(ttl=3600))
    for _ in range(60):
        survival.learn(((LONG, 20.0),), LONG)
        survival.learn(((LONG, 1500.0),), 0)
    assert survival.mean(20.0) > 0.9
    assert survival.mean(1500.0) < 0.1


def test_a_prompt_whose_beginning_is_fresher_teaches_of_both() -> None:
    survival = Survival(BLOCKS)
    for _ in range(40):
        survival.learn(((2 * LONG, 4000.0), (LONG, 5.0)), LONG)
    assert survival.mean(5.0) > 0.9
    assert survival.mean(4000.0) < 0.2


def test_short_prompts_teach_little() -> None:
    survival = Survival(BLOCKS)
    for _ in range(10):
        survival.learn(((64, 20.0),), 0)
    assert survival.mean(20.0) > 0.7


def test_hope_is_above_the_mean_and_falls_with_what_is_known() -> None:
    fresh, bad = Survival(BLOCKS), learnt(0.1, 200)
    assert fresh.mean(20.0) < fresh.hope(20.0) <= 1.0
    assert bad.mean(20.0) < bad.hope(20.0) < 0.35


def test_a_host_that_does_not_say_what_it_cached_is_not_believed_to_hit() -> None:
    survival = Survival(BLOCKS)
    assert survival.mean(10.0) > 0.5
    survival.silence()
    assert survival.mute
    assert survival.mean(10.0) == survival.hope(10.0) == 0.0
    survival.learn(((LONG, 10.0),), LONG)
    assert survival.mean(10.0) > 0.5
    # One that has said it before is given some more answers.
    survival.silence()
    assert not survival.mute


def test_hits_on_what_we_never_sent_are_foretold_with_time() -> None:
    survival = Survival(BLOCKS)
    for _ in range(100):
        survival.surprise(10_000, 4_000)
    assert survival.beyond == pytest.approx(0.4, abs=0.02)
    for _ in range(200):
        survival.surprise(10_000, -500)
    assert 0.0 <= survival.beyond < 0.01


@given(st.lists(st.tuples(st.integers(0, 50_000), st.floats(0, 1e6), st.integers(0, 60_000)), max_size=80), st.floats(0, 1e7))
def test_it_stays_a_share_whatever_is_reported(reports: list[tuple[int, float, int]], idle: float) -> None:
    survival = Survival(Cache(ttl=300))
    for tokens, pause, hit in reports:
        survival.learn(((tokens, pause),), hit)
        survival.surprise(tokens, hit)
    assert 0.0 <= survival.mean(idle) <= survival.hope(idle) <= 1.0
    assert 0.0 <= survival.beyond <= 1.0


# ---- calibration: against one moving average of all pauses, on pauses like those of real traffic


def errors(phases: list[tuple[float | None, float]], answers: int = 4000) -> tuple[float, float, float, float]:
    """(bias, RMSE) of the record and of a moving average, in shares of the prefix."""
    draw, survival, average = random.Random(3), Survival(BLOCKS), 1.0
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(answers):
        life, chance = phases[number * len(phases) // answers]
        idle = draw.lognormvariate(4.0, 1.5)
        hit = float(draw.random() < chance * (1.0 if life is None else exp(-idle / life)))
        ours.append(survival.mean(idle) - hit)
        theirs.append(average - hit)
        survival.learn(((LONG, idle),), int(LONG * hit))
        average = 0.98 * average + 0.02 * hit
    return _mean(ours), _root(ours), _mean(theirs), _root(theirs)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _root(values: list[float]) -> float:
    return sqrt(sum(value * value for value in values) / len(values))


@pytest.mark.parametrize("phases", [[(600.0, 0.95)], [(600.0, 0.8)], [(200.0, 0.6)]])
def test_it_is_nearly_unbiased_and_better_than_one_average(phases: list[tuple[float | None, float]]) -> None:
    bias, root, _, plain = errors(phases)
    assert abs(bias) < 0.03
    assert root < plain


def test_after_a_drift_it_follows_at_least_as_fast_as_an_average() -> None:
    bias, root, _, plain = errors([(None, 0.98), (150.0, 0.5)])
    assert abs(bias) < 0.04
    assert root <= plain
