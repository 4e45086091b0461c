"""Menus: hosts and prices of a simulation, as a YAML file; or a route of the policies, at the trace's instants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from gateway.clock import instant_text
from gateway.contracts import Cache, Context, Contract, MaxTokens
from gateway.errors import PolicyError, PriceUnknown
from gateway.hosts import Deployment, Host, HostModel
from gateway.notation import Currency
from gateway.policies import Policies
from gateway.policy_files import Problems, rows_of
from gateway.prices import PerMillion
from gateway.routes import Route
from gateway.rows import Problem, Row
from gateway.simulate.hosts import FIRST_TOKEN, PACE, Rule, Seller
from gateway.simulate.tariffs import Fixed, Listed, Tariff

FOLDER = Path(__file__).parent / "menus"
Caches = Literal["session", "shared"]
# The one model of hosts that only a menu knows.
MODEL = "model"


class MenuCache(Row):
    """What a host says of its prefix cache, as in a contract; by default it takes any number of tokens."""

    mode: Literal["blocks", "units", "none"] = "blocks"
    tokens: int = Field(default=1, ge=1)
    ttl: int | None = Field(default=None, ge=1)


class MenuHost(Row):
    """One host: a price of its own or a deployment of the policies, what it says of its cache, and what is true of it."""

    host: str
    per_million: PerMillion | None = None
    deployment: str | None = Field(default=None, description="HOST/MODEL of the policies, whose cards are its price")
    cache: MenuCache | None = Field(default=None, description="what it says; a deployment's own where it is left out")
    hit_chance: float = Field(default=1.0, ge=0, le=1, description="probability that a known prefix is a hit")
    life: float | None = Field(default=None, gt=0, description="seconds after which that probability has fallen to 37 %")
    ttl: float | None = Field(default=None, ge=0, description="seconds that a prefix really lives unused, where not as it says")
    lag: float = Field(default=0.0, ge=0, description="seconds until a prefix can be a hit")
    least: int = Field(default=0, ge=0, description="shortest prefix that is cached, in tokens")
    every: int = Field(default=0, ge=0, description="mode units: a unit at each so many tokens too")
    fails: float = Field(default=0.0, ge=0, lt=1, description="share of dispatches that fail before the first byte")
    first_token: float = Field(default=FIRST_TOKEN, gt=0, description="seconds")
    pace: float = Field(default=PACE, gt=0, description="output tokens a second")

    def problems(self) -> Iterator[Problem]:
        if (self.per_million is None) == (self.deployment is None):
            yield (), f"host `{self.host}` needs either `per_million` or `deployment`"


class MenuRow(Row):
    """A menu; `caches: session` means that conversations share nothing, not even their first tokens.

    `contract` is the version whose answers a trace is taken to have, for `--next`.
    """

    menu: str
    contract: str | None = None
    currency: Currency = "USD"
    caches: Caches = "shared"
    hosts: tuple[MenuHost, ...] = Field(min_length=1)
    note: str = ""

    def problems(self) -> Iterator[Problem]:
        names = [host.host for host in self.hosts]
        for index, host in enumerate(self.hosts):
            if host.host in names[:index]:
                yield ("hosts", index, "host"), f"the name `{host.host}` is taken. Hint: names are unique"
            for path, text in host.problems():
                yield ("hosts", index, *path), text


@dataclass(frozen=True, slots=True)
class Menu:
    """The hosts of a simulation in one currency; `apart`: conversations share nothing. `contract`: the version asked for, if known."""

    name: str
    currency: str
    apart: bool
    sellers: tuple[Seller, ...]
    contract: str | None = None

    @property
    def dated(self) -> bool:
        """Whether its prices depend on the instant."""
        return any(isinstance(seller.tariff, Listed) for seller in self.sellers)


class Choice(NamedTuple):
    """Which deployments of a route are on a menu: of these hosts (None: all), of this version (None: what the route means), all the
    time from the trace's begin `until` then (None: it does not matter)."""

    hosts: Set[str] | None = None
    version: str | None = None
    until: datetime | None = None

    def takes(self, host: str) -> bool:
        return self.hosts is None or host in self.hosts


EVERYWHERE = Choice()


class Market:
    """Where menus get their prices: the policies, the instant at which the trace begins, the currency that each host is billed in."""

    def __init__(self, policies: Policies, begin: datetime, currencies: Mapping[str, str]) -> None:
        self._policies = policies
        self._begin = begin
        self._currencies = currencies

    def menu(self, path: Path) -> Menu:
        """The menu of a file, or one that is shipped; raises PolicyError with file and line of each problem."""
        file = path if path.exists() or path.suffix else FOLDER / f"{path.name}.yaml"
        problems = Problems()
        try:
            data = file.read_bytes()
        except OSError as error:
            hint = f"Hint: those that are shipped are {', '.join(shipped())}"
            raise PolicyError((f"{path}:1: cannot be read: {error.strerror}. {hint}",)) from None
        entries = rows_of(str(path), data, MenuRow, problems)
        if not entries and not problems:
            problems.add(str(path), 1, "holds no menu")
        sellers = []
        for index, host in enumerate(entries[0].row.hosts if entries else ()):
            try:
                sellers.append(self._seller(host, entries[0].row.currency))
            except PriceUnknown as unknown:
                entries[0].report(problems, unknown.message, "hosts", index, "deployment")
        if problems:
            raise PolicyError(problems.lines())
        row = entries[0].row
        return Menu(row.menu, row.currency, row.caches == "session", tuple(sellers), row.contract)

    def route(self, route: Route, caches: Caches = "shared", currency: str = "USD", choice: Choice = EVERYWHERE) -> Menu:
        """The deployments of a route that serve at the trace's begin, as the policies price and describe them.

        Those of the version that was asked for, else of the first that is served: a version is never traded for money. Raises
        PriceUnknown where none of them serves.
        """
        served: dict[str, list[str]] = {}
        for target in route.deployments:
            deployment = self._policies.deployment(target.host, target.model, self._begin)
            if deployment is not None and choice.takes(target.host) and self._stays(deployment, choice.until):
                served.setdefault(deployment.contract.contract, []).append(target.name)
        if not served:
            raise PriceUnknown(f"no deployment of {route.name} serves at {instant_text(self._begin)}. Hint: name an instant with --at")
        contract = choice.version or route.contract_at(self._begin)
        names = served.get(contract) or next(iter(served.values()))
        sellers = tuple(self._seller(MenuHost(host=name, deployment=name), currency) for name in dict.fromkeys(names))
        return Menu(route.name, currency, caches == "session", sellers, contract)

    def _stays(self, deployment: Deployment, until: datetime | None) -> bool:
        """Whether it still serves the same version then."""
        later = deployment if until is None else self._policies.deployment(deployment.host.host, deployment.model.model, until)
        return later is not None and later.contract.contract == deployment.contract.contract

    def _seller(self, row: MenuHost, currency: str) -> Seller:
        says = Cache(**row.cache.model_dump()) if row.cache else None
        if row.per_million is not None:
            return _seller(row, Fixed(row.per_million.rates()), _unlisted(row.host, says or Cache(tokens=1), self._begin))
        assert row.deployment is not None, "a row without a price names a deployment"
        host, _, model = row.deployment.partition("/")
        deployment = self._policies.deployment(host, model, self._begin)
        if deployment is None:
            raise PriceUnknown(f"{row.deployment} is not served at {instant_text(self._begin)}")
        tariff = Listed(self._policies, host, model, self._currencies.get(host), currency, self._begin)
        return _seller(row, tariff, _saying(deployment, says))


def shipped() -> list[str]:
    """The names of the menus that come with the package."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def _seller(row: MenuHost, tariff: Tariff, deployment: Deployment) -> Seller:
    says = deployment.cache
    ttl = row.ttl if row.ttl is not None else says.ttl
    rule = Rule(says.mode, says.tokens, ttl, row.least, row.hit_chance, row.life, row.lag, row.every)
    return Seller(row.host, deployment, tariff, rule, fails=row.fails, first_token=row.first_token, pace=row.pace)


def _saying(deployment: Deployment, says: Cache | None) -> Deployment:
    """A deployment as a menu describes its cache."""
    return replace(deployment, model=deployment.model.model_copy(update={"cache": says})) if says else deployment


def _unlisted(name: str, says: Cache, begin: datetime) -> Deployment:
    """A host that is in no policies: it serves one model, whose contract limits nothing here."""
    limit = MaxTokens(counts="total", max=1 << 30)
    contract = Contract(contract=MODEL, released=begin.date(), context=Context(tokens=1 << 30), max_tokens=limit)
    model = HostModel.model_validate({"model": MODEL, "contract": MODEL, "cache": says, "from": begin})
    return Deployment(Host(host=name, models=(model,)), model, contract)
