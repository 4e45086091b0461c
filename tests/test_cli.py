"""The command as a shell sees it: every verb's example, its JSON, its exit code, and one line for whatever is wrong."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import VERBS, command, main
from gateway.policies import default_folder
from tests.harness import LiveGateway, Process, environment, get_json

V4_PRO = ["quote", "--host", "deepseek", "--model", "deepseek-v4-pro", "--at", "2026-11-20T02:00:00Z", "--miss", "1000000"]


def run(*words: str, folder: Path, **settings: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of the command in an empty folder."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *words],
        cwd=folder,
        env=environment(PYTHONPATH=str(Path(__file__).parent.parent), **settings),
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, done.stdout, done.stderr


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """The same in this process."""
    try:
        code = main(words)
    except SystemExit as end:
        code = int(str(end.code))
    out, err = capsys.readouterr()
    return code, out, err


def json_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    code, out, err = said(capsys, *words)
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "--help")
    assert code == 0
    assert all(f"\n  {verb} " in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_shows_an_example(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, out, _ = said(capsys, verb, "--help")
    assert code == 0
    assert f"example:\n  {command(verb).EXAMPLE}" in out
    assert f"faregate {verb}" in command(verb).EXAMPLE


# Arguments -> exit code and a piece of the one line.
WRONG = {
    "nosuchverb": (2, "is not a command"),
    "quote": (2, "--host"),
    "quote --host deepseek --model deepseek-flash --miss many": (2, "invalid int value"),
    "quote --host deepseek --model deepseek-flash --miss -1": (2, "0 or more"),
    "quote --host deepseek --model deepseek-flash --at yesterday": (2, "2026-11-20T02:00:00Z"),
    "quote --host deepseek --model deepseek-flash --at 2026-11-20T02:00:00": (2, "time zone"),
    "quote --host deepseek --model nope": (1, "models of deepseek are"),
    "quote --host nobody --model nope": (1, "nobody"),
    "quote --host deepseek --model deepseek-reasoner --at 2026-11-20T00:00:00Z": (1, "retired"),
    "quote --host deepseek --model deepseek-chat --at 2020-01-01T00:00:00Z": (1, "deepseek-chat"),
    "check /no/such/folder": (1, "Hint:"),
    "schema nosuchschema": (2, "choose one of"),
    "emulate --host nobody": (2, "known:"),
    "emulate --host deepseek --clock noon": (2, "noon"),
    "verify --ledger sqlite:////no/such/ledger.db": (2, "there is no ledger"),
}


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_is_one_line(capsys: pytest.CaptureFixture[str], line: str) -> None:
    code, piece = WRONG[line]
    got, out, err = said(capsys, *line.split())
    assert (got, out) == (code, "")
    assert err.count("\n") == 1
    assert piece in err


def test_nothing_at_all_shows_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys)[0] == 2


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
    "no key": ({}, "FAREGATE_KEYS"),
    "a short key": ({"FAREGATE_KEYS": "search:short"}, "8 or more"),
    "no number": ({"FAREGATE_PORT": "http"}, "FAREGATE_PORT"),
    "an unknown setting": ({"FAREGATE_KEY": "search:0123456789"}, "FAREGATE_KEY"),
    "another store": ({"FAREGATE_KEYS": "a:0123456789", "FAREGATE_LEDGER": "postgresql://u:secret@h/d"}, "sqlite:///"),
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
