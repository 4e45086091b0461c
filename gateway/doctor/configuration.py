"""Settings and policies: names, calendars, prices, routes and engines, as far as can be told without asking anybody."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC

from gateway.app import check_hosts, on_postgres
from gateway.clock import instant_text
from gateway.doctor.findings import Finding, failure, ok, warning
from gateway.doctor.patient import Patient
from gateway.errors import PriceUnknown
from gateway.front.guard import loopback
from gateway.reports.text import many
from gateway.routes import RouteTarget
from gateway.settings import SettingsError

# Days before the end of a calendar at which its next year should be known: China announces holidays some weeks ahead.
CALENDAR_DAYS = 60
# Names in one line.
_SHOWN = 6


def settings(patient: Patient) -> Iterator[Finding]:
    """Names that are no setting, hosts that are none, and choices that are for demonstrations or lose something."""
    found = patient.settings
    for text in found.warnings:
        name, _, rest = text.partition(" ")
        near = rest.partition("Did you mean ")[2].rstrip("?")
        remedy = f"Rename it to {near}, or unset it." if near else "Unset it: docs/settings.md lists the names."
        yield warning("settings", name, "is no setting and has no effect", remedy)
    try:
        check_hosts(found, patient.policies)
    except SettingsError as problem:
        text, _, remedy = str(problem).partition(" Remedy: ")
        yield failure("settings", text.partition(" ")[0].partition("=")[0], text, remedy)
    if found.clock is not None:
        shown = f"is set: prices and names are those of {instant_text(patient.at)}"
        yield warning("settings", "FAREGATE_CLOCK", shown, "Unset it wherever real money is spent: it is for demonstrations and tests.")
    if found.ledger_down != "closed":
        text = f"is {found.ledger_down}: budgets may be overspent by so much in an outage of the ledger"
        yield warning("settings", "FAREGATE_LEDGER_DOWN", text, "Set it to closed if that is not what you want.")
    if found.redis is not None and found.store_key is None:
        remedy = "Set it to what `openssl rand -hex 32` prints, the same for all that share the Redis."
        yield warning("settings", "FAREGATE_STORE_KEY", "is not set, so each gateway remembers lost reasoning for itself", remedy)
    if on_postgres(found) and found.key_pepper is None:
        remedy = "Set it to what `openssl rand -hex 32` prints, once for all gateways of this ledger."
        yield failure("settings", "FAREGATE_KEY_PEPPER", "is not set, and all gateways on one PostgreSQL need the same", remedy)
    if found.admin_token is None:
        text = "is not set: the admin port serves metrics and health only, no console and no admin API"
        yield warning("settings", "FAREGATE_ADMIN_TOKEN", text, "Set it to what `openssl rand -hex 32` prints, if you want them.")
    elif not loopback(found.admin_host):
        text = f"the admin port listens on {found.admin_host}: whoever reaches it and has the token may do everything"
        yield ok("settings", "FAREGATE_ADMIN_HOST", text)
    if not found.warnings:
        yield ok("settings", "names", "every FAREGATE_ variable is a setting")


def policies(patient: Patient) -> Iterator[Finding]:
    """What `faregate check` warns of, in one line."""
    found = patient.policies
    counted = ", ".join((many(len(found.routes), "route"), many(len(found.hosts), "host"), many(len(found.teams), "team")))
    yield ok("policies", str(patient.folder), f"{counted}; digest {found.digest}", digest=found.digest)
    teams = [text for text in found.warnings_at(patient.at) if text.startswith(("team ", "budget "))]
    for text in teams:
        said, _, hint = text.partition(" Hint: ")
        yield warning("policies", said.partition(":")[0], said.partition(": ")[2] or said, hint or "Write what is missing.")


def calendars(patient: Patient) -> Iterator[Finding]:
    """How long the days of each calendar are known: beyond that, holidays cost as ordinary days."""
    today = patient.at.astimezone(UTC).date()
    for calendar in patient.policies.calendars.values():
        left = calendar.days_left(today)
        remedy = f"Add the days of the next year to policies/calendars/{calendar.name}.yaml, with their source."
        if left < 0:
            text = f"ended {many(-left, 'day')} ago: holidays since then are priced as ordinary days"
            yield failure("calendar", calendar.name, text, remedy, days_left=left)
        elif left < CALENDAR_DAYS:
            text = f"is known for {many(left, 'more day')}, until {calendar.known_until}"
            yield warning("calendar", calendar.name, text, remedy, days_left=left)
        else:
            yield ok("calendar", calendar.name, f"is known until {calendar.known_until}, for {many(left, 'day')}", days_left=left)


def prices(patient: Patient) -> Iterator[Finding]:
    """The cards by which routed models are charged now and that nobody has confirmed with a bill."""
    cards = {}
    for target in _reached(patient):
        try:
            card = patient.policies.prices.card(target.host, target.model, patient.accounts[target.host].currency, patient.at)
        except PriceUnknown:
            continue
        cards[card.name] = card
    doubtful = sorted(name for name, card in cards.items() if not card.verified)
    if doubtful:
        text = f"never confirmed with a bill: {len(doubtful)} of {many(len(cards), 'card')} in force here: {_some(doubtful)}"
        remedy = "Compare them with a bill (`faregate reconcile`), then write `verified: true`."
        yield warning("prices", "unverified", text, remedy, cards=doubtful)
    elif cards:
        yield ok("prices", "verified", f"{many(len(cards), 'card')} in force here, verified")


def routes(patient: Patient) -> Iterator[Finding]:
    """The names that nobody can serve now, and the hosts without a key."""
    found = patient.policies.routes
    dead = sorted(name for name, route in found.items() if not any(_serves(patient, one) for one in route.deployments))
    if not patient.accounts:
        remedy = "Set DEEPSEEK_API_KEY, or FAREGATE_BASE_URL_LOCAL for your own engine."
        yield failure("routes", "hosts", "no host is configured, so nothing is served", remedy)
    elif len(dead) == len(found):
        yield failure("routes", "all", "none of the routes has a deployment that is configured, priced and in service now", _NEEDS)
    elif dead:
        yield warning("routes", "some", f"nobody here serves {_some(dead)} now ({len(dead)} of {len(found)} routes)", _NEEDS, routes=dead)
    if len(dead) < len(found):
        yield ok("routes", "served", f"{len(found) - len(dead)} of {len(found)} routes are served by {_some(sorted(patient.accounts))}")
    for name, needs in patient.lacking.items():
        host = patient.policies.hosts[name]
        if _half_set(patient, name):
            yield failure("routes", name, f"is half configured: it lacks {needs}", f"Set {needs}, or unset the rest of {name}.")
        elif host.protocol != "openai" and host.key and patient.settings.upstream_key(host.key):
            yield failure("routes", name, f"its key is set, and it needs {needs}", "See docs/hosts.md.")


def engines(patient: Patient) -> Iterator[Finding]:
    """A local engine that is first in a route takes everything, however long its queue, unless the route says when others serve."""
    for route in patient.policies.routes.values():
        hosts = [one.host for one in route.deployments if _serves(patient, one)]
        own = [name for name in hosts if patient.policies.hosts[name].local]
        if own and len(own) < len(hosts) and route.queue is None:
            text = f"has no `queue`: {own[0]} takes every request that it is the best for, however many wait there"
            remedy = "Write `queue: 0` (or as many as may wait) into the route, so that others serve when the engine is full."
            yield warning("engine", route.name, text, remedy)


_NEEDS = "Configure one of their hosts (`faregate check` lists routes), or take the routes out of routes.yaml."


def _serves(patient: Patient, target: RouteTarget) -> bool:
    """Whether a deployment is configured, in service and priced at this instant."""
    account = patient.accounts.get(target.host)
    if account is None or patient.policies.deployment(target.host, target.model, patient.at) is None:
        return False
    try:
        patient.policies.prices.card(target.host, target.model, account.currency, patient.at)
    except PriceUnknown:
        return False
    return True


def _reached(patient: Patient) -> Iterator[RouteTarget]:
    for route in patient.policies.routes.values():
        yield from (one for one in route.deployments if _serves(patient, one))


def _half_set(patient: Patient, name: str) -> bool:
    """Whether somebody meant to use a host: it has a base URL or a key, and lacks the other."""
    host, found = patient.policies.hosts[name], patient.settings
    has_key = host.key is not None and found.upstream_key(host.key) is not None
    return host.protocol == "openai" and (has_key or bool(found.base_urls_of(name)))


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
