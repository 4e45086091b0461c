"""Teams: the documented form is accepted, and what cannot be meant is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.clock import parse_instant
from gateway.errors import PolicyError
from gateway.policies import default_folder, load
from gateway.teams import TeamRow, matches

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


@pytest.mark.parametrize(
    ("change", "path", "text"),
    [
        ({"budgets": [{**SEARCH["budgets"][0], "amount": "0.00"}]}, ("budgets", 0, "amount"), "a budget of 0 refuses every request"),
        ({"budgets": [{**SEARCH["budgets"][0], "budget": "key"}]}, ("budgets", 0, "budget"), "the name of a key's own budget"),
        ({"steps": [{"at": 80}]}, ("steps", 0), "changes nothing"),
        ({"steps": [{"at": 95, "only": ["local"]}, {"at": 80, "max_output": 9}]}, ("steps", 1, "at"), "does not follow `at: 95`"),
        ({"steps": [{"at": 80, "max_output": 9}, {"at": 80, "only": ["local"]}]}, ("steps", 1, "at"), "does not follow `at: 80`"),
        ({"steps": [{"at": 80, "max_output": 9}, {"at": 90, "max_output": 9}]}, ("steps", 1), "only repeats the one at 80"),
        ({"hosts": ["deepseek"]}, ("steps", 1, "only"), "`local` is not among the `hosts` of team `search`"),
    ],
)
def test_what_contradicts_itself_is_a_problem_with_its_place(change: dict[str, Any], path: tuple[str | int, ...], text: str) -> None:
    found = list(TeamRow.model_validate({**SEARCH, **change}).problems())

    assert [where for where, _ in found] == [path]
    assert text in found[0][1]
    assert "Hint: " in found[0][1]


def test_a_step_may_take_back_what_a_lower_one_said() -> None:
    steps = [{"at": 80, "prefer": "cheapest", "max_output": 8000}, {"at": 90, "prefer": "fastest"}, {"at": 95, "max_output": 9000}]
    assert list(TeamRow.model_validate({**SEARCH, "steps": steps}).problems()) == []


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        ("deepseek-*", "deepseek-chat", True),
        ("deepseek-*", "deepseek", False),
        ("deepseek-*", "my-deepseek-chat", False),
        ("*", "novita/deepseek/deepseek-r1-0528", True),
        ("novita/*", "novita/deepseek/deepseek-r1-0528", True),
        ("novita/*", "nebius/x", False),
        ("*/deepseek-r?", "novita/deepseek-r1", False),
        ("deepseek.chat", "deepseek-chat", False),
        ("deepseek-chat", "deepseek-chat", True),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "a-c-b", False),
        ("[ab]", "a", False),
        ("deepseek.*", "deepseek-chat", False),
        ("[ab]*", "a-b", False),
    ],
)
def test_only_the_star_stands_for_something_else(pattern: str, name: str, found: bool) -> None:
    assert matches(pattern, name) is found
    assert TeamRow(team="search", routes=("nothing", pattern)).may_ask(name) is found


# In a folder: each mistake with its line and its remedy

FILE = """
team: search
routes: [deepseek-reasoner, "deepseek-*"]
hosts: [novita, local]
budgets:
  - {budget: day, amount: "50.00", currency: USD, period: day, zone: Asia/Shanghai}
  - {budget: month, amount: "500.00", currency: USD, period: month}
steps:
  - {at: 80, prefer: cheapest, max_output: 8000}
  - {at: 95, only: [local]}
""".lstrip()


def problems_of(tmp_path: Path, old: str, new: str) -> list[str]:
    folder = tmp_path / "policies"
    shutil.copytree(default_folder(), folder)
    (folder / "teams").mkdir(exist_ok=True)
    assert FILE.count(old), old
    (folder / "teams" / "search.yaml").write_text(FILE.replace(old, new, 1))
    try:
        load(folder)
    except PolicyError as error:
        return [line.removeprefix("teams/search.yaml:") for line in error.problems]
    return []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "deepseek-reasoner,",
            "deepseek-reasonr,",
            "2: there is no route or HOST/MODEL `deepseek-reasonr`. Hint: did you mean `deepseek-reasoner`?",
        ),
        (
            '"deepseek-*"',
            '"gpt-*"',
            "2: `gpt-*` matches no route and no HOST/MODEL. Hint: a * stands for any text; routes.yaml has the names",
        ),
        ("[novita, local]", "[novta, local]", "3: there is no host `novta`. Hint: did you mean `novita`?"),
        (
            "only: [local]",
            "only: [novita/deepseek/deepseek-r1]",
            "9: there is no deployment `novita/deepseek/deepseek-r1`. Hint: did you mean",
        ),
        ("only: [local]", "only: [nebius]", "9: `nebius` is not among the `hosts` of team `search`. Hint: add its host there"),
        ("hosts: [novita, local]\n", "", ""),
        ("at: 95", "at: 75", "9: `at: 75` does not follow `at: 80`. Hint: write the steps in rising order, one for each `at`"),
        (", only: [local]", "", "9: a step that changes nothing. Hint: say `prefer`, `max_output` or `only`"),
        ("budget: month", "budget: day", "6: budget `day` stands twice in team `search`. Hint: give each its own name"),
        ('"500.00"', '"0"', "6: a budget of 0 refuses every request. Hint: state an amount"),
        ('"500.00"', "500.00", '6: `budgets.1.amount`: should be a text, not the number 500.00. Hint: write it in quotes, "500.00"'),
        ('"500.00"', "500", '6: `budgets.1.amount`: should be a text, not the number 500. Hint: write it in quotes, "500"'),
        ('"500.00"', "1e3", '6: `budgets.1.amount`: should be a text, not the number 1e3. Hint: write it in quotes, "1000.0"'),
        ('"500.00"', '"5,00"', "6: `budgets.1.amount`: is not a plain decimal: '5,00'. Hint: write it as \"5.00\""),
        ('"500.00"', '"five"', "6: `budgets.1.amount`: is not a plain decimal: 'five'. Hint: write digits and a dot, such as \"0.66\""),
        (
            "currency: USD, period: month",
            "currency: usd, period: month",
            "6: `budgets.1.currency`: must be a currency code in capitals such as USD or CNY, not 'usd'. Hint: write USD",
        ),
        (
            "Asia/Shanghai",
            "Asia/Shangai",
            "5: `budgets.0.zone`: is not an IANA time zone: 'Asia/Shangai'. Hint: did you mean Asia/Shanghai?",
        ),
        (
            "Asia/Shanghai",
            "Europe/Berln",
            "5: `budgets.0.zone`: is not an IANA time zone: 'Europe/Berln'. Hint: did you mean Europe/Berlin?",
        ),
        ("period: month", "period: monthly", "6: `budgets.1.period`: should be 'hour', 'day', 'week', 'month' or 'total', not \"monthly\""),
        ("prefer: cheapest", "perfer: cheapest", "8: `perfer` is not a known key. Hint: did you mean `prefer`?"),
    ],
)
def test_a_mistake_in_a_teams_file_has_its_line_and_remedy(tmp_path: Path, old: str, new: str, problem: str) -> None:
    found = problems_of(tmp_path, old, new)
    assert len(found) == (1 if problem else 0), found
    assert not problem or found[0].startswith(problem), found


@pytest.mark.parametrize(
    ("number", "meant"),
    [("5,00", '"5.00"'), ("1,000.00", '"1000.00"'), ("1,000", '"1000" or "1.000"'), ("5", '"5"')],
)
def test_a_number_that_a_comma_cuts_between_braces_is_shown_whole(tmp_path: Path, number: str, meant: str) -> None:
    amount, *rest = problems_of(tmp_path, '"500.00"', number)[::-1]

    assert amount == f"6: `budgets.1.amount`: should be a text, not the number {number}. Hint: write it in quotes, {meant}"
    assert [line.partition("Hint: ")[2] for line in rest] == (
        ["between braces a comma ends a value: write the number before it with a dot, in quotes"] if "," in number else []
    )


@pytest.mark.parametrize(
    ("amount", "meant"),
    [
        ("5,00", '"5.00"'),
        ("1,000.00", '"1000.00"'),
        ("1.000,50", '"1000.50"'),
        ("1,000,000", '"1000000"'),
        ("1.000.000", '"1000000"'),
        ("1\uff0c000.00", '"1000.00"'),
        ("1,000", '"1000" or "1.000"'),
        ("0,500", '"0.500"'),
        ("1 000.00", '"1000.00"'),
        ("1_000", '"1000"'),
        ("12,34", '"12.34"'),
        ("$5", '"5"'),
        ("5.00 USD", '"5.00"'),
        (".5", '"0.5"'),
        ("5.", '"5"'),
        ("", ""),
        ("-5", ""),
        ("1,00,0", ""),
        ("1,2.3,4", ""),
        ("1.000,000.00", ""),
    ],
)
def test_an_amount_is_shown_in_the_right_form_where_it_can_be_guessed(amount: str, meant: str) -> None:
    with pytest.raises(ValidationError) as error:
        TeamRow.model_validate({**SEARCH, "budgets": [{**SEARCH["budgets"][0], "amount": amount}]})
    hint = f"write it as {meant}" if meant else 'write digits and a dot, such as "0.66"'
    assert error.value.errors()[0]["msg"].partition("Hint: ")[2] == hint


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("currency", "cny", "write CNY"),
        ("currency", "Usd ", "write USD"),
        ("currency", "rmb", "write CNY"),
        ("currency", "dollars", "write USD"),
        ("currency", "money", "write USD or CNY"),
        ("zone", "europe/berlin", "did you mean Europe/Berlin?"),
        ("zone", "Shanghai", "did you mean Asia/Shanghai?"),
        ("zone", "utc", "did you mean UTC?"),
        ("zone", "Asia/Bejing", "write UTC or Asia/Shanghai"),
        ("zone", "GMT+8", "write UTC or Asia/Shanghai"),
        ("zone", "Mars", "write UTC or Asia/Shanghai"),
        ("zone", "", "write UTC or Asia/Shanghai"),
    ],
)
def test_the_hint_is_the_near_word_where_there_is_one(key: str, value: str, hint: str) -> None:
    with pytest.raises(ValidationError) as error:
        TeamRow.model_validate({**SEARCH, "budgets": [{**SEARCH["budgets"][0], key: value}]})
    assert error.value.errors()[0]["msg"].partition("Hint: ")[2] == hint


def test_the_file_itself_is_right(tmp_path: Path) -> None:
    assert problems_of(tmp_path, "team", "team") == []


def warned(tmp_path: Path, file: str, rates: str = "[]") -> list[str]:
    folder = tmp_path / "policies"
    shutil.copytree(default_folder(), folder)
    (folder / "teams").mkdir(exist_ok=True)
    (folder / "teams" / "search.yaml").write_text(file)
    (folder / "rates.yaml").write_text(rates)
    return [text for text in load(folder).warnings_at(parse_instant("2026-11-20T00:00:00Z")) if "team search" in text]


YUAN = 'team: search\nroutes: ["*"]\nhosts: [novita]\nbudgets: [{budget: month, amount: "500", currency: CNY, period: month}]\n'
RATE = '[{from: USD, to: CNY, rate: "7.1", at: 2026-11-01T00:00:00Z, source: bank}]'


def test_a_budget_that_no_rate_leads_to_is_a_warning(tmp_path: Path) -> None:
    (text,) = warned(tmp_path, YUAN)
    assert text.startswith("budget month of team search is in CNY, and rates.yaml has no rate to it from the currency of novita: ")


@pytest.mark.parametrize(("file", "rates"), [(YUAN, RATE), (YUAN.replace("CNY", "USD"), "[]")])
def test_a_budget_that_can_be_charged_is_none(tmp_path: Path, file: str, rates: str) -> None:
    assert warned(tmp_path, file, rates) == []


def test_a_rate_that_is_not_in_force_yet_does_not_count(tmp_path: Path) -> None:
    assert warned(tmp_path, YUAN, RATE.replace("2026-11-01", "2026-12-01"))


def test_steps_without_a_budget_are_a_warning(tmp_path: Path) -> None:
    (text,) = warned(tmp_path, 'team: search\nroutes: ["*"]\nsteps: [{at: 80, prefer: cheapest}]\n')
    assert text == "team search has steps but no budget: they count for keys with a budget of their own only"


ONLY = 'team: search\nroutes: {routes}\nbudgets: [{{budget: day, amount: "5", currency: USD, period: day}}]\nsteps: {steps}\n'


@pytest.mark.parametrize(
    ("routes", "steps", "warnings"),
    [
        ('["deepseek-*"]', "[{at: 95, only: [local]}]", ["from 95 % on, only local may serve"]),
        ('["deepseek-*"]', "[{at: 95, only: [local/r1, local-vllm]}]", ["from 95 % on, only local/r1, local-vllm may serve"]),
        ('["deepseek-*", "novita/*"]', "[{at: 95, only: [local]}]", ["from 95 % on, only local may serve"]),
        (
            '["deepseek-*"]',
            "[{at: 80, only: [local]}, {at: 90, only: [local], max_output: 9}, {at: 95, only: [local-vllm]}]",
            ["from 80 % on, only local may serve", "from 95 % on, only local-vllm may serve"],
        ),
        ('["novita/*"]', "[{at: 95, only: [novita/deepseek/deepseek-r1-0528]}]", []),
        ('["deepseek-*", local/r1]', "[{at: 95, only: [local]}]", []),
        ('["deepseek-*", local/r1]', "[{at: 95, only: [local/r1-0528]}]", ["from 95 % on, only local/r1-0528 may serve"]),
        ('["*"]', "[{at: 95, only: [local]}]", []),
        ('["deepseek-*"]', "[{at: 95, only: [local, novita]}]", []),
        ('["deepseek-*"]', "[{at: 95, max_output: 9}]", []),
    ],
)
def test_a_step_that_leaves_nothing_of_any_route_is_a_warning(tmp_path: Path, routes: str, steps: str, warnings: list[str]) -> None:
    end = (
        ", and none of its routes has a deployment there. Hint: add one to a route in routes.yaml, or let `routes` allow a HOST/MODEL there"
    )
    assert warned(tmp_path, ONLY.format(routes=routes, steps=steps)) == [f"team search: {text}{end}" for text in warnings]


def test_what_no_longer_serves_is_no_deployment(tmp_path: Path) -> None:
    file = ONLY.format(routes="[novita/deepseek/deepseek-r1-0528, deepseek/deepseek-chat]", steps="[{at: 95, only: [deepseek]}]")
    (text,) = warned(tmp_path, file)
    assert text.startswith("team search: from 95 % on, only deepseek may serve, ")
