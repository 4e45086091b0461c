"""What the alerts are proved on: gateways, PostgreSQL, Redis, emulated hosts and a Prometheus, all real and all on this machine.

Two gateways share the ledger, each with a policies folder of its own; a third one, started by a cause, has a file and a clock of its own.
"""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

import yaml

from gateway.policies import default_folder
from proofs.alert_rules import shortened, texts
from proofs.fleet import Plan, Replica
from proofs.scrapes import PrometheusServer, config_of
from tests.harness import ADMIN, EmulatedHost, get_json, post, post_json, variable
from tests.servers import PostgresServer, RedisServer

KEY: Final = "alerts-key-0123456789"
TIGHT: Final = "alerts-tight-0123456789"
LEASE: Final = 3
# Which host each cause has to itself, and what is asked there.
MODELS: Final = {
    "deepseek": "deepseek-flash",
    "novita": "deepseek/deepseek-v4-flash",
    "openrouter": "deepseek/deepseek-v4-flash",
    "together": "deepseek-ai/DeepSeek-V4.1-Flash",
    "fireworks": "accounts/fireworks/models/deepseek-v4p1-flash",
    "siliconflow": "deepseek-ai/DeepSeek-V4-Flash",
    "nebius": "deepseek-ai/DeepSeek-V4-Flash",
    "gmi": "deepseek-ai/DeepSeek-V4-Flash",
    "local": "r1",
}
# Billed in CNY here, beside their cards in USD: a folder in which a model has no price at all would not be taken.
TWO_CURRENCIES: Final = ("gmi", "nebius")
# A route that one host alone serves here.
ALONE: Final = "alone"


def name_of(host: str) -> str:
    """The deployment of a host, as a request names it."""
    return f"{host}/{MODELS[host]}"


class Seen(threading.Thread):
    """Which alerts fire, as Prometheus says it several times a second."""

    def __init__(self, server: PrometheusServer) -> None:
        super().__init__(daemon=True)
        self._server, self._over = server, threading.Event()
        self.firing: list[Mapping[str, str]] = []
        self.looks = 0

    def run(self) -> None:
        url = f"http://127.0.0.1:{self._server.port}/api/v1/alerts"
        while not self._over.wait(0.3):
            with suppress(OSError, ValueError):
                found = get_json(url)["data"]["alerts"]
                self.firing = [one["labels"] for one in found if one["state"] == "firing"]
                self.looks += 1

    def fires(self, alert: str, labels: Mapping[str, str]) -> bool:
        wanted = {"alertname": alert, **labels}
        return any(wanted.items() <= found.items() for found in self.firing)

    def stop(self) -> None:
        self._over.set()
        self.join()


@dataclass
class Scene:
    """Everything that runs."""

    folder: Path
    hosts: dict[str, EmulatedHost]
    replicas: list[Replica]
    postgres: PostgresServer
    redis: RedisServer
    prometheus: PrometheusServer
    seen: Seen
    settings: dict[str, str]
    policies: list[Path]
    odd: Replica
    turn: threading.Lock = field(default_factory=threading.Lock)

    # ---- what clients do

    def chat(self, model: str, wish: str = "answer=20", replica: int = 0, key: str = KEY, **fields: Any) -> int:
        """One request; its status, 0 where nothing answers."""
        body = {"model": model, "messages": [{"role": "user", "content": f"Which is greater? [[{wish}]]"}], **fields}
        return self.ask(self.replicas[replica], body, key)

    def ask(self, replica: Replica, body: Mapping[str, Any], key: str = KEY) -> int:
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        try:
            return post(replica.url, json.dumps(body).encode(), headers)[0]
        except OSError:
            return 0

    def aside(self, model: str, wish: str, replica: int = 0, **fields: Any) -> None:
        """One request in a thread of its own, of which nobody waits for the answer."""
        threading.Thread(target=self._quietly, args=(lambda: self.chat(model, wish, replica, **fields),), daemon=True).start()

    @contextmanager
    def traffic(self, ask: Callable[[], object], every: float = 0.1, workers: int = 1) -> Iterator[None]:
        """Ask again and again, beside what is done meanwhile."""
        over = threading.Event()

        def run() -> None:
            while not over.wait(every):
                self._quietly(ask)

        threads = [threading.Thread(target=run, daemon=True) for _ in range(workers)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    @staticmethod
    def _quietly(ask: Callable[[], object]) -> None:
        # A request that was cut is what some of the causes are about.
        with suppress(Exception):
            ask()

    # ---- what hosts do

    def behave(self, host: str, **behaviour: Any) -> None:
        post_json(self.hosts[host].root + "/_emulator/behaviour", behaviour)

    def credit(self, host: str, amount: str) -> None:
        post_json(self.hosts[host].root + "/_emulator/credit", {"amount": amount})

    # ---- what operators do

    def reload(self) -> None:
        """Everything that was parked may be asked again."""
        for replica in self.replicas:
            with suppress(OSError):
                post(f"{replica.admin}/admin/v1/reload", b"", {"authorization": f"Bearer {ADMIN}"})

    @contextmanager
    def edited(self, file: str, change: Callable[[Any], Any], where: Sequence[int] = (0, 1)) -> Iterator[None]:
        """One file of the policies is another one meanwhile; the gateways read it by themselves."""
        paths = [self.policies[number] / file for number in where]
        with self.turn:
            before = [path.read_text() for path in paths]
            for path, text in zip(paths, before, strict=True):
                changed = change(yaml.safe_load(text))
                path.write_text(changed if isinstance(changed, str) else yaml.safe_dump(changed, sort_keys=False))
        try:
            yield
        finally:
            with self.turn:
                for path, text in zip(paths, before, strict=True):
                    path.write_text(text)

    def team(self, name: str, amount: str, where: Sequence[int] = (0, 1)) -> None:
        """The day's budget of a team; its day is at noon or so, wherever that is now."""
        hour = datetime.now(UTC).hour
        zone = f"Etc/GMT{hour - 12:+d}" if hour != 12 else "UTC"
        row = {
            "team": name,
            "routes": ["*"],
            "budgets": [{"budget": "day", "amount": amount, "currency": "USD", "period": "day", "zone": zone}],
        }
        for number in where:
            (self.policies[number] / "teams" / f"{name}.yaml").write_text(json.dumps(row))

    def spent(self, team: str) -> float:
        found = get_json(f"{self.replicas[0].admin}/admin/v1/budgets?team={team}", {"authorization": f"Bearer {ADMIN}"})
        return float(found[0]["spent"]) if found else 0.0

    def until(self, what: str, ready: Callable[[], bool], within: float = 60.0) -> None:
        deadline = time.monotonic() + within
        while not ready():
            if time.monotonic() > deadline:
                raise TimeoutError(what)
            time.sleep(0.1)


@contextmanager
def scene(factor: int) -> Iterator[Scene]:
    """Everything started, and ended afterwards."""
    with ExitStack() as stack:
        folder, place = (Path(mkdtemp(prefix=f"faregate-alerts-{name}-")) for name in ("files", "postgres"))
        for made in (folder, place):
            stack.callback(shutil.rmtree, made, True)
        (folder / "redis").mkdir()
        postgres, redis = PostgresServer(place), RedisServer(folder / "redis")
        for store in (postgres, redis):
            stack.callback(store.kill)
            store.start()
        hosts = _hosts(folder, stack)
        policies = [_policies(folder, number) for number in (1, 2)]
        settings = _settings(hosts, postgres.url(), redis.url)
        replicas = [_replica(number, folder, settings, policies[number - 1]) for number in (1, 2)]
        odd = _odd(folder, settings, policies[0])
        for replica in (*replicas, odd):
            stack.callback(replica.kill)
        for replica in replicas:
            replica.launch()
        for replica in replicas:
            replica.start()
        server = _prometheus(folder, [*replicas, odd], factor)
        stack.callback(server.stop, signal.SIGKILL)
        server.start()
        seen = Seen(server)
        seen.start()
        stack.callback(seen.stop)
        yield Scene(folder, hosts, replicas, postgres, redis, server, seen, settings, policies, odd)


def _hosts(folder: Path, stack: ExitStack) -> dict[str, EmulatedHost]:
    """An emulator for each host, and a second one for the engine of our own; its port is kept, so that it can be started again."""
    (folder / "second").mkdir()
    dear = folder / "dear.yaml"
    dear.write_text(json.dumps(_dear()))

    def start(name: str) -> EmulatedHost:
        more = ["--prices", str(dear)] if name == "openrouter" else []
        if name == "second":
            return EmulatedHost("local", folder / "second", None, "--vocabulary", "fast")
        return EmulatedHost(name, folder, None, "--vocabulary", "fast", *more)

    hosts: dict[str, EmulatedHost] = {}

    def end(name: str) -> None:
        hosts[name].close()

    names = [*MODELS, "second"]
    with ThreadPoolExecutor(len(names)) as pool:
        for name, host in zip(names, pool.map(start, names), strict=True):
            hosts[name] = host
            # By its name: another one may have taken its place.
            stack.callback(end, name)
    return hosts


def _dear() -> list[dict[str, Any]]:
    """What OpenRouter bills in the place of what its cards say: a thousand times as much."""
    prices = {"cache_hit": "100", "cache_miss": "1000", "output": "1000"}
    card = {"card": "dear", "host": "openrouter", "models": [MODELS["openrouter"]], "currency": "USD", "from": "2026-01-01T00:00:00Z"}
    return [{**card, "tier_at": "start", "per_million": prices, "source": "made up", "checked": "2026-01-01"}]


def _policies(folder: Path, number: int) -> Path:
    """The shipped policies with two teams, a route of one host, and holidays that are known for long."""
    policies = folder / f"policies-{number}"
    shutil.copytree(default_folder(), policies)
    (policies / "teams").mkdir(exist_ok=True)
    (policies / "teams" / "wide.yaml").write_text(json.dumps({"team": "wide", "routes": ["*"]}))
    for name in ("tight", "fast"):
        (policies / "teams" / f"{name}.yaml").write_text(json.dumps({"team": name, "routes": ["*"]}))
    routes = policies / "routes.yaml"
    rows = yaml.safe_load(routes.read_text())
    contract = next(row["contract"] for row in _models("siliconflow") if row["model"] == MODELS["siliconflow"])
    rows.append({"route": ALONE, "contract": contract, "deployments": [name_of("siliconflow")]})
    routes.write_text(yaml.safe_dump(rows, sort_keys=False))
    for host in TWO_CURRENCIES:
        prices = policies / "prices" / f"{host}.yaml"
        cards = yaml.safe_load(prices.read_text())
        cards += [{**card, "card": f"{card['card']}-cny", "currency": "CNY"} for card in cards]
        prices.write_text(yaml.safe_dump(cards, sort_keys=False))
    calendar = policies / "calendars" / "cn-public-holidays.yaml"
    row = yaml.safe_load(calendar.read_text())
    calendar.write_text(yaml.safe_dump({**row, "known_until": f"{datetime.now(UTC).year + 2}-12-31"}))
    return policies


def _models(host: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = yaml.safe_load((default_folder() / "hosts" / f"{host}.yaml").read_text())["models"]
    return rows


def _settings(hosts: Mapping[str, EmulatedHost], ledger: str, redis: str) -> dict[str, str]:
    found = {
        "FAREGATE_LEDGER": ledger,
        "FAREGATE_REDIS": redis,
        "FAREGATE_KEYS": f"wide:{KEY},tight:{TIGHT},fast:{TIGHT}-fast",
        "FAREGATE_KEY_PEPPER": "0123456789abcdef0123456789abcdef",
        "FAREGATE_ADMIN_TOKEN": ADMIN,
        "FAREGATE_LEASE": str(LEASE),
        "FAREGATE_LOG_FORMAT": "text",
    }
    for name in MODELS:
        found[f"FAREGATE_BASE_URL_{variable(name)}"] = hosts[name].url
        found[f"{variable(name)}_API_KEY"] = f"emulated-{name}"
    found |= {f"FAREGATE_CURRENCY_{variable(name)}": "CNY" for name in TWO_CURRENCIES}
    found["FAREGATE_BASE_URL_LOCAL"] = f"{hosts['local'].url},{hosts['second'].url}"
    return found


def _replica(number: int, folder: Path, settings: dict[str, str], policies: Path) -> Replica:
    """The first goes on without its ledger and asks hosts for their balance; the second does neither."""
    own = {"FAREGATE_LEDGER_DOWN": "open:1000000", "FAREGATE_BALANCE_POLL": "1"} if number == 1 else {"FAREGATE_BALANCE_POLL": "0"}
    return Replica(number, folder, Plan({}, {}), {**settings, **own, "FAREGATE_POLICIES": str(policies)})


def _odd(folder: Path, settings: dict[str, str], policies: Path) -> Replica:
    """A gateway of its own, whose clock runs an hour in a second."""
    shared = ("FAREGATE_LEDGER", "FAREGATE_REDIS")
    own = {name: value for name, value in settings.items() if name not in shared}
    own |= {"FAREGATE_CLOCK": "2026-11-20T02:00:00Z*3600", "FAREGATE_POLICIES": str(policies), "FAREGATE_BALANCE_POLL": "0"}
    return Replica(3, folder, Plan({}, {}), own)


def _prometheus(folder: Path, replicas: Sequence[Replica], factor: int) -> PrometheusServer:
    rules = []
    for name, text in texts().items():
        rules.append(folder / name)
        rules[-1].write_text(shortened(text, factor))
    targets = {replica.name: f"127.0.0.1:{replica.admin_port}" for replica in replicas}
    return PrometheusServer(folder / "prometheus", config_of(targets, rules=rules))


def again(host: EmulatedHost, name: str, folder: Path) -> EmulatedHost:
    """The same emulated host once more, at the address that it had."""
    port = host.root.rpartition(":")[2]
    return EmulatedHost(name, folder, None, "--vocabulary", "fast", "--port", port)
