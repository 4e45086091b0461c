"""Dockerfile, Compose file and what it mounts: checked by the real checkers, and played by the processes themselves.

No container engine is here, so no image was ever built: docs/install.md says so. What can be run without one is run: the secrets that are
made, Redis under the rights that it is given, the demonstration's own commands.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from compose.make_secrets import REDIS_COMMANDS
from compose.make_secrets import main as make_secrets
from gateway.settings import load
from tests.chart import ROOT, checker
from tests.harness import LiveGateway, Process, environment, post
from tests.replicas import team_of
from tests.scripted import until
from tests.servers import RedisServer, free_port, program

COMPOSE = ROOT / "docker-compose.yml"
PROFILES = ((), ("demo",), ("local",), ("demo", "local"))
# They end when they have done what they are for, or nobody waits for them.
WITHOUT_HEALTH = {"secrets", "demo-traffic"}


def run(name: str, *words: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in environment().items() if not name.startswith(("COMPOSE_", "PUBLIC_"))}
    return subprocess.run([str(checker(name)), *words], cwd=folder, env=plain, capture_output=True, text=True, check=False)


@cache
def resolved() -> dict[str, Any]:
    """The Compose file as Compose reads it, every profile on and without a .env of the developer's."""
    done = run("docker-compose", "--env-file", os.devnull, "--profile", "*", "-f", str(COMPOSE), "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = resolved()["services"]
    return found


# ---- the image


def test_hadolint_finds_nothing() -> None:
    done = run("hadolint", "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python:latest\nRUN cd /tmp && pip install x\nCMD faregate serve\n")
    done = run("hadolint", "Dockerfile", folder=tmp_path)
    assert done.returncode != 0 and "DL3007" in done.stdout


def stages() -> dict[str, list[str]]:
    """The instructions of each stage, continuation lines joined, comments left out."""
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", (ROOT / "Dockerfile").read_text()))
    found: dict[str, list[str]] = {}
    name = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        if match := re.match(r"FROM \S+ AS (\S+)", line):
            name = match[1]
        found.setdefault(name, []).append(line)
    return found


def test_everything_that_is_installed_has_a_hash_or_is_ours() -> None:
    commands = [part.strip() for lines in stages().values() for line in lines for part in re.split(r"&&|^RUN", line)]
    installing = [part for part in commands if re.search(r"\b(pip install|pip sync)\b", part)]
    assert len(installing) >= 5
    assert [part for part in installing if "--require-hashes" not in part and "--no-deps --no-index" not in part] == []


@pytest.mark.parametrize("stage", ["gateway", "engine"])
def test_an_image_runs_as_nobody_in_particular(stage: str) -> None:
    lines = stages()[stage]
    assert "USER 10001:10001" in lines and "STOPSIGNAL SIGTERM" in lines
    assert [line for line in lines if re.match(r"(ENTRYPOINT|CMD) (?!\[)", line)] == []
    health = next(line for line in lines if line.startswith("HEALTHCHECK"))
    assert "--start-interval=" in health and 'CMD ["python"' in health
    # Only environments, the model and the policies reach the image: no pip cache, no source, no compiler.
    copied = [line.split()[-1] for line in lines if line.startswith("COPY")]
    assert set(copied) <= {"/opt/faregate", "/opt/engine", "/opt/model", "/etc/faregate/policies"}


def test_the_gateway_s_image_is_the_default() -> None:
    assert list(stages())[-1] == "gateway"
    labels = next(line for line in stages()["gateway"] if line.startswith("LABEL"))
    assert {"title", "licenses", "version", "revision"} <= set(re.findall(r"org\.opencontainers\.image\.(\w+)=", labels))


def test_what_the_build_copies_is_there_and_nothing_else_can_be_copied() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    lines = [line for part in stages().values() for line in part]
    copied = {word for line in lines if line.startswith("COPY") and "--from" not in line for word in line.split()[1:-1]}
    bound = set(re.findall(r"type=bind,source=([^,\s]+)", "\n".join(lines)))
    assert copied | bound == sent and all((ROOT / name).exists() for name in sent)
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_the_wheel_of_the_image_holds_what_the_package_reads(tmp_path: Path) -> None:
    """The command of the build stage; queries, scripts, pages and policies are files beside the code."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "policies", "gateway"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "wheel")]
    assert any("-m hatchling build -t wheel" in line for line in stages()["build"])
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        held = set(packed.namelist())
    ours = {file for file in (ROOT / "gateway").rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    assert sorted(str(file.relative_to(ROOT)) for file in ours if str(file.relative_to(ROOT)) not in held) == []
    policies = {file for file in (ROOT / "policies").rglob("*.yaml")}
    assert {f"gateway/_policies/{file.relative_to(ROOT / 'policies')}" for file in policies} <= held


# ---- the Compose file


@pytest.mark.parametrize("profiles", PROFILES, ids="+".join)
def test_compose_takes_the_file(profiles: tuple[str, ...]) -> None:
    words = [word for profile in profiles for word in ("--profile", profile)]
    done = run("docker-compose", "--env-file", os.devnull, *words, "config", "-q")
    assert (done.returncode, done.stderr) == (0, "")


def test_compose_takes_the_example_of_an_env_file(tmp_path: Path) -> None:
    shutil.copy(COMPOSE, tmp_path / "docker-compose.yml")
    lines = (ROOT / ".env.example").read_text().splitlines()
    set_here = [line.removeprefix("# ") for line in lines if re.match(r"# [A-Z_]+=", line)]
    (tmp_path / ".env").write_text("\n".join(set_here))
    done = run("docker-compose", "config", "--format", "json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)["services"]["gateway"]["environment"]
    # What the file sets itself wins over the line of the same name.
    assert (got["FAREGATE_HOST"], got["FAREGATE_SECRETS"], got["FAREGATE_DRAIN"]) == ("0.0.0.0", "/run/secrets", "600")
    assert got["FAREGATE_CURRENCY_DEEPSEEK"] == "CNY" and got["FAREGATE_LOG_LEVEL"] == "info"


def test_compose_would_refuse_a_misspelt_key(tmp_path: Path) -> None:
    (tmp_path / "docker-compose.yml").write_text(COMPOSE.read_text().replace("mem_limit: 1g", "memory_limit: 1g"))
    assert run("docker-compose", "config", "-q", folder=tmp_path).returncode != 0
    assert run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml", folder=tmp_path).returncode != 0


def test_the_file_keeps_the_specification_of_compose() -> None:
    done = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE))
    assert done.returncode == 0, done.stdout


def test_the_services_are_those_of_the_profiles() -> None:
    by_profile: dict[str, set[str]] = {}
    for name, service in services().items():
        for profile in service.get("profiles", [""]):
            by_profile.setdefault(profile, set()).add(name)
    assert by_profile == {
        "": {"secrets", "gateway", "postgres", "redis", "prometheus", "grafana"},
        "demo": {"emulator", "emulator-novita", "demo", "demo-traffic"},
        "local": {"engine"},
    }


def test_only_the_public_port_and_grafana_are_published_and_only_here() -> None:
    published = {name: [(port["host_ip"], port["target"]) for port in one.get("ports", [])] for name, one in services().items()}
    assert {name: ports for name, ports in published.items() if ports} == {
        "gateway": [("127.0.0.1", 8080)],
        "grafana": [("127.0.0.1", 3000)],
    }


def test_every_service_is_confined() -> None:
    for name, service in services().items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and service["mem_limit"] and service["pids_limit"], name
        image = service["image"]
        assert ":" in image and not image.endswith(":latest"), name
        assert "privileged" not in service and service.get("network_mode") in (None, "none"), name
        if name not in WITHOUT_HEALTH:
            assert service["healthcheck"]["test"][0] == "CMD" and service["healthcheck"]["start_interval"], name


def test_only_who_must_reaches_the_world() -> None:
    inside = {name for name, network in resolved()["networks"].items() if network.get("internal")}
    outside = {name: set(service.get("networks", {})) - inside for name, service in services().items()}
    assert {name: networks for name, networks in outside.items() if networks} == {"gateway": {"edge"}, "grafana": {"view"}}
    met = {name: set(service.get("networks", {})) for name, service in services().items()}
    # Neither Grafana nor the demonstration can speak to a store; nobody but the gateway can speak to the engine.
    assert not met["grafana"] & (met["postgres"] | met["redis"] | met["gateway"])
    assert not met["demo"] & met["postgres"] and not met["prometheus"] & met["postgres"]


def test_what_is_mounted_exists_and_cannot_be_written() -> None:
    declared, used = set(resolved()["volumes"]), set()
    for name, service in services().items():
        for volume in service.get("volumes", []):
            if volume["type"] == "bind":
                assert Path(volume["source"]).exists() and volume["read_only"] is True, (name, volume["source"])
            else:
                used.add(volume["source"])
                assert name == "secrets" or volume.get("read_only") is ("secrets" in volume["source"] or None), (name, volume)
    assert used == declared


def test_nothing_secret_stands_in_an_environment() -> None:
    """The demonstration's keys open nothing else, and say so."""
    for name, service in services().items():
        for variable, value in (service.get("environment") or {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|KEY|LEDGER|REDIS", variable) and name != "demo":
                assert value.startswith("/run/secrets"), (name, variable)
    demo = services()["demo"]["environment"]
    assert all("demo-" in pair for pair in demo["FAREGATE_KEYS"].split(","))
    assert all(value.startswith("emulated-") for variable, value in demo.items() if variable.endswith("_API_KEY"))


def test_the_demonstration_has_a_ledger_of_its_own() -> None:
    """Money that is not real never stands beside money that is."""
    mine, theirs = ({volume["source"] for volume in services()[name]["volumes"]} for name in ("demo", "gateway"))
    assert mine and theirs and not mine & theirs
    assert "FAREGATE_LEDGER" not in services()["demo"]["environment"]


def test_what_waits_waits_for_something_that_tells() -> None:
    for name, service in services().items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "test" in services()[other]["healthcheck"], (name, other)


# ---- what it mounts


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    text = (ROOT / "compose" / "prometheus.yml").read_text()
    config = yaml.safe_load(text)
    (pattern,) = config["rule_files"]
    mounted = {volume["target"]: Path(volume["source"]) for volume in services()["prometheus"]["volumes"] if volume["type"] == "bind"}
    rules = mounted[str(Path(pattern).parent)]
    assert list(rules.glob(Path(pattern).name))
    file = tmp_path / "prometheus.yml"
    file.write_text(text.replace(pattern, f"{rules}/*.yaml"))
    done = subprocess.run([program("promtool", "prometheus"), "check", "config", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


def test_what_prometheus_asks_is_a_service_on_a_network_of_its_own() -> None:
    config = yaml.safe_load((ROOT / "compose" / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    targets = {
        "faregate": jobs["faregate"]["static_configs"][0]["targets"],
        "faregate-demo": [f"{jobs['faregate-demo']['dns_sd_configs'][0]['names'][0]}:{jobs['faregate-demo']['dns_sd_configs'][0]['port']}"],
    }
    assert targets == {"faregate": ["gateway:8081"], "faregate-demo": ["demo:8081"]}
    for target in ("gateway", "demo"):
        assert "scrape" in services()[target]["networks"] and "scrape" in services()["prometheus"]["networks"]


def test_grafana_finds_its_data_source_and_dashboards() -> None:
    mounted = {volume["target"]: Path(volume["source"]) for volume in services()["grafana"]["volumes"] if volume["type"] == "bind"}
    (source,) = yaml.safe_load((mounted["/etc/grafana/provisioning/datasources"] / "prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((mounted["/etc/grafana/provisioning/dashboards"] / "faregate.yaml").read_text())["providers"]
    assert source["url"] == "http://prometheus:9090" and source["isDefault"] is True
    scraped = yaml.safe_load((ROOT / "compose" / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped
    # One by one: Grafana looks into folders of folders, and takes every JSON there for a dashboard.
    boards = {target: file for target, file in mounted.items() if target.startswith(provider["options"]["path"])}
    assert sorted(boards.values()) == sorted((ROOT / "dashboards").glob("*.json")) and len(boards) >= 5
    assert all(target.endswith("/" + file.name) for target, file in boards.items())
    assert len({json.loads(file.read_text())["uid"] for file in boards.values()}) == len(boards)
    assert services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] in boards


# ---- secrets


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path]:
    """(the operator's own folder, the folder of volumes), as Compose hands them over."""
    own, volumes = tmp_path / "own", tmp_path / "made"
    own.mkdir()
    mounts = [Path(volume["target"]) for volume in services()["secrets"]["volumes"] if volume["type"] == "volume"]
    assert {mount.parent for mount in mounts} == {Path("/made")}
    for mount in mounts:
        (volumes / mount.name).mkdir(parents=True)
    return own, volumes


def contents(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_secrets_are_made_once_and_fit_together(made: tuple[Path, Path]) -> None:
    own, volumes = made
    make_secrets(own, volumes)
    first = contents(volumes)
    make_secrets(own, volumes)
    assert contents(volumes) == first
    found = load({"FAREGATE_SECRETS": str(volumes / "gateway")}, None)
    assert found.ledger_address == f"postgresql://faregate:{first['postgres/password'].strip()}@postgres/faregate"
    assert found.redis is not None and first["redis/password"].strip() in found.redis.get_secret_value()
    assert found.admin_token and found.key_pepper and found.store_key and [entry.team for entry in found.keys] == ["first"]
    values = [text.strip() for name, text in first.items() if re.search(r"password|/\.", name)]
    assert len(set(values)) == len(values) >= 7 and all(len(value) == 64 for value in values)
    # Services run as users of their own, each in a volume that it has for itself.
    assert {file.stat().st_mode & 0o777 for file in volumes.rglob("*") if file.is_file()} == {0o444}


def test_own_secrets_are_copied_and_replace_what_was_made(made: tuple[Path, Path]) -> None:
    own, volumes = made
    make_secrets(own, volumes)
    before = contents(volumes)
    (own / "DEEPSEEK_API_KEY").write_text("sk-mine\n")
    (own / "FAREGATE_ADMIN_TOKEN").write_text("a-token-of-my-own")
    (own / "FAREGATE_KEYS").write_text("")
    (own / "README.md").write_text("not a secret")
    make_secrets(own, volumes)
    found = load({"FAREGATE_SECRETS": str(volumes / "gateway")}, None)
    key = found.upstream_key("DEEPSEEK_API_KEY")
    assert key is not None and key.get_secret_value() == "sk-mine" and found.keys == ()
    assert found.admin_token is not None and found.admin_token.get_secret_value() == "a-token-of-my-own"
    assert not (volumes / "gateway" / "README.md").exists()
    for file in own.iterdir():
        file.unlink()
    make_secrets(own, volumes)
    assert contents(volumes) == before


def test_an_own_secret_that_did_not_change_keeps_its_date(made: tuple[Path, Path]) -> None:
    """The gateway reads a host's key again when the date of its file changes."""
    own, volumes = made
    (own / "DEEPSEEK_API_KEY").write_text("sk-mine")
    make_secrets(own, volumes)
    file = volumes / "gateway" / "DEEPSEEK_API_KEY"
    inode = file.stat().st_ino
    make_secrets(own, volumes)
    assert file.stat().st_ino == inode
    (own / "DEEPSEEK_API_KEY").write_text("sk-other")
    make_secrets(own, volumes)
    assert (file.stat().st_ino, file.read_text()) != (inode, "sk-mine\n")


def test_redis_may_do_what_the_scripts_do_and_no_more() -> None:
    called = set()
    for file in (ROOT / "gateway").rglob("*.lua"):
        called |= {name.lower() for name in re.findall(r"redis\.p?call\(\s*['\"](\w+)", file.read_text())}
    assert len(called) > 8 and sorted(called - {word.removeprefix("+") for word in REDIS_COMMANDS.split()}) == []


@pytest.fixture
def guarded_redis(made: tuple[Path, Path], tmp_path: Path) -> Iterator[tuple[RedisServer, str]]:
    """(Redis with the Compose file's own options and users, the gateway's password); a user `watcher` of the test's may do everything."""
    own, volumes = made
    make_secrets(own, volumes)
    users = volumes / "redis" / "users.acl"
    users.chmod(0o600)
    users.write_text(users.read_text() + "user watcher on nopass allkeys allchannels allcommands\n")
    folder = tmp_path / "redis"
    folder.mkdir()
    here = {"/run/secrets/users.acl": str(users), "/tmp": str(folder)}
    server = RedisServer(folder, *(here.get(word, word) for word in services()["redis"]["command"][1:]))
    server.start()
    try:
        yield server, (volumes / "redis" / "password").read_text().strip()
    finally:
        server.stop()


def redis_says(server: RedisServer, user: tuple[str, str] | None, *words: str) -> str:
    who = ["--no-auth-warning", "--user", user[0], "--pass", user[1]] if user else []
    command = [program("redis-cli", "redis-tools"), "-p", str(server.port), *who, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_gateway_lives_with_the_rights_that_redis_gives_it(guarded_redis: tuple[RedisServer, str], tmp_path: Path) -> None:
    server, secret = guarded_redis
    policies = shutil.copytree(ROOT / "policies", tmp_path / "policies")
    (policies / "teams").mkdir()
    (policies / "teams" / "search.yaml").write_text(json.dumps(team_of("search", limits={"requests_per_minute": 100, "concurrent": 4})))
    settings = {
        "FAREGATE_REDIS": f"redis://faregate:{secret}@127.0.0.1:{server.port}/0",
        "FAREGATE_STORE_KEY": "a-store-key-of-the-test",
        "FAREGATE_POLICIES": str(policies),
    }
    watcher = ("watcher", "any")
    with LiveGateway(tmp_path, settings=settings) as live:
        said = {"role": "user", "content": "Long enough to be kept. " * 500 + "[[answer=5]]"}
        assert live.chat({"model": "deepseek-flash", "stream": True, "messages": [said]})[0] == 200
        wanted = [f'faregate_redis_calls_total{{op="{op}",outcome="ok"}}' for op in ("admit", "finish", "probe", "recall_keep")]
        until("a good call of each kind", lambda: all(call in live.metrics() for call in wanted))
        until("news told to others", lambda: "cmdstat_publish:calls=" in redis_says(server, watcher, "INFO", "commandstats"))
        channels = redis_says(server, watcher, "PUBSUB", "CHANNELS").split()
        assert channels and all(channel.startswith("faregate:") for channel in channels)
    # Redis notes everything that it refused.
    assert redis_says(server, watcher, "ACL", "LOG") == ""
    gateway = ("faregate", secret)
    for refused in (["FLUSHALL"], ["CONFIG", "GET", "*"], ["GET", "someone-else"], ["ACL", "LIST"], ["PUBLISH", "elsewhere", "x"]):
        assert "NOPERM" in redis_says(server, gateway, *refused), refused
    # The health check of the Compose file has no password, and may do nothing else.
    assert redis_says(server, None, "ping") == "PONG"
    assert "NOPERM" in redis_says(server, None, "GET", "faregate:probe")


# ---- the demonstration


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The admin URL of the profile's gateway: its own commands and environment, its names and folders replaced by those of this machine."""
    folder = tmp_path_factory.mktemp("demo")
    ports = {"emulator": free_port(), "emulator-novita": free_port()}
    running: list[Process] = []
    try:
        for name, port in ports.items():
            words = [str(port) if word == "9001" else "127.0.0.1" if word == "0.0.0.0" else word for word in services()[name]["command"]]
            # The last word wins: answers come at once here.
            words += ["--first-token", "0", "--pace", "1000000", "--vocabulary", "fast"]
            running.append(Process([sys.executable, "-m", "gateway", *words], environment(), folder / f"{name}.log"))
        for process in running:
            process.wait_for("base_url")
        variables = services()["demo"]["environment"]
        for name in sorted(ports, key=len, reverse=True):
            variables = {key: value.replace(f"http://{name}:9001", f"http://127.0.0.1:{ports[name]}") for key, value in variables.items()}
        policies = folder / "policies"
        shutil.copytree(ROOT / "policies", policies)
        teams = next(volume["source"] for volume in services()["demo"]["volumes"] if volume["target"].endswith("/teams"))
        shutil.copytree(teams, policies / "teams")
        variables |= {"FAREGATE_POLICIES": str(policies), "FAREGATE_DATA": str(folder / "data"), "FAREGATE_LOG_FORMAT": "text"}
        variables |= {"FAREGATE_PORT": "0", "FAREGATE_ADMIN_PORT": "0"}
        gateway = Process([sys.executable, "-m", "gateway", "serve"], environment(**variables), folder / "gateway.log")
        running.append(gateway)
        said = gateway.wait_for("serving on ")
        data, admin = re.findall(r"http://[\d.]+:\d+", said)
        traffic = ROOT / "compose" / "demo_traffic.py"
        words = [sys.executable, str(traffic), f"{data}/v1", "--pause", "0", "--requests", "12", "--seed", "3"]
        (folder / "traffic.log").write_text(subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout)
        yield f"{admin} {(folder / 'traffic.log').read_text()}"
    finally:
        for process in reversed(running):
            process.close()


def test_the_demonstration_needs_no_key_and_fills_the_dashboards(demonstration: str) -> None:
    admin, _, said = demonstration.partition(" ")
    counts = json.loads(said.splitlines()[-1])
    assert counts["requests"] == 12 and counts["by_status"].get("200", 0) >= 8 and set(counts["by_status"]) <= {"200", "402", "404"}
    with urllib.request.urlopen(f"{admin}/metrics", timeout=10) as answer:
        metrics = answer.read().decode()
    spent = re.findall(r'faregate_spend_total\{[^}]*team="(\w+)"[^}]*\} ([0-9.e-]+)', metrics)
    assert {team for team, amount in spent if float(amount) > 0} == {"search", "support", "batch"}
    assert len(set(re.findall(r'faregate_budget_limit\{[^}]*budget="(\w+)"', metrics))) == 2
    # Without an admin token, the admin API does not exist.
    assert post(f"{admin}/admin/v1/reload", b"", {})[0] == 404
