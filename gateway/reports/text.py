"""Text for people, as a terminal may show it. Pure.

Names come from clients, from hosts' exports and from files: what in them would move the cursor, change colours or turn the direction of
writing is shown as an escape, such as \\x1b, and never sent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence


def seen(text: str) -> str:
    """One line with every character that cannot be seen as an escape; an end of line is one of them."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def seen_lines(text: str) -> str:
    """The same for a text of several lines."""
    return "\n".join(map(seen, text.split("\n")))


def columns(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> Iterator[str]:
    """A line for each row, its columns as wide as what stands in them; those in `right` are numbers and stand to the right."""
    texts = [[seen(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for cells in texts:
        pairs = enumerate(zip(cells, widths, strict=True))
        yield "  ".join(cell.rjust(width) if at in right else cell.ljust(width) for at, (cell, width) in pairs).rstrip()


def many(count: int, what: str) -> str:
    """A number of things: 1 key, 2 keys."""
    return f"{count} {what}{'' if count == 1 else 's'}"
