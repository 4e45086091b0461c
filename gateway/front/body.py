"""The body: bytes become one checked ChatRequest, once. What another parser could read differently is refused by name.

What is checked here is true for every contract: JSON itself, names of fields, types of counts and messages. What a model
version allows is not (sanitise).
"""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from gateway.errors import BodyTooLarge, EncodingUnsupported, InvalidRequest
from gateway.front import session as sessions
from gateway.front.guard import Headers
from gateway.front.shapes import check_fields, check_messages
from gateway.front.wire import Receive
from gateway.outcome import Idempotency
from gateway.request import ChatRequest

DEPTH = 64
FIELDS = 100
NAME = 64
MODEL = 200
IDEMPOTENCY_KEY = 255
BIGGEST = 2**53
# Values in one body: more than the tokens of any context. Without a bound 16 MB of `[],` would stop the loop for seconds.
VALUES = 500_000
# Bytes from which a body is parsed in a thread.
LARGE = 256 * 1024

# Fields by which a caller would choose a host, its key, its bill or a second model. Policies decide those.
STEERING = frozenset(
    """
    models model_list fallbacks context_window_fallbacks provider providers route routing plugins preset transforms region
    api_base base_url api_key api_type api_version api_host host hosts url endpoint endpoints azure_endpoint deployment_id
    proxy proxies headers extra_headers extra_query extra_body custom_llm_provider litellm_params litellm_metadata mock_response
    callbacks webhook webhook_url num_retries max_retries organization user_id service_tier data_collection max_price
    web_search_options
    """.split()
)
# Counts and the least value of each.
INTEGERS = {
    "max_tokens": 1,
    "max_completion_tokens": 1,
    "max_output_tokens": 1,
    "min_tokens": 0,
    "thinking_budget": 0,
    "n": 1,
    "best_of": 1,
    "top_k": -1,
    "top_logprobs": 0,
    "seed": -BIGGEST,
}
# What multiplies an answer has an end too: a cost that no ledger can hold is no request.
MOST = {"n": 128, "best_of": 128}
NUMBERS = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "min_p")
BOOLEANS = ("stream", "logprobs", "enable_thinking", "include_reasoning", "parallel_tool_calls")
USUAL = frozenset(("model", "messages", "stream_options", *INTEGERS, *NUMBERS, *BOOLEANS))
CHECKED = USUAL | STEERING
TYPED = frozenset((*INTEGERS, *NUMBERS, *BOOLEANS))


class ClientLeft(Exception):
    """The client closed its connection before its request was whole."""


async def read(receive: Receive, headers: Headers, limit: int) -> bytes:
    """The whole body; raises BodyTooLarge as soon as it is known to pass `limit` bytes, ClientLeft when it ends early."""
    if int(headers.get(b"content-length", b"0")) > limit:
        raise _too_large(limit)
    pieces: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientLeft
        size += len(message["body"])
        if size > limit:
            raise _too_large(limit)
        pieces.append(message["body"])
        more = message["more_body"]
    # Of one piece: that piece itself.
    return b"".join(pieces)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {limit} bytes (FAREGATE_MAX_BODY).")


def check_headers(headers: Headers, query: bytes) -> None:
    """Refuse what would be ignored or decoded by surprise: a coding, a type that is not JSON, a query that steers."""
    coding = headers.get(b"content-encoding")
    if coding is not None and coding.lower() != b"identity":
        raise EncodingUnsupported("Requests with a content-encoding are not read: send plain JSON.")
    kind = headers.get(b"content-type", b"application/json")
    if kind != b"application/json":
        _check_type(kind)
    if query:
        _check_query(query)


def _check_type(kind: bytes) -> None:
    name, _, parameters = kind.lower().partition(b";")
    charset = parameters.replace(b" ", b"").replace(b'"', b"")
    if name.strip() != b"application/json" or (charset.startswith(b"charset=") and charset != b"charset=utf-8"):
        raise EncodingUnsupported("The content-type must be application/json in UTF-8.")


def _check_query(query: bytes) -> None:
    for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name.casefold() in CHECKED:
            raise InvalidRequest("Parameters belong in the body, not in the query string.", param=name[:NAME])


def idempotency_key(headers: Headers) -> bytes | None:
    """The Idempotency-Key as it was sent; raises InvalidRequest for one that is none."""
    key = headers.get(b"idempotency-key")
    if key is not None and not (0 < len(key) <= IDEMPOTENCY_KEY and key.isascii() and key.decode().isprintable()):
        text = f"Idempotency-Key must be 1 to {IDEMPOTENCY_KEY} printable ASCII characters: a UUID of its own for each request does."
        raise InvalidRequest(text, param="Idempotency-Key")
    return key


async def idempotency(key: bytes, team: str, data: bytes) -> Idempotency:
    """What makes this request the same as another one of its team; neither the key nor the body is kept."""
    body = await asyncio.to_thread(sha256, data) if len(data) > LARGE else sha256(data)
    return Idempotency(sha256(team.encode() + b"\0" + key).hexdigest(), body.hexdigest())


async def request(data: bytes, id: str, *, beta: bool = False, session: str = "", dry_run: bool = False) -> ChatRequest:
    """As `parse`; a large body leaves the loop free meanwhile."""
    if len(data) > LARGE:
        return await asyncio.to_thread(parse, data, id, beta=beta, session=session, dry_run=dry_run)
    return parse(data, id, beta=beta, session=session, dry_run=dry_run)


def parse(data: bytes, id: str, *, beta: bool = False, session: str = "", dry_run: bool = False) -> ChatRequest:
    """One chat request from strict JSON; raises InvalidRequest that names the field.

    `session` and `dry_run` are what its headers say; a field names the session where they do not.
    """
    body = decode(data)
    if not body.keys() <= USUAL:
        _check_names(body)
        check_fields(body)
        session = session or sessions.of_fields(body)
    _check_values(body)
    model = _model(body.get("model"))
    check_messages(body.get("messages"))
    stream = body.get("stream") is True
    include_usage = _include_usage(body.get("stream_options"), stream)
    return ChatRequest(id, model, body, stream, include_usage, beta, len(data), None, session, dry_run)


# JSON


def decode(data: bytes) -> dict[str, Any]:
    """A JSON object as every strict parser reads it: UTF-8, finite numbers, no key twice, at most DEPTH levels."""
    # Each value takes a byte, and a comma or a bracket before it.
    if len(data) > 2 * VALUES and _separators(data) > VALUES and _separators(_outside_texts(data)) > VALUES:
        raise InvalidRequest(f"The body has more than {VALUES} values.")
    try:
        body = msgspec.json.decode(data)
        if not _surely_unique(data, body):
            # The fast parser keeps the last of two equal keys; only this one tells of them.
            _UNIQUE.decode(data.decode())
    except _DuplicateKey as error:
        raise InvalidRequest("A key is there twice in one object.", param=str(error)[:NAME]) from None
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.MsgspecError, ValueError):
        # The parsers' own texts can quote the body.
        raise InvalidRequest("The body is not JSON (RFC 8259, UTF-8, finite numbers, one value).") from None
    if type(body) is not dict:
        raise InvalidRequest("The body must be a JSON object.")
    return body


def _separators(data: bytes) -> int:
    return _times(data, b",") + _times(data, b"[") + _times(data, b"{")


def _outside_texts(data: bytes) -> bytes:
    """JSON without its texts: every second piece between quotes that are not escaped."""
    return b"".join(data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])


class _DuplicateKey(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _DuplicateKey(name)
            seen.add(name)


_UNIQUE = json.JSONDecoder(object_pairs_hook=_unique)


def _surely_unique(data: bytes, body: Any) -> bool:
    """Whether JSON of which this was kept can have had no more keys; raises InvalidRequest for more than DEPTH levels.

    A quote and a colon stand behind every key. So colons are there at least once for each key written: if they are there only
    as often as keys were kept, none was dropped. With no blank before any colon, the same is true of `":`.
    """
    plain, colons = _plain_keys(data, body), _times(data, b":")
    if plain == colons:
        return True
    blank = b" :" in data or b"\n:" in data or b"\r:" in data or b"\t:" in data
    ends = colons if blank else data.count(b'":')
    return plain == ends or _keys(body) in (colons, ends)


def _plain_keys(data: bytes, body: Any) -> int:
    """How many keys the body and its messages have, for most requests have no others; -1 where it may be nested too deeply."""
    messages = body.get("messages") if type(body) is dict else None
    # With keys nowhere else, only lists can be in lists below a message.
    if type(messages) is not list or _times(data, b"[") > DEPTH - 3:
        return -1
    keys = len(body)
    for message in messages:
        if type(message) is dict:
            keys += len(message)
    return keys


def _times(data: bytes, byte: bytes) -> int:
    """As data.count(byte), which takes twenty times as long for a large body."""
    return len(data) - len(data.replace(byte, b""))


def _keys(body: Any) -> int:
    """How many keys all objects have together; raises InvalidRequest for more than DEPTH levels."""
    keys = 0
    level: list[Any] = [body] if type(body) is dict or type(body) is list else []
    for _ in range(DEPTH):
        below: list[Any] = []
        for node in level:
            if type(node) is dict:
                keys += len(node)
                node = node.values()
            for child in node:
                if type(child) is dict or type(child) is list:
                    below.append(child)
        if not below:
            return keys
        level = below
    raise _too_deep()


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"The body is nested deeper than {DEPTH} levels.")


# fields


def _check_names(body: dict[str, Any]) -> None:
    """Names a second reader could take for others: two that differ in case only, a known one in capitals, a strange one."""
    if len(body) > FIELDS:
        raise InvalidRequest(f"The body has more than {FIELDS} fields.")
    folded = {name.casefold() for name in body}
    if len(folded) < len(body):
        raise InvalidRequest("Two fields differ in case only.")
    for name in body:
        if name in CHECKED:
            continue
        if not _plain(name):
            raise InvalidRequest(f"A field's name must be 1 to {NAME} letters, digits, '_', '-' or '.'.")
        if name.casefold() in CHECKED:
            raise InvalidRequest(f"Write {name.casefold()} in lower case.", param=name)
    if not STEERING.isdisjoint(body):
        name = next(name for name in body if name in STEERING)
        raise InvalidRequest(f"{name} is not accepted: hosts and what they charge are chosen by the gateway's policies.", param=name)


def _plain(name: str) -> bool:
    return 0 < len(name) <= NAME and name.isascii() and name.translate(_WORD).isalnum()


_WORD = str.maketrans({"_": "a", "-": "a", ".": "a"})


def _check_values(body: dict[str, Any]) -> None:
    """Types that decide about money are exact: no true for 1, no 10.0 for 10, no text for a number. null is absent."""
    for name, value in body.items():
        if value is None or name not in TYPED:
            continue
        kind = type(value)
        if name in INTEGERS:
            if kind is not int or not INTEGERS[name] <= value <= BIGGEST:
                raise InvalidRequest(f"{name} must be an integer of at least {INTEGERS[name]}.", param=name)
            if value > MOST.get(name, BIGGEST):
                raise InvalidRequest(f"{name} must be at most {MOST[name]}.", param=name)
        elif name in BOOLEANS:
            if kind is not bool:
                raise InvalidRequest(f"{name} must be true or false.", param=name)
        elif kind is not int and kind is not float:
            raise InvalidRequest(f"{name} must be a number.", param=name)


def _model(model: Any) -> str:
    if type(model) is not str or not 0 < len(model) <= MODEL or not model.isascii() or not model.isprintable():
        raise InvalidRequest(f"model must be a name of 1 to {MODEL} printable ASCII characters.", param="model")
    return model


def _include_usage(options: Any, stream: bool) -> bool:
    if options is None:
        return False
    if not stream:
        raise InvalidRequest("stream_options is only allowed when stream is true.", param="stream_options")
    if type(options) is not dict:
        raise InvalidRequest("stream_options must be an object.", param="stream_options")
    wanted = options.get("include_usage")
    if wanted is not None and type(wanted) is not bool:
        raise InvalidRequest("include_usage must be true or false.", param="stream_options.include_usage")
    return wanted is True
