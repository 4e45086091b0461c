"""What installs the gateway names the settings, ports, paths and versions that it really has: a table of each, compared with the others."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from pydantic import ByteSize

from gateway.app import SETTLE_WITHIN
from gateway.families import FAMILIES
from gateway.policies import default_folder
from gateway.policies import load as load_policies
from gateway.settings import PREFIX, Settings, load, variable_name
from tests.chart import CHART, ROOT, Helm, Object, container, environment_of, only, pod
from tests.harness import LiveGateway
from tests.test_install_files import services

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
CHART_FILE = yaml.safe_load((CHART / "Chart.yaml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
GROUPS = {"base_url", "currency"}

# Settings that are no value under `settings` of the chart, and why.
NOT_IN_THE_CHARTS_SETTINGS = {
    "host": "both ports listen on `listen`",
    "admin_host": "both ports listen on `listen`",
    "port": "the container's ports are fixed; the Services' are values",
    "admin_port": "the container's ports are fixed; the Services' are values",
    "data": "a volume is mounted there",
    "policies": "`policies` lays files over the shipped ones there",
    "secrets": "the chart mounts them there",
    "admin_token": "a secret",
    "keys": "a secret",
    "key_pepper": "a secret",
    "store_key": "a secret",
    "ledger": "a secret: `ledger`",
    "redis": "a secret: `redis`",
    "litellm_python": "the image has no litellm; an image of your own sets it by extraEnv",
    "clock": "for demonstrations alone, by extraEnv",
}
# Settings that docker-compose.yml fixes, so that a line of .env has no effect, and why. Every other one is taken from .env.
FIXED_BY_COMPOSE = {
    "host": "a container listens for its network",
    "admin_host": "a container listens for its network",
    "port": "PUBLIC_PORT is the one outside",
    "admin_port": "what Prometheus asks",
    "data": "the volume",
    "policies": "the folder of the checkout, mounted",
    "secrets": "the volume that the service `secrets` fills",
}


def variable(name: str) -> str:
    return PREFIX + name.upper()


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


@pytest.fixture(scope="module")
def objects() -> Iterator[list[Object]]:
    """The chart with everything that it can watch."""
    helm = Helm()
    yield helm.objects({"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}})
    helm.close()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGateway]:
    with LiveGateway(tmp_path_factory.mktemp("drift")) as started:
        yield started


@cache
def env_example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    pairs = (re.fullmatch(r"# ([A-Z][A-Z0-9_]*)=(.*)", line) for line in lines)
    return {pair[1]: pair[2] for pair in pairs if pair}


# ---- settings


def test_every_setting_is_a_value_of_the_chart_or_there_is_a_reason() -> None:
    in_chart = set(VALUES["settings"])
    wanted = {camel(name) for name in Settings.model_fields if name not in NOT_IN_THE_CHARTS_SETTINGS}
    assert in_chart == wanted
    assert set(NOT_IN_THE_CHARTS_SETTINGS) <= set(Settings.model_fields)


def test_the_chart_s_defaults_are_the_gateway_s_own() -> None:
    defaults = Settings()
    for name in Settings.model_fields:
        if name in NOT_IN_THE_CHARTS_SETTINGS or name == "drain":
            continue
        own, theirs = getattr(defaults, name), VALUES["settings"][camel(name)]
        if isinstance(own, ByteSize):
            theirs = load({variable(name): theirs}, None).max_body
        assert own == theirs, name


def test_the_pod_s_variables_are_settings_and_every_setting_is_one_or_there_is_a_reason(objects: list[Object]) -> None:
    given = set(environment_of(objects))
    known = {variable(name) for name in Settings.model_fields}
    assert given <= known
    secret = {name for name, reason in NOT_IN_THE_CHARTS_SETTINGS.items() if reason.startswith("a secret")}
    elsewhere = {name for name, reason in NOT_IN_THE_CHARTS_SETTINGS.items() if reason.endswith("by extraEnv")}
    assert known - given == {variable(name) for name in secret | elsewhere | GROUPS | {"secrets"}}


def test_compose_sets_settings_only() -> None:
    known = {variable(name) for name in Settings.model_fields}
    hosts = {variable_name(name) for name in load_policies(default_folder()).hosts}
    keys = {host.key for host in load_policies(default_folder()).hosts.values()}
    for service in ("gateway", "demo"):
        for name in services()[service]["environment"]:
            host = re.sub(r"^FAREGATE_(BASE_URL|CURRENCY)_", "", name)
            assert name in known or (host != name and host in hosts) or name in keys, name


def test_what_compose_fixes_has_a_reason_and_the_rest_is_taken_from_env() -> None:
    text = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    gateway = text["services"]["gateway"]
    assert gateway["env_file"] == [{"path": ".env", "required": False}]
    fixed = {name for name, value in gateway["environment"].items() if "${" not in value}
    assert fixed == {variable(name) for name in FIXED_BY_COMPOSE}
    for name, value in gateway["environment"].items():
        # One that has a default here is still the operator's to set.
        assert name in fixed or "${" + name in value, name


def test_the_example_of_an_env_file_names_every_setting_and_no_other() -> None:
    ours = {name for name in env_example() if name.startswith(PREFIX)}
    groups = {next(name for name in ours if name.startswith(f"{variable(group)}_")) for group in GROUPS}
    assert ours - groups == {variable(name) for name in Settings.model_fields if name not in GROUPS}


def test_the_example_of_an_env_file_shows_the_defaults() -> None:
    wrong = []
    for name, field in Settings.model_fields.items():
        shown, default = env_example().get(variable(name)), field.default
        if isinstance(default, ByteSize):
            shown, default = str(load({variable(name): shown or ""}, None).max_body), int(default)
        if isinstance(default, str | int | float | Path) and shown != str(default):
            wrong.append(f"{variable(name)}: {shown} is shown, {default} is meant")
    assert wrong == []


def test_what_the_example_says_can_be_loaded() -> None:
    values = {name: value for name, value in env_example().items() if name.startswith(PREFIX) and value and name != "FAREGATE_SECRETS"}
    assert load(values, None).warnings == ()


def test_every_variable_that_compose_reads_is_in_the_example() -> None:
    read = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    assert sorted(read - set(env_example())) == []
    alone = {name for name in env_example() if not name.startswith(PREFIX) and not name.endswith("_API_KEY")}
    assert sorted(alone - read - {"COMPOSE_PROFILES"}) == []


def test_the_docs_of_installing_name_every_variable_that_is_compose_s_alone() -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    alone = {name for name in env_example() if not name.startswith(PREFIX) and not name.endswith("_API_KEY")}
    assert sorted(name for name in alone if not re.search(rf"`{name}\b", page)) == []


# ---- versions


def test_one_version_stands_everywhere() -> None:
    version = PROJECT["version"]
    assert (CHART_FILE["version"], CHART_FILE["appVersion"]) == (version, version)
    assert re.findall(r"ARG VERSION=(\S+)", DOCKERFILE) == [version]
    images = {name: services()[name]["image"] for name in ("gateway", "demo", "emulator", "secrets", "engine")}
    assert set(images.values()) == {f"faregate:{version}", f"faregate-engine:{version}"}
    assert (env_example()["GATEWAY_IMAGE"], env_example()["ENGINE_IMAGE"]) == (images["gateway"], images["engine"])


def test_the_image_has_a_python_that_the_project_takes() -> None:
    (version,) = re.findall(r"ARG PYTHON=python:(3\.\d+)-slim", DOCKERFILE)
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_the_chart_says_of_itself_what_the_project_does() -> None:
    assert (CHART_FILE["name"], CHART_FILE["description"]) == (PROJECT["name"], PROJECT["description"])
    assert CHART_FILE["annotations"]["artifacthub.io/license"] == PROJECT["license"]


# ---- ports, paths and users


def test_the_ports_are_the_same_everywhere(objects: list[Object]) -> None:
    defaults = Settings()
    both = (defaults.port, defaults.admin_port)
    assert re.findall(r"(?m)^EXPOSE (\d+) (\d+)$", DOCKERFILE) == [tuple(map(str, both))]
    assert tuple(port["containerPort"] for port in container(objects)["ports"]) == both
    set_here = environment_of(objects)
    assert (set_here["FAREGATE_PORT"], set_here["FAREGATE_ADMIN_PORT"]) == tuple(map(str, both))
    compose = services()["gateway"]["environment"]
    assert (compose["FAREGATE_PORT"], compose["FAREGATE_ADMIN_PORT"]) == tuple(map(str, both))
    assert [port["target"] for port in services()["gateway"]["ports"]] == [defaults.port]
    assert (VALUES["service"]["port"], VALUES["adminService"]["port"]) == both


def test_the_docs_enter_containers_that_exist(objects: list[Object]) -> None:
    text = "\n".join(page.read_text() for page in sorted((ROOT / "docs").rglob("*.md")))
    entered = re.findall(r"docker compose exec -T (\S+) (\S+)", text)
    assert entered and all((service in services(), word) == (True, "faregate") for service, word in entered)
    pods = re.findall(r"kubectl -n faregate exec -i (\S+)-0 -c (\S+) -- (\S+)", text)
    assert pods and set(pods) == {("faregate", container(objects)["name"], "faregate")}
    assert only(objects, "StatefulSet")["metadata"]["name"] == "trial-faregate", "a release called faregate is faregate alone"


def test_health_is_asked_where_it_is_answered(objects: list[Object], live: LiveGateway) -> None:
    """On both planes, as probes, health checks and the scrape configurations ask."""
    ports = {"http": live.root, "admin": live.admin_url}
    asked = {(probe["httpGet"]["port"], probe["httpGet"]["path"]) for name, probe in container(objects).items() if name.endswith("Probe")}
    (endpoint,) = only(objects, "ServiceMonitor")["spec"]["endpoints"]
    asked |= {(endpoint["port"], endpoint["path"])}
    checks = [str(services()[name]["healthcheck"]["test"]) for name in ("gateway", "demo")]
    checks += re.findall(r"HEALTHCHECK.*?\n +CMD (\[.*FAREGATE_ADMIN_PORT.*\])", DOCKERFILE)
    paths = {path for check in checks for path in re.findall(r"8081\}?(/\w+)", check)}
    assert paths and len(checks) == 3
    asked |= {("admin", path) for path in paths}
    # Prometheus' own default, which compose/prometheus.yml does not change.
    assert "metrics_path" not in (ROOT / "compose" / "prometheus.yml").read_text()
    asked |= {("admin", "/metrics")}
    for port, path in sorted(asked):
        with urllib.request.urlopen(ports[port] + path, timeout=10) as answer:
            assert answer.status == 200, (port, path)


def test_the_folders_are_the_same_everywhere(objects: list[Object]) -> None:
    image = dict(re.findall(r"(FAREGATE_\w+)=(\S+)", DOCKERFILE))
    compose, chart = services()["gateway"]["environment"], environment_of(objects)
    for name in ("FAREGATE_DATA", "FAREGATE_POLICIES"):
        assert image[name] == compose[name] == chart[name]
    targets = {volume["source"].rpartition("/")[2]: volume["target"] for volume in services()["gateway"]["volumes"]}
    assert targets == {
        "gateway-data": image["FAREGATE_DATA"],
        "gateway-secrets": compose["FAREGATE_SECRETS"],
        "policies": image["FAREGATE_POLICIES"],
    }
    assert {mount["name"]: mount["mountPath"] for mount in container(objects)["volumeMounts"]}["data"] == image["FAREGATE_DATA"]
    assert f"install -d {image['FAREGATE_POLICIES']}/teams" in DOCKERFILE


def test_the_user_is_the_same_everywhere(objects: list[Object]) -> None:
    (user,) = set(re.findall(r"(?m)^USER (\d+):\d+$", DOCKERFILE))
    security = pod(objects)["spec"]["securityContext"]
    assert [str(security[name]) for name in ("runAsUser", "runAsGroup", "fsGroup")] == [user] * 3
    assert f"install -d -o {user} -g {user} -m 0700 /var/lib/faregate" in DOCKERFILE
    assert "user" not in services()["gateway"]


def test_the_engine_is_started_and_asked_as_it_can_be() -> None:
    said = subprocess.run([sys.executable, "-m", "gateway.demo.engine", "--help"], capture_output=True, text=True, check=True).stdout
    words = re.findall(r'(?m)^CMD \["--bind".*\]$', DOCKERFILE)
    (command,) = [json.loads(line.removeprefix("CMD ")) for line in words]
    assert [word for word in command if word.startswith("--") and word not in said] == []
    port = command[command.index("--port") + 1]
    assert re.findall(r"(?m)^EXPOSE (\d+)$", DOCKERFILE) == [port]
    assert services()["gateway"]["environment"]["FAREGATE_BASE_URL_LOCAL"] == f"http://engine:{port}/v1"
    assert set(services()["engine"]["networks"]) <= set(services()["gateway"]["networks"])


# ---- ending


def test_nothing_ends_the_gateway_before_the_longest_stream() -> None:
    compose = services()["gateway"]
    minutes = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", compose["stop_grace_period"])
    assert minutes is not None
    grace = sum(int(part or 0) * unit for part, unit in zip(minutes.groups(), (3600, 60, 1), strict=True))
    drain = int(compose["environment"]["FAREGATE_DRAIN"])
    assert drain >= Settings().timeout_total and grace >= drain + SETTLE_WITHIN
    assert env_example()["STOP_GRACE_PERIOD"] == f"{grace}s"
    # The chart's own arithmetic is held against the same two in test_chart.py; this is the margin that it counts with.
    template = (CHART / "templates" / "_helpers.tpl").read_text()
    (margin,) = re.findall(r"add \(int \.Values\.shutdown\.preStopSeconds\) \(int \(include \"faregate\.drain\" \.\)\) (\d+)", template)
    assert int(margin) >= SETTLE_WITHIN + 5


# ---- what is watched


def rules() -> list[dict[str, Any]]:
    files = sorted((ROOT / "dashboards" / "rules").glob("*.yaml"))
    return [rule for file in files for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


def boards() -> dict[str, dict[str, Any]]:
    return {file.name: json.loads(file.read_text()) for file in sorted((ROOT / "dashboards").glob("*.json"))}


def jobs(objects: list[Object]) -> set[str]:
    """The names of the jobs that scrape gateways."""
    config = yaml.safe_load((ROOT / "compose" / "prometheus.yml").read_text())
    named = {job["job_name"] for job in config["scrape_configs"]} - {"prometheus"}
    (endpoint,) = only(objects, "ServiceMonitor")["spec"]["endpoints"]
    return named | {rule["replacement"] for rule in endpoint["relabelings"] if rule["targetLabel"] == "job"}


def test_rules_and_dashboards_look_for_jobs_that_exist(objects: list[Object]) -> None:
    expressions = [rule["expr"] for rule in rules()]
    patterns = {found for text in expressions for found in re.findall(r'job=~?"([^"$]+)"', text)}
    assert jobs(objects) == {"faregate", "faregate-demo"} and patterns
    for pattern in patterns:
        assert [job for job in jobs(objects) if not re.fullmatch(pattern, job)] == [], pattern


@pytest.mark.parametrize("board", boards())
def test_a_dashboard_finds_its_job_in_what_is_scraped(board: str, live: LiveGateway) -> None:
    variables = {entry["name"]: entry for entry in boards()[board]["templating"]["list"]}
    assert next(entry for entry in variables.values() if entry["type"] == "datasource")["query"] == "prometheus"
    asked = re.search(r"label_values\((\w+), ?job\)", json.dumps(variables["job"]))
    assert asked is not None and asked[1] in {family.name for family in FAMILIES}
    assert f"\n{asked[1]}{{" in live.metrics(), "a gateway that has just started must show it"


def test_the_rules_that_are_mounted_exist() -> None:
    names = {file.name for file in (ROOT / "dashboards" / "rules").glob("*.yaml")}
    assert {"faregate.rules.yaml", "faregate.alerts.yaml"} <= names
