"""Steps: what is reached by the fullest budget applies, a higher step over the lower ones."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.outcome import BudgetState
from gateway.steps import NO_STEP, Step, Use, reached, used
from gateway.teams import StepRow

STEPS = tuple(
    StepRow.model_validate(row)
    for row in ({"at": 80, "prefer": "cheapest", "max_output": 8000}, {"at": 95, "only": ["local"]}, {"at": 98, "max_output": 500})
)


def budget(spent: int, held: int = 0, limit: int = 1000, name: str = "month") -> BudgetState:
    return BudgetState("search", name, "", "2026-11", "USD", limit, spent, held, 0, 0, None)


@pytest.mark.parametrize(
    ("spent", "held", "limit", "percent"),
    [(799, 0, 1000, 79), (500, 300, 1000, 80), (999, 0, 1000, 99), (1200, 0, 1000, 120), (0, 0, 0, 100)],
)
def test_what_is_held_counts_as_used_and_a_per_cent_is_reached_when_it_is_whole(spent: int, held: int, limit: int, percent: int) -> None:
    assert used(budget(spent, held, limit)).percent == percent


@pytest.mark.parametrize(
    ("percent", "at", "prefer", "max_output", "only"),
    [
        (0, 0, None, None, None),
        (79, 0, None, None, None),
        (80, 80, "cheapest", 8000, None),
        (94, 80, "cheapest", 8000, None),
        (95, 95, "cheapest", 8000, ("local",)),
        (98, 98, "cheapest", 500, ("local",)),
        (400, 98, "cheapest", 500, ("local",)),
    ],
)
def test_a_higher_step_adds_to_the_lower_ones_and_overrides_what_it_says_itself(
    percent: int, at: int, prefer: Any, max_output: int | None, only: tuple[str, ...] | None
) -> None:
    use = Use(percent, budget(percent * 10))
    assert reached(STEPS, [use]) == (Step(at, use, prefer, max_output, only) if at else NO_STEP)


def test_the_fullest_of_several_budgets_decides() -> None:
    day, month = Use(96, budget(960, name="day")), Use(81, budget(810))
    assert reached(STEPS, [month, day]).use == day
    assert reached(STEPS, []) == NO_STEP


@pytest.mark.parametrize(
    ("only", "host", "model", "admitted"),
    [
        (None, "novita", "m", True),
        (("local",), "local", "r1", True),
        (("local",), "novita", "r1", False),
        (("novita/deepseek/r1", "local"), "novita", "deepseek/r1", True),
        (("novita/deepseek/r1", "local"), "novita", "deepseek/v3", False),
    ],
)
def test_only_names_hosts_or_single_deployments(only: tuple[str, ...] | None, host: str, model: str, admitted: bool) -> None:
    assert Step(only=only).admits(host, model) is admitted
