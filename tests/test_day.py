"""An hour of the day of `make prove-day`, with real HTTP and fast clocks; and that its judges see what they are about."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.demo.engine import available
from gateway.emulator.cache import Life, make_cache
from gateway.emulator.prompts import render
from gateway.emulator.tokens import Tokens, tokens_of
from gateway.simulate.hosts import Rule, Store
from gateway.simulate.trace import fold
from proofs.conversations import conversations, trace
from proofs.day import Day, prove
from proofs.day_books import Books, books_of
from proofs.day_play import Played
from proofs.day_predict import policies_of_a_day

# From 00:30 to 01:30 UTC: DeepSeek's peak begins in it.
SHORT = Day(agents=6, chats=70, hours=(0.5, 1.5), cuts=2, questions=2, engine=available(), bound=25.0, vocabulary="fast")


def test_a_part_of_a_day_costs_what_was_foretold_and_every_bill_is_in_the_ledger() -> None:
    verdict = prove(SHORT)

    assert verdict.problems == []
    figures = verdict.figures
    assert figures["requests"] > 150
    assert figures["exact"] > 150
    assert figures["counted"] > 0
    assert figures["fallbacks"] > 0
    assert {name for name, host in figures["hosts"].items() if host["requests"]} >= {"deepseek", "novita"}


# --- the texts are the trace ------------------------------------------------------------------------------------------


def test_equal_seeds_are_equal_days() -> None:
    assert conversations(3, 2, 5) == conversations(3, 2, 5)
    assert conversations(3, 2, 5) != conversations(4, 2, 5)


def test_two_prompts_share_as_many_tokens_as_their_ids_say() -> None:
    found = conversations(5, 2, 6)
    texts = ["".join(str(message["content"]) for message in one.messages(index)) for one in found for index in range(len(one.turns))]
    rounds = [index for one in found for index in range(len(one.turns))]
    runs = [raw.runs for raw in trace(found, WORDS)]
    for left, right in pairwise(range(len(texts))):
        common = texts[left][: _common(texts[left], texts[right])]
        # Each message has a few tokens of its own around its text, and a title begins as others do.
        assert abs(_shared(runs[left], runs[right]) - WORDS.count(common)) <= 8 * (1 + rounds[left])


WORDS = Tokens("fast")


def _common(left: str, right: str) -> int:
    return next((place for place, (one, other) in enumerate(zip(left, right, strict=False)) if one != other), min(len(left), len(right)))


def _shared(left: tuple[tuple[int, int], ...], right: tuple[tuple[int, int], ...]) -> int:
    found = 0
    for (first, last), (other, end) in zip(left, right, strict=False):
        if first != other:
            break
        found += min(last, end) - first + 1
        if last != end:
            break
    return found


def test_the_trace_folds_into_one_visit_a_request() -> None:
    found = conversations(1, 3, 10)
    folded = fold("day", trace(found, WORDS))
    assert len(folded.visits) == sum(len(one.turns) for one in found)
    assert folded.sessions == len(found)
    assert all(visit.ends[-1] == visit.prompt for visit in folded.visits)


RULES = [Rule(mode="blocks", tokens=64, ttl=3600), Rule(mode="units", tokens=128, ttl=1800), Rule(mode="units", tokens=128)]


@pytest.mark.parametrize("rule", RULES)
def test_the_simulators_caches_hit_what_the_emulators_hit(rule: Rule) -> None:
    """The same prompts, as texts to the one and as ids to the other: two implementations that share no line."""
    found = conversations(7, 5, 40)
    visits = fold("day", trace(found, WORDS)).visits
    asked = sorted((turn.at, one.number, index) for one in found for index, turn in enumerate(one.turns))
    talks = {one.number: one for one in found}
    cache, store = make_cache(rule.mode, rule.tokens, Life(rule.ttl)), Store(rule)
    hits = others = 0
    for (at, number, index), visit in zip(asked, visits, strict=True):
        prompt = render(WORDS, talks[number].messages(index), None, True, lambda _: None)
        assert tokens_of(prompt) == visit.prompt
        hits += cache.lookup(prompt, at)
        others += store.serve(visit, Random(0))
    assert 0.8 < hits / sum(visit.prompt for visit in visits) < 0.97
    assert hits == pytest.approx(others, rel=0.004)


# --- the books --------------------------------------------------------------------------------------------------------

ATTEMPT = {"host": "novita", "model": "m", "outcome": "ok", "billed": "known", "nano": 100}
PLAN = {"options": [["deepseek/x", "USD", 1, 1, 9, 9, 9], [100, 64, 5]]}
ROW: dict[str, Any] = {
    "rid": "r1",
    "host": "novita",
    "route": "flash",
    "status": "ok",
    "nano": 100,
    "cache_hit": 60,
    "cache_miss": 40,
    "output": 5,
    "cache_miss_source": "reported",
    "attempts": json.dumps([ATTEMPT]),
    "plan": json.dumps(PLAN),
    "started": 0,
    "ended": 1_794_963_600_500_000,
    "card": "day",
    "window": "peak",
}
BILL = {"id": "r1", "nano": 100, "hit": 60, "miss": 40, "output": 5, "at": "2026-11-18T01:00:00Z", "card": "day", "window": "peak"}


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policies_of_a_day(tmp_path_factory.mktemp("day"))


def books(policies: Path, rows: list[dict[str, Any]], bills: list[dict[str, Any]]) -> Books:
    return books_of(Played(rows=rows, bills={"novita": bills}), policies)


def test_a_day_whose_books_agree_has_nothing_to_say(policies: Path) -> None:
    found = books(policies, [ROW], [BILL])
    assert found.problems == []
    assert (found.billed, found.charged, found.figures["exact"]) == (100, 100, 1)
    host = found.hosts["novita"]
    assert (host.hit_rate, host.foretold_rate) == (0.6, 0.64)


EDGE = "2026-11-18T00:59:59.900000Z"


def test_an_answer_that_ends_at_the_edge_of_a_price_window_is_told_apart(policies: Path) -> None:
    found = books_of(Played(rows=[ROW], bills={"novita": [BILL | {"nano": 50, "window": "standard", "at": EDGE}]}, rate=10), policies)
    assert found.problems == []
    assert (found.figures["exact"], found.figures["at_an_edge"]) == (0, 1)


WRONG: list[tuple[list[dict[str, Any]], list[dict[str, Any]], str]] = [
    ([ROW], [BILL | {"nano": 101}], "1 charged otherwise than reported"),
    ([ROW], [BILL | {"nano": 50, "window": "standard", "at": "2026-11-18T00:59:55Z"}], "1 charged otherwise than reported"),
    ([ROW], [BILL | {"nano": 50, "window": "standard", "at": EDGE, "output": 6}], "1 charged otherwise than reported"),
    ([ROW], [BILL, BILL | {"id": "r2", "nano": 1}], "1 billed and not in the ledger"),
    ([ROW | {"attempts": json.dumps([ATTEMPT | {"billed": "none", "nano": 0}])}], [BILL], "1 billed and not in the ledger"),
    ([ROW | {"attempts": json.dumps([ATTEMPT | {"billed": "possible", "nano": 0}])}], [BILL], "1 billed and not in the ledger"),
    ([ROW], [], "1 charged otherwise than reported"),
    ([ROW | {"attempts": json.dumps([ATTEMPT, ATTEMPT])}], [BILL], "asked twice"),
    ([], [], "this day proves nothing"),
]


@pytest.mark.parametrize(("rows", "bills", "text"), WRONG)
def test_books_that_contradict_each_other_are_found(
    policies: Path, rows: list[dict[str, Any]], bills: list[dict[str, Any]], text: str
) -> None:
    assert text in "\n".join(books(policies, rows, bills).problems)


def test_answers_break_off_within_the_hours_that_are_played() -> None:
    assert replace(SHORT, cuts=2).moments() == [2700, 4500]
