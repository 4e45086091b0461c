"""Asks a Prometheus what the panels of a dashboard ask it, as Grafana would: variables filled in, one answer for each query."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any, Final, NamedTuple

Json = dict[str, Any]
# What `label_values(SELECTOR, LABEL)` asks for.
_VALUES: Final = re.compile(r"label_values\((?:(?P<selector>.*), )?(?P<label>\w+)\)", re.DOTALL)
_POINTS: Final = 400


class Refused(Exception):
    """Prometheus did not take the query; the text is its own."""


class Series(NamedTuple):
    """One series of an answer: its labels, its name in the legend, and (seconds since 1970, value) in order."""

    labels: Mapping[str, str]
    name: str
    points: list[tuple[float, float]]

    @property
    def last(self) -> float:
        return self.points[-1][1]


@dataclass(frozen=True)
class View:
    """What a reader has chosen: the range in seconds since 1970, how often Prometheus scrapes, and values of variables (else: all)."""

    start: float
    end: float
    scrape: float
    chosen: Mapping[str, str] = field(default_factory=dict)
    zone: timedelta = timedelta()

    @property
    def step(self) -> float:
        return max(self.scrape, ceil((self.end - self.start) / _POINTS / self.scrape) * self.scrape)

    @property
    def rate_interval(self) -> float:
        """$__rate_interval as Grafana reckons it."""
        return max(self.step + self.scrape, 4 * self.scrape)

    def narrowed(self, time_from: str) -> View:
        """The range of a panel that has one of its own: now/d and now/M begin with the day and the month."""
        if not time_from:
            return self
        now = datetime.fromtimestamp(self.end, UTC) + self.zone
        began = now.replace(hour=0, minute=0, second=0, microsecond=0)
        began = {"now/d": began, "now/M": began.replace(day=1)}[time_from]
        return View((began - self.zone).timestamp(), self.end, self.scrape, self.chosen, self.zone)

    def filled(self, expression: str, everything: Mapping[str, str]) -> str:
        """The query with the values of its variables; `everything`: what stands for all values of each."""
        seconds = max(1, round(self.end - self.start))
        values = {
            "__rate_interval_ms": str(round(1000 * self.rate_interval)),
            "__rate_interval": f"{round(self.rate_interval)}s",
            "__range_s": str(seconds),
            "__range": f"{seconds}s",
            **everything,
            **self.chosen,
        }
        return re.sub(r"\$(\w+)", lambda found: values[found[1]], expression)


class Prometheus:
    """A Prometheus by its URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str | list[str]) -> Any:
        """The data of an answer of its API; raises Refused."""
        data = urllib.parse.urlencode(parameters, doseq=True).encode()
        try:
            # Long queries do not fit into a URL.
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}", data=data, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(f"{json.load(error).get('error')}: {parameters.get('query', parameters)}") from None

    def over(self, query: str, view: View, legend: str = "") -> list[Series]:
        found = self.get("query_range", query=query, start=str(view.start), end=str(view.end), step=str(view.step))
        return [_series(one["metric"], one["values"], legend) for one in found["result"]]

    def at_end(self, query: str, view: View, legend: str = "") -> list[Series]:
        found = self.get("query", query=query, time=str(view.end))
        return [_series(one["metric"], [one["value"]], legend) for one in found["result"]]

    def values(self, selector: str | None, label: str, view: View) -> list[str]:
        """The values of a label among these series."""
        url = f"{self.url}/api/v1/label/{label}/values?" + urllib.parse.urlencode(
            {"start": str(view.start), "end": str(view.end), **({"match[]": selector} if selector else {})}
        )
        with urllib.request.urlopen(url, timeout=60) as answer:
            found: list[str] = json.load(answer)["data"]
        return found


def _series(labels: Mapping[str, str], values: list[tuple[float, str]], legend: str) -> Series:
    return Series(labels, named(legend, labels), [(float(at), float(value)) for at, value in values])


def named(legend: str, labels: Mapping[str, str]) -> str:
    """The name of a series in the legend; `{{label}}` stands for its value."""
    if legend == "__auto":
        return ", ".join(value for label, value in sorted(labels.items()))
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend).strip()


@dataclass(frozen=True)
class Question:
    """One query of a dashboard: of which panel, its kind of answer, and the query as it stands in the JSON."""

    board: str
    panel: str
    ref: str
    expression: str
    legend: str
    instant: bool
    time_from: str = ""

    @property
    def place(self) -> str:
        return f"{self.board} / {self.panel} / {self.ref}"


def questions(board: Json) -> Iterator[Question]:
    """Every query of every panel, and those of the annotations."""
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield Question(
                board["title"], panel["title"], target["refId"], target["expr"], target["legendFormat"], target["instant"],
                panel.get("timeFrom", ""),
            )  # fmt: skip
    for note in board["annotations"]["list"]:
        yield Question(board["title"], f"annotation {note['name']}", "A", note["expr"], note["titleFormat"], False)


def everything(board: Json) -> dict[str, str]:
    """What stands for all values of each variable."""
    return {one["name"]: one["allValue"] for one in board["templating"]["list"] if one["type"] == "query"}


def asked(prometheus: Prometheus, question: Question, board: Json, view: View) -> list[Series]:
    """The answer to one question, as Grafana would get it."""
    own = view.narrowed(question.time_from)
    query = own.filled(question.expression, everything(board))
    return (prometheus.at_end if question.instant else prometheus.over)(query, own, question.legend)


def choices(prometheus: Prometheus, variable: Json, board: Json, view: View) -> list[str]:
    """The values that a variable offers, as its query finds them."""
    found = _VALUES.fullmatch(view.filled(variable["query"]["query"], everything(board)))
    assert found is not None, variable["query"]["query"]
    return prometheus.values(found["selector"], found["label"], view)
