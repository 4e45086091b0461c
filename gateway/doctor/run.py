"""All looks at once: each bounded in time, none of them able to end the others, in an order that is always the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Final

from gateway.app import on_postgres
from gateway.doctor import configuration, credentials, hosts, machine, stores
from gateway.doctor.findings import Finding, failure
from gateway.doctor.patient import Patient, threaded

# Seconds that one look may take.
WITHIN: Final = 5.0

Look = Callable[[Patient], Iterator[Finding]]
AsyncLook = Callable[[], Awaitable[list[Finding]]]

QUICK: Final[tuple[Look, ...]] = (
    configuration.settings,
    configuration.policies,
    configuration.calendars,
    configuration.prices,
    configuration.routes,
    configuration.engines,
    credentials.host_keys,
    credentials.callers,
    credentials.files,
    stores.data,
    stores.spool,
    machine.limits,
)


async def examine(patient: Patient, *, offline: bool = False) -> list[Finding]:
    """Every finding, in the order of the looks. `offline`: nothing beyond this machine's disks and ports is asked."""
    looks: list[tuple[str, str, AsyncLook]] = [(look.__name__, "", partial(_quick, look, patient)) for look in QUICK]
    looks.append(("port", "", partial(machine.ports, patient)))
    if not offline or not on_postgres(patient.settings):
        looks.append(("ledger", "", partial(stores.ledger, patient)))
    if not offline:
        looks.append(("redis", "", partial(stores.redis, patient)))
        looks += [("http", host.host, partial(hosts.look, patient, host, account)) for host, account in patient.hosts()]
    results = await asyncio.gather(*(bounded(check, subject, look) for check, subject, look in looks))
    found = [one for result in results for one in result]
    return [*found, *hosts.clock(found)]


async def _quick(look: Look, patient: Patient) -> list[Finding]:
    # In a thread: a disk that hangs must not hold up the rest.
    return await threaded(lambda: list(look(patient)))


async def bounded(check: str, subject: str, look: AsyncLook, within: float = WITHIN) -> list[Finding]:
    """What a look found; where it hangs or fails itself, that is the finding."""
    try:
        async with asyncio.timeout(within):
            return await look()
    except TimeoutError:
        return [failure(check, subject or "all", f"no answer within {within:g} s", "Try again; if it stays so, what it asks hangs.")]
    except Exception as problem:
        # One look that fails for a reason of its own must not hide what the others found. The text may hold a key: the type does not.
        text = f"the look itself failed ({type(problem).__name__})"
        return [failure(check, subject or "all", text, "Report it, with the output of `faregate doctor --json`.")]
