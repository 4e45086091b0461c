"""Metrics: what /metrics shows, counted and read as it is asked for. Counters are per process; sum them over replicas.

Label values come from policies and settings only. What a caller chose freely (a model name, a field) becomes `other`, so
that nobody outside can add a time series. Money is exact in the ledger; here it is a float in whole units, for display.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import accumulate
from math import inf
from typing import Final

from msgspec.structs import replace
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from gateway.calibration import foretold
from gateway.clock import Clock
from gateway.experience import FASTEST_PACE
from gateway.families import FAMILIES, Family
from gateway.gauges import Budgets, Gauges, Watched
from gateway.money import NANO, Parts
from gateway.outcome import LedgerRow, Outcome
from gateway.usage import Usage

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
OTHER: Final = "other"

# Fields of OpenAI's API and of engines that clients often send: an edit that drops one is counted under its own name.
KNOWN_FIELDS: Final = frozenset(
    "audio budget_tokens chat_template_kwargs content enable_thinking extra_body frequency_penalty function_call functions"
    " logit_bias logprobs max_completion_tokens max_output_tokens max_tokens metadata min_p modalities n"
    " parallel_tool_calls prediction presence_penalty prompt_cache_key prompt_cache_retention reasoning reasoning_content"
    " reasoning_details reasoning_effort repetition_penalty response_format safety_identifier seed service_tier stop store"
    " stream_options temperature think thinking thinking_budget tool_choice tools top_k top_logprobs top_p user verbosity"
    " volatile web_search_options".split()
)
# Output tokens from which the pace of an answer says something.
PACED: Final = 32


class _Counts:
    """A counter's children by their label values, as whole numbers (money: nano-units), shown divided by `unit`."""

    def __init__(self, unit: int = 1) -> None:
        self.unit = unit
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, labels: tuple[str, ...], amount: int = 1) -> None:
        self._counts[labels] = self._counts.get(labels, 0) + amount

    def copy(self) -> _Counts:
        copied = _Counts(self.unit)
        copied._counts = self._counts.copy()
        return copied

    def family(self, about: Family) -> Metric:
        shown = CounterMetricFamily(about.name, about.help, labels=about.labels)
        for labels, count in self._counts.items():
            shown.add_metric(labels, count / self.unit)
        return shown


class _Times:
    """A histogram's children by their label values."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._spreads: dict[tuple[str, ...], _Spread] = {}

    def of(self, labels: tuple[str, ...]) -> _Spread:
        found = self._spreads.get(labels)
        if found is None:
            found = self._spreads[labels] = _Spread(self._bounds)
        return found

    def family(self, about: Family) -> Metric:
        shown = HistogramMetricFamily(about.name, about.help, labels=about.labels)
        limits = [floatToGoString(bound) for bound in (*self._bounds, inf)]  # type: ignore[no-untyped-call]
        for labels, spread in self._spreads.copy().items():
            if any(counts := tuple(spread.counts)):
                shown.add_metric(labels, list(zip(limits, accumulate(counts), strict=True)), spread.total)
        return shown


class _Spread:
    """How many durations fell between each two bounds, and their sum in seconds."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.total += seconds


Spreads = tuple[_Spread, _Spread, _Spread, _Spread]


class _Tally:
    """What requests of one team, route, host, model, outcome and currency add up to; tokens and nano-units by class."""

    __slots__ = (
        "actual_hit", "attempts", "compared", "currency", "duration", "first_token", "host", "labels", "model", "outcome", "overhead",
        "pace", "predicted", "predicted_hit", "priced", "reasoning", "requests", "sources",
        "spend_hit", "spend_miss", "spend_output", "team", "tokens_hit", "tokens_miss", "tokens_output", "used",
    )  # fmt: skip

    def __init__(self, labels: tuple[str, str, str, str], outcome: str, currency: str, spreads: Spreads) -> None:
        self.labels, self.outcome, self.currency = labels, outcome, currency
        self.team, _route, self.host, self.model = labels
        self.first_token, self.duration, self.overhead, self.pace = spreads
        self.requests = self.used = self.priced = 0
        self.tokens_hit = self.tokens_miss = self.tokens_output = self.reasoning = 0
        self.spend_hit = self.spend_miss = self.spend_output = self.predicted = 0
        self.predicted_hit = self.actual_hit = self.compared = 0
        self.attempts: defaultdict[str, int] = defaultdict(int)
        self.sources: defaultdict[str, int] = defaultdict(int)


class Metrics:
    """All metrics of one process, in a registry of their own.

    Requests are counted here, in plain numbers, and shown by the client library only when somebody asks: its own children
    take a lock for each number, which cost more than pricing the request.
    """

    def __init__(self, policies: Watched, clock: Clock, budgets: Budgets | None = None) -> None:
        self._policies = policies
        self.gauges = Gauges(policies, clock, budgets)
        """How everything is now; whoever makes the parts says there whom to ask."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        families = {family.name: family for family in FAMILIES}

        def counts(name: str, unit: int = 1) -> _Counts:
            found = self._counts[f"faregate_{name}_total"] = _Counts(unit)
            return found

        def times(name: str) -> _Times:
            family = families[f"faregate_{name}"]
            found = self._times[family.name] = _Times(family.buckets)
            return found

        self._counts: dict[str, _Counts] = {}
        self._times: dict[str, _Times] = {}
        self._baseline_spend = counts("baseline_spend", NANO)
        self._cache_saved = counts("cache_saved", NANO)
        self._edits = counts("edits")
        self._unpriced = counts("unpriced")
        self._disputed = counts("disputed")
        self._redis_calls = counts("redis_calls")
        self._errors = counts("errors")
        self._first_token = times("time_to_first_token_seconds")
        self._pace = times("output_tokens_per_second")
        self._duration = times("request_duration_seconds")
        self._overhead = times("overhead_seconds")
        self._commit = times("ledger_commit_seconds")
        self._tallies: dict[tuple[str, ...], _Tally] = {}
        # The tallies by the names that requests carry, while these are the policies in force.
        self._named: dict[tuple[str, ...], _Tally] = {}
        self._named_by = policies.current
        self.registry.register(self)
        self.registry.register(self.gauges)

    def observe(self, outcome: Outcome) -> None:
        """Count one request, once, after it was settled or refused."""
        tally = self._tally(outcome)
        tally.requests += 1
        tally.duration.observe(outcome.duration)
        tally.overhead.observe(outcome.overhead)
        if outcome.first_token is not None:
            tally.first_token.observe(outcome.first_token)
        if outcome.error is not None:
            self._failed(outcome.error, tally)
        for edit in outcome.edits:
            self._edits.add((self._edit(edit), self._contract(outcome.contract)))
        if outcome.row is not None:
            self._charged(outcome, outcome.row, tally)

    def _failed(self, code: str, tally: _Tally) -> None:
        self._errors.add((tally.team, code))
        if code == "price_unknown":
            self._unpriced.add((tally.host, tally.model))

    def committed(self, op: str, seconds: float) -> None:
        """How long the ledger took for one operation; `op` is one of its own few names."""
        self._commit.of((op,)).observe(seconds)

    def redis_call(self, op: str, outcome: str) -> None:
        """One call to Redis; both names are of its own few."""
        self._redis_calls.add((op, outcome))

    def redis_up(self, up: bool) -> None:
        self.gauges.redis_up = up

    def stream_opened(self) -> None:
        self.gauges.streams += 1

    def stream_closed(self) -> None:
        self.gauges.streams -= 1

    def text(self) -> bytes:
        """The exposition. Takes tens of milliseconds where there are many series: call it in a thread."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """The counters and histograms as the client library shows them.

        Another thread counts meanwhile: every dict and list is copied in one step, and a number that moved on between
        two copies is only a later one.
        """
        counts = {name: one.copy() for name, one in self._counts.items()} | _summed(list(self._tallies.values()))
        for family in FAMILIES:
            if family.kind == "counter" and family.name in counts:
                yield counts[family.name].family(family)
            elif family.kind == "histogram":
                yield self._times[family.name].family(family)

    def _tally(self, outcome: Outcome) -> _Tally:
        if self._named_by is not self._policies.current:
            self._named_by = self._policies.current
            self._named.clear()
        currency = outcome.row.currency if outcome.row is not None else ""
        named = (outcome.team, outcome.route, outcome.host, outcome.model, outcome.status, currency)
        return self._named.get(named) or self._look_up(outcome, named)

    def _look_up(self, outcome: Outcome, named: tuple[str, ...]) -> _Tally:
        route, host, model = self._route(outcome.route), self._host(outcome.host), self._model(outcome.host, outcome.model)
        key = (outcome.team, route, host, model, *named[4:])
        tally = self._tallies.get(key)
        if tally is None:
            answer = (route, host, model)
            spreads = self._first_token.of(answer), self._duration.of(answer), self._overhead.of(answer), self._pace.of(answer)
            tally = self._tallies[key] = _Tally((outcome.team, *answer), outcome.status, named[5], spreads)
        if key == named:
            # Names of policies only: what callers invent is not kept.
            self._named[named] = tally
        return tally

    def _charged(self, outcome: Outcome, row: LedgerRow, tally: _Tally) -> None:
        for attempt in row.attempts:
            self._there(tally, outcome, attempt.host, attempt.model).attempts[attempt.outcome] += 1
        answered = row.usage
        if not outcome.spent:
            self._spent(tally, row.usage, row.parts, row.disputed)
            if row.stream and answered is not None and outcome.first_token is not None and answered.output >= PACED:
                writing = outcome.duration - outcome.first_token
                # What comes faster was not written as it came.
                if writing * FASTEST_PACE > answered.output:
                    tally.pace.observe(answered.output / writing)
        else:
            # Each where it was billed: the row has the sums, and the last one's host.
            answered = outcome.spent[-1].usage
            for one in outcome.spent:
                self._spent(self._there(tally, outcome, one.host, one.model), one.usage, one.parts, one.disputed)
        if answered is not None:
            tally.predicted += row.expected_nano
            if answered.sources.cache_hit == "reported" and (option := foretold(row)) is not None:
                tally.compared += 1
                tally.predicted_hit += option.hit
                tally.actual_hit += answered.cache_hit
        if outcome.cache_saved_nano > 0:
            self._cache_saved.add((tally.team, tally.host, tally.model, row.currency), outcome.cache_saved_nano)
        for baseline in outcome.baselines:
            self._baseline_spend.add((tally.team, baseline.name, baseline.currency), baseline.nano)

    def _spent(self, tally: _Tally, usage: Usage | None, parts: Parts | None, disputed: bool) -> None:
        if usage is not None:
            tally.used += 1
            tally.tokens_hit += usage.cache_hit
            tally.tokens_miss += usage.cache_miss
            tally.tokens_output += usage.output
            tally.reasoning += usage.reasoning
            tally.sources[_source(usage)] += 1
        if parts is not None:
            tally.priced += 1
            tally.spend_hit += parts.cache_hit
            tally.spend_miss += parts.cache_miss
            tally.spend_output += parts.output
        if disputed:
            self._disputed.add((tally.host,))

    def _there(self, tally: _Tally, outcome: Outcome, host: str, model: str) -> _Tally:
        """The tally of an attempt, which mostly is that of its request."""
        if host == outcome.host and model == outcome.model:
            return tally
        return self._tally(replace(outcome, host=host, model=model))

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


def _summed(tallies: Iterable[_Tally]) -> dict[str, _Counts]:
    """The counters that tallies hold, by the names of their families."""
    requests, tokens, reasoning, spend = _Counts(), _Counts(), _Counts(), _Counts(NANO)
    attempts, sources = _Counts(), _Counts()
    predicted, predicted_hits, actual_hits = _Counts(NANO), _Counts(), _Counts()
    for tally in tallies:
        if tally.requests:
            requests.add((*tally.labels, tally.outcome), tally.requests)
        for outcome, count in tally.attempts.copy().items():
            attempts.add((tally.host, tally.model, outcome), count)
        for source, count in tally.sources.copy().items():
            sources.add((tally.host, source), count)
        if tally.used:
            for name, count in (("cache_hit", tally.tokens_hit), ("cache_miss", tally.tokens_miss), ("output", tally.tokens_output)):
                tokens.add((*tally.labels, name), count)
            reasoning.add(tally.labels, tally.reasoning)
            if tally.requests:
                # Not where an earlier attempt alone was paid for, of which nothing was foretold.
                predicted.add((tally.host, tally.model, tally.currency), tally.predicted)
        if tally.compared:
            predicted_hits.add((tally.host, tally.model), tally.predicted_hit)
            actual_hits.add((tally.host, tally.model), tally.actual_hit)
        if tally.priced:
            for name, nano in (("cache_hit", tally.spend_hit), ("cache_miss", tally.spend_miss), ("output", tally.spend_output)):
                spend.add((*tally.labels, name, tally.currency), nano)
    return {
        "faregate_requests_total": requests,
        "faregate_attempts_total": attempts,
        "faregate_usage_total": sources,
        "faregate_tokens_total": tokens,
        "faregate_reasoning_tokens_total": reasoning,
        "faregate_spend_total": spend,
        "faregate_predicted_spend_total": predicted,
        "faregate_predicted_hit_tokens_total": predicted_hits,
        "faregate_actual_hit_tokens_total": actual_hits,
    }


def _source(usage: Usage) -> str:
    """The weakest source among what is billed: reported, counted or unknown."""
    if usage.reported:
        return "reported"
    return "unknown" if "unknown" in (usage.sources.cache_miss, usage.sources.output) else "counted"
