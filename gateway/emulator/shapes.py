"""The bodies of answers: one JSON object, or a stream of events as each host writes them.

A stream is a lazy series of Steps: the bytes of one event, the tokens it brought, the pause before it. Faults edit that
series; the server plays it. The bill is closed when the finish chunk is made, not before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gateway.emulator.book import Counts
from gateway.emulator.contracts import Order
from gateway.emulator.output import Call, Output
from gateway.emulator.reader import Row
from gateway.emulator.wire import Wire

_COST = "@cost@"
ZERO = Counts(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Step:
    """One event of a stream. kind: delta | finish | usage | done | comment | error; act: "" | fin | rst (how the host hangs up)."""

    data: bytes
    kind: str = "delta"
    output: int = 0
    reasoning: int = 0
    pause: float = 0.0
    act: str = ""


@dataclass(frozen=True)
class Closed:
    """The counts of a finished answer, and the host's own cost as JSON text, where it states one."""

    counts: Counts
    cost: str | None


@dataclass(frozen=True)
class UsageFault:
    """How the usage of one answer goes wrong."""

    missing: bool = False
    twice: bool = False
    every: bool = False
    instead: Row | None = None


@dataclass(frozen=True)
class Shape:
    """Writes one answer."""

    wire: Wire
    order: Order
    id: str
    created: int
    fault: UsageFault = UsageFault()

    # --- whole -----------------------------------------------------------------------------------------------------

    def whole(self, outputs: list[Output], closed: Closed) -> bytes:
        choices = [self._choice(index, output) for index, output in enumerate(outputs)]
        body = self._head("chat.completion") | {"choices": choices}
        if not self.fault.missing:
            body["usage"] = self._usage(closed)
        return _dump(body | self.wire.timings(closed.counts), closed.cost)

    def _choice(self, index: int, output: Output) -> Row:
        reasoning, answer = "".join(output.reasoning), "".join(output.answer)
        message: Row = {"role": "assistant", "content": answer}
        if self.order.thinking:
            message |= self._whole_reasoning(reasoning, answer)
        if output.calls:
            message["tool_calls"] = [_call_body(number, call) for number, call in enumerate(output.calls)]
        logprobs = _logprobs(output.answer) if self.order.logprobs else None
        native: Row = {"native_finish_reason": output.finish} if self.wire.host == "openrouter" else {}
        if native and output.finish == "error":
            native["error"] = {"code": 502, "message": "Provider returned error", "metadata": {"error_type": "provider_unavailable"}}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": output.finish} | native

    def _whole_reasoning(self, reasoning: str, answer: str) -> Row:
        if self.wire.reasoning == "inline":
            return {"content": f"{'<think>' if self.wire.start_tag else ''}{reasoning}</think>{answer}"}
        if self.wire.host == "openrouter":
            return {"reasoning": reasoning, "reasoning_details": [_detail(reasoning)]}
        return {self.wire.reasoning: reasoning}

    # --- stream ----------------------------------------------------------------------------------------------------

    def stream(self, outputs: list[Output], close: Callable[[], Closed], pace: float, chunk: int) -> Iterator[Step]:
        """All events, token by token (or `chunk` tokens an event)."""
        before, after = self._frame()
        for index, output in enumerate(outputs):
            yield Step(self._event(before, index, self._first(), after))
            for delta, count, thought in self._deltas(output, chunk):
                yield Step(self._event(before, index, delta, after), "delta", count, thought, pace * count)
        yield from self._tail(outputs, close())

    def _tail(self, outputs: list[Output], closed: Closed) -> Iterator[Step]:
        mode = "none" if self.fault.missing or not (self.order.include_usage or self.wire.usage_always) else self.wire.usage
        for index, output in enumerate(outputs):
            with_usage = mode == "finish_chunk" and index == len(outputs) - 1
            yield Step(self._finish(index, output, closed if with_usage else None, closed.counts), "finish")
        if mode in ("last_chunk", "every_chunk") or (mode == "finish_chunk" and self.fault.twice):
            yield Step(self._usage_chunk(outputs[-1], closed), "usage")
            if self.fault.twice:
                yield Step(self._usage_chunk(outputs[-1], closed), "usage")
        yield Step(b"data: [DONE]\n\n", "done")

    def _frame(self) -> tuple[str, str]:
        """What stands before and after a delta in every chunk."""
        head = json.dumps(self._head("chat.completion.chunk"), ensure_ascii=False)[:-1]
        ends = {"openrouter": ',"finish_reason":null,"native_finish_reason":null}]'}
        after = ends.get(self.wire.host, ',"logprobs":null,"finish_reason":null}]')
        if self.fault.every or self.wire.usage == "every_chunk":
            after += ',"usage":' + _dump(self.wire.usage_of(ZERO, thinking=self.order.thinking, cost=0), None).decode()
        elif self.wire.host == "deepseek" and self.order.include_usage:
            after += ',"usage":null'
        return f'data: {head},"choices":[{{"index":', after + "}\n\n"

    def _event(self, before: str, index: int, delta: str, after: str) -> bytes:
        return f'{before}{index},"delta":{delta}{after}'.encode()

    def _first(self) -> str:
        if self.wire.host == "deepseek" and self.order.thinking:
            return '{"role":"assistant","content":null,"reasoning_content":""}'
        return '{"role":"assistant","content":' + ("null}" if self.wire.engine == "llama.cpp" else '""}')

    def _deltas(self, output: Output, chunk: int) -> Iterator[tuple[str, int, int]]:
        """(delta, tokens, reasoning tokens) of each event."""
        inline = self.order.thinking and self.wire.reasoning == "inline"
        if inline and self.wire.start_tag:
            yield self._content("<think>\n"), 0, 0
        for text, count in _grouped(output.reasoning, chunk):
            yield (self._content(text) if inline else self._reasoning(text)), count, count
        if inline and output.reasoning:
            yield self._content("\n</think>\n\n"), 0, 0
        for text, count in _grouped(output.answer, chunk):
            yield self._content(text), count, 0
        for number, call in enumerate(output.calls):
            yield from _call_deltas(number, call, chunk)

    def _content(self, text: str) -> str:
        if self.wire.host == "deepseek" and self.order.thinking:
            return f'{{"content":{_quoted(text)},"reasoning_content":null}}'
        return ('{"role":"assistant","content":' if self.wire.host == "openrouter" else '{"content":') + _quoted(text) + "}"

    def _reasoning(self, text: str) -> str:
        quoted = _quoted(text)
        if self.wire.host == "deepseek":
            return f'{{"content":null,"reasoning_content":{quoted}}}'
        if self.wire.host == "openrouter":
            detail = f'{{"type":"reasoning.text","text":{quoted},"format":"unknown","index":0}}'
            return f'{{"role":"assistant","content":"","reasoning":{quoted},"reasoning_details":[{detail}]}}'
        return f'{{"{self.wire.reasoning}":{quoted}}}'

    def _finish(self, index: int, output: Output, closed: Closed | None, counts: Counts) -> bytes:
        delta: Row = {"content": "", "reasoning_content": None} if self.wire.host == "deepseek" and self.order.thinking else {"content": ""}
        if self.wire.engine or self.wire.host != "deepseek":
            delta = {"role": "assistant", "content": ""} if self.wire.host == "openrouter" else {}
        body = self._head("chat.completion.chunk") | {"choices": [self._ended(index, delta, output.finish)]}
        if closed is not None:
            body["usage"] = self._usage(closed)
        if not self._separate_usage():
            body |= self.wire.timings(counts)
        return b"data: " + _dump(body, closed.cost if closed else None) + b"\n\n"

    def _separate_usage(self) -> bool:
        return self.order.include_usage and self.wire.usage == "last_chunk"

    def _usage_chunk(self, output: Output, closed: Closed) -> bytes:
        """OpenRouter repeats its finish chunk with the usage; elsewhere the chunk has no choices."""
        repeated = [self._ended(0, {"role": "assistant", "content": ""}, output.finish)] if self.wire.host == "openrouter" else []
        body = self._head("chat.completion.chunk") | {"choices": repeated, "usage": self._usage(closed)} | self.wire.timings(closed.counts)
        return b"data: " + _dump(body, closed.cost) + b"\n\n"

    def _ended(self, index: int, delta: Row, finish: str) -> Row:
        if self.wire.host == "openrouter":
            return {"index": index, "delta": delta, "finish_reason": finish, "native_finish_reason": finish}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}

    def _usage(self, closed: Closed) -> Row:
        if self.fault.instead is not None:
            return self.fault.instead
        return self.wire.usage_of(closed.counts, thinking=self.order.thinking, cost=_COST)

    def _head(self, kind: str) -> Row:
        head: Row = {"id": self.id, "object": kind, "created": self.created, "model": self.order.model}
        if self.wire.host == "openrouter":
            return head | {"provider": "Emulated"}
        return head | {"system_fingerprint": "fp_emulated"}

    def head(self) -> Row:
        """What an error event of this stream repeats."""
        return self._head("chat.completion.chunk")


def _grouped(pieces: list[str], chunk: int) -> Iterator[tuple[str, int]]:
    if chunk == 1:
        for piece in pieces:
            yield piece, 1
        return
    for start in range(0, len(pieces), chunk):
        group = pieces[start : start + chunk]
        yield "".join(group), len(group)


def _call_deltas(number: int, call: Call, chunk: int) -> Iterator[tuple[str, int, int]]:
    first = {"index": number, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
    yield json.dumps({"tool_calls": [first]}), call.name_tokens, 0
    for text, count in _grouped(call.arguments, chunk):
        yield f'{{"tool_calls":[{{"index":{number},"function":{{"arguments":{_quoted(text)}}}}}]}}', count, 0


def _call_body(number: int, call: Call) -> Row:
    function = {"name": call.name, "arguments": "".join(call.arguments)}
    return {"index": number, "id": call.id, "type": "function", "function": function}


def _detail(text: str) -> Row:
    return {"type": "reasoning.text", "text": text, "format": "unknown", "index": 0}


def _logprobs(pieces: list[str]) -> Row:
    return {"content": [{"token": piece, "logprob": -0.125, "bytes": list(piece.encode()), "top_logprobs": []} for piece in pieces]}


@lru_cache(maxsize=4096)
def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _dump(body: Any, cost: str | None) -> bytes:
    """JSON; the cost goes in as its own digits, since no float may touch it."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).replace(f'"{_COST}"', cost or "0").encode()
