"""From usage to the charge: which figure is believed, at which instant, how it splits, and what the row and the baseline say."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from gateway.clock import parse_instant
from gateway.money import cost
from gateway.outcome import Claim
from gateway.receipts import USEFUL, Charge, Journey, Verdict, baselines, charge_for, leg, row, spent
from gateway.request import Caller
from gateway.router import Terms, plan
from gateway.usage import Sources, Usage
from tests.asking import ask, policies

OPENROUTER, FLASH = "openrouter/deepseek/deepseek-r1-0528", "deepseek/deepseek-flash"
CALM, PEAK = "2026-11-20T00:59:59Z", "2026-11-20T01:00:00Z"
USED = Usage(64, 1000, 2000, 500)
COUNTED = Usage(0, 1000, 2000, 500, Sources("unknown", "counted", "counted", "counted"))


def journey(model: str, at: str = PEAK, **body: Any) -> Journey:
    route = policies().route(model)
    assert route is not None
    request, started = ask({"model": model, **body}), parse_instant(at)
    found = plan(request, route, Terms(policies(), started, {"deepseek": "USD", "openrouter": "USD", "local": "USD"}, 600))
    return Journey(request, Caller("search", "k1"), found, policies(), started)


def charged(trip: Journey, usage: Usage = USED, cost: str | None = None, disputed: bool = False, ended: datetime | None = None) -> Charge:
    return charge_for(trip, usage, cost, disputed, ended or trip.started)


def test_deepseek_is_charged_by_the_window_at_completion() -> None:
    trip = journey(FLASH, CALM)
    calm = charged(trip)
    peak = charged(trip, ended=parse_instant(PEAK))
    assert (calm.band.window, peak.band.window) == ("standard", "peak")
    assert peak.nano == 2 * calm.nano


# host's cost, disputed -> (is it taken?, disputed afterwards)
CLAIMS = {
    "believable": ("0.004328", False, True, False),
    "zero": ("0", False, True, False),
    "an exponent": ("4.328e-3", False, True, False),
    "below a nano": ("0.0000000001", False, True, False),
    "above the worst": ("1000", False, False, True),
    "negative": ("-1", False, False, True),
    "no number": ("NaN", False, False, True),
    "text": ("cheap", False, False, True),
    "endless": ("1e999999", False, False, True),
    "none": (None, False, False, False),
    "beside absurd counts": ("0.004", True, True, True),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_a_hosts_own_cost_is_taken_where_it_can_be_true(case: str) -> None:
    cost, disputed, taken, after = CLAIMS[case]
    trip = journey(OPENROUTER)
    found, ours = charged(trip, cost=cost, disputed=disputed), charged(trip)
    assert (found.nano == found.host_nano) == taken
    assert taken or found.nano == ours.nano
    assert found.disputed == after
    parts = found.parts
    assert parts.cache_hit + parts.cache_miss + parts.output == found.nano


def test_a_cost_is_rounded_up_to_a_nano() -> None:
    assert charged(journey(OPENROUTER), cost="0.0000000001").nano == 1
    assert charged(journey(OPENROUTER), cost="0.0043280001").nano == 4_328_001


def test_a_host_that_is_not_charged_by_its_own_figure_keeps_it_beside() -> None:
    assert charged(journey(FLASH), cost="0.5").host_nano == 500_000_000
    assert charged(journey(FLASH), cost="0.5").nano == charged(journey(FLASH)).nano


@given(hit=st.integers(0, 10**6), miss=st.integers(0, 10**6), output=st.integers(0, 10**6), cost=st.integers(0, 10**7))
def test_parts_always_sum_to_the_charge(hit: int, miss: int, output: int, cost: int) -> None:
    for model in (OPENROUTER, FLASH):
        found = charged(journey(model), Usage(hit, miss, output), cost=f"{cost}e-9")
        assert found.parts.cache_hit + found.parts.cache_miss + found.parts.output == found.nano
        assert min(found.parts.cache_hit, found.parts.cache_miss, found.parts.output) >= 0


def test_the_hold_is_the_worst_price_and_the_row_repeats_its_names() -> None:
    trip = journey(OPENROUTER, max_tokens=100, stream=True)
    hold, found = trip.hold(), charged(trip)
    kept = row(trip, Verdict("ok", edits=("normalise_stream",)), (leg(trip, "ok", USED, found),), trip.started)
    for name in ("id", "team", "key", "route", "host", "model", "currency", "policies", "started"):
        assert getattr(hold, name) == getattr(kept, name)
    assert (hold.nano, hold.worst, kept.worst_nano) == (trip.candidate.worst,) * 3
    assert hold.expected <= hold.nano
    assert (kept.nano, kept.stream, kept.edits[-1]) == (found.nano, True, "normalise_stream")
    assert [(attempt.billed, attempt.nano) for attempt in kept.attempts] == [("known", found.nano)]


def test_a_row_without_a_charge_is_free() -> None:
    trip = journey(FLASH)
    kept = row(trip, Verdict("upstream_error"), (leg(trip, "upstream_error", None, None),), trip.started)
    assert (kept.nano, kept.usage, kept.parts, kept.attempts[0].nano, kept.card) == (0, None, None, 0, trip.candidate.card.name)


@given(paid=st.lists(st.sampled_from([None, USED, COUNTED, Usage(0, 7, 0)]), min_size=1, max_size=4))
def test_a_row_of_several_attempts_has_a_line_for_each_and_costs_what_they_cost(paid: list[Usage | None]) -> None:
    trip = journey(FLASH)
    legs = tuple(leg(trip, "ok" if used else "upstream_error", used, charged(trip, used) if used else None) for used in paid)
    kept = row(trip, Verdict("ok"), legs, trip.started)
    assert [line.billed for line in kept.attempts] == [
        "none" if used is None else "possible" if used is COUNTED else "known" for used in paid
    ]
    assert kept.nano == sum(line.nano for line in kept.attempts) == (kept.parts.total if kept.parts else 0)
    if len(legs) > 1:
        # Each line says by class what it used and cost, and by which prices.
        split = [(line.tokens, sum(line.parts or ()), line.card, line.window) for line in kept.attempts if line.billed != "none"]
        priced = [(one.usage, one.charged) for one in legs if one.usage and one.charged]
        assert split == [((used.cache_hit, used.cache_miss, used.output), cost.nano, cost.card, cost.band.window) for used, cost in priced]
    used_up = [used for used in paid if used is not None]
    assert (kept.usage is None) == (not used_up)
    if kept.usage is not None:
        assert kept.usage.prompt + kept.usage.output == sum(used.prompt + used.output for used in used_up)
        # One number of ours in the sum makes the sum ours.
        assert kept.usage.reported == (COUNTED not in used_up)
    # Each at its own host, for one that was alone the row says it.
    shares = [(one.host, one.model, one.usage, one.parts.total if one.parts else 0) for one in spent(legs)]
    assert shares == [(one.attempt.host, one.attempt.model, one.usage, one.attempt.nano) for one in legs if len(legs) > 1]


def test_what_an_earlier_attempt_may_have_been_billed_is_held_on_top() -> None:
    trip = journey(FLASH, CALM, max_tokens=4000)
    (plain,), (dearer,) = trip.holds((DAY,), 500), trip.at(trip.candidate, paid=1000).holds((DAY,), 500)
    for name in ("nano", "least", "expected", "worst"):
        assert getattr(dearer, name) == getattr(plain, name) + 1000
    assert trip.at(trip.candidate, paid=1000).streaming().paid == 1000


def test_o1_bills_every_prompt_token_at_its_input_price() -> None:
    (o1,) = baselines(policies(), Usage(600, 400, 2000, 1000), parse_instant(PEAK))
    assert (o1.name, o1.currency, o1.nano) == ("o1", "USD", 1000 * 15_000 + 2000 * 60_000)


def test_hits_save_the_difference_to_a_miss() -> None:
    found = charged(journey(FLASH), Usage(1_000_000, 0, 0))
    rates = found.band.rates
    assert found.saved_by_hits(Usage(1_000_000, 0, 0)) == rates.cache_miss - rates.cache_hit > 0
    assert found.saved_by_hits(Usage(0, 1_000_000, 0)) == 0


DAY = Claim("search", "day", "", "2026-11-20", "USD", 10**9, None)


def test_with_budgets_the_first_hold_is_the_prompt_and_a_usual_answer() -> None:
    trip = journey(FLASH, CALM, max_tokens=4000)
    rates = trip.candidate.dearest
    (hold,) = trip.holds((DAY,), 500)
    # DeepSeek's dearest band of the next ten minutes, and a prompt that is certainly not longer.
    assert rates.output == 2 * charged(trip).band.rates.output
    assert hold.least == cost(rates, 0, trip.prompt_bound, USEFUL)
    assert hold.nano == cost(rates, 0, trip.prompt_bound, 500)
    assert hold.worst == trip.candidate.worst > hold.nano
    assert hold.claims == (DAY,)
    assert trip.candidate.sanitised.prompt_tokens < trip.prompt_bound <= trip.request.size


def test_a_first_hold_is_never_more_than_the_worst_case_nor_less_than_is_of_use() -> None:
    (short,) = journey(FLASH, max_tokens=5).holds((DAY,), 10_000)
    assert short.least == short.nano <= short.worst
    (rare,) = journey(FLASH, max_tokens=4000).holds((DAY,), 1)
    assert rare.least == rare.nano
    (unknown,), several = journey(FLASH, max_tokens=4000).holds((DAY,), None), journey("local/gemma3-270m", max_tokens=4000, n=3)
    assert unknown.least < unknown.nano < unknown.worst
    one, three = (cost(several.candidate.dearest, 0, several.prompt_bound, tokens) for tokens in (100, 300))
    (hold,) = several.holds((DAY,), 100)
    assert hold.nano == three > one


@pytest.mark.parametrize("reason", [{"streams": False}, {"cancel_stops_billing": False}])
def test_an_answer_that_is_no_use_ending_holds_all_that_it_can_cost_or_is_kept_short(reason: dict[str, bool]) -> None:
    trip = at_host(journey(FLASH, max_tokens=8000), "total", reason)
    holds = list(trip.holds((DAY,), 500))
    assert all(hold.nano == hold.least for hold in holds)
    lengths = [cost(trip.candidate.dearest, 0, trip.prompt_bound, tokens) for tokens in (4 * 500, 500, USEFUL)]
    assert [hold.nano for hold in holds] == [trip.candidate.worst, *lengths]


def test_an_answer_that_can_neither_be_ended_nor_kept_short_needs_its_worst_case() -> None:
    trip = at_host(journey(FLASH, max_tokens=4000), "answer", {"streams": False})
    assert [hold.least for hold in trip.holds((DAY,), 500)] == [trip.candidate.worst]


def at_host(trip: Journey, counts: str, change: dict[str, bool]) -> Journey:
    deployment = trip.deployment
    host, model = deployment.host.model_copy(update=change), deployment.model.model_copy(update={"counts": counts})
    return trip.at(structs.replace(trip.candidate, deployment=replace(deployment, host=host, model=model)))


def test_a_stretched_answer_is_asked_for_as_a_stream() -> None:
    trip = journey(FLASH)
    stretched = trip.streaming()
    assert (trip.streams_upstream, stretched.streams_upstream) == (False, True)
    assert stretched.candidate.sanitised.body["stream"] is True
    assert stretched.candidate.sanitised.body["stream_options"] == {"include_usage": True}
    assert "stream" not in trip.candidate.sanitised.body
    assert stretched.request is trip.request
