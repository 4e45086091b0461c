"""Types of a request's fields, as a strict deserialiser sees them: "Failed to deserialize the JSON body into the target type: …"."""

from __future__ import annotations

from typing import Any

_ROLES = ("system", "user", "assistant", "tool")
_BOOL, _NUMBER, _INTEGER, _TEXT, _LIST, _OBJECT = "a boolean", "f32", "u32", "a string", "a sequence", "a map"
_TYPES: dict[str, str] = {
    "model": _TEXT,
    "messages": _LIST,
    "stream": _BOOL,
    "stream_options": _OBJECT,
    "max_tokens": _INTEGER,
    "max_completion_tokens": _INTEGER,
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "presence_penalty": _NUMBER,
    "frequency_penalty": _NUMBER,
    "n": _INTEGER,
    "logprobs": _BOOL,
    "top_logprobs": _INTEGER,
    "tools": _LIST,
    "response_format": _OBJECT,
    "thinking": _OBJECT,
    "reasoning": _OBJECT,
    "reasoning_effort": _TEXT,
    "user": _TEXT,
    "user_id": _TEXT,
    "enable_thinking": _BOOL,
    "chat_template_kwargs": _OBJECT,
}
_PYTHON: dict[str, tuple[type, ...]] = {
    _BOOL: (bool,),
    _NUMBER: (int, float),
    _INTEGER: (int,),
    _TEXT: (str,),
    _LIST: (list,),
    _OBJECT: (dict,),
}
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "top_logprobs": (0, 20),
}


class Refusal(Exception):
    """A request that the host refuses: HTTP status, text, and what its envelope says besides."""

    def __init__(
        self, message: str, status: int = 400, *, kind: str = "", code: Any = None, param: str | None = None, **extra: Any
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.code = code
        self.param = param
        self.extra = extra


def broken(what: str, size: int) -> Refusal:
    return Refusal(f"Failed to deserialize the JSON body into the target type: {what} at line 1 column {size}")


def check_fields(body: Any, size: int) -> None:
    """Raises Refusal for a body that is no object, lacks a field, or has one of a wrong type or out of range."""
    if not isinstance(body, dict):
        raise broken(f"invalid type: {_kind(body)}, expected struct ChatCompletionRequest", size)
    for name in ("messages", "model"):
        if name not in body:
            raise broken(f"missing field `{name}`", size)
    for name, value in body.items():
        _check_type(name, value, size)
    for name, (low, high) in _RANGES.items():
        if body.get(name) is not None and not low <= body[name] <= high:
            raise Refusal(f"Invalid {name} value, the valid range of {name} is [{low}, {high}]", param=name)
    _check_values(body, size)


def _check_type(name: str, value: Any, size: int) -> None:
    expected = _TYPES.get(name)
    if expected is None or (value is None and name not in ("model", "messages")):
        return
    if not isinstance(value, _PYTHON[expected]) or (isinstance(value, bool) and expected != _BOOL):
        raise broken(f"{name}: invalid type: {_kind(value)}, expected {expected}", size)


def _check_values(body: dict[str, Any], size: int) -> None:
    if body.get("stream_options") is not None and not body.get("stream"):
        raise Refusal("stream_options should be set along with stream = true", param="stream_options")
    thinking = (body.get("thinking") or {"type": "enabled"}).get("type")
    if thinking not in ("enabled", "disabled"):
        raise broken(f"thinking: unknown variant `{thinking}`, expected `enabled` or `disabled`", size)
    stop = body.get("stop")
    if stop is not None and not isinstance(stop, str) and not (isinstance(stop, list) and all(isinstance(text, str) for text in stop)):
        raise broken("stop: data did not match any variant of untagged enum Stop", size)
    if isinstance(stop, list) and len(stop) > 16:
        raise Refusal("Invalid stop: at most 16 strings", param="stop")
    if len(body.get("tools") or ()) > 128:
        raise Refusal("Invalid tools: at most 128 functions", param="tools")


def check_messages(messages: list[Any], size: int, *, images: bool) -> None:
    """Raises Refusal for messages that the API cannot read."""
    if not messages:
        raise Refusal("Empty input messages", param="messages")
    for index, message in enumerate(messages):
        _check_message(index, message, size, images)


def _check_message(index: int, message: Any, size: int, images: bool) -> None:
    if not isinstance(message, dict):
        raise broken(f"messages[{index}]: invalid type: {_kind(message)}, expected a message", size)
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise broken(f"messages[{index}].role: unknown variant `{role}`, expected one of `system`, `user`, `assistant`, `tool`", size)
    if content is None:
        _check_missing(index, message, size)
    elif isinstance(content, list):
        _check_parts(index, content, size, images)
    elif not isinstance(content, str):
        raise broken(f"messages[{index}]: invalid type: {_kind(content)}, expected a string or a sequence", size)
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        raise broken(f"messages[{index}]: missing field `tool_call_id`", size)
    _check_type_of("reasoning_content", index, message, size)


def _check_type_of(name: str, index: int, message: dict[str, Any], size: int) -> None:
    if not isinstance(message.get(name), str | None):
        raise broken(f"messages[{index}].{name}: invalid type: {_kind(message[name])}, expected a string", size)


def _check_missing(index: int, message: dict[str, Any], size: int) -> None:
    if message["role"] != "assistant":
        raise broken(f"messages[{index}]: missing field `content`", size)
    if not message.get("tool_calls"):
        raise Refusal("Invalid assistant message: content or tool_calls must be set", param="messages")


def _check_parts(index: int, parts: list[Any], size: int, images: bool) -> None:
    known = ("text", "image_url") if images else ("text",)
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in known:
            raise broken(f"messages[{index}]: unknown variant `{kind}`, expected `text`", size)
        if kind == "text" and not isinstance(part.get("text"), str):
            raise broken(f"messages[{index}]: missing field `text`", size)


def _kind(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "floating point", str: "string", list: "sequence", dict: "map", type(None): "null"}
    name = names.get(type(value), "value")
    return name if isinstance(value, list | dict | None) else f"{name} `{value}`"
