"""Plan: which deployment serves a request, and what it is expected and at most able to cost. Pure and synchronous.

Until routing by cost exists, the first feasible deployment in the route's order serves. Feasible means: open to the team and
left by the steps of its budgets, served at this instant, configured here, priced in the account's currency, and able to hold
the request after edits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

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
from gateway.hosts import Deployment
from gateway.money import Rates, cost, decimal_text
from gateway.policies import Policies
from gateway.prices import Card
from gateway.request import Caller, ChatRequest
from gateway.routes import Route, RouteTarget
from gateway.sanitise import Sanitised, sanitise
from gateway.steps import NO_STEP, Step
from gateway.teams import TeamRow

# Output tokens of a question where a contract does not know its own average: a plain chat answer.
TYPICAL_OUTPUT = 800
# Names in a refusal: enough to find a typo, and no wall of text.
_SHOWN = 20


class Candidate(NamedTuple):
    """One feasible deployment with the request as it would be sent, and its quotes in nano of the card's currency.

    `dearest` has the highest rates at which it can be charged, within which the hold is reckoned.
    """

    deployment: Deployment
    sanitised: Sanitised
    card: Card
    expected: int
    worst: int
    dearest: Rates


class Terms(NamedTuple):
    """What a plan depends on beside the request: the snapshot, the instant, the accounts' currencies, the longest stream in seconds.

    `team` is whose rules hold (None: no team has a file, everything may be used), `step` what its budgets ask by now,
    `caller` whose budgets must be able to count the charge (None: nobody's).
    """

    policies: Policies
    at: datetime
    currencies: Mapping[str, str]
    horizon: int
    team: TeamRow | None = None
    step: Step = NO_STEP
    caller: Caller | None = None


class Plan(NamedTuple):
    """The candidate to dispatch to, and why each one before it was passed over."""

    route: Route
    chosen: Candidate
    passed_over: tuple[str, ...] = ()


def plan(request: ChatRequest, route: Route, terms: Terms) -> Plan:
    """The first feasible deployment in the route's order, or the cheapest where a step prefers that.

    Raises the reason why there is none, as the error to answer with; NotAllowed for a name that the team may not use.
    """
    if terms.team is not None and not terms.team.may_ask(route.name):
        raise _forbidden(terms.team, route.name, terms.policies)
    search = _Search(request, route, terms)
    chosen = search.cheapest() if terms.step.prefer == "cheapest" else next(search.roomy(), None)
    chosen = chosen or search.tight
    if chosen is None:
        raise search.failure()
    return Plan(route, chosen, tuple(search.reasons))


class _Search:
    """One pass over a route's deployments, which remembers the best error and the best tight fit."""

    def __init__(self, request: ChatRequest, route: Route, terms: Terms) -> None:
        self.request = request
        self.route = route
        self.terms = terms
        self.client = client_contract(route, terms)
        self.reasons: list[str] = []
        self.tight: Candidate | None = None
        self._refusal: InvalidRequest | None = None
        self._unpriced: PriceUnknown | None = None
        self._served = False
        # What the team may not use, and what a step leaves out.
        self._foreign = 0
        self._stepped: list[RouteTarget] = []

    def roomy(self) -> Iterator[Candidate]:
        """Those that have room for all that was asked, in the route's order; `tight` keeps the first that has less."""
        ruled = self.terms.team is not None or self.terms.step is not NO_STEP
        for target in self.route.deployments:
            candidate = None if ruled and self._barred(target) else self._tried(target)
            if candidate is None:
                continue
            if candidate.sanitised.fits and not candidate.sanitised.squeezed:
                yield candidate
            else:
                self.tight = self.tight or candidate

    def _tried(self, target: RouteTarget) -> Candidate | None:
        try:
            return self._candidate(target)
        except InvalidRequest as refusal:
            # A host with more room may still serve it; the answer to the client is the first refusal.
            if self._refusal is None or isinstance(self._refusal, ContextExceeded):
                self._refusal = refusal
            self.reasons.append(f"{target.name}: {refusal.message}")
        except PriceUnknown as unknown:
            self._unpriced = self._unpriced or unknown
            self.reasons.append(f"{target.name}: {unknown.message}")
        return None

    def cheapest(self) -> Candidate | None:
        """The lowest expected cost, in the currency of the budget that asks for it; without a rate last, else in the route's order."""
        priced = [(self._price(candidate), candidate) for candidate in self.roomy()]
        known = [(price, candidate) for price, candidate in priced if price is not None]
        if not known:
            return priced[0][1] if priced else None
        lowest, chosen = min(known, key=lambda pair: pair[0])
        for price, candidate in priced:
            if candidate is not chosen:
                why = "no rate to compare its price by" if price is None else f"expected to cost {decimal_text(price - lowest)} more"
                self.reasons.append(f"{candidate.deployment.name}: {why}")
        return chosen

    def _price(self, candidate: Candidate) -> int | None:
        terms, use = self.terms, self.terms.step.use
        currency = use.state.currency if use else candidate.card.currency
        return terms.policies.rates.convert(candidate.expected, candidate.card.currency, currency, terms.at)

    def _barred(self, target: RouteTarget) -> bool:
        """Whether the team's rules leave a deployment out; a step counts only for what is not left out for ever."""
        team, step = self.terms.team, self.terms.step
        if team is not None and not team.may_use(target.host):
            self._foreign += 1
            self.reasons.append(f"{target.name}: not among the hosts of team {team.team}")
        elif not step.admits(target.host, target.model):
            self._stepped.append(target)
            self.reasons.append(f"{target.name}: {_step_text(step)}")
        else:
            return False
        return True

    def _candidate(self, target: RouteTarget) -> Candidate | None:
        terms = self.terms
        deployment = terms.policies.deployment(target.host, target.model, terms.at)
        if deployment is None:
            self.reasons.append(f"{target.name}: {self._absence(target)}")
            return None
        deployment = deployment.fixed(target.thinking)
        self._served = True
        currency = terms.currencies.get(target.host)
        if currency is None:
            self.reasons.append(f"{target.name}: not configured here ({_missing(deployment)})")
            return None
        if terms.caller is not None:
            check_currency(terms.team, terms.caller, currency, terms.at, terms.policies.rates)
        card = terms.policies.prices.card(target.host, target.model, currency, terms.at)
        sanitised = sanitise(self.request, self.route, self.client, deployment, terms.step.max_output)
        if not deployment.host.streams and (self.request.stream or sanitised.stop is not None):
            self.reasons.append(f"{target.name}: cannot stream")
            return None
        expected, worst, dearest = self._quotes(deployment, card, sanitised)
        return Candidate(deployment, sanitised, card, expected, worst, dearest)

    def _absence(self, target: RouteTarget) -> str:
        """Why nothing is served under this name now: the host's own words where the name was retired."""
        rows = [one.model for one in self.terms.policies.served.get((target.host, target.model), ())]
        ended = [row for row in rows if row.until is not None and row.until <= self.terms.at]
        if ended and ended[-1].retired:
            return ended[-1].retired.replace("{model}", target.model)
        return "retired" if ended else "not served there yet" if rows else "not served there"

    def _quotes(self, deployment: Deployment, card: Card, sanitised: Sanitised) -> tuple[int, int, Rates]:
        answers = self.request.answers
        most = sanitised.max_output * answers
        typical = min(deployment.contract.baseline_output or TYPICAL_OUTPUT, sanitised.max_output) * answers
        at = self.terms.at
        rates = self.terms.policies.prices.band(card, at).rates
        dearest = self.terms.policies.prices.dearest_within(card.host, deployment.model.model, card.currency, at, self.terms.horizon)
        # A token of a byte-level vocabulary is at least one byte, so the body's size bounds the prompt.
        bound = min(self.request.size, deployment.context)
        expected = cost(rates, 0, sanitised.prompt_tokens, typical)
        return expected, max(expected, cost(dearest, 0, bound, most)), dearest

    def failure(self) -> FaregateError:
        if self._foreign == len(self.route.deployments) and self.terms.team is not None:
            return _homeless(self.terms.team, self.route)
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
        return next((found for target in self._stepped if (found := self._tried(target)) is not None), None)

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
    hosts = list(team.hosts or ())
    return NotAllowed(
        f"Team {team.team} may use {', '.join(hosts)} only, and {route.name!r} is not served there.",
        param="model",
        details={"hosts": hosts},
    )


def capped(plan: Plan, request: ChatRequest, terms: Terms, tokens: int) -> Plan:
    """The same plan with at most so many output tokens an answer, reasoning included: what a budget can pay for."""
    chosen = plan.chosen
    cap = min(tokens, terms.step.max_output or tokens)
    sanitised = sanitise(request, plan.route, client_contract(plan.route, terms), chosen.deployment, cap)
    return plan._replace(chosen=chosen._replace(sanitised=sanitised))


def client_contract(route: Route, terms: Terms) -> Contract:
    """The contract that the app relies on when it names this route."""
    return terms.policies.contracts[route.contract_at(terms.at)]


def _missing(deployment: Deployment) -> str:
    host = deployment.host
    if host.key is not None:
        return f"set {host.key}"
    return f"set FAREGATE_BASE_URL_{host.host.upper().replace('-', '_')}"
