"""Allowances: bytes may stand for tokens only while they are certainly enough; where they are not, the count is exact."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.allowance import ENDLESS, Allowance, Purse, shorter, tokens_of
from gateway.meter import Meter
from tests.answers import deployment

TOKENIZERS: tuple[Literal["deepseek", "none"], ...] = ("deepseek", "none")
# Words, runs of blanks, digits and signs that join or split, other scripts, and emoji, which are four bytes and more tokens.
TEXTS = st.lists(
    st.sampled_from([" red", "ing", "  ", "\n", "1", "23", "!=", "检票", "é", "👍🏽", "<", "think>", "a" * 40]), min_size=1, max_size=60
)


def purse(tokenizer: Literal["deepseek", "none"], mark: int) -> tuple[Purse, Meter]:
    meter = Meter(deployment(contract={"tokenizer": tokenizer}), 7)
    made = Purse(meter, tokenizer)
    made.ready, made.limit, made.mark = True, mark, mark
    return made, meter


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.integers(1, 80), st.sampled_from(TOKENIZERS))
def test_what_fits_never_reaches_the_mark(texts: list[str], mark: int, tokenizer: Literal["deepseek", "none"]) -> None:
    made, meter = purse(tokenizer, mark)
    for text in texts:
        if not made.fits(text):
            break
        meter.answer.add(text)
        assert meter.output < mark


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.integers(1, 80), st.sampled_from(TOKENIZERS))
def test_a_purse_is_low_exactly_from_its_mark_on(texts: list[str], mark: int, tokenizer: Literal["deepseek", "none"]) -> None:
    made, meter = purse(tokenizer, mark)
    for number, text in enumerate(texts):
        tally = meter.reasoning if number % 3 == 0 else meter.answer
        tally.add(text)
        made.add(text)
        assert made.low == (meter.output >= mark)


def test_a_purse_that_is_not_ready_never_counts() -> None:
    made, _ = purse("deepseek", 100)
    made.ready = False
    made.add("x" * 95)
    assert not made.low
    made.add("x")
    assert (made.low, made.used) == (True, 0)


def test_without_an_end_nothing_is_ever_low() -> None:
    made, meter = purse("deepseek", ENDLESS)
    assert made.fits("red " * 100_000)
    assert not made.low
    assert meter.answer.chunks == 0


@settings(max_examples=60, deadline=None)
@given(TEXTS.map("".join), st.integers(1, 30), st.sampled_from(TOKENIZERS))
def test_a_shorter_text_is_a_beginning_that_is_short_enough(text: str, excess: int, tokenizer: Literal["deepseek", "none"]) -> None:
    kept = shorter(text, excess, tokenizer)
    assert text.startswith(kept)
    assert not kept or tokens_of(kept, tokenizer) <= tokens_of(text, tokenizer) - excess


def test_a_shorter_text_is_as_long_as_can_be() -> None:
    assert [shorter(" red green blue", excess, "deepseek") for excess in range(5)] == [" red green blue", " red green", " red", "", ""]


@pytest.mark.parametrize("size", [1, 3, 50])
def test_an_allowance_gives_its_tokens_and_no_more(size: int) -> None:
    allowance, text = Allowance(20, "deepseek"), " red green" * 30
    given_ = "".join(allowance.take(text[at : at + size]) for at in range(0, len(text), size) if not allowance.spent)
    assert allowance.spent
    assert tokens_of(given_, "deepseek") <= 20
    assert size < 50 or given_ == " red green" * 10
    assert allowance.take(" more") == ""
