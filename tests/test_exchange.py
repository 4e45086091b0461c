"""The exchange end to end: limits kept to the token whoever counts how, time limits by phase, and how every failure is answered."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.emulator.tokens import Tokens
from gateway.policies import default_folder
from tests.harness import ADMIN, KEY, EmulatedHost, LiveGateway, events, get_json, texts
from tests.scripted import until

NOW = "2026-11-20T12:00:00Z"
LIMIT = 500
LONG = "Prove it. [[answer=1500 reasoning=300 pace=1]]"
TIMEOUTS = {
    "FAREGATE_TIMEOUT_CONNECT": "1",
    "FAREGATE_TIMEOUT_FIRST_BYTE": "0.8",
    "FAREGATE_TIMEOUT_IDLE": "0.6",
    "FAREGATE_TIMEOUT_TOTAL": "2",
}
SILENT = {"keep_alive": 40, "keep_alive_pause": 0.1}


def chat_body(model: str, wish: str, stream: bool, **more: Any) -> dict[str, Any]:
    return {"model": model, "stream": stream, "messages": [{"role": "user", "content": wish}], **more}


def answer_of(data: bytes, stream: bool) -> tuple[str, str, str]:
    """(reasoning, content, finish_reason) as the client sees them."""
    if stream:
        finish = [event["choices"][0]["finish_reason"] for event in events(data) if event["choices"]][-1]
        return (*texts(data), finish)
    choice = json.loads(data)["choices"][0]
    return choice["message"]["reasoning_content"], choice["message"]["content"], choice["finish_reason"]


@pytest.fixture(scope="module")
def total_counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGateway]:
    """A gateway over a host whose max_tokens bounds thinking and answer together."""
    with LiveGateway(tmp_path_factory.mktemp("novita"), ("novita",), NOW) as gateway:
        yield gateway


@pytest.mark.parametrize("stream", [False, True])
def test_r1_limits_the_answer_even_where_the_host_counts_the_thinking_too(total_counting: LiveGateway, stream: bool) -> None:
    tokens = Tokens()
    status, headers, data = total_counting.chat(chat_body("deepseek-r1", LONG, stream, max_tokens=LIMIT))
    assert status == 200, data
    reasoning, content, finish = answer_of(data, stream)
    assert finish == "length"
    assert tokens.count(reasoning) == 300
    assert 0.98 * LIMIT <= tokens.count(content) <= LIMIT
    check_stopped(total_counting, total_counting.hosts["novita"], headers["x-request-id"])


def test_the_metrics_name_a_request_as_its_row_does(total_counting: LiveGateway) -> None:
    _, headers, data = total_counting.chat(chat_body("deepseek-r1", "Hello. [[answer=10 reasoning=5]]", False))
    row = total_counting.row(headers["x-request-id"])
    labels = {name: row[name] for name in ("host", "model", "route", "team")} | {"outcome": row["status"]}
    shown = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
    assert f"faregate_requests_total{{{shown}}} " in total_counting.metrics(), data


def check_stopped(gateway: LiveGateway, host: EmulatedHost, id: str) -> None:
    """Faregate ended the answer: its row says so, and the host stopped working long before it was done."""
    row = gateway.row(id)
    bill = {each["id"]: each for each in get_json(host.root + "/_emulator/bill?wait=2")}[id]
    assert (row["status"], row["stopped"], bill["outcome"]) == ("stopped", "limit", "cancelled")
    assert bill["output"] < 0.7 * bill["planned"]
    assert abs(row["usage"]["output"] - bill["output"]) <= 0.05 * bill["output"]
    assert "truncate_output" in row["edits"]


@pytest.fixture(scope="module")
def answer_counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveGateway, EmulatedHost]]:
    """A gateway over an engine whose max_tokens bounds the answer only."""
    folder = tmp_path_factory.mktemp("engine")
    policies = folder / "policies"
    shutil.copytree(default_folder(), policies)
    row = policies / "hosts" / "local.yaml"
    text = row.read_text()
    assert "counts: total" in text
    row.write_text(text.replace("counts: total", "counts: answer"))
    host = EmulatedHost("local", folder, NOW, "--policies", str(policies))
    with LiveGateway(folder, (), NOW, {"FAREGATE_POLICIES": str(policies)}, {"local": host.url}) as gateway:
        yield gateway, host
    host.close()


@pytest.mark.parametrize("stream", [False, True])
def test_r1_0528_limits_the_total_even_where_the_engine_counts_the_answer_only(
    answer_counting: tuple[LiveGateway, EmulatedHost], stream: bool
) -> None:
    gateway, host = answer_counting
    tokens = Tokens()
    status, headers, data = gateway.chat(chat_body("local/r1-0528", LONG, stream, max_tokens=LIMIT))
    assert status == 200, data
    reasoning, content, finish = answer_of(data, stream)
    assert finish == "length"
    assert 0.98 * LIMIT <= tokens.count(reasoning) + tokens.count(content) <= LIMIT
    check_stopped(gateway, host, headers["x-request-id"])


@pytest.mark.parametrize("stream", [False, True])
def test_max_completion_tokens_is_the_total_for_r1_too(total_counting: LiveGateway, stream: bool) -> None:
    tokens = Tokens()
    status, headers, data = total_counting.chat(chat_body("deepseek-r1", LONG, stream, max_completion_tokens=LIMIT))
    assert status == 200, data
    reasoning, content, finish = answer_of(data, stream)
    assert finish == "length"
    assert 0.98 * LIMIT <= tokens.count(reasoning) + tokens.count(content) <= LIMIT
    row = total_counting.row(headers["x-request-id"])
    assert (row["usage"]["output"], row["usage"]["sources"]["output"]) == (LIMIT, "reported")


@pytest.fixture(scope="module")
def hasty_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGateway]:
    with LiveGateway(tmp_path_factory.mktemp("hasty"), ("deepseek",), NOW, TIMEOUTS) as gateway:
        yield gateway


@pytest.fixture
def hasty(hasty_gateway: LiveGateway) -> LiveGateway:
    """Each test begins with a host that has done nothing wrong."""
    hasty_gateway.reload()
    return hasty_gateway


# fault, wish, stream -> status, least output in the row
LATE: dict[str, tuple[dict[str, Any], str, bool, int, int]] = {
    "silent before the headers": ({"hang": True}, "", True, 504, 0),
    "silent whole answer": ({"hang": True}, "", False, 504, 0),
    "comments only": (SILENT, "", True, 200, 0),
    "stalled inside": ({"stall_after": 30, "seconds": 30}, "", True, 200, 29),
    "too long in all": ({}, "[[answer=400 reasoning=0 pace=20]]", True, 200, 70),
    "too long for a whole answer": ({}, "[[answer=400 reasoning=0 pace=20]]", False, 504, 0),
}


@pytest.mark.parametrize("case", LATE)
def test_time_limits_by_phase(hasty: LiveGateway, case: str) -> None:
    fault, wish, stream, status, least = LATE[case]
    hasty.hosts["deepseek"].faults(fault)
    got, headers, data = hasty.chat(chat_body("deepseek-flash", f"Hi {wish}", stream))
    assert got == status
    error = (events(data)[-1] if status == 200 else json.loads(data))["error"]
    assert error["code"] == "upstream_timeout"
    assert b"[DONE]" not in data
    if status != 200:
        assert headers["x-should-retry"] == "false"
    row = hasty.row(headers["x-request-id"])
    assert (row["status"], row["attempts"][0]["billed"]) == ("timeout", "possible")
    assert row["nano"] > 0
    assert row["usage"]["output"] >= least
    assert row["usage"]["sources"]["cache_miss"] == "counted"


def test_keep_alives_pass_and_do_not_hide_a_silent_host(hasty: LiveGateway) -> None:
    hasty.hosts["deepseek"].faults({"keep_alive": 4, "keep_alive_pause": 0.05})
    status, _, data = hasty.chat(chat_body("deepseek-flash", "Hi", True))
    assert status == 200
    assert data.count(b": keep-alive\n\n") == 4
    assert data.endswith(b"data: [DONE]\n\n")


# fault -> status, code, whether an SDK may try again by itself, the row's status
REFUSED = {
    400: (400, "invalid_request", "client_error"),
    401: (502, "upstream_error", "upstream_error"),
    402: (502, "upstream_error", "upstream_error"),
    403: (502, "upstream_error", "upstream_error"),
    404: (404, "model_not_found", "client_error"),
    413: (413, "body_too_large", "client_error"),
    422: (400, "invalid_request", "client_error"),
    429: (429, "rate_limited", "rate_limited"),
    500: (502, "upstream_error", "upstream_error"),
    503: (502, "upstream_error", "upstream_error"),
    529: (502, "upstream_error", "upstream_error"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("refused", REFUSED)
def test_a_refusal_of_the_host_is_free_and_says_nothing_of_its_inside(hasty: LiveGateway, refused: int, stream: bool) -> None:
    status, code, outcome = REFUSED[refused]
    hasty.hosts["deepseek"].faults({"status": refused, "retry_after": 7})
    got, headers, data = hasty.chat(chat_body("deepseek-flash", "Hi", stream))
    error = json.loads(data)["error"]
    assert (got, error["code"]) == (status, code)
    assert (headers.get("x-should-retry") == "false") == (status != 429)
    assert (headers.get("retry-after") == "7") == (status == 429)
    assert b"api key" not in data.lower()
    row = hasty.row(headers["x-request-id"])
    assert (row["status"], row["nano"], row["usage"], row["attempts"][0]["billed"]) == (outcome, 0, None, "none")


# Certainly not billed: a page or redirect of something before the host, and an error that a host states before any text.
FREE = ("html", "redirect", "error before any text")
BROKEN: dict[str, dict[str, Any]] = {
    "html": {"html": True, "status": 200},
    "redirect": {"redirect": "http://127.0.0.1:9/"},
    "gzip": {"gzip": True},
    "error before any text": {"error_after": 0},
    "insufficient_system_resource": {"finish": "insufficient_system_resource"},
    "cut": {"cut_after": 0},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", BROKEN)
def test_an_answer_that_is_none_is_a_failure(hasty: LiveGateway, case: str, stream: bool) -> None:
    hasty.hosts["deepseek"].faults(BROKEN[case])
    got, headers, data = hasty.chat(chat_body("deepseek-flash", "Hi", stream))
    assert b"[DONE]" not in data
    error = (events(data)[-1] if got == 200 else json.loads(data))["error"]
    assert error["code"] == "upstream_error"
    row = hasty.row(headers["x-request-id"])
    assert row["status"] == "upstream_error"
    assert (row["nano"] > 0) == (case not in FREE)


@pytest.mark.parametrize("fault", [{"invalid_json_after": 1}, {"huge_event": 1_500_000}, {"cut_after": 1}], ids=str)
def test_a_stream_that_breaks_before_any_text_may_have_been_billed(hasty: LiveGateway, fault: dict[str, Any]) -> None:
    hasty.hosts["deepseek"].faults(fault)
    status, headers, data = hasty.chat(chat_body("deepseek-flash", "Hi", True))
    assert (status, events(data)[-1]["error"]["code"]) == (200, "upstream_error")
    row = hasty.row(headers["x-request-id"])
    assert (row["attempts"][0]["billed"], row["usage"]["output"]) == ("possible", 0)
    assert row["nano"] > 0


def test_a_host_that_cannot_be_reached_may_be_asked_again(tmp_path: Path) -> None:
    with LiveGateway(tmp_path, (), NOW, TIMEOUTS, {"deepseek": "http://127.0.0.1:1"}) as gateway:
        status, headers, data = gateway.chat(chat_body("deepseek-flash", "Hi", True))
        row = gateway.row(headers["x-request-id"])
    assert (status, json.loads(data)["error"]["code"]) == (502, "upstream_error")
    assert headers.get("x-should-retry") != "false"
    assert (row["status"], row["nano"], row["attempts"][0]["billed"]) == ("upstream_error", 0, "none")


def leave(gateway: LiveGateway, body: dict[str, Any]) -> None:
    """Ask, and go as soon as the host has the request."""
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(data)}\r\n\r\n"
    host, port = gateway.root.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head.encode() + data)
        until("the host has it", lambda: gateway.hosts["openrouter"].requests() != [])


BILLS_ON = "openrouter/deepseek/deepseek-v3.2"


@pytest.mark.parametrize("stream", [False, True])
def test_a_host_that_bills_on_and_hangs_is_not_heard_for_ever_once_the_client_has_left(tmp_path: Path, stream: bool) -> None:
    settings = {"FAREGATE_TIMEOUT_FIRST_BYTE": "0.8"}
    with LiveGateway(tmp_path, ("openrouter",), NOW, settings) as gateway:
        gateway.hosts["openrouter"].faults({"hang": True})
        leave(gateway, chat_body(BILLS_ON, "Which is greater?", stream))
        until("it has ended", lambda: gateway.rows() != [])
        (row,) = gateway.rows()
        assert (row["status"], [line["billed"] for line in row["attempts"]]) == ("timeout", ["possible"])
        # Of what would have come in one piece nothing was heard: so it is as long as was foretold.
        assert row["usage"]["sources"]["output"] != "reported" and row["nano"] > 0
        assert (row["usage"]["output"] > 0) is not stream
        (spent,) = get_json(f"{gateway.admin_url}/admin/v1/spend", {"authorization": f"Bearer {ADMIN}"})
        assert spent["nano"] == row["nano"] and spent["estimated"] == spent["spent"]
        assert f'faregate_host_requests{{host="openrouter",model="{BILLS_ON.partition("/")[2]}"}} 0.0' in gateway.metrics()


def test_the_drain_does_not_wait_longer_than_it_may_for_a_host_that_nobody_waits_for(tmp_path: Path) -> None:
    gateway = LiveGateway(tmp_path, ("openrouter",), NOW, {"FAREGATE_DRAIN": "1"})
    gateway.hosts["openrouter"].faults({"hang": True})
    leave(gateway, chat_body(BILLS_ON, "Which is greater?", False))
    begun = time.monotonic()
    gateway.close()
    assert time.monotonic() - begun < 15
    with sqlite3.connect(gateway.ledger) as ledger:
        assert ledger.execute("SELECT count(*) FROM hold WHERE state = 'held'").fetchone() == (0,)
        assert [nano > 0 for (nano,) in ledger.execute("SELECT nano FROM request")] == [True]
