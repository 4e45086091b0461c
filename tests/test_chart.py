"""The Helm chart: every example is rendered by real Helm and held against Kubernetes' schemas; what contradicts itself is refused in words.

No cluster is here, so nothing was ever installed: docs/kubernetes.md says so.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.app import SETTLE_WITHIN, on_postgres
from gateway.cli import command
from gateway.policies import default_folder
from gateway.policies import load as load_policies
from gateway.settings import SettingsError, load, variable_name
from helm import generate
from tests.chart import CHART, EXAMPLES, KUBERNETES, Helm, HelmFailed, Object, container, environment_of, only, pod, workload

# Objects of operators: Kubernetes ships no schema of them, so the tests below look at them by themselves.
OPERATORS = {"ServiceMonitor", "PrometheusRule", "HTTPRoute"}
POSTGRES: dict[str, Any] = {"ledger": {"store": "postgresql", "existingSecret": "db"}, "secrets": {"existing": ["faregate"]}}
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


@pytest.fixture(scope="module")
def helm() -> Iterator[Helm]:
    started = Helm()
    yield started
    started.close()


@pytest.fixture(scope="module")
def rendered(helm: Helm) -> dict[str, list[Object]]:
    """The objects of every example."""
    return {name: helm.objects(values) for name, values in EXAMPLES.items()}


def each(rendered: dict[str, list[Object]], kind: str) -> list[tuple[str, Object]]:
    return [(name, one) for name, objects in rendered.items() for one in objects if one["kind"] == kind]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_what_kubernetes_takes(helm: Helm, rendered: dict[str, list[Object]], example: str) -> None:
    problems, unknown = helm.problems(rendered[example], KUBERNETES)
    assert problems == []
    assert set(unknown) <= OPERATORS


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_linted(helm: Helm, example: str) -> None:
    report = helm.ask("lint", values=EXAMPLES[example])
    assert report["errors"] == []
    assert [entry for entry in report["messages"] if entry["severity"] > 1] == []


def test_every_kind_is_rendered_by_some_example(rendered: dict[str, list[Object]]) -> None:
    kinds = {one["kind"] for objects in rendered.values() for one in objects}
    assert kinds == OPERATORS | {
        *("StatefulSet", "Deployment", "Service", "ServiceAccount", "Secret", "ConfigMap", "Pod"),
        *("PodDisruptionBudget", "HorizontalPodAutoscaler", "Ingress", "NetworkPolicy", "CronJob"),
    }


@pytest.mark.parametrize("example", EXAMPLES)
def test_names_are_unique_and_labelled(rendered: dict[str, list[Object]], example: str) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in rendered[example]]
    assert len(set(names)) == len(names)
    for one in rendered[example]:
        assert one["metadata"]["labels"]["app.kubernetes.io/instance"] == "trial", one["metadata"]["name"]


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_pod_is_hardened(rendered: dict[str, list[Object]], example: str) -> None:
    spec = pod(rendered[example])["spec"]
    assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(rendered[example])["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not container(rendered[example])["image"].endswith((":latest", ":"))
    assert {"cpu", "memory"} <= set(container(rendered[example])["resources"]["requests"])


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_is_mounted_exists_and_only_data_and_tmp_can_be_written(rendered: dict[str, list[Object]], example: str) -> None:
    volumes = {volume["name"]: volume for volume in pod(rendered[example])["spec"]["volumes"]}
    volumes |= {claim["metadata"]["name"]: claim for claim in workload(rendered[example])["spec"].get("volumeClaimTemplates", [])}
    mounts = container(rendered[example])["volumeMounts"]
    assert {mount["name"] for mount in mounts} == set(volumes)
    assert {mount["name"] for mount in mounts if not mount.get("readOnly")} == {"data", "tmp"}


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_gateway_takes_its_variables(rendered: dict[str, list[Object]], example: str) -> None:
    """Every variable is a setting, every value a good one, and every host one of the policies."""
    variables = {name: value for name, value in environment_of(rendered[example]).items() if name != "FAREGATE_SECRETS"}
    found = load(variables, None)
    assert found.warnings == ()
    known = {variable_name(name) for name in load_policies(default_folder()).hosts}
    assert set(found.base_url) | set(found.currency) <= known


@pytest.mark.parametrize("example", EXAMPLES)
def test_policies_laid_over_the_shipped_ones_are_good(tmp_path: Path, rendered: dict[str, list[Object]], example: str) -> None:
    """As the mounts of the pod lay them there."""
    folder = shutil.copytree(default_folder(), tmp_path / "policies")
    (folder / "teams").mkdir()
    for mount in container(rendered[example])["volumeMounts"]:
        if mount["name"] == "policies":
            text = only([one for one in rendered[example] if one["metadata"]["name"].endswith("-policies")], "ConfigMap")["data"]
            (folder / mount["mountPath"].removeprefix("/etc/faregate/policies/")).write_text(text[mount["subPath"]])
    policies = load_policies(folder)
    assert set(policies.teams) == {Path(path).stem for path in EXAMPLES[example].get("policies", {}).get("files", {}) if "teams" in path}


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_grace_period_is_longer_than_the_longest_stream(rendered: dict[str, list[Object]], example: str) -> None:
    found = load({name: value for name, value in environment_of(rendered[example]).items() if name != "FAREGATE_SECRETS"}, None)
    grace = pod(rendered[example])["spec"]["terminationGracePeriodSeconds"]
    sleep = container(rendered[example]).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert grace >= sleep + found.drain + SETTLE_WITHIN
    assert found.drain >= found.timeout_total or EXAMPLES[example]["shutdown"]["mayCutStreams"]


CUT = {"timeoutTotal": 100, "drain": 50}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "two on SQLite": ({"replicas": 2}, "SQLite is the ledger of one gateway"),
    "many on SQLite": ({"autoscaling": {"enabled": True}}, "SQLite is the ledger of one gateway"),
    "SQLite on no disk": ({"persistence": {"enabled": False}}, "must outlive its pod"),
    "SQLite with a URL": ({"ledger": {"url": "postgresql://h/d"}}, "are for PostgreSQL"),
    "PostgreSQL nowhere": ({**POSTGRES, "ledger": {"store": "postgresql"}}, "needs its address once"),
    "PostgreSQL twice": ({**POSTGRES, "ledger": {**POSTGRES["ledger"], "url": "postgresql://h/d"}}, "needs its address once"),
    "no pepper": ({"ledger": POSTGRES["ledger"]}, "same FAREGATE_KEY_PEPPER"),
    "a job on SQLite": ({"retention": {"schedule": "@monthly", "existingClaim": "c"}}, "cannot reach a ledger in SQLite"),
    "archives nowhere": ({**POSTGRES, "retention": {"schedule": "@monthly"}}, "name a PersistentVolumeClaim"),
    "no schedule": ({**POSTGRES, "retention": {"schedule": "monthly", "existingClaim": "c"}}, "schedule"),
    "Redis nowhere": ({"redis": {"enabled": True}}, "Redis needs its address once"),
    "streams cut": ({"settings": CUT}, "a rollout would cut it after 50 s"),
    "grace too short": ({"shutdown": {"graceSeconds": 3624}}, "the longest stream needs 3625"),
    "grace too short, streams cut": (
        {"settings": CUT, "shutdown": {"graceSeconds": 74, "mayCutStreams": True}},
        "the longest stream needs 75",
    ),
    "fewest above most": ({**POSTGRES, "autoscaling": {"enabled": True, "maxReplicas": 2}}, "is above"),
    "no share of what": (
        {**POSTGRES, "autoscaling": {"enabled": True}, "resources": {"requests": {"cpu": None}}},
        "resources.requests.cpu",
    ),
    "ingress of no host": ({"ingress": {"enabled": True}}, "ingress.hosts"),
    "route of no gateway": ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs"),
    "ConfigMap to nowhere": ({"policies": {"existingConfigMap": "x"}}, "policies.existingFiles"),
    "a file twice": (
        {"policies": {"files": {"routes.yaml": "x"}, "existingConfigMap": "x", "existingFiles": {"a": "routes.yaml"}}},
        "is in policies.files and in policies.existingFiles",
    ),
    "no way to PostgreSQL": ({**POSTGRES, "networkPolicy": {"enabled": True}}, "could not reach PostgreSQL"),
    "no way to Redis": (
        {"redis": {"enabled": True, "existingSecret": "r"}, "networkPolicy": {"enabled": True}},
        "could not reach Redis",
    ),
    "a variable twice": ({"extraEnv": [{"name": "FAREGATE_TIMEOUT_TOTAL", "value": "9"}]}, "would contradict what the chart sets"),
    "a drain behind the chart's back": ({"extraEnv": [{"name": "FAREGATE_DRAIN", "value": "9"}]}, "would contradict what the chart sets"),
    "a replica twice": ({"settings": {"baseUrl": {"local": "http://a/v1, http://a/v1/"}}}, "names one URL twice"),
    "a latest image": ({"image": {"tag": "latest"}}, "image"),
    "a host's key in a misspelt variable": ({"secrets": {"create": {"deepseek-key": "x"}}}, "invalid propertyName 'deepseek-key'"),
    "zero seconds": ({"settings": {"timeoutIdle": 0}}, "timeoutIdle"),
    "a policies file outside the folder": ({"policies": {"files": {"../x.yaml": "x"}}}, "invalid propertyName '../x.yaml'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_values_that_cannot_work_are_refused_in_words(helm: Helm, case: str) -> None:
    values, words = REFUSED[case]
    with pytest.raises(HelmFailed) as refusal:
        helm.files(values)
    assert words in str(refusal.value)


def levels(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of the objects whose keys the schema lists."""
    if schema.get("additionalProperties") is False:
        yield path
    for name, inner in schema.get("properties", {}).items():
        yield from levels(inner, (*path, name))


def test_a_misspelt_value_is_refused_at_every_level(helm: Helm) -> None:
    paths = list(levels(SCHEMA))
    assert len(paths) > 20
    for path in paths:
        values: dict[str, Any] = {"replicaCount": 1}
        for name in reversed(path):
            values = {name: values}
        with pytest.raises(HelmFailed, match="replicaCount"):
            helm.files(values)


def test_the_schema_knows_every_value_and_no_other() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def differing(schema: dict[str, Any], found: Any, path: str = "") -> list[str]:
        if schema.get("additionalProperties") is not False:
            return []
        own = {name for name in schema["properties"] if name not in ("global", "claims")}
        wrong = [f"{path}{name}" for name in own ^ set(found)]
        return wrong + [one for name in own & set(found) for one in differing(schema["properties"][name], found[name], f"{path}{name}.")]

    assert differing(SCHEMA, values) == []


LOOKS_LIKE_SOMETHING_ELSE = ("true", "null", "0", "1e3", "0x10", "off")


@pytest.mark.parametrize("text", LOOKS_LIKE_SOMETHING_ELSE)
def test_a_name_that_looks_like_a_number_stays_a_name(helm: Helm, text: str) -> None:
    """Unquoted in a template, YAML would make something else of it."""
    name = "on" if text[0].isdigit() else text
    values = {
        "fullnameOverride": name,
        "nameOverride": name,
        "image": {"repository": text, "tag": text, "pullSecrets": [text]},
        "ledger": {"store": "postgresql", "existingSecret": text, "key": text},
        "redis": {"enabled": True, "existingSecret": text, "key": text},
        "secrets": {"existing": [text], "from": {"NULL": {"secret": text, "key": text}}, "create": {"YES": text}},
        "policies": {"files": {"0.yaml": text}, "existingConfigMap": text, "existingFiles": {text: "1.yaml"}, "existingDigest": text},
        "persistence": {"storageClass": text},
        "serviceAccount": {"name": text},
        "priorityClassName": text,
        "retention": {"schedule": "@daily", "existingClaim": text},
        "ingress": {"enabled": True, "className": text, "hosts": [text], "annotations": {text: text}},
        **{each: {text: text} for each in ("commonLabels", "podLabels", "podAnnotations", "nodeSelector")},
        "networkPolicy": {"enabled": True, "ledger": [{"podSelector": {}}], "redis": [{"podSelector": {}}]},
    }
    objects = helm.objects(values, name="0" if text == "0" else "true")
    assert helm.problems(objects, KUBERNETES[-1:])[0] == []
    assert pod(objects)["spec"]["priorityClassName"] == text
    assert sources(objects)[-1] == {"name": text, "items": [{"key": text, "path": "FAREGATE_REDIS"}]}


LARGEST = {"timeoutTotal": 86_400, "drain": 86_400, "maxBody": "1024MiB", "balancePoll": 86_400, "lease": 86_400}
TOO_LARGE = {"timeoutTotal": 86_401, "drain": 86_401, "maxBody": "1025MiB", "balancePoll": 86_401, "lease": 86_401}


@pytest.mark.parametrize("name", LARGEST)
def test_the_schema_ends_where_the_gateway_ends(helm: Helm, name: str) -> None:
    most = helm.objects({"settings": {name: LARGEST[name]}, "shutdown": {"mayCutStreams": True}})
    variable = next(variable for variable in environment_of(most) if variable.removeprefix("FAREGATE_").replace("_", "") == name.upper())
    assert load({variable: environment_of(most)[variable]}, None).warnings == ()
    with pytest.raises(SettingsError):
        load({variable: str(TOO_LARGE[name])}, None)
    with pytest.raises(HelmFailed, match=name):
        helm.files({"settings": {name: TOO_LARGE[name]}})


# ---- secrets


def test_no_secret_is_in_the_environment(rendered: dict[str, list[Object]]) -> None:
    made = only(rendered["trial"], "Secret")["stringData"]
    assert set(made) == {*EXAMPLES["trial"]["secrets"]["create"], "FAREGATE_LEDGER", "FAREGATE_REDIS"}
    others = json.dumps([one for one in rendered["trial"] if one["kind"] != "Secret"])
    assert [name for name, value in made.items() if value in others] == []
    for objects in rendered.values():
        assert not any("valueFrom" in entry for entry in container(objects)["env"])


def sources(objects: list[Object]) -> list[Object]:
    volumes = {volume["name"]: volume for volume in pod(objects)["spec"]["volumes"]}
    return [source["secret"] for source in volumes["secrets"]["projected"]["sources"]] if "secrets" in volumes else []


def test_secrets_of_others_are_files_named_as_variables(rendered: dict[str, list[Object]]) -> None:
    assert sources(rendered["cluster"]) == [
        {"name": "faregate"},
        {"name": "deepseek", "items": [{"key": "token", "path": "DEEPSEEK_API_KEY"}]},
        {"name": "novita", "items": [{"key": "token", "path": "NOVITA_API_KEY"}]},
        {"name": "faregate-db-app", "items": [{"key": "uri", "path": "FAREGATE_LEDGER"}]},
        {"name": "faregate-redis", "items": [{"key": "url", "path": "FAREGATE_REDIS"}]},
    ]
    assert environment_of(rendered["cluster"])["FAREGATE_SECRETS"] == "/run/secrets/faregate"
    assert sources(rendered[""]) == [] and "FAREGATE_SECRETS" not in environment_of(rendered[""])


def test_without_any_secret_the_notes_say_what_to_make(helm: Helm) -> None:
    assert "THERE IS NO SECRET" in helm.files({})["faregate/templates/NOTES.txt"]
    assert "THERE IS NO SECRET" not in helm.files(EXAMPLES["laptop"])["faregate/templates/NOTES.txt"]


# ---- rollouts


def checksum(objects: list[Object]) -> str:
    found: str = pod(objects)["metadata"]["annotations"]["checksum/policies"]
    return found


def test_a_change_of_policies_rolls_the_pods_and_nothing_else_does(helm: Helm) -> None:
    def of(text: str, **more: Any) -> str:
        return checksum(helm.objects({"policies": {"files": {"teams/a.yaml": text}}, **more}))

    assert of("team: a") == of("team: a", podLabels={"x": "y"}) != of("team: b")
    mine = {"existingConfigMap": "mine", "existingFiles": {"a.yaml": "teams/a.yaml"}}
    digests = [checksum(helm.objects({"policies": {**mine, "existingDigest": digest}})) for digest in ("1", "1", "2")]
    assert digests[0] == digests[1] != digests[2]


def test_a_change_of_the_chart_s_secret_rolls_the_pods(helm: Helm) -> None:
    def of(key: str) -> str:
        annotations = pod(helm.objects({"secrets": {"create": {"FAREGATE_KEYS": key}}}))["metadata"]["annotations"]
        found: str = annotations["checksum/secrets"]
        return found

    assert of("a:12345678") == of("a:12345678") != of("a:87654321")
    # Pods are read by many who may not read Secrets: it is no plain digest, by which a short one could be guessed.
    assert of("a:12345678") != sha256(b"FAREGATE_KEYS: a:12345678").hexdigest()


def test_with_volumes_gateways_are_replaced_in_place_and_without_them_the_next_one_comes_first(rendered: dict[str, list[Object]]) -> None:
    kept, light = workload(rendered["cluster"]), workload(rendered["gateway-api"])
    assert (kept["kind"], light["kind"]) == ("StatefulSet", "Deployment")
    assert kept["spec"]["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert light["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    services = {one["metadata"]["name"] for one in rendered["cluster"] if one["kind"] == "Service"}
    assert kept["spec"]["serviceName"] in services


def test_the_probes_are_apart(rendered: dict[str, list[Object]]) -> None:
    for objects in rendered.values():
        found = {name: container(objects)[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
        # What drains refuses new connections on the data port: a look there would kill it.
        assert found["liveness"] == found["startup"] == {"path": "/healthz", "port": "admin"}
        assert found["readiness"] == {"path": "/readyz", "port": "http"}


def test_the_autoscaler_has_the_replicas_to_itself(rendered: dict[str, list[Object]]) -> None:
    scaler = only(rendered["cluster"], "HorizontalPodAutoscaler")["spec"]
    assert "replicas" not in workload(rendered["cluster"])["spec"]
    assert scaler["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "name": workload(rendered["cluster"])["metadata"]["name"],
    }
    assert scaler["metrics"][0]["resource"] == {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}


# ---- the way in


def test_every_selector_finds_the_pods_and_not_the_test(rendered: dict[str, list[Object]]) -> None:
    for objects in rendered.values():
        labels = pod(objects)["metadata"]["labels"]
        others = [only(objects, "Pod"), *(job(one) for one in objects if one["kind"] == "CronJob")]
        selectors = [workload(objects)["spec"]["selector"]["matchLabels"]]
        selectors += [one["spec"]["selector"] for one in objects if one["kind"] == "Service"]
        selectors += [one["spec"]["selector"]["matchLabels"] for one in objects if one["kind"] == "PodDisruptionBudget"]
        selectors += [one["spec"]["podSelector"]["matchLabels"] for one in objects if one["kind"] == "NetworkPolicy"]
        assert all(selector.items() <= labels.items() for selector in selectors)
        assert not any(selector.items() <= other["metadata"]["labels"].items() for selector in selectors for other in others)


def test_nothing_leads_to_the_admin_port_from_outside(rendered: dict[str, list[Object]]) -> None:
    for objects in rendered.values():
        public = next(one for one in objects if one["kind"] == "Service" and not one["metadata"]["name"].endswith("-admin"))
        assert [port["targetPort"] for port in public["spec"]["ports"]] == ["http"]
        admin = next(one for one in objects if one["metadata"]["name"].endswith("-admin"))
        assert (admin["spec"]["type"], [port["targetPort"] for port in admin["spec"]["ports"]]) == ("ClusterIP", ["admin"])
        assert "-admin" not in json.dumps([one for one in objects if one["kind"] in ("Ingress", "HTTPRoute")])


def test_an_ingress_passes_streams_on_and_never_asks_twice(helm: Helm, rendered: dict[str, list[Object]]) -> None:
    notes = only(rendered["cluster"], "Ingress")["metadata"]["annotations"]
    nginx = "nginx.ingress.kubernetes.io/"
    assert (notes[nginx + "proxy-buffering"], notes[nginx + "proxy-next-upstream"]) == ("off", "off")
    assert (int(notes[nginx + "proxy-read-timeout"]), notes[nginx + "proxy-body-size"]) == (3630, "16m")
    own = {"ingress": {"enabled": True, "hosts": ["a.example"], "annotations": {nginx + "proxy-buffering": "on"}}}
    assert only(helm.objects(own), "Ingress")["metadata"]["annotations"][nginx + "proxy-buffering"] == "on"


def test_an_http_route_sets_no_limit_of_time(rendered: dict[str, list[Object]]) -> None:
    route = only(rendered["gateway-api"], "HTTPRoute")
    assert set(route["spec"]) == {"parentRefs", "hostnames", "rules"}
    (rule,) = route["spec"]["rules"]
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}
    public = next(one for one in rendered["gateway-api"] if one["kind"] == "Service")
    assert rule["backendRefs"] == [{"name": public["metadata"]["name"], "port": public["spec"]["ports"][0]["port"]}]


def test_the_network_policy_is_closed(rendered: dict[str, list[Object]]) -> None:
    spec = only(rendered["locked-down"], "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert [(rule["ports"][0]["port"], bool(rule.get("from"))) for rule in spec["ingress"]] == [("http", True), ("admin", True)]
    assert [[port["port"] for port in rule["ports"]] for rule in spec["egress"]] == [[53, 53], [443], [5432], [6379]]
    world = spec["egress"][1]["to"][0]["ipBlock"]
    assert world["cidr"] == "0.0.0.0/0" and "169.254.0.0/16" in world["except"]
    assert all(rule.get("to") for rule in spec["egress"][1:])


# ---- old months


def job(schedule: Object) -> Object:
    """The pod of a CronJob."""
    found: Object = schedule["spec"]["jobTemplate"]["spec"]["template"]
    return found


def test_old_months_are_archived_onto_a_claim_when_it_is_asked_for(rendered: dict[str, list[Object]]) -> None:
    assert [name for name, _ in each(rendered, "CronJob")] == ["cluster"]
    schedule = only(rendered["cluster"], "CronJob")["spec"]
    assert (schedule["schedule"], schedule["timeZone"], schedule["concurrencyPolicy"]) == ("17 3 2 * *", "Etc/UTC", "Forbid")
    spec = job(only(rendered["cluster"], "CronJob"))["spec"]
    (run,), gateway = spec["containers"], container(rendered["cluster"])
    parser = argparse.ArgumentParser()
    verb, *words = run["args"]
    command(verb).add_arguments(parser)
    asked = parser.parse_args(words)
    assert (verb, asked.action, asked.keep, asked.archive, asked.dry_run) == ("ledger", "retain", 13, Path("/archive"), False)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert {mount["name"] for mount in run["volumeMounts"]} == set(volumes)
    assert {mount["mountPath"]: mount["name"] for mount in run["volumeMounts"]}["/archive"] == "archive"
    assert volumes["archive"]["persistentVolumeClaim"] == {"claimName": "faregate-archive"}
    assert (run["image"], run["securityContext"]) == (gateway["image"], gateway["securityContext"])
    assert spec["securityContext"] == pod(rendered["cluster"])["spec"]["securityContext"] and not spec["automountServiceAccountToken"]


def test_the_job_knows_the_ledgers_address_and_no_other_secret(helm: Helm, rendered: dict[str, list[Object]], tmp_path: Path) -> None:
    trial = helm.objects({**EXAMPLES["trial"], "retention": {"schedule": "@monthly", "keep": 24, "existingClaim": "c"}})
    known = {"cluster": ("faregate-db-app", "uri"), "trial": (only(trial, "Secret")["metadata"]["name"], "FAREGATE_LEDGER")}
    for objects, (name, key) in zip((rendered["cluster"], trial), known.values(), strict=True):
        (run,) = job(only(objects, "CronJob"))["spec"]["containers"]
        (secret,) = [one["secret"] for one in job(only(objects, "CronJob"))["spec"]["volumes"] if "secret" in one]
        assert (secret["secretName"], secret["items"]) == (name, [{"key": key, "path": "FAREGATE_LEDGER"}])
        variables = {one["name"]: one["value"] for one in run["env"]}
        assert variables.pop("FAREGATE_SECRETS") == next(one for one in run["volumeMounts"] if one["name"] == "secrets")["mountPath"]
        (tmp_path / "FAREGATE_LEDGER").write_text("postgresql://h/d")
        found = load({**variables, "FAREGATE_SECRETS": str(tmp_path)}, None)
        assert found.warnings == () and on_postgres(found)


# ---- what is watched


def test_prometheus_finds_the_metrics(rendered: dict[str, list[Object]]) -> None:
    monitor = only(rendered["cluster"], "ServiceMonitor")
    assert monitor["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    admin = next(one for one in rendered["cluster"] if one["metadata"]["name"].endswith("-admin"))
    assert monitor["spec"]["selector"]["matchLabels"].items() <= admin["metadata"]["labels"].items()
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["faregate-test"]}
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == (admin["spec"]["ports"][0]["name"], "/metrics")
    public = next(one for one in rendered["cluster"] if one["kind"] == "Service" and one is not admin)
    assert not monitor["spec"]["selector"]["matchLabels"].items() <= public["metadata"]["labels"].items()


def test_two_releases_that_share_a_prometheus_have_a_job_each(helm: Helm) -> None:
    for job in ("faregate", "faregate-staging"):
        found = only(helm.objects({"serviceMonitor": {"enabled": True, "job": job}}), "ServiceMonitor")
        assert {"targetLabel": "job", "replacement": job} in found["spec"]["endpoints"][0]["relabelings"]
    with pytest.raises(HelmFailed, match="job"):
        helm.objects({"serviceMonitor": {"enabled": True, "job": "staging"}})


def test_the_rules_are_those_of_the_project(rendered: dict[str, list[Object]]) -> None:
    found = only(rendered["cluster"], "PrometheusRule")["spec"]["groups"]
    wanted = [yaml.safe_load(file.read_text())["groups"] for file in sorted((generate.ROOT / "dashboards" / "rules").glob("*.yaml"))]
    assert found == [group for groups in wanted for group in groups] and found


def test_the_dashboards_are_those_of_the_project(rendered: dict[str, list[Object]]) -> None:
    maps = [one for one in rendered["cluster"] if one["metadata"]["labels"].get("grafana_dashboard") == "1"]
    wanted = {file.name: file.read_text() for file in (generate.ROOT / "dashboards").glob("*.json")}
    assert {name: text for one in maps for name, text in one["data"].items()} == wanted and wanted
    assert all(len(text) < 1 << 20 for text in wanted.values()), "a ConfigMap holds a mebibyte"


def test_the_copies_and_the_table_are_what_make_chart_writes() -> None:
    stale = [file.name for file, text in generate.copies().items() if not file.exists() or file.read_text() != text]
    assert stale == [] and generate.surplus() == [], "run `make chart`"
    assert (CHART / "README.md").read_text() == generate.readme(), "run `make chart`"


def test_a_value_without_a_description_is_no_table() -> None:
    known = generate.described("# -- One.\na: 1\nb:\n  # -- Two\n  # lines.\n  c: 2\n  d: 3\n")
    assert known == {"a": "One.", "b.c": "Two lines."}
    assert list(generate.leaves({"a": 1, "b": {"c": 2, "d": 3}}, known)) == [("a", 1), ("b.c", 2), ("b.d", 3)]


def test_the_chart_can_be_packaged(helm: Helm, tmp_path: Path) -> None:
    archive = Path(helm.ask("package", to=str(tmp_path))["archive"])
    # A release is a Secret, with the whole chart in it.
    assert archive.stat().st_size < 400_000


# ---- anything that the schema allows


def from_schema(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of the part of JSON Schema that values.schema.json uses."""
    if "anyOf" in schema:
        return st.one_of([from_schema(one) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return st.one_of([_of_kind(kind, schema) for kind in kinds])


def _of_kind(kind: str, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    match kind:
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "number":
            return st.one_of(st.integers(1, schema["maximum"]), st.floats(0.001, schema["maximum"]))
        case "string":
            return st.from_regex(schema["pattern"], fullmatch=True) if "pattern" in schema else _text(schema)
        case "array":
            inner = schema.get("items", {})
            return st.lists(from_schema(inner), max_size=2) if inner.get("type") == "string" or "enum" in inner else st.just([])
    if "properties" in schema:
        return st.fixed_dictionaries({}, optional={name: from_schema(inner) for name, inner in schema["properties"].items()})
    if isinstance(inner := schema.get("additionalProperties"), dict):
        # Labels and annotations have rules of their own; the schema leaves them to Kubernetes.
        names = st.from_regex(schema["propertyNames"]["pattern"], fullmatch=True) if "propertyNames" in schema else st.just("example.com/a")
        return st.dictionaries(names, from_schema(inner), max_size=2)
    return st.just({})


def _text(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    return st.text("abcXYZ09-_ :{}'\"\n", min_size=schema.get("minLength", 0), max_size=20)


# What Kubernetes itself refuses, and no pattern of ours should repeat.
LEFT_OUT = ("global", "commonLabels", "podLabels", "nodeSelector", "affinity", "podSecurityContext", "securityContext", "resources")


@st.composite
def any_values(draw: st.DrawFn) -> dict[str, Any]:
    """Some of the values, on SQLite or PostgreSQL; all of them at once would nearly always contradict each other."""
    names = sorted(set(SCHEMA["properties"]) - set(LEFT_OUT))
    drawn = {
        name: draw(from_schema(SCHEMA["properties"][name])) for name in draw(st.lists(st.sampled_from(names), max_size=4, unique=True))
    }
    return (POSTGRES if draw(st.booleans()) else {}) | drawn


BOUNDED = {"max_examples": 40, "deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@settings(**BOUNDED)  # type: ignore[arg-type]
@given(values=any_values())
def test_whatever_the_schema_allows_is_good_or_refused_in_words(helm: Helm, values: dict[str, Any]) -> None:
    try:
        objects = helm.objects(values)
    except HelmFailed as refusal:
        # Either of the two, never an error of a template.
        assert "faregate: " in str(refusal) or "values don't meet the specifications" in str(refusal), refusal
        return
    assert helm.problems(objects, KUBERNETES[-1:])[0] == []
    found = load({name: value for name, value in environment_of(objects).items() if name != "FAREGATE_SECRETS"}, None)
    spec = pod(objects)["spec"]
    sleep = spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert spec["terminationGracePeriodSeconds"] >= sleep + found.drain + SETTLE_WITHIN
    assert found.drain >= found.timeout_total or values["shutdown"]["mayCutStreams"]


def test_a_value_that_only_the_gateway_refuses_would_be_found() -> None:
    """What the property above relies on."""
    with pytest.raises(SettingsError):
        load({"FAREGATE_LEDGER_DOWN": "open"}, None)
