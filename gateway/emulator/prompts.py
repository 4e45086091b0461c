"""What a prompt costs: messages laid out as DeepSeek's template does, as packed token ids.

Template: BOS, system text without a role token, then <User> text, <Assistant> <think> or </think>; every earlier assistant
message ends with EOS. So a first turn costs 4 tokens over its text, and each further round 4 more. Tools stand in front.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from gateway.emulator.tokens import Tokens, pack

_SPECIAL = 0x8000_0000
BOS, EOS, USER, ASSISTANT, THINK, END_THINK, TOOL, CALL = (pack([_SPECIAL + number]) for number in range(8))
_TOOLS_PREAMBLE = pack(_SPECIAL + 100 + number for number in range(220))
IMAGE = pack([_SPECIAL + 8] * 384)


def render(
    tokens: Tokens, messages: list[dict[str, Any]], tools: list[Any] | None, thinking: bool, reasoning_of: Callable[[int], str | None]
) -> bytes:
    """The ids of the whole prompt. `reasoning_of(index)`: what the model sees of that message's reasoning."""
    parts = [BOS]
    if tools:
        parts += [_TOOLS_PREAMBLE, tokens.ids(json.dumps(tools, ensure_ascii=False))]
    for index, message in enumerate(messages):
        parts += _message(tokens, message, reasoning_of(index) or "")
    if messages and messages[-1].get("prefix"):
        parts.pop()
    else:
        parts += [ASSISTANT, THINK if thinking else END_THINK]
    return b"".join(parts)


def _message(tokens: Tokens, message: dict[str, Any], reasoning: str) -> list[bytes]:
    role, text = message.get("role"), _content(tokens, message.get("content"))
    if role == "assistant":
        head = [ASSISTANT, THINK, tokens.ids(reasoning), END_THINK] if reasoning else [ASSISTANT, END_THINK]
        return [*head, text, *(_call(tokens, call) for call in message.get("tool_calls") or ()), EOS]
    if role == "tool":
        return [TOOL, text]
    return [USER, text] if role == "user" else [text]


def _call(tokens: Tokens, call: Any) -> bytes:
    function = call.get("function") or {}
    return CALL + tokens.ids(str(function.get("name", ""))) + tokens.ids(str(function.get("arguments", "")))


def _content(tokens: Tokens, content: Any) -> bytes:
    if isinstance(content, str):
        return tokens.ids(content)
    return b"".join(tokens.ids(str(part["text"])) if part.get("type") == "text" else IMAGE for part in content or ())
