"""Dashboards: what is committed is what is built, it keeps the rules of Grafana's linter and types, and every query has an answer."""

from __future__ import annotations

import copy
import json
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dashboards.ask import Prometheus, Question, Series, View, asked, choices, named, questions
from dashboards.builder.__main__ import FOLDER, built, main, texts
from dashboards.builder.queries import LABELS, of
from dashboards.draw import png, units
from gateway.families import FAMILIES
from proofs.crowd import Crowd, Day
from proofs.panels import MAY_BE_EMPTY, Setting, scene, spent_by_ledger, spent_by_panel, targets, unanswered, watched
from proofs.pictures import page_of
from proofs.scrapes import PrometheusServer, Recorder, config_of, write_blocks
from tests.replicas import Stage
from tests.servers import missing

Json = dict[str, Any]
BOARDS = built()
CHECK = FOLDER / "check"
TYPES = Path(sys.prefix) / "grafana"
# Seconds before the peak begins in Beijing: the price window changes while the gateways are watched.
EDGE = "2026-11-20T00:59:53Z"


# ---- what is committed


def test_what_is_committed_is_what_is_built() -> None:
    assert {name: (FOLDER / name).read_text() for name in texts()} == texts()
    assert main(["--check"]) == 0


def test_a_file_that_somebody_edited_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path)]) == 0
    (tmp_path / "hosts.json").write_text("{}")
    assert main(["--out", str(tmp_path), "--check"]) == 1
    assert "hosts.json is not what its builder writes: make dashboards" in capsys.readouterr().err


def test_the_docs_are_linked_where_their_address_is_given() -> None:
    board = built("https://wiki.example/faregate")["spend"]
    assert board["links"][-1]["url"] == "https://wiki.example/faregate/dashboards.md#spend"
    assert all("wiki" not in text for text in texts().values())


# ---- the linter's rules, and ours; each is a function from a dashboard to what is wrong

Rule = Callable[[Json], Iterator[str]]
# The units of Grafana's list that these panels use.
UNITS = {"short", "none", "percentunit", "s", "reqps", "ops", "bytes", "bool", "bool_yes_no"}
MONEY = re.compile(
    r"faregate_(spend|baseline_spend|cache_saved|predicted_spend)_total|faregate_(budget_(limit|spent|held)|host_balance|\w+_gap)\b"
)
SELECTOR = re.compile(r"\b((?:faregate|process)_\w+)\{([^}]*)\}(\[[^\]]*\])?")


def _panels(board: Json) -> list[Json]:
    return [panel for panel in board["panels"] if panel["type"] not in ("row", "text")]


def _targets(board: Json) -> list[tuple[Json, Json]]:
    return [(panel, target) for panel in _panels(board) for target in panel["targets"]]


def _variables(board: Json) -> dict[str, Json]:
    return {one["name"]: one for one in board["templating"]["list"]}


def template_datasource(board: Json) -> Iterator[str]:
    found = _variables(board).get("datasource")
    if found is None or (found["type"], found["query"], found["label"]) != ("datasource", "prometheus", "Data source"):
        yield "no variable datasource of the kind prometheus, labelled Data source"


def template_job_instance(board: Json) -> Iterator[str]:
    for name in ("job", "instance"):
        found = _variables(board).get(name)
        if found is None or (found["type"], found["label"], found["multi"], found["allValue"]) != ("query", name.capitalize(), True, ".+"):
            yield f"variable {name} must be a multi query, labelled {name.capitalize()}, with all values .+"


def template_variables(board: Json) -> Iterator[str]:
    for name in ("team", "host", "model", "currency"):
        found = _variables(board).get(name)
        if found is None or not (found["multi"] and found["includeAll"] and found["allValue"] == ".*"):
            yield f"variable {name} must be multi, with All as .*"
    for name, one in _variables(board).items():
        if one["type"] == "query" and one["refresh"] != 2:
            yield f"variable {name} does not reload when the range changes"
        if name != "datasource" and not any(f"${name}" in target["expr"] for _, target in _targets(board)):
            yield f"variable {name} narrows nothing"


def panel_datasource(board: Json) -> Iterator[str]:
    for panel in _panels(board):
        if any(one["datasource"]["uid"] != "${datasource}" for one in (panel, *panel["targets"])):
            yield f"{panel['title']}: does not use the chosen data source"


def panel_title_description(board: Json) -> Iterator[str]:
    for panel in _panels(board):
        if not panel["title"] or not panel["description"].endswith("."):
            yield f"{panel['title']}: needs a title and a description that is a sentence"


def panel_units(board: Json) -> Iterator[str]:
    for panel in _panels(board):
        if panel["fieldConfig"]["defaults"].get("unit") not in UNITS:
            yield f"{panel['title']}: has no unit that Grafana knows"


def panel_thresholds(board: Json) -> Iterator[str]:
    for panel in _panels(board):
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        values = [step["value"] for step in steps]
        if values[0] is not None or values[1:] != sorted(values[1:]):
            yield f"{panel['title']}: thresholds must begin without a value, and rise"


def panel_targets(board: Json) -> Iterator[str]:
    for panel in _panels(board):
        if not panel["targets"]:
            yield f"{panel['title']}: asks nothing"


def panel_places(board: Json) -> Iterator[str]:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        if cells & taken or place["x"] + place["w"] > 24:
            yield f"{panel['title']}: lies over another panel, or outside"
        taken |= cells


def target_matchers(board: Json) -> Iterator[str]:
    for panel, target in _targets(board):
        for name, matchers, _ in SELECTOR.findall(target["expr"]):
            wanted = ["job", "instance", *(one for one in ("team", "host", "model", "currency") if one in LABELS.get(name, ()))]
            for label in wanted:
                if f'{label}=~"${label}"' not in matchers:
                    yield f"{panel['title']}: {name} is not narrowed by {label}"


def target_metrics(board: Json) -> Iterator[str]:
    for panel, target in _targets(board):
        for name, matchers, _ in SELECTOR.findall(target["expr"]):
            if name not in LABELS:
                yield f"{panel['title']}: there is no metric {name}"
            for label in re.findall(r"(\w+)=", matchers):
                if label not in ("job", "instance", *LABELS.get(name, ())):
                    yield f"{panel['title']}: {name} has no label {label}"
        if len(re.findall(r"\b(?:faregate|process)_\w+", target["expr"])) != len(SELECTOR.findall(target["expr"])):
            yield f"{panel['title']}: a metric without matchers"


def target_rate_interval(board: Json) -> Iterator[str]:
    for panel, target in _targets(board):
        if any(span != "[$__rate_interval]" for span in re.findall(r"\bi?rate\([^\[\]]*(\[[^\]]*\])", target["expr"])):
            yield f"{panel['title']}: rate without $__rate_interval"


def target_counters(board: Json) -> Iterator[str]:
    """A counter is only looked at as what it grew by; the first value of a new one is the exception (`grown`)."""
    for panel, target in _targets(board):
        for found in SELECTOR.finditer(target["expr"]):
            before = target["expr"][: found.start()]
            first = (found[3] and before.endswith(("min_over_time(", "last_over_time(", " - delta("))) or before.endswith(" unless ")
            if found[1].endswith("_total") and not first and not re.search(r"\b(i?rate|increase)\($", before):
                yield f"{panel['title']}: {found[1]} is not inside rate or increase"


def dashboard_fields(board: Json) -> Iterator[str]:
    if board["editable"] or "id" in board or "__inputs" in board or not re.fullmatch(r"faregate-\w+", board["uid"]):
        yield "must have a fixed uid, no id, no inputs, and not be editable"
    linked = {link["url"] for link in board["links"] if link["includeVars"] and link["keepTime"]}
    if linked != {f"/d/{other['uid']}" for other in BOARDS.values() if other["uid"] != board["uid"]}:
        yield "must link to the other dashboards, with range and variables"


RULES: list[Rule] = [
    template_datasource, template_job_instance, template_variables, panel_datasource, panel_title_description, panel_units,
    panel_thresholds, panel_targets, panel_places, target_matchers, target_metrics, target_rate_interval, target_counters, dashboard_fields,
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", BOARDS)
def test_the_rules_find_nothing(rule: Rule, name: str) -> None:
    assert list(rule(BOARDS[name])) == []


def _first(board: Json) -> Json:
    found: Json = _panels(board)[0]
    return found


def _expression(text: str) -> Callable[[Json], object]:
    return lambda board: _first(board)["targets"][0].update(expr=text)


FAULTS: list[tuple[Rule, Callable[[Json], object]]] = [
    (template_datasource, lambda board: board["templating"]["list"].pop(0)),
    (template_job_instance, lambda board: board["templating"]["list"][1].update(allValue=".*")),
    (template_variables, lambda board: board["templating"]["list"][3].update(multi=False)),
    (template_variables, lambda board: board["templating"]["list"][4].update(refresh=1)),
    (template_variables, lambda board: board["templating"]["list"].append({**board["templating"]["list"][3], "name": "nothing"})),
    (panel_datasource, lambda board: _first(board)["targets"][0].update(datasource={"type": "prometheus", "uid": "mine"})),
    (panel_title_description, lambda board: _first(board).update(description="")),
    (panel_units, lambda board: _first(board)["fieldConfig"]["defaults"].pop("unit")),
    (panel_thresholds, lambda board: _first(board)["fieldConfig"]["defaults"]["thresholds"]["steps"].insert(0, {"value": 5})),
    (panel_targets, lambda board: _first(board)["targets"].clear()),
    (panel_places, lambda board: _first(board)["gridPos"].update(h=9)),
    (target_matchers, _expression('sum by (currency) (rate(faregate_spend_total{job=~"$job"}[$__rate_interval]))')),
    (target_metrics, _expression("sum(faregate_open_stream{})")),
    (target_metrics, _expression(of("open_streams", 'team="search"'))),
    (target_metrics, _expression("sum(faregate_open_streams)")),
    (target_rate_interval, _expression(f"sum(rate({of('requests_total')}[5m]))")),
    (target_counters, _expression(f"sum({of('requests_total')})")),
    (target_counters, _expression(f"sum(max_over_time({of('requests_total')}[1h]))")),
    (dashboard_fields, lambda board: board.update(editable=True)),
    (dashboard_fields, lambda board: board["links"].pop(0)),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "fault"), FAULTS, ids=[f"{rule.__name__}-{number}" for number, (rule, _) in enumerate(FAULTS)])
def test_the_rules_find_what_was_put_there(rule: Rule, fault: Callable[[Json], object]) -> None:
    board = copy.deepcopy(BOARDS["spend"])
    fault(board)
    assert list(rule(board))


def test_a_metric_that_does_not_exist_cannot_be_asked_for() -> None:
    with pytest.raises(KeyError):
        of("faregate_spent_total")


def test_what_the_issue_of_operators_asks_for_is_shown() -> None:
    """Families that no panel shows, each with the reason."""
    shown = {name for board in BOARDS.values() for one in questions(board) for name in re.findall(r"faregate_\w+", one.expression)}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) if name not in {family.name for family in FAMILIES} else name for name in shown}
    assert {family.name for family in FAMILIES} - shown == {
        "faregate_card_verified",  # of all cards; faregate_price_verified says it of those in force
        "faregate_price_ends_timestamp_seconds",  # few prices have an end, and its alert tells of it a week before
        "faregate_price_known",  # fills the variables; its alert says more than a line
        "faregate_replica_up",  # of own engines, which few have
        "faregate_replica_requests",
        "faregate_route_deployments",  # what counts is how many of them are in use
    }


def test_alerts_lead_to_dashboards_that_there_are() -> None:
    named_there = re.findall(r"(?m)^ *dashboard: '?([\w-]+)", (FOLDER / "rules" / "faregate.alerts.yaml").read_text())
    assert set(named_there) <= {board["uid"] for board in BOARDS.values()}
    assert named_there


# ---- Grafana's own types


def _typed(*files: Path) -> subprocess.CompletedProcess[str]:
    node = shutil.which("node") or missing("node is not installed: apt-get install nodejs npm")
    if not (TYPES / "node_modules" / "@grafana").exists():
        missing("Grafana's types are not installed: make dashboards-types")
    command = [node, str(CHECK / "check.mjs"), str(TYPES), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_dashboards_are_of_grafanas_own_types_and_a_wrong_word_is_none(tmp_path: Path) -> None:
    """In one run, because TypeScript reads for seconds."""
    board = copy.deepcopy(BOARDS["traffic"])
    panels = {panel["type"]: panel for panel in _panels(board)}
    panels["timeseries"]["fieldConfig"]["defaults"]["custom"]["lineInterpolation"] = "curly"
    (tmp_path / "wrong.json").write_text(json.dumps({**board, "schemaVersion": 36}, indent=1))
    found = _typed(*(FOLDER / name for name in texts()), tmp_path / "wrong.json")
    assert found.returncode == 1
    assert "curly" in found.stderr
    assert "schemaVersion 36, and Grafana's is" in found.stderr
    assert [line for line in found.stderr.splitlines() if re.match(r"\w+\.json", line) and not line.startswith("wrong.json")] == []


def test_the_lock_names_no_host() -> None:
    text = (CHECK / "package-lock.json").read_text()
    assert "resolved" not in text
    assert all("integrity" in package for name, package in json.loads(text)["packages"].items() if name)


# ---- a real Prometheus


@dataclass
class Watched:
    """Gateways that a Prometheus watched under load, and when."""

    stage: Stage
    prometheus: Prometheus
    view: View
    crowd: Crowd
    answers: dict[str, list[tuple[Question, list[Series]]]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def live() -> Iterator[Watched]:
    setting = Setting(replicas=2, postgres=False, clock=EDGE, amounts={"support": "0.0002"})
    with ExitStack() as stack:
        stage = stack.enter_context(scene(setting))
        server = PrometheusServer(stage.folder / "prometheus", config_of(targets(stage)))
        stack.callback(server.kill)
        server.start()
        crowd, view = watched(stage, Day(8, 16, prompt=3000, answer=40), server)
        yield Watched(stage, server.api, view, crowd)


def test_every_query_is_answered(live: Watched) -> None:
    count, problems = unanswered(live.prometheus, live.view)

    assert problems == []
    assert MAY_BE_EMPTY == {}
    assert count > 180
    assert not live.crowd.trouble


def test_what_is_shown_as_spent_is_what_the_ledger_has(live: Watched) -> None:
    """Although most of it is the first value of a series, which `increase` does not see."""
    ledger = spent_by_ledger(live.stage)
    assert ledger["USD"] > 0
    for title in ("Today", "This month"):
        assert spent_by_panel(live.prometheus, live.view, title) == pytest.approx(
            {name: nano / 1e9 for name, nano in ledger.items()}, rel=0.12
        )


def test_budgets_are_the_ledgers_and_not_added_up_over_replicas(live: Watched) -> None:
    board = BOARDS["budgets"]
    found = {one.ref: asked(live.prometheus, one, board, live.view) for one in questions(board) if one.panel == "Every budget"}
    shown = {(series.labels["team"], series.labels["budget"]): series.last for series in found["A"]}
    spent = {(series.labels["team"], series.labels["budget"]): series.last for series in found["B"]}
    budgets = {(row["team"], row["budget"]): row for row in live.stage.admin("budgets")}
    assert shown == {name: float(row["limit"]) for name, row in budgets.items()}
    assert spent == pytest.approx({name: float(row["spent"]) for name, row in budgets.items()}, rel=1e-6)


def test_money_is_never_shown_without_its_currency(live: Watched) -> None:
    for board in BOARDS.values():
        wanted = {panel["title"]: panel["fieldConfig"]["defaults"]["unit"] for panel in _panels(board)}
        for question in questions(board):
            if (
                MONEY.search(question.expression)
                and wanted[question.panel] not in ("percentunit", "s")
                and "count(" not in question.expression
            ):
                for series in asked(live.prometheus, question, board, live.view):
                    assert series.labels.get("currency") == "USD", question.place
                    assert series.name.endswith("USD") or question.legend == "__auto", question.place


def test_a_choice_narrows_every_panel_that_knows_the_label(live: Watched) -> None:
    chosen = {"team": "research", "host": "deepseek"}
    view = View(live.view.start, live.view.end, live.view.scrape, chosen)
    seen: set[str] = set()
    for board in BOARDS.values():
        for question in questions(board):
            for series in asked(live.prometheus, question, board, view):
                for label in chosen.keys() & series.labels.keys():
                    assert series.labels[label] == chosen[label], question.place
                    seen.add(label)
    assert seen == set(chosen)


def test_the_variables_offer_what_there_is(live: Watched) -> None:
    board = BOARDS["spend"]
    found = {name: choices(live.prometheus, one, board, live.view) for name, one in _variables(board).items() if name != "datasource"}
    assert found["instance"] == ["gateway-1", "gateway-2"]
    assert found["team"] == ["batch", "research", "search", "support"]
    assert found["currency"] == ["USD"]
    assert set(found["host"]) == {"deepseek", "novita", "openrouter"}


def test_a_page_is_drawn_with_every_panel(live: Watched) -> None:
    for board in BOARDS.values():
        page = page_of(board, live.prometheus, live.view, "Drawn.").html()
        for panel in _panels(board):
            assert f"</i>{panel['title'].replace('&', '&amp;').replace(chr(39), '&#x27;')}</h2>" in page
        assert "nan" not in re.sub(r"<[^>]*title[^>]*>", "", page.lower()).replace("finance", "").replace("financ", "")
        assert "No data" not in page


def test_an_hour_on_a_fast_clock_is_an_hour_in_prometheus(live: Watched, tmp_path: Path) -> None:
    """What the pictures are drawn from."""
    addresses = {name: f"http://{address}" for name, address in targets(live.stage).items()}
    recorder, began = Recorder(addresses, 1_795_000_000 - 60, 240), 1_795_000_000
    for minute in range(4):
        recorder.take(began + 60 * minute)
    server = PrometheusServer(tmp_path / "prometheus", config_of({}), "--query.lookback-delta=90s")
    recorder.blocks(server.data)
    server.start()
    try:
        view = View(began, began + 180, 60)
        found = server.api.over("count by (instance) (faregate_requests_total)", view)
        assert [[at for at, _ in series.points] for series in found] == [[began, began + 60, began + 120, began + 180]] * 2
        assert server.api.at_end("max(faregate_clock_shift_seconds)", view)[0].last == 0
    finally:
        server.kill()


BEGAN = 1_795_000_000


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus with four minutes of made-up scrapes."""
    folder = tmp_path_factory.mktemp("written")
    server = PrometheusServer(folder, config_of({}))
    write_blocks("".join([*_window_change(), *_beginnings(), *_restart()]), server.data)
    server.start()
    try:
        yield server.api
    finally:
        server.kill()


def _window_change() -> Iterator[str]:
    """One replica says peak already, and the other standard still."""
    place = 'job="windows",host="deepseek",model="deepseek-flash",currency="USD"'
    for minute in range(5):
        for instance, window in (("a", "peak"), ("b", "standard")):
            at, own = BEGAN + 60 * minute, f'{place},instance="{instance}"'
            yield f'faregate_window{{{own},window="{window}"}} 1 {at}\n'
            yield f'faregate_spend_total{{{own},team="t",route="r",class="output"}} {minute} {at}\n'


def _beginnings() -> Iterator[str]:
    """Series that stand still: of a young process; new in an old one; of one that was not scraped at first; and there before."""
    for instance, started, scraped, spent in (("young", 60, 1, 1), ("old", -9000, 0, 2), ("unseen", -9000, 2, 2), ("before", -9000, 0, 0)):
        for minute in range(5):
            at, own = BEGAN + 60 * minute, f'job="beginnings",instance="{instance}"'
            if minute >= scraped:
                yield f"process_start_time_seconds{{{own}}} {BEGAN + started} {at}\n"
            if minute >= spent:
                yield f'faregate_spend_total{{{own},route="{instance}",currency="USD",class="output"}} 7 {at}\n'


def _restart() -> Iterator[str]:
    """A gateway that is new in the range spends 5 to 10, and after a restart 1 to 3: 13 in all."""
    for step in range(240):
        at, own = BEGAN + step, 'job="restart",instance="a"'
        spent = 5 + step / 24 if step < 120 else 1 + (step - 120) / 60
        yield f"process_start_time_seconds{{{own}}} {BEGAN - 1 + 120 * (step >= 120)} {at}\n"
        yield f'faregate_spend_total{{{own},route="r",currency="USD",class="output"}} {spent} {at}\n'


def test_a_price_window_that_changes_between_two_scrapes_breaks_no_panel(written: Prometheus) -> None:
    """Which of the two is taken does not matter; that one is does."""
    view, board = View(BEGAN, BEGAN + 240, 60, {"job": "windows"}), BOARDS["spend"]
    for question in (one for one in questions(board) if "faregate_window" in one.expression and "annotation" not in one.panel):
        assert len(asked(written, question, board, view)) == 1, question.place


def test_the_first_value_counts_where_a_series_began_in_the_range(written: Prometheus) -> None:
    view, board = View(BEGAN, BEGAN + 240, 60, {"job": "beginnings"}), BOARDS["spend"]
    (question,) = (one for one in questions(board) if one.panel == "By route")
    found = {series.labels["route"]: series.last for series in asked(written, question, board, view)}
    assert found == {"young": 7, "old": 7, "unseen": 0, "before": 0}


def test_after_a_restart_the_first_value_is_still_the_first(written: Prometheus) -> None:
    view, board = View(BEGAN - 60, BEGAN + 240, 60, {"job": "restart"}), BOARDS["spend"]
    (question,) = (one for one in questions(board) if one.panel == "By route")
    (found,) = asked(written, question, board, view)
    assert found.last == pytest.approx(13, rel=0.02)


# ---- drawing


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "s", "0 s"), (0.0123, "s", "12.3 ms"), (7200, "s", "2 h"), (1209600, "s", "2 wk"), (0.5, "percentunit", "50 %"),
        (0.000123, "currencyUSD", "$0.000123"), (1234.5, "currencyUSD", "$1.23K"), (-2, "currency:¥", "-¥2"), (1, "bool_yes_no", "yes"),
        (2_500_000, "short", "2.5 Mil"), (200 * 1024 * 1024, "bytes", "200 MiB"), (float("inf"), "s", "∞"), (3.456, "reqps", "3.46 req/s"),
    ],
)  # fmt: skip
def test_values_are_written_in_their_unit(value: float, unit: str, text: str) -> None:
    assert units.text(value, unit) == text


def test_ticks_are_round_and_cover() -> None:
    assert units.ticks(0, 0.93, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert units.in_unit(0, 7000, 4, "s")[:2] == [0, 1800] or units.in_unit(0, 7000, 4, "s")[1] % 60 == 0
    assert units.log_ticks(30, 90_000, "s") == [10, 60, 600, 3600, 21600, 86400, 604800]
    assert units.decades(0.002, 30) == pytest.approx([0.001, 0.01, 0.1, 1, 10, 100])


def test_a_legend_names_its_labels() -> None:
    assert named("{{team}}/{{budget}} {{currency}}", {"team": "a", "currency": "USD"}) == "a/ USD"
    assert named("__auto", {"b": "2", "a": "1"}) == "1, 2"


@pytest.mark.parametrize("how", range(5))
def test_a_picture_keeps_its_colours_when_it_is_made_smaller(how: int) -> None:
    rows = [[(10 * x, 7 * y, 3 * x + y) for x in range(6)] for y in range(5)]
    small = png.reduced(_png(rows, how))
    chunks = dict(png._chunks(small))
    palette = [chunks[b"PLTE"][at : at + 3] for at in range(0, len(chunks[b"PLTE"]), 3)]
    raw = zlib.decompress(chunks[b"IDAT"])
    assert [[tuple(palette[raw[7 * y + 1 + x]]) for x in range(6)] for y in range(5)] == rows


def _png(rows: list[list[tuple[int, int, int]]], how: int) -> bytes:
    """A picture whose rows are all filtered in one way (PNG, section 9)."""
    flat = [bytes(value for colour in row for value in colour) for row in rows]
    above, body = bytes(len(flat[0])), b""
    for row in flat:
        body += bytes([how]) + bytes((row[x] - _guess(how, row, above, x)) & 255 for x in range(len(row)))
        above = row
    head = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 2, 0, 0, 0)
    return png._HEAD + png._chunk(b"IHDR", head) + png._chunk(b"IDAT", zlib.compress(body)) + png._chunk(b"IEND", b"")


def _guess(how: int, row: bytes, above: bytes, x: int) -> int:
    left, corner = (row[x - 3], above[x - 3]) if x >= 3 else (0, 0)
    up, guess = above[x], 0
    if how == 4:
        guess = min((left, up, corner), key=lambda one: abs(left + up - corner - one))
    return (0, left, up, (left + up) // 2, guess)[how]
