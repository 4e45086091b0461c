"""One gate: who may try it, when others may follow, and what opens it again."""

from __future__ import annotations

import pytest

from gateway.gate import FIRST_REST, RETURN, STREAK, Alarm, Gate, Trouble
from gateway.witnesses import EVERYBODY, PARKED, PARKED_ALONE, Asker

T = 1_700_000_000.0
ANN, EVE = Asker("search", "ann"), Asker("finance", "eve")
DOUBT, SURE = Trouble("locked", sure=False), Trouble("locked")


def shut() -> Gate:
    gate = Gate()
    for _ in range(STREAK):
        gate.failed(T, "it failed")
    gate.take(EVERYBODY, T + FIRST_REST)
    return gate


def test_others_may_come_once_the_trial_has_begun_to_answer() -> None:
    gate = shut()
    assert "another request is trying it" in str(gate.barred(T + FIRST_REST))
    gate.answered(T + FIRST_REST)
    assert gate.barred(T + FIRST_REST) is None


@pytest.mark.parametrize(("later", "rest"), [(0, 2 * FIRST_REST), (RETURN, 0)])
def test_a_trial_that_breaks_off_soon_after_it_has_begun_has_failed(later: float, rest: float) -> None:
    gate = shut()
    gate.answered(T + FIRST_REST)
    at = T + FIRST_REST + later
    gate.failed(at, "it failed", trial=True)
    assert gate.wait(at) == rest


def test_who_was_refused_last_is_not_the_next_to_try() -> None:
    gate = Gate()
    gate.park(DOUBT, T, ANN)
    at = T + PARKED_ALONE
    assert gate.barred(at, True, ANN) is not None
    assert gate.wait(at, True, ANN) == PARKED_ALONE
    assert gate.barred(at, True, EVE) is None
    # It is, where nobody else comes.
    assert gate.barred(at + PARKED_ALONE, True, ANN) is None
    assert gate.barred(T + PARKED, False, ANN) is not None
    assert gate.barred(T + PARKED, False, EVE) is None


def test_where_no_request_can_be_at_fault_anybody_tries() -> None:
    gate = Gate()
    gate.park(SURE, T, ANN)
    assert gate.barred(T + PARKED, False, ANN) is None


def test_a_doubt_about_a_shut_one_lets_somebody_else_try_at_once() -> None:
    gate = Gate()
    gate.park(SURE, T, ANN)
    at = T + PARKED
    gate.take(ANN, at)
    assert gate.doubted(Trouble("missing", sure=False), at, ANN, 1) is None
    assert gate.barred(at, False, ANN) is not None
    assert gate.barred(at, False, EVE) is None


def test_what_is_seen_to_be_mended_opens_at_once() -> None:
    mended: list[bool] = []
    gate = Gate()
    gate.alarm = Alarm("there", "", "locked", "", T)
    gate.park(Trouble("locked", mended=lambda: bool(mended)), T, ANN)
    assert gate.barred(T) is not None
    mended.append(True)
    assert gate.barred(T) is None
    assert gate.alarm is None
