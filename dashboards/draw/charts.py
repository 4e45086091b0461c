"""Charts with a time axis, as SVG: lines, stacked areas, steps, states, and the marks of annotations behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import log10
from typing import Any, Final

from dashboards.ask import Series, View
from dashboards.draw.look import COLOURS, FAINT, GRID, INK, line_colours, properties, safe, threshold_colour, word
from dashboards.draw.units import in_unit, log_ticks, text

Json = dict[str, Any]
_HOURS: Final = (1 / 60, 1 / 30, 1 / 12, 1 / 6, 0.25, 0.5, 1, 2, 3, 6, 12, 24)


@dataclass(frozen=True)
class Box:
    """The place of a plot inside its panel, in pixels."""

    left: float
    top: float
    width: float
    height: float

    @property
    def bottom(self) -> float:
        return self.top + self.height


@dataclass(frozen=True)
class Scale:
    """From values and instants to pixels."""

    box: Box
    view: View
    low: float
    high: float
    logarithmic: bool = False

    def x(self, at: float) -> float:
        return self.box.left + self.box.width * (at - self.view.start) / (self.view.end - self.view.start)

    def y(self, value: float) -> float:
        if self.logarithmic:
            part = (log10(max(value, self.low)) - log10(self.low)) / (log10(self.high) - log10(self.low))
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.box.bottom - self.box.height * min(1.02, max(-0.02, part))


def instants(view: View, most: int) -> list[float]:
    """Round instants in the range, in the zone of its reader."""
    step = next((3600 * hours for hours in _HOURS if (view.end - view.start) / (3600 * hours) <= most), 86400)
    shift = view.zone.total_seconds()
    first = -(-(view.start + shift) // step) * step - shift
    return [first + number * step for number in range(int((view.end - first) // step) + 1)]


def clock(at: float, view: View) -> str:
    return (datetime.fromtimestamp(at, UTC) + view.zone).strftime("%H:%M")


def _marks(scale: Scale, marks: Sequence[tuple[float, float]]) -> str:
    box, parts = scale.box, list[str]()
    for began, ended in marks:
        left, right = scale.x(max(began, scale.view.start)), scale.x(min(ended, scale.view.end))
        parts.append(
            f'<rect x="{left:.1f}" y="{box.top}" width="{right - left:.1f}" height="{box.height:.1f}" fill="#FF9830" opacity=".09"/>'
            f'<path d="M{left:.1f} {box.bottom + 1:.1f}H{right:.1f}" stroke="#FF9830" stroke-width="2.5"/>'
            + "".join(f'<path d="M{x:.1f} {box.top}V{box.bottom:.1f}" stroke="#FF9830" stroke-dasharray="3 3"/>' for x in (left, right))
        )
    return "".join(parts)


def _time_axis(scale: Scale) -> str:
    box, parts = scale.box, list[str]()
    for at in instants(scale.view, max(2, int(box.width / 58))):
        x = scale.x(at)
        parts.append(f'<path d="M{x:.1f} {box.top}V{box.bottom:.1f}" stroke="{GRID}"/>')
        if box.left + 10 < x < box.left + box.width - 8:
            shown = clock(at, scale.view)
            parts.append(f'<text x="{x:.1f}" y="{box.bottom + 15:.1f}" text-anchor="middle" fill="{FAINT}">{shown}</text>')
    return "".join(parts)


def _value_axis(scale: Scale, at: Sequence[float], unit: str) -> str:
    parts = list[str]()
    for value in at:
        y = scale.y(value)
        parts.append(f'<path d="M{scale.box.left} {y:.1f}H{scale.box.left + scale.box.width:.1f}" stroke="{GRID}"/>')
        parts.append(f'<text x="{scale.box.left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end" fill="{FAINT}">{text(value, unit)}</text>')
    return "".join(parts)


def _path(points: Sequence[tuple[float, float]], scale: Scale, stepped: bool) -> str:
    parts = list[str]()
    before: tuple[float, float] | None = None
    for at, value in points:
        x, y = scale.x(at), scale.y(value)
        if before is None or at - before[0] > 1.6 * scale.view.step:
            parts.append(f"M{x:.1f} {y:.1f}")
        else:
            parts.append(f"H{x:.1f}V{y:.1f}" if stepped else f"L{x:.1f} {y:.1f}")
        before = (at, value)
    return "".join(parts)


def _stacked(series: Sequence[Series]) -> list[tuple[Series, list[tuple[float, float, float]]]]:
    """Each series with the bottom and top of its area."""
    base: dict[float, float] = dict.fromkeys(sorted({at for one in series for at, _ in one.points}), 0.0)
    found = []
    for one in series:
        values = dict(one.points)
        area = [(at, bottom, bottom + values.get(at, 0.0)) for at, bottom in base.items()]
        base = {at: top for at, _, top in area}
        found.append((one, area))
    return found


def _areas(series: Sequence[Series], scale: Scale, colours: dict[str, str]) -> str:
    parts = list[str]()
    for one, area in _stacked(series):
        there = [f"{scale.x(at):.1f} {scale.y(top):.1f}" for at, _, top in area]
        back = [f"{scale.x(at):.1f} {scale.y(bottom):.1f}" for at, bottom, _ in reversed(area)]
        colour = colours[one.name]
        parts.append(f'<path d="M{"L".join(there + back)}Z" fill="{colour}" opacity=".5"/>')
        parts.append(f'<path d="M{"L".join(there)}" fill="none" stroke="{colour}" stroke-width=".9"/>')
    return "".join(parts)


def _bounds(series: Sequence[Series], panel: Json, stacked: bool, logarithmic: bool) -> tuple[float, float]:
    config = panel["fieldConfig"]["defaults"]
    values = [top for _, area in _stacked(series) for *_, top in area] if stacked else [value for one in series for _, value in one.points]
    if logarithmic:
        positive = [value for value in values if value > 0] or [1.0]
        return max(min(positive), config.get("min", 0.0)), min(max(positive), config.get("max", max(positive)))
    low = config.get("min", min(0.0, *values, 0.0))
    high = config.get("max", max(values) or 1.0)
    return low, high if high > low else low + 1


def lines_svg(panel: Json, series: Sequence[Series], view: View, size: tuple[float, float], marks: Sequence[tuple[float, float]]) -> str:
    """The plot of a time series panel; `size` is the place that the legend leaves."""
    config = panel["fieldConfig"]["defaults"]
    custom = config["custom"]
    stacked, stepped = custom["stacking"]["mode"] == "normal", custom["lineInterpolation"] == "stepAfter"
    logarithmic = custom["scaleDistribution"]["type"] == "log"
    low, high = _bounds(series, panel, stacked, logarithmic)
    unit = properties(panel, series[0].name)["unit"]
    at = log_ticks(low, high, unit) if logarithmic else in_unit(low, high, max(2, int(size[1] / 42)), unit)
    if config.get("decimals") == 0:
        at = [value for value in at if value == int(value)]
    widest = max(len(text(value, unit)) for value in at)
    box = Box(16 + 6.3 * widest, 8, size[0] - 30 - 6.3 * widest, size[1] - 30)
    ends = (at[0], max(at[-1], at[0] + 1e-12)) if logarithmic or "max" not in config else (min(low, at[0]), high)
    scale = Scale(box, view, *ends, logarithmic)
    colours = line_colours(panel, [one.name for one in series])
    parts = [_marks(scale, marks), _time_axis(scale), _value_axis(scale, at, unit)]
    if custom["thresholdsStyle"]["mode"] != "off":
        parts += [_limit(scale, step) for step in config["thresholds"]["steps"] if step["value"] is not None]
    if stacked:
        parts.append(_areas(series, scale, colours))
    else:
        drawn = ((_path(one.points, scale, stepped), colours[one.name]) for one in series)
        parts += [
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.7" stroke-linejoin="round" stroke-linecap="round"/>'
            for path, colour in drawn
        ]
    return _svg(size, parts)


def _limit(scale: Scale, step: Json) -> str:
    if not scale.low <= step["value"] <= scale.high:
        return ""
    y, box = scale.y(step["value"]), scale.box
    line, colour = f"M{box.left} {y:.1f}H{box.left + box.width:.1f}", COLOURS[step["color"]]
    return f'<path d="{line}" stroke="{colour}" stroke-dasharray="6 4" stroke-width="1.5"/>'


def states_svg(panel: Json, series: Sequence[Series], view: View, size: tuple[float, float]) -> str:
    """One row for each series, coloured by its state."""
    config = panel["fieldConfig"]["defaults"]
    left = 14 + min(0.42 * size[0], 6.1 * max(len(one.name) for one in series))
    box = Box(left, 6, size[0] - left - 12, size[1] - 28)
    scale = Scale(box, view, 0, 1)
    high = box.height / len(series)
    parts = [_time_axis(scale)]
    for number, one in enumerate(sorted(series, key=lambda one: one.name)):
        y = box.top + number * high
        name = one.name if len(one.name) * 6.1 < left - 8 else one.name[: int((left - 20) / 6.1)] + "…"
        middle = y + high / 2 + 4
        parts.append(f'<text x="{left - 8:.1f}" y="{middle:.1f}" text-anchor="end" fill="{INK}">{safe(name)}</text>')
        for began, ended, value in _runs(one.points, view):
            said = word(value, config["mappings"])
            colour = said[1] if said else threshold_colour(value, config["thresholds"])
            x, width = scale.x(began), max(1.0, scale.x(ended) - scale.x(began))
            place = f'x="{x:.1f}" y="{y + 0.12 * high:.1f}" width="{width:.1f}" height="{0.76 * high:.1f}"'
            parts.append(f'<rect {place} fill="{colour}" opacity=".75"/>')
    return _svg(size, parts)


def _runs(points: Sequence[tuple[float, float]], view: View) -> list[tuple[float, float, float]]:
    """(from, to, value) of neighbours that are equal."""
    found: list[tuple[float, float, float]] = []
    for at, value in points:
        until = min(at + view.step, view.end)
        if found and found[-1][2] == value and at - found[-1][1] < 0.6 * view.step:
            found[-1] = (found[-1][0], until, value)
        else:
            found.append((at, until, value))
    return found


def spark_svg(points: Sequence[tuple[float, float]], view: View, size: tuple[float, float], colour: str) -> str:
    """A small line without axes."""
    high = max(value for _, value in points) or 1.0
    scale = Scale(Box(0, 3, size[0], size[1] - 3), view, 0, high * 1.05)
    line = _path(points, scale, False)
    first, last = scale.x(points[0][0]), scale.x(points[-1][0])
    area = line.replace("M", "L").replace("L", "M", 1) + f"L{last:.1f} {size[1]}L{first:.1f} {size[1]}Z"
    return _svg(
        size, [f'<path d="{area}" fill="{colour}" opacity=".16"/><path d="{line}" fill="none" stroke="{colour}" stroke-width="1.3"/>']
    )


def _svg(size: tuple[float, float], parts: Sequence[str]) -> str:
    return f'<svg width="{size[0]:.0f}" height="{size[1]:.0f}" font-size="11" font-family="inherit">{"".join(parts)}</svg>'
