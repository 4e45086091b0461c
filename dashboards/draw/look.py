"""How things look: colours by name, the page's style, and what a series is shown as after its panel's overrides."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import Any, Final

Json = dict[str, Any]

PALETTE: Final = (
    "#56A64B", "#E0B400", "#3274D9", "#FA6400", "#E02F44", "#A352CC", "#37A2B8", "#C15C17", "#705DA0", "#8AB8FF", "#96D98D", "#FFB357",
    "#6D1F62", "#508642", "#FF7383", "#447EBC",
)  # fmt: skip
COLOURS: Final = {
    "green": "#3E9A3A", "yellow": "#D6A100", "orange": "#F28A1E", "red": "#E02F44", "blue": "#3274D9", "purple": "#A352CC",
    "dark-red": "#AD0317", "light-blue": "#8AB8FF", "dark-purple": "#6B21A8", "super-light-orange": "#FFC069", "text": "#4A4F57",
}  # fmt: skip
INK, FAINT, GRID = "#24292E", "#6E7580", "#E9EBEE"

STYLE: Final = """
* { box-sizing: border-box; margin: 0; }
body { background: #F3F4F6; color: #24292E; font: 12px/1.35 Inter, 'DejaVu Sans', 'Liberation Sans', Arial, sans-serif; }
.page { position: relative; }
.bar { display: flex; align-items: baseline; gap: 18px; padding: 14px 16px 4px; }
.bar h1 { font-size: 19px; font-weight: 600; }
.bar .when { margin-left: auto; color: #4A4F57; font-size: 13px; }
.chosen { padding: 4px 16px 8px; display: flex; gap: 8px; }
.chosen span { background: #fff; border: 1px solid #DDE0E4; border-radius: 3px; padding: 3px 9px; color: #4A4F57; }
.chosen b { color: #24292E; font-weight: 600; }
.panel { position: absolute; background: #fff; border: 1px solid #DDE0E4; border-radius: 3px; overflow: hidden; }
.panel h2 { font-size: 13px; font-weight: 600; padding: 6px 9px 0; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.panel h2 i { font-weight: 400; font-style: normal; color: #8A9099; font-size: 11px; float: right; }
.row { position: absolute; font-size: 14.5px; font-weight: 600; padding: 9px 4px 0; }
.row::before { content: '▾'; margin-right: 7px; color: #8A9099; }
.row.about { font-size: 11.5px; font-weight: 400; color: #4A4F57; padding: 12px 4px 0; }
.row.about::before { content: ''; margin: 0; }
.legend { position: absolute; left: 9px; right: 9px; bottom: 5px; display: flex; flex-wrap: wrap; gap: 1px 13px; font-size: 11px;
  color: #3B4048; align-content: flex-start; overflow: hidden; }
.legend span { white-space: nowrap; }
.legend i, td i, .key i { display: inline-block; width: 12px; height: 4px; border-radius: 2px; margin: 0 5px 3px 0;
  vertical-align: middle; }
.big { position: absolute; inset: 26px 6px 6px; display: flex; justify-content: space-evenly; align-items: center; }
.big div { text-align: center; z-index: 1; }
.big small { display: block; color: #4A4F57; font-size: 11.5px; }
.big b { font-weight: 600; white-space: nowrap; }
.spark { position: absolute; left: 0; right: 0; bottom: 0; opacity: .55; }
table { border-collapse: collapse; width: 100%; font-size: 11.5px; }
th { text-align: left; font-weight: 600; color: #3274D9; padding: 4px 8px; border-bottom: 1px solid #DDE0E4; white-space: nowrap; }
td { padding: 3.5px 8px; border-bottom: 1px solid #F0F1F3; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; max-width: 260px; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.bars { position: absolute; inset: 27px 10px 7px; display: flex; flex-direction: column; justify-content: space-evenly; overflow: hidden; }
.bars > div { display: flex; align-items: center; gap: 8px; }
.bars label { flex: 0 0 42%; text-align: right; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; font-size: 11.5px; }
.bars u { flex: 1; background: #EEF0F2; border-radius: 2px; text-decoration: none; overflow: hidden; }
.bars u i { display: block; height: 100%; }
.bars b { flex: 0 0 62px; font-weight: 600; font-size: 12px; white-space: nowrap; }
.ring { position: absolute; inset: 27px 10px 7px; display: flex; align-items: center; gap: 14px; }
.ring table { flex: 1; }
.none { position: absolute; inset: 40px 0 0; text-align: center; color: #8A9099; font-size: 13px; }
.foot { position: absolute; left: 16px; right: 16px; color: #6E7580; font-size: 11.5px; }
"""


def properties(panel: Json, name: str) -> Json:
    """The field's properties for a series or column of this name, after overrides; keys are dotted as in overrides."""
    config = panel["fieldConfig"]
    found: Json = dict(config["defaults"])
    for override in config["overrides"]:
        if _matches(override["matcher"], name):
            found |= {one["id"]: one["value"] for one in override["properties"]}
    return found


def _matches(matcher: Json, name: str) -> bool:
    if matcher["id"] == "byRegexp":
        return re.search(matcher["options"].strip("/"), name) is not None
    return bool(matcher["options"] == name)


def threshold_colour(value: float, thresholds: Json) -> str:
    """The colour of the last step that the value has reached."""
    reached = [step["color"] for step in thresholds["steps"] if step["value"] is None or value >= step["value"]]
    return COLOURS[reached[-1]]


def word(value: float, mappings: Iterable[Json]) -> tuple[str, str] | None:
    """What a mapping says instead of a value: its text and colour."""
    for mapping in mappings:
        found = mapping["options"].get(f"{value:g}")
        if found:
            return found["text"], COLOURS[found["color"]]
    return None


def line_colours(panel: Json, names: Iterable[str]) -> dict[str, str]:
    """The colour of each line: as an override says, else the next of the palette."""
    found: dict[str, str] = {}
    for name in names:
        own = properties(panel, name).get("color") or {}
        if own.get("mode") == "fixed":
            found[name] = COLOURS[own["fixedColor"]]
        elif name not in found:
            found[name] = PALETTE[len(found) % len(PALETTE)]
    return found


def safe(text: str) -> str:
    return escape(text, quote=True)
