"""The ranking: what is cheapest in the end comes first; the worked example of docs/routing.md is computed here."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.forecast import NOTHING_MORE, Outlook
from gateway.foresight import Keep, Prospect
from gateway.money import NANO, Rates, decimal_text, exact_nano
from gateway.ranking import CHARGED, EXPLORED, HYSTERESIS, STAYS, TRIED, UNCOMPARABLE, Ranked, Rated, rank

DOCUMENT = Path(__file__).parent.parent / "docs" / "routing.md"


def rates(hit: str, miss: str, output: str) -> Rates:
    return Rates(exact_nano(hit), exact_nano(miss), exact_nano(output))


A, B, C = rates("0.14", "0.55", "2.19"), rates("0.45", "0.45", "2.00"), rates("0.275", "0.50", "2.10")
FIRST = Prospect(15_000, 0, 0, 400)
# Ten more turns: each repeats the prompt before it and adds 700 tokens.
TEN = Outlook(10.0, sum(15_000 + 700 * turn for turn in range(10)), 7_000, 30.0)
MENU = (
    Rated("A", FIRST, A, Keep(0.95, 0.97)),
    Rated("B", FIRST, B, Keep(0.0, 0.0)),
    Rated("C", FIRST, C, Keep(0.90, 0.95)),
)


def names(rated: tuple[Rated, ...] | list[Rated], ranked: list[Ranked]) -> str:
    return "".join(rated[one.number].name for one in ranked)


# ---- the example


def test_the_example_of_the_document() -> None:
    text = DOCUMENT.read_text()
    ranked = rank(MENU, TEN)
    assert names(MENU, ranked) == "ACB"
    assert f"{TEN.repeated:,} repeated and {TEN.new:,} new" in text
    for one in ranked:
        assert one.score == one.now + one.later
        score = decimal_text(one.score)
        shown = f"**{score}**" if one is ranked[0] else score
        assert f"| {MENU[one.number].name} | {decimal_text(one.now)} | {decimal_text(one.later)} | {shown} |" in text
    # At the second turn A has 15,000 of 15,700 tokens.
    second = Prospect(15_700, 15_000, 14_250, 400)
    warm = (MENU[0]._replace(prospect=second, warm=True), *(one._replace(prospect=Prospect(15_700, 0, 0, 400)) for one in MENU[1:]))
    costs = [decimal_text(one.now) for one in rank(warm, TEN)]
    assert f"A costs {costs[0]}, C would cost\n{costs[1]} and B {costs[2]}: A keeps it" in text


def test_the_price_of_isolation_in_the_document() -> None:
    lost = 12_000 * (A.cache_miss - A.cache_hit) // 10**6
    text = DOCUMENT.read_text()
    assert f"pays {decimal_text(lost)} USD more" in text
    assert f"{decimal_text(1000 * lost)} USD. Teams" in text


def test_the_document_names_the_bounds_of_the_code() -> None:
    text = DOCUMENT.read_text()
    assert f"more than {HYSTERESIS} %" in text
    assert f"one conversation in {EXPLORED} ({100 / EXPLORED:.1f} %)" in text


# ---- what decides


def test_the_list_price_decides_where_nothing_follows() -> None:
    assert names(MENU, rank(MENU, NOTHING_MORE)) == "BCA"


def test_equals_stay_in_the_order_of_the_route() -> None:
    same = [one._replace(rates=A, keep=Keep(0.5, 0.5)) for one in MENU]
    assert names(same, rank(same, TEN)) == "ABC"


def test_a_cache_that_does_not_keep_is_worth_nothing() -> None:
    broken = (MENU[0]._replace(keep=Keep(0.02, 0.05)), *MENU[1:])
    assert names(broken, rank(broken, TEN)) == "CBA"


def test_a_doubt_costs_one_turn_and_not_all_of_them() -> None:
    """A cheaper host of which nothing is known is worth a try: if its cache is not sound, the conversation goes on elsewhere."""
    known, new = rates("0.0042", "0.21", "0.84"), rates("0.003", "0.15", "0.60")
    sure = Rated("S", FIRST, known, Keep(0.999, 0.999, 0.999, 1.0, 0.999, 0.999))
    unknown = Rated("U", FIRST, new, Keep(0.97, 0.999, 0.999, 0.86, 0.995, 0.84))
    assert names((sure, unknown), rank((sure, unknown), TEN)) == "US"
    # If every turn had to stay, it would be the dearer one.
    shaky = unknown._replace(keep=Keep(0.68, 0.999, 0.999, 0.6, 0.995, 0.2))
    good, bad = (rank((unknown._replace(keep=Keep(kept, kept)),), TEN)[0].later for kept in (0.995, 0.2))
    later = next(one.later for one in rank((shaky, sure), TEN) if one.number == 0)
    assert later < good * 6 // 10 + bad * 4 // 10
    elsewhere = rank((sure,), TEN)[0].later * 9 // 10 + 15_000 * (known.cache_miss - known.cache_hit) // 10**6
    assert later == pytest.approx(good * 0.6 + (bad / 10 + elsewhere) * 0.4, rel=0.001)
    # What is known to miss is not tried for that.
    liar = unknown._replace(keep=Keep(0.2, 0.3, 0.3, 0.0, 0.995, 0.2))
    assert names((sure, liar), rank((sure, liar), TEN)) == "SU"
    # In yuan at seven a dollar, the same.
    yuan = unknown._replace(rates=rates("0.021", "1.05", "4.20"), rate=(1, 7))
    assert rank((sure, yuan), TEN)[0].score == pytest.approx(rank((sure, unknown), TEN)[0].score, abs=10)


def test_a_conversation_may_go_on_elsewhere_when_a_window_ends() -> None:
    """What comes behind the edge costs no more than to move there and then: so nobody moves before it."""
    dear = rates("1.40", "5.50", "21.90")
    ends = MENU[0]._replace(later_rates=dear, edge=150.0, warm=True, prospect=Prospect(15_000, 14_000, 14_000, 400))
    alone, beside = rank((ends,), TEN)[0].later, rank((ends, MENU[2]), TEN)
    there = MENU[2].prospect.prompt * (C.cache_miss - C.cache_hit) // 10**6
    half = rank((MENU[0],), TEN)[0].later // 2
    assert names((ends, MENU[2]), beside) == "AC"
    assert beside[0].later < alone
    assert beside[0].later == pytest.approx(half + there + rank((MENU[2],), TEN)[0].later // 2, rel=0.001)


def test_what_others_will_share_is_warmed_where_it_is_cheap() -> None:
    """One request alone is cheaper where nothing is cached; with twenty more that begin alike, it is not."""
    few, many = (Outlook(0.5, 7_500, 100, 30.0, others=others, shared=14_000) for others in (0.0, 20.0))
    cached = MENU[0]._replace(keep=Keep(0.999, 0.999, 0.999, 1.0, 0.999, 0.999))
    menu = (MENU[1], cached._replace(rates=rates("0.14", "0.70", "2.19")))
    assert names(menu, rank(menu, few, begins=True)) == "BA"
    assert names(menu, rank(menu, many, begins=True)) == "AB"
    assert names(menu, rank(menu, many, begins=False)) == "BA"
    # Where it is cached already, this request changes nothing for them.
    warm = (menu[0], menu[1]._replace(prospect=Prospect(15_000, 14_000, 0, 400)))
    plain = [one.score for one in rank(warm, few, begins=True)]
    assert [one.score for one in rank(warm, many, begins=True)] == plain


def test_a_host_that_fails_pays_for_what_another_then_costs() -> None:
    steady, shaky = Rated("S", FIRST, C, Keep(0.9, 0.9)), Rated("F", FIRST, C, Keep(0.9, 0.9), failing=0.3)
    ranked = rank((shaky, steady), TEN)
    assert names((shaky, steady), ranked) == "SF"
    best, worse = ranked[0].score, ranked[1].score
    assert best is not None
    assert worse is not None
    assert worse - best == ranked[1].now // CHARGED * 300_000 // 10**6
    # It is worth its price as long as that is lower by more: what fails is served elsewhere.
    cheap = shaky._replace(rates=B, keep=Keep(0.999, 0.999))
    assert names((steady, cheap), rank((steady, cheap._replace(rates=rates("0.2", "0.4", "2.00"))), TEN)) == "FS"
    alike = [one._replace(failing=0.3) for one in (shaky, steady)]
    assert [one.score for one in rank(alike, TEN)] == [best, best]


def test_turns_behind_the_edge_of_a_window_are_priced_as_then() -> None:
    dear = rates("0.28", "1.10", "4.38")
    now = rank((MENU[0],), TEN)[0].later
    soon, half, never = (rank((MENU[0]._replace(later_rates=dear, edge=edge),), TEN)[0].later for edge in (0.0, 150.0, 10_000.0))
    assert soon == pytest.approx(2 * now, abs=10)
    assert half == pytest.approx(1.5 * now, rel=0.001)
    assert never == pytest.approx(now, abs=10)


def test_a_warm_place_stays_for_a_small_gain_and_goes_for_a_large_one() -> None:
    warm = Rated("W", Prospect(15_000, 14_000, 13_000, 400), A, Keep(0.9, 0.9), warm=True)
    alone = rank((warm,), NOTHING_MORE)[0].score
    assert alone is not None
    for part, first in ((0.97, "WO"), (0.93, "OW")):
        other = Rated("O", Prospect(0, 0, 0, 1), Rates(0, 0, int(alone * part) * 10**6))
        ranked = rank((other, warm), NOTHING_MORE)
        assert names((other, warm), ranked) == first
        assert (ranked[0].why == STAYS) is (first == "WO")
        # Where nothing is cached, nothing holds it.
        cold = warm._replace(prospect=Prospect(15_000, 0, 0, 400))
        cheap = Rated("O", Prospect(0, 0, 0, 1), Rates(0, 0, int((rank((cold,), NOTHING_MORE)[0].score or 0) * part) * 10**6))
        assert names((cheap, cold), rank((cheap, cold), NOTHING_MORE)) == "OW"


def test_another_currency_is_converted_rounded_up_and_without_a_rate_last() -> None:
    yuan = Rated("Y", FIRST, A, Keep(0.95, 0.97), rate=(1, 7))
    unknown = yuan._replace(name="U", rate=None)
    ranked = rank((MENU[0], unknown, yuan), TEN)
    assert names((MENU[0], unknown, yuan), ranked) == "YAU"
    assert ranked[0].score == -(-(ranked[0].now + ranked[0].later) // 7)
    assert (ranked[2].score, ranked[2].why) == (None, UNCOMPARABLE)


def test_haste_has_a_price_where_someone_names_one() -> None:
    quick, slow = (MENU[0]._replace(name=name, first_token=first, pace=pace) for name, first, pace in (("Q", 0.5, 100.0), ("S", 5.0, 20.0)))
    assert names((slow, quick), rank((slow, quick), TEN)) == "SQ"
    assert names((slow, quick), rank((slow, quick), TEN, hurry=NANO)) == "QS"


# ---- trying


def tried(rated: tuple[Rated, ...], begins: bool = True, conversation: int = EXPLORED) -> list[Ranked]:
    return rank(rated, TEN, conversation=conversation, begins=begins)


def test_one_conversation_in_many_tries_what_may_be_better() -> None:
    doubtful = Rated("D", FIRST, rates("0.05", "0.55", "2.19"), Keep(0.3, 0.95))
    assert names((MENU[0], doubtful), tried((MENU[0], doubtful))) == "DA"
    assert tried((MENU[0], doubtful))[0].why == TRIED
    for begins, conversation in ((True, EXPLORED + 1), (False, EXPLORED)):
        assert names((MENU[0], doubtful), tried((MENU[0], doubtful), begins, conversation)) == "AD"
    # What is known to be worse is not tried, nor what is the best anyway.
    known = doubtful._replace(keep=Keep(0.3, 0.31))
    assert names((MENU[0], known), tried((MENU[0], known))) == "AD"


def test_what_many_share_is_tried_where_it_would_be_cheap() -> None:
    shared = Prospect(15_000, 14_000, 0, 400)
    menu = (MENU[1]._replace(prospect=shared), MENU[0]._replace(keep=Keep(0.1, 0.2, 0.95)))
    assert names(menu, rank(menu, NOTHING_MORE, conversation=1, begins=True)) == "BA"
    assert names(menu, rank(menu, NOTHING_MORE, conversation=EXPLORED, begins=True)) == "AB"


def test_at_most_one_in_a_hundred_conversations_tries() -> None:
    assert EXPLORED > 100


# ---- the other modes


def test_order_keeps_the_order_and_counts_all_the_same() -> None:
    ranked = rank(MENU, TEN, "order")
    assert names(MENU, ranked) == "ABC"
    assert None not in [one.score for one in ranked]


def test_fastest_is_by_the_end_of_the_answer() -> None:
    def timed(first: float | None, pace: float | None, failing: float = 0.0) -> Rated:
        return MENU[0]._replace(first_token=first, pace=pace, failing=failing)

    quick, slow, unknown, shaky = timed(1.0, 80.0), timed(0.2, 10.0), timed(None, None), timed(1.0, 80.0, 0.9)
    ranked = rank((slow, unknown, shaky, quick), TEN, "fastest")
    assert [one.number for one in ranked] == [1, 3, 0, 2]
    # Of equally fast ones, the cheaper.
    two = (MENU[2], MENU[0])
    assert names(two, rank(two, TEN, "fastest")) == "AC"


RATED = st.builds(
    Rated,
    st.just("x"),
    st.builds(
        lambda p, k, h, o: Prospect(p, p * k // 100, p * k * h // 10_000, o),
        st.integers(1, 10**6),
        st.integers(0, 99),
        st.integers(0, 100),
        st.integers(1, 10**5),
    ),
    st.builds(Rates, *[st.integers(0, 10**11)] * 3),
    st.builds(
        lambda a, b, trust: Keep(min(a, b) + trust * abs(a - b), max(a, b), max(a, b), trust, max(a, b), min(a, b)),
        *[st.floats(0, 1)] * 2,
        st.sampled_from([0.0, 0.3, 0.99, 1.0]),
    ),
    st.none() | st.builds(Rates, *[st.integers(0, 10**11)] * 3),
    st.none() | st.floats(0, 10**5),
    st.floats(0, 1),
    st.none() | st.floats(0, 100),
    st.none() | st.floats(0, 1000),
    st.booleans(),
    st.none() | st.tuples(st.integers(1, 100), st.integers(1, 100)),
)


@given(
    st.lists(RATED, min_size=1, max_size=8),
    st.builds(
        lambda turns, repeated, new, pause, others, shared: Outlook(turns, repeated, new, pause, others=others, shared=shared),
        st.floats(0, 100),
        st.integers(0, 10**7),
        st.integers(0, 10**6),
        st.floats(0, 10**4),
        st.floats(0, 200),
        st.integers(0, 10**6),
    ),
    st.sampled_from(["cheapest", "order", "fastest"]),
    st.integers(0, 2**64 - 1),
    st.booleans(),
)
def test_every_candidate_comes_once_and_money_stays_whole(
    rated: list[Rated], outlook: Outlook, mode: str, conversation: int, begins: bool
) -> None:
    ranked = rank(rated, outlook, mode, conversation, begins)
    assert sorted(one.number for one in ranked) == list(range(len(rated)))
    assert all(type(one.now) is int and type(one.later) is int and type(one.score) in (int, type(None)) for one in ranked)
    assert rank(rated, outlook, mode, conversation, begins) == ranked
    if mode == "cheapest":
        comparable = [one.score is not None for one in ranked]
        assert comparable == sorted(comparable, reverse=True)
