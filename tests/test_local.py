"""An own engine with two replicas behind a live gateway: affinity, load, a replica that dies and returns, a host for the overflow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.gate import RETURN
from gateway.settings import SettingsError, load
from tests.harness import EmulatedHost
from tests.replicas import Stage, error_of, key_of, nano, team_of
from tests.scripted import until
from tests.servers import free_port

# Twenty times as fast: a replica that rests for two seconds does so for a tenth of one.
CLOCK = "2026-11-20T12:00:00Z*20"
NOVITA = "deepseek/deepseek-r1-0528"
ROUTES = f"""
- route: mine
  contract: deepseek-r1-0528
  deployments: [local/r1-0528]

- route: either
  contract: deepseek-r1-0528
  deployments: [local/r1-0528, novita/{NOVITA}]
  queue: 0

- route: local
"""
LONG = "These are the instructions of an agent, which every request of it repeats word for word. " * 60


class Engines:
    """Two copies of one engine, each on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.ports = [free_port(), free_port()]
        self.folders = [folder / "engine0", folder / "engine1"]
        for place in self.folders:
            place.mkdir()
        self.running: list[EmulatedHost | None] = [self._made(number) for number in (0, 1)]

    def _made(self, number: int) -> EmulatedHost:
        return EmulatedHost("local", self.folders[number], CLOCK, "--port", str(self.ports[number]), "--vocabulary", "fast")

    @property
    def urls(self) -> str:
        return ",".join(f"http://127.0.0.1:{port}/v1" for port in self.ports)

    def kill(self, number: int) -> None:
        """Without a word to anybody."""
        engine, self.running[number] = self.running[number], None
        assert engine is not None
        engine._process.process.kill()
        engine.close()

    def start(self, number: int) -> None:
        self.running[number] = self._made(number)

    def served(self, number: int) -> set[str]:
        """The ids of the requests that this copy answered since it was started."""
        engine = self.running[number]
        return set() if engine is None else set(engine.bill())

    def close(self) -> None:
        for engine in self.running:
            if engine is not None:
                engine.close()


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    made = Engines(tmp_path_factory.mktemp("engines"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def stage(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    edits = [("routes.yaml", "\n- route: local\n", ROUTES)]
    folder = tmp_path_factory.mktemp("stage")
    with Stage(folder, [team_of("search")], hosts=("novita",), urls={"local": engines.urls}, clock=CLOCK, edits=edits) as made:
        yield made


def body(*texts: str, route: str = "mine", wish: str = "answer=4 reasoning=0", system: str = LONG) -> dict[str, Any]:
    """A conversation of which the client sends everything, question and answer by turns."""
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]
    messages[-1]["content"] += f" [[{wish}]]"
    return {"model": route, "messages": [{"role": "system", "content": system}, *messages]}


def place(stage: Stage, engines: Engines, sent: dict[str, Any]) -> tuple[int, str]:
    """The replica that answered, and the answer's text."""
    status, said, data = stage.chat("search", sent)
    assert status == 200, data
    assert said["x-faregate-host"] == "local"
    homes = [number for number in (0, 1) if said["x-request-id"] in engines.served(number)]
    assert len(homes) == 1
    return homes[0], json.loads(data)["choices"][0]["message"]["content"]


class Talk:
    """One conversation."""

    def __init__(self, stage: Stage, engines: Engines, name: str) -> None:
        self.stage, self.engines = stage, engines
        self.system = f"This is {name}. {LONG}"
        self.texts = ["Begin."]
        self.homes: list[int] = []

    def turn(self) -> int:
        home, answer = place(self.stage, self.engines, body(*self.texts, system=self.system))
        self.texts += [answer, "Go on."]
        self.homes.append(home)
        return home


def replica(stage: Stage, what: str, number: int) -> int | None:
    name = f'faregate_replica_{what}{{host="local",replica="{number}"}} '
    return next((int(float(line.removeprefix(name))) for line in stage.one.metrics().splitlines() if line.startswith(name)), None)


def in_use(stage: Stage) -> None:
    """Until both replicas are, and take as many requests as come."""
    until("both are in use", lambda: stage.chat("search", body("Hi"))[0] == 200 and replica(stage, "up", 0) == replica(stage, "up", 1) == 1)
    whole = stage.now() + timedelta(seconds=RETURN)
    until("one that came back takes all", lambda: stage.now() > whole)


def test_conversations_stay_at_their_replica_and_new_ones_spread(stage: Stage, engines: Engines) -> None:
    talks = [Talk(stage, engines, f"Talk {number}") for number in range(6)]
    for talk in talks:
        talk.turn()
    # In an order in which taking turns would send them elsewhere.
    for talk in [*talks[1:], *talks[::-1], *talks[::2], *talks[1::2]]:
        talk.turn()
    assert [set(talk.homes) for talk in talks] == [{talk.homes[0]} for talk in talks]
    assert sorted(talk.homes[0] for talk in talks) == [0, 0, 0, 1, 1, 1]


def test_instructions_that_all_share_are_read_where_they_are_cached_until_that_replica_is_busy(stage: Stage, engines: Engines) -> None:
    shared = f"All of them. {LONG}"
    home, _ = place(stage, engines, body("Question 0", system=shared))
    assert [place(stage, engines, body(f"Question {number}", system=shared))[0] for number in range(1, 4)] == [home] * 3
    at_once = stage.at_once(
        "search", [body(f"At once {number} {LONG[::-1]}", system=shared, wish="answer=100 reasoning=0 pace=5") for number in range(8)]
    )
    ids = {headers["x-request-id"] for _, headers, _ in at_once}
    assert min(len(ids & engines.served(number)) for number in (0, 1)) >= 2, "half of each prompt is new"


def test_a_dead_replica_costs_no_answer_and_is_used_again_when_it_is_back(stage: Stage, engines: Engines) -> None:
    talks = [Talk(stage, engines, f"Another {number}") for number in range(4)]
    for talk in talks:
        talk.turn()
    assert {talk.homes[0] for talk in talks} == {0, 1}
    engines.kill(0)
    assert [talk.turn() for talk in talks] == [1, 1, 1, 1], "its conversations have moved"
    until("the dead replica is left out", lambda: replica(stage, "up", 0) == 0)
    assert replica(stage, "up", 1) == 1
    (local,) = [host for host in stage.admin("hosts") if host["host"] == "local"]
    assert [(one["url"], one["up"], one["requests"]) for one in local["replicas"]] == [
        (url, bool(number), 0) for number, url in enumerate(engines.urls.split(","))
    ]
    assert "it takes no connections" in local["replicas"][0]["why"]
    assert [(one["model"], one["up"], one["why"]) for one in local["deployments"]] == [("r1-0528", True, "")], "the engine is well"
    rows = [row for row in stage.rows("search") if len(row["attempts"]) > 1]
    assert all([each["billed"] for each in row["attempts"]] == ["none", "known"] for row in rows) and rows

    engines.start(0)
    numbers = iter(range(1000))
    until("it is used again", lambda: Talk(stage, engines, f"New {next(numbers)}").turn() == 0)
    in_use(stage)
    assert [talk.turn() for talk in talks] == [1, 1, 1, 1], "where their prefix is now"


def test_a_replica_that_dies_at_work_breaks_its_own_answers_only(stage: Stage, engines: Engines) -> None:
    for engine in engines.running:
        assert engine is not None
        engine.faults(*[{"hang": True}] * 8)
    running = [stage.aside("search", body("Begin.", system=f"Prompt {number}. {LONG}")) for number in range(16)]
    until("all are at work", lambda: [replica(stage, "requests", number) for number in (0, 1)] == [8, 8])
    engines.kill(0)
    until("those of the dead one are over", lambda: sum(future.done() for future in running) == 8)
    # More failed than make a deployment rest, and it goes on: one replica of it is well.
    assert place(stage, engines, body("Another"))[0] == 1
    assert sum(future.done() for future in running) == 8
    engines.kill(1)
    assert [future.result()[0] for future in running] == [502] * 16
    engines.start(0)
    engines.start(1)
    in_use(stage)


def test_when_all_replicas_are_busy_a_host_takes_the_overflow(stage: Stage, engines: Engines) -> None:
    stage.quiet()
    for engine in engines.running:
        assert engine is not None
        engine.faults({"delay": 3.0})
    running = [stage.aside("search", body("Begin.", system=f"Slow {number}. {LONG}", route="either")) for number in (0, 1)]
    until("each replica has one", lambda: [replica(stage, "requests", number) for number in (0, 1)] == [1, 1])
    status, headers, data = stage.chat("search", body("Quick", route="either"))
    assert (status, headers["x-faregate-host"]) == (200, "novita"), data
    # A route without a queue waits for its engine.
    assert place(stage, engines, body("Patient"))[0] in (0, 1)
    assert [future.result()[1]["x-faregate-host"] for future in running] == ["local", "local"]
    status, headers, _ = stage.chat("search", body("Later", route="either"))
    assert headers["x-faregate-host"] == "local"


def test_when_all_replicas_are_dead_a_host_serves_and_without_one_the_client_is_told(stage: Stage, engines: Engines) -> None:
    engines.kill(0)
    engines.kill(1)
    assert stage.chat("search", body("Hi", route="either"))[1]["x-faregate-host"] == "novita"
    answer = stage.chat("search", body("Hi"))
    assert answer[0] in (502, 503) and error_of(answer)["code"] in ("upstream_error", "no_deployment")
    until("the engine is down", lambda: 'faregate_host_up{host="local",model="r1-0528"} 0.0' in stage.one.metrics())
    (local,) = (host for host in stage.admin("hosts") if host["host"] == "local")
    (deployment,) = local["deployments"]
    assert not deployment["up"] and "all of its replicas are" in deployment["why"]
    said = "local/r1-0528 is left alone (all of its replicas are"
    until("it is said", lambda: said in stage.one.log)
    for _ in range(5):
        stage.chat("search", body("Hi"))
    assert stage.one.log.count(said) == 1
    engines.start(0)
    engines.start(1)
    assert stage.chat("search", body("Hi"))[0] == 200, "who has nowhere else to go need not wait for the rest to be over"
    in_use(stage)
    until("it is said", lambda: "info    local/r1-0528 is in use again" in stage.one.log)
    assert 'faregate_host_up{host="local",model="r1-0528"} 1.0' in stage.one.metrics()


def test_only_an_own_engine_may_have_several_addresses(tmp_path: Path) -> None:
    two = "http://127.0.0.1:1/v1,http://127.0.0.1:2/v1"
    own = {"FAREGATE_DATA": str(tmp_path), "FAREGATE_KEYS": f"search:{key_of('search')}"}
    Gateway(load({**own, "FAREGATE_BASE_URL_LOCAL": two}, None))
    with pytest.raises(SettingsError, match="FAREGATE_BASE_URL_NOVITA has 2 URLs, and novita is no engine of your own"):
        Gateway(load({**own, "FAREGATE_BASE_URL_NOVITA": two}, None))


def test_predictions_and_what_came_stand_side_by_side(stage: Stage, engines: Engines) -> None:
    talk = Talk(stage, engines, "the calibrated one")
    for _ in range(3):
        talk.turn()
    days = stage.admin("calibration?from=2026-11-20&to=2026-11-23")
    (day,) = [row for row in days if row["host"] == "local"]
    charged = [row for row in stage.rows("search") if row["host"] == "local" and row["usage"] is not None]
    assert (day["model"], day["currency"], day["requests"]) == ("r1-0528", "USD", len(charged))
    assert day["actual_hit_tokens"] == sum(row["usage"]["cache_hit"] for row in charged) > 0
    assert day["predicted_hit_tokens"] > 0
    assert nano(day["actual"]) == sum(row["nano"] for row in charged)
    assert nano(day["predicted"]) == sum(row["quote"]["expected"] for row in charged)
    metrics = stage.one.metrics()
    for name in ("predicted", "actual"):
        assert f'faregate_{name}_hit_tokens_total{{host="local",model="r1-0528"}} {day[f"{name}_hit_tokens"]}.0\n' in metrics
