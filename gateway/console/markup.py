"""Markup that is safe as it is made: every text and every attribute is escaped, and links lead only to this origin.

No other module of the console writes an angle bracket.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import Final, TypeAlias

_NAME: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9-]*")
_VOID: Final = frozenset({"meta", "link", "input", "br", "hr"})
_LINKS: Final = frozenset({"href", "action", "src", "formaction"})
# One leading slash: two of them, or a slash and a backslash, name another host.
_OWN: Final = re.compile(r"/(?![/\\])[\x21-\x7e]*|#[A-Za-z0-9_-]+")
# What would change how the text around it is read: control characters, and those that turn the direction of writing.
_UNSEEN: Final = {
    sign: "\ufffd"
    for first, last in ((0x00, 0x08), (0x0B, 0x0C), (0x0E, 0x1F), (0x7F, 0x9F), (0x200B, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F))
    for sign in range(first, last + 1)
}


class Html(str):
    """Markup that is safe to send. Only this module makes it; anything else is text."""

    __slots__ = ()


Child: TypeAlias = "str | int | Iterable[Child] | None"
Value: TypeAlias = "str | int | bool | None"

NOTHING: Final = Html("")


def text(value: str) -> Html:
    """A text as it is read: what would be markup is escaped, what cannot be seen is shown as such."""
    return Html(escape(value.translate(_UNSEEN)))


def join(*children: Child) -> Html:
    """The children one after the other; None is nothing."""
    return Html("".join(_parts(children)))


def tag(name: str, /, *children: Child, **attributes: Value) -> Html:
    """An element. `class_` is class, other underscores are hyphens; True is a bare attribute, None and False leave it out.

    ValueError for a name that is none, for `style` and `on…` (the content security policy forbids them), and for a link that leads
    elsewhere.
    """
    head = name + "".join(_attribute(key, value) for key, value in attributes.items())
    if not _NAME.fullmatch(name) or (name in ("script", "style") and children):
        raise ValueError(f"{name!r} is no element of ours")
    if name in _VOID:
        return Html(f"<{head}>")
    return Html(f"<{head}>{join(*children)}</{name}>")


def document(head: Html, body: Html) -> Html:
    return Html(f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n')


def _parts(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if isinstance(child, Html):
            yield child
        elif isinstance(child, str):
            yield text(child)
        elif isinstance(child, int):
            yield str(int(child))
        elif child is not None:
            yield from _parts(child)


def _attribute(key: str, value: Value) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if not _NAME.fullmatch(name) or name == "style" or name.startswith("on"):
        raise ValueError(f"{name!r} is no attribute of ours")
    if value is True:
        return f" {name}"
    if name in _LINKS and not _OWN.fullmatch(str(value)):
        raise ValueError(f"a link may only lead to this origin, not to {value!r}")
    return f' {name}="{escape(str(value).translate(_UNSEEN))}"'
