"""Assemble: the whole answer that a client gets, from a stream's chunks or from a host's whole answer; and usage with its cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Raw

from gateway.dialects import FINISHES, HostError, clean, error_of, good_finish, inline_splitter, objects, read_json
from gateway.edits import Edit
from gateway.hosts import Deployment
from gateway.meter import Meter
from gateway.money import Money, decimal_text
from gateway.reasoning import ThinkSplitter, text_of
from gateway.sse import Splitter, data_of
from gateway.usage import Usage

_FIRST = ("id", "created", "model")
# Characters of an answer that is remembered.
SAID_LIMIT = 1 << 20


class Assembler:
    """Chunks as the client of a stream would get them -> one chat.completion."""

    def __init__(self) -> None:
        self._splitter = Splitter()
        self._body: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def feed_events(self, data: bytes) -> None:
        """Whole events, as StreamShape gives them; comments and [DONE] add nothing."""
        for event in self._splitter.feed(data):
            content = data_of(event)
            if content is not None and content[:1] == b"{":
                self.feed(read_json(content))

    def feed(self, chunk: dict[str, Any]) -> None:
        """One chunk. Unknown fields keep their last value."""
        for key, value in chunk.items():
            if key in ("choices", "usage") or (key in _FIRST and key in self._body):
                continue
            if value is not None or key not in self._body:
                self._body[key] = value
        for choice in objects(chunk.get("choices")):
            index = choice.get("index") or 0
            self._choices[index] = _joined(self._choices.get(index) or _empty(index), choice)

    def answer(self, usage: dict[str, Any] | None) -> dict[str, Any]:
        """The whole answer, with this usage."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        body = {**self._body, "object": "chat.completion", "choices": choices}
        return body if usage is None else {**body, "usage": usage}


def _empty(index: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": "", "reasoning_content": None}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": None}


def _joined(choice: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """The choice with one chunk's part of it added. The first finish stands."""
    for key, value in more.items():
        if key == "delta":
            _add_delta(choice["message"], value or {})
        elif key == "logprobs":
            choice["logprobs"] = _merged(choice["logprobs"], value)
        elif key == "finish_reason":
            choice[key] = choice[key] or value
        elif key != "index" and (value is not None or key not in choice):
            choice[key] = value
    return choice


def _add_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for key, value in delta.items():
        if key == "tool_calls":
            for call in objects(value):
                _add_call(message.setdefault("tool_calls", []), call)
        elif key == "role":
            message["role"] = value or message["role"]
        else:
            message[key] = _merged(message.get(key), value)


class Told:
    """What the client of a stream was told, put together only when somebody asks: the texts are those that `meter` has counted."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        # Characters that were counted and not passed on, and the pieces of calls.
        self._reasoning = self._content = 0
        self._calls: list[bytes] = []
        self._size = 0

    def call(self, part: Raw) -> None:
        """The pieces of calls that one chunk brings. Without reasoning before them nobody will ask."""
        if self._meter.reasoning.chunks:
            self._size += len(bytes(part))
            if self._size <= SAID_LIMIT:
                self._calls.append(bytes(part))

    def cut(self, name: str, characters: int) -> None:
        """So much was taken off the end of `reasoning` or `content`; or the last chunk's pieces of `tools`."""
        if name == "tools":
            del self._calls[-1:]
        elif name == "content":
            self._content += characters
        else:
            self._reasoning += characters

    def cut_off(self, reasoning: str, content: str) -> None:
        """These texts were taken off the end."""
        self._reasoning += len(reasoning)
        self._content += len(content)

    @property
    def said(self) -> tuple[str, str, list[dict[str, Any]]] | None:
        """(reasoning, content, tool calls), or None where there is no reasoning, or more of it all than SAID_LIMIT."""
        reasoning, content = self._meter.reasoning, self._meter.answer
        if not reasoning.chunks or reasoning.length + content.length + self._size > SAID_LIMIT:
            return None
        thought, text = reasoning.text or "", content.text or ""
        calls = join_calls([part for raw in self._calls for part in objects(read_json(raw))])
        return thought[: len(thought) - self._reasoning], text[: len(text) - self._content], calls


def join_calls(parts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whole calls from the parts in which a stream brings them."""
    calls: list[dict[str, Any]] = []
    for part in parts:
        _add_call(calls, part)
    return calls


def _add_call(calls: list[dict[str, Any]], part: dict[str, Any]) -> None:
    """Parts of one call share an index; names and ids come once or are repeated, arguments come in pieces."""
    index = part.get("index")
    call = next((known for known in calls if known["index"] == index), None) if index is not None else None
    if call is None:
        call = {"index": len(calls) if index is None else index}
        calls.append(call)
    for key, value in part.items():
        if key == "function" and isinstance(value, dict):
            function = call.setdefault("function", {"name": "", "arguments": ""})
            function["name"] = function["name"] or value.get("name") or ""
            function["arguments"] += value.get("arguments") or ""
        elif value is not None:
            call[key] = value


def _merged(known: Any, more: Any) -> Any:
    """Texts and lists grow, objects grow key by key, anything else keeps its last value."""
    if known is None or more is None:
        return known if more is None else more
    if isinstance(known, str) and isinstance(more, str):
        return known + more
    if isinstance(known, list) and isinstance(more, list):
        return known + more
    if isinstance(known, dict) and isinstance(more, dict):
        return {key: _merged(known.get(key), more.get(key)) for key in known.keys() | more.keys()}
    return more


# ---- whole answers of a host


def fault_of(body: Any, secrets: Sequence[str] = ()) -> HostError | None:
    """Why a host's whole answer with status 200 is no answer: an error in it, no choices, or a finish that is none. None: it is one."""
    if _plain(body):
        return None
    error = error_of(body, secrets)
    if error is not None:
        return error
    choices = objects(body.get("choices")) if isinstance(body, dict) else []
    if not choices or not all(isinstance(choice.get("message"), dict) for choice in choices):
        return HostError(None, None, "The host's answer is no chat completion.")
    bad = next((choice for choice in choices if good_finish(choice.get("finish_reason")) is None), None)
    if bad is None:
        return None
    return HostError(None, None, f"The host ended the answer with finish_reason {clean(str(bad.get('finish_reason')), secrets)[:40]!r}.")


def _plain(body: Any) -> bool:
    """Whether this is surely an answer: one choice with a message and a good finish, and no error beside it."""
    if type(body) is not dict or "error" in body:
        return False
    choices = body.get("choices")
    if type(choices) is not list or len(choices) != 1 or type(choices[0]) is not dict:
        return False
    choice = choices[0]
    finish = choice.get("finish_reason")
    return "error" not in choice and type(choice.get("message")) is dict and type(finish) is str and finish in FINISHES


def normalise_answer(body: dict[str, Any], deployment: Deployment) -> list[Edit]:
    """Bring a host's whole answer (changed in place) to `reasoning_content` beside `content`; nothing else is touched.

    A version that can think always has the key; `content: null` stays.
    """
    changed = False
    for choice in objects(body.get("choices")):
        changed |= _normalise_message(choice["message"], deployment)
        finish = choice.get("finish_reason")
        word = good_finish(finish)
        if word != finish:
            changed = True
            choice["finish_reason"] = word
    return [Edit("normalise_stream")] if changed else []


def _normalise_message(message: dict[str, Any], deployment: Deployment) -> bool:
    inline = deployment.inline
    if not inline and "reasoning_content" in message and "reasoning" not in message and "reasoning_details" not in message:
        return False
    before = dict(message)
    reasoning = text_of(message)
    splitter = inline_splitter(deployment)
    if splitter is not None and not reasoning and isinstance(message.get("content"), str):
        reasoning, message["content"] = _split(splitter, message["content"])
        reasoning = reasoning or None
    if "reasoning_content" in message or reasoning is not None or deployment.contract.can_think:
        message["reasoning_content"] = message.get("reasoning_content") or reasoning
    if not before.get("reasoning_content"):
        message.pop("reasoning", None)
    return message != before


def _split(splitter: ThinkSplitter, text: str) -> tuple[str, str]:
    first, last = splitter.feed(text), splitter.close()
    return first[0] + last[0], first[1] + last[1]


# ---- usage with its cost


def decorate_usage(reported: dict[str, Any] | None, usage: Usage, money: Money) -> dict[str, Any]:
    """The usage that a client sees: the host's own object where it is what we charge, else our counts; with our cost.

    `cost` is a JSON number in whole units of `cost_currency`, exact and without exponent; a host's own moves to `host_cost`.
    """
    shown = dict(reported or {})
    if "cost" in shown:
        shown["host_cost"] = shown.pop("cost")
    if not shown or not usage.reported:
        shown.update(_counts(usage))
    shown["cost"] = Raw(decimal_text(money.nano).encode())
    shown["cost_currency"] = money.currency
    return shown


def _counts(usage: Usage) -> dict[str, Any]:
    counts: dict[str, Any] = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output,
        "total_tokens": usage.prompt + usage.output,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }
    if usage.sources.cache_hit == "unknown":
        return counts
    cached = {"prompt_cache_hit_tokens": usage.cache_hit, "prompt_cache_miss_tokens": usage.cache_miss}
    return {**counts, "prompt_tokens_details": {"cached_tokens": usage.cache_hit}, **cached}
