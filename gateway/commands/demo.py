"""faregate demo: the whole gateway on one machine, without a key: a real engine, emulated hosts, a receipt for every answer."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from gateway.cli import CommandError
from gateway.demo.play import conversation
from gateway.demo.stage import EMULATED, Stage
from gateway.policies import Policies, default_folder, load

EXAMPLE = "faregate demo --once"

MODELS = {
    "local": "local/gemma3-270m",
    "deepseek": "deepseek-flash",
    "novita": "novita/deepseek/deepseek-r1-0528",
    "openrouter": "openrouter/deepseek/deepseek-r1-0528",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="end after the conversations instead of serving on")
    parser.add_argument("--port", type=int, default=8080, help="the gateway's port (default 8080)")
    parser.add_argument("--admin-port", type=int, default=8081, help="the admin port (default 8081)")
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--without-engine", action="store_true", help="leave the local engine out")
    parts.add_argument("--only-engine", action="store_true", help="leave the emulated hosts out")
    parser.add_argument("--clock", help="INSTANT[*RATE]: play at another date, e.g. 2025-02-01T00:00:00Z")


def run(args: argparse.Namespace) -> int:
    policies = load(default_folder())
    client_type = _client_type()
    with tempfile.TemporaryDirectory(prefix="faregate-demo-") as folder:
        stage = Stage(Path(folder), args.port, args.admin_port)
        # Ended from outside, it still ends what it has started.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            stage.open(_real_keys(policies), args.clock, () if args.only_engine else EMULATED, engine=not args.without_engine)
            _play(stage, client_type(base_url=stage.base_url, api_key=stage.key, max_retries=0), policies, args)
            _invite(stage, args.once)
            if not args.once:
                stage.wait()
        finally:
            stage.close()
    return 0


def _client_type() -> Any:
    try:
        return importlib.import_module("openai").OpenAI
    except ImportError:
        raise CommandError("the demonstration needs the openai client: pip install 'faregate[local]', or `make demo`") from None


def _real_keys(policies: Policies) -> dict[str, str]:
    """Hosts whose real key is in the environment: they are used as they are, instead of an emulated one."""
    return {name: host.key for name, host in policies.hosts.items() if host.key and os.environ.get(host.key)}


def _play(stage: Stage, client: Any, policies: Policies, args: argparse.Namespace) -> None:
    for name in stage.real:
        print(f"{name}: its real key is set, so these answers cost real money")
    if not stage.local and not args.without_engine:
        print("local engine: not installed (pip install 'faregate[local]'); left out")
    for model in _models(stage) if args.clock is None else ["deepseek-reasoner"]:
        conversation(client, model, stage, policies, print)


def _models(stage: Stage) -> list[str]:
    hosts = [*(["local"] if stage.local else []), *stage.emulated, *stage.real]
    return [MODELS[host] for host in hosts if host in MODELS]


def _invite(stage: Stage, once: bool) -> None:
    if once:
        return
    headers = f"-H 'Authorization: Bearer {stage.key}' -H 'Content-Type: application/json'"
    ask = '{"model": "deepseek-flash", "messages": [{"role": "user", "content": "Hello"}]'
    print(
        f"\nGo on with it (Ctrl-C ends; the emulators answer with made-up text, sometimes in Chinese):\n"
        f"  curl -i {stage.base_url}/chat/completions {headers} \\\n"
        f"    -d '{ask}}}'\n"
        f"  curl -N {stage.base_url}/chat/completions {headers} \\\n"
        f'    -d \'{ask}, "stream": true, "stream_options": {{"include_usage": true}}}}\'\n'
        f"  curl -H 'Authorization: Bearer {stage.admin_token}' 'http://127.0.0.1:{stage.admin_port}/admin/v1/requests?limit=1'\n"
        f"  curl http://127.0.0.1:{stage.admin_port}/metrics"
    )
