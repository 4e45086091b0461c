"""The data plane: a plain ASGI app. A request is guarded, routed, authenticated, read and parsed once, then handed on."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from gateway.errors import FaregateError
from gateway.front import body, session
from gateway.front.cycle import Gone
from gateway.front.errors import MethodNotAllowed, PathNotFound
from gateway.front.guard import Headers, inspect
from gateway.front.respond import Responder
from gateway.front.wire import CYCLE, Fields, Receive, Scope, Send, dump, header_value, model_list, request_id
from gateway.request import Caller, ChatRequest

log = logging.getLogger(__name__)

CHAT = ("/chat/completions", "/v1/chat/completions")
BETA = ("/beta/chat/completions", "/beta/v1/chat/completions", "/v1/beta/chat/completions")
MODELS = ("/models", "/v1/models")
BALANCE = ("/user/balance", "/v1/user/balance")


class Exchange(Protocol):
    """What serves chat completions behind this edge."""

    async def chat(self, request: ChatRequest, caller: Caller, responder: Responder, gone: Gone) -> None: ...


class Front:
    """Serves port 8080.

    `authenticate` turns headers into a Caller or raises InvalidKey; `models` lists what a caller may use; `ready` is the
    body of /readyz, where `"ready": false` makes it a 503; `balance` is what a caller's budgets leave, in DeepSeek's shape;
    `notice` gives the time on a shifted clock for a header.
    """

    def __init__(
        self,
        *,
        exchange: Exchange,
        authenticate: Callable[[Headers], Caller],
        models: Callable[[Caller], list[dict[str, Any]]],
        ready: Callable[[], dict[str, Any]],
        max_body: int,
        notice: Callable[[], str] | None = None,
        balance: Callable[[Caller], Awaitable[dict[str, Any]]] | None = None,
    ) -> None:
        self._exchange = exchange
        self._authenticate = authenticate
        self._models = models
        self._ready = ready
        self._max_body = max_body
        self._notice = notice
        self._balance_of = balance
        self.draining = False
        self._routes: dict[str, tuple[tuple[str, ...], _Handler]] = {
            **{path: (("POST",), self._chat) for path in (*CHAT, *BETA)},
            **{path: (("GET",), self._list_models) for path in MODELS},
            **{path: (("GET",), self._balance) for path in BALANCE if balance is not None},
            "/": (("GET", "HEAD"), self._root),
            "/healthz": (("GET", "HEAD"), self._health),
            "/readyz": (("GET", "HEAD"), self._readiness),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        call = _Call(scope, receive, Responder(scope, send, request_id(), self._extra()))
        try:
            headers = inspect(scope)
            # The guard has seen that these have no body.
            call.read = scope["method"] in ("GET", "HEAD")
            await self._handler(scope)(call, headers)
        except FaregateError as error:
            await call.fail(error, self._max_body)
        except body.ClientLeft:
            return
        except Exception:
            # What was sent has been settled by the exchange; the client learns the id under which the log has the cause.
            log.exception("request %s failed inside the gateway", call.responder.id)
            await call.fail(_Internal("The gateway failed; the request id finds the cause in its log."), self._max_body)

    def _extra(self) -> Fields:
        return [(b"x-faregate-clock", header_value(self._notice()))] if self._notice else []

    def _handler(self, scope: Scope) -> _Handler:
        route = self._routes.get(scope["path"])
        if route is None:
            raise PathNotFound("There is nothing at this path. The API is at /v1/chat/completions and /v1/models.")
        methods, handle = route
        if scope["method"] not in methods:
            raise MethodNotAllowed(f"This path takes {' and '.join(methods)} only.")
        return handle

    async def _chat(self, call: _Call, headers: Headers) -> None:
        caller = self._authenticate(headers)
        body.check_headers(headers, call.scope["query_string"])
        again = body.idempotency_key(headers)
        named, dry_run = session.hints(headers)
        data = await body.read(call.receive, headers, self._max_body)
        call.read = True
        request = await body.request(data, call.responder.id, beta=call.scope["path"] in BETA, session=named, dry_run=dry_run)
        if again is not None:
            request = replace(request, idempotency=await body.idempotency(again, caller.team, data))
        await self._exchange.chat(request, caller, call.responder, call.scope["extensions"][CYCLE])

    async def _list_models(self, call: _Call, headers: Headers) -> None:
        caller = self._authenticate(headers)
        await call.responder.whole(200, {}, dump(model_list(self._models(caller))))

    async def _balance(self, call: _Call, headers: Headers) -> None:
        caller = self._authenticate(headers)
        assert self._balance_of is not None, "the path is routed only with it"
        await call.responder.whole(200, {}, dump(await self._balance_of(caller)))

    async def _root(self, call: _Call, headers: Headers) -> None:
        await call.responder.whole(200, {}, b'{"service":"faregate"}')

    async def _health(self, call: _Call, headers: Headers) -> None:
        await call.responder.whole(200, {}, b'{"status":"ok"}')

    async def _readiness(self, call: _Call, headers: Headers) -> None:
        status, report = self.readiness()
        await call.responder.whole(status, {}, dump(report))

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """Status and body of /readyz, for both planes."""
        report = {"ready": not self.draining, "draining": self.draining, **self._ready()}
        report["ready"] = report["ready"] and not self.draining
        return (200 if report["ready"] else 503), report


class _Internal(FaregateError):
    """A fault of ours that nobody foresaw."""


class _Call(Struct):
    """One request on its way in. `read`: its body is known to be whole, so the connection can go on after an error."""

    scope: Scope
    receive: Receive
    responder: Responder
    read: bool = False

    async def fail(self, error: FaregateError, limit: int) -> None:
        """Answer with the error in whichever state the answer is."""
        if self.responder.finished:
            return
        if self.read:
            await self.responder.error(error)
        else:
            await self.responder.refuse(error, self.receive, limit)


_Handler = Callable[[_Call, Headers], Any]
