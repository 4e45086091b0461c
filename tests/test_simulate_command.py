"""`faregate simulate`, and what `faregate quote` says of many questions and of the next version."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace

from benchmarks.sessions import sessions
from gateway.ledger.sqlite import SqliteStore
from gateway.money import Parts
from gateway.outcome import PlanNote
from gateway.usage import Usage
from tests.ledgers import HOLD, ROW
from tests.shell import json_of, run, said

NOW = datetime.now(UTC)
R1 = ["--host", "deepseek", "--model", "deepseek-reasoner", "--at", "2025-03-01T00:00:00Z"]


@pytest.fixture
def trace(tmp_path: Path) -> str:
    file = tmp_path / "agents.jsonl"
    file.write_text("".join(line.text() + "\n" for line in sessions("agents", 5, 8)))
    return str(file)


def test_the_table_names_every_way_of_choosing_and_says_what_is_saved(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "simulate", trace, "--menu", "look-ahead")
    assert (code, err) == (0, "")
    for name in ("only A", "only B", "only C", "list price", "myopic", "sticky", "random", "look-ahead", "oracle", "hindsight"):
        assert f"\n{name} " in out
    assert "Looking ahead costs" in out
    assert "in 8 conversations" in out


def test_json_has_a_report_for_each_menu(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(capsys, "simulate", trace, "--menu", "look-ahead", "unreliable-cache", "--json")
    assert [report["menu"] for report in found["reports"]] == ["look-ahead", "unreliable-cache"]
    assert {one["strategy"] for one in found["reports"][1]["strategies"]} >= {"only A", "only C", "look-ahead", "hindsight"}
    assert "next" not in found


def test_routes_are_replayed_at_the_cards_of_the_instant(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["simulate", trace, "--at", "2026-11-20T02:00:00Z", "--json"]
    named = json_of(capsys, *words, "--routes", "deepseek-r1-0528")["reports"][0]
    assert (named["menu"], named["begins"]) == ("deepseek-r1-0528", "2026-11-20T02:00:00Z")
    assert len(named["strategies"][0]["share"]) >= 2
    usual = json_of(capsys, *words)["reports"][0]
    assert len(usual["strategies"][0]["share"]) >= 2


def test_the_chart_is_written(trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bills.svg"
    assert said(capsys, "simulate", trace, "--menu", "look-ahead", "--chart", str(file))[0] == 0
    assert ElementTree.parse(file).getroot().tag.endswith("svg")
    said(capsys, "simulate", trace, "--menu", "look-ahead", "unreliable-cache", "--chart", str(file))
    assert sorted(one.name for one in tmp_path.glob("*.svg")) == ["bills-look-ahead.svg", "bills-unreliable-cache.svg", "bills.svg"]


def bill(report: dict[str, object], name: str = "look-ahead") -> dict[str, int]:
    strategies = report["strategies"]
    assert isinstance(strategies, list)
    found: dict[str, int] = next(one for one in strategies if one["strategy"] == name)
    return found


def test_the_next_versions_answers_are_longer_by_what_the_contracts_say(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    """R1 to R1-0528: 12,000 to 23,000 tokens a question."""
    found = json_of(capsys, "simulate", trace, "--menu", "look-ahead", "--next", "deepseek-r1-0528", "--json")
    now, then = bill(found["reports"][0], "only A"), bill(found["next"][0], "only A")
    assert then["output_tokens"] == pytest.approx(now["output_tokens"] * 23 / 12, rel=0.01)
    assert then["prompt_tokens"] == now["prompt_tokens"]
    _, out, _ = said(capsys, "simulate", trace, "--menu", "look-ahead", "--next", "deepseek-r1-0528")
    assert "1.92 times as long as deepseek-r1's (23,000 tokens a question, not 12,000)" in out
    assert "times as much" in out.splitlines()[-1]


def test_the_same_requests_at_other_prices(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(capsys, "simulate", trace, "--menu", "look-ahead", "--next-menu", "unreliable-cache", "--json")
    assert found["next"][0]["menu"] == "unreliable-cache"
    assert bill(found["next"][0])["output_tokens"] == bill(found["reports"][0])["output_tokens"]
    found = json_of(
        capsys, "simulate", trace, "--menu", "look-ahead", "--next-routes", "deepseek-r1-0528", "--at", "2026-11-20T02:00:00Z", "--json"
    )
    assert found["next"][0]["menu"] == "deepseek-r1-0528"


def test_half_of_the_conversations_only_teach(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(capsys, "simulate", trace, "--menu", "look-ahead", "--test-half", "--json")["reports"][0]
    assert found["sessions"] == 4


UNFIT = {
    "no trace": (["--menu", "look-ahead"], "name a trace"),
    "two sources": (["TRACE", "--ledger", "sqlite:///x.db"], "name a trace"),
    "an unknown menu": (["TRACE", "--menu", "none"], "look-ahead"),
    "an unknown route": (["TRACE", "--routes", "none"], "there is no route"),
    "a route of no host then": (["TRACE", "--routes", "deepseek-r1-0528", "--at", "2020-01-01T00:00:00Z"], "--at"),
    "an instant without a zone": (["TRACE", "--at", "2026-11-20T02:00:00"], "--at"),
    "a chart of another kind": (["TRACE", "--menu", "look-ahead", "--chart", "bills.png"], "bills.svg"),
    "an export of a trace": (["TRACE", "--export", "x.jsonl"], "--ledger"),
    "a version of which nothing is known": (["TRACE", "--menu", "look-ahead", "--next", "deepseek-v3"], "deepseek-r1-0528"),
    "no version at all": (["TRACE", "--menu", "look-ahead", "--next", "none"], "there is no contract"),
    "all hosts of a trace": (["TRACE", "--all-hosts"], "--all-hosts goes with --ledger"),
    "blocks of nothing": (["TRACE", "--block", "0"], "at least 1"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_cannot_be_done_is_one_line_with_the_remedy(case: str, trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, expected = UNFIT[case]
    code, out, err = said(capsys, "simulate", *(trace if word == "TRACE" else word for word in words))
    assert (code in (1, 2), out) == (True, "")
    assert expected in err
    assert len(err.strip().splitlines()) == 1


def test_a_wrong_line_is_named_by_file_and_line(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Path(trace).open("a") as file:
        file.write('{"timestamp": "soon"}\n')
    count = len(Path(trace).read_text().splitlines())
    code, _, err = said(capsys, "simulate", trace, "--menu", "look-ahead")
    assert code == 2
    assert f"{trace}:{count}: " in err


# ---- the ledger as a trace


async def filled(store: SqliteStore) -> None:
    """Two conversations of team search, one of team ads; all settled within the last minutes."""
    await store.start()
    for number, (team, conversation, turn, prompt) in enumerate(
        [("search", "c1", 1, 1000), ("search", "c2", 1, 4000), ("search", "c1", 2, 1500), ("ads", "c3", 1, 700), ("search", "c1", 3, 2100)]
    ):
        id, at = f"r{number}", NOW - timedelta(minutes=30 - number)
        await store.hold(replace(HOLD, id=id, team=team, started=at), "a test", 30.0)
        row = replace(
            ROW,
            id=id,
            team=team,
            contract="deepseek-r1" if team == "search" else "deepseek-flash",
            usage=Usage(prompt // 2, prompt - prompt // 2, 120),
            parts=Parts(50, 150, 200),
            nano=400,
            started=at,
            ended=at + timedelta(seconds=5),
            plan=PlanNote((), conversation=conversation, turn=turn),
        )
        await store.finish("settle", row)
    await store.close()


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    asyncio.run(filled(SqliteStore(tmp_path / "ledger.db")))
    return f"sqlite:///{tmp_path}/ledger.db"


def test_a_ledger_is_replayed_and_exported_without_text(ledger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["simulate", "--ledger", ledger, "--team", "search"]
    straight = json_of(capsys, *words, "--menu", "look-ahead", "--json")["reports"][0]
    assert (straight["requests"], straight["sessions"]) == (4, 2)
    assert bill(straight, "only A")["hit_tokens"] == 1000 + 1500

    file = tmp_path / "own.jsonl"
    code, out, _ = said(capsys, *words, "--export", str(file))
    assert (code, "4 requests of team search" in out) == (0, True)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {key for line in lines for key in line} == {"timestamp", "session", "input_length", "output_length", "shared_length"}
    again = json_of(capsys, "simulate", str(file), "--menu", "look-ahead", "--json")["reports"][0]
    assert again["strategies"] == straight["strategies"]


def test_a_ledger_without_such_requests_says_so(ledger: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, "simulate", "--ledger", ledger, "--team", "none", "--menu", "look-ahead")
    assert (code, "no request of team none in the last 30 days" in err) == (2, True)
    assert said(capsys, "simulate", "--ledger", "sqlite:////none/ledger.db", "--menu", "look-ahead")[0] == 1


# ---- by default the ledger's own routes, hosts and times


# At R1's time: two conversations by its route, and one V3's; half an hour of New Year's night, at the price of that hour.
THEN = datetime(2025, 3, 1, 16, 45, tzinfo=UTC)


async def of_then(store: SqliteStore) -> None:
    await store.start()
    asked = [("deepseek-chat", "deepseek-v3", "deepseek-chat")] + [("deepseek-reasoner", "deepseek-r1", "deepseek-reasoner")] * 3
    for number, (route, version, model) in enumerate(asked):
        at = THEN + timedelta(minutes=number)
        await store.hold(replace(HOLD, id=f"r{number}", route=route, started=at), "a test", 30.0)
        row = replace(
            ROW,
            id=f"r{number}",
            route=route,
            model=model,
            contract=version,
            usage=Usage(0, 1000, 1200),
            parts=Parts(0, 135_000, 660_000),
            nano=795_000,
            started=at,
            ended=at + timedelta(seconds=5),
        )
        await store.finish("settle", row)
    await store.close()


@pytest.fixture
def night(tmp_path: Path) -> dict[str, Any]:
    asyncio.run(of_then(SqliteStore(tmp_path / "ledger.db")))
    return {"folder": tmp_path, "FAREGATE_LEDGER": f"sqlite:///{tmp_path}/ledger.db", "FAREGATE_CLOCK": "2025-03-02T12:00:00Z"}


def test_the_ledgers_routes_are_replayed_each_with_its_own_requests_at_the_prices_of_their_time(night: dict[str, Any]) -> None:
    code, out, err = run("simulate", "--ledger", "--json", **night)
    assert (code, err) == (0, "")
    first, second = json.loads(out)["reports"]
    assert [(one["menu"], one["contract"], one["requests"]) for one in (first, second)] == [
        ("deepseek-reasoner", "deepseek-r1", 3),
        ("deepseek-chat", "deepseek-v3", 1),
    ]
    assert (first["begins"], second["begins"]) == ("2025-03-01T16:46:00Z", "2025-03-01T16:45:00Z")
    # The night's price, to the nano what the ledger has: a replay at noon's would cost four times as much.
    assert bill(first)["nano"] == first["ledger_nano"]["USD"] == 3 * 795_000


def test_it_says_what_was_assumed(night: dict[str, Any]) -> None:
    code, out, _ = run("simulate", "--ledger", "--team", "search", **night)
    assert code == 0
    assert "3 requests of route deepseek-reasoner, answered by deepseek-r1: 0.002385 USD in the ledger. Prices of their time" in out
    assert "1 request in 1 conversation" in out


def test_the_next_version_of_the_ledgers_own_traffic(night: dict[str, Any]) -> None:
    """Answers of 1,200 tokens become 2,300; V3's, of which nobody says how long they are, are said to be left out."""
    code, out, err = run("simulate", "--ledger", "--team", "search", "--next", "deepseek-r1-0528", **night)
    assert (code, err) == (0, "")
    assert "answers of deepseek-r1-0528, 1.92 times as long as deepseek-r1's (23,000 tokens a question, not 12,000)" in out
    # 135 + 1,265 micro-USD a request.
    assert "Looking ahead, the same requests would cost 0.004200 USD instead of 0.002385: 1.76 times as much." in out
    assert "--next: nobody says how long the answers of deepseek-v3 are" in out


def test_answers_of_that_version_already_are_not_a_comparison(night: dict[str, Any]) -> None:
    code, out, err = run("simulate", "--ledger", "--next", "deepseek-r1", **night)
    assert (code, out) == (2, "")
    assert "these answers are those of deepseek-r1 already, so nothing would change" in err


async def of_today(store: SqliteStore) -> None:
    await store.start()
    for id, route in (("a", "deepseek-r1-0528"), ("b", "gone")):
        await store.hold(replace(HOLD, id=id, route=route, started=NOW), "a test", 30.0)
        names = {"host": "novita", "model": "deepseek/deepseek-r1-0528", "contract": "deepseek-r1-0528"}
        row = replace(ROW, id=id, route=route, started=NOW - timedelta(hours=1), ended=NOW - timedelta(hours=1), **names)
        await store.finish("settle", row)
    await store.close()


def test_only_hosts_that_one_has_compete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that served and one whose key is set; the others with --all-hosts. A route that is gone is named."""
    asyncio.run(of_today(SqliteStore(tmp_path / "ledger.db")))
    settings = {"FAREGATE_LEDGER": f"sqlite:///{tmp_path}/ledger.db", "GMI_API_KEY": "k"}
    code, out, err = run("simulate", "--ledger", "--json", folder=tmp_path, **settings)
    assert code == 0
    (found,) = json.loads(out)["reports"]
    assert {one.partition("/")[0] for one in found["strategies"][0]["share"]} == {"novita", "gmi"}
    assert "not configured here (--all-hosts)" in found["assumed"] and "siliconflow" in found["assumed"]
    assert err.startswith("left out, because the route is in the policies no more: 1 request of route gone")
    code, out, _ = run("simulate", "--ledger", "--all-hosts", "--json", folder=tmp_path, **settings)
    assert "siliconflow/deepseek-ai/DeepSeek-R1" in json.loads(out)["reports"][0]["strategies"][0]["share"]


# ---- quotes of many questions, and of the next version


def test_questions_are_priced_at_the_versions_own_length(capsys: pytest.CaptureFixture[str]) -> None:
    """800 tokens of prompt, 12,000 of answer at R1's night price of 2025-03-01: 0.135 and 0.55 a million."""
    found = json_of(capsys, "quote", *R1, "--miss", "800", "--questions", "10000", "--next", "deepseek-r1-0528", "--json")
    assert (found["amount"], found["questions"]["amount"], found["questions"]["count"]) == ("0.006708", "67.08", 10000)
    assert (found["next"]["output"], found["next"]["amount"]) == (23000, "127.58")
    _, out, _ = said(capsys, "quote", *R1, "--miss", "800", "--questions", "10000", "--next", "deepseek-r1-0528")
    assert "10,000 such requests: 67.08 USD" in out
    assert "10,000 such requests: 127.58 USD instead of 67.08" in out


def test_questions_of_unknown_length_are_priced_at_the_length_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """800 and 1,000 tokens of V4.1-Flash at the peak: 0.30 and 1.20 a million."""
    flash = ["--host", "deepseek", "--model", "deepseek-flash", "--at", "2026-11-20T02:00:00Z", "--miss", "800", "--questions", "10000"]
    assert json_of(capsys, "quote", *flash, "--output", "1000", "--json")["questions"]["amount"] == "14.4"
    assert json_of(capsys, "quote", *flash, "--output", "0", "--json")["questions"]["amount"] == "2.4"


def test_a_length_that_is_given_is_scaled(capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(capsys, "quote", *R1, "--output", "1200", "--next", "deepseek-r1-0528", "--json")
    assert found["next"]["output"] == 2300
    plain = json_of(capsys, "quote", *R1, "--output", "1200", "--json")
    assert plain == {key: value for key, value in found.items() if key != "next"}


def test_a_team_sees_what_the_next_version_would_have_cost(ledger: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["quote", "--team", "search", "--next", "deepseek-r1-0528", "--ledger", ledger]
    found = json_of(capsys, *words, "--json")["traffic"]
    # Four requests of 200 nano of prompt and 200 of answer; the answers grow by 23/12.
    assert found == [
        {
            "currency": "USD",
            "requests": 4,
            "unchanged": 0,
            "output_tokens": 480,
            "output_tokens_next": 920,
            "nano": 1600,
            "amount": "0.0000016",
            "nano_next": 4 * (200 + 384),
            "amount_next": "0.000002336",
        }
    ]
    code, out, _ = said(capsys, *words)
    assert (code, "4 requests" in out, "920 output tokens" in out) == (0, True, True)


def test_versions_of_unknown_length_are_counted_as_they_were(ledger: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["quote", "--team", "ads", "--next", "deepseek-r1-0528", "--ledger", ledger]
    (found,) = json_of(capsys, *words, "--json")["traffic"]
    assert (found["unchanged"], found["nano"], found["nano_next"]) == (1, 400, 400)
    assert "counted as they were" in said(capsys, *words)[1]


UNQUOTED = {
    "nothing to price": ([], "--host and --model"),
    "a team without a version": (["--team", "search"], "--next"),
    "a version of unknown length": (["--team", "search", "--next", "deepseek-v3"], "deepseek-r1-0528"),
    "no questions": ([*R1, "--questions", "0"], "1 or more"),
    "a negative count": ([*R1, "--miss", "-1"], "0 or more"),
    "questions of unknown length": (
        ["--host", "deepseek", "--model", "deepseek-flash", "--at", "2026-11-20T02:00:00Z", "--miss", "800", "--questions", "10000"],
        "nobody says how long the answers of deepseek-v4.1-flash are. Say it with --output",
    ),
    "questions to a baseline": (["--host", "openai", "--model", "gpt-4o", "--at", "2026-11-20", "--questions", "5"], "--output"),
    "no version behind the name": (
        ["--host", "openai", "--model", "gpt-4o", "--miss", "5", "--next", "deepseek-r1-0528"],
        "no version is known",
    ),
}


@pytest.mark.parametrize("case", UNQUOTED)
def test_what_cannot_be_quoted_is_said_in_one_line(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, expected = UNQUOTED[case]
    code, out, err = said(capsys, "quote", *words)
    assert (code in (1, 2), out, expected in err, len(err.strip().splitlines())) == (True, "", True, 1)
