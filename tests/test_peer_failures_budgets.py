"""Budgets and meters as others got them wrong in public, against two replicas on one ledger. The table: test_peer_failures.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import events, get_json, post
from tests.load import Ask
from tests.replicas import MODEL, OUTPUT_NANO, PROMPT_NANO, Answer, Stage, ask, error_of, key_of, lefts, nano, refusals, team_of, total
from tests.scripted import until
from tests.servers import PostgresServer

RATES = '[{from: USD, to: CNY, rate: "7.1234567", at: 2026-01-01T00:00:00Z, source: test}]'
TEAMS = (
    team_of("burst", total("0.0024", per="key")),
    team_of("agents", total("0.05")),
    team_of("leaks", total("5.00")),
    team_of("figures", total("1.00"), {"budget": "month", "amount": "2.00", "currency": "USD", "period": "month"}),
    team_of("ways", total("0.000000001")),
    team_of("wide", total("1.00")),
    team_of("narrow", total("0.000000001")),
    team_of("thought", total("0.006")),
    team_of("answer", total("0.003")),
    team_of("small", total("0.0003")),
    team_of("metered", total("1.00")),
    team_of("yuan", total("10.00", currency="CNY")),
    team_of("euro", total("10.00", currency="EUR")),
    team_of("loud", total("0.000000001")),
    team_of("fenced", total("1.00"), routes=[MODEL], hosts=["deepseek"]),
    team_of("alarm", total("0.0010"), steps=[{"at": 50, "max_output": 20}]),
)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    database = None
    if request.param == "postgres":
        cluster: PostgresServer = request.getfixturevalue("postgres_cluster")
        cluster.create("peers")
        database = cluster.url("peers")
    hosts, settings = ("deepseek", "openrouter"), {"FAREGATE_LOG_LEVEL": "debug"}
    folder = tmp_path_factory.mktemp("peers")
    with Stage(folder, TEAMS, hosts=hosts, replicas=2, rates=RATES, settings=settings, database=database) as live:
        yield live


def charged(stage: Stage, team: str) -> int:
    return sum(row["nano"] for row in stage.rows(team))


def dispatched(stage: Stage) -> int:
    return sum(len(host.requests()) for host in stage.hosts.values())


def finish_of(answer: Answer) -> str:
    finish: str = json.loads(answer[2])["choices"][0]["finish_reason"]
    return finish


# BerriAI/litellm#40095, #34732; envoyproxy/ai-gateway#680, #2394; the same in Bifrost, Portkey, Higress and otari: the budget is
# checked first and booked afterwards, and one that nobody has used yet is not there to be checked, so all that come at once get in.
def test_a_burst_on_a_budget_that_nobody_has_used_stays_within_it(stage: Stage) -> None:
    bodies = [ask(f"answer=400 reasoning=0 seed={number}", stream=number % 4 == 0) for number in range(40)]
    answers = stage.at_once("burst", bodies)
    stage.quiet("burst")
    (budget,) = stage.budgets("burst")
    # Those that came first end early, or the last are refused: no more is given out than there is.
    assert {status for status, _, _ in answers} <= {200, 402}
    assert "budget" in {row["stopped"] for row in stage.rows("burst")}
    assert budget.row["key"]
    assert budget.overrun == 0
    assert budget.limit * 9 // 10 < budget.spent == charged(stage, "burst")
    assert budget.peak <= budget.limit


# BerriAI/litellm#38647: worst cases of agents' large max_tokens filled a budget while nothing was spent. can1357/oh-my-pi#9569,
# Agenta-AI/agenta#6341: 402 because an absent max_tokens means the model's maximum. TensorZero refuses without max_tokens at all.
@pytest.mark.parametrize("limit", [{}, {"max_tokens": 300_000}])
def test_worst_cases_do_not_fill_a_budget(stage: Stage, limit: dict[str, int]) -> None:
    asks = [Ask(ask(f"answer=60 reasoning=20 pace=5 seed={number}", stream=number % 2 == 0, **limit)) for number in range(12)]
    got = stage.play("agents", asks)
    assert [(one.status, b'"length"' in one.data) for one in got] == [(200, False)] * len(got)
    stage.quiet("agents")
    budget = stage.budget("agents")
    assert (budget.spent, budget.held) == (charged(stage, "agents"), 0)
    assert budget.peak <= budget.limit


# BerriAI/litellm#27639, #30460, #36926: a decrement that was lost looked like spend. #30522: nothing was given back where the client
# left. QuantumNous/new-api#4429: a charge in advance was never refunded where the work failed.
def test_whatever_becomes_of_a_request_nothing_stays_held(stage: Stage) -> None:
    failures: tuple[dict[str, Any], ...] = (
        {"status": 500},
        {"status": 429},
        {"html": True},
        {"cut_after": 20},
        {"cut_after": 20, "how": "rst"},
        {"error_after": 20},
        {"no_finish": True},
        {"redirect": "http://127.0.0.1:9/"},
    )
    asks = [Ask(ask(f"answer=60 seed={number}", stream=number % 2 == 0), fault) for number, fault in enumerate(failures * 2)]
    # Long enough to leave; a host that bills on is heard to its end.
    leaves = ask("answer=400 pace=5", stream=True)
    asks += [Ask(leaves, patience=0.02 * number) for number in range(1, 9)] + [Ask(leaves, events=1 + 7 * number) for number in range(8)]
    stage.hosts["deepseek"].faults(*(failures * 2))
    stage.play("leaks", asks[: len(failures) * 2])
    stage.play("leaks", asks[len(failures) * 2 :])
    stage.quiet("leaks")
    budget = stage.budget("leaks")
    assert (budget.held, budget.overrun) == (0, 0)
    assert 0 < budget.spent == charged(stage, "leaks")
    assert {"upstream_error", "client_gone"} <= {row["status"] for row in stage.rows("leaks")}
    assert stage.chat("leaks", ask())[0] == 200


# BerriAI/litellm#40050: 111.29 dollars were enforced and 55.74 in the ledger. maximhq/bifrost#904, #3451: cached tokens were billed as
# fresh ones. BerriAI/litellm#23847: of streams whose clients do not ask for it, the usage was not asked for either.
def test_every_figure_of_what_is_spent_is_the_same_figure(stage: Stage) -> None:
    before = set(stage.hosts["deepseek"].bill())
    long = {"role": "system", "content": "The rules of the house are these. " * 200}
    answers = []
    for number in range(4):
        body = ask(f"answer={50 + number}", stream=number % 2 == 1)
        answers.append(stage.chat("figures", {**body, "messages": [long, *body["messages"]]}, replica=number % 2))
    bill = [row for id, row in stage.hosts["deepseek"].bill().items() if id not in before]
    spent = sum(row["nano"] for row in bill)
    assert len(bill) == 4
    assert any(row["hit"] for row in bill)
    assert {row["usage"]["sources"]["output"] for row in stage.rows("figures")} == {"reported"}
    assert charged(stage, "figures") == spent
    for replica in range(2):
        found = {budget.row["budget"]: budget for budget in stage.budgets("figures", replica)}
        assert {name: (budget.spent, budget.held) for name, budget in found.items()} == {"total": (spent, 0), "month": (spent, 0)}

        def gauge(replica: int = replica) -> int | None:
            return stage.gauge("faregate_budget_spent", replica, team="figures", budget="total")

        until("the gauge of spent money", lambda gauge=gauge: gauge() == spent)
        balance = get_json(stage.replicas[replica].root + "/user/balance", {"authorization": f"Bearer {key_of('figures')}"})
        (shown,) = balance["balance_infos"]
        assert 0 <= found["total"].limit - spent - nano(shown["total_balance"]) < nano("0.01")
    left = stage.chat("figures", ask("answer=1"))[1]
    assert lefts(left).keys() == {"month", "total"}


# maximhq/bifrost#2873: routes that pass a request through went round the budgets.
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions", "/beta/chat/completions", "/beta/v1/chat/completions"])
@pytest.mark.parametrize("model", [MODEL, f"deepseek/{MODEL}", "openrouter/deepseek/deepseek-v3.2"])
def test_every_way_in_meets_the_budget(stage: Stage, path: str, model: str) -> None:
    before = dispatched(stage)
    answers = [stage.chat("ways", ask(model=model, stream=stream), path=path) for stream in (False, True)]
    assert refusals(answers) == {(402, "budget_exceeded")}
    assert {headers["x-should-retry"] for _, headers, _ in answers} == {"false"}
    assert dispatched(stage) == before


# CVE-2026-45339 (Open WebUI): a restriction held for one header that carries a key, and not for the others.
@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key"])
def test_a_key_means_the_same_in_every_header(stage: Stage, header: str) -> None:
    value = f"Bearer {key_of('ways')}" if header == "authorization" else key_of("ways")
    headers = {header: value, "content-type": "application/json"}
    status, _, data = post(stage.one.base_url + "/chat/completions", json.dumps(ask()).encode(), headers)
    assert (status, json.loads(data)["error"]["code"]) == (402, "budget_exceeded")


# BerriAI/litellm#41852, #39998: a model that a team may not use was had by ?model=, or by a fallback of the server's.
def test_a_team_gets_no_model_but_its_own_however_it_asks(stage: Stage) -> None:
    before = dispatched(stage)
    wanted = ["deepseek-v4-pro", f"deepseek/{MODEL}", "openrouter/deepseek/deepseek-v3.2", "deepseek-v3.2", MODEL.upper()]
    refused = [stage.chat("fenced", ask(model=model)) for model in wanted]
    assert {error_of(answer)["code"] for answer in refused} <= {"not_allowed", "model_not_found"}
    assert [answer[0] for answer in refused[:4]] == [403] * 4
    steered = stage.chat("fenced", ask(), path="/v1/chat/completions?model=deepseek-v4-pro")
    assert steered[0] in (200, 400)
    assert {row["model"] for row in stage.rows("fenced")} <= {MODEL}
    assert dispatched(stage) <= before + 1


# BerriAI/litellm#26672: max_budget of a key, or of its user, was not enforced beside the other. maximhq/bifrost#5673: a budget in the
# order for a key was dropped without a word.
@pytest.mark.parametrize(("team", "own", "refuses"), [("wide", "0.000000001", "key"), ("narrow", "1.00", "total")])
def test_a_key_and_its_team_are_each_held_to_their_own_budget(stage: Stage, team: str, own: str, refuses: str) -> None:
    order = {"team": team, "name": f"{team}-ci", "budget": {"amount": own, "currency": "USD", "period": "month"}}
    status, made = stage.admin_post("keys", order)
    assert (status, nano(made["budget"]["amount"])) == (201, nano(own))
    before = dispatched(stage)
    for replica in range(2):
        found = error_of(until("the new key is known", lambda at=replica: known(stage.chat_with(made["key"], ask(), at))))
        assert (found["code"], found["details"]["budget"]) == ("budget_exceeded", refuses)
    assert dispatched(stage) == before


def known(answer: Answer) -> Answer | None:
    return None if answer[0] == 401 else answer


@pytest.mark.parametrize("wrong", [{"max_budget": "1.00"}, {"budget": {"amount": "1.00", "duration": "30d"}}, {"budget": {"amount": 1.5}}])
def test_a_budget_that_is_not_understood_makes_no_key(stage: Stage, wrong: dict[str, Any]) -> None:
    status, answer = stage.admin_post("keys", {"team": "wide", "name": "refused", **wrong})
    assert (status, "budget" in answer["error"]["message"]) == (400, True)
    assert "refused" not in json.dumps(stage.admin("keys"))


# saikirankalidindi/hardcap (its README): a budget of 60 tokens ran to 400, because only the text of the answer was counted and not the
# thinking. BerriAI/litellm (budget_reservation.py): without max_tokens 16,384 tokens are held, and longer answers run beyond it; where
# less is left, the hold shrinks and the request is let in. Wei-Shaw/sub2api#7002: long streams drove balances far below zero.
@pytest.mark.parametrize(("team", "lengths"), [("thought", "reasoning=30000 answer=10"), ("answer", "reasoning=10 answer=30000")])
def test_a_long_answer_ends_well_where_the_budget_ends(stage: Stage, team: str, lengths: str) -> None:
    status, headers, data = stage.chat(team, ask(lengths, stream=True, stream_options={"include_usage": True}))
    found = events(data)
    row = stage.row_of(headers)
    budget = stage.budget(team)
    assert (status, row["status"], row["stopped"]) == (200, "stopped", "budget")
    assert data.endswith(b"data: [DONE]\n\n")
    last = [event for event in found if event["choices"]][-1]
    assert (last["choices"][0]["finish_reason"], last["faregate"]) == ("length", {"stopped": "budget"})
    assert row["usage"]["reasoning" if team == "thought" else "output"] * OUTPUT_NANO > budget.limit * 9 // 10
    assert (budget.spent, budget.held, budget.overrun) == (row["nano"], 0, 0)
    assert budget.spent <= budget.limit


# The same for a whole answer, which nobody watches on its way: QuantumNous/one-api holds a fixed 500 tokens and the prompt.
def test_a_whole_answer_is_kept_within_what_is_left(stage: Stage) -> None:
    answer = stage.chat("small", ask("reasoning=0 answer=30000"))
    budget = stage.budget("small")
    assert (answer[0], finish_of(answer)) == (200, "length")
    assert nano(answer[1]["x-faregate-cost"].split()[0]) == budget.spent
    assert (budget.held, budget.overrun) == (0, 0)
    assert budget.limit // 2 < budget.spent <= budget.limit


# BerriAI/litellm#37992: usage that a host states as zero was taken for missing, and an estimate charged (`x or estimate`).
@pytest.mark.parametrize("stream", [True, False])
def test_usage_of_zero_is_charged_as_zero(stage: Stage, stream: bool) -> None:
    stage.hosts["deepseek"].faults({"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}})
    before = stage.budget("metered")
    _, headers, _ = stage.chat("metered", ask(stream=stream))
    row, after = stage.row_of(headers), stage.budget("metered")
    assert (row["nano"], row["usage"]["sources"]["output"]) == (0, "reported")
    assert (after.spent, after.held) == (before.spent, 0)


# BerriAI/litellm#39893: the cost was stamped on the record before the tokens were recovered. defilantech/LLMKube#1852: a stream without
# usage was charged 0, so budgets were evaded. BerriAI/litellm#35958, #36008: what was interrupted was billed too low.
@pytest.mark.parametrize(
    "fault", [{"no_usage": True}, {"cut_after": 40}, {"usage_every_chunk": True, "cut_after": 40}], ids=["none", "cut", "zeros, then cut"]
)
def test_what_is_counted_is_what_is_charged(stage: Stage, fault: dict[str, Any]) -> None:
    stage.hosts["deepseek"].faults(fault)
    before = stage.budget("metered")
    _, headers, data = stage.chat("metered", ask("answer=60", stream=True, stream_options={"include_usage": True}))
    row, after = stage.row_of(headers), stage.budget("metered")
    usage = row["usage"]
    assert usage["sources"]["output"] == "counted"
    assert row["nano"] == usage["cache_miss"] * PROMPT_NANO + usage["output"] * OUTPUT_NANO
    assert usage["output"] > 30
    assert (after.spent - before.spent, after.held) == (row["nano"], 0)
    if fault.get("no_usage"):
        (shown,) = [event["usage"] for event in events(data) if event.get("usage")]
        assert (shown["completion_tokens"], round(shown["cost"] * 10**9)) == (usage["output"], row["nano"])


# BerriAI/litellm#35829: a host's own `usage.cost` was taken for dollars as it stood, and showed phantom spend beyond all bounds.
def test_a_cost_that_cannot_be_is_not_charged(stage: Stage) -> None:
    stage.hosts["openrouter"].faults({"usage": {"prompt_tokens": 12, "completion_tokens": 20, "total_tokens": 32, "cost": 98765.4321}})
    before = stage.budget("metered")
    _, headers, _ = stage.chat("metered", ask(model="openrouter/deepseek/deepseek-v3.2"))
    row, after = stage.row_of(headers), stage.budget("metered")
    assert row["disputed"]
    assert 0 < after.spent - before.spent == row["nano"] < nano("0.001")


# BerriAI/litellm#13399, #31829; maximhq/bifrost#6937: amounts of two currencies in one float column.
def test_a_budget_in_another_currency_takes_each_charge_at_the_rate(stage: Stage) -> None:
    stage.at_once("yuan", [ask(f"answer={40 + number}") for number in range(8)])
    stage.quiet("yuan")
    budget, rows = stage.budget("yuan"), stage.rows("yuan")
    assert {row["currency"] for row in rows} == {"USD"}
    assert budget.spent == sum(-(-row["nano"] * 71234567 // 10**7) for row in rows)


# BerriAI/litellm (proxy): what has no price is let in without a hold, and written down as 0.
def test_what_has_no_rate_is_refused_before_it_is_sent(stage: Stage) -> None:
    before = dispatched(stage)
    answer = stage.chat("euro", ask())
    assert (answer[0], error_of(answer)["code"], dispatched(stage)) == (503, "price_unknown", before)


# BerriAI/litellm#30670: the line that says that a budget is used up held the key in clear. mem0#6081: an API for operators
# answered with the providers' keys.
def test_no_key_is_written_anywhere(stage: Stage) -> None:
    _, made = stage.admin_post("keys", {"team": "loud", "name": "loud-ci"})
    refused = [stage.chat("loud", ask()), until("the new key is known", lambda: known(stage.chat_with(made["key"], ask())))]
    refused += [stage.chat_with(f"{made['key']}x", ask()), stage.chat_with("sk-wrong-0123456789", ask())]
    assert [status for status, _, _ in refused] == [402, 402, 401, 401]
    secrets = [key_of("loud"), made["key"], "sk-wrong-0123456789", "emulated-deepseek", "emulated-openrouter"]
    views = ("keys", "budgets", "requests?limit=1000", "teams", "hosts", "policies", "spend?by=key")
    seen = [repr(answer) for answer in refused] + [json.dumps(stage.admin(view)) for view in views]
    for replica in stage.replicas:
        seen += [replica.log, replica.metrics(), json.dumps(get_json(replica.root + "/readyz"))]
    stored = [file.read_bytes() for file in sorted(stage.data.rglob("*")) if file.is_file()]
    assert stored
    for secret in secrets:
        assert [text for text in seen if secret in text] == []
        assert [data for data in stored if secret.encode() in data] == []


# CVE-2026-35030 (BerriAI/litellm): a cache knew callers by the first 20 characters of what they sent. CVE-2026-42208: what was sent
# as a key went into a statement of SQL.
def test_a_key_is_known_by_all_of_it(stage: Stage) -> None:
    keys = [key_of("figures")[:-1], key_of("figures")[:20], key_of("figures") + "0", "' OR '1'='1", "x'); DROP TABLE hold; --"]
    before = len(stage.rows("figures"))
    assert [stage.chat_with(key, ask())[0] for key in keys] == [401] * len(keys)
    assert len(stage.rows("figures")) == before


# maximhq/bifrost#5770: "more than 99 % used" was said at 0.40 of 15 dollars.
def test_a_step_is_taken_where_its_share_is_reached_and_not_before(stage: Stage) -> None:
    lengths = []
    for _ in range(3):
        until("plans know what is spent", lambda: (stage.gauge("faregate_budget_spent", team="alarm") or 0) == charged(stage, "alarm"))
        status, headers, _ = stage.chat("alarm", ask("reasoning=0 answer=500"))
        assert status == 200
        lengths.append(stage.row_of(headers)["usage"]["output"])
    # 0, 30 and 60 % of the budget were used before each.
    assert lengths == [500, 500, 20]
