"""For tests of the answer side: deployments built from a few words, streams run through a shape, and the cases in streams/."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.assemble import decorate_usage
from gateway.contracts import Contract
from gateway.hosts import Deployment, Host
from gateway.limits import StopRule
from gateway.meter import Meter
from gateway.money import Money
from gateway.shape import StreamShape

STREAMS = Path(__file__).parent / "streams"
COST = Money(1_234_567, "USD")
MARKS = ("--- host sends", "--- client gets", "--- client that asked for usage gets", "--- result")


def deployment(writes: dict[str, Any] | None = None, contract: dict[str, Any] | None = None, thinking: str | None = None) -> Deployment:
    rules = {"contract": "c", "released": "2025-01-20", "context": {"tokens": 65536}, "max_tokens": {"counts": "total", "max": 65536}}
    model = {"model": "m", "contract": "c", "from": "2025-01-20T00:00:00Z"}
    host = Host.model_validate({"host": "h", "models": [model], "writes": writes or {}})
    return Deployment(host, host.models[0], Contract.model_validate({**rules, **(contract or {})}), thinking)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Case:
    """One file of streams/: what the host sends, and what must come of it."""

    name: str
    setup: dict[str, Any]
    sent: bytes
    gets: bytes
    asked_gets: bytes
    result: dict[str, Any]

    @property
    def deployment(self) -> Deployment:
        return deployment(self.setup.get("writes"), self.setup.get("contract"), self.setup.get("thinking"))

    @property
    def stop(self) -> StopRule | None:
        return StopRule(**self.setup["stop"]) if "stop" in self.setup else None


def cases() -> list[Case]:
    return [_case(path) for path in sorted(STREAMS.glob("*.stream"))]


def _case(path: Path) -> Case:
    text = path.read_bytes()
    parts = []
    for mark in MARKS:
        part, _, text = text.partition(mark.encode() + b"\n")
        parts.append(part)
    setup, sent, gets, asked = parts
    if b"\\r" in sent:
        # A file cannot show a carriage return well: it is written as \r.
        sent = sent.replace(b"\\r", b"\r")
    return Case(path.stem, json.loads(setup), sent, gets.replace(b"\\r", b"\r"), asked.replace(b"\\r", b"\r"), json.loads(text))


@dataclass(frozen=True)
class Run:
    """What came of one stream."""

    client: bytes
    shape: StreamShape
    meter: Meter

    def result(self) -> dict[str, Any]:
        usage = self.meter.usage()
        failure = self.shape.failure
        return {
            "usage": usage.counts(),
            "sources": {name: getattr(usage.sources, name) for name in ("cache_hit", "cache_miss", "output", "reasoning")},
            "disputed": self.meter.disputed,
            "host_cost": self.meter.host_cost,
            "finish": self.meter.finish,
            "stopped": self.shape.stopped is not None,
            "edits": sorted(self.shape.edits),
            "failure": None if failure is None else [failure.kind, failure.status, failure.code, failure.message],
        }


def run(target: Deployment, reads: Sequence[bytes], *, asked: bool = False, stop: StopRule | None = None, choices: int = 1) -> Run:
    """Feed these reads to a shape; where it succeeds the tail is there, where it fails the error event is not."""
    meter = Meter(target, 7, choices)
    shape = StreamShape(target, include_usage=asked, stop=stop, meter=meter, choices=choices)
    client = b"".join(shape.feed(read) for read in reads)
    if not shape.over:
        shape.end()
    if shape.failure is None:
        usage = meter.usage()
        client += shape.tail(decorate_usage(meter.reported, usage, COST))
    return Run(client, shape, meter)
