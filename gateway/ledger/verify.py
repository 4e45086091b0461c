"""Whether a ledger file keeps its promises: reads one consistent snapshot, and changes no row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import apsw

_NAME: Final = "team, budget, key, period, currency"
_PICK: Final = ", ".join(f"claim.value ->> '{name}' AS {name}" for name in _NAME.split(", "))
# What each budget has in the claims of holds and of entries, and which request it is for.
_HELD: Final = (
    f"SELECT rid, state, {_PICK}, claim.value ->> 'held' AS amount, claim.value ->> '$.rate[0]' AS numerator,"
    " claim.value ->> '$.rate[1]' AS denominator FROM hold, json_each(hold.claims) AS claim"
)
_COST: Final = f"SELECT rid, {_PICK}, claim.value ->> 'cost' AS amount FROM entry, json_each(entry.claims) AS claim"
# All that makes up what a budget has spent: entries, corrections, and the part that was archived.
_SPENT: Final = (
    f"SELECT {_NAME}, amount FROM ({_COST}) UNION ALL SELECT {_NAME}, archived FROM budget"
    f" UNION ALL SELECT {_PICK}, claim.value ->> 'nano' FROM correction, json_each(correction.claims) AS claim"
)

# Each query finds what must not exist: the id of an offending request, and a detail. The text says what is wrong with it.
INVARIANTS: Final[dict[str, str]] = {
    "its entries do not sum to its charge": """
        SELECT rid, request.nano || ' charged, entries sum to ' || coalesce(sum(entry.nano), 0)
        FROM request LEFT JOIN entry USING (rid) GROUP BY rid HAVING request.nano <> coalesce(sum(entry.nano), 0)""",
    "its parts do not sum to its charge": """
        SELECT rid, nano || ' charged' FROM request
        WHERE nano <> cache_hit_nano + cache_miss_nano + output_nano
           OR (nano <> 0 AND cache_hit_nano IS NULL AND stopped IS NOT 'expired')""",
    "it was settled or expired more than once": """
        SELECT rid, kind || ' ' || count(*) || ' times' FROM entry WHERE kind <> 'adjust' GROUP BY rid, kind HAVING count(*) > 1""",
    "it was both settled and expired": """
        SELECT rid, count(*) || ' first entries' FROM entry WHERE kind <> 'adjust' GROUP BY rid HAVING count(DISTINCT kind) > 1""",
    "its hold is open, yet it was charged": """
        SELECT rid, entry.kind FROM hold JOIN entry USING (rid) WHERE hold.state = 'held'
        UNION ALL SELECT rid, request.status FROM hold JOIN request USING (rid) WHERE hold.state = 'held'""",
    "its hold is closed, yet it has no entry": """
        SELECT rid, state FROM hold WHERE state IN ('settled', 'expired') AND rid NOT IN (SELECT rid FROM entry)""",
    "its hold is closed, yet it has no row": """
        SELECT rid, state FROM hold WHERE state IN ('settled', 'expired') AND rid NOT IN (SELECT rid FROM request)""",
    "it has no hold": """
        SELECT rid, 'row' FROM request WHERE rid NOT IN (SELECT rid FROM hold)
        UNION ALL SELECT DISTINCT rid, 'entry' FROM entry WHERE rid NOT IN (SELECT rid FROM hold)""",
    "its currencies differ": """
        SELECT rid, hold.currency || ', ' || request.currency FROM hold JOIN request USING (rid)
        WHERE hold.currency <> request.currency
        UNION ALL SELECT rid, hold.currency || ', ' || entry.currency FROM hold JOIN entry USING (rid)
        WHERE hold.currency <> entry.currency""",
    "it was released, yet it costs something": """
        SELECT rid, request.nano FROM hold JOIN request USING (rid) WHERE hold.state = 'released' AND request.nano <> 0""",
    "its budgets were not charged what it costs": f"""
        SELECT rid, claimed.budget || ' was charged ' || coalesce(entered.amount, 'nothing') || ' for ' || nano
        FROM ({_HELD}) AS claimed JOIN (SELECT rid, nano FROM request) USING (rid)
        LEFT JOIN (SELECT rid, {_NAME}, sum(amount) AS amount FROM ({_COST}) GROUP BY rid, {_NAME}) AS entered
            USING (rid, {_NAME})
        WHERE nano < 9000000000000000000 / numerator - denominator
            AND (nano * numerator + denominator - 1) / denominator <> coalesce(entered.amount, 0)""",
    "it was archived, and is still here": """
        SELECT rid, month FROM gone JOIN archive ON archive.id = gone.archive
        WHERE EXISTS (SELECT 1 FROM hold WHERE hold.rid = gone.rid) OR EXISTS (SELECT 1 FROM request WHERE request.rid = gone.rid)""",
}
# And for months that were archived.
MONTHS: Final[dict[str, str]] = {
    "its requests do not sum to what was archived of it": """
        SELECT month || ' (' || currency || ')', coalesce(nano, 'nothing') || ' closed, requests sum to ' || coalesce(amount, 0)
        FROM (SELECT month, currency, sum(nano) AS nano FROM closed GROUP BY month, currency)
        FULL JOIN (SELECT month, currency, sum(nano) AS amount FROM gone LEFT JOIN archive ON archive.id = gone.archive
            GROUP BY month, currency) USING (month, currency)
        WHERE coalesce(nano, 0) <> coalesce(amount, 0)""",
}
# The same for budgets, each named by its subject.
_SUBJECT: Final = "budget || ' of ' || team || iif(key = '', '', ' (key ' || key || ')') || ' in ' || period"
BUDGETS: Final[dict[str, str]] = {
    "its entries do not sum to what it spent": f"""
        SELECT {_SUBJECT}, coalesce(spent, 'nothing') || ' spent, entries sum to ' || coalesce(amount, 0)
        FROM budget FULL JOIN (SELECT {_NAME}, sum(amount) AS amount FROM ({_SPENT}) GROUP BY {_NAME}) USING ({_NAME})
        WHERE coalesce(spent, 0) <> coalesce(amount, 0)""",
    "its open holds do not sum to what it holds": f"""
        SELECT {_SUBJECT}, coalesce(held, 'nothing') || ' held, open holds sum to ' || coalesce(amount, 0)
        FROM budget FULL JOIN (SELECT {_NAME}, sum(amount) AS amount FROM ({_HELD}) WHERE state = 'held' GROUP BY {_NAME}) USING ({_NAME})
        WHERE coalesce(held, 0) <> coalesce(amount, 0)""",
    "it went beyond its limit and its overruns": f"""
        SELECT {_SUBJECT}, spent || ' spent, ' || held || ' held, ceiling ' || ceiling || ', overrun ' || overrun
        FROM budget WHERE spent + held > ceiling + overrun""",
    "its peak is below what was committed": f"""
        SELECT {_SUBJECT}, spent + held || ' committed, peak ' || peak FROM budget WHERE spent + held > peak""",
    "its ceiling is below its limit": f"SELECT {_SUBJECT}, 'ceiling ' || ceiling || ', limit ' || lim FROM budget WHERE ceiling < lim",
}

# The first version of the tables that has all that is asked.
_OLDEST: Final = 5
# Of each invariant that is broken, as many offenders as help to find the cause.
_EXAMPLES: Final = 20


def verify(path: Path | str) -> list[str]:
    """The invariants that do not hold in this file, one line each; [] when all is well."""
    if not Path(path).is_file():
        return [f"there is no ledger at {path}"]
    try:
        # Not read-only: after a crash, SQLite must first bring the file's log into it.
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.pragma("query_only", True)
            connection.set_busy_timeout(5000)
            return verify_connection(connection)
        finally:
            connection.close()
    except apsw.Error as problem:
        return [f"the ledger cannot be read: {problem}"]


def verify_connection(db: apsw.Connection) -> list[str]:
    """As `verify`, on a connection that is open already; one read transaction, so writers do not disturb the answer."""
    db.execute("BEGIN")
    try:
        if (version := db.pragma("user_version")) < _OLDEST:
            return [f"the ledger is of version {version}: start this version of the gateway once, which brings it up"]
        return [*_integrity(db), *_broken(db, "request", INVARIANTS), *_broken(db, "budget", BUDGETS), *_broken(db, "month", MONTHS)]
    finally:
        db.execute("ROLLBACK")


def _integrity(db: apsw.Connection) -> list[str]:
    return [f"integrity: {text}" for (text,) in db.execute("PRAGMA integrity_check") if text != "ok"]


def _broken(db: apsw.Connection, kind: str, invariants: dict[str, str]) -> Iterator[str]:
    for text, query in invariants.items():
        for subject, detail in db.execute(f"{query} LIMIT {_EXAMPLES}"):
            yield f"{kind} {subject}: {text} ({detail})"
