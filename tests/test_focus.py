"""The FOCUS export: its costs are the ledger to the nano, its prices give them back, and the specification's own validator agrees."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from io import StringIO
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.clock import parse_instant
from gateway.focus.columns import OURS, STANDARD, amount, csv_line, list_cost, meets, scaled_text, unit_price
from gateway.focus.lines import Export, FocusError
from gateway.ledger.port import Closed
from gateway.ledger.tallies import tally
from gateway.money import MILLION, NANO, charge
from gateway.outcome import Attempt, Correction, LedgerRow
from gateway.policies import Policies, default_folder, load
from gateway.reports.periods import month
from gateway.reports.spending import tariffs
from gateway.reports.tallies import Name, lines_of
from gateway.usage import Usage
from tests.ledgers import ROW
from tests.servers import missing
from tests.shell import said
from tests.stores import charged
from tests.tallied import START, Maker, file_of

ROOT = Path(__file__).parent.parent
VALIDATOR = ROOT / ".venv/focus"
NOVEMBER = month("2026-11", ZoneInfo("UTC"))
MANDATORY = (
    "BilledCost BillingAccountId BillingAccountName BillingCurrency BillingPeriodStart BillingPeriodEnd ChargeCategory ChargeClass"
    " ChargeDescription ChargePeriodStart ChargePeriodEnd ContractedCost EffectiveCost InvoiceIssuerName ListCost"
    " PricingQuantity PricingUnit"
    " ProviderName PublisherName ServiceCategory ServiceName ChargeFrequency InvoiceId ServiceSubcategory"
).split()
DECIMALS = "PricingQuantity ConsumedQuantity ListUnitPrice ContractedUnitPrice ListCost ContractedCost EffectiveCost BilledCost".split()
# A null breaks it; a value breaks another; without the column seven are broken.
KNOWN = {"InvoiceId-C-005-C"}
CORRECTIONS = (
    Correction("c1", parse_instant("2026-11-03T15:20:00Z"), "ads", "ads-1", "", "deepseek", "deepseek-v4-pro", "USD", -7, "output",
               "peak edge", "usage.csv", "r17"),
    Correction("c2", parse_instant("2026-11-30T23:59:59Z"), "", "", "", "", "", "CNY", 12_000_000_001, "", "other traffic", "usage.csv"),
)  # fmt: skip


@cache
def policies() -> Policies:
    return load(default_folder())


@cache
def made() -> tuple[LedgerRow, ...]:
    return tuple(Maker(policies(), 11).rows(500))


def exported(
    rows: Sequence[LedgerRow], corrections: Sequence[Correction] = (), details: tuple[Name, ...] = (), account: str | None = None
) -> list[dict[str, str]]:
    written: list[str] = []
    export = Export(NOVEMBER, tariffs(policies()), written.append, details, account)
    export.begin()
    tally(file_of(rows), export.question, export.take)
    export.correct(corrections)
    return list(csv.DictReader(StringIO("".join(written))))


def nano(text: str) -> int:
    exact = Decimal(text) * NANO
    assert exact == int(exact), text
    return int(exact)


def billed(lines: Sequence[dict[str, str]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for line in lines:
        found[line["BillingCurrency"]] += nano(line["BilledCost"])
    return found


def prices_of(lines: Sequence[dict[str, str]]) -> dict[str, set[tuple[str, str]]]:
    """What each SkuPriceId stands for: one model at one price, but where the price was made of the cost."""
    found: dict[str, set[tuple[str, str]]] = {}
    for line in lines:
        if line["SkuPriceId"] and line["x_Card"] and line["PricingUnit"] != "Charges":
            found.setdefault(line["SkuPriceId"], set()).add((line["SkuId"], line["ListUnitPrice"] if line["x_Window"] else ""))
    return found


def in_november(rows: Sequence[LedgerRow]) -> list[LedgerRow]:
    return [row for row in rows if NOVEMBER.start <= row.ended < NOVEMBER.end]


# Numbers


@given(st.integers(0, 10**15), st.integers(1, 10**12), st.sampled_from([1, MILLION]))
@example(1, 3, MILLION)
@example(10**15, 7, 1)
def test_a_unit_price_gives_its_cost_back_to_the_nano(cost: int, quantity: int, of: int) -> None:
    price = unit_price(cost, quantity, of)
    assert re.fullmatch(r"\d+\.\d+", price)
    assert abs(Decimal(price) * quantity / of * NANO - cost) < Decimal("0.5")


@given(st.integers(0, 10**12), st.integers(0, 10**10))
def test_a_list_cost_is_exact(rate: int, tokens: int) -> None:
    assert Decimal(list_cost(rate, tokens)) == Decimal(amount(rate)) * tokens / MILLION


@given(st.integers(-(10**18), 10**18), st.integers(0, 12))
def test_a_number_is_written_with_a_point_and_without_an_exponent(number: int, places: int) -> None:
    text = scaled_text(number, places)
    assert re.fullmatch(r"-?\d+\.\d+", text)
    assert Decimal(text).scaleb(places) == number


def test_numbers_as_they_are_written() -> None:
    assert [amount(12 * NANO), amount(5_280_000_000), amount(1), amount(-1), amount(0)] == [
        "12.0",
        "5.28",
        "0.000000001",
        "-0.000000001",
        "0.0",
    ]
    assert unit_price(336_000_000, 1_200_000, MILLION) == "0.28"
    assert not meets(280_000_000, 3, 1) and meets(280_000_000, 1_000_000, 280_000_000)
    assert (
        csv_line({"ListCost": "1.0", "ChargeDescription": 'a "b", c'}, ("ChargeDescription", "InvoiceId", "ListCost"))
        == '"a ""b"", c",,1.0\n'
    )


# Lines


def test_hit_miss_and_output_are_lines_of_their_own_priced_by_the_card_of_the_window() -> None:
    at = parse_instant("2026-11-20T02:00:00Z")
    card = policies().prices.card("deepseek", "deepseek-v4-pro", "USD", at)
    band = card.band(at)
    usage = Usage(3_400_000, 1_200_000, 500_000, 100_000)
    parts = charge(band.rates, usage.cache_hit, usage.cache_miss, usage.output)
    row = charged("r", parts.total, usage=usage, ended=at, card=card.name, window=band.window, attempts=())
    lines = exported([replace(row, parts=parts, disputed=False)])
    assert [(line["x_TokenClass"], line["ConsumedQuantity"], line["PricingQuantity"]) for line in lines] == [
        ("cache_hit", "3400000.0", "3.4"),
        ("cache_miss", "1200000.0", "1.2"),
        ("output", "500000.0", "0.5"),
    ]
    assert [line["ListUnitPrice"] for line in lines] == ["0.044", "1.32", "3.96"] == [line["ContractedUnitPrice"] for line in lines]
    assert [line["BilledCost"] for line in lines] == ["0.1496", "1.584", "1.98"] == [line["ListCost"] for line in lines]
    assert {line["PricingCategory"] for line in lines} == {"Dynamic"} and band.window == "peak"
    assert {(line["x_Window"], line["InvoiceId"], line["ChargeClass"]) for line in lines} == {("peak", "", "")}
    assert {(line["ChargePeriodStart"], line["ChargePeriodEnd"]) for line in lines} == {("2026-11-20T02:00:00Z", "2026-11-20T03:00:00Z")}
    assert {(line["BillingPeriodStart"], line["BillingPeriodEnd"]) for line in lines} == {("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z")}
    assert [line["x_Requests"] for line in lines] == ["0", "0", "1"]
    assert {line["Tags"] for line in lines} == {'{"team":"search"}'}


def test_what_a_host_states_itself_has_a_contracted_price_of_its_own() -> None:
    at = parse_instant("2026-11-20T12:00:00Z")
    card = policies().prices.card("openrouter", "deepseek/deepseek-r1-0528", "USD", at)
    used = Usage(0, 0, 1_000_000)
    row = charged(
        "r", 2_000_000_001, usage=used, ended=at, card=card.name, window="standard", host="openrouter", model=card.models[0], attempts=()
    )
    (line,) = exported([replace(row, disputed=False)])
    assert (line["BilledCost"], line["ContractedUnitPrice"], line["ListUnitPrice"]) == (
        "2.000000001",
        "2.000000001",
        amount(card.rates.output),
    )
    assert (line["ListCost"], line["PricingCategory"]) == (amount(card.rates.output), "Standard")


def test_each_attempt_is_billed_by_its_own_host_by_its_own_card() -> None:
    told = (
        Attempt("novita", "n", "timeout", "possible", 60, (4, 6, 2), (10, 20, 30), "n-card", "standard"),
        Attempt("deepseek", "deepseek-v4-pro", "ok", "known", 340, (60, 4, 28), (40, 130, 170), "card", "peak"),
    )
    row = replace(ROW, attempts=told, ended=parse_instant("2026-11-20T12:00:00Z"))
    found = [
        (line["ProviderName"], line["x_Card"], line["x_TokenClass"], line["BilledCost"], line["x_Estimated"]) for line in exported([row])
    ]
    assert found == [
        ("deepseek", "card", "cache_hit", "0.00000004", "false"), ("deepseek", "card", "cache_miss", "0.00000013", "false"),
        ("deepseek", "card", "output", "0.00000017", "false"), ("novita", "n-card", "cache_hit", "0.00000001", "true"),
        ("novita", "n-card", "cache_miss", "0.00000002", "true"), ("novita", "n-card", "output", "0.00000003", "true"),
    ]  # fmt: skip


@pytest.mark.parametrize("details", [(), ("key",), ("key", "route")])
def test_the_costs_are_the_ledger_and_every_price_gives_its_cost_back(details: tuple[Name, ...]) -> None:
    lines = exported(made(), CORRECTIONS, details)
    expected = Counter({"USD": -7, "CNY": 12_000_000_001})
    for row in in_november(made()):
        expected[row.currency] += row.nano
    assert billed(lines) == expected
    for line in lines:
        assert line["BilledCost"] == line["EffectiveCost"] == line["ContractedCost"]
        assert all(re.fullmatch(r"-?\d+\.\d+", line[name]) for name in DECIMALS if line[name]), line
        if not line["ChargeClass"]:
            contracted = Decimal(line["ContractedUnitPrice"]) * Decimal(line["PricingQuantity"])
            assert abs(contracted - Decimal(line["ContractedCost"])) < Decimal("0.5e-9")
            listed = Decimal(line["ListUnitPrice"]) * Decimal(line["PricingQuantity"])
            # Where no card is known, the price is made of the cost.
            assert listed in (Decimal(line["ListCost"]), contracted)
    assert max(map(len, prices_of(lines).values())) == 1
    # A request that used nothing and cost nothing has no line.
    november = in_november(made())
    used = [row for row in november if any(list(lines_of(row))[-1].sums[1:5])]
    assert len(used) <= sum(int(line["x_Requests"]) for line in lines) <= len(november)
    assert {tuple(json.loads(line["Tags"])) for line in lines if not line["ChargeClass"]} == {tuple(sorted(("team", *details)))}


def test_a_line_is_one_hour_of_one_team_at_one_price() -> None:
    names = "ChargePeriodStart SubAccountId x_Host x_Model x_Card x_Window x_TokenClass x_Estimated x_Disputed BillingCurrency".split()
    lines = exported(made())
    assert max(Counter(tuple(line[name] for name in names) for line in lines).values()) == 1
    assert [line["ChargePeriodStart"] for line in lines] == sorted(line["ChargePeriodStart"] for line in lines)


def test_the_columns_are_those_of_the_specification_and_ours_come_last() -> None:
    assert set(MANDATORY) <= set(STANDARD)
    assert all(name.startswith("x_") for name in OURS) and not any(name.startswith("x_") for name in STANDARD)
    lines = exported(made()[:20], details=("key",), account="acct-1")
    assert list(lines[0]) == [*STANDARD, *OURS, "x_Key"]
    assert {line["BillingAccountId"] for line in lines} == {"acct-1"}


def test_a_correction_has_its_class_and_no_price() -> None:
    first, second = exported([], CORRECTIONS)
    assert (first["ChargeClass"], first["ChargeCategory"], first["BilledCost"], first["ListCost"]) == (
        "Correction",
        "Usage",
        "-0.000000007",
        "-0.000000007",
    )
    assert (first["ChargePeriodStart"], first["ChargePeriodEnd"]) == ("2026-11-03T15:00:00Z", "2026-11-03T16:00:00Z")
    assert [first[name] for name in ("ListUnitPrice", "ContractedUnitPrice", "PricingQuantity", "SkuPriceId")] == [""] * 4
    assert [first[f"x_Correct{name}"] for name in ("ionId", "ionReason", "ionSource", "edRequest")] == [
        "c1",
        "peak edge",
        "usage.csv",
        "r17",
    ]
    assert (second["ProviderName"], second["SubAccountId"], second["SkuId"], second["BilledCost"]) == ("unknown", "", "", "12.000000001")


def test_an_archived_month_is_refused_because_sums_are_no_lines() -> None:
    export = Export(NOVEMBER, tariffs(policies()), print)
    with pytest.raises(FocusError, match="archived"):
        export.archive([Closed("2026-11", "ads", "USD", 70, 3, 20)])


# The command


def ledger_in(folder: Path, rows: Sequence[LedgerRow] = ()) -> str:
    file_of(rows, str(folder / "ledger.db")).close()
    return f"sqlite:///{folder}/ledger.db"


def test_the_command_writes_a_file_that_is_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAREGATE_CLOCK", "2026-12-02T00:00:00Z")
    address, out = ledger_in(tmp_path, made()[:100]), tmp_path / "focus.csv"
    words = ["export", "focus", "--month", "2026-11", "--ledger", address]
    code, printed, err = said(capsys, *words, "--out", str(out), "--json")
    assert (code, err) == (0, "")
    found = json.loads(printed)
    lines = list(csv.DictReader(StringIO(out.read_text())))
    assert found["costs"] == {currency: amount(cost).removesuffix(".0") for currency, cost in billed(lines).items()}
    assert (found["lines"], found["focus"], found["note"]) == (len(lines), "1.2", None)
    code, printed, err = said(capsys, *words, "--with", "route")
    assert (code, err, next(csv.DictReader(StringIO(printed)))["x_Route"] in ("r1", "v4")) == (0, "", True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["focus.csv", "ledger.db"]


def test_a_file_that_cannot_be_whole_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = file_of(made()[:20], str(tmp_path / "ledger.db"))
    db.execute("INSERT INTO closed (month, team, currency, nano, requests, estimated) VALUES ('2026-11', 'ads', 'USD', 70, 3, 20)")
    db.close()
    out = tmp_path / "focus.csv"
    words = ["export", "focus", "--month", "2026-11", "--ledger", f"sqlite:///{tmp_path}/ledger.db", "--out", str(out)]
    code, printed, err = said(capsys, *words)
    assert (code, printed, len(err.splitlines())) == (2, "", 1)
    assert "the requests of 2026-11 are archived" in err
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.db"]
    assert said(capsys, *words[:-2])[:2] == (2, ""), "standard output takes nothing back"
    assert said(capsys, *words[:-3], "sqlite:////no/such/ledger.db")[:2] == (1, "")


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--month", "2026-11", "--json"], "add --out FILE"),
        (["--month", "11/2026"], "Write it as 2026-11."),
        (["--month", "2026-11", "--zone", "Asia/Bejing"], "Asia/Bejing"),
        (["--month", "2026-11", "--with", "colour"], "'colour' is not one of key, route"),
        (["--month", "2026-11", "--out", "/no/such/folder/x.csv"], "Name another file"),
        (["--month", "2026-11", "--out", "/tmp"], "/tmp is there, and no file"),
        (["--month", "2026-11", "--focus-version", "1.4"], "invalid choice"),
        (["--month", "2026-11", "--ledger", "sqlite:////no/such/ledger.db"], "there is no ledger"),
    ],
)
def test_what_cannot_be_exported_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], text: str) -> None:
    code, out, err = said(capsys, "export", "focus", "--ledger", ledger_in(tmp_path), *more)
    assert code != 0 and text in err and len(err.splitlines()) == 1
    assert "BilledCost,BilledCost" not in out


def test_a_month_that_is_not_over_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAREGATE_CLOCK", "2026-11-20T02:00:00Z")
    code, out, err = said(capsys, "export", "focus", "--month", "2026-11", "--ledger", ledger_in(tmp_path))
    assert (code, out.splitlines()[0].split(",")[0]) == (0, "BillingAccountId")
    assert "the month is not over: it ends at 2026-12-01T00:00:00Z" in err


# The validator


def python_3_12() -> bool:
    """Whether this machine has the one Python that the validator's packages are made for."""
    return bool(shutil.which("python3.12") or list(Path.home().glob(".pyenv/versions/3.12*/bin/python")) or sys.version_info[:2] == (3, 12))


def test_the_validator_finds_nothing_but_the_rule_that_contradicts_another(tmp_path: Path) -> None:
    program = VALIDATOR / "bin/focus-validator"
    if not program.exists():
        if not python_3_12():
            pytest.skip("the validator of FOCUS needs Python 3.12, and this machine has none: docs/focus.md")
        missing("the validator of FOCUS is not installed: make focus-checks")
    data = tmp_path / "focus.csv"
    written: list[str] = []
    export = Export(NOVEMBER, tariffs(policies()), written.append, ("key",))
    export.begin()
    tally(file_of(made()[:150]), export.question, export.take)
    export.correct(CORRECTIONS)
    data.write_text("".join(written))
    kinds = {(line["ChargeClass"], line["x_Estimated"], line["x_TokenClass"]) for line in csv.DictReader(StringIO("".join(written)))}
    assert {("", "true", ""), ("", "true", "output"), ("", "false", "cache_hit"), ("Correction", "", "output")} <= kinds

    # It opens one of its own files by a path that is relative to where its package lies, and leaves a log there: here it is a link.
    (package,) = VALIDATOR.glob("lib/python3*/site-packages/focus_validator")
    (tmp_path / "focus_validator").symlink_to(package, target_is_directory=True)
    command = [str(program), "--data-file", str(data), "--validate-version", "1.2", "--block-download", "--focus-dataset", "CostAndUsage"]
    report = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120).stdout

    (counts,) = re.findall(r"Total: (\d+) \| Pass: (\d+) \| Fail: (\d+) \| Skipped: (\d+)", report)
    assert set(re.findall(r"(?m)^\W*([\w-]+): FAIL", report)) == KNOWN, report[-4000:]
    # All other rules pass, or cannot be checked from one file.
    assert tuple(map(int, counts)) == (578, 136, len(KNOWN), 441)


def test_rows_begin_before_the_month_so_that_its_edges_are_tested() -> None:
    assert START < NOVEMBER.start and len(in_november(made())) < len(made())
