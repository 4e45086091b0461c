"""The frame of every page, and the parts that pages are put together from: sections, tables, forms, bars, marks, empty states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from gateway.console.markup import Child, Html, Value, document, join, tag

Tone = Literal["ok", "warn", "bad", "quiet"]
PLACES: Final = (
    ("/", "Overview"),
    ("/budgets", "Budgets"),
    ("/requests", "Requests"),
    ("/hosts", "Hosts"),
    ("/keys", "Keys"),
    ("/policies", "Policies"),
)
# A text of more signs has a line to itself.
_LONG: Final = 60
# Where a form carries the proof that this gateway made it, and what a form that may be sent once is known by.
PROOF, ONCE = "proof", "once"


class Page(NamedTuple):
    """One page: its title, the place in the navigation that it belongs to, its content, and how often it is looked at again."""

    title: str
    place: str
    body: Html
    refresh: int = 0
    status: int = 200


class Go(NamedTuple):
    """The answer to a form that was carried out: look there."""

    path: str


@dataclass(frozen=True, slots=True)
class Ask:
    """What a browser asked for: the parts of the path, the query, the fields of a form and whether it was not sent before.

    `proof` and `once` are for the forms of the next page; `site` is the name by which the browser reached this gateway.
    """

    parts: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    proof: str = ""
    once: str = ""
    fresh: bool = False
    site: str = "127.0.0.1"

    def form(self, action: str, *children: Child, **attributes: Value) -> Html:
        """A form that this gateway will know as its own."""
        hidden = [tag("input", type="hidden", name=PROOF, value=self.proof), tag("input", type="hidden", name=ONCE, value=self.once)]
        return tag("form", hidden, *children, method="post", action=action, autocomplete="off", **attributes)


class Column(NamedTuple):
    """A column by its name; `number` puts figures under each other, `sort` lets the reader sort by it."""

    name: str
    number: bool = False
    sort: bool = True
    hint: str | None = None


class Cell(NamedTuple):
    """What a cell shows, and what it is sorted by where that is something else."""

    shown: Child
    value: str | int | None = None


Row = Sequence[Cell | str | int | None]


def table(name: str, caption: str, columns: Sequence[Column], rows: Iterable[Row], *, hide_caption: bool = False) -> Html:
    """A table with a caption, whose first cell of each row is its header; `name` is unique on its page."""
    head = tag("tr", [_head(column) for column in columns])
    body = [tag("tr", [_cell(index, column, cell) for index, (column, cell) in enumerate(zip(columns, row, strict=True))]) for row in rows]
    title = tag("caption", caption, id=f"{name}-caption", class_="unseen" if hide_caption else None)
    made = tag("table", title, tag("thead", head), tag("tbody", body), id=name)
    return tag("div", made, class_="scroll", role="group", tabindex=0, aria_labelledby=f"{name}-caption")


def _head(column: Column) -> Html:
    return tag("th", column.name, scope="col", class_="number" if column.number else None, data_sort=column.sort, title=column.hint)


def _cell(index: int, column: Column, cell: Cell | str | int | None) -> Html:
    shown, value = cell if isinstance(cell, Cell) else (cell, None)
    style = "number" if column.number else None
    if index == 0:
        return tag("th", shown, scope="row", class_=style, data_value=value)
    return tag("td", shown, class_=style, data_value=value)


def section(name: str, title: str, *children: Child, note: Child = None, live: bool = True, level: str = "h2") -> Html:
    """A part of a page under a heading; a `live` one is shown anew while the page stands open."""
    head = tag("div", tag(level, title, id=f"{name}-title"), tag("p", note, class_="note") if note else None, class_="head")
    return tag("section", head, *children, id=name, data_live=live)


def heading(title: Child, *beside: Child, note: Child = None) -> Html:
    """The one first heading of a page."""
    return tag("div", tag("div", tag("h1", title), tag("p", note, class_="note") if note else None), *beside, class_="title")


def mark(text: str, tone: Tone = "quiet") -> Html:
    """A word that says how something is; its colour says it once more."""
    return tag("span", text, class_=f"mark {tone}")


def code(text: str) -> Html:
    return tag("code", text)


def link(path: str, *children: Child, **attributes: Value) -> Html:
    return tag("a", *children, href=path, **attributes)


def facts(pairs: Iterable[tuple[str, Child]]) -> Html:
    """Names with what they stand for; a pair without a value is left out."""
    shown = [
        tag("div", tag("dt", name), tag("dd", value), class_="long" if _long(value) else None)
        for name, value in pairs
        if value not in (None, "")
    ]
    return tag("dl", shown, class_="facts")


def _long(value: Child) -> bool:
    return isinstance(value, str) and not isinstance(value, Html) and len(value) > _LONG


def tile(name: str, figure: Child, *notes: Child, tone: Tone | None = None) -> Html:
    """One figure that matters, with what it is."""
    shown = [tag("dt", name), tag("dd", figure, class_="figure"), [tag("dd", note, class_="note") for note in notes if note]]
    return tag("div", shown, class_=f"tile {tone}" if tone else "tile")


def tiles(*made: Child) -> Html:
    return tag("dl", *made, class_="tiles")


def listed(items: Iterable[Child], style: str = "plain") -> Html:
    return tag("ul", [tag("li", item) for item in items], class_=style)


def empty(what: str, *next_step: Child) -> Html:
    """Where there is nothing yet: what will be here, and the next step."""
    return tag("div", tag("p", what, class_="lead"), *next_step, class_="empty")


def commands(*lines: str, name: str = "The command") -> Html:
    """Lines for a shell, to be copied as they are."""
    return tag("pre", tag("code", "\n".join(lines)), data_copy=True, tabindex=0, role="group", aria_label=name)


def notice(tone: Tone, *children: Child) -> Html:
    return tag("div", *children, class_=f"notice {tone}", role="alert" if tone == "bad" else "status")


def entry(name: str, label: str, *, hint: str | None = None, control: Html | None = None, **attributes: Value) -> Html:
    """A labelled input of a form, with a hint that belongs to it."""
    said = f"{name}-hint" if hint else None
    made = control or tag("input", id=name, name=name, aria_describedby=said, **attributes)
    return tag("div", tag("label", label, for_=name), made, tag("p", hint, id=said, class_="hint") if hint else None, class_="entry")


def choice(name: str, options: Iterable[tuple[str, str]], chosen: str = "", *, said: str | None = None, **attributes: Value) -> Html:
    made = [tag("option", label, value=value, selected=value == chosen) for value, label in options]
    return tag("select", made, id=name, name=name, aria_describedby=said, **attributes)


def button(text: str, style: str = "", **attributes: Value) -> Html:
    return tag("button", text, type="submit", class_=style or None, **attributes)


def bar(label: str, parts: Sequence[tuple[str, int]], whole: int) -> Html:
    """Parts of a whole as one bar: (what, how much). What is more than the whole fills it, and its text must say so."""
    drawn, left = [], 1000
    for what, size in parts:
        wide = min(left, -(-size * 1000 // whole)) if whole > 0 else 0
        # What is there is seen: a sliver at least.
        wide = min(left, max(wide, 4)) if size > 0 else 0
        drawn.append(tag("rect", x=1000 - left, y=0, width=wide, height=10, class_=what))
        left -= wide
    track = tag("rect", x=0, y=0, width=1000, height=10, class_="track")
    return tag("svg", track, drawn, class_="bar", viewBox="0 0 1000 10", preserveAspectRatio="none", role="img", aria_label=label)


def columns_chart(label: str, heights: Sequence[int], now: int) -> Html:
    """One column for each of `heights`; that of `now` is marked, and what is there is seen."""
    most = max(heights, default=0) or 1
    drawn = []
    for index, height in enumerate(heights):
        tall = max(2, height * 60 // most) if height > 0 or index == now else 1
        style = "now" if index == now else "idle" if height <= 0 else "spent"
        drawn.append(tag("rect", x=index * 10 + 1, y=60 - tall, width=8, height=tall, class_=style))
    box = f"0 0 {10 * len(heights)} 60"
    return tag("svg", drawn, class_="chart", viewBox=box, preserveAspectRatio="none", role="img", aria_label=label)


class Shell(NamedTuple):
    """What stands around a page: who is logged in (None: nobody), what is loaded, what the foot says."""

    stamp: str
    ask: Ask | None
    foot: Child = None
    warning: Child = None


def framed(page: Page, shell: Shell) -> Html:
    """The whole document."""
    title = tag("title", f"{page.title} · Faregate")
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        title,
        tag("link", rel="icon", type="image/svg+xml", href=f"/console/icon.svg?{shell.stamp}"),
        tag("link", rel="stylesheet", href=f"/console/console.css?{shell.stamp}"),
        tag("script", src=f"/console/console.js?{shell.stamp}"),
    )
    main = tag("main", shell.warning, page.body, id="main", tabindex=-1, data_refresh=page.refresh or None)
    skip = link("#main", "Skip to the content", class_="skip")
    return document(head, join(skip, _header(page, shell), main, tag("footer", shell.foot)))


def _header(page: Page, shell: Shell) -> Html:
    brand = tag("span", "Faregate", class_="brand")
    theme = tag("button", "Theme", type="button", id="theme", class_="quiet", hidden=True)
    if shell.ask is None:
        return tag("header", tag("div", brand, tag("div", theme, class_="tools"), class_="bar-top"))
    places = [tag("li", link(path, name, aria_current="page" if path == page.place else None)) for path, name in PLACES]
    out = shell.ask.form("/logout", button("Log out", "quiet"))
    tools = tag("div", theme, out, class_="tools")
    return tag("header", tag("div", brand, tag("nav", tag("ul", places), aria_label="Console"), tools, class_="bar-top"))
