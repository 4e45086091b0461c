"""The console: who may see it, what its forms must prove, and what its pages say; through real HTTP, and against hostile names."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.admin.app import build_admin
from gateway.admin.budgets import BudgetDesk
from gateway.admin.keys import KeyDesk
from gateway.console.app import own_path, same_origin
from gateway.console.figures import amount, nano_of, places, share, span
from gateway.console.markup import Html, join, tag, text
from gateway.console.sessions import LASTS, MINUTE, TRIES, Sessions, Tries
from gateway.keys.orders import Order
from gateway.keys.registry import Registry
from gateway.keys.secret import Hasher
from gateway.keys.sqlite import SqliteKeys
from gateway.money import NANO, decimal_text
from gateway.outcome import Break, Correction, LedgerRow, Option, PlanNote
from gateway.policies import Policies, default_folder, load
from gateway.standings import standings
from gateway.teams import TeamRow
from tests.console_scene import PATHS, overdraw, play, scene
from tests.harness import ADMIN, LiveGateway, get_json, post
from tests.ledgers import HOLD, MONTH, ROW, Embedded
from tests.replicas import Stage
from tests.visitor import Outline, Visitor, form

AT = datetime(2026, 11, 20, 9, 20, tzinfo=UTC)
EVIL = "<img src=x onerror=alert(1)>\"'&</td></script><script>alert(2)</script>\u202e\u2028\x00"
TOKEN = "a-token-of-this-test-only"
BEARER = {"authorization": f"Bearer {ADMIN}"}
GUARDED = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


# ---- markup: what is text stays text


@given(st.text(), st.text())
def test_no_text_becomes_markup(inside: str, value: str) -> None:
    outline = Outline(tag("p", inside, title=value))
    assert [(name, list(attributes)) for name, attributes in outline.elements] == [("p", ["title"])]
    assert outline.text == str(Outline(f"<p>{text(inside)}</p>").text)


def test_children_are_joined_as_what_they_are() -> None:
    assert join("a<b", tag("b", 1), None, [tag("i"), "&"], Html("<u></u>")) == "a&lt;b<b>1</b><i></i>&amp;<u></u>"
    assert text("a\u202eb\x00c\u2028d") == "a\ufffdb\ufffdc\ufffdd"
    assert tag("input", value=None, required=True, disabled=False, name="x") == '<input required name="x">'


@pytest.mark.parametrize(
    "link", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "", "data:x", "/a b", "x"]
)
def test_a_link_leads_to_this_origin_or_nowhere(link: str) -> None:
    with pytest.raises(ValueError, match="this origin"):
        tag("a", "x", href=link)


@pytest.mark.parametrize(("name", "attribute"), [("a b", "title"), ("a", "onclick"), ("a", "style"), ("script", "title"), ("a", "x=y")])
def test_what_the_content_policy_forbids_cannot_be_made(name: str, attribute: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        tag(name, "alert(1)", **{attribute: "alert(1)"})


# ---- figures: exact


@given(st.integers(-(10**15), 10**15), st.integers(0, 9))
def test_an_amount_is_shown_to_the_last_digit(nano: int, digits: int) -> None:
    shown = Outline(amount(nano, digits)).text.replace(",", "").replace("\u2212", "-")
    assert nano_of(shown) == nano
    assert nano_of(decimal_text(nano)) == nano
    assert len(shown.partition(".")[2]) >= max(digits, 2)


def test_amounts_of_a_column_have_the_same_digits() -> None:
    assert places([NANO, 1, 10 * NANO]) == 9
    assert places([NANO, 5 * NANO // 100]) == 2
    assert places([]) == 2
    assert Outline(amount(1234567 * NANO)).text == "1,234,567.00"


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [
        (0, 0, "\u2013"),
        (1, 3, "33.3 %"),
        (999_999, 1_000_000, "99.9 %"),
        (1, 1, "100.0 %"),
        (3845, 1000, "384.5 %"),
        (0, 7, "0.0 %"),
        (4015, 10_000, "40.2 %"),
        (4014, 10_000, "40.1 %"),
        (1, 1_000_000, "0.1 %"),
        (-1, 3, "-33.3 %"),
        (5, -1, "\u2013"),
    ],
)
def test_a_share_is_rounded_as_spend_rounds_it_and_never_to_all_or_nothing(part: int, whole: int, said: str) -> None:
    assert share(part, whole) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3600, "1 h"), (3660, "1 h 1 min"), (90_000, "1 d 1 h"), (-5, "0 s")]
)
def test_a_span_has_two_units_at_most(seconds: int, said: str) -> None:
    assert span(timedelta(seconds=seconds)) == said


# ---- sessions


class Hands:
    """A clock whose hands the test moves."""

    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def __call__(self) -> float:
        return self.at


def test_a_cookie_proves_itself_until_it_is_too_old_or_ended() -> None:
    hands = Hands()
    sessions, replica, other = Sessions(b"token", hands), Sessions(b"token", hands), Sessions(b"tokem", hands)
    session = sessions.start("admin")
    cookie = sessions.cookie(session)

    assert sessions.read(cookie) == replica.read(cookie) == session
    assert other.read(cookie) is None
    hands.at += LASTS["admin"] + 2
    assert sessions.read(cookie) is None
    hands.at -= 60
    assert sessions.read(cookie) == session
    sessions.end(session)
    assert sessions.read(cookie) is None
    hands.at -= 2 * LASTS["admin"]
    assert replica.read(cookie) is None


def test_no_other_cookie_is_known() -> None:
    sessions = Sessions(b"token", Hands())
    session = sessions.start("guest")
    cookie = sessions.cookie(session)
    kind, since, nonce, mac = cookie.split(".")
    made = [
        None,
        "",
        "x",
        cookie[:-1],
        cookie + "0",
        f"admin.{since}.{nonce}.{mac}",
        f"{kind}.{int(since) + 1}.{nonce}.{mac}",
        f"{kind}.{since}.{'0' * 32}.{mac}",
        f"{kind}.{since}.{nonce}.{sessions.form(session)}",
    ]
    assert [sessions.read(other) for other in made] == [None] * len(made)
    assert sessions.fits(session, sessions.form(session))
    assert not sessions.fits(session, sessions.form(sessions.start("guest")))
    assert not sessions.fits(session, "\udcff")


def test_a_form_is_sent_once() -> None:
    sessions = Sessions(b"token", Hands())
    assert [sessions.first(once) for once in ("a", "a", "b", "")] == [True, False, True, False]


def test_few_tokens_can_be_tried() -> None:
    hands = Hands()
    tries = Tries(hands)
    for _ in range(TRIES):
        assert tries.wait("one") == 0
        tries.failed("one")
    assert tries.wait("one") == MINUTE + 1
    assert tries.wait("two") == 0
    hands.at += MINUTE
    assert tries.wait("one") == 0
    for number in range(100):
        tries.failed(f"address {number}")
    assert tries.wait("two") > 0, "many addresses are no way around it"


@pytest.mark.parametrize(
    ("headers", "ours"),
    [
        ({"origin": "http://a:1"}, True),
        ({"origin": "https://A:1"}, True),
        ({"origin": "https://rewritten", "sec-fetch-site": "same-origin"}, True),
        ({"origin": "http://a:1", "sec-fetch-site": "same-origin"}, True),
        ({"origin": "http://a:1", "sec-fetch-site": "cross-site"}, False),
        ({"origin": "http://a:1", "sec-fetch-site": "same-site"}, False),
        ({"origin": "http://a:1", "sec-fetch-site": "none"}, False),
        ({"origin": "http://a:2"}, False),
        ({"origin": "http://a"}, False),
        ({"origin": "null"}, False),
        ({"origin": "null", "sec-fetch-site": "same-origin"}, False),
        ({}, False),
        ({"sec-fetch-site": "same-origin"}, False),
    ],
)
def test_a_form_comes_from_this_origin(headers: dict[str, str], ours: bool) -> None:
    assert same_origin({"host": "a:1", **headers}) is ours


@pytest.mark.parametrize(
    ("asked", "to"),
    [
        (None, "/"),
        ("/keys", "/keys"),
        ("/requests?page=2", "/requests?page=2"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example/", "/"),
        ("javascript:alert(1)", "/"),
        ("keys", "/"),
        ("/a\r\nset-cookie: x", "/"),
        ("/\u2028", "/"),
        ("/" + "a" * 600, "/"),
    ],
)
def test_after_the_login_a_page_of_ours_comes(asked: str | None, to: str) -> None:
    assert own_path(asked) == to


# ---- a gateway in use


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with scene(tmp_path_factory.mktemp("console") / "stage", poll="300") as running:
        yield running


@pytest.fixture(scope="module")
def ids(stage: Stage) -> list[str]:
    """The requests that were made there, after the pages of an empty gateway were seen."""
    visitor = Visitor(stage.one.admin_url)
    visitor.log_in()
    empty = visitor.get("/").text
    assert "No requests yet" in empty and "curl http://127.0.0.1:0/v1/chat/completions" in empty
    assert "There is none here yet" in visitor.get("/requests").text
    assert "No key is stored" in visitor.get("/keys").text
    made = play(stage)
    overdraw(stage)
    return made


@pytest.fixture
def visitor(stage: Stage, ids: list[str]) -> Visitor:
    made = Visitor(stage.one.admin_url)
    answer = made.log_in()
    assert (answer.status, answer.headers["location"]) == (303, "/")
    return made


def test_who_is_no_browser_finds_what_was_there_before(stage: Stage) -> None:
    for path in PATHS:
        for headers in ({}, {"authorization": f"Bearer {ADMIN}"}, {"accept": "application/json"}):
            status, _, body = post(stage.one.admin_url + path, None, headers, "GET")
            assert (status, b'"not_found"' in body) == (404, True), path
    assert get_json(f"{stage.one.admin_url}/admin/v1/policies", BEARER)["error"] is None


def test_without_a_login_there_is_only_the_door(stage: Stage) -> None:
    stranger = Visitor(stage.one.admin_url)
    for path in (*PATHS, "/requests/req-1", "/keys/key-1/revoke", "/requests?page=2"):
        answer = stranger.get(path)
        assert answer.status == 303 and answer.headers["location"].startswith("/login"), path
        assert answer.text == ""
    assert stranger.get("/requests?page=2").headers["location"] == "/login?to=%2Frequests%3Fpage%3D2"
    assert 'name="to" value="/requests?page=2"' in stranger.get("/login?to=%2Frequests%3Fpage%3D2").text


def test_the_way_from_another_site_goes_through_a_page_of_ours(visitor: Visitor) -> None:
    """Browsers leave a strict cookie behind then; the page takes the next step from here."""
    cookie, visitor.cookie = visitor.cookie, ""
    answer = visitor.get("/requests?page=1", sec_fetch_site="cross-site")
    assert answer.status == 200 and 'content="0;url=/requests?page=1"' in answer.text
    visitor.cookie = cookie
    assert visitor.get("/requests?page=1", sec_fetch_site="same-origin").status == 200


def test_the_token_opens_it_and_nothing_else_does(stage: Stage) -> None:
    visitor = Visitor(stage.one.admin_url)
    for wrong in ("", ADMIN[:-1], "é", "\udcff"):
        page = visitor.submit("/login", "/login", token=wrong.encode("utf-8", "surrogateescape").decode("latin-1"))
        assert (page.status, "This is not the admin token." in page.text) == (401, True)
    assert visitor.get("/").status == 303
    answer = visitor.log_in(to="/keys")
    assert (answer.status, answer.headers["location"]) == (303, "/keys")
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith("faregate=admin.") and "httponly" in cookie and "samesite=strict" in cookie and "path=/" in cookie
    assert "secure" not in cookie and "max-age=43200" in cookie
    assert visitor.get("/login?to=/hosts").headers["location"] == "/hosts"


def test_behind_tls_the_cookie_is_for_tls_alone(stage: Stage) -> None:
    visitor = Visitor(stage.one.admin_url)
    hidden = form(visitor.get("/login", x_forwarded_proto="https").text, "/login")
    assert visitor.cookie.startswith("__Host-faregate=guest.")
    answer = visitor.send("/login", {**hidden, "token": ADMIN}, x_forwarded_proto="https")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-faregate=admin.") and "secure" in cookie.lower()
    assert visitor.get("/keys").status == 200


def test_after_the_logout_the_cookie_is_good_for_nothing(visitor: Visitor) -> None:
    kept = visitor.cookie
    answer = visitor.submit("/", "/logout")
    assert (answer.status, answer.headers["location"], visitor.cookie) == (303, "/login", "")
    visitor.cookie = kept
    assert visitor.get("/").status == 303


DEEDS = ["/keys", "/keys/key-000000000000/revoke", "/policies/reload", "/logout"]


@pytest.mark.parametrize("path", DEEDS)
def test_a_deed_needs_a_form_of_this_console(stage: Stage, visitor: Visitor, path: str) -> None:
    hidden = form(visitor.get("/keys").text, "/logout")
    other = Visitor(stage.one.admin_url)
    other.log_in()
    foreign = form(other.get("/keys").text, "/logout")
    fields = {"team": "search"}
    for sent, headers in (
        ({}, {}),
        ({**hidden, "proof": "0" * 64}, {}),
        (foreign, {}),
        (hidden, {"origin": "http://evil.example", "sec_fetch_site": None}),
        (hidden, {"origin": "http://evil.example", "sec_fetch_site": "cross-site"}),
        (hidden, {"origin": None}),
        (hidden, {"sec_fetch_site": "cross-site"}),
        (hidden, {"content_type": "text/plain"}),
        (hidden, {"content_type": "application/json"}),
    ):
        assert visitor.send(path, {**fields, **sent}, **headers).status == 403, (sent, headers)
    assert visitor.ask("POST", path, b"proof=1&proof=" + hidden["proof"].encode()).status == 403
    assert visitor.ask("POST", path, b"x=" + b"y" * 20_000).status == 413
    visitor.cookie = ""
    if path != "/logout":
        assert visitor.send(path, {**fields, **hidden}).status == 401
    assert get_json(f"{stage.one.admin_url}/admin/v1/keys", BEARER) == []


def test_the_bearer_token_is_no_way_around_a_form(stage: Stage) -> None:
    stranger = Visitor(stage.one.admin_url)
    assert stranger.send("/keys", {"team": "search"}, authorization=f"Bearer {ADMIN}").status == 401


def test_every_answer_keeps_to_itself(stage: Stage, visitor: Visitor, ids: list[str]) -> None:
    answers = [visitor.get(path) for path in (*PATHS, f"/requests/{ids[0]}", "/requests/none", "/keys/key-0/revoke")]
    answers += [Visitor(stage.one.admin_url).get(path) for path in ("/", "/login")]
    answers += [visitor.send("/keys", {}), visitor.send("/login", {})]
    for answer in answers:
        assert {name: answer.headers[name] for name in GUARDED} == GUARDED
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-security-policy"] == POLICY
        assert ADMIN not in answer.text
        for name, attributes in Outline(answer.text).elements:
            assert not [key for key in attributes if key.startswith("on") or key == "style"], (name, attributes)
            assert name != "style" and (name != "script" or attributes.get("src", "")), name


def test_every_table_says_what_it_is_and_what_its_cells_are_of(visitor: Visitor, ids: list[str]) -> None:
    for path in (*PATHS[:4], f"/requests/{ids[0]}"):
        page = visitor.get(path).text
        tables = re.findall(r"<table[^>]*>(.*?)</table>", page)
        assert tables, path
        for table in tables:
            assert re.match(r'<caption id="[\w-]+-caption"[^>]*>[^<]+</caption>', table), table[:200]
            assert not re.search(r"<th(?![^>]*scope=)[ >]", table)
            rows = re.findall(r"<tr>(.*?)</tr>", table)
            assert all(row.startswith("<th") for row in rows) and len({len(re.findall("<t[dh][ >]", row)) for row in rows}) == 1


def test_what_pages_are_dressed_in_may_be_kept(stage: Stage) -> None:
    visitor = Visitor(stage.one.admin_url)
    page = visitor.get("/login").text
    for path in re.findall(r'(?:href|src)="(/console/[^"]+)"', page):
        answer = visitor.get(path)
        assert (answer.status, answer.headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
        assert visitor.get(path.partition("?")[0] + "?other").headers["cache-control"] == "no-cache"
        assert "://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_token_is_in_no_log(stage: Stage, visitor: Visitor) -> None:
    assert ADMIN not in stage.one.log
    assert visitor.cookie.rpartition(".")[2] not in stage.one.log


# ---- what the pages say


def test_the_overview_shows_what_the_ledger_has(stage: Stage, visitor: Visitor) -> None:
    page = Outline(visitor.get("/").text).text
    totals: dict[str, int] = {}
    for by in ("team", "host"):
        for one in get_json(f"{stage.one.admin_url}/admin/v1/spend?by={by}", BEARER):
            assert one[by] in page
            totals[one["currency"]] = totals.get(one["currency"], 0) + int(one["nano"])
            assert Outline(amount(int(one["nano"]))).text.rstrip("0") in page
    assert set(totals) == {"CNY", "USD"}
    for nano in totals.values():
        assert Outline(amount(nano // 2)).text in page
    today = get_json(f"{stage.one.admin_url}/admin/v1/today", BEARER)
    assert today["whole"] and f"{today['cache_hit_tokens']:,} of {today['prompt_tokens']:,} prompt tokens" in page
    assert today["baselines"][0]["amount"] in page
    assert "Budget week of team evals is used up" in page


def test_a_budget_beyond_its_limit_says_so(visitor: Visitor) -> None:
    page = visitor.get("/budgets").text
    row = re.search(r"<tr><th[^>]*>evals.*?</tr>", page)
    assert row and "used up" in row[0] and 'class="over"' in row[0] and "\u2212" in Outline(row[0]).text
    percents = [int(text) for text in re.findall(r"<span>(\d+)\.\d %</span>", page)]
    assert max(percents) > 100
    # A bar is never wider than its frame.
    for bar in re.findall(r"<svg.*?</svg>", page):
        drawn = re.findall(r'<rect x="(\d+)" y="0" width="(\d+)"', bar)
        assert sum(int(wide) for _, wide in drawn[1:]) <= 1000


def test_a_request_is_explained_line_by_line(stage: Stage, visitor: Visitor, ids: list[str]) -> None:
    for id in (ids[0], ids[-2]):
        found = get_json(f"{stage.one.admin_url}/admin/v1/requests/{id}", BEARER)
        page = visitor.get(f"/requests/{id}").text
        said = Outline(page).text
        receipt = re.search(r'<table id="receipt-rows">.*?</table>', page)
        assert receipt
        cells = [
            [Outline(cell).text for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)]
            for row in re.findall(r"<tr>(.*?)</tr>", receipt[0])
        ]
        assert [nano_of(row[3].split(" ")[0]) for row in cells[1:]] == [*found["parts"].values(), found["nano"]]
        assert [int(row[1].replace(",", "")) for row in cells[1:4]] == [
            found["usage"][name] for name in ("cache_hit", "cache_miss", "output")
        ]
        # Tokens times price is the amount, but for the one rounding.
        for row in cells[1:4]:
            exact = int(row[1].replace(",", "")) * nano_of(row[2].replace(",", ""))
            assert abs(exact - nano_of(row[3].split(" ")[0]) * 10**6) < 3 * 10**6
        assert all(one["name"] in said for one in found["candidates"]) and all(text in said for text in found["passed_over"])
        assert found["card"] in said and found["hold"]["state"] in said and found["policies"] in said


def test_a_request_that_failed_and_one_that_is_not_there(visitor: Visitor, ids: list[str]) -> None:
    failed = Outline(visitor.get(f"/requests/{ids[-1]}").text).text
    assert "host failed" in failed and "Nothing was billed." in failed and "drop_user" in failed
    assert visitor.get("/requests/req-none").status == 404


def test_a_request_is_found_by_its_id(visitor: Visitor, ids: list[str]) -> None:
    answer = visitor.get(f"/requests?id=+{ids[0]}+")
    assert (answer.status, answer.headers["location"]) == (303, f"/requests/{ids[0]}")
    nowhere = visitor.get("/requests?" + urlencode({"id": EVIL[:-1]}))
    assert nowhere.status == 404 and "<img" not in nowhere.text


def test_requests_of_a_team_from_an_instant_on(visitor: Visitor, ids: list[str]) -> None:
    page = visitor.get("/requests?from=2026-11-20T00:00&team=agents").text
    assert page.count("<tr>") == 6 and "search-" not in page
    assert "None ended in this time." in visitor.get("/requests?from=2026-11-20T23:00").text
    assert visitor.get("/requests?" + urlencode({"from": EVIL[:-1]})).status == 422


def test_hosts_show_their_window_and_the_next_change(stage: Stage, visitor: Visitor) -> None:
    page = Outline(visitor.get("/hosts").text).text
    host = next(one for one in get_json(f"{stage.one.admin_url}/admin/v1/hosts", BEARER) if one["host"] == "deepseek")
    # The emulator states its own account in dollars, whatever ours is billed in.
    assert [one["currency"] for one in host["balances"]] == ["USD"]
    assert f"balance {Outline(amount(nano_of(host['balances'][0]['amount']))).text} USD" in page
    assert "peak" in page and "2026-11-20 10:00 UTC" in page and re.search(r"in (3\d|40) min", page) and "then standard" in page
    assert "billed in CNY" in page and "billed in USD" in page and "not verified" in page
    assert "hosts are not configured here" in page and "openrouter needs OPENROUTER_API_KEY" in page


def test_a_key_is_made_shown_once_and_revoked(stage: Stage, visitor: Visitor) -> None:
    hidden = form(visitor.get("/keys").text, "/keys")
    fields = {
        **hidden,
        "team": "search",
        "name": "by-hand",
        "expires": "90d",
        "amount": "5.00",
        "currency": "USD",
        "period": "week",
        "zone": "",
    }
    made = visitor.send("/keys", fields)
    secret = re.findall(r"fg-[A-Za-z0-9_-]{43}", made.text)
    assert made.status == 201 and len(secret) == 1 and made.headers["cache-control"] == "no-store"
    body = {"model": "deepseek-flash", "messages": [{"role": "user", "content": "hello [[answer=5]]"}]}
    assert stage.chat_with(secret[0], body)[0] == 200

    again = visitor.send("/keys", fields)
    assert again.status == 409 and "was sent before" in again.text
    keys = get_json(f"{stage.one.admin_url}/admin/v1/keys", BEARER)
    assert [(key["name"], key["budget"]["period"]) for key in keys] == [("by-hand", "week")]
    listed = visitor.get("/keys").text
    assert secret[0] not in listed and "by-hand" in listed and secret[0] not in stage.one.log

    path = f"/keys/{keys[0]['id']}/revoke"
    assert "Revoke by-hand?" in visitor.get(path).text
    assert stage.chat_with(secret[0], body)[0] == 200
    done = visitor.submit(path, path)
    assert (done.status, done.headers["location"]) == (303, f"/keys?revoked={keys[0]['id']}")
    assert stage.chat_with(secret[0], body)[0] == 401
    assert "by-hand is revoked, and refused from now on." in visitor.get(done.headers["location"]).text
    assert "is revoked already" in visitor.get(path).text
    stage.quiet()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"team": "nobody"}, "team: no file in policies/teams/ is for it"),
        ({"team": "search", "name": EVIL}, "name: must be up to 64 letters"),
        ({"team": "search", "expires": "yesterday"}, "expires: must be a length of time"),
        ({"team": "search", "amount": "0"}, "budget.amount: a budget of 0"),
        ({"team": "search", "amount": "1,000"}, "budget.amount"),
        ({"team": "search", "amount": "1", "zone": "Mars/Base"}, "budget.zone"),
    ],
)
def test_a_wrong_form_says_what_is_wrong_and_keeps_what_was_written(visitor: Visitor, fields: dict[str, str], words: str) -> None:
    page = visitor.submit("/keys", "/keys", **fields)
    assert page.status == 400 and words in Outline(page.text).text and "<img" not in page.text
    if "expires" in fields:
        assert 'value="yesterday"' in page.text


def test_policies_say_what_is_in_force_and_where_the_error_is(stage: Stage, visitor: Visitor) -> None:
    digest = get_json(f"{stage.one.admin_url}/admin/v1/policies", BEARER)["digest"]
    done = visitor.submit("/policies", "/policies/reload")
    assert (done.status, done.headers["location"]) == (303, "/policies?done=1")
    assert digest in visitor.get("/policies?done=1").text

    broken = stage.policies / "teams" / "zzz.yaml"
    broken.write_text("team: zzz\nroutes: [nothing-of-the-kind]\n")
    failed = visitor.submit("/policies", "/policies/reload")
    row = re.search(r"<tr><th[^>]*><code>teams/zzz.yaml</code></th>.*?</tr>", failed.text)
    assert failed.status == 409 and row and '<td class="number">2</td>' in row[0] and "Hint:" in row[0] and digest in failed.text
    assert "The newest policies are not in force" in visitor.get("/").text
    broken.unlink()
    assert visitor.submit("/policies", "/policies/reload").status == 303


# ---- without a token


def test_without_a_token_one_page_says_how_to_set_it(tmp_path: Path) -> None:
    with LiveGateway(tmp_path, (), settings={"FAREGATE_ADMIN_TOKEN": ""}) as gateway:
        visitor = Visitor(gateway.admin_url)
        page = visitor.get("/")
        assert page.status == 404 and "FAREGATE_ADMIN_TOKEN" in page.text and "set-cookie" not in page.headers
        assert {name: page.headers[name] for name in GUARDED} == GUARDED
        assert [visitor.get(path).status for path in (*PATHS[1:], "/login", "/docs", "/admin/v1/keys")] == [404] * 8
        assert [visitor.send(path, {}).status for path in ("/login", "/keys", "/policies/reload")] == [404] * 3
        assert visitor.get("/metrics").status == visitor.get("/healthz").status == 200
        assert visitor.get("/", accept="application/json").headers["content-type"] == "application/json"


# ---- in this process: hostile names, many rows, a ledger that is gone


class Still:
    """A clock that stands."""

    def now(self) -> datetime:
        return AT

    def monotonic(self) -> float:
        return 0.0


class Book:
    def __init__(self, policies: Policies) -> None:
        self.current = policies
        self.error: str | None = None
        self.loaded_at = AT

    def reload(self) -> bool:
        return self.error is None


class Rooms:
    """A console on an embedded ledger, asked without a socket; everything that it shows can be chosen."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Embedded(folder / "ledger.db")
        self.book = Book(load(default_folder()))
        self.store = SqliteKeys(folder / "keys.db", Hasher(b"pepper").check)
        self.registry = Registry(self.store, Hasher(b"pepper"), lambda: AT)
        self.hosts: list[dict[str, Any]] = []
        self.ready: dict[str, Any] = {"ready": True}
        self.cookie = ""
        self.app: FastAPI = build_admin(
            ledger=self.ledger,
            metrics=SimpleNamespace(text=lambda: b""),
            policies=self.book,
            hosts=lambda: self.hosts,
            readiness=lambda: (200, self.ready),
            token=TOKEN,
            keys=KeyDesk(self.registry, lambda: self.book.current, Still(), self._applied),
            budgets=BudgetDesk(self.ledger, lambda: self.book.current, Still()),
        )

    async def _applied(self) -> None: ...

    async def ask(
        self, path: str, method: str = "GET", fields: dict[str, str] | None = None, client: str = "10.0.0.1"
    ) -> tuple[int, dict[str, str], str]:
        target, _, query = path.partition("?")
        headers = [(b"host", b"a"), (b"accept", b"text/html"), (b"cookie", self.cookie.encode())]
        headers += [(b"origin", b"http://a"), (b"content-type", b"application/x-www-form-urlencoded")] if method == "POST" else []
        scope = {
            "type": "http", "http_version": "1.1", "method": method, "scheme": "http", "path": target, "raw_path": target.encode(),
            "query_string": query.encode(), "headers": headers, "client": (client, 1), "server": ("a", 80),
        }  # fmt: skip
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": urlencode(fields or {}).encode(), "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        found = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
        if "set-cookie" in found:
            self.cookie = found["set-cookie"].partition(";")[0]
        return sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:]).decode()

    async def log_in(self, token: str = TOKEN, client: str = "10.0.0.1") -> int:
        _, _, page = await self.ask("/login")
        status, _, _ = await self.ask("/login", "POST", {**form(page, "/login"), "token": token}, client)
        return status

    async def page(self, path: str, status: int = 200) -> str:
        found, _, page = await self.ask(path)
        assert found == status, page
        return page

    async def keep(self, row: LedgerRow) -> None:
        same = {
            name: getattr(row, name) for name in ("id", "team", "key", "route", "host", "model", "currency", "card", "policies", "started")
        }
        await self.ledger.hold(replace(HOLD, **same))
        await self.ledger.settle(row)


@pytest.fixture
async def rooms(tmp_path: Path) -> AsyncIterator[Rooms]:
    made = Rooms(tmp_path)
    await made.ledger.start()
    await made.store.start()
    assert await made.log_in() == 303
    yield made
    await made.store.close()
    await made.ledger.close()


def tame(page: str) -> None:
    """Nothing of a hostile name became an element, an attribute of one, or a sign that turns the text around."""
    assert "<img" not in page and "<script>" not in page and not set(page) & set("\u202e\u2028\x00")
    for name, attributes in Outline(page).elements:
        assert name != "img" and not [key for key in attributes if key.startswith("on")]


async def test_hostile_names_stay_names(rooms: Rooms) -> None:
    option = Option(f"{EVIL}/{EVIL}", EVIL, 1, 2, 3, 4, 5, why=EVIL)
    note = PlanNote((option,), (EVIL,), EVIL, 2, EVIL, Break(EVIL, 1, 2, EVIL, 3, 4))
    row = replace(
        ROW, id="evil", team=EVIL, key=EVIL, route=EVIL, host=EVIL, model=EVIL, contract=EVIL, edits=(EVIL,), currency=EVIL, card=EVIL,
        window=EVIL, policies=EVIL, started=AT - timedelta(minutes=2), ended=AT - timedelta(minutes=1), stopped=EVIL, plan=note,
        attempts=(replace(ROW.attempts[0], host=EVIL, model=EVIL),),
    )  # fmt: skip
    await rooms.keep(row)
    await rooms.keep(replace(row, id=f"evil{EVIL[:20]}"))
    rooms.book.error = f"{EVIL}:3: {EVIL} Hint: {EVIL}\n{EVIL}"
    rooms.ready = {"ready": False, "policies_error": EVIL, "keys_error": EVIL, "clock": {"set": EVIL}}
    one = {
        "model": EVIL,
        "up": False,
        "why": EVIL,
        "requests": 1,
        "limit": 2,
        "failing": 0.5,
        "failed": True,
        "first_token": 1.0,
        "pace": 2.0,
    }
    rooms.hosts = [
        {"host": EVIL, "configured": True, "needs": None, "currency": EVIL, "models": [EVIL], "alarms": [EVIL],
         "deployments": [{**one, "hit_rate_fell": {"from": 0.9, "to": 0.1}}], "replicas": [{"url": EVIL, **one}]},
        {"host": f"b{EVIL}", "configured": False, "needs": EVIL, "currency": None, "models": [], "alarms": []},
    ]  # fmt: skip
    shown = 0
    for path in (*PATHS, "/requests/evil", "/requests?from=2026-11-20", "/requests?" + urlencode({"team": EVIL, "from": EVIL[:9]})):
        _, _, page = await rooms.ask(path)
        tame(page)
        shown += page.count("&lt;img src=x onerror=alert(1)&gt;")
    assert shown > 60, "the names were there to be seen"


async def test_corrections_stand_on_lines_of_their_own(rooms: Rooms) -> None:
    await rooms.keep(replace(ROW, started=AT - timedelta(minutes=2), ended=AT - timedelta(minutes=1)))
    made = Correction("c1", AT - timedelta(hours=1), "search", "", "", "deepseek", "", "USD", -1_000_000_005, "", EVIL, "bill.csv")
    assert await rooms.ledger.correct([made]) == 1
    page = await rooms.page("/")
    tame(page)
    assert "not in the figures above" in page and "\u22121.000000005 USD" in Outline(page).text
    assert "0.0000004" in Outline(page.partition('id="corrections"')[0]).text


async def test_two_currencies_are_compared_only_where_there_is_a_rate(rooms: Rooms) -> None:
    row = replace(ROW, started=AT - timedelta(minutes=2), ended=AT - timedelta(minutes=1))
    await rooms.keep(row)
    assert re.search(r"[\d,]+\.\d times what was paid", await rooms.page("/"))
    await rooms.keep(replace(row, id="r2", currency="CNY"))
    page = await rooms.page("/")
    assert "not comparable: policies/rates.yaml lacks a rate" in page and "times what was paid" not in page


async def test_no_single_price_is_named_where_several_attempts_were_billed(rooms: Rooms) -> None:
    card = rooms.book.current.prices.card("deepseek", "deepseek-v4-pro", "USD", AT)
    row = replace(ROW, card=card.name, window="standard", attempts=ROW.attempts[1:])
    billed = replace(ROW.attempts[0], billed="known")
    await rooms.keep(row)
    await rooms.keep(replace(row, id="two", attempts=(billed, *row.attempts)))
    price = Outline(amount(card.rates.output)).text
    assert price in Outline(await rooms.page("/requests/r1")).text
    assert price not in Outline(await rooms.page("/requests/two")).text


async def test_thousands_of_requests_have_pages(rooms: Rooms) -> None:
    ends = [AT - timedelta(seconds=number) for number in range(1, 1031)]
    await asyncio.gather(*(rooms.keep(replace(ROW, id=f"req-{number:04d}", started=end, ended=end)) for number, end in enumerate(ends)))
    first = await rooms.page("/requests")
    assert first.count("<tr>") == 51 and "req-0000" in first and 'href="/requests?page=2" rel="next"' in first and "Newer" not in first
    last = await rooms.page("/requests?page=20")
    assert "951 to 1,000" in last and "req-0999" in last and "Older ones are found by the day" in last and 'rel="next"' not in last
    for odd in ("0", "-1", "99999999", "x", "²"):
        assert await rooms.page(f"/requests?page={urlencode({'': odd})[1:]}")
    seen: list[str] = []
    path = "/requests?from=2026-11-20"
    for _ in range(40):
        page = await rooms.page(path)
        seen += re.findall(r'href="/requests/(req-\d+)"', page)
        more = re.search(r'href="([^"]+)" rel="next"', page)
        if more is None:
            break
        path = more[1].replace("&amp;", "&")
    assert seen == [f"req-{number:04d}" for number in reversed(range(1030))]
    assert (await rooms.page("/")).count("<tr>") == 9 + 2 * 2


async def test_a_ledger_that_does_not_answer_is_said(rooms: Rooms) -> None:
    await rooms.ledger.close()
    for path in ("/", "/requests", "/budgets"):
        assert "That did not work" in await rooms.page(path, 503)
    await rooms.page("/policies")


async def test_a_request_under_way_shows_its_hold(rooms: Rooms) -> None:
    await rooms.ledger.hold(replace(HOLD, id="open"))
    page = Outline(await rooms.page("/requests/open")).text
    assert "under way" in page and "0.0000009 USD" in page


async def test_what_will_be_spent_is_shown_as_the_command_says_it(rooms: Rooms) -> None:
    resets_at = datetime(2026, 12, 1, tzinfo=UTC)
    await rooms.ledger.hold(replace(HOLD, claims=(replace(MONTH, resets_at=resets_at),)))
    await rooms.ledger.settle(ROW)
    (one,) = standings({}, await rooms.ledger.budgets(AT), AT)
    assert one.forecast is not None and one.forecast > ROW.nano
    page = await rooms.page("/budgets")
    row = re.search(r"<tr><th[^>]*>search.*?</tr>", page)
    assert row and decimal_text(one.forecast) in Outline(row[0]).text


async def test_a_deployment_that_never_failed_does_not_look_as_if_it_had(rooms: Rooms) -> None:
    one = {"model": "m", "up": True, "why": "", "requests": 0, "limit": None, "first_token": None, "pace": None, "hit_rate_fell": None}
    host = {"host": "h", "configured": True, "needs": None, "currency": "USD", "models": [], "alarms": [], "replicas": []}
    for failed, said in ((False, "none seen"), (True, "1.0 %")):
        rooms.hosts = [{**host, "deployments": [{**one, "failing": 0.01, "failed": failed}]}]
        page = Outline(await rooms.page("/hosts")).text
        assert said in page and ("1.0 %" in page) is failed


async def test_without_hosts_teams_and_budgets_the_next_step_is_said(rooms: Rooms) -> None:
    assert "export DEEPSEEK_API_KEY" in await rooms.page("/hosts")
    assert "policies/teams/search.yaml" in await rooms.page("/budgets")
    assert "No host is configured" in await rooms.page("/")
    assert 'id="team" name="team"' in await rooms.page("/keys") and "<select" not in (await rooms.page("/keys")).partition("fieldset")[0]


async def test_teams_are_chosen_where_there_are_files(rooms: Rooms) -> None:
    teams = {name: TeamRow(team=name, routes=("*",)) for name in ("one", "two")}
    kept = {name: getattr(rooms.book.current, name) for name in ("prices", "routes", "rates", "digest")}
    rooms.book.current = SimpleNamespace(**kept, teams=teams)  # type: ignore[assignment]
    assert '<option value="two">two</option>' in await rooms.page("/keys")
    assert '<option value="two" selected>two</option>' in await rooms.page("/requests?team=two")


async def test_keys_stand_with_those_that_work_first(rooms: Rooms) -> None:
    for name in ("first", "second", "third"):
        await rooms.registry.create(Order(team="search", name=name))
    await rooms.registry.revoke("third")
    page = await rooms.page("/keys")
    assert page.index("first") < page.index("third") and page.index("second") < page.index("third")
    assert page.count("data-confirm") == 2


async def test_too_many_wrong_tokens_wait_and_the_right_one_with_them(rooms: Rooms) -> None:
    rooms.cookie = ""
    assert [await rooms.log_in("wrong") for _ in range(TRIES)] == [401] * TRIES
    assert await rooms.log_in() == 429
    assert await rooms.log_in(client="10.0.0.2") == 303
