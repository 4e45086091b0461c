"""Calibration: a host whose cache hits less than it did is found, a change of the traffic is not taken for one; days add up."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.calibration import LASTS, Day, Fall, HitWatch, by_day
from gateway.outcome import Attempt, LedgerRow, Option, PlanNote
from gateway.usage import Sources, Usage
from tests.test_metrics import ROW

AT = 1_800_000_000.0
NAME = "deepseek/deepseek-v4-pro"
Host = Callable[[Random, float], float]


def steady(rate: float, idle_rate: float | None = None) -> Host:
    """Hits everything or nothing, at this rate; at another one after pauses of more than ten minutes."""
    return lambda draw, idle: float(draw.random() < (rate if idle <= 600 or idle_rate is None else idle_rate))


def partly(share: float) -> Host:
    """Hits a share of each prefix."""
    return lambda draw, idle: min(1.0, max(0.0, share + draw.uniform(-0.05, 0.05)))


class Watched:
    """One deployment, a minute for each answer."""

    def __init__(self, seed: int = 0) -> None:
        self.watch = HitWatch()
        self.draw = Random(seed)
        self.now = AT

    def answers(self, count: int, host: Host, idle: float = 20.0, known: int = 20_000) -> list[Fall]:
        """The alarms that these answers raise."""
        raised = []
        for _ in range(count):
            self.now += 60
            fall = self.watch.learn(NAME, known, int(known * host(self.draw, idle)), idle, self.now)
            raised += [] if fall is None else [fall]
        return raised

    def alarm(self) -> Fall | None:
        return self.watch.falls(self.now)[NAME]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("before", "after"), [(steady(0.95), steady(0.3)), (partly(0.9), partly(0.4)), (steady(0.5), steady(0)), (partly(0.3), steady(0))]
)
def test_a_fall_raises_one_alarm_soon_and_it_ends_with_the_fall(before: Host, after: Host, seed: int) -> None:
    host = Watched(seed)
    assert host.answers(300, before) == [] and host.alarm() is None
    (fall,) = host.answers(100, after)
    assert fall.name == NAME and fall.now < fall.before
    lasting = host.alarm()
    assert lasting is not None and lasting.since == fall.since
    assert host.answers(200, before) == [] and host.alarm() is None


def test_a_fall_that_lasts_does_not_become_the_level_within_the_day() -> None:
    host = Watched()
    host.answers(300, steady(0.95))
    assert len(host.answers(1000, steady(0.3))) == 1
    assert host.alarm() is not None


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("rate", [0.02, 0.3, 0.5, 0.8, 0.95, 1.0])
def test_a_host_that_stays_as_it_is_raises_none(rate: float, seed: int) -> None:
    assert Watched(seed).answers(1000, steady(rate)) == []


def test_longer_pauses_are_no_fall() -> None:
    """At night conversations pause longer, and hit less: what counts is the rate after such pauses."""
    host, nature = Watched(), steady(0.95, idle_rate=0.3)
    for _ in range(4):
        assert host.answers(100, nature, idle=20) == []
        assert host.answers(100, nature, idle=1800) == []
    assert host.alarm() is None
    assert len(host.answers(100, steady(0), idle=1800)) == 1


def test_pauses_of_which_nothing_is_known_yet_raise_none() -> None:
    host = Watched()
    host.answers(300, steady(1), idle=20)
    assert host.answers(300, steady(0), idle=7200) == []


def test_short_prefixes_weigh_little() -> None:
    host = Watched()
    host.answers(300, steady(1))
    assert host.answers(60, steady(0), known=64) == []
    assert host.answers(1, steady(0), known=0) == []


def test_after_a_day_the_new_level_is_the_level() -> None:
    host = Watched()
    host.answers(300, steady(0.95))
    assert len(host.answers(100, steady(0.3))) == 1
    host.now += LASTS
    assert host.alarm() is None, "also where nobody asks any more"
    assert host.answers(300, steady(0.3)) == [] and host.alarm() is None
    assert len(host.answers(100, steady(0))) == 1


@given(st.lists(st.tuples(st.integers(-5, 200_000), st.integers(0, 400_000), st.floats(0, 1e9)), max_size=80))
def test_whatever_is_reported_levels_are_shares(answers: list[tuple[int, int, float]]) -> None:
    watch = HitWatch()
    for number, (known, hit, idle) in enumerate(answers):
        fall = watch.learn(NAME, known, hit, idle, AT + number)
        assert fall is None or 0 <= fall.now < fall.before <= 1


def row(**changes: object) -> LedgerRow:
    option = Option(NAME, "USD", 900, 5000, 740, 600, 100)
    other = Option("gmi/deepseek-v4-pro", "USD", 1, 1, 740, 1, 1)
    return replace(ROW, **{"expected_nano": 900, "nano": 1000, "plan": PlanNote((other, option)), **changes})


def test_days_add_up_by_deployment_and_currency() -> None:
    days: dict[tuple[str, str, str, str], Day] = {}
    night = datetime(2026, 11, 20, 23, 59, 59, tzinfo=UTC)
    by_day([row(), row(usage=Usage(64, 36, 5)), row(ended=night), row(currency="CNY"), row(usage=None, parts=None, nano=0)], days)
    by_day([row(ended=night.replace(day=21)), row(host="gmi")], days)
    key = ("2026-11-20", "deepseek", "deepseek-v4-pro", "USD")
    assert days[key] == Day(*key, 3, 3, 740 + 100 + 740, 1800, 640 + 64 + 640, 2700, 3000)
    assert sorted(days) == sorted([key, (*key[:3], "CNY"), ("2026-11-21", *key[1:]), ("2026-11-20", "gmi", "deepseek-v4-pro", "USD")])


def test_of_several_attempts_only_the_last_was_foretold() -> None:
    days: dict[tuple[str, str, str, str], Day] = {}
    paid, late = Attempt("gmi", "m", "timeout", "possible", 300), Attempt("gmi", "m", "upstream_error", "none", 0)
    last = Attempt("deepseek", "deepseek-v4-pro", "ok", "known", 700)
    by_day([row(attempts=(paid, last)), row(nano=700, attempts=(late, last))], days)
    # What answered was not billed: there is nothing to compare.
    by_day([row(nano=300, attempts=(paid, late))], days)
    (day,) = days.values()
    assert (day.host, day.requests, day.nano, day.predicted_nano, day.compared) == ("deepseek", 2, 1400, 1800, 1)


@pytest.mark.parametrize(
    "changes", [{"plan": None}, {"plan": PlanNote(())}, {"usage": Usage(0, 100, 5, 0, Sources(cache_hit="unknown"))}], ids=str
)
def test_what_cannot_be_compared_counts_in_money_only(changes: dict[str, object]) -> None:
    days: dict[tuple[str, str, str, str], Day] = {}
    by_day([replace(row(), **changes)], days)
    (day,) = days.values()
    assert (day.requests, day.nano, day.compared, day.hit, day.predicted_hit) == (1, 1000, 0, 0, 0)
