"""Requests before and after, per contract and host: tests/requests/*.json, against the shipped policies.

A row: `at`, `target` (HOST/MODEL), `route` (default: the target itself), `before`, and `after` with what else it means, or
`refused` with `param`. `by_beta`: it came by /beta. `thinking` fixes the switch as a route does; `counts` and `inline` change the
host's row for the case.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from gateway.clock import parse_instant
from gateway.contracts import Contract
from gateway.edits import header
from gateway.emulator.clocks import parse_clock
from gateway.emulator.command import EmulatorThread
from gateway.emulator.server import Setup
from gateway.errors import InvalidRequest
from gateway.hosts import Deployment
from gateway.policies import default_folder
from gateway.sanitise import Sanitised, sanitise
from tests.asking import NOW, ask, deployment, policies

Row = dict[str, Any]
FOLDER = Path(__file__).parent / "requests"
ROWS: list[Row] = [
    {"file": file.stem, **row} for file in sorted(FOLDER.glob("*.json")) for row in json.loads(file.read_text(encoding="utf-8"))
]


def target_of(row: Row) -> Deployment:
    target = replace(deployment(row["target"], row["at"]), thinking=row.get("thinking"))
    if "counts" in row:
        target = replace(target, model=target.model.model_copy(update={"counts": row["counts"]}))
    if "inline" in row:
        writes = target.host.writes.model_copy(update={"reasoning": "inline"})
        target = replace(target, host=target.host.model_copy(update={"writes": writes}))
    return target


def sent(row: Row) -> Sanitised:
    route = policies().route(str(row.get("route", row["target"])))
    assert route is not None
    client = policies().contracts[route.contract_at(parse_instant(row["at"]))]
    route = replace(route, out_of_range=row.get("out_of_range", route.out_of_range))
    return sanitise(ask(row["before"], row.get("by_beta", False)), route, client, target_of(row))


@pytest.mark.parametrize("row", [row for row in ROWS if "after" in row], ids=lambda row: f"{row['file']}: {row['says']}")
def test_a_request_is_sent_so(row: Row) -> None:
    found = sent(row)
    stop = f"{found.stop.counts} {found.stop.tokens}" if found.stop else None

    assert found.body == row["after"]
    assert (header(found.edits), stop, found.thinking, found.max_output) == (
        row["edits"],
        row.get("stop"),
        row["thinks"],
        row["max_output"],
    )
    assert (found.squeezed, found.beta, found.fits) == (row.get("squeezed", False), row.get("beta", False), row.get("fits", True))


@pytest.mark.parametrize("row", [row for row in ROWS if "refused" in row], ids=lambda row: f"{row['file']}: {row['says']}")
def test_a_request_is_refused_so(row: Row) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        sent(row)
    assert (refusal.value.message, refusal.value.param) == (row["refused"], row["param"])


@pytest.mark.parametrize(
    "row", [row for row in ROWS if "after" in row and not row["edits"]], ids=lambda row: f"{row['file']}: {row['says']}"
)
def test_a_request_without_edits_is_forwarded_with_the_same_values(row: Row) -> None:
    found = sent(row)
    ours = {"model", "stream", "stream_options"} if found.stop or row["before"].get("stream") else {"model"}
    assert {k: v for k, v in found.body.items() if k not in ours} == {k: v for k, v in row["before"].items() if k not in ours}


@pytest.mark.parametrize("row", [row for row in ROWS if "after" in row], ids=lambda row: f"{row['file']}: {row['says']}")
def test_what_was_made_valid_stays_as_it_is(row: Row) -> None:
    """Sent once more under the target's own contract, nothing is left to change but a limit that was raised for the client's meaning."""
    again = {**row, "route": row["target"], "before": {**row["after"], "model": row["target"]}}
    left = [str(edit) for edit in sent(again).edits]
    assert [edit for edit in left if not edit.startswith(("max_tokens=", "rename_reasoning"))] == []


def accepted(url: str, body: Row) -> bool:
    """Whether a host takes this body: any answer but 200 and 400 is an error of the test."""
    headers = {"content-type": "application/json", "authorization": "Bearer sk-test"}
    try:
        with urlopen(Request(url, json.dumps(body).encode(), headers), timeout=20) as answer:
            return bool(answer.status == 200)
    except HTTPError as refusal:
        with refusal:
            assert refusal.code == 400, refusal.read()
        return False


# The emulator plays the row as it is shipped.
PLAYED = [row for row in ROWS if "counts" not in row]
STAGES = sorted({(row["target"].partition("/")[0], row["at"]) for row in PLAYED})


@pytest.mark.parametrize(("host", "at"), STAGES)
def test_the_strict_host_takes_what_is_sent_and_refuses_what_is_refused(host: str, at: str) -> None:
    setup = Setup(host=host, policies=default_folder(), clock=parse_clock(at), vocabulary="fast")
    rows = [row for row in PLAYED if (row["target"].partition("/")[0], row["at"]) == (host, at)]
    wrong = []
    with EmulatorThread(setup) as emulator:
        for row in rows:
            url = f"{emulator.base_url}{'/beta' if row.get('beta') else ''}/chat/completions"
            body = row.get("after") or {**row["before"], "model": row["target"].partition("/")[2]}
            # A contradiction is our own refusal: hosts take either word for it.
            if accepted(url, body) != ("after" in row) and "contradict" not in row.get("refused", ""):
                wrong.append(row["says"])
    assert wrong == []


TARGETS = [
    ("deepseek/deepseek-reasoner", "2025-02-01T00:00:00Z"),
    ("deepseek/deepseek-reasoner", "2025-06-01T00:00:00Z"),
    ("deepseek/deepseek-reasoner", "2026-01-15T00:00:00Z"),
    ("deepseek/deepseek-chat", "2026-01-15T00:00:00Z"),
    ("deepseek/deepseek-flash", NOW),
    ("openrouter/deepseek/deepseek-v4-pro-0813", NOW),
    ("novita/deepseek/deepseek-r1-0528", NOW),
    ("local/r1", NOW),
    ("local-ollama/r1-0528", NOW),
]
VALUES: dict[str, list[Any]] = {
    "max_tokens": [1, 4000, 99_999, None],
    "max_completion_tokens": [50, 20_000],
    "temperature": [0, 1.5],
    "logprobs": [True, False],
    "tools": [[], [{"type": "function", "function": {"name": "f", "parameters": {}}}]],
    "tool_choice": ["auto", "required"],
    "thinking": [{"type": "enabled"}, {"type": "disabled"}],
    "reasoning_effort": ["none", "medium", "max"],
    "enable_thinking": [True, False],
    "response_format": [{"type": "json_object"}, {"type": "json_schema"}],
    "stream": [True, False],
    "seed": [1],
}
TURNS: list[list[Row]] = [
    [{"role": "user", "content": "a"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning_content": "r"}, {"role": "user", "content": "c"}],
    [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "reasoning": "r"}, {"role": "user", "content": "c"}],
]
BODY = st.fixed_dictionaries(
    {"messages": st.sampled_from(TURNS)}, optional={field: st.sampled_from(values) for field, values in VALUES.items()}
)


@given(
    BODY,
    st.sampled_from(TARGETS),
    st.sampled_from(sorted({"deepseek-r1", "deepseek-r1-0528", "deepseek-v3.2-chat", "deepseek-v4.1-flash"})),
)
@settings(max_examples=400, deadline=None)
def test_every_request_is_refused_or_made_valid_and_never_changed(body: Row, where: tuple[str, str], name: str) -> None:
    request, target, client = ask(body), deployment(*where), policies().contracts[name]
    before = copy.deepcopy(request.body)
    try:
        found = sanitise(request, PLAIN, client, target)
    except InvalidRequest as refusal:
        assert refusal.param is not None
        return
    finally:
        assert request.body == before

    assert_valid(found, target)
    assert (found.stop is None and not request.stream) or found.body["stream"] is True
    assert (client.contract != target.contract.contract) == any(edit.name == "substitute_model" for edit in found.edits)


PLAIN = policies().route("deepseek-flash") or pytest.fail("no route")


def assert_valid(found: Sanitised, target: Deployment) -> None:
    """What the strict hosts check."""
    rules: Contract = target.contract
    body = found.body
    known = {*rules.fields.passed, *rules.fields.ignored, "enable_thinking", "reasoning", "reasoning_effort"}
    assert target.host.open_fields or set(body) <= known
    assert not set(rules.fields.refused) & set(body)
    assert body.get(target.host.reads.max_tokens) is None or 1 <= body["max_tokens"] <= max(393_216, rules.max_tokens.max)
    for message in body["messages"]:
        assert message.get("content") is not None or message.get("tool_calls")
        assert rules.reasoning.send_back != "never" or not {"reasoning_content", "reasoning", "reasoning_details"} & set(message)
    roles = [message["role"] for message in body["messages"]]
    assert not rules.messages.merge_successive or all(a != b for a, b in pairwise(roles))


def test_strict_tools_by_beta_need_a_host_with_beta() -> None:
    tools = [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {}}}]
    client = policies().contracts["deepseek-v4-pro"]
    assert sanitise(ask({"tools": tools}, beta=True), PLAIN, client, deployment("deepseek/deepseek-v4-pro")).beta
    with pytest.raises(InvalidRequest, match="/beta"):
        sanitise(ask({"tools": tools}, beta=True), PLAIN, client, deployment("novita/deepseek/deepseek-v4-pro-0813"))
    # A plain request that came by /beta is served anywhere.
    assert not sanitise(ask({"max_tokens": 5}, beta=True), PLAIN, client, deployment("novita/deepseek/deepseek-v4-pro-0813")).beta


def test_ignored_reasoning_is_not_part_of_the_prompt() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning_content": "because " * 500}]
    flash = deployment("deepseek/deepseek-flash")
    plain, tools = ({"messages": turns}, {"messages": turns, "tools": [{"type": "function"}]})

    assert sanitise(ask(plain), PLAIN, flash.contract, flash).prompt_tokens < 50
    assert sanitise(ask(tools), PLAIN, flash.contract, flash).prompt_tokens > 500


def test_a_long_prompt_is_not_copied() -> None:
    messages = [
        {"role": "user", "content": "x" * 1000},
        {"role": "assistant", "content": "y", "reasoning_content": "r"},
        {"role": "user", "content": "z"},
    ]
    request = ask({"messages": messages})
    found = sanitise(request, PLAIN, policies().contracts["deepseek-r1"], deployment("deepseek/deepseek-reasoner", "2025-02-01T00:00:00Z"))
    assert found.body["messages"][0] is messages[0]
    assert found.body["messages"][1] is not messages[1]


def test_a_substitution_names_the_versions_where_both_have_one_name() -> None:
    target = deployment("deepseek/deepseek-flash")
    found = sanitise(ask({}), PLAIN, policies().contracts["deepseek-v3.2"], target)
    assert str(found.edits[0]) == f"substitute_model=deepseek-v3.2->{target.contract.contract}"


# ---- what was done before any deployment was looked at

TOOL = {"type": "function", "function": {"name": "f"}}
QUESTION = {"role": "user", "content": "Hi"}
SAID = {"role": "assistant", "content": "a"}
ASKED = [QUESTION, SAID, QUESTION, SAID, QUESTION]


def made(name: str, recalled: Mapping[int, str], at: str = NOW, tools: bool = True, **more: Any) -> Sanitised:
    """The request of two earlier answers, at the deployment of this name."""
    body = {"model": name, "messages": ASKED, **({"tools": [TOOL]} if tools else {}), **more.pop("body", {})}
    request = structs.replace(ask(body), recalled=recalled, **more)
    before = copy.deepcopy(request)
    target, route = deployment(name, at), policies().route(name)
    assert route is not None
    found = sanitise(request, route, target.contract, target)
    assert request == before
    return found


RECALLED: list[tuple[str, str, bool, dict[int, str], str, list[str | None]]] = [
    # deployment, instant, tools, what is remembered, edits, reasoning that is sent with the two answers
    ("deepseek/deepseek-v4-pro", NOW, True, {1: "r", 3: "s"}, "restore_reasoning=2", ["r", "s"]),
    ("deepseek/deepseek-v4-pro", NOW, True, {1: "r"}, "disable_thinking", [None, None]),
    ("deepseek/deepseek-v4-pro", NOW, True, {}, "disable_thinking", [None, None]),
    ("deepseek/deepseek-v4-pro", NOW, False, {1: "r", 3: "s"}, "", [None, None]),
    ("openrouter/deepseek/deepseek-v4.1-flash", NOW, True, {1: "r", 3: "s"}, "restore_reasoning=2", ["r", "s"]),
    ("deepseek/deepseek-reasoner", "2025-06-03T00:00:00Z", True, {1: "r", 3: "s"}, "", [None, None]),
    ("deepseek/deepseek-reasoner", "2025-02-03T00:00:00Z", False, {1: "r", 3: "s"}, "", [None, None]),
    ("deepseek/deepseek-reasoner", "2026-01-14T00:00:00Z", True, {1: "r", 3: "s"}, "", [None, None]),
    ("deepseek/deepseek-chat", "2026-01-14T00:00:00Z", True, {1: "r", 3: "s"}, "", [None, None]),
]


@pytest.mark.parametrize(("name", "at", "tools", "recalled", "edits", "sent"), RECALLED)
def test_what_is_remembered_is_sent_where_it_is_demanded(
    name: str, at: str, tools: bool, recalled: dict[int, str], edits: str, sent: list[str | None]
) -> None:
    found = made(name, recalled, at, tools)
    assert header(found.edits) == edits
    assert [message.get("reasoning_content") for message in found.body["messages"] if message["role"] == "assistant"] == sent
    assert found.thinking == (edits != "disable_thinking" and not name.endswith("chat"))


def test_restored_reasoning_counts_for_the_prompt() -> None:
    bare = made("deepseek/deepseek-v4-pro", {}, tools=True)
    assert made("deepseek/deepseek-v4-pro", {1: "r " * 1000, 3: "s"}).prompt_tokens > bare.prompt_tokens + 500


def test_nothing_is_restored_where_the_client_wants_no_thinking() -> None:
    found = made("deepseek/deepseek-v4-pro", {1: "r", 3: "s"}, body={"thinking": {"type": "disabled"}})
    assert (header(found.edits), found.body["messages"]) == ("", ASKED)


def test_edits_that_were_made_before_come_first() -> None:
    found = made("deepseek/deepseek-v4-pro", {1: "r", 3: "s"}, edits=("move_volatile=1", "sort_tools"))
    assert header(found.edits) == "move_volatile=1, sort_tools, restore_reasoning=2"
    assert [(edit.name, edit.value) for edit in found.edits[:2]] == [("move_volatile", "1"), ("sort_tools", None)]


def test_a_team_apart_is_named_by_a_pseudonym_where_the_host_reads_one() -> None:
    assert made("deepseek/deepseek-v4-pro", {1: "r", 3: "s"}, user="9f86d081").body["user_id"] == "9f86d081"
    assert "user_id" not in made("deepseek/deepseek-v4-pro", {1: "r", 3: "s"}).body
    elsewhere = made("novita/deepseek/deepseek-v4.1-flash", {1: "r", 3: "s"}, user="9f86d081").body
    assert not {"user", "user_id"} & elsewhere.keys()


def test_the_pseudonym_takes_the_place_of_a_name_that_the_caller_gave() -> None:
    target = deployment("deepseek/deepseek-v4-pro")
    reads = target.host.reads.model_copy(update={"user": "user"})
    fields = target.host.fields.model_copy(update={"passed": ("user",)})
    target = replace(target, host=target.host.model_copy(update={"reads": reads, "fields": fields}))
    route = policies().route("deepseek/deepseek-v4-pro")
    assert route is not None
    request = structs.replace(ask({"user": "alice@example.com"}), user="9f86d081")
    found = sanitise(request, route, target.contract, target)
    assert (found.body["user"], header(found.edits)) == ("9f86d081", "rename_user")


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "max_tokens": st.sampled_from([1, 400, 4_000, 60_000, 63_000, 64_000, 400_000]),
        "max_completion_tokens": st.sampled_from([1, 5_000, 64_000]),
        "temperature": st.sampled_from([0, 0.5, 1, 1.0]),
        "stream": st.booleans(),
        "stream_options": st.sampled_from([None, {"include_usage": False}]),
        "thinking": st.sampled_from([{"type": "enabled"}, {"type": "disabled"}]),
        "reasoning_effort": st.sampled_from(["low", "max", "none"]),
        "logprobs": st.just(True),
        "unheard_of": st.sampled_from([1, "x" * 2_000]),
        "tools": st.just([{"type": "function", "function": {"name": "f", "parameters": {}}}]),
    },
)
CONVERSATIONS = st.sampled_from(
    [
        [{"role": "user", "content": "How far is it?"}],
        [{"role": "user", "content": "Where?"}, {"role": "user", "content": "And when?"}],
        [
            {"role": "user", "content": "Say."},
            {"role": "assistant", "content": "So.", "reasoning_content": "Hm."},
            {"role": "user", "content": "?"},
        ],
        [{"role": "user", "content": "fare " * 40_000}],
        [{"role": "user", "content": "fare " * 57_000}],
        [{"role": "user", "content": "fare " * 64_000}],
    ]
)
PLACES = [
    ("deepseek/deepseek-flash", "deepseek-reasoner", NOW),
    ("novita/deepseek/deepseek-r1-0528", "deepseek-reasoner", NOW),
    ("openrouter/deepseek/deepseek-v3.2", "deepseek-v3.2", NOW),
    ("deepseek/deepseek-reasoner", "deepseek-r1", "2025-02-01T00:00:00Z"),
    ("local/r1", "local/r1", NOW),
]
REMEMBERING = [deployment(name, at) for name, _, at in PLACES]


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, len(PLACES) - 1), fields=FIELDS, said=CONVERSATIONS, cap=st.sampled_from([None, 300, 9_000]))
def test_what_is_remembered_of_a_request_changes_nothing(place: int, fields: Row, said: list[Row], cap: int | None) -> None:
    _, name, at = PLACES[place]
    route = policies().route(name)
    assert route is not None
    client = policies().contracts[route.contract_at(parse_instant(at))]
    request = ask({"model": name, "messages": said, **fields})

    def outcome(target: Deployment) -> Any:
        try:
            found = sanitise(request, route, client, target, cap)
        except InvalidRequest as refusal:
            return refusal.message
        return json.dumps(found.body), structs.replace(found, body={})

    fresh = outcome(replace(REMEMBERING[place]))
    assert [outcome(REMEMBERING[place]), outcome(REMEMBERING[place])] == [fresh, fresh]
