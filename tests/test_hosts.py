"""Hosts: which model a name means at an instant, and what a deployment takes from host, model and contract."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.contracts import Contract
from gateway.hosts import Deployment, Host, Writes

START = datetime(2025, 1, 20, tzinfo=UTC)
CHANGE = datetime(2025, 5, 28, tzinfo=UTC)
END = datetime(2026, 7, 24, 15, 59, tzinfo=UTC)
SECOND = timedelta(seconds=1)

HOST = Host.model_validate(
    {
        "host": "h",
        "reads": {"counts": "total"},
        "models": [
            {"model": "reasoner", "contract": "r1", "from": START, "until": CHANGE, "upstream": "r1-wire"},
            {"model": "reasoner", "contract": "r1-0528", "from": CHANGE, "until": END, "context": 1000, "counts": "answer"},
        ],
    }
)
CONTRACT = Contract.model_validate(
    {"contract": "r1", "released": "2025-01-20", "context": {"tokens": 65536}, "max_tokens": {"counts": "answer", "max": 8192}}
)


@pytest.mark.parametrize(
    ("at", "contract"),
    [(START - SECOND, None), (START, "r1"), (CHANGE - SECOND, "r1"), (CHANGE, "r1-0528"), (END - SECOND, "r1-0528"), (END, None)],
)
def test_a_name_means_what_it_meant_then(at: datetime, contract: str | None) -> None:
    found = HOST.find("reasoner", at)
    assert (found.contract if found else None) == contract


def deployment(at: datetime) -> Deployment:
    model = HOST.find("reasoner", at)
    assert model is not None
    return Deployment(HOST, model, CONTRACT)


def test_the_model_rules_before_the_host_and_the_host_before_the_contract() -> None:
    first, second = deployment(START), deployment(CHANGE)
    assert (first.counts, second.counts) == ("total", "answer")
    assert (first.context, second.context) == (65536, 1000)
    assert (first.upstream_model, second.upstream_model) == ("r1-wire", "reasoner")
    assert first.name == second.name == "h/reasoner"


@pytest.mark.parametrize(("cached", "paths"), [(None, ()), ("a.b", ("a.b",)), (["a", "b.c"], ("a", "b.c"))])
def test_cached_tokens_may_stand_in_several_places(cached: Any, paths: tuple[str, ...]) -> None:
    assert Writes.model_validate({"cached": cached}).cached_paths == paths
