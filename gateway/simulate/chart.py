"""Chart: the bills of a report as an SVG file that needs no explanation: one bar for each way of choosing, the savings in words."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from html import escape

from gateway.money import NANO
from gateway.simulate.lookahead import LOOK_AHEAD
from gateway.simulate.replay import Bill
from gateway.simulate.report import ONLY, Report, amount, counted, span

WIDTH, ROW, TOP, LEFT, RIGHT = 960, 46, 142, 286, 190
_INK, _SOFT, _LINE, _OURS, _BAR, _TRUTH = "#1c2430", "#5b6675", "#d9dee5", "#0b7a53", "#9fb1c7", "#e3c878"
_FONT = "system-ui, 'Segoe UI', Roboto, Helvetica, Arial, 'DejaVu Sans', sans-serif"
# What each way of choosing is, under its name.
_MEANING = {
    "list price": "the lowest list price, every time",
    "myopic": "the cheapest for this request alone",
    "sticky": "the cheapest first request, then the same",
    "random": "any host, evenly",
    LOOK_AHEAD: "Faregate: this request and those to follow",
    "oracle": "told every host's true cache",
    "hindsight": "best host of each conversation, known later",
}


def svg(report: Report) -> str:
    """The chart: bars from the dearest to the cheapest; what nobody can know beforehand is drawn apart in colour."""
    bills = sorted(report.bills, key=lambda bill: -bill.nano)
    bottom = TOP + ROW * len(bills)
    height = bottom + 92
    most = max(1, bills[0].nano)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="{_FONT}"'
        f' role="img" aria-label="{escape(_title(report), quote=True)}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(32, 44, _title(report), 23, _INK, weight="700"),
        _text(32, 71, _subtitle(report), 14, _SOFT),
        _text(32, 93, _measure(report), 14, _SOFT),
        *_axis(report, most, bottom),
    ]
    for row, bill in enumerate(bills):
        lines += _bar(report, bill, TOP + ROW * row, most)
    lines += _legend(bottom + 56)
    return "\n".join([*lines, "</svg>", ""])


def _title(report: Report) -> str:
    ahead, listed = report.bill(LOOK_AHEAD).nano, report.bill("list price").nano
    if not listed:
        return "Nothing was billed"
    part = abs(Decimal(listed - ahead)) / listed
    if part < Decimal("0.0005"):
        return "Looking ahead costs as much as choosing by list price"
    shown = f"{part:.0%}" if part >= Decimal("0.1") else f"{part:.1%}"
    if ahead > listed:
        return f"Looking ahead costs {shown} more than choosing by list price"
    return f"Looking ahead saves {shown} of the bill by list price"


def _subtitle(report: Report) -> str:
    ahead, listed = report.bill(LOOK_AHEAD), report.bill("list price")
    best = report.best_single
    return (
        f"{amount(ahead.nano)} {report.currency} instead of {amount(listed.nano)} by list price"
        f" and {amount(best.nano)} at {report.label(best).removeprefix(ONLY)} alone, the best single host"
    )


def _measure(report: Report) -> str:
    some = report.bills[0]
    whole = f"{counted(some.requests + some.unserved, 'request')} in {counted(report.sessions, 'conversation')}, {span(report.seconds)}"
    return f"{report.trace}: {whole}; hosts of {report.menu}" + (f"; {report.longer}" if report.longer else "")


def _axis(report: Report, most: int, bottom: int) -> Iterator[str]:
    """Vertical lines at round amounts, with the amounts below them."""
    step = _round_step(most)
    tick = 0
    while tick <= most:
        x = LEFT + _length(tick, most)
        yield f'<line x1="{x}" y1="{TOP - 8}" x2="{x}" y2="{bottom}" stroke="{_LINE}" stroke-width="1"/>'
        yield _text(
            x,
            bottom + 20,
            f"{Decimal(tick) / 10**9:,f}".rstrip("0").rstrip(".") if tick % 10**9 else f"{tick // 10**9:,}",
            13,
            _SOFT,
            "middle",
        )
        tick += step
    yield _text(LEFT, TOP - 16, f"total bill in {report.currency}", 13, _SOFT)


def _bar(report: Report, bill: Bill, top: int, most: int) -> Iterator[str]:
    ours = bill.name == LOOK_AHEAD
    known_later = bill.name in ("hindsight", "oracle")
    length = max(2, _length(bill.nano, most))
    fill = _OURS if ours else _TRUTH if known_later else _BAR
    yield _text(LEFT - 14, top + 18, report.label(bill).replace(ONLY, "always "), 15, _INK, "end", "700" if ours else "400")
    yield _text(LEFT - 14, top + 34, _MEANING.get(bill.name, "one host for everything"), 11, _SOFT, "end")
    yield f'<rect x="{LEFT}" y="{top + 6}" width="{length}" height="{ROW - 16}" rx="3" fill="{fill}"/>'
    yield _text(LEFT + length + 10, top + 26, amount(bill.nano), 15, _INK, weight="700" if ours else "400")
    ahead = report.bill(LOOK_AHEAD).nano
    more = Decimal(bill.nano - ahead) / ahead if ahead else Decimal(0)
    if not ours and abs(more) >= Decimal("0.0005"):
        yield _text(WIDTH - 24, top + 26, f"{more:+.0%}" if abs(more) >= Decimal("0.1") else f"{more:+.1%}", 13, _SOFT, "end")


def _legend(y: int) -> Iterator[str]:
    x = LEFT
    for fill, text in ((_OURS, "Faregate"), (_BAR, "other ways of choosing"), (_TRUTH, "with knowledge that nobody has beforehand")):
        yield f'<rect x="{x}" y="{y - 11}" width="13" height="13" rx="2" fill="{fill}"/>'
        yield _text(x + 20, y, text, 13, _SOFT)
        x += 44 + 7 * len(text)
    yield _text(WIDTH - 24, TOP - 16, "against looking ahead", 13, _SOFT, "end")


def _text(x: int, y: int, words: str, size: int, fill: str, anchor: str = "start", weight: str = "400") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'


def _length(nano: int, most: int) -> int:
    return nano * (WIDTH - LEFT - RIGHT) // most


def _plain(nano: int) -> str:
    """A round amount without idle noughts: 0.05, 1,200."""
    text = f"{Decimal(nano) / NANO:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _round_step(most: int) -> int:
    """Nano of a round amount of which four to ten make the longest bar."""
    step = 1
    while most // step >= 10:
        step *= 10
    for part in (step // 4, step // 2):
        if part and part * 10 > most >= part * 4:
            return part
    return step
