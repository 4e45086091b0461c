"""Fields of a request by allow-list: each is passed, renamed, dropped with an edit, or refused with the vendor's reason.

The host's own rules come before the contract's. A field that neither knows passes to open hosts only.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from gateway.contracts import Rule
from gateway.edits import Edit, dropped, renamed
from gateway.errors import InvalidRequest
from gateway.hosts import CORE, Deployment


def sift(body: dict[str, Any], target: Deployment, thinking: bool, settled: Container[str]) -> list[Edit]:
    """Applies the rules to every field of `body` (changed in place) but the core and the settled ones; gives the edits."""
    plain = target.plain_fields
    odd = [field for field in body if field not in plain]
    if not odd:
        return []
    _check_rules(body, target, thinking)
    edits: list[Edit] = []
    for field in odd:
        if field not in CORE and field not in settled:
            edits.extend(_apply(body, field, target))
    return edits


def _check_rules(body: Mapping[str, Any], target: Deployment, thinking: bool) -> None:
    for rule in target.contract.fields.rules:
        if rule.field in body and rule.thinking in (None, thinking) and _breaks(body[rule.field], rule):
            raise InvalidRequest(rule.text, param=rule.field)


def _breaks(value: Any, rule: Rule) -> bool:
    """A value of null breaks no rule: it says nothing."""
    plain = value.get("type") if isinstance(value, dict) else value
    if plain is None:
        return False
    if rule.values is not None:
        return _among(plain, rule.values)
    return rule.allowed is None or not _among(plain, rule.allowed)


def _among(value: Any, values: tuple[str | int | bool, ...]) -> bool:
    """Equality of JSON: 1 is not true."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in values)


def _apply(body: dict[str, Any], field: str, target: Deployment) -> list[Edit]:
    host, contract = target.host.fields, target.contract.fields
    for rules in (host, contract):
        if field in rules.refused:
            return _refuse(body, field, rules.refused[field])
        if field in rules.renamed:
            body[rules.renamed[field]] = body.pop(field)
            return [renamed(field)]
        if field in rules.dropped:
            return _drop(body, field)
        if field in rules.passed:
            return []
    if field in contract.ignored or target.host.open_fields:
        return []
    return _drop(body, field)


def _refuse(body: dict[str, Any], field: str, text: str) -> list[Edit]:
    """Raises the vendor's reason, unless the value asks for nothing: then leaving it out changes nothing."""
    value = body[field]
    if value is None or value is False or value == []:
        return _drop(body, field)
    raise InvalidRequest(text, param=field)


def _drop(body: dict[str, Any], field: str) -> list[Edit]:
    del body[field]
    return [dropped(field)]
