"""max_tokens means what the client's contract says, wherever the request lands. More rows: tests/requests/limits.json."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contracts import Context, Contract, Counts, MaxTokens, ThinkingLimit
from gateway.edits import header
from gateway.errors import ContextExceeded, InvalidRequest
from gateway.limits import Case, Limit, StopRule, limit, write
from gateway.limits import given as limits_in
from tests.asking import Rules, at_host, contract

ANSWER = contract("answer", MaxTokens(counts="answer", default=400, max=800, reasoning_max=3000))
TOTAL = contract("total", MaxTokens(counts="total", default=3200, max=6400))
MODES = contract("modes", MaxTokens(counts="total", default=400, max=800, thinking=ThinkingLimit(default=3200, max=6400)))
UNSAID = contract("unsaid", MaxTokens(counts="total", default=None, max=6400))


def asked(
    body: dict[str, Any],
    client: Contract,
    served: Contract,
    *,
    thinking: bool = True,
    prompt: int = 100,
    cap: int | None = None,
    **where: Any,
) -> Limit:
    reads: dict[str, Any] = {key: where.pop(key) for key in ("counts", "max_tokens") if key in where}
    target = at_host(served, reads, where)
    return limit(body, Case(Rules(), client, target, thinking, prompt, cap), limits_in(body))


ROWS: list[tuple[str, Contract, Contract, dict[str, Any], dict[str, Any], int | None, StopRule | None, int, bool]] = [
    # what, client, served, where, request, sent, stop, the most billed, squeezed
    ("the same contract", ANSWER, ANSWER, {}, {"max_tokens": 500}, 500, None, 3500, False),
    ("clamped", ANSWER, ANSWER, {}, {"max_tokens": 9999}, 800, None, 3800, False),
    ("absent: the vendor's own default", ANSWER, ANSWER, {}, {}, None, None, 3400, False),
    ("absent at a host that counts its own way", ANSWER, ANSWER, {"counts": "total"}, {}, 3400, StopRule("answer", 400), 3400, False),
    ("answer to total", ANSWER, TOTAL, {}, {"max_tokens": 500}, 3500, StopRule("answer", 500), 3500, False),
    ("answer to total, less room", ANSWER, TOTAL, {"max_output": 2000}, {"max_tokens": 500}, 2000, StopRule("answer", 500), 2000, False),
    ("answer to total with no room for thinking", ANSWER, TOTAL, {"max_output": 500}, {"max_tokens": 500}, 500, None, 500, True),
    ("total to answer", TOTAL, ANSWER, {}, {"max_tokens": 500}, 500, StopRule("total", 500), 3500, False),
    ("total to answer, above the answer's range", TOTAL, ANSWER, {}, {"max_tokens": 2000}, 800, StopRule("total", 2000), 3800, False),
    ("total to answer, above all that it can write", TOTAL, ANSWER, {}, {"max_tokens": 5000}, 800, None, 3800, True),
    ("total to total", TOTAL, UNSAID, {}, {"max_tokens": 500}, 500, None, 500, False),
    ("total above the host's ceiling", TOTAL, UNSAID, {"max_output": 1000}, {"max_tokens": 5000}, 1000, None, 1000, True),
    ("max_completion_tokens is the total", ANSWER, ANSWER, {}, {"max_completion_tokens": 500}, 500, StopRule("total", 500), 3500, False),
    ("max_completion_tokens has the wider range", ANSWER, TOTAL, {}, {"max_completion_tokens": 9999}, 3800, None, 3800, False),
    ("another contract's default", TOTAL, UNSAID, {}, {}, 3200, None, 3200, False),
    ("no default anywhere", UNSAID, TOTAL, {}, {}, None, None, 6400, False),
    ("thinking has its own range", MODES, MODES, {}, {"max_tokens": 5000}, 5000, None, 5000, False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("client", "served", "where", "body", "sent", "stop", "most", "squeezed"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_the_limit_is_translated(
    client: Contract,
    served: Contract,
    where: dict[str, Any],
    body: dict[str, Any],
    sent: int | None,
    stop: StopRule | None,
    most: int,
    squeezed: bool,
) -> None:
    found = asked(body, client, served, **where)
    assert (found.sent, found.stop, found.most, found.squeezed) == (sent, stop, most, squeezed)
    assert found.fits


@pytest.mark.parametrize(("client", "served"), [(ANSWER, TOTAL), (TOTAL, ANSWER), (MODES, ANSWER)])
def test_without_thinking_answer_and_total_are_the_same(client: Contract, served: Contract) -> None:
    found = asked({"max_tokens": 500}, client, served, thinking=False)
    assert (found.sent, found.stop, found.most, found.edits) == (500, None, 500, ())


@pytest.mark.parametrize("number", [0, -1, True, 1.5, "10", [1]])
def test_a_number_that_is_no_limit_is_always_refused(number: Any) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        asked({"max_tokens": number}, ANSWER, ANSWER)
    assert refusal.value.message == "Invalid max_tokens value, the valid range of max_tokens is [1, 800]"
    assert refusal.value.param == "max_tokens"


@pytest.mark.parametrize(
    ("client", "thinking", "field", "top"),
    [
        (ANSWER, True, "max_tokens", 800),
        (ANSWER, True, "max_completion_tokens", 3800),
        (MODES, False, "max_tokens", 800),
        (MODES, True, "max_tokens", 6400),
    ],
)
def test_a_route_that_refuses_names_the_valid_range(client: Contract, thinking: bool, field: str, top: int) -> None:
    def case(number: int) -> Limit:
        return limit({field: number}, Case(Rules("refuse"), client, at_host(client), thinking, 100), [field])

    with pytest.raises(InvalidRequest, match=rf"\[1, {top}\]"):
        case(top + 1)
    assert case(top).sent is not None


@pytest.mark.parametrize(
    ("body", "sent", "edits"),
    [
        ({"max_tokens": 500}, {"max_completion_tokens": 500}, "rename_max_tokens"),
        ({"max_completion_tokens": 500}, {"max_completion_tokens": 500}, ""),
        ({"max_output_tokens": 500}, {"max_completion_tokens": 500}, "rename_max_output_tokens"),
        ({"max_tokens": 500, "max_completion_tokens": 500}, {"max_completion_tokens": 500}, "drop_max_tokens"),
        ({"max_tokens": None, "max_completion_tokens": 500}, {"max_tokens": None, "max_completion_tokens": 500}, ""),
        ({"max_tokens": 9999}, {"max_completion_tokens": 6400}, "max_tokens=9999->6400, rename_max_tokens"),
        ({}, {}, ""),
    ],
)
def test_the_limit_goes_under_the_name_that_the_host_reads(body: dict[str, Any], sent: dict[str, Any], edits: str) -> None:
    target = at_host(TOTAL, {"max_tokens": "max_completion_tokens"})
    found = limit(body, Case(Rules(), TOTAL, target, True, 100), limits_in(body))
    written = dict(body)
    write(written, found, target, limits_in(body))
    assert (written, header(found.edits)) == (sent, edits)


def test_two_limits_that_differ_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="max_tokens and max_completion_tokens"):
        asked({"max_tokens": 1, "max_completion_tokens": 2}, TOTAL, TOTAL)


SMALL = contract("small", MaxTokens(counts="total", default=3200, max=6400), context=Context(tokens=8000))


def test_certain_overflow_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(ContextExceeded) as refusal:
        asked({"max_tokens": 6000}, SMALL, SMALL, prompt=3000)
    assert refusal.value.message == (
        "This model's maximum context length is 8000 tokens. However, you requested 9000 tokens (3000 in the messages, "
        "6000 in the completion). Please reduce the length of the messages or completion."
    )
    with pytest.raises(ContextExceeded, match="0 in the completion"):
        asked({}, SMALL, SMALL, prompt=10_700)


@pytest.mark.parametrize(("prompt", "fits"), [(1000, True), (2000, True), (2001, False), (2600, False)])
def test_what_probably_does_not_fit_is_said_but_not_refused(prompt: int, fits: bool) -> None:
    assert asked({"max_tokens": 6000}, SMALL, SMALL, prompt=prompt).fits is fits


def test_only_what_the_client_did_not_ask_for_gives_way_to_a_long_prompt() -> None:
    # A default: prompt, an eighth of it for the estimate's error, and a margin are kept free.
    assert asked({}, TOTAL, SMALL, prompt=4800).sent == 8000 - 4800 - 600 - 64
    # The allowance for thinking, but never the answer itself.
    assert asked({"max_tokens": 500}, ANSWER, SMALL, prompt=4800).sent == 8000 - 4800 - 600 - 64
    assert asked({"max_tokens": 500}, ANSWER, SMALL, prompt=7000).sent == 500
    # "As much as there is".
    assert asked({"max_tokens": 6400}, SMALL, SMALL, prompt=4800).sent == 8000 - 4800 - 600 - 64


COUNTS = st.sampled_from(["answer", "total"])


@given(
    COUNTS,
    COUNTS,
    st.booleans(),
    st.integers(1, 20_000),
    st.one_of(st.none(), st.integers(1, 9000)),
    st.sampled_from(["max_tokens", "max_completion_tokens"]),
)
def test_no_answer_can_exceed_what_was_asked(
    theirs: Counts, ours: Counts, thinking: bool, number: int, ceiling: int | None, field: str
) -> None:
    client = ANSWER if theirs == "answer" else TOTAL
    served = contract("served", MaxTokens(counts=ours, default=400, max=5000, reasoning_max=3000 if ours == "answer" else 0))
    found = asked({field: number}, client, served, thinking=thinking, max_output=ceiling)
    counted: Counts = theirs if field == "max_tokens" else "total"
    assert found.sent is not None

    bounds = [found.sent] if ours == counted or not thinking or ours == "total" else [found.most]
    bounds += [found.stop.tokens] if found.stop is not None and found.stop.counts == counted else []
    assert min(bounds) <= number
    assert 1 <= found.sent <= min(5000, ceiling or 5000)
    assert found.most >= found.sent


# A cap: the most output in all, whatever was asked

CAPS: list[tuple[str, Contract, Contract, dict[str, Any], int, int | None, StopRule | None, str]] = [
    # what, client, served, request, cap, sent, stop, edits
    ("below it", TOTAL, TOTAL, {"max_tokens": 500}, 600, 500, None, ""),
    ("above it", TOTAL, TOTAL, {"max_tokens": 500}, 400, 400, None, "max_tokens=500->400"),
    ("nothing asked, a smaller default", TOTAL, TOTAL, {}, 3200, None, None, ""),
    ("nothing asked, a larger default", TOTAL, TOTAL, {}, 3000, 3000, None, "max_tokens=none->3000"),
    ("no default anywhere", UNSAID, TOTAL, {}, 3000, 3000, None, "max_tokens=none->3000"),
    ("an answer, with its thinking below it", ANSWER, ANSWER, {"max_tokens": 500}, 3500, 500, None, ""),
    ("an answer, whose thinking is above it", ANSWER, ANSWER, {"max_tokens": 500}, 3499, 500, StopRule("total", 3499), ""),
    ("an answer that is above it", ANSWER, ANSWER, {"max_tokens": 500}, 400, 400, StopRule("total", 400), "max_tokens=500->400"),
    ("answer to total", ANSWER, TOTAL, {"max_tokens": 500}, 2000, 2000, StopRule("answer", 500), "max_tokens=500->2000"),
    ("answer to total, without room for thinking", ANSWER, TOTAL, {"max_tokens": 500}, 500, 500, None, ""),
    ("total to answer", TOTAL, ANSWER, {"max_tokens": 900}, 600, 600, StopRule("total", 600), "max_tokens=900->600"),
    ("total to answer, below it", TOTAL, ANSWER, {"max_tokens": 500}, 600, 500, StopRule("total", 500), ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("client", "served", "body", "cap", "sent", "stop", "edits"), [row[1:] for row in CAPS], ids=[row[0] for row in CAPS]
)
def test_a_cap_counts_reasoning_and_answer_together(
    client: Contract, served: Contract, body: dict[str, Any], cap: int, sent: int | None, stop: StopRule | None, edits: str
) -> None:
    found = asked(body, client, served, cap=cap)
    assert (found.sent, found.stop, header(found.edits), found.squeezed) == (sent, stop, edits, False)


@given(
    st.sampled_from([ANSWER, TOTAL, UNSAID, MODES]),
    st.sampled_from([ANSWER, TOTAL, UNSAID, MODES]),
    st.booleans(),
    st.one_of(st.none(), st.integers(1, 9000)),
    st.integers(1, 9000),
)
def test_no_answer_can_exceed_a_cap_and_one_above_all_changes_nothing(
    client: Contract, served: Contract, thinking: bool, number: int | None, cap: int
) -> None:
    body = {} if number is None else {"max_tokens": number}
    free, found = (asked(body, client, served, thinking=thinking, cap=each) for each in (None, cap))
    bounds = [found.most, *([found.stop.tokens] if found.stop is not None and found.stop.counts == "total" else [])]
    assert min(bounds) <= cap
    if free.most <= cap:
        assert found == free


def test_a_prompt_that_fits_beside_the_cap_is_not_refused_for_what_was_asked() -> None:
    assert asked({"max_tokens": 6000}, SMALL, SMALL, prompt=3000, cap=2000).sent == 2000
