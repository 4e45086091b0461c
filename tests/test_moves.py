"""One conversation, moved from version to version and from host to host in every order, against the strict emulators.

What is promised: no 400, no word of an answer lost, and every host that demands earlier reasoning gets what was relayed, verbatim,
whether the client sends it or has lost it. What was never relayed here switches thinking off for that request, and the edit says so.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis import Redis

from gateway.clock import parse_instant
from gateway.policies import default_folder
from gateway.router import Terms, plan
from tests.asking import ask as made
from tests.asking import policies
from tests.harness import KEY, LiveGateway, events, texts
from tests.servers import RedisServer

Message = dict[str, Any]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}]
OTHER_KEY = "other-key-0123456789"


class Station(NamedTuple):
    """A version at a host: which gateway serves it, under which name; whether it takes tools."""

    gateway: str
    host: str
    model: str
    tools: bool = True


CLOCKS = {"2025": "2025-02-03T12:00:00Z", "2026": "2026-01-14T12:00:00Z", "now": "2026-11-20T12:00:00Z"}
STATIONS = {
    "R1": Station("2025", "deepseek", "deepseek-reasoner", tools=False),
    "V3.2": Station("2026", "deepseek", "deepseek-reasoner"),
    "V4": Station("now", "deepseek", "deepseek/deepseek-v4-pro"),
    "third": Station("now", "openrouter", "openrouter/deepseek/deepseek-v4.1-flash"),
}
# It reads and writes reasoning under another name than the one above, and switches thinking in another way.
ANOTHER = Station("now", "novita", "novita/deepseek/deepseek-v4.1-flash")
ORDERS = list(permutations(STATIONS))


class World:
    """Gateways of three eras that share one memory."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.gateways: dict[str, LiveGateway] = {}
        try:
            for era, clock in CLOCKS.items():
                place = folder / era
                place.mkdir()
                own = {
                    "FAREGATE_DATA": str(self.data),
                    "FAREGATE_LEDGER": f"sqlite:///{place}/ledger.db",
                    "FAREGATE_KEYS": f"search:{KEY},support:{OTHER_KEY}",
                }
                hosts = ("deepseek", "openrouter", "novita") if era == "now" else ("deepseek",)
                self.gateways[era] = LiveGateway(place, hosts, clock, own)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for gateway in self.gateways.values():
            gateway.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    found = World(tmp_path_factory.mktemp("moves"))
    yield found
    found.close()


class Asked(NamedTuple):
    """One request as it went: what the host received, which edits were told, and what came back."""

    sent: list[Message]
    edits: str
    answer: Message


def ask(gateway: LiveGateway, host: str, body: dict[str, Any], key: str = KEY) -> Asked:
    """One request that must succeed, and the assistant's message as a careful client puts it together."""
    status, headers, data = gateway.chat(body, key)
    assert status == 200, (body, data)
    received = gateway.hosts[host].requests()[-1]
    assert received["headers"]["x-request-id"] == headers["x-request-id"]
    edits = headers.get("x-faregate-edits", "")
    return Asked(received["body"]["messages"], edits, streamed(data) if body.get("stream") else whole(data))


def caught_up(gateway: LiveGateway) -> None:
    """Until the gateway has stored what it relayed: whoever looks for something there waits for that, others need not."""
    looking = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}, {"role": "user", "content": "?"}]
    status, _, data = gateway.chat({"model": "no such model", "messages": looking, "tools": TOOLS})
    assert status == 404, data


def whole(data: bytes) -> Message:
    message: Message = json.loads(data)["choices"][0]["message"]
    calls = [{key: value for key, value in call.items() if key != "index"} for call in message.get("tool_calls") or ()]
    return assistant(message["content"], message.get("reasoning_content"), calls)


def streamed(data: bytes) -> Message:
    reasoning, content = texts(data)
    calls: dict[int, Message] = {}
    for event in events(data):
        for part in (event["choices"][0]["delta"].get("tool_calls") or ()) if event["choices"] else ():
            call = calls.setdefault(part["index"], {"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
            call["id"] += part.get("id") or ""
            for key in ("name", "arguments"):
                call["function"][key] += part["function"].get(key) or ""
    return assistant(content, reasoning, [calls[index] for index in sorted(calls)])


def assistant(content: str | None, reasoning: str | None, calls: list[Message]) -> Message:
    assert content or calls, "an answer says something"
    more = {"tool_calls": calls} if calls else {}
    return {"role": "assistant", "content": content, **({"reasoning_content": reasoning} if reasoning else {}), **more}


def lost(message: Message) -> Message:
    """As most clients send it back."""
    return {key: value for key, value in message.items() if key != "reasoning_content"}


class Talk:
    """One conversation, by a client that keeps reasoning or loses it; checks every request at the host."""

    def __init__(self, world: World, name: str, keeps: bool, parity: int) -> None:
        self._world, self._name, self._keeps = world, name, keeps
        self._turn = parity
        self._last: str | None = None
        self.messages: list[Message] = []
        self._told: list[Message] = []

    def ask(self, station: Station, tools: bool, wish: str = "") -> None:
        self.messages.append({"role": "user", "content": f"{self._name}, question {len(self.messages)}? [[answer=5 reasoning=7 {wish}]]"})
        self._send(station, tools)

    def result(self, station: Station) -> None:
        """The results of the calls that the last answer made, if it made any."""
        calls = self._told[-1].get("tool_calls") or () if self._told else ()
        if not calls or self.messages[-1]["role"] != "assistant":
            return
        self.messages += [{"role": "tool", "tool_call_id": call["id"], "content": f"{self._name}: sunny"} for call in calls]
        self._send(station, tools=True)

    def _send(self, station: Station, tools: bool) -> None:
        if self._last not in (None, station.gateway):
            caught_up(self._world.gateways[self._last])
        self._last = station.gateway
        self._turn += 1
        body: dict[str, Any] = {"model": station.model, "messages": self.messages, "stream": bool(self._turn % 2)}
        if tools and station.tools:
            body["tools"] = TOOLS
        asked = ask(self._world.gateways[station.gateway], station.host, body)
        self._check(station, asked, tools or any(message["role"] == "tool" for message in self.messages))
        assert asked.answer.get("reasoning_content"), "thinking is on wherever reasoning could be sent back"
        self._told.append(asked.answer)
        self.messages.append(asked.answer if self._keeps else lost(asked.answer))

    def _check(self, station: Station, asked: Asked, tools: bool) -> None:
        assert [one["role"] for one in asked.sent] == [one["role"] for one in self.messages]
        assert [one.get("content") or "" for one in asked.sent] == [one.get("content") or "" for one in self.messages], "no word is lost"
        assert [one.get("tool_calls") for one in asked.sent] == [one.get("tool_calls") for one in self.messages]
        told = iter(self._told)
        last = max(at for at, one in enumerate(asked.sent) if one["role"] == "user")
        demanded = 0
        for at, one in enumerate(asked.sent):
            if one["role"] != "assistant":
                continue
            said = next(told)["reasoning_content"]
            found = one.get("reasoning_content", one.get("reasoning"))
            rule = station.model if station.gateway == "now" else station.gateway
            if rule == "2025":
                assert found is None, "R1 refuses it"
            elif rule == "2026":
                needed = at > last and "tool_calls" in one
                assert found == said if needed else found in (None, said)
                demanded += needed
            elif tools:
                assert found == said
                demanded += 1
        assert "disable_thinking" not in asked.edits
        assert (f"restore_reasoning={demanded}" in asked.edits) == bool(demanded and not self._keeps), (asked.edits, demanded)


@pytest.mark.parametrize("keeps", [True, False], ids=["a client that keeps reasoning", "a client that loses it"])
@pytest.mark.parametrize("kind", ["plain", "tools", "results elsewhere"])
def test_a_conversation_moves_in_every_order_and_back(world: World, kind: str, keeps: bool) -> None:
    for number, order in enumerate(ORDERS):
        talk = Talk(world, f"{kind} {keeps} {number}", keeps, number % 2)
        stations = {**STATIONS, "third": ANOTHER} if number % 3 == 0 else STATIONS
        path = [stations[name] for name in (*order, order[0])]
        for at, station in enumerate(path):
            if kind == "plain":
                talk.ask(station, tools=False)
                continue
            if kind == "results elsewhere":
                talk.result(station)
            talk.ask(station, tools=True, wish="tool=get_weather")
            if kind == "tools" or at == len(path) - 1:
                talk.result(station)
    assert "Traceback" not in "".join(gateway.log for gateway in world.gateways.values())


def test_plain_turns_of_any_version_are_remembered_when_tools_come(world: World) -> None:
    """R1 knows no tools; the first request with tools elsewhere demands the reasoning of every turn before it."""
    talk = Talk(world, "tools at last", keeps=False, parity=0)
    for name in ("R1", "V3.2", "V4", "third"):
        talk.ask(STATIONS[name], tools=False)
    talk.ask(STATIONS["V4"], tools=True, wish="tool=get_weather")
    talk.result(STATIONS["third"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["V4", "third"])
def test_what_was_never_relayed_here_switches_thinking_off(world: World, name: str, stream: bool) -> None:
    station = STATIONS[name]
    messages = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "An answer from elsewhere."},
        {"role": "user", "content": "And now?"},
    ]
    body = {"model": station.model, "messages": messages, "tools": TOOLS, "stream": stream}
    asked = ask(world.gateways[station.gateway], station.host, body)
    assert "disable_thinking" in asked.edits and "restore_reasoning" not in asked.edits
    assert "reasoning_content" not in asked.answer
    assert [one["content"] for one in asked.sent] == [one["content"] for one in messages]


def test_a_name_that_always_thinks_has_a_sibling_that_need_not(world: World) -> None:
    """deepseek-reasoner of V3.2 cannot be switched; deepseek-chat is the same version."""
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    messages: list[Message] = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "From elsewhere.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    for number, stream in enumerate((False, True)):
        body = {"model": "deepseek-reasoner", "messages": messages, "tools": TOOLS, "stream": stream}
        asked = ask(world.gateways["2026"], "deepseek", body)
        assert asked.edits.startswith("substitute_model=deepseek-reasoner->deepseek-chat, disable_thinking"), number
        assert "reasoning_content" not in asked.answer
        assert asked.sent == messages


def test_the_alias_of_v4_has_a_sibling_too() -> None:
    messages = [{"role": "assistant", "content": "a"}, {"role": "user", "content": "q"}]
    body = {"model": "deepseek-reasoner", "messages": messages, "tools": TOOLS}
    route = policies().route("deepseek-reasoner")
    assert route is not None
    found = plan(made(body), route, Terms(policies(), parse_instant("2026-06-03T12:00:00Z"), {"deepseek": "USD"}, 3600)).chosen
    assert found.deployment.name == "deepseek/deepseek-v4-flash" and not found.sanitised.thinking
    assert "disable_thinking" in map(str, found.sanitised.edits)


def begun(gateway: LiveGateway, name: str, key: str = KEY) -> tuple[list[Message], str]:
    """A conversation whose client has lost the reasoning of a call, ready to go on; and that reasoning."""
    asked: Message = {"role": "user", "content": f"{name}? [[answer=5 reasoning=9 tool=get_weather]]"}
    answer = ask(gateway, "deepseek", {"model": "deepseek/deepseek-v4-pro", "messages": [asked], "tools": TOOLS}, key).answer
    id = answer["tool_calls"][0]["id"]
    return [asked, lost(answer), {"role": "tool", "tool_call_id": id, "content": "sunny"}], answer["reasoning_content"]


def go_on(gateway: LiveGateway, messages: Sequence[Message], key: str = KEY) -> tuple[str, str | None]:
    """The edits of the next request, and the reasoning that the host received."""
    asked = ask(gateway, "deepseek", {"model": "deepseek/deepseek-v4-pro", "messages": list(messages), "tools": TOOLS}, key)
    made = [edit for edit in asked.edits.split(", ") if edit != "normalise_stream"]
    return ", ".join(made), asked.sent[1].get("reasoning_content")


def test_no_team_gets_another_team_s_reasoning(world: World) -> None:
    gateway = world.gateways["now"]
    messages, reasoning = begun(gateway, "team")
    assert go_on(gateway, messages, OTHER_KEY) == ("disable_thinking", None)
    assert go_on(gateway, messages) == ("restore_reasoning=1", reasoning)


def test_no_conversation_gets_another_one_s(world: World) -> None:
    """The same call, with the same id, after another question."""
    gateway = world.gateways["now"]
    messages, reasoning = begun(gateway, "first")
    other = [{"role": "user", "content": "Something else?"}, *messages[1:]]
    other[1] = {**messages[1], "tool_calls": [{**messages[1]["tool_calls"][0], "id": "call_0"}]}
    assert go_on(gateway, other) == ("disable_thinking", None)
    assert go_on(gateway, messages) == ("restore_reasoning=1", reasoning)


def test_nothing_of_it_can_be_read_on_the_disk(world: World) -> None:
    _, reasoning = begun(world.gateways["now"], "a very particular question")
    begun(world.gateways["now"], "another, so that the first one is certainly written")
    files = [path for path in world.data.rglob("*") if path.is_file()]
    assert {"recall.db", "recall-key"} <= {path.name for path in files}
    written = b"".join(path.read_bytes() for path in files)
    for words in (reasoning, reasoning[:12], "a very particular question", "get_weather"):
        assert words.encode() not in written


def test_a_restart_remembers_another_key_forgets_and_a_team_may_do_without(tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    shutil.copytree(default_folder(), policies)
    (policies / "teams").mkdir(exist_ok=True)

    def start(**settings: str) -> LiveGateway:
        return LiveGateway(tmp_path, clock=CLOCKS["now"], settings={"FAREGATE_POLICIES": str(policies), **settings})

    with start() as gateway:
        messages, reasoning = begun(gateway, "restart")
    with start() as gateway:
        assert go_on(gateway, messages) == ("restore_reasoning=1", reasoning)
    with start(FAREGATE_STORE_KEY="another-key-of-the-operator") as gateway:
        assert go_on(gateway, messages) == ("disable_thinking", None)
        assert "Traceback" not in gateway.log
    (policies / "teams" / "search.yaml").write_text('{team: search, routes: ["*"], recall: false}')
    with start() as gateway:
        assert go_on(gateway, messages) == ("disable_thinking", None)
        unkept, _ = begun(gateway, "not kept")
    (policies / "teams" / "search.yaml").write_text('{team: search, routes: ["*"], isolate: true}')
    with start() as gateway:
        assert go_on(gateway, unkept) == ("disable_thinking", None)
        assert go_on(gateway, messages) == ("restore_reasoning=1", reasoning)
        names = {request["body"]["user_id"] for request in gateway.hosts["deepseek"].requests()}
        assert len(names) == 1
        (name,) = names
        assert name.isalnum() and 16 <= len(name) <= 64 and "search" not in name


def test_replicas_share_what_they_relayed_through_redis(tmp_path: Path, redis_server: RedisServer) -> None:
    """Redis holds nothing readable; without it what was relayed is forgotten, and nothing else happens."""

    def start(name: str, **settings: str) -> LiveGateway:
        place = tmp_path / name
        place.mkdir()
        return LiveGateway(place, clock=CLOCKS["now"], settings={"FAREGATE_REDIS": redis_server.url, **settings})

    key = {"FAREGATE_STORE_KEY": "the-key-of-all-replicas"}
    with start("first", **key) as first, start("second", **key) as second, start("stranger") as stranger:
        messages, reasoning = begun(first, "replicas")
        caught_up(first)
        assert go_on(second, messages) == ("restore_reasoning=1", reasoning)
        assert go_on(stranger, messages) == ("disable_thinking", None)
        assert "FAREGATE_STORE_KEY is not set" in stranger.log and "FAREGATE_STORE_KEY" not in first.log
        held = whole_of(redis_server.url)
        assert len(held) > 200
        for words in (reasoning, "replicas", "get_weather", "search:"):
            assert words.encode() not in held
        begun(first, "once more, so that nothing waits")
        redis_server.stop()
        for turn in range(4):
            other, _ = begun(first, f"without redis {turn}")
            caught_up(first)
            assert go_on(second, other) == ("disable_thinking", None)
        assert "Traceback" not in first.log + second.log


def whole_of(url: str) -> bytes:
    """Every name and value of the memory in this Redis."""
    with Redis.from_url(url) as client:
        names: Any = client.hgetall("faregate:{recall}:values")
        return b"\n".join([*names, *names.values()])
