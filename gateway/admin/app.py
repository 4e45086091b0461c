"""The admin API: a FastAPI app made from what it is given. Without a token only metrics and health exist."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from gateway.admin.budgets import BudgetDesk, add_budgets
from gateway.admin.cache import add_cache
from gateway.admin.calibration import add_calibration
from gateway.admin.hosts import add_hosts
from gateway.admin.keys import KeyDesk, add_keys
from gateway.admin.policies import PolicyBook, add_policies
from gateway.admin.spend import add_spend
from gateway.admin.today import Today, add_today
from gateway.admin.views import docs_page, explained_json, request_json
from gateway.console.app import add_closed_console, add_console
from gateway.console.desk import Desk
from gateway.errors import FaregateError
from gateway.front.guard import loopback, meant_here
from gateway.ledger.port import Ledger
from gateway.metrics import CONTENT_TYPE


class Exposition(Protocol):
    """The metrics as text."""

    def text(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Sources:
    ledger: Ledger
    policies: PolicyBook
    metrics: Exposition
    hosts: Callable[[], list[dict[str, Any]]]
    readiness: Callable[[], tuple[int, dict[str, Any]]]


def build_admin(
    *,
    ledger: Ledger,
    metrics: Exposition,
    policies: PolicyBook,
    hosts: Callable[[], list[dict[str, Any]]],
    readiness: Callable[[], tuple[int, dict[str, Any]]],
    token: str | None,
    keys: KeyDesk | None = None,
    budgets: BudgetDesk | None = None,
    port: int = 8080,
    bound: str = "",
) -> FastAPI:
    """The app of the admin port. Without a token there is no admin API, no schema, no docs, and a console that says how to set one.

    `hosts` is every host with `configured` and the models that it serves now; `readiness` is status and body of /readyz; `port` is
    where requests are served, for the examples of the console; `bound` is the address on which this app is served.
    """
    sources = _Sources(ledger, policies, metrics, hosts, readiness)
    app = FastAPI(title="Faregate admin", docs_url=None, redoc_url=None, openapi_url="/openapi.json" if token else None)
    app.add_exception_handler(StarletteHTTPException, _http_error)
    app.add_exception_handler(FaregateError, _own_error)
    app.include_router(_open(sources), dependencies=[Depends(_here)] if loopback(bound) else [])
    if not token:
        add_closed_console(app)
        return app
    closed = _closed(sources)
    if keys is not None:
        add_keys(closed, keys)
    if budgets is not None:
        add_budgets(closed, budgets)
        add_spend(closed, budgets)
        add_cache(closed, budgets)
        add_calibration(closed, budgets)
        add_today(closed, today := Today(budgets))
        if keys is not None:
            add_console(app, Desk(policies, hosts, readiness, keys, budgets, today, port), token)
    app.include_router(closed, prefix="/admin/v1", dependencies=[Depends(_bearer(token.encode()))])
    app.add_api_route("/docs", _docs(app), include_in_schema=False, response_class=HTMLResponse)
    return app


def _open(sources: _Sources) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/healthz")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz")
    async def ready() -> JSONResponse:
        status, report = sources.readiness()
        return JSONResponse(report, status)

    @router.get("/metrics")
    async def metrics() -> Response:
        # In a thread: many series take tens of milliseconds, in which the event loop would pass on no token.
        return Response(await asyncio.to_thread(sources.metrics.text), headers={"content-type": CONTENT_TYPE})

    return router


def _here(request: Request) -> None:
    """Refuse who did not ask for this machine: a web page can lead its own name here, and would then read what needs no token."""
    host = request.headers.get("host")
    if host is not None and not meant_here(host):
        said = "This port is for this machine alone: ask for it as localhost or 127.0.0.1, or set FAREGATE_ADMIN_HOST."
        raise HTTPException(421, said)


def _closed(sources: _Sources) -> APIRouter:
    router = APIRouter()
    _add_requests(router, sources)
    add_policies(router, sources.policies)
    add_hosts(router, sources.hosts)
    return router


def _add_requests(router: APIRouter, sources: _Sources) -> None:
    ledger = sources.ledger

    @router.get("/requests", summary="The newest requests first")
    async def requests(limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> list[dict[str, Any]]:
        return [request_json(row) for row in await ledger.requests(limit)]

    @router.get("/requests/{id}", summary="One request: what became of it, what it cost, and what its candidates would have cost")
    async def request(id: str) -> dict[str, Any]:
        row = await ledger.request(id)
        if row is None:
            raise HTTPException(404, "There is no such request, or it is still under way.")
        return explained_json(row, sources.policies.current, await ledger.trail(id))


def _bearer(secret: bytes) -> Callable[[Request], None]:
    """Refuse who does not send the token; compared as the bytes that came, in a time that does not depend on them."""

    def authorize(request: Request) -> None:
        scheme, _, sent = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(sent.strip().encode("latin-1"), secret):
            raise HTTPException(401, "Send the admin token as `Authorization: Bearer`.", {"www-authenticate": "Bearer"})

    return authorize


def _docs(app: FastAPI) -> Callable[[], HTMLResponse]:
    def docs() -> HTMLResponse:
        paths: dict[str, dict[str, dict[str, Any]]] = app.openapi()["paths"]
        listed = ((method.upper(), path, about["summary"]) for path, item in paths.items() for method, about in item.items())
        return HTMLResponse(docs_page(listed))

    return docs


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    code = {401: "invalid_key", 404: "not_found"}.get(error.status_code, "invalid_request")
    return _error(error.status_code, error.detail, code, error.headers)


async def _own_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, FaregateError)
    return _error(error.status, error.message, error.code, None)


def _error(status: int, message: str, code: str, headers: Any) -> Response:
    return JSONResponse({"error": {"message": message, "type": code, "code": code}}, status, headers)
