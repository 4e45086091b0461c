"""The doctor finds what was broken, says what to do about it, finds nothing where all is well, and neither pays nor tells a key.

Looks: findings, patient, configuration, credentials, network, hosts, stores, machine, run.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.doctor import run
from gateway.doctor.findings import Finding, ok, report, worst
from gateway.doctor.machine import memory, processor
from gateway.doctor.patient import patient_of, threaded
from gateway.doctor.run import bounded
from gateway.keys.secret import Hasher, stored_pepper
from gateway.keys.sqlite import SqliteKeys
from gateway.policies import Policies, default_folder
from gateway.policies import load as load_policies
from gateway.settings import load
from tests.harness import KEY, LiveGateway
from tests.ledgers import HOLD, ROW, Embedded
from tests.peer_hosts import Authority, Peer, always, models, private, serving
from tests.servers import PostgresServer, RedisServer
from tests.shell import said

# In every key of these tests; nothing that is printed may hold it.
CANARY = "canary-0451"
HOST_KEY = f"sk-{CANARY}-0123456789"
BALANCE = b'{"is_available": true, "balance_infos": [{"currency": "%s", "total_balance": "%s"}]}'
ROUTES = ("deepseek-flash", "deepseek-v4-pro")

Examine = Callable[..., "Report"]


class Report:
    """What the command said: `state(check, subject)` is the worst of the findings that match."""

    def __init__(self, code: int, out: str, err: str) -> None:
        assert CANARY not in out + err, "a key was shown"
        assert err == "", err
        self.code = code
        self.found: dict[str, Any] = json.loads(out)
        self.findings: list[dict[str, Any]] = self.found["findings"]

    def of(self, check: str, subject: str = "") -> list[dict[str, Any]]:
        return [one for one in self.findings if one["check"] == check and subject in one["subject"]]

    def state(self, check: str, subject: str = "") -> str:
        states = {one["state"] for one in self.of(check, subject)}
        return next((state for state in ("failure", "warning", "ok") if state in states), "none")

    def text(self, check: str, subject: str = "") -> str:
        return "\n".join(f"{one['text']} -> {one['remedy']}" for one in self.of(check, subject))


@pytest.fixture(scope="module")
def shipped() -> Policies:
    return load_policies(default_folder())


@pytest.fixture
def examine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], shipped: Policies) -> Examine:
    """What it finds in an empty folder, with these variables and no other of a gateway's.

    By the command where there are words for it; else the same with the shipped policies, which are read only once.
    """
    for name in list(os.environ):
        if name.startswith("FAREGATE_") or name.endswith("_API_KEY"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def examined(*words: str, **variables: str) -> Report:
        usual = {"FAREGATE_KEYS": f"search:{CANARY}-caller", "FAREGATE_PORT": "0", "FAREGATE_ADMIN_PORT": "0"}
        usual |= {"FAREGATE_ADMIN_TOKEN": f"{CANARY}-token"}
        with monkeypatch.context() as patch:
            for name, value in (usual | variables).items():
                patch.setenv(name, value)
            if words not in ((), ("--offline",)):
                return Report(*said(capsys, "doctor", "--json", *words))
            found = asyncio.run(run.examine(patient_of(load(), shipped, default_folder()), offline=bool(words)))
            return Report(int(worst(found) == "failure"), json.dumps(report(found)), "")

    return examined


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with serving(Peer()) as one:
        yield one


def deepseek(peer: Peer, name: str = "") -> dict[str, str]:
    return {"DEEPSEEK_API_KEY": HOST_KEY, "FAREGATE_BASE_URL_DEEPSEEK": f"{peer.root}{name}"}


def good(peer: Peer, name: str, amount: str = "110.00", currency: str = "USD") -> None:
    peer.answers[f"{name}/models"] = private(models(*ROUTES))
    peer.answers[f"{name}/user/balance"] = private(BALANCE % (currency.encode(), amount.encode()))


def test_all_is_well_beside_a_running_gateway(tmp_path_factory: pytest.TempPathFactory, examine: Examine) -> None:
    with LiveGateway(tmp_path_factory.mktemp("live"), settings={"FAREGATE_LOG_REQUESTS": "off"}) as live:
        live.chat({"model": "deepseek-flash", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5})
        before = live.hosts["deepseek"].bill()
        data, admin = live.base_url.split(":")[2].removesuffix("/v1"), live.admin_url.rpartition(":")[2]
        found = examine(
            "--policies",
            str(default_folder()),
            DEEPSEEK_API_KEY="emulated-deepseek",
            FAREGATE_BASE_URL_DEEPSEEK=live.hosts["deepseek"].url,
            FAREGATE_DATA=str(live.folder / "data"),
            FAREGATE_KEYS=f"search:{KEY}",
            FAREGATE_PORT=data,
            FAREGATE_ADMIN_PORT=admin,
        )
        assert (found.code, found.found["ok"], found.found["failures"]) == (0, True, 0), found.found
        assert "a gateway answers" in found.text("port", "FAREGATE_PORT") and "a gateway answers" in found.text("port", "ADMIN")
        assert found.state("ledger", "invariants") == found.state("clock") == found.state("balance") == "ok"
        assert "takes the key" in found.text("http", "deepseek")
        assert live.hosts["deepseek"].bill() == before, "a look was billed"


# name -> (models: with a key, without; the account: with, without) -> the state of the host, and a piece of the text.
ANSWERS: dict[str, tuple[Any, Any, str, str]] = {
    "refused": (always(401), always(401), "failure", "refused (401)"),
    "forbidden": (always(403), always(403), "failure", "refused (403)"),
    "poor": (((402, b""), (401, b"")), always(404), "failure", "no money"),
    "public": (always(200, models(*ROUTES)), always(401), "failure", "refused (401)"),
    "busy": (always(429), always(404), "warning", "too many"),
    "ill": (always(503), always(404), "warning", "it is ill"),
    "bare": (always(404), always(404), "ok", "only a paid request"),
    "open": (always(200, models(*ROUTES)), always(404), "ok", "only a paid request"),
    "good": (private(models(*ROUTES)), always(404), "ok", "takes the key"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_host_is_judged_by_what_it_answers(peer: Peer, examine: Examine, name: str) -> None:
    listed, account, state, piece = ANSWERS[name]
    peer.answers |= {f"/{name}/models": listed, f"/{name}/user/balance": account}
    found = examine(**deepseek(peer, f"/{name}"))
    assert (found.state("http", "deepseek"), found.code) == (state, int(state == "failure"))
    assert piece in found.text("http", "deepseek")


# amount and currency -> the state and a piece of what to do.
MONEY = {
    "enough": ("110.00", "USD", "ok", "110 USD left"),
    "little": ("4.99", "USD", "warning", "Top up"),
    "none": ("0.00", "USD", "failure", "requests are refused"),
    "another": ("110.00", "CNY", "failure", "FAREGATE_CURRENCY_DEEPSEEK=CNY"),
    "strange": ("a lot", "USD", "warning", "cannot be read"),
}


@pytest.mark.parametrize("name", MONEY)
def test_the_account_is_judged_by_what_is_left(peer: Peer, examine: Examine, name: str) -> None:
    amount, currency, state, piece = MONEY[name]
    good(peer, f"/{name}", amount, currency)
    found = examine(**deepseek(peer, f"/{name}"))
    assert found.state("balance") == state
    assert piece in found.text("balance")


def test_only_what_is_free_is_asked_and_offline_nothing_is(peer: Peer, examine: Examine) -> None:
    good(peer, "/free")
    peer.seen.clear()
    examine("--offline", **deepseek(peer, "/free"))
    assert peer.seen == []
    examine(**deepseek(peer, "/free"))
    assert set(peer.seen) == {"GET /free/models", "GET /free/user/balance"}


def test_a_model_that_the_host_no_longer_lists_is_named(peer: Peer, examine: Examine) -> None:
    peer.answers |= {"/gone/models": private(models("deepseek-flash")), "/gone/user/balance": always(404)}
    found = examine(**deepseek(peer, "/gone"))
    assert found.state("models", "deepseek") == "warning"
    assert "deepseek-v4-pro" in found.text("models") and "deepseek-flash," not in found.text("models")


@pytest.mark.parametrize(("behind", "state"), [(0, "ok"), (20, "warning"), (3600, "failure"), (-20, "warning")])
def test_the_clock_is_compared_with_the_hosts(peer: Peer, examine: Examine, behind: int, state: str) -> None:
    good(peer, "/late")
    peer.slow_clock = timedelta(seconds=behind)
    try:
        found = examine(**deepseek(peer, "/late"))
    finally:
        peer.slow_clock = timedelta()
    assert found.state("clock", "machine") == state
    assert behind == 0 or ("ahead of" if behind > 0 else "behind") in found.text("clock", "machine")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


# days of validity, name, whether the authority is known -> the state and a piece of the text.
CERTIFICATES: dict[str, tuple[float, str, bool, str, str]] = {
    "valid": (60, "localhost", True, "ok", "valid for 60 more days"),
    "ending": (5, "localhost", True, "warning", "valid for 5 more days"),
    "expired": (-1, "localhost", True, "failure", "expired"),
    "of another name": (60, "example.org", True, "failure", "ostname"),
    "of nobody we know": (60, "localhost", False, "failure", "certificate"),
}


@pytest.mark.parametrize("name", CERTIFICATES)
def test_certificates(authority: Authority, examine: Examine, name: str) -> None:
    days, whose, known, state, piece = CERTIFICATES[name]
    with serving(Peer(), authority.certificate(days, whose)) as peer:
        good(peer, "")
        found = examine(**deepseek(peer), **({"SSL_CERT_FILE": str(authority.file)} if known else {}))
    assert found.state("tls", "deepseek") == state
    assert piece in found.text("tls", "deepseek")
    assert (peer.seen == []) == (state == "failure"), "the key was sent to who could not say who he is"
    assert found.state("http", "deepseek") == ("none" if state == "failure" else "ok")


def test_hosts_that_cannot_be_reached_are_told_apart_in_bounded_time(examine: Examine, authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
        gone.close()
        keys = {f"{name}_API_KEY": HOST_KEY + name for name in ("NOVITA", "GMI", "NEBIUS", "OPENROUTER")}
        start = time.monotonic()
        found = examine(
            **keys,
            FAREGATE_BASE_URL_NOVITA="https://no-such-host.invalid",
            FAREGATE_BASE_URL_GMI=f"http://127.0.0.1:{port}",
            FAREGATE_BASE_URL_NEBIUS=f"http://127.0.0.1:{silent.getsockname()[1]}",
            FAREGATE_BASE_URL_OPENROUTER=f"https://127.0.0.1:{silent.getsockname()[1]}",
        )
        assert time.monotonic() - start < 7
    assert found.code == 1
    assert {
        name: found.state(check, name) for check, name in (("dns", "novita"), ("tcp", "gmi"), ("http", "nebius"), ("tls", "openrouter"))
    } == {
        "novita": "failure",
        "gmi": "failure",
        "nebius": "failure",
        "openrouter": "failure",
    }
    assert "refused" in found.text("tcp", "gmi") and "no answer within" in found.text("http", "nebius")
    assert all(one["remedy"] for one in found.findings if one["state"] != "ok")


def test_what_does_not_speak_http_is_no_host(examine: Examine, redis_server: RedisServer) -> None:
    base = f"http://127.0.0.1:{redis_server.port}"
    found = examine(DEEPSEEK_API_KEY=HOST_KEY, FAREGATE_BASE_URL_DEEPSEEK=base)
    assert found.state("http", "deepseek") == "failure"


# variables -> (check, subject, state, a piece of text or remedy).
SETTINGS: dict[str, tuple[dict[str, str], tuple[str, str, str, str]]] = {
    "a typo": ({"FAREGATE_PROT": "1"}, ("settings", "FAREGATE_PROT", "warning", "Rename it to FAREGATE_PORT")),
    "no setting at all": ({"FAREGATE_XQJWK": "1"}, ("settings", "FAREGATE_XQJWK", "warning", "Unset it")),
    "no host of that name": ({"FAREGATE_BASE_URL_NOBODY": "http://a"}, ("settings", "FAREGATE_BASE_URL_NOBODY", "failure", "use one of")),
    "a currency without a price": ({"FAREGATE_CURRENCY_DEEPSEEK": "EUR"}, ("settings", "FAREGATE_CURRENCY_DEEPSEEK", "failure", "EUR")),
    "a clock": ({"FAREGATE_CLOCK": "2026-11-20T00:00:00Z"}, ("settings", "FAREGATE_CLOCK", "warning", "real money")),
    "open without a ledger": ({"FAREGATE_LEDGER_DOWN": "open:5"}, ("settings", "FAREGATE_LEDGER_DOWN", "warning", "overspent")),
    "a calendar that has ended": (
        {"FAREGATE_CLOCK": "2028-01-01T00:00:00Z"},
        ("calendar", "cn-public-holidays", "failure", "Add the days"),
    ),
    "a calendar that ends": ({"FAREGATE_CLOCK": "2026-12-01T00:00:00Z"}, ("calendar", "cn-public-holidays", "warning", "30 more days")),
    "no host": ({}, ("routes", "hosts", "failure", "DEEPSEEK_API_KEY")),
    "unverified prices": ({"NOVITA_API_KEY": HOST_KEY}, ("prices", "unverified", "warning", "reconcile")),
    "half a host": ({"AZURE_API_KEY": HOST_KEY}, ("routes", "azure", "failure", "FAREGATE_BASE_URL_AZURE")),
    "a host that needs litellm's worker": (
        {"AWS_ACCESS_KEY_ID": "AKIA0123456789ABCDEF", "AWS_SECRET_ACCESS_KEY": HOST_KEY, "AWS_REGION": "us-east-1"}
        | {"FAREGATE_LITELLM_PYTHON": "/nowhere/python"},
        ("routes", "bedrock", "failure", "litellm"),
    ),
    "a key that cannot be sent": ({"DEEPSEEK_API_KEY": f"{HOST_KEY} {CANARY}"}, ("key", "deepseek", "failure", "the key alone")),
    "a short key": ({"DEEPSEEK_API_KEY": "sk-1"}, ("key", "deepseek", "warning", "4 characters")),
    "another vendor's key": ({"DEEPSEEK_API_KEY": f"gsk_{HOST_KEY}"}, ("key", "deepseek", "warning", "begin with sk-")),
    "a placeholder": ({"DEEPSEEK_API_KEY": "sk-your-key-goes-here"}, ("key", "deepseek", "warning", "placeholder")),
    "a key with quotes": ({"DEEPSEEK_API_KEY": f"'{HOST_KEY}'"}, ("key", "deepseek", "warning", "quotes")),
    "one key twice": ({"DEEPSEEK_API_KEY": HOST_KEY, "NOVITA_API_KEY": HOST_KEY}, ("key", "novita", "warning", "the same as that of")),
    "a key file that is not there": ({"DEEPSEEK_API_KEY": "file:/nowhere/key"}, ("key", "deepseek", "failure", "/nowhere/key")),
    "a folder that cannot be": ({"FAREGATE_DATA": "/etc/hostname/data"}, ("data", "/etc/hostname/data", "failure", "FAREGATE_DATA")),
    "nobody may ask": ({"FAREGATE_KEYS": ""}, ("callers", "stored", "failure", "faregate keys create")),
    "PostgreSQL without a pepper": ({"FAREGATE_LEDGER": "postgresql://u:p@h/d"}, ("settings", "FAREGATE_KEY_PEPPER", "failure", "openssl")),
    "Redis without a key for reasoning": ({"FAREGATE_REDIS": "redis://h"}, ("settings", "FAREGATE_STORE_KEY", "warning", "openssl")),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_what_is_set_wrongly_is_found_without_a_network(examine: Examine, case: str) -> None:
    variables, (check, subject, state, piece) = SETTINGS[case]
    found = examine("--offline", **variables)
    assert found.state(check, subject) == state, found.findings
    assert piece in found.text(check, subject)
    assert found.code == int(any(one["state"] == "failure" for one in found.findings))


def test_settings_and_policies_that_cannot_be_read_are_findings(examine: Examine, tmp_path: Path) -> None:
    found = examine("--policies", str(default_folder()), FAREGATE_ADMIN_PORT="many")
    assert (found.code, found.state("settings", "FAREGATE_ADMIN_PORT")) == (1, "failure")
    folder = tmp_path / "policies"
    shutil.copytree(Path(__file__).parent.parent / "policies", folder)
    (folder / "routes.yaml").write_text("- rout: x\n")
    found = examine("--policies", str(folder))
    assert found.code == 1 and "routes.yaml:1" in found.text("policies")


def test_a_team_with_a_key_and_without_a_file_is_found(examine: Examine, tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    shutil.copytree(Path(__file__).parent.parent / "policies", folder)
    (folder / "teams").mkdir(exist_ok=True)
    (folder / "teams" / "ads.yaml").write_text('team: ads\nroutes: ["*"]\n')
    found = examine("--offline", "--policies", str(folder))
    assert found.state("callers", "search") == "failure"
    assert "teams/search.yaml" in found.text("callers", "search")


def test_an_engine_that_would_take_everything_is_found(examine: Examine, tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    shutil.copytree(Path(__file__).parent.parent / "policies", folder)
    route = "- {route: both, contract: deepseek-r1-0528, deployments: [local/r1-0528, novita/deepseek/deepseek-r1-0528]%s}\n"
    engine = {"FAREGATE_BASE_URL_LOCAL": "http://127.0.0.1:9", "NOVITA_API_KEY": HOST_KEY}
    for queue, state in (("", "warning"), (", queue: 0", "none")):
        (folder / "routes.yaml").write_text(route % queue)
        assert examine("--offline", "--policies", str(folder), **engine).state("engine", "both") == state


def test_secrets_that_everybody_may_read_are_found(examine: Examine, tmp_path: Path) -> None:
    key = tmp_path / "deepseek-key"
    key.write_text(HOST_KEY)
    (tmp_path / ".env").write_text("FAREGATE_LEASE=30\n")
    for mode, state in ((0o644, "warning"), (0o600, "none")):
        key.chmod(mode)
        (tmp_path / ".env").chmod(mode)
        found = examine("--offline", DEEPSEEK_API_KEY=f"file:{key}")
        assert found.state("key", ".env") == state
        assert found.state("key", "deepseek") == ("warning" if state == "warning" else "ok")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one settled request and the tables of the keys."""
    data = tmp_path_factory.mktemp("ledger") / "data"

    async def make() -> None:
        one = Embedded(data / "ledger.db")
        await one.start()
        await one.hold(HOLD)
        await one.settle(ROW)
        await one.close()
        keys = SqliteKeys(data / "ledger.db", Hasher(stored_pepper(data)).check)
        await keys.start()
        await keys.close()

    asyncio.run(make())
    return data


def sql(statement: str) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        with sqlite3.connect(data / "ledger.db") as db:
            db.execute(statement)
        db.close()

    return change


def broken(data: Path) -> None:
    (data / "ledger.db").write_bytes(b"no database at all, by far too short" * 200)


def pepper(data: Path) -> None:
    one_key(data)
    (data / "key-pepper").write_text("f" * 64)


def one_key(data: Path) -> None:
    sql("INSERT INTO key (digest, id, prefix, name, team, created) VALUES (x'00', 'i', 'fg-', 'n', 't', 0)")(data)


def spooled(data: Path) -> None:
    (data / "spool").mkdir(exist_ok=True)
    with sqlite3.connect(data / "spool" / "ab.db") as db:
        db.execute("CREATE TABLE record (content)")
        db.execute("INSERT INTO record VALUES ('{}')")
    db.close()


# What was done to the data folder -> (check, subject, state, a piece).
STORES: dict[str, tuple[Callable[[Path], None], tuple[str, str, str, str]]] = {
    "nothing": (lambda data: None, ("ledger", "invariants", "ok", "every one holds")),
    "no ledger yet": (lambda data: (data / "ledger.db").unlink(), ("ledger", "ledger.db", "ok", "not there yet")),
    "a newer one": (sql("PRAGMA user_version = 99"), ("ledger", "ledger.db", "failure", "newer")),
    "an older one": (sql("PRAGMA user_version = 1"), ("ledger", "ledger.db", "warning", "Back it up")),
    "no database": (broken, ("ledger", "ledger.db", "failure", "restore")),
    "a charge that was changed": (sql("UPDATE request SET nano = nano + 1"), ("ledger", "invariants", "failure", "do not sum")),
    "one key": (one_key, ("callers", "stored", "ok", "1 key in use, of 1 ever made")),
    "another pepper": (pepper, ("callers", "pepper", "failure", "all are refused")),
    "charges in the spool": (spooled, ("spool", "spool", "warning", "1 record waits")),
}


@pytest.mark.parametrize("case", STORES)
def test_the_embedded_ledger(examine: Examine, ledger: Path, tmp_path: Path, case: str) -> None:
    change, (check, subject, state, piece) = STORES[case]
    data = tmp_path / "data"
    shutil.copytree(ledger, data)
    change(data)
    found = examine("--offline", FAREGATE_DATA=str(data))
    assert found.state(check, subject) == state, found.findings
    assert piece in found.text(check, subject)


def test_postgresql(examine: Examine, postgres_cluster: PostgresServer, postgres_url: str) -> None:
    pepper = {"FAREGATE_KEY_PEPPER": f"{CANARY}-0123456789abcdef"}
    found = examine(FAREGATE_LEDGER=postgres_url, **pepper)
    assert "not there yet" in found.text("ledger", "schema")
    assert (found.state("ledger", "postgresql"), found.state("clock", "database")) == ("ok", "ok")
    # The tests' server runs without: what it would lose is real.
    assert found.state("ledger", "fsync") == "failure"
    gone = postgres_url.rpartition("/")[0] + "/nothing"
    for address in (gone, f"postgresql://u:{CANARY}@127.0.0.1:1/d"):
        found = examine(FAREGATE_LEDGER=address, **pepper)
        assert found.state("ledger", "postgresql") == "failure"
        assert "FAREGATE_LEDGER" in found.text("ledger", "postgresql")


def test_redis(examine: Examine, redis_server: RedisServer) -> None:
    store = {"FAREGATE_STORE_KEY": f"{CANARY}-0123456789abcdef"}
    found = examine(FAREGATE_REDIS=redis_server.url, **store)
    assert {found.state("redis", what) for what in ("server", "memory")} == {"ok"}
    with socket.create_connection(("127.0.0.1", redis_server.port)) as client:
        client.sendall(b"CONFIG SET maxmemory 104857600\r\nCONFIG SET maxmemory-policy noeviction\r\nCONFIG SET requirepass x\r\n")
        client.settimeout(2)
        while client.recv(100).count(b"+OK") < 1:
            continue
    assert permission(examine(FAREGATE_REDIS=redis_server.url, **store)) == "failure"
    found = examine(FAREGATE_REDIS=redis_server.url.replace("redis://", "redis://:x@"), **store)
    assert found.state("redis", "memory") == "warning" and "noeviction" in found.text("redis", "memory")
    redis_server.stop()
    found = examine(FAREGATE_REDIS=redis_server.url.replace("redis://", f"redis://:{CANARY}@"), **store)
    assert (found.state("redis", "server"), found.code) == ("failure", 1)


def permission(found: Report) -> str:
    return found.state("redis", "permission")


def test_a_port_that_another_program_has_is_found(examine: Examine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        found = examine("--offline", FAREGATE_PORT=str(other.getsockname()[1]))
    assert found.state("port", "FAREGATE_PORT") == "failure"
    assert "set FAREGATE_PORT to a free port" in found.text("port", "FAREGATE_PORT")


def test_few_file_descriptors_are_found(examine: Examine) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        found = examine("--offline")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found.state("limits", "descriptors") == "warning"
    assert "about 480 answers at once" in found.text("limits", "descriptors")


MIB = 1 << 20
# memory.max, memory.current of the container (None: no container), MemAvailable in KiB -> the state and a piece.
MEMORIES: dict[str, tuple[str | None, str, int, str, str]] = {
    "a machine": (None, "", 4 * MIB, "ok", "4,096 MiB left"),
    "a full machine": (None, "", 100 * 1024, "warning", "100 MiB left"),
    "a container without a limit": ("max", "5", 4 * MIB, "ok", "4,096 MiB left"),
    "a container": (str(1024 * MIB), str(100 * MIB), 4 * MIB, "ok", "924 MiB left of the 1,024"),
    "a small container": (str(128 * MIB), str(100 * MIB), 4 * MIB, "warning", "28 MiB left of the 128"),
}


@pytest.mark.parametrize("case", MEMORIES)
def test_memory(tmp_path: Path, case: str) -> None:
    most, used, available, state, piece = MEMORIES[case]
    if most is not None:
        (tmp_path / "memory.max").write_text(f"{most}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
    (tmp_path / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable:  {available} kB\n")
    (found,) = memory(tmp_path, tmp_path / "meminfo")
    assert found.state == state and piece in found.text


@pytest.mark.parametrize(("quota", "states"), [("max 100000", []), ("50000 100000", ["warning"]), ("200000 100000", []), (None, [])])
def test_a_part_of_a_core_is_too_little(tmp_path: Path, quota: str | None, states: list[str]) -> None:
    if quota:
        (tmp_path / "cpu.max").write_text(quota)
    assert [found.state for found in processor(tmp_path)] == states


async def test_a_look_that_hangs_or_fails_is_a_finding_and_holds_up_no_other() -> None:
    async def hangs() -> list[Finding]:
        await threaded(lambda: time.sleep(30))
        return []

    async def fails() -> list[Finding]:
        raise RuntimeError(CANARY)

    async def looks() -> list[Finding]:
        return [ok("c", "s", "fine")]

    start = time.monotonic()
    found = await asyncio.gather(bounded("a", "", hangs, 0.05), bounded("b", "x", fails), bounded("c", "s", looks))
    assert time.monotonic() - start < 2
    assert [one[0].state for one in found] == ["failure", "failure", "ok"]
    assert "RuntimeError" in found[1][0].text and CANARY not in str(found)


def test_people_read_one_line_for_each_finding_and_the_remedy_below(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], examine: Examine
) -> None:
    monkeypatch.setenv("FAREGATE_KEYS", "")
    code, out, _ = said(capsys, "doctor", "--offline")
    lines = out.splitlines()
    assert code == 1 and lines[-1].endswith(" ok") and " failure" in lines[-1]
    below = next(number for number, line in enumerate(lines) if line.startswith("failure  routes"))
    assert lines[below + 1].strip().startswith("-> Set DEEPSEEK_API_KEY")


def test_no_name_steers_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str], examine: Examine) -> None:
    _, out, _ = said(capsys, "doctor", "--offline", "--policies", str(tmp_path / "a\x1b[2Jb"))
    assert r"a\x1b[2Jb" in out and all(line.isprintable() for line in out.split("\n"))
