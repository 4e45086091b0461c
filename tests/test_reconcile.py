"""Reconciliation: a month of DeepSeek's export with planted differences, each found, named and summed to the nano.

What the host billed is known here request by request (tests/bills.py), so that the report is compared with the truth, not with itself.
"""

from __future__ import annotations

import asyncio
import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from gateway.ledger.sqlite import SqliteStore
from gateway.money import MILLION, NANO, Rates, decimal_text
from gateway.outcome import Attempt, Correction, LedgerRow
from gateway.policies import Policies, default_folder, load
from gateway.reconcile.bills import Bill, BillKey, BillLine, ExportError, filled, joined
from gateway.reconcile.charges import NOBODY, Tariff, Who, charges
from gateway.reconcile.compare import Comparison, reach_of
from gateway.reconcile.exports import day_of, read
from gateway.reconcile.proposals import HELD_BACK, proposals
from gateway.reconcile.reasons import MEANINGS, SETTLED, Finding, Reason, explain
from gateway.usage import Sources
from tests.bills import BEIJING, COUNTED, FLASH, FOREIGN, KEY, PRO, Call, Month, at, but, plain
from tests.shell import json_of, run, said

EDGE = timedelta(minutes=2)


@cache
def shipped() -> Policies:
    return load(default_folder())


@pytest.fixture(scope="module")
def policies() -> Policies:
    return shipped()


def findings(month: Month, there: Iterable[Correction] = (), text: str | None = None) -> tuple[list[Finding], Bill]:
    """What is found between a month's export and its ledger."""
    bill = read("amount.csv", (text or month.amounts()).encode())
    mine = [key for key in bill.keys if (key.name, key.masked) == KEY]
    tariff = Tariff(month.policies.prices, "deepseek", "USD", EDGE)
    comparison = Comparison(bill, reach_of(bill, mine, filled(bill.spans)), tariff)
    for row in month.rows():
        for charge in charges(row, tariff):
            comparison.add(charge)
    comparison.correct(there)
    return explain(comparison.done()), bill


def reasons(found: Iterable[Finding]) -> dict[tuple[str, str], set[str]]:
    """Reasons by day and model, without rounding."""
    named: dict[tuple[str, str], set[str]] = {}
    for finding in found:
        for part in finding.parts:
            if part.reason != "rounding":
                named.setdefault((finding.cell.span.name, finding.cell.model), set()).add(part.reason)
    return named


def adds_up(found: Iterable[Finding]) -> None:
    for finding in found:
        assert sum(part.nano for part in finding.parts) == finding.difference, (
            finding.cell.span.name,
            finding.cell.model,
            finding.cell.cls,
        )


def gap(found: Iterable[Finding]) -> int:
    return sum(finding.gap for finding in found)


# --- a month with planted differences ---------------------------------------------------------------------------------------

PEAK_OUT, OFF_OUT = 3_960_000_000, 1_980_000_000


def planted(policies: Policies) -> Month:
    """Every kind of difference, each on a day or a model of its own."""
    month = plain(policies)
    more = [
        # Ended 40 s before the peak ended; the host has billed it after.
        Call(at("3 03:59:20"), PRO, (0, 5000, 8000), (0, 5000, 8000), billed_at=at("3 04:00:10")),
        # Ended 15 s into the peak; the host took its start.
        Call(at("4 01:00:15"), PRO, (0, 4000, 7000), (0, 4000, 7000), billed_at=at("4 00:59:40"), lasted=90),
        # Broken off by the client: we counted 1 000 tokens, the host has billed 1 040.
        Call(at("5 12:00"), PRO, (0, 2000, 1000), (0, 2010, 1040), team="ads", sources=COUNTED, status="client_gone"),
        # A gateway was killed: its hold expired.
        Call(at("6 12:00"), PRO, (0, 3000, 2000), (1500, 1500, 2600), status="gateway_error", stopped="expired"),
        # Somebody uses the same key past the gateway.
        Call(at("9 02:00"), PRO, None, (0, 70_000, 30_000)),
        Call(at("9 02:05"), PRO, None, (0, 70_000, 30_000)),
        # Another key of the account.
        Call(at("10 02:00"), FLASH, None, (0, 900_000, 100_000), key=FOREIGN),
        # We took it for free; it was billed.
        Call(at("16 02:00"), FLASH, (0, 0, 0), (0, 1200, 300), status="upstream_error"),
        # Ended half a minute before midnight in Beijing; the host has it in the next day.
        Call(at("17 15:59:30"), FLASH, (0, 6000, 2000), (0, 6000, 2000), billed_at=at("17 16:00:05")),
        # An answer without usage, which we counted.
        Call(at("19 12:00"), FLASH, (0, 5000, 3000), (0, 5100, 2950), sources=COUNTED),
    ]  # fmt: skip
    month.calls += more
    month.silent = {date(2026, 11, 20)}
    # On the 24th the host bills prices that no card of ours has; on the 25th it takes the whole day for a holiday.
    dearer = Rates(30_000_000, 700_000_000, 2_100_000_000)
    month.calls = [
        replace(call, prices=dearer)
        if (call.at.astimezone(BEIJING).day, call.model) == (24, PRO) and call.at.hour not in (2, 8)
        else replace(call, prices=policies.prices.card("deepseek", FLASH, "USD", call.at).rates)
        if (call.at.astimezone(BEIJING).day, call.model) == (25, FLASH)
        else call
        for call in month.calls
    ]
    return month


NAMED: dict[tuple[str, str], set[Reason]] = {
    ("2026-11-03", PRO): {"peak_edge"},
    ("2026-11-04", PRO): {"peak_edge"},
    ("2026-11-05", PRO): {"disconnects"},
    ("2026-11-06", PRO): {"expired"},
    ("2026-11-09", PRO): {"other_traffic"},
    ("2026-11-16", FLASH): {"taken_as_free"},
    ("2026-11-17", FLASH): {"day_edge"},
    ("2026-11-18", FLASH): {"day_edge"},
    ("2026-11-19", FLASH): {"counted"},
    ("2026-11-20", PRO): {"missing_day"},
    ("2026-11-20", FLASH): {"missing_day"},
    ("2026-11-24", PRO): {"price_change"},
    ("2026-11-25", FLASH): {"window"},
}


def test_a_month_in_which_all_agrees_has_no_gap_and_no_reason_but_rounding(policies: Policies) -> None:
    month = plain(policies)
    found, _ = findings(month)
    adds_up(found)
    assert reasons(found) == {}
    assert gap(found) == 0
    assert abs(sum(finding.difference for finding in found)) < 3 * len(month.calls)
    assert abs(sum(finding.cell.billed for finding in found) - month.cost()) <= len(found)


def test_every_planted_difference_is_named_where_it_is_and_nowhere_else(policies: Policies) -> None:
    month = planted(policies)
    found, _ = findings(month)
    adds_up(found)
    assert reasons(found) == NAMED
    assert abs(sum(finding.cell.billed for finding in found) - month.cost()) <= len(found)


def test_the_parts_are_worth_what_was_planted(policies: Policies) -> None:
    found, _ = findings(planted(policies))
    worth = {
        (finding.cell.span.name, finding.cell.cls, part.reason): part.nano
        for finding in found
        for part in finding.parts
        if finding.cell.model == PRO and part.reason != "rounding"
    }
    assert worth["2026-11-03", "output", "peak_edge"] == -8000 * (PEAK_OUT - OFF_OUT) // MILLION
    assert worth["2026-11-04", "output", "peak_edge"] == -7000 * (PEAK_OUT - OFF_OUT) // MILLION
    assert worth["2026-11-05", "output", "disconnects"] == 40 * OFF_OUT // MILLION
    assert worth["2026-11-09", "output", "other_traffic"] == 60_000 * PEAK_OUT // MILLION
    assert worth["2026-11-24", "output", "price_change"] > 0


def test_a_price_change_names_the_card_and_the_price_that_the_bill_implies(policies: Policies) -> None:
    found, _ = findings(planted(policies))
    details = {part.detail for finding in found for part in finding.parts if part.reason == "price_change"}
    assert "card deepseek-v4-pro-usd-2026-09-16 has 1.98 a million, the bill 2.1 a million" in details


def test_what_a_difference_is_about_says_whose_it_is(policies: Policies) -> None:
    found, _ = findings(planted(policies))
    whose = {
        (finding.cell.span.name, part.reason): set(part.who) for finding in found for part in finding.parts if finding.cell.model == PRO
    }
    assert whose["2026-11-05", "disconnects"] == {Who("ads", "ads-1", "chat")}
    assert whose["2026-11-03", "peak_edge"] == {Who("search", "search-1", "chat")}
    assert whose["2026-11-09", "other_traffic"] == {NOBODY}


def test_another_key_of_the_account_is_told_beside_and_is_in_no_gap(policies: Policies) -> None:
    month = plain(policies)
    month.calls.append(Call(at("10 02:00"), FLASH, None, (0, 900_000, 100_000), key=FOREIGN))
    found, bill = findings(month)
    assert gap(found) == 0
    comparison = Comparison(bill, reach_of(bill, [BillKey(*KEY)]), Tariff(policies.prices, "deepseek", "USD", EDGE))
    (other,) = comparison.table.beside.values()
    assert (str(other.key), other.tokens, other.requests) == ("batch-jobs", 1_000_000, 1)
    assert other.nano == 900_000 * 300 + 100_000 * 1200


def test_the_old_columns_say_the_same_as_the_new_ones(policies: Policies) -> None:
    month = planted(policies)
    new, _ = findings(month)
    bill = read("amount-2026-11.csv", month.amounts(old=True).encode(), BEIJING)
    assert bill == read("amount.csv", month.amounts().encode())
    assert gap(new)


def test_days_of_another_zone_are_a_gap_at_their_edges_until_the_zone_is_said(policies: Policies) -> None:
    """The old columns call their days UTC: where they were Beijing's, one option mends it."""
    month = plain(policies)
    month.calls += [Call(at(f"{day} 18:00"), PRO, (0, 1000, 500), (0, 1000, 500)) for day in range(2, 28)]
    wrong, _ = findings(month, text=month.amounts(old=True))
    adds_up(wrong)
    assert any(finding.difference > 1000 for finding in wrong)
    assert read("x", month.amounts(old=True).encode(), BEIJING).spans[0] == day_of(date(2026, 11, 1), BEIJING)


def test_a_request_that_went_on_elsewhere_is_a_line_at_each_host(policies: Policies) -> None:
    month = plain(policies, [3])
    row = month.row(0, month.calls[0])
    first = Attempt("deepseek", PRO, "timeout", "possible", 1000, (10, 20, 30), (100, 300, 600), row.card, row.window)
    other = Attempt("novita", "x", "ok", "known", row.nano, (1, 2, 3), (0, 0, row.nano), "n", "standard")
    several = _with(row, (first, other))
    (line,) = charges(several, Tariff(policies.prices, "deepseek", "USD", EDGE))
    assert (line.nano, line.tokens, line.sort) == (1000, (10, 20, 30), "disconnect")
    assert [each.nano for each in charges(several, Tariff(policies.prices, "novita", "USD", EDGE))] == [row.nano]
    bare = _with(row, (Attempt("deepseek", PRO, "timeout", "possible", 1000), Attempt("deepseek", PRO, "ok", "known", 500)))
    assert [each.tokens for each in charges(bare, Tariff(policies.prices, "deepseek", "USD", EDGE))] == [None, None]


def _with(row: LedgerRow, attempts: tuple[Attempt, ...]) -> LedgerRow:
    return structs.replace(row, attempts=attempts)


# --- one reason at a time -----------------------------------------------------------------------------------------------------

BASE = (0, 5000, 2000)


def calm(model: str, day: int = 3, hour: int = 12) -> Call:
    return Call(at(f"{day} {hour:02d}:00"), model, BASE, BASE)


ALONE: dict[str, tuple[list[Call], dict[str, int]]] = {
    "the host waived an answer that failed": (
        [calm(PRO), Call(at("3 12:00"), PRO, (0, 100, 50), (0, 0, 0), status="upstream_error")],
        {"cancelled": -(100 * 660 + 50 * 1980)},
    ),
    "fewer requests were billed": ([calm(PRO), Call(at("3 12:00"), PRO, (0, 100, 50), None)], {"not_billed": -(100 * 660 + 50 * 1980)}),
    "a model that the file does not have": ([calm(PRO), Call(at("3 12:00"), FLASH, (0, 100, 0), None)], {"missing_model": -100 * 150}),
    "a day that the ledger does not have": ([calm(PRO), Call(at("4 12:00"), PRO, None, (0, 100, 0))], {"not_in_ledger": 100 * 660}),
    "more tokens for the same requests": ([calm(PRO), Call(at("3 12:00"), PRO, (0, 100, 0), (0, 130, 0))], {"unexplained": 30 * 660}),
    "a miss that we counted was a hit": (
        [calm(PRO), Call(at("3 12:00"), PRO, (0, 100, 0), (60, 40, 0), sources=COUNTED, status="client_gone")],
        {"disconnects": 60 * (22 - 660)},
    ),
    "an estimate of ours beside a request that is not ours": (
        [
            calm(PRO),
            Call(at("3 12:00"), PRO, (0, 100, 0), (0, 100, 0), sources=COUNTED, status="client_gone"),
            Call(at("3 12:00"), PRO, None, (0, 30, 0)),
        ],
        {"other_traffic": 30 * 660},
    ),
    "an expired hold beside a request that is not ours": (
        [
            calm(PRO),
            Call(at("3 12:00"), PRO, (0, 100, 0), (0, 100, 0), stopped="expired", status="gateway_error"),
            Call(at("3 12:00"), PRO, None, (0, 30, 0)),
        ],
        {"expired": 0, "other_traffic": 30 * 660},
    ),
    "the day before the first one": ([calm(PRO), Call(at("2 16:00:30"), PRO, (0, 100, 0), None)], {"day_edge": -100 * 660}),
    "the day after the last one": (
        [calm(PRO), Call(at("3 16:00:30"), PRO, (0, 100, 0), (0, 100, 0), billed_at=at("3 15:59"))],
        {"day_edge": 100 * 660},
    ),
    "a request that began the day before": (
        [calm(PRO, 2), calm(PRO), Call(at("2 16:30"), PRO, (0, 100, 0), (0, 100, 0), billed_at=at("2 15:00"), lasted=3000)],
        {"day_edge": 0},
    ),
    "too far from midnight": (
        [calm(PRO, 2), calm(PRO), Call(at("2 16:30"), PRO, (0, 100, 0), (0, 100, 0), billed_at=at("2 15:00"))],
        {"other_traffic": 100 * 660, "not_billed": -100 * 660},
    ),
    "less at one price and much more at another is no other window": (
        [calm(PRO), Call(at("3 12:00"), PRO, (0, 100, 0), None), Call(at("3 02:00"), PRO, None, (0, 1000, 0))],
        {"unexplained": 1000 * 1320 - 100 * 660},
    ),
    "missing on both sides of midnight": (
        [calm(PRO, 2), calm(PRO), Call(at("2 15:59"), PRO, (0, 100, 0), None), Call(at("2 16:01"), PRO, (0, 100, 0), None)],
        {"not_billed": -2 * 100 * 660},
    ),
    "more requests than were taken for free": (
        [
            calm(PRO),
            Call(at("3 12:00"), PRO, (0, 0, 0), (0, 40, 0), status="upstream_error"),
            Call(at("3 12:00"), PRO, None, (0, 60, 0)),
        ],
        {"other_traffic": 100 * 660},
    ),
    "too far from the window": (
        [calm(PRO), Call(at("3 04:30"), PRO, (0, 100, 0), (0, 100, 0), billed_at=at("3 03:30"))],
        {"window": 100 * 660},
    ),
}


@pytest.mark.parametrize("case", ALONE)
def test_a_difference_of_one_kind_is_named_and_worth_what_it_is(policies: Policies, case: str) -> None:
    calls, wanted = ALONE[case]
    found, _ = findings(Month(policies, calls))
    adds_up(found)
    sums: dict[str, int] = {}
    for finding in found:
        for part in finding.parts:
            if part.reason != "rounding":
                sums[part.reason] = sums.get(part.reason, 0) + part.nano
    assert sums == wanted


def test_a_gap_smaller_than_rounding_is_rounding_and_a_larger_one_is_not(policies: Policies) -> None:
    """In July a hit cost 3.625 nano."""
    noon = datetime(2026, 7, 15, 12, tzinfo=UTC)
    month = Month(policies, [Call(noon, PRO, (1, 1, 1), (1, 1, 1)) for _ in range(50)])
    found, bill = findings(month)
    adds_up(found)
    assert reasons(found) == {}
    assert [finding.difference for finding in found] == [31, 0, -50]
    assert gap(found) == 0
    dearer = [structs.replace(row, parts=None, attempts=(structs.replace(row.attempts[0], nano=row.nano + 1000),)) for row in month.rows()]
    assert told(month, bill, dearer) == {"unexplained"}


COSTS = "user_id,start_time_iso,end_time_iso,model,wallet_type,cost,currency\n"
SPAN = "2026-11-03T00:00:00+08:00,2026-11-04T00:00:00+08:00"


@pytest.mark.parametrize(
    ("cost", "wanted"),
    [("0.00726", set()), ("0.01", set()), ("0.0100", {"extras"}), (f"0.01,USD\nu,{SPAN},deepseek-v4-pro,GRANTED,0.5", {"extras"})],
)
def test_what_a_day_cost_beside_its_tokens_is_told_from_rounding(policies: Policies, cost: str, wanted: set[str]) -> None:
    month = Month(policies, [calm(PRO)])
    bill = joined([read("a", month.amounts().encode()), read("c", f"{COSTS}u,{SPAN},deepseek-v4-pro,TOPPED_UP,{cost},USD\n".encode())])
    assert told(month, bill) == wanted


def test_without_tokens_the_money_of_a_day_is_compared(policies: Policies) -> None:
    month = Month(policies, [calm(PRO), Call(at("3 12:00"), PRO, (0, 100, 0), None, sources=COUNTED, status="client_gone")])
    for cost, wanted in (
        ("0.007326", set()),
        ("0.00726", {"disconnects"}),
        ("0.5", {"disconnects", "other_traffic"}),
        ("0.001", {"disconnects", "unexplained"}),
    ):
        assert told(month, read("c", f"{COSTS}u,{SPAN},deepseek-v4-pro,TOPPED_UP,{cost},USD\n".encode())) == wanted, cost


def told(month: Month, bill: Bill, rows: list[LedgerRow] | None = None) -> set[str]:
    """The reasons between a bill and rows, all keys being ours."""
    tariff = Tariff(month.policies.prices, "deepseek", "USD", EDGE)
    comparison = Comparison(bill, reach_of(bill, [*bill.keys, BillKey("", "")]), tariff)
    for row in rows or month.rows():
        for charge in charges(row, tariff):
            comparison.add(charge)
    found = explain(comparison.done())
    adds_up(found)
    return {part.reason for finding in found for part in finding.parts if part.reason != "rounding"}


def test_an_amount_for_the_same_tokens_at_a_host_without_prices_is_a_price_change(policies: Policies) -> None:
    month = Month(policies, [Call(at("3 12:00"), PRO, BASE, BASE)])
    record = (
        '{{"id": "g", "total_cost": {}, "created_at": "2026-11-03T12:00:00Z", "model": "deepseek-v4-pro",'
        ' "native_tokens_prompt": 5000, "native_tokens_completion": {}}}'
    )
    assert told(month, read("g", record.format("0.00726", 2000).encode())) == set()
    assert told(month, read("g", record.format("0.00826", 2000).encode())) == {"price_change"}
    assert told(month, read("g", record.format("0.00826", 2001).encode())) == {"unexplained"}


def test_one_failed_attempt_does_not_pay_for_all_the_traffic_of_a_day(policies: Policies) -> None:
    """Without a count of requests, what it took for free is no more than it could have cost."""
    failed = Call(at("3 12:00"), PRO, (0, 0, 0), (0, 1200, 300), status="upstream_error")
    usual = Call(at("3 11:00"), PRO, (0, 500, 500), (0, 500, 500))
    month = Month(policies, [failed, usual, Call(at("3 13:00"), PRO, None, (0, 9_000_000, 1_000_000))])
    text = "".join(line for line in month.amounts().splitlines(keepends=True) if "request_count" not in line)
    found, _ = findings(month, text=text)
    adds_up(found)
    sums: dict[str, int] = {}
    for part in (part for each in found for part in each.parts):
        sums[part.reason] = sums.get(part.reason, 0) + part.nano
    assert 0 < sums["taken_as_free"] <= month.rows()[0].worst_nano
    assert sums["other_traffic"] > 1000 * sums["taken_as_free"]


# --- corrections ------------------------------------------------------------------------------------------------------------


def proposed(month: Month, there: Iterable[Correction] = (), include: Iterable[Reason] = ()) -> list[Correction]:
    known = list(there)
    found, _ = findings(month, known)
    return proposals(found, known, "deepseek", "USD", "u-1", frozenset(include))


def test_applied_corrections_leave_no_gap_and_nothing_more_to_propose(policies: Policies) -> None:
    month = planted(policies)
    first = proposed(month, include=HELD_BACK)
    assert len({each.id for each in first}) == len(first) > 10
    found, _ = findings(month, first)
    adds_up(found)
    assert gap(found) == 0
    assert proposed(month, first) == []
    assert sum(each.nano for each in first) == gap(findings(month)[0])


def test_what_may_be_incomplete_or_somebody_elses_is_not_proposed_unless_it_is_asked_for(policies: Policies) -> None:
    month = planted(policies)
    first = proposed(month)
    assert not {reason for each in first for reason in each.reason.removeprefix("reconcile: ").split(", ")} & set(HELD_BACK)
    found, _ = findings(month, first)
    assert {part.reason for each in found for part in each.parts if part.reason not in {*SETTLED, "corrected"}} >= {
        "missing_day",
        "other_traffic",
    }
    left = sum(part.nano for each in found for part in each.parts if part.reason in HELD_BACK)
    assert gap(found) == left


def test_the_same_findings_give_the_same_ids_and_a_later_export_corrects_the_rest(policies: Policies) -> None:
    month = plain(policies, range(3, 7))
    index = next(i for i, call in enumerate(month.calls) if call.model == PRO and call.at.hour == 12)
    early = but(month, index, sources=COUNTED, status="client_gone", theirs=(3084, 3045, 950))
    first = proposed(early)
    assert first == proposed(early)
    late = but(early, index, theirs=(3084, 3045, 990))
    second = proposed(late, first)
    assert {each.id for each in second}.isdisjoint(each.id for each in first)
    assert sum(each.nano for each in (*first, *second)) == gap(findings(late)[0])
    # And back again: what was corrected twice is corrected once more, under a third id.
    third = proposed(early, [*first, *second])
    assert len({each.id for each in (*first, *second, *third)}) == len(first) + len(second) + len(third)
    assert gap(findings(early, [*first, *second, *third])[0]) == 0


def test_who_stopped_in_between_goes_on_where_it_ended(policies: Policies) -> None:
    """What each team pays does not depend on how many corrections a run could append."""
    month = planted(policies)
    whole = proposed(month, include=HELD_BACK)
    for begun in (whole[::2], [each for each in whole if each.team == "ads"]):
        rest = proposed(month, begun, HELD_BACK)
        assert owed([*begun, *rest]) == owed(whole)


def owed(corrections: Iterable[Correction]) -> dict[tuple[datetime, str, str, str], int]:
    found: dict[tuple[datetime, str, str, str], int] = {}
    for each in corrections:
        place = each.at, each.model, each.cls, each.team
        found[place] = found.get(place, 0) + each.nano
    return found


def test_a_correction_lies_in_its_day_and_is_shared_out_to_the_nano(policies: Policies) -> None:
    month = planted(policies)
    found, bill = findings(month)
    first = proposed(month, include=HELD_BACK)
    for correction in first:
        span = next(span for span in bill.spans if span.holds(correction.at)) if correction.at.day != 20 else None
        assert span is None or span.name == correction.at.date().isoformat()
    shared = {each.team for each in first if each.model == PRO and each.at.day == 24}
    assert shared == {"search", "ads"}
    cells = {(finding.cell.model, finding.cell.cls, finding.cell.span.holds): finding.gap for finding in found}
    for (model, cls, holds), nano in cells.items():
        assert sum(each.nano for each in first if (each.model, each.cls) == (model, cls) and holds(each.at)) == nano


# --- invariants ---------------------------------------------------------------------------------------------------------------

DAYS = st.sampled_from([3, 4, 5])
TOKENS = st.tuples(st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 5000))
PRICE = st.sampled_from([None, Rates(1_000_000, 700_000_000, 2_000_000_000), Rates(22_000_000, 660_000_000, 1_980_000_000)])
CALLS = st.builds(
    lambda day, minute, model, ours, theirs, sources, status, stopped, shift, prices, team: Call(
        at(f"{day} 00:00") + timedelta(minutes=minute), model, ours, theirs, team, sources, status, stopped,
        None if shift is None else at(f"{day} 00:00") + timedelta(minutes=minute + shift), prices,
    ),
    DAYS, st.integers(0, 1439), st.sampled_from([PRO, FLASH]), st.none() | TOKENS, st.none() | TOKENS,
    st.sampled_from([COUNTED, Sources()]), st.sampled_from(["ok", "client_gone", "upstream_error"]), st.sampled_from([None, "expired"]),
    st.none() | st.integers(-2000, 2000), PRICE, st.sampled_from(["search", "ads"]),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(calls=st.lists(CALLS, min_size=1, max_size=25), counts=st.booleans())
def test_whatever_was_charged_and_billed_the_parts_sum_to_the_difference(calls: list[Call], counts: bool) -> None:
    month = Month(shipped(), calls)
    if not month.billed():
        return
    text = month.amounts()
    if not counts:
        text = "".join(line for line in text.splitlines(keepends=True) if "request_count" not in line)
        if text.count("\n") < 2:
            return
    found, _ = findings(month, text=text)
    adds_up(found)
    assert {part.reason for finding in found for part in finding.parts} <= set(MEANINGS)
    first = proposals(found, [], "deepseek", "USD", "u-1", frozenset(HELD_BACK))
    again, _ = findings(month, first, text)
    adds_up(again)
    assert gap(again) == 0
    assert proposals(again, first, "deepseek", "USD", "u-1") == []


# --- the files ----------------------------------------------------------------------------------------------------------------

HEAD = "user_id,start_time_iso,end_time_iso,model,api_key_name,api_key,type,price,amount\n"
GOOD = "u,2026-11-03T00:00:00+08:00,2026-11-04T00:00:00+08:00,deepseek-v4-pro,main,sk-1***9,output_tokens,0.00000198,1000\n"
COST = (
    "user_id,utc_date,model,wallet_type,cost,currency\nu,2026-11-03,deepseek-v4-pro,GRANTED,1.25,USD\n"
    "u,2026-11-03,deepseek-v4-pro,TOPPED_UP,0.005,USD\n"
)


def test_a_line_of_the_export_is_tokens_at_a_price() -> None:
    (line,) = read("a.csv", ("\ufeff" + HEAD + GOOD).encode()).lines
    assert line == BillLine(day_of(date(2026, 11, 3), BEIJING), "u", PRO, BillKey("main", "sk-1***9"), "output", OFF_OUT, 1000, 1_980_000)


@pytest.mark.parametrize(("other", "step"), [("0.0000001", 100), ("2", NANO // 100), ("1e3", NANO // 100)])
def test_zeros_that_a_cost_leaves_out_do_not_make_it_coarse(other: str, step: int) -> None:
    """A whole dollar is one to the cent: what it is off by is no rounding."""
    head = "user_id,utc_date,model,wallet_type,cost,currency\n"
    found = read("c.csv", f"{head}u,2026-11-03,m,GRANTED,1,USD\nu,2026-11-04,m,GRANTED,{other},USD\n".encode())
    assert [total.step for total in found.totals] == [step, step]


def test_a_silent_day_of_25_hours_is_one_day() -> None:
    zone = ZoneInfo("America/New_York")
    days = tuple(day_of(date(2026, 11, 1) + timedelta(number), zone) for number in range(-1, 2))
    assert filled((days[0], days[2])) == days


def test_a_day_may_be_ended_by_its_last_second() -> None:
    (line,) = read("a.csv", (HEAD + GOOD.replace("2026-11-04T00:00:00", "2026-11-03T23:59:59")).encode()).lines
    assert line.span == day_of(date(2026, 11, 3), BEIJING)


def test_the_wallets_of_a_day_are_one_total() -> None:
    (total,) = read("cost-2026-11.csv", COST.encode()).totals
    assert (total.nano, total.currency, total.step) == (1_255_000_000, "USD", 2_000_000)


def test_both_files_come_in_one_zip() -> None:
    cost = COST.replace("utc_date", "start_time_iso,end_time_iso").replace("2026-11-03,", GOOD[2:54])
    bill = read("usage.zip", zipped({"u/amount-2026-11.csv": HEAD + GOOD, "u/cost-2026-11.csv": cost, "readme.txt": "?"}))
    assert (len(bill.lines), len(bill.totals), len(bill.spans)) == (1, 1, 1)


def zipped(files: dict[str, str]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as folder:
        for name, text in files.items():
            folder.writestr(name, text)
    return data.getvalue()


def swap(old: str, new: str) -> Callable[[], bytes]:
    return lambda: (HEAD + GOOD.replace(old, new)).encode()


WRONG: dict[str, tuple[Callable[[], bytes], str]] = {
    "no table of ours": (lambda: b"a,b\n1,2\n", "f, line 1: no export that is known has these columns: a, b."),
    "a column is missing": (lambda: HEAD.replace(",price", "").encode(), "f, line 1: lacks the columns price of DeepSeek's usage export."),
    "a cell too few": (swap(",1000", ""), "f, line 2: has 8 cells, and the header has 9."),
    "no number": (swap("1000\n", "many\n"), "f, line 2, column amount: 'many' is not a number."),
    "half a token": (swap("1000\n", "1.5\n"), "f, line 2, column amount: '1.5' is not a whole number."),
    "less than nothing": (swap("1000\n", "-1\n"), "f, line 2, column amount: '-1' is not an amount of zero or more."),
    "an attack on arithmetic": (swap("1000\n", "1e999999\n"), "f, line 2, column amount: '1e999999' is not an amount of zero or more."),
    "no price": (swap("0.00000198", ""), "f, line 2, column price: '' is not a number."),
    "too fine a price": (swap("0.00000198", "0.0000000000000001"), "f, line 2, column price: '0.0000000000000001' is finer than"),
    "an unknown type": (swap("output_tokens", "video_tokens"), "f, line 2, column type: 'video_tokens' is none of input_cache_hit_tokens"),
    "the end of time": (swap("2026-11-04T00:00:00+08:00", "9999-12-31T23:59:59-08:00"), "f, line 2, column start_time_iso: "),
    "no date": (swap("2026-11-03T00:00:00+08:00", "yesterday"), "f, line 2, column start_time_iso: 'yesterday' is not an instant such as"),
    "no zone": (swap("2026-11-03T00:00:00+08:00", "2026-11-03T00:00:00"), "column start_time_iso: '2026-11-03T00:00:00' has no time zone."),
    "an end before its start": (
        swap("2026-11-04T", "2026-11-02T"),
        "column end_time_iso: '2026-11-02T00:00:00+08:00' is not after start_time_iso.",
    ),
    "no currency": (
        lambda: COST.replace(",USD", ",US$").encode(),
        "f, line 2, column currency: 'US$' is no currency such as USD.",
    ),
    "no text": (lambda: b"\xff\xfe\x00", "f, byte 0: is not UTF-8."),
    "half a zip": (lambda: zipped({"a.csv": HEAD})[:40], "f is a ZIP file that cannot be read"),
    "an empty zip": (lambda: zipped({"a.txt": ""}), "f has no CSV file in it."),
    "an open quote": (lambda: (HEAD + '"u').encode(), "is not CSV"),
    "no json": (lambda: b'{"data": \n', "f, line 1: is not JSON."),
    "other json": (lambda: b'[{"a": 1}]', "f, record 1: is no record of /generation (total_cost) or /activity (usage, date)"),
    "json without a cost": (lambda: b'{"id": "g", "total_cost": "1", "model": "m"}', "f, total_cost: '1' is not an amount."),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_one_line_that_names_the_cell(case: str) -> None:
    data, words = WRONG[case]
    with pytest.raises(ExportError) as caught:
        read("f", data())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_say_the_same_twice_or_belong_to_two_hosts_are_refused() -> None:
    bill = read("a", (HEAD + GOOD).encode())
    other = read("b", b'{"id": "g", "total_cost": 1, "model": "m", "created_at": "2026-11-03T00:00:00Z"}')
    with pytest.raises(ExportError, match="the same lines of 2026-11-03"):
        joined([bill, bill])
    with pytest.raises(ExportError, match="different hosts"):
        joined([bill, other])
    later = read("c", (HEAD + GOOD.replace("+08:00", "+03:00")).encode())
    with pytest.raises(ExportError, match="overlap"):
        joined([bill, later])


def test_records_of_openrouter_are_summed_by_day_and_model_exactly() -> None:
    text = (
        '{"data": {"id": "gen-1", "total_cost": 0.1, "created_at": "2026-11-03T23:59:59.5Z", "model": "m", "native_tokens_prompt": 7}}\n'
        '{"id": "gen-2", "total_cost": 2e-10, "created_at": "2026-11-03T10:00:00+00:00", "model": "m", "cancelled": true}\n'
        '{"id": "gen-2", "total_cost": 2e-10, "created_at": "2026-11-03T10:00:00+00:00", "model": "m", "cancelled": true}\n'
    )
    bill = read("g.jsonl", text.encode())
    (line,), (count,) = bill.lines, bill.counts
    assert (line.nano, line.tokens, line.rate, line.cls) == (100_000_001, 7, None, "")
    assert (count.requests, count.cancelled) == (2, 1)
    activity = (
        b'{"data": [{"date": "2026-11-03", "model": "m", "usage": 0.015, "requests": 5, "prompt_tokens": 50, "completion_tokens": 125}]}'
    )
    assert read("a.json", activity).lines[0][6:] == (175, 15_000_000)


def test_a_large_export_takes_a_few_times_its_size_of_memory() -> None:
    """Days, models and keys come on every line, and are kept once; the text is never there as a whole with four bytes a character."""
    keys = range(4000)
    table = (HEAD + "".join(GOOD.replace("main", f"key-{key}") for key in keys)).encode()
    record = '{"id": "gen-1763600000-%020d", "model": "deepseek/r1-0528", "created_at": "2026-11-03T01:02:03Z", "total_cost": 0.00123}\n'
    records = "".join(record % key for key in keys).encode()
    for data in (table, records):
        tracemalloc.start()
        bill = read("f", data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert sum(count.requests for count in bill.counts) + len(bill.lines) - len(bill.counts) == len(keys)
        assert peak < 5 * len(data), peak / len(data)


def test_days_between_and_around_those_of_an_export_are_days_of_silence() -> None:
    spans = (day_of(date(2026, 11, 3), BEIJING), day_of(date(2026, 11, 6), BEIJING))
    whole = filled(spans, spans[0].start - timedelta(days=2, hours=3), spans[1].end + timedelta(days=1))
    assert [span.name for span in whole] == [f"2026-11-{day:02d}" for day in range(1, 8)]
    assert {span.end - span.start for span in whole} == {timedelta(days=1)}


def test_a_figure_of_the_bill_is_its_tokens_times_its_price(policies: Policies) -> None:
    for line in read("a", plain(policies).amounts().encode()).lines:
        assert line.rate is not None
        assert line.tokens is not None
        assert abs(line.nano * MILLION - line.tokens * line.rate) * 2 <= MILLION, decimal_text(line.nano)


# --- what is said -------------------------------------------------------------------------------------------------------------

STEERS = "a\x1b]0;x\x07\u202e\nb"
SHOWN = r"a\x1b]0;x\x07\u202e\nb"


def reconciled(folder: Path, *words: str) -> list[str]:
    """The command, on an export with `folder`'s empty ledger."""
    asyncio.run(emptied(folder / "ledger.db"))
    return ["reconcile", str(folder / "amount.csv"), "--ledger", f"sqlite:///{folder / 'ledger.db'}", *words]


async def emptied(path: Path) -> None:
    store = SqliteStore(path)
    await store.start()
    await store.close()


def quoted(name: str) -> str:
    return f'"{name}"'


def test_no_name_of_an_export_steers_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAREGATE_DATA", str(tmp_path))
    line = GOOD.replace("u,", f"{quoted(STEERS)},", 1).replace("deepseek-v4-pro", quoted(f"model {STEERS}"))
    other = line.replace("main", quoted(f"other {STEERS}")).replace(",1000", ",1")
    (tmp_path / "amount.csv").write_text(HEAD + line + other, newline="")

    code, out, err = said(capsys, *reconciled(tmp_path, "--key-map", "main=ours", "--include", "all"))

    assert (code, err) == (0, "")
    assert all(text.isprintable() for text in out.split("\n"))
    for what in (f"account {SHOWN}, ", f"model {SHOWN}", f"key other {SHOWN}, not this ledger's, was billed 0.00000198 for 1 token\n"):
        assert what in out
    found = json_of(capsys, *reconciled(tmp_path, "--key-map", "main=ours", "--json"))
    assert (found["account"], found["cells"][0]["model"], found["other_keys"][0]["key"]) == (STEERS, f"model {STEERS}", f"other {STEERS}")

    code, out, err = said(capsys, *reconciled(tmp_path))
    assert (code, out) == (2, "") and f"other {SHOWN}: say which" in err and err[:-1].isprintable()


def test_no_name_in_a_file_that_is_refused_steers_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAREGATE_DATA", str(tmp_path))
    zip = zipped({f"{STEERS}.csv": HEAD + GOOD.replace("1000", "many")})
    costs = COST.replace("GRANTED,1.25,USD", f"GRANTED,1.25,{quoted(STEERS)}")
    for data in (quoted(STEERS).encode() + b",b\n1,2\n", zip, costs.encode()):
        (tmp_path / "amount.csv").write_bytes(data)
        code, out, err = said(capsys, *reconciled(tmp_path))
        assert (code, out) == (2, "") and SHOWN.lower() in err.lower(), err
        assert all(text.isprintable() for text in err.split("\n"))


def test_proposed_corrections_stand_in_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FAREGATE_DATA", str(tmp_path))
    (tmp_path / "amount.csv").write_text(HEAD + GOOD + GOOD.replace(PRO, FLASH))
    out = said(capsys, *reconciled(tmp_path, "--include", "all"))[1]
    head, *rows = out.rstrip().split("\n\n")[-1].split("\n")
    assert len(rows) == 2 and "proposed: 2 corrections of " in out
    for name in ("model", "class", "reason"):
        assert all(row[: head.index(name)].endswith("  ") and row[head.index(name)] != " " for row in rows), name


def test_an_export_may_come_from_standard_input(tmp_path: Path) -> None:
    """As it does into a container, which sees no file of the operator's."""
    (tmp_path / "amount.csv").write_text(HEAD + GOOD)
    verb, file, *words = reconciled(tmp_path, "--json")

    code, out, err = run(verb, "-", *words, folder=tmp_path, given=HEAD + GOOD)

    assert (code, out, err) == run(verb, file, *words, folder=tmp_path) and json.loads(out)["billed"] == "0.00198"
    code, out, err = run(verb, "-", *words, folder=tmp_path, given=HEAD + GOOD.replace("1000", "many"))
    assert (code, out) == (2, "") and err.startswith("faregate: standard input, line 2, column amount: 'many' is not a number.")
