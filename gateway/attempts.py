"""Attempts: one request at one host after the other, until one answers or none may follow.

The next host is asked only before the first byte has gone to the client, only where money and time are left, and only where
nothing is paid twice: after an attempt that may have been billed there is no other, unless the route allows it. A hold that
covers the next attempt, and whatever an earlier one may have been billed, is committed before each dispatch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from itertools import chain
from math import ceil
from typing import TypeVar

from msgspec.json import Encoder
from msgspec.structs import replace

from gateway import receipts
from gateway.budgets import claims
from gateway.dialects import read_error
from gateway.errors import (
    BudgetExceeded,
    ContextExceeded,
    FaregateError,
    InvalidRequest,
    LedgerUnavailable,
    NoDeployment,
    NotServed,
    PriceUnknown,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.gate import Trouble
from gateway.health import Ticket
from gateway.host_errors import refusal, refused_status, trouble, weight
from gateway.ledger.port import HoldError
from gateway.outcome import Claim, Grant, Hold, Status
from gateway.ports import Ports
from gateway.receipts import Journey, Leg, lines
from gateway.relay import glimpse
from gateway.replicas import Replicas, Seat
from gateway.replies import Reply, Responder, reply_for, states_use
from gateway.router import Candidate, Terms, capped
from gateway.stretch import Stretch
from gateway.upstream.accounts import Accounts
from gateway.upstream.port import Answer, Call, Deadlines
from gateway.usage import Usage
from gateway.watch import SILENCE, ClientGone, Watch

_json = Encoder().encode
log = logging.getLogger(__name__)
# An error body longer than this says nothing more.
ERROR_LIMIT = 64 * 1024
# Output tokens of an answer from which its pace is learnt.
STEADY = 16
T = TypeVar("T")


class Attempts:
    """The dispatches of one request, from its first hold to its last answer. Use it from the one task that serves the request.

    `journey`, `reply` and `watch` are those of the attempt that is under way, or was the last. Order of use: `embark`, `hold`,
    `ride`, `conclude`; `let_go` whatever happens.
    """

    reply: Reply
    watch: Watch
    ended: datetime

    def __init__(self, ports: Ports, whole: Deadlines, accounts: Accounts, terms: Terms, journey: Journey, responder: Responder) -> None:
        """`whole`: the limits of an answer that comes in one piece, when it is done."""
        self._ports = ports
        self._whole = whole
        self._accounts = accounts
        self._terms = terms
        # As the plan saw it.
        self._health = terms.health or ports.health
        self._replicas = terms.queues if isinstance(terms.queues, Replicas) else ports.replicas
        self._responder = responder
        self.journey = journey
        self._waiting = iter(journey.plan.attempts)
        self._claims: tuple[Claim, ...] = ()
        self._stretch: Stretch | None = None
        self._ticket: Ticket | None = None
        self._boarded = journey.candidate
        self._seat: Seat | None = None
        # Whether what failed was one replica of an own engine, and another one can be asked.
        self._spare = False
        # Whether an attempt is under way that has no line yet.
        self._open = False
        self._call: Call | None = None
        self._answer: Answer | None = None
        self._failures: list[FaregateError] = []
        self.legs: list[Leg] = []
        self.skipped: list[str] = []
        """Why a candidate of the plan was not asked although its turn had come."""
        self.taken = False
        """Whether any host has taken the request."""
        self.deserted = False
        """The client has left a host that bills the whole answer all the same."""

    # ---- before the first dispatch

    def embark(self) -> None:
        """Take a place at the first candidate that has one. Call it right after the plan: nothing comes between the two.

        Raises NoDeployment where another request has taken the last place since.
        """
        at = self._terms.seconds
        for candidate in self._waiting:
            if self._boards(candidate, at):
                if candidate is not self.journey.candidate:
                    self.journey = self.journey.at(candidate)
                return
        raise self._nowhere()

    def _boards(self, candidate: Candidate, at: float) -> bool:
        deployment = candidate.deployment
        self._ticket = self._health.begun(deployment, at, candidate.sanitised.prompt_tokens)
        if self._ticket is None:
            self.skipped.append(f"{deployment.name}: {self._health.barred(deployment, at)}")
            return False
        self._boarded = candidate
        return not deployment.host.local or self._sits(candidate, at)

    def _sits(self, candidate: Candidate, at: float) -> bool:
        """Take a seat at a replica of an own engine; False: by now none of them can be asked."""
        deployment, replicas = candidate.deployment, self._replicas
        count = len(self._accounts.of(deployment).replicas) or 1
        queue = self.journey.plan.route.queue
        self._seat = seat = replicas.take(deployment, count, at, queue, candidate.prints, candidate.prospect.prompt)
        if seat is None:
            self.skipped.append(f"{deployment.name}: {replicas.barred(deployment.host.host, queue, at)}")
            self.let_go()
        return seat is not None

    def _nowhere(self) -> NoDeployment:
        health, at = self._health, self._now
        wait = min(health.wait(each.deployment, at) for each in self.journey.plan.attempts)
        text = f"No host can serve {self.journey.plan.route.name!r} now ({'; '.join(self.skipped)})."
        return NoDeployment(text, retry_after=max(1, ceil(wait)))

    async def hold(self) -> None:
        """Hold what the first attempt may cost; where budgets grant less than the worst case, it rides with what they grant."""
        ports, terms, caller = self._ports, self._terms, self.journey.caller
        if terms.team is not None or caller.budget is not None:
            currency = self.journey.candidate.card.currency
            self._claims = claims(terms.team, caller, currency, self.journey.started, self.journey.policies.rates)
        if not self._claims:
            await ports.ledger.hold(self.journey.hold())
            return
        await self._reserve(self._first_hold)

    async def _first_hold(self, hold: Hold) -> Grant:
        refusal = self._ports.denials.check(hold)
        if refusal is not None:
            raise refusal
        try:
            return await self._ports.ledger.hold(hold)
        except BudgetExceeded as error:
            self._ports.denials.note(hold, error)
            raise

    async def _reserve(self, ask: Callable[[Hold], Awaitable[Grant]]) -> None:
        """The first of this journey's holds that its budgets grant, at least in part; raises the last refusal."""
        ports, journey = self._ports, self.journey
        usual = ports.experience.usual_output(journey.caller.key, journey.deployment.name)
        hold, grant = await _granted(journey.holds(self._claims, usual), ask)
        ports.view.learn(grant.budgets)
        stretch = Stretch(ports.ledger, hold, grant, journey.candidate.dearest, ports.view.learn, paid=journey.paid)
        if not stretch.whole:
            self._fit(stretch)
        self._stretch = stretch

    def _fit(self, stretch: Stretch) -> None:
        """The answer as a stream, so that it can be ended on its way; where that is no use, as short as the hold affords."""
        journey = self.journey
        if journey.ends_early:
            self.journey = journey.streaming()
            return
        # It was sanitised before, under a higher limit: nothing is refused now that was not refused then.
        tokens = max(1, stretch.affords(journey.prompt_bound) // journey.request.answers)
        stretch.fix()
        self.journey = journey.at(_capped(journey, self._terms, tokens), journey.paid)

    # ---- the dispatches

    def depart(self) -> Watch:
        """The clock of the first dispatch starts."""
        self.watch = Watch(self._deadlines, self._suspect, proved=self._prove)
        self._prepare()
        return self.watch

    @property
    def _deadlines(self) -> Deadlines:
        return self._ports.deadlines if self.journey.streams_upstream else self._whole

    def _prepare(self) -> None:
        self._call = None
        self._open = True
        self.reply = reply_for(self.journey, self._responder, self.watch, self._ports.experience, self._stretch)

    async def ride(self) -> Exception | None:
        """Dispatch until there is an answer or nobody is left to ask; what failed, as the client should learn it. None: all is well.

        What it raises is a mistake of ours, or the end of the process: `conclude` is due all the same.
        """
        while (failure := await self._attempt()) is not None:
            may_follow = self._may_follow(failure)
            await self._close(failure)
            if not (may_follow and await self._follow(failure)):
                return self._worst(failure)
        return None

    async def _attempt(self) -> Exception | None:
        journey, sent = self.journey, self.journey.candidate.sanitised
        account = self._accounts.of(journey.deployment)
        self._call = None
        try:
            # A key in a file that cannot be read fails this attempt, with nothing sent.
            url = account.url(journey.request.beta or sent.beta, self._seat.number if self._seat else 0)
            headers = account.headers(journey.request.id, journey.streams_upstream)
            self._call = call = Call(url, headers, _json(sent.body))
            self._answer = answer = await self.watch.guard(self._ports.upstream.open(call))
            self.watch.opened()
            if answer.status != 200:
                raise await self._refused(answer, account.secrets(headers))
            self._note_prompt()
            if not journey.streams_upstream:
                self._prove()
            await self.reply.take(answer, account.secrets(headers))
        except (ClientGone, FaregateError) as failure:
            return failure
        return self.reply.failure

    def _note_prompt(self) -> None:
        """From now on the deployment knows the prompt: it has taken it."""
        self.taken = True
        candidate, terms = self.journey.candidate, self._terms
        if terms.foresight is not None and terms.ask is not None and candidate.place is not None and candidate.prints is not None:
            terms.foresight.sent(terms.ask, candidate.place, candidate.prints, candidate.prospect)
        self._note_replica()

    def _note_replica(self) -> None:
        """From now on this replica knows the prompt, as the deployment does."""
        seat, prints, terms = self._seat, self._boarded.prints, self._terms
        if seat is not None and seat.place is not None and prints is not None and terms.foresight is not None and terms.ask is not None:
            terms.foresight.sent(terms.ask, seat.place, prints)

    async def _refused(self, answer: Answer, secrets: Sequence[str]) -> FaregateError:
        body = await glimpse(answer, self.watch, ERROR_LIMIT)
        error = read_error(answer.status, body, secrets)
        found = refusal(self.journey.deployment.host.host, answer.status, error, answer.retry_after, self._ports.clock.now())
        found.billed = states_use(self.reply.meter, body) or found.billed
        return found

    @property
    def sent(self) -> bool:
        """Whether any byte of the attempt under way has left for its host."""
        return self._call is not None and self._call.sent

    def client_left(self) -> None:
        """A host that bills the whole answer is heard to its end all the same, so that its bill is known."""
        if self.journey.bills_on:
            self.deserted = True
            if self.sent:
                # As long as an answer may take to begin: one that hangs must not keep its place for ever.
                self.watch.hear_out(self._ports.deadlines.first_byte)
                return
        self.watch.client_left()

    # ---- may another follow

    def _may_follow(self, failure: Exception) -> bool:
        """Whether another host may be asked after this."""
        route = self.journey.plan.route
        if self._responder.started or self.deserted or len(self.legs) + 1 >= route.attempts:
            return False
        if not isinstance(failure, FaregateError) or failure.fault == "ours":
            return False
        if self.sent and failure.billed and route.never_pay_twice:
            return False
        # What is wrong with the request is wrong everywhere; how much room there is for it is not.
        return not isinstance(failure, InvalidRequest) or isinstance(failure, ContextExceeded | NotServed)

    async def _follow(self, failure: Exception) -> bool:
        """Go over to the next candidate that may be asked, under a hold of its own; False: there is none."""
        earlier = lines(self.legs)
        paid = sum(attempt.nano for attempt in earlier)
        last = self.journey
        for candidate in chain((self._boarded,) if self._spare else (), self._waiting):
            why = self._unfit(candidate, failure)
            if why is not None:
                self.skipped.append(f"{candidate.deployment.name}: {why}")
            elif self._boards(candidate, self._now):
                self.journey = last.at(candidate, paid, earlier=earlier)
                try:
                    ready = self.watch.again(self._deadlines) and await self._extended() and self._timed()
                except BaseException:
                    # A stop or a mistake: the row is that of the last one that was asked.
                    self.journey = last
                    raise
                if ready:
                    self._prepare()
                    return True
                # It was not sent to: the last one that was stays in the row.
                self.journey = last
                self.let_go()
        return False

    def _unfit(self, candidate: Candidate, failure: Exception) -> str | None:
        """Why a candidate cannot follow this failure here; None: it can."""
        card, deployment = self.journey.candidate.card, candidate.deployment
        if candidate.card.currency != card.currency:
            return f"is billed in {candidate.card.currency}, and the hold is in {card.currency}"
        if isinstance(failure, ContextExceeded) and deployment.context <= self.journey.deployment.context:
            return "has no more room than the one before"
        return None

    async def _extended(self) -> bool:
        """The hold of the next attempt in the place of the last one's; False: no budget has room for it, or no ledger is there."""
        self._stretch = None
        extend = self._ports.ledger.extend
        try:
            if self._claims:
                await self._reserve(extend)
            else:
                await extend(self.journey.hold())
        except (BudgetExceeded, PriceUnknown) as error:
            self.skipped.append(f"{self.journey.deployment.name}: {error.message}")
        except (LedgerUnavailable, HoldError):
            self.skipped.append(f"{self.journey.deployment.name}: the ledger does not extend the hold")
        else:
            return True
        return False

    def _timed(self) -> bool:
        """The limits of what is really asked, which the hold may have made a stream; False: no time is left for it."""
        return self.watch.again(self._deadlines) or isinstance(self.watch.reason, ClientGone)

    def _worst(self, last: Exception) -> Exception:
        """Of all that failed, what tells the client most; after something that may have been billed, that."""
        if not isinstance(last, FaregateError):
            return last
        return max(self._failures, key=weight)

    # ---- what became of them

    async def _close(self, failure: Exception | None) -> None:
        """The attempt under way is over: what it used, what it costs, what its host's health learns of it."""
        self.ended = ended = self._ports.clock.now()
        reply = self.reply
        if failure is not None or reply.stopped:
            self.hang_up()
        usage = reply.meter.billed() if failure is None else None
        if usage is None and self.sent and _may_be_billed(failure):
            usage = await self._counted(failure)
        charged = None
        if usage is not None:
            charged = receipts.charge_for(self.journey, usage, reply.meter.host_cost, reply.meter.disputed, ended)
        self.legs.append(receipts.leg(self.journey, self.status(failure), usage, charged))
        # Only now: what fails before it has its line is not over, and is never taken for free.
        self._open = False
        if isinstance(failure, FaregateError):
            self._failures.append(failure)
        self._tell_health(failure, usage, ended)
        self._call = None

    async def _counted(self, failure: Exception | None) -> Usage:
        """What we count where the host reported nothing."""
        # Counting a long answer takes a while, and its vocabulary half a second once: other streams must not wait for it.
        usage = await finished(asyncio.to_thread(self.reply.usage, failure is None))
        return receipts.unheard(self.journey, usage) if self.deserted else usage

    def _tell_health(self, failure: Exception | None, usage: Usage | None, ended: datetime) -> None:
        ticket, self._ticket, at = self._ticket, None, ended.timestamp()
        if ticket is None:
            return
        problem = trouble(failure) if failure is not None else None
        if problem is not None and problem.kind == "locked" and self._call is not None:
            problem = problem._replace(mended=self._accounts.of(self.journey.deployment).renewal(self._call.headers))
        if self._leave_seat(problem, failure is None, at):
            # The engine is well: only this replica of it is not.
            problem = None
        watch = self.watch
        steady = failure is None and usage is not None and usage.output >= STEADY and usage.reported
        alarm = self._health.ended(
            ticket,
            at,
            problem,
            answered=failure is None,
            opening=watch.opening if self.journey.streams_upstream else None,
            first_token=watch.first_token if self.journey.streams_upstream else None,
            pace=watch.pace(usage.output) if steady and usage else None,
        )
        if alarm is not None:
            log.warning("alarm: %s", alarm.text)

    def _prove(self) -> None:
        """It has begun to answer: where this request tries it, others need not wait until the end."""
        if self._ticket is not None and self._ticket.trial:
            self._health.proved(self._ticket, self._now)
        if self._seat is not None and self._seat.trial:
            self._replicas.proved(self._seat, self._now)

    def _suspect(self) -> None:
        """It has not said a word for long; where it always did, others need not wait for it too. This request goes on."""
        if self._ticket is not None and self.journey.streams_upstream:
            self._health.silent(self._ticket, self._now, SILENCE)

    async def conclude(self, failure: Exception | None) -> tuple[Leg, ...]:
        """Every attempt with its line, the last one included; settle by these."""
        if self._open:
            await self._close(failure)
        return tuple(self.legs)

    def status(self, failure: Exception | None) -> Status:
        """In one word."""
        if failure is None:
            return "client_gone" if self.deserted else "stopped" if self.reply.stopped else "ok"
        return status_of(failure)

    def let_go(self) -> None:
        """Whatever has happened: no place is taken any more, and it says nothing of the host."""
        if self._ticket is None and self._seat is None:
            return
        ticket, self._ticket, at = self._ticket, None, self._now
        if ticket is not None:
            self._health.ended(ticket, at, answered=False)
        self._leave_seat(None, False, at)

    def _leave_seat(self, problem: Trouble | None, answered: bool, at: float) -> bool:
        """The replica's load and health learn of it; whether it failed and another replica can take the request."""
        seat, self._seat = self._seat, None
        self._spare = False
        if seat is not None:
            self._replicas.done(seat, at, problem, answered=answered, reached=self.sent)
            self._spare = problem is not None and self._replicas.spare(seat, at)
        return self._spare

    def hang_up(self) -> None:
        """Let the host go: a connection that was read to its end is kept, any other is closed, and the host stops working for us."""
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    @property
    def _now(self) -> float:
        return self._ports.clock.now().timestamp()


def _capped(journey: Journey, terms: Terms, tokens: int) -> Candidate:
    return capped(replace(journey.plan, attempts=(journey.candidate,)), journey.request, terms, tokens).chosen


async def _granted(holds: Iterator[Hold], ask: Callable[[Hold], Awaitable[Grant]]) -> tuple[Hold, Grant]:
    refusal: BudgetExceeded | None = None
    for hold in holds:
        try:
            return hold, await ask(hold)
        except BudgetExceeded as error:
            refusal = error
    assert refusal is not None, "there is a hold to try"
    raise refusal


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


def status_of(failure: Exception) -> Status:
    """What a failed request is counted as."""
    if isinstance(failure, ClientGone):
        return "client_gone"
    if isinstance(failure, UpstreamTimeout):
        return "timeout"
    if isinstance(failure, UpstreamError):
        return "upstream_error"
    # A refusal of the host: what it says of the request.
    return refused_status(failure) if isinstance(failure, FaregateError) else "gateway_error"
