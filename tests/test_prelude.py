"""What becomes of a request before any deployment is looked at: by the rules of its team, and no more than they ask for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from threading import get_ident
from typing import Any

import msgspec
import pytest

from gateway.policies import Policies
from gateway.prelude import Opened, Prelude
from gateway.recall.port import NoRecall, Said
from gateway.request import NOTHING, Caller, ChatRequest
from gateway.teams import TeamRow
from tests.asking import ask, policies

CALLER = Caller("search", "key")
TOOLS = [{"type": "function", "function": {"name": "f"}}]
SYSTEM = {"role": "system", "content": "Be brief.\nToday is Friday, 20 November 2026."}
USER = {"role": "user", "content": "Which is greater?"}
LACKING: dict[str, Any] = {"messages": [SYSTEM, USER, {"role": "assistant", "content": "9.8"}, USER], "tools": TOOLS}
DATE = {"line": "Today is .*"}


class Noting(NoRecall):
    """Finds what it is told to, and notes what it was asked and given."""

    def __init__(self, found: Mapping[int, str] = NOTHING) -> None:
        self.found = found
        self.asked: list[tuple[str, ChatRequest]] = []
        self.kept: list[tuple[str, ChatRequest, Said]] = []

    async def find(self, team: str, request: ChatRequest) -> Mapping[int, str]:
        self.asked.append((team, request))
        return self.found

    def keep(self, team: str, request: ChatRequest, said: Said) -> None:
        self.kept.append((team, request, said))


class Reply:
    def __init__(self, said: Said | None) -> None:
        self.said = said


def team(**fields: Any) -> TeamRow:
    return TeamRow.model_validate({"team": "search", "routes": ["*"], **fields})


async def opened(memory: Noting, row: TeamRow | None, body: dict[str, Any] = LACKING, found: Policies | None = None) -> Opened:
    return await Prelude(memory, lambda name: f"pseudonym{len(name)}").open(ask(body), CALLER, row, found or policies())


@pytest.mark.parametrize("row", [None, team()])
async def test_a_request_that_no_rule_concerns_is_passed_on_as_it_is(row: TeamRow | None) -> None:
    memory = Noting()
    body: dict[str, Any] = {"messages": [USER], "tools": TOOLS}
    request = ask(body)
    found = await Prelude(memory, str).open(request, CALLER, row, policies())
    assert found.request is request is found.steady
    assert memory.asked == []


@pytest.mark.parametrize("row", [None, team()])
async def test_lost_reasoning_is_looked_for_and_makes_the_request_larger(row: TeamRow | None) -> None:
    memory = Noting({2: "because"})
    found = await opened(memory, row)
    assert found.request.recalled == {2: "because"}
    assert found.request.size == ask(LACKING).size + len("because") + 32
    assert [name for name, _ in memory.asked] == ["search"]


async def test_without_tools_it_is_looked_for_only_where_a_contract_asks_for_it_always() -> None:
    memory = Noting()
    plain = {"messages": LACKING["messages"]}
    await opened(memory, None, plain)
    assert memory.asked == []
    shipped = policies()
    contract = next(iter(shipped.contracts.values()))
    strict = contract.model_copy(update={"reasoning": contract.reasoning.model_copy(update={"send_back": "always"})})
    await opened(memory, None, plain, replace(shipped, contracts={**shipped.contracts, "strict": strict}, digest="another"))
    assert len(memory.asked) == 1


class Watched(dict[str, Any]):
    """A message that knows which thread looked at its text."""

    def __init__(self, size: int) -> None:
        super().__init__(role="system", content="a\n" * (size // 2) + "Today is Friday.")
        self.readers: set[int] = set()

    def get(self, name: str, default: Any = None) -> Any:
        if name == "content":
            self.readers.add(get_ident())
        return super().get(name, default)


@pytest.mark.parametrize(("size", "threads"), [(2000, 1), (400_000, 2)])
async def test_rules_look_at_long_instructions_beside_the_loop(size: int, threads: int) -> None:
    """Its length is taken on the loop, its lines in a thread: others are served meanwhile."""
    message = Watched(size)
    found = await Prelude(NoRecall(), str).open(
        msgspec.structs.replace(ask({}), body={"messages": [USER, message]}, size=size), CALLER, team(volatile=[DATE]), policies()
    )
    assert len(message.readers) == threads
    left = found.request.messages[1]["content"]
    assert ("Today" in left) is (size > 262_144)
    assert found.steady is found.request


async def test_a_team_may_do_without_and_then_nothing_is_kept() -> None:
    memory = Noting({2: "because"})
    prelude = Prelude(memory, str)
    found = await prelude.open(ask(LACKING), CALLER, team(recall=False), policies())
    assert found.request.recalled == {} and memory.asked == []
    prelude.close(found, CALLER, Reply(Said("a", "r")))
    assert memory.kept == []


@pytest.mark.parametrize("do", ["remove", "move"])
async def test_a_line_that_changes_makes_no_other_conversation_of_it(do: str) -> None:
    memory = Noting({2: "because"})
    steady = []
    for day in ("Friday", "Saturday"):
        messages = [{**SYSTEM, "content": f"Be brief.\nToday is {day}."}, *LACKING["messages"][1:]]
        found = await opened(memory, team(volatile=[{**DATE, "do": do}]), {**LACKING, "messages": messages})
        assert found.request.recalled == {2: "because"}
        assert (day in str(found.request.messages)) == (do == "move")
        assert found.steady is not None
        steady.append(found.steady.messages)
        assert memory.asked[-1][1] is found.steady
    assert steady[0] == steady[1] and "Today" not in str(steady)


async def test_a_team_apart_gets_a_pseudonym() -> None:
    assert (await opened(Noting(), team(isolate=True))).request.user == "pseudonym6"
    assert (await opened(Noting(), team())).request.user == ""


async def test_only_an_answer_with_reasoning_is_kept() -> None:
    memory = Noting()
    prelude = Prelude(memory, str)
    found = await prelude.open(ask(LACKING), CALLER, None, policies())
    prelude.close(found, CALLER, Reply(None))
    assert memory.kept == []
    prelude.close(found, CALLER, Reply(Said("a", "r")))
    assert memory.kept == [("search", found.steady, Said("a", "r"))]


async def test_an_answer_that_cannot_be_put_together_is_given_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    class Odd:
        @property
        def said(self) -> Said | None:
            raise TypeError("arguments are no text")

    prelude = Prelude(Noting(), str)
    found = await prelude.open(ask(LACKING), CALLER, None, policies())
    with caplog.at_level(logging.ERROR):
        prelude.close(found, CALLER, Odd())
    assert "could not be kept" in caplog.text
