"""`faregate emulate`: the arguments, the running server, and an emulator in a thread of its own for synchronous callers."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import threading
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any

from gateway.emulator.behaviour import Behaviour, BehaviourError, read_behaviour
from gateway.emulator.clocks import parse_clock
from gateway.emulator.faults import FaultError
from gateway.emulator.reader import ShelfError
from gateway.emulator.server import Emulator, Setup

CURRENCIES = ("USD", "CNY")
EXAMPLE = "faregate emulate --host deepseek --port 9001 --clock 2026-11-20T02:00:00Z*60"


class CommandError(Exception):
    """One line for standard error, with the remedy."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", required=True, help="the host to play, as policies/hosts names it")
    parser.add_argument("--port", type=int, default=0, help="default: a free one, printed")
    parser.add_argument("--bind", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--clock", metavar="INSTANT[*RATE][@REAL]", help="business time, for prices and model names")
    parser.add_argument("--script", metavar="FILE", type=Path, help="JSON list of faults, one for each next request")
    parser.add_argument("--currency", default=os.environ.get("EMULATOR_CURRENCY", "USD"), help="price list of the account: USD or CNY")
    parser.add_argument("--policies", type=Path, help="folder of policies; default: the shipped one")
    parser.add_argument("--vocabulary", choices=("deepseek", "fast"), default="deepseek", help="fast: pseudo-tokens, for load tests")
    parser.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="override a name of the dialect, e.g. reasoning=inline"
    )
    parser.add_argument("--prices", metavar="FILE", type=Path, help="rate cards in the place of those in the policies")
    _add_behaviour(parser.add_argument_group("how it really behaves", "whatever its row says; seconds are those of --clock"))


def _add_behaviour(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--cache", metavar="MODE[:TOKENS]", help="its prefix cache: blocks, units, slots or none")
    group.add_argument("--ttl", metavar="SECONDS", type=float, help="an unused prefix lives so long; each use begins it anew")
    group.add_argument("--lag", metavar="SECONDS", type=float, help="a prefix can be hit so long after it was written")
    group.add_argument("--hit-rate", metavar="Q", type=float, help="a known prefix is hit with this probability")
    group.add_argument("--output", metavar="TOKENS", type=int, help="mean length of an answer that is not told its own, with a heavy tail")
    group.add_argument("--first-token", metavar="SECONDS", type=float, help="until an answer begins")
    group.add_argument("--pace", metavar="TOKENS", type=float, help="tokens a second of each answer; default: at once")
    group.add_argument("--fail-rate", metavar="Q", type=float, help="a request fails with this probability")
    group.add_argument("--fault", metavar="JSON", type=json.loads, help='what those get, as in a script; default {"status": 503}')
    group.add_argument("--seed", metavar="N", type=int, help="of all that is left to chance; default 0")


def setup_of(options: argparse.Namespace, default_policies: Path) -> Setup:
    """The setup that the arguments describe; raises CommandError."""
    try:
        clock = parse_clock(options.clock) if options.clock else None
        script = json.loads(options.script.read_text(encoding="utf-8")) if options.script else []
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from None
    if options.currency.upper() not in CURRENCIES:
        raise CommandError(f"--currency {options.currency}: an account is billed in {' or '.join(CURRENCIES)}")
    return Setup(
        host=options.host,
        policies=options.policies or default_policies,
        clock=clock,
        currency=options.currency.upper(),
        vocabulary=options.vocabulary,
        writes=dict(_override(text) for text in options.set) or None,
        script=tuple(script),
        bind=options.bind,
        port=options.port,
        behaviour=_behaviour(options),
        prices=options.prices,
    )


def _behaviour(options: argparse.Namespace) -> Behaviour:
    stated = {item.name: getattr(options, item.name) for item in fields(Behaviour)}
    try:
        return read_behaviour({name: value for name, value in stated.items() if value is not None})
    except BehaviourError as error:
        raise CommandError(str(error)) from None


def _override(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise CommandError(f"--set {text}: write it as NAME=VALUE")
    return name, {"true": True, "false": False, "null": None}.get(value, value)


def make(setup: Setup) -> Emulator:
    """The emulator of a setup; raises CommandError."""
    try:
        return Emulator(setup)
    except (ShelfError, FaultError, TypeError) as error:
        raise CommandError(str(error)) from None


async def run(setup: Setup) -> None:
    """Serves until SIGINT or SIGTERM."""
    emulator = make(setup)
    try:
        await emulator.start()
    except OSError as error:
        raise CommandError(f"cannot listen on {setup.bind}:{setup.port}: {error.strerror}") from None
    print(json.dumps({"host": setup.host, "url": emulator.url, "base_url": emulator.base_url}), flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await emulator.stop()


class EmulatorThread:
    """An emulator on an event loop in a thread of its own: `with EmulatorThread(setup) as emulator: emulator.url`."""

    def __init__(self, setup: Setup) -> None:
        self.emulator = make(setup)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Emulator:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.emulator.start(), self._loop).result(10)
        return self.emulator

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self.emulator.stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
