"""Ledger and stores: whether every charge is durable in time, and whether the hosts' bills match."""

from __future__ import annotations

from dashboards.builder.model import (
    GREEN,
    ORANGE,
    RED,
    YELLOW,
    Json,
    bars,
    coloured,
    heading,
    lines,
    meaning,
    plain,
    point,
    series,
    shares,
    stat,
    steps,
)  # fmt: skip
from dashboards.builder.queries import grown, highest, now_there, of, pace, part, quantile

UID, TITLE, PAGE = "faregate-ledger", "Ledger and stores", "ledger-and-stores"
DESCRIPTION = "Whether every hold and charge is durable in time, how the stores are, and whether the hosts' bills match."

_DOWN = steps((1, GREEN), base=RED)
_OWN = 'outcome="gateway_error"'
_COMMIT = "ledger_commit_seconds"


def _numbers() -> list[Json]:
    up = [meaning({1: ("up", GREEN), 0: ("down", RED)})]
    yes = [meaning({1: ("yes", GREEN), 0: ("no", RED)})]
    return [
        stat(
            "Ledger",
            "Whether the ledger's store answers every replica.",
            point(f"min({of('ledger_up')})", "ledger"),
            unit="none",
            mappings=up,
            thresholds=_DOWN,
        ),
        stat(
            "Redis",
            "Whether every replica uses Redis; empty without Redis.",
            point(f"min({of('redis_up')})", "redis"),
            unit="none",
            mappings=up,
            thresholds=_DOWN,
            noValue="not used",
        ),
        stat(
            "Policies in force",
            "Whether the folder of policies as it is now is in force at every replica; no: its newest state was refused.",
            point(f"min({of('policies_reload_ok')})", "policies"),
            unit="none",
            mappings=yes,
            thresholds=_DOWN,
        ),
        stat(
            "Waiting on disk",
            "Holds and charges that wait on a gateway's own disk for the ledger's store.",
            series(f"sum({of('spool_records')})", "records"),
            unit="short",
            thresholds=steps((1, RED)),
            spark=True,
        ),
        stat(
            "Commit, 99 %",
            "99 % of the ledger's operations were committed within this time.",
            series(quantile(0.99, "", _COMMIT), "s"),
            unit="s",
            thresholds=steps((0.1, YELLOW), (1, RED)),
            decimals=1,
            spark=True,
        ),
        stat(
            "Largest gap",
            "The largest difference between a host's bill and ours at the last reconciliation, by currency: theirs less ours.",
            point(f"max by (currency) (abs({highest('host, currency', of('reconcile_gap'))}))", "{{currency}}"),
            unit="short",
            money=True,
            thresholds=steps((0.01, YELLOW), (1, RED)),
        ),
        stat(
            "Reconciled",
            "How long ago the bill of a host was last compared with the ledger: of the host for which that is longest.",
            point(f"max({highest('host', of('reconcile_age_seconds'))})", "ago"),
            unit="s",
            thresholds=steps((172800, YELLOW), (604800, RED)),
            decimals=1,
        ),
        stat(
            "Calendars reach",
            "Time until the first calendar of public holidays ends; later days count as ordinary ones.",
            point(f"min({of('calendar_left_seconds')})", "days"),
            unit="s",
            thresholds=steps((2592000, YELLOW), (5184000, GREEN), base=RED),
            decimals=0,
        ),
    ]


def _ledger() -> list[Json]:
    return [
        heading("Ledger"),
        lines(
            "Commit latency",
            "From asking the ledger to its commit, of all operations. It is part of every request: twice.",
            *(series(quantile(share, "", _COMMIT), name) for share, name in ((0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"))),
            unit="s",
            limits=True,
            thresholds=steps((1, RED)),
            w=8,
        ),
        lines(
            "Commit latency by operation, 90 %",
            "90 % of each operation's commits took at most so long.",
            series(quantile(0.9, "op", _COMMIT), "{{op}}"),
            unit="s",
            w=8,
        ),
        lines(
            "Operations",
            "Operations of the ledger a second.",
            series(pace("op", f"{_COMMIT}_count"), "{{op}}"),
            unit="ops",
            stacked=True,
            w=8,
        ),
        lines(
            "Waiting on disk",
            "Holds and charges that wait on a gateway's own disk for the ledger's store, by replica.",
            series(f"sum by (instance) ({of('spool_records')})", "{{instance}}"),
            unit="short",
            decimals=0,
            w=6,
        ),
        lines(
            "Lease",
            "Since a replica last renewed the leases of its holds; beyond the line they expire, and are charged by estimate.",
            series(highest("instance", of("lease_age_seconds")), "{{instance}}"),
            series(f"min({of('lease_seconds')})", "the lease"),
            unit="s",
            w=6,
        ),
        lines(
            "Open holds",
            "Holds of requests under way, by replica.",
            series(f"sum by (instance) ({of('open_holds')})", "{{instance}}"),
            unit="short",
            stacked=True,
            w=6,
        ),
        lines(
            "Oldest hold",
            "The age of the oldest hold of a request under way, by replica.",
            series(highest("instance", of("oldest_hold_seconds")), "{{instance}}"),
            unit="s",
            w=6,
        ),
        lines(
            "Held",
            "Money held for requests under way, by team; one request is held by each of its budgets.",
            series(f"sum by (team, currency) ({highest('team, budget, currency', of('budget_held'))})", "{{team}} {{currency}}"),
            unit="short",
            money=True,
            stacked=True,
            w=8,
        ),
        lines(
            "Expired and given up",
            "Holds a minute whose lease ran out, charged by estimate; and records that neither the store nor the disk took.",
            series(f"60 * ({pace('', 'expired_holds_total')} or vector(0))", "expired"),
            series(f"60 * ({pace('', 'given_up_records_total')} or vector(0))", "given up"),
            unit="short",
            thresholds=plain(RED),
            w=8,
        ),
        lines(
            "The gateway's own errors",
            "Requests a second that ended in an error of the gateway itself, such as a ledger that is down, by team.",
            series(f"{pace('team', 'requests_total', _OWN)} or 0 * {pace('team', 'requests_total')}", "{{team}}"),
            unit="reqps",
            thresholds=plain(RED),
            w=8,
        ),
    ]


def _stores() -> list[Json]:
    broken = 'outcome=~"error|timeout|skipped"'
    return [
        heading("Redis and processes"),
        lines(
            "Calls to Redis",
            "Calls a second, by what they do.",
            series(pace("op", "redis_calls_total"), "{{op}}"),
            unit="ops",
            stacked=True,
            w=8,
        ),
        lines(
            "Calls to Redis that failed",
            "The part of the calls that failed, came too late, or were not made because Redis is down. It costs time, never money.",
            series(part(f"({pace('', 'redis_calls_total', broken)} or vector(0))", pace("", "redis_calls_total")), "failed"),
            unit="percentunit",
            thresholds=plain(ORANGE),
            w=8,
        ),
        lines(
            "Open files",
            "Open files of each replica, of those that it may have.",
            series(part(f"sum by (instance) ({of('process_open_fds')})", f"sum by (instance) ({of('process_max_fds')})"), "{{instance}}"),
            unit="percentunit",
            w=8,
        ),
    ]


def _bills() -> list[Json]:
    return [
        heading("Do the bills match"),
        lines(
            "Reconciliation gap",
            "Theirs less ours at the last reconciliation (faregate reconcile), by host. Above zero, a host billed more.",
            series(highest("host, currency", of("reconcile_gap")), "{{host}} {{currency}}"),
            unit="short",
            money=True,
            stepped=True,
            w=8,
        ),
        shares(
            "Where usage comes from",
            "Charged answers in this range: reported by the host, or counted here because it did not report.",
            point(grown("source", "usage_total"), "{{source}}"),
            unit="short",
            decimals=0,
            overrides=coloured("reported", "counted", "unknown"),
            w=8,
        ),
        lines(
            "Disputed and unpriced",
            "Charges a minute where the host's own figure was not believed, and requests refused because no price was known, by host.",
            series(f"60 * {pace('host', 'disputed_total')} or 0 * {pace('host', 'usage_total')}", "{{host}} disputed"),
            series(
                f"60 * {pace('host, model', 'unpriced_total')} or 0 * {pace('host, model', 'attempts_total')}",
                "{{host}} {{model}} unpriced",
            ),
            unit="short",
            w=8,
        ),
        heading("Policies and keys"),
        lines(
            "Policies loaded",
            "How long ago the policies in force were loaded, by replica: replicas should agree.",
            series(f"{now_there()} - {highest('instance', of('policies_loaded_timestamp_seconds'))}", "{{instance}}"),
            unit="s",
            w=8,
        ),
        lines(
            "Versions of the policies",
            "Replicas by the digest of the policies in force: for long, there should be one.",
            series(f"count by (digest) ({of('policies_info')})", "{{digest}}"),
            unit="short",
            stepped=True,
            decimals=0,
            w=8,
        ),
        bars(
            "Keys in force",
            "1 where the stored keys in force are those of the store, 0 where they may be older.",
            point(highest("instance", of("keys_reload_ok")), "{{instance}}"),
            unit="bool_yes_no",
            max=1,
            thresholds=_DOWN,
            w=8,
        ),
    ]


def panels() -> list[Json]:
    return [*_numbers(), *_ledger(), *_stores(), *_bills()]
