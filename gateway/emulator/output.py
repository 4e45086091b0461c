"""What the emulated model says: lengths from a marker in the prompt, text from `words`, cut where the limits cut.

The marker stands in the last user message, or in the header `x-emulate` as JSON:
`[[answer=20 reasoning=40 pace=5 chunk=1 tool=get_weather tools=2 seed=3 finish=content_filter]]` (pace: ms a token).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from math import log
from random import Random
from typing import Any, Final
from zlib import crc32

from gateway.emulator.contracts import Limits, Order
from gateway.emulator.tokens import Tokens
from gateway.emulator.words import text_pieces

# Of all salts the first that answers the two questions of DeepSeek's guide with sentences that fit them.
SALT = 202
# How heavy the tail of drawn lengths is: the longest of 100 answers is nearly five times the mean, half of them stay below 0.73 of it.
SPREAD: Final = 0.8
_MARKER = re.compile(r"\[\[([a-z_]+=[^\[\]]*)\]\]")
_SEPARATORS = "\u2028data: [DONE]\n\n\u0085data: {\u2029}\n\n"


@dataclass(frozen=True)
class Wish:
    """What the caller of the emulator asked to be played."""

    answer: int = 16
    reasoning: int = 24
    pace: float = 0.0
    chunk: int = 1
    tool: str = ""
    tools: int = 1
    seed: int | None = None
    finish: str = ""
    text: str = ""
    mean: int = 0
    tag: str = ""


USUAL: Final = Wish()


@dataclass(frozen=True)
class Call:
    """One tool call: the pieces of its arguments; `name_tokens` are produced before them."""

    id: str
    name: str
    name_tokens: int
    arguments: list[str]

    @property
    def tokens(self) -> int:
        return self.name_tokens + len(self.arguments)


@dataclass(frozen=True)
class Output:
    """One choice, token by token (a piece is one token)."""

    reasoning: list[str]
    answer: list[str]
    calls: tuple[Call, ...]
    finish: str

    @property
    def tokens(self) -> int:
        return len(self.reasoning) + len(self.answer) + sum(call.tokens for call in self.calls)


def wish_of(messages: list[dict[str, Any]], header: str | None, usual: Wish = USUAL) -> Wish:
    """The wish in the header or in the last user message, over what is usual; unknown names and bad numbers raise ValueError."""
    stated = json.loads(header) if header else _marked(messages)
    known = {name: _typed(name, value) for name, value in stated.items()}
    if known.keys() & {"answer", "reasoning", "text"}:
        usual = replace(usual, mean=0)
    return replace(usual, **known)


def _marked(messages: list[dict[str, Any]]) -> dict[str, str]:
    text = next((_text(message.get("content")) for message in reversed(messages) if message.get("role") == "user"), "")
    found = _MARKER.findall(text[-2000:])
    return dict(pair.split("=", 1) for pair in found[-1].split()) if found else {}


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content or ())


def _typed(name: str, value: Any) -> Any:
    kinds: dict[str, type] = {"pace": float, "tool": str, "finish": str, "text": str, "tag": str}
    if name not in Wish.__dataclass_fields__:
        raise ValueError(f"unknown wish {name!r}; known: {', '.join(Wish.__dataclass_fields__)}")
    return kinds.get(name, int)(value)


def compose(order: Order, wish: Wish, limits: Limits, tokens: Tokens, choice: int = 0, *, separators: bool = False) -> Output:
    """One choice within its limits: thinking eats a total; an answer limit leaves thinking its own."""
    seed = _seed(order, wish) + choice
    wish = lengths(wish, seed)
    reasoning = text_pieces(seed + 1, min(wish.reasoning, limits.reasoning)) if order.thinking else []
    calls = _calls(order, wish, tokens)
    answer = [] if calls else _answer(order, wish, seed, tokens)
    if separators:
        answer += [_SEPARATORS] + [""] * (tokens.count(_SEPARATORS) - 1)
    return _cut(Output(reasoning, answer, calls, wish.finish or ("tool_calls" if calls else "stop")), order, wish, limits)


def lengths(wish: Wish, seed: int) -> Wish:
    """The wish with its lengths drawn where it names their mean: log-normal, four fifths of it thinking; a seed draws one length."""
    if not wish.mean:
        return wish
    total = round(Random(seed).lognormvariate(log(wish.mean) - SPREAD**2 / 2, SPREAD))
    return replace(wish, reasoning=total * 4 // 5, answer=max(1, total - total * 4 // 5))


def _seed(order: Order, wish: Wish) -> int:
    return crc32(_text(order.messages[-1].get("content")).encode(), SALT) if wish.seed is None else wish.seed


def _answer(order: Order, wish: Wish, seed: int, tokens: Tokens) -> list[str]:
    if wish.text:
        return tokens.pieces(wish.text)
    words = text_pieces(seed, wish.answer)
    return ['{"', "answer", '":', ' "', *words, '"}'] if order.json_mode else words


def _calls(order: Order, wish: Wish, tokens: Tokens) -> tuple[Call, ...]:
    """Calls where they were wished for; the turn that brings their results is answered in words."""
    names = [str((tool.get("function") or {}).get("name")) for tool in order.tools or ()]
    if not wish.tool or not names or order.messages[-1].get("role") == "tool":
        return ()
    name = wish.tool if wish.tool in names else names[0]
    arguments = tokens.pieces(json.dumps({"city": "Paris", "number": 7}))
    stamp = crc32(json.dumps(order.messages, sort_keys=True).encode())
    return tuple(Call(f"call_{stamp:08x}_{index}", name, tokens.count(name), arguments) for index in range(wish.tools))


def _cut(output: Output, order: Order, wish: Wish, limits: Limits) -> Output:
    too_much_thought = order.thinking and wish.reasoning > limits.reasoning
    room = 0 if too_much_thought else min(limits.answer, limits.total - len(output.reasoning))
    answer, stopped = _stopped(output.answer, order.stop)
    if output.calls and sum(call.tokens for call in output.calls) > room:
        return replace(output, calls=_cut_calls(output.calls, room), finish="length")
    if len(answer) > room or too_much_thought:
        return replace(output, answer=answer[:room], finish="length")
    return replace(output, answer=answer, finish="stop" if stopped else output.finish)


def _cut_calls(calls: tuple[Call, ...], room: int) -> tuple[Call, ...]:
    kept: list[Call] = []
    for call in calls:
        if room < call.name_tokens:
            break
        kept.append(replace(call, arguments=call.arguments[: room - call.name_tokens]))
        room -= kept[-1].tokens
    return tuple(kept)


def _stopped(pieces: list[str], stops: tuple[str, ...]) -> tuple[list[str], bool]:
    """The answer up to the first stop string, which is produced and billed but not shown."""
    text = "".join(pieces) if stops else ""
    found = [text.find(stop) for stop in stops if stop and stop in text]
    if not found:
        return pieces, False
    end, shown, length = min(found), list[str](), 0
    for piece in pieces:
        if length >= end:
            break
        shown.append(piece[: end - length])
        length += len(piece)
    return shown, True
