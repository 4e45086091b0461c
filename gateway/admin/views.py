"""The JSON of the admin API, made of the rows that it shows. Amounts are integers of nano-units."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from msgspec.structs import asdict

from gateway.clock import instant_text
from gateway.explain import explained, option_json
from gateway.ledger.port import Trail
from gateway.outcome import Attempt, LedgerRow
from gateway.policies import Policies
from gateway.usage import Usage

_CLASSES: Final = ("cache_hit", "cache_miss", "output")


def request_json(row: LedgerRow) -> dict[str, Any]:
    """One request as its receipt: everything in the ledger's row. `usage` and `parts` are null where nobody knows them."""
    return {
        "id": row.id,
        "team": row.team,
        "key": row.key,
        "route": row.route,
        "host": row.host,
        "model": row.model,
        "contract": row.contract,
        "edits": list(row.edits),
        "usage": None if row.usage is None else _usage_json(row.usage),
        "currency": row.currency,
        "nano": row.nano,
        "parts": None if row.parts is None else asdict(row.parts),
        "card": row.card,
        "window": row.window,
        "policies": row.policies,
        "started": instant_text(row.started),
        "ended": instant_text(row.ended),
        "status": row.status,
        "stopped": row.stopped,
        "stream": row.stream,
        "attempts": [_attempt_json(attempt) for attempt in row.attempts],
        "quote": {"expected": row.expected_nano, "worst": row.worst_nano},
        "candidates": [option_json(option) for option in row.plan.options] if row.plan else [],
        "host_nano": row.host_nano,
        "disputed": row.disputed,
    }


def explained_json(row: LedgerRow, policies: Policies, trail: Trail | None) -> dict[str, Any]:
    """One request with why it went where it went, and what its candidates cost or would have cost."""
    return {**request_json(row), **explained(row, policies, trail)}


def _attempt_json(attempt: Attempt) -> dict[str, Any]:
    found = {name: value for name, value in asdict(attempt).items() if value not in (None, "")}
    split: dict[str, Any] = {name: dict(zip(_CLASSES, found[name], strict=True)) for name in ("tokens", "parts") if name in found}
    return {**found, **split}


def _usage_json(usage: Usage) -> dict[str, Any]:
    return {**usage.counts(), "sources": asdict(usage.sources)}


def docs_page(operations: Iterable[tuple[str, str, str]]) -> str:
    """The API as one plain page: no script and nothing from elsewhere, because this origin holds a token.

    An operation is (method, path, summary), all from our own code.
    """
    rows = "".join(f"<tr><td>{method}<td><code>{path}</code><td>{summary}" for method, path, summary in operations)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Faregate: admin API</title>'
        "<style>body{font:16px/1.5 sans-serif;margin:2rem}td{padding:.2rem 1rem .2rem 0}</style>"
        '<h1>Faregate: admin API</h1><p>Schema: <a href="/openapi.json">/openapi.json</a>.'
        " Send the token as <code>Authorization: Bearer</code>."
        f"<table>{rows}</table></html>"
    )
