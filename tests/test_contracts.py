"""Contracts: what a row may not say, and what follows from one."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.contracts import Contract


def row(**more: Any) -> dict[str, Any]:
    base = {"contract": "c", "released": "2025-01-20", "context": {"tokens": 65536}, "max_tokens": {"counts": "total", "max": 8192}}
    return base | more


@pytest.mark.parametrize(
    ("thinking", "can_think"),
    [
        ({}, False),
        ({"switch": "none", "default": "on"}, True),
        ({"switch": "thinking", "default": "off"}, True),
        ({"switch": "thinking", "default": "on"}, True),
    ],
)
def test_a_version_can_think_by_default_or_by_its_switch(thinking: dict[str, str], can_think: bool) -> None:
    assert Contract.model_validate(row(thinking=thinking)).can_think is can_think


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokenz": 1},
        {"max_tokens": {"counts": "words", "max": 1}},
        {"reasoning": {"send_back": "sometimes"}},
        {"context": {}},
    ],
)
def test_unknown_keys_and_words_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Contract.model_validate(row(**wrong))


@pytest.mark.parametrize(
    "contradiction",
    [
        {"max_tokens": {"counts": "total", "max": 10, "default": 11}},
        {"fields": {"passed": ["stop"], "dropped": ["stop"]}},
        {"thinking": {"switch": "thinking", "efforts": ["high"], "effort_aliases": {"low": "medium"}}},
    ],
)
def test_keys_that_contradict_each_other_are_told(contradiction: dict[str, Any]) -> None:
    assert list(Contract.model_validate(row(**contradiction)).problems())


def test_a_contract_is_frozen() -> None:
    contract = Contract.model_validate(row())
    with pytest.raises(ValidationError):
        contract.contract = "other"
