"""Requests, contracts and deployments for tests of the decisions: shipped policies by name, or small ones made on the spot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from typing import Any, Literal

from gateway.clock import parse_instant
from gateway.contracts import Context, Contract, MaxTokens
from gateway.hosts import Deployment, Host, HostModel, Reads
from gateway.policies import Policies, default_folder, load
from gateway.request import ChatRequest

NOW = "2026-11-20T00:00:00Z"


@cache
def policies() -> Policies:
    return load(default_folder())


def deployment(name: str, at: str = NOW) -> Deployment:
    """The shipped deployment HOST/MODEL at an instant."""
    host, _, model = name.partition("/")
    found = policies().deployment(host, model, parse_instant(at))
    assert found is not None, f"{name} is not served at {at}"
    return found


def ask(body: dict[str, Any], beta: bool = False) -> ChatRequest:
    """A checked request with this body; a question and a model are added where it has none."""
    whole = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **body}
    return ChatRequest("req-1", whole["model"], whole, bool(whole.get("stream")), False, beta, 100)


@dataclass(frozen=True)
class Rules:
    """What a test says about a route."""

    out_of_range: Literal["clamp", "refuse"] = "clamp"
    name: str = "route"


def contract(name: str = "plain", limit: MaxTokens | None = None, **more: Any) -> Contract:
    """A contract of a test's own: 100,000 tokens of context, up to 8,000 of output."""
    limit = limit or MaxTokens(counts="total", default=4000, max=8000)
    return Contract(
        contract=name, released=date(2025, 1, 20), context=more.pop("context", Context(tokens=100_000)), max_tokens=limit, **more
    )


def at_host(served: Contract, reads: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **host: Any) -> Deployment:
    """A deployment of a contract at a host of a test's own."""
    row = {"model": "m", "contract": served.contract, "from": parse_instant("2025-01-01T00:00:00Z"), **(model or {})}
    return Deployment(Host(host="there", reads=Reads(**(reads or {})), **host), HostModel.model_validate(row), served)


def fixed(target: Deployment, thinking: Literal["on", "off"]) -> Deployment:
    """The deployment with thinking fixed by the route."""
    return replace(target, thinking=thinking)
