"""Receipts: from usage to the charge, its ledger row and what it would have cost elsewhere. Pure.

The money contract in one place: which card's band applies at which instant, when a host's own figure is taken, how a
charge splits into classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from gateway.money import MILLION, NANO, Parts, charge, cost
from gateway.outcome import Attempt, Baseline, Billed, Claim, Hold, LedgerRow, PlanNote, Spent, Status
from gateway.policies import Policies
from gateway.prices import Band
from gateway.request import Caller, ChatRequest
from gateway.router import TYPICAL_OUTPUT, Candidate, Plan
from gateway.sanitise import streamed
from gateway.usage import Source, Sources, Usage

BASELINE = "o1"
# Powers of ten: no answer costs a thousand millions, and a larger exponent is an attack on our arithmetic.
LARGEST = 8
# Output tokens of an answer below which it is of no use, and prompt tokens that an estimate of a short prompt can miss: a host's
# own instructions, a template.
USEFUL = 16
# A long answer, in usual ones: what an answer that cannot be ended on its way gets where its worst case is too much.
LONG = 4
ROOM = 96
_COUNTS = ("cache_hit", "cache_miss", "output", "reasoning")
_CERTAIN: tuple[Source, ...] = ("reported", "counted", "unknown")


class Charge(Struct, frozen=True):
    """What one answer costs, in nano of the card's currency; `host_nano` is the host's own figure where it stated one."""

    nano: int
    parts: Parts
    card: str
    band: Band
    host_nano: int | None = None
    disputed: bool = False

    def saved_by_hits(self, usage: Usage) -> int:
        """Nano saved against paying every cached token as a miss; 0 where a hit is not cheaper."""
        cheaper = self.band.rates.cache_miss - self.band.rates.cache_hit
        return max(0, usage.cache_hit * cheaper // MILLION)


class Journey:
    """One request at one of the candidates of its plan: everything that its row needs and that no longer changes.

    `paid` is what earlier attempts may have been billed, in nano of the same currency: each hold has it on top, and `earlier` with it.
    """

    __slots__ = ("caller", "candidate", "deployment", "earlier", "paid", "plan", "policies", "request", "started", "streams_upstream")

    def __init__(
        self,
        request: ChatRequest,
        caller: Caller,
        plan: Plan,
        policies: Policies,
        started: datetime,
        candidate: Candidate | None = None,
        paid: int = 0,
        stretched: bool = False,
        earlier: tuple[Attempt, ...] = (),
    ) -> None:
        candidate = candidate or plan.chosen
        self.request: Final = request
        self.caller: Final = caller
        self.plan: Final = plan
        self.policies: Final = policies
        self.started: Final = started
        self.candidate: Final = candidate
        self.deployment: Final = candidate.deployment
        self.paid: Final = paid
        self.earlier: Final = earlier
        self.streams_upstream: Final = request.stream or stretched or candidate.sanitised.stop is not None
        """Whether the host is asked for a stream: because the client wants one, or because a limit or a hold must be kept on the way."""

    def at(self, candidate: Candidate, paid: int = 0, stretched: bool = False, earlier: tuple[Attempt, ...] | None = None) -> Journey:
        """The same request at another candidate, after the same attempts where nothing else is said."""
        earlier = self.earlier if earlier is None else earlier
        return Journey(self.request, self.caller, self.plan, self.policies, self.started, candidate, paid, stretched, earlier)

    @property
    def prompt_bound(self) -> int:
        """Prompt tokens that are certainly enough: the estimate with room for its error, or the bytes where they are fewer."""
        estimate = self.candidate.sanitised.prompt_tokens
        return min(estimate + estimate // 4 + ROOM, self.request.size, self.deployment.context)

    @property
    def ends_early(self) -> bool:
        """Whether the answer can be ended on its way, and costs no more then: only such a hold can be stretched."""
        return self.deployment.host.streams and not self.bills_on

    @property
    def bills_on(self) -> bool:
        """Whether the host bills the whole answer, also where it is broken off."""
        return self.deployment.host.cancel_stops_billing is False

    @property
    def _can_be_short(self) -> bool:
        """Whether what is sent can keep the answer, thinking included, below any number of tokens."""
        return self.deployment.counts == "total" or not self.candidate.sanitised.thinking

    def holds(self, claims: tuple[Claim, ...], usual: int | None) -> Iterator[Hold]:
        """The reservations to try under budgets, the best one first; `usual` is how long answers here are, where that is known.

        An answer that can be ended on its way: its prompt and the usual output, stretched later. Any other: the most that it can
        cost, else as much as budgets have for a shorter one, whose length is then sent.
        """
        usual = usual or self.deployment.contract.baseline_output or TYPICAL_OUTPUT
        useful = self._cost_of(USEFUL)
        if self.ends_early:
            yield self.hold(claims, useful, max(useful, self._cost_of(usual)))
            return
        yield self.hold(claims)
        if self._can_be_short:
            yield from (self.hold(claims, nano, nano) for nano in map(self._cost_of, (LONG * usual, usual, USEFUL)))

    def hold(self, claims: tuple[Claim, ...] = (), least: int | None = None, nano: int | None = None) -> Hold:
        """A reservation of `nano` and at least `least`; of the most that this request can cost where nothing else is said."""
        chosen, deployment = self.candidate, self.deployment
        # Words in the order of the record, numbers by their names: to find a name, all fields before it are looked at.
        return Hold(
            self.request.id,
            self.caller.team,
            self.caller.key,
            self.plan.route.name,
            deployment.host.host,
            deployment.model.model,
            chosen.card.currency,
            nano=self.paid + (chosen.worst if nano is None else nano),
            expected=self.paid + chosen.expected,
            worst=self.paid + chosen.worst,
            card=chosen.card.name,
            policies=self.policies.digest,
            started=self.started,
            least=self.paid + (chosen.worst if least is None else least),
            claims=claims,
            idempotency=self.request.idempotency,
            attempts=self.earlier,
        )

    def _cost_of(self, output: int) -> int:
        """The most that the prompt and so many tokens of each answer can cost."""
        chosen, answers = self.candidate, self.request.answers
        return min(chosen.worst, cost(chosen.dearest, 0, self.prompt_bound, answers * min(output, chosen.sanitised.max_output)))

    def streaming(self) -> Journey:
        """The same with the answer streamed from the host, so that it can be ended on its way."""
        chosen = self.candidate
        asked = chosen if self.streams_upstream else replace(chosen, sanitised=streamed(chosen.sanitised, self.deployment))
        return self.at(asked, self.paid, stretched=True)


class Verdict(Struct, frozen=True):
    """How the request ended: its status, what stopped it, and edits of its answer."""

    status: Status
    stopped: str | None = None
    edits: tuple[str, ...] = ()


class Leg(Struct, frozen=True):
    """One attempt that is over: where it went, what it used and costs. Without a charge, certainly nothing was billed."""

    attempt: Attempt
    usage: Usage | None = None
    charged: Charge | None = None


def leg(journey: Journey, status: Status, usage: Usage | None, charged: Charge | None) -> Leg:
    """`billed` is known where the host reported it, possible where we counted."""
    billed: Billed = "none" if usage is None else "known" if usage.reported else "possible"
    deployment = journey.deployment
    return Leg(Attempt(deployment.host.host, deployment.model.model, status, billed, charged.nano if charged else 0), usage, charged)


def unheard(journey: Journey, usage: Usage) -> Usage:
    """What our count says of an answer that a host goes on writing, and billing, for nobody: as long as was foretold where it would have
    come in one piece, and none of it has come."""
    if usage.output or journey.streams_upstream:
        return usage
    return replace(usage, output=journey.candidate.prospect.output)


def charge_for(journey: Journey, usage: Usage, host_cost: str | None, disputed: bool, ended: datetime) -> Charge:
    """The charge of this usage: the card's, or the host's own figure where its row says so and it is believable."""
    candidate, model = journey.candidate, journey.deployment.model.model
    card, band, _ = journey.policies.prices.charged(candidate.card, model, journey.started, ended)
    parts = charge(band.rates, usage.cache_hit, usage.cache_miss, usage.output)
    # A cost that came before the end of an answer that was then cut is no bill.
    host_cost = host_cost if usage.reported or disputed else None
    host_nano = _nano_of(host_cost)
    if journey.deployment.host.charge_by != "reported" or host_cost is None:
        return Charge(parts.total, parts, card.name, band, host_nano, disputed)
    if host_nano is None or host_nano > max(candidate.worst, parts.total):
        return Charge(parts.total, parts, card.name, band, host_nano, True)
    return Charge(host_nano, _scaled(parts, host_nano), card.name, band, host_nano, disputed)


def _nano_of(text: str | None) -> int | None:
    """A host's decimal figure in nano, rounded up; None where there is none or it is no amount."""
    if text is None:
        return None
    try:
        amount = Decimal(text)
    except InvalidOperation:
        return None
    if not amount.is_finite() or amount < 0 or amount.adjusted() > LARGEST:
        return None
    return int((amount * NANO).to_integral_value(ROUND_CEILING))


def _scaled(parts: Parts, total: int) -> Parts:
    """The host's total, split as ours is; the parts sum to it."""
    ours = parts.total
    if ours == 0:
        return Parts(0, 0, total)
    hit = parts.cache_hit * total // ours
    miss = parts.cache_miss * total // ours
    return Parts(hit, miss, total - hit - miss)


def row(journey: Journey, verdict: Verdict, legs: tuple[Leg, ...], ended: datetime, plan: PlanNote | None = None) -> LedgerRow:
    """The row that is kept for ever; without any charge it says that certainly nothing was billed.

    It names the last attempt's host and contract; its charge is that of all attempts, each of which has its own line.
    """
    request, candidate, deployment = journey.request, journey.candidate, journey.deployment
    charged, nano, parts = legs[-1].charged, 0, None
    if charged is not None:
        nano, parts = charged.nano, charged.parts
    usage = legs[-1].usage
    if len(legs) > 1:
        usage, parts = _used(legs), _parts(legs)
        nano = parts.total if parts else 0
        charged = charged or next((each.charged for each in reversed(legs) if each.charged), None)
    # As in `Journey.hold`: words in the order of the record, numbers by their names.
    return LedgerRow(
        request.id,
        journey.caller.team,
        journey.caller.key,
        journey.plan.route.name,
        deployment.host.host,
        deployment.model.model,
        deployment.contract.contract,
        (*map(str, candidate.sanitised.edits), *verdict.edits),
        usage,
        candidate.card.currency,
        nano=nano,
        parts=parts,
        card=charged.card if charged else candidate.card.name,
        window=charged.band.window if charged else candidate.card.band(journey.started).window,
        policies=journey.policies.digest,
        started=journey.started,
        ended=ended,
        status=verdict.status,
        stopped=verdict.stopped,
        attempts=lines(legs) if len(legs) > 1 else (legs[0].attempt,),
        expected_nano=candidate.expected,
        worst_nano=candidate.worst,
        host_nano=charged.host_nano if charged else None,
        disputed=charged.disputed if charged else False,
        stream=request.stream,
        plan=plan,
    )


def lines(legs: Sequence[Leg]) -> tuple[Attempt, ...]:
    """Each of several attempts with what it used: the row has the sum, and each host bills its own."""
    return tuple([_line(each) for each in legs])


def _line(each: Leg) -> Attempt:
    used, charged = each.usage, each.charged
    if used is None or charged is None:
        return each.attempt
    tokens, parts = (used.cache_hit, used.cache_miss, used.output), charged.parts
    split = (parts.cache_hit, parts.cache_miss, parts.output)
    return replace(each.attempt, tokens=tokens, parts=split, card=charged.card, window=charged.band.window)


def _used(legs: tuple[Leg, ...]) -> Usage | None:
    """Tokens of all attempts; each number is as certain as the least certain of its summands."""
    used = [each.usage for each in legs if each.usage is not None]
    if len(used) < 2:
        return used[0] if used else None
    hit, miss, output, reasoning = (sum(getattr(each, name) for each in used) for name in _COUNTS)
    sources = [max((getattr(each.sources, name) for each in used), key=_CERTAIN.index) for name in _COUNTS]
    return Usage(hit, miss, output, reasoning, Sources(*sources))


def _parts(legs: tuple[Leg, ...]) -> Parts | None:
    parts = [each.charged.parts for each in legs if each.charged is not None]
    if not parts:
        return None
    return Parts(sum(each.cache_hit for each in parts), sum(each.cache_miss for each in parts), sum(each.output for each in parts))


def spent(legs: Sequence[Leg]) -> tuple[Spent, ...]:
    """What each of several attempts used and cost at its own host; () where there was one, of which the row says it all."""
    if len(legs) < 2:
        return ()
    return tuple([_spent(each.attempt, each.usage, each.charged) for each in legs])


def _spent(attempt: Attempt, usage: Usage | None, charged: Charge | None) -> Spent:
    parts, disputed = (charged.parts, charged.disputed) if charged else (None, False)
    return Spent(attempt.host, attempt.model, usage, parts, disputed)


def baselines(policies: Policies, usage: Usage, at: datetime) -> tuple[Baseline, ...]:
    """What the same tokens would have cost at OpenAI's o1, which bills every prompt token at its input price."""
    card = policies.prices.baseline(at, BASELINE, "USD")
    if card is None:
        return ()
    nano = cost(card.band(at).rates, 0, usage.prompt, usage.output)
    return (Baseline(BASELINE, "USD", nano),)
