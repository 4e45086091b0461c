"""The machine: descriptors, memory, processor, and the two ports, free or already those of a gateway."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from gateway.doctor.findings import Finding, failure, ok, warning
from gateway.doctor.network import Trip, Trouble, travel
from gateway.doctor.patient import Patient
from gateway.reports.text import many

# An answer takes one descriptor for its client and one for its host.
PER_STREAM: Final = 2
# Ledger, keys, spool, Redis, policies, logs.
OWN_FILES: Final = 64
FILES_LOW: Final = 4096
MIB: Final = 1 << 20
# An idle gateway takes less than this.
MEMORY_LOW: Final = 256 * MIB
_CGROUP: Final = Path("/sys/fs/cgroup")
_MEMINFO: Final = Path("/proc/meminfo")
_EVERY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
# Seconds for whatever answers on a port of this machine.
_WITHIN: Final = 1.0


def limits(patient: Patient) -> Iterator[Finding]:
    """What the system lets one process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    streams = max(0, (soft - OWN_FILES) // PER_STREAM)
    text = f"{soft} file descriptors: about {streams:,} answers at once"
    if soft < FILES_LOW:
        more = "ulimit -n 65536" if hard >= 65_536 else f"ulimit -n {hard}, or raise the hard limit"
        yield warning("limits", "descriptors", text, f"{more} (systemd: LimitNOFILE=65536)", descriptors=soft)
    else:
        yield ok("limits", "descriptors", text, descriptors=soft)
    yield from memory(_CGROUP, _MEMINFO)
    yield from processor(_CGROUP)


def memory(cgroup: Path, meminfo: Path) -> Iterator[Finding]:
    """What is left: of the container's limit, else of the machine."""
    most, used = _number(cgroup / "memory.max"), _number(cgroup / "memory.current")
    left = most - used if most is not None and used is not None else _available(meminfo)
    if left is None:
        return
    text = f"{left / MIB:,.0f} MiB left{'' if most is None else f' of the {most / MIB:,.0f} of this container'}"
    if left < MEMORY_LOW:
        remedy = "Give it 512 MiB or more: docs/operations.md says what open answers take."
        yield warning("limits", "memory", text, remedy, left_bytes=left)
    else:
        yield ok("limits", "memory", text, left_bytes=left)


def processor(cgroup: Path) -> Iterator[Finding]:
    """A quota below one core stretches every answer, since a gateway is one loop."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        return
    if quota != "max" and int(quota) < int(period):
        text = f"{int(quota) / int(period):.2f} cores: the loop stands still whenever they are used up"
        yield warning("limits", "processor", text, "Give it one core or more, and no CPU limit below that.")


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _available(meminfo: Path) -> int | None:
    try:
        rows = dict(line.split(":", 1) for line in meminfo.read_text().split("\n") if ":" in line)
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


async def ports(patient: Patient) -> list[Finding]:
    """Each port is free, or a gateway answers on it: then its own word on how it is."""
    settings = patient.settings
    both = (("FAREGATE_PORT", settings.host, settings.port), ("FAREGATE_ADMIN_PORT", settings.admin_host, settings.admin_port))
    return [one for found in await asyncio.gather(*(_port(*which) for which in both)) for one in found]


async def _port(variable: str, host: str, port: int) -> list[Finding]:
    if port == 0:
        return [ok("port", variable, "takes a free one")]
    if problem := _free(host, port):
        return await _taken(variable, host, port, problem)
    return [ok("port", variable, f"{host}:{port} is free")]


def _free(host: str, port: int) -> str | None:
    """None where we could listen there, else why not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            sock.listen(1)
        except OSError as problem:
            return problem.strerror or type(problem).__name__
    return None


async def _taken(variable: str, host: str, port: int, problem: str) -> list[Finding]:
    trip = Trip()
    shown = _EVERY.get(host, host)
    try:
        async with asyncio.timeout(_WITHIN):
            await travel(trip, f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/readyz", {})
    except (Trouble, TimeoutError):
        trip.status = 0
    state = _readiness(trip)
    if state is None:
        remedy = f"End what uses it (`ss -ltnp 'sport = :{port}'`), or set {variable} to a free port."
        return [failure("port", variable, f"{host}:{port} cannot be listened on ({problem})", remedy)]
    return list(_gateway(variable, f"{host}:{port}", state))


def _readiness(trip: Trip) -> dict[str, Any] | None:
    """The body of a gateway's /readyz; None where something else answers."""
    try:
        found = json.loads(trip.body) if trip.status in (200, 503) else None
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"ready", "policies"} <= found.keys() else None


def _gateway(variable: str, where: str, state: dict[str, Any]) -> Iterator[Finding]:
    if state["ready"]:
        yield ok("port", variable, f"a gateway answers on {where}, and is ready")
    else:
        why = "it drains" if state.get("draining") else "its ledger or its limits are not there"
        yield failure(
            "port", variable, f"a gateway answers on {where}, and is not ready: {why}", "See the findings about stores, and its log."
        )
    if variable != "FAREGATE_PORT":
        return
    if state.get("policies_error"):
        remedy = "Run `faregate check`, mend the folder; it is taken at once."
        yield failure("gateway", "policies", "its last reload was refused, the old policies are in force", remedy)
    if state.get("unsettled"):
        text = f"its ledger has not taken {many(state['unsettled'], 'record')}"
        yield warning("gateway", "spool", text, "Mend the ledger: they are replayed then.")
    for alarm in state.get("alarms") or ():
        yield warning("gateway", "alarm", str(alarm), "docs/failures.md says what ends it.")
