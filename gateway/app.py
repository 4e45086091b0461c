"""The composition root: the only module that knows every class, and the one that makes the real ones."""

from __future__ import annotations

import asyncio
import gc
import hmac
import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from secrets import token_bytes
from typing import Any

from gateway.admin.app import build_admin
from gateway.admin.budgets import BudgetDesk
from gateway.admin.hosts import balances_json, how_it_is
from gateway.admin.keys import KeyDesk
from gateway.balances import Balances, by_host
from gateway.budget_view import BudgetView
from gateway.calibration import HitWatch
from gateway.clock import Clock, instant_text
from gateway.errors import LedgerUnavailable
from gateway.exchange import Exchange
from gateway.experience import Experience
from gateway.foresight import Foresight
from gateway.front import server
from gateway.front.app import Front
from gateway.front.auth import Keys, pepper_for
from gateway.gauges import Process
from gateway.health import Health
from gateway.hosts import Host
from gateway.keys.following import Following
from gateway.keys.port import KeyProblem, KeyStore, PepperDiffers
from gateway.keys.postgres import PostgresKeys
from gateway.keys.registry import Registry
from gateway.keys.secret import Hasher, pseudonym, stored_secret
from gateway.keys.sqlite import SqliteKeys, stored_check
from gateway.ledger.port import Ledger, Store
from gateway.ledger.postgres import PostgresStore
from gateway.ledger.spool import Spool
from gateway.ledger.sqlite import SqliteStore
from gateway.ledger.steward import Steward
from gateway.metrics import Metrics
from gateway.notices import Notices
from gateway.policies import Policies, default_folder
from gateway.policy_watch import PolicyStore
from gateway.ports import Observer, Ports
from gateway.prefix import Index
from gateway.prelude import Prelude
from gateway.recall.port import Recall
from gateway.recall.redis import Calls, RedisEntries
from gateway.recall.sqlite import SqliteEntries
from gateway.recall.store import Store as Reasoning
from gateway.reconciled import Reconciliations
from gateway.replicas import Replicas, with_replicas
from gateway.request import Caller
from gateway.request_log import RequestLog
from gateway.settings import Settings, SettingsError, variable_name
from gateway.shared.link import Link
from gateway.shared.sharing import Sharing
from gateway.standings import balance, mine, named
from gateway.timekeeping import clock_for
from gateway.tokens import warm
from gateway.upstream.accounts import Account, Accounts, UnusableKey, account_for, needs
from gateway.upstream.client import HttpUpstream
from gateway.upstream.litellm_adapter import LitellmUpstream, worker_for
from gateway.upstream.port import Deadlines, Upstream
from gateway.upstream.switchboard import Switchboard

log = logging.getLogger(__name__)
# Seconds for the last charges, once streams have been cut at the end of the drain: counting a cut answer takes a moment.
SETTLE_WITHIN = 10.0


class Gateway:
    """One process of Faregate: every part made from the settings, started and ended in order."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock: Clock = clock_for(settings.clock)
        self.health = Health()
        self.policies = PolicyStore(settings.policies or default_folder(), self.clock, reloaded=self._reloaded)
        self._accounts: tuple[str, Accounts] | None = None
        self.budgets = BudgetView()
        self.metrics = Metrics(self.policies, self.clock, self.budgets)
        check_hosts(settings, self.policies.current)
        self.accounts(self.policies.current)
        self.registry = key_registry(settings, self.clock)
        self.keys = Keys([(entry.team, entry.key) for entry in settings.keys], key_pepper(settings), self.clock)
        self.stored_keys = Following(self.registry.store, self.keys.known, self.keys.use)
        index = Index()
        self.foresight = Foresight(derived(key_pepper(settings), "prefix"), index)
        self.replicas = Replicas(index)
        self.sharing = _sharing(settings, self.clock, self.metrics, self.foresight)
        self.request_log = _request_log(settings, self.metrics)
        self.hits = HitWatch()
        self.left: Callable[[], Mapping[tuple[str, str], int]] = dict
        self.foresight.watch = self._watch_hits
        self.metrics.gauges.watch_hosts(self.health, self.replicas, self.hits, lambda: self.accounts(self.policies.current).currencies)

    def accounts(self, policies: Policies) -> Accounts:
        """The configured hosts of a snapshot; made once for each."""
        if self._accounts is None or self._accounts[0] != policies.digest:
            found = {name: account for name, host in policies.hosts.items() if (account := _account(self.settings, host))}
            self._accounts = policies.digest, Accounts(found)
        return self._accounts[1]

    def _watch_hits(self, place: str, known: int, hit: int, idle: float, at: float) -> None:
        """A host's hit rate may have fallen: said once. Places of single teams count for their deployment."""
        fall = self.hits.learn(place.partition("#")[0], known, hit, idle, at)
        if fall is not None:
            before, now = round(100 * fall.before), round(100 * fall.now)
            log.warning(
                "alarm: %s hits %s %% of the prefixes that it knows, and hit %s %% before after such pauses", fall.name, now, before
            )

    def _rests(self, name: str) -> bool:
        """Whether a host is left alone when it fails; one that the policies no longer have is of no interest."""
        host = self.policies.current.hosts.get(name)
        return host is not None and host.rest

    def _reloaded(self) -> None:
        """Who reloads has mended something: what was parked may be asked again."""
        self.health.forgive()
        self.replicas.forgive()

    async def serve(self) -> None:
        """Run until a signal ends it; streams finish, the ledger is closed last."""
        try:
            await self._take_keys()
            await self._serve()
        finally:
            await self.registry.store.close()

    async def _take_keys(self) -> None:
        try:
            await self.stored_keys.start()
        except KeyProblem as problem:
            raise SettingsError(str(problem)) from None
        if not self.settings.keys and not self.stored_keys.count:
            raise SettingsError(
                "there is no key, so nobody could ask. Remedy: make one with `faregate keys create --team NAME`, or set "
                "FAREGATE_KEYS=team:key (8 characters or more)."
            )

    async def _serve(self) -> None:
        settings = self.settings
        ledger = self._ledger()
        # Not before the keys: a gateway with another pepper than theirs leaves no secret of its own in the data folder.
        self.recall = reasoning_store(settings, self.metrics)
        self.metrics.gauges.watch(ledger)
        await ledger.start()
        await self.sharing.start()
        await self.recall.start()
        if self.request_log is not None:
            self.request_log.start()
        upstream = _upstream(settings)
        stop = asyncio.Event()
        notices = Notices(self.health, self.replicas, self._rests)
        watching = asyncio.gather(
            self.policies.watch(stop),
            self.stored_keys.watch(stop),
            self.budgets.watch(ledger, self.clock, stop),
            notices.watch(self.clock, stop),
            self._balances(ledger).watch(settings.balance_poll, stop),
        )
        exchange = Exchange(self._ports(ledger, upstream))
        front = self._front(exchange, ledger)
        self.metrics.gauges.watch_process(Process(lambda: front.readiness()[0] == HTTPStatus.OK, lambda: self.stored_keys.error is None))
        _spare_the_collector()
        try:
            await server.serve(front, self._admin(ledger, front), settings, on_hup=self.policies.reload, on_started=self._announce)
        finally:
            stop.set()
            await asyncio.gather(watching, return_exceptions=True)
            await exchange.end(SETTLE_WITHIN)
            await upstream.close()
            await self.recall.close()
            await self.sharing.close()
            await ledger.close()
            if self.request_log is not None:
                await self.request_log.close()

    def _balances(self, ledger: Ledger) -> Balances:
        """Who asks hosts what is left, shown at each scrape with the last reconciliation."""

        async def spent(start: datetime, end: datetime) -> Mapping[tuple[str, str], int]:
            return by_host(await ledger.spend("host", start, end))

        def hosts() -> Iterator[tuple[Host, Account]]:
            policies = self.policies.current
            accounts = self.accounts(policies)
            return ((host, accounts.at(name)) for name, host in policies.hosts.items() if name in accounts)

        found = Balances(hosts, spent, self.clock)
        self.metrics.gauges.watch_source(found.samples)
        self.left = found.left
        self.metrics.gauges.watch_source(Reconciliations(self.settings.data).samples)
        return found

    def _ledger(self) -> Steward:
        settings = self.settings
        store, spool = ledger_store(settings), Spool(settings.data / "spool")
        return Steward(store, spool, lease=settings.lease, on_commit=self.metrics.committed, ledger_down=settings.ledger_down)

    def _ports(self, ledger: Steward, upstream: Upstream) -> Ports:
        settings = self.settings
        limits = Deadlines(settings.timeout_connect, settings.timeout_first_byte, settings.timeout_idle, settings.timeout_total)
        return Ports(
            policies=self.policies,
            ledger=ledger,
            upstream=upstream,
            accounts=self.accounts,
            clock=self.clock,
            deadlines=limits,
            experience=Experience(),
            observer=self.request_log or self.metrics,
            limits=self.sharing.limits,
            denials=self.sharing.denials,
            view=self.budgets,
            health=self.health,
            prelude=Prelude(self.recall, partial(pseudonym, key_pepper(settings))),
            replicas=self.replicas,
            foresight=self.foresight,
        )

    def _front(self, exchange: Exchange, ledger: Steward) -> Front:
        shifted = self.settings.clock is not None
        return Front(
            exchange=exchange,
            authenticate=self.keys.authenticate,
            models=self._models,
            ready=lambda: self._ready(ledger),
            max_body=int(self.settings.max_body),
            notice=(lambda: instant_text(self.clock.now())) if shifted else None,
            balance=partial(self._balance, ledger),
        )

    def _admin(self, ledger: Steward, front: Front) -> Any:
        token = self.settings.admin_token
        return build_admin(
            ledger=ledger,
            metrics=self.metrics,
            policies=self.policies,
            hosts=self._hosts,
            readiness=front.readiness,
            keys=KeyDesk(self.registry, lambda: self.policies.current, self.clock, self.stored_keys.look),
            budgets=BudgetDesk(ledger, lambda: self.policies.current, self.clock),
            port=self.settings.port,
            bound=self.settings.admin_host,
            token=token.get_secret_value() if token else None,
        )

    def _models(self, caller: Caller) -> list[dict[str, Any]]:
        """The routes that the caller's team may use and that something configured here serves now."""
        return [{"id": name, "owned_by": "faregate"} for name in self.policies.current.routes if self._serves(name, caller)]

    def _serves(self, name: str, caller: Caller) -> bool:
        policies, now = self.policies.current, self.clock.now()
        team = policies.teams.get(caller.team)
        if policies.excludes(caller.team) or (team is not None and not team.may_ask(name)):
            return False
        hosts = {host for host in self.accounts(policies).currencies if team is None or team.may_use(host)}
        targets = policies.routes[name].deployments
        return any(target.host in hosts and policies.deployment(target.host, target.model, now) for target in targets)

    async def _balance(self, ledger: Ledger, caller: Caller) -> dict[str, Any]:
        """From the ledger itself: what was last seen may be more than there is."""
        now = self.clock.now()
        if self.policies.current.excludes(caller.team):
            return {"is_available": False, "balance_infos": []}
        try:
            known = {named(state): state for state in await ledger.budgets(now, caller.team)}
        except LedgerUnavailable:
            # Its own text names the database, which is no business of a caller's.
            raise LedgerUnavailable("The ledger does not answer.", retry_after=1) from None
        return balance(mine(self.policies.current.teams.get(caller.team), caller, known, now))

    def _hosts(self) -> list[dict[str, Any]]:
        """Every host of the policies: configured or not, what it serves now, and how that has gone lately."""
        now, policies = self.clock.now(), self.policies.current
        accounts, at = self.accounts(policies), now.timestamp()
        copies, falls, alarms = list(self.replicas.states(at)), self.hits.falls(at), self.health.alarms(at)
        states = list(with_replicas(self.health.states(at), copies))
        return [
            {
                "host": name,
                "configured": name in accounts,
                "needs": None if name in accounts else needs(host, self.settings),
                "currency": accounts.currencies.get(name),
                "models": sorted({row.model for row in host.models if row.serves(now)}),
                "alarms": [alarm.text for alarm in alarms if alarm.host == name],
                "balances": balances_json(name, self.left()),
                **how_it_is(name, states, copies, self.settings.base_urls_of(name), falls),
            }
            for name, host in policies.hosts.items()
        ]

    def _ready(self, ledger: Steward) -> dict[str, Any]:
        policies = {"policies": self.policies.current.digest, "policies_error": self.policies.error}
        policies["keys_error"] = self.stored_keys.error
        alarms = [alarm.text for alarm in self.health.alarms(self.clock.now().timestamp())]
        limits = self.sharing.limits
        report: dict[str, Any] = {
            "ready": ledger.ready() and limits.ready(),
            "redis": limits.state(),
            "unsettled": ledger.unsettled,
            "alarms": alarms,
            **policies,
        }
        if self.settings.clock is not None:
            report["clock"] = {"set": str(self.settings.clock), "now": instant_text(self.clock.now())}
        return report

    def _announce(self, data: tuple[str, int], admin: tuple[str, int]) -> None:
        if any(team.budgets for team in self.policies.current.teams.values()):
            # Half a second's work, which the first stretched answer would wait for.
            asyncio.get_running_loop().run_in_executor(None, warm)
        names = sorted(self.accounts(self.policies.current).currencies)
        log.info("serving on http://%s:%s/v1, admin on http://%s:%s; hosts: %s", *data, *admin, ", ".join(names) or "none is configured")
        if not names:
            log.warning("no host is configured, so nothing is served: set DEEPSEEK_API_KEY, or FAREGATE_BASE_URL_LOCAL for your own engine")
        if self.settings.clock is not None:
            log.warning("FAREGATE_CLOCK is set: prices and names are those of %s", instant_text(self.clock.now()))
        if self.settings.redis is not None and self.settings.store_key is None:
            log.warning(
                "FAREGATE_STORE_KEY is not set, so each gateway keeps the reasoning that clients lose for itself. Remedy: set it to what "
                "`openssl rand -hex 32` prints, the same for all that share the Redis"
            )
        for warning in self.settings.warnings:
            log.warning("%s", warning)
        for warning in self.policies.current.unconvertible(self.accounts(self.policies.current).currencies, self.clock.now()):
            log.warning("%s", warning)
        if count := len(self.policies.current.warnings_at(self.clock.now())):
            log.warning("%s warnings about the policies in force: `faregate check` lists them", count)


def _spare_the_collector() -> None:
    """What has been loaded stays for the life of the process, and requests make no cycles: the collector need not look often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _sharing(settings: Settings, clock: Clock, metrics: Metrics, foresight: Foresight) -> Sharing:
    redis = settings.redis.get_secret_value() if settings.redis else None
    try:
        return Sharing(redis, settings.redis_down, settings.lease, clock, metrics, (foresight, _tag(settings)))
    except (ValueError, TypeError):
        # What the library says may repeat the address, and a password with it.
        raise SettingsError("FAREGATE_REDIS: no address that can be used. Remedy: write it as redis://:PASSWORD@HOST:PORT/0.") from None


def _request_log(settings: Settings, after: Observer) -> RequestLog | None:
    """A line a request is of level info: none where it is off, or where only what is worse is logged."""
    wanted = settings.log_requests == "on" and settings.log_level in ("debug", "info")
    return RequestLog(after, settings.log_format) if wanted else None


def reasoning_store(settings: Settings, metrics: Metrics) -> Recall:
    """Where relayed reasoning is kept, sealed: in Redis for all replicas that know its key, else in a file of this gateway's own."""
    if settings.store_key is None:
        return Reasoning(_recall_key(settings.data), SqliteEntries(settings.data / "recall.db"))
    secret = settings.store_key.get_secret_value().encode()
    if settings.redis is None:
        return Reasoning(secret, SqliteEntries(settings.data / "recall.db"))
    return Reasoning(secret, RedisEntries(Link(settings.redis.get_secret_value(), Calls(metrics), quiet=True)))


def _recall_key(data: Path) -> bytes:
    """The key in the data folder; where nothing can be written there, one for as long as this process lives."""
    try:
        return stored_secret(data / "recall-key")
    except OSError as problem:
        log.warning("reasoning that clients lose is kept in memory only: %s cannot be written (%s)", data, type(problem).__name__)
        return token_bytes(32)


def on_postgres(settings: Settings) -> bool:
    """Whether the ledger, and the keys with it, are in PostgreSQL."""
    return not settings.ledger_address.startswith("sqlite:///")


def key_pepper(settings: Settings) -> bytes:
    """The secret under which keys are hashed; raises SettingsError where replicas would each make their own."""
    if settings.key_pepper is None and on_postgres(settings):
        raise SettingsError(
            "FAREGATE_KEY_PEPPER is not set, and all gateways on one PostgreSQL need the same. Remedy: set it to what "
            "`openssl rand -hex 32` prints, once for all of them."
        )
    return pepper_for(settings.key_pepper, settings.data)


def derived(pepper: bytes, purpose: str) -> bytes:
    """A secret of its own for one purpose, the same in every gateway with this pepper; 32 bytes."""
    return hmac.digest(pepper, b"faregate " + purpose.encode(), "sha256")


def _tag(settings: Settings) -> str:
    """What tells apart gateways that cannot read each other's digests, and nothing about the secret."""
    return derived(key_pepper(settings), "prefix tag").hex()[:16]


def key_registry(settings: Settings, clock: Clock | None = None) -> Registry:
    """The stored keys of these settings, not opened yet: they are where the ledger is. SettingsError where another pepper is theirs."""
    if not on_postgres(settings):
        _check_pepper(settings)
    hasher = Hasher(key_pepper(settings))
    store: KeyStore
    if on_postgres(settings):
        store = PostgresKeys(settings.ledger_address, hasher.check)
    else:
        store = SqliteKeys(ledger_file(settings), hasher.check)
    return Registry(store, hasher, (clock or clock_for(settings.clock)).now)


def _check_pepper(settings: Settings) -> None:
    """Before anything is made in the data folder: a new pepper there would look like the one of the keys that are stored."""
    check = stored_check(ledger_file(settings))
    if check is None:
        return
    file = settings.data / "key-pepper"
    if settings.key_pepper is None and not file.exists():
        raise SettingsError(
            f"{file} is not there, and without it no stored key is known. Remedy: put back the file (backups of the ledger do not have "
            "it), or set FAREGATE_KEY_PEPPER to what is in it."
        )
    if Hasher(key_pepper(settings)).check != check:
        raise SettingsError(str(PepperDiffers()))


def ledger_store(settings: Settings) -> Store:
    """The store of these settings, not opened yet."""
    return PostgresStore(settings.ledger_address) if on_postgres(settings) else SqliteStore(ledger_file(settings))


def ledger_file(settings: Settings) -> Path:
    """The embedded ledger's file; raises SettingsError for another kind of store."""
    if on_postgres(settings):
        raise SettingsError("FAREGATE_LEDGER names a database, and this needs a file. Remedy: unset it, or name sqlite:///PATH.")
    return Path(settings.ledger_address.removeprefix("sqlite:///"))


def check_hosts(settings: Settings, policies: Policies) -> None:
    """Per-host settings name hosts that exist, in currencies that they bill: a typo must not send requests to the real host."""
    known = {variable_name(name): name for name in policies.hosts}
    for prefix, names in (("BASE_URL", settings.base_url), ("CURRENCY", settings.currency)):
        for name in names:
            if name not in known:
                raise SettingsError(f"FAREGATE_{prefix}_{name} names no host. Remedy: use one of {', '.join(sorted(known))}.")
    for name, urls in settings.base_url.items():
        if len(urls) > 1 and not policies.hosts[known[name]].local:
            raise SettingsError(
                f"FAREGATE_BASE_URL_{name} has {len(urls)} URLs, and {known[name]} is no engine of your own: only replicas of one engine "
                f"may be listed. Remedy: name one URL, or mark the host `local: true` in policies/hosts/{known[name]}.yaml."
            )
    for name, currency in settings.currency.items():
        billed = {card.currency for card in policies.prices.cards() if card.host == known[name]}
        if currency not in billed:
            remedy = " or ".join(sorted(billed))
            raise SettingsError(f"FAREGATE_CURRENCY_{name}={currency}: no price of {known[name]} is in it. Remedy: set it to {remedy}.")


def _account(settings: Settings, host: Host) -> Account | None:
    """How a host is reached, or None where something is missing for it: `needs` says what."""
    try:
        found = account_for(host, settings)
    except UnusableKey as error:
        raise SettingsError(str(error)) from None
    return found if isinstance(found, Account) else None


def _upstream(settings: Settings) -> Switchboard:
    endpoint = next(iter(settings.base_urls_of("bedrock")), None)
    worker = worker_for(settings.upstream_key, settings.litellm_python, endpoint, settings.timeout_connect, settings.timeout_total)
    return Switchboard(HttpUpstream(settings.timeout_connect), LitellmUpstream(worker) if worker else None)
