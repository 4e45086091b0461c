"""Hosts: which are in use, how they answer, what they hit of what was expected, what they cost now, and whether they are paid."""

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
    named,
    plain,
    point,
    rows,
    series,
    shares,
    stat,
    steps,
    table,
    timeline,
)  # fmt: skip
from dashboards.builder.queries import grown, highest, lately, now_there, of, pace, part, quantile

UID, TITLE, PAGE = "faregate-hosts", "Hosts", "hosts"
DESCRIPTION = "Which hosts are in use, how they answer, what they hit of what was expected, what they cost now, and whether they are paid."

_TOO_MANY = 'outcome="rate_limited"'
_PLACE = "host, model"
_LEGEND = "{{host}} {{model}}"
_GOOD = "ok|client_gone|stopped|client_error"


def _lowest(by: str, name: str, *matchers: str) -> str:
    """As the replica sees it that sees it worst."""
    return f"min by ({by}) ({of(name, *matchers)})"


def _numbers() -> list[Json]:
    up = _lowest(_PLACE, "host_up")
    return [
        stat(
            "In use",
            "Deployments that are in use, of those that a request has gone to.",
            point(f"sum({up})", "in use"),
            point(f"count({up})", "seen"),
            unit="short",
            w=4,
        ),
        stat(
            "Left out",
            "Deployments that are left out after failures, at one replica at least.",
            point(f"count({up} == 0) or vector(0)", "left out"),
            unit="short",
            thresholds=steps((1, RED)),
            w=4,
        ),
        stat(
            "To mend",
            "What an operator must mend at a host: no balance, a refused key, a model it does not know, a shrunken limit.",
            point(f"count({highest('host, model, kind', of('host_alarm'))}) or vector(0)", "alarms"),
            unit="short",
            thresholds=steps((1, RED)),
            w=4,
        ),
        stat(
            "429 from hosts",
            "Attempts a minute that hosts refused as too many.",
            series(f"60 * ({pace('', 'attempts_total', _TOO_MANY)} or vector(0))", "a minute"),
            unit="short",
            decimals=1,
            thresholds=steps((1, YELLOW), (30, RED)),
            spark=True,
            w=4,
        ),
        stat(
            "Hits of those foretold",
            "Cache hits that came, of those that routing expected, in this range: near 1 is right.",
            point(part(grown("", "actual_hit_tokens_total"), grown("", "predicted_hit_tokens_total")), "came"),
            unit="percentunit",
            decimals=0,
            thresholds=steps((0.7, YELLOW), (0.9, GREEN), base=RED),
            w=4,
        ),
        stat(
            "Lowest balance",
            "The lowest balance that a host reports, by currency; hosts without such a report are not here.",
            point(f"min by (currency) ({highest('host, currency', of('host_balance'))})", "{{currency}}"),
            unit="short",
            money=True,
            thresholds=steps((5, YELLOW), (20, GREEN), base=RED),
            w=4,
        ),
    ]


def _health() -> list[Json]:
    return [
        heading("Health"),
        timeline(
            "In use or left out",
            "The breaker of each deployment: left out after failures or for want of balance, until one request has tried it again.",
            series(_lowest(_PLACE, "host_up"), _LEGEND),
            words={1: ("in use", GREEN), 0: ("left out", RED)},
            w=12,
            h=9,
        ),
        lines(
            "Failing, as routing believes",
            "The part of a deployment's answers that fail, as routing weighs it against its price.",
            series(highest(_PLACE, of("host_failing_ratio")), _LEGEND),
            unit="percentunit",
            min=0,
            max=1,
            w=12,
            h=9,
        ),
        lines(
            "Attempts",
            "Dispatches a second by host; a request may have several.",
            series(pace("host", "attempts_total"), "{{host}}"),
            unit="reqps",
            stacked=True,
            w=8,
        ),
        lines(
            "Failed attempts",
            "Dispatches a second that did not end well, by host and how.",
            series(pace("host, outcome", "attempts_total", f'outcome!~"{_GOOD}"'), "{{host}} {{outcome}}"),
            unit="reqps",
            stacked=True,
            w=8,
        ),
        lines(
            "429",
            "Dispatches a minute that a host refused as too many, by deployment.",
            series(f"60 * {pace(_PLACE, 'attempts_total', _TOO_MANY)}", _LEGEND),
            unit="short",
            w=8,
        ),
        lines(
            "Under way",
            "Requests on their way to a deployment.",
            series(f"sum by ({_PLACE}) ({of('host_requests')})", _LEGEND),
            unit="short",
            w=8,
        ),
        lines(
            "Tried again in",
            "How long until a deployment that is left out is tried again; 0 while it is in use.",
            series(highest(_PLACE, of("host_wait_seconds")), _LEGEND),
            unit="s",
            w=8,
        ),
        lines(
            "Deployments by route",
            "How many deployments of a route are not left out. At 0, its requests fail.",
            series(f"min by (route) ({of('route_deployments_up')})", "{{route}}"),
            unit="short",
            stepped=True,
            decimals=0,
            w=8,
        ),
    ]


def _caches() -> list[Json]:
    came, foretold = lately(_PLACE, "actual_hit_tokens_total"), lately(_PLACE, "predicted_hit_tokens_total")
    paid = lately("host, currency", "spend_total")
    return [
        heading("Foretold and come"),
        lines(
            "Hits foretold and come",
            "Prompt tokens a second that were expected to hit a host's cache, and those of the same requests that did.",
            series(pace("host", "predicted_hit_tokens_total"), "{{host}}: foretold"),
            series(pace("host", "actual_hit_tokens_total"), "{{host}}: came"),
            unit="short",
            w=8,
        ),
        lines(
            "Hits of those foretold",
            "Came, of those foretold, over the last hour: near 1 is right; falling, a host caches less than it did.",
            series(part(came, foretold), _LEGEND),
            unit="percentunit",
            max=2,
            w=8,
        ),
        lines(
            "Cost of what was foretold",
            "What answers cost, of what they were expected to cost, over the last hour: near 1 is right.",
            series(part(paid, lately("host, currency", "predicted_spend_total"), "on (host, currency)"), "{{host}} {{currency}}"),
            unit="percentunit",
            max=3,
            w=8,
        ),
        lines(
            "Hit-rate alarm",
            "1 where a host's hits of prefixes that it must know fell far below what they were.",
            series(highest(_PLACE, of("hit_rate_alarm")), _LEGEND),
            unit="bool",
            stepped=True,
            max=1,
            decimals=0,
            thresholds=steps((1, RED)),
            w=8,
        ),
        lines(
            "Cache-hit share",
            "Prompt tokens that were cache hits, of all prompt tokens, by deployment, over the last hour.",
            series(
                part(lately(_PLACE, "tokens_total", 'class="cache_hit"'), lately(_PLACE, "tokens_total", 'class=~"cache_hit|cache_miss"')),
                _LEGEND,
            ),
            unit="percentunit",
            min=0,
            max=1,
            w=8,
        ),
        shares(
            "Where usage comes from",
            "Charged answers in this range: usage that the host reported, or that was counted here because it did not.",
            point(grown("source", "usage_total"), "{{source}}"),
            unit="short",
            decimals=0,
            overrides=coloured("reported", "counted", "unknown"),
            w=8,
        ),
    ]


def _prices() -> list[Json]:

    place = "host, model, currency"
    changes = f"({highest(f'{place}, window', of('window_change_timestamp_seconds'))} - {now_there()})"
    window = highest("host, model, window", f"{of('window')} == 1")
    columns = {
        "hit": rows(highest(place, of("token_price", 'class="cache_hit"'))),
        "miss": rows(highest(place, of("token_price", 'class="cache_miss"'))),
        "output": rows(highest(place, of("token_price", 'class="output"'))),
        "verified": rows(_lowest(place, "price_verified")),
    }
    yes = [
        {"type": "value", "options": {"1": {"text": "yes", "color": GREEN, "index": 0}, "0": {"text": "no", "color": ORANGE, "index": 1}}}
    ]
    return [
        heading("Prices and balances"),
        lines(
            "Price of a million output tokens",
            "As it is in force; it moves where a price window or a new card begins.",
            series(highest(place, of("token_price", 'class="output"')), "{{host}} {{model}} {{currency}}"),
            unit="short",
            money=True,
            stepped=True,
            w=12,
            h=9,
        ),
        table(
            "Prices now",
            "The price of a million tokens now, by class, and whether the card was checked against the vendor's own list.",
            columns,
            place.split(", "),
            w=12,
            h=9,
            sort="output",
            unit="none",
            overrides=[named("verified", mappings=yes)],
        ),
        table(
            "Windows now",
            "Which price window is in force now, by deployment; `standard` outside every window.",
            {"in force": rows(window)},
            ["host", "model", "window"],
            w=8,
            hidden=True,
        ),
        bars(
            "Next change of a price",
            "Time until the price of a deployment changes, and to which window.",
            point(f"topk(10, {changes})", "{{model}}: {{window}}"),
            unit="s",
            thresholds=plain(),
            w=8,
        ),
        lines(
            "Balance",
            "What is left at each host that reports it.",
            series(highest("host, currency", of("host_balance")), "{{host}} {{currency}}"),
            unit="short",
            money=True,
            thresholds=steps((5, YELLOW), (20, GREEN), base=RED),
            w=8,
        ),
        lines(
            "Balance gap",
            "What a balance fell by beyond what was charged here: traffic that does not pass this gateway, or a wrong price.",
            series(highest("host, currency", of("balance_gap")), "{{host}} {{currency}}"),
            unit="short",
            money=True,
            w=8,
        ),
        timeline(
            "To mend",
            "What an operator must mend: `unpaid` (no balance), `balance` (fewer requests at a time), `locked` (our key is refused),"
            " `missing` (no such model).",
            series(highest("host, model, kind", of("host_alarm")), "{{host}} {{model}} {{kind}}"),
            words={1: ("to mend", RED)},
            w=8,
            noValue="nothing to mend",
        ),
        lines(
            "Time to first token, half",
            "Half of the answers of a deployment began within this time.",
            series(quantile(0.5, _PLACE, "time_to_first_token_seconds", 'host!=""'), _LEGEND),
            unit="s",
            w=8,
        ),
    ]


def panels() -> list[Json]:
    return [*_numbers(), *_health(), *_caches(), *_prices()]
