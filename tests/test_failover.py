"""The preferred host fails during load, in each way that hosts fail: what clients see, what it costs, and how its traffic returns."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.gate import STREAK
from gateway.witnesses import PARKED
from tests.harness import EmulatedHost, events, post_json
from tests.load import CONCURRENT, Ask, Got
from tests.replicas import QUIET, Stage, team_of, total
from tests.scripted import DONE, JSON, Script, ScriptedHost, chunk, gated, until, usage

FIRST, SECOND = "novita/deepseek/deepseek-v3.2", "openrouter/deepseek/deepseek-v3.2"
ROUTES = f"""
- {{route: both, contract: deepseek-v3.2, deployments: [{FIRST}, {SECOND}], choose: order}}
- {{route: cheapest, contract: deepseek-v3.2, deployments: [{FIRST}, {SECOND}]}}
"""
EDITS = [("routes.yaml", "- route: deepseek-chat\n", f"{ROUTES}\n- route: deepseek-chat\n")]
TEAMS = (team_of("search", total("50.00")),)
SETTINGS = {
    "FAREGATE_TIMEOUT_CONNECT": "1",
    "FAREGATE_TIMEOUT_FIRST_BYTE": "0.5",
    "FAREGATE_TIMEOUT_IDLE": "0.4",
    "FAREGATE_TIMEOUT_TOTAL": "2",
}
# So fast do the clocks run: the longest rest is three seconds of the test's, and a parked host is tried again after as many.
RATE, FAST = 20, 200
# Of the gateway's seconds, for how long the host is away.
AWAY = 40.0
PAID = ("upstream_error", "upstream_timeout")


class Case(NamedTuple):
    """One way to fail. `seen`: codes of errors that clients may see; `least`: seconds between two trials at least."""

    fault: Callable[[Stage], dict[str, Any]]
    seen: tuple[str, ...] = ()
    least: float = 2.0


def always(**fault: Any) -> Callable[[Stage], dict[str, Any]]:
    return lambda stage: fault


def dated(stage: Stage) -> dict[str, Any]:
    """A date that is past before the host is back: from then on it says: at once."""
    date = format_datetime(stage.now() + timedelta(seconds=AWAY / 2), usegmt=True)
    return {"status": 429, "headers": {"Retry-After": date}, "body": {"error": {"message": "Slow down"}}}


CASES: dict[str, Case] = {
    "429, in seconds": Case(always(status=429, retry_after=5, body={"error": {"message": "Slow down"}}), least=5),
    "429, until a date": Case(dated),
    "500": Case(always(status=500)),
    "503": Case(always(status=503)),
    "an error as the first event": Case(always(error_after=0)),
    "an error inside the answer": Case(always(error_after=8), ("upstream_error",)),
    "cut before the text": Case(always(cut_after=0), ("upstream_error",)),
    "cut inside the text": Case(always(cut_after=8), ("upstream_error",)),
    "silence": Case(always(hang=True), ("upstream_timeout",)),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("failover"), RATE) as stage:
        yield stage


def staged(folder: Path, rate: int, **more: Any) -> Stage:
    hosts = more.pop("hosts", ("novita", "openrouter"))
    return Stage(folder / "stage", TEAMS, hosts=hosts, edits=EDITS, settings=SETTINGS, clock=f"{QUIET}*{rate}", **more)


def played(stage: Stage, count: int, model: str = "both") -> list[Got]:
    """So many small requests, as many at a time as fit; streams, for whose silence nobody waits long."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Which is greater? [[answer=12 reasoning=0]]"}]}
    found = stage.play("search", [Ask(body)] * count)
    assert not any(got.left for got in found)
    return found


def hosts_of(answers: list[Got]) -> set[str]:
    return {got.headers.get("x-faregate-host", "") for got in answers}


def behave(host: EmulatedHost, fault: dict[str, Any] | None) -> None:
    post_json(host.root + "/_emulator/behaviour", {"fail_rate": 1, "fault": fault} if fault else {"fail_rate": 0})


@pytest.mark.parametrize("name", CASES)
def test_a_host_that_fails_during_load(shared: Stage, name: str) -> None:
    shared.reload()
    for host in shared.hosts.values():
        host.reset()
    _failed(shared, CASES[name])


def test_a_host_whose_balance_is_used_up_during_load(tmp_path: Path) -> None:
    with staged(tmp_path, FAST) as stage:
        _failed(stage, Case(always(status=402), least=PARKED))
        alarms = [line for line in stage.one.log.splitlines() if "alarm: novita: the gateway's account there has no balance" in line]
        assert len(alarms) == 1


def test_the_cheaper_host_gets_its_traffic_back(tmp_path: Path) -> None:
    """By cost, what failed lately is dearer than it looks; that is forgotten with time, and by answers."""
    with staged(tmp_path, FAST) as stage:
        cheap = stage.hosts["openrouter"]
        assert hosts_of(played(stage, 2 * CONCURRENT, "cheapest")) == {"openrouter"}
        behave(cheap, {"status": 500})
        until("it is left alone", lambda: hosts_of(played(stage, CONCURRENT, "cheapest")) == {"novita"})
        behave(cheap, None)
        until("its traffic has returned", lambda: hosts_of(played(stage, CONCURRENT, "cheapest")) == {"openrouter"})


def _failed(stage: Stage, case: Case) -> None:
    first = stage.hosts["novita"]
    answers = played(stage, 2 * CONCURRENT)
    assert hosts_of(answers) == {"novita"}
    before, began = len(first.requests()), stage.now()
    behave(first, case.fault(stage))
    while (stage.now() - began).total_seconds() < AWAY:
        answers += (part := played(stage, CONCURRENT))
    # It is left alone by now: whoever comes is served by the other one, but for those that try it, one after the other.
    assert sum(got.headers.get("x-faregate-host") == "openrouter" for got in part) >= CONCURRENT - 3
    # What was on its way when it broke down, what it took to notice, and then one at a time.
    away = (stage.now() - began).total_seconds()
    assert len(first.requests()) - before <= CONCURRENT + STREAK + 2 + away / case.least
    behave(first, None)
    answers += _returned(stage)
    _seen_as_documented(answers, case)
    _paid_as_billed(stage, answers)


def _returned(stage: Stage) -> list[Got]:
    """Load until all of it is served by the preferred host again."""
    answers: list[Got] = []

    def back() -> bool:
        answers.extend(part := played(stage, CONCURRENT))
        return hosts_of(part) == {"novita"}

    until("its traffic has returned", back)
    return answers


def _seen_as_documented(answers: list[Got], case: Case) -> None:
    for got in answers:
        if got.status == 200 and got.data.endswith(b"data: [DONE]\n\n"):
            continue
        error = events(got.data)[-1]["error"] if got.status == 200 else json.loads(got.data)["error"]
        assert error["code"] in case.seen, got
        assert got.status == 200 or got.headers["x-should-retry"] == "false"
        # Nobody waits for more than one silence.
        assert got.headers["x-faregate-host"] == "novita"
    failed = sum(not got.data.endswith(b"data: [DONE]\n\n") for got in answers)
    assert (failed > 0) == bool(case.seen)


def _paid_as_billed(stage: Stage, answers: list[Got]) -> None:
    """Reported lines equal the bills to the nano; nothing was paid twice; what we counted is no more than what it stands for."""
    bills = {name: host.bill() for name, host in stage.hosts.items()}
    wanted = {got.id for got in answers}
    rows = [row for row in stage.rows("search") if row["id"] in wanted]
    assert len(rows) == min(len(wanted), 1000)
    for row in rows:
        assert sum(one["nano"] for one in row["attempts"]) == row["nano"] == sum((row["parts"] or {}).values())
        paid = [one for one in row["attempts"] if one["billed"] != "none"]
        assert len(paid) <= 1
        for one in paid:
            bill = bills[one["host"]].get(row["id"])
            if one["billed"] == "known":
                assert bill is not None
                assert (one["nano"], row["nano"]) == (bill["nano"], bill["nano"])
        # Whoever answered well was paid what it asks for.
        assert row["status"] != "ok" or [one["billed"] for one in paid] == ["known"]


def test_a_host_that_is_gone_during_load(tmp_path: Path) -> None:
    """Its port is dead; then it is there again."""
    folder = tmp_path / "hosts"
    folder.mkdir()
    clock = f"{QUIET}*{RATE}"
    host = EmulatedHost("novita", folder, clock)
    port = host.root.rpartition(":")[2]
    try:
        with staged(tmp_path, RATE, hosts=("openrouter",), urls={"novita": host.url}) as stage:
            assert hosts_of(played(stage, CONCURRENT)) == {"novita"}
            host.close()
            began = stage.now()
            while (stage.now() - began).total_seconds() < AWAY:
                answers = played(stage, CONCURRENT)
                assert {got.status for got in answers} == {200}
                assert hosts_of(answers) == {"openrouter"}
            tried = [row for row in stage.rows("search") if len(row["attempts"]) == 2]
            assert all(one["attempts"][0] == {**one["attempts"][0], "host": "novita", "billed": "none", "nano": 0} for one in tried)
            assert len(tried) <= CONCURRENT + STREAK + AWAY / 2
            host = EmulatedHost("novita", folder, clock, "--port", port)
            _returned(stage)
    finally:
        host.close()


# ---- one caller keeps no other away


FINE = Script([chunk("ok"), chunk(finish="stop", usage=usage(5, 1)), DONE])


class World(NamedTuple):
    stage: Stage
    host: ScriptedHost
    key: Path

    def asked(self, team: str, model: str = FIRST, stream: bool = True) -> tuple[int, str, str]:
        """One request: its status, the host that answered, and the code of its error."""
        body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "Which is greater? [[answer=12 reasoning=0]]"}]}
        status, headers, data = self.stage.chat(team, body)
        code = "" if status == 200 else json.loads(data)["error"]["code"]
        return status, headers.get("x-faregate-host", ""), code

    def up(self) -> bool:
        return all(not each["why"] for host in self.stage.admin("hosts") if host["host"] == "novita" for each in host["deployments"])


@pytest.fixture(scope="module")
def staged_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    host, folder = ScriptedHost(), tmp_path_factory.mktemp("callers")
    key = folder / "key"
    key.write_text("first-key-123")
    teams, settings = (team_of("mallory"), team_of("victim")), {"NOVITA_API_KEY": f"file:{key}"}
    try:
        with Stage(
            folder / "stage", teams, hosts=("openrouter",), urls={"novita": host.url}, edits=EDITS, settings=settings, clock=QUIET
        ) as stage:
            yield World(stage, host, key)
    finally:
        host.close()


@pytest.fixture
def world(staged_world: World) -> World:
    staged_world.host.forget()
    staged_world.stage.reload()
    return staged_world


def said(message: str) -> bytes:
    return json.dumps({"error": {"message": message}}).encode()


REFUSALS = {
    "a page of a firewall": (Script([b"<html>Blocked</html>"], "text/html", 403), 400, "invalid_request"),
    "more than is left": (Script([said("This request requires more credits, or fewer max_tokens.")], JSON, 402), 400, "invalid_request"),
    "what it cannot do": (Script([said("No endpoints found that support tool use.")], JSON, 404), 400, "invalid_request"),
    "an unknown 403": (Script([said("denied")], JSON, 403), 502, "upstream_error"),
    "an unknown 402": (Script([said("pay")], JSON, 402), 502, "upstream_error"),
    "an unknown 404": (Script([said("nothing here")], JSON, 404), 404, "model_not_found"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_host_refuses_to_one_caller_says_nothing_to_another(world: World, name: str) -> None:
    script, status, code = REFUSALS[name]
    world.host.play(script, script, FINE, FINE)
    # Pinned it reads why; on a route another host takes it.
    assert world.asked("mallory") == (status, "novita", code)
    assert world.asked("mallory", "both") == (200, "openrouter", "")
    assert world.asked("victim") == (200, "novita", "")
    assert world.asked("mallory") == (200, "novita", "")


def test_what_two_teams_are_refused_is_the_host_s(world: World) -> None:
    world.host.play(*[Script([said("denied")], JSON, 403)] * 2)
    for team in ("mallory", "victim"):
        assert world.asked(team)[0] == 502
    assert world.asked("mallory", "both") == (200, "openrouter", "")
    assert world.asked("victim") == (503, "", "no_deployment")
    assert not world.up()


@pytest.mark.parametrize(
    "error",
    [
        {"message": "The response was filtered", "code": "content_filter"},
        {"message": "Input flagged by moderation", "code": 403},
        {"message": "bad tool schema", "code": 400},
    ],
)
@pytest.mark.parametrize("kind", ["text/event-stream", JSON])
def test_what_is_refused_inside_a_200_is_the_request_s_own_fault(world: World, error: dict[str, Any], kind: str) -> None:
    data = json.dumps({"error": error}).encode()
    world.host.play(*[Script([data if kind == JSON else b"data: " + data + b"\n\n"], kind)] * (STREAK + 1))
    # It is wrong everywhere, so nobody else is asked; and however often it comes, the host is well.
    for model in (FIRST, "both"):
        assert world.asked("mallory", model) == (400, "novita", "invalid_request")
    for _ in range(STREAK - 1):
        world.asked("mallory")
    assert world.up()
    world.host.play(FINE)
    assert world.asked("victim", "both") == (200, "novita", "")


def test_a_trial_that_writes_for_long_keeps_nobody_out(world: World) -> None:
    gate = threading.Event()
    world.host.play(*[Script([chunk("half")])] * STREAK)
    for _ in range(STREAK):
        world.asked("mallory")
    assert world.asked("victim")[0] == 503
    world.host.play(gated(gate, usage(5, 100)), FINE)
    count = len(world.host.bodies)
    # It waits for its time, which is two seconds.
    until("the rest is over", lambda: world.up())
    body = {"model": FIRST, "stream": True, "messages": [{"role": "user", "content": "Write a book."}]}
    running = world.stage.aside("mallory", body)
    try:
        world.host.received(count + 1)
        until("it has begun to answer", lambda: world.up())
        assert world.asked("victim") == (200, "novita", "")
        assert not running.done()
    finally:
        gate.set()
    assert running.result()[0] == 200


def test_a_key_that_is_renewed_in_its_file_is_used_at_once(world: World) -> None:
    world.host.play(Script([said("token expired")], JSON, 401), FINE)
    assert world.asked("mallory")[0] == 502
    assert world.asked("victim") == (503, "", "no_deployment")
    world.key.write_text("second-key-4567")
    assert world.asked("victim") == (200, "novita", "")
    assert world.up()
