"""What one answer used: every report shape, what absurd figures become, and our own count where there is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from gateway.dialects import read_json, write_json
from gateway.hosts import Deployment
from gateway.meter import KEPT, Meter, Tally
from gateway.tokens import TextCounter
from gateway.usage import Usage
from tests.answers import deployment

DEEPSEEK = {"tokenizer": "deepseek"}


def metered(usage: Any, timings: Any = None, target: Deployment | None = None, prompt: int = 7, choices: int = 1) -> Meter:
    """A meter after a finished stream with this report."""
    meter = Meter(target or deployment(contract=DEEPSEEK), prompt, choices)
    meter.finish = "stop"
    meter.answer.add(" one")
    meter.report(_raw(usage), _raw(timings), final=True)
    return meter


def _raw(value: Any) -> Raw:
    if value is None:
        return Raw()
    return Raw(value if isinstance(value, bytes) else write_json(value))


BASE = {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29}
# usage, timings, (hit, miss, output, reasoning), hit's source
REPORTS: list[tuple[dict[str, Any], Any, tuple[int, int, int, int], str]] = [
    (BASE, None, (0, 20, 9, 0), "unknown"),
    ({**BASE, "prompt_tokens_details": None, "completion_tokens_details": None}, None, (0, 20, 9, 0), "unknown"),
    ({**BASE, "prompt_tokens_details": {"cached_tokens": 0}}, None, (0, 20, 9, 0), "reported"),
    ({**BASE, "prompt_tokens_details": {"cached_tokens": 16}}, None, (16, 4, 9, 0), "reported"),
    ({**BASE, "prompt_cache_hit_tokens": 20, "prompt_cache_miss_tokens": 0}, None, (20, 0, 9, 0), "reported"),
    ({"prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 6, "completion_tokens": 9}, None, (4, 6, 9, 0), "reported"),
    ({**BASE, "completion_tokens_details": {"reasoning_tokens": 5}}, None, (0, 20, 9, 5), "unknown"),
    ({**BASE, "reasoning_tokens": 5}, None, (0, 20, 9, 5), "unknown"),
    ({**BASE, "completion_tokens_details": {"reasoning_tokens": 30}}, None, (0, 20, 39, 30), "unknown"),
    (BASE, {"cache_n": 12, "prompt_n": 8, "prompt_ms": 1.5}, (12, 8, 9, 0), "reported"),
    ({**BASE, "prompt_tokens_details": {"cached_tokens": 3}}, {"cache_n": 12}, (3, 17, 9, 0), "reported"),
    ({"prompt_tokens": 0, "completion_tokens": 0}, None, (0, 0, 0, 0), "unknown"),
]


@pytest.mark.parametrize(("usage", "timings", "counts", "hit_source"), REPORTS)
def test_a_report_is_read_in_every_shape(usage: dict[str, Any], timings: Any, counts: tuple[int, int, int, int], hit_source: str) -> None:
    meter = metered(usage, timings)

    found = meter.usage()

    assert tuple(found.counts().values()) == counts
    assert found.sources.cache_hit == hit_source
    assert found.reported
    assert not meter.disputed


@pytest.mark.parametrize("path", ["usage.cache.hits", "cache.hits", ["nothing.here", "cache.hits"]])
def test_a_host_s_row_names_where_its_cached_tokens_stand(path: Any) -> None:
    target = deployment({"cached": path})

    assert metered({**BASE, "cache": {"hits": 16}}, target=target).usage().cache_hit == 16


ABSURD: list[Any] = [
    {**BASE, "prompt_tokens": -1},
    {**BASE, "completion_tokens": -1},
    {**BASE, "prompt_tokens": "20"},
    {**BASE, "prompt_tokens": 20.5},
    {**BASE, "prompt_tokens": 1e300},
    {**BASE, "prompt_tokens": True},
    {**BASE, "prompt_tokens": 2 * 65536 + 1},
    {**BASE, "completion_tokens": 10**30},
    {**BASE, "prompt_tokens": None},
    {"prompt_tokens": 20},
    {**BASE, "prompt_tokens_details": {"cached_tokens": 21}},
    {**BASE, "prompt_tokens_details": {"cached_tokens": "x"}},
    {**BASE, "prompt_cache_hit_tokens": -5},
    {**BASE, "completion_tokens_details": {"reasoning_tokens": -5}},
    b'{"prompt_tokens":NaN,"completion_tokens":9}',
    b'{"prompt_tokens":20,"completion_tokens":Infinity}',
    [1],
    "20",
]


@pytest.mark.parametrize("usage", ABSURD, ids=str)
def test_an_absurd_report_is_disputed_and_counted_instead(usage: Any) -> None:
    meter = metered(usage)

    assert meter.billed() is None
    found = meter.usage()

    assert (found.cache_hit, found.cache_miss, found.output) == (0, 7, 1)
    assert (found.sources.cache_miss, found.sources.output) == ("counted", "counted")
    assert meter.disputed


def test_hits_and_misses_that_do_not_sum_to_the_prompt_are_disputed_but_the_prompt_stands() -> None:
    meter = metered({**BASE, "prompt_cache_hit_tokens": 5, "prompt_cache_miss_tokens": 5})

    assert meter.usage().prompt == 20
    assert meter.disputed


def test_n_answers_may_use_n_times_the_output() -> None:
    many = {**BASE, "completion_tokens": 200_000}

    assert metered(many).disputed
    assert metered(many, choices=2).usage().output == 200_000


@pytest.mark.parametrize("usage", [None, b"null", {}])
def test_an_answer_without_a_report_is_counted_and_never_free(usage: Any) -> None:
    meter = metered(usage, prompt=0)
    meter.reasoning.add(" two three")

    found = meter.usage()

    # Two texts and the end of thinking.
    assert (found.cache_miss, found.output, found.reasoning) == (1, 4, 2)
    assert found.sources.cache_hit == "unknown"
    assert not found.reported
    assert not meter.disputed
    assert meter.reported == {}


def test_a_cut_answer_is_counted_and_takes_the_prompt_of_an_interim_report() -> None:
    meter = Meter(deployment(contract=DEEPSEEK), 7)
    meter.answer.add(" one two")
    meter.report(_raw({**BASE, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 16}}), Raw(), final=False)

    found = meter.usage()

    assert tuple(found.counts().values()) == (16, 4, 2, 0)
    assert (found.sources.cache_hit, found.sources.cache_miss, found.sources.output) == ("reported", "reported", "counted")


def test_an_interim_report_of_zero_says_nothing() -> None:
    meter = Meter(deployment(contract=DEEPSEEK), 7)
    meter.answer.add(" one two")
    meter.report(_raw({"prompt_tokens": 0, "completion_tokens": 0}), Raw(), final=False)

    assert tuple(meter.usage().counts().values()) == (0, 7, 2, 0)


def test_a_report_after_the_finish_is_the_bill_even_if_the_stream_was_cut_then() -> None:
    assert metered(BASE).usage().reported


def test_the_last_report_counts_and_reports_are_never_summed() -> None:
    meter = metered(BASE)
    meter.report(_raw({**BASE, "completion_tokens": 11}), Raw(), final=True)

    assert meter.usage().output == 11


def test_reasoning_that_is_not_reported_is_its_share_of_the_text() -> None:
    meter = metered(BASE)
    meter.reasoning.add("x" * 8)

    found = meter.usage()

    assert (found.output, found.reasoning, found.sources.reasoning) == (9, 9 * 8 // 12, "counted")


@pytest.mark.parametrize(
    ("text", "cost"),
    [
        (b"0.00036", "0.00036"),
        (b"2.624e-6", "0.000002624"),
        (b"0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
        (b"3", "3"),
        (b"0", "0"),
        (b'"0.5"', "0.5"),
        (b"null", None),
        (b"true", None),
        (b"NaN", None),
    ],
)
def test_a_host_s_cost_is_the_decimal_of_its_bytes(text: bytes, cost: str | None) -> None:
    usage = b'{"prompt_tokens":20,"completion_tokens":9,"cost":' + text + b"}"

    assert metered(usage, target=deployment({"cost": "usage.cost"})).host_cost == cost
    assert metered(usage).host_cost is None


def test_a_whole_answer_is_read_like_a_stream() -> None:
    body = read_json(
        b'{"choices":[{"message":{"content":" one","reasoning":" two three","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]},'
        b'"finish_reason":"eos"}],"usage":{"prompt_tokens":20,"completion_tokens":9,"cost":0.10},"timings":{"cache_n":12}}'
    )
    meter = Meter(deployment({"cost": "usage.cost"}, DEEPSEEK), 7)

    meter.feed_answer(body)

    assert meter.usage() == Usage(12, 8, 9, 9 * 10 // 17, meter.usage().sources)
    assert (meter.host_cost, meter.finish, meter.produced) == ("0.10", "stop", True)


def test_a_whole_answer_without_usage_is_counted() -> None:
    meter = Meter(deployment(contract=DEEPSEEK), 7)

    meter.feed_answer({"choices": [{"message": {"content": " one two", "reasoning_content": None}, "finish_reason": "stop"}, 3]})

    assert tuple(meter.usage().counts().values()) == (0, 7, 2, 0)


@pytest.mark.parametrize(
    ("reasoning", "answer", "finish", "output"),
    [
        (" one two", " three", "stop", 4),
        (" one two", " three", None, 4),
        (" one two", "", "stop", 3),
        (" one two", "", "length", 2),
        (" one two", "", None, 2),
        ("", " three", "stop", 1),
    ],
)
def test_a_counted_answer_has_the_token_that_ended_its_thinking(reasoning: str, answer: str, finish: str | None, output: int) -> None:
    meter = Meter(deployment(contract=DEEPSEEK), 7)
    message = {"content": answer, "reasoning_content": reasoning}

    meter.feed_answer({"choices": [{"message": message, "finish_reason": finish}]})

    found = meter.usage()
    assert (found.output, found.reasoning) == (output, 2 if reasoning else 0)


@given(st.lists(st.text(max_size=12).filter(bool), max_size=20))
def test_a_tally_counts_as_the_tokenizer_or_one_for_each_chunk(pieces: list[str]) -> None:
    tally, whole = Tally(TextCounter("deepseek")), TextCounter("deepseek")
    for piece in pieces:
        tally.add(piece)
    whole.feed("".join(pieces))

    assert tally.tokens == max(whole.count, len(pieces))
    assert tally.length == sum(map(len, pieces))


def test_a_host_makes_at_least_one_token_for_each_chunk() -> None:
    tally = Tally(TextCounter("deepseek"))
    for piece in " one":
        tally.add(piece)

    assert tally.tokens == 4


def test_a_tally_keeps_little_text() -> None:
    tally = Tally(TextCounter("none"))
    for _ in range(60):
        tally.add("word " * 20_000)

    assert tally.length == 6_000_000
    assert sum(map(len, tally._pieces)) <= KEPT
    assert tally.tokens > 500_000


def test_a_report_from_the_middle_of_the_answer_is_not_the_bill() -> None:
    meter = Meter(deployment(contract=DEEPSEEK), 7)
    meter.answer.add(" one")
    meter.report(_raw({"prompt_tokens": 20, "completion_tokens": 0}), _raw(None), final=False)
    meter.answer.add(" two")
    meter.finish = "stop"

    found = meter.usage()

    assert meter.billed() is None
    assert (found.prompt, found.output, found.sources.output) == (20, 2, "counted")


def test_an_empty_report_does_not_wipe_a_good_one() -> None:
    meter = metered({"prompt_tokens": 20, "completion_tokens": 9})
    meter.report(_raw({}), _raw(None), final=True)
    assert meter.usage().output == 9


@pytest.mark.parametrize("cost", ["1e1000000000", "1e-1000000000", "-1e400"])
def test_a_cost_with_a_monstrous_exponent_is_not_written_out(cost: str) -> None:
    target = deployment({"cost": "usage.cost"}, DEEPSEEK)
    meter = Meter(target, 7)
    meter.feed_answer(read_json(b'{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "cost": %s}}' % cost.encode()))
    assert len(meter.host_cost or "") < 50


def test_what_it_would_be_charged_now_is_known_on_the_way() -> None:
    meter = Meter(deployment(contract=DEEPSEEK), 7)
    assert (meter.output, meter.prompt) == (0, None)
    meter.reasoning.add(" red green")
    assert meter.output == 2
    meter.answer.add(" blue")
    # The end of the thinking is a token of its own.
    assert (meter.output, meter.prompt) == (4, None)
    meter.report(_raw({**BASE, "prompt_tokens_details": {"cached_tokens": 16}}), Raw(), final=False)
    assert (meter.output, meter.prompt) == (9, (16, 4))
    meter.answer.add(" black" * 20)
    assert meter.output == meter.usage().output == 24
