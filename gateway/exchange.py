"""Exchange: one chat completion from start to end; the only caller of the stages.

The order is the promise: a hold is committed before anything is dispatched; the charge is durable before the client
sees the end of the answer; whatever happens after the dispatch, the request is settled once and observed once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from math import ceil
from typing import Any

from msgspec.structs import replace

from gateway import receipts
from gateway.attempts import Attempts, finished
from gateway.breaks import LEAST, priced
from gateway.dialects import write_json
from gateway.errors import (
    BudgetExceeded,
    FaregateError,
    InternalError,
    ModelNotFound,
    NoDeployment,
    NotAllowed,
    PriceUnknown,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.explain import dry_run
from gateway.host_errors import refused_status
from gateway.limits import given
from gateway.outcome import Break, LedgerRow, Outcome, PlanNote
from gateway.ports import Gone, Ports
from gateway.prelude import Opened
from gateway.receipts import Journey, Leg, Verdict
from gateway.replies import Responder
from gateway.request import Caller, ChatRequest
from gateway.router import TYPICAL_OUTPUT, Plan, Terms, plan
from gateway.routes import Route
from gateway.shared.port import unlimited
from gateway.stretch import left_text
from gateway.teams import LimitsRow
from gateway.upstream.port import Deadlines
from gateway.watch import ClientGone

log = logging.getLogger(__name__)
# Seconds that a client has to take the last word of an answer that has failed.
FAREWELL = 5.0
# Bytes of a body for one token of the prompt, before anything else is known of it.
BYTES = 4


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
        self._opened = Opened(request, None)

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
        attempts: Attempts | None = None
        try:
            try:
                if self._rules is not None:
                    await self._admit(self._rules)
                if self._request.dry_run:
                    await self._explain()
                    return
                journey = await self._opened_and_planned()
                attempts = Attempts(self._ports, self._whole, self._accounts, self._terms, journey, self._responder)
                attempts.embark()
                await attempts.hold()
            except FaregateError as error:
                if self._rules is not None:
                    await self._leave(self._rules, 0)
                await self._refuse(error)
                return
            await self._depart(attempts, gone)
        finally:
            if attempts is not None:
                attempts.let_go()

    async def _depart(self, attempts: Attempts, gone: Gone) -> None:
        watch = attempts.depart()
        gone.then(attempts.client_left)
        self._ports.observer.stream_opened()
        try:
            await self._ride(attempts)
        finally:
            watch.close()
            self._ports.observer.stream_closed()

    async def _opened_and_planned(self) -> Journey:
        self._opened = await self._ports.prelude.open(self._request, self._caller, self._team, self._policies)
        self._request = self._opened.request
        return self._plan() if self._team is None else await self._planned()

    async def _explain(self) -> None:
        """A dry run: what would be done, with nothing held or dispatched; it works as much as a request, so it counts as one."""
        journey = await self._opened_and_planned()
        await self._responder.whole(200, {}, write_json(dry_run(journey.plan, self._request)))

    async def _admit(self, rules: LimitsRow) -> None:
        """Count the request against the rates of its team; most teams have none. A dry run uses no tokens."""
        if not self._request.dry_run:
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
        foresight = ports.foresight
        # What moves with the last message would make its first request another conversation.
        asked = self._opened.steady or self._request
        ask = foresight.ask(asked, caller, self._started) if foresight is not None else None
        terms = Terms(
            self._policies,
            self._started,
            currencies,
            horizon,
            foresight=foresight,
            ask=ask,
            health=ports.health.seen_by(caller.team, caller.key),
            queues=ports.replicas,
            openings=self._accounts.openings,
        )
        if team is not None or caller.budget is not None:
            terms = replace(terms, team=team, step=ports.view.step(team, caller, self._started), caller=caller)
        return Journey(self._request, caller, self._routed(route, terms), self._policies, self._started)

    def _routed(self, route: Route, terms: Terms) -> Plan:
        """The plan; where all that could serve are at rest, with those of them that may be asked by who has nowhere else to go."""
        self._terms = terms
        try:
            return plan(self._request, route, terms)
        except NoDeployment as nowhere:
            if not nowhere.retry:
                raise
        self._terms = terms = replace(terms, health=terms.health and terms.health.alone, queues=self._ports.replicas.alone)
        return plan(self._request, route, terms)

    async def _ride(self, attempts: Attempts) -> None:
        """Dispatch, relay, settle, end: settled whatever happens in between."""
        stopping: asyncio.CancelledError | None = None
        failure: Exception | None
        try:
            failure = await attempts.ride()
        except asyncio.CancelledError as stop:
            stopping, failure = stop, UpstreamError("The gateway is stopping.", dispatched=True)
            attempts.let_go()
        except Exception as bug:
            # After the dispatch nothing may escape unsettled, our own mistakes least of all.
            log.exception("request %s failed inside the gateway", self._request.id)
            failure = bug
        legs = await attempts.conclude(failure)
        row = self._row(attempts, legs, failure)
        try:
            await (self._ports.ledger.release(row) if row.usage is None else self._ports.ledger.settle(row))
        except FaregateError as error:
            log.critical("request %s could not be settled yet, the ledger keeps its row: %s", row.id, error.message)
            failure = failure or error
        if self._team is not None or self._caller.budget is not None:
            self._ports.denials.forget(row.team)
        if self._rules is not None:
            await self._leave(self._rules, row.usage.prompt + row.usage.output if row.usage else 0)
        # Only now: the end of the host's stream has come by then, so that its connection can be used again.
        attempts.hang_up()
        if stopping is not None:
            await self._tell(UpstreamError("The gateway is stopping.", dispatched=True), attempts)
            raise stopping
        if failure is None:
            self._ports.prelude.close(self._opened, self._caller, attempts.reply)
        await self._finish(attempts, legs[-1], row, failure)
        if failure is None:
            self._learn(attempts, legs[-1], row)
        self._observe(attempts, row, legs[-1], failure)

    def _row(self, attempts: Attempts, legs: tuple[Leg, ...], failure: Exception | None) -> LedgerRow:
        verdict = Verdict(attempts.status(failure), attempts.reply.stopped, attempts.reply.edits)
        return receipts.row(attempts.journey, verdict, legs, attempts.ended, self._note(attempts))

    def _note(self, attempts: Attempts) -> PlanNote | None:
        """Why it went where it went; with what was passed over on the way, and where its prompt broke with the one before."""
        note = attempts.journey.plan.note
        if note is None:
            return None
        broke = self._break(attempts)
        if broke is None and not attempts.skipped:
            return note
        return replace(note, passed_over=(*note.passed_over, *attempts.skipped), broke=broke)

    def _break(self, attempts: Attempts) -> Break | None:
        foresight, ask, candidate = self._ports.foresight, self._terms.ask, attempts.journey.candidate
        # Most requests are so short that nothing of them is hashed.
        if foresight is None or ask is None or not attempts.taken or self._request.size < LEAST:
            return None
        prints = foresight.prints(ask, self._request.body)
        found = self._ports.breaks.look(ask.conversation, prints, self._request, candidate.prospect.prompt)
        return None if found is None else priced(found, candidate.card.band(self._started).rates)

    def _learn(self, attempts: Attempts, leg: Leg, row: LedgerRow) -> None:
        """What this answer teaches about the next ones."""
        journey, used = attempts.journey, leg.usage
        if used is None:
            return
        experience, name = self._ports.experience, journey.deployment.name
        experience.learn(name, used, journey.candidate.sanitised.prompt_tokens, int(attempts.watch.waited_here * 1000))
        candidate, foresight, ask = journey.candidate, self._ports.foresight, self._terms.ask
        if foresight is not None and ask is not None and candidate.place is not None and candidate.prints is not None:
            answers, ended = self._request.answers, row.stopped is None
            foresight.learn(ask, candidate.place, candidate.prints, candidate.prospect, used, answers, ended)
        if attempts.reply.stretch is not None and row.stopped is None:
            experience.answered(row.key, name, used.output // self._request.answers)

    async def _finish(self, attempts: Attempts, leg: Leg, row: LedgerRow, failure: Exception | None) -> None:
        if isinstance(failure, ClientGone):
            return
        if failure is None:
            # What the client reads of tokens is of the answer that it got, what it reads of money is all that it paid.
            told = row if leg.usage is row.usage else replace(row, usage=leg.usage)
            try:
                await attempts.watch.deliver(attempts.reply.finish(told))
            except (ClientGone, UpstreamTimeout):
                # The charge is made: a client that leaves or stalls now changes nothing of it.
                return
        else:
            error = failure if isinstance(failure, FaregateError) else InternalError("The gateway made a mistake; the request was charged.")
            # What may have been billed is never asked for again by a client's default.
            self._responder.dispatched = row.usage is not None
            await self._tell(error, attempts)

    async def _tell(self, error: FaregateError, attempts: Attempts) -> None:
        """The error to the client, unless it takes nothing any more."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                await self._responder.error(error, attempts.reply.headers)

    async def _refuse(self, error: FaregateError) -> None:
        """Answer before anything was held or dispatched."""
        await self._responder.error(error, {"x-faregate-budget-left": left} if (left := left_text(error)) else {})
        elapsed = self._ports.clock.monotonic() - self._arrived
        place = error.details if isinstance(error, PriceUnknown) and error.details else {}
        self._ports.observer.observe(
            Outcome(
                status=refused_status(error),
                team=self._caller.team,
                route=self._request.model if self._policies.route(self._request.model) else "other",
                host=place.get("host", ""),
                model=place.get("model", ""),
                contract="",
                edits=(),
                duration=elapsed,
                overhead=elapsed,
                error=error.code,
                id=self._request.id,
                key=self._caller.key,
                stream=self._request.stream,
            )
        )

    def _observe(self, attempts: Attempts, row: LedgerRow, leg: Leg, failure: Exception | None) -> None:
        duration = self._ports.clock.monotonic() - self._arrived
        watch = attempts.watch
        first = watch.first_content
        self._ports.observer.observe(
            Outcome(
                row.status,
                row.team,
                row.route,
                row.host,
                row.model,
                row.contract,
                row.edits,
                duration=duration,
                overhead=max(0.0, duration - watch.waited),
                first_token=None if first is None else first - self._arrived,
                row=row,
                baselines=receipts.baselines(self._policies, row.usage, row.started) if row.usage else (),
                cache_saved_nano=leg.charged.saved_by_hits(leg.usage) if leg.charged and leg.usage else 0,
                error=failure.code if isinstance(failure, FaregateError) else None,
                spent=receipts.spent(attempts.legs),
            )
        )


def _likely(request: ChatRequest) -> int:
    """Output tokens of one answer, before anything else is known of it."""
    limits: list[int] = [request.body[name] for name in given(request.body)]
    return min([TYPICAL_OUTPUT, *limits])
