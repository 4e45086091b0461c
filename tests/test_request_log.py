"""The request log: one line a request that agrees with the ledger; and in no line, at any level, what anybody wrote or keeps secret."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.app import Gateway
from gateway.metrics import KNOWN_FIELDS
from gateway.money import decimal_text
from gateway.outcome import Attempt, Outcome
from gateway.request_log import EDITS, Line, RequestLog, line_of, text_of
from gateway.settings import Settings, load
from tests.harness import ADMIN, KEY, LiveGateway, post
from tests.ledgers import ROW, eventually

AT = datetime(2026, 11, 22, 7, 0, 0, 123456, tzinfo=UTC)
DONE = Outcome("ok", "search", "r", "deepseek", "deepseek-v4-pro", "c", (), 1.25, 0.002, 0.5, ROW)
REFUSED = Outcome("denied", "search", "r", "", "", "", (), 0.001, 0.001, error="budget_exceeded", id="req-1", key="k", stream=True)
CANARY = "zanzibar"
COUNTED = ("cache_hit", "cache_miss", "output", "reasoning")


class Silent:
    """An observer of nothing."""

    def __init__(self) -> None:
        self.seen = 0

    def observe(self, outcome: Outcome) -> None:
        self.seen += 1

    def stream_opened(self) -> None: ...

    def stream_closed(self) -> None: ...


def lines(live: LiveGateway) -> list[dict[str, Any]]:
    """The log as its readers take it: every line is an object."""
    return [json.loads(line) for line in live.log.splitlines()]


# --- the process itself ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def talked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveGateway, list[dict[str, Any]], list[str]]]:
    """A gateway at level debug that was told secrets in every place there is, and has ended: (gateway, its rows, answers of hosts)."""
    settings = {"FAREGATE_LOG_LEVEL": "debug", "FAREGATE_LOG_FORMAT": "json"}
    with LiveGateway(tmp_path_factory.mktemp("talk"), settings=settings) as live:
        heard = _converse(live)
        rows = live.rows()
        live.close()
        yield live, rows, heard


def _converse(live: LiveGateway) -> list[str]:
    host = live.hosts["deepseek"]
    said = [{"role": "system", "content": f"{CANARY} prompt"}, {"role": "user", "content": f"{CANARY} question"}]
    body = {"model": "deepseek-flash", "messages": said, "max_tokens": 30, "user": CANARY, f"{CANARY}_field": CANARY}
    heard = []
    for stream in (False, True):
        heard.append(live.chat({**body, "stream": stream})[2].decode())
    faults: tuple[dict[str, Any], ...] = (
        {"status": 400, "body": f"{CANARY} of the host"},
        {"status": 500, "body": f"{CANARY} of the host"},
        {"status": 429, "body": f"{CANARY} of the host"},
        {"cut_after": 2},
    )
    for fault in faults:
        host.faults(fault)
        live.chat({**body, "stream": True})
    for wrong in ({**body, "model": CANARY}, {**body, "messages": CANARY}, {**body, "tools": [{CANARY: CANARY}]}, {**body, "n": CANARY}):
        live.chat(wrong)
    live.chat(body, key=f"{CANARY}-key-0123456789")
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json", "x-session-id": CANARY, "idempotency-key": CANARY}
    for data in (f'{{"{CANARY}"'.encode(), json.dumps(body).encode(), json.dumps(body).encode(), b"\xff" + CANARY.encode()):
        post(f"{live.root}/v1/chat/completions?{CANARY}=1", data, headers)
        post(f"{live.root}/v1/chat/completions", data, headers)
    post(f"{live.root}/{CANARY}", b"", {})
    post(f"{live.admin_url}/admin/v1/requests/{CANARY}", None, {"authorization": f"Bearer {CANARY}"}, "GET")
    return heard


def test_no_line_at_any_level_has_what_was_asked_answered_or_kept_secret(
    talked: tuple[LiveGateway, list[dict[str, Any]], list[str]],
) -> None:
    live, _, heard = talked
    log = live.log
    assert any(entry["level"] == "debug" for entry in lines(live)) or lines(live), "the log is empty"
    for secret in (CANARY, KEY, ADMIN, "emulated-deepseek"):
        assert secret not in log, [line for line in log.splitlines() if secret in line]
    answer = json.loads(heard[0])["choices"][0]["message"]
    for text in (answer["content"], answer.get("reasoning_content")):
        assert not text or text[:8] not in log


def test_each_request_has_one_line_and_the_ledgers_figures(talked: tuple[LiveGateway, list[dict[str, Any]], list[str]]) -> None:
    live, rows, _ = talked
    told = [entry for entry in lines(live) if entry["message"] == "request"]
    by_id = {entry["id"]: entry for entry in told}
    assert len(by_id) == len(told) >= len(rows) + 4
    for row in rows:
        line = by_id[row["id"]]
        assert (line["team"], line["key"], line["route"], line["host"], line["model"]) == tuple(
            row[name] for name in ("team", "key", "route", "host", "model")
        )
        assert (line["cost"], line["currency"], line["status"]) == (decimal_text(row["nano"]), row["currency"], row["status"])
        assert (line["card"], line["window"], line["attempts"]) == (row["card"], row["window"], len(row["attempts"]))
        used = row["usage"] or {}
        assert ("tokens" in line) == bool(used)
        assert not used or {name: line["tokens"][name] for name in COUNTED} == {name: used[name] for name in COUNTED}
    refused = [entry for entry in told if "cost" not in entry]
    assert {entry["error"] for entry in refused} >= {"model_not_found"}
    assert all(entry["id"].startswith("req-") and entry["team"] == "search" and entry["key"] for entry in refused)


@pytest.mark.parametrize(
    ("level", "wanted", "there"), [("info", "on", True), ("debug", "on", True), ("info", "off", False), ("warning", "on", False)]
)
def test_off_and_only_warnings_mean_no_lines(tmp_path: Path, level: str, wanted: str, there: bool) -> None:
    variables = {"DATA": str(tmp_path), "KEYS": f"search:{KEY}", "LOG_LEVEL": level, "LOG_REQUESTS": wanted}
    gateway = Gateway(load({f"FAREGATE_{name}": value for name, value in variables.items()}, None))
    assert (gateway.request_log is not None) == there


# --- one line -------------------------------------------------------------------------------------------------------


@given(st.integers(min_value=0, max_value=10**21))
def test_amounts_are_written_exactly(nano: int) -> None:
    assert line_of(replace(DONE, row=replace(ROW, nano=nano)), AT).cost == decimal_text(nano)


# What the row has -> what the line says.
EDIT_LINES = {
    "max_tokens=9000->8192": "max_tokens=9000->8192",
    "drop_user": "drop_user",
    "drop_reasoning_content=3": "drop_reasoning_content=3",
    "drop_my_secret=3": "drop_other=3",
    "rename_my_secret": "rename_other",
    "normalise_stream": "normalise_stream",
}


@pytest.mark.parametrize("edit", EDIT_LINES)
def test_a_field_that_only_its_caller_knows_is_other(edit: str) -> None:
    assert line_of(replace(DONE, row=replace(ROW, edits=(edit,))), AT).edits == (EDIT_LINES[edit],)
    assert "user" in KNOWN_FIELDS


def test_a_line_is_bounded_whatever_was_edited() -> None:
    many = tuple(f"substitute_model={'x' * 5000}" for _ in range(1000))
    line = line_of(replace(DONE, row=replace(ROW, edits=many)), AT)
    assert len(line.edits) == EDITS and max(map(len, line.edits)) <= 120


def test_several_attempts_are_told_apart_and_one_is_not_repeated() -> None:
    line = line_of(DONE, AT)
    assert (line.attempts, [(one.host, one.cost, one.billed) for one in line.tried]) == (
        2,
        [("gmi", "0", "none"), ("deepseek", "0.0000004", "known")],
    )
    alone = replace(ROW, attempts=(Attempt("deepseek", "deepseek-v4-pro", "ok", "known", 400),))
    assert line_of(replace(DONE, row=alone), AT).tried == ()


def test_the_line_of_a_refusal_says_whose_it_was() -> None:
    line = line_of(REFUSED, AT)
    assert (line.id, line.key, line.error, line.status, line.cost, line.stream) == ("req-1", "k", "budget_exceeded", "denied", "", True)


def test_a_person_reads_the_same_in_one_line() -> None:
    assert text_of(line_of(DONE, AT)) == (
        "2026-11-22T07:00:00.123Z info    r1 search/search-1a2b3c r -> deepseek/deepseek-v4-pro: ok 0.0000004 USD 64+10+30 tokens 1.250 s"
    )
    assert text_of(line_of(REFUSED, AT)).endswith("req-1 search/k r -> -: denied (budget_exceeded) 0.001 s")


def test_docs_name_every_field_and_no_other() -> None:
    text = (Path(__file__).parent.parent / "docs" / "logs.md").read_text()
    table = text.partition("## A request")[2].partition("\n## ")[0]
    named = {row.split("|")[1].strip().strip("`") for row in table.splitlines() if row.startswith("| `")}
    assert named == set(Line.__struct_fields__)
    assert Settings.model_fields["log_requests"].default == "on"


# --- writing --------------------------------------------------------------------------------------------------------


async def test_lines_are_written_together_soon_and_the_last_ones_at_the_end() -> None:
    written: list[str] = []
    after = Silent()
    log = RequestLog(after, "json", written.append)
    log.observe(DONE)
    log.start()
    for _ in range(3):
        log.observe(DONE)
    await eventually(lambda: bool(written))
    log.observe(REFUSED)
    await log.close()
    # What came before the start is counted by who follows, and not written.
    assert [len(batch.split("\n")) for batch in written] == [3, 1] and after.seen == 5
    assert [json.loads(line)["id"] for line in "\n".join(written).split("\n")] == ["r1", "r1", "r1", "req-1"]


async def test_a_reader_that_hangs_costs_lines_and_no_time(caplog: pytest.LogCaptureFixture) -> None:
    free, written = threading.Event(), []

    def write(lines: str) -> None:
        free.wait(10)
        written.append(lines)

    log = RequestLog(Silent(), "json", write, most=50, gather=0.01)
    log.start()
    start = time.monotonic()
    for _ in range(10):
        for _ in range(100):
            log.observe(DONE)
        await asyncio.sleep(0.02)
    assert time.monotonic() - start < 5
    free.set()
    await log.close()
    kept = sum(batch.count("\n") + 1 for batch in written)
    told = [int(str(record.args[0])) for record in caplog.records if isinstance(record.args, tuple) and "dropped" in record.message]
    assert kept + sum(told) == 1000 and 0 < kept <= 200
