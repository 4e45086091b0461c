"""Policies: one frozen, checked snapshot of everything that people decide about models, hosts, prices and routes.

What lives here: loading a folder, the checks of rows against each other, the look-ups by instant.
What does not: YAML and lines (policy_files), reloading (policy_watch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter

from gateway.calendars import Calendar, CalendarRow
from gateway.clock import instant_text
from gateway.contracts import Contract
from gateway.conversions import Conversions, RateRow
from gateway.errors import PolicyError
from gateway.hosts import Deployment, Host, HostModel
from gateway.policy_files import Entry, Problems, R, digest_of, kind_of, read_folder, rows_of
from gateway.prices import CardRow, Prices
from gateway.routes import Route, RouteRow, RouteTarget, route_of
from gateway.rows import Row
from gateway.teams import TeamRow, admits, matches

KINDS: Mapping[str, type[Row]] = MappingProxyType(
    {
        "contracts": Contract,
        "hosts": Host,
        "prices": CardRow,
        "calendars": CalendarRow,
        "routes": RouteRow,
        "rates": RateRow,
        "teams": TeamRow,
    }
)
_FOREVER = datetime.max.replace(tzinfo=UTC)
_SOON = 30


@dataclass(frozen=True, slots=True)
class Policies:
    """A frozen snapshot. `digest` names exactly these files; two snapshots with one digest are equal."""

    contracts: Mapping[str, Contract]
    hosts: Mapping[str, Host]
    prices: Prices
    routes: Mapping[str, Route]
    calendars: Mapping[str, Calendar]
    rates: Conversions
    teams: Mapping[str, TeamRow]
    digest: str
    warnings: tuple[str, ...]
    served: Mapping[tuple[str, str], tuple[Deployment, ...]]
    direct: Mapping[str, Route]

    def deployment(self, host: str, model: str, at: datetime) -> Deployment | None:
        """What this host serves under this id at this instant; None: nothing (unknown, not yet, or retired)."""
        for one in self.served.get((host, model), ()):
            if one.model.serves(at):
                return one
        return None

    def excludes(self, team: str) -> bool:
        """Whether a team may use nothing: others have a file in teams/ and it has none, or has none any more."""
        return bool(self.teams) and team not in self.teams

    def route(self, name: str) -> Route | None:
        """A name of routes.yaml, or HOST/MODEL: a route of that one deployment, under the deployment's own contract."""
        return self.routes.get(name) or self.direct.get(name)

    def warnings_at(self, at: datetime) -> tuple[str, ...]:
        """What an operator should know at this instant: calendars that end, unverified cards in force."""
        return (*self._calendar_warnings(at), *self._card_warnings(at), *self._team_warnings(at))

    def _calendar_warnings(self, at: datetime) -> Iterator[str]:
        today = at.astimezone(UTC).date()
        for calendar in self.calendars.values():
            left = calendar.days_left(today)
            if left < 0:
                yield calendar.warning(today) or ""
            elif left < _SOON:
                more = f"{left} more day{'' if left == 1 else 's'}"
                yield f"calendar {calendar.name} is known for {more}, until {calendar.known_until}: add the days of the next year"

    def _card_warnings(self, at: datetime) -> Iterator[str]:
        sources: dict[str, list[str]] = {}
        for card in self.prices.cards():
            if not card.verified and card.start <= at and (card.end is None or at < card.end):
                sources.setdefault(card.source, []).append(card.name)
        for source, names in sources.items():
            yield f"unverified prices in force, from {source}: {', '.join(dict.fromkeys(names))}"

    def _team_warnings(self, at: datetime) -> Iterator[str]:
        for team in self.teams.values():
            if team.steps and not team.budgets:
                yield f"team {team.team} has steps but no budget: they count for keys with a budget of their own only"
            yield from self._step_warnings(team, at)
        yield from self.unconvertible({host: self._usual_currency(host) for host in self.hosts}, at)

    def _step_warnings(self, team: TeamRow, at: datetime) -> Iterator[str]:
        for only, percent in sorted(team.onlys().items(), key=lambda item: item[1]):
            if not any(admits(only, target.host, target.model) for target in self._targets(team, at)):
                yield (
                    f"team {team.team}: from {percent} % on, only {', '.join(only)} may serve, and none of its routes has a deployment "
                    "there. Hint: add one to a route in routes.yaml, or let `routes` allow a HOST/MODEL there"
                )

    def _targets(self, team: TeamRow, at: datetime) -> Iterator[RouteTarget]:
        """Every deployment of this instant that a name leads to, a route's or HOST/MODEL, for which the team may ask."""
        for name, route in {**self.direct, **self.routes}.items():
            if team.may_ask(name):
                yield from (one for one in route.deployments if self.deployment(one.host, one.model, at))

    def unconvertible(self, currencies: Mapping[str, str], at: datetime) -> Iterator[str]:
        """The budgets that hosts billed in these currencies could not be charged to, for want of a rate."""
        for team in self.teams.values():
            for budget in team.budgets:
                hosts = [
                    host
                    for host, currency in currencies.items()
                    if team.may_use(host) and currency and self.rates.rate(currency, budget.currency, at) is None
                ]
                if hosts:
                    yield (
                        f"budget {budget.budget} of team {team.team} is in {budget.currency}, and rates.yaml has no rate to it from the "
                        f"currency of {', '.join(hosts)}: they are passed over. Hint: state a rate, or in "
                        f"FAREGATE_CURRENCY_<HOST> that the account is billed in {budget.currency}"
                    )

    def _usual_currency(self, host: str) -> str:
        """What an account at a host is billed in unless a setting says otherwise; "" where it has no price."""
        billed = sorted({card.currency for card in self.prices.cards() if card.host == host})
        return "USD" if "USD" in billed else next(iter(billed), "")


def default_folder() -> Path:
    """The shipped policies: inside an installed package, else beside it in a checkout."""
    here = Path(__file__).resolve().parent
    packaged = here / "_policies"
    return packaged if packaged.is_dir() else here.parent / "policies"


def schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema of each kind of file, by kind: a list of rows, or a single row."""
    return {kind: _schema(kind, model) for kind, model in KINDS.items()}


def _schema(kind: str, model: type[Row]) -> dict[str, Any]:
    rows: Any = list[model] | model  # type: ignore[valid-type]
    schema = TypeAdapter(rows).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"Faregate policies: {kind}", **schema}


def load(folder: Path) -> Policies:
    """The snapshot of a folder; raises PolicyError with every problem as "file:line: message. Hint: …"."""
    problems = Problems()
    files = read_folder(folder, KINDS, problems)
    if not files and not problems:
        problems.add(str(folder), 1, "holds no policies. Hint: FAREGATE_POLICIES names the folder with contracts/, hosts/ and prices/")
    rows = _Rows.read(files, problems)
    broken = {kind_of(line.partition(":")[0]) for line in problems.lines()}
    for needs, check in _CHECKS:
        # A row that is wrong in itself is left out: judging others by its absence would only hide the real problem.
        if not broken & needs:
            check(rows, problems)
    if problems:
        raise PolicyError(problems.lines())
    return _snapshot(rows, digest_of(files))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Every row of the folder that is right in itself."""

    contracts: list[Entry[Contract]]
    hosts: list[Entry[Host]]
    cards: list[Entry[CardRow]]
    calendars: list[Entry[CalendarRow]]
    routes: list[Entry[RouteRow]]
    rates: list[Entry[RateRow]]
    teams: list[Entry[TeamRow]]

    @classmethod
    def read(cls, files: Mapping[str, bytes], problems: Problems) -> _Rows:
        def rows(kind: str, model: type[R]) -> list[Entry[R]]:
            mine = (name for name in files if kind_of(name) == kind)
            return [entry for name in mine for entry in rows_of(name, files[name], model, problems)]

        return cls(
            contracts=rows("contracts", Contract),
            hosts=rows("hosts", Host),
            cards=rows("prices", CardRow),
            calendars=rows("calendars", CalendarRow),
            routes=rows("routes", RouteRow),
            rates=rows("rates", RateRow),
            teams=rows("teams", TeamRow),
        )

    def models(self) -> dict[tuple[str, str], list[HostModel]]:
        """The rows of each (host, model) in order of time."""
        found: dict[tuple[str, str], list[HostModel]] = {}
        for entry in self.hosts:
            for model in entry.row.models:
                found.setdefault((entry.row.host, model.model), []).append(model)
        return {key: sorted(models, key=lambda model: model.from_) for key, models in found.items()}


def _snapshot(rows: _Rows, digest: str) -> Policies:
    contracts = {entry.row.contract: entry.row for entry in rows.contracts}
    hosts = {entry.row.host: entry.row for entry in rows.hosts}
    calendars = {entry.row.calendar: entry.row.calendar_of() for entry in rows.calendars}
    models = rows.models()
    served = {
        key: tuple(Deployment(hosts[key[0]], model, contracts[model.contract], model.thinking) for model in found)
        for key, found in models.items()
    }
    return Policies(
        contracts=MappingProxyType(contracts),
        hosts=MappingProxyType(hosts),
        prices=Prices(entry.row.card_of(calendars) for entry in rows.cards),
        routes=MappingProxyType({entry.row.route: route_of(entry.row) for entry in rows.routes}),
        calendars=MappingProxyType(calendars),
        rates=Conversions(entry.row for entry in rows.rates),
        teams=MappingProxyType({entry.row.team: entry.row for entry in rows.teams}),
        digest=digest,
        warnings=tuple(_unverified(rows)),
        served=MappingProxyType(served),
        direct=MappingProxyType({f"{host}/{model}": _direct(host, model, found) for (host, model), found in models.items()}),
    )


def _direct(host: str, model: str, found: list[HostModel]) -> Route:
    """HOST/MODEL as a route; between two rows the later contract already counts, which nothing serves yet."""
    untils = [row.until for row in found[:-1]]
    contracts = tuple(zip([*untils, None], (row.contract for row in found), strict=True))
    return Route(f"{host}/{model}", contracts, (RouteTarget(host, model),))


def _unverified(rows: _Rows) -> Iterator[str]:
    named = {
        "contracts": [entry.row.contract for entry in rows.contracts if not entry.row.verified],
        "cards": [entry.row.card for entry in rows.cards if not entry.row.verified],
        "host rows": [f"{entry.row.host}/{model.model}" for entry in rows.hosts for model in entry.row.models if not model.verified],
    }
    for kind, names in named.items():
        if names:
            yield f"{len(names)} {kind} rest on unverified facts: {', '.join(dict.fromkeys(names))}"


# Checks of rows against each other


def _check_names(rows: _Rows, problems: Problems) -> None:
    _unique(problems, "contract", ((entry.row.contract, entry) for entry in rows.contracts))
    _unique(problems, "host", ((entry.row.host, entry) for entry in rows.hosts))
    _unique(problems, "card", ((entry.row.card, entry) for entry in rows.cards))
    _unique(problems, "calendar", ((entry.row.calendar, entry) for entry in rows.calendars))
    _unique(problems, "route", ((entry.row.route, entry) for entry in rows.routes))
    _unique(problems, "team", ((entry.row.team, entry) for entry in rows.teams))
    for entry in rows.hosts:
        if "/" in entry.row.host:
            entry.report(problems, f"host `{entry.row.host}` has a slash: HOST/MODEL could not be told apart", "host")


def _unique(problems: Problems, key: str, named: Iterable[tuple[str, Entry[Any]]]) -> None:
    seen: dict[str, Entry[Any]] = {}
    for name, entry in named:
        if name in seen:
            first = seen[name]
            entry.report(problems, f"{key} `{name}` is taken by {first.file}:{first.line(key)}. Hint: names are unique", key)
        seen.setdefault(name, entry)


def _missing(what: str, name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f"there is no {what} `{name}`." + (f" Hint: did you mean `{close[0]}`?" if close else f" Hint: add the {what} first")


def _check_host_contracts(rows: _Rows, problems: Problems) -> None:
    known = {entry.row.contract for entry in rows.contracts}
    for entry in rows.hosts:
        for index, model in enumerate(entry.row.models):
            if model.contract not in known:
                entry.report(problems, _missing("contract", model.contract, known), "models", index, "contract")


def _check_host_times(rows: _Rows, problems: Problems) -> None:
    for entry in rows.hosts:
        for index, model in enumerate(entry.row.models):
            until = model.until or _FOREVER
            if until <= model.from_:
                entry.report(problems, "`until` is not after `from`", "models", index, "until")
            for other in entry.row.models[:index]:
                if other.model == model.model and other.from_ < until and model.from_ < (other.until or _FOREVER):
                    text = f"two rows of `{model.model}` serve at the same time. Hint: give the earlier one an `until`"
                    entry.report(problems, text, "models", index)


def _check_calendars(rows: _Rows, problems: Problems) -> None:
    known = {entry.row.calendar for entry in rows.calendars}
    for entry in rows.cards:
        for index, window in enumerate(entry.row.windows):
            if window.except_ and window.except_ not in known:
                entry.report(problems, _missing("calendar", window.except_, known), "windows", index, "except")


def _check_card_hosts(rows: _Rows, problems: Problems) -> None:
    models = rows.models()
    for entry in rows.cards:
        for index, model in enumerate(entry.row.models):
            if not entry.row.baseline and (entry.row.host, model) not in models:
                known = [name for host, name in models if host == entry.row.host]
                entry.report(problems, _missing(f"model of host {entry.row.host}", model, known), "models", index)


Line = list[Entry[CardRow]]


def _lines(rows: _Rows) -> dict[tuple[str, str, str], Line]:
    lines: dict[tuple[str, str, str], Line] = {}
    for entry in sorted(rows.cards, key=lambda entry: entry.row.from_):
        for model in entry.row.models:
            lines.setdefault((entry.row.host, model, entry.row.currency), []).append(entry)
    return lines


def _check_overlaps(rows: _Rows, problems: Problems) -> None:
    for (host, model, currency), line in _lines(rows).items():
        for entry, follower in pairwise(line):
            what = f"{host}/{model} in {currency}"
            if entry.row.from_ == follower.row.from_:
                text = f"card `{follower.row.card}` begins when `{entry.row.card}` ({entry.place()}) does: two prices for {what}"
                follower.report(problems, text, "from")
            elif entry.row.until and entry.row.until > follower.row.from_:
                text = f"card `{entry.row.card}` overlaps `{follower.row.card}` ({follower.place()}): two prices for {what}"
                entry.report(problems, f"{text}. Hint: leave `until` out, a card ends where the next begins", "until")


def _check_gaps(rows: _Rows, problems: Problems) -> None:
    models = rows.models()
    for (host, model, currency), line in _lines(rows).items():
        for entry, follower in pairwise(line):
            gap = (entry.row.until or follower.row.from_, follower.row.from_)
            served = any(gap[0] < (row.until or _FOREVER) and row.from_ < gap[1] for row in models.get((host, model), ()))
            if gap[0] < gap[1] and (served or entry.row.baseline):
                text = f"leaves {host}/{model} without a price in {currency} {_span(*gap)}"
                entry.report(problems, f"card `{entry.row.card}` {text}. Hint: leave `until` out, or add a card", "until")


def _check_coverage(rows: _Rows, problems: Problems) -> None:
    """Every instant at which a host serves a model has a card in some currency (gaps inside a line are _check_gaps')."""
    spans: dict[tuple[str, str], list[tuple[datetime, datetime]]] = {}
    for (host, model, _), line in _lines(rows).items():
        spans.setdefault((host, model), []).append((line[0].row.from_, line[-1].row.until or _FOREVER))
    for entry in rows.hosts:
        for index, row in enumerate(entry.row.models):
            for gap in _uncovered(row.from_, row.until or _FOREVER, spans.get((entry.row.host, row.model), [])):
                text = f"no card has a price for {entry.row.host}/{row.model} {_span(*gap)}. Hint: add one to prices/"
                entry.report(problems, text, "models", index)


def _uncovered(start: datetime, end: datetime, spans: list[tuple[datetime, datetime]]) -> Iterator[tuple[datetime, datetime]]:
    for first, last in sorted(spans):
        if start < min(first, end):
            yield start, min(first, end)
        start = max(start, last)
    if start < end:
        yield start, end


def _span(start: datetime, end: datetime) -> str:
    return f"from {instant_text(start)}" + (f" until {instant_text(end)}" if end < _FOREVER else " on")


def _check_routes(rows: _Rows, problems: Problems) -> None:
    contracts = {entry.row.contract for entry in rows.contracts}
    models = {f"{host}/{model}" for host, model in rows.models()}
    for entry in rows.routes:
        for index, target in enumerate(entry.row.targets):
            if target.name not in models:
                entry.report(problems, _missing("deployment", target.name, models), "deployments", index)
        for index, dated in enumerate(entry.row.dated):
            if dated.contract not in contracts:
                entry.report(problems, _missing("contract", dated.contract, contracts), "contract", index, "contract")


def _check_rates(rows: _Rows, problems: Problems) -> None:
    """One pair has one rate at one instant, whichever way round it is stated."""
    seen: dict[tuple[frozenset[str], datetime], Entry[RateRow]] = {}
    for entry in rows.rates:
        first = seen.setdefault((frozenset((entry.row.from_, entry.row.to)), entry.row.at), entry)
        if first is not entry:
            pair = f"{entry.row.from_} and {entry.row.to}"
            entry.report(problems, f"{pair} have a rate at {instant_text(entry.row.at)} already ({first.place()}). Hint: keep one", "at")


def _check_team_hosts(rows: _Rows, problems: Problems) -> None:
    known = {entry.row.host for entry in rows.hosts}
    models = {f"{host}/{model}" for host, model in rows.models()}
    for entry in rows.teams:
        for index, host in enumerate(entry.row.hosts or ()):
            if host not in known:
                entry.report(problems, _missing("host", host, known), "hosts", index)
        for number, step in enumerate(entry.row.steps):
            for index, name in enumerate(step.only or ()):
                what, among = ("deployment", models) if "/" in name else ("host", known)
                if name not in among:
                    entry.report(problems, _missing(what, name, among), "steps", number, "only", index)


def _check_team_routes(rows: _Rows, problems: Problems) -> None:
    names = {*(entry.row.route for entry in rows.routes), *(f"{host}/{model}" for host, model in rows.models())}
    for entry in rows.teams:
        for index, pattern in enumerate(entry.row.routes):
            if any(matches(pattern, name) for name in names):
                continue
            text = _missing("route or HOST/MODEL", pattern, names)
            if "*" in pattern:
                text = f"`{pattern}` matches no route and no HOST/MODEL. Hint: a * stands for any text; routes.yaml has the names"
            entry.report(problems, text, "routes", index)


# Each check, and the kinds of rows that it must see in full.
_CHECKS: tuple[tuple[frozenset[str], Callable[[_Rows, Problems], None]], ...] = (
    (frozenset(), _check_names),
    (frozenset({"contracts"}), _check_host_contracts),
    (frozenset(), _check_host_times),
    (frozenset({"calendars"}), _check_calendars),
    (frozenset({"hosts"}), _check_card_hosts),
    (frozenset(), _check_overlaps),
    (frozenset({"hosts", "prices"}), _check_gaps),
    (frozenset({"hosts", "prices"}), _check_coverage),
    (frozenset({"contracts", "hosts"}), _check_routes),
    (frozenset(), _check_rates),
    (frozenset({"hosts"}), _check_team_hosts),
    (frozenset({"hosts", "routes"}), _check_team_routes),
)
