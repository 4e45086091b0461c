"""The index: what two prompts share is found to within a step of the grid, at the place it was sent to, in bounded memory."""

from __future__ import annotations

import random
import tracemalloc
from hashlib import blake2b
from itertools import pairwise
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contracts import Cache
from gateway.prefix import APART, NO_MATCH, TOGETHER, Index, Place, Prints, packed, prints, shared, unpacked

SECRET = b"s" * 32
BLOCKS, UNITS, NONE = Place("a/m", Cache()), Place("b/m", Cache(mode="units")), Place("c/m", Cache(mode="none"))
Messages = list[dict[str, Any]]


def said(*texts: str, role: str = "user") -> Messages:
    return [{"role": role, "content": text} for text in texts]


def of(*texts: str, tools: Any = None, secret: bytes = SECRET) -> Prints:
    return prints(tools, said(*texts), secret)


def text_of(size: int, seed: int = 0) -> str:
    draw = random.Random(seed)
    return "".join(draw.choice("etaoin shrdlu\n") for _ in range(size))


# ---- prints


def test_every_message_ends_with_a_digest_and_long_ones_have_more() -> None:
    found = of("short", text_of(10_000), "end", tools=[{"type": "function"}])
    assert found.tools
    assert len(found.parts) == 4
    assert found.parts[-1] == len(found.digests) - 1
    assert found.size == found.ends[-1]
    assert len(found.digests) > 20
    assert list(found.ends) == sorted(set(found.ends))


def test_messages_beyond_any_conversation_are_hashed_in_blocks() -> None:
    """So that one prompt of very many does not crowd out what all others sent."""
    texts = [f"{number}" for number in range(APART + 10 * TOGETHER)]
    whole, more, longer = (of(*texts, *behind) for behind in ([], ["a"], ["a"] * TOGETHER))
    assert len(whole.parts) == APART + 10
    assert len(of(*["a"] * 100_000).digests) < 8_000
    assert [prompt.digests[: len(whole.digests)] == whole.digests for prompt in (more, longer)] == [True, True]
    assert shared(whole, of(*texts[:-1], "b")) >= whole.ends[whole.parts[-2]]
    assert shared(whole, of("b", *texts[1:])) < 40


def test_nothing_asked_is_no_print() -> None:
    assert prints(None, [], SECRET).size == 0


def test_the_grid_is_fine_at_the_start_and_coarse_far_in() -> None:
    ends = of(text_of(400_000)).ends
    steps = {end: end - before for before, end in pairwise(ends)}
    assert steps[512] == 256
    assert steps[8192] == 512
    assert steps[128 << 10] == 2048
    assert max(steps.values()) == 8192


def test_prompts_beyond_the_first_megabyte_go_on_in_even_steps() -> None:
    ends = of(text_of(1_300_000)).ends
    assert {end - before for before, end in pairwise(ends[-20:-1])} == {8192}


@given(st.lists(st.text(max_size=400), min_size=1, max_size=8), st.integers(0, 7), st.text(max_size=50))
def test_two_prompts_share_digests_exactly_up_to_where_they_part(texts: list[str], at: int, other: str) -> None:
    at %= len(texts)
    changed = [*texts[:at], texts[at] + "!" + other, *texts[at + 1 :]]
    one, two = of(*texts), of(*changed)
    same = [digest for digest, again in zip(one.digests, two.digests, strict=False) if digest == again]
    part = one.parts[at - 1] + 1 if at else 0
    assert len(same) >= part
    assert one.digests[: len(same)] == two.digests[: len(same)]
    # The changed message differs before its end, and nothing behind it is alike.
    assert len(same) <= one.parts[at]


def test_other_tools_or_another_secret_share_nothing() -> None:
    one = of("hello")
    assert set(one.digests).isdisjoint(of("hello", tools=[{"type": "function"}]).digests)
    assert set(one.digests).isdisjoint(of("hello", secret=b"t" * 32).digests)


# ---- match and note


def test_what_was_sent_is_known_there_and_nowhere_else() -> None:
    index, prompt = Index(), of("system", "question")
    index.note(BLOCKS, prompt, 100.0)
    longer = of("system", "question", "answer", "more")
    found = index.match(BLOCKS, longer, 130.0)
    assert (found.size, found.idle) == (prompt.size, 30.0)
    assert index.match(Place("other", Cache()), longer, 130.0) is NO_MATCH
    assert index.match(BLOCKS, of("another system"), 130.0) is NO_MATCH


def test_a_beginning_that_others_use_is_fresher_than_the_rest() -> None:
    index = Index()
    index.note(BLOCKS, of("shared", "mine"), 0.0)
    index.note(BLOCKS, of("shared", "theirs"), 990.0)
    found = index.match(BLOCKS, of("shared", "mine", "more"), 1000.0)
    assert found.steps == ((of("shared", "mine").size, 1000.0), (of("shared").size, 10.0))


def test_a_clock_that_goes_back_makes_no_negative_pause() -> None:
    index, prompt = Index(), of("hello")
    index.note(BLOCKS, prompt, 100.0)
    assert index.match(BLOCKS, prompt, 50.0).idle == 0.0


def test_whole_units_hit_only_where_one_ends() -> None:
    """A+B, then A+C: a miss, for no unit ends with A; by then A was seen twice, so A+D hits A."""
    index, a = Index(), text_of(2000)
    index.note(UNITS, of(a, "B"), 0.0)
    second = of(a, "C")
    assert index.match(UNITS, second, 1.0) is NO_MATCH
    assert index.match(BLOCKS, second, 1.0) is NO_MATCH
    index.note(UNITS, second, 1.0)
    assert index.match(UNITS, of(a, "D"), 2.0).size >= of(a).size
    # The end of an earlier input is a unit at once.
    assert index.match(UNITS, of(a, "B", "answer", "next"), 2.0).size == of(a, "B").size


def test_where_nothing_is_cached_the_index_still_knows_what_was_sent() -> None:
    index = Index()
    index.note(NONE, of("hello"), 0.0)
    assert index.match(NONE, of("hello", "more"), 1.0).size == of("hello").size


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.floats(0, 50)), min_size=1, max_size=30))
def test_the_binary_search_finds_what_a_walk_would(asked: list[tuple[int, int, int, float]]) -> None:
    index, now = Index(entries=60, age=200.0), 0.0
    for one, two, three, pause in asked:
        now += pause
        prompt = of(f"s{one}", f"u{two}", f"v{three}")
        match = index.match(BLOCKS, prompt, now)
        alone = [index.match(BLOCKS, Prints(prompt.ends[: n + 1], prompt.digests[: n + 1]), now).size for n in range(3)]
        assert match.size == max(alone)
        sizes, idles = [size for size, _ in match.steps], [idle for _, idle in match.steps]
        assert sizes == sorted(sizes, reverse=True)
        assert idles == sorted(idles, reverse=True)
        index.note(BLOCKS, prompt, now)
        assert index.match(BLOCKS, prompt, now).size == prompt.size


# ---- bounds


def test_memory_is_bounded_by_size_and_the_longest_unused_goes_first() -> None:
    index = Index(entries=100)
    for number in range(500):
        index.note(BLOCKS, of("kept"), float(number))
        index.note(BLOCKS, of(f"once {number}"), float(number))
        assert len(index) <= 100
    assert index.match(BLOCKS, of("kept"), 500.0).size
    assert index.match(BLOCKS, of("once 499"), 500.0).size
    assert not index.match(BLOCKS, of("once 1"), 500.0).size


@pytest.mark.parametrize("place", [BLOCKS, UNITS])
def test_what_is_not_used_is_forgotten_by_age(place: Place) -> None:
    index = Index(age=100.0)
    index.note(place, of("old"), 0.0)
    for at in (150.0, 300.0):
        index.note(place, of("new"), at)
    assert index.match(place, of("old"), 301.0) is NO_MATCH
    assert index.match(place, of("new"), 301.0).size


def test_what_came_before_a_clock_was_set_back_is_forgotten_by_age_too() -> None:
    index = Index(age=100.0)
    index.note(BLOCKS, of("old"), 1_000_000.0)
    for at in (0.0, 150.0, 300.0):
        index.note(BLOCKS, of("new"), at)
    assert index.match(BLOCKS, of("old"), 301.0) is NO_MATCH


def conversation(tokens: int, seed: int) -> Index:
    """The index after conversations of 60 turns, 15,000 tokens at first and 700 more a turn: so many distinct tokens in all."""
    index, left, seed = Index(), 4 * tokens, seed * 1000
    while left > 0:
        texts = [text_of(60_000, seed)]
        left -= 60_000
        for turn in range(60):
            index.note(BLOCKS, of(*texts), float(turn))
            texts.append(text_of(2_800, seed + turn + 1))
            left -= 2_800
            if left <= 0:
                break
        seed += 1000
    return index


def test_a_million_tokens_take_less_than_half_a_megabyte(capsys: pytest.CaptureFixture[str]) -> None:
    tracemalloc.start()
    index = conversation(250_000, 1)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    with capsys.disabled():
        print(f"\n  index: {4 * used / 1000:.0f} kB and {4 * len(index)} digests per million tokens")
    assert 4 * used < 500_000


def test_hashing_a_quarter_of_a_megabyte_is_as_fast_as_encoding_it_a_few_times() -> None:
    """Half a millisecond on the machine where it was measured; here by the time that plain hashing of the same bytes takes."""
    messages = said(text_of(256 << 10))

    def best(function: Any) -> float:
        times = []
        for _ in range(15):
            start = perf_counter()
            function()
            times.append(perf_counter() - start)
        return min(times)

    data = text_of(256 << 10).encode()
    assert best(lambda: prints(None, messages, SECRET)) < 8 * best(lambda: blake2b(data).digest())


# ---- other replicas


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_digests_travel_as_they_are(digests: list[int]) -> None:
    assert unpacked(packed(digests)) == tuple(digests)


def test_broken_digests_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple"):
        unpacked(b"1234567")


def test_what_two_prompts_share_in_bytes() -> None:
    one, two = of("same", "one"), of("same", "two")
    assert shared(one, two) == shared(two, one) == of("same").size
    assert shared(one, one) == one.size
    assert shared(one, of("else")) == 0
