"""Crashes, outages, reloads and repeats as others got them wrong in public; each host's answer waits until the test lets it end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.harness import events
from tests.replicas import MODEL, OUTPUT_NANO, PROMPT_NANO, Answer, Stage, ask, error_of, key_of, refusals, team_of, total
from tests.scripted import DONE, DROP, JSON, Script, ScriptedHost, chunk, gated, until, usage

PROMPT, OUTPUT = 1000, 50
NANO = PROMPT * PROMPT_NANO + OUTPUT * OUTPUT_NANO
STREAM = ask(stream=True)
FREE = Script([b'{"error": {"message": "busy"}}'], JSON, 500)
TEAMS = (
    team_of("lender", total("0.0012")),
    team_of("once", total("1.00")),
    team_of("other", total("1.00")),
    team_of("locked", total("1.00")),
    team_of("orphan", total("1.00")),
    team_of("plain", total("1.00")),
    team_of("changing", total("1.00")),
    team_of("requests", limits={"requests_per_minute": 5}),
    team_of("tokens", limits={"tokens_per_minute": 100_000}),
    team_of("places", limits={"concurrent": 2}),
)


@pytest.fixture(scope="module")
def host() -> Iterator[ScriptedHost]:
    scripted = ScriptedHost()
    yield scripted
    scripted.close()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, host: ScriptedHost) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("faults")
    with Stage(folder, TEAMS, hosts=(), urls={"deepseek": host.url}, replicas=2, settings={"FAREGATE_LEASE": "3"}) as live:
        yield live


@pytest.fixture
def gate(host: ScriptedHost) -> Iterator[threading.Event]:
    """What the answers of a test wait for; open at its end, whatever happens, and no script is left to the next."""
    gate = threading.Event()
    yield gate
    gate.set()
    host.forget()


def ending(gate: threading.Event) -> Script:
    return gated(gate, usage(PROMPT, OUTPUT))


def settled(answers: list[Future[Answer]], count: int) -> list[Answer]:
    """The answers that are there once there are so many."""
    found: list[Answer] = until(
        f"{count} answers", lambda: done if len(done := [one.result() for one in answers if one.done()]) >= count else None
    )
    return found


# BerriAI/litellm#27735: a single process without Redis went on refusing by what had been spent, or seemed so, a while ago.
def test_money_that_came_back_can_be_asked_for_at_once(stage: Stage, host: ScriptedHost, gate: threading.Event) -> None:
    large = ask(stream=True) | {"messages": [{"role": "user", "content": "word " * 4000}]}
    before = len(host.bodies)
    host.play(Script([gate, *FREE.pieces], FREE.kind, FREE.status), *(ending(gate) for _ in range(2)))
    first = stage.aside("lender", large)
    host.received(before + 1)
    assert [error_of(stage.chat("lender", large, replica))["code"] for replica in (0, 1, 0)] == ["budget_exceeded"] * 3
    gate.set()
    assert first.result(30)[0] == 502
    assert stage.chat("lender", large)[0] == 200
    assert stage.budget("lender").spent == NANO
    # What the other replica was told a moment ago, it may repeat for a second.
    until("the other replica lends it too", lambda: stage.chat("lender", large, replica=1)[0] == 200)
    assert len(host.bodies) == before + 3


# elixir-vibe/llm_proxy#4: sent again after an ambiguous failure, a request is paid twice. OpenMeter and Kong: what was seen before is
# kept in memory, so each replica has its own list; Lago, Stripe's meter events: it is forgotten after a while.
def test_the_same_request_is_sent_once_however_often_it_comes(stage: Stage, host: ScriptedHost, gate: threading.Event) -> None:
    before = len(host.bodies)
    host.play(ending(gate))
    answers = [stage.aside("once", STREAM, number % 2, idempotency_key="order-1") for number in range(6)]
    refused = settled(answers, 5)
    assert refusals(refused) == {(409, "in_flight")}
    assert all(int(headers["retry-after"]) >= 1 and headers.get("x-should-retry") != "false" for _, headers, _ in refused)
    gate.set()
    (paid,) = [answer for answer in settled(answers, 6) if answer[0] == 200]
    for replica in range(2):
        repeated = stage.chat("once", STREAM, replica, idempotency_key="order-1")
        assert (repeated[0], error_of(repeated)["code"], repeated[1]["x-should-retry"]) == (409, "already_done", "false")
        assert error_of(repeated)["details"]["id"] == paid[1]["x-request-id"]
        other = stage.chat("once", ask("answer=21", stream=True), replica, idempotency_key="order-1")
        assert (other[0], error_of(other)["code"]) == (422, "idempotency_mismatch")
    assert len(host.bodies) == before + 1
    host.play(ending(gate))
    assert stage.chat("other", STREAM, idempotency_key="order-1")[0] == 200
    assert stage.budget("once").spent == stage.budget("other").spent == NANO


def test_what_may_have_been_paid_is_not_sent_again(stage: Stage, host: ScriptedHost) -> None:
    before = len(host.bodies)
    host.play(DROP)
    failed = stage.chat("once", STREAM, idempotency_key="order-2")
    assert (failed[0], failed[1]["x-should-retry"]) == (502, "false")
    again = stage.chat("once", STREAM, replica=1, idempotency_key="order-2")
    assert (again[0], error_of(again)["details"]["id"]) == (409, failed[1]["x-request-id"])
    row = stage.row_of(failed[1])
    assert (row["attempts"][0]["billed"], row["nano"] > 0) == ("possible", True)
    assert len(host.bodies) == before + 1


def test_what_was_certainly_free_may_be_sent_again(stage: Stage, host: ScriptedHost, gate: threading.Event) -> None:
    gate.set()
    host.play(FREE, ending(gate))
    assert stage.chat("once", STREAM, idempotency_key="order-3")[0] == 502
    assert stage.chat("once", STREAM, replica=1, idempotency_key="order-3")[0] == 200


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """The ledger's file as it is while somebody else writes and does not end."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(5000)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


# BerriAI/litellm#33923: `fail_closed` let requests in when the write of their hold failed. #18708: a database that is away made every
# key an invalid one. #35569: the clean-up failed, then the full cost was applied too.
def test_without_the_ledger_nothing_is_sent_and_nothing_charged_twice(stage: Stage, host: ScriptedHost, gate: threading.Event) -> None:
    _, made = stage.admin_post("keys", {"team": "locked", "name": "locked-ci"})
    host.play(FREE, FREE)
    for replica in range(2):
        until("the new key is known", lambda at=replica: stage.chat_with(made["key"], STREAM, at)[0] != 401)
    before = len(host.bodies)
    host.play(ending(gate), ending(gate))
    running = [stage.aside("locked", STREAM, replica) for replica in range(2)]
    host.received(before + 2)
    with locked(stage.ledger):
        refused = [stage.aside_with(key, STREAM, number) for number in range(2) for key in (key_of("locked"), made["key"])]
        gate.set()
        found = settled(refused, 4)
        assert refusals(found) == {(503, "ledger_unavailable")}
        assert all(int(headers["retry-after"]) >= 1 for _, headers, _ in found)
        assert len(host.bodies) == before + 2
        # What runs comes to its end: its charge is kept on this machine meanwhile.
        answers = [one.result(30) for one in running]
        assert [(status, data.endswith(DONE)) for status, _, data in answers] == [(200, True)] * 2
    stage.quiet("locked")
    until("both charges are there", lambda: stage.budget("locked").spent == 2 * NANO)
    assert [stage.row_of(headers)["nano"] for _, headers, _ in answers] == [NANO, NANO]
    host.play(ending(gate), ending(gate))
    assert [stage.chat("locked", STREAM, replica)[0] for replica in range(2)] == [200, 200]


# BerriAI/litellm#30330: what a killed pod had reserved was reserved for ever. And none of its memory is asked afterwards, neither for
# what is spent (#28283: counters grew with every restart) nor for what was seen before.
def test_a_killed_replica_holds_nothing_for_longer_than_its_lease(stage: Stage, host: ScriptedHost, gate: threading.Event) -> None:
    before = len(host.bodies)
    host.play(ending(gate))
    doomed = stage.start("doomed")
    stage.replicas.append(doomed)
    try:
        running = stage.aside("orphan", STREAM, replica=2, idempotency_key="order-4")
        host.received(before + 1)
        assert stage.budget("orphan").held > 0
        assert error_of(stage.chat("orphan", STREAM, idempotency_key="order-4"))["code"] == "in_flight"
        os.kill(doomed.pid, signal.SIGKILL)
    finally:
        stage.replicas.remove(doomed)
        doomed.close()
    assert running.exception(30) is not None
    stage.quiet("orphan")
    (row,) = stage.rows("orphan")
    assert (row["status"], row["stopped"], row["nano"] > 0) == ("gateway_error", "expired", True)
    assert [stage.budget("orphan", replica=replica).spent for replica in range(2)] == [row["nano"]] * 2
    assert error_of(stage.chat("orphan", STREAM, replica=1, idempotency_key="order-4"))["code"] == "already_done"
    assert len(host.bodies) == before + 1


# BerriAI/litellm#20615: one price in another unit, and every request was refused from then on.
@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("prices/deepseek.yaml", 'output: "0.60"', 'output: "0.60 per 1K"'),
        ("teams/plain.yaml", '"amount": "1.00"', '"amount": "1.00 USD"'),
        ("teams/plain.yaml", '"amount"', '"max_budget"'),
    ],
)
def test_policies_with_a_mistake_change_nothing(
    stage: Stage, host: ScriptedHost, gate: threading.Event, file: str, old: str, new: str
) -> None:
    gate.set()
    stage.edit(file, old, new)
    try:
        said = stage.reload(409)["error"]
        checked = stage.command("check", str(stage.policies))
        host.play(ending(gate), ending(gate))
        assert [stage.chat("plain", STREAM, replica)[0] for replica in range(2)] == [200, 200]
    finally:
        stage.edit(file, new, old)
    assert stage.reload()["error"] is None
    assert f"{file}:" in said
    assert checked.returncode == 1
    assert f"{file}:" in checked.stdout + checked.stderr


# BerriAI/litellm#30772, #20409: no reload at all. maximhq/bifrost#6937: a new price changes what earlier requests have cost. And a
# limit that was lowered below what is spent is one more way to a negative balance.
def test_a_changed_file_applies_to_the_next_request_and_to_nothing_earlier(stage: Stage, host: ScriptedHost, gate: threading.Event) -> None:
    host.play(ending(gate))
    before = len(host.bodies)
    running = stage.aside("changing", STREAM)
    host.received(before + 1)
    stage.edit("prices/deepseek.yaml", 'output: "0.60"', 'output: "6.00"')
    try:
        stage.change(team_of("changing", total("0.000000002")))
        gate.set()
        row = stage.row_of(running.result(30)[1])
        assert (row["nano"], row["status"]) == (NANO, "ok")
        lowered = stage.budget("changing")
        assert (lowered.limit, lowered.spent, lowered.held) == (2, NANO, 0)
        assert [stage.chat("changing", STREAM, replica)[0] for replica in range(2)] == [402, 402]
        stage.change(team_of("changing", total("1.00")))
        host.play(ending(gate), ending(gate))
        assert [stage.chat("changing", STREAM, replica)[0] for replica in range(2)] == [200, 200]
        assert stage.budget("changing").spent == NANO + 2 * (NANO + 9 * OUTPUT * OUTPUT_NANO)
    finally:
        stage.edit("prices/deepseek.yaml", 'output: "6.00"', 'output: "0.60"')
        stage.reload()


# BerriAI/litellm#13786, Beever-AI/beever-atlas#334: a hundred equal chunks in a row were taken for a fault, and the answer broken off.
def test_an_answer_that_repeats_itself_goes_to_its_end(stage: Stage, host: ScriptedHost) -> None:
    host.play(Script([chunk(" same") * 300, chunk(finish="stop", usage=usage(PROMPT, 300)), DONE]))
    status, headers, data = stage.chat("plain", STREAM)
    assert (status, stage.row_of(headers)["status"], data.endswith(DONE)) == (200, "ok", True)
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events(data)) == " same" * 300


# envoyproxy/ai-gateway#2394, #680: a limit applied only once an answer had come to its end, so that whatever came at once got in.
@pytest.mark.parametrize(("team", "words", "admitted"), [("requests", 1, 5), ("tokens", 18_000, 4), ("places", 1, 2)])
def test_a_limit_counts_what_is_still_under_way(
    stage: Stage, host: ScriptedHost, gate: threading.Event, team: str, words: int, admitted: int
) -> None:
    before = len(host.bodies)
    body: dict[str, Any] = {"model": MODEL, "stream": True, "max_tokens": 100, "messages": [{"role": "user", "content": "word " * words}]}
    host.play(*(ending(gate) for _ in range(12)))
    answers = [stage.aside(team, body) for _ in range(12)]
    refused = settled(answers, 12 - admitted)
    assert [(status, error_of((status, headers, data))["code"]) for status, headers, data in refused] == [(429, "rate_limited")] * len(
        refused
    )
    assert all(int(headers["retry-after"]) >= 1 for _, headers, _ in refused)
    assert len(host.received(before + admitted)) == before + admitted
    gate.set()
    assert [one.result(30)[0] for one in answers].count(200) == admitted


# BerriAI/litellm#27639 once more, with places instead of money: what is never given back is never to be had again.
def test_failed_requests_give_their_places_back(stage: Stage, host: ScriptedHost, gate: threading.Event) -> None:
    gate.set()
    host.play(FREE, DROP, FREE, DROP, ending(gate))
    assert [stage.chat("places", STREAM)[0] for _ in range(5)] == [502, 502, 502, 502, 200]
