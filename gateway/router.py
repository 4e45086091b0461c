"""Plan: which deployments may serve a request, in which order, and what each is expected and at most able to cost. Pure and synchronous.

Constraints come first: open to the team, in its regions, left by the steps of its budgets, served at this instant, configured here, not
barred by its health, priced in the account's currency, able to hold the request after edits. What is left is ranked by what it will
probably cost in the end, or as the route says.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from math import ceil
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from gateway.budgets import arithmetic, check_currency, whose
from gateway.clock import instant_text
from gateway.contracts import Contract
from gateway.errors import (
    BudgetExceeded,
    ContextExceeded,
    FaregateError,
    InvalidRequest,
    ModelNotFound,
    NoDeployment,
    NotAllowed,
    PriceUnknown,
)
from gateway.forecast import NOTHING_MORE, Outlook
from gateway.foresight import TYPICAL_OUTPUT, Ask, Foresight, Keep, Prospect
from gateway.health import Health
from gateway.hosts import Deployment
from gateway.limits import given
from gateway.money import Rates, cost
from gateway.openings import Opening, Openings
from gateway.outcome import Option, PlanNote
from gateway.policies import Policies
from gateway.prefix import Place, Prints
from gateway.prices import Card, Priced, Prices
from gateway.ranking import Ranked, Rated, rank
from gateway.request import Caller, ChatRequest
from gateway.routes import Choose, Route, RouteTarget
from gateway.sanitise import Once, Sanitised, sanitise
from gateway.steps import NO_STEP, Step
from gateway.teams import TeamRow
from gateway.thinking import Unswitchable

__all__ = ["TYPICAL_OUTPUT", "Candidate", "Plan", "Terms", "ahead", "capped", "client_contract", "plan"]

# Names in a refusal: enough to find a typo, and no wall of text.
_SHOWN = 20
# Minutes ahead at which a card with windows is looked at for other prices.
_AHEAD: Final = (4, 20, 90)
_UNKNOWN: Final = Keep(0.0, 0.0)


class Queues(Protocol):
    """Who knows how busy the replicas of an own engine are."""

    def barred(self, host: str, queue: int | None, at: float) -> str | None: ...


class Candidate(Struct, frozen=True):
    """One feasible deployment with the request as it would be sent, and its quotes in nano of the card's currency.

    `dearest` has the highest rates at which it can be charged, within which the hold is reckoned. `prospect` is what is foretold of it,
    `prints` and `place` what the index will know once it is sent; None where nobody foretells.
    """

    deployment: Deployment
    sanitised: Sanitised
    card: Card
    expected: int
    worst: int
    dearest: Rates
    prospect: Prospect
    prints: Prints | None = None
    place: Place | None = None

    @property
    def roomy(self) -> bool:
        """Whether there is room for all that was asked."""
        return self.sanitised.fits and not self.sanitised.squeezed


class Terms(Struct, frozen=True):
    """What a plan depends on beside the request: the snapshot, the instant, the accounts' currencies, the longest stream in seconds.

    `team` is whose rules hold (None: no team has a file, everything may be used), `step` what its budgets ask by now,
    `caller` whose budgets must be able to count the charge (None: nobody's). `foresight` and `ask` tell what to expect, `health` and
    `queues` whom not to ask now, `openings` remember what stands for longer than a request; each may be missing.
    """

    policies: Policies
    at: datetime
    currencies: Mapping[str, str]
    horizon: int
    team: TeamRow | None = None
    step: Step = NO_STEP
    caller: Caller | None = None
    foresight: Foresight | None = None
    ask: Ask | None = None
    health: Health | None = None
    queues: Queues | None = None
    openings: Openings | None = None

    @property
    def seconds(self) -> float:
        """`at` in seconds since 1970."""
        return self.at.timestamp() if self.ask is None else self.ask.at


class Plan(Struct, frozen=True):
    """The candidates in the order in which they are to be tried, why others were passed over, and the note for the ledger."""

    route: Route
    attempts: tuple[Candidate, ...]
    passed_over: tuple[str, ...] = ()
    note: PlanNote | None = None

    @property
    def chosen(self) -> Candidate:
        """The first to be tried."""
        return self.attempts[0]


def plan(request: ChatRequest, route: Route, terms: Terms) -> Plan:
    """The feasible deployments, best first: by the route's `choose`, or as a step prefers.

    Deployments with room for all that was asked come before those with less. A version is never traded for money: those that serve the
    version that was asked for come first, then the others, version by version as the route lists them; only `prefer: cheapest` of a
    step crosses versions. Raises the reason why there is none, as the error to answer with; NotAllowed for a name that is not the team's.
    """
    if terms.team is not None and not terms.team.may_ask(route.name):
        raise _forbidden(terms.team, route.name, terms.policies)
    search = _Search(request, route, terms)
    mode = terms.step.prefer or route.choose
    candidates = search.found(route.attempts if mode == "order" else None)
    if not candidates:
        raise search.failure()
    reasons = tuple(search.reasons)
    # What stands for every request needs no place in the row of each.
    kept = search.moving(reasons)
    if len(candidates) == 1:
        # Nothing to weigh: what the conversation will do is not asked.
        alone = candidates[0]
        return Plan(route, (alone,), reasons, _noted((_option(alone, alone.expected),), kept, mode, terms.ask))
    ranked = _ordered(candidates, search, mode)
    attempts = tuple([candidate for candidate, _ in ranked])
    options = tuple([_option(candidate, one.score, one.later, one.why) for candidate, one in ranked])
    return Plan(route, attempts, reasons, _noted(options, kept, mode, terms.ask))


def _noted(options: tuple[Option, ...], reasons: tuple[str, ...], mode: str, ask: Ask | None) -> PlanNote:
    if ask is None:
        return PlanNote(options, reasons, mode=mode)
    return PlanNote(options, reasons, f"{ask.conversation:016x}", ask.turn, mode)


def _option(candidate: Candidate, score: int | None, later: int = 0, why: str = "") -> Option:
    card, seen = candidate.card, candidate.prospect
    name, expected, worst = candidate.deployment.name, candidate.expected, candidate.worst
    return Option(name, card.currency, expected, worst, seen.prompt, seen.hit, seen.output, score, later, why)


def _ordered(candidates: list[Candidate], search: _Search, mode: Choose) -> list[tuple[Candidate, Ranked]]:
    """The candidates with their scores: the roomy ones first, within those version by version, within those by score."""
    terms, ask = search.terms, search.terms.ask
    outlook = NOTHING_MORE
    if terms.foresight is not None and ask is not None:
        outlook = terms.foresight.outlook(ask, candidates[0].prospect.prompt)
    rated = search.rated(candidates, outlook)
    begins = ask is not None and ask.turn == 1
    draw = ask.draw if ask is not None and begins else 1
    found: list[tuple[Candidate, Ranked]] = []
    for (tight, version), members in _groups(candidates, search, mode):
        ranked = rank([rated[at] for at in members], outlook, mode, draw, begins)
        behind = bool(found)
        for one in ranked:
            candidate = candidates[members[one.number]]
            aside = "" if not behind else _shortage(candidate, search.request) if tight else "another version" if version else ""
            found.append((candidate, one if one.why or not aside else one._replace(why=aside)))
    return found


def _shortage(candidate: Candidate, request: ChatRequest) -> str:
    """What a candidate with too little room is short of; a client that named no limit asked for no room."""
    if given(request.body):
        return "less room than was asked for"
    return "shorter answers than the version gives" if candidate.sanitised.fits else "less room than the prompt may need"


def _groups(candidates: list[Candidate], search: _Search, mode: Choose) -> list[tuple[tuple[bool, int], list[int]]]:
    """The numbers of candidates that may be weighed against each other, those first that go first: ((tight, version), numbers)."""
    across = mode == "order" or search.terms.step.prefer == "cheapest"
    versions = {search.client.contract: 0}
    groups: dict[tuple[bool, int], list[int]] = {}
    for number, candidate in enumerate(candidates):
        version = 0 if across else versions.setdefault(candidate.deployment.contract.contract, len(versions))
        groups.setdefault((not candidate.roomy, version), []).append(number)
    return sorted(groups.items()) if len(groups) > 1 else list(groups.items())


class _Search:
    """One pass over a route's deployments, which remembers the best error."""

    def __init__(self, request: ChatRequest, route: Route, terms: Terms) -> None:
        self.request = request
        self.route = route
        self.terms = terms
        self.client = client_contract(route, terms)
        self.reasons: list[str] = []
        self._openings = terms.openings or Openings(terms.currencies)
        self._stand = self._openings.of(route, terms.policies, terms.at)
        self._at = terms.seconds
        # What several deployments have in common; not worth its while for one.
        self._several = len(route.deployments) > 1
        self._once = Once(request) if self._several else None
        self._treated: dict[str, Sanitised] = {}
        self._refusal: InvalidRequest | None = None
        self._unpriced: PriceUnknown | None = None
        self._served = False
        self._standing = 0
        # What the team may not use, what a step leaves out, and the seconds until those at rest may be asked again.
        self._foreign = 0
        self._stepped: list[Opening] = []
        self._waits: list[float] = []

    def found(self, enough: int | None) -> list[Candidate]:
        """The feasible candidates in the route's order; where `enough` of them are roomy, no more are looked at."""
        ruled = self.terms.team is not None or self.terms.step is not NO_STEP
        found: list[Candidate] = []
        roomy = 0
        for opening in self._stand.all if ruled else self._open():
            candidate = None if ruled and self._barred(opening) else self._weighed(opening)
            if candidate is None:
                continue
            found.append(candidate)
            roomy += candidate.roomy
            if roomy == enough:
                break
        return found

    def _open(self) -> tuple[Opening, ...]:
        """What can be asked, where no rule of a team comes first."""
        self._served = self._stand.served
        self.reasons += self._stand.whys
        self._standing = len(self.reasons)
        return self._stand.able

    def _weighed(self, opening: Opening) -> Candidate | None:
        self._served = self._served or opening.deployment is not None
        if opening.currency is not None:
            return self._tried(opening)
        self.reasons.append(opening.why)
        self._standing += 1
        return None

    def _tried(self, opening: Opening) -> Candidate | None:
        target = opening.target
        try:
            return self._candidate(opening)
        except InvalidRequest as refusal:
            if isinstance(refusal, Unswitchable) and (other := self._unthinking(opening)) is not None:
                return self._tried(other)
            # A host with more room may still serve it; the answer to the client is the first refusal.
            if self._refusal is None or isinstance(self._refusal, ContextExceeded):
                self._refusal = refusal
            self.reasons.append(f"{target.name}: {refusal.message}")
        except PriceUnknown as unknown:
            self._unpriced = self._unpriced or unknown
            self.reasons.append(f"{target.name}: {unknown.message}")
        return None

    def _unthinking(self, opening: Opening) -> Opening | None:
        """The same version at the same host under an id that need not think."""
        other = opening.deployment.model.unthinking if opening.deployment is not None else None
        if other is None:
            return None
        found = self._openings.opening(RouteTarget(opening.target.host, other), self.terms.policies, self.terms.at)
        return None if found.why else found

    def moving(self, reasons: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the reasons that are not the same for every request."""
        if self._standing == len(reasons):
            return ()
        return tuple([reason for reason in reasons if reason not in self._stand.whys])

    def rated(self, candidates: list[Candidate], outlook: Outlook) -> list[Rated]:
        """The candidates as the ranking sees them, compared in the currency of the budget whose step prefers, else in the first one's."""
        terms, health = self.terms, self.terms.health
        at, prices, foresight = terms.at, terms.policies.prices, terms.foresight
        warm = foresight.warm(terms.ask) if foresight is not None and terms.ask is not None else ""
        currency = terms.step.use.state.currency if terms.step.use else candidates[0].card.currency
        found = []
        for candidate in candidates:
            name, card, place = candidate.deployment.name, candidate.card, candidate.place
            keep = _UNKNOWN if foresight is None or place is None else foresight.keep(place, outlook)
            after, edge = ahead(prices, card, at, outlook) if card.windows else (None, None)
            rate = (1, 1) if card.currency == currency else _rate(terms, card.currency, currency)
            figures = (0.0, None, None) if health is None else (health.failing(name), health.first_token(name), health.pace(name))
            stays = place is not None and warm == place.name
            found.append(Rated(name, candidate.prospect, prices.routing(card, at), keep, after, edge, *figures, stays, rate))
        return found

    def _price(self, candidate: Candidate) -> int | None:
        terms, use = self.terms, self.terms.step.use
        currency = use.state.currency if use else candidate.card.currency
        return terms.policies.rates.convert(candidate.expected, candidate.card.currency, currency, terms.at)

    def _barred(self, opening: Opening) -> bool:
        """Whether the team's rules leave a deployment out; a step counts only for what is not left out for ever."""
        team, step, target = self.terms.team, self.terms.step, opening.target
        if team is not None and not team.may_use(target.host):
            self._foreign += 1
            self.reasons.append(f"{target.name}: not among the hosts of team {team.team}")
        elif team is not None and team.regions is not None and (region := self._region(target)) not in team.regions:
            self._foreign += 1
            where = f"computes in {region}" if region else "does not say where it computes"
            self.reasons.append(f"{target.name}: {where}, which is not among the regions of team {team.team}")
        elif not step.admits(target.host, target.model):
            self._stepped.append(opening)
            self.reasons.append(f"{target.name}: {_step_text(step)}")
        else:
            return False
        return True

    def _region(self, target: RouteTarget) -> str | None:
        host = self.terms.policies.hosts.get(target.host)
        return host.region if host else None

    def _candidate(self, opening: Opening) -> Candidate | None:
        terms, deployment, currency = self.terms, opening.deployment, opening.currency
        assert deployment is not None and currency is not None, "what cannot be asked is not tried"
        if (resting := self._resting(deployment)) is not None:
            self.reasons.append(f"{deployment.name}: {resting}")
            return None
        if terms.caller is not None:
            check_currency(terms.team, terms.caller, currency, terms.at, terms.policies.rates)
        priced = terms.policies.prices.priced(deployment.host.host, deployment.model.model, currency, terms.at)
        sanitised = self._sanitised(deployment)
        if not deployment.host.streams and (self.request.stream or sanitised.stop is not None):
            self.reasons.append(f"{deployment.name}: cannot stream")
            return None
        return self._quoted(deployment, priced, sanitised)

    def _resting(self, deployment: Deployment) -> str | None:
        """Why it should not be asked now although it could serve."""
        terms = self.terms
        if terms.health is not None and (reason := terms.health.barred(deployment, self._at)) is not None:
            self._waits.append(terms.health.wait(deployment, self._at))
            return reason
        if terms.queues is not None and deployment.host.local:
            reason = terms.queues.barred(deployment.host.host, self.route.queue, self._at)
            if reason is not None:
                self._waits.append(1.0)
                return reason
        return None

    def _sanitised(self, deployment: Deployment) -> Sanitised:
        """The request as it must be sent there: worked out once for all that treat it alike."""
        if not self._several:
            return sanitise(self.request, self.route, self.client, deployment, self.terms.step.max_output)
        treatment = deployment.treatment
        known = self._treated.get(treatment)
        if known is None:
            known = sanitise(self.request, self.route, self.client, deployment, self.terms.step.max_output, self._once)
            # A version that stands in for another is named in an edit of its own.
            if deployment.contract.contract == self.client.contract:
                self._treated[treatment] = known
            return known
        return replace(known, body={**known.body, "model": deployment.upstream_model})

    def _quoted(self, deployment: Deployment, priced: Priced, sanitised: Sanitised) -> Candidate:
        """What it will probably cost, cached tokens as foretold, and the most that it can cost: no cached token at all."""
        terms, answers = self.terms, self.request.answers
        typical = deployment.contract.baseline_output or TYPICAL_OUTPUT
        prints = place = None
        if terms.foresight is None or terms.ask is None:
            prospect = Prospect(sanitised.prompt_tokens, 0, 0, answers * min(typical, sanitised.max_output))
        else:
            place = terms.foresight.place(deployment, terms.ask.team, terms.team is not None and terms.team.isolate)
            prompt, most = sanitised.prompt_tokens, sanitised.max_output
            prints = terms.foresight.prints_there(terms.ask, place, sanitised.body, prompt)
            prospect = terms.foresight.prospect(terms.ask, place, prints, prompt, answers, typical, most, self._several)
        dearest = terms.policies.prices.dearest_within(priced, deployment.model.model, terms.horizon)
        # A token of a byte-level vocabulary is at least one byte, so the body's size bounds the prompt.
        bound = min(self.request.size, deployment.context)
        expected = cost(priced.band.rates, prospect.hit, prospect.prompt - prospect.hit, prospect.output)
        worst = max(expected, cost(dearest, 0, bound, sanitised.max_output * answers))
        return Candidate(deployment, sanitised, priced.card, expected, worst, dearest, prospect, prints, place)

    def failure(self) -> FaregateError:
        if self._foreign == len(self.route.deployments) and self.terms.team is not None:
            return _homeless(self.terms.team, self.route)
        if self._waits and not (self._refusal is not None and not isinstance(self._refusal, ContextExceeded)):
            # One of them would perhaps serve it: worth asking again.
            soonest = max(1, ceil(min(self._waits)))
            return NoDeployment(f"No host can serve {self.route.name!r} now ({'; '.join(self.reasons)}).", retry_after=soonest)
        if (wanted := self._but_for_the_step()) is not None:
            return self._stepped_error(wanted)
        if self._refusal is not None:
            return self._refusal
        if self._unpriced is not None:
            return self._unpriced
        why = "; ".join(self.reasons)
        if not self._served:
            return ModelNotFound(f"Model {self.route.name!r} is not served at this time ({why}).", param="model")
        nowhere = NoDeployment(f"No host can serve {self.route.name!r} now ({why}).")
        # Only the operator can change it, so asking again is no use.
        nowhere.retry = False
        return nowhere

    def _but_for_the_step(self) -> Candidate | None:
        """A deployment that a step left out and that would serve: then the step is the reason, and not the request."""
        return next((found for opening in self._stepped if (found := self._weighed(opening)) is not None), None)

    def _stepped_error(self, wanted: Candidate) -> BudgetExceeded:
        step, use = self.terms.step, self.terms.step.use
        assert use is not None, "only a budget that is used reaches a step"
        state = use.state
        asked = self._price(wanted)
        until = f" It resets at {instant_text(state.resets_at)}." if state.resets_at else ""
        return BudgetExceeded(
            f"Budget {state.budget} of {whose(state)} is used to {use.percent} %: {_step_text(step)}, and nothing of "
            f"{self.route.name!r} is served there now.{until}",
            details={**arithmetic(state, asked), "step": step.at, "only": list(step.only or ())},
        )


def _step_text(step: Step) -> str:
    return f"from {step.at} % of the budget on, only {', '.join(step.only or ())} may serve"


def _forbidden(team: TeamRow, name: str, policies: Policies) -> NotAllowed:
    """The refusal of a name, with what this team may ask for instead."""
    allowed = [route for route in policies.routes if team.may_ask(route)]
    pins = [pattern for pattern in team.routes if "/" in pattern or "*" in pattern]
    shown = ", ".join(dict.fromkeys([*allowed[:_SHOWN], *pins[:_SHOWN]])) + (", …" if len(allowed) > _SHOWN else "")
    return NotAllowed(
        f"Team {team.team} may not use {name!r}. It may use: {shown}.", param="model", details={"allowed": allowed, "patterns": pins}
    )


def _homeless(team: TeamRow, route: Route) -> NotAllowed:
    hosts, regions = list(team.hosts or ()), list(team.regions or ())
    allowed = [", ".join(hosts)] if hosts else []
    allowed += [f"hosts in {', '.join(regions)}"] if regions else []
    return NotAllowed(
        f"Team {team.team} may use {' and '.join(allowed)} only, and {route.name!r} is not served there.",
        param="model",
        details={"hosts": hosts, **({"regions": regions} if regions else {})},
    )


def _rate(terms: Terms, source: str, target: str) -> tuple[int, int] | None:
    found = terms.policies.rates.rate(source, target, terms.at)
    return None if found is None else (found.numerator, found.denominator)


def ahead(prices: Prices, card: Card, at: datetime, outlook: Outlook) -> tuple[Rates | None, float | None]:
    """The rates after the next edge of the card's windows that the conversation may live to see, and the seconds until then, about."""
    now, until = prices.band(card, at).rates, outlook.turns * outlook.pause
    before = 0
    for minutes in _AHEAD:
        if before * 60 >= until:
            break
        later = prices.band(card, at + timedelta(minutes=minutes)).rates
        if later != now:
            return later, (before + minutes) * 30.0
        before = minutes
    return None, None


def capped(plan: Plan, request: ChatRequest, terms: Terms, tokens: int) -> Plan:
    """The same plan with at most so many output tokens an answer, reasoning included: what a budget can pay for."""
    chosen = plan.chosen
    cap = min(tokens, terms.step.max_output or tokens)
    sanitised = sanitise(request, plan.route, client_contract(plan.route, terms), chosen.deployment, cap)
    return replace(plan, attempts=(replace(chosen, sanitised=sanitised), *plan.attempts[1:]))


def client_contract(route: Route, terms: Terms) -> Contract:
    """The contract that the app relies on when it names this route."""
    return terms.policies.contracts[route.contract_at(terms.at)]
