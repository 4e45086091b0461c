"""Idempotency-Key: the same key and body never pays twice, whoever sends it again and however the first one ended."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from openai import APIStatusError, OpenAI

from gateway.front import body as front_body
from gateway.outcome import Idempotency
from tests.replicas import MODEL, Answer, Stage, ask, error_of, key_of, team_of, total
from tests.scripted import DONE, STREAM, Script, ScriptedHost, chunk, gated, until, usage, whole

USED = usage(10, 20)
OK = whole("one two", USED)


@pytest.fixture(scope="module")
def host() -> Iterator[ScriptedHost]:
    made = ScriptedHost()
    yield made
    made.close()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, host: ScriptedHost) -> Iterator[Stage]:
    teams = [team_of("one"), team_of("other"), team_of("budget", total("1"))]
    with Stage(tmp_path_factory.mktemp("again"), teams, hosts=(), urls={"deepseek": host.url}, replicas=2) as made:
        yield made


def send(stage: Stage, key: str, body: dict[str, Any], team: str = "one", replica: int = 0) -> Answer:
    return stage.chat(team, body, replica, idempotency_key=key)


@pytest.mark.parametrize("team", ["one", "budget"])
@pytest.mark.parametrize("stream", [False, True])
def test_what_was_paid_is_told_and_not_paid_again(stage: Stage, host: ScriptedHost, stream: bool, team: str) -> None:
    key, body = f"done-{stream}-{team}", ask(stream=stream)
    host.play(gated(_open(), USED) if stream or team == "budget" else OK)
    status, headers, _ = send(stage, key, body, team)
    assert status == 200
    before = len(host.bodies)
    for replica in (0, 1):
        again = send(stage, key, body, team, replica)
        assert (again[0], error_of(again)["code"]) == (409, "already_done")
        assert error_of(again)["details"] == {"id": headers["x-request-id"]}
        assert again[1]["x-should-retry"] == "false" and "retry-after" not in again[1]
        assert again[1]["x-request-id"] != headers["x-request-id"]
    assert len(host.bodies) == before
    assert [row["id"] for row in stage.rows(team)].count(headers["x-request-id"]) == 1


def _open() -> threading.Event:
    gate = threading.Event()
    gate.set()
    return gate


def test_while_the_first_one_runs_the_second_is_to_wait(stage: Stage, host: ScriptedHost) -> None:
    gate, body = threading.Event(), ask(stream=True)
    host.play(gated(gate, USED))
    first = stage.aside("one", body, idempotency_key="running")
    _on_its_way(stage, first)
    for replica in (0, 1):
        second = send(stage, "running", body, replica=replica)
        assert (second[0], error_of(second)["code"]) == (409, "in_flight")
        assert int(second[1]["retry-after"]) >= 1 and "x-should-retry" not in second[1]
    gate.set()
    assert first.result(30)[0] == 200
    assert error_of(send(stage, "running", body))["code"] == "already_done"


def _on_its_way(stage: Stage, first: Future[Answer]) -> None:
    """Wait until it holds money; one that has ended already is shown with its answer."""
    until("the first one is on its way", lambda: _held(stage) or first.done())
    assert not first.done(), first.result()


def _held(stage: Stage) -> int:
    with sqlite3.connect(stage.ledger) as ledger:
        (count,) = ledger.execute("SELECT count(*) FROM hold WHERE state = 'held'").fetchone()
    return int(count)


def test_of_many_at_once_one_is_served(stage: Stage, host: ScriptedHost) -> None:
    body, gate, before = ask("answer=9"), threading.Event(), len(host.bodies)
    host.play(Script([b"\n", gate, *OK.pieces], OK.kind))
    sent = [stage.aside("one", body, number % 2, idempotency_key="crowd") for number in range(12)]
    until("all but one are told to wait", lambda: sum(answer.done() for answer in sent) == 11)
    gate.set()
    answers = [answer.result(30) for answer in sent]
    assert sorted(status for status, *_ in answers) == [200] + [409] * 11
    assert {error_of(answer)["code"] for answer in answers if answer[0] == 409} == {"in_flight"}
    assert len(host.bodies) == before + 1


def test_another_body_under_the_same_key_is_a_mistake(stage: Stage, host: ScriptedHost) -> None:
    host.play(OK)
    send(stage, "mismatch", ask())
    answer = send(stage, "mismatch", ask(max_tokens=5))
    assert (answer[0], error_of(answer)["code"]) == (422, "idempotency_mismatch")
    assert answer[1]["x-should-retry"] == "false"


def test_what_certainly_cost_nothing_may_be_sent_again(stage: Stage, host: ScriptedHost) -> None:
    host.play(Script([b'{"error":{"message":"busy"}}'], "application/json", 500), OK)
    first, second = send(stage, "free", ask()), send(stage, "free", ask())
    assert (first[0], second[0]) == (502, 200)
    assert error_of(send(stage, "free", ask()))["details"] == {"id": second[1]["x-request-id"]}


def test_what_broke_after_it_may_have_cost_something_is_done(stage: Stage, host: ScriptedHost) -> None:
    host.play(Script([chunk(" one"), chunk(" two")], STREAM))
    status, headers, data = send(stage, "broken", ask(stream=True))
    assert status == 200 and DONE not in data
    again = send(stage, "broken", ask(stream=True))
    assert error_of(again)["code"] == "already_done"
    assert error_of(again)["details"] == {"id": headers["x-request-id"]}


def test_a_refused_request_leaves_its_key_free(stage: Stage, host: ScriptedHost) -> None:
    assert send(stage, "refused", ask(max_tokens=-1))[0] == 400
    host.play(OK)
    assert send(stage, "refused", ask())[0] == 200


def test_each_team_has_its_own_keys(stage: Stage, host: ScriptedHost) -> None:
    host.play(OK, OK)
    assert [send(stage, "shared", ask(), team)[0] for team in ("one", "other")] == [200, 200]


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\xe9", "a\tb"], ids=["empty", "too long", "not ASCII", "a control character"])
def test_a_key_that_is_none_is_refused_by_name(stage: Stage, key: str) -> None:
    answer = send(stage, key, ask())
    assert answer[0] == 400
    assert error_of(answer)["param"] == "Idempotency-Key"
    assert "1 to 255" in error_of(answer)["message"]


def test_the_longest_key_is_taken(stage: Stage, host: ScriptedHost) -> None:
    host.play(OK)
    assert send(stage, "~" + " " * 253 + "~", ask())[0] == 200


async def test_neither_the_key_nor_the_body_is_kept() -> None:
    made = await front_body.idempotency(b"secret", "team", b"{}")
    assert made == await front_body.idempotency(b"secret", "team", b"{}")
    assert made.key != (await front_body.idempotency(b"secret", "tea", b"msecret")).key
    assert (len(made.key), len(made.body)) == (64, 64)
    large = await front_body.idempotency(b"secret", "team", b"x" * (front_body.LARGE + 1))
    assert large == Idempotency(made.key, large.body) != made


def test_openai_s_client_waits_for_the_first_one_and_is_told_its_id(stage: Stage, host: ScriptedHost) -> None:
    gate = threading.Event()
    host.play(gated(gate, USED))
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    raw = json.dumps(body).encode()
    first = stage.aside("one", body, idempotency_key="sdk")
    _on_its_way(stage, first)
    client = OpenAI(api_key=key_of("one"), base_url=stage.one.base_url, max_retries=5)
    told = stage.one.log.count("(in_flight)")

    def open_later() -> None:
        until("the client was told to wait", lambda: stage.one.log.count("(in_flight)") > told)
        gate.set()

    opener = threading.Thread(target=open_later)
    opener.start()
    with pytest.raises(APIStatusError) as caught:
        client.post("/chat/completions", cast_to=object, content=raw, options={"headers": {"Idempotency-Key": "sdk"}})
    opener.join()
    # It asked again, as told, until it was told not to.
    assert caught.value.status_code == 409
    assert caught.value.code == "already_done"
    assert caught.value.body["details"] == {"id": first.result(30)[1]["x-request-id"]}  # type: ignore[index]
