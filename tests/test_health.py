"""Health: when a deployment is left alone, who tries it again, how its traffic returns, and what raises an alarm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import HostError
from gateway.errors import RateLimited, UpstreamError, UpstreamTimeout
from gateway.gate import FIRST_REST, GUESSED, LONGEST_REST, RETURN, STREAK, TOLD, Kind, Trouble
from gateway.health import Health, Ticket
from gateway.host_errors import refusal, trouble
from gateway.hosts import Deployment
from gateway.witnesses import PARKED, PARKED_ALONE
from tests.asking import at_host, contract

T = 1_700_000_000.0
FAILED, FREE, LATE = Trouble("failed"), Trouble("failed", free=True), Trouble("late")


def served(model: str = "m", concurrent: int | None = None, host: str = "there", **more: Any) -> Deployment:
    found = at_host(contract(), model={"model": model, "concurrent": concurrent}, **more)
    return replace(found, host=found.host.model_copy(update={"host": host}))


HERE = served()


def begun(health: Health, at: float = T, deployment: Deployment = HERE) -> Ticket:
    ticket = health.begun(deployment, at)
    assert ticket is not None, health.barred(deployment, at)
    return ticket


def fail(health: Health, what: Trouble = FAILED, at: float = T, times: int = 1, deployment: Deployment = HERE) -> None:
    for _ in range(times):
        health.ended(begun(health, at, deployment), at, what)


def answer(health: Health, at: float = T, deployment: Deployment = HERE) -> None:
    health.ended(begun(health, at, deployment), at)


def opened(what: Trouble = FAILED) -> Health:
    health = Health()
    fail(health, what, times=STREAK)
    return health


# ---- the breaker


def test_failures_in_a_row_open_it_and_an_answer_between_them_does_not() -> None:
    health = Health()
    fail(health, times=STREAK - 1)
    answer(health)
    fail(health, times=STREAK - 1)
    assert health.barred(HERE, T) is None
    fail(health)
    assert "at rest for 2 s more: it failed" in str(health.barred(HERE, T))


def test_a_time_out_counts_twice() -> None:
    health = Health()
    fail(health, LATE, times=(STREAK + 1) // 2)
    assert health.barred(HERE, T) is not None


def test_one_request_tries_it_and_no_other_until_that_is_over() -> None:
    health = opened()
    later = T + FIRST_REST
    trial = begun(health, later)
    assert "another request is trying it" in str(health.barred(HERE, later))
    assert health.begun(HERE, later + 3600) is None
    health.ended(trial, later, answered=False)
    # It proved nothing: the next one tries.
    begun(health, later)


def test_each_failed_trial_doubles_the_rest_up_to_a_minute() -> None:
    health, at, rests = opened(), T, []
    for _ in range(8):
        rests.append(health.wait(HERE, at))
        at += rests[-1]
        fail(health, at=at)
    assert rests == [2, 4, 8, 16, 32, 60, 60, 60]


def test_what_came_back_gets_twice_as_many_at_a_time_with_every_second() -> None:
    health = opened()
    at = T + FIRST_REST
    answer(health, at)
    counts = []
    for second in range(RETURN):
        taken = 0
        tickets = []
        while (ticket := health.begun(HERE, at + second)) is not None and taken < 1000:
            tickets.append(ticket)
            taken += 1
        counts.append(taken)
        for ticket in tickets:
            health.ended(ticket, at + second, answered=False)
    assert counts == [2, 4, 8, 16, 32, 64, 128, 256]
    assert health.barred(HERE, at + RETURN) is None
    # All is forgiven by now: the next rest is a first one again.
    fail(health, at=at + RETURN, times=STREAK)
    assert health.wait(HERE, at + RETURN) == FIRST_REST


def test_what_was_sent_before_it_was_shut_says_nothing_of_the_time_after() -> None:
    health = Health()
    early = [begun(health) for _ in range(10)]
    fail(health, times=STREAK)
    health.ended(early.pop(), T + 1)
    assert health.barred(HERE, T + 1) is not None
    later = T + FIRST_REST
    trial = begun(health, later)
    for ticket in early:
        health.ended(ticket, later, FAILED)
    # Nine old failures neither end the trial nor lengthen the rest.
    assert "another request is trying it" in str(health.barred(HERE, later))
    health.ended(trial, later)
    assert health.barred(HERE, later) is None


@pytest.mark.parametrize("back", [1.0, 3600.0])
def test_a_clock_that_is_set_back_does_not_make_a_rest_longer(back: float) -> None:
    health = opened()
    assert health.wait(HERE, T - back) <= FIRST_REST
    assert health.barred(HERE, T - back + FIRST_REST) is None


def test_a_host_that_says_at_once_is_asked_at_once_but_not_for_ever() -> None:
    health, now = Health(), Trouble("busy", wait=0, free=True)
    fail(health, now)
    assert health.barred(HERE, T) is None
    fail(health, now, times=STREAK - 1)
    assert health.wait(HERE, T) == FIRST_REST
    fail(health, now, at=T + FIRST_REST)
    assert health.wait(HERE, T + FIRST_REST) == 2 * FIRST_REST


@pytest.mark.parametrize("wait", [1, 7, 60])
def test_a_host_that_says_when_is_left_alone_until_then_and_then_tried_by_one(wait: int) -> None:
    health = Health()
    fail(health, Trouble("busy", wait=wait, free=True))
    assert health.wait(HERE, T) == wait
    begun(health, T + wait)
    assert health.barred(HERE, T + wait) is not None


def test_a_refusal_without_a_time_means_that_so_many_were_too_many() -> None:
    health = Health()
    tickets = [begun(health) for _ in range(5)]
    health.ended(tickets.pop(), T, Trouble("busy", free=True))
    assert "full: 4 requests are on their way, of 4" in str(health.barred(HERE, T))
    assert health.barred(HERE, T + GUESSED) is None


def opens_in(seconds: float) -> Health:
    health = Health()
    health.ended(begun(health), T, opening=seconds)
    return health


def test_requests_without_a_word_count_before_their_time_is_up() -> None:
    health = opens_in(0.5)
    waiting = [begun(health) for _ in range(STREAK)]
    for ticket in waiting:
        health.silent(ticket, T, 15)
    assert "it says nothing" in str(health.barred(HERE, T))
    # It may have cost something.
    assert health.alone.barred(HERE, T) is not None
    # A trial that hears nothing either has failed, and another one may try in its time, while they all still wait.
    trial = begun(health, T + FIRST_REST)
    health.silent(trial, T + FIRST_REST, 15)
    assert health.wait(HERE, T + FIRST_REST) == 2 * FIRST_REST
    later = T + 3 * FIRST_REST
    second = begun(health, later)
    for ticket in [trial, *waiting]:
        health.ended(ticket, later, LATE)
    assert "another request is trying it" in str(health.barred(HERE, later))
    health.ended(second, later)
    assert health.barred(HERE, later) is None


@pytest.mark.parametrize("usual", [None, 4.0])
def test_a_host_that_takes_its_time_as_a_rule_does_not_hang(usual: float | None) -> None:
    health = Health() if usual is None else opens_in(usual)
    for _ in range(2 * STREAK):
        health.silent(begun(health), T, 15)
    assert health.barred(HERE, T) is None


# ---- parking, balance, limits


@pytest.mark.parametrize("kind", ["unpaid", "locked"])
def test_a_host_without_balance_or_with_a_refused_key_is_parked_with_all_its_models(kind: Kind) -> None:
    health, other, elsewhere = Health(), served("other"), served("m", host="elsewhere")
    alarm = health.ended(begun(health), T, Trouble(kind))
    assert alarm is not None
    assert (alarm.host, alarm.model, alarm.kind) == ("there", "", kind)
    assert health.wait(HERE, T) == health.wait(other, T) == PARKED
    assert health.barred(elsewhere, T) is None
    assert [one.text for one in health.alarms(T)] == [alarm.text]
    # The trial fails in the same way: parked again, and not said again.
    assert health.ended(begun(health, T + PARKED, other), T + PARKED, Trouble(kind)) is None
    assert [one.since for one in health.alarms(T + PARKED)] == [T]
    answer(health, T + 2 * PARKED)
    assert health.alarms(T + 2 * PARKED) == []
    assert health.barred(other, T + 2 * PARKED) is None


def test_another_trouble_of_a_parked_host_s_trial_proves_nothing_of_what_it_was_parked_for() -> None:
    health = Health()
    fail(health, Trouble("unpaid"))
    fail(health, FAILED, at=T + PARKED)
    assert health.wait(HERE, T + PARKED) == LONGEST_REST
    assert health.alarms(T + PARKED)
    # And the next request after that tries again.
    answer(health, T + PARKED + LONGEST_REST)
    assert not health.alarms(T + PARKED + LONGEST_REST)


def test_a_model_that_the_host_does_not_know_is_parked_alone() -> None:
    health, other = Health(), served("other")
    alarm = health.ended(begun(health), T, Trouble("missing"))
    assert alarm is not None and (alarm.host, alarm.model) == ("there", "m")
    assert health.wait(HERE, T) == PARKED
    assert health.barred(other, T) is None


def test_a_reload_forgives_everything_and_counts_on() -> None:
    health = Health()
    running = begun(health)
    fail(health, Trouble("unpaid"))
    health.forgive()
    assert health.barred(HERE, T) is None
    assert health.alarms(T) == []
    assert health.open_requests("there/m") == 1
    # Whatever was on its way then is no judgement of what is now.
    health.ended(running, T, Trouble("unpaid"))
    assert health.barred(HERE, T) is None
    assert health.open_requests("there/m") == 0


def test_a_limit_that_the_balance_pays_for_is_kept_and_is_an_alarm() -> None:
    health = Health()
    said = "Your current concurrency is 4, which exceeds your concurrency limit of 3 based on your remaining balance."
    failure = refusal("deepseek", 429, HostError(429, None, said))
    tickets = [begun(health) for _ in range(4)]
    alarm = health.ended(tickets.pop(), T, trouble(failure))
    assert alarm is not None and "3 at a time" in alarm.text
    assert "full: 3 requests are on their way, of 3" in str(health.barred(HERE, T))
    health.ended(tickets.pop(), T)
    assert health.barred(HERE, T) is None
    begun(health)
    assert health.ended(tickets.pop(), T, trouble(failure)) is None
    assert health.alarms(T + TOLD - 1)
    assert health.barred(HERE, T + TOLD) is None
    assert health.alarms(T + TOLD) == []


def test_a_limit_and_a_time_are_both_kept() -> None:
    health = Health()
    assert health.ended(begun(health), T, Trouble("balance", 7, 3)) is not None
    assert health.wait(HERE, T) == 7
    trial = begun(health, T + 7)
    health.ended(trial, T + 7)
    for _ in range(3):
        begun(health, T + 7 + RETURN)
    assert "of 3" in str(health.barred(HERE, T + 7 + RETURN))


def test_limits_of_a_host_and_of_its_model_are_counted_here() -> None:
    health = Health()
    small, large = served("small", 2, limits={"concurrent": 3}), served("large", limits={"concurrent": 3})
    tickets = [begun(health, deployment=small) for _ in range(2)]
    assert "of 2" in str(health.barred(small, T))
    tickets.append(begun(health, deployment=large))
    assert "of 3" in str(health.barred(large, T))
    assert health.wait(large, T) == 1
    health.ended(tickets[0], T, answered=False)
    assert health.barred(small, T) is health.barred(large, T) is None


# ---- what may be the request's own fault


DOUBTS: list[Kind] = ["unpaid", "locked", "missing"]


def doubted(health: Health, kind: Kind, at: float = T, prompt: int = 1, deployment: Deployment = HERE) -> None:
    ticket = health.begun(deployment, at, prompt)
    assert ticket is not None, health.barred(deployment, at)
    health.ended(ticket, at, Trouble(kind, free=True, sure=False))


@pytest.mark.parametrize("kind", DOUBTS)
def test_one_caller_keeps_nobody_else_from_a_host(kind: Kind) -> None:
    health = Health()
    mallory, victim = health.seen_by("mallory", "m"), health.seen_by("victim", "v")
    for at in range(3600):
        # Whatever it sends and however often, whether it has elsewhere to go or not.
        ticket = mallory.alone.begun(HERE, T + at, at)
        if ticket is not None:
            mallory.ended(ticket, T + at, Trouble(kind, free=True, sure=False))
        assert victim.barred(HERE, T + at) is None
    assert mallory.barred(HERE, T + at) is not None
    assert health.failing("there/m") < 0.02
    answer(victim, T + at)
    assert mallory.barred(HERE, T + at) is None
    assert health.alarms(T + at) == []


@pytest.mark.parametrize("kind", DOUBTS)
def test_two_teams_park_it_and_the_next_trial_is_another_s(kind: Kind) -> None:
    health = Health()
    first, second, third = (health.seen_by(name, name) for name in ("a", "b", "c"))
    doubted(first, kind)
    doubted(second, kind)
    assert health.wait(HERE, T) == PARKED
    assert [alarm.kind for alarm in health.alarms(T)] == [kind]
    at = T + PARKED_ALONE
    assert second.alone.barred(HERE, at) is not None
    doubted(third.alone, kind, at)
    # It confirms what it was parked for: for as long again, and the next trial is not its own.
    assert health.wait(HERE, at) == PARKED
    assert third.alone.barred(HERE, at + PARKED_ALONE) is not None
    answer(first.alone, at + PARKED_ALONE)
    assert third.barred(HERE, at + PARKED_ALONE) is None


def test_the_only_caller_of_a_gateway_is_kept_from_what_refuses_it() -> None:
    health = Health()
    only = health.seen_by("us", "k")
    doubted(only, "locked", prompt=1)
    assert only.barred(HERE, T) is None
    doubted(only, "locked", prompt=2)
    assert only.wait(HERE, T) == PARKED
    assert only.alone.wait(HERE, T) == PARKED_ALONE
    assert ["refused team us alone" in alarm.text for alarm in health.alarms(T)] == [True]


def test_an_answer_between_two_refusals_says_that_the_host_is_well() -> None:
    health = Health()
    for name in ("a", "b", "c", "d"):
        doubted(health.seen_by(name, name), "locked")
        answer(health)
    assert health.barred(HERE, T) is None


def test_a_key_that_was_renewed_meanwhile_is_no_trouble_and_later_opens_at_once() -> None:
    health, renewed = Health(), [True]
    refused = Trouble("locked", mended=lambda: renewed[0])
    fail(health, refused)
    assert health.barred(HERE, T) is None
    renewed[0] = False
    fail(health, refused)
    assert health.wait(HERE, T) == PARKED
    renewed[0] = True
    assert health.barred(HERE, T + 1) is None
    assert health.alarms(T + 1) == []


# ---- a trial that writes for long


def test_a_trial_that_has_begun_to_answer_keeps_nobody_out() -> None:
    health = opened()
    later = T + FIRST_REST
    trial = begun(health, later)
    assert health.barred(HERE, later) is not None
    health.proved(trial, later)
    answer(health, later)
    # What it does in the end still counts: soon it was a trial that failed, later it is one failure.
    health.ended(trial, later + 1, FAILED)
    assert health.wait(HERE, later + 1) == 2 * FIRST_REST


def test_one_that_was_no_trial_proves_nothing_before_its_end() -> None:
    health = Health()
    early = begun(health)
    fail(health, times=STREAK)
    health.proved(early, T + FIRST_REST)
    begun(health, T + FIRST_REST)
    health.proved(early, T + FIRST_REST)
    assert health.barred(HERE, T + FIRST_REST) is not None


# ---- where nothing else is left


def test_what_failed_at_no_cost_may_be_asked_by_who_has_nowhere_else_to_go() -> None:
    health = opened(FREE)
    assert health.barred(HERE, T) is not None
    assert health.alone.barred(HERE, T) is None
    crowd = [health.alone.begun(HERE, T) for _ in range(3)]
    assert None not in crowd


@pytest.mark.parametrize("what", [FAILED, LATE, Trouble("busy", wait=9, free=True)])
def test_what_may_have_cost_something_or_was_asked_for_holds_for_all(what: Trouble) -> None:
    health = Health()
    while health.barred(HERE, T) is None:
        fail(health, what)
    assert health.alone.barred(HERE, T) is not None


def test_what_is_parked_is_tried_sooner_by_who_has_nowhere_else_to_go_but_by_one_at_a_time() -> None:
    health = Health()
    fail(health, Trouble("unpaid"))
    assert health.alone.wait(HERE, T) == PARKED_ALONE
    assert health.alone.begun(HERE, T + PARKED_ALONE) is not None
    assert health.alone.barred(HERE, T + PARKED_ALONE) is not None


def test_a_host_may_be_asked_whatever_happened_where_its_row_says_so() -> None:
    tireless = served(rest=False, limits={"concurrent": 1})
    health = Health()
    fail(health, Trouble("unpaid"), deployment=tireless)
    fail(health, LATE, times=9, deployment=tireless)
    unlimited = served("other", rest=False, host="elsewhere")
    tickets = [begun(health, deployment=unlimited) for _ in range(3)]
    health.ended(tickets.pop(), T, Trouble("busy", free=True))
    assert health.barred(unlimited, T) is None
    begun(health, deployment=tireless)
    assert "of 1" in str(health.barred(tireless, T))


# ---- what is known


def test_failures_count_less_with_time_and_with_answers() -> None:
    health = Health()
    unknown = health.failing("there/m")
    fail(health)
    failing = health.failing("there/m")
    for _ in range(20):
        answer(health)
    better = health.failing("there/m")
    health.barred(HERE, T + 86_400)
    assert unknown < health.failing("there/m") + 1e-3 < better < failing <= 1


def test_a_trial_that_got_an_answer_halves_what_is_held_against_it() -> None:
    health = opened()
    before = health.failing("there/m")
    answer(health, T + FIRST_REST)
    assert health.failing("there/m") < 0.6 * before


def test_the_first_token_and_the_pace_are_those_of_late() -> None:
    health = Health()
    assert (health.first_token("there/m"), health.pace("there/m")) == (None, None)
    for first, pace in [(1.0, 100.0), (1.0, 100.0), (9.0, 20.0)]:
        health.ended(begun(health), T, first_token=first, pace=pace)
    assert (health.first_token("there/m"), health.pace("there/m")) == (2.0, 90.0)


def test_prompts_on_their_way_are_counted() -> None:
    health = Health()
    tickets = [health.begun(HERE, T, 500), health.begun(HERE, T, 70)]
    assert (health.open_requests("there/m"), health.open_prompts("there/m")) == (2, 570)
    for ticket in tickets:
        assert ticket is not None
        health.ended(ticket, T)
    assert (health.open_requests("there/m"), health.open_prompts("there/m")) == (0, 0)


def test_the_view_says_of_each_what_it_may() -> None:
    health, other = opened(), served("other", 7)
    answer(health, deployment=other)
    shut, well = health.states(T)
    assert (shut.host, shut.model, shut.up, shut.mood, shut.wait) == ("there", "m", False, "open", FIRST_REST)
    assert (well.model, well.up, well.mood, well.why, well.limit, well.open) == ("other", True, "closed", "", 7, 0)
    assert (shut.failed, well.failed) == (True, False)
    begun(health, T + FIRST_REST)
    assert [state.mood for state in health.states(T + FIRST_REST)] == ["trial", "closed"]


# ---- what a failure says


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (UpstreamError("x", dispatched=False), Trouble("failed", free=True)),
        (UpstreamError("x", dispatched=True), Trouble("failed")),
        (UpstreamTimeout("x", dispatched=True), Trouble("late")),
        (refusal("h", 500, HostError(500, None, "")), Trouble("failed", free=True)),
        (refusal("h", 503, HostError(503, None, ""), "7"), Trouble("failed", 7, free=True)),
        (refusal("h", 504, HostError(504, None, "")), Trouble("late")),
        (refusal("h", 524, HostError(524, None, "")), Trouble("late")),
        (refusal("h", 408, HostError(408, None, "")), Trouble("late")),
        (refusal("h", 429, HostError(429, None, ""), "7"), Trouble("busy", 7, free=True)),
        (refusal("h", 402, HostError(402, None, "")), Trouble("unpaid", free=True, sure=False)),
        (refusal("h", 402, HostError(402, None, "Insufficient Balance")), Trouble("unpaid", free=True)),
        (refusal("h", 403, HostError(403, "NOT_ENOUGH_BALANCE", "")), Trouble("unpaid", free=True)),
        (refusal("h", 401, HostError(401, None, "")), Trouble("locked", free=True)),
        (refusal("h", 403, HostError(403, None, "denied")), Trouble("locked", free=True, sure=False)),
        (refusal("h", 404, HostError(404, None, "")), Trouble("missing", free=True, sure=False)),
        # What is wrong with a request is nothing against the host.
        (refusal("h", 400, HostError(400, None, "")), None),
        (refusal("h", 400, HostError(400, None, "maximum context length")), None),
        (refusal("h", 413, HostError(413, None, "")), None),
        (refusal("h", 422, HostError(422, None, "")), None),
        (refusal("h", 403, HostError(403, None, "Your input was flagged by moderation")), None),
        (RateLimited("ours"), None),
        (RuntimeError("ours"), None),
    ],
)
def test_what_a_failure_says_of_its_host(failure: Exception, kind: Trouble | None) -> None:
    assert trouble(failure) == kind


# ---- whatever happens


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "ok", "neutral", "failed", "free", "late", "busy", "wait", "balance", "unpaid", "missing", "reload"]),
        st.floats(0, 700),
        st.booleans(),
    ),
    max_size=60,
)
TROUBLES = {
    "failed": FAILED,
    "free": FREE,
    "late": LATE,
    "busy": Trouble("busy", free=True),
    "wait": Trouble("busy", 5, free=True),
    "balance": Trouble("balance", limit=3),
    "unpaid": Trouble("unpaid", free=True),
    "missing": Trouble("missing", free=True),
}


@given(EVENTS)
def test_it_always_opens_again_and_counts_what_is_on_its_way(events: list[tuple[str, float, bool]]) -> None:
    """Whatever comes in whatever order: nothing is lost or counted twice, one trial at a time, and nobody is shut out for ever."""
    health, at, running = Health(), T, list[Ticket]()
    for what, seconds, alone in events:
        at += seconds
        if what == "begin":
            reason = (view := health.alone if alone else health).barred(HERE, at)
            ticket = view.begun(HERE, at)
            assert (ticket is None) == (reason is not None)
            running += [ticket] if ticket else []
        elif what == "reload":
            health.forgive()
        elif running:
            health.ended(running.pop(0), at, TROUBLES.get(what), answered=what == "ok")
        assert health.open_requests("there/m") == len(running)
        assert 0 <= health.failing("there/m") <= 1
        assert health.wait(HERE, at) <= PARKED
    for ticket in running:
        health.ended(ticket, at, answered=False)
    for _ in range(3):
        at += health.wait(HERE, at)
        if health.barred(HERE, at) is None:
            break
    answer(health, at)
    assert health.barred(HERE, at + RETURN + TOLD) is None
