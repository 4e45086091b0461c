"""Shapes of what is nested in a request: after these checks no later code meets a type that it does not expect.

They are true for every contract. A check gives None where the value is right, else where inside it the fault is, and what belongs
there. null is the same as absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gateway.errors import InvalidRequest

ROLES = frozenset(("system", "developer", "user", "assistant", "tool", "function", "latest_reminder"))

Fault = tuple[str, str] | None
Check = Callable[[Any], Fault]


def check_fields(body: Mapping[str, Any]) -> None:
    """Raises InvalidRequest that names the field of the body with another shape than it must have."""
    for name, value in body.items():
        _check(_FIELDS, name, value, "")


def check_messages(messages: Any) -> None:
    """Raises InvalidRequest that names the part of the messages with another shape than it must have."""
    if type(messages) is not list or not messages:
        raise InvalidRequest("messages must be a list of at least one message.", param="messages")
    for index, message in enumerate(messages):
        if type(message) is not dict:
            raise InvalidRequest("A message must be an object.", param=f"messages[{index}]")
        role = message.get("role")
        if type(role) is not str or role not in ROLES:
            known = ", ".join(sorted(ROLES))
            raise InvalidRequest(f"A message's role must be one of {known}.", param=f"messages[{index}].role")
        if len(message) == 2 and type(message.get("content")) is str:
            # What most messages are.
            continue
        where = f"messages[{index}]."
        for name, value in message.items():
            _check(_MESSAGE, name, value, where)


def _check(checks: Mapping[str, Check], name: str, value: Any, prefix: str) -> None:
    check = checks.get(name)
    if value is None or check is None:
        return
    fault = check(value)
    if fault is not None:
        where, wanted = fault
        path = f"{prefix}{name}{where}"
        raise InvalidRequest(f"{path} must be {wanted}.", param=path)


# kinds


def _text(value: Any) -> Fault:
    return None if type(value) is str else ("", "text or null")


def _switch(value: Any) -> Fault:
    return None if type(value) is bool else ("", "true or false")


def _object(value: Any) -> Fault:
    return None if type(value) is dict else ("", "an object")


def _text_or_object(value: Any) -> Fault:
    return None if type(value) is str or type(value) is dict else ("", "text or an object")


def _texts(value: Any) -> Fault:
    if type(value) is str:
        return None
    if type(value) is not list:
        return "", "text or a list of texts"
    return next(((f"[{at}]", "text") for at, text in enumerate(value) if type(text) is not str), None)


def _objects(value: Any) -> Fault:
    if type(value) is not list:
        return "", "a list of objects, or null"
    return next(((f"[{at}]", "an object") for at, item in enumerate(value) if type(item) is not dict), None)


# compounds


def _function(function: Any, texts: tuple[str, ...]) -> Fault:
    """A function of a tool or of a call; null is none."""
    if function is None:
        return None
    if type(function) is not dict:
        return "", "an object"
    return next(((f".{name}", "text") for name in texts if function.get(name) is not None and type(function[name]) is not str), None)


def _called(function: Any) -> Fault:
    return _function(function, ("name", "arguments"))


def _functions(value: Any, texts: tuple[str, ...]) -> Fault:
    fault = _objects(value)
    if fault is not None:
        return fault
    for at, item in enumerate(value):
        inner = _function(item.get("function"), texts)
        if inner is not None:
            return f"[{at}].function{inner[0]}", inner[1]
    return None


def _calls(value: Any) -> Fault:
    return _functions(value, ("name", "arguments"))


def _tools(value: Any) -> Fault:
    return _functions(value, ("name",))


def _content(content: Any) -> Fault:
    """Text, or a list of parts, each an object with a `type`; text parts have text."""
    if type(content) is str:
        return None
    if type(content) is not list:
        return "", "text, null or a list of parts"
    for at, part in enumerate(content):
        kind = part.get("type") if type(part) is dict else None
        if type(kind) is not str or (kind == "text" and type(part.get("text")) is not str):
            return f"[{at}]", "an object with a type; a text part has text"
    return None


_FIELDS: Mapping[str, Check] = {
    "stop": _texts,
    "tools": _tools,
    "tool_choice": _text_or_object,
    "functions": _objects,
    "function_call": _text_or_object,
    "response_format": _object,
    "logit_bias": _object,
    "thinking": _object,
    "reasoning": _object,
    "chat_template_kwargs": _object,
    "reasoning_effort": _text,
}
_MESSAGE: Mapping[str, Check] = {
    "content": _content,
    "name": _text,
    "tool_call_id": _text,
    "tool_calls": _calls,
    "function_call": _called,
    "reasoning_content": _text,
    "reasoning": _text,
    "reasoning_details": _objects,
    "prefix": _switch,
}
