"""Metrics: every request counted once, under names that nobody outside can choose."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import threading
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import prometheus_client
import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from gateway.calibration import Fall
from gateway.families import FAMILIES
from gateway.gate import Trouble
from gateway.gauges import Process
from gateway.health import Health
from gateway.ledger.condition import Condition
from gateway.metrics import CONTENT_TYPE, Metrics
from gateway.money import NANO, Parts
from gateway.outcome import Attempt, Baseline, BudgetState, LedgerRow, Option, Outcome, PlanNote, Spent
from gateway.policies import Policies, default_folder, load
from gateway.replicas import Replicas
from gateway.teams import TeamRow
from gateway.usage import Sources, Usage

AT = datetime(2026, 11, 20, 2, tzinfo=UTC)
ROUTE, HOST, MODEL, CONTRACT = "deepseek-v4-pro", "deepseek", "deepseek-v4-pro", "deepseek-v4-pro"
LABELS = {"team": "search", "route": ROUTE, "host": HOST, "model": MODEL}
CONDITION = Condition(False, 3, 1, 7, 2, AT - timedelta(seconds=12), 30.0, 11.0)
CURRENCIES = {HOST: "USD", "novita": "USD", "local": "USD"}
ROW = LedgerRow(
    "r1", "search", "k", ROUTE, HOST, MODEL, CONTRACT, ("max_tokens=9000->8192", "drop_user"), Usage(640, 100, 300, 120), "USD",
    5_280_000_001, Parts(0, 1_320_000_000, 3_960_000_001), "card", "peak", "9f", AT, AT, "ok", None,
    (Attempt("gmi", "unheard-of", "upstream_error", "none", 0), Attempt(HOST, MODEL, "ok", "known", 5_280_000_001)), 0, 0,
)  # fmt: skip
OUTCOME = Outcome(
    "ok", "search", ROUTE, HOST, MODEL, CONTRACT, ROW.edits, 2.0, 0.002, 0.3, ROW, (Baseline("o1", "USD", 33_000_000_000),), 500_000_000
)


@dataclass
class Book:
    current: Policies
    error: str | None = None
    loaded_at: datetime = AT


class Clock:
    def now(self) -> datetime:
        return AT

    def monotonic(self) -> float:
        return 0.0


@pytest.fixture(scope="module")
def policies() -> Policies:
    return load(default_folder())


@pytest.fixture
def metrics(policies: Policies) -> Metrics:
    return Metrics(Book(policies), Clock())


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(metrics.text().decode())
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def value(metrics: Metrics, name: str, labels: Mapping[str, str]) -> float | None:
    return samples(metrics).get((name, frozenset(labels.items())))


# Each sample that one settled request leaves, with its labels beyond those of the request.
COUNTED: list[tuple[str, dict[str, str], float]] = [
    ("faregate_requests_total", {**LABELS, "outcome": "ok"}, 1),
    ("faregate_tokens_total", {**LABELS, "class": "cache_hit"}, 640),
    ("faregate_tokens_total", {**LABELS, "class": "cache_miss"}, 100),
    ("faregate_tokens_total", {**LABELS, "class": "output"}, 300),
    ("faregate_reasoning_tokens_total", LABELS, 120),
    ("faregate_spend_total", {**LABELS, "class": "cache_hit", "currency": "USD"}, 0),
    ("faregate_spend_total", {**LABELS, "class": "cache_miss", "currency": "USD"}, 1.32),
    ("faregate_spend_total", {**LABELS, "class": "output", "currency": "USD"}, 3.960000001),
    ("faregate_baseline_spend_total", {"team": "search", "baseline": "o1", "currency": "USD"}, 33),
    ("faregate_cache_saved_total", {"team": "search", "host": HOST, "model": MODEL, "currency": "USD"}, 0.5),
    ("faregate_edits_total", {"edit": "max_tokens", "contract": CONTRACT}, 1),
    ("faregate_edits_total", {"edit": "drop_user", "contract": CONTRACT}, 1),
    ("faregate_attempts_total", {"host": HOST, "model": MODEL, "outcome": "ok"}, 1),
    ("faregate_attempts_total", {"host": "gmi", "model": "other", "outcome": "upstream_error"}, 1),
    ("faregate_usage_total", {"host": HOST, "source": "reported"}, 1),
    ("faregate_request_duration_seconds_sum", {"route": ROUTE, "host": HOST, "model": MODEL}, 2.0),
    ("faregate_overhead_seconds_sum", {"route": ROUTE, "host": HOST, "model": MODEL}, 0.002),
    ("faregate_time_to_first_token_seconds_bucket", {"route": ROUTE, "host": HOST, "model": MODEL, "le": "0.25"}, 0),
    ("faregate_time_to_first_token_seconds_bucket", {"route": ROUTE, "host": HOST, "model": MODEL, "le": "0.5"}, 1),
    ("faregate_time_to_first_token_seconds_bucket", {"route": ROUTE, "host": HOST, "model": MODEL, "le": "600.0"}, 1),
]


def test_a_settled_request_is_counted_in_full(metrics: Metrics) -> None:
    metrics.observe(OUTCOME)

    found = samples(metrics)
    assert {(name, *labels.items()): found.get((name, frozenset(labels.items()))) for name, labels, _ in COUNTED} == {
        (name, *labels.items()): pytest.approx(expected) for name, labels, expected in COUNTED
    }


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (Sources(), "reported"),
        (Sources(cache_hit="unknown", reasoning="unknown"), "reported"),
        (Sources("unknown", "counted", "counted", "counted"), "counted"),
        (Sources(output="counted"), "counted"),
        (Sources(output="unknown"), "unknown"),
    ],
)
def test_usage_counts_under_its_weakest_billed_source(metrics: Metrics, sources: Sources, expected: str) -> None:
    metrics.observe(replace(OUTCOME, row=replace(ROW, usage=Usage(0, 1, 1, 0, sources))))
    assert value(metrics, "faregate_usage_total", {"host": HOST, "source": expected}) == 1


def test_a_refusal_is_counted_without_host_or_money(metrics: Metrics) -> None:
    metrics.observe(Outcome("client_error", "search", "other", "", "", "", (), 0.001, 0.001, error="invalid_request"))

    labels = {"team": "search", "route": "other", "host": "", "model": "", "outcome": "client_error"}
    assert value(metrics, "faregate_requests_total", labels) == 1
    assert not [name for name, _ in samples(metrics) if name in ("faregate_spend_total", "faregate_usage_total")]


def test_an_expired_or_released_row_has_no_tokens(metrics: Metrics) -> None:
    metrics.observe(replace(OUTCOME, row=replace(ROW, usage=None, parts=None, nano=0), baselines=(), cache_saved_nano=0))
    assert not [name for name, _ in samples(metrics) if name in ("faregate_tokens_total", "faregate_spend_total")]


def test_an_unknown_price_and_a_disputed_cost_are_counted(metrics: Metrics) -> None:
    metrics.observe(replace(OUTCOME, row=None, error="price_unknown"))
    metrics.observe(replace(OUTCOME, row=replace(ROW, disputed=True)))

    assert value(metrics, "faregate_unpriced_total", {"host": HOST, "model": MODEL}) == 1
    assert value(metrics, "faregate_disputed_total", {"host": HOST}) == 1


def test_what_clients_were_told_is_counted_by_code(metrics: Metrics) -> None:
    for code in ("budget_exceeded", "budget_exceeded", "upstream_error"):
        metrics.observe(replace(OUTCOME, row=None, error=code))
    metrics.observe(OUTCOME)
    found = {dict(labels)["code"]: on for (name, labels), on in samples(metrics).items() if name == "faregate_errors_total"}
    assert found == {"budget_exceeded": 2, "upstream_error": 1}


# A streamed answer of 300 tokens, and the seconds from its first content to its end: how fast that was, where it says something.
PACES: list[tuple[str, dict[str, Any], dict[str, Any], float | None]] = [
    ("as it was written", {"duration": 6.3}, {}, 50.0),
    ("too fast to have been written so", {"duration": 0.9}, {}, None),
    ("no time at all", {"duration": 0.3}, {}, None),
    ("in one piece", {"duration": 6.3}, {"stream": False}, None),
    ("hardly an answer", {"duration": 6.3}, {"usage": Usage(640, 100, 31, 0)}, None),
    ("the shortest that counts", {"duration": 2.3}, {"usage": Usage(640, 100, 32, 0)}, 16.0),
    ("nothing was sent", {"duration": 6.3, "first_token": None}, {}, None),
    ("several hosts wrote", {"duration": 6.3, "spent": (Spent(HOST, MODEL, ROW.usage, ROW.parts),)}, {}, None),
]


@pytest.mark.parametrize(("outcome", "row", "pace"), [case[1:] for case in PACES], ids=[case[0] for case in PACES])
def test_how_fast_an_answer_was_written(metrics: Metrics, outcome: dict[str, Any], row: dict[str, Any], pace: float | None) -> None:
    metrics.observe(replace(OUTCOME, row=replace(ROW, **{"stream": True, **row}), **outcome))
    labels = {"route": ROUTE, "host": HOST, "model": MODEL}
    assert value(metrics, "faregate_output_tokens_per_second_count", labels) == (None if pace is None else 1)
    assert value(metrics, "faregate_output_tokens_per_second_sum", labels) == (None if pace is None else pytest.approx(pace))


def test_no_caller_adds_a_series(metrics: Metrics) -> None:
    def chosen_by_callers(number: int) -> Outcome:
        edits = (f"drop_field{number}", f"rename_field{number}=2")
        return Outcome("ok", "search", f"route{number}", f"host{number}", f"model{number}", f"contract{number}", edits, 1, 1, 1, ROW)

    metrics.observe(chosen_by_callers(0))
    names = samples(metrics).keys()
    for number in range(1, 200):
        metrics.observe(chosen_by_callers(number))

    assert samples(metrics).keys() == names
    labels = {"team": "search", "route": "other", "host": "other", "model": "other", "outcome": "ok"}
    assert value(metrics, "faregate_requests_total", labels) == 200
    assert value(metrics, "faregate_edits_total", {"edit": "drop_other", "contract": "other"}) == 200


def test_names_that_callers_invent_take_no_memory(metrics: Metrics) -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(2000):
            metrics.observe(replace(OUTCOME, route=f"route{number}", model=f"model{number}"))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 100_000


def test_a_name_that_the_policies_lose_is_counted_as_other_from_then_on(policies: Policies) -> None:
    book = Book(policies)
    metrics = Metrics(book, Clock())
    metrics.observe(OUTCOME)
    book.current = dataclasses.replace(policies, routes={name: route for name, route in policies.routes.items() if name != ROUTE})
    metrics.observe(OUTCOME)
    metrics.observe(OUTCOME)

    assert value(metrics, "faregate_requests_total", {**LABELS, "outcome": "ok"}) == 1
    assert value(metrics, "faregate_requests_total", {**LABELS, "route": "other", "outcome": "ok"}) == 2


def test_what_is_read_while_requests_are_counted_only_grows(metrics: Metrics) -> None:
    names = ("faregate_requests_total", "faregate_tokens_total", "faregate_request_duration_seconds_count")
    done = threading.Event()

    def count() -> None:
        for number in range(2000):
            metrics.observe(replace(OUTCOME, team=f"team{number % 50}"))
        done.set()

    seen: dict[str, float] = dict.fromkeys(names, 0.0)
    counting = threading.Thread(target=count)
    counting.start()
    while not done.is_set():
        found = samples(metrics)
        for name in names:
            now = sum(number for (sample, _), number in found.items() if sample == name)
            assert now >= seen[name]
            seen[name] = now
    counting.join()
    found = samples(metrics)
    buckets = {dict(labels)["le"]: number for (name, labels), number in found.items() if name == "faregate_request_duration_seconds_bucket"}
    assert buckets["+Inf"] == sum(number for (name, _), number in found.items() if name == names[0]) == 2000
    assert list(buckets.values()) == sorted(buckets.values())


def test_a_direct_route_keeps_its_name(metrics: Metrics) -> None:
    metrics.observe(replace(OUTCOME, route=f"{HOST}/{MODEL}"))
    assert value(metrics, "faregate_requests_total", {**LABELS, "route": f"{HOST}/{MODEL}", "outcome": "ok"}) == 1


def test_the_policies_in_force_are_described_and_replaced(policies: Policies) -> None:
    book = Book(policies)
    metrics = Metrics(book, Clock())
    assert value(metrics, "faregate_policies_info", {"digest": policies.digest}) == 1
    cards = {card.name: float(card.verified) for card in policies.prices.cards()}
    assert {dict(labels)["card"]: on for (name, labels), on in samples(metrics).items() if name == "faregate_card_verified"} == cards
    for calendar in policies.calendars.values():
        left = (calendar.known_until - AT.date()).total_seconds()
        assert value(metrics, "faregate_calendar_left_seconds", {"calendar": calendar.name}) == left

    book.current = dataclasses.replace(policies, digest="another", calendars={})

    infos = [dict(labels)["digest"] for (name, labels) in samples(metrics) if name == "faregate_policies_info"]
    assert infos == ["another"]
    assert not [name for name, _ in samples(metrics) if name == "faregate_calendar_left_seconds"]


def test_gauges_and_the_ledgers_times(metrics: Metrics) -> None:
    metrics.stream_opened()
    metrics.stream_opened()
    metrics.stream_closed()
    metrics.committed("settle", 0.003)

    assert value(metrics, "faregate_open_streams", {}) == 1
    assert value(metrics, "faregate_ledger_commit_seconds_bucket", {"op": "settle", "le": "0.005"}) == 1


SERVED = {"host": HOST, "model": MODEL}


def test_what_was_foretold_stands_beside_what_came(metrics: Metrics) -> None:
    plan = PlanNote((Option(f"{HOST}/other", "USD", 1, 1, 740, 7, 1), Option(f"{HOST}/{MODEL}", "USD", 5 * NANO, 9 * NANO, 740, 700, 300)))
    metrics.observe(replace(OUTCOME, row=replace(ROW, expected_nano=5 * NANO, plan=plan)))
    # Neither says what it hit, or what it would: only its money compares.
    unknown = Usage(0, 740, 300, 0, Sources(cache_hit="unknown"))
    metrics.observe(replace(OUTCOME, row=replace(ROW, expected_nano=NANO, plan=plan, usage=unknown)))
    metrics.observe(replace(OUTCOME, row=replace(ROW, expected_nano=NANO)))
    # Nothing was charged.
    metrics.observe(replace(OUTCOME, row=replace(ROW, expected_nano=NANO, plan=plan, usage=None, parts=None)))

    assert value(metrics, "faregate_predicted_hit_tokens_total", SERVED) == 700
    assert value(metrics, "faregate_actual_hit_tokens_total", SERVED) == 640
    assert value(metrics, "faregate_predicted_spend_total", {**SERVED, "currency": "USD"}) == 7


def test_what_each_attempt_used_is_counted_at_its_own_host(metrics: Metrics, policies: Policies) -> None:
    other = next(model for (host, model) in policies.served if host == "novita")
    guess, answer = Usage(0, 500, 20, 5, Sources("unknown", "counted", "counted", "counted")), Usage(640, 100, 300, 120)
    costs, paid = Parts(0, 1 * NANO, 2 * NANO), Parts(4 * NANO, 8 * NANO, 16 * NANO)
    attempts = (Attempt("novita", other, "timeout", "possible", costs.total), Attempt(HOST, MODEL, "ok", "known", paid.total))
    total, parts = Usage(640, 600, 320, 125, guess.sources), Parts(4 * NANO, 9 * NANO, 18 * NANO)
    row = replace(ROW, usage=total, nano=parts.total, parts=parts, attempts=attempts, expected_nano=5 * NANO)
    spent = Spent("novita", other, guess, costs, disputed=True), Spent(HOST, MODEL, answer, paid)
    metrics.observe(replace(OUTCOME, row=row, spent=spent))
    # One that paid the first only: nothing was foretold of that.
    nothing = Spent(HOST, MODEL, None, None)
    metrics.observe(
        replace(OUTCOME, row=replace(row, usage=guess, nano=costs.total, parts=costs, disputed=True), spent=(spent[0], nothing))
    )

    first = {**LABELS, "host": "novita", "model": other}
    found = samples(metrics)
    spending = {frozenset(labels): on for (name, labels), on in found.items() if name == "faregate_spend_total"}
    assert spending == {
        frozenset({**place, "class": kind, "currency": "USD"}.items()): on
        for place, kinds in ((first, (0, 2, 4)), (LABELS, (4, 8, 16)))
        for kind, on in zip(("cache_hit", "cache_miss", "output"), kinds, strict=True)
    }
    assert value(metrics, "faregate_tokens_total", {**first, "class": "cache_miss"}) == 1000
    assert value(metrics, "faregate_tokens_total", {**LABELS, "class": "cache_miss"}) == 100
    assert value(metrics, "faregate_reasoning_tokens_total", first) == 10
    assert value(metrics, "faregate_usage_total", {"host": "novita", "source": "counted"}) == 2
    assert value(metrics, "faregate_usage_total", {"host": HOST, "source": "reported"}) == 1
    assert value(metrics, "faregate_disputed_total", {"host": "novita"}) == 2
    assert value(metrics, "faregate_disputed_total", {"host": HOST}) is None
    requests = {dict(labels)["host"]: on for (name, labels), on in found.items() if name == "faregate_requests_total"}
    predicted = {dict(labels)["host"]: on for (name, labels), on in found.items() if name == "faregate_predicted_spend_total"}
    assert (requests, predicted) == ({HOST: 2}, {HOST: 5})


class Hits:
    """One host whose hit rate fell, one whose did not, and one that is gone from the policies."""

    def falls(self, at: float) -> dict[str, Fall | None]:
        fall = Fall(f"{HOST}/{MODEL}", 0.9, 0.2, AT.timestamp())
        return {f"{HOST}/{MODEL}": fall, f"{HOST}/deepseek-flash": None, "gone/model": fall}


def hosts(policies: Policies) -> tuple[Health, Replicas, Hits]:
    """A deployment with one request on its way, a host without balance, and an engine of two replicas, one of which is out."""
    health, replicas, at = Health(), Replicas(), AT.timestamp()
    well, engine = policies.deployment(HOST, MODEL, AT), policies.deployment("local", "r1", AT)
    broke = next(one for (host, _), ones in policies.served.items() for one in ones if host == "novita")
    assert well is not None and engine is not None
    health.begun(well, at)
    ticket = health.begun(broke, at)
    assert ticket is not None
    health.ended(ticket, at, Trouble("unpaid"))
    seats = [replicas.take(engine, 2, at) for _ in range(3)]
    assert seats[0] is not None
    replicas.done(seats[0], at, Trouble("failed"), reached=False)
    return health, replicas, Hits()


def test_hosts_are_shown_as_they_are(metrics: Metrics, policies: Policies) -> None:
    metrics.gauges.watch_hosts(*hosts(policies), lambda: CURRENCIES)
    found = {
        (name, *sorted(labels)): on
        for (name, labels), on in samples(metrics).items()
        if re.match("faregate_(host_(up|requests|alarm)|hit_rate|replica)", name)
    }
    broke = next(model for (host, model) in policies.served if host == "novita")

    def of(name: str, **labels: str) -> tuple[object, ...]:
        return f"faregate_{name}", *sorted(labels.items())

    assert found == {
        of("host_up", **SERVED): 1, of("host_requests", **SERVED): 1,
        of("host_up", host="novita", model=broke): 0, of("host_requests", host="novita", model=broke): 0,
        of("host_alarm", host="novita", model="", kind="unpaid"): 1,
        of("hit_rate_alarm", **SERVED): 1, of("hit_rate_alarm", host=HOST, model="deepseek-flash"): 0,
        of("replica_up", host="local", replica="0"): 0, of("replica_requests", host="local", replica="0"): 1,
        of("replica_up", host="local", replica="1"): 1, of("replica_requests", host="local", replica="1"): 1,
    }  # fmt: skip


@pytest.mark.parametrize("edit", ["restore_reasoning=2", "sort_tools", "move_volatile=1", "drop_volatile=3", "disable_thinking"])
def test_our_own_edits_are_counted_under_their_names(metrics: Metrics, edit: str) -> None:
    metrics.observe(replace(OUTCOME, edits=(edit,)))
    assert value(metrics, "faregate_edits_total", {"edit": edit.partition("=")[0], "contract": CONTRACT}) == 1


class Seen:
    """What the ledger last said of budgets."""

    def __init__(self, *states: BudgetState) -> None:
        self._states = states

    def states(self) -> tuple[BudgetState, ...]:
        return self._states


def budget_of(key: str, limit: int, spent: int, held: int, budget: str = "month", period: str = "2026-11") -> BudgetState:
    return BudgetState("search", budget, key, period, "USD", limit, spent, held, spent + held, 0, AT + timedelta(days=9))


TEAM = TeamRow.model_validate(
    {
        "team": "search",
        "routes": ["*"],
        "budgets": [
            {"budget": "day", "amount": "20", "currency": "USD", "period": "day"},
            {"budget": "month", "amount": "250", "currency": "USD", "period": "month", "per": "key"},
        ],
    }
)


def test_budgets_are_the_ledgers_with_the_keys_added_up(policies: Policies) -> None:
    team = dataclasses.replace(policies, teams={"search": TEAM})
    states = (
        budget_of("search-1", 250 * NANO, NANO, 1),
        budget_of("search-2", 200 * NANO, NANO // 4, 0),
        # Of an earlier file: nothing is held against it any more.
        budget_of("", 5 * NANO, NANO, 0),
        budget_of("", 5 * NANO, NANO, 0, "week", "2026-W47"),
    )
    found = samples(Metrics(Book(team), Clock(), Seen(*states)))
    shown = {(name.removeprefix("faregate_budget_"), *sorted(map(tuple, labels))): value for (name, labels), value in found.items()}
    budgets = {key: value for key, value in shown.items() if key[0] in ("limit", "spent", "held")}

    def of(what: str, budget: str) -> tuple[object, ...]:
        return what, ("budget", budget), ("currency", "USD"), ("team", "search")

    assert budgets == {
        of("limit", "month"): 500, of("spent", "month"): 1.25, of("held", "month"): 1e-9,
        of("limit", "day"): 20, of("spent", "day"): 0, of("held", "day"): 0,
    }  # fmt: skip


def test_the_ledger_and_its_spool_are_shown_as_they_are(metrics: Metrics) -> None:
    assert value(metrics, "faregate_ledger_up", {}) is None
    metrics.gauges.watch(SimpleNamespace(condition=CONDITION))
    assert (value(metrics, "faregate_ledger_up", {}), value(metrics, "faregate_spool_records", {})) == (0, 3)


def test_redis_is_up_or_down_and_nothing_where_there_is_none(metrics: Metrics) -> None:
    assert value(metrics, "faregate_redis_up", {}) is None
    for up in (True, False):
        metrics.redis_up(up)
        assert value(metrics, "faregate_redis_up", {}) == up
    metrics.redis_call("admit", "timeout")
    metrics.redis_call("admit", "timeout")
    assert value(metrics, "faregate_redis_calls_total", {"op": "admit", "outcome": "timeout"}) == 2


def test_the_text_has_every_family_and_no_created_series(metrics: Metrics) -> None:
    metrics.observe(OUTCOME)
    text = metrics.text().decode()

    for family in FAMILIES:
        assert f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n" in text
    assert "_created" not in text
    assert "version=0.0.4" in CONTENT_TYPE


def test_nothing_is_registered_for_the_whole_process(metrics: Metrics, policies: Policies) -> None:
    Metrics(Book(policies), Clock())
    assert b"faregate" not in prometheus_client.generate_latest()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_to_say(metrics: Metrics, policies: Policies) -> None:
    metrics.observe(replace(OUTCOME, row=replace(ROW, stream=True), duration=6.3, error="upstream_error"))
    metrics.stream_opened()
    metrics.gauges.watch(SimpleNamespace(condition=CONDITION))
    metrics.gauges.watch_process(Process(lambda: True, lambda: True))
    metrics.gauges.watch_hosts(*hosts(policies), lambda: CURRENCIES)
    metrics.committed("settle", 0.003)

    lint = subprocess.run(["promtool", "check", "metrics"], input=metrics.text(), capture_output=True, check=False)

    assert (lint.returncode, lint.stdout + lint.stderr) == (0, b"")
