"""The patient: the settings and policies that are looked at, and how a look that blocks is kept from blocking the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import TypeVar

from gateway.hosts import Host
from gateway.policies import Policies
from gateway.settings import Settings
from gateway.timekeeping import clock_for
from gateway.upstream.accounts import Account, UnusableKey, account_for

T = TypeVar("T")


@dataclass(frozen=True)
class Patient:
    """What is looked at. `accounts` are the hosts that are reached from here, `lacking` says what others need, `spoilt` whose key is none.

    `at` is the gateway's own clock, which decides prices and names; certificates and hosts' clocks are compared with the real one.
    """

    settings: Settings
    policies: Policies
    folder: Path
    at: datetime
    accounts: Mapping[str, Account] = field(default_factory=dict)
    lacking: Mapping[str, str] = field(default_factory=dict)
    spoilt: Mapping[str, str] = field(default_factory=dict)

    def hosts(self) -> list[tuple[Host, Account]]:
        return [(self.policies.hosts[name], account) for name, account in self.accounts.items()]


def patient_of(settings: Settings, policies: Policies, folder: Path) -> Patient:
    """The patient, with its hosts sorted into those that can be reached and those that cannot."""
    accounts: dict[str, Account] = {}
    lacking: dict[str, str] = {}
    spoilt: dict[str, str] = {}
    for name, host in policies.hosts.items():
        try:
            found = account_for(host, settings)
        except UnusableKey as problem:
            spoilt[name] = str(problem)
            continue
        if isinstance(found, Account):
            accounts[name] = found
        else:
            lacking[name] = found
    return Patient(settings, policies, folder, clock_for(settings.clock).now(), accounts, lacking, spoilt)


def real_now() -> datetime:
    return datetime.now(UTC)


async def threaded(work: Callable[[], T]) -> T:
    """What `work` returns, from a thread that nobody waits for at the end: a look that hangs is left behind."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def told(result: T | None, problem: BaseException | None) -> None:
        if answer.done():
            return
        if problem is not None:
            answer.set_exception(problem)
        else:
            answer.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, problem = None, None
        try:
            result = work()
        except Exception as caught:
            # Whatever it is: raised again where it is waited for.
            problem = caught
        try:
            loop.call_soon_threadsafe(told, result, problem)
        except RuntimeError:
            # The loop has ended: nobody waits any more.
            return

    Thread(target=run, daemon=True).start()
    return await answer
