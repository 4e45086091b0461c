"""faregate spend and /admin/v1/spend: beside a gateway that runs, both say what its host billed, to the nano."""

from __future__ import annotations

import csv
import json
import urllib.error
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree

import apsw
import pytest

from gateway.money import decimal_text
from gateway.policies import default_folder, load
from tests.harness import ADMIN, KEY, LiveGateway, get_json, post
from tests.shell import json_of, said
from tests.tallied import Maker, file_of

# Peak in Beijing, the evening before in New York.
CLOCK = "2026-11-20T02:00:00Z"
ASK = {"model": "deepseek-flash", "messages": [{"role": "user", "content": "Tell me a story"}], "max_tokens": 40}


class Stage:
    """A gateway with a few answered requests of two teams, and what it charged for them."""

    def __init__(self, gateway: LiveGateway) -> None:
        self.gateway = gateway
        self.rows: list[dict[str, Any]] = []
        for key in (KEY, KEY, KEY + "2"):
            status, headers, _ = gateway.chat(ASK, key=key)
            assert status == 200
            self.rows.append(gateway.row(headers["x-request-id"]))

    @property
    def nano(self) -> int:
        return sum(row["nano"] for row in self.rows)

    def admin(self, **query: str) -> Any:
        return get_json(f"{self.gateway.admin_url}/admin/v1/spend?{urlencode(query)}", {"authorization": f"Bearer {ADMIN}"})

    def refusal(self, **query: str) -> str:
        with pytest.raises(urllib.error.HTTPError) as caught:
            self.admin(**query)
        with caught.value as error:
            assert error.code == 422
            text: str = json.loads(error.read())["error"]["message"]
            return text


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    settings = {"FAREGATE_KEYS": f"search:{KEY},ads:{KEY}2"}
    with LiveGateway(tmp_path_factory.mktemp("spend"), ("deepseek",), CLOCK, settings) as gateway:
        yield Stage(gateway)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAREGATE_CLOCK", CLOCK.replace("02:00", "03:00"))


def test_the_command_reads_the_ledger_of_a_gateway_that_runs(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    bill = {row["id"]: row["nano"] for row in stage.gateway.hosts["deepseek"].bill().values()}
    assert sum(bill.values()) == stage.nano > 0
    found = json_of(capsys, "spend", "--by", "team,class", "--json", "--ledger", f"sqlite:///{stage.gateway.ledger}")
    (total,) = found["totals"]
    assert (total["nano"], total["requests"], total["currency"], total["kind"]) == (stage.nano, None, "USD", "charge")
    parts: dict[tuple[str, str], int] = {}
    for row in stage.rows:
        for cls, nano in row["parts"].items():
            parts[row["team"], cls] = parts.get((row["team"], cls), 0) + nano
    assert {(line["team"], line["class"]): line["nano"] for line in found["lines"]} == {key: nano for key, nano in parts.items() if nano}
    assert total["baseline"]["currency"] == "USD" and float(total["baseline"]["spent"]) > float(total["spent"])


def test_the_admin_api_says_the_same_in_json_and_csv(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    named = {"by": "team,day,key", "zone": "America/New_York", "month": "2026-11"}
    lines = stage.admin(**named)
    words = ["spend", "--by", "team,day,key", "--zone", "America/New_York", "--month", "2026-11", "--json"]
    assert lines == json_of(capsys, *words, "--ledger", f"sqlite:///{stage.gateway.ledger}")["lines"]
    assert {(line["team"], line["day"], line["requests"]) for line in lines} == {("search", "2026-11-19", 2), ("ads", "2026-11-19", 1)}
    assert sum(line["nano"] for line in lines) == stage.nano
    headers = {"authorization": f"Bearer {ADMIN}"}
    url = f"{stage.gateway.admin_url}/admin/v1/spend?{urlencode({**named, 'format': 'csv'})}"
    status, kind, data = post(url, None, headers, "GET")
    assert (status, kind["content-type"]) == (200, "text/csv; charset=utf-8")
    assert [row["spent"] for row in csv.DictReader(StringIO(data.decode()))] == [line["spent"] for line in lines]


def test_the_admin_api_filters_and_knows_the_present_day(stage: Stage) -> None:
    (line,) = stage.admin(team="ads")
    assert (line["team"], line["nano"], line["spent"]) == ("ads", stage.rows[2]["nano"], decimal_text(stage.rows[2]["nano"]))
    assert stage.admin(host="novita") == []
    assert [line["route"] for line in stage.admin(by="route", last="1h", model="deepseek-flash")] == ["deepseek-flash"]
    assert stage.admin(**{"from": "2026-11-01", "to": "2026-11-20"}) == []


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"by": "colour"}, "`by`: cannot group by 'colour': choose of day, hour"),
        ({"month": "2026-13"}, "`month`: '2026-13' is no month."),
        ({"last": "7x"}, "`last`: '7x' is no length of time."),
        ({"zone": "Asia/Bejing"}, "`zone`: is not an IANA time zone"),
        ({"from": "yesterday"}, "`from` or `to`: 'yesterday' is no instant."),
        ({"to": "2026-11-20", "last": "7d"}, "Name one period"),
    ],
)
def test_what_the_admin_api_cannot_use_is_named(stage: Stage, query: dict[str, str], text: str) -> None:
    assert text in stage.refusal(**query)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("file") / "ledger.db"
    file_of(Maker(load(default_folder()), 5).rows(300), str(file)).close()
    return f"sqlite:///{file}"


def test_a_table_is_for_people(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "spend", "--by", "host", "--month", "2026-11", "--ledger", address)
    lines = out.splitlines()
    assert (code, err, lines[0].split()[:4]) == (0, "", ["host", "currency", "spent", "estimated"])
    assert [line.split()[:2] for line in lines[-3:-1]] == [["total", "CNY"], ["total", "USD"]]
    assert lines[-1] == "from 2026-11-01T00:00:00Z to 2026-12-01T00:00:00Z, days of UTC"


def test_pictures_are_drawn_in_the_terminal_and_into_a_file(address: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["spend", "--by", "day,team", "--month", "2026-11", "--ledger", address, "--chart"]
    code, out, _ = said(capsys, *words)
    assert (code, "█" in out, "2026-11-02 ads" in out) == (0, True, True)
    code, out, err = said(capsys, *words, str(tmp_path / "spend.svg"))
    assert code == 0 and out.startswith("day ") and err == f"faregate: the picture is in {tmp_path / 'spend.svg'}\n"
    assert ElementTree.parse(tmp_path / "spend.svg").getroot().get("aria-label") == "Spend by day, team"
    code, out, _ = said(capsys, "spend", "--csv", "--ledger", address, "--last", "3w")
    assert out.splitlines()[0].startswith("team,kind,currency,spent,")


def test_what_is_not_counted_is_said_beside_the_csv(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A month of UTC that is archived cannot be cut at midnight in Beijing."""
    db = file_of([], str(tmp_path / "ledger.db"))
    db.execute("INSERT INTO closed VALUES ('2025-09', 'search', 'USD', 103, 1, 0)")
    db.close()
    words = ["spend", "--month", "2025-09", "--ledger", f"sqlite:///{tmp_path}/ledger.db", "--csv"]
    assert said(capsys, *words)[1].splitlines()[1].startswith("search,archived,USD,0.000000103,")
    code, out, err = said(capsys, *words, "--zone", "Asia/Shanghai")
    assert (code, len(out.splitlines())) == (0, 1)
    assert err == "faregate: requests of 2025-09 (UTC) are archived: what of them belongs here is not counted\n"


def test_the_admin_api_says_what_is_not_counted(tmp_path: Path) -> None:
    with LiveGateway(tmp_path, ("deepseek",), CLOCK) as gateway:
        with apsw.Connection(str(gateway.ledger)) as db:
            db.execute("INSERT INTO closed VALUES ('2025-09', 'search', 'USD', 103, 1, 0)")
        for form in ("json", "csv"):
            url = f"{gateway.admin_url}/admin/v1/spend?month=2025-09&zone=Asia/Shanghai&format={form}"
            status, headers, _ = post(url, None, {"authorization": f"Bearer {ADMIN}"}, "GET")
            assert status == 200
            assert headers["x-faregate-notes"] == "requests of 2025-09 (UTC) are archived: what of them belongs here is not counted"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--by", "colour"], "--by: cannot group by 'colour'"),
        (["--zone", "Asia/Bejing"], "--zone: is not an IANA time zone: 'Asia/Bejing'. Hint: write UTC or Asia/Shanghai"),
        (["--month", "2026-13"], "--month: '2026-13' is no month. Write it as 2026-11."),
        (["--last", "7x"], "--last: '7x' is no length of time. Write it as 24h, 7d or 4w."),
        (["--from", "2026-11-20T02:00:00"], "--from or --to: '2026-11-20T02:00:00' has no time zone."),
        (["--today", "--to", "2026-11-20"], "--to belongs to --from."),
        (["--today", "--month", "2026-11"], "not allowed with argument"),
        (["--chart", "--csv"], "--chart draws bars, and --csv prints data: pass one of them"),
        (["--json", "--chart"], "--chart FILE.svg --json"),
        (["--chart", "spend.png"], "does not end in .svg"),
        (["--chart", "/no/such/folder/spend.svg"], "cannot be written"),
        (["--ledger", "sqlite:////no/such/ledger.db"], "there is no ledger at"),
    ],
)
def test_what_cannot_be_shown_is_one_line(address: str, capsys: pytest.CaptureFixture[str], words: list[str], text: str) -> None:
    code, out, err = said(capsys, "spend", "--ledger", address, *words)
    assert code != 0 and out == "" and text in err
    assert len(err.splitlines()) == 1
