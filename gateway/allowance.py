"""Allowances: how much text still fits under a limit of tokens, and how much output a hold pays for. Pure.

Exact, yet text is only tokenised when a limit may be near: a token has at least one byte, so bytes are the first bound.
"""

from __future__ import annotations

from typing import Final, Literal

from gateway.dialects import inline_splitter
from gateway.hosts import Deployment
from gateway.limits import StopRule
from gateway.meter import Meter
from gateway.rewrite import Part
from gateway.tokens import TextCounter

Tokenizer = Literal["deepseek", "none"]
# Text that is still to come can change how the last characters split, by a few tokens at most.
SLACK: Final = 4
# Characters of a long word.
WORD: Final = 32
# Bytes of a usual token.
BYTES: Final = 3
# More tokens than any answer has.
ENDLESS: Final = 1 << 60


class Allowance:
    """How much text still fits under a limit of tokens."""

    def __init__(self, tokens: int, tokenizer: Tokenizer) -> None:
        self._limit = tokens
        self._tokenizer: Tokenizer = tokenizer
        self._counter = TextCounter(tokenizer)
        self._counted = 0
        self._chunks = 0
        self._waiting: list[str] = []
        self._bytes = 0
        self.spent = tokens <= 0

    def fits(self, text: str) -> bool:
        """Whether all of `text` certainly fits; then it is taken."""
        size = _size(text)
        if self._chunks + 1 >= self._limit or self._counted + self._bytes + size + SLACK >= self._limit:
            return False
        self._chunks += 1
        self._bytes += size
        self._waiting.append(text)
        return True

    def take(self, text: str) -> str:
        """The part of `text` (not empty) that fits; sets `spent` once nothing more does."""
        if self.spent:
            return ""
        return text if self.fits(text) else self._take_exactly(text)

    def _take_exactly(self, text: str) -> str:
        self._counter.feed("".join((*self._waiting, text)))
        self._waiting.clear()
        self._bytes = 0
        self._chunks += 1
        self._counted = self._counter.count
        self.spent = max(self._counted, self._chunks) >= self._limit
        return text if self._counted <= self._limit else shorter(text, self._counted - self._limit, self._tokenizer)


class Side:
    """One choice of the answer on its way: its splitter, its limit, its finish."""

    def __init__(self, deployment: Deployment, stop: StopRule | None) -> None:
        self.splitter = inline_splitter(deployment)
        self.finish: str | None = None
        # Whether the host itself has ended it, whatever a limit of ours did before.
        self.ended = False
        self._stop = stop
        self._allowance = Allowance(stop.tokens, deployment.contract.tokenizer) if stop else None

    def fits(self, reasoning: str, content: str) -> bool:
        """Whether a piece of one text certainly fits under the limit; then it is taken."""
        if self._allowance is None or self._stop is None:
            return True
        text = content or (reasoning if self._stop.counts == "total" else "")
        return not text or self._allowance.fits(text)

    def limit(self, part: Part, calls: str) -> None:
        """Cut `part` (in place) where the limit is reached; `calls` is the text of its tool calls."""
        allowance = self._allowance
        if allowance is None or self._stop is None:
            return
        whole = (part.reasoning, part.content, calls)
        if self._stop.counts == "total" and part.reasoning:
            part.reasoning = allowance.take(part.reasoning)
        if part.content:
            part.content = allowance.take(part.content)
        if calls:
            part.tools = allowance.take(calls) == calls
        if allowance.spent and (not part.finish or whole != (part.reasoning, part.content, calls if part.tools else "")):
            part.finish, part.stopped = "length", True


class Purse:
    """How much output a hold pays for: every choice, thinking and tool calls together, counted as the meter counts a charge.

    At `mark` tokens more is to be asked for. Once `final`, nothing more is to be had, and `limit` is the end. `ready`: the
    vocabulary is loaded, so that an exact look does not hold up the loop.
    """

    def __init__(self, meter: Meter, tokenizer: Tokenizer) -> None:
        self._meter = meter
        self.tokenizer: Tokenizer = tokenizer
        self.limit = self.mark = 0
        self.final = False
        self.ready = tokenizer == "none"
        self.used = 0
        """Tokens at the last exact look."""
        # Bytes since then. The estimate of an unknown vocabulary can have a third more tokens than bytes (emoji).
        self._since = 0
        self._weight = 3 if self.ready else 2

    def fits(self, text: str) -> bool:
        """Whether after `text` the limit is certainly not reached, nor probably the mark; then it is taken. Its adding to the meter
        is the caller's."""
        since = self._since + _size(text)
        if self._near(since):
            return False
        self._since = since
        return True

    def add(self, text: str) -> None:
        """Take text that the host has written, whether it fits or not."""
        self._since += _size(text)

    @property
    def low(self) -> bool:
        """Whether more must be asked for before anything else is passed on; looks exactly where bytes do not tell."""
        if not self._near(self._since):
            return False
        if not self.ready:
            return True
        self.look()
        return self.used >= self.mark

    def look(self) -> int:
        """Tokens used by now, exactly; call it only when `ready`."""
        self.used, self._since = self._meter.output, 0
        return self.used

    def _near(self, since: int) -> bool:
        """Whether the limit may be reached, or the mark is by a rough count: asking a little later costs nothing, a look a lot."""
        most = self.used + since * self._weight // 2 + SLACK
        if not self.ready or self.mark >= self.limit:
            return most >= self.mark
        return most >= self.limit or self.used + since // BYTES >= self.mark


def shorter(text: str, excess: int, tokenizer: Tokenizer) -> str:
    """The longest beginning of `text` that has at least `excess` tokens less than the whole."""
    room = tokens_of(text, tokenizer) - excess
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if tokens_of(text[:middle], tokenizer) <= room else (low, middle - 1)
    # Inside a word the count rises and falls again: a longer beginning may have fewer tokens. Most are ruled out by their last words.
    start = max(0, low - WORD)
    rest = room - tokens_of(text[:start], tokenizer) + SLACK
    ends = (end for end in range(min(len(text), low + WORD), low, -1) if tokens_of(text[start:end], tokenizer) <= rest)
    return text[: next((end for end in ends if tokens_of(text[:end], tokenizer) <= room), low)]


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def tokens_of(text: str, tokenizer: Tokenizer) -> int:
    """Tokens of a text by itself."""
    counter = TextCounter(tokenizer)
    counter.feed(text)
    return counter.count
