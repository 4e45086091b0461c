"""How conversations go on: learnt from those that did, without counting the young as ended."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.forecast import EDGES, Forecast, Outlook

KEY, PLACE = "search-1", "a/m"


def ask(forecast: Forecast, conversation: int = 1_000_000, turn: int = 1, at: float = 0.0, tokens: int = 5000, key: str = KEY) -> Outlook:
    return forecast.outlook(key, conversation, turn, at, tokens)


def agents(forecast: Forecast, sessions: int = 30, turns: int = 60, pause: float = 18.0, growth: int = 700, seed: int = 0) -> float:
    """Sessions side by side, each of about so many turns; the time of the last one."""
    draw = random.Random(seed)
    events = []
    for session in range(sessions):
        at, tokens = draw.random() * 600, 15_000
        for turn in range(1, max(2, int(draw.expovariate(1 / turns)))):
            events.append((at, session, turn, tokens, 0 if turn == 1 else tokens - growth))
            tokens += growth
            at += draw.expovariate(1 / pause)
    for at, session, turn, tokens, known in sorted(events):
        forecast.seen(KEY, session, turn, at, PLACE, tokens, known)
    return max(at for at, *_ in events)


def once(forecast: Forecast, requests: int, every: float, tokens: int = 5000, key: str = KEY, start: float = 0.0, base: int = 0) -> float:
    for number in range(requests):
        forecast.seen(key, base + number, 1, start + number * every, PLACE, tokens, 0)
    return start + requests * every


def test_of_nothing_known_some_turns_are_expected() -> None:
    outlook = ask(Forecast())
    assert 2.0 < outlook.turns < 5.0
    # Every further turn repeats the prompt before it, so the sum of what is repeated grows faster than the number of turns.
    assert outlook.repeated > 5000 * outlook.turns
    assert sum(outlook.pauses) == pytest.approx(1.0)


def test_traffic_without_second_turns_is_found_out_within_minutes() -> None:
    forecast = Forecast()
    at = once(forecast, 200, 2.0)
    assert ask(forecast, at=at).turns < 0.4
    at = once(forecast, 3600, 4.0, start=at, base=1000)
    assert ask(forecast, at=at).turns < 0.02


def test_what_is_young_has_not_ended() -> None:
    """A hundred conversations that began in the last second say nothing about second turns."""
    forecast = Forecast()
    once(forecast, 100, 0.01)
    assert ask(forecast, at=1.0).turns == pytest.approx(ask(Forecast()).turns)


def test_agents_are_expected_to_go_on_for_long() -> None:
    forecast = Forecast()
    at = agents(forecast)
    outlook = ask(forecast, at=at, tokens=15_000)
    assert 25 < outlook.turns < 100
    assert outlook.new / outlook.turns == pytest.approx(700, rel=0.2)
    assert outlook.pause < 120
    assert outlook.repeated > 15_000 * outlook.turns * 0.9


def test_conversations_that_end_after_three_turns_are_known_to_end() -> None:
    forecast = Forecast()
    for session in range(400):
        for turn in (1, 2, 3):
            forecast.seen(KEY, session, turn, session * 60.0 + turn * 10.0, PLACE, 300 * turn, 300 * (turn - 1))
    at = 400 * 60.0 + 15_000
    turns = [ask(forecast, turn=turn, at=at, tokens=300 * turn).turns for turn in (1, 2, 3)]
    assert turns[0] == pytest.approx(2.0, abs=0.5)
    assert turns[1] == pytest.approx(1.0, abs=0.4)
    assert turns[2] < 0.5


def test_keys_and_lengths_are_told_apart() -> None:
    forecast = Forecast()
    at = agents(forecast)
    at = once(forecast, 1500, 1.0, tokens=800, key=KEY, base=10_000, start=at)
    at = once(forecast, 1500, 1.0, tokens=15_000, key="batch", base=20_000, start=at)
    assert ask(forecast, at=at, tokens=15_000).turns > 10
    assert ask(forecast, at=at, tokens=800).turns < 1.0
    assert ask(forecast, at=at, tokens=15_000, key="batch").turns < 1.0


def test_prompts_that_change_at_their_head_repeat_little() -> None:
    forecast = Forecast()
    for session in range(200):
        for turn in range(1, 5):
            forecast.seen(KEY, session, turn, session * 30.0 + turn * 5.0, PLACE, 6000, 0 if turn == 1 else 500)
    outlook = ask(forecast, at=6100.0, tokens=6000)
    assert outlook.repeated < 0.2 * 6000 * outlook.turns
    assert outlook.new > 4000 * outlook.turns


def test_a_turn_at_another_place_says_nothing_of_what_is_repeated() -> None:
    forecast = Forecast()
    for session in range(100):
        forecast.seen(KEY, session, 1, session * 30.0, PLACE, 6000, 0)
        forecast.seen(KEY, session, 2, session * 30.0 + 5.0, "b/m", 6000, 0)
    outlook = ask(forecast, at=3100.0, tokens=6000)
    assert outlook.repeated == pytest.approx(6000 * outlook.turns, rel=0.5)


def test_the_place_of_a_conversation_is_its_last() -> None:
    forecast = Forecast()
    assert forecast.place(1) == ""
    forecast.seen(KEY, 1, 1, 0.0, PLACE, 10, 0)
    assert forecast.place(1) == PLACE
    forecast.seen(KEY, 1, 1, 0.0, "b/m", 10, 0)
    assert forecast.place(1) == "b/m"


def test_the_same_question_asked_again_is_no_further_turn() -> None:
    forecast = Forecast()
    for number in range(300):
        forecast.seen(KEY, 7, 1, number * 10.0, PLACE, 1000, 1000)
    assert ask(forecast, at=3000.0, tokens=1000).turns < 2.0


def test_memory_is_bounded() -> None:
    forecast = Forecast(conversations=50, contexts=4)
    for number in range(1000):
        forecast.seen(f"key-{number % 20}", number, 1, number * 0.01, PLACE, 1000, 0)
    assert len(forecast._conversations) <= 50
    assert len(forecast._habits) <= 4
    forecast.seen(KEY, 5000, 1, 10.0 + 6 * EDGES[-1], PLACE, 1000, 0)
    assert sum(map(len, forecast._waiting)) <= 51


@pytest.mark.parametrize("back", [600.0, 86_400.0])
def test_a_clock_that_is_set_back_costs_no_memory(back: float) -> None:
    """A queue is in order of time: one head from the future would keep all that comes behind it."""
    forecast = Forecast(conversations=50)
    forecast.seen(KEY, 1, 1, 100_000.0, PLACE, 1000, 0)
    for number in range(5000):
        forecast.seen(KEY, 2, 1, 100_000.0 - back + number * 0.001, PLACE, 1000, 0)
        assert sum(map(len, forecast._waiting)) <= 150


def test_after_a_clock_was_set_back_by_a_day_it_goes_on_learning() -> None:
    forecast, fresh = Forecast(), Forecast()
    once(forecast, 50, 1.0, start=100_000.0)
    ends = [once(one, 400, 2.0, base=1000) for one in (forecast, fresh)]
    assert ask(forecast, at=ends[0]).turns == pytest.approx(ask(fresh, at=ends[1]).turns, rel=0.2)
    assert ask(fresh, at=ends[1]).turns < 1.0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6), st.floats(0, 5000), st.integers(1, 100_000), st.floats(0, 1)), max_size=60))
def test_whatever_happens_an_outlook_is_sane(events: list[tuple[int, int, float, int, float]]) -> None:
    forecast, at = Forecast(), 0.0
    for conversation, turn, pause, tokens, part in events:
        at += pause
        forecast.seen(KEY, conversation, turn, at, PLACE, tokens, int(tokens * part))
        outlook = ask(forecast, conversation, turn, at, tokens)
        assert 0.0 <= outlook.turns <= 101
        assert outlook.repeated >= 0
        assert outlook.new >= 0
        assert sum(outlook.pauses) == pytest.approx(1.0)
