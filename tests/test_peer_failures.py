"""What others got wrong in public, and the test that proves it of us; the table, and the tests of the table.

The tests that were written for it stand in test_peer_failures_budgets.py, _faults.py and _periods.py, each with its origin above it.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parent
B, F, P = ("test_peer_failures_budgets", "test_peer_failures_faults", "test_peer_failures_periods")


class Failure(NamedTuple):
    """Where it was told (project and issue), what went wrong there, and our tests; `why_not` where it cannot happen here."""

    origin: str
    what: str
    tests: tuple[str, ...] = ()
    why_not: str = ""


def shown(origin: str, what: str, *tests: str) -> Failure:
    return Failure(origin, what, tests)


def absent(origin: str, what: str, why: str) -> Failure:
    return Failure(origin, what, why_not=why)


CATALOGUE = (
    # -- holds and budgets
    shown(
        "BerriAI/litellm#27639, BerriAI/litellm#30460, BerriAI/litellm#36926",
        "a lost decrement looks like spend",
        f"{B}::test_whatever_becomes_of_a_request_nothing_stays_held",
        f"{F}::test_failed_requests_give_their_places_back",
    ),
    shown(
        "BerriAI/litellm#30522",
        "no release where the client left",
        f"{B}::test_whatever_becomes_of_a_request_nothing_stays_held",
        "test_ledger::test_a_hold_whose_caller_left_after_it_was_written_ends_released",
    ),
    shown(
        "QuantumNous/new-api#4429",
        "a charge in advance is never refunded after a failure, or after a panic",
        f"{B}::test_whatever_becomes_of_a_request_nothing_stays_held",
        "test_steward::test_the_hold_of_a_course_that_is_lost_expires_and_the_others_are_renewed",
    ),
    shown(
        "BerriAI/litellm#40050",
        "what is enforced is not what is in the ledger",
        f"{B}::test_every_figure_of_what_is_spent_is_the_same_figure",
    ),
    shown(
        "BerriAI/litellm#28283",
        "counters grow with restarts and repeats",
        f"{F}::test_a_killed_replica_holds_nothing_for_longer_than_its_lease",
        "test_stores::test_of_many_settles_at_once_exactly_one_has_an_effect",
    ),
    shown(
        "BerriAI/litellm#30330",
        "a killed pod holds for ever; a reset in between drives the counter below zero",
        f"{F}::test_a_killed_replica_holds_nothing_for_longer_than_its_lease",
        f"{P}::test_what_began_in_one_period_is_charged_there",
        "test_ledger::test_a_lease_goes_on_while_its_ledger_lives",
    ),
    shown(
        "BerriAI/litellm#35569",
        "the clean-up fails, then the full cost is applied too",
        f"{F}::test_without_the_ledger_nothing_is_sent_and_nothing_charged_twice",
        "test_steward::test_an_end_that_another_process_kept_out_ends_well_and_lands_once",
    ),
    shown(
        "BerriAI/litellm#33923",
        "fail_closed fails open",
        f"{F}::test_without_the_ledger_nothing_is_sent_and_nothing_charged_twice",
    ),
    shown(
        "BerriAI/litellm#38647",
        "worst cases fill a budget at zero spend; a sum of 25.000000000000004",
        f"{B}::test_worst_cases_do_not_fill_a_budget",
        "test_architecture::test_a_broken_package_is_found",
    ),
    shown(
        "can1357/oh-my-pi#9569, Agenta-AI/agenta#6341",
        "402 because an absent max_tokens means the model's maximum",
        f"{B}::test_worst_cases_do_not_fill_a_budget",
    ),
    shown(
        "BerriAI/litellm#27735",
        "stale refusals of a single process without Redis",
        f"{F}::test_money_that_came_back_can_be_asked_for_at_once",
    ),
    shown(
        "BerriAI/litellm#40002",
        "the dearer tier is not in the hold",
        f"{P}::test_a_dearer_band_that_can_be_reached_is_in_the_hold",
        "test_prices::test_the_dearest_band_that_can_be_reached",
    ),
    shown(
        "BerriAI/litellm#40095, BerriAI/litellm#34732, envoyproxy/ai-gateway#680, envoyproxy/ai-gateway#2394",
        "check first, book afterwards: what comes at once gets in",
        f"{B}::test_a_burst_on_a_budget_that_nobody_has_used_stays_within_it",
        f"{F}::test_a_limit_counts_what_is_still_under_way",
    ),
    shown(
        "BerriAI/litellm#26672, maximhq/bifrost#5673",
        "a key's budget is not enforced, or dropped from the order",
        f"{B}::test_a_key_and_its_team_are_each_held_to_their_own_budget",
        f"{B}::test_a_budget_that_is_not_understood_makes_no_key",
    ),
    shown("maximhq/bifrost#2873", "other routes bypass budgets", f"{B}::test_every_way_in_meets_the_budget"),
    shown("maximhq/bifrost#5770", "99 % is said at 3 %", f"{B}::test_a_step_is_taken_where_its_share_is_reached_and_not_before"),
    shown(
        "Wei-Shaw/sub2api#7002, saikirankalidindi/hardcap (README)",
        "running streams are not ended; reasoning is not counted",
        f"{B}::test_a_long_answer_ends_well_where_the_budget_ends",
        f"{B}::test_a_whole_answer_is_kept_within_what_is_left",
    ),
    # -- metering and streams
    shown(
        "BerriAI/litellm#14457, BerriAI/litellm#13245, BerriAI/litellm#30630, BerriAI/litellm#33736, BerriAI/litellm#36008",
        "the client leaves: usage lost, then billed in part, then the host works on",
        "test_truth::test_a_client_that_leaves_ends_the_work_of_the_host_at_once",
        "test_truth::test_counted_rows_are_near_the_truth",
        f"{B}::test_what_is_counted_is_what_is_charged",
    ),
    shown("BerriAI/litellm#35958", "interrupted streams are billed too low", f"{B}::test_what_is_counted_is_what_is_charged"),
    shown("BerriAI/litellm#37992", "explicit zero usage is estimated", f"{B}::test_usage_of_zero_is_charged_as_zero"),
    shown("BerriAI/litellm#39893", "the cost is stamped before the tokens are known", f"{B}::test_what_is_counted_is_what_is_charged"),
    shown(
        "router-for-me/CLIProxyAPI#3076, defilantech/LLMKube#1852",
        "zero usage in every chunk, or none, is free",
        "test_money_paths::test_usage_of_zero_in_every_chunk_and_none_at_the_end_is_counted",
        f"{B}::test_what_is_counted_is_what_is_charged",
    ),
    shown(
        "QuantumNous/new-api#5288, QuantumNous/new-api#4168",
        "error text is billed as output, parts of an answer by a local count without a mark",
        "test_money_paths::test_a_refusal_is_free_however_long_its_page",
        "test_truth::test_counted_rows_are_marked_and_never_free",
    ),
    shown(
        "BerriAI/litellm#23847",
        "usage of a stream is not asked for",
        f"{B}::test_every_figure_of_what_is_spent_is_the_same_figure",
    ),
    shown("BerriAI/litellm#35829", "the host's usage.cost is taken as it stands", f"{B}::test_a_cost_that_cannot_be_is_not_charged"),
    shown(
        "maximhq/bifrost#904, maximhq/bifrost#3451",
        "cached tokens are billed as fresh ones",
        f"{B}::test_every_figure_of_what_is_spent_is_the_same_figure",
        "test_truth::test_reported_rows_equal_the_bill_to_the_nano",
    ),
    shown(
        "BerriAI/litellm#13786, Beever-AI/beever-atlas#334",
        "a hundred equal chunks end the answer",
        f"{F}::test_an_answer_that_repeats_itself_goes_to_its_end",
    ),
    shown(
        "Soju06/codex-lb#1010, httpx-sse#34, dify#39008",
        "separators inside a text split an event: usage is lost, or made up by the model",
        "test_sse::test_events_end_at_a_blank_line_however_it_is_written",
        "test_truth::test_every_fault_was_met",
    ),
    # -- prices and currencies
    shown(
        "BerriAI/litellm#13399, BerriAI/litellm#31829, maximhq/bifrost#6937",
        "two currencies in one book, history priced anew",
        f"{B}::test_a_budget_in_another_currency_takes_each_charge_at_the_rate",
        f"{F}::test_a_changed_file_applies_to_the_next_request_and_to_nothing_earlier",
    ),
    shown(
        "BerriAI/litellm (its proxy, read)",
        "what has no price is let in without a hold, and costs 0",
        f"{B}::test_what_has_no_rate_is_refused_before_it_is_sent",
        "test_router::test_the_error_says_what_is_missing",
    ),
    shown(
        "BerriAI/litellm#31606, BerriAI/litellm#37255",
        "the price matches no hour of the day",
        "test_shipped_policies::test_a_price_is_that_of_its_instant",
        "test_receipts::test_deepseek_is_charged_by_the_window_at_completion",
    ),
    shown(
        "nesquikm/mcp-rubber-duck#143, xyzs996/llm-api-pricing (discussion 44)",
        "weekdays and holidays of another calendar",
        "test_prices::test_weekday_and_holiday_are_those_of_the_windows_zone",
        "test_prices::test_peak_hours_of_a_week",
    ),
    shown(
        "Portkey-AI/models#900, anomalyco/opencode#48642",
        "a price list that is old or wrong",
        "test_shipped_policies::test_a_published_card_is_never_edited",
        "test_shipped_policies::test_deepseek_is_priced_in_both_currencies_at_every_edge_of_every_row",
    ),
    # -- settings and reloads
    shown("BerriAI/litellm#20615", "a price in another unit blocks everything", f"{F}::test_policies_with_a_mistake_change_nothing"),
    shown(
        "BerriAI/litellm#30772, BerriAI/litellm#20409, BerriAI/litellm#40035",
        "no reload",
        f"{F}::test_a_changed_file_applies_to_the_next_request_and_to_nothing_earlier",
        "test_policy_watch::test_a_changed_file_is_loaded",
    ),
    shown(
        "BerriAI/litellm#18708",
        "a database that is away makes keys invalid",
        f"{F}::test_without_the_ledger_nothing_is_sent_and_nothing_charged_twice",
    ),
    # -- repeats
    shown(
        "elixir-vibe/llm_proxy#4",
        "a retry after an ambiguous failure pays twice, and nobody writes down that it may have",
        f"{F}::test_what_may_have_been_paid_is_not_sent_again",
        f"{F}::test_the_same_request_is_sent_once_however_often_it_comes",
        f"{F}::test_what_was_certainly_free_may_be_sent_again",
    ),
    # -- keys
    shown("BerriAI/litellm#30670, mem0#6081", "a key in clear in a log or an answer", f"{B}::test_no_key_is_written_anywhere"),
    shown("CVE-2026-35030, CVE-2026-42208", "part of a key, or SQL in it, opens", f"{B}::test_a_key_is_known_by_all_of_it"),
    shown("CVE-2026-35029", "settings are changed without the right to", "test_admin::test_all_else_needs_the_token"),
    shown("CVE-2026-45339", "a rule for one header and not for the others", f"{B}::test_a_key_means_the_same_in_every_header"),
    shown(
        "BerriAI/litellm#41852, BerriAI/litellm#39998",
        "a model that a team may not use is had by a detour",
        f"{B}::test_a_team_gets_no_model_but_its_own_however_it_asks",
    ),
    shown(
        "BerriAI/litellm#24952, BerriAI/litellm#31467, BerriAI/litellm#37053, BerriAI/litellm#32093, BerriAI/litellm#34189, "
        "BerriAI/litellm#26996, GHSA-h7x2-h6g9-p789",
        "the operator's key goes to a URL that the client names",
        "test_body::test_headers_and_query_carry_nothing_that_steers",
        "test_fields::test_each_field_is_passed_renamed_or_dropped",
    ),
    # -- what does not apply
    absent("BerriAI/litellm#38064, BerriAI/litellm#35787", "routing by cost ignores the cache", "no route is chosen by cost yet: by order"),
    absent("deepseek-ai/DeepSeek-V3#1261", "a falling hit rate alarms nobody", "no alarm of ours yet; faregate_tokens_total shows it"),
    absent(
        "BerriAI/litellm#27954, BerriAI/litellm#25219, BerriAI/litellm#21908, BerriAI/litellm#38193, BerriAI/litellm#21046, "
        "BerriAI/litellm#13546",
        "memory and speed",
        "no money: test_performance_guard bounds both",
    ),
    absent("maximhq/bifrost#1665", "a table of logs grows without bound", "nothing is logged to a table; charges are kept on purpose"),
    absent("Portkey-AI/gateway#1739", "the repository is not maintained", "says nothing about code"),
    absent("maximhq/bifrost#6579", "billed at the start of a request", "a rule of the vendor's card here: `tier_at`"),
)

LINK = re.compile(r"(?:([\w.-]+/)?([\w.-]+))?#(\d+)|CVE-\d+-\d+|GHSA(?:-\w{4}){3}")


@cache
def names_in(module: str) -> frozenset[str]:
    """The names of the tests in a module of this folder."""
    tree = ast.parse((TESTS / f"{module}.py").read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def links(text: str) -> set[str]:
    """The issues that a text names; `#2` after `a/b#1` is one of a/b."""
    found, project = set(), ""
    for match in LINK.finditer(text):
        project = (match[1] or "") + match[2] if match[2] else project
        found.add(f"{project}#{match[3]}" if match[3] else match[0])
    return found


@pytest.mark.parametrize("failure", CATALOGUE, ids=lambda failure: failure.origin)
def test_every_failure_has_a_test_or_a_reason(failure: Failure) -> None:
    assert bool(failure.tests) != bool(failure.why_not)
    for name in failure.tests:
        module, _, test = name.partition("::")
        assert test in names_in(module), f"{name} is gone"


def test_an_origin_stands_once() -> None:
    every = [link for failure in CATALOGUE for link in links(failure.origin)]
    assert sorted(every) == sorted(set(every))


@pytest.mark.parametrize("module", [B, F, P])
def test_what_stands_above_a_test_stands_in_the_table(module: str) -> None:
    for test, comment in comments(module).items():
        rows = [failure for failure in CATALOGUE if f"{module}::{test}" in failure.tests]
        assert rows, f"{module}::{test} is of no failure"
        assert links(comment) <= {link for failure in rows for link in links(failure.origin)}, f"{module}::{test}"


def comments(module: str) -> dict[str, str]:
    """The comment above each test, above its decorators too."""
    source = (TESTS / f"{module}.py").read_text()
    lines = source.split("\n")
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 2
            last = first
            while lines[first].startswith("#"):
                first -= 1
            found[node.name] = " ".join(line.removeprefix("# ") for line in lines[first + 1 : last + 1])
    return found
