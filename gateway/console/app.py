"""The console's routes: who may ask, what a form must prove, and the headers that keep its pages to themselves."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from secrets import token_hex
from typing import Final, TypeAlias
from urllib.parse import parse_qsl, quote, urlsplit

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.console import budgets, doors, explained, hosts, keys, overview, policies, requests
from gateway.console.desk import Desk
from gateway.console.figures import instant
from gateway.console.frame import ONCE, PROOF, Ask, Go, Page, Shell, framed
from gateway.console.markup import Html, join, tag
from gateway.console.sessions import LASTS, Session, Sessions, Tries
from gateway.errors import FaregateError

Work: TypeAlias = Callable[[Desk, Ask], Awaitable[Page | Go]]
Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]

# Over plain HTTP the prefix is not allowed; with it, no other host of the domain can set the cookie.
COOKIE, SAFE_COOKIE = "faregate", "__Host-faregate"
LARGEST: Final = 16 * 1024
_FORM: Final = "application/x-www-form-urlencoded"
_GUARDED: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Nothing is told to other origins. With no-referrer, browsers would also say `Origin: null` to us, and no form could prove its origin.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_PAGE: Final = {**_GUARDED, "content-type": "text/html; charset=utf-8", "cache-control": "no-store"}
_KINDS: Final = {"console.css": "text/css; charset=utf-8", "console.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml"}
_VIEWS: Final[tuple[tuple[str, Work], ...]] = (
    ("/", overview.overview),
    ("/budgets", budgets.budgets),
    ("/requests", requests.requests),
    ("/requests/{id}", explained.explained),
    ("/hosts", hosts.hosts),
    ("/keys", keys.keys),
    ("/keys/{id}/revoke", keys.confirm),
    ("/policies", policies.policies),
)
_DEEDS: Final[tuple[tuple[str, Work], ...]] = (
    ("/keys", keys.create),
    ("/keys/{id}/revoke", keys.revoke),
    ("/policies/reload", policies.reload),
)


def add_console(app: FastAPI, desk: Desk, token: str, now: Callable[[], float] = time.time) -> None:
    """The pages, for browsers that have logged in with the token. Who does not ask for HTML finds nothing at their paths."""
    Console(desk, Sessions(token.encode(), now), Tries(now)).add_to(app)


def add_closed_console(app: FastAPI) -> None:
    """One page at / that says how to set a token; nothing else."""
    assets = Assets()

    async def unset(request: Request) -> Response:
        _for_browsers(request)
        return _sent(doors.unset(), Shell(assets.stamp, None))

    app.add_route("/", unset, include_in_schema=False)
    assets.add_to(app)


class Assets:
    """The style sheet, the script and the icon, read once; their addresses change with them, so that browsers may keep them."""

    def __init__(self) -> None:
        folder = files("gateway.console") / "static"
        self._files = {name: (folder / name).read_bytes() for name in _KINDS}
        self.stamp = hashlib.sha256(b"".join(self._files.values())).hexdigest()[:12]

    def add_to(self, app: FastAPI) -> None:
        for name in _KINDS:
            app.add_route(f"/console/{name}", self._endpoint(name), include_in_schema=False)

    def _endpoint(self, name: str) -> Endpoint:
        async def asset(request: Request) -> Response:
            kept = "public, max-age=31536000, immutable" if request.url.query == self.stamp else "no-cache"
            return Response(self._files[name], headers={**_GUARDED, "content-type": _KINDS[name], "cache-control": kept})

        return asset


class Console:
    """The pages of one gateway."""

    def __init__(self, desk: Desk, sessions: Sessions, tries: Tries) -> None:
        self._desk = desk
        self._sessions = sessions
        self._tries = tries
        self._assets = Assets()

    def add_to(self, app: FastAPI) -> None:
        self._assets.add_to(app)
        for path, work in _VIEWS:
            app.add_route(path, self._view(work), methods=["GET"], include_in_schema=False)
        for path, work in _DEEDS:
            app.add_route(path, self._deed(work), methods=["POST"], include_in_schema=False)
        app.add_route("/login", self._door, methods=["GET"], include_in_schema=False)
        app.add_route("/login", self._login, methods=["POST"], include_in_schema=False)
        app.add_route("/logout", self._logout, methods=["POST"], include_in_schema=False)

    def _view(self, work: Work) -> Endpoint:
        async def view(request: Request) -> Response:
            _for_browsers(request)
            session = self._session(request)
            if session is None or session.kind != "admin":
                return _to_the_door(request)
            return await self._answer(work, _ask(request, self._sessions, session))

        return view

    def _deed(self, work: Work) -> Endpoint:
        async def deed(request: Request) -> Response:
            session = self._session(request)
            fields = await _fields(request)
            if session is None or session.kind != "admin":
                return self._failed("Not logged in", "Log in, and try again: nothing was done.", 401)
            if not self._ours(request, session, fields):
                return self._failed("Not from this console", _NOT_OURS, 403)
            return await self._answer(work, _ask(request, self._sessions, session, fields))

        return deed

    async def _answer(self, work: Work, ask: Ask) -> Response:
        try:
            made = await work(self._desk, ask)
        except FaregateError as error:
            made = doors.failed("That did not work", error.message, error.status)
        return _gone(made.path) if isinstance(made, Go) else _sent(made, self._shell(ask))

    def _session(self, request: Request) -> Session | None:
        cookie = request.cookies.get(SAFE_COOKIE) or request.cookies.get(COOKIE)
        return self._sessions.read(cookie)

    def _ours(self, request: Request, session: Session, fields: Mapping[str, str]) -> bool:
        return same_origin(request.headers) and self._sessions.fits(session, fields.get(PROOF, ""))

    async def _door(self, request: Request) -> Response:
        _for_browsers(request)
        to = own_path(request.query_params.get("to"))
        session = self._session(request)
        if session is not None and session.kind == "admin":
            return _gone(to)
        return self._shown_door(request, session, to)

    def _shown_door(self, request: Request, session: Session | None, to: str, problem: str | None = None, status: int = 200) -> Response:
        guest = session or self._sessions.start("guest")
        answer = _sent(doors.login(_ask(request, self._sessions, guest), to, problem, status), Shell(self._assets.stamp, None))
        if session is None:
            self._keep(request, answer, guest)
        return answer

    async def _login(self, request: Request) -> Response:
        session, fields = self._session(request), await _fields(request)
        to = own_path(fields.get("to"))
        if session is None or not self._ours(request, session, fields):
            return self._shown_door(request, None, to, "This form was too old, or not from this console. Try again.", 403)
        address = request.client.host if request.client else ""
        if wait := self._tries.wait(address):
            answer = self._shown_door(request, session, to, f"Too many wrong tokens. Try again in {wait} seconds.", 429)
            answer.headers["retry-after"] = str(wait)
            return answer
        if not self._sessions.knows(fields.get("token", "")):
            self._tries.failed(address)
            return self._shown_door(request, session, to, "This is not the admin token.", 401)
        # Another session than the guest's: nobody can have put it there.
        answer = _gone(to)
        self._keep(request, answer, self._sessions.start("admin"))
        return answer

    async def _logout(self, request: Request) -> Response:
        session, fields = self._session(request), await _fields(request)
        if session is not None:
            if not self._ours(request, session, fields):
                return self._failed("Not from this console", _NOT_OURS, 403)
            self._sessions.end(session)
        answer = _gone("/login")
        for name in (COOKIE, SAFE_COOKIE):
            answer.delete_cookie(name, secure=name == SAFE_COOKIE, httponly=True, samesite="strict")
        return answer

    def _keep(self, request: Request, answer: Response, session: Session) -> None:
        # Whoever says so wrongly only keeps the cookie from itself.
        secure = request.headers.get("x-forwarded-proto", request.url.scheme) == "https"
        answer.set_cookie(
            SAFE_COOKIE if secure else COOKIE,
            self._sessions.cookie(session),
            max_age=LASTS[session.kind],
            secure=secure,
            httponly=True,
            samesite="strict",
        )

    def _failed(self, title: str, text: str, status: int) -> Response:
        page = doors.failed(title, text, status)
        back = tag("p", tag("a", "To the console", href="/"))
        return _sent(page._replace(body=join(page.body, back)), Shell(self._assets.stamp, None))

    def _shell(self, ask: Ask) -> Shell:
        _, ready = self._desk.readiness()
        shift, warning = ready.get("clock"), None
        if shift:
            said = f"The clock of this gateway is set ({shift['set']}): prices and names are those of its time."
            warning = tag("p", said, class_="notice warn")
        foot = join(
            tag("span", "As of ", instant(self._desk.now()), id="as-of"),
            tag("button", "Pause", type="button", id="pause", class_="quiet small", hidden=True),
            tag("span", "Policies ", tag("a", tag("code", self._desk.policies.digest), href="/policies")),
            tag("a", "Admin API", href="/docs"),
        )
        return Shell(self._assets.stamp, ask, foot, warning)


_NOT_OURS: Final = "This form is too old, or another page sent it. Nothing was done: load the page again, and try again."


def same_origin(headers: Mapping[str, str]) -> bool:
    """Whether a page of this very origin sent it, by what browsers say and pages cannot change; who says nothing is refused."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None and site != "same-origin":
        return False
    if origin is None:
        return False
    return urlsplit(origin).netloc.lower() == headers.get("host", "").lower() or (site == "same-origin" and origin != "null")


def own_path(text: str | None) -> str:
    """Where to go after the login: a page of ours, whatever somebody wrote there."""
    path = urlsplit(text or "/")
    known = not path.scheme and not path.netloc and path.path.startswith("/") and not path.path.startswith("//")
    plain = known and text is not None and text.isascii() and text.isprintable() and not set(text) & set("\\ \"'<>")
    return text if plain and text is not None and len(text) <= 512 else "/"


def _for_browsers(request: Request) -> None:
    """Who does not ask for HTML is no browser: for it, there is nothing here."""
    if "text/html" not in request.headers.get("accept", ""):
        raise HTTPException(404)


def _to_the_door(request: Request) -> Response:
    # The path as it came: the one of request.url is made of the Host header too.
    query = request.scope["query_string"].decode("ascii", "replace")
    path = quote(request.scope["path"]) + (f"?{query}" if query else "")
    if request.headers.get("sec-fetch-site") == "cross-site":
        # A link on another site: the cookie stayed behind, and comes with the next step.
        return Response(doors.passing(own_path(path)), headers=_PAGE)
    return _gone("/login" if path == "/" else f"/login?to={quote(path, safe='')}")


def _gone(path: str) -> Response:
    return Response(status_code=303, headers={**_PAGE, "location": path})


def _sent(page: Page, shell: Shell) -> Response:
    made: Html = framed(page, shell)
    return Response(made.encode(), page.status, headers=_PAGE)


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a form; none of anything else, and of what is too large. A field that comes twice is none."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        return {}
    data = b""
    try:
        async for piece in request.stream():
            data += piece
            if len(data) > LARGEST:
                raise HTTPException(413, f"The body is larger than {LARGEST} bytes.")
    except ClientDisconnect:
        return {}
    try:
        pairs = parse_qsl(data.decode("ascii", "replace"), keep_blank_values=True, errors="replace", max_num_fields=64)
    except ValueError:
        return {}
    return dict(pairs) if len(dict(pairs)) == len(pairs) else {}


def _ask(request: Request, sessions: Sessions, session: Session, fields: Mapping[str, str] | None = None) -> Ask:
    return Ask(
        parts=request.path_params,
        query=request.query_params,
        fields=fields or {},
        proof=sessions.form(session),
        once=token_hex(16),
        fresh=fields is not None and sessions.first(fields.get(ONCE, "")),
        site=request.url.hostname or "127.0.0.1",
    )
