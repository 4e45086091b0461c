"""What caches served and what broken prefixes cost: the sums, the command, the admin API, and policies that mend it."""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
import urllib.request
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.clock import parse_instant
from gateway.ledger.sqlite import SqliteStore
from gateway.losses import Losses
from gateway.money import NANO, Parts, decimal_text
from gateway.outcome import Attempt, Break, Hold, LedgerRow, Option, PlanNote
from gateway.policies import default_folder, load
from gateway.quotes import quote
from gateway.usage import Sources, Usage
from tests.harness import ADMIN, LiveGateway, get_json
from tests.shell import run, said

AT = parse_instant("2026-11-20T02:00:00Z")
DAY = timedelta(days=1)
HEAD = Break("messages[0] (system)", 0, 256, "system_changed", 800, 400)


USED = Usage(200, 800, 50)


def row(usage: Usage | None = USED, broke: Break | None = None, predicted: int | None = 150, id: str = "r", **more: Any) -> LedgerRow:
    options = () if predicted is None else (Option("h/m", "USD", 1, 2, 1000, predicted, 50),)
    made = LedgerRow(
        id, "search", "k", "r", "h", "m", "c", (), usage, "USD", 900, Parts(0, 0, 900), "card", "", "9f", AT, AT, "ok", None,
        (Attempt("h", "m", "ok", "known", 900),), 1, 2, plan=PlanNote(options, broke=broke),
    )  # fmt: skip
    return replace(made, **more)


def report(*rows: LedgerRow, span: timedelta = DAY) -> dict[str, Any]:
    losses = Losses()
    for one in rows:
        losses.add(one)
    return losses.to_json(AT - span, AT, lambda nano, currency: {"USD": nano, "CNY": nano // 7}.get(currency))


def test_tokens_are_summed_by_key_and_by_deployment() -> None:
    rows = [row(), row(Usage(500, 500, 1), predicted=600), row(key="other", host="g"), row(team="chat")]

    found = report(*rows)

    assert [(one["team"], one["key"], one["requests"], one["hit_rate"]) for one in found["keys"]] == [
        ("chat", "k", 1, 0.2),
        ("search", "k", 2, 0.35),
        ("search", "other", 1, 0.2),
    ]
    mine = found["keys"][1]
    assert (mine["prompt_tokens"], mine["cache_hit_tokens"], mine["predicted_hit_tokens"], mine["actual_hit_tokens"]) == (
        2000,
        700,
        750,
        700,
    )
    assert [(one["host"], one["requests"], one["predicted_hit_tokens"]) for one in found["deployments"]] == [("g", 1, 0), ("h", 3, 900)]
    assert (found["from"], found["to"], found["breaks"]) == ("2026-11-19T02:00:00Z", "2026-11-20T02:00:00Z", [])


UNMEASURED = {
    "the host does not say": row(Usage(0, 1000, 50, 0, Sources(cache_hit="unknown"))),
    "it was counted": row(Usage(0, 1000, 50, 0, Sources("counted", "counted", "counted"))),
    "two attempts in one sum": row(attempts=(Attempt("g", "m", "timeout", "possible", 1), Attempt("h", "m", "ok", "known", 899))),
    "nothing was used": row(None, nano=0, parts=None),
}


@pytest.mark.parametrize("name", UNMEASURED)
def test_what_nobody_measured_is_left_out_of_rates(name: str) -> None:
    (found,) = report(UNMEASURED[name])["keys"]
    assert (found["requests"], found["measured"], found["hit_rate"], found["predicted_hit_tokens"]) == (1, 0, None, 0)


def test_a_row_without_a_forecast_counts_for_the_rate_alone() -> None:
    (found,) = report(row(predicted=None), replace(row(), plan=None))["keys"]
    assert (found["measured"], found["cache_hit_tokens"], found["predicted_hit_tokens"], found["actual_hit_tokens"]) == (2, 400, 0, 0)


def test_breaks_are_summed_by_place_and_kind_and_the_dearest_come_first() -> None:
    tools = Break("tools", 256, 256, "tools_changed", 500, 900)
    rows = [
        row(broke=HEAD),
        row(broke=replace(HEAD, within=512)),
        row(broke=tools),
        row(broke=HEAD, currency="CNY"),
        row(broke=HEAD, key="z"),
    ]

    found = report(*rows, span=timedelta(hours=6))["breaks"]

    assert [(one["part"], one["key"], one["currency"], one["times"], one["tokens"], one["nano"]) for one in found] == [
        ("tools", "k", "USD", 1, 500, 900),
        ("messages[0] (system)", "k", "USD", 2, 1600, 800),
        ("messages[0] (system)", "z", "USD", 1, 800, 400),
        ("messages[0] (system)", "k", "CNY", 1, 800, 400),
    ]
    assert [one["nano_per_day"] for one in found] == [3600, 3200, 1600, 1600]
    assert (found[0]["lost"], found[0]["lost_per_day"], found[0]["offset"]) == ("0.0000009", "0.0000036", 256)
    assert found[1]["within"] == 512
    assert (found[0]["policy"], "the same list" in found[0]["remedy"]) == (None, True)


@pytest.mark.parametrize(
    ("usage", "lost"),
    [
        (Usage(200, 800, 1), (800, 400)),
        (Usage(700, 300, 1), (300, 150)),
        (Usage(999, 1, 1), (1, 1)),
        (Usage(1000, 0, 1), None),
        (Usage(0, 1, 1, 0, Sources(cache_hit="unknown")), (800, 400)),
        (None, None),
    ],
)
def test_no_more_is_lost_than_the_host_had_to_compute(usage: Usage | None, lost: tuple[int, int] | None) -> None:
    found = report(row(usage, HEAD))["breaks"]
    assert [(one["tokens"], one["nano"]) for one in found] == ([] if lost is None else [lost])


def test_places_deep_in_conversations_count_as_one() -> None:
    deep = [Break(f"messages[{n}] (assistant)", n, 256, "history_rewritten", 100, 10) for n in (1, 2, 7, 30)]
    found = report(*(row(broke=one) for one in deep))["breaks"]
    assert [(one["part"], one["offset"], one["times"]) for one in found] == [
        ("messages[2…] (assistant)", None, 3),
        ("messages[1] (assistant)", 1, 1),
    ]


def test_a_shuffle_is_one_loss_wherever_it_begins() -> None:
    (found,) = report(*(row(broke=Break("tools", 256 * n, 256, "tools_order", 100, 10)) for n in range(3)))["breaks"]
    assert (found["offset"], found["times"], found["policy"]) == (None, 3, "volatile: [{tools: sort}]")


def test_a_report_is_bounded() -> None:
    many = [row(broke=replace(HEAD, offset=256 * n), key=f"k{n % 7}") for n in range(3000)]
    found = report(*many)["breaks"]
    assert len(found) <= 1010
    assert sum(one["times"] for one in found) == 3000 and sum(one["nano"] for one in found) == 3000 * 400


amounts = st.integers(0, 10**15)
cases = st.tuples(st.integers(1, 10**6), amounts, st.integers(0, 10**6), st.booleans())


@given(st.lists(cases, min_size=1, max_size=20), st.integers(1, 10**6))
def test_money_is_exact(given: list[tuple[int, int, int, bool]], seconds: int) -> None:
    """Reckoned once more in fractions: a row never loses more than it missed, and a day's share is rounded down once."""
    total = 0
    rows = []
    for tokens, nano, miss, known in given:
        rows.append(row(Usage(7, miss, 1, 0, Sources("reported" if known else "unknown")), replace(HEAD, tokens=tokens, nano=nano)))
        share = Fraction(min(tokens, miss) if known else tokens, tokens)
        total += -(-(nano * share).numerator // (nano * share).denominator) if share else 0

    found = report(*rows, span=timedelta(seconds=seconds))["breaks"]

    assert sum(one["nano"] for one in found) == total
    assert all(one["nano_per_day"] == one["nano"] * 86_400 // seconds for one in found)


# -- the command


def kept(folder: Path, *rows: LedgerRow) -> str:
    async def write() -> None:
        store = SqliteStore(folder / "ledger.db")
        await store.start()
        for one in rows:
            await store.hold(Hold(one.id, one.team, one.key, "r", "h", "m", one.currency, 900, 1, 2, "card", "9f", AT), "me", 1000)
            await store.finish("settle", one)
        await store.close()

    asyncio.run(write())
    return f"sqlite:///{folder / 'ledger.db'}"


def test_a_team_lead_reads_what_is_lost_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = kept(
        tmp_path, *(row(broke=HEAD, id=f"r{n}", ended=AT - timedelta(hours=n)) for n in range(1, 4)), row(id="other", team="chat")
    )

    code, out, err = said(capsys, "cache", "--ledger", ledger, "--team", "search", "--from", "2026-11-20", "--to", "2026-11-20T12:00:00Z")

    assert (code, err) == (0, "")
    lines = [re.split(r"\s{2,}", line) for line in out.splitlines()]
    # One of the three ended the day before.
    assert ["search", "k", "2", "2000", "20.0%", "300", "400"] in lines
    assert ["h/m", "2", "2000", "20.0%", "300", "400"] in lines
    loss = "0.0000016 0.0000008 USD 1600 2 search k messages[0] (system) from byte 0 on system_changed"
    assert loss in [" ".join(line).strip() for line in lines]
    assert "system_changed: a system message changes: " in out
    assert "/teams/search.yaml:\n  team: search\n" in out
    assert "chat" not in out


SHUFFLED = Break("tools", 256, 256, "tools_order", 1200, 700_000)


def proposal(out: str) -> str:
    """The lines after the announcement, as they are printed, without the margin."""
    lines = out.split(".yaml")[1].splitlines()[1:]
    return "".join(f"{line[2:]}\n" for line in lines if line.startswith("  "))


@pytest.mark.parametrize("before", [None, "{head}", "{head}volatile:\n  - {{line: claude-code-billing}}\n", "- {row}"])
def test_what_is_proposed_is_valid_as_it_is_printed(before: str | None, tmp_path: Path) -> None:
    """A whole file where the team has none, else the lines that its own file lacks; in the folder that the gateway reads."""
    folder = Path(shutil.copytree(default_folder(), tmp_path / "policies"))
    file = folder / "teams" / ("search.yaml" if before is None else "all.yaml")
    file.parent.mkdir()
    if before is not None:
        head = 'team: search\nroutes: ["deepseek-*"]\n'
        file.write_text(before.format(head=head, row=head.replace("\n", "\n  ", 1)))
    ledger = kept(tmp_path, row(broke=HEAD, id="r1"), row(broke=SHUFFLED, id="r2"))
    words = ("cache", "--ledger", ledger, "--from", "2026-11-20", "--to", "2026-11-21")
    code, out, err = run(*words, folder=tmp_path, FAREGATE_POLICIES=str(folder))
    assert (code, err) == (0, "")
    assert str(file) in out
    assert ("every other team needs one too" in out) == (before is None)

    indent = "  " if before == "- {row}" else ""
    text = file.read_text() if before else ""
    file.write_text(text + "".join(f"{indent}{line}\n" for line in proposal(out).splitlines()))
    team = load(folder).teams["search"]
    assert {(one.line, one.do, one.tools) for one in team.volatile} >= {("date", "move", None), (None, "remove", "sort")}
    assert "volatile" not in run(*words, folder=tmp_path, FAREGATE_POLICIES=str(folder))[1], "what is there is not proposed again"


def test_of_many_keys_and_breaks_the_largest_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(Usage(0, 900 + n, 1), replace(HEAD, nano=n), id=f"r{n}", key=f"key-{n:02}") for n in range(25)]
    _, out, _ = said(capsys, "cache", "--ledger", kept(tmp_path, *rows), "--from", "2026-11-20", "--to", "2026-11-21")
    assert out.count("key-24") == 2 and "key-04" not in out
    assert "and 5 more with fewer tokens; --json has them all" in out
    assert "and 5 more that cost less; --json has them all" in out


def test_without_breaks_or_requests_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = kept(tmp_path, row())
    assert said(capsys, "cache", "--ledger", ledger, "--from", "2026-11-20", "--to", "2026-11-21")[1].endswith("no prefix was broken\n")
    out = said(capsys, "cache", "--ledger", ledger, "--team", "x", "--from", "2026-11-20", "--to", "2026-11-21")[1]
    assert out == "no request of team x ended from 2026-11-20T00:00:00Z until before 2026-11-21T00:00:00Z\n"


def test_without_a_time_it_is_the_last_day_by_the_gateways_clock(tmp_path: Path) -> None:
    ledger = kept(tmp_path, row(ended=AT - timedelta(hours=23)), row(id="s", ended=AT - timedelta(hours=25)))
    code, out, _ = run("cache", "--json", folder=tmp_path, FAREGATE_LEDGER=ledger, FAREGATE_CLOCK="2026-11-20T02:00:00Z")
    assert code == 0
    assert json.loads(out)["keys"][0]["requests"] == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--from", "yesterday"), "--from: 'yesterday' is no instant. Write it as 2026-11-20 or 2026-11-20T02:00:00Z."),
        (("--to", "2026-11-20T02:00:00"), "--to: '2026-11-20T02:00:00' has no time zone."),
        (("--from", "2026-11-20", "--to", "2026-11-20"), "--from must lie before --to"),
    ],
)
def test_a_time_that_cannot_be_meant_is_refused(
    words: tuple[str, ...], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = said(capsys, "cache", "--ledger", kept(tmp_path, row()), *words)
    assert code == 2 and err.startswith(f"faregate: {text}")


# -- a live gateway: what breaks prefixes is found, and a policy mends it

CLOCK = "2025-06-10T08:00:00Z"
TEAM = "team: search\nroutes: ['*']\n"
RULES = "You answer questions about trains. " * 60
TOOLS = [
    {"type": "function", "function": {"name": f"tool_{n}", "description": "Looks up " + "a train, " * 20, "parameters": {"type": "object"}}}
    for n in range(8)
]
QUESTIONS = ["Which train?", "And the next?", "And back?", "And tomorrow?", "By night?", "How dear?"]


class Rig:
    """A gateway whose team file can be written anew."""

    def __init__(self, folder: Path) -> None:
        self.policies = folder / "policies"
        shutil.copytree(default_folder(), self.policies)
        (self.policies / "teams").mkdir(exist_ok=True)
        self.team(TEAM)
        self.live = LiveGateway(folder, ("deepseek",), CLOCK, {"FAREGATE_POLICIES": str(self.policies)})

    def team(self, text: str) -> None:
        (self.policies / "teams" / "search.yaml").write_text(text)

    def reload(self) -> None:
        request = urllib.request.Request(f"{self.live.admin_url}/admin/v1/reload", b"", {"authorization": f"Bearer {ADMIN}"}, method="POST")
        urllib.request.urlopen(request, timeout=10).close()

    def talk(self, name: str, head: Any, tools: Any = None) -> tuple[list[str], list[dict[str, Any]]]:
        """A conversation of as many turns as there are questions: the edits of each, and their rows."""
        told: list[dict[str, Any]] = []
        edits, rows = [], []
        for turn, question in enumerate(QUESTIONS):
            told.append({"role": "user", "content": f"{name}: {question} " * 10})
            body = {"model": "deepseek-reasoner", "messages": [{"role": "system", "content": head(turn)}, *told], "max_tokens": 64}
            status, headers, data = self.live.chat(body | ({"tools": tools(turn)} if tools else {}))
            assert status == 200, data
            told.append({"role": "assistant", "content": json.loads(data)["choices"][0]["message"]["content"] or "-"})
            edits.append(headers.get("x-faregate-edits", ""))
            rows.append(self.live.row(headers["x-request-id"]))
        return edits, rows

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = get_json(
            f"{self.live.admin_url}/admin/v1/cache?from=2025-06-10&to=2025-06-11&team=search", {"authorization": f"Bearer {ADMIN}"}
        )
        return found


def rate(rows: list[dict[str, Any]]) -> float:
    later = [one["usage"] for one in rows[1:]]
    hit = sum(int(one["cache_hit"]) for one in later)
    return hit / (hit + sum(int(one["cache_miss"]) for one in later))


def clocked(turn: int) -> str:
    return f"Current time: 2025-06-10 08:{turn:02}:17\n{RULES}"


def test_a_clock_at_the_head_is_found_and_a_policy_mends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rig = Rig(tmp_path)
    with rig.live:
        _, broken = rig.talk("first", clocked)
        (found,) = rig.report()["breaks"]
        assert rate(broken) == 0
        assert (found["part"], found["offset"], found["kind"], found["times"]) == ("messages[0] (system)", 0, "system_changed", 5)
        breaks = [one["broke"] for one in broken if one["broke"]]
        assert found["tokens"] == sum(one["tokens"] for one in breaks)
        # What a cached token would have cost less, by the quote that everybody can ask for; a row's rounding is a nano at most.
        policies = load(default_folder())
        prices = [
            quote(policies, "deepseek", "deepseek-reasoner", parse_instant(CLOCK), *tokens, 0).nano for tokens in ((0, 10**6), (10**6, 0))
        ]
        assert 0 <= found["nano"] - Fraction(found["tokens"] * (prices[0] - prices[1]), 10**6) < 5
        assert found["lost_per_day"] == found["lost"] == decimal_text(found["nano"]) and found["nano"] > NANO // 10**5
        code, out, _ = said(
            capsys,
            "cache",
            "--ledger",
            f"sqlite:///{rig.live.ledger}",
            "--policies",
            str(rig.policies),
            "--from",
            "2025-06-10",
            "--to",
            "2025-06-11",
        )
        assert code == 0 and "messages[0] (system) from byte 0 on" in out and found["lost_per_day"] in out

        rig.team(TEAM + "volatile: [{line: date}]\n")
        rig.reload()
        edits, mended = rig.talk("second", clocked)
        assert all("drop_volatile=1" in one for one in edits)
        assert rate(mended) > 0.8
        assert not [one for one in mended if one["broke"]]

        rig.team(TEAM + "volatile: [{line: date, do: move}]\n")
        rig.reload()
        edits, moved = rig.talk("third", clocked)
        assert all("move_volatile=1" in one for one in edits)
        assert rate(moved) > 0.6
        assert len({one["conversation"] for one in moved}) == 1
        sent = rig.live.hosts["deepseek"].requests()[-1]["body"]["messages"]
        assert sent[0]["content"] == RULES and sent[-1]["content"].endswith("\n\nCurrent time: 2025-06-10 08:05:17")
        assert rig.report()["breaks"][0]["times"] == 5


def test_shuffled_tools_are_found_and_a_policy_mends_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    with rig.live:

        def shuffled(turn: int) -> list[Any]:
            return random.Random(turn).sample(TOOLS, len(TOOLS))

        _, broken = rig.talk("first", lambda _: RULES, shuffled)
        (found,) = rig.report()["breaks"]
        assert (found["part"], found["kind"], found["times"]) == ("tools", "tools_order", 5)
        assert rate(broken) < 0.2

        rig.team(TEAM + "volatile: [{tools: sort}]\n")
        rig.reload()
        edits, mended = rig.talk("second", lambda _: RULES, shuffled)
        assert sum("sort_tools" in one for one in edits) >= 5
        assert rate(mended) > 0.8
        assert not [one for one in mended if one["broke"]]
