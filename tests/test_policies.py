"""Policies: what a folder must agree on, the look-ups of a snapshot, and the shipped folder itself."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from time import process_time

import pytest

from gateway.clock import parse_instant
from gateway.errors import PolicyError
from gateway.policies import KINDS, Policies, default_folder, load, schemas
from gateway.routes import RouteTarget

FILES = {
    "contracts/a.yaml": """
- {contract: r1, released: 2025-01-20, context: {tokens: 65536}, max_tokens: {counts: answer, max: 8192}}
- {contract: r2, released: 2025-05-28, context: {tokens: 65536}, max_tokens: {counts: total, max: 65536}}
""",
    "hosts/h.yaml": """
host: h
models:
  - {model: m, contract: r1, from: 2025-01-20T00:00:00Z, until: 2025-05-28T00:00:00Z}
  - {model: m, contract: r2, from: 2025-05-28T00:00:00Z, until: 2025-09-01T00:00:00Z, verified: false}
  - {model: v/x, contract: r2, from: 2025-05-28T00:00:00Z, thinking: on}
""",
    "prices/h.yaml": """
- card: m-1
  host: h
  models: [m]
  currency: USD
  from: 2025-01-20T00:00:00Z
  until: 2025-09-01T00:00:00Z
  per_million: {cache_miss: "1", output: "2"}
  source: test
  checked: 2026-01-01
- card: x-1
  host: h
  models: [v/x]
  currency: USD
  from: 2025-05-28T00:00:00Z
  per_million: {cache_miss: "1", output: "2"}
  windows:
    - {name: peak, hours: ["01:00-04:00"], zone: UTC, except: days, per_million: {cache_miss: "2", output: "4"}}
  verified: false
  source: a blog
  checked: 2026-01-01
""",
    "calendars/days.yaml": "{calendar: days, known_until: 2026-12-31, source: notice, days: [2026-10-01]}",
    "routes.yaml": """
- route: reasoner
  contract: [{until: 2025-05-28T00:00:00Z, contract: r1}, {contract: r2}]
  deployments: [h/m, {deployment: h/v/x, thinking: on}]
""",
    "rates.yaml": '[{from: USD, to: CNY, rate: "7.1", at: 2026-01-01T00:00:00Z, source: bank}]',
    "teams/search.yaml": "{team: search, routes: [reasoner], hosts: [h]}",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip("\n"))
    return folder


def changed(name: str, old: str, new: str) -> dict[str, str]:
    assert old in FILES[name], f"{old!r} is not in {name}"
    return {**FILES, name: FILES[name].replace(old, new, 1)}


@pytest.fixture
def policies(tmp_path: Path) -> Policies:
    return load(write(tmp_path, FILES))


@pytest.fixture(scope="module")
def shipped() -> Policies:
    return load(default_folder())


MORE_CARD = """
- {card: m-2, host: h, models: [m], currency: USD, from: 2025-06-01T00:00:00Z,
   per_million: {cache_miss: "1", output: "2"}, source: t, checked: 2026-01-01}
""".strip()
UNTIL = "until: 2025-09-01T00:00:00Z\n  per"

CASES = {
    "an unknown key": (
        changed("contracts/a.yaml", "max_tokens: {counts: total", "max_tokenz: {counts: total"),
        [
            "contracts/a.yaml:2: `max_tokens` is missing",
            "contracts/a.yaml:2: `max_tokenz` is not a known key. Hint: did you mean `max_tokens`?",
        ],
    ),
    "a contract's name twice": (
        changed("contracts/a.yaml", "contract: r2", "contract: r1"),
        [
            "contracts/a.yaml:2: contract `r1` is taken by contracts/a.yaml:1. Hint: names are unique",
            "hosts/h.yaml:4: there is no contract `r2`. Hint: add the contract first",
            "hosts/h.yaml:5: there is no contract `r2`. Hint: add the contract first",
            "routes.yaml:2: there is no contract `r2`. Hint: add the contract first",
        ],
    ),
    "a host's name twice": (
        {**FILES, "hosts/i.yaml": "host: h"},
        ["hosts/i.yaml:1: host `h` is taken by hosts/h.yaml:1. Hint: names are unique"],
    ),
    "a host's name with a slash": (
        {**FILES, "hosts/i.yaml": "host: i/j"},
        ["hosts/i.yaml:1: host `i/j` has a slash: HOST/MODEL could not be told apart"],
    ),
    "a card's name twice": (
        changed("prices/h.yaml", "card: x-1", "card: m-1"),
        ["prices/h.yaml:10: card `m-1` is taken by prices/h.yaml:1. Hint: names are unique"],
    ),
    "a model whose contract does not exist": (
        changed("hosts/h.yaml", "contract: r1", "contract: deepseek"),
        ["hosts/h.yaml:3: there is no contract `deepseek`. Hint: add the contract first"],
    ),
    "a model row that ends before it begins": (
        changed("hosts/h.yaml", "until: 2025-05-28", "until: 2025-01-20"),
        ["hosts/h.yaml:3: `until` is not after `from`"],
    ),
    "two rows of a model at once": (
        changed("hosts/h.yaml", "until: 2025-05-28", "until: 2025-05-29"),
        ["hosts/h.yaml:4: two rows of `m` serve at the same time. Hint: give the earlier one an `until`"],
    ),
    "a calendar that does not exist": (
        changed("prices/h.yaml", "except: days", "except: day"),
        ["prices/h.yaml:17: there is no calendar `day`. Hint: did you mean `days`?"],
    ),
    "a card of a model that no host has": (
        changed("prices/h.yaml", "models: [m]", "models: [m, v/y]"),
        ["prices/h.yaml:3: there is no model of host h `v/y`. Hint: did you mean `v/x`?"],
    ),
    "two cards with one start": (
        {**FILES, "prices/i.yaml": MORE_CARD.replace("2025-06-01", "2025-01-20")},
        ["prices/i.yaml:1: card `m-2` begins when `m-1` (prices/h.yaml:1) does: two prices for h/m in USD"],
    ),
    "an end beyond the next start": (
        {**FILES, "prices/i.yaml": MORE_CARD},
        [
            "prices/h.yaml:6: card `m-1` overlaps `m-2` (prices/i.yaml:1): two prices for h/m in USD."
            " Hint: leave `until` out, a card ends where the next begins"
        ],
    ),
    "an end before the next start": (
        {**changed("prices/h.yaml", UNTIL, UNTIL.replace("09-01", "05-01")), "prices/i.yaml": MORE_CARD},
        [
            "prices/h.yaml:6: card `m-1` leaves h/m without a price in USD from 2025-05-01T00:00:00Z until 2025-06-01T00:00:00Z."
            " Hint: leave `until` out, or add a card"
        ],
    ),
    "a model served before its first card": (
        changed("prices/h.yaml", "from: 2025-01-20", "from: 2025-01-21"),
        [
            "hosts/h.yaml:3: no card has a price for h/m from 2025-01-20T00:00:00Z until 2025-01-21T00:00:00Z. Hint: add one to prices/",
        ],
    ),
    "a model served after its last card": (
        changed("prices/h.yaml", UNTIL, UNTIL.replace("09-01", "08-31")),
        ["hosts/h.yaml:4: no card has a price for h/m from 2025-08-31T00:00:00Z until 2025-09-01T00:00:00Z. Hint: add one to prices/"],
    ),
    "a model without any card": (
        changed("hosts/h.yaml", "  - {model: v/x", "  - {model: y, contract: r2, from: 2025-05-28T00:00:00Z}\n  - {model: v/x"),
        ["hosts/h.yaml:5: no card has a price for h/y from 2025-05-28T00:00:00Z on. Hint: add one to prices/"],
    ),
    "a route whose deployment does not exist": (
        changed("routes.yaml", "[h/m,", "[h/n,"),
        ["routes.yaml:3: there is no deployment `h/n`. Hint: did you mean `h/m`?"],
    ),
    "a route whose contract does not exist": (
        changed("routes.yaml", "contract: r1}", "contract: s1}"),
        ["routes.yaml:2: there is no contract `s1`. Hint: add the contract first"],
    ),
    "two rates of one pair at one instant": (
        {**FILES, "rates/more.yaml": '{from: CNY, to: USD, rate: "0.14", at: 2026-01-01T00:00:00Z, source: bank}'},
        ["rates.yaml:1: USD and CNY have a rate at 2026-01-01T00:00:00Z already (rates/more.yaml:1). Hint: keep one"],
    ),
    "a team whose host does not exist": (
        changed("teams/search.yaml", "hosts: [h]", "hosts: [g]"),
        ["teams/search.yaml:1: there is no host `g`. Hint: add the host first"],
    ),
    "a window that crosses midnight": (
        changed("prices/h.yaml", "01:00-04:00", "16:30-00:30"),
        [
            'prices/h.yaml:17: `windows.0.hours.0`: 16:30-00:30 crosses midnight. Hint: split it in two, "16:30-24:00" and "00:00-00:30",'
            " or state it in a zone where it does not"
        ],
    ),
    "windows that overlap": (
        changed("prices/h.yaml", '["01:00-04:00"]', '["01:00-04:00", "03:00-05:00"]'),
        ["prices/h.yaml:17: 03:00-05:00 overlaps peak 01:00-04:00 on mon"],
    ),
    "a price that is not exact": (
        changed("prices/h.yaml", 'cache_miss: "1"', 'cache_miss: "0.0000000001"'),
        ["prices/h.yaml:7: `per_million.cache_miss`: '0.0000000001' is not exact in nano-units (at most 9 decimal places)"],
    ),
    "an effort that does not exist": (
        changed("contracts/a.yaml", "max: 65536}", "max: 65536}, thinking: {efforts: [high], effort_aliases: {low: hihg}}"),
        ["contracts/a.yaml:2: `hihg` is none of the efforts high"],
    ),
    "a field passed and refused": (
        changed("contracts/a.yaml", "max: 8192}", "max: 8192}, fields: {passed: [tools], refused: {tools: no}}"),
        ["contracts/a.yaml:1: `tools` is both passed and refused. Hint: keep one"],
    ),
    "a rule that refuses and allows": (
        changed("contracts/a.yaml", "max: 8192}", "max: 8192}, fields: {rules: [{field: n, values: [2], allowed: [1], text: no}]}"),
        ["contracts/a.yaml:1: a rule has `values`, which are refused, or `allowed`, not both"],
    ),
    "a default above the max": (
        changed("contracts/a.yaml", "max: 8192}", "default: 9000, max: 8192}"),
        ["contracts/a.yaml:1: the default 9000 is not between 1 and the max 8192"],
    ),
    "a context without tokens": (
        changed("contracts/a.yaml", "{tokens: 65536}", "{tokens: 0}"),
        ["contracts/a.yaml:1: a context has at least 1 token"],
    ),
    "a day of a calendar twice": (
        changed("calendars/days.yaml", "[2026-10-01]", "[2026-10-01, 2026-10-01]"),
        ["calendars/days.yaml:1: 2026-10-01 stands twice in `days`"],
    ),
    "a rate of zero": (changed("rates.yaml", '"7.1"', '"0"'), ["rates.yaml:1: a rate is not zero"]),
}


@pytest.mark.parametrize(("files", "problems"), CASES.values(), ids=CASES)
def test_a_folder_with_a_mistake_does_not_load(tmp_path: Path, files: dict[str, str], problems: list[str]) -> None:
    with pytest.raises(PolicyError) as refused:
        load(write(tmp_path, files))

    assert list(refused.value.problems) == problems


def test_problems_of_every_file_are_reported_at_once(tmp_path: Path) -> None:
    files = {
        **changed("contracts/a.yaml", "tokens: 65536", "tokens: many"),
        **{"prices/h.yaml": FILES["prices/h.yaml"].replace("days,", "day,"), "rates.yaml": "[{}]"},
    }

    with pytest.raises(PolicyError) as refused:
        load(write(tmp_path, files))

    assert {problem.partition(":")[0] for problem in refused.value.problems} == {"contracts/a.yaml", "prices/h.yaml", "rates.yaml"}
    assert str(refused.value).splitlines() == list(refused.value.problems)


def test_a_row_that_is_wrong_in_itself_hides_no_other_problem_and_causes_none(tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as refused:
        load(write(tmp_path, changed("contracts/a.yaml", "contract: r1, released: 2025-01-20", "contract: r1, released: soon")))

    assert [problem.partition(" ")[0] for problem in refused.value.problems] == ["contracts/a.yaml:1:"]


def test_an_empty_or_missing_folder_does_not_load(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nope"):
        with pytest.raises(PolicyError, match="FAREGATE_POLICIES"):
            load(folder)


def test_cards_and_rows_that_only_touch_are_fine(tmp_path: Path) -> None:
    touching = changed("prices/h.yaml", UNTIL, UNTIL.replace("09-01", "06-01"))["prices/h.yaml"]
    lines = FILES["hosts/h.yaml"].strip().splitlines()
    backwards = [*lines[:2], *reversed(lines[2:])]
    june = "from: 2025-06-01T00:00:00Z"
    yuan = MORE_CARD.replace("m-2", "m-cny").replace("USD", "CNY").replace(june, f"{june}, until: 2025-07-01T00:00:00Z")
    files = {**FILES, "hosts/h.yaml": "\n".join(backwards), "prices/h.yaml": touching, "prices/i.yaml": f"{MORE_CARD}\n{yuan}"}

    loaded = load(write(tmp_path, files))

    assert loaded.prices.currencies("h", "m", parse_instant("2025-06-15T00:00:00Z")) == ("CNY", "USD")
    assert loaded.prices.currencies("h", "m", parse_instant("2025-07-01T00:00:00Z")) == ("USD",)


def test_rates_and_teams_may_be_absent(tmp_path: Path) -> None:
    files = {name: text for name, text in FILES.items() if name not in ("rates.yaml", "teams/search.yaml")}

    loaded = load(write(tmp_path, files))

    assert loaded.teams == {}
    assert loaded.rates.convert(1, "USD", "CNY", parse_instant("2026-06-01T00:00:00Z")) is None


@pytest.mark.parametrize(
    ("host", "model", "instant", "contract"),
    [
        ("h", "m", "2025-01-19T23:59:59Z", None),
        ("h", "m", "2025-01-20T00:00:00Z", "r1"),
        ("h", "m", "2025-05-27T23:59:59.999999Z", "r1"),
        ("h", "m", "2025-05-28T00:00:00Z", "r2"),
        ("h", "m", "2025-09-01T00:00:00Z", None),
        ("h", "v/x", "2030-01-01T00:00:00Z", "r2"),
        ("h", "x", "2030-01-01T00:00:00Z", None),
        ("g", "m", "2025-05-28T00:00:00Z", None),
    ],
)
def test_a_name_means_what_host_and_instant_say(policies: Policies, host: str, model: str, instant: str, contract: str | None) -> None:
    found = policies.deployment(host, model, parse_instant(instant))

    assert (found.contract.contract if found else None) == contract


def test_a_deployment_knows_what_its_id_fixes(policies: Policies) -> None:
    found = policies.deployment("h", "v/x", parse_instant("2026-01-01T00:00:00Z"))

    assert found is not None
    assert (found.name, found.thinking, found.host.host) == ("h/v/x", "on", "h")


def test_a_route_has_the_deployments_of_its_row(policies: Policies) -> None:
    route = policies.route("reasoner")

    assert route is not None
    assert route.deployments == (RouteTarget("h", "m"), RouteTarget("h", "v/x", "on"))


@pytest.mark.parametrize(
    ("instant", "contract"),
    [("2025-02-01T00:00:00Z", "r1"), ("2025-05-28T00:00:00Z", "r2"), ("2030-01-01T00:00:00Z", "r2")],
)
def test_host_and_model_are_a_route_under_the_deployments_own_contract(policies: Policies, instant: str, contract: str) -> None:
    route = policies.route("h/m")

    assert route is not None
    assert (route.deployments, route.contract_at(parse_instant(instant))) == ((RouteTarget("h", "m"),), contract)


@pytest.mark.parametrize("name", ["h", "m", "h/n", "x/m", "h/m/", ""])
def test_other_names_are_no_routes(policies: Policies, name: str) -> None:
    assert policies.route(name) is None


def test_a_snapshot_is_frozen(policies: Policies) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        policies.digest = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        policies.routes["reasoner"] = policies.routes["reasoner"]  # type: ignore[index]


def test_the_digest_names_the_files_and_not_the_folder(tmp_path: Path) -> None:
    one = load(write(tmp_path / "one", FILES))
    same = load(write(tmp_path / "two", FILES))
    other = load(write(tmp_path / "three", changed("rates.yaml", "7.1", "7.2")))

    assert one.digest == same.digest != other.digest


def test_a_snapshot_says_what_is_unverified(policies: Policies) -> None:
    assert policies.warnings == (
        "1 cards rest on unverified facts: x-1",
        "1 host rows rest on unverified facts: h/m",
    )


UNVERIFIED = "unverified prices in force, from a blog: x-1"


@pytest.mark.parametrize(
    ("instant", "warned"),
    [
        ("2025-02-01T00:00:00Z", []),
        ("2026-11-21T00:00:00Z", [UNVERIFIED]),
        ("2026-12-05T00:00:00Z", ["calendar days is known for 26 more days", UNVERIFIED]),
        ("2027-01-01T00:00:00Z", ["calendar days is known until 2026-12-31", UNVERIFIED]),
    ],
)
def test_warnings_are_those_of_the_instant(policies: Policies, instant: str, warned: list[str]) -> None:
    warnings = policies.warnings_at(parse_instant(instant))

    assert [text[: len(start)] for text, start in zip(warnings, warned, strict=True)] == warned


# The shipped folder and its schemas


def test_the_shipped_policies_load_fast(shipped: Policies) -> None:
    begun = process_time()
    again = load(default_folder())

    # 0.02 s of CPU; the limit only catches a loader that became slow by an order of magnitude.
    assert process_time() - begun < 1
    assert again.digest == shipped.digest


def test_every_deployment_of_every_shipped_route_is_there(shipped: Policies) -> None:
    for route in shipped.routes.values():
        for target in route.deployments:
            assert (target.host, target.model) in shipped.served


def test_there_is_a_schema_of_each_kind_for_a_list_and_for_a_single_row() -> None:
    assert set(schemas()) == set(KINDS)
    for kind, schema in schemas().items():
        name = KINDS[kind].__name__
        assert schema["anyOf"] == [{"type": "array", "items": {"$ref": f"#/$defs/{name}"}}, {"$ref": f"#/$defs/{name}"}]
        assert set(schema["$defs"][name]["properties"]) == {field.alias or key for key, field in KINDS[kind].model_fields.items()}


def test_schemas_know_no_other_keys() -> None:
    for kind, schema in schemas().items():
        for name, row in schema["$defs"].items():
            assert row["additionalProperties"] is False, f"{kind}: {name}"


def test_schemas_are_plain_json() -> None:
    for schema in schemas().values():
        assert json.loads(json.dumps(schema)) == schema
