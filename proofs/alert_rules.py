"""The rules of dashboards/rules on a faster clock: every window, pause and offset a sixtieth, so that minutes are seconds. Pure.

Nothing else of a rule is touched: thresholds, labels and names stay, so that what fires here fires there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

RULES: Final = Path(__file__).resolve().parent.parent / "dashboards" / "rules"
FILES: Final = ("faregate.rules.yaml", "faregate.alerts.yaml")
FACTOR: Final = 60
# Two samples at least must lie in a window, with a scrape a second.
SHORTEST: Final = 3
HOUR: Final = 3600
_UNITS: Final = {"s": 1, "m": 60, "h": HOUR, "d": 86_400, "w": 604_800}
_TIME: Final = re.compile(r"(?<![\w:])(\d+)([smhdw])(?!\w)")
# The same in plain seconds, as it is compared with the start of a process.
_AGO: Final = re.compile(r"(?<=process_start_time_seconds > time\(\) - )\d+\b")
# Alerts about days and weeks, whatever their windows are: promtool alone sees them fire.
BEYOND: Final = {"FaregateReconcileStale": "35 days"}

Rule = dict[str, Any]


def shortened(text: str, factor: int = FACTOR) -> str:
    """A rule file with every window, `offset` and `for` divided by `factor`; no window is below SHORTEST seconds."""
    found = yaml.safe_load(text)
    for rule in (rule for group in found["groups"] for rule in group["rules"]):
        rule["expr"] = re.sub(r'"[^"]*"|[^"]+', lambda part: _expr(part[0], factor), rule["expr"])
        if "for" in rule:
            rule["for"] = f"{-(-seconds(rule['for']) // factor)}s"
    return yaml.safe_dump(found, sort_keys=False, width=1000)


def _expr(part: str, factor: int) -> str:
    """What stands outside quotes has times; labels have none."""
    if part.startswith('"'):
        return part
    part = _TIME.sub(lambda time: f"{max(SHORTEST, seconds(time[0]) // factor)}s", part)
    return _AGO.sub(lambda time: str(max(SHORTEST, int(time[0]) // factor)), part)


def seconds(time: str) -> int:
    """A time as Prometheus writes it, of one unit."""
    return int(time[:-1]) * _UNITS[time[-1]]


def by_name(texts: Mapping[str, str]) -> dict[str, Rule]:
    """Every rule of these files by the name of its alert or its series."""
    groups = (group for text in texts.values() for group in yaml.safe_load(text)["groups"])
    return {str(rule.get("alert") or rule["record"]): rule for group in groups for rule in group["rules"]}


def texts() -> dict[str, str]:
    return {name: (RULES / name).read_text() for name in FILES}


def longest(name: str, rules: Mapping[str, Rule]) -> int:
    """The longest window, in seconds, that an alert goes by: its own, its `for`, and those of what it reads."""
    return max(_times(name, rules), default=0)


def _times(name: str, rules: Mapping[str, Rule]) -> Iterator[int]:
    rule = rules[name]
    bare = re.sub(r'"[^"]*"', '""', rule["expr"])
    yield from (seconds(found[0]) for found in _TIME.finditer(bare))
    yield seconds(rule.get("for", "0s"))
    for read in set(re.findall(r"faregate:[\w:]+", bare)):
        yield from _times(read, rules)


def of_minutes() -> list[str]:
    """The alerts whose windows are an hour or less: those that must be seen firing live."""
    rules = by_name(texts())
    return [name for name, rule in rules.items() if "alert" in rule and longest(name, rules) <= HOUR and name not in BEYOND]
