"""Budgets as a team lead and an application see them: the command, the admin API, the balance, and 79, 80, 95 and 100 per cent."""

from __future__ import annotations

import json
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.budgets import claims
from gateway.clock import parse_instant
from gateway.conversions import Conversions
from gateway.ledger.port import Store
from gateway.ledger.postgres import PostgresStore
from gateway.ledger.sqlite import SqliteStore
from gateway.money import NANO, Parts, decimal_text
from gateway.outcome import Attempt, Hold, LedgerRow
from gateway.policies import default_folder
from gateway.request import Caller
from gateway.teams import TeamRow
from gateway.usage import Usage
from tests.harness import ADMIN, KEY, LiveGateway, get_json
from tests.shell import run, said

CLOCK = "2026-11-20T02:00:00Z"
NOW = parse_instant(CLOCK)
TEAM = """
team: search
routes: ["deepseek-*"]
budgets:
  - {budget: day, amount: "50", currency: USD, period: day}
  - {budget: each, amount: "20", currency: USD, period: month, per: key}
"""
BUDGETS = ({"budget": "day", "amount": "50", "period": "day"}, {"budget": "each", "amount": "20", "period": "month", "per": "key"})
ROW = TeamRow.model_validate({"team": "search", "routes": ["*"], "budgets": [{"currency": "USD", **row} for row in BUDGETS]})


def policies_in(folder: Path, team: str = TEAM) -> Path:
    policies = folder / "policies"
    shutil.copytree(default_folder(), policies)
    (policies / "teams").mkdir(exist_ok=True)
    (policies / "teams" / "search.yaml").write_text(team)
    return policies


async def spend(store: Store, key: str, nano: int, at: datetime = NOW, settle: bool = True, id: str = "") -> None:
    """A request of a key that cost so much, or that is still on its way."""
    claimed = claims(ROW, Caller("search", key), "USD", at, Conversions())
    hold = Hold(
        id or f"{key}-{nano}", "search", key, "r", "h", "m", "USD", nano, nano, nano, "card", "9f", at, least=nano, claims=claimed
    )  # fmt: skip
    await store.hold(hold, "a test", 30.0)
    row = LedgerRow(
        hold.id, "search", key, "r", "h", "m", "c", (), Usage(0, 0, 1), "USD", nano, Parts(0, 0, nano), "card", "standard", "9f", at,
        at + timedelta(seconds=1), "ok", None, (Attempt("h", "m", "ok", "known", nano),), nano, nano,
    )  # fmt: skip
    if settle:
        await store.finish("settle", row)


async def filled(store: Store) -> None:
    await store.start()
    await spend(store, "search-1", 2 * NANO)
    await spend(store, "search-1", NANO + 1)
    await spend(store, "search-2", 5 * NANO)
    await spend(store, "search-1", NANO // 4, settle=False, id="open")
    # Yesterday's is in the month of its key, and not in today.
    await spend(store, "search-2", 3 * NANO, NOW - timedelta(days=1), id="old")
    await store.close()


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("FAREGATE_CLOCK", CLOCK)
    return ["--policies", str(policies_in(tmp_path)), "--ledger", f"sqlite:///{tmp_path}/ledger.db"]


def figures(rows: Any) -> dict[tuple[str, str | None], tuple[str, ...]]:
    return {(row["budget"], row["key"]): tuple(row[name] for name in ("limit", "spent", "held", "peak_committed", "left")) for row in rows}


EXPECTED = {
    ("day", None): ("50", "8.000000001", "0.25", "8.250000001", "41.749999999"),
    ("each", "search-1"): ("20", "3.000000001", "0.25", "3.250000001", "16.749999999"),
    ("each", "search-2"): ("20", "8", "0", "8", "12"),
}


async def test_the_command_shows_every_budget_exactly(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    await filled(SqliteStore(tmp_path / "ledger.db"))
    rows: Any = json_in_thread(capsys, "budgets", "--json", *words)

    assert figures(rows) == EXPECTED
    assert {row["resets_at"] for row in rows} == {"2026-11-21T00:00:00Z", "2026-12-01T00:00:00Z"}
    # 8.000000001 in two of 24 hours; the clock runs on while the command works.
    assert 96.0 >= float(rows[0]["forecast"]) > 95.0


async def test_postgresql_answers_as_the_file_does(
    tmp_path: Path, words: list[str], postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await filled(PostgresStore(postgres_url))
    rows: Any = json_in_thread(capsys, "budgets", "--json", *words[:3], postgres_url)
    assert figures(rows) == EXPECTED


async def test_by_key_names_who_spent_it_the_most_first(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    await filled(SqliteStore(tmp_path / "ledger.db"))
    rows: Any = json_in_thread(capsys, "budgets", "--by", "key", "--json", *words)
    by_key = {(row["budget"], row["key"]): [(one["key"], one["spent"], one["requests"]) for one in row["by_key"]] for row in rows}
    assert by_key == {
        ("day", None): [("search-2", "5", 1), ("search-1", "3.000000001", 2)],
        ("each", "search-1"): [("search-1", "3.000000001", 2)],
        ("each", "search-2"): [("search-2", "8", 2)],
    }


async def test_the_table_is_for_people(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    await filled(SqliteStore(tmp_path / "ledger.db"))
    code, out, err = in_thread(capsys, "budgets", "--by", "key", *words)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].split()[:4] == ["team", "budget", "key", "period"]
    assert lines[1].split()[:9] == ["search", "day", "-", "2026-11-20", "USD", "50", "8.000000001", "0.25", "8.250000001"]
    assert lines[2] == "  search-2: 5 USD in 1 request"


async def test_a_budget_that_left_the_policies_is_shown_as_history(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    await filled(SqliteStore(tmp_path / "ledger.db"))
    (tmp_path / "policies" / "teams" / "search.yaml").write_text(TEAM.replace("budget: day", "budget: daily"))
    rows: Any = json_in_thread(capsys, "budgets", "--json", *words)
    assert {(row["budget"], row["spent"], row["in_force"]) for row in rows if row["key"] is None} == {
        ("day", "8.000000001", False),
        ("daily", "0", True),
    }
    assert "no longer in the policies" in in_thread(capsys, "budgets", *words)[1]


def in_thread(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """The command makes an event loop of its own, which the test's loop forbids in its thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(said, capsys, *words).result(30)


def json_in_thread(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    code, out, err = in_thread(capsys, *words)
    assert (code, err) == (0, "")
    return json.loads(out)


async def test_a_budget_that_nobody_used_yet_is_zero(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    ledger = SqliteStore(tmp_path / "ledger.db")
    await ledger.start()
    await ledger.close()
    (row,) = json_in_thread(capsys, "budgets", "--team", "search", "--json", *words)
    assert (row["budget"], row["limit"], row["spent"], row["forecast"]) == ("day", "50", "0", None)
    assert in_thread(capsys, "budgets", "--team", "nobody", *words)[0] == 2


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--ledger", "sqlite:////no/such/ledger.db"], "there is no ledger at /no/such/ledger.db: set FAREGATE_LEDGER or FAREGATE_DATA"),
        (["--ledger", "mysql://h/d"], "FAREGATE_LEDGER"),
        (["--policies", "/no/such/folder", "--ledger", "sqlite:////no/such/ledger.db"], "FAREGATE_POLICIES"),
    ],
)
def test_what_it_cannot_read_is_one_line_with_the_remedy(tmp_path: Path, more: list[str], text: str) -> None:
    code, out, err = run("budgets", *more, folder=tmp_path)
    assert code != 0
    assert out == ""
    assert text in err
    assert len(err.splitlines()) == 1


def test_check_explains_a_mistake_with_its_place_and_what_to_do(tmp_path: Path) -> None:
    policies = policies_in(tmp_path, TEAM.replace("period: month", "period: mouth").replace("deepseek-*", "deepsek-*").strip())
    code, out, err = run("check", str(policies), folder=tmp_path)
    assert (code, out) == (1, "")
    file = policies / "teams" / "search.yaml"
    assert err.splitlines() == [
        f"{file}:5: `budgets.1.period`: should be 'hour', 'day', 'week', 'month' or 'total', not \"mouth\"",
    ]
    file.write_text(file.read_text().replace("mouth", "month"))
    code, out, err = run("check", str(policies), folder=tmp_path)
    assert (code, err) == (
        1,
        f"{file}:2: `deepsek-*` matches no route and no HOST/MODEL. Hint: a * stands for any text; routes.yaml has the names\n",
    )
    file.write_text(file.read_text().replace("deepsek", "deepseek"))
    assert "1 team; " in run("check", str(policies), folder=tmp_path)[1]


# A gateway: one day of a team lead

LIVE = """
team: search
routes: ["deepseek-*"]
hosts: [deepseek, local]
budgets: [{budget: day, amount: "AMOUNT", currency: USD, period: day, zone: Asia/Shanghai}]
steps:
  - {at: 80, max_output: 16}
  - {at: 95, only: [local]}
"""
ASK = {"model": "deepseek-flash", "messages": [{"role": "user", "content": "Tell me a story"}], "max_tokens": 100}


class Desk:
    """A gateway whose team has one budget, and the file that the team lead edits."""

    def __init__(self, gateway: LiveGateway, file: Path) -> None:
        self.gateway = gateway
        self._file = file

    def write(self, team: str) -> None:
        self._file.write_text(team)
        assert post_admin(self.gateway, "/admin/v1/reload")["error"] is None

    def spent(self) -> int:
        """Nano of the day's budget, once this process has seen all of it settled."""
        deadline = time.monotonic() + 10
        while True:
            (row,) = [one for one in admin(self.gateway, "/admin/v1/budgets") if one["in_force"]]
            nano = round(float(row["spent"]) * NANO)
            shown = [
                line for line in self.gateway.metrics().splitlines() if line.startswith(("faregate_budget_spent{", "faregate_budget_held{"))
            ]
            if row["held"] == "0" and [float(line.split()[-1]) for line in shown] == [nano / NANO, 0.0]:
                return nano
            assert time.monotonic() < deadline, (row, shown)
            time.sleep(0.01)

    def used_to(self, percent: int) -> str:
        """Let the budget be used to so many per cent, by its limit; the amount."""
        amount = decimal_text(self.spent() * 100 // percent)
        self.write(LIVE.replace("AMOUNT", amount))
        return amount

    def ask(self, **more: Any) -> tuple[int, dict[str, str], Any]:
        status, headers, body = self.gateway.chat({**ASK, **more})
        return status, headers, json.loads(body)


def admin(gateway: LiveGateway, path: str) -> Any:
    return get_json(gateway.admin_url + path, {"authorization": f"Bearer {ADMIN}"})


def post_admin(gateway: LiveGateway, path: str) -> Any:
    request = urllib.request.Request(gateway.admin_url + path, data=b"", headers={"authorization": f"Bearer {ADMIN}"}, method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    policies = policies_in(folder, LIVE.replace("AMOUNT", "0.25"))
    (policies / "rates.yaml").write_text('[{from: USD, to: CNY, rate: "7.1234", at: 2026-11-01T00:00:00Z, source: a test}]')
    with LiveGateway(
        folder, clock=CLOCK, settings={"FAREGATE_POLICIES": str(policies), "FAREGATE_KEYS": f"search:{KEY},free:{KEY}2"}
    ) as gateway:
        running = Desk(gateway, policies / "teams" / "search.yaml")
        # So much that a fifth of it is enough for one more answer.
        assert {running.ask()[0] for _ in range(20)} == {200}
        yield running


def test_a_budget_is_watched_from_79_to_100_per_cent(desk: Desk) -> None:
    desk.used_to(79)
    status, headers, body = desk.ask()
    assert (status, "max_tokens" in headers.get("x-faregate-edits", "")) == (200, False)
    assert body["usage"]["completion_tokens"] > 16

    desk.used_to(80)
    status, headers, body = desk.ask()
    assert (status, "max_tokens=100->16" in headers["x-faregate-edits"].split(", ")) == (200, True)
    assert body["usage"]["completion_tokens"] <= 16

    amount = desk.used_to(95)
    status, headers, body = desk.ask()
    assert (status, headers["x-should-retry"]) == (402, "false")
    assert "from 95 % of the budget on, only local may serve" in body["error"]["message"]
    details = body["error"]["details"]
    assert (details["limit"], details["step"], details["only"], details["held"]) == (amount, 95, ["local"], "0")
    assert (details["spent"], details["resets_at"]) == (decimal_text(desk.spent()), "2026-11-20T16:00:00Z")

    spent = decimal_text(desk.spent())
    desk.write(LIVE.partition("steps:")[0].replace("AMOUNT", spent))
    status, headers, body = desk.ask()
    assert (status, headers["x-should-retry"], body["error"]["code"]) == (402, "false", "budget_exceeded")
    assert body["error"]["message"].startswith(f"Budget day of team search: {spent} spent and 0 held of {spent} USD; this request needs ")
    assert float(body["error"]["details"]["asked"]) > 0
    assert balance(desk.gateway)["is_available"] is False

    # The file is changed for the better, and what was spent stays spent.
    desk.write(LIVE.replace("AMOUNT", "0.25"))
    assert desk.ask()[0] == 200
    assert desk.spent() > round(float(spent) * NANO)


def balance(gateway: LiveGateway, path: str = "/user/balance", key: str = KEY) -> Any:
    return get_json(gateway.root + path, {"authorization": f"Bearer {key}"})


@pytest.mark.parametrize("path", ["/user/balance", "/v1/user/balance"])
def test_the_balance_is_what_the_ledger_has_left_in_deepseeks_shape(desk: Desk, path: str) -> None:
    desk.write(LIVE.replace("AMOUNT", "2.5"))
    left = 2_500_000_000 - desk.spent()
    shown = f"{left // NANO}.{left % NANO // 10_000_000:02d}"
    info = {"currency": "USD", "total_balance": shown, "granted_balance": "0.00", "topped_up_balance": shown}
    assert balance(desk.gateway, path) == {"is_available": True, "balance_infos": [info]}


def test_a_caller_without_budgets_has_no_figure(desk: Desk) -> None:
    desk.write(LIVE.replace("AMOUNT", "2.5").replace("team: search", "team: free").partition("budgets:")[0])
    assert balance(desk.gateway, key=KEY + "2") == {"is_available": True, "balance_infos": []}


def test_the_balance_needs_a_key(desk: Desk) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        balance(desk.gateway, key="nobody-has-this-one")
    with caught.value as error:
        assert error.code == 401


def test_a_team_sees_and_uses_its_own_names_only(desk: Desk) -> None:
    def names(key: str) -> set[str]:
        return {model["id"] for model in get_json(desk.gateway.base_url + "/models", {"authorization": f"Bearer {key}"})["data"]}

    desk.write(LIVE.replace("AMOUNT", "0.25").replace('"deepseek-*"', '"deepseek-v4-*", local'))
    assert "deepseek-v4-pro" in names(KEY)
    assert all(name.startswith("deepseek-v4-") for name in names(KEY))
    status, headers, body = desk.ask()
    assert (status, body["error"]["code"], headers["x-should-retry"]) == (403, "not_allowed", "false")
    assert "Team search may not use 'deepseek-flash'. It may use: " in body["error"]["message"]
    assert set(body["error"]["details"]["allowed"]) == names(KEY) | {"local"}

    desk.write(LIVE.replace("AMOUNT", "0.25").replace("[deepseek, local]", "[local]"))
    assert names(KEY) == set()
    assert desk.ask()[2]["error"]["message"] == "Team search may use local only, and 'deepseek-flash' is not served there."


def test_where_one_team_has_a_file_a_team_without_one_may_use_nothing(desk: Desk) -> None:
    desk.write(LIVE.replace("AMOUNT", "0.25"))
    status, _, body = desk.gateway.chat(ASK, key=KEY + "2")
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (403, "not_allowed")
    assert "Team free has no file in policies/teams/" in error["message"]
    assert get_json(desk.gateway.base_url + "/models", {"authorization": f"Bearer {KEY}2"})["data"] == []
    assert balance(desk.gateway, key=KEY + "2") == {"is_available": False, "balance_infos": []}


def test_the_admin_api_shows_budgets_teams_and_spend(desk: Desk) -> None:
    desk.write(LIVE.replace("AMOUNT", "0.25"))
    spent = desk.spent()
    (row,) = admin(desk.gateway, "/admin/v1/budgets?team=search")
    assert {name: row[name] for name in ("team", "budget", "currency", "limit", "spent", "held", "resets_at")} == {
        "team": "search", "budget": "day", "currency": "USD", "limit": "0.25", "spent": decimal_text(spent), "held": "0",
        "resets_at": "2026-11-20T16:00:00Z",
    }  # fmt: skip
    assert admin(desk.gateway, "/admin/v1/budgets?team=free") == []
    (team,) = admin(desk.gateway, "/admin/v1/teams")
    assert (team["team"], team["hosts"], team["steps"][1]["only"]) == ("search", ["deepseek", "local"], ["local"])
    spends = admin(desk.gateway, "/admin/v1/spend?by=team&from=2026-11-20&to=2026-11-21")
    assert {(one["team"], one["nano"]) for one in spends if one["team"] == "search"} == {("search", spent)}
    assert admin(desk.gateway, "/admin/v1/spend?by=key&from=2026-11-19&to=2026-11-20") == []
    assert len(admin(desk.gateway, "/admin/v1/spend?by=key&team=search")) == 1
    for query in ("by=colour", "from=yesterday", "to=2026-11-20T02:00:00"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            admin(desk.gateway, f"/admin/v1/spend?{query}")
        with caught.value as error:
            assert error.code == 422


def test_a_charge_counts_in_each_budgets_own_currency_rounded_up(desk: Desk) -> None:
    budgets = [("dollars", "USD"), ("yuan", "CNY")]
    rows = ", ".join(f'{{budget: {name}, amount: "1", currency: {currency}, period: week}}' for name, currency in budgets)
    desk.write(f'team: search\nroutes: ["*"]\nbudgets: [{rows}]\n')
    status, headers, _ = desk.ask()
    assert status == 200
    assert set(re.findall(r"(\w+)=[0-9.]+ (\w+)", headers["x-faregate-budget-left"])) == set(budgets)
    nano = desk.gateway.row(headers["x-request-id"])["nano"]

    found = {row["currency"]: row for row in admin(desk.gateway, "/admin/v1/budgets") if row["in_force"]}

    assert (found["USD"]["spent"], found["CNY"]["spent"]) == (decimal_text(nano), decimal_text(-(-nano * 71234 // 10000)))
    assert {info["currency"] for info in balance(desk.gateway)["balance_infos"]} == {"USD", "CNY"}
