"""The admin plane: metrics and health for everyone, all else for who has the token, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from msgspec.structs import replace

from gateway.admin.app import build_admin
from gateway.errors import LedgerUnavailable
from gateway.money import Parts
from gateway.outcome import Attempt, Hold, LedgerRow, Option, PlanNote
from gateway.policies import Policies, default_folder, load
from gateway.usage import Sources, Usage
from tests.ledgers import Embedded

TOKEN = "admin-token-éè"
AT = datetime(2026, 11, 20, 2, tzinfo=UTC)
HOLD = Hold("r1", "search", "search-1", "r", "deepseek", "v4", "USD", 900, 500, 900, "card", "9f", AT)
ROW = LedgerRow(
    "r1", "search", "search-1", "r", "deepseek", "v4", "deepseek-v4-pro", ("max_tokens=9000->8192",),
    Usage(64, 10, 30, 12, Sources(cache_hit="unknown")), "USD", 400, Parts(50, 150, 200), "card", "peak", "9f", AT,
    AT + timedelta(milliseconds=1500), "ok", None, (Attempt("deepseek", "v4", "ok", "known", 400),), 500, 900, 399, True, True,
)  # fmt: skip
RECEIPT = {
    "id": "r1",
    "team": "search",
    "key": "search-1",
    "route": "r",
    "host": "deepseek",
    "model": "v4",
    "contract": "deepseek-v4-pro",
    "edits": ["max_tokens=9000->8192"],
    "usage": {
        "cache_hit": 64,
        "cache_miss": 10,
        "output": 30,
        "reasoning": 12,
        "sources": {"cache_hit": "unknown", "cache_miss": "reported", "output": "reported", "reasoning": "reported"},
    },
    "currency": "USD",
    "nano": 400,
    "parts": {"cache_hit": 50, "cache_miss": 150, "output": 200},
    "card": "card",
    "window": "peak",
    "policies": "9f",
    "started": "2026-11-20T02:00:00Z",
    "ended": "2026-11-20T02:00:01.500000Z",
    "status": "ok",
    "stopped": None,
    "stream": True,
    "attempts": [{"host": "deepseek", "model": "v4", "outcome": "ok", "billed": "known", "nano": 400}],
    "quote": {"expected": 500, "worst": 900},
    "candidates": [],
    "host_nano": 399,
    "disputed": True,
}
HOSTS = [{"host": "deepseek", "configured": True, "models": ["deepseek-v4-pro"]}]


class Book:
    """A policies folder of which the next reading may fail."""

    def __init__(self, policies: Policies) -> None:
        self.current = policies
        self.error: str | None = None
        self.loaded_at = AT
        self.next_error: str | None = None

    def reload(self) -> bool:
        self.error = self.next_error
        return self.error is None


class Text:
    def text(self) -> bytes:
        return b"faregate_requests_total 1\n"


class Plane:
    """A running admin server and what is behind it."""

    def __init__(self, ledger: Embedded, book: Book, session: aiohttp.ClientSession) -> None:
        self.ledger = ledger
        self.book = book
        self.ready: tuple[int, dict[str, Any]] = (200, {"ready": True})
        self._session = session

    async def ask(
        self, path: str, token: str | bytes | None = TOKEN, method: str = "GET", scheme: bytes = b"Bearer", host: str | None = None
    ) -> tuple[int, Any]:
        header = scheme + b" " + (token.encode() if isinstance(token, str) else token) if token is not None else None
        headers = {"authorization": header.decode("utf-8", "surrogateescape")} if header else {}
        headers |= {"host": host} if host else {}
        async with self._session.request(method, path, headers=headers) as answer:
            return answer.status, await (answer.json() if "json" in answer.headers["content-type"] else answer.text())


@asynccontextmanager
async def plane(tmp_path: Path, token: str | None, bound: str = "127.0.0.1") -> AsyncIterator[Plane]:
    ledger = Embedded(tmp_path / "ledger.db")
    await ledger.start()
    book = Book(load(default_folder()))
    served: list[Plane] = []
    readiness: Callable[[], tuple[int, dict[str, Any]]] = lambda: served[0].ready  # noqa: E731
    app = build_admin(ledger=ledger, metrics=Text(), policies=book, hosts=lambda: HOSTS, readiness=readiness, token=token, bound=bound)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
    running = asyncio.create_task(server.serve())
    for _ in range(10_000):
        if server.started:
            break
        await asyncio.sleep(0.001)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        served.append(Plane(ledger, book, session))
        yield served[0]
    server.should_exit = True
    await running
    await ledger.close()


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Plane]:
    async with plane(tmp_path, TOKEN) as running:
        yield running


OPEN = ["/metrics", "/healthz", "/readyz"]
CLOSED = ["/admin/v1/requests", "/admin/v1/requests/r1", "/admin/v1/policies", "/admin/v1/hosts"]


HERE = ["localhost", "LOCALHOST:8081", "gateway.localhost", "localhost.:1", "127.0.0.1", "127.9.8.7:8081", "[::1]", "[::1]:8081"]
ELSEWHERE = ["evil.example", "evil.example:8081", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1evil", "10.0.0.1", "[::2]"]


@pytest.mark.parametrize("path", OPEN)
async def test_a_port_of_this_machine_alone_answers_who_asked_for_this_machine(tmp_path: Path, path: str) -> None:
    """A page that has led its own name here, and so may read the answers, has its own name in Host."""
    async with plane(tmp_path, TOKEN) as admin:
        assert [(await admin.ask(path, None, host=host))[0] for host in HERE] == [200] * len(HERE)
        for host in ELSEWHERE:
            status, body = await admin.ask(path, None, host=host)
            assert (status, "FAREGATE_ADMIN_HOST" in body["error"]["message"]) == (421, True)
        # With the token from anywhere: a proxy with TLS may stand in front, and passes the name on under which it was asked.
        assert (await admin.ask("/admin/v1/requests", host="faregate.example"))[0] == 200


@pytest.mark.parametrize("bound", ["0.0.0.0", "::", "10.1.2.3", "faregate.internal"])
async def test_a_port_of_a_network_answers_under_any_name(tmp_path: Path, bound: str) -> None:
    async with plane(tmp_path, TOKEN, bound) as admin:
        assert [(await admin.ask(path, None, host="faregate-0.faregate:8081"))[0] for path in OPEN] == [200] * 3


async def test_without_a_token_only_metrics_and_health_exist(tmp_path: Path) -> None:
    async with plane(tmp_path, None) as admin:
        assert [(await admin.ask(path))[0] for path in OPEN] == [200] * 3
        assert [(await admin.ask(path))[0] for path in [*CLOSED, "/docs", "/openapi.json", "/redoc"]] == [404] * 7
        assert (await admin.ask("/admin/v1/reload", method="POST"))[0] == 404


async def test_metrics_and_health_need_no_token(admin: Plane) -> None:
    assert await admin.ask("/metrics", None) == (200, "faregate_requests_total 1\n")
    assert await admin.ask("/healthz", None) == (200, {"status": "ok"})
    admin.ready = (503, {"ready": False, "draining": True})
    assert await admin.ask("/readyz", None) == (503, {"ready": False, "draining": True})


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", TOKEN[:-1], b"\xe9"])
async def test_all_else_needs_the_token(admin: Plane, token: str | bytes | None) -> None:
    for path in CLOSED:
        status, body = await admin.ask(path, token)
        assert (status, body["error"]["code"]) == (401, "invalid_key")
    assert (await admin.ask("/admin/v1/reload", token, "POST"))[0] == 401


@pytest.mark.parametrize(("scheme", "status"), [(b"bearer", 200), (b"Bearer ", 200), (b"Basic", 401), (b"", 401)])
async def test_the_token_comes_by_bearer_alone(admin: Plane, scheme: bytes, status: int) -> None:
    assert (await admin.ask("/admin/v1/hosts", scheme=scheme))[0] == status


async def test_a_request_is_shown_as_its_receipt(admin: Plane) -> None:
    await admin.ledger.hold(HOLD)
    assert (await admin.ask("/admin/v1/requests/r1"))[0] == 404
    await admin.ledger.settle(ROW)

    status, shown = await admin.ask("/admin/v1/requests/r1")

    assert (status, {name: shown[name] for name in RECEIPT}) == (200, RECEIPT)
    assert shown["hold"] == {"state": "settled", "currency": "USD", "amount": "0.0000009", "budgets": []}
    assert [(entry["kind"], entry["amount"]) for entry in shown["entries"]] == [("settle", "0.0000004")]
    assert (await admin.ask("/admin/v1/requests"))[1] == [RECEIPT]


async def test_a_request_is_shown_with_what_its_candidates_would_have_cost(admin: Plane) -> None:
    options = (Option("deepseek/v4", "USD", 500, 900, 74, 60, 30, 500), Option("gmi/v4", "USD", 700, 900, 74, 0, 30, 700, 9, "dearer"))
    await admin.ledger.hold(HOLD)
    await admin.ledger.settle(replace(ROW, plan=PlanNote(options, ("x/y: full",), "3f9a", 2, "cheapest")))

    _, shown = await admin.ask("/admin/v1/requests/r1")

    assert (shown["mode"], shown["conversation"], shown["turn"], shown["passed_over"]) == ("cheapest", "3f9a", 2, ["x/y: full"])
    assert [(one["name"], one["expected"], one["served"]) for one in shown["candidates"]] == [
        ("deepseek/v4", "0.0000005", True),
        ("gmi/v4", "0.0000007", False),
    ]
    listed = (await admin.ask("/admin/v1/requests"))[1][0]["candidates"]
    assert [(one["name"], one["why"]) for one in listed] == [("deepseek/v4", None), ("gmi/v4", "dearer")]


async def test_a_released_request_has_null_usage_and_parts(admin: Plane) -> None:
    await admin.ledger.hold(HOLD)
    await admin.ledger.release(replace(ROW, nano=0, usage=None, parts=None))

    _, receipt = await admin.ask("/admin/v1/requests/r1")

    assert (receipt["usage"], receipt["parts"], receipt["nano"]) == (None, None, 0)


async def test_the_newest_requests_come_first_and_are_limited(admin: Plane) -> None:
    for number in range(3):
        await admin.ledger.hold(replace(HOLD, id=f"r{number}"))
        await admin.ledger.settle(replace(ROW, id=f"r{number}", ended=AT + timedelta(seconds=number)))

    _, rows = await admin.ask("/admin/v1/requests?limit=2")
    assert [row["id"] for row in rows] == ["r2", "r1"]
    for limit in ("0", "1001", "many"):
        assert (await admin.ask(f"/admin/v1/requests?limit={limit}"))[0] == 422


async def test_a_reload_that_fails_says_why_and_changes_nothing(admin: Plane) -> None:
    before = {"digest": admin.book.current.digest, "loaded_at": "2026-11-20T02:00:00Z", "error": None}
    assert await admin.ask("/admin/v1/policies") == (200, before)
    assert await admin.ask("/admin/v1/reload", method="POST") == (200, before)

    admin.book.next_error = "prices/x.yaml:3: no"

    assert await admin.ask("/admin/v1/reload", method="POST") == (409, {**before, "error": "prices/x.yaml:3: no"})
    assert (await admin.ask("/admin/v1/policies"))[1]["error"] == "prices/x.yaml:3: no"


async def test_hosts_are_listed(admin: Plane) -> None:
    assert await admin.ask("/admin/v1/hosts") == (200, HOSTS)


async def test_the_docs_are_one_page_without_anything_from_elsewhere(admin: Plane) -> None:
    status, page = await admin.ask("/docs", None)
    assert status == 200
    assert "/admin/v1/requests/{id}" in page
    assert "<script" not in page and "://" not in page
    _, schema = await admin.ask("/openapi.json", None)
    assert set(schema["paths"]) == {
        "/admin/v1/requests",
        "/admin/v1/requests/{id}",
        "/admin/v1/policies",
        "/admin/v1/reload",
        "/admin/v1/hosts",
    }


async def test_a_ledger_that_is_closed_is_a_503(admin: Plane) -> None:
    await admin.ledger.close()
    status, body = await admin.ask("/admin/v1/requests/r1")
    assert (status, body["error"]["code"]) == (503, LedgerUnavailable.code)
