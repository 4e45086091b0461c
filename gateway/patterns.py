"""Patterns of lines that change: known offenders by name, or a regular expression that cannot take long on any line.

A plain `re` can need hours for one line, `(a+)+b` on forty letters for example. So a pattern may repeat single characters and no
groups: then the steps that a line needs are at most its length to the power of its repeats, which `effort` says beforehand.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

# Longer lines are no changing lines, but texts; nothing is looked for in them.
LONGEST: Final = 256
# Steps that one line may need.
_MOST: Final = 120_000_000


class Pattern(NamedTuple):
    """What a whole line must match; the first group, where there is one, is the part of it that changes."""

    expression: re.Pattern[str]
    repeats: int
    ways: int = 1

    def effort(self, length: int) -> int:
        """Steps within which a line of so many letters is told to match or not; a thousand million take half a second at most."""
        steps: int = (length + 1) ** self.repeats * self.ways
        return steps


class Unsafe(ValueError):
    """A pattern that is none, or that could take long; the text says what is wrong with it and what to do."""


_DATE: Final = (
    r"(?i)[\s>*#•-]{0,6}"
    r"(?:(?:(?:the|today'?s|current|present|local|system|server|utc) ){0,3}"
    r"(?:date ?time|date(?: ?(?:and|&|/) ?time)?|time(?:stamp)?)(?: today| now)?(?: \([^)]{1,30}\))?\*{0,2}(?:\s?[:=]| is:?)\*{0,2}\s{0,3}"
    r"|today is |it is (?:now |currently )|now: )"
    r"(?=.*?(?:\d{4}|\d{1,2}:\d\d|\d{1,2}[./-]\d))\S.{0,79}"
)
KNOWN: Final = {
    "claude-code-billing": Pattern(re.compile(r"x-anthropic-billing-header:.*"), 1),
    "date": Pattern(re.compile(_DATE), 1),
}


@lru_cache(maxsize=1024)
def pattern(text: str) -> Pattern:
    """The known offender of this name, or this regular expression; raises Unsafe."""
    if text in KNOWN:
        return KNOWN[text]
    try:
        expression = re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise Unsafe(f"is no regular expression: {error}. Hint: names are {', '.join(KNOWN)}") from None
    if expression.fullmatch(""):
        raise Unsafe("matches the empty line. Hint: say what the line begins with")
    found = Pattern(expression, *_power(text))
    if found.effort(LONGEST) > _MOST:
        raise Unsafe("could take long on some lines. Hint: use fewer of * + {n,m} ? |; a last .* stands for all the rest of the line")
    return found


# One element: a class, an escape, the head of a group, or any other character; then how often, and whether greedily.
_ELEMENT: Final = re.compile(r"(\[\^?\]?(?:\\.|[^\]\\])*\]|\\.|\(\?(?:P<\w+>|:|i\))|.)([*+?]|\{\d+\}|\{\d*,\d*\})?[?+]?", re.DOTALL)


def _power(text: str) -> tuple[int, int]:
    """(repeats of open length, ways through its alternatives and options) of an expression that compiles; raises Unsafe."""
    repeats, ways = 0, 1
    alternatives = [1]
    for element, often in _ELEMENT.findall(text):
        if element == "(" and often:
            raise Unsafe("looks ahead or behind, or sets flags. Hint: match the whole line; (?i) and (?:…) are known")
        if element[0] == "\\" and element[1].isdigit():
            raise Unsafe("refers back to a group. Hint: write out what it stands for")
        if element[0] == "(" and element != "(?i)":
            alternatives.append(1)
        elif element == "|":
            alternatives[-1] += 1
        elif element == ")":
            ways *= alternatives.pop()
            if often not in ("", "?"):
                raise Unsafe(f"repeats a group: ){often}. Hint: repeat single characters, such as \\d or [a-f0-9]")
        if often == "?":
            ways *= 2
        elif often and not often[1:-1].isdigit():
            repeats += 1
    return repeats, ways * alternatives[0]
