"""Spend: where the money goes, what caches and the choice of model saved, and what the month will cost."""

from __future__ import annotations

from dashboards.builder.model import (
    GREEN,
    ORANGE,
    RED,
    Json,
    annotation,
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
)  # fmt: skip
from dashboards.builder.queries import RANGE, RATE, grown, highest, lately, of, pace, part, summed

UID, TITLE, PAGE = "faregate-spend", "Spend", "spend"
DESCRIPTION = "Where the money goes: now, today and this month; by team, route, host, model and class of token."

_HIT = 'class="cache_hit"'
_PROMPT = 'class=~"cache_hit|cache_miss"'
_O1 = 'baseline="o1"'
_SECONDS_OF_MONTH = "86400 * days_in_month(vector(time()))"


def windows() -> Json:
    """Prices other than the standard ones, as stretches of time."""
    stretch = highest("host, window", of("window", 'window!="standard"') + " == 1")
    return annotation("Price windows", stretch, "{{host}}: {{window}}", "Another price than the standard one was in force.", ORANGE)


def _an_hour(by: str, *matchers: str) -> str:
    return f"3600 * {pace(by, 'spend_total', *matchers)}"


def in_windows(by: str) -> str:
    """Spend a second by the price window in force.

    While it changes, one replica may be scraped before and one after: topk takes one of the two.
    """
    window = f"topk by (host, model, currency) (1, {highest('host, model, currency, window', of('window'))})"
    spent = summed("host, model, currency", f"rate({of('spend_total')}[{RATE}])")
    return summed(by, f"{spent} * on (host, model, currency) group_left (window) {window}")


def _numbers() -> list[Json]:
    month = grown("currency", "spend_total")
    rest = f"clamp_min({_SECONDS_OF_MONTH} - $__range_s, 0) / 86400"
    day = grown("currency", "spend_total", over="1d", seconds="86400")
    saved, spent = grown("currency", "cache_saved_total"), grown("currency", "spend_total")
    return [
        stat(
            "Now, an hour",
            "What is being spent, as it would be in an hour, by currency.",
            series(_an_hour("currency"), "{{currency}}"),
            unit="short",
            money=True,
            spark=True,
            w=4,
        ),
        stat(
            "Today",
            "Spent since midnight, by currency. Counters of all replicas; the exact amounts are the ledger's (faregate spend).",
            point(grown("currency", "spend_total"), "{{currency}}"),
            unit="short",
            money=True,
            timeFrom="now/d",
            w=4,
        ),
        stat(
            "This month",
            "Spent since the first of the month, as far back as Prometheus remembers: keep at least 32 days there.",
            point(month, "{{currency}}"),
            unit="short",
            money=True,
            timeFrom="now/M",
            w=4,
        ),
        stat(
            "Forecast",
            "The whole month: what it cost so far, and the rest of it at the pace of the last 24 hours.",
            point(f"{month} + on (currency) ({day} * scalar({rest}))", "{{currency}}"),
            unit="short",
            money=True,
            timeFrom="now/M",
            w=4,
        ),
        stat(
            "Cache saved",
            "What cache hits saved in this range: the price of a miss less that of a hit.",
            point(saved, "{{currency}}"),
            unit="short",
            money=True,
            thresholds=plain(GREEN),
            w=4,
        ),
        stat(
            "o1 would have cost",
            "What the same tokens would have cost at OpenAI's o1 in this range, at its price of R1's release.",
            point(grown("currency", "baseline_spend_total", _O1), "{{currency}}"),
            unit="short",
            money=True,
            w=4,
        ),
        stat(
            "Cache-hit share",
            "Prompt tokens that were cache hits, of all prompt tokens in this range.",
            point(part(grown("", "tokens_total", _HIT), grown("", "tokens_total", _PROMPT)), "hits"),
            unit="percentunit",
            thresholds=steps((0.3, ORANGE), (0.6, GREEN), base=RED),
            decimals=1,
            w=4,
        ),
        stat(
            "Saved of the list price",
            "The part of the bill without caches that hits saved, in this range.",
            point(part(saved, f"({saved} + on (currency) {spent})", "on (currency)"), "{{currency}}"),
            unit="percentunit",
            thresholds=plain(GREEN),
            decimals=1,
            w=4,
        ),
        stat(
            "Less than o1",
            "How many times as much o1 would have cost, in this range.",
            point(part(grown("currency", "baseline_spend_total", _O1), spent, "on (currency)"), "{{currency}}"),
            unit="short",
            thresholds=plain(GREEN),
            decimals=1,
            w=4,
        ),
        stat(
            "A million tokens",
            "What a million tokens cost on average in this range, of all classes together.",
            point(f"1e6 * {part(spent, grown('', 'tokens_total'), 'on () group_left ()')}", "{{currency}}"),
            unit="short",
            money=True,
            w=4,
        ),
        stat(
            "A thousand requests",
            "What a thousand requests cost on average in this range; refused ones count and cost nothing.",
            point(f"1e3 * {part(spent, grown('', 'requests_total'), 'on () group_left ()')}", "{{currency}}"),
            unit="short",
            money=True,
            w=4,
        ),
        stat(
            "Refused for want of a price",
            "Requests that were refused because no price was known: it is never taken for zero.",
            point(f"{grown('', 'unpriced_total')} or vector(0)", "requests"),
            unit="short",
            thresholds=steps((1, RED)),
            decimals=0,
            w=4,
        ),
    ]


def _over_time() -> list[Json]:
    return [
        heading("Who spends"),
        lines(
            "By team",
            "Spend an hour by team.",
            series(_an_hour("team, currency"), "{{team}} {{currency}}"),
            unit="short",
            money=True,
            stacked=True,
            w=12,
        ),
        lines(
            "By model",
            "Spend an hour by model, at whichever host it was.",
            series(_an_hour("model, currency"), "{{model}} {{currency}}"),
            unit="short",
            money=True,
            stacked=True,
            w=12,
        ),
        bars(
            "By route",
            "Spent in this range, by the name that apps asked for.",
            point(f"topk(10, {grown('route, currency', 'spend_total')})", "{{route}} {{currency}}"),
            unit="short",
            money=True,
            w=8,
        ),
        bars(
            "By host",
            "Spent in this range, by who was paid.",
            point(f"topk(10, {grown('host, currency', 'spend_total')})", "{{host}} {{currency}}"),
            unit="short",
            money=True,
            w=8,
        ),
        shares(
            "By class of token",
            "Spent in this range on cache hits, cache misses and output.",
            point(grown("class, currency", "spend_total"), "{{class}} {{currency}}"),
            unit="short",
            money=True,
            w=8,
            overrides=coloured("cache_hit", "cache_miss", "output"),
        ),
        _receipts(),
    ]


def _receipts() -> Json:
    by = "team, route, model, host, currency"
    columns = {
        "spent": rows(grown(by, "spend_total")),
        "on hits": rows(grown(by, "spend_total", _HIT)),
        "on misses": rows(grown(by, "spend_total", 'class="cache_miss"')),
        "on output": rows(grown(by, "spend_total", 'class="output"')),
    }
    overrides = [named(name, decimals=4) for name in columns]
    description = "Spent in this range by team, route, model and host, and on which class of token; the dearest first."
    return table("Who spent what", description, columns, by.split(", "), sort="spent", overrides=overrides, h=8)


def _prices() -> list[Json]:
    in_range = f"sum_over_time(({in_windows('window, currency')})[{RANGE}:{RATE}]) * $__rate_interval_ms / 1000"
    return [
        heading("Hours and caches"),
        lines(
            "Peak against off-peak",
            "Spend an hour by the price window in force; the marks are windows other than the standard one.",
            series(f"3600 * {in_windows('window, currency')}", "{{window}} {{currency}}"),
            unit="short",
            money=True,
            stacked=True,
            w=8,
            overrides=coloured("peak", "standard", "night"),
        ),
        shares(
            "Peak's part",
            "Spent in this range by the price window in force. The hours of peak prices are DeepSeek's; see Hosts.",
            point(in_range, "{{window}} {{currency}}"),
            unit="short",
            money=True,
            w=8,
            overrides=coloured("peak", "standard", "night"),
        ),
        lines(
            "Cache-hit share by host",
            "Prompt tokens that were cache hits, of all prompt tokens, over the last hour.",
            series(part(lately("host", "tokens_total", _HIT), lately("host", "tokens_total", _PROMPT)), "{{host}}"),
            unit="percentunit",
            min=0,
            max=1,
            w=8,
        ),
        lines(
            "Spent, saved, and o1",
            "An hour's spend, what cache hits saved of it, and what o1 would have cost, on a logarithmic axis.",
            series(_an_hour("currency"), "spent {{currency}}"),
            series(f"3600 * {pace('currency', 'cache_saved_total')}", "saved by hits {{currency}}"),
            series(f"3600 * {pace('currency', 'baseline_spend_total', _O1)}", "o1 {{currency}}"),
            unit="short",
            money=True,
            w=12,
        ),
        lines(
            "Tokens by class",
            "Tokens charged a second; reasoning is a part of the output.",
            *(series(pace("", "tokens_total", f'class="{name}"'), name) for name in ("cache_hit", "cache_miss", "output")),
            series(pace("", "reasoning_tokens_total"), "of the output: reasoning"),
            unit="short",
            w=12,
            overrides=coloured("cache_hit", "cache_miss", "output"),
        ),
    ]


def panels() -> list[Json]:
    found = [*_numbers(), *_over_time(), *_prices()]
    for one in found:
        if one["title"] == "Spent, saved, and o1":
            one["fieldConfig"]["defaults"]["custom"] |= {"scaleDistribution": {"type": "log", "log": 10}}
    return found
