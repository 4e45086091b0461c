"""What is learnt from reported answers, and that nothing else teaches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.experience import ENOUGH, FASTEST_PACE, PAIRS, TYPICAL_PACE, Experience
from gateway.usage import Sources, Usage

COUNTED = Sources("unknown", "counted", "counted", "counted")


def test_a_new_deployment_is_taken_as_estimated() -> None:
    experience = Experience()
    assert experience.prompt("novita/r1", 100) == 100
    assert experience.unseen_output("novita/r1", 2000) == 2 * TYPICAL_PACE


def test_reported_answers_correct_prompt_and_pace() -> None:
    experience = Experience()
    for _ in range(40):
        experience.learn("novita/r1", Usage(0, 120, 200, 0), 100, 1000)
    assert 118 <= experience.prompt("novita/r1", 100) <= 122
    assert 195 <= experience.unseen_output("novita/r1", 1000) <= 205
    assert experience.prompt("nebius/r1", 100) == 100, "another deployment learns nothing from it"


def test_one_impossible_answer_does_not_set_the_pace() -> None:
    experience = Experience()
    experience.learn("novita/r1", Usage(0, 120, 393_216, 0), 100, 1)
    assert experience.unseen_output("novita/r1", 1000) == FASTEST_PACE


def test_our_own_counts_teach_nothing() -> None:
    experience = Experience()
    experience.learn("novita/r1", Usage(0, 500, 500, 0, COUNTED), 100, 1000)
    assert experience.prompt("novita/r1", 100) == 100
    assert experience.unseen_output("novita/r1", 1000) == TYPICAL_PACE


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**7)), max_size=20), st.integers(0, 10**7))
def test_an_estimate_is_never_free(lessons: list[tuple[int, int, int]], milliseconds: int) -> None:
    experience = Experience()
    for prompt, output, spent in lessons:
        experience.learn("d", Usage(0, prompt, output, 0), 50, spent)
    assert experience.unseen_output("d", milliseconds) >= 1
    assert experience.prompt("d", 0) >= 1


@given(st.lists(st.integers(0, 10**6), min_size=ENOUGH, max_size=200), st.integers(1, 100))
def test_within_the_usual_output_that_part_of_the_answers_ended(outputs: list[int], percent: int) -> None:
    experience = Experience()
    for output in outputs:
        experience.answered("key", "d", output)
    usual = experience.usual_output("key", "d", percent)
    exact = sorted(outputs)[-(-len(outputs) * percent // 100) - 1]
    assert usual is not None
    assert exact <= usual <= exact * 5 // 4


def test_a_few_answers_and_those_of_others_say_nothing() -> None:
    experience = Experience()
    for _ in range(ENOUGH - 1):
        experience.answered("key", "d", 100)
    assert experience.usual_output("key", "d") is None
    experience.answered("key", "d", 100)
    assert experience.usual_output("key", "d") is not None
    assert experience.usual_output("other", "d") is experience.usual_output("key", "e") is None


def test_old_answers_are_forgotten_as_new_ones_come() -> None:
    experience = Experience()
    for output in [4000] * 1000 + [100] * 1000:
        experience.answered("key", "d", output)
    assert experience.usual_output("key", "d") == 111


def test_no_more_pairs_are_remembered_than_fit_and_the_idle_ones_go_first() -> None:
    experience = Experience()
    for _ in range(ENOUGH):
        experience.answered("busy", "d", 7)
        experience.answered("idle", "d", 7)
    for number in range(PAIRS):
        experience.answered(f"key-{number}", "d", 7)
        experience.answered("busy", "d", 7)
    assert experience.usual_output("busy", "d") == 7
    assert experience.usual_output("idle", "d") is None
