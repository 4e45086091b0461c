"""PromQL of the panels: every selector names a metric that exists, and carries the dashboard's variables that the metric has labels for."""

from __future__ import annotations

from typing import Final

from gateway.families import FAMILIES

# The labels that a dashboard can be narrowed by, and the variables of the same names.
NARROWING: Final = ("team", "host", "model", "currency")
RATE: Final = "$__rate_interval"
RANGE: Final = "$__range"
# What the process collector of prometheus-client shows, without the prefix `faregate_`.
PROCESS: Final = {f"process_{name}": () for name in (
    "cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds", "start_time_seconds",
)}  # fmt: skip

_PARTS: Final = ("_bucket", "_count", "_sum")


def _labels() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = dict(PROCESS)
    for family in FAMILIES:
        names = [family.name + part for part in _PARTS] if family.kind == "histogram" else [family.name]
        found |= dict.fromkeys(names, family.labels)
    return found


LABELS: Final = _labels()


def of(name: str, *matchers: str) -> str:
    """The selector of a metric (`faregate_` may be left out), narrowed by job, instance and the variables of its labels.

    Raises KeyError where no such metric is shown.
    """
    name = name if name in LABELS else f"faregate_{name}"
    narrowed = [f'{label}=~"${label}"' for label in ("job", "instance", *(one for one in NARROWING if one in LABELS[name]))]
    return f"{name}{{{', '.join([*narrowed, *matchers])}}}"


def summed(by: str, expression: str) -> str:
    return f"sum by ({by}) ({expression})" if by else f"sum({expression})"


def highest(by: str, expression: str) -> str:
    """One of several replicas that show the same."""
    return f"max by ({by}) ({expression})" if by else f"max({expression})"


def pace(by: str, name: str, *matchers: str) -> str:
    """How fast a counter grows, a second."""
    return summed(by, f"rate({of(name, *matchers)}[{RATE}])")


def grown(by: str, name: str, *matchers: str, over: str = RANGE, seconds: str = "$__range_s") -> str:
    """By how much a counter grew, with the first count of what is new.

    `increase` alone does not see the value that a series begins with: the first requests of a replica that has just
    started, or of a team that spends once a day. That value is added where the series must have begun in the range: its
    process is younger than that, or was scraped when it began and did not have the series. What was counted before a gap of
    the scrapes is never taken for new. It is the last value less the difference to the first one, for the lowest one may be
    of after a restart; of a single sample there is no difference.
    """
    counter = of(name, *matchers)
    process = of("process_start_time_seconds")
    known = f"{process} offset {over} or {process} > time() - {seconds}"
    first = f"(last_over_time({counter}[{over}]) - delta({counter}[{over}]) or min_over_time({counter}[{over}]))"
    begun = f"{first} unless {counter} offset {over} and on (job, instance) ({known})"
    return summed(by, f'increase({counter}[{over}]) or label_replace({begun}, "begun", "here", "", "")')


def lately(by: str, name: str, *matchers: str) -> str:
    """By how much a counter grew in the last hour: for shares that would be all noise at low traffic."""
    return summed(by, f"increase({of(name, *matchers)}[1h])")


def quantile(share: float, by: str, name: str, *matchers: str) -> str:
    """The value below which this share of a histogram's observations lies; nothing, not NaN, where there was none."""
    return f"histogram_quantile({share:g}, {pace(', '.join(filter(None, ('le', by))), f'{name}_bucket', *matchers)}) >= 0"


def part(of_them: str, all_of_them: str, on: str = "") -> str:
    """A quotient; nothing where the divisor is zero."""
    return f"{of_them} / {on + ' ' if on else ''}({all_of_them} > 0)"


def now_there() -> str:
    """The gateway's own time: the machine's, where no clock is set."""
    return f"(time() + scalar(max({of('clock_shift_seconds')})))"
