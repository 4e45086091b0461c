"""Every verb of the command: what it prints for people and for scripts, and how it refuses to start."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest

from gateway.policies import default_folder
from tests.harness import LiveGateway, Process, environment, get_json
from tests.shell import json_of, run, said

V4_PRO = ["quote", "--host", "deepseek", "--model", "deepseek-v4-pro", "--at", "2026-11-20T02:00:00Z", "--miss", "1000000"]


def test_quote_prints_what_scripts_rely_on(capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(capsys, *V4_PRO, "--output", "1000000", "--json")
    assert (found["currency"], found["nano"], found["amount"], found["window"]) == ("USD", 5_280_000_000, "5.28", "peak")
    assert [(line["class"], line["nano"]) for line in found["lines"]] == [("cache_miss", 1_320_000_000), ("output", 3_960_000_000)]
    code, out, _ = said(capsys, *V4_PRO)
    assert (code, out.split()[:2]) == (0, ["1.32", "USD"])


def test_check_counts_what_it_read(capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(capsys, "check", "--json")
    assert found["ok"] is True
    assert min(found[name] for name in ("contracts", "hosts", "cards", "routes")) > 5
    assert said(capsys, "check")[1].startswith(str(default_folder()))


def test_check_counts_one_thing_as_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    shutil.copytree(default_folder(), folder)
    (folder / "teams").mkdir(exist_ok=True)
    (folder / "teams" / "ads.yaml").write_text('team: ads\nroutes: ["*"]\n')
    assert ", 1 team; digest " in said(capsys, "check", str(folder))[1]


def test_check_names_file_and_line_of_a_mistake(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    shutil.copytree(default_folder(), folder)
    routes = folder / "routes.yaml"
    routes.write_text(routes.read_text() + "- {route: odd, contract: no-such-contract, deployments: [deepseek/deepseek-flash]}\n")
    line = routes.read_text().count("\n")
    code, _, err = said(capsys, "check", str(folder))
    assert code == 1
    assert f"routes.yaml:{line}: " in err
    assert "Hint:" in err
    code, out, err = said(capsys, "check", str(folder), "--json")
    assert (code, json.loads(out)["ok"], err) == (1, False, "")


def test_schema_prints_one_or_all(capsys: pytest.CaptureFixture[str]) -> None:
    every = json_of(capsys, "schema")
    assert {"contracts", "hosts", "prices", "routes"} <= set(every)
    assert json_of(capsys, "schema", "prices") == every["prices"]


# Settings -> a piece of the one line; `serve` never starts and never shows a traceback.
UNFIT = {
    "a host that does not exist": ({"FAREGATE_KEYS": "a:0123456789", "FAREGATE_BASE_URL_DEPSEEK": "http://h"}, "DEPSEEK names no host"),
    "a currency that nobody bills": ({"FAREGATE_KEYS": "a:0123456789", "FAREGATE_CURRENCY_DEEPSEEK": "EUR"}, "set it to CNY or USD"),
    "no key": ({}, "FAREGATE_KEYS"),
    "a short key": ({"FAREGATE_KEYS": "search:short"}, "8 or more"),
    "no number": ({"FAREGATE_PORT": "http"}, "FAREGATE_PORT"),
    "an unknown setting": ({"FAREGATE_KEY": "search:0123456789"}, "FAREGATE_KEY"),
    "no pepper": ({"FAREGATE_KEYS": "a:0123456789", "FAREGATE_LEDGER": "postgresql://u:secret@h/d"}, "FAREGATE_KEY_PEPPER"),
    "no folder": ({"FAREGATE_KEYS": "a:0123456789", "FAREGATE_DATA": "/proc/nothing"}, "FAREGATE_DATA"),
    "no policies": ({"FAREGATE_KEYS": "a:0123456789", "FAREGATE_POLICIES": "/no/such/folder"}, "Hint:"),
    "a foreign address": ({"FAREGATE_KEYS": "a:0123456789", "FAREGATE_HOST": "203.0.113.1"}, "FAREGATE_"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_serve_explains_what_it_cannot_use(tmp_path: Path, case: str) -> None:
    settings, piece = UNFIT[case]
    code, out, err = run("serve", folder=tmp_path, **settings)
    assert code == (1 if case == "no policies" else 2)
    assert out == ""
    assert piece in err.splitlines()[-1]
    assert "Traceback" not in err
    assert "secret" not in err


def test_serve_makes_nothing_beside_keys_of_another_pepper(tmp_path: Path) -> None:
    """A folder that was restored without its pepper: what was made there would be taken for it."""
    data = tmp_path / "data"
    own = {"FAREGATE_DATA": str(data)}
    assert run("keys", "create", "--team", "search", folder=tmp_path, **own)[0] == 0
    (data / "key-pepper").rename(tmp_path / "kept")
    before = sorted(data.iterdir())
    for words in (("serve",), ("keys", "list")):
        code, out, err = run(*words, folder=tmp_path, **own)
        assert (code, out) == (2, "") and f"{data / 'key-pepper'} is not there" in err
        assert sorted(data.iterdir()) == before
    code, _, err = run("serve", folder=tmp_path, FAREGATE_KEY_PEPPER="f" * 64, **own)
    assert code == 2 and "made with another pepper" in err and sorted(data.iterdir()) == before
    (tmp_path / "kept").rename(data / "key-pepper")
    code, out, _ = run("keys", "list", folder=tmp_path, **own)
    assert code == 0 and "search" in out


def test_serve_makes_nothing_beside_a_database_with_keys_of_another_pepper(tmp_path: Path, postgres_url: str) -> None:
    own = {"FAREGATE_DATA": str(tmp_path / "data"), "FAREGATE_LEDGER": postgres_url}
    assert run("keys", "create", "--team", "search", folder=tmp_path, **own, FAREGATE_KEY_PEPPER="e" * 64)[0] == 0
    code, _, err = run("serve", folder=tmp_path, **own, FAREGATE_KEY_PEPPER="f" * 64)
    assert code == 2 and "another pepper" in err
    assert not (tmp_path / "data").exists()


def test_emulate_says_where_it_is_and_ends_well(tmp_path: Path) -> None:
    command_line = [sys.executable, "-m", "gateway", "emulate", "--host", "novita", "--vocabulary", "fast"]
    process = Process(command_line, environment(), tmp_path / "emulator.log")
    place = json.loads(process.wait_for("base_url"))
    assert place["host"] == "novita"
    assert place["base_url"] == place["url"] + "/openai/v1"
    assert get_json(place["url"] + "/_emulator/bill") == []
    assert process.close() == 0


def test_verify_judges_a_ledger(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with LiveGateway(tmp_path, ("deepseek",)) as gateway:
        assert gateway.chat({"model": "deepseek-flash", "messages": [{"role": "user", "content": "Hi"}]})[0] == 200
    address = f"sqlite:///{gateway.ledger}"
    assert json_of(capsys, "verify", "--ledger", address, "--json") == {"ok": True, "ledger": str(gateway.ledger), "problems": []}
    damage(gateway.ledger)
    code, out, err = said(capsys, "verify", "--ledger", address)
    assert (code, err) == (1, "")
    assert "do not sum to its charge" in out


def damage(ledger: Path) -> None:
    """One row costs a nano more than its entries."""
    connection = sqlite3.connect(ledger)
    connection.execute("UPDATE request SET nano = nano + 1")
    connection.commit()
    connection.close()
