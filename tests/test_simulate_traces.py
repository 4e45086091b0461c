"""Traces: what a prompt shares with earlier ones survives folding; every format is read, every wrong line is named."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from benchmarks.sessions import KINDS, sessions
from gateway.outcome import Break, PlanNote
from gateway.simulate.formats import parse, read, turns, written
from gateway.simulate.trace import Raw, Trace, TraceError, Visit, fold, runs_of
from gateway.usage import Usage
from tests.ledgers import AT, RELEASED, ROW


def shared(one: Visit, other: Visit) -> int:
    """Tokens that two prompts have in common, as their paths tell."""
    tokens = 0
    for mine, theirs, end in zip(one.path, other.path, one.ends, strict=False):
        if mine != theirs:
            break
        tokens = end
    return tokens


def traced(*lines: dict[str, object], apart: bool = False) -> Trace:
    return fold("trace", parse([json.dumps(line).encode() for line in lines], "trace"), apart)


def mooncake(at: float, tokens: int, ids: list[int], **more: object) -> dict[str, object]:
    return {"timestamp": at, "input_length": tokens, "output_length": 10, "hash_ids": ids, **more}


def test_a_mooncake_line_is_a_visit() -> None:
    trace = traced(mooncake(3000, 1100, [0, 14, 15]), mooncake(1000, 700, [0, 3]), mooncake(2000, 100, [9]))
    assert [(visit.at, visit.session, visit.prompt, visit.output) for visit in trace.visits] == [
        (1, 0, 700, 10),
        (2, 1, 100, 10),
        (3, 2, 1100, 10),
    ]
    assert trace.sessions == 3
    assert shared(trace.visits[2], trace.visits[0]) == 512
    assert trace.visits[2].ends[-1] == 1100


@pytest.mark.parametrize(
    ("more", "sessions"),
    [({}, 1), ({"session_id": 7}, 1), ({"session": "a"}, 1), ({"agent": "b"}, 1)],
    ids=["second block", "session_id", "session", "agent"],
)
def test_a_session_is_named_or_told_by_the_second_block(more: dict[str, object], sessions: int) -> None:
    first, second = mooncake(0, 1000, [0, 1], **more), mooncake(9, 1500, [0, 1, 2], **more)
    trace = traced(first, second)
    assert trace.sessions == sessions
    assert [visit.turn for visit in trace.visits] == [1, 2]
    assert traced(first, mooncake(9, 900, [0, 5], **(more and {key: "other" for key in more}))).sessions == 2


def test_a_prompt_of_one_block_is_its_own_session() -> None:
    assert traced(mooncake(0, 100, [0]), mooncake(1, 100, [0])).sessions == 2


def test_sessions_apart_share_nothing_even_where_their_ids_agree() -> None:
    lines = [mooncake(0, 1000, [0, 1]), mooncake(1, 1000, [0, 2]), mooncake(2, 1000, [0, 1])]
    together, apart = traced(*lines), traced(*lines, apart=True)
    assert shared(together.visits[0], together.visits[1]) == 512
    assert shared(apart.visits[0], apart.visits[1]) == 0
    assert shared(apart.visits[0], apart.visits[2]) == 1000


@pytest.mark.parametrize("last", [0, 1], ids=["last id", "id after the last"])
def test_run_lengths_in_both_conventions(last: int) -> None:
    """The pairs of a file end with the last id or with the one after it: its first prompt tells which."""
    first = {"session": "s", "agent": "main", "t": 0.5, "input_length": 600, "output_length": 7, "r": [0, 9 + last]}
    second = {**first, "t": 2.5, "input_length": 700, "r": [0, 7 + last, 20, 22 + last]}
    trace = traced(first, second, {**first, "agent": "sub", "t": 3})
    assert (trace.sessions, trace.visits[1].turn, trace.visits[1].at) == (2, 2, 2.5)
    assert shared(trace.visits[0], trace.visits[1]) == 8 * 64
    assert shared(trace.visits[0], trace.visits[2]) == 0


def test_components_are_a_chain() -> None:
    """Passages stand before the history: another passage, and nothing behind it is shared."""

    def line(at: int, passage: int) -> dict[str, object]:
        parts = {"sys_prompt": [1], "passages_ids": [passage], "history": [7], "user_input": [at]}
        return {"timestamp": at, "input_length": 400, "output_length": 5, "session_id": "x", "hash_ids": parts}

    trace = traced(line(0, 5), line(1, 6), line(2, 5))
    assert (shared(trace.visits[0], trace.visits[1]), shared(trace.visits[0], trace.visits[2])) == (100, 300)


WRONG = {
    "no JSON": ('{"timestamp": 1', "trace:2: ", "`hash_ids`"),
    "a missing key": ('{"timestamp": 1, "input_length": 5, "output_length": 5}', "trace:2: ", "missing required field `hash_ids`"),
    "a text for a number": ('{"timestamp": 1, "input_length": "5", "output_length": 5, "hash_ids": []}', "trace:2: ", "$.input_length"),
    "a negative length": ('{"timestamp": 1, "input_length": -5, "output_length": 5, "hash_ids": []}', "trace:2: ", ">= 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_line_is_named_with_what_is_expected(case: str) -> None:
    line, place, words = WRONG[case]
    with pytest.raises(TraceError) as caught:
        parse([json.dumps(mooncake(0, 5, [1])).encode(), line.encode()], "trace")
    assert str(caught.value).startswith(place)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"), [("", "no request"), ("[1]", "trace:1: "), ('{"a": 1}', "trace:1: has the keys a"), ("\xff", "trace:1: ")]
)
def test_what_is_no_trace_at_all(text: str, words: str) -> None:
    with pytest.raises(TraceError, match=re.escape(words)):
        parse(text.encode("latin-1").split(b"\n"), "trace")


def test_an_odd_run_length_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"trace:1: .*odd number"):
        traced({"session": "s", "t": 0, "input_length": 64, "output_length": 1, "r": [0, 1, 2]})
    with pytest.raises(TraceError, match=r"none\.jsonl cannot be read"):
        read(tmp_path / "none.jsonl")


# ---- folding

CHAINS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=2, max_size=12)


@given(CHAINS)
def test_folded_prompts_share_what_their_blocks_share(prompts: list[list[int]]) -> None:
    """Whatever tree of prompts: common tokens by pieces are common tokens by chained blocks."""
    ids: dict[tuple[int, ...], int] = {}
    chains = [[ids.setdefault(tuple(prompt[: end + 1]), len(ids)) for end in range(len(prompt))] for prompt in prompts]
    raws = [Raw(at, at, "", 16 * len(chain) - 3, 1, runs_of(chain), 16) for at, chain in enumerate(chains)]
    visits = fold("trace", raws).visits
    for visit, chain in zip(visits, chains, strict=True):
        for other, theirs in zip(visits, chains, strict=True):
            blocks = next(
                (at for at, (one, two) in enumerate(zip(chain, theirs, strict=False)) if one != two), min(len(chain), len(theirs))
            )
            assert shared(visit, other) == min(16 * blocks, visit.prompt)


def test_what_no_block_covers_is_nobody_elses() -> None:
    trace = traced(mooncake(0, 900, [4], session="a"), mooncake(1, 900, [4], session="a"))
    assert [visit.ends for visit in trace.visits] == [(512, 900)] * 2
    assert shared(*trace.visits) == 512


# ---- our own ledger


def note(conversation: str, turn: int, broke: Break | None = None) -> PlanNote:
    return PlanNote((), conversation=conversation, turn=turn, broke=broke)


def test_a_ledger_becomes_a_trace_without_text() -> None:
    rows = [
        replace(ROW, id="1", started=AT, usage=Usage(0, 1000, 50), plan=note("c1", 1)),
        replace(
            ROW,
            id="3",
            started=AT + timedelta(seconds=9),
            usage=Usage(0, 1800, 70),
            plan=note("c1", 3, Break("messages[0]", 4, 64, "date", 900)),
        ),
        replace(ROW, id="2", started=AT + timedelta(seconds=4), usage=Usage(1000, 400, 60), plan=note("c1", 2)),
        replace(ROW, id="4", started=AT + timedelta(seconds=5), usage=Usage(0, 300, 5), plan=None),
        replace(RELEASED, id="5"),
    ]
    lines = list(written(turns(rows)))
    assert [json.loads(line) for line in lines] == [
        {"timestamp": 0.0, "session": "c1", "input_length": 1000, "output_length": 50, "shared_length": 0},
        {"timestamp": 4000.0, "session": "c1", "input_length": 1400, "output_length": 60, "shared_length": 1000},
        {"timestamp": 5000.0, "session": "alone-2", "input_length": 300, "output_length": 5, "shared_length": 0},
        {"timestamp": 9000.0, "session": "c1", "input_length": 1800, "output_length": 70, "shared_length": 500},
    ]
    trace = fold("ledger", parse(lines, "ledger"))
    first, second, _, third = trace.visits
    assert (shared(first, second), shared(second, third), trace.sessions) == (1000, 500, 2)
    assert b"search" not in b"".join(lines)


def test_a_shorter_prompt_shares_no_more_than_it_has() -> None:
    rows = [
        replace(ROW, id=str(at), started=AT + timedelta(seconds=at), usage=Usage(0, tokens, 1), plan=note("c", at))
        for at, tokens in ((1, 900), (2, 300), (3, 900))
    ]
    visits = fold("ledger", parse(written(turns(rows)), "ledger")).visits
    assert (shared(visits[0], visits[1]), shared(visits[1], visits[2]), shared(visits[0], visits[2])) == (300, 300, 300)


# ---- made-up traffic


@pytest.mark.parametrize("kind", KINDS)
def test_made_up_traffic_is_the_same_for_the_same_seed(kind: str) -> None:
    once, again, other = (sessions(kind, seed, 12) for seed in (1, 1, 2))
    assert once == again != other
    assert [line.timestamp for line in once] == sorted(line.timestamp for line in once)
    trace = fold(kind, parse([line.text().encode() for line in once], kind))
    assert trace.sessions == 12
    assert [visit.prompt for visit in trace.visits] == [line.input_length for line in once]


def reuse(kind: str) -> float:
    """The share of the prompts that the same session's turn before it had already."""
    latest: dict[int, Visit] = {}
    common = whole = 0
    for visit in fold(kind, parse([line.text().encode() for line in sessions(kind, 3, 60)], kind)).visits:
        if visit.session in latest:
            common += shared(visit, latest[visit.session])
            whole += visit.prompt
        latest[visit.session] = visit
    return common / whole if whole else 0.0


def test_each_kind_of_traffic_repeats_itself_as_its_name_says() -> None:
    assert reuse("agents") > 0.9
    assert reuse("shared") > 0.9
    assert reuse("one-shot") == 0.0
    assert 0.05 < reuse("volatile") < 0.4
