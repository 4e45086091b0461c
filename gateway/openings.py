"""Openings: which deployments of a route can be asked at all at an instant, and why not the others. Worked out once until it changes.

What stands for every request until a row of the policies begins or ends: served there, configured here. What depends on the request,
its team or the hour is the router's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from gateway.hosts import Deployment
from gateway.policies import Policies
from gateway.routes import Route, RouteTarget

_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_ALWAYS: Final = datetime.min.replace(tzinfo=UTC)


class Opening(Struct, frozen=True):
    """One deployment of a route: its `currency` here, or why it cannot be asked. `deployment` is None where nothing is served."""

    target: RouteTarget
    deployment: Deployment | None
    currency: str | None
    why: str = ""


class Standing(Struct, frozen=True):
    """What stands for a route from one instant until another: all its deployments in its order, those that can be asked, why not the
    others, and whether anything is served at all."""

    policies: Policies
    since: datetime
    until: datetime
    all: tuple[Opening, ...]
    able: tuple[Opening, ...]
    whys: tuple[str, ...]
    served: bool


class Openings:
    """The openings of every route, for one set of accounts: `currencies` has the hosts that are configured here."""

    def __init__(self, currencies: Mapping[str, str]) -> None:
        self._currencies = currencies
        self._standing: dict[str, Standing] = {}

    def of(self, route: Route, policies: Policies, at: datetime) -> Standing:
        """What stands for a route at an instant."""
        found = self._standing.get(route.name)
        if found is None or found.policies is not policies or not found.since <= at < found.until:
            found = self._standing[route.name] = self._look(route, policies, at)
        return found

    def opening(self, target: RouteTarget, policies: Policies, at: datetime) -> Opening:
        """One deployment."""
        deployment = policies.deployment(target.host, target.model, at)
        if deployment is None:
            return Opening(target, None, None, f"{target.name}: {_absence(target, policies, at)}")
        currency = self._currencies.get(target.host)
        why = "" if currency else f"{target.name}: not configured here ({_missing(deployment)})"
        return Opening(target, deployment.fixed(target.thinking), currency, why)

    def _look(self, route: Route, policies: Policies, at: datetime) -> Standing:
        edges = list(_edges(route.deployments, policies))
        since = max((edge for edge in edges if edge <= at), default=_ALWAYS)
        until = min((edge for edge in edges if edge > at), default=_NEVER)
        found = tuple([self.opening(target, policies, at) for target in route.deployments])
        able = tuple([opening for opening in found if opening.currency is not None])
        whys = tuple([opening.why for opening in found if opening.currency is None])
        return Standing(policies, since, until, found, able, whys, any(opening.deployment for opening in found))


def _edges(targets: Iterable[RouteTarget], policies: Policies) -> Iterable[datetime]:
    """The instants at which what is served under these names changes."""
    for target in targets:
        for one in policies.served.get((target.host, target.model), ()):
            yield one.model.from_
            if one.model.until is not None:
                yield one.model.until


def _absence(target: RouteTarget, policies: Policies, at: datetime) -> str:
    """Why nothing is served under this name now: the host's own words where the name was retired."""
    rows = [one.model for one in policies.served.get((target.host, target.model), ())]
    ended = [row for row in rows if row.until is not None and row.until <= at]
    if ended and ended[-1].retired:
        return ended[-1].retired.replace("{model}", target.model)
    return "retired" if ended else "not served there yet" if rows else "not served there"


def _missing(deployment: Deployment) -> str:
    host = deployment.host
    if host.key is not None:
        return f"set {host.key}"
    return f"set FAREGATE_BASE_URL_{host.host.upper().replace('-', '_')}"
