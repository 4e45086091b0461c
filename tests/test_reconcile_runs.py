"""Reconciliation of a real run: a gateway, emulated hosts with a bill and an export of their own, the command, and /metrics after it.

The host's clock is 90 seconds ahead of ours, over the edge of a price window: whatever ends in between is billed at another price.
"""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest

from gateway.cli import main
from gateway.commands.reconcile import _instant
from gateway.reconcile.bills import Bill, BillKey, BillLine
from gateway.reconcile.exports import day_of
from tests.harness import EmulatedHost, LiveGateway, environment, post, post_json

OURS, THEIRS = "2026-11-20T00:59:00Z", "2026-11-20T01:00:30Z"
PRO, R1 = "deepseek/deepseek-v4-pro", "openrouter/deepseek/deepseek-r1-0528"
OWN, FOREIGN = "emulated-deepseek", "sk-somebody-elses"


class Run(NamedTuple):
    """What is left of a run: the folder with the exports, the gateway, the hosts' own bills."""

    folder: Path
    gateway: LiveGateway
    deepseek: EmulatedHost
    openrouter: EmulatedHost

    def reconcile(self, *words: str, export: str = "deepseek.zip") -> tuple[int, str, str]:
        return self.command("reconcile", str(self.folder / export), *words, DEEPSEEK_API_KEY=OWN)

    def command(self, *words: str, **settings: str) -> tuple[int, str, str]:
        """(exit code, standard output, standard error) of the command in this process."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(self.folder)
            for name, value in {"FAREGATE_DATA": str(self.folder / "data"), **settings}.items():
                patch.setenv(name, value)
            code = main(words)
        return code, out.getvalue(), err.getvalue()

    def json(self, *words: str, export: str = "deepseek.zip") -> dict[str, Any]:
        code, out, err = self.reconcile(*words, "--json", export=export)
        assert (code, err) == (0, "")
        found: dict[str, Any] = json.loads(out)
        return found

    def gauge(self, name: str) -> dict[str, float]:
        lines = [line for line in self.gateway.metrics().splitlines() if line.startswith(f"faregate_{name}{{")]
        return {line.split('host="')[1].split('"')[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


def ask(gateway: LiveGateway, model: str, wish: str = "answer=200") -> None:
    status, _, data = gateway.chat({"model": model, "messages": [{"role": "user", "content": f"hello [[{wish}]]"}], "stream": True})
    assert status == 200, data


def past_us(host: EmulatedHost, key: str, answer: int) -> None:
    """A request that does not go through the gateway."""
    body = {"model": "deepseek-flash", "messages": [{"role": "user", "content": f"hello [[answer={answer}]]"}]}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    assert post(host.url + "/chat/completions", json.dumps(body).encode(), headers)[0] == 200


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("reconcile")
    deepseek = EmulatedHost("deepseek", folder, THEIRS)
    settings = {"FAREGATE_BALANCE_POLL": "1"}
    try:
        with LiveGateway(folder, ("openrouter",), OURS, settings, urls={"deepseek": deepseek.url}) as gateway:
            for _ in range(3):
                ask(gateway, PRO)
            deepseek.faults({"usage": "none"})
            ask(gateway, PRO)
            for _ in range(2):
                ask(gateway, R1)
            past_us(deepseek, OWN, 60_000)
            past_us(deepseek, FOREIGN, 500)
            made = Run(folder, gateway, deepseek, gateway.hosts["openrouter"])
            for name, host in (("deepseek.zip", deepseek), ("openrouter.jsonl", made.openrouter)):
                (folder / name).write_bytes(fetched(host, "wait=5"))
            for columns in ("old", "new"):
                for file in ("amount", "cost"):
                    (folder / f"{file}-{columns}.csv").write_bytes(fetched(deepseek, f"columns={columns}&file={file}"))
            yield made
    finally:
        deepseek.close()


def fetched(host: EmulatedHost, query: str) -> bytes:
    with urllib.request.urlopen(f"{host.root}/_emulator/export?{query}", timeout=10) as answer:
        data: bytes = answer.read()
        return data


def by_reason(found: dict[str, Any]) -> dict[str, float]:
    return {each["reason"]: float(each["amount"]) for each in found["reasons"] if each["reason"] != "rounding"}


def billed(host: EmulatedHost, account: str) -> int:
    return sum(row["nano"] for row in host.bill().values() if row["account"] == account)


def test_every_difference_of_the_run_is_explained(made: Run) -> None:
    found = made.json()
    assert set(by_reason(found)) <= {"peak_edge", "other_traffic", "counted"}
    assert by_reason(found)["peak_edge"] == pytest.approx(
        billed(made.deepseek, OWN) / 1e9 - float(found["charged"]) - rest(found), abs=1e-6
    )
    assert float(found["billed"]) == pytest.approx(billed(made.deepseek, OWN) / 1e9, abs=1e-7)
    (other,) = found["other_keys"]
    assert (other["key"], other["requests"]) == ("key-2", 1)
    assert float(other["amount"]) == pytest.approx(billed(made.deepseek, FOREIGN) / 1e9, abs=1e-8)
    assert found["notes"] == ["taken as this ledger's: key key-1, by its masked form"]
    assert found["account"] == "emulated-user"


def test_a_day_that_is_not_over_by_the_gateways_clock_is_said(made: Run) -> None:
    for clock, missing in (("2026-11-20T12:00:00Z", True), ("2026-11-21T00:00:00Z", False)):
        code, out, _ = made.command("reconcile", "deepseek.zip", "--json", DEEPSEEK_API_KEY=OWN, FAREGATE_CLOCK=clock)
        said = "2026-11-20 is not over yet there: what was billed since the export is missing in it"
        assert code == 0 and (said in json.loads(out)["notes"]) is missing


def rest(found: dict[str, Any]) -> float:
    """What is not the edge of the window."""
    return sum(amount for reason, amount in by_reason(found).items() if reason != "peak_edge")


def test_openrouters_records_and_the_ledger_agree_to_the_nano(made: Run) -> None:
    found = made.json(export="openrouter.jsonl")
    assert (found["difference"], found["gap"], found["cells"]) == ("0", "0", [])
    assert float(found["billed"]) == pytest.approx(billed(made.openrouter, "emulated-openrouter") / 1e9, abs=1e-12)


def test_both_sets_of_columns_and_single_files_say_the_same(made: Run) -> None:
    whole = made.json()
    for columns in ("old", "new"):
        cells = made.json(export=f"amount-{columns}.csv")["cells"]
        assert [(cell["class"], cell["difference"]) for cell in cells] == [
            (cell["class"], cell["difference"]) for cell in whole["cells"] if cell["class"]
        ]
    costs = made.json(export="cost-new.csv")
    assert {cell["class"] for cell in costs["cells"]} == {None}


def test_the_old_columns_of_beijing_days_need_their_zone(made: Run) -> None:
    found = made.json("--zone", "Asia/Shanghai", export="amount-old.csv")
    assert found["from"] == "2026-11-19T16:00:00Z"


def test_dates_are_the_hosts_own_and_silent_days_around_are_compared(made: Run) -> None:
    """Its day of the 20th begins at 16:00 UTC of the 19th."""
    found = made.json("--from", "2026-11-18", "--to", "2026-11-22")
    assert (found["from"], found["to"]) == ("2026-11-17T16:00:00Z", "2026-11-21T16:00:00Z")
    assert made.json("--from", "2026-11-20", "--to", "2026-11-21")["billed"] == found["billed"]
    assert made.json("--from", "2026-11-19T16:00:00Z", "--to", "2026-11-20T16:00:00Z")["billed"] == found["billed"]


def test_dates_are_the_hosts_own_also_where_the_clocks_change() -> None:
    """1 November 2026 has 25 hours in New York."""
    zone = ZoneInfo("America/New_York")
    days = [day_of(date(2026, 10, 25) + timedelta(number), zone) for number in range(12) if number != 4]
    bill = Bill("deepseek", tuple(BillLine(day, "u", "m", BillKey("k", ""), "output", 1, 1, 1) for day in days))
    for text, first, last in (("2026-11-02", "2026-11-02", "2026-11-01"), ("2026-10-29", "2026-10-30", "2026-10-28")):
        at = _instant("--from", text, bill)
        assert (bill.within(at, None).spans[0].name, bill.within(None, at).spans[-1].name) == (first, last)
    assert _instant("--to", "2026-11-08", bill) == day_of(date(2026, 11, 8), zone).start
    assert _instant("--from", "2026-10-20", bill) == day_of(date(2026, 10, 20), zone).start


def test_what_is_said_for_people(made: Run) -> None:
    code, out, _ = made.reconcile("--key-map", "key-1=ours", "--key-map", "key-2=batch")
    assert code == 0
    assert out.startswith("deepseek account emulated-user, 2026-11-20: billed ")
    assert "peak_edge (1.98 a million with us, 3.96 a million with the host; 4 such answers)" in out
    assert "beside it: key key-2, batch's, was billed" in out


def test_corrections_are_appended_once_and_close_the_gap(made: Run) -> None:
    before = made.json("--propose", str(made.folder / "proposed.json"))
    assert before["applied"] is None
    assert before["not_proposed"].keys() == {"other_traffic"}
    proposed = json.loads((made.folder / "proposed.json").read_text())
    assert sum(float(each["amount"]) for each in proposed) == pytest.approx(sum(float(each["amount"]) for each in before["proposed"]))
    assert {each["team"] for each in proposed} == {"search"}

    code, out, err = made.reconcile("--apply")
    assert (code, out) == (2, "")
    assert "pass --yes" in err
    assert typed(made, "no") == "faregate: nothing was appended."
    assert made.json()["proposed"] == before["proposed"], "nothing was appended"

    first = made.json("--apply", "--yes")
    assert first["applied"] == len(proposed)
    assert float(first["gap"]) == pytest.approx(float(before["not_proposed"]["other_traffic"]))
    assert made.gauge("reconcile_gap")["deepseek"] == pytest.approx(float(first["gap"]))
    assert made.json("--apply", "--yes")["applied"] is None, "there was nothing left to append"

    all_of_it = made.json("--apply", "--yes", "--include", "all")
    assert all_of_it["gap"] == "0"
    after = made.json("--exit-code")
    assert (after["gap"], after["not_proposed"]) == ("0", {}), "what was asked for once is in the ledger"
    assert made.gauge("reconcile_gap")["deepseek"] == 0.0
    assert 0 <= made.gauge("reconcile_age_seconds")["deepseek"] < 60
    code, out, _ = made.command("verify")
    assert (code, out.strip().endswith("every invariant holds")) == (0, True)


def typed(made: Run, word: str) -> str:
    """What --apply says last to somebody at a terminal who types this."""
    terminal, ours = pty.openpty()
    command = [sys.executable, "-m", "gateway", "reconcile", str(made.folder / "deepseek.zip"), "--apply"]
    settings = environment(FAREGATE_DATA=str(made.folder / "data"), DEEPSEEK_API_KEY=OWN, PYTHONPATH=str(Path(__file__).parent.parent))
    with subprocess.Popen(command, stdin=ours, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=settings) as process:
        os.write(terminal, f"{word}\n".encode())
        _, err = process.communicate(timeout=30)
    os.close(terminal)
    os.close(ours)
    return err.strip().rpartition("`: ")[2]


def test_the_balance_fell_by_more_than_was_charged(made: Run) -> None:
    """Long before there is an export: the request that went past the gateway with its key."""
    until = time.monotonic() + 10
    while not made.gauge("balance_gap").get("deepseek") and time.monotonic() < until:
        time.sleep(0.1)
    assert 99 < made.gauge("host_balance")["deepseek"] < 100
    assert 0 < made.gauge("balance_gap")["deepseek"] <= billed(made.deepseek, OWN) / 1e9
    assert made.gauge("balance_gap")["openrouter"] == 0.0
    assert OWN not in made.gateway.log


REFUSED: dict[str, tuple[list[str], str]] = {
    "no such host": (["--host", "deepsek"], "--host: no host is named 'deepsek'; known are "),
    "no such zone": (["--zone", "Beijing"], "--zone: 'Beijing' is no time zone. Write it as Asia/Shanghai or UTC."),
    "no such key": (["--key-map", "key-9=ours"], "--key-map: the export has no key 'key-9'; it has key-1, key-2."),
    "half a pair": (["--key-map", "key-1"], "--key-map: 'key-1' has no name on both sides of its equals sign."),
    "no such reason": (["--include", "luck"], "--include: 'luck' is none of missing_day, "),
    "another currency": (["--currency", "CNY"], "--currency CNY: the export is in USD."),
    "another time": (["--from", "2026-12-01"], "the export has no line of a whole day in that time."),
    "no instant": (["--from", "soon"], "--from: 'soon' is no instant."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared_is_refused_in_one_line(made: Run, case: str) -> None:
    words, said = REFUSED[case]
    code, out, err = made.reconcile(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"faregate: {said}")


def test_several_keys_need_a_word_where_none_of_them_looks_like_ours(made: Run) -> None:
    code, _, err = made.command("reconcile", str(made.folder / "deepseek.zip"))
    assert code == 2
    assert "the export has the keys key-1, key-2: say which are this ledger's with --key-map NAME=ours." in err


def test_a_wrong_export_or_credit_is_refused_by_the_emulator(made: Run) -> None:
    for query in ("columns=middle", "offset=soon"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            fetched(made.deepseek, query)
        with caught.value as refusal:
            assert refusal.code == 400
    assert post_json(made.deepseek.root + "/_emulator/credit", {"amount": "100.00"}) == {"credit": "100"}
