"""Reasoning is found under every name; inline thinking splits the same however the text is cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.reasoning import ThinkSplitter, field_of, split, text_of

MESSAGES: list[tuple[dict[str, Any], str | None, str | None]] = [
    ({"content": "a"}, None, None),
    ({"reasoning_content": "r"}, "reasoning_content", "r"),
    ({"reasoning_content": ""}, "reasoning_content", ""),
    ({"reasoning_content": None, "reasoning": "r"}, "reasoning", "r"),
    ({"reasoning_content": "a", "reasoning": "b"}, "reasoning_content", "a"),
    (
        {"reasoning_details": [{"type": "reasoning.text", "text": "a"}, {"type": "reasoning.summary", "summary": "b"}]},
        "reasoning_details",
        "ab",
    ),
    ({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}, None, None),
    ({"reasoning": {"not": "text"}}, None, None),
]


@pytest.mark.parametrize(("message", "name", "text"), MESSAGES)
def test_reasoning_is_read_under_every_name(message: dict[str, Any], name: str | None, text: str | None) -> None:
    assert (field_of(message), text_of(message)) == (name, text)


TEXTS = [
    # text, assume_open, reasoning, content
    ("<think>\nwhy\n</think>\n\nbecause", False, "why", "because"),
    ("  <think>why</think>because", False, "why", "because"),
    ("<think></think>because", False, "", "because"),
    ("because", False, "", "because"),
    ("say <think>not this</think>", False, "", "say <think>not this</think>"),
    ("<think>a</think>b<think>c</think>d", False, "a", "b<think>c</think>d"),
    ("<think>never ends", False, "never ends", ""),
    ("<thin", False, "", "<thin"),
    ("<think>a </thin b</think>c", False, "a </thin b", "c"),
    ("why\n</think>\n\nbecause", True, "why", "because"),
    ("<think>why</think>because", True, "why", "because"),
    ("never ends", True, "never ends", ""),
    ("</think>because", True, "", "because"),
    ("why</think>because", False, "", "why</think>because"),
    ("", True, "", ""),
]


@pytest.mark.parametrize(("text", "assume_open", "reasoning", "content"), TEXTS)
def test_a_whole_text_splits_into_reasoning_and_content(text: str, assume_open: bool, reasoning: str, content: str) -> None:
    assert split(text, assume_open) == (reasoning, content)


def pieces(text: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    return [text[a:b] for a, b in pairwise(places)]


@pytest.mark.parametrize(("text", "assume_open", "reasoning", "content"), TEXTS)
def test_a_text_fed_by_characters_splits_the_same(text: str, assume_open: bool, reasoning: str, content: str) -> None:
    splitter = ThinkSplitter(assume_open)
    parts = [splitter.feed(character) for character in text] + [splitter.close()]
    assert ("".join(r for r, _ in parts), "".join(c for _, c in parts)) == (reasoning, content)


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<", "/", "think>", "\n", " ", "a", "bc"])).map("".join),
    st.lists(st.integers(0, 60)),
    st.booleans(),
)
def test_however_the_text_is_cut_the_parts_are_the_same(text: str, cuts: list[int], assume_open: bool) -> None:
    splitter = ThinkSplitter(assume_open)
    parts = [splitter.feed(piece) for piece in pieces(text, cuts)] + [splitter.close()]

    assert ("".join(r for r, _ in parts), "".join(c for _, c in parts)) == split(text, assume_open)


def test_text_is_passed_on_as_soon_as_it_is_certain() -> None:
    splitter = ThinkSplitter()
    assert splitter.feed("<think>wh") == ("wh", "")
    assert splitter.feed("y</th") == ("y", "")
    assert splitter.feed("ink>be") == ("", "be")
    assert splitter.feed("cause <think>") == ("", "cause <think>")
    assert splitter.close() == ("", "")
