"""Whom a refusal keeps away that may be the request's own fault."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.witnesses import EVERYBODY, PARKED, PARKED_ALONE, SAME, Asker, Witnesses

T = 1_700_000_000.0
ANN, BOB, EVE = Asker("search", "ann"), Asker("search", "bob"), Asker("finance", "eve")


def test_one_word_is_nobody_s_and_another_prompt_s_is_the_key_s() -> None:
    seen = Witnesses()
    assert seen.refused(ANN, 10, T) is None
    assert seen.refused(ANN, 10, T) is None
    assert seen.refused(ANN, 11, T) == ANN
    assert [seen.left(who, T, False) for who in (ANN, BOB, EVE)] == [PARKED, 0, 0]
    assert seen.left(ANN, T, True) == PARKED_ALONE
    assert seen.left(ANN, T + PARKED, False) <= 0


def test_a_key_that_sends_one_prompt_only_is_believed_in_the_end() -> None:
    seen = Witnesses()
    assert [seen.refused(ANN, 10, T) for _ in range(SAME)] == [None] * (SAME - 1) + [ANN]


def test_another_key_speaks_for_the_team_and_another_team_for_all() -> None:
    seen = Witnesses()
    seen.refused(ANN, 10, T)
    assert seen.refused(BOB, 10, T) == Asker("search")
    assert seen.left(Asker("search", "new"), T, False) == PARKED
    assert seen.left(EVE, T, False) == 0
    assert seen.refused(EVE, 10, T) == EVERYBODY
    assert seen.idle


def test_whoever_asks_again_makes_the_others_wait_a_little() -> None:
    seen = Witnesses()
    seen.refused(ANN, 10, T)
    seen.refused(BOB, 10, T)
    seen.tried(ANN, T + PARKED)
    assert seen.left(BOB, T + PARKED, False) == PARKED_ALONE
    # Nobody is kept away by somebody else's trial.
    seen.tried(EVE, T + PARKED)
    assert seen.left(EVE, T + PARKED, False) == 0


def test_an_answer_proves_them_wrong_unless_it_was_asked_for_before() -> None:
    seen = Witnesses()
    seen.refused(ANN, 10, T)
    seen.refused(ANN, 11, T)
    assert not seen.answered(T - 1)
    assert seen.left(ANN, T, False) == PARKED
    assert seen.answered(T)
    assert seen.idle and seen.left(ANN, T, False) == 0
    # A clock that was set back by a day does not keep it for ever.
    seen.refused(ANN, 10, T)
    assert seen.answered(T - 86_400)


@given(st.lists(st.tuples(st.sampled_from([ANN, BOB]), st.integers(0, 9), st.floats(0, 900)), max_size=40))
def test_one_team_never_keeps_another_away(refusals: list[tuple[Asker, int, float]]) -> None:
    seen, at = Witnesses(), T
    for asker, prompt, seconds in refusals:
        at += seconds
        assert seen.refused(asker, prompt, at) != EVERYBODY
        assert seen.left(EVE, at, False) == seen.left(EVE, at, True) == 0
        assert seen.left(asker, at, False) <= PARKED
