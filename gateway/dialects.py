"""Dialects: how hosts write chunks, finish reasons and errors. Told apart by their shape, so a host that changes it is still read.

What lives here: reading. What does not: what becomes of it (shape, meter, assemble).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from gateway.hosts import Deployment
from gateway.reasoning import ThinkSplitter

Text = str | None | UnsetType
_NONE = Raw()


class Delta(Struct, gc=False):
    """What one chunk adds to one choice; UNSET where the host left the key out."""

    content: Text = UNSET
    reasoning_content: Text = UNSET
    reasoning: Text = UNSET
    reasoning_details: Raw = Raw()
    tool_calls: Raw = Raw()
    function_call: Raw = Raw()


class Choice(Struct, gc=False):
    index: int = 0
    delta: Delta | None = None
    finish_reason: str | None = None


class Chunk(Struct, gc=False):
    """The parts of a chunk on which decisions rest; all else is left in its bytes. An empty Raw: absent."""

    choices: list[Choice] | None = None
    usage: Raw = Raw()
    timings: Raw = Raw()
    error: Raw = Raw()


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct, gc=False):
    function: _Function | None = None


class _Detail(Struct, gc=False):
    text: str | None = None
    summary: str | None = None


_chunks = msgspec.json.Decoder(Chunk)
_calls = msgspec.json.Decoder(list[_ToolCall] | None)
_function = msgspec.json.Decoder(_Function | None)
_details = msgspec.json.Decoder(list[_Detail] | None)
_reader = msgspec.json.Decoder(float_hook=Decimal)
_writer = msgspec.json.Encoder(decimal_format="number")

decode_chunk = _chunks.decode
"""One chunk from strict JSON; raises msgspec.DecodeError (or RecursionError) for anything else: then try read_chunk."""

# Digits of a number; no figure of a chat completion has a tenth of them.
LONGEST_NUMBER = 1000
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL)


def read_chunk(data: bytes) -> Chunk:
    """One chunk, read leniently (see read_json); raises ValueError when it is not one."""
    try:
        return decode_chunk(_strict(data))
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def read_json(data: bytes | Raw) -> Any:
    """Any JSON, with exact decimals; NaN and endless numbers read as null, half a surrogate pair as U+FFFD. Raises ValueError."""
    try:
        return _reader.decode(data)
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        return _reader.decode(_lenient(bytes(data)))
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def write_json(value: Any) -> bytes:
    """Compact JSON; decimals are written digit for digit."""
    return _writer.encode(value)


def tool_text(tools: Raw, function: Raw = _NONE) -> str:
    """What a model wrote of calls: names and arguments, of tools and in the form that came before them."""
    if not (tools or function):
        return ""
    try:
        calls = [call.function for call in _calls.decode(tools) or []] if tools else []
        calls += [_function.decode(function)] if function else []
    except msgspec.DecodeError:
        return ""
    return "".join((call.name or "") + (call.arguments or "") for call in calls if call)


def call_text(delta: Delta | None) -> str:
    """All that one chunk adds to calls."""
    return "" if delta is None else tool_text(delta.tool_calls, delta.function_call)


def detail_text(raw: Raw) -> str:
    """The readable text of `reasoning_details`."""
    if not raw:
        return ""
    try:
        details = _details.decode(raw) or []
    except msgspec.DecodeError:
        return ""
    return "".join(detail.text or detail.summary or "" for detail in details)


def dig(body: Any, path: Iterable[str]) -> Any:
    """The value under these keys, each inside the one before; None where there is none."""
    for name in path:
        if not isinstance(body, dict):
            return None
        body = body.get(name)
    return body


def _strict(data: bytes) -> bytes:
    """The same JSON as a strict parser takes it; read whole, because a typed decoder does not look into what it skips."""
    try:
        _reader.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return _lenient(data)
    return data


def _whole(digits: str) -> int | None:
    """A whole number; null where no parser takes it for its length."""
    return int(digits) if len(digits) <= LONGEST_NUMBER else None


def _lenient(data: bytes) -> bytes:
    """JSON that a strict parser refuses, written as it takes it; unchanged where it is no JSON at all."""
    paired = _ESCAPE.sub(lambda found: b"\\ufffd" if found[1] else found[0], data)
    try:
        return _writer.encode(json.loads(paired, parse_float=Decimal, parse_int=_whole, parse_constant=lambda _: None))
    except (ValueError, RecursionError):
        return data


def inline_splitter(deployment: Deployment) -> ThinkSplitter | None:
    """A splitter for hosts that write `<think>` into the content. A version that always thinks may leave the start tag out."""
    if not deployment.inline:
        return None
    thinking = deployment.contract.thinking
    return ThinkSplitter(assume_open=thinking.switch == "none" and thinking.default == "on" and deployment.thinking != "off")


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; nothing where there is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


# ---- finish reasons

FINISHES = {
    "stop": "stop",
    "eos": "stop",
    "length": "length",
    # vLLM cut a loop short: an answer, but not a whole one.
    "repetition": "length",
    "tool_calls": "tool_calls",
    "function_call": "function_call",
    "content_filter": "content_filter",
}
"""Finish reasons of whole answers, and the word that the client sees. All others are failures."""


def good_finish(reason: Any) -> str | None:
    """The client's word for a host's finish reason; None when there is none, or when it means that the host failed."""
    return FINISHES.get(reason) if isinstance(reason, str) else None


def gave_up(choices: list[Choice]) -> bool:
    """Whether one of them ended in a way that is no end."""
    return any(choice.finish_reason and good_finish(choice.finish_reason) is None for choice in choices)


# ---- errors


@dataclass(frozen=True, slots=True)
class HostError:
    """What a host says went wrong. `status` is the HTTP status that it means, where it names one; `message` holds no key."""

    status: int | None
    code: str | None
    message: str


_KEYS = re.compile(
    r"""(?ix) \b bearer \s+ \S+
    | \b api[ _-]? key \W* [^\s,;"'}]* [*0-9] [^\s,;"'}]*
    | \b (?: sk | pk | rk | nvapi | fw | gsk ) [-_] [\w-]{6,}
    | \b eyJ [\w.-]{10,}
    | [\w.-]{40,}"""
)
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]+")
_REMOVED = "[removed]"
# A shorter one is no host's key, but a word that an engine of one's own was given for want of a key: none, EMPTY, token.
SHORTEST_SECRET = 8
MESSAGE_LIMIT = 500
# Our own code for an error that is a web page: of a proxy or a firewall, not of the host's API.
PAGE = "web_page"


def read_error(status: int, body: bytes, secrets: Sequence[str] = ()) -> HostError:
    """The error of an HTTP answer with an error status, in any dialect; a body that is none gives a general text."""
    try:
        found = error_of(read_json(body), secrets)
    except ValueError:
        found = None
    if found is None and body.lstrip()[:1] == b"<":
        return HostError(status, PAGE, f"The host answered {status} with a web page.")
    if found is None:
        return HostError(status, None, f"The host answered {status} without an explanation.")
    return HostError(status, found.code, found.message)


def error_of(body: Any, secrets: Sequence[str] = ()) -> HostError | None:
    """The error that a JSON object states, or None; no text of it repeats `secrets`, the credentials that were sent to this host."""
    found = _stated(body)
    if found is None:
        return None
    code = None if found.code is None else clean(found.code, secrets)
    return HostError(found.status, code, clean(found.message, secrets) or "The host reported an error.")


def clean(text: str, secrets: Sequence[str] = ()) -> str:
    """A host's text fit for a client or a log: on one line, at most 500 characters, without `secrets` or what looks like a key.

    Secrets go first, out of the whole text: what a limit or a pattern had cut would not be known again.
    """
    for secret in secrets:
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, _REMOVED)
    return _KEYS.sub(_REMOVED, _CONTROLS.sub(" ", text[: 4 * MESSAGE_LIMIT]))[:MESSAGE_LIMIT].strip()


def _stated(body: Any) -> HostError | None:
    """As the host wrote it, in the shape of OpenAI, GMI, Novita, SiliconFlow, Nebius, Google or TGI."""
    if isinstance(body, list) and body:
        # Google puts it into a list of one.
        body = body[0]
    if not isinstance(body, dict):
        return None
    error = body.get("error")
    if isinstance(error, dict):
        return _error_object(error)
    if isinstance(error, str) and error:
        return _error(body, error, body.get("error_type"))
    if error:
        return _error(body, json.dumps(error, default=str), None)
    if body.get("choices"):
        return _choice_error(body["choices"])
    if body.get("detail"):
        return _error(body, _detail_message(body["detail"]), None)
    if body.get("object") == "error" or (isinstance(body.get("message"), str) and {"code", "reason", "type"} & body.keys()):
        return _error(body, body.get("message"), body.get("reason") or body.get("type"))
    return None


def _error_object(error: dict[str, Any]) -> HostError:
    inner = _inner_error(error.get("details"))
    if inner is not None:
        return inner
    kind = error.get("type") or dig(error, ("metadata", "error_type"))
    return _error(error, error.get("message"), kind)


def _inner_error(details: Any) -> HostError | None:
    """GMI: the engine's own error, as a JSON string."""
    if not isinstance(details, str):
        return None
    try:
        return _stated(read_json(details.encode("utf-8", "replace")))
    except ValueError:
        return None


def _choice_error(choices: Any) -> HostError | None:
    first = choices[0] if isinstance(choices, list) else None
    if isinstance(first, dict) and isinstance(first.get("error"), dict):
        return _error_object(first["error"])
    return None


def _error(holder: dict[str, Any], message: Any, kind: Any) -> HostError:
    code = holder.get("code")
    status = next((value for value in (code, holder.get("status"), holder.get("status_code")) if _is_status(value)), None)
    name = code if isinstance(code, str) and not code.isdigit() else kind
    text = message if isinstance(message, str) else ""
    return HostError(int(status) if status is not None else None, name if isinstance(name, str) else None, text)


def _is_status(value: Any) -> bool:
    return re.fullmatch("[45][0-9][0-9]", str(value)) is not None


def _detail_message(detail: Any) -> str:
    if isinstance(detail, list):
        return "; ".join(str(item.get("msg", "")) if isinstance(item, dict) else str(item) for item in detail)
    return str(detail)
