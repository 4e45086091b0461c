"""Exchange: one chat completion from start to end; the only caller of the stages.

The order is the promise: a hold is committed before anything is dispatched; the charge is durable before the client
sees the end of the answer; whatever happens after the dispatch, the request is settled once and observed once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from math import ceil
from typing import Any, Protocol, TypeVar

from msgspec.json import Encoder

from gateway import receipts
from gateway.budget_view import BudgetView
from gateway.budgets import claims
from gateway.clock import Clock
from gateway.errors import (
    BudgetExceeded,
    FaregateError,
    InternalError,
    ModelNotFound,
    NotAllowed,
    PriceUnknown,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.experience import Experience
from gateway.ledger.port import Ledger
from gateway.limits import given
from gateway.outcome import Billed, Grant, Hold, LedgerRow, Outcome, Status
from gateway.policies import Policies
from gateway.receipts import Charge, Journey, Verdict
from gateway.replies import Reply, Responder, reply_for
from gateway.request import Caller, ChatRequest
from gateway.router import TYPICAL_OUTPUT, Terms, capped, plan
from gateway.shared.port import Limits, unlimited
from gateway.stretch import Stretch, left_text
from gateway.teams import LimitsRow
from gateway.upstream.accounts import Accounts
from gateway.upstream.port import Answer, Call, Deadlines, Upstream
from gateway.usage import Usage
from gateway.watch import ClientGone, Watch

_json = Encoder().encode
log = logging.getLogger(__name__)
# Seconds that a client has to take the last word of an answer that has failed.
FAREWELL = 5.0
# Bytes of a body for one token of the prompt, before anything else is known of it.
BYTES = 4
T = TypeVar("T")


class Snapshot(Protocol):
    """Where the policies in force are found."""

    @property
    def current(self) -> Policies: ...


class Observer(Protocol):
    """Who learns of requests: metrics now."""

    def observe(self, outcome: Outcome) -> None: ...

    def stream_opened(self) -> None: ...

    def stream_closed(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything outside that one exchange needs."""

    policies: Snapshot
    ledger: Ledger
    upstream: Upstream
    accounts: Callable[[Policies], Accounts]
    clock: Clock
    deadlines: Deadlines
    experience: Experience
    observer: Observer
    limits: Limits
    denials: Denials
    view: BudgetView


class Denials(Protocol):
    """What the ledger has just refused, so that it need not be asked again."""

    def check(self, hold: Hold) -> BudgetExceeded | None: ...

    def note(self, hold: Hold, error: BudgetExceeded) -> None: ...

    def forget(self, team: str) -> None: ...


class Gone(Protocol):
    """The client's departure: calls back once, at once when it has already happened."""

    def then(self, callback: Callable[[], None]) -> None: ...


class Exchange:
    """Serves chat completions; one for a process."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._running: set[asyncio.Task[Any]] = set()
        limits = ports.deadlines
        # A whole answer comes in one piece when it is done: only the total limit can say that it is late.
        self._whole = Deadlines(limits.connect, limits.total, limits.total, limits.total)

    def chat(self, request: ChatRequest, caller: Caller, responder: Responder, gone: Gone) -> Coroutine[Any, Any, None]:
        """Answer one request through `responder`; raises only when the process itself is being stopped."""
        return _Course(self._ports, self._whole, self._running, request, caller, responder).run(gone)

    async def end(self, seconds: float) -> None:
        """Cut what is still under way, and wait until it is settled, at most so long; call it before the ledger is closed."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)


class _Course:
    """The state of one request on its way."""

    def __init__(
        self, ports: Ports, whole: Deadlines, running: set[asyncio.Task[Any]], request: ChatRequest, caller: Caller, responder: Responder
    ) -> None:
        self._ports = ports
        self._whole = whole
        self._running = running
        self._request = request
        self._caller = caller
        self._responder = responder
        self._policies = ports.policies.current
        self._accounts = ports.accounts(self._policies)
        self._started = ports.clock.now()
        self._arrived = ports.clock.monotonic()
        self._team = self._policies.teams.get(caller.team)
        self._rules = self._team.limits if self._team and not unlimited(self._team.limits) else None
        self._estimated = 0
        self._call: Call | None = None
        self._answer: Answer | None = None
        self._left = False

    async def run(self, gone: Gone) -> None:
        task = asyncio.current_task()
        assert task is not None, "a request is served by a task"
        self._running.add(task)
        try:
            await self._run(gone)
        finally:
            self._running.discard(task)
            if self._rules is not None:
                await self._leave(self._rules, 0)
            # Nothing after a settle; where our own mistake came between, the hold ends with its lease instead of living for ever.
            self._ports.ledger.forget(self._request.id)

    async def _run(self, gone: Gone) -> None:
        try:
            if self._rules is not None:
                await self._admit(self._rules)
            journey, stretch = await self._hold(self._plan() if self._team is None else await self._planned())
        except FaregateError as error:
            if self._rules is not None:
                await self._leave(self._rules, 0)
            await self._refuse(error)
            return
        watch = Watch(self._ports.deadlines if journey.streams_upstream else self._whole)
        gone.then(partial(self._deserted, watch) if journey.bills_on else watch.client_left)
        self._ports.observer.stream_opened()
        try:
            await self._ride(journey, reply_for(journey, self._responder, watch, self._ports.experience, stretch), watch)
        finally:
            watch.close()
            self._ports.observer.stream_closed()

    def _deserted(self, watch: Watch) -> None:
        """The client has left a host that bills the whole answer all the same: heard to its end, so that its bill is known."""
        self._left = True
        if not self._sent:
            watch.client_left()

    async def _admit(self, rules: LimitsRow) -> None:
        """Count the request against the rates of its team; most teams have none."""
        self._estimated = self._request.size // BYTES + _likely(self._request) * self._request.answers
        await self._ports.limits.admit(self._request.id, self._caller.team, rules, self._estimated)

    async def _leave(self, rules: LimitsRow, tokens: int) -> None:
        """Give its place back, once, and correct what was estimated."""
        self._rules = None
        await finished(self._ports.limits.finish(self._request.id, self._caller.team, rules, self._estimated, tokens))

    async def _planned(self) -> Journey:
        """The plan; where a step of a budget leaves nothing, by what the ledger says now, not by what it said a moment ago."""
        try:
            return self._plan()
        except BudgetExceeded:
            await self._ports.view.refresh(self._ports.ledger, self._started)
            return self._plan()

    def _plan(self) -> Journey:
        ports = self._ports
        team, caller = self._team, self._caller
        if team is None and self._policies.excludes(caller.team):
            raise NotAllowed(f"Team {self._caller.team} has no file in policies/teams/, where other teams have one. Remedy: write it.")
        route = self._policies.route(self._request.model)
        if route is None:
            raise ModelNotFound(
                f"No route is named {self._request.model!r}. GET /v1/models lists the names; HOST/MODEL pins one deployment.", param="model"
            )
        currencies, horizon = self._accounts.currencies, ceil(ports.deadlines.total)
        terms = Terms(self._policies, self._started, currencies, horizon)
        if team is not None or caller.budget is not None:
            terms = terms._replace(team=team, step=ports.view.step(team, caller, self._started), caller=caller)
        self._terms = terms
        return Journey(self._request, self._caller, plan(self._request, route, terms), self._policies, self._started)

    async def _hold(self, journey: Journey) -> tuple[Journey, Stretch | None]:
        """Hold what the request may cost; where budgets grant less than the worst case, it rides with what they grant."""
        ports, caller = self._ports, self._caller
        if self._team is None and caller.budget is None:
            await ports.ledger.hold(journey.hold())
            return journey, None
        claimed = claims(self._team, caller, journey.candidate.card.currency, self._started, self._policies.rates)
        if not claimed:
            await ports.ledger.hold(journey.hold())
            return journey, None
        hold, grant = await self._granted(journey.holds(claimed, ports.experience.usual_output(caller.key, journey.deployment.name)))
        ports.view.learn(grant.budgets)
        stretch = Stretch(ports.ledger, hold, grant, journey.candidate.dearest, ports.view.learn)
        return (journey, stretch) if stretch.whole else self._fitted(journey, stretch)

    async def _granted(self, holds: Iterator[Hold]) -> tuple[Hold, Grant]:
        """The first hold that its budgets grant, at least in part; raises the last refusal."""
        ports = self._ports
        refusal: BudgetExceeded | None = None
        for hold in holds:
            refusal = ports.denials.check(hold)
            if refusal is None:
                try:
                    return hold, await ports.ledger.hold(hold)
                except BudgetExceeded as error:
                    ports.denials.note(hold, error)
                    refusal = error
        assert refusal is not None, "there is a hold to try"
        raise refusal

    def _fitted(self, journey: Journey, stretch: Stretch) -> tuple[Journey, Stretch]:
        """The answer as a stream, so that it can be ended on its way; where that is no use, as short as the hold affords."""
        if journey.ends_early:
            return journey.streaming(), stretch
        # It was sanitised before, under a higher limit: nothing is refused now that was not refused then.
        tokens = max(1, stretch.affords(journey.prompt_bound) // self._request.answers)
        stretch.fix()
        plan = capped(journey.plan, self._request, self._terms, tokens)
        return Journey(self._request, self._caller, plan, self._policies, self._started), stretch

    async def _ride(self, journey: Journey, reply: Reply, watch: Watch) -> None:
        """Dispatch, relay, settle, end: settled whatever happens in between."""
        stopping: asyncio.CancelledError | None = None
        failure: Exception | None
        try:
            failure = await self._attempt(journey, reply, watch)
        except asyncio.CancelledError as stop:
            stopping, failure = stop, UpstreamError("The gateway is stopping.", dispatched=True)
        except Exception as bug:
            # After the dispatch nothing may escape unsettled, our own mistakes least of all.
            log.exception("request %s failed inside the gateway", self._request.id)
            failure = bug
        ended = self._ports.clock.now()
        if failure is not None or reply.stopped:
            self._hang_up()
        # What the host reported; else what we count; None where certainly nothing was billed.
        usage = reply.meter.billed() if failure is None else None
        if usage is None and self._sent and _may_be_billed(failure):
            # Counting a long answer takes a while, and its vocabulary half a second once: other streams must not wait for it.
            usage = await finished(asyncio.to_thread(reply.usage, failure is None))
        row, charged = self._row(journey, reply, usage, failure, ended)
        try:
            await (self._ports.ledger.release(row) if usage is None else self._ports.ledger.settle(row))
        except FaregateError as error:
            log.critical("request %s could not be settled yet, the ledger keeps its row: %s", row.id, error.message)
            failure = failure or error
        if self._team is not None or self._caller.budget is not None:
            self._ports.denials.forget(row.team)
        if self._rules is not None:
            await self._leave(self._rules, row.usage.prompt + row.usage.output if row.usage else 0)
        # Only now: the end of the host's stream has come by then, so that its connection can be used again.
        self._hang_up()
        if stopping is not None:
            await self._tell(UpstreamError("The gateway is stopping.", dispatched=True), reply)
            raise stopping
        await self._finish(reply, row, failure, watch)
        if failure is None and row.usage is not None:
            estimate = journey.candidate.sanitised.prompt_tokens
            self._ports.experience.learn(journey.deployment.name, row.usage, estimate, int(watch.waited * 1000))
            if reply.stretch is not None and row.stopped is None:
                self._ports.experience.answered(row.key, journey.deployment.name, row.usage.output // self._request.answers)
        self._observe(journey, row, charged, watch, failure)

    async def _attempt(self, journey: Journey, reply: Reply, watch: Watch) -> Exception | None:
        account, sent = self._accounts.of(journey.deployment), journey.candidate.sanitised
        url, headers = account.url(self._request.beta or sent.beta), account.headers(self._request.id, journey.streams_upstream)
        self._call = call = Call(url, headers, _json(sent.body))
        try:
            self._answer = await watch.guard(self._ports.upstream.open(call))
            watch.opened()
            await reply.take(self._answer)
        except (ClientGone, FaregateError) as failure:
            return failure
        return reply.failure

    @property
    def _sent(self) -> bool:
        """Whether any byte of the request has left for the host."""
        return self._call is not None and self._call.sent

    def _hang_up(self) -> None:
        """Let the host go: a connection that was read to its end is kept, any other is closed, and the host stops working for us."""
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _row(
        self, journey: Journey, reply: Reply, usage: Usage | None, failure: Exception | None, ended: datetime
    ) -> tuple[LedgerRow, Charge | None]:
        charged: Charge | None = None
        if usage is not None:
            charged = receipts.charge_for(journey, usage, reply.meter.host_cost, reply.meter.disputed, ended)
        known: Billed = "none" if usage is None else "known" if usage.reported else "possible"
        status = "client_gone" if self._left and failure is None else _status(failure, reply)
        verdict = Verdict(status, known, reply.stopped, reply.edits)
        return receipts.row(journey, verdict, usage, charged, ended), charged

    async def _finish(self, reply: Reply, row: LedgerRow, failure: Exception | None, watch: Watch) -> None:
        if isinstance(failure, ClientGone):
            return
        if failure is None:
            # The charge is made: a client that leaves or stalls now changes nothing of it.
            with suppress(ClientGone, UpstreamTimeout):
                await watch.deliver(reply.finish(row))
        else:
            error = failure if isinstance(failure, FaregateError) else InternalError("The gateway made a mistake; the request was charged.")
            # What may have been billed is never asked for again by a client's default.
            self._responder.dispatched = row.usage is not None
            await self._tell(error, reply)

    async def _tell(self, error: FaregateError, reply: Reply) -> None:
        """The error to the client, unless it takes nothing any more."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                await self._responder.error(error, reply.headers)

    async def _refuse(self, error: FaregateError) -> None:
        """Answer before anything was held or dispatched."""
        log.info("request %s of %s refused: %s %s", self._request.id, self._caller.team, error.status, error.code)
        await self._responder.error(error, {"x-faregate-budget-left": left} if (left := left_text(error)) else {})
        elapsed = self._ports.clock.monotonic() - self._arrived
        place = error.details if isinstance(error, PriceUnknown) and error.details else {}
        self._ports.observer.observe(
            Outcome(
                status=_refused_status(error),
                team=self._caller.team,
                route=self._request.model if self._policies.route(self._request.model) else "other",
                host=place.get("host", ""),
                model=place.get("model", ""),
                contract="",
                edits=(),
                duration=elapsed,
                overhead=elapsed,
                error=error.code,
            )
        )

    def _observe(self, journey: Journey, row: LedgerRow, charged: Charge | None, watch: Watch, failure: Exception | None) -> None:
        duration = self._ports.clock.monotonic() - self._arrived
        first = watch.first_content
        self._ports.observer.observe(
            Outcome(
                status=row.status,
                team=row.team,
                route=row.route,
                host=row.host,
                model=row.model,
                contract=row.contract,
                edits=row.edits,
                duration=duration,
                overhead=max(0.0, duration - watch.waited),
                first_token=None if first is None else first - self._arrived,
                row=row,
                baselines=receipts.baselines(journey.policies, row.usage, row.started) if row.usage else (),
                cache_saved_nano=charged.saved_by_hits(row.usage) if charged and row.usage else 0,
                error=failure.code if isinstance(failure, FaregateError) else None,
            )
        )


def _likely(request: ChatRequest) -> int:
    """Output tokens of one answer, before anything else is known of it."""
    limits: list[int] = [request.body[name] for name in given(request.body)]
    return min([TYPICAL_OUTPUT, *limits])


async def finished(work: Awaitable[T]) -> T:
    """The result of work that a cancellation must not leave half done; the cancellation comes at the next wait instead."""
    task = asyncio.ensure_future(work)
    stopping = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            stopping = True
    current = asyncio.current_task()
    if stopping and current is not None:
        current.cancel()
    return task.result()


def _may_be_billed(failure: Exception | None) -> bool:
    return failure.billed if isinstance(failure, FaregateError) else True


def _status(failure: Exception | None, reply: Reply) -> Status:
    if failure is None:
        return "stopped" if reply.stopped else "ok"
    if isinstance(failure, ClientGone):
        return "client_gone"
    if isinstance(failure, UpstreamTimeout):
        return "timeout"
    if isinstance(failure, UpstreamError):
        return "upstream_error"
    # A refusal of the host: what it says of the request.
    return _refused_status(failure) if isinstance(failure, FaregateError) else "gateway_error"


def _refused_status(error: FaregateError) -> Status:
    by_status: dict[int, Status] = {402: "denied", 403: "denied", 429: "rate_limited"}
    if error.status in by_status:
        return by_status[error.status]
    return "client_error" if error.fault == "caller" else "gateway_error"
