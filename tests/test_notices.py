"""Notices: what rests is said once, what is back is said once, and no request makes a line of its own."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.gate import RETURN, STREAK, Trouble
from gateway.health import Health
from gateway.hosts import Deployment
from gateway.notices import Notices
from gateway.policies import default_folder, load
from gateway.replicas import Replicas, with_replicas
from gateway.witnesses import PARKED

AT = 1_800_000_000.0
POLICIES = load(default_folder())
FAILED, REFUSED = Trouble("failed"), Trouble("failed", free=True)


def served(host: str, model: str) -> Deployment:
    found = POLICIES.deployment(host, model, datetime(2026, 11, 20, tzinfo=UTC))
    assert found is not None
    return found


NOVITA, ENGINE = served("novita", "deepseek/deepseek-v3.2"), served("local", "r1")


class Night:
    """The hosts of one gateway, what its log says of them, and a look every second."""

    def __init__(self, log: Any, rests: bool = True) -> None:
        self.health, self.replicas, self.log = Health(), Replicas(), log
        self.notices = Notices(self.health, self.replicas, lambda _: rests)
        self.now = AT

    def ask(self, trouble: Trouble | None = None, times: int = 1, deployment: Deployment = NOVITA) -> None:
        for _ in range(times):
            ticket = self.health.begun(deployment, self.now)
            if ticket is not None:
                self.health.ended(ticket, self.now, trouble)

    def fail(self, number: int) -> None:
        """One request that a replica does not take."""
        while True:
            seat = self.replicas.take(ENGINE, 2, self.now)
            assert seat is not None
            self.replicas.done(seat, self.now, None if seat.number != number else REFUSED, reached=seat.number != number)
            if seat.number == number:
                return

    def pass_by(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.now += 1
            self.notices.look(self.now)

    @property
    def said(self) -> list[tuple[str, str]]:
        """What was logged since the last time."""
        found = [(record.levelname, record.getMessage()) for record in self.log.records]
        self.log.clear()
        return found


@pytest.fixture
def night(caplog: pytest.LogCaptureFixture) -> Night:
    caplog.set_level(logging.INFO, "gateway.notices")
    return Night(caplog)


def test_a_host_that_goes_is_one_line_and_one_when_it_is_wholly_back(night: Night) -> None:
    night.ask()
    night.pass_by(2)
    assert night.said == []
    night.ask(FAILED, STREAK + 3)
    night.pass_by(2)
    assert night.said == [("WARNING", "novita/deepseek/deepseek-v3.2 is left alone (at rest for 1 s more: it failed)")]
    # Trials that fail are the same story, and so is coming back and failing again.
    for seconds, trouble in ((20, FAILED), (20, FAILED), (20, None), (RETURN - 2, FAILED)):
        night.pass_by(seconds)
        night.ask(trouble, STREAK)
    night.pass_by(60)
    assert night.said == []
    night.ask()
    night.pass_by(RETURN - 1)
    assert night.said == []
    night.pass_by(1)
    assert night.said == [("INFO", "novita/deepseek/deepseek-v3.2 is in use again")]


def test_a_rest_between_two_looks_is_seen_all_the_same(night: Night) -> None:
    night.ask(FAILED, STREAK)
    night.now += 2.5
    night.ask()
    night.notices.look(night.now)
    assert night.said == [("WARNING", "novita/deepseek/deepseek-v3.2 is left alone (it failed, and is coming back)")]
    night.pass_by(RETURN)
    assert [level for level, _ in night.said] == ["INFO"]


@pytest.mark.parametrize("kind", ["unpaid", "locked", "missing"])
def test_an_alarm_was_a_line_of_its_own_and_its_end_is_said(night: Night, kind: Any) -> None:
    night.ask(Trouble(kind))
    night.pass_by(1)
    assert night.said == []
    night.now += PARKED
    night.ask()
    night.pass_by(RETURN)
    assert night.said == [("INFO", "novita/deepseek/deepseek-v3.2 is in use again")]


def test_a_host_that_is_asked_whatever_happens_is_never_said_to_rest(caplog: pytest.LogCaptureFixture) -> None:
    night = Night(caplog, rests=False)
    night.ask(FAILED, STREAK)
    night.pass_by(3)
    assert night.said == []


def test_an_engine_rests_when_all_of_its_replicas_do(night: Night) -> None:
    night.ask(deployment=ENGINE)
    night.fail(0)
    night.pass_by(1)
    assert night.said == [("WARNING", "replica 0 of local is left alone (at rest for 1 s more: it takes no connections)")]
    (state,) = with_replicas(night.health.states(night.now), night.replicas.states(night.now))
    assert (state.up, state.why) == (True, "")
    # The rest of the first is over, and nobody has tried it: the second goes too.
    night.fail(1)
    night.pass_by(1)
    assert [(level, line.partition(" (")[0]) for level, line in night.said] == [
        ("WARNING", "replica 1 of local is left alone"),
        ("WARNING", "local/r1 is left alone"),
    ]
    (state,) = with_replicas(night.health.states(night.now), night.replicas.states(night.now))
    assert not state.up and "all of its replicas are" in state.why
    night.health.forgive()
    night.replicas.forgive()
    night.pass_by(1)
    assert sorted(night.said) == [
        ("INFO", "local/r1 is in use again"),
        ("INFO", "replica 0 of local is in use again"),
        ("INFO", "replica 1 of local is in use again"),
    ]
