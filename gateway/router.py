"""Plan: which deployment serves a request, and what it is expected and at most able to cost. Pure and synchronous.

Until routing by cost exists, the first feasible deployment in the route's order serves. Feasible means: served at this
instant, configured here, priced in the account's currency, and able to hold the request after edits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from gateway.contracts import Contract
from gateway.errors import ContextExceeded, FaregateError, InvalidRequest, ModelNotFound, NoDeployment, PriceUnknown
from gateway.hosts import Deployment
from gateway.money import cost
from gateway.policies import Policies
from gateway.prices import Card
from gateway.request import ChatRequest
from gateway.routes import Route, RouteTarget
from gateway.sanitise import Sanitised, sanitise

# Output tokens of a question where a contract does not know its own average: a plain chat answer.
TYPICAL_OUTPUT = 800


class Candidate(NamedTuple):
    """One feasible deployment with the request as it would be sent, and its quotes in nano of the card's currency."""

    deployment: Deployment
    sanitised: Sanitised
    card: Card
    expected: int
    worst: int


@dataclass(frozen=True, slots=True)
class Terms:
    """What a plan depends on beside the request: the snapshot, the instant, the accounts' currencies, the longest stream in seconds."""

    policies: Policies
    at: datetime
    currencies: Mapping[str, str]
    horizon: int


class Plan(NamedTuple):
    """The candidate to dispatch to, and why each one before it was passed over."""

    route: Route
    chosen: Candidate
    passed_over: tuple[str, ...] = ()


def plan(request: ChatRequest, route: Route, terms: Terms) -> Plan:
    """The first feasible deployment in the route's order, else the reason why there is none, as the error to answer with."""
    search = _Search(request, route, terms)
    for target in route.deployments:
        candidate = search.consider(target)
        if candidate is not None and candidate.sanitised.fits and not candidate.sanitised.squeezed:
            return Plan(route, candidate, tuple(search.reasons))
    if search.tight is not None:
        return Plan(route, search.tight, tuple(search.reasons))
    raise search.failure()


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

    def consider(self, target: RouteTarget) -> Candidate | None:
        try:
            candidate = self._candidate(target)
        except InvalidRequest as refusal:
            # A host with more room may still serve it; the answer to the client is the first refusal.
            if self._refusal is None or isinstance(self._refusal, ContextExceeded):
                self._refusal = refusal
            self.reasons.append(f"{target.name}: {refusal.message}")
            return None
        except PriceUnknown as unknown:
            self._unpriced = self._unpriced or unknown
            self.reasons.append(f"{target.name}: {unknown.message}")
            return None
        if candidate is not None:
            self.tight = self.tight or candidate
        return candidate

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
        card = terms.policies.prices.card(target.host, target.model, currency, terms.at)
        sanitised = sanitise(self.request, self.route, self.client, deployment)
        expected, worst = self._quotes(deployment, card, sanitised)
        return Candidate(deployment, sanitised, card, expected, worst)

    def _absence(self, target: RouteTarget) -> str:
        """Why nothing is served under this name now: the host's own words where the name was retired."""
        rows = [one.model for one in self.terms.policies.served.get((target.host, target.model), ())]
        ended = [row for row in rows if row.until is not None and row.until <= self.terms.at]
        if ended and ended[-1].retired:
            return ended[-1].retired.replace("{model}", target.model)
        return "retired" if ended else "not served there yet" if rows else "not served there"

    def _quotes(self, deployment: Deployment, card: Card, sanitised: Sanitised) -> tuple[int, int]:
        answers = self.request.answers
        most = sanitised.max_output * answers
        typical = min(deployment.contract.baseline_output or TYPICAL_OUTPUT, sanitised.max_output) * answers
        at = self.terms.at
        rates = self.terms.policies.prices.band(card, at).rates
        dearest = self.terms.policies.prices.dearest_within(card.host, deployment.model.model, card.currency, at, self.terms.horizon)
        # A token of a byte-level vocabulary is at least one byte, so the body's size bounds the prompt.
        bound = min(self.request.size, deployment.context)
        expected = cost(rates, 0, sanitised.prompt_tokens, typical)
        return expected, max(expected, cost(dearest, 0, bound, most))

    def failure(self) -> FaregateError:
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


def client_contract(route: Route, terms: Terms) -> Contract:
    """The contract that the app relies on when it names this route."""
    return terms.policies.contracts[route.contract_at(terms.at)]


def _missing(deployment: Deployment) -> str:
    host = deployment.host
    if host.key is not None:
        return f"set {host.key}"
    return f"set FAREGATE_BASE_URL_{host.host.upper().replace('-', '_')}"
