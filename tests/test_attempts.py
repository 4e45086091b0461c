"""Attempts: who is asked after whom, and who is not; what each attempt may have cost, and that nothing is paid twice."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from gateway.attempts import Attempts
from gateway.clock import parse_instant
from gateway.errors import UpstreamError
from gateway.experience import Experience
from gateway.health import Health
from gateway.outcome import Grant, Hold
from gateway.receipts import Journey
from gateway.replicas import Replicas
from gateway.request import Caller
from gateway.router import Terms, plan
from gateway.timekeeping import RealClock
from gateway.upstream.accounts import Account, Accounts
from gateway.upstream.port import Call, Deadlines
from gateway.watch import ClientGone
from tests.asking import ask as ask_here
from tests.asking import policies
from tests.harness import EmulatedHost, events, get_json
from tests.replicas import Stage, error_of, lefts, nano, team_of, total
from tests.scripted import until

FIRST, SECOND = "novita/deepseek/deepseek-v3.2", "openrouter/deepseek/deepseek-v3.2"
ROUTES = f"""
- {{route: both, contract: deepseek-v3.2, deployments: [{FIRST}, {SECOND}], choose: order}}
- {{route: twice, contract: deepseek-v3.2, deployments: [{FIRST}, {SECOND}], choose: order, never_pay_twice: false}}
- {{route: back, contract: deepseek-v3.2, deployments: [{SECOND}, {FIRST}], choose: order, never_pay_twice: false}}
- {{route: once, contract: deepseek-v3.2, deployments: [{FIRST}, {SECOND}], choose: order, attempts: 1}}
- {{route: same-host, contract: deepseek-v3.2, deployments: [{FIRST}, novita/deepseek/deepseek-v4-flash-0731, {SECOND}], choose: order}}
- {{route: abroad, contract: deepseek-v3.2, deployments: [{FIRST}, deepseek/deepseek-flash], choose: order}}
"""
EDITS = [("routes.yaml", "- route: deepseek-chat\n", f"{ROUTES}\n- route: deepseek-chat\n")]
# Enough for a few tokens where the prompt is read at the first host's price, and not at the second's.
SMALL = total("0.000115")
FEW = {"requests_per_minute": 2, "tokens_per_minute": 500, "concurrent": 1}
TEAMS = (team_of("rich"), team_of("budgeted", total("0.01")), team_of("small", SMALL), team_of("few", limits=FEW))
SETTINGS = {
    "FAREGATE_TIMEOUT_CONNECT": "1",
    "FAREGATE_TIMEOUT_FIRST_BYTE": "0.8",
    "FAREGATE_TIMEOUT_IDLE": "0.6",
    "FAREGATE_TIMEOUT_TOTAL": "4",
    "FAREGATE_CURRENCY_DEEPSEEK": "CNY",
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    hosts = ("novita", "openrouter", "deepseek")
    with Stage(tmp_path_factory.mktemp("attempts"), TEAMS, hosts=hosts, edits=EDITS, settings=SETTINGS) as stage:
        yield stage


@pytest.fixture
def stage(shared: Stage) -> Stage:
    """Hosts that have done nothing wrong, and have been asked nothing."""
    shared.reload()
    for host in shared.hosts.values():
        host.reset()
    return shared


def first(stage: Stage) -> EmulatedHost:
    return stage.hosts["novita"]


def second(stage: Stage) -> EmulatedHost:
    return stage.hosts["openrouter"]


def ask(model: str = "both", stream: bool = False, wish: str = "answer=20 reasoning=0", **more: Any) -> dict[str, Any]:
    return {"model": model, "stream": stream, "messages": [{"role": "user", "content": f"Which is greater? [[{wish}]]"}], **more}


def lines(row: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """(host, outcome, billed, whether it cost something) of each attempt; they sum to the charge."""
    assert sum(one["nano"] for one in row["attempts"]) == row["nano"]
    assert sum((row["parts"] or {}).values()) == row["nano"]
    return [(one["host"], one["outcome"], one["billed"], one["nano"] > 0) for one in row["attempts"]]


# ---- what costs nothing is tried elsewhere

FREE: dict[str, tuple[dict[str, Any], str]] = {
    "429": ({"status": 429, "retry_after": 7}, "rate_limited"),
    "402": ({"status": 402}, "upstream_error"),
    "401": ({"status": 401}, "upstream_error"),
    "404": ({"status": 404}, "client_error"),
    "413": ({"status": 413}, "client_error"),
    "500": ({"status": 500}, "upstream_error"),
    "502 that says that it used nothing": ({"status": 502, "body": {"error": {}, "usage": {"completion_tokens": 0}}}, "upstream_error"),
    "529": ({"status": 529}, "upstream_error"),
    "a page": ({"html": True, "status": 200}, "upstream_error"),
    "a redirect": ({"redirect": "http://127.0.0.1:9/"}, "upstream_error"),
    "an error in a 200": ({"error_after": 0}, "upstream_error"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", FREE)
def test_what_cost_nothing_is_tried_at_the_next_host(stage: Stage, case: str, stream: bool) -> None:
    fault, outcome = FREE[case]
    first(stage).faults(fault)
    status, headers, data = stage.chat("rich", ask(stream=stream))
    assert (status, headers["x-faregate-host"]) == (200, "openrouter"), data
    row = stage.row_of(headers)
    assert lines(row) == [("novita", outcome, "none", False), ("openrouter", "ok", "known", True)]
    assert (row["status"], row["host"]) == ("ok", "openrouter")
    assert row["nano"] == second(stage).bill()[row["id"]]["nano"]
    assert first(stage).bill() == {} or case == "an error in a 200"


def test_a_host_that_cannot_be_reached_is_passed(stage: Stage, tmp_path: Path) -> None:
    urls = {"openrouter": second(stage).url, "novita": "http://127.0.0.1:1"}
    with Stage(tmp_path / "stage", TEAMS, hosts=(), urls=urls, edits=EDITS) as own:
        status, headers, _ = own.chat("rich", ask(stream=True))
        assert (status, lines(own.row_of(headers))[0]) == (200, ("novita", "upstream_error", "none", False))


def test_the_number_of_attempts_is_the_route_s(stage: Stage) -> None:
    first(stage).faults({"status": 500})
    status, headers, data = stage.chat("rich", ask("once"))
    assert (status, error_of((status, headers, data))["code"], headers["x-should-retry"]) == (502, "upstream_error", "false")
    assert second(stage).requests() == []


def test_what_is_wrong_with_the_request_is_wrong_everywhere(stage: Stage) -> None:
    first(stage).faults({"status": 400}, {"status": 400, "body": {"error": {"message": "maximum context length is 1 token"}}})
    for _ in range(2):
        status, headers, data = stage.chat("rich", ask())
        assert status == 400, data
        assert headers["x-should-retry"] == "false"
    # The second one has as little room as the first.
    assert second(stage).requests() == []
    assert stage.chat("rich", ask())[1]["x-faregate-host"] == "novita"


def test_all_that_a_host_offers_is_passed_once_it_is_parked(stage: Stage) -> None:
    first(stage).faults({"status": 402}, {"status": 500}, {"status": 500})
    status, headers, _ = stage.chat("rich", ask("same-host"))
    assert (status, headers["x-faregate-host"]) == (200, "openrouter")
    assert [one["host"] for one in stage.row_of(headers)["attempts"]] == ["novita", "openrouter"]
    assert len(first(stage).requests()) == 1


def test_another_currency_cannot_follow(stage: Stage) -> None:
    first(stage).faults({"status": 500})
    answer = stage.chat("rich", ask("abroad"))
    assert (answer[0], error_of(answer)["code"]) == (502, "upstream_error")
    assert stage.hosts["deepseek"].requests() == []


# ---- what may have cost something

PAID: dict[str, tuple[dict[str, Any], int, str]] = {
    "cut before any text": ({"cut_after": 0}, 502, "upstream_error"),
    "silent": ({"hang": True}, 504, "timeout"),
    "compressed": ({"gzip": True}, 502, "upstream_error"),
    "a proxy's 504": ({"status": 504}, 504, "timeout"),
    "a proxy's 524": ({"status": 524}, 504, "timeout"),
    "408": ({"status": 408}, 504, "timeout"),
}


@pytest.mark.parametrize("case", PAID)
def test_nothing_is_paid_twice(stage: Stage, case: str) -> None:
    fault, expected, outcome = PAID[case]
    first(stage).faults(fault)
    status, headers, _ = stage.chat("rich", ask(stream=True))
    assert (status, headers["x-should-retry"]) == (expected, "false")
    assert second(stage).requests() == []
    assert lines(stage.row_of(headers)) == [("novita", outcome, "possible", True)]


@pytest.mark.parametrize("team", ["rich", "budgeted"])
@pytest.mark.parametrize("case", PAID)
def test_a_route_may_pay_twice_and_then_says_for_what(stage: Stage, case: str, team: str) -> None:
    fault, _, outcome = PAID[case]
    first(stage).faults(fault)
    asked = ask("twice", stream=True, stream_options={"include_usage": True})
    status, headers, data = stage.chat(team, asked)
    assert (status, headers["x-faregate-host"]) == (200, "openrouter"), data
    row = stage.row_of(headers)
    assert lines(row) == [("novita", outcome, "possible", True), ("openrouter", "ok", "known", True)]
    bill = second(stage).bill()[row["id"]]
    assert row["attempts"][1]["nano"] == bill["nano"]
    # A sum that has a guess in it is no report.
    assert row["usage"]["sources"]["cache_miss"] == "counted"
    assert row["usage"]["output"] >= bill["output"]
    # The client reads the tokens of the answer that it got, and all that it paid.
    usage = events(data)[-1]["usage"]
    assert usage["prompt_tokens"] == bill["hit"] + bill["miss"]
    assert nano(str(usage["cost"])) == row["nano"]


def spent_at(stage: Stage, by: str) -> Counter[str]:
    """Nano by group, of team `rich`."""
    found = stage.admin(f"spend?by={by}&team=rich&from=2026-01-01T00:00:00Z&to=2100-01-01T00:00:00Z")
    return Counter({one[by]: one["nano"] for one in found if one["currency"] == "USD"})


def counted_at(stage: Stage) -> Counter[str]:
    """What the metrics have spent at each host."""
    found: Counter[str] = Counter()
    for line in stage.one.metrics().splitlines():
        if line.startswith("faregate_spend_total{") and 'team="rich"' in line:
            found[line.partition('host="')[2].partition('"')[0]] += round(float(line.rpartition(" ")[2]) * 1_000_000_000)
    return found


def test_what_each_attempt_may_have_cost_is_spent_at_its_own_host(stage: Stage) -> None:
    before, counted = spent_at(stage, "host"), counted_at(stage)
    first(stage).faults({"cut_after": 5})
    row = stage.row_of(stage.chat("rich", ask("twice"))[1])
    (novita, possible), (openrouter, known) = [(one["host"], one["nano"]) for one in row["attempts"]]
    added = Counter({novita: possible, openrouter: known})
    assert spent_at(stage, "host") - before == added
    until("it is counted", lambda: counted_at(stage) - counted == added)
    assert sum(spent_at(stage, "host").values()) == sum(spent_at(stage, "model").values()) == spent_at(stage, "team")["rich"]


def test_a_whole_answer_that_broke_is_paid_for_beside_the_next(stage: Stage) -> None:
    first(stage).faults({"cut_after": 5})
    status, headers, data = stage.chat("rich", ask("twice"))
    assert (status, headers["x-faregate-host"]) == (200, "openrouter")
    row = stage.row_of(headers)
    assert [line[2] for line in lines(row)] == ["possible", "known"]
    assert nano(headers["x-faregate-cost"].split()[0]) == row["nano"] == nano(str(json.loads(data)["usage"]["cost"]))


BROKEN = [{"error_after": 8}, {"cut_after": 8}, {"stall_after": 8, "seconds": 30}, {"invalid_json_after": 8}]


@pytest.mark.parametrize("fault", BROKEN, ids=str)
def test_after_the_first_byte_nobody_else_is_asked(stage: Stage, fault: dict[str, Any]) -> None:
    first(stage).faults(fault)
    status, headers, data = stage.chat("rich", ask("twice", stream=True))
    assert (status, headers["x-faregate-host"]) == (200, "novita")
    assert "error" in events(data)[-1]
    assert b"[DONE]" not in data
    assert second(stage).requests() == []
    assert [line[2] for line in lines(stage.row_of(headers))] == ["possible"]


USED = {"prompt_tokens": 5000, "completion_tokens": 9000, "prompt_tokens_details": {"cached_tokens": 1000}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("refused", [500, 502, 503, 504, 524, 408, 429])
def test_a_refusal_that_says_what_it_used_is_paid_for_and_nobody_else_is_asked(stage: Stage, refused: int, stream: bool) -> None:
    first(stage).faults({"status": refused, "body": {"error": {"message": "gave up"}, "usage": USED}})
    status, headers, data = stage.chat("rich", ask(stream=stream))
    assert (status >= 400, headers["x-should-retry"]) == (True, "false"), data
    assert second(stage).requests() == []
    row = stage.row_of(headers)
    assert [line[2:] for line in lines(row)] == [("known", True)]
    assert (row["usage"]["cache_hit"], row["usage"]["cache_miss"], row["usage"]["output"]) == (1000, 4000, 9000)


def test_a_refusal_that_holds_a_part_of_the_answer_is_paid_for(stage: Stage) -> None:
    answer = {"error": {"message": "gave up"}, "choices": [{"message": {"content": "Three is greater."}}]}
    first(stage).faults({"status": 502, "body": answer})
    assert lines(stage.row_of(stage.chat("rich", ask())[1])) == [("novita", "upstream_error", "possible", True)]
    assert second(stage).requests() == []


def test_time_for_another_attempt_must_be_left(stage: Stage) -> None:
    """A whole answer may take all the time that there is; then none is left for another."""
    first(stage).faults({"hang": True})
    status, headers, _ = stage.chat("rich", ask("twice"))
    assert (status, headers["x-should-retry"]) == (504, "false")
    assert second(stage).requests() == []


# ---- budgets


@pytest.mark.parametrize("team", ["rich", "budgeted"])
def test_the_next_attempt_is_held_before_it_is_sent(stage: Stage, team: str) -> None:
    first(stage).faults({"status": 500})
    second(stage).faults({"stall_after": 3, "seconds": 0.3})
    running = stage.aside(team, ask(stream=True, max_tokens=100))
    until("the second host is asked", lambda: bool(second(stage).requests()))
    with sqlite3.connect(stage.ledger) as ledger:
        held = ledger.execute("SELECT host, nano, worst, card FROM hold WHERE state = 'held'").fetchall()
    assert [(host, card) for host, _, _, card in held] == [("openrouter", "openrouter-v3.2-usd-2026-11-09")]
    status, headers, _ = running.result()
    row = stage.row_of(headers)
    assert (status, row["nano"] <= held[0][1]) == (200, True)


LIMITS: list[tuple[dict[str, Any], str]] = [
    ({"hang": True}, "to the first token"),
    ({"stall_after": 3, "seconds": 30}, "between two reads"),
]


@pytest.mark.parametrize(("fault", "limit"), LIMITS)
def test_a_next_attempt_that_the_budget_makes_a_stream_has_the_limits_of_a_stream(stage: Stage, fault: dict[str, Any], limit: str) -> None:
    second(stage).faults({"status": 500})
    first(stage).faults(fault)
    answer = stage.chat("budgeted", ask("back", max_tokens=60_000))
    assert first(stage).requests()[-1]["body"]["stream"] is True
    assert (answer[0], error_of(answer)["code"]) == (504, "upstream_timeout")
    assert limit in error_of(answer)["message"]


def test_a_next_attempt_that_no_budget_has_room_for_is_not_made(stage: Stage) -> None:
    first(stage).faults({"cut_after": 0})
    answer = stage.chat("small", ask("twice", stream=True, messages=[{"role": "user", "content": "word " * 215}]))
    assert (answer[0], error_of(answer)["code"]) == (502, "upstream_error"), answer
    assert second(stage).requests() == []
    row = stage.row_of(answer[1])
    assert [line[2] for line in lines(row)] == ["possible"]
    assert (stage.budget("small").spent, stage.budget("small").held) == (row["nano"], 0)


def test_a_next_attempt_that_stretches_its_hold_spends_a_budget_and_no_more(stage: Stage) -> None:
    second(stage).faults({"cut_after": 0})
    status, headers, data = stage.chat("budgeted", ask("back", stream=True, wish="answer=60000 reasoning=0", max_tokens=60000))
    assert status == 200
    row = stage.row_of(headers)
    assert (row["status"], row["stopped"], events(data)[-1]["choices"][0]["finish_reason"]) == ("stopped", "budget", "length")
    budget = stage.budget("budgeted")
    assert budget.spent <= budget.limit
    assert budget.limit - budget.spent < 100_000
    assert [line[2] for line in lines(row)] == ["possible", "possible"]
    assert lefts(headers)


# ---- what the client reads when all fail


def test_of_several_failures_the_client_reads_the_one_that_says_most(stage: Stage) -> None:
    first(stage).faults({"status": 429, "retry_after": 9})
    second(stage).faults({"status": 500})
    status, headers, _ = answer = stage.chat("rich", ask())
    assert (status, error_of(answer)["code"], headers["retry-after"]) == (429, "rate_limited", "9")
    row = stage.row_of(headers)
    assert [line[1:3] for line in lines(row)] == [("rate_limited", "none"), ("upstream_error", "none")]
    assert (row["status"], row["nano"], row["usage"]) == ("rate_limited", 0, None)


def test_a_limit_on_the_rate_is_nothing_for_the_operator_unless_it_goes_by_the_balance(stage: Stage) -> None:
    for host, said in ((first(stage), {}), (second(stage), {"body": {"error": {"message": "Slow down"}}})):
        host.faults({"status": 429, **said})
    assert stage.chat("rich", ask())[0] == 429
    assert get_json(stage.one.root + "/readyz")["alarms"] == []


def test_of_several_failures_one_that_may_have_cost_something_says_most(stage: Stage) -> None:
    first(stage).faults({"status": 429, "retry_after": 9})
    second(stage).faults({"hang": True})
    status, headers, _ = stage.chat("rich", ask(stream=True))
    assert (status, headers["x-should-retry"]) == (504, "false")
    assert [line[2] for line in lines(stage.row_of(headers))] == ["none", "possible"]


def test_where_all_are_at_rest_the_client_learns_when_to_come_back(stage: Stage) -> None:
    for host in (first(stage), second(stage)):
        host.faults({"status": 429, "retry_after": 30})
    assert stage.chat("rich", ask())[0] == 429
    status, headers, _ = answer = stage.chat("rich", ask())
    assert (status, error_of(answer)["code"]) == (503, "no_deployment")
    assert 25 <= int(headers["retry-after"]) <= 30
    assert headers.get("x-should-retry") != "false"
    assert len(first(stage).requests()) == len(second(stage).requests()) == 1


# ---- alarms


def alarms(stage: Stage) -> list[str]:
    return [line for line in stage.one.log.splitlines() if "alarm: " in line]


def test_a_host_without_balance_raises_one_alarm_and_is_left_alone_until_a_reload(stage: Stage) -> None:
    before = len(alarms(stage))
    first(stage).faults({"status": 402}, {"status": 402})
    assert [stage.chat("rich", ask())[0] for _ in range(3)] == [200] * 3
    assert len(first(stage).requests()) == 1
    assert len(alarms(stage)) == before + 1
    assert "novita: the gateway's account there has no balance" in alarms(stage)[-1]
    stage.reload()
    assert stage.chat("rich", ask())[0] == 200
    assert len(first(stage).requests()) == 2


def test_the_limit_that_deepseek_s_balance_pays_for_is_an_alarm(stage: Stage) -> None:
    said = "Your current concurrency is 2, which exceeds your concurrency limit of 1 based on your remaining balance."
    body = {"error": {"message": said, "type": "rate_limit_error", "code": "invalid_request_error"}}
    first(stage).faults({"status": 429, "body": body})
    assert stage.chat("rich", ask())[1]["x-faregate-host"] == "openrouter"
    assert "(1 at a time)" in alarms(stage)[-1]
    # One at a time it still serves; what comes beside it goes elsewhere.
    slow = stage.aside("rich", ask(wish="answer=30 reasoning=0 pace=20"))
    until("it is on its way", lambda: len(first(stage).requests()) == 2)
    assert stage.chat("rich", ask())[1]["x-faregate-host"] == "openrouter"
    assert slow.result()[1]["x-faregate-host"] == "novita"


def test_a_request_that_its_own_writer_must_mend_does_not_park_the_host(stage: Stage) -> None:
    body = {"error": {"message": "Your input was flagged by moderation", "code": 403}}
    first(stage).faults({"status": 403, "body": body})
    assert stage.chat("rich", ask())[0] == 400
    assert stage.chat("rich", ask())[1]["x-faregate-host"] == "novita"


# ---- between two attempts


class Till:
    """A ledger during whose extension the client leaves."""

    def __init__(self) -> None:
        self.leave: Callable[[], None] = lambda: None

    async def hold(self, hold: Hold) -> Grant:
        return Grant(hold.nano)

    async def extend(self, hold: Hold) -> Grant:
        self.leave()
        return Grant(hold.nano)


class Dead:
    """Hosts that refuse, at no cost."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def open(self, call: Call) -> None:
        self.asked.append(call.url)
        call.sent = True
        raise UpstreamError("not now", dispatched=True, billed=False)


def made(ledger: Till, upstream: Any, clock: Any, bills_on: bool = False) -> tuple[Attempts, Health]:
    """One request that two hosts may serve; `bills_on` says whether the second bills what is broken off."""
    at, limits, health = parse_instant("2026-11-20T12:00:00Z"), Deadlines(60, 60, 60, 60), Health()
    request, found = ask_here({"model": "deepseek-v3.2"}), policies()
    route = found.route("deepseek-v3.2")
    assert route is not None
    terms = Terms(found, at, {"novita": "USD", "openrouter": "USD"}, 600)
    names = {name: Account(name, f"http://{name}", "USD") for name in terms.currencies}
    ports: Any = SimpleNamespace(
        ledger=ledger, upstream=upstream, clock=clock, deadlines=limits, experience=Experience(), health=health, replicas=Replicas()
    )
    planned = plan(request, route, terms)
    second = planned.attempts[1]
    host = second.deployment.host.model_copy(update={"cancel_stops_billing": not bills_on})
    changed = structs.replace(second, deployment=replace(second.deployment, host=host))
    journey = Journey(request, Caller("search", "k"), structs.replace(planned, attempts=(planned.attempts[0], changed)), found, at)
    responder: Any = SimpleNamespace(started=False)
    return Attempts(ports, limits, Accounts(names), terms, journey, responder), health


@pytest.mark.parametrize("bills_on", [True, False])
async def test_a_client_that_leaves_between_two_attempts_has_nobody_asked_any_more(bills_on: bool) -> None:
    till, dead = Till(), Dead()
    attempts, health = made(till, dead, RealClock(), bills_on)
    till.leave = attempts.client_left
    attempts.embark()
    await attempts.hold()
    attempts.depart()
    failure = await attempts.ride()
    legs = await attempts.conclude(failure)
    attempts.let_go()
    attempts.watch.close()
    assert isinstance(failure, ClientGone)
    assert len(dead.asked) == 1
    assert [(leg.attempt.outcome, leg.attempt.billed) for leg in legs] == [("upstream_error", "none"), ("client_gone", "none")]
    assert [health.open_requests(name) for name in ("novita/deepseek/deepseek-v3.2", "openrouter/deepseek/deepseek-v3.2")] == [0, 0]


class Faulty(RealClock):
    """A clock that fails once, when it is told to."""

    fails = False

    def now(self) -> datetime:
        if self.fails:
            self.fails = False
            raise RuntimeError("a mistake of ours")
        return super().now()


class Breaking(Dead):
    """The first host refuses at no cost; the second breaks off, and our clock with it."""

    def __init__(self, clock: Faulty) -> None:
        super().__init__()
        self._clock = clock

    async def open(self, call: Call) -> None:
        if not self.asked:
            await super().open(call)
        self.asked.append(call.url)
        call.sent = self._clock.fails = True
        raise UpstreamError("broken off", dispatched=True)


async def test_an_attempt_at_whose_end_we_fail_is_not_taken_for_free() -> None:
    clock = Faulty()
    attempts, _ = made(Till(), Breaking(clock), clock)
    attempts.embark()
    await attempts.hold()
    attempts.depart()
    with pytest.raises(RuntimeError) as bug:
        await attempts.ride()
    legs = await attempts.conclude(bug.value)
    attempts.let_go()
    attempts.watch.close()
    assert [leg.attempt.billed for leg in legs] == ["none", "possible"]
    assert legs[-1].attempt.nano > 0


# ---- dry runs


def test_a_dry_run_asks_nobody_and_holds_nothing(stage: Stage) -> None:
    rows = len(stage.rows("rich"))
    status, headers, data = stage.chat("rich", ask(), x_faregate_dry_run="1")
    found: dict[str, Any] = json.loads(data)
    assert (status, found["object"]) == (200, "faregate.dry_run")
    assert [one["name"] for one in found["candidates"]] == [FIRST, SECOND]
    assert "x-faregate-cost" not in headers
    assert first(stage).requests() == second(stage).requests() == []
    assert len(stage.rows("rich")) == rows


def test_a_dry_run_counts_as_a_request_and_gives_its_place_back(stage: Stage) -> None:
    """It is as much work as a request, but it uses no tokens: for those of one like it, it would be refused."""
    got = [stage.chat("few", ask(max_tokens=5000), x_faregate_dry_run="1") for _ in range(3)]
    assert [status for status, _, _ in got] == [200, 200, 429]
    assert json.loads(got[2][2])["error"]["details"]["limit"] == "requests_per_minute"
    assert stage.chat("few", ask())[0] == 429
