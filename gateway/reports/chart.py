"""Pictures of a report: bars of text for a terminal, and an SVG file. One scale for each currency; kinds are added up.

With a day or an hour among its names a picture runs along the time, and the other names are the colours; else it has a bar for each
line. Lengths are rounded to what can be seen; amounts stand beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from html import escape
from typing import Final

from gateway.clock import instant_text
from gateway.money import decimal_text
from gateway.reports.spending import TIMES, Kind, Spending
from gateway.reports.text import seen
from gateway.reports.writing import narrowed

_WIDE: Final = 40
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"
WIDTH, LEFT, RIGHT, HEIGHT, ROW = 960, 270, 150, 240, 26
_MOST_BARS, _MOST_COLOURS, _MOST_COLUMNS = 30, 8, 400
_INK, _SOFT, _LINE = "#1c2430", "#5b6675", "#d9dee5"
_COLOURS: Final = ("#0b7a53", "#2f6fb3", "#c8821b", "#8a4fa3", "#b3402f", "#3c8d93", "#7a7a2c", "#5b6675")
_FONT: Final = "system-ui, 'Segoe UI', Roboto, Helvetica, Arial, 'DejaVu Sans', sans-serif"
_OTHERS: Final = "others"
_NAMELESS: Final[dict[Kind, str]] = {"charge": "(none)", "correction": "corrections", "archived": "archived"}

# Of one currency: each place along the axis with the amounts of its colours.
_Panel = dict[str, dict[str, int]]


def bars(report: Spending) -> str:
    """A bar of text for each line, as long as it cost; the longest of a currency is 40 characters."""
    texts: list[str] = []
    for currency, panel in _panels(report, whole=True).items():
        amounts = {name: sum(parts.values()) for name, parts in panel.items()}
        most, width = max([0, *amounts.values()]), max(map(len, amounts))
        texts.append(f"{currency}, from {_span(report)}")
        texts += [f"{name:<{width}}  {_bar(nano, most):<{_WIDE}}  {decimal_text(nano)}".rstrip() for name, nano in amounts.items()]
    return "\n".join([*(texts or [f"nothing was charged from {_span(report)}"]), *report.notes])


def _bar(nano: int, most: int) -> str:
    eighths = max(0, nano) * _WIDE * 8 // most if most else 0
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8].strip() or ("▏" if 0 < nano and eighths < 8 else ""))


def _span(report: Spending) -> str:
    return seen(f"{instant_text(report.period.start)} to {instant_text(report.period.end)}, {report.period.zone.key}{narrowed(report)}")


def _panels(report: Spending, whole: bool) -> dict[str, _Panel]:
    """The amounts by currency, place and colour; the places in the order of the report. `whole`: each line is a place of its own."""
    timed = None if whole else _time(report)
    found: dict[str, _Panel] = {}
    empty = report.places(report.by[timed]) if timed is not None else []
    for line in report.lines():
        panel = found.setdefault(line.currency, {name: {} for name in empty})
        # An archived month has no day: it stands at the first one, where there is any.
        along = line.names if timed is None else [line.names[timed] or (empty[0] if empty else "")]
        rest = [] if timed is None else [name for place, name in enumerate(line.names) if report.by[place] not in TIMES]
        parts = panel.setdefault(_label(along, line.kind), {})
        colour = _label(rest, line.kind) if rest else ""
        parts[colour] = parts.get(colour, 0) + line.group.nano
    return found


def _time(report: Spending) -> int | None:
    """Which of its names a picture runs along: the hour, else the day."""
    return next((report.by.index(name) for name in ("hour", "day") if name in report.by), None)


def _label(names: Iterable[str], kind: Kind) -> str:
    """What stands beside a bar. Where a correction or an archived month has no name, what it is stands there once."""
    texts = [seen(name) or _NAMELESS[kind] for name in names]
    return " ".join(text for place, text in enumerate(texts) if kind == "charge" or not place or text != texts[place - 1])


def svg(report: Spending) -> str:
    """The report as one SVG file that needs nothing else: a panel for each currency."""
    timed, panels = _time(report) is not None, _panels(report, whole=False)
    colours = _colours(panels)
    body: list[str] = []
    top = 84
    for currency, panel in panels.items():
        body.append(_text(32, top, currency, 16, _INK, weight="700"))
        lines, height = _columns(_coarser(panel), colours, top + 16) if timed else _rows(panel, top + 16)
        body += lines
        top += height + 56
    title, low = f"Spend by {', '.join(report.by)}", top + 18 * len(report.notes)
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{low}" viewBox="0 0 {WIDTH} {low}" font-family="{_FONT}"'
        f' role="img" aria-label="{escape(title, quote=True)}">',
        f'<rect width="{WIDTH}" height="{low}" fill="#ffffff"/>',
        _text(32, 34, title, 20, _INK, weight="700"),
        _text(32, 56, f"from {_span(report)}" if body else f"nothing was charged from {_span(report)}", 13, _SOFT),
    ]
    notes = [_text(32, top - 20 + 18 * place, note, 12, _SOFT) for place, note in enumerate(report.notes)]
    return "\n".join([*head, *body, *notes, "</svg>", ""])


def _colours(panels: Mapping[str, _Panel]) -> list[str]:
    """What has a colour of its own, the same in every panel: what is dear in any of them."""
    shares: dict[str, Decimal] = {}
    for panel in panels.values():
        whole = max(1, sum(max(0, nano) for parts in panel.values() for nano in parts.values()))
        for parts in panel.values():
            for colour, nano in parts.items():
                shares[colour] = shares.get(colour, Decimal(0)) + Decimal(nano) / whole
    ordered = sorted(shares, key=lambda colour: -shares[colour])
    return ordered if len(ordered) <= _MOST_COLOURS else [*ordered[: _MOST_COLOURS - 1], _OTHERS]


def _coarser(panel: _Panel) -> _Panel:
    """Neighbours in one column, named by the first of them, where there are more than can be seen."""
    several = -(-len(panel) // _MOST_COLUMNS)
    found: _Panel = {}
    for place, (name, parts) in enumerate(panel.items()):
        if place % several == 0:
            column = found[name] = {}
        for colour, nano in parts.items():
            column[colour] = column.get(colour, 0) + nano
    return found


def _rows(panel: _Panel, top: int) -> tuple[list[str], int]:
    """A horizontal bar for each place, the dearest first."""
    amounts = _dearest({name: sum(parts.values()) for name, parts in panel.items()}, _MOST_BARS)
    most = max(1, *amounts.values())
    lines: list[str] = []
    for row, (name, nano) in enumerate(amounts.items()):
        y = top + ROW * row
        length = max(0, nano) * (WIDTH - LEFT - RIGHT) // most
        lines.append(_text(LEFT - 10, y + 17, _short(name), 13, _INK, "end"))
        lines.append(f'<rect x="{LEFT}" y="{y + 4}" width="{max(1, length)}" height="{ROW - 8}" rx="2" fill="{_COLOURS[0]}"/>')
        lines.append(_text(LEFT + length + 8, y + 17, decimal_text(nano), 13, _INK))
    return lines, ROW * len(amounts)


def _columns(panel: _Panel, colours: Sequence[str], top: int) -> tuple[list[str], int]:
    """A column for each day or hour, its colours on each other; what is negative is drawn as nothing."""
    columns = {name: _folded(parts, colours) for name, parts in panel.items()}
    most = max(1, *(sum(max(0, nano) for nano in amounts) for amounts in columns.values()))
    lines = [*_scale(most, top)]
    step = max(1, (WIDTH - 2 * 80) // len(panel))
    hours = any(len(name) > len("2026-11-20") for name in columns)
    every = max(1, -(-(92 if hours else 74) // step))
    for place, (name, amounts) in enumerate(columns.items()):
        lines += _column(80 + step * place, step, top, amounts, most)
        if place % every == 0:
            lines.append(_text(80 + step * place, top + HEIGHT + 16, name[2:13].replace("T", " ") if hours else name, 11, _SOFT))
    legend, low = _legend(colours, top + HEIGHT + 38)
    return [*lines, *legend], low + 6 - top


def _folded(parts: Mapping[str, int], colours: Sequence[str]) -> list[int]:
    """The amounts of the colours that are shown, in their order; the rest is with the others."""
    found = [parts.get(colour, 0) for colour in colours]
    if _OTHERS in colours:
        found[colours.index(_OTHERS)] += sum(nano for name, nano in parts.items() if name not in colours)
    return found


def _column(x: int, step: int, top: int, amounts: Sequence[int], most: int) -> Iterator[str]:
    base, stacked = top + HEIGHT, 0
    width = step - max(1, step // 6) if step > 3 else step
    for place, nano in enumerate(amounts):
        low = stacked * HEIGHT // most
        stacked += max(0, nano)
        high = stacked * HEIGHT // most
        if high > low:
            fill = _COLOURS[place % len(_COLOURS)]
            yield f'<rect x="{x}" y="{base - high}" width="{width}" height="{high - low}" fill="{fill}"/>'


def _scale(most: int, top: int) -> Iterator[str]:
    """Lines at round amounts, with the amounts beside them."""
    step = 1
    while most // step >= 10:
        step *= 10
    step = next((part for part in (step // 4, step // 2) if part and part * 5 >= most), step) if most // step < 3 else step
    step = step * 2 if most // step > 5 else step
    for tick in range(0, most + 1, step):
        y = top + HEIGHT - HEIGHT * tick // most
        yield f'<line x1="76" y1="{y}" x2="{WIDTH - 80}" y2="{y}" stroke="{_LINE}" stroke-width="1"/>'
        yield _text(70, y + 4, decimal_text(tick), 11, _SOFT, "end")


def _legend(colours: Sequence[str], y: int) -> tuple[list[str], int]:
    """The names of the colours in as many rows as they need, and the height of these."""
    lines: list[str] = []
    x = 80
    for place, name in enumerate(colours if list(colours) != [""] else []):
        shown = _short(name)
        wide = 34 + 7 * len(shown)
        if x + wide > WIDTH - 32:
            x, y = 80, y + 20
        lines.append(f'<rect x="{x}" y="{y - 10}" width="12" height="12" rx="2" fill="{_COLOURS[place % len(_COLOURS)]}"/>')
        lines.append(_text(x + 17, y, shown, 12, _SOFT))
        x += wide
    return lines, y


def _dearest(amounts: Mapping[str, int], most: int) -> dict[str, int]:
    """The dearest first; what is beyond so many is one more, called others."""
    ordered = dict(sorted(amounts.items(), key=lambda item: -item[1]))
    if len(ordered) <= most:
        return ordered
    kept = dict(list(ordered.items())[: most - 1])
    return {**kept, _OTHERS: sum(ordered.values()) - sum(kept.values())}


def _short(name: str) -> str:
    return name if len(name) <= 30 else f"{name[:14]}…{name[-15:]}"


def _text(x: int, y: int, words: str, size: int, fill: str, anchor: str = "start", weight: str = "400") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'
