"""The emulator's HTTP server: plays one host, strictly, and publishes its own bill.

Loopback or container use only. Any path that ends in /chat/completions is the API, so every host's prefix works.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from gateway.clock import Clock
from gateway.emulator.behaviour import AS_STATED, Behaviour, BehaviourError, Chance, read_behaviour
from gateway.emulator.book import NANO, Book, amount_text
from gateway.emulator.cache import Life, PrefixCache, make_cache
from gateway.emulator.clocks import RunningClock, rate_of
from gateway.emulator.contracts import Order, admit, understand
from gateway.emulator.export import ExportRefused, archive, generations, offset_of, tables
from gateway.emulator.faults import NO_FAULT, Fault, FaultError, read_faults
from gateway.emulator.fields import Refusal
from gateway.emulator.job import Desk, Job
from gateway.emulator.output import Output, Wish, compose, wish_of
from gateway.emulator.player import Player, hang_up, produce, write
from gateway.emulator.prompts import END_THINK, EOS, render
from gateway.emulator.reader import Row, Shelf, read_cards, read_shelf, wire_id
from gateway.emulator.shapes import Shape, Step
from gateway.emulator.tokens import Tokens, Vocabulary, tokens_of
from gateway.emulator.wire import wire_of

_KEPT_REQUESTS = 512
_CREDIT = 100 * 10**9
# Caches of engines, whatever a contract says of the vendor's.
_ENGINES: Final[Mapping[str, Row]] = {
    "vllm": {"mode": "blocks", "tokens": 16},
    "sglang": {"mode": "slots", "tokens": 1},
    "llama.cpp": {"mode": "slots", "tokens": 1},
}


@dataclass(frozen=True)
class Setup:
    """What an emulator plays. `writes` overrides names of the host's dialect (gateway.emulator.wire.Wire)."""

    host: str
    policies: Path | Shelf
    clock: Clock | None = None
    currency: str = "USD"
    vocabulary: Vocabulary = "deepseek"
    writes: dict[str, Any] | None = None
    script: tuple[Any, ...] = ()
    bind: str = "127.0.0.1"
    port: int = 0
    speed: int = 0
    """Tokens a second that all open streams together are produced at; 0: as each is paced."""
    behaviour: Behaviour = AS_STATED
    prices: Path | None = None
    """A file of rate cards in the place of those in the policies: what it charges is its own affair."""


class Emulator:
    """One host on one port. Use it in an event loop: `await start()`, `url`, `await stop()`."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        shelf = setup.policies if isinstance(setup.policies, Shelf) else read_shelf(setup.policies, setup.host)
        self.shelf = replace(shelf, cards=read_cards(setup.prices, setup.host)) if setup.prices else shelf
        self.wire = wire_of(self.shelf.host, setup.writes)
        self.clock: Clock = setup.clock or RunningClock()
        self.tokens = Tokens(setup.vocabulary)
        self.requests: deque[Row] = deque(maxlen=_KEPT_REQUESTS)
        self._runner: web.AppRunner | None = None
        self.port = setup.port
        self.speed = setup.speed
        self.rate = rate_of(self.clock)
        self.credit = _CREDIT
        self.behaviour = setup.behaviour
        self.reset()
        self.play(list(setup.script))

    # --- control ---------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Empties the bill, the caches, the script and the list of requests."""
        self.desk = Desk(Book(self.shelf, self.setup.currency), self.clock, self.setup.currency)
        self._caches: dict[tuple[str, str, str], PrefixCache] = {}
        self._chance = Chance(self.behaviour)
        self._faults: deque[Fault] = deque()
        self.requests.clear()
        self._number = 0
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def behave(self, behaviour: Behaviour) -> None:
        """From now on like this; where its caches follow other rules, they begin empty."""
        if behaviour.caching != self.behaviour.caching:
            self._caches = {}
        self.behaviour = behaviour
        self._chance = Chance(behaviour)

    def play(self, script: list[Any]) -> None:
        """Appends faults, one for each next chat request (null: none)."""
        self._faults.extend(read_faults(script))

    @property
    def bill(self) -> list[Row]:
        return self.desk.rows

    async def settled(self, seconds: float = 5.0) -> list[Row]:
        """The bill once no request is open; after `seconds`, the bill as it is."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        return self.desk.rows

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.add_routes(_routes(self))
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.2, handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.setup.bind, self.setup.port, backlog=1024)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://{self.setup.bind}:{self.port}"

    @property
    def base_url(self) -> str:
        """The url with the path of the host's own base URL, for the gateway's FAREGATE_BASE_URL_<HOST>."""
        return self.url + urlsplit(str(self.shelf.host.get("base_url") or "")).path.rstrip("/")

    # --- one chat request ------------------------------------------------------------------------------------------

    async def chat(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        self.requests.append({"path": request.path, "headers": _public(request), "body": raw})
        fault = self._faults.popleft() if self._faults else self._chance.fault()
        self._enter()
        try:
            return await self._answer(request, raw, fault)
        except Refusal as refusal:
            return self._refused(refusal, fault)
        finally:
            self._leave()

    async def _answer(self, request: web.Request, raw: bytes, fault: Fault) -> web.StreamResponse:
        key = _key(request)
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.hang:
            await asyncio.Event().wait()
        self._admit_key(key)
        if fault.before_work:
            return self._instead(fault)
        order, prompt, wish = self._understand(request, raw)
        if self._open > int(order.row.get("concurrent") or self._open):
            raise self.wire.refusal_of(429)
        limits = admit(order, tokens_of(prompt), self.wire)
        outputs = [compose(order, wish, limits, self.tokens, choice, separators=fault.u2028) for choice in range(order.choices)]
        if fault.finish:
            outputs = [replace(output, finish=fault.finish) for output in outputs]
        cache = self._cache(key, order, raw)
        hit = self._chance.hit(cache.lookup(prompt, self._seconds()))
        job = self._job(request, key, order, prompt, hit, outputs, wish.tag)
        shape = Shape(self.wire, order, self._id(), int(self.clock.now().timestamp()), fault.usage_fault)
        try:
            if self.behaviour.first_token:
                await asyncio.sleep(self.behaviour.first_token / self.rate)
            if order.stream:
                return await self._stream(request, shape, job, outputs, wish, fault)
            return await self._whole(request, shape, job, outputs, wish, fault)
        except (asyncio.CancelledError, ConnectionError):
            self._abandoned(job)
            raise
        finally:
            if job.output >= job.planned:
                cache.learn(prompt + self._produced(outputs[0]), self._seconds())

    def _understand(self, request: web.Request, raw: bytes) -> tuple[Order, bytes, Wish]:
        try:
            body = json.loads(raw)
        except ValueError as error:
            raise Refusal(f"Failed to parse the request body as JSON: {error}") from None
        order = understand(body, self.shelf, self.wire, self.clock.now(), beta="/beta" in request.path, size=len(raw))
        try:
            wish = wish_of(order.messages, request.headers.get("x-emulate"), self.behaviour.usual(self.rate))
        except ValueError as error:
            raise Refusal(f"The emulator does not understand the wish: {error}") from None
        return order, render(self.tokens, order.messages, order.tools, order.thinking, self._seen_reasoning(order)), wish

    def _seen_reasoning(self, order: Order) -> Callable[[int], str | None]:
        return lambda index: self.wire.reasoning_of(order.messages[index]) if order.keep_reasoning(index) else None

    def _job(self, request: web.Request, key: str, order: Order, prompt: bytes, hit: int, outputs: list[Output], tag: str) -> Job:
        name = request.headers.get("x-request-id") or f"emulated-{self._number}"
        reported = hit if self.wire.cached else 0
        return Job(self.desk, name, key, str(order.row["model"]), tokens_of(prompt), reported, outputs, tag)

    def _cache(self, key: str, order: Order, raw: bytes) -> PrefixCache:
        stated = order.row.get("cache") or _ENGINES.get(self.wire.engine) or order.contract.get("cache") or {}
        mode, size, ttl = self.behaviour.rules(stated)
        user = str(json.loads(raw).get("user_id") or "") if b'"user_id"' in raw else ""
        place = (key, user, str(order.row["model"]))
        if place not in self._caches:
            self._caches[place] = make_cache(mode, size, Life(ttl, self.behaviour.lag))
        return self._caches[place]

    def _seconds(self) -> float:
        return self.clock.now().timestamp()

    def _produced(self, output: Output) -> bytes:
        """The ids of an output as the next prompt will hold them."""
        text = b"".join(map(self.tokens.ids, output.answer)) + EOS
        return b"".join(map(self.tokens.ids, output.reasoning)) + END_THINK + text if output.reasoning else text

    def _abandoned(self, job: Job) -> None:
        if self.shelf.host.get("cancel_stops_billing") is False:
            job.produce_rest()
        job.close("cancelled")

    # --- answers ---------------------------------------------------------------------------------------------------

    async def _stream(
        self, request: web.Request, shape: Shape, job: Job, outputs: list[Output], wish: Wish, fault: Fault
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"} | self._headers(fault)
        )
        if fault.gzip:
            response.enable_compression(web.ContentCoding.gzip)
        await response.prepare(request)
        outcome = "cut" if fault.no_finish else _outcome(fault)
        steps = shape.stream(outputs, lambda: job.close(outcome), wish.pace / 1000, max(1, wish.chunk))
        edited = fault.edit(
            steps, self.wire.keep_alive, lambda: self.wire.error_events("The engine failed", fault.error_status, shape.head())
        )
        await Player(request, response, job, fault.slice).run(self._shared(edited))
        return response

    def _shared(self, steps: Iterator[Step]) -> Iterator[Step]:
        """Each stream has its part of the speed of the whole host, which changes with how many are open."""
        for step in steps:
            if self.speed and step.output:
                pause = max(step.pause, step.output * self._open / self.speed)
                yield Step(step.data, step.kind, step.output, step.reasoning, pause, step.act)
            else:
                yield step

    async def _whole(
        self, request: web.Request, shape: Shape, job: Job, outputs: list[Output], wish: Wish, fault: Fault
    ) -> web.StreamResponse:
        if fault.error_after is not None:
            raise self.wire.refusal_of(fault.error_status)
        response = web.StreamResponse(headers={"Content-Type": "application/json"} | self._headers(fault))
        lines = fault.blank_lines or fault.keep_alive
        if lines:
            await response.prepare(request)
            for _ in range(lines):
                await response.write(b"\n")
                await asyncio.sleep(fault.keep_alive_pause)
        await produce(job, wish.pace / 1000)
        outcome = "cut" if fault.cut_after is not None else _outcome(fault)
        body = shape.whole(outputs, job.close(outcome))
        if fault.gzip:
            response.enable_compression(web.ContentCoding.gzip)
        elif not lines:
            response.content_length = len(body)
        if not lines:
            await response.prepare(request)
        if fault.cut_after is not None:
            await response.write(body[: len(body) // 2])
            await hang_up(request, fault.how)
            return response
        await write(response, body, fault.slice)
        await response.write_eof()
        return response

    def _headers(self, fault: Fault) -> dict[str, str]:
        headers = dict(fault.headers)
        if self.wire.host == "deepseek":
            headers["x-ds-trace-id"] = f"{self._number:032x}"
        if self.wire.host == "openrouter":
            headers["X-Generation-Id"] = self._id()
        if fault.set_cookie:
            headers["Set-Cookie"] = "emulated=1; Path=/; HttpOnly"
        return headers

    def _id(self) -> str:
        return f"gen-{self._number:024d}" if self.wire.host == "openrouter" else f"chatcmpl-{self._number:024x}"

    # --- refusals --------------------------------------------------------------------------------------------------

    def _admit_key(self, key: str) -> None:
        if not self.wire.local and (not key or key.endswith("-invalid")):
            raise self.wire.refusal_of(401, key)
        if key.endswith("-poor"):
            raise self.wire.refusal_of(402, key)

    def _refused(self, refusal: Refusal, fault: Fault) -> web.Response:
        body = json.dumps(self.wire.error_body(refusal), ensure_ascii=False)
        return web.Response(text=body, status=refusal.status, content_type="application/json", headers=self._headers(fault))

    def _instead(self, fault: Fault) -> web.Response:
        headers = self._headers(fault) | ({"Retry-After": str(fault.retry_after)} if fault.retry_after is not None else {})
        status = fault.status or (307 if fault.redirect else 502)
        if fault.redirect:
            return web.Response(status=status, headers=headers | {"Location": fault.redirect})
        if fault.html:
            return web.Response(
                text=f"<html><body><h1>{status}</h1></body></html>", status=status, content_type="text/html", headers=headers
            )
        body = self.wire.error_body(self.wire.refusal_of(status)) if fault.body is None else fault.body
        text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
        return web.Response(text=text, status=status, content_type="application/json", headers=headers)

    # --- who is inside ---------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        self._number += 1
        self._open += 1
        self._idle.clear()

    def _leave(self) -> None:
        self._open = max(0, self._open - 1)
        if not self._open:
            self._idle.set()

    # --- other endpoints -------------------------------------------------------------------------------------------

    async def models(self, request: web.Request) -> web.Response:
        names = sorted({wire_id(row) for row in self.shelf.models(self.clock.now())})
        return web.json_response(
            {"object": "list", "data": [{"id": name, "object": "model", "owned_by": self.wire.host} for name in names]}
        )

    async def balance(self, request: web.Request) -> web.Response:
        try:
            self._admit_key(_key(request))
        except Refusal as refusal:
            return self._refused(refusal, NO_FAULT)
        cents = max(0, self.credit - self.desk.spent.get(_key(request), 0)) // 10**7
        total = f"{cents // 100}.{cents % 100:02d}"
        info = {"currency": self.setup.currency, "total_balance": total, "granted_balance": "0.00", "topped_up_balance": total}
        return web.json_response({"is_available": cents > 0, "balance_infos": [info]})

    async def key(self, request: web.Request) -> web.Response:
        """OpenRouter's answer about a key: exact, and without cents."""
        try:
            self._admit_key(_key(request))
        except Refusal as refusal:
            return self._refused(refusal, NO_FAULT)
        spent = self.desk.spent.get(_key(request), 0)
        used, left, limit = (amount_text(Fraction(nano, NANO)) for nano in (spent, max(0, self.credit - spent), self.credit))
        text = f'{{"data": {{"label": "emulated", "usage": {used}, "limit": {limit}, "limit_remaining": {left}, "is_free_tier": false}}}}'
        return web.Response(text=text, content_type="application/json")

    async def take_credit(self, request: web.Request) -> web.Response:
        """So much in all was paid in by every account."""
        try:
            self.credit = int(Fraction(str((await request.json())["amount"])) * NANO)
        except (ValueError, KeyError, TypeError, ZeroDivisionError):
            return web.json_response({"error": 'write it as {"amount": "100.00"}'}, status=400)
        return web.json_response({"credit": amount_text(Fraction(self.credit, NANO))})

    async def show_export(self, request: web.Request) -> web.Response:
        """The host's own file about its bill: a ZIP or one of its tables at DeepSeek, records at OpenRouter."""
        await self.settled(float(request.query.get("wait", "0")))
        if self.wire.host == "openrouter":
            return web.Response(text=generations(self.desk.rows), content_type="application/jsonl")
        try:
            zone = offset_of(request.query.get("offset", "+08:00").replace(" ", "+"))
            files = tables(self.desk.rows, request.query.get("columns", "new"), zone)
        except ExportRefused as error:
            return web.json_response({"error": str(error)}, status=400)
        named = request.query.get("file")
        if named is None:
            return web.Response(body=archive(files), content_type="application/zip")
        found = next((text for name, text in files.items() if name.startswith(named)), None)
        return web.Response(status=404, text="amount or cost\n") if found is None else web.Response(text=found, content_type="text/csv")

    async def show_bill(self, request: web.Request) -> web.Response:
        await self.settled(float(request.query.get("wait", "0")))
        return web.json_response(self.desk.rows, headers={"x-emulator-open": str(self._open)})

    async def show_requests(self, request: web.Request) -> web.Response:
        return web.json_response([seen | {"body": _readable(seen["body"])} for seen in self.requests])

    async def take_faults(self, request: web.Request) -> web.Response:
        try:
            self.play(await request.json())
        except (ValueError, TypeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"waiting": len(self._faults)})

    async def take_speed(self, request: web.Request) -> web.Response:
        self.speed = int((await request.json())["tokens_per_second"])
        return web.json_response({"tokens_per_second": self.speed})

    async def take_behaviour(self, request: web.Request) -> web.Response:
        """These fields changed, the others as they were."""
        try:
            self.behave(read_behaviour(await request.json(), self.behaviour))
        except (ValueError, TypeError, AttributeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response(asdict(self.behaviour))

    async def take_reset(self, request: web.Request) -> web.Response:
        self.reset()
        return web.json_response({})

    async def healthy(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "host": self.wire.host})

    async def nothing(self, request: web.Request) -> web.Response:
        return self._refused(Refusal(f"no such path: {request.path}", 404, kind="not_found_error"), NO_FAULT)


def _routes(emulator: Emulator) -> list[web.RouteDef]:
    return [
        web.get("/_emulator/bill", emulator.show_bill),
        web.get("/_emulator/export", emulator.show_export),
        web.post("/_emulator/credit", emulator.take_credit),
        web.get("/_emulator/requests", emulator.show_requests),
        web.post("/_emulator/faults", emulator.take_faults),
        web.post("/_emulator/speed", emulator.take_speed),
        web.post("/_emulator/behaviour", emulator.take_behaviour),
        web.post("/_emulator/reset", emulator.take_reset),
        web.post("/{prefix:.*}chat/completions", emulator.chat),
        web.get("/{prefix:.*}models", emulator.models),
        web.get("/{prefix:.*}user/balance", emulator.balance),
        web.get("/{prefix:.*}key", emulator.key),
        web.get("/{name:health|healthz|ready|_emulator/health}", emulator.healthy),
        web.route("*", "/{rest:.*}", emulator.nothing),
    ]


def _outcome(fault: Fault) -> str:
    return "error" if fault.finish in ("error", "insufficient_system_resource", "abort") else "ok"


def _key(request: web.Request) -> str:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else request.headers.get("api-key", "")


def _public(request: web.Request) -> dict[str, str]:
    """The headers without credentials."""
    return {
        name.lower(): value
        for name, value in request.headers.items()
        if name.lower() not in ("authorization", "api-key", "x-api-key", "cookie")
    }


def _readable(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode("utf-8", "replace")


__all__ = ["BehaviourError", "Emulator", "FaultError", "Setup"]
