"""Replicas of an own engine: which one takes a request, what a broken one costs, and when a route passes them all over."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.gate import FIRST_REST, Trouble
from gateway.hosts import Deployment
from gateway.policies import default_folder, load
from gateway.prefix import Index, Prints, prints
from gateway.replicas import Replicas, Seat

AT = 1_800_000_000.0
SECRET = b"secret of the tests"
WORDS = "what was said before, and what was answered to it, at some length " * 40
FAILED = REFUSED = Trouble("failed")


@pytest.fixture(scope="module")
def engine() -> Deployment:
    found = load(default_folder()).deployment("local", "r1", datetime(2026, 11, 20, tzinfo=UTC))
    assert found is not None
    return found


def prompt(*texts: str) -> Prints:
    return prints(None, [{"role": "user", "content": text} for text in texts], SECRET)


class Farm:
    """One engine with its replicas, and a clock that a test moves."""

    def __init__(self, engine: Deployment, count: int = 2, queue: int | None = None) -> None:
        self.engine, self.count, self.queue = engine, count, queue
        self.index = Index()
        self.replicas = Replicas(self.index)
        self.now = AT

    def seat(self, said: Prints | None = None, tokens: int = 1000) -> Seat | None:
        return self.replicas.take(self.engine, self.count, self.now, self.queue, said, tokens)

    def send(self, said: Prints | None = None, tokens: int = 1000) -> Seat:
        """One request on its way: what it says is known at its replica from now on."""
        seat = self.seat(said, tokens)
        assert seat is not None
        if said is not None and seat.place is not None:
            self.index.note(seat.place, said, self.now)
        return seat

    def ask(self, said: Prints | None = None, tokens: int = 1000) -> int:
        """One request from start to end; the number of its replica."""
        seat = self.send(said, tokens)
        self.replicas.done(seat, self.now)
        return seat.number

    def fail(self, number: int, trouble: Trouble = FAILED, *, reached: bool = True) -> None:
        """The next request to this replica fails there; those that others take are answered."""
        for _ in range(2 * self.count):
            seat = self.send()
            if seat.number == number:
                self.replicas.done(seat, self.now, trouble, reached=reached)
                return
            self.replicas.done(seat, self.now)
        raise AssertionError(f"replica {number} is not asked")

    def barred(self) -> str | None:
        return self.replicas.barred(self.engine.host.host, self.queue, self.now)

    def up(self) -> list[bool]:
        return [state.up for state in self.replicas.states(self.now)]


def test_cold_prompts_take_turns(engine: Deployment) -> None:
    farm = Farm(engine, 3)
    assert [farm.ask(prompt(f"{number} {WORDS}")) for number in range(6)] == [0, 1, 2, 0, 1, 2]


def test_a_conversation_stays_where_its_prefix_is_cached(engine: Deployment) -> None:
    farm = Farm(engine, 4)
    talks = [[f"{number} {WORDS}"] for number in range(8)]
    homes = [farm.ask(prompt(*talk)) for talk in talks]
    assert sorted(homes) == [0, 0, 1, 1, 2, 2, 3, 3]
    for turn in range(5):
        farm.now += 10
        for talk in talks:
            talk.append(f"turn {turn}")
        assert [farm.ask(prompt(*talk)) for talk in talks] == homes


def test_load_moves_a_conversation_when_reading_it_anew_is_faster(engine: Deployment) -> None:
    farm = Farm(engine, 2)
    said, grown = prompt(WORDS), prompt(WORDS, WORDS)
    home = farm.ask(said)
    assert farm.ask(prompt(WORDS, "more")) == home
    # Half of the next prompt is new there: with two others at work it counts one and a half times, elsewhere once.
    assert [farm.send(said).number for _ in range(2)] == [home, home]
    assert farm.ask(grown) == 1 - home


def test_load_spreads_when_nothing_is_known(engine: Deployment) -> None:
    farm = Farm(engine, 3)
    seats = [farm.send() for _ in range(9)]
    assert sorted(seat.number for seat in seats) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for seat in seats:
        if seat.number == 1:
            farm.replicas.done(seat, farm.now)
    assert [farm.send().number for _ in range(3)] == [1, 1, 1]


def test_a_replica_that_takes_no_connection_is_left_out_at_once_and_tried_by_one(engine: Deployment) -> None:
    farm = Farm(engine, 2)
    assert [farm.ask(), farm.ask()] == [0, 1]
    farm.fail(0, REFUSED, reached=False)
    assert farm.up() == [False, True]
    assert {farm.ask() for _ in range(4)} == {1}

    farm.now += FIRST_REST
    first, second, third = farm.send(), farm.send(), farm.send()
    assert sorted((first.number, second.number, third.number)) == [0, 1, 1], "one request tries it"
    for seat in (first, second, third):
        farm.replicas.done(seat, farm.now, None if seat.number else REFUSED, reached=seat.number == 1)
    farm.now += FIRST_REST
    assert {farm.ask() for _ in range(4)} == {1}, "the second rest is longer"

    farm.now += FIRST_REST
    assert {farm.ask() for _ in range(4)} == {0, 1}
    assert farm.up() == [True, True]


def test_the_next_request_tries_it_although_its_prefix_is_elsewhere(engine: Deployment) -> None:
    farm, said = Farm(engine, 2), prompt(WORDS)
    home = farm.ask(said)
    assert farm.ask(said) == home
    farm.fail(1 - home, REFUSED, reached=False)
    farm.now += FIRST_REST
    assert [farm.send(said).number, farm.send(said).number] == [1 - home, home]


def test_a_request_that_proves_nothing_leaves_the_trial_to_the_next(engine: Deployment) -> None:
    farm = Farm(engine, 2)
    assert [farm.ask(), farm.ask()] == [0, 1]
    farm.fail(0, REFUSED, reached=False)
    farm.now += FIRST_REST
    trial = next(seat for seat in (farm.send(), farm.send()) if seat.number == 0)
    farm.replicas.done(trial, farm.now, answered=False)
    assert farm.up() == [False, True]
    assert 0 in {farm.send().number for _ in range(3)}


def test_failures_in_a_row_leave_it_out_and_one_alone_does_not(engine: Deployment) -> None:
    farm = Farm(engine, 2)
    assert [farm.ask(), farm.ask()] == [0, 1]
    for count in range(5):
        assert farm.up() == [True, True], count
        farm.fail(0)
    assert farm.up() == [False, True]


def test_a_busy_one_is_left_alone_for_as_long_as_it_says(engine: Deployment) -> None:
    farm = Farm(engine, 2)
    assert [farm.ask(), farm.ask()] == [0, 1]
    farm.fail(0, Trouble("busy", wait=7))
    farm.now += 6
    assert {farm.ask() for _ in range(4)} == {1}
    farm.now += 1
    assert {farm.ask() for _ in range(4)} == {0, 1}


def test_its_conversations_move_and_come_back_to_where_they_are_known(engine: Deployment) -> None:
    farm = Farm(engine, 2)
    said = [WORDS]
    home = farm.ask(prompt(*said))
    seat = farm.send(prompt(*said, "go on"))
    assert seat.number == home
    farm.replicas.done(seat, farm.now, REFUSED, reached=False)
    assert farm.replicas.spare(seat, farm.now)
    moved = {farm.ask(prompt(*said, "go on")) for _ in range(3)}
    assert moved == {1 - home}


def test_when_all_are_out_the_plan_passes_over_and_says_why(engine: Deployment) -> None:
    farm = Farm(engine, 2)
    assert farm.barred() is None
    seats = [farm.send(), farm.send()]
    farm.replicas.done(seats[0], farm.now, REFUSED, reached=False)
    assert farm.barred() is None and farm.replicas.spare(seats[0], farm.now)
    farm.replicas.done(seats[1], farm.now, REFUSED, reached=False)
    assert not farm.replicas.spare(seats[1], farm.now)
    assert (farm.barred() or "").startswith("no replica of 2 can be asked: at rest for 2 s more")
    assert farm.seat() is None
    farm.now += 1
    alone = farm.replicas.alone
    assert alone.barred(engine.host.host, None, farm.now) is None, "who has nowhere else to go may try at once"
    trying = alone.take(engine, 2, farm.now)
    assert trying is not None
    alone.done(trying, farm.now)
    assert farm.barred() is None and farm.send().number == trying.number
    farm.replicas.forgive()
    assert farm.barred() is None


@pytest.mark.parametrize(("count", "queue", "room"), [(1, 0, 1), (1, 3, 4), (2, 0, 2), (3, 1, 6)])
def test_a_queue_is_full_when_every_replica_has_one_at_work_and_as_many_waiting(
    engine: Deployment, count: int, queue: int, room: int
) -> None:
    farm = Farm(engine, count, queue)
    seats = []
    while farm.barred() is None:
        seats.append(farm.send())
    assert len(seats) == room
    assert farm.barred() == f"full: every replica has {queue + 1} requests or more, and {queue} may wait"
    assert farm.replicas.barred(engine.host.host, None, farm.now) is None, "a route without a queue waits"
    assert farm.replicas.alone.barred(engine.host.host, queue, farm.now) is None, "so does who has nowhere else to go"
    farm.replicas.done(seats[0], farm.now)
    assert farm.barred() is None


def test_a_full_home_sends_its_conversation_to_a_free_replica(engine: Deployment) -> None:
    farm = Farm(engine, 2, queue=1)
    said = prompt(WORDS)
    home = farm.ask(said)
    for _ in range(2):
        assert farm.send(said).number == home
    assert farm.send(said).number == 1 - home


def test_an_engine_that_runs_once_is_counted_and_never_left_out(engine: Deployment) -> None:
    farm = Farm(engine, 1)
    for _ in range(20):
        seat = farm.send(prompt("hi"))
        assert seat.place is None
        farm.replicas.done(seat, farm.now, FAILED, reached=False)
    assert farm.up() == [True] and farm.barred() is None


Step = st.tuples(st.sampled_from(("take", "answer", "fail", "refuse", "leave", "busy", "wait")), st.integers(0, 30))


@given(st.integers(1, 4), st.none() | st.integers(0, 3), st.lists(Step, max_size=60))
def test_whatever_happens_every_seat_is_counted_once(count: int, queue: int | None, steps: list[tuple[str, int]]) -> None:
    farm = Farm(_ENGINE, count, queue)
    seats: list[Seat] = []
    for step, number in steps:
        if step == "wait":
            farm.now += number
        elif step == "take":
            barred = farm.barred()
            seat = farm.seat(prompt(f"{number % 3} {WORDS}"))
            assert seat is not None or (barred is not None and count > 1)
            if seat is not None:
                seats.append(seat)
        elif seats:
            seat = seats.pop(number % len(seats))
            trouble = {"fail": FAILED, "refuse": REFUSED, "busy": Trouble("busy")}.get(step)
            farm.replicas.done(seat, farm.now, trouble, answered=step != "leave", reached=step != "refuse")
        states = list(farm.replicas.states(farm.now))
        assert sum(state.open for state in states) == len(seats)
        if farm.barred() is None and states:
            again = farm.seat()
            assert again is not None
            farm.replicas.done(again, farm.now, answered=False)


_ENGINE = load(default_folder()).deployment("local", "r1", datetime(2026, 11, 20, tzinfo=UTC)) or pytest.fail("it is served")
