"""Whether a ledger in PostgreSQL keeps its promises: reads one consistent snapshot, and changes nothing.

The invariants are those of a ledger file, under the same words; `verify` says them in SQLite's SQL.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.ledger.postgres_connection import ask, check_there, close, connect

_NAME: Final = "team, budget, key, period, currency"
_PICK: Final = ", ".join(f"claim->>'{name}' AS {name}" for name in _NAME.split(", "))
# What each budget has in the claims of holds and of entries, and which request it is for.
_HELD: Final = (
    f"SELECT rid, state, {_PICK}, (claim->>'held')::numeric AS amount, (claim->'rate'->>0)::numeric AS num,"
    " (claim->'rate'->>1)::numeric AS den FROM hold, jsonb_array_elements(hold.claims) AS claim"
)
_COST: Final = f"SELECT rid, {_PICK}, (claim->>'cost')::numeric AS amount FROM entry, jsonb_array_elements(entry.claims) AS claim"
# All that makes up what a budget has spent: entries, corrections, and the part that was archived.
_SPENT: Final = (
    f"SELECT {_NAME}, amount FROM ({_COST}) AS c UNION ALL SELECT {_NAME}, archived FROM budget"
    f" UNION ALL SELECT {_PICK}, (claim->>'nano')::numeric FROM correction, jsonb_array_elements(correction.claims) AS claim"
)
_SUBJECT: Final = "concat(budget, ' of ', team, CASE WHEN key <> '' THEN ' (key ' || key || ')' END, ' in ', period)"

# Each query finds what must not exist: the id of an offending request, and a detail. The text says what is wrong with it.
INVARIANTS: Final[dict[str, str]] = {
    "its entries do not sum to its charge": """
        SELECT rid, concat(request.nano, ' charged, entries sum to ', coalesce(sum(entry.nano), 0))
        FROM request LEFT JOIN entry USING (rid) GROUP BY rid, request.nano HAVING request.nano <> coalesce(sum(entry.nano), 0)""",
    "its parts do not sum to its charge": """
        SELECT rid, concat(nano, ' charged') FROM request WHERE nano <> cache_hit_nano + cache_miss_nano + output_nano
            OR (nano <> 0 AND cache_hit_nano IS NULL AND stopped IS DISTINCT FROM 'expired')""",
    "it was settled or expired more than once": """
        SELECT rid, concat(kind, ' ', count(*), ' times') FROM entry WHERE kind <> 'adjust' GROUP BY rid, kind HAVING count(*) > 1""",
    "it was both settled and expired": """
        SELECT rid, concat(count(*), ' first entries') FROM entry WHERE kind <> 'adjust' GROUP BY rid HAVING count(DISTINCT kind) > 1""",
    "its hold is open, yet it was charged": """
        SELECT rid, entry.kind FROM hold JOIN entry USING (rid) WHERE hold.state = 'held'
        UNION ALL SELECT rid, request.status FROM hold JOIN request USING (rid) WHERE hold.state = 'held'""",
    "its hold is closed, yet it has no entry": """
        SELECT rid, state FROM hold WHERE state IN ('settled', 'expired') AND NOT EXISTS (SELECT FROM entry WHERE entry.rid = hold.rid)""",
    "its hold is closed, yet it has no row": """
        SELECT rid, state FROM hold
        WHERE state IN ('settled', 'expired') AND NOT EXISTS (SELECT FROM request WHERE request.rid = hold.rid)""",
    "it has no hold": """
        SELECT rid, 'row' FROM request WHERE NOT EXISTS (SELECT FROM hold WHERE hold.rid = request.rid)
        UNION ALL SELECT DISTINCT rid, 'entry' FROM entry WHERE NOT EXISTS (SELECT FROM hold WHERE hold.rid = entry.rid)""",
    "its currencies differ": """
        SELECT rid, concat(hold.currency, ', ', request.currency) FROM hold JOIN request USING (rid)
        WHERE hold.currency <> request.currency
        UNION ALL SELECT rid, concat(hold.currency, ', ', entry.currency) FROM hold JOIN entry USING (rid)
        WHERE hold.currency <> entry.currency""",
    "it was released, yet it costs something": """
        SELECT rid, request.nano::text FROM hold JOIN request USING (rid) WHERE hold.state = 'released' AND request.nano <> 0""",
    "its budgets were not charged what it costs": f"""
        SELECT rid, concat(claimed.budget, ' was charged ', coalesce(entered.amount::text, 'nothing'), ' for ', nano)
        FROM ({_HELD}) AS claimed JOIN (SELECT rid, nano FROM request) AS charged USING (rid)
        LEFT JOIN (SELECT rid, {_NAME}, sum(amount) AS amount FROM ({_COST}) AS c GROUP BY rid, {_NAME}) AS entered USING (rid, {_NAME})
        WHERE cost(nano, num, den) <> coalesce(entered.amount, 0)""",
    "it was archived, and is still here": """
        SELECT rid, month FROM gone JOIN archive ON archive.id = gone.archive
        WHERE EXISTS (SELECT FROM hold WHERE hold.rid = gone.rid) OR EXISTS (SELECT FROM request WHERE request.rid = gone.rid)""",
}
# And for months that were archived.
MONTHS: Final[dict[str, str]] = {
    "its requests do not sum to what was archived of it": """
        SELECT concat(month, ' (', currency, ')'), concat(coalesce(nano::text, 'nothing'), ' closed, requests sum to ', coalesce(amount, 0))
        FROM (SELECT month, currency, sum(nano) AS nano FROM closed GROUP BY month, currency) AS c
        FULL JOIN (SELECT month, currency, sum(nano) AS amount FROM gone LEFT JOIN archive ON archive.id = gone.archive
            GROUP BY month, currency) AS g USING (month, currency)
        WHERE coalesce(nano, 0) <> coalesce(amount, 0)""",
}
# The same for budgets, each named by its subject.
BUDGETS: Final[dict[str, str]] = {
    "its entries do not sum to what it spent": f"""
        SELECT {_SUBJECT}, concat(coalesce(spent::text, 'nothing'), ' spent, entries sum to ', coalesce(amount, 0))
        FROM budget FULL JOIN (SELECT {_NAME}, sum(amount) AS amount FROM ({_SPENT}) AS s GROUP BY {_NAME}) AS e USING ({_NAME})
        WHERE coalesce(spent, 0) <> coalesce(amount, 0)""",
    "its open holds do not sum to what it holds": f"""
        SELECT {_SUBJECT}, concat(coalesce(held::text, 'nothing'), ' held, open holds sum to ', coalesce(amount, 0))
        FROM budget FULL JOIN (
            SELECT {_NAME}, sum(amount) AS amount FROM ({_HELD}) AS h WHERE state = 'held' GROUP BY {_NAME}) AS o USING ({_NAME})
        WHERE coalesce(held, 0) <> coalesce(amount, 0)""",
    "it went beyond its limit and its overruns": f"""
        SELECT {_SUBJECT}, concat(spent, ' spent, ', held, ' held, ceiling ', ceiling, ', overrun ', overrun)
        FROM budget WHERE spent + held > ceiling + overrun""",
    "its peak is below what was committed": f"""
        SELECT {_SUBJECT}, concat(spent + held, ' committed, peak ', peak) FROM budget WHERE spent + held > peak""",
    "its ceiling is below its limit": f"SELECT {_SUBJECT}, concat('ceiling ', ceiling, ', limit ', lim) FROM budget WHERE ceiling < lim",
}
# Of each invariant that is broken, as many offenders as help to find the cause.
_EXAMPLES: Final = 20
# A large ledger takes its time; one that answers nothing ends the wait.
_PATIENCE_SECONDS: Final = 600.0
_CONNECT_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 1.0


async def verify(address: str) -> list[str]:
    """The invariants that do not hold in this database, one line each; [] when all is well. LedgerUnavailable where it has no ledger."""
    connection = await connect(address, _CONNECT_SECONDS, _PATIENCE_SECONDS)
    try:
        await ask(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", (), _PATIENCE_SECONDS)
        await check_there(connection, address, _PATIENCE_SECONDS)
        await ask(connection, "SET LOCAL search_path = faregate, pg_catalog, pg_temp", (), _PATIENCE_SECONDS)
        kinds = {"request": INVARIANTS, "budget": BUDGETS, "month": MONTHS}
        return [line for kind, invariants in kinds.items() for line in await _broken(connection, kind, invariants)]
    finally:
        await close(connection, _CLOSE_SECONDS)


async def _broken(connection: Any, kind: str, invariants: dict[str, str]) -> list[str]:
    return [
        f"{kind} {subject}: {text} ({detail})"
        for text, query in invariants.items()
        for subject, detail in await ask(connection, f"{query} LIMIT {_EXAMPLES}", (), _PATIENCE_SECONDS)
    ]
