"""Budgets as an application meets them: answers that end at the last token that is paid for, refusals, and what the ledger says."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures.thread import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, OpenAI

from gateway.emulator.tokens import Tokens
from gateway.stretch import STEP
from tests.harness import events, get_json, texts
from tests.load import TOOLS
from tests.replicas import OUTPUT_NANO, PROMPT_NANO, Stage, ask, error_of, key_of, lefts, nano, team_of, total
from tests.scripted import until

R1_DAY = "2025-02-03T12:00:00Z"
LONG = "answer=1500 reasoning=0 pace=1"
TOKENS = 300
# What so many tokens and a short prompt cost, with room for its tokens.
ENOUGH = f"0.{TOKENS * OUTPUT_NANO + 40 * PROMPT_NANO:09d}"
# A hundredth of it: no answer at all.
NOTHING = "0.000001"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One gateway, and a team for each test that uses up a budget."""
    small = total(ENOUGH)
    teams = [
        *(team_of(name, small) for name in ("streamed", "whole", "tools", "python", "left", "crowd", "gone")),
        team_of("finish", total(ENOUGH, at_limit="finish")),
        team_of("poor", total(NOTHING)),
        team_of("rich", total("1000")),
        team_of("two", total(ENOUGH), {"budget": "month", "amount": "50", "currency": "USD", "period": "month"}),
        team_of("plain"),
        team_of("single", total("0.000024"), limits={"concurrent": 1}),
    ]
    with Stage(tmp_path_factory.mktemp("stretched"), teams) as made:
        yield made


def check_spent(stage: Stage, team: str, headers: dict[str, str]) -> dict[str, Any]:
    """The budget is spent to the last token and not beyond, and the host was left at once."""
    row = stage.row_of(headers)
    budget = stage.budget(team)
    assert (row["status"], row["stopped"], row["usage"]["sources"]["output"]) == ("stopped", "budget", "counted")
    assert (budget.held, budget.overrun) == (0, 0)
    assert budget.spent == row["nano"] <= budget.limit
    # All that was held is used, but for less than a token; what was not held is less than the least stretch.
    assert budget.peak - budget.spent < OUTPUT_NANO
    assert budget.limit - budget.peak < STEP * OUTPUT_NANO
    bill = bill_of(stage, headers)
    assert bill["outcome"] == "cancelled"
    # It writes a token each millisecond: what it wrote until it saw that we had left is little.
    assert abs(bill["output"] - row["usage"]["output"]) < 100
    assert abs(bill["miss"] + bill["hit"] - row["usage"]["cache_miss"]) <= 2
    return row


def bill_of(stage: Stage, headers: dict[str, str]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = get_json(stage.hosts["deepseek"].root + "/_emulator/bill?wait=5")
    return {row["id"]: row for row in rows}[headers["x-request-id"]]


def test_a_stream_ends_well_at_the_last_token_that_is_paid_for(stage: Stage) -> None:
    body = ask(LONG, stream=True, stream_options={"include_usage": True})
    status, headers, data = stage.chat("streamed", body)
    row = check_spent(stage, "streamed", headers)
    *_, closing, usage = events(data)
    assert status == 200 and data.endswith(b"data: [DONE]\n\n")
    assert closing["choices"][0]["finish_reason"] == "length"
    assert closing["faregate"] == {"stopped": "budget"}
    assert Tokens().count("".join(texts(data))) == row["usage"]["output"] == usage["usage"]["completion_tokens"]
    assert round(usage["usage"]["cost"] * 10**9) == row["nano"]
    assert 0 < lefts(headers)["total"] < nano(ENOUGH)
    assert row["edits"][-1] == "truncate_output"


def test_a_whole_answer_ends_in_the_same_way(stage: Stage) -> None:
    status, headers, data = stage.chat("whole", ask(LONG))
    row = check_spent(stage, "whole", headers)
    answer = json.loads(data)
    assert status == 200
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["faregate"] == {"stopped": "budget"}
    assert Tokens().count(answer["choices"][0]["message"]["content"]) == row["usage"]["output"]
    assert lefts(headers)["total"] < nano(ENOUGH)
    assert nano(headers["x-faregate-cost"].removesuffix(" USD")) == row["nano"]


def test_tool_calls_are_paid_for_as_they_stream(stage: Stage) -> None:
    body = ask("answer=240 reasoning=0 pace=1 tool=get_weather tools=30", stream=True, tools=TOOLS)
    status, headers, data = stage.chat("tools", body)
    row, budget = stage.row_of(headers), stage.budget("tools")
    assert status == 200 and data.endswith(b"data: [DONE]\n\n")
    assert (row["stopped"], budget.held) == ("budget", 0)
    assert row["nano"] == budget.spent <= budget.limit + budget.overrun
    assert budget.peak - budget.spent < OUTPUT_NANO
    assert events(data)[-1]["choices"][0]["finish_reason"] == "length"
    pieces = [call["function"] for event in events(data) for call in event["choices"][0]["delta"].get("tool_calls") or []]
    written = "".join((piece.get("name") or "") + (piece.get("arguments") or "") for piece in pieces)
    assert written
    assert abs(Tokens().count(written) + Tokens().count("".join(texts(data))) - row["usage"]["output"]) <= len(pieces)


def test_a_running_stream_may_finish_where_the_team_says_so(stage: Stage) -> None:
    status, headers, data = stage.chat("finish", ask(LONG, stream=True))
    assert status == 200
    assert events(data)[-1]["choices"][0]["finish_reason"] == "stop"
    row, budget = stage.row_of(headers), stage.budget("finish")
    assert (row["status"], row["stopped"], row["usage"]["output"]) == ("ok", None, 1500)
    assert budget.spent == row["nano"] > budget.limit
    assert budget.overrun >= budget.spent - budget.limit
    # What is spent is spent: the next one is refused.
    assert stage.chat("finish", ask(LONG))[0] == 402


def test_a_refusal_carries_the_arithmetic_and_is_not_to_be_tried_again(stage: Stage) -> None:
    status, headers, data = stage.chat("poor", ask(LONG))
    details = json.loads(data)["error"]["details"]
    assert status == 402 and headers["x-should-retry"] == "false"
    assert headers["x-faregate-budget-left"] == f"total={NOTHING} USD"
    assert (details["budget"], details["limit"], details["spent"], details["held"]) == ("total", NOTHING, "0", "0")
    assert nano(details["asked"]) > nano(NOTHING)
    assert details["resets_at"] is None


def test_a_rich_team_is_served_as_if_it_had_no_budget(stage: Stage) -> None:
    told = []
    for team in ("rich", "plain"):
        _, headers, data = stage.chat(team, ask("answer=30 reasoning=5"))
        told.append((json.loads(data)["choices"], stage.row_of(headers)["edits"], headers.get("x-faregate-edits")))
        assert ("x-faregate-budget-left" in headers) == (team == "rich")
    assert told[0] == told[1]
    bodies = [each["body"] for each in stage.hosts["deepseek"].requests()[-2:]]
    assert bodies[0] == bodies[1] and not bodies[0].get("stream")
    row = stage.rows("rich")[0]
    assert lefts(stage.chat("rich", ask("answer=30"))[1])["total"] < 1000 * 10**9 - row["nano"]


def test_the_tightest_budget_decides_and_all_are_shown(stage: Stage) -> None:
    status, headers, _ = stage.chat("two", ask(LONG, stream=True))
    assert status == 200
    assert set(lefts(headers)) == {"total", "month"}
    row = stage.row_of(headers)
    assert row["stopped"] == "budget"
    assert {budget.row["budget"]: budget.spent for budget in stage.budgets("two")} == {"total": row["nano"], "month": row["nano"]}
    assert error_of(stage.chat("two", ask(LONG)))["details"]["budget"] == "total"


def test_a_crowd_spends_a_budget_and_not_a_token_more(stage: Stage) -> None:
    answers = stage.at_once("crowd", [ask("answer=200 pace=2", stream=number % 2 == 0) for number in range(12)])
    assert {status for status, *_ in answers} <= {200, 402}
    budget = stage.budget("crowd")
    assert (budget.held, budget.overrun) == (0, 0)
    assert budget.spent <= budget.limit and budget.peak <= budget.limit
    # What is left does not pay for a prompt and sixteen tokens.
    assert budget.limit - budget.spent < (16 + 96) * OUTPUT_NANO


def test_a_client_that_leaves_while_its_hold_grows_leaves_nothing_held(stage: Stage) -> None:
    body = json.dumps(ask("answer=3000 pace=1", stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key_of('gone')}\r\ncontent-length: {len(body)}\r\n\r\n"
    host, port = stage.one.root.removeprefix("http://").split(":")
    with ThreadPoolExecutor(6) as pool:

        def leave(size: int) -> None:
            with socket.create_connection((host, int(port))) as client:
                client.sendall(head.encode() + body)
                got = 0
                while got < size and (data := client.recv(2000)):
                    got += len(data)

        list(pool.map(leave, [3000, 6000, 9000, 12_000, 15_000, 18_000]))
    stage.quiet("gone")
    budget, rows = stage.budget("gone"), stage.rows("gone")
    assert budget.spent == sum(row["nano"] for row in rows) <= budget.limit
    assert "client_gone" in {row["status"] for row in rows}


def test_openai_s_client_takes_a_402_once_and_a_stopped_stream_cleanly(stage: Stage) -> None:
    client = OpenAI(api_key=key_of("python"), base_url=stage.one.base_url, max_retries=3)
    body: dict[str, Any] = {"model": "deepseek-flash", "messages": ask(LONG)["messages"]}
    stream = client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == Tokens().count(text)
    assert chunks[-2].model_extra is not None and chunks[-2].model_extra["faregate"] == {"stopped": "budget"}

    refused = stage.one.log.count("(budget_exceeded)")
    with pytest.raises(APIStatusError) as caught:
        client.chat.completions.create(**body)
    assert caught.value.status_code == 402
    assert caught.value.code == "budget_exceeded"
    until("the log says so", lambda: stage.one.log.count("(budget_exceeded)") > refused)
    assert stage.one.log.count("(budget_exceeded)") == refused + 1


def test_a_place_is_given_back_however_a_request_ends(stage: Stage) -> None:
    """One place: whoever kept it would refuse the next one with 429."""
    bodies = [
        ask("answer=1 reasoning=0", max_tokens=1),
        ask(model="no-such-model"),
        ask(max_tokens=-1),
        ask("answer=1 reasoning=0", max_tokens=1, stream=True),
        ask(LONG),
        ask(LONG),
    ]
    assert [stage.chat("single", body)[0] for body in bodies] == [200, 404, 400, 200, 402, 402]


# ---- other days and hosts


@pytest.mark.parametrize("stream", [True, False])
def test_the_thinking_of_r1_is_paid_for_as_it_streams(tmp_path: Path, stream: bool) -> None:
    # 550 nano a prompt token, 2,190 an output token.
    budget = 200 * 2190 + 40 * 550
    with Stage(tmp_path, [team_of("r1", total(f"0.{budget:09d}"))], clock=R1_DAY) as stage:
        body = {"model": "deepseek-reasoner", "messages": ask("answer=100 reasoning=900 pace=1")["messages"], "stream": stream}
        status, headers, data = stage.chat("r1", body)
        row = stage.row_of(headers)
        assert status == 200
        thoughts = texts(data)[0] if stream else json.loads(data)["choices"][0]["message"]["reasoning_content"]
        assert Tokens().count(thoughts) == row["usage"]["output"] == row["usage"]["reasoning"]
        assert (row["stopped"], stage.budget("r1").overrun) == ("budget", 0)
        assert budget - STEP * 2190 < row["nano"] <= budget
        assert 0 <= stage.budget("r1").peak - row["nano"] < 2190


def test_a_host_that_cannot_stream_gets_a_limit_that_the_budget_pays_for(tmp_path: Path) -> None:
    with Stage(tmp_path, [team_of("deaf", total(ENOUGH)), team_of("other")]) as stage:
        stage.edit("hosts/deepseek.yaml", "host: deepseek\n", "host: deepseek\nstreams: false\n")
        stage.reload()
        status, headers, data = stage.chat("deaf", ask("answer=1500 reasoning=0", max_tokens=2000))
        sent = stage.hosts["deepseek"].requests()[-1]["body"]
        assert status == 200 and not sent.get("stream")
        row, budget = stage.row_of(headers), stage.budget("deaf")
        assert 16 <= sent["max_tokens"] < TOKENS
        assert f"max_tokens=2000->{sent['max_tokens']}" in headers["x-faregate-edits"]
        assert json.loads(data)["choices"][0]["finish_reason"] == "length"
        assert (row["usage"]["output"], row["usage"]["sources"]["output"], row["stopped"]) == (sent["max_tokens"], "reported", None)
        assert (budget.spent, budget.overrun, budget.held) == (row["nano"], 0, 0)
        assert error_of(stage.chat("other", ask("answer=5", stream=True)))["code"] == "no_deployment"


@pytest.mark.parametrize("stream", [True, False])
def test_a_host_that_bills_on_after_we_leave_gets_a_limit_and_is_never_left(tmp_path: Path, stream: bool) -> None:
    with Stage(tmp_path, [team_of("far", total("0.003"))], hosts=("openrouter",)) as stage:
        wish = ask("reasoning=0 answer=20000 chunk=4", model="openrouter/deepseek/deepseek-v3.2", stream=stream, max_tokens=30000)
        status, headers, _ = stage.chat("far", wish)
        row, budget, bill = stage.row_of(headers), stage.budget("far"), stage.hosts["openrouter"].bill()
        limit = stage.hosts["openrouter"].requests()[-1]["body"]["max_tokens"]
        assert (status, row["status"], row["stopped"], row["usage"]["output"]) == (200, "ok", None, limit)
        assert budget.spent == row["nano"] == bill[row["id"]]["nano"] <= nano("0.003")
        assert (budget.overrun, budget.held) == (0, 0)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_a_host_that_bills_on_is_charged_what_that_bills(tmp_path: Path, stream: bool) -> None:
    with Stage(tmp_path, [team_of("gone", total("0.01"))], hosts=("openrouter",)) as stage:
        wish = ask("answer=800 reasoning=0 pace=1", model="openrouter/deepseek/deepseek-v4-pro-0813", stream=stream, max_tokens=2000)
        body = json.dumps(wish).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key_of('gone')}\r\n"
        host, port = stage.one.root.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            until("the host has it", lambda: stage.hosts["openrouter"].requests() != [])
        until("it has ended", lambda: stage.rows("gone") != [])
        (row,), budget = stage.rows("gone"), stage.budget("gone")
        bill = stage.hosts["openrouter"].bill()[row["id"]]
        assert (row["status"], row["nano"], row["usage"]["output"]) == ("client_gone", bill["nano"], 800)
        assert (budget.spent, budget.held, budget.overrun) == (bill["nano"], 0, 0)


@pytest.mark.parametrize("pace", [0, 1])
@pytest.mark.parametrize("stream", [True, False])
def test_a_limit_of_ours_at_a_host_that_bills_on_is_charged_what_that_bills(tmp_path: Path, stream: bool, pace: int) -> None:
    with Stage(tmp_path, [team_of("app", total("1"))], hosts=("openrouter",)) as stage:
        wish = ask(f"answer=300 reasoning=100 pace={pace}", model="deepseek-r1", stream=stream, max_tokens=50)
        status, headers, data = stage.chat("app", wish)
        row = stage.row_of(headers)
        bill = stage.hosts["openrouter"].bill()[row["id"]]
        words = texts(data)[1] if stream else json.loads(data)["choices"][0]["message"]["content"]
        assert (status, row["stopped"], Tokens().count(words)) == (200, "limit", 50)
        assert (row["nano"], row["usage"]["output"], row["usage"]["sources"]["output"]) == (bill["nano"], 400, "reported")


def test_streams_that_a_shutdown_cuts_leave_nothing_held(tmp_path: Path) -> None:
    with Stage(tmp_path, [team_of("last", total("0.001"))], settings={"FAREGATE_DRAIN": "0"}) as stage:
        readers = [stage.aside("last", ask("answer=3000 pace=2", stream=True)) for _ in range(5)]
        until("all five are streaming", lambda: len(stage.hosts["deepseek"].requests()) == 5)
        until("one of them was stretched", lambda: 'op="extend"' in stage.one.metrics())
        stage.one.terminate()
        for reader in readers:
            reader.exception(30)
        stage.one.close()
        stage.replicas[:] = [stage.start("after")]
        budget = stage.budget("last")
        assert budget.held == 0
        assert budget.spent == sum(row["nano"] for row in stage.rows("last")) > 0
        stage.one.close()
        stage.replicas.clear()


def test_two_answers_of_one_request_share_its_hold(tmp_path: Path) -> None:
    # An engine of one's own answers n at once; 396.8 nano a token, which are estimated: its vocabulary is not known.
    with Stage(tmp_path, [team_of("pair", total("0.00008"))], hosts=("local",)) as stage:
        body = {"model": "local/gemma3-270m", "messages": ask("answer=600 pace=1")["messages"], "n": 2, "stream": True}
        status, headers, data = stage.chat("pair", body)
        assert status == 200, data
        row, budget = stage.row_of(headers), stage.budget("pair")
        assert status == 200 and row["stopped"] == "budget"
        finishes = [(each["index"], each["finish_reason"]) for event in events(data) for each in event["choices"] if each["finish_reason"]]
        assert sorted(finishes) == [(0, "length"), (1, "length")]
        assert (budget.held, budget.overrun) == (0, 0)
        assert budget.limit - STEP * 397 < budget.spent <= budget.limit


def test_a_step_refuses_by_what_the_ledger_says_and_not_by_what_it_said_a_moment_ago(tmp_path: Path) -> None:
    steps = [{"at": 50, "only": ["local"]}]
    long = {**ask("answer=20 reasoning=0"), "max_tokens": 30}
    long["messages"] = [{"role": "system", "content": "The clerk counts the coins and closes the gate. " * 400}, *long["messages"]]
    with Stage(tmp_path, [team_of("late", total("0.002"), steps=steps)]) as stage:
        answers = [stage.chat("late", long) for _ in range(3)]
        assert [status for status, _, _ in answers] == [200] * 3
        # The second hold took the budget beyond the step; its charge, most of it cache hits, has not.
        assert lefts(answers[1][1])["total"] < nano("0.001")
        assert stage.budget("late").spent < nano("0.001")
