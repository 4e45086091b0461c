"""Panels, variables, annotations and whole dashboards as the plain dicts that Grafana reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

Json = dict[str, Any]

SCHEMA_VERSION: Final = 42
WIDTH: Final = 24
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, ORANGE, RED, BLUE, PURPLE, GREY = "green", "yellow", "orange", "red", "blue", "purple", "text"

Reduce = Literal["lastNotNull", "max", "mean", "sum"]

# The names of currencies stand last in legends: `search USD`.
_CURRENCIES: Final = {"USD": "currencyUSD", "CNY": "currency:¥"}
# Always the same colour for the same thing.
COLOURS: Final = {
    "cache_hit": "green", "cache_miss": "orange", "output": "blue",
    "ok": "green", "stopped": "yellow", "client_error": "orange", "denied": "purple", "rate_limited": "super-light-orange",
    "upstream_error": "red", "timeout": "dark-red", "client_gone": "light-blue", "gateway_error": "dark-purple",
    "peak": "orange", "standard": "blue", "night": "purple", "reported": "green", "counted": "yellow", "unknown": "red",
}  # fmt: skip


# ---- queries


def series(expression: str, legend: str = "__auto") -> Json:
    """A query over the range, for lines."""
    return {"datasource": SOURCE, "editorMode": "code", "expr": expression, "legendFormat": legend, "range": True, "instant": False}


def point(expression: str, legend: str = "__auto") -> Json:
    """A query at the end of the range, for numbers and bars."""
    return {**series(expression, legend), "range": False, "instant": True}


def rows(expression: str) -> Json:
    """A query at the end of the range, for a table: one row for each set of labels."""
    return {**point(expression), "format": "table"}


# ---- panels


def steps(*after: tuple[float, str], base: str = GREEN) -> Json:
    """Thresholds: a colour, and those that follow from a value on."""
    return {"mode": "absolute", "steps": [{"color": base, "value": None}, *({"color": colour, "value": value} for value, colour in after)]}


def plain(colour: str = BLUE) -> Json:
    """Nothing is too much."""
    return steps(base=colour)


def named(name: str, **properties: Any) -> Json:
    """Properties of one column or line, by its name; `custom__width` is custom.width."""
    found = [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()]
    return {"matcher": {"id": "byName", "options": name}, "properties": found}


def coloured(*names: str) -> list[Json]:
    """These names, also where a currency follows, in the colours that they always have."""
    return [
        {
            "matcher": {"id": "byRegexp", "options": f"/^{name}( |$)/"},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": COLOURS[name]}}],
        }
        for name in names
    ]


def _money() -> list[Json]:
    """The unit of what is named after its currency."""
    return [
        {"matcher": {"id": "byRegexp", "options": f"/(^| ){name}$/"}, "properties": [{"id": "unit", "value": unit}]}
        for name, unit in _CURRENCIES.items()
    ]


def panel(
    kind: str, title: str, description: str, targets: Sequence[Json], size: tuple[int, int], options: Json,
    *, unit: str, thresholds: Json | None = None, custom: Json | None = None, overrides: Iterable[Json] = (), money: bool = False,
    mappings: Sequence[Json] = (), **more: Any,
) -> Json:  # fmt: skip
    """One panel; its place is given to it by `dashboard`. `money`: names end in a currency, and values have its unit."""
    defaults = {"unit": unit, "thresholds": thresholds or plain(), "mappings": list(mappings), "custom": custom or {}}
    for key in ("decimals", "min", "max", "color", "noValue"):
        if key in more:
            defaults[key] = more.pop(key)
    named_targets = [{**target, "refId": chr(ord("A") + number)} for number, target in enumerate(targets)]
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": SOURCE,
        "gridPos": {"w": size[0], "h": size[1]},
        "targets": named_targets,
        "options": options,
        "fieldConfig": {"defaults": defaults, "overrides": [*(_money() if money else ()), *overrides]},
        **more,
    }


def _reduce(how: Reduce = "lastNotNull") -> Json:
    return {"calcs": [how], "fields": "", "values": False}


def stat(title: str, description: str, *targets: Json, unit: str, w: int = 3, h: int = 4, spark: bool = False, **more: Any) -> Json:
    """Big numbers; a target of `series` has a line behind its number (`spark`)."""
    options = {
        "reduceOptions": _reduce(), "colorMode": "value", "graphMode": "area" if spark else "none", "justifyMode": "auto",
        "orientation": "auto", "textMode": "auto", "wideLayout": True, "showPercentChange": False, "percentChangeColorMode": "standard",
    }  # fmt: skip
    return panel("stat", title, description, targets, (w, h), options, unit=unit, **more)


def _legend(calcs: Sequence[str], right: bool) -> Json:
    found: Json = {"displayMode": "table" if calcs else "list", "placement": "right" if right else "bottom", "showLegend": True}
    return {**found, "calcs": list(calcs)}


def lines(
    title: str, description: str, *targets: Json, unit: str, w: int = 12, h: int = 8, stacked: bool = False, stepped: bool = False,
    calcs: Sequence[str] = (), right: bool = False, limits: bool = False, **more: Any,
) -> Json:  # fmt: skip
    """Values over time; `stacked` areas add up. `limits` draws the thresholds."""
    custom = {
        "drawStyle": "line", "lineInterpolation": "stepAfter" if stepped else "linear", "lineWidth": 1 if stacked else 2,
        "fillOpacity": 40 if stacked else 8, "gradientMode": "none", "showPoints": "never", "spanNulls": False, "insertNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"}, "axisPlacement": "auto", "axisLabel": "",
        "axisColorMode": "text", "scaleDistribution": {"type": "linear"}, "axisSoftMin": 0,
        "thresholdsStyle": {"mode": "dashed" if limits else "off"},
    }  # fmt: skip
    options = {"legend": _legend(calcs, right), "tooltip": {"mode": "multi", "sort": "desc"}}
    more.setdefault("color", {"mode": "palette-classic"})
    return panel("timeseries", title, description, targets, (w, h), options, unit=unit, custom=custom, **more)


def bars(title: str, description: str, *targets: Json, unit: str, w: int = 6, h: int = 8, **more: Any) -> Json:
    """One horizontal bar for each series, now."""
    options = {
        "reduceOptions": _reduce(), "displayMode": "gradient", "orientation": "horizontal", "showUnfilled": True, "valueMode": "color",
        "namePlacement": "auto", "sizing": "auto", "minVizHeight": 16, "minVizWidth": 8, "maxVizHeight": 40,
        "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []},
    }  # fmt: skip
    return panel("bargauge", title, description, targets, (w, h), options, unit=unit, min=0, **more)


def shares(title: str, description: str, *targets: Json, unit: str, w: int = 6, h: int = 8, **more: Any) -> Json:
    """A ring whose parts are shares of a whole."""
    options = {
        "reduceOptions": _reduce(), "pieType": "donut", "orientation": "auto", "displayLabels": [], "sort": "desc",
        "tooltip": {"mode": "single", "sort": "none"},
        "legend": {"showLegend": True, "displayMode": "table", "placement": "right", "values": ["value", "percent"], "calcs": []},
    }  # fmt: skip
    more.setdefault("color", {"mode": "palette-classic"})
    return panel("piechart", title, description, targets, (w, h), options, unit=unit, **more)


def timeline(
    title: str, description: str, *targets: Json, w: int = 12, h: int = 8, words: Mapping[int, tuple[str, str]], **more: Any
) -> Json:
    """States over time: the word and the colour of each value."""
    options = {
        "showValue": "never", "rowHeight": 0.8, "mergeValues": True, "alignValue": "left", "tooltip": {"mode": "single", "sort": "none"},
        "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []},
    }  # fmt: skip
    custom = {"fillOpacity": 75, "lineWidth": 0}
    more |= {"mappings": [meaning(words)], "color": {"mode": "thresholds"}, "custom": custom, "unit": "none"}
    return panel("state-timeline", title, description, targets, (w, h), options, **more)


def table(
    title: str, description: str, columns: Mapping[str, Json], labels: Sequence[str], *, w: int = 24, h: int = 8,
    sort: str = "", overrides: Iterable[Json] = (), unit: str = "none", hidden: bool = False, **more: Any,
) -> Json:  # fmt: skip
    """One row for each set of `labels`, and a column for each query; queries share their labels, so that rows can be joined.

    `hidden`: the one value says only that there is such a row, and is not shown.
    """
    renamed = {f"Value #{chr(ord('A') + number)}": name for number, name in enumerate(columns)}
    renamed = {"Value": next(iter(columns))} if len(columns) == 1 else renamed
    order = {name: number for number, name in enumerate([*labels, *renamed])}
    arranged = {
        "excludeByName": {"Time": True, **({"Value": True} if hidden else {})},
        "indexByName": order,
        "renameByName": renamed,
        "includeByName": {},
    }
    transformations: list[Json] = [{"id": "merge", "options": {}}, {"id": "organize", "options": arranged}]
    options = {"showHeader": True, "cellHeight": "sm", "frameIndex": 0, "sortBy": [{"displayName": sort, "desc": True}] if sort else []}
    custom = {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}
    return panel(
        "table", title, description, list(columns.values()), (w, h), options, unit=unit, custom=custom, overrides=overrides,
        transformations=transformations, **more,
    )  # fmt: skip


def meaning(words: Mapping[int, tuple[str, str]]) -> Json:
    """What whole numbers mean: a word and its colour."""
    found = {str(value): {"text": text, "color": colour, "index": number} for number, (value, (text, colour)) in enumerate(words.items())}
    return {"type": "value", "options": found}


def heading(title: str) -> Json:
    """A row's heading: all that follows, until the next one, stands below it."""
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": WIDTH, "h": 1}}


# ---- what stands around the panels


def _variable(name: str, label: str, query: str, description: str, all_of_them: str) -> Json:
    return {
        "type": "query", "name": name, "label": label, "description": description, "datasource": SOURCE,
        "query": {"query": query, "refId": f"variable-{name}"}, "refresh": 2, "sort": 1, "multi": True, "includeAll": True,
        "allValue": all_of_them, "current": {"selected": True, "text": ["All"], "value": ["$__all"]}, "options": [], "regex": "", "hide": 0,
        "skipUrlSync": False,
    }  # fmt: skip


def variables() -> list[Json]:
    """The same in every dashboard, so that a link takes the choice along. `.*` also finds what has no such label or an empty one."""
    here = 'job=~"$job", instance=~"$instance"'
    source = {
        "type": "datasource", "name": "datasource", "label": "Data source", "description": "The Prometheus that scrapes the gateways.",
        "query": "prometheus", "refresh": 1, "regex": "", "hide": 0, "multi": False, "includeAll": False, "options": [],
        "skipUrlSync": False,
    }  # fmt: skip
    teams = '{__name__=~"faregate_requests_total|faregate_budget_limit", ' + here + "}"
    return [
        source,
        _variable("job", "Job", "label_values(faregate_build_info, job)", "The scrape job of the gateways.", ".+"),
        _variable("instance", "Instance", 'label_values(faregate_build_info{job=~"$job"}, instance)', "Replicas of the gateway.", ".+"),
        _variable("team", "Team", f"label_values({teams}, team)", "Teams with requests or a budget.", ".*"),
        _variable("host", "Host", f"label_values(faregate_price_known{{{here}}}, host)", "Hosts that are configured.", ".*"),
        _variable(
            "model", "Model", f'label_values(faregate_price_known{{{here}, host=~"$host"}}, model)', "Models that these hosts serve.", ".*"
        ),
        _variable(
            "currency", "Currency", f"label_values(faregate_price_known{{{here}}}, currency)", "Amounts in two currencies never add.", ".*"
        ),
    ]


def annotation(name: str, expression: str, title: str, text: str, colour: str) -> Json:
    """A stretch of time where the query answers, marked in all panels with a time axis."""
    return {
        "name": name, "datasource": SOURCE, "enable": True, "hide": False, "iconColor": colour,
        "expr": expression, "step": "60s", "titleFormat": title, "textFormat": text, "tagKeys": "", "useValueForTime": False,
    }  # fmt: skip


def _links(others: Mapping[str, str], uid: str, docs: str) -> list[Json]:
    def link(title: str, url: str, tooltip: str, icon: str, there: bool) -> Json:
        return {
            "type": "link", "title": title, "url": url, "tooltip": tooltip, "icon": icon, "tags": [], "asDropdown": False,
            "targetBlank": not there, "includeVars": there, "keepTime": there,
        }  # fmt: skip

    found = [link(title, f"/d/{other}", f"Faregate: {title}", "dashboard", True) for other, title in others.items() if other != uid]
    return [*found, *([link("What it shows", docs, "The docs of this dashboard", "doc", False)] if docs else [])]


def about(page: str, docs: str) -> Json:
    """A text with the way to the docs: links where their address is known, else their place in the repository."""
    manual, runbooks = f"{docs or 'docs'}/dashboards.md#{page}", f"{docs or 'docs'}/runbooks/"
    text = f"[What each panel tells]({manual}) and [what to do about an alert]({runbooks})"
    text = text if docs else f"What each panel tells: `{manual}`. What to do about an alert: `{runbooks}`. Exact amounts: `faregate spend`."
    options = {"mode": "markdown", "content": text, "code": {"language": "plaintext", "showLineNumbers": False, "showMiniMap": False}}
    return {
        "type": "text", "title": "About", "description": "Where this dashboard is explained.", "transparent": True,
        "gridPos": {"w": WIDTH, "h": 2},
        "options": options, "fieldConfig": {"defaults": {}, "overrides": []}, "targets": [],
    }  # fmt: skip


def _placed(panels: Iterable[Json]) -> list[Json]:
    """Panels in lines from left to right, each line as high as its highest; ids count from 1."""
    found: list[Json] = []
    x = y = high = 0
    for number, one in enumerate(panels, 1):
        size = one["gridPos"]
        if x + size["w"] > WIDTH:
            x, y, high = 0, y + high, 0
        found.append({"id": number, **one, "gridPos": {"h": size["h"], "w": size["w"], "x": x, "y": y}})
        x, high = x + size["w"], max(high, size["h"])
    return found


def dashboard(
    uid: str, title: str, description: str, others: Mapping[str, str], panels: Iterable[Json], *, page: str, docs: str = "",
    annotations: Sequence[Json] = (), since: str = "now-6h", refresh: str = "30s",
) -> Json:  # fmt: skip
    """A whole dashboard; `others`: the titles of all dashboards by uid, which it links to; `docs`: where the docs are on the web."""
    return {
        "uid": uid, "title": f"Faregate / {title}", "description": description, "tags": ["faregate"], "editable": False,
        "schemaVersion": SCHEMA_VERSION, "version": 1, "graphTooltip": 1, "timezone": "browser", "refresh": refresh,
        "time": {"from": since, "to": "now"}, "timepicker": {}, "fiscalYearStartMonth": 0, "preload": False,
        "links": _links(others, uid, docs and f"{docs}/dashboards.md#{page}"), "templating": {"list": variables()},
        "annotations": {"list": list(annotations)}, "panels": _placed([*panels, about(page, docs)]),
    }  # fmt: skip
