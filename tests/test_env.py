"""`faregate env` prints lines that a shell takes, and that point a real client at a gateway."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gateway.commands.env import OTHERS, SHELLS, TOOLS
from tests.harness import KEY, LiveGateway, environment
from tests.shell import json_of, said

ROOT = Path(__file__).resolve().parent.parent
URL = "http://127.0.0.1:9999"
# What a shell would take for its own in a value.
TRICKY = 'it\'s "a" $HOME `x` \\n #1 {y} %z'


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("FAREGATE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_openais_client_asks_through_the_gateway_after_the_eval(tmp_path: Path) -> None:
    """The command of the docs, in a real shell, and the SDK with nothing else set."""
    program = (
        "import openai; ask = openai.OpenAI().chat.completions.create; said = [dict(role='user', content='hi')];"
        " print(ask(model='deepseek-flash', messages=said, max_tokens=9).usage.cost)"
    )
    with LiveGateway(tmp_path) as live:
        script = f'eval "$({sys.executable} -m gateway env openai --url {live.root} --key {KEY})" && {sys.executable} -c "{program}"'
        done = subprocess.run(
            ["sh", "-c", script],
            env=environment(PYTHONPATH=str(ROOT)),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (row,) = live.rows()
    assert float(done.stdout) == row["nano"] / 1e9 > 0


@pytest.mark.parametrize("value", ["plain", TRICKY])
def test_sh_reads_every_value_back(value: str) -> None:
    line = SHELLS["sh"]("SOME_VALUE", value)
    done = subprocess.run(["sh", "-c", f'{line}\nprintf %s "$SOME_VALUE"'], capture_output=True, text=True, check=True)
    assert done.stdout == value


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("fish", "set -gx V 'it\\'s \\\\n $x'"),
        ("powershell", "$env:V = 'it''s \\n $x'"),
    ],
)
def test_other_shells_quote_in_their_own_way(shell: str, line: str) -> None:
    assert SHELLS[shell]("V", "it's \\n $x") == line


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_reads_every_value_back() -> None:
    done = subprocess.run(["fish", "-c", f"{SHELLS['fish']('V', TRICKY)}; printf %s $V"], capture_output=True, text=True, check=True)
    assert done.stdout == TRICKY


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_is_told_address_key_and_is_described_as_tried(capsys: pytest.CaptureFixture[str], tool: str) -> None:
    found = json_of(capsys, "env", tool, "--url", URL, "--key", "fg-some-key", "--model", "some/model", "--json")
    told = found["file"] or json.dumps(found["variables"])
    assert f"{URL}/v1" in told and "fg-some-key" in told
    assert "some/model" in told + found["then"] or tool == "openai"
    docs = (ROOT / "docs" / "clients.md").read_text()
    assert any(line.startswith(f"| `{tool}`") for line in docs.splitlines()), f"docs/clients.md does not say when {tool} was tried"


def test_files_are_what_their_tools_read(capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load(json_of(capsys, "env", "continue", "--url", URL, "--key", "k'\"1", "--json")["file"])
    (model,) = config["models"]
    assert (model["apiBase"], model["apiKey"], model["provider"]) == (f"{URL}/v1", "k'\"1", "openai")
    content = json_of(capsys, "env", "opencode", "--url", URL, "--key", "k", "--json")["variables"]["OPENCODE_CONFIG_CONTENT"]
    assert json.loads(content)["provider"]["faregate"]["options"] == {"baseURL": f"{URL}/v1", "apiKey": "k"}


# Settings and words -> the URL that is printed.
URLS = {
    "the default": ({}, "", "http://127.0.0.1:8080/v1"),
    "every interface": ({"FAREGATE_HOST": "0.0.0.0", "FAREGATE_PORT": "81"}, "", "http://127.0.0.1:81/v1"),
    "IPv6": ({"FAREGATE_HOST": "::1"}, "", "http://[::1]:8080/v1"),
    "named with /v1": ({}, "https://gate.example/llm/v1/", "https://gate.example/llm/v1"),
    "named without": ({}, "https://gate.example", "https://gate.example/v1"),
}


@pytest.mark.parametrize("case", URLS)
def test_the_address_is_that_of_the_settings_or_the_one_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    variables, named, url = URLS[case]
    for name, value in ({"FAREGATE_KEYS": "search:only-key-1"} | variables).items():
        monkeypatch.setenv(name, value)
    found = json_of(capsys, "env", "openai", "--json", *(["--url", named] if named else []))
    assert found["variables"] == {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "only-key-1"}


# Words and settings -> a piece of the one line.
WRONG = {
    "env nosuchtool --key k": ({}, "no tool that was tried"),
    "env claude --key k": ({}, "/v1/messages"),
    "env codex --key k": ({}, "/v1/responses"),
    "env openai": ({}, "faregate keys create"),
    "env openai --json": ({"FAREGATE_KEYS": "a:key-number-1,b:key-number-2"}, "FAREGATE_KEYS has 2"),
    "env openai --key k --url nowhere": ({}, "http://127.0.0.1:8080"),
    "env aider --key k": ({"FAREGATE_PORT": "0"}, "--url"),
}


@pytest.mark.parametrize("line", WRONG)
def test_what_is_missing_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    variables, piece = WRONG[line]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, out, err = said(capsys, *line.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert piece in err and "key-number" not in err


def test_tools_that_cannot_work_are_not_offered() -> None:
    assert not set(OTHERS) & set(TOOLS)
