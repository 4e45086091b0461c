"""Families: the metrics that /metrics shows, by name, kind, labels in order and help. docs/metrics.md says the same in more words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

REQUEST_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
OVERHEAD_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

PACE_BUCKETS: Final = (5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 400.0)

_REQUEST = ("team", "route", "host", "model")
_ANSWER = ("route", "host", "model")
_PRICE = ("host", "model", "currency")
_BUDGET = ("team", "budget", "currency")


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its kind, name, labels in order, help and, for a histogram, buckets in its unit."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


FAMILIES: Final = (
    Family("counter", "faregate_requests_total", (*_REQUEST, "outcome"), "Requests by how they ended."),
    Family("counter", "faregate_errors_total", ("team", "code"), "Errors that clients got, by code."),
    Family("counter", "faregate_tokens_total", (*_REQUEST, "class"), "Tokens charged, by class: cache_hit, cache_miss, output."),
    Family("counter", "faregate_reasoning_tokens_total", _REQUEST, "Reasoning tokens charged; they are part of the output tokens."),
    Family("counter", "faregate_spend_total", (*_REQUEST, "class", "currency"), "Charges in whole units, by class of token."),
    Family("counter", "faregate_baseline_spend_total", ("team", "baseline", "currency"), "What the same tokens would cost elsewhere."),
    Family("counter", "faregate_cache_saved_total", ("team", "host", "model", "currency"), "Saved by cache hits, in whole units."),
    Family("counter", "faregate_edits_total", ("edit", "contract"), "Edits made to requests and answers, by name."),
    Family("counter", "faregate_attempts_total", ("host", "model", "outcome"), "Dispatches to hosts by how they ended."),
    Family("counter", "faregate_usage_total", ("host", "source"), "Charged answers by where their usage comes from."),
    Family("counter", "faregate_predicted_hit_tokens_total", ("host", "model"), "Prompt tokens that were expected to hit the cache."),
    Family("counter", "faregate_actual_hit_tokens_total", ("host", "model"), "Prompt tokens of the same requests that did hit it."),
    Family("counter", "faregate_predicted_spend_total", ("host", "model", "currency"), "What charged requests were expected to cost."),
    Family("counter", "faregate_unpriced_total", ("host", "model"), "Requests refused because no price was known."),
    Family("counter", "faregate_disputed_total", ("host",), "Charges where the host's own figure was not believed."),
    Family("counter", "faregate_expired_holds_total", (), "Holds whose lease ran out: charged by estimate."),
    Family("counter", "faregate_given_up_records_total", (), "Charges that neither the ledger's store nor the spool would take."),
    Family("counter", "faregate_redis_calls_total", ("op", "outcome"), "Calls to Redis, by how they ended; skipped while it is down."),
    Family("gauge", "faregate_budget_limit", _BUDGET, "The limit of a budget, in whole units; take the max."),
    Family("gauge", "faregate_budget_spent", _BUDGET, "What a budget has spent, in whole units; take the max."),
    Family("gauge", "faregate_budget_held", _BUDGET, "What a budget holds for requests under way; take the max."),
    Family("gauge", "faregate_budget_began_timestamp_seconds", _BUDGET, "When the period of a budget began; none without an end."),
    Family("gauge", "faregate_budget_resets_timestamp_seconds", _BUDGET, "When the period of a budget ends; none without an end."),
    Family("gauge", "faregate_open_streams", (), "Answers being streamed now."),
    Family("gauge", "faregate_host_up", ("host", "model"), "Whether a deployment is in use (1) or left out after failures (0)."),
    Family("gauge", "faregate_host_requests", ("host", "model"), "Requests on their way to a deployment."),
    Family("gauge", "faregate_host_failing_ratio", ("host", "model"), "The part of its answers that fail, as routing believes it."),
    Family("gauge", "faregate_host_wait_seconds", ("host", "model"), "Time until a deployment that is left out is tried again."),
    Family("gauge", "faregate_host_alarm", ("host", "model", "kind"), "What an operator must mend at a host (1); gone once it is mended."),
    Family("gauge", "faregate_hit_rate_alarm", ("host", "model"), "Whether the cache hits of known prefixes fell (1) or not (0)."),
    Family("gauge", "faregate_host_balance", ("host", "currency"), "What a host says is left of our money, in whole units; take the max."),
    Family("gauge", "faregate_balance_gap", ("host", "currency"), "What a balance fell by beyond what was charged, in whole units."),
    Family("gauge", "faregate_reconcile_gap", ("host", "currency"), "Billed minus charged in the last reconciliation, in whole units."),
    Family("gauge", "faregate_reconcile_age_seconds", ("host",), "Since the last reconciliation with a host's export."),
    Family("gauge", "faregate_replica_up", ("host", "replica"), "Whether a replica of an own engine is in use (1) or left out (0)."),
    Family("gauge", "faregate_replica_requests", ("host", "replica"), "Requests on their way to a replica of an own engine."),
    Family("gauge", "faregate_route_deployments", ("route",), "Deployments that serve a route now and are configured here."),
    Family("gauge", "faregate_route_deployments_up", ("route",), "Those of them that are in use."),
    Family("gauge", "faregate_ledger_up", (), "Whether the ledger's store answers (1) or not (0)."),
    Family("gauge", "faregate_spool_records", (), "Holds and charges that wait on this machine's disk for the ledger's store."),
    Family("gauge", "faregate_open_holds", (), "Holds of requests under way in this process."),
    Family("gauge", "faregate_oldest_hold_seconds", (), "Age of the oldest of them; 0 where there is none."),
    Family("gauge", "faregate_lease_seconds", (), "How long a hold lasts that nobody renews."),
    Family("gauge", "faregate_lease_age_seconds", (), "Time since this process last renewed the leases of its holds."),
    Family("gauge", "faregate_redis_up", (), "Whether Redis is in use (1) or left alone after failures (0); none without Redis."),
    Family("gauge", "faregate_policies_info", ("digest",), "The policies in force."),
    Family("gauge", "faregate_policies_reload_ok", (), "Whether the policies folder as it is now is in force (1) or refused (0)."),
    Family("gauge", "faregate_policies_loaded_timestamp_seconds", (), "When the policies in force were loaded."),
    Family("gauge", "faregate_keys_reload_ok", (), "Whether the stored keys in force are those of the store (1) or may be older (0)."),
    Family("gauge", "faregate_build_info", ("version",), "The version of the gateway."),
    Family("gauge", "faregate_ready", (), "Whether /readyz says that new requests may come (1) or not (0)."),
    Family("gauge", "faregate_clock_shift_seconds", (), "The gateway's clock less the machine's; 0 without FAREGATE_CLOCK."),
    Family("gauge", "faregate_card_verified", ("card",), "Whether a rate card was checked against the vendor's list (1) or not (0)."),
    Family("gauge", "faregate_calendar_left_seconds", ("calendar",), "Time until a calendar of holidays ends; negative once it has."),
    Family("gauge", "faregate_price_known", _PRICE, "Whether a price of a configured deployment is known now (1) or not (0)."),
    Family("gauge", "faregate_price_verified", _PRICE, "Whether that price was checked against the vendor's list (1) or not (0)."),
    Family("gauge", "faregate_token_price", (*_PRICE, "class"), "The price of a million tokens now, in whole units."),
    Family("gauge", "faregate_window", (*_PRICE, "window"), "The price window in force (1)."),
    Family("gauge", "faregate_window_change_timestamp_seconds", (*_PRICE, "window"), "When the price changes next, and to which window."),
    Family("gauge", "faregate_price_ends_timestamp_seconds", _PRICE, "When the last card of a price ends; none where it has no end."),
    Family("histogram", "faregate_time_to_first_token_seconds", _ANSWER, "From arrival to the first content sent.", REQUEST_BUCKETS),
    Family("histogram", "faregate_output_tokens_per_second", _ANSWER, "How fast streamed answers were written.", PACE_BUCKETS),
    Family("histogram", "faregate_request_duration_seconds", _ANSWER, "From arrival to the end of the answer.", REQUEST_BUCKETS),
    Family("histogram", "faregate_overhead_seconds", _ANSWER, "The part of the duration that the gateway itself spent.", OVERHEAD_BUCKETS),
    Family("histogram", "faregate_ledger_commit_seconds", ("op",), "From asking the ledger to its commit.", OVERHEAD_BUCKETS),
)  # fmt: skip
