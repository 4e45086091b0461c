"""Traffic and latency: how much is asked, how it ends and through whose fault, and how long it takes."""

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
    plain,
    point,
    series,
    stat,
    steps,
)  # fmt: skip
from dashboards.builder.queries import RATE, grown, highest, of, pace, part, quantile

UID, TITLE, PAGE = "faregate-traffic", "Traffic and latency", "traffic-and-latency"
DESCRIPTION = "How much is asked, how it ends and through whose fault, how long it takes, and what of that is the gateway's own."

# Whose fault it was that a request did not end well, and the outcomes that say so.
FAULTS = {
    "the client's": "client_error",
    "a budget": "denied",
    "a rate limit": "rate_limited",
    "the host's": "upstream_error|timeout",
    "the gateway's": "gateway_error",
    "the client left": "client_gone",
}
_COLOURS = {
    "the client's": "orange",
    "a budget": "purple",
    "a rate limit": "yellow",
    "the host's": "red",
    "the gateway's": "dark-purple",
    "the client left": "light-blue",
}
_FAILED = 'outcome=~"upstream_error|timeout|gateway_error"'


def _numbers() -> list[Json]:
    def seconds(title: str, text: str, query: str, warn: float, bad: float, w: int = 3) -> Json:
        return stat(title, text, series(query, "s"), unit="s", thresholds=steps((warn, YELLOW), (bad, RED)), spark=True, w=w)

    return [
        stat("Requests", "Requests a second, of all outcomes.", series(pace("", "requests_total"), "requests"), unit="reqps", spark=True),
        stat(
            "Failed",
            "The part of all requests that failed for a host's or the gateway's fault.",
            series(part(f"({pace('', 'requests_total', _FAILED)} or vector(0))", pace("", "requests_total")), "failed"),
            unit="percentunit",
            thresholds=steps((0.01, YELLOW), (0.05, RED)),
            decimals=2,
            spark=True,
        ),
        seconds(
            "First token, half",
            "Half of the answers began within this time after the request arrived.",
            quantile(0.5, "", "time_to_first_token_seconds"),
            5,
            15,
        ),
        seconds(
            "First token, 95 %",
            "95 % of the answers began within this time after the request arrived.",
            quantile(0.95, "", "time_to_first_token_seconds"),
            15,
            60,
        ),
        stat(
            "Output tokens",
            "Output tokens charged a second, of all answers together.",
            series(pace("", "tokens_total", 'class="output"'), "tokens"),
            unit="short",
            decimals=0,
            spark=True,
        ),
        stat(
            "Open streams",
            "Answers being streamed now, at all replicas.",
            series(f"sum({of('open_streams')})", "streams"),
            unit="short",
            spark=True,
        ),
        stat(
            "Gateway's own, half",
            "Half of the requests spent at most so much of their duration in the gateway itself.",
            series(quantile(0.5, "", "overhead_seconds"), "s"),
            unit="s",
            thresholds=steps((0.01, YELLOW), (0.1, RED)),
            spark=True,
        ),
        stat(
            "Gateway's own, 99 %",
            "99 % of the requests spent at most so much of their duration in the gateway itself.",
            series(quantile(0.99, "", "overhead_seconds"), "s"),
            unit="s",
            thresholds=steps((0.05, YELLOW), (0.5, RED)),
            spark=True,
        ),
    ]


def _traffic() -> list[Json]:
    faults = [series(pace("", "requests_total", f'outcome=~"{outcomes}"') + " or vector(0)", whose) for whose, outcomes in FAULTS.items()]
    outcomes = ("ok", "stopped", "client_error", "denied", "rate_limited", "upstream_error", "timeout", "client_gone", "gateway_error")
    return [
        heading("Traffic"),
        lines(
            "Requests by outcome",
            "Requests a second by how they ended. `stopped`: a budget ended the answer, which was paid for.",
            series(pace("outcome", "requests_total"), "{{outcome}}"),
            unit="reqps",
            stacked=True,
            overrides=coloured(*outcomes),
            w=12,
        ),
        lines(
            "Whose fault",
            "Requests a second that did not end well, by whose fault it was.",
            *faults,
            unit="reqps",
            stacked=True,
            overrides=[
                {
                    "matcher": {"id": "byName", "options": name},
                    "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
                }
                for name, colour in _COLOURS.items()
            ],
            w=12,
        ),
        lines("Requests by team", "Requests a second by team.", series(pace("team", "requests_total"), "{{team}}"), unit="reqps", w=8),
        lines(
            "Requests by route",
            "Requests a second by the name that apps asked for.",
            series(pace("route", "requests_total"), "{{route}}"),
            unit="reqps",
            w=8,
        ),
        bars(
            "Errors by code",
            "Errors that clients got in this range, by the code in the answer's body; the docs say what each means.",
            point(f"topk(10, {grown('code', 'errors_total')})", "{{code}}"),
            unit="short",
            thresholds=plain(ORANGE),
            decimals=0,
            w=8,
        ),
    ]


def _latency() -> list[Json]:
    first, whole = "time_to_first_token_seconds", "request_duration_seconds"
    return [
        heading("Latency"),
        lines(
            "Time to first token",
            "From the arrival of a request to the first content sent to the client.",
            *(series(quantile(share, "", first), name) for share, name in ((0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"))),
            unit="s",
            w=8,
        ),
        lines(
            "Time to first token by host, 90 %",
            "90 % of the answers of a host began within this time.",
            series(quantile(0.9, "host", first, 'host!=""'), "{{host}}"),
            unit="s",
            w=8,
        ),
        lines(
            "Duration by model, 90 %",
            "90 % of the requests for a model ended within this time.",
            series(quantile(0.9, "model", whole, 'model!=""'), "{{model}}"),
            unit="s",
            w=8,
        ),
        lines(
            "Tokens a second of one answer",
            "How fast an answer is written once it has begun: the median by model, of streams with 32 tokens or more.",
            series(quantile(0.5, "model", "output_tokens_per_second"), "{{model}}"),
            unit="short",
            w=8,
        ),
        lines(
            "Output tokens a second",
            "Output tokens charged a second, by model, of all answers together.",
            series(pace("model", "tokens_total", 'class="output"'), "{{model}}"),
            unit="short",
            stacked=True,
            w=8,
        ),
        lines(
            "Open streams",
            "Answers being streamed, by replica.",
            series(f"sum by (instance) ({of('open_streams')})", "{{instance}}"),
            unit="short",
            stacked=True,
            w=8,
        ),
    ]


def _own() -> list[Json]:
    return [
        heading("The gateway itself"),
        lines(
            "The gateway's own time",
            "The part of a request's duration that the gateway itself spent: parsing, planning, its ledger, passing on.",
            *(series(quantile(share, "", "overhead_seconds"), name) for share, name in ((0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"))),
            unit="s",
            w=8,
        ),
        lines(
            "CPU",
            "Processor seconds a second, by replica: one process uses at most about one core.",
            series(f"sum by (instance) (rate({of('process_cpu_seconds_total')}[{RATE}]))", "{{instance}}"),
            unit="percentunit",
            thresholds=steps((0.7, ORANGE), (0.9, RED)),
            limits=True,
            w=8,
        ),
        lines(
            "Memory",
            "Resident memory by replica.",
            series(f"sum by (instance) ({of('process_resident_memory_bytes')})", "{{instance}}"),
            unit="bytes",
            w=8,
        ),
        bars(
            "Edits",
            "Changes that Faregate made to requests and answers in this range, by name.",
            point(f"topk(10, {grown('edit', 'edits_total')})", "{{edit}}"),
            unit="short",
            decimals=0,
            w=6,
        ),
        lines(
            "Spend by route",
            "Spend an hour, by the name that apps asked for.",
            series(f"3600 * {pace('route, currency', 'spend_total')}", "{{route}} {{currency}}"),
            unit="short",
            money=True,
            stacked=True,
            w=6,
        ),
        lines(
            "Ready",
            "Replicas that say they are ready (/readyz), and all of them.",
            series(f"sum({of('ready')})", "ready"),
            series(f"count({of('ready')})", "all"),
            unit="short",
            stepped=True,
            decimals=0,
            thresholds=plain(GREEN),
            w=6,
        ),
        lines(
            "Versions",
            "Replicas by version: during an upgrade there are two.",
            series(f"count by (version) ({highest('instance, version', of('build_info'))})", "{{version}}"),
            unit="short",
            stepped=True,
            decimals=0,
            w=6,
        ),
    ]


def panels() -> list[Json]:
    return [*_numbers(), *_traffic(), *_latency(), *_own()]
