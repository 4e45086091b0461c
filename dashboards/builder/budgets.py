"""Budgets: what each team has left, what is held, and when it will be used up."""

from __future__ import annotations

from dashboards.builder.model import (
    GREEN,
    ORANGE,
    RED,
    YELLOW,
    Json,
    bars,
    heading,
    lines,
    named,
    plain,
    point,
    rows,
    series,
    stat,
    steps,
    table,
)  # fmt: skip
from dashboards.builder.queries import grown, highest, now_there, of, pace, part

UID, TITLE, PAGE = "faregate-budgets", "Budgets", "budgets"
DESCRIPTION = "What each team may spend, has spent and holds for requests under way, and when it will be used up."

_ONE = "team, budget, currency"
_LEGEND = "{{team}}/{{budget}} {{currency}}"
_FULL = steps((0.8, YELLOW), (0.95, ORANGE), (1, RED))
_DENIED = 'outcome="denied"'


def _gauge(what: str) -> str:
    return highest(_ONE, of(f"budget_{what}"))


def _committed() -> str:
    return f"({_gauge('spent')} + {_gauge('held')})"


def left() -> str:
    return f"({_gauge('limit')} - {_gauge('spent')} - {_gauge('held')})"


def used() -> str:
    return part(_committed(), _gauge("limit"))


def burn() -> str:
    """What a budget spends a second, over the last hour; nothing where it spends nothing.

    A slope over the reset says nothing: where the period began within the hour (and a minute, because scrapes come late), all that it
    has spent was spent within the hour.
    """
    slope = highest(_ONE, f"deriv({of('budget_spent')}[1h])")
    return f"(({_gauge('spent')} / 3600 and {now_there()} - {_gauge('began_timestamp_seconds')} < 3660 or {slope}) > 0)"


def exhausted_in() -> str:
    """Seconds until a budget is used up, should it go on as in the last hour."""
    return f"clamp_min({left()}, 0) / {burn()}"


def resets_in() -> str:
    return f"({_gauge('resets_timestamp_seconds')} - {now_there()})"


def elapsed() -> str:
    """The part of its period that has passed."""
    began = _gauge("began_timestamp_seconds")
    return f"({now_there()} - {began}) / ({_gauge('resets_timestamp_seconds')} - {began})"


def _numbers() -> list[Json]:
    return [
        stat("Budgets", "How many budgets are in force here.", point(f"count({_gauge('limit')})", "budgets"), unit="short", w=4),
        stat(
            "Fullest",
            "The highest part of a budget that is spent or held.",
            point(f"max({used()})", "used"),
            unit="percentunit",
            thresholds=_FULL,
            decimals=1,
            w=4,
        ),
        stat(
            "Used up",
            "Budgets of which less than a thousandth is left; their teams get a 402 until the reset.",
            point(f"count({left()} <= 0.001 * {_gauge('limit')}) or vector(0)", "budgets"),
            unit="short",
            thresholds=steps((1, RED)),
            w=4,
        ),
        stat(
            "Held",
            "Money held for requests under way, of all budgets; one request is held by each of its budgets.",
            series(f"sum by (currency) ({_gauge('held')})", "{{currency}}"),
            unit="short",
            money=True,
            spark=True,
            w=4,
        ),
        stat(
            "First to run out",
            "The shortest time until a budget is used up, at the pace of the last hour.",
            point(f"min({exhausted_in()})", "in"),
            unit="s",
            thresholds=steps((3600, YELLOW), (86400, GREEN), base=RED),
            w=4,
        ),
        stat(
            "Refused",
            "Requests that a budget refused (402) in this range.",
            point(f"{grown('', 'requests_total', _DENIED)} or vector(0)", "requests"),
            unit="short",
            thresholds=steps((1, ORANGE)),
            decimals=0,
            w=4,
        ),
    ]


def _each() -> list[Json]:
    columns = {
        "limit": rows(_gauge("limit")),
        "spent": rows(_gauge("spent")),
        "held": rows(_gauge("held")),
        "left": rows(left()),
        "used": rows(used()),
        "used up in": rows(exhausted_in()),
        "resets in": rows(resets_in()),
    }
    background = {"type": "color-text"}
    overrides = [
        named("used", unit="percentunit", decimals=1, thresholds=_FULL, custom__cellOptions=background),
        named("used up in", unit="s", decimals=1, noValue="not at this pace"),
        named("resets in", unit="s", decimals=1),
    ]
    text = "Every budget as the ledger has it. `used up in`: at the pace of the last hour; empty where nothing was spent in it."
    return [
        table("Every budget", text, columns, _ONE.split(", "), w=16, h=8, sort="used", overrides=overrides, unit="short", decimals=4),
        bars(
            "Used",
            "The part of each budget that is spent or held.",
            point(used(), "{{team}}/{{budget}}"),
            unit="percentunit",
            max=1,
            thresholds=_FULL,
            w=8,
            h=8,
        ),
    ]


def _over_time() -> list[Json]:
    return [
        heading("Burn-down"),
        lines(
            "Burn-down",
            "What is left of each budget, after what is held.",
            series(part(left(), _gauge("limit")), _LEGEND),
            unit="percentunit",
            min=0,
            max=1,
            w=12,
            h=9,
            thresholds=steps((0.05, ORANGE), (0.2, GREEN), base=RED),
        ),
        lines(
            "Ahead of the calendar",
            "The used part of a budget less the part of its period that has passed: above zero, it will not last at this pace.",
            series(f"{used()} - {elapsed()}", _LEGEND),
            unit="percentunit",
            limits=True,
            thresholds=steps((0, ORANGE)),
            w=12,
            h=9,
        ),
        lines(
            "Time until used up",
            "At the pace of the last hour, on a logarithmic axis. No line where nothing was spent in it.",
            series(exhausted_in(), _LEGEND),
            unit="s",
            min=60,
            max=56 * 86400,
            w=12,
        ),
        lines("Left", "What is left of each budget, in its currency.", series(left(), _LEGEND), unit="short", money=True, w=12),
        heading("Holds and refusals"),
        lines(
            "Held",
            "Money held for requests under way, by budget.",
            series(_gauge("held"), _LEGEND),
            unit="short",
            money=True,
            stacked=True,
            w=8,
        ),
        lines(
            "Refused by a budget",
            "Requests a second that a budget refused (402), by team.",
            series(f"{pace('team', 'requests_total', _DENIED)} or 0 * {pace('team', 'requests_total')}", "{{team}}"),
            unit="reqps",
            thresholds=plain(RED),
            w=8,
        ),
        lines(
            "Who spends it",
            "Spend an hour by team and model.",
            series(f"3600 * {pace('team, model, currency', 'spend_total')}", "{{team}} {{model}} {{currency}}"),
            unit="short",
            money=True,
            stacked=True,
            w=8,
        ),
    ]


def panels() -> list[Json]:
    found = [*_numbers(), *_each(), *_over_time()]
    for one in found:
        if one["title"] == "Time until used up":
            one["fieldConfig"]["defaults"]["custom"] |= {"scaleDistribution": {"type": "log", "log": 10}}
    return found
