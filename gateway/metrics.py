"""Metrics: every name, label and help text that /metrics shows. Counters are per process; sum them over replicas.

Label values come from policies and settings only. What a caller chose freely (a model name, a field) becomes `other`, so
that nobody outside can add a time series. Money is exact in the ledger; here it is a float in whole units, for display.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, Literal, Protocol, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from gateway.clock import Clock
from gateway.money import NANO, Parts
from gateway.outcome import Attempt, LedgerRow, Outcome
from gateway.policies import Policies
from gateway.usage import Usage

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
OTHER: Final = "other"

REQUEST_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
OVERHEAD_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

# Fields of OpenAI's API and of engines that clients often send: an edit that drops one is counted under its own name.
KNOWN_FIELDS: Final = frozenset(
    "audio chat_template_kwargs enable_thinking extra_body frequency_penalty function_call functions logit_bias logprobs"
    " max_completion_tokens max_tokens metadata min_p modalities n parallel_tool_calls prediction presence_penalty"
    " prompt_cache_key prompt_cache_retention reasoning reasoning_content reasoning_details reasoning_effort"
    " repetition_penalty response_format safety_identifier seed service_tier stop store stream_options temperature think"
    " thinking thinking_budget tool_choice tools top_k top_logprobs top_p user verbosity web_search_options".split()
)

_DAY: Final = 86_400
_REQUEST = ("team", "route", "host", "model")
_ANSWER = ("route", "host", "model")


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its kind, name, labels in order, help and, for a histogram, buckets in seconds."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


FAMILIES: Final = (
    Family("counter", "faregate_requests_total", (*_REQUEST, "outcome"), "Requests by how they ended."),
    Family("counter", "faregate_tokens_total", (*_REQUEST, "class"), "Tokens charged, by class: cache_hit, cache_miss, output."),
    Family("counter", "faregate_reasoning_tokens_total", _REQUEST, "Reasoning tokens charged; they are part of the output tokens."),
    Family("counter", "faregate_spend_total", (*_REQUEST, "class", "currency"), "Charges in whole units, by class of token."),
    Family("counter", "faregate_baseline_spend_total", ("team", "baseline", "currency"), "What the same tokens would cost elsewhere."),
    Family("counter", "faregate_cache_saved_total", ("team", "host", "model", "currency"), "Saved by cache hits, in whole units."),
    Family("counter", "faregate_edits_total", ("edit", "contract"), "Edits made to requests and answers, by name."),
    Family("counter", "faregate_attempts_total", ("host", "model", "outcome"), "Dispatches to hosts by how they ended."),
    Family("counter", "faregate_usage_total", ("host", "source"), "Charged answers by where their usage comes from."),
    Family("counter", "faregate_predicted_hit_tokens_total", ("host", "model"), "Prompt tokens that were expected to hit the cache."),
    Family("counter", "faregate_unpriced_total", ("host", "model"), "Requests refused because no price was known."),
    Family("counter", "faregate_disputed_total", ("host",), "Charges where the host's own figure was not believed."),
    Family("gauge", "faregate_budget_limit", ("team", "budget", "currency"), "The limit of a budget, in whole units; take the max."),
    Family("gauge", "faregate_budget_spent", ("team", "budget", "currency"), "What a budget has spent, in whole units; take the max."),
    Family("gauge", "faregate_budget_held", ("team", "budget", "currency"), "What a budget holds for requests under way; take the max."),
    Family("gauge", "faregate_open_streams", (), "Answers being streamed now."),
    Family("gauge", "faregate_host_up", ("host", "model"), "Whether a deployment is in use (1) or left out after failures (0)."),
    Family("gauge", "faregate_policies_info", ("digest",), "The policies in force."),
    Family("gauge", "faregate_card_verified", ("card",), "Whether a rate card was checked against the vendor's list (1) or not (0)."),
    Family("gauge", "faregate_calendar_left_seconds", ("calendar",), "Time until a calendar of holidays ends; negative once it has."),
    Family("histogram", "faregate_time_to_first_token_seconds", _ANSWER, "From arrival to the first content sent.", REQUEST_BUCKETS),
    Family("histogram", "faregate_request_duration_seconds", _ANSWER, "From arrival to the end of the answer.", REQUEST_BUCKETS),
    Family("histogram", "faregate_overhead_seconds", _ANSWER, "The part of the duration that the gateway itself spent.", OVERHEAD_BUCKETS),
    Family("histogram", "faregate_ledger_commit_seconds", ("op",), "From asking the ledger to its commit.", OVERHEAD_BUCKETS),
)  # fmt: skip

M = TypeVar("M", Counter, Gauge, Histogram)


class _Labelled(Generic[M]):
    """A metric whose children are kept: looking one up in the client library costs three times as much as counting."""

    def __init__(self, metric: M) -> None:
        self._metric: M = metric
        self._children: dict[tuple[str, ...], M] = {}

    def __call__(self, *values: str) -> M:
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._metric.labels(*values)
        return child

    def clear(self) -> None:
        self._children.clear()
        self._metric.clear()


class _Names(Protocol):
    """What bounds the labels: the snapshot of policies in force."""

    @property
    def current(self) -> Policies: ...


class Metrics:
    """All metrics of one process, in a registry of their own."""

    def __init__(self, policies: _Names, clock: Clock) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a `_created` series beside each counter doubles the text
        self._policies = policies
        self._clock = clock
        self._described = ""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        families = {family.name: family for family in FAMILIES}

        def counter(name: str) -> _Labelled[Counter]:
            family = families[f"faregate_{name}_total"]
            return _Labelled(Counter(family.name, family.help, family.labels, registry=self.registry))

        def gauge(name: str) -> Gauge:
            family = families[f"faregate_{name}"]
            return Gauge(family.name, family.help, family.labels, registry=self.registry)

        def histogram(name: str) -> _Labelled[Histogram]:
            family = families[f"faregate_{name}_seconds"]
            return _Labelled(Histogram(family.name, family.help, family.labels, registry=self.registry, buckets=family.buckets))

        self._requests = counter("requests")
        self._tokens = counter("tokens")
        self._reasoning = counter("reasoning_tokens")
        self._spend = counter("spend")
        self._baseline_spend = counter("baseline_spend")
        self._cache_saved = counter("cache_saved")
        self._edits = counter("edits")
        self._attempts = counter("attempts")
        self._usage = counter("usage")
        self._predicted_hits = counter("predicted_hit_tokens")
        self._unpriced = counter("unpriced")
        self._disputed = counter("disputed")
        self._budgets = tuple(_Labelled(gauge(f"budget_{what}")) for what in ("limit", "spent", "held"))
        self._open_streams = gauge("open_streams")
        self._host_up = _Labelled(gauge("host_up"))
        self._policies_info = _Labelled(gauge("policies_info"))
        self._card_verified = _Labelled(gauge("card_verified"))
        self._calendar_left = _Labelled(gauge("calendar_left_seconds"))
        self._first_token = histogram("time_to_first_token")
        self._duration = histogram("request_duration")
        self._overhead = histogram("overhead")
        self._commit = histogram("ledger_commit")

    def observe(self, outcome: Outcome) -> None:
        """Count one request, once, after it was settled or refused."""
        route, host, model = self._route(outcome.route), self._host(outcome.host), self._model(outcome.host, outcome.model)
        self._requests(outcome.team, route, host, model, outcome.status).inc()
        self._duration(route, host, model).observe(outcome.duration)
        self._overhead(route, host, model).observe(outcome.overhead)
        if outcome.first_token is not None:
            self._first_token(route, host, model).observe(outcome.first_token)
        if outcome.error == "price_unknown":
            self._unpriced(host, model).inc()
        for edit in outcome.edits:
            self._edits(self._edit(edit), self._contract(outcome.contract)).inc()
        if outcome.row is not None:
            self._charged(outcome, outcome.row, (outcome.team, route, host, model))

    def committed(self, op: str, seconds: float) -> None:
        """How long the ledger took for one operation; `op` is one of its own few names."""
        self._commit(op).observe(seconds)

    def predicted(self, host: str, model: str, hit_tokens: int) -> None:
        self._predicted_hits(self._host(host), self._model(host, model)).inc(hit_tokens)

    def stream_opened(self) -> None:
        self._open_streams.inc()

    def stream_closed(self) -> None:
        self._open_streams.dec()

    def host_up(self, host: str, model: str, up: bool) -> None:
        self._host_up(self._host(host), self._model(host, model)).set(up)

    def budget(self, team: str, budget: str, currency: str, limit: int, spent: int, held: int) -> None:
        """The ledger's figures for one budget, in nano-units."""
        for family, nano in zip(self._budgets, (limit, spent, held), strict=True):
            family(team, budget, currency).set(_units(nano))

    def text(self) -> bytes:
        """The exposition. Takes tens of milliseconds where there are many series: call it in a thread."""
        self._describe(self._policies.current)
        return generate_latest(self.registry)

    def _charged(self, outcome: Outcome, row: LedgerRow, labels: tuple[str, str, str, str]) -> None:
        team, _route, host, model = labels
        for attempt in row.attempts:
            self._attempt(attempt)
        if row.usage is not None:
            self._used(row.usage, labels)
        if row.parts is not None:
            self._spent(row.parts, row.currency, labels)
        if row.disputed:
            self._disputed(host).inc()
        if outcome.cache_saved_nano > 0:
            self._cache_saved(team, host, model, row.currency).inc(_units(outcome.cache_saved_nano))
        for baseline in outcome.baselines:
            self._baseline_spend(team, baseline.name, baseline.currency).inc(_units(baseline.nano))

    def _attempt(self, attempt: Attempt) -> None:
        self._attempts(self._host(attempt.host), self._model(attempt.host, attempt.model), attempt.outcome).inc()

    def _used(self, usage: Usage, labels: tuple[str, str, str, str]) -> None:
        for name, tokens in (("cache_hit", usage.cache_hit), ("cache_miss", usage.cache_miss), ("output", usage.output)):
            self._tokens(*labels, name).inc(tokens)
        self._reasoning(*labels).inc(usage.reasoning)
        self._usage(labels[2], _source(usage)).inc()

    def _spent(self, parts: Parts, currency: str, labels: tuple[str, str, str, str]) -> None:
        for name, nano in (("cache_hit", parts.cache_hit), ("cache_miss", parts.cache_miss), ("output", parts.output)):
            self._spend(*labels, name, currency).inc(_units(nano))

    def _describe(self, policies: Policies) -> None:
        """Say what is in force now: the snapshot's cards and digest, and how far its calendars reach."""
        today = self._clock.now().date()
        if policies.digest != self._described:
            for family in (self._policies_info, self._card_verified, self._calendar_left):
                family.clear()
            self._policies_info(policies.digest).set(1)
            for card in policies.prices.cards():
                self._card_verified(card.name).set(card.verified)
            self._described = policies.digest
        for calendar in policies.calendars.values():
            self._calendar_left(calendar.name).set(calendar.days_left(today) * _DAY)

    def _route(self, name: str) -> str:
        return name if self._policies.current.route(name) is not None else OTHER

    def _host(self, name: str) -> str:
        """Empty where no host was chosen."""
        return name if not name or name in self._policies.current.hosts else OTHER

    def _model(self, host: str, model: str) -> str:
        return model if not model or (host, model) in self._policies.current.served else OTHER

    def _contract(self, name: str) -> str:
        return name if not name or name in self._policies.current.contracts else OTHER

    def _edit(self, edit: str) -> str:
        """`drop_user=3` is `drop_user`; a field that only the caller knows is `drop_other`."""
        name = edit.partition("=")[0]
        verb, _, field = name.partition("_")
        return f"{verb}_{OTHER}" if verb in ("drop", "rename") and field not in KNOWN_FIELDS else name


def _source(usage: Usage) -> str:
    """The weakest source among what is billed: reported, counted or unknown."""
    if usage.reported:
        return "reported"
    return "unknown" if "unknown" in (usage.sources.cache_miss, usage.sources.output) else "counted"


def _units(nano: int) -> float:
    """Whole units of the currency, for display only: no decision about money is made from it."""
    return nano / NANO
