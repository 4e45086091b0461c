"""Rules for Prometheus: every alert fires for its cause and not by a little less, reads metrics that exist, and has a runbook."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from gateway.families import FAMILIES
from gateway.policies import default_folder
from proofs.alert_rules import by_name, longest, of_minutes, shortened, texts
from proofs.alerts import proved
from proofs.scrapes import PrometheusServer, config_of
from tests.harness import LiveGateway, get_json
from tests.scripted import until
from tests.servers import program

ROOT: Final = Path(__file__).resolve().parent.parent
RULES: Final = ROOT / "dashboards" / "rules"
RECORDED, ALERTS = RULES / "faregate.rules.yaml", RULES / "faregate.alerts.yaml"
CASES: Final = sorted((RULES / "tests").glob("*.yaml"))
SECTIONS: Final = ["What it means", "What it costs", "What to do", "How to check that it is over"]
# Beside the families: what Prometheus and every client library show.
COMMON: Final = {"up": set[str](), "process_start_time_seconds": set[str]()}
TARGET: Final = {"job", "instance"}
BUDGETS: Final = re.compile(r"faregate_budget_\w+")
MONEY: Final = {family.name for family in FAMILIES if "currency" in family.labels}


@cache
def rules(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


@cache
def labels() -> dict[str, set[str]]:
    """The labels of everything that a rule may name."""
    known = COMMON | {family.name: set(family.labels) for family in FAMILIES}
    for family in FAMILIES:
        if family.kind == "histogram":
            known |= {
                f"{family.name}_{part}": {*family.labels, *(["le"] if part == "bucket" else [])} for part in ("bucket", "sum", "count")
            }
    for rule in rules(RECORDED):
        known[rule["record"]] = {label for found in named(rule["expr"], known) for label in known[found]} | {"le"}
    return known


def named(expr: str, known: dict[str, set[str]]) -> Iterator[str]:
    """The metrics of an expression; one that nobody knows is an error."""
    for name in re.findall(r"\b(?:faregate[_:][\w:]+|up\b(?=[{ ])|process_\w+)", re.sub(r'"[^"]*"', '""', expr)):
        assert name in known, f"{name} is neither in FAMILIES nor recorded before"
        yield name


def of_groupings(expr: str) -> list[set[str]]:
    return [set(re.split(r"[,\s]+", found.strip())) for found in re.findall(r"\b(?:by|on|without|ignoring) \(([^)]*)\)", expr)]


EVERY: Final = [*rules(RECORDED), *rules(ALERTS)]


def name_of(rule: dict[str, Any]) -> str:
    return str(rule.get("alert") or rule["record"])


def test_promtool_takes_the_rules_and_every_case() -> None:
    promtool = program("promtool", "prometheus")
    runs = [[promtool, "check", "rules", str(RECORDED), str(ALERTS)], *([promtool, "test", "rules", str(path)] for path in CASES)]
    asked = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for command in runs]
    said = [process.communicate()[0] for process in asked]
    assert [(process.returncode, text[-2000:]) for process, text in zip(asked, said, strict=True) if process.returncode] == []


def test_every_alert_is_seen_firing_and_not_firing() -> None:
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    for path in CASES:
        for case in yaml.safe_load(path.read_text())["tests"]:
            for alert in case["alert_rule_test"]:
                seen[bool(alert["exp_alerts"])].add(alert["alertname"])
                texts = [text for expected in alert["exp_alerts"] for text in expected["exp_annotations"].values()]
                assert not [text for text in texts if "no value" in text or "{{" in text or "  " in text]
    every = {rule["alert"] for rule in rules(ALERTS)}
    assert seen == {True: every, False: every}


@pytest.mark.parametrize("rule", EVERY, ids=name_of)
def test_a_rule_reads_metrics_that_exist_with_labels_that_they_have(rule: dict[str, Any]) -> None:
    expr: str = rule["expr"]
    found = set(named(expr, labels()))
    assert found or expr.startswith("vector(")
    given = set().union(*(labels()[name] for name in found)) | TARGET
    for name, inside in re.findall(r"([\w:]+)\{([^}]*)\}", expr):
        picked = set(re.findall(r'(\w+)(?:=~|!~|!=|=)"', inside))
        assert picked <= labels()[name] | TARGET, f"{name} has no label {picked - labels()[name]}"
    assert set().union(*of_groupings(expr), set()) <= given
    texts = " ".join(rule.get("annotations", {}).values())
    assert set(re.findall(r"\$labels\.(\w+)", texts)) <= given | {"severity"}


@pytest.mark.parametrize("rule", EVERY, ids=name_of)
def test_amounts_of_two_currencies_never_add(rule: dict[str, Any]) -> None:
    expr: str = rule["expr"]
    for operator, group, inside in re.findall(r"\b(sum|max|min|avg|count)\s*(?:by \(([^)]*)\))?\s*\(((?:[^()]|\([^()]*\))*)\)", expr):
        if any(name in MONEY or "currency" in labels()[name] for name in named(inside, labels())):
            assert "currency" in group, f"{operator} over currencies"
    for name in BUDGETS.findall(expr):
        assert re.search(rf"max by \(job, team, budget, currency\) \({name}\)", expr), f"every gateway repeats {name}: take the max"


@pytest.mark.parametrize("rule", EVERY, ids=name_of)
def test_jobs_are_never_mixed(rule: dict[str, Any]) -> None:
    """One Prometheus may watch a demonstration, or staging, beside the gateways that earn the money."""
    bare = re.sub(r'"[^"]*"', '""', rule["expr"])
    over = re.findall(r"(?<![\w:])(?:sum|max|min|avg|count|group)\s*(?:by \(([^)]*)\)\s*)?\(", bare)
    assert all("job" in by.split(", ") for by in over)
    assert all("job" in labels for labels in of_groupings(bare) if labels)
    # Only what we chose ourselves is the same for all.
    assert set(re.findall(r"scalar\(([^)]*)\)", bare)) <= {"faregate:slo_errors_allowed:ratio", "faregate:slo_slow_allowed:ratio"}


@pytest.mark.parametrize("rule", rules(ALERTS), ids=name_of)
def test_an_alert_says_who_must_look_and_where(rule: dict[str, Any]) -> None:
    notes = rule["annotations"]
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
    assert set(notes) == {"summary", "description", "runbook_url", "dashboard"}
    assert notes["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    assert len(notes["summary"]) < 120
    assert notes["description"].endswith((".", ")"))
    known = {json.loads(path.read_text())["uid"] for path in (ROOT / "dashboards").glob("*.json")}
    assert notes["dashboard"] in known


@pytest.mark.parametrize("rule", rules(ALERTS), ids=name_of)
def test_a_runbook_has_its_four_sections(rule: dict[str, Any]) -> None:
    text = (ROOT / rule["annotations"]["runbook_url"]).read_text()
    assert text.startswith(f"# {rule['alert']}\n\nSeverity `{rule['labels']['severity']}`, ")
    assert ("at once" if rule["for"] == "0m" else f"after {rule['for']}") in text.split("\n")[2]
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    assert parts[1::2] == SECTIONS
    assert all(len(part.strip()) > 20 for part in parts[2::2])
    # Something to type or to open, not only advice.
    assert "`" in parts[6]
    assert "`" in parts[8]


def test_no_runbook_is_without_its_alert_and_none_is_left_out_of_the_list() -> None:
    every = {rule["alert"]: rule for rule in rules(ALERTS)}
    assert {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")} == set(every)
    page = (ROOT / "docs" / "alerts.md").read_text()
    listed = re.findall(r"^\| \[`(\w+)`\]\(runbooks/(\w+)\.md\) \| (\w+) \| ([\w ]+) \|", page, re.MULTILINE)
    shown = {"0m": "at once"}
    expected = [(name, name, rule["labels"]["severity"], shown.get(rule["for"], rule["for"])) for name, rule in every.items()]
    assert listed == expected


def test_what_is_recorded_is_named_by_level_what_and_how() -> None:
    names = [rule["record"] for rule in rules(RECORDED)]
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch(r"faregate:[a-z_]+:[a-z0-9_]+", name)] == []
    page = (ROOT / "docs" / "alerts.md").read_text()
    stems = {name.split(":")[1] for name in names}
    assert [stem for stem in sorted(stems) if stem not in page] == []


# ---- the same rules on a faster clock


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"expr": "rate(a[5m]) > 3 * 86400", "for": "10m"}, {"expr": "rate(a[5s]) > 3 * 86400", "for": "10s"}),
        ({"expr": "rate(a[1h] offset 1w)"}, {"expr": "rate(a[60s] offset 10080s)"}),
        ({"expr": "a[1m]", "for": "0m"}, {"expr": "a[3s]", "for": "0s"}),
        ({"expr": "process_start_time_seconds > time() - 900 < 900"}, {"expr": "process_start_time_seconds > time() - 15 < 900"}),
        ({"expr": 'a:rate5m{le="5m",model="r1"} > 14.4', "for": "90s"}, {"expr": 'a:rate5m{le="5m",model="r1"} > 14.4', "for": "2s"}),
    ],
)
def test_a_faster_clock_changes_times_and_nothing_else(rule: dict[str, str], expected: dict[str, str]) -> None:
    text = yaml.safe_dump({"groups": [{"name": "g", "rules": [rule]}]})
    assert yaml.safe_load(shortened(text, 60))["groups"][0]["rules"] == [expected]


def test_the_longest_time_of_an_alert_counts_what_it_reads() -> None:
    found = by_name(texts())
    assert longest("FaregateLedgerDown", found) == 60
    assert longest("FaregateErrorBurnFastest", found) == 3600
    assert longest("FaregateBudgetWillRunOut", found) == 86_400
    assert longest("FaregateSpendJumped", found) == 604_800


def test_every_alert_of_minutes_is_proved_live() -> None:
    assert proved() == set(of_minutes())
    assert len(of_minutes()) > 40


def test_alerts_fire_and_end_in_a_real_prometheus(tmp_path: Path) -> None:
    """A short form of `make prove-alerts`: policies that do not load, a shifted clock, and a gateway that is gone."""
    policies = tmp_path / "policies"
    shutil.copytree(default_folder(), policies)
    routes, good = policies / "routes.yaml", (policies / "routes.yaml").read_text()
    with ExitStack() as stack:
        gateway = LiveGateway(tmp_path, (), "2026-11-20T02:00:00Z", {"FAREGATE_POLICIES": str(policies), "FAREGATE_BALANCE_POLL": "0"})
        stack.callback(gateway.close)
        files = [tmp_path / name for name in texts()]
        for file, text in zip(files, texts().values(), strict=True):
            file.write_text(shortened(text, 300))
        server = PrometheusServer(tmp_path / "prometheus", config_of({"one": gateway.admin_url.removeprefix("http://")}, rules=files))
        stack.callback(server.stop, signal.SIGKILL)
        server.start()

        def fires(alert: str) -> bool:
            found = get_json(f"http://127.0.0.1:{server.port}/api/v1/alerts")["data"]["alerts"]
            return any(one["labels"]["alertname"] == alert and one["state"] == "firing" for one in found)

        routes.write_text("- route: [")
        for alert in ("FaregatePoliciesRefused", "FaregateClockShifted"):
            until(f"{alert} fires", lambda alert=alert: fires(alert))
        routes.write_text(good)
        until("it ends", lambda: not fires("FaregatePoliciesRefused"))
        assert not fires("FaregateDown")
        gateway.terminate()
        until("FaregateDown fires", lambda: fires("FaregateDown"))
