"""Reasoning beside an answer: the names that hosts give the field, and the splitter of inline <think> text.

Both directions use it: requests carry earlier reasoning back, answers bring new reasoning. Nothing here decides policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

FIELDS = ("reasoning_content", "reasoning", "reasoning_details")
OPEN = "<think>"
CLOSE = "</think>"


def field_of(message: Mapping[str, Any]) -> str | None:
    """The name under which a message or a delta carries reasoning text (which may be ""), or None when it carries none."""
    for name in FIELDS:
        if name in message and text_under(message, name) is not None:
            return name
    return None


def text_of(message: Mapping[str, Any]) -> str | None:
    """The reasoning text of a message or a delta, under whichever name; None when it has none (null counts as none)."""
    for name in FIELDS:
        if name in message:
            text = text_under(message, name)
            if text is not None:
                return text
    return None


def text_under(message: Mapping[str, Any], name: str) -> str | None:
    """The reasoning text that stands under one name; of `reasoning_details`, the joined texts and summaries."""
    value = message.get(name)
    if isinstance(value, str):
        return value
    if name == "reasoning_details" and isinstance(value, list):
        return _details_text(value)
    return None


def _details_text(details: list[Any]) -> str | None:
    """None where no detail is readable: encrypted reasoning has no text to send under another name."""
    parts = [part for detail in details if isinstance(detail, dict) for part in (_detail_text(detail),) if part is not None]
    return "".join(parts) if parts else None


def _detail_text(detail: dict[str, Any]) -> str | None:
    return next((detail[key] for key in ("text", "summary") if isinstance(detail.get(key), str)), None)


class ThinkSplitter:
    """Splits streamed text at `<think>…</think>`: however the text is cut into pieces, the parts are the same.

    A block counts only at the start of the text (after blanks); later tags are the answer's own words. `assume_open`: the
    start tag may be missing, because the prompt ended with it (R1): everything up to `</think>` is reasoning.
    Line breaks next to the tags belong to neither part.
    """

    def __init__(self, assume_open: bool = False) -> None:
        self._assume_open = assume_open
        self._state: Literal["start", "thinking", "after", "answer"] = "start"
        self._held = ""
        self._fresh = False

    def feed(self, text: str) -> tuple[str, str]:
        """(reasoning, content) that are certain now; the beginning of what may be a tag is held back."""
        if self._state == "answer":
            return "", text
        self._held += text
        reasoning = ""
        if self._state == "start":
            self._start()
        if self._state == "thinking":
            reasoning = self._thinking()
        return reasoning, self._answer()

    def close(self) -> tuple[str, str]:
        """(reasoning, content) held back until now: the text has ended."""
        held, self._held = self._held, ""
        thinking = self._state == "thinking" or (self._state == "start" and self._assume_open)
        self._state = "answer"
        return (held, "") if thinking else ("", held)

    def _start(self) -> None:
        text = self._held.lstrip()
        if text.startswith(OPEN):
            self._open(text[len(OPEN) :])
        elif text and not OPEN.startswith(text):
            if self._assume_open:
                self._open(self._held)
            else:
                self._state = "answer"

    def _open(self, rest: str) -> None:
        self._state, self._held, self._fresh = "thinking", rest, True

    def _thinking(self) -> str:
        if self._fresh:
            self._held = self._held.lstrip("\r\n")
        inside, tag, rest = self._held.partition(CLOSE)
        if tag:
            self._state, self._held = "after", rest
            return inside.rstrip("\r\n")
        keep = _hold_back(inside)
        self._held = inside[len(inside) - keep :]
        ready = inside[: len(inside) - keep]
        self._fresh = self._fresh and not ready
        return ready

    def _answer(self) -> str:
        if self._state == "after":
            self._held = self._held.lstrip("\r\n")
            if self._held:
                self._state = "answer"
        if self._state != "answer":
            return ""
        content, self._held = self._held, ""
        return content


def _hold_back(text: str) -> int:
    """Length of the end of `text` that may not be passed on yet: line breaks and a part of the end tag."""
    tail = next((size for size in range(min(len(CLOSE) - 1, len(text)), 0, -1) if text.endswith(CLOSE[:size])), 0)
    return len(text) - len(text[: len(text) - tail].rstrip("\r\n"))


def split(text: str, assume_open: bool = False) -> tuple[str, str]:
    """(reasoning, content) of a whole text."""
    splitter = ThinkSplitter(assume_open)
    first, second = splitter.feed(text), splitter.close()
    return first[0] + second[0], first[1] + second[1]
