"""The end of a period and the edge of a price band, in the middle of answers: an hour takes three seconds here."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import pytest

from gateway.clock import parse_instant
from tests.replicas import Answer, Budget, Stage, ask, budget_of, team_of, total
from tests.scripted import ScriptedHost, gated, until, usage

CLOCK = "2026-11-16T00:00:00Z*1200"
# Every other hour is a peak, with twice the price.
HOURS = ('["09:00-12:00", "14:00-18:00"]', json.dumps([f"{hour:02d}:00-{hour + 1:02d}:00" for hour in range(1, 23, 2)]))
PROMPT, OUTPUT = 10_000, 50
LARGE = {"model": "deepseek-flash", "stream": True, "messages": [{"role": "user", "content": "word " * PROMPT}]}
HOURLY = {"budget": "hour", "amount": "0.10", "currency": "USD", "period": "hour"}


class Crossing(NamedTuple):
    """What came of the requests that were under way when a new hour, and with it a peak, began."""

    stage: Stage
    hourly: Answer
    large: list[Answer]
    after: Answer


@pytest.fixture(scope="module")
def crossing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crossing]:
    host, gate = ScriptedHost(), threading.Event()
    teams = (team_of("hourly", HOURLY), team_of("large", total("0.010")))
    edits = (("prices/deepseek.yaml", *HOURS),)
    with Stage(tmp_path_factory.mktemp("periods"), teams, hosts=(), urls={"deepseek": host.url}, clock=CLOCK, edits=edits) as stage:
        host.play(*(gated(gate, usage(PROMPT, OUTPUT)) for _ in range(7)))
        until("a quiet hour begins", lambda: (now := stage.now()).hour % 2 == 0 and now.minute < 20)
        running = stage.aside("hourly", ask(stream=True))
        large = [stage.aside("large", LARGE) for _ in range(5)]
        until("all have arrived", lambda: len(host.bodies) + sum(one.done() for one in large) == 6)
        hour = stage.now().hour
        until("a busy hour begins", lambda: (now := stage.now()).hour != hour and now.hour % 2 == 1)
        # The new hour's first request is let in while the old hour's is still under way.
        arrived = len(host.bodies)
        after = stage.aside("hourly", ask(stream=True))
        host.received(arrived + 1)
        gate.set()
        yield Crossing(stage, running.result(30), [one.result(30) for one in large], after.result(30))
    host.close()


# BerriAI/litellm#30330: a reset while a request was under way drove the counter below zero when its hold was given back.
def test_what_began_in_one_period_is_charged_there(crossing: Crossing) -> None:
    row, later = (crossing.stage.row_of(answer[1]) for answer in (crossing.hourly, crossing.after))
    assert hour_of(row["started"]) < hour_of(row["ended"])
    assert hour_of(row["started"]) < hour_of(later["started"])
    found = {budget.row["period"]: budget for budget in budgets_at(crossing.stage, row["started"], "hourly")}
    old, new = found[hour_of(row["started"])], found[hour_of(later["started"])]
    assert (old.spent, old.held, new.spent, new.held) == (row["nano"], 0, later["nano"], 0)
    # Neither hour ever had more than the one request that began in it.
    assert old.peak == new.peak >= later["nano"]


# BerriAI/litellm#40002: five prompts of 300K tokens at once, four let in, 0.60 dollars spent of 0.45: the dearer tier, by which they were
# charged, was not in what was held for them. BerriAI/litellm bills by the completion, and reserves by the price of the moment.
def test_a_dearer_band_that_can_be_reached_is_in_the_hold(crossing: Crossing) -> None:
    paid = [answer for answer in crossing.large if answer[0] == 200]
    rows = [crossing.stage.row_of(answer[1]) for answer in paid]
    budget = crossing.stage.budget("large")
    assert "peak" in {row["window"] for row in rows}
    assert {answer[0] for answer in crossing.large} == {200, 402}
    assert budget.spent == sum(row["nano"] for row in rows) <= budget.limit
    assert (budget.held, budget.overrun) == (0, 0)


def hour_of(instant: str) -> str:
    at: datetime = parse_instant(instant)
    return at.strftime("%Y-%m-%dT%H%z")


def budgets_at(stage: Stage, at: str, team: str) -> list[Budget]:
    """Every period of the team's budgets that was not over at an instant, as an operator sees it then."""
    done = stage.command("budgets", "--team", team, "--json", FAREGATE_CLOCK=at)
    assert done.returncode == 0, done.stderr
    return [budget_of(row) for row in json.loads(done.stdout)]
