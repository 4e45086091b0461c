"""Teams: the documented form is accepted, and what cannot be meant is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.teams import TeamRow

SEARCH: dict[str, Any] = {
    "team": "search",
    "routes": ["deepseek-reasoner", "deepseek-*"],
    "budgets": [{"budget": "month", "amount": "500.00", "currency": "USD", "period": "month", "zone": "Asia/Shanghai", "at_limit": "stop"}],
    "limits": {"requests_per_minute": 600, "tokens_per_minute": 2000000, "concurrent": 64},
    "steps": [{"at": 80, "prefer": "cheapest", "max_output": 8000}, {"at": 95, "only": ["local"]}],
}


def test_the_documented_form_is_accepted() -> None:
    team = TeamRow.model_validate(SEARCH)

    assert list(team.problems()) == []
    assert (team.budgets[0].period, team.steps[1].only, team.limits.concurrent) == ("month", ("local",), 64)


def test_a_team_without_budgets_or_limits_is_accepted() -> None:
    team = TeamRow.model_validate({"team": "search", "routes": ["*"]})

    assert (team.budgets, team.limits.concurrent, team.hosts) == ((), None, None)


def test_a_budget_stands_once() -> None:
    twice = TeamRow.model_validate({**SEARCH, "budgets": SEARCH["budgets"] * 2})

    assert [path for path, _ in twice.problems()] == [("budgets", 1, "budget")]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("period", "fortnight"),
        ("amount", "500.0000000001"),
        ("amount", "-1"),
        ("currency", "dollars"),
        ("zone", "Asia/Bejing"),
        ("at_limit", "warn"),
        ("limit", "1"),
    ],
)
def test_a_budget_that_cannot_be_meant_is_refused(key: str, value: str) -> None:
    with pytest.raises(ValidationError):
        TeamRow.model_validate({**SEARCH, "budgets": [{**SEARCH["budgets"][0], key: value}]})


@pytest.mark.parametrize("step", [{"at": 0}, {"at": 101}, {"at": 80, "prefer": "order"}, {"at": 80, "max_output": 0}])
def test_a_step_that_cannot_be_meant_is_refused(step: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TeamRow.model_validate({**SEARCH, "steps": [step]})
