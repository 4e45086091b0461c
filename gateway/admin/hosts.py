"""How hosts are, for the admin API: the deployments that were asked since the start, and the replicas of own engines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter

from gateway.calibration import Fall
from gateway.health import State
from gateway.money import decimal_text
from gateway.replicas import ReplicaState


def add_hosts(router: APIRouter, hosts: Callable[[], list[dict[str, Any]]]) -> None:
    """GET /hosts."""

    @router.get("/hosts", summary="Hosts, whether they are configured, and the models they serve now")
    async def listed() -> list[dict[str, Any]]:
        return hosts()


def how_it_is(
    host: str, states: Iterable[State], copies: Iterable[ReplicaState], urls: Sequence[str], falls: Mapping[str, Fall | None]
) -> dict[str, Any]:
    """One host: what this gateway knows of its deployments and, where it has several addresses, of each."""
    return {
        "deployments": [_deployment(state, falls.get(f"{host}/{state.model}")) for state in states if state.host == host],
        "replicas": [
            {"url": urls[copy.number], "up": copy.up, "why": copy.why, "requests": copy.open}
            for copy in copies
            if copy.host == host and len(urls) > 1
        ],
    }


def balances_json(host: str, left: Mapping[tuple[str, str], int]) -> list[dict[str, str]]:
    """What one host says is left of our money, where it says so: decimal texts, each currency for itself."""
    return [{"currency": currency, "amount": decimal_text(nano)} for (name, currency), nano in sorted(left.items()) if name == host]


def _deployment(state: State, fall: Fall | None) -> dict[str, Any]:
    """`failing` is a part from 0 to 1, a guess until one `failed`; `first_token` is seconds, `pace` tokens a second.

    null: not known yet, or nothing to say.
    """
    return {
        "model": state.model,
        "up": state.up,
        "why": state.why,
        "requests": state.open,
        "limit": state.limit,
        "failing": round(state.failing, 4),
        "failed": state.failed,
        "first_token": None if state.first_token is None else round(state.first_token, 3),
        "pace": None if state.pace is None else round(state.pace, 1),
        "hit_rate_fell": None if fall is None else {"from": round(fall.before, 3), "to": round(fall.now, 3)},
    }
