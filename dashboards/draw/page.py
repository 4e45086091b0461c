"""A whole dashboard as one HTML page: its grid of panels, each drawn from the answers to its queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import cos, pi, sin
from typing import Any, Final

from dashboards.ask import Question, Series, View
from dashboards.draw.charts import clock, lines_svg, spark_svg, states_svg
from dashboards.draw.look import COLOURS, STYLE, line_colours, properties, safe, threshold_colour, word
from dashboards.draw.units import text

Json = dict[str, Any]
Answers = Mapping[str, Sequence[tuple[Question, Sequence[Series]]]]

WIDTH: Final = 1420
_MARGIN, _GAP, _CELL, _HEAD, _FOOT = 16, 8, 35, 82, 44


@dataclass(frozen=True)
class Page:
    """A dashboard with the answers to its queries by the title of the panel, the range, and the stretches to mark."""

    board: Json
    answers: Answers
    view: View
    marks: Sequence[tuple[float, float]] = ()
    about: str = ""

    @property
    def height(self) -> int:
        lowest: int = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in self.board["panels"])
        return _HEAD + lowest * (_CELL + _GAP) - lowest * 5 + _FOOT

    def html(self) -> str:
        panels = "".join(self._panel(number, panel) for number, panel in enumerate(self.board["panels"]))
        return (
            f'<!doctype html><meta charset="utf-8"><style>{STYLE}</style><div class="page" style="width:{WIDTH}px;height:{self.height}px">'
            f'{self._head()}{panels}<div class="foot" style="bottom:12px">{self.about}</div></div>'
        )

    def _head(self) -> str:
        chosen = (f"<span>{safe(one['label'])} <b>{self._choice(one)}</b></span>" for one in self.board["templating"]["list"])
        day = (datetime.fromtimestamp(self.view.end, UTC) + self.view.zone).strftime("%a %d %b %Y")
        when = f"{day}, {clock(self.view.start, self.view)} to {clock(self.view.end, self.view)}"
        title = f'<div class="bar"><h1>{safe(self.board["title"])}</h1><div class="when">{when}</div></div>'
        return f'{title}<div class="chosen">{"".join(chosen)}</div>'

    def _choice(self, variable: Json) -> str:
        return "Prometheus" if variable["type"] == "datasource" else safe(self.view.chosen.get(variable["name"], "All"))

    def _panel(self, number: int, panel: Json) -> str:
        place = panel["gridPos"]
        unit = (WIDTH - 2 * _MARGIN + _GAP) / 24
        left, top = _MARGIN + place["x"] * unit, _HEAD + place["y"] * (_CELL + 3)
        width, high = place["w"] * unit - _GAP, place["h"] * (_CELL + 3) - _GAP
        style = f'style="left:{left:.0f}px;top:{top:.0f}px;width:{width:.0f}px;height:{high:.0f}px"'
        if panel["type"] == "text":
            return f'<div class="row about" {style}>{safe(panel["options"]["content"]).replace("`", "")}</div>'
        if panel["type"] == "row":
            return f'<div class="row" {style}>{safe(panel["title"])}</div>'
        answers = self.answers[f"{number}"]
        found = [series for _, answer in answers for series in answer]
        body = (
            self._body(panel, answers, found, (width, high))
            if found
            else f'<div class="none">{safe(panel["fieldConfig"]["defaults"].get("noValue", "No data"))}</div>'
        )
        own = {"now/d": "today so far", "now/M": "this month so far"}.get(panel.get("timeFrom", ""), "")
        return f'<div class="panel" {style}><h2><i>{own}</i>{safe(panel["title"])}</h2>{body}</div>'

    def _body(
        self, panel: Json, answers: Sequence[tuple[Question, Sequence[Series]]], found: Sequence[Series], size: tuple[float, float]
    ) -> str:
        kind = panel["type"]
        if kind == "timeseries":
            return self._lines(panel, found, size)
        if kind == "state-timeline":
            words = [one for mapping in panel["fieldConfig"]["defaults"]["mappings"] for one in mapping["options"].values()]
            keys = "".join(f'<span><i style="background:{COLOURS[one["color"]]}"></i>{one["text"]}</span>' for one in words)
            return states_svg(panel, found, self.view, (size[0], size[1] - 52)) + f'<div class="legend">{keys}</div>'
        draw = {"stat": self._stat, "bargauge": _bars, "piechart": _ring}.get(kind)
        return draw(panel, found, size) if draw else _table(panel, [list(answer) for _, answer in answers], size)

    def _lines(self, panel: Json, found: Sequence[Series], size: tuple[float, float]) -> str:
        ordered = sorted(found, key=lambda one: -max(value for _, value in one.points)) if len(found) > 10 else list(found)
        shown = [one for one in ordered if one.points]
        colours = line_colours(panel, [one.name for one in shown])
        room, used, lines_ = size[0] - 24, 0.0, 1
        keys = []
        for name, colour in colours.items():
            wide = 30 + 6.1 * len(name)
            if used + wide > room:
                lines_, used = lines_ + 1, 0.0
            used += wide
            keys.append(f'<span><i style="background:{colour}"></i>{safe(name)}</span>')
        if lines_ > 3:
            fit = max(1, 3 * len(keys) // lines_ - 1)
            keys = [*keys[:fit], f"<span>and {len(keys) - fit} more</span>"]
        high = 15 * min(lines_, 3)
        plot = lines_svg(panel, shown, self.view, (size[0], size[1] - 30 - high), self.marks)
        return plot + f'<div class="legend" style="max-height:{high + 4}px">{"".join(keys)}</div>'

    def _stat(self, panel: Json, found: Sequence[Series], size: tuple[float, float]) -> str:
        parts, spark = [], ""
        letters = max(len(_shown(panel, one)[0]) for one in found)
        for one in found:
            shown, colour = _shown(panel, one)
            fits = min(34.0, (size[0] - 20) / len(found) / (0.62 * max(letters, 3)), (size[1] - 44) / 1.25)
            name = f"<small>{safe(one.name)}</small>" if len(found) > 1 else ""
            parts.append(f'<div>{name}<b style="color:{colour};font-size:{fits:.0f}px">{safe(shown)}</b></div>')
            if panel["options"]["graphMode"] == "area" and len(one.points) > 1 and not spark:
                spark = f'<div class="spark">{spark_svg(one.points, self.view, (size[0], 0.36 * size[1]), colour)}</div>'
        return f'{spark}<div class="big">{"".join(parts)}</div>'


def _shown(panel: Json, one: Series, value: float | None = None) -> tuple[str, str]:
    """A value as text, and its colour."""
    value = one.last if value is None else value
    own = properties(panel, one.name)
    said = word(value, own["mappings"])
    return said or (text(value, own["unit"], own.get("decimals")), threshold_colour(value, own["thresholds"]))


def _bars(panel: Json, found: Sequence[Series], size: tuple[float, float]) -> str:
    ordered = sorted(found, key=lambda one: -one.last)
    shown = ordered[: max(1, int((size[1] - 34) / 19))]
    high = min(24.0, (size[1] - 40) / len(shown) - 6)
    most = panel["fieldConfig"]["defaults"].get("max") or max((one.last for one in shown), default=1.0) or 1.0
    parts = []
    for one in shown:
        value, colour = _shown(panel, one)
        width = max(0.5, min(100.0, 100 * one.last / most))
        bar = f'<u style="height:{high:.0f}px"><i style="width:{width:.1f}%;background:{colour};opacity:.8"></i></u>'
        parts.append(f'<div><label>{safe(one.name)}</label>{bar}<b style="color:{colour}">{value}</b></div>')
    return f'<div class="bars">{"".join(parts)}</div>'


def _ring(panel: Json, found: Sequence[Series], size: tuple[float, float]) -> str:
    ordered = sorted((one for one in found if one.last > 0), key=lambda one: -one.last)
    colours, total = line_colours(panel, [one.name for one in ordered]), sum(one.last for one in ordered) or 1.0
    radius, begun, parts, rows = min(size[1] - 50, 0.4 * size[0]) / 2, 0.0, list[str](), list[str]()
    for one in ordered:
        part = one.last / total
        parts.append(_slice(begun, begun + min(part, 0.9999), radius, colours[one.name]))
        begun += part
        value, _ = _shown(panel, one)
        key = f'<td class="key"><i style="background:{colours[one.name]}"></i>{safe(one.name)}</td>'
        rows.append(f'<tr>{key}<td class="n">{value}</td><td class="n">{100 * part:.0f} %</td></tr>')
    side = 2 * radius
    ring = f'<svg width="{side:.0f}" height="{side:.0f}" viewBox="{-radius} {-radius} {side} {side}">{"".join(parts)}</svg>'
    return f'<div class="ring">{ring}<table>{"".join(rows)}</table></div>'


def _slice(begun: float, ended: float, radius: float, colour: str) -> str:
    def at(part: float, far: float) -> str:
        return f"{far * sin(2 * pi * part):.2f} {-far * cos(2 * pi * part):.2f}"

    large, inner = int(ended - begun > 0.5), 0.58 * radius
    return (
        f'<path d="M{at(begun, radius)}A{radius} {radius} 0 {large} 1 {at(ended, radius)}L{at(ended, inner)}'
        f'A{inner} {inner} 0 {large} 0 {at(begun, inner)}Z" fill="{colour}" opacity=".85" stroke="#fff" stroke-width="1.5"/>'
    )


def _table(panel: Json, answers: Sequence[Sequence[Series]], size: tuple[float, float]) -> str:
    organize = next(one["options"] for one in panel["transformations"] if one["id"] == "organize")
    columns = [name for name in organize["renameByName"].values() if "Value" not in organize["excludeByName"]]
    labels = [name for name in organize["indexByName"] if name not in organize["renameByName"]]
    joined: dict[tuple[str, ...], dict[str, float]] = {}
    for column, answer in zip(columns or [""], answers, strict=True):
        for one in answer:
            joined.setdefault(tuple(one.labels.get(label, "") for label in labels), {})[column] = one.last
    sort = (panel["options"]["sortBy"] or [{"displayName": ""}])[0]["displayName"]
    ordered = sorted(joined.items(), key=lambda item: (-item[1].get(sort, float("-inf")), item[0]))[: int((size[1] - 54) / 24.2)]
    head = "".join(f"<th>{safe(label)}</th>" for label in labels) + "".join(f'<th class="n">{safe(column)}</th>' for column in columns)
    body = "".join(_line(panel, key, values, columns) for key, values in ordered)
    return f'<div style="padding:4px 4px 0"><table><tr>{head}</tr>{body}</table></div>'


def _line(panel: Json, key: tuple[str, ...], values: Mapping[str, float], columns: Sequence[str]) -> str:
    cells = "".join(f"<td>{safe(one)}</td>" for one in key)
    for column in columns:
        own = properties(panel, column)
        if column not in values:
            cells += f'<td class="n" style="color:#8A9099">{safe(own.get("noValue", ""))}</td>'
            continue
        value = values[column]
        said = word(value, own["mappings"])
        colour = said[1] if said else threshold_colour(value, own["thresholds"]) if "custom.cellOptions" in own else "inherit"
        cells += f'<td class="n" style="color:{colour}">{safe(said[0] if said else text(value, own["unit"], own.get("decimals")))}</td>'
    return f"<tr>{cells}</tr>"
