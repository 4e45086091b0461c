"""Why a request went where it went: the numbers, the command, the admin API, and a request that is only explained."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.clock import parse_instant
from gateway.explain import explained
from gateway.ledger.port import Entry, Held, Trail
from gateway.ledger.postgres import PostgresStore
from gateway.ledger.sqlite import SqliteStore
from gateway.money import Parts, decimal_text
from gateway.outcome import Attempt, Break, Claim, Hold, LedgerRow, Option, PlanNote
from gateway.policies import Policies, default_folder, load
from gateway.quotes import quote
from gateway.usage import Sources, Usage
from tests.harness import ADMIN, KEY, LiveGateway, get_json, post
from tests.shell import run, said

AT = parse_instant("2026-11-20T02:00:00Z")
R1 = "deepseek/deepseek-r1-0528"
SERVED = Option(f"novita/{R1}", "USD", 3_000_000, 9_000_000, 1600, 1200, 900, 3_000_000, 100, "holds most of the prompt")
OTHER = Option(f"openrouter/{R1}", "USD", 4_000_000, 9_500_000, 1600, 400, 900, 4_000_000, 200, "holds less of it")
YUAN = Option("deepseek/deepseek-v4-pro", "CNY", 20_000_000, 90_000_000, 1500, 0, 700, 5_000_000, 0, "holds nothing of it")
GONE = Option("nowhere/model", "USD", 1, 2, 1600, 0, 900, 6_000_000, 0, "gone by now")
ROW = LedgerRow(
    id="r1",
    team="search",
    key="search-1a2b3c",
    route="deepseek-r1-0528",
    host="novita",
    model=R1,
    contract="deepseek-r1-0528",
    edits=("drop_user",),
    usage=Usage(1000, 500, 800, 600),
    currency="USD",
    nano=2_500_000,
    parts=Parts(100_000, 400_000, 2_000_000),
    card="novita-r1-0528",
    window="standard",
    policies="9f",
    started=AT,
    ended=AT + timedelta(seconds=3),
    status="ok",
    stopped=None,
    attempts=(Attempt("novita", R1, "ok", "known", 2_500_000),),
    expected_nano=3_000_000,
    worst_nano=9_000_000,
    plan=PlanNote((SERVED, OTHER, YUAN, GONE), ("gmi/x: not configured here (set GMI_API_KEY)",), "3f9a", 4, "cheapest"),
)
HOLD = Hold("r1", "search", ROW.key, ROW.route, "novita", R1, "USD", 9_000_000, 3_000_000, 9_000_000, ROW.card, "9f", AT, 9_000_000)


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Policies:
    """The shipped ones, and a rate between dollars and yuan."""
    folder = tmp_path_factory.mktemp("policies") / "policies"
    shutil.copytree(default_folder(), folder)
    (folder / "rates.yaml").write_text("[{from: USD, to: CNY, rate: '7.1', at: 2026-01-01T00:00:00Z, source: a test}]")
    return load(folder)


def priced(policies: Policies, option: Option, hit: int, miss: int, output: int) -> int:
    """By the quote that everybody can ask for."""
    host, _, model = option.name.partition("/")
    return quote(policies, host, model, AT, hit, miss, output, option.currency).nano


def test_the_others_are_priced_for_this_answer_with_what_they_were_expected_to_have_cached(policies: Policies) -> None:
    served, other, yuan, gone = explained(ROW, policies)["candidates"]

    assert (served["served"], served["would_have_cost"], served["difference"]) == (True, "0.0025", "0")
    # A quarter of the prompt was expected to be cached there, and the prompt had 1500 tokens.
    nano = priced(policies, OTHER, 375, 1125, 800)
    assert (other["served"], other["would_have_cost"], other["difference"]) == (False, decimal_text(nano), decimal_text(nano - ROW.nano))
    nano = priced(policies, YUAN, 0, 1500, 800)
    converted = policies.rates.convert(nano, "CNY", "USD", AT)
    assert converted is not None
    assert (yuan["would_have_cost"], yuan["difference"]) == (decimal_text(nano), decimal_text(converted - ROW.nano))
    assert (gone["would_have_cost"], gone["difference"]) == (None, None)


def test_the_others_are_priced_at_the_instant_that_their_own_card_names(policies: Policies) -> None:
    """The peak ends while the answer runs: DeepSeek charges by the end of an answer."""
    option = replace(SERVED, name="deepseek/deepseek-v4-pro", hit=0)
    edge = parse_instant("2026-11-20T04:00:00Z")
    row = replace(ROW, started=edge - timedelta(seconds=1), ended=edge + timedelta(seconds=2), plan=PlanNote((option,)))
    (found,) = explained(row, policies)["candidates"]
    quiet = quote(policies, "deepseek", "deepseek-v4-pro", row.ended, 0, 1500, 800).nano
    assert found["would_have_cost"] == decimal_text(quiet)
    assert quiet < quote(policies, "deepseek", "deepseek-v4-pro", row.started, 0, 1500, 800).nano


def test_what_was_foretold_stands_beside_it(policies: Policies) -> None:
    found = explained(ROW, policies)

    assert found["predicted"] == {"prompt": 1600, "cache_hit": 1200, "output": 900, "expected": "0.003", "currency": "USD"}
    assert (found["mode"], found["conversation"], found["turn"], found["broke"]) == ("cheapest", "3f9a", 4, None)
    assert found["candidates"][1]["nano"] == {"expected": 4_000_000, "worst": 9_500_000, "score": 4_000_000, "later": 200}
    assert (found["candidates"][1]["expected"], found["candidates"][1]["worst"]) == ("0.004", "0.0095")


def test_without_usage_policies_or_plan_less_is_known(policies: Policies) -> None:
    for row, book in ((replace(ROW, usage=None, nano=0, parts=None), policies), (ROW, None)):
        assert [one["would_have_cost"] for one in explained(row, book)["candidates"]][1:] == [None] * 3
    bare = explained(replace(ROW, plan=None), policies)
    assert (bare["candidates"], bare["passed_over"], bare["predicted"], bare["mode"], bare["turn"]) == ([], [], None, None, None)


def test_the_hold_and_the_entries_are_told(policies: Policies) -> None:
    trail = Trail(
        "settled", "USD", 9_000_000, (Held("search", "day", "", "2026-11-20", "USD", 9_000_000),), (Entry("settle", 5, "reported", AT),)
    )
    found = explained(ROW, policies, trail)
    assert found["hold"] == {
        "state": "settled",
        "currency": "USD",
        "amount": "0.009",
        "budgets": [{"team": "search", "budget": "day", "key": None, "currency": "USD", "held": "0.009"}],
    }
    assert found["entries"] == [{"kind": "settle", "amount": "0.000000005", "source": "reported", "at": "2026-11-20T02:00:00Z"}]


def test_a_broken_prefix_has_its_price_and_its_remedy(policies: Policies) -> None:
    broke = Break("messages[0] (system)", 0, 256, "system_changed", 1200, 700_000)
    found = explained(replace(ROW, plan=PlanNote((SERVED,), broke=broke)), policies)["broke"]
    assert (found["part"], found["offset"], found["within"], found["lost"], found["currency"]) == (broke.part, 0, 256, "0.0007", "USD")
    assert "take what changes out" in found["remedy"]


# -- the command


def kept(folder: Path, row: LedgerRow | None, hold: Hold = HOLD) -> str:
    """A ledger with one request in it; without a row it is still under way."""

    async def write() -> None:
        store = SqliteStore(folder / "ledger.db")
        await store.start()
        await store.hold(hold, "me", 1000)
        if row is not None:
            await store.finish("settle", row)
        await store.close()

    asyncio.run(write())
    return f"sqlite:///{folder / 'ledger.db'}"


def test_a_team_lead_reads_what_it_cost_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str], policies: Policies) -> None:
    claim = Claim("search", "day", "", "2026-11-20", "USD", 10**9, None)
    ledger = kept(tmp_path, ROW, replace(HOLD, claims=(claim,)))

    code, out, err = said(capsys, "explain", "r1", "--ledger", ledger)

    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"search (search-1a2b3c) asked for deepseek-r1-0528; novita/{R1} served it for 0.0025 USD."
    assert lines[1] == "Answered in 3.00 s, 2026-11-20 02:00:00 UTC."
    assert "why          holds most of the prompt" in lines
    other = priced(policies, OTHER, 375, 1125, 800)
    percent = f"{(other - ROW.nano) * 100 / ROW.nano:+.0f} %"
    table = [re.split(r"\s{2,}", line.strip()) for line in lines if "novita/" in line or "openrouter/" in line][1:]
    assert table[0] == [">", f"novita/{R1}", "0.003", "1200 of 1600", "0.003", "0.0025", "charged", "holds most of the prompt"]
    assert table[1] == [f"openrouter/{R1}", "0.004", "400 of 1600", "0.004", decimal_text(other), percent, "holds less of it"]
    assert "passed over  gmi/x: not configured here (set GMI_API_KEY)" in lines
    assert "tokens       prompt 1500: 1000 from the cache (1200 of 1600 expected); output 800 (900 expected), 600 of it reasoning; " in out
    assert (
        "charge       0.0025 USD = 0.0001 cached + 0.0004 not cached + 0.002 output; card novita-r1-0528, window standard, policies 9f"
        in lines
    )
    assert "hold         0.009 USD, settled (expected 0.003, at most 0.009)" in lines
    assert "             0.009 USD of budget day of team search" in lines
    assert "edits        drop_user" in lines
    assert "attempts" not in out and "prefix" not in out


def test_no_name_steers_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b[2Jb\nc"
    plan = PlanNote((SERVED, replace(OTHER, why=evil)), (evil,))
    row = replace(ROW, team=evil, route=evil, edits=(evil,), plan=plan)

    code, out, err = said(capsys, "explain", "r1", "--ledger", kept(tmp_path, row))

    assert (code, err) == (0, "")
    assert out.count(r"a\x1b[2Jb\nc") == 5 and all(line.isprintable() for line in out.split("\n"))


def test_json_is_what_the_admin_api_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "explain", "r1", "--ledger", kept(tmp_path, ROW), "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["id"], found["usage"]["cache_hit"], found["quote"]) == ("r1", 1000, {"expected": 3_000_000, "worst": 9_000_000})
    assert found["candidates"] == explained(ROW, load(default_folder()))["candidates"]
    assert found["hold"]["state"] == "settled"


FAILED = Attempt("openrouter", R1, "timeout", "possible", 1000)
TEXTS: dict[str, tuple[LedgerRow, list[str]]] = {
    "the second attempt": (
        replace(ROW, attempts=(FAILED, ROW.attempts[0]), plan=PlanNote((OTHER, SERVED))),
        [
            f"why          the first choice was openrouter/{R1}, which failed before its first byte",
            f"attempts     openrouter/{R1}: timeout, possibly billed 0.000001 USD",
            f"             novita/{R1}: ok, billed 0.0025 USD",
        ],
    ),
    "one candidate": (replace(ROW, plan=PlanNote((SERVED,))), ["why          no other deployment could serve it"]),
    "the lowest score": (
        replace(ROW, plan=PlanNote((replace(SERVED, why=""), replace(OTHER, why=""), GONE), mode="cheapest")),
        [f"why          cheapest in the end, with what is still to come of the conversation: 0.003, at openrouter/{R1} 0.004"],
    ),
    "nothing to compare": (
        replace(ROW, plan=PlanNote((replace(SERVED, why=""), OTHER), mode="cheapest")),
        ["no price of the others can be"],
    ),
    "the order": (replace(ROW, plan=PlanNote((replace(SERVED, why=""), OTHER), mode="order")), ["why          first in its route"]),
    "an older row": (replace(ROW, plan=None), ["why          its plan is not known: "]),
    "a broken prefix": (
        replace(ROW, plan=PlanNote((SERVED,), broke=Break("tools", 256, 256, "tools_order", 1200, 700_000))),
        ["prefix       broken at tools, within 256 bytes of byte 256 (tools_order): 1200 tokens could have been cached, 0.0007 USD"],
    ),
    "nothing said of the cache": (
        replace(ROW, usage=Usage(0, 1500, 800, 0, Sources(cache_hit="unknown"))),
        ["tokens       prompt 1500: the host does not say what was cached"],
    ),
    "counted": (replace(ROW, usage=Usage(0, 1500, 800, 0, Sources("unknown", "counted", "counted"))), ["counted by the gateway"]),
    "the host's own figure": (
        replace(ROW, host_nano=2_400_000, disputed=True),
        ["the host itself says 0.0024 (disputed: ours is charged)"],
    ),
    "asked for by name": (
        replace(ROW, route=f"novita/{R1}", plan=PlanNote((SERVED,))),
        ["why          it was asked for by name"],
    ),
    "failed": (
        replace(
            ROW, status="upstream_error", nano=0, usage=None, parts=None, attempts=(Attempt("novita", R1, "upstream_error", "none", 0),)
        ),
        [f"asked for deepseek-r1-0528; no whole answer came from novita/{R1}; charged: 0 USD.", "Failed at the host in 3.00 s"],
    ),
    "failed twice": (
        replace(ROW, status="timeout", attempts=(FAILED, replace(FAILED, host="novita"))),
        [f"no whole answer came from novita/{R1}, the last to be asked; charged: 0.0025 USD."],
    ),
    "left": (
        replace(ROW, status="client_gone"),
        [f"novita/{R1} served it until the client left, for 0.0025 USD."],
    ),
    "stopped": (replace(ROW, status="stopped", stopped="budget"), ["Stopped (budget) in 3.00 s"]),
}


def test_without_a_plan_there_is_no_table_and_no_gap_in_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said(capsys, "explain", "r1", "--ledger", kept(tmp_path, replace(ROW, plan=None)))
    assert "\n\n\n" not in out and "why          its plan is not known" in out


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_says(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row, texts = TEXTS[name]
    code, out, _ = said(capsys, "explain", "r1", "--ledger", kept(tmp_path, row))
    assert code == 0
    for text in texts:
        assert text in out


def test_an_unknown_request_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    code, out, err = run("explain", "r2", "--ledger", kept(tmp_path, ROW), folder=tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("faregate: there is no request 'r2' in the ledger. It is the x-request-id of an answer;")


def test_a_request_that_is_under_way_is_told_as_that(tmp_path: Path) -> None:
    code, _, err = run("explain", "r1", "--ledger", kept(tmp_path, None), folder=tmp_path)
    assert (code, err) == (2, "faregate: request r1 is still under way: it holds 0.009 USD\n")


def test_postgres_is_asked_in_the_same_way(postgres_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def write() -> None:
        store = PostgresStore(postgres_url)
        await store.start()
        await store.hold(HOLD, "me", 1000)
        await store.finish("settle", ROW)
        await store.close()

    asyncio.run(write())
    code, out, _ = said(capsys, "explain", "r1", "--ledger", postgres_url)
    assert code == 0
    assert "why          holds most of the prompt" in out and "hold         0.009 USD, settled" in out


# -- a live gateway

CLOCK = "2026-11-20T02:00:00Z"
ROUTE = f"""
- route: both
  contract: deepseek-r1-0528
  deployments: [gmi/deepseek-ai/DeepSeek-R1-0528, novita/{R1}]
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGateway]:
    folder = tmp_path_factory.mktemp("explain")
    shutil.copytree(default_folder(), folder / "policies")
    routes = folder / "policies" / "routes.yaml"
    routes.write_text(routes.read_text() + ROUTE)
    with LiveGateway(folder, ("gmi", "novita"), CLOCK, {"FAREGATE_POLICIES": str(folder / "policies")}) as running:
        yield running


def asked(gateway: LiveGateway, body: dict[str, Any], **headers: str) -> tuple[int, dict[str, str], Any]:
    sent = {"authorization": f"Bearer {KEY}", "content-type": "application/json", **headers}
    status, found, data = post(gateway.root + "/v1/chat/completions", json.dumps(body).encode(), sent)
    return status, found, json.loads(data)


QUESTION = {"model": "both", "messages": [{"role": "user", "content": "Say one word of a secret: kumquat."}], "max_tokens": 64}


def test_a_routed_request_is_explained(gateway: LiveGateway, capsys: pytest.CaptureFixture[str]) -> None:
    status, headers, _ = asked(gateway, QUESTION)
    assert status == 200
    row = gateway.row(headers["x-request-id"])

    served = f"{headers['x-faregate-host']}/{headers['x-faregate-model']}"
    assert {one["name"]: one["served"] for one in row["candidates"]} == {
        name: name == served for name in ("gmi/deepseek-ai/DeepSeek-R1-0528", f"novita/{R1}")
    }
    assert row["mode"] == "cheapest" and row["turn"] == 1
    other = next(one for one in row["candidates"] if not one["served"])
    usage = row["usage"]
    assert other["would_have_cost"] is not None
    nano = quote(
        load(gateway.folder / "policies"), other["host"], other["model"], AT, 0, usage["cache_hit"] + usage["cache_miss"], usage["output"]
    )
    assert other["would_have_cost"] == decimal_text(nano.nano)

    ledger = f"sqlite:///{gateway.ledger}"
    policies = str(gateway.folder / "policies")
    code, out, _ = said(capsys, "explain", row["id"], "--ledger", ledger, "--policies", policies, "--json")
    assert (code, json.loads(out)) == (0, row)
    code, out, _ = said(capsys, "explain", row["id"], "--ledger", ledger, "--policies", policies)
    assert code == 0 and f"{served} served it for {decimal_text(row['nano'])} USD." in out
    assert "kumquat" not in out + json.dumps(row)


def spent(gateway: LiveGateway) -> Any:
    """Every trace that a request leaves."""
    return gateway.rows(), [(host.bill(), len(host.requests())) for host in gateway.hosts.values()]


def test_a_dry_run_explains_and_spends_nothing(gateway: LiveGateway) -> None:
    before = spent(gateway)

    status, headers, found = asked(gateway, QUESTION, **{"x-faregate-dry-run": "1"})

    assert (status, found["object"], found["id"], found["route"]) == (200, "faregate.dry_run", headers["x-request-id"], "both")
    assert {one["host"] for one in found["candidates"]} == {"gmi", "novita"}
    first = found["candidates"][0]
    assert first["nano"]["expected"] <= first["nano"]["worst"] and first["card"] and first["contract"] == "deepseek-r1-0528"
    assert "kumquat" not in json.dumps(found)
    assert spent(gateway) == before
    budgets = get_json(f"{gateway.admin_url}/admin/v1/budgets", {"authorization": f"Bearer {ADMIN}"})
    assert budgets == []


def test_a_dry_run_of_what_nothing_serves_is_refused_as_the_request_would_be(gateway: LiveGateway) -> None:
    for body in ({**QUESTION, "model": "nothing"}, {**QUESTION, "max_tokens": -1}):
        dry = asked(gateway, body, **{"x-faregate-dry-run": "1"})
        wet = asked(gateway, body)
        assert (dry[0], dry[2]["error"]["code"]) == (wet[0], wet[2]["error"]["code"])
