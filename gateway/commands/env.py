"""faregate env: the lines that point a tool at this gateway, in the words of a shell; each tool was tried (docs/clients.md)."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from gateway.cli import CommandError
from gateway.commands.folder import HELP
from gateway.policies import default_folder
from gateway.policies import load as load_policies
from gateway.settings import Settings, SettingsError, load

EXAMPLE = """eval "$(faregate env openai)"
  faregate env opencode --key fg-… --shell fish | source
  faregate env continue > ~/.continue/config.yaml"""
# The name that is asked for where nothing else is said, if the policies have it.
USUAL: Final = "deepseek-flash"
# Tools that people ask for, and that speak a protocol which is not served here.
OTHERS: Final = {
    "claude": "Claude Code speaks Anthropic's protocol (/v1/messages), which Faregate does not serve",
    "codex": "Codex speaks /v1/responses only, which Faregate does not serve",
    "openai-agents": "the Agents SDK asks /v1/responses unless set_default_openai_api('chat_completions') is called; then `openai` fits",
    "cursor": "Cursor sends from its own servers: put the gateway behind public HTTPS, and set its address in Cursor's settings",
}


@dataclass(frozen=True, slots=True)
class Target:
    """What a tool is pointed at: the base URL with /v1, a caller's key, the name of a model."""

    url: str
    key: str
    model: str


Variables = Callable[[Target], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Tool:
    """How one tool is told: by variables, or by the text of a file; `then` is what to run next."""

    then: str
    variables: Variables | None = None
    file: Callable[[Target], str] | None = None


def _openai(target: Target) -> Mapping[str, str]:
    return {"OPENAI_BASE_URL": target.url, "OPENAI_API_KEY": target.key}


def _both(target: Target) -> Mapping[str, str]:
    """For those that read the older name."""
    return {**_openai(target), "OPENAI_API_BASE": target.url}


def _aider(target: Target) -> Mapping[str, str]:
    # Without the second, it asks about each model that its own list does not know.
    named = {"AIDER_MODEL": f"openai/{target.model}", "AIDER_SHOW_MODEL_WARNINGS": "false"}
    return {"OPENAI_API_BASE": target.url, "OPENAI_API_KEY": target.key, **named}


def _qwen(target: Target) -> Mapping[str, str]:
    return {**_openai(target), "OPENAI_MODEL": target.model}


def _opencode(target: Target) -> Mapping[str, str]:
    options = {"baseURL": target.url, "apiKey": target.key}
    provider = {"npm": "@ai-sdk/openai-compatible", "name": "Faregate", "options": options, "models": {target.model: {}}}
    name = f"faregate/{target.model}"
    config = {"$schema": "https://opencode.ai/config.json", "provider": {"faregate": provider}, "model": name, "small_model": name}
    return {"OPENCODE_CONFIG_CONTENT": json.dumps(config)}


def _continue(target: Target) -> str:
    model = {
        "name": target.model,
        "provider": "openai",
        "model": target.model,
        "apiBase": target.url,
        "apiKey": target.key,
        "roles": ["chat"],
    }
    lines = ["name: Faregate", "version: 1.0.0", "schema: v1", "models:"]
    return "\n".join([*lines, "  - " + json.dumps(model)])


TOOLS: Final[Mapping[str, Tool]] = {
    "openai": Tool("python: OpenAI().chat.completions.create(model={model}, …); node: new OpenAI()", _openai),
    "langchain": Tool("python: ChatOpenAI(model={model}, stream_usage=True)", _both),
    "litellm": Tool("python: litellm.completion(model={openai_model}, …)", _both),
    "pydantic-ai": Tool("python: Agent('openai-chat:' + {model})", _openai),
    "aider": Tool("aider", _aider),
    "opencode": Tool("opencode", _opencode),
    "qwen": Tool("qwen --auth-type openai", _qwen),
    "continue": Tool("cn --config THIS_FILE", file=_continue),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tool", metavar="TOOL", help=", ".join(TOOLS))
    parser.add_argument("--shell", choices=["sh", "fish", "powershell"], default="sh", help="whose words to use (default sh)")
    parser.add_argument("--url", help="the gateway's base URL (default: that of the settings)")
    parser.add_argument("--key", help="a caller's key (default: the only one in FAREGATE_KEYS)")
    parser.add_argument("--model", help=f"the model to ask for (default {USUAL}, or the first route)")
    parser.add_argument("--policies", type=Path, help=HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    tool = TOOLS.get(args.tool) or _unknown(args.tool)
    try:
        settings = load()
    except SettingsError as problem:
        raise CommandError(str(problem)) from None
    target = Target(_url(args.url, settings), _key(args.key, settings), args.model or _model(args.policies, settings))
    print(json.dumps(_object(args.tool, tool, target)) if args.json else _text(tool, target, args.shell))
    return 0


def _unknown(name: str) -> NoReturn:
    if name in OTHERS:
        raise CommandError(f"{OTHERS[name]}. These work: {', '.join(TOOLS)}.")
    raise CommandError(f"{name!r} is no tool that was tried. Use one of {', '.join(TOOLS)}; most others take what `openai` takes.")


def _url(named: str | None, settings: Settings) -> str:
    """With /v1, whether it was given with it or not."""
    if named is None:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
        if not settings.port:
            raise CommandError("FAREGATE_PORT is 0, so the port is not known here. Pass --url http://127.0.0.1:PORT.")
        named = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", named):
        raise CommandError(f"--url: {named!r} is no base URL. Write it as http://127.0.0.1:8080.")
    return named.rstrip("/").removesuffix("/v1") + "/v1"


def _key(named: str | None, settings: Settings) -> str:
    if named is not None:
        if not named.isascii() or not named.isprintable() or not named or " " in named:
            raise CommandError("--key: a key has printable ASCII characters without spaces.")
        return named
    if len(settings.keys) == 1:
        return settings.keys[0].key.get_secret_value()
    many = f"FAREGATE_KEYS has {len(settings.keys)}" if settings.keys else "FAREGATE_KEYS is not set"
    raise CommandError(f"which key? {many}. Pass --key; `faregate keys create --team NAME` makes one.")


def _model(folder: Path | None, settings: Settings) -> str:
    routes = load_policies(folder or settings.policies or default_folder()).routes
    if not routes:
        raise CommandError("there is no route to name. Pass --model HOST/MODEL, or write one into routes.yaml.")
    return USUAL if USUAL in routes else next(iter(routes))


def _object(name: str, tool: Tool, target: Target) -> dict[str, Any]:
    variables = dict(tool.variables(target)) if tool.variables else None
    return {"tool": name, "variables": variables, "file": tool.file(target) if tool.file else None, "then": _then(tool, target)}


def _text(tool: Tool, target: Target, shell: str) -> str:
    if tool.file is not None:
        return f"# then: {_then(tool, target)}\n{tool.file(target)}"
    assert tool.variables is not None, "a tool has variables or a file"
    lines = [SHELLS[shell](name, value) for name, value in tool.variables(target).items()]
    return "\n".join([*lines, f"# then: {_then(tool, target)}"])


def _then(tool: Tool, target: Target) -> str:
    return tool.then.format(model=json.dumps(target.model), openai_model=json.dumps(f"openai/{target.model}"))


def _fish(name: str, value: str) -> str:
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"set -gx {name} '{quoted}'"


def _powershell(name: str, value: str) -> str:
    quoted = value.replace("'", "''")
    return f"$env:{name} = '{quoted}'"


SHELLS: Final[Mapping[str, Callable[[str, str], str]]] = {
    "sh": lambda name, value: f"export {name}={shlex.quote(value)}",
    "fish": _fish,
    "powershell": _powershell,
}
