"""A host's dialect: its error envelopes and texts, its usage object, the names it gives to things.

Built from the host's row (`writes`, `reads`, `local`); what a row leaves open is filled in per engine, as their sources show.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from gateway.emulator.book import Counts
from gateway.emulator.fields import Refusal
from gateway.emulator.reader import Row

_NOW_LISTS_NAMES = datetime(2026, 4, 24, tzinfo=UTC)
_COMMAS = datetime(2026, 9, 10, tzinfo=UTC)
_ENGINES = ("vllm", "sglang", "ollama")
_REASONS = {
    400: "INVALID_REQUEST_BODY",
    401: "FAILED_TO_AUTH",
    402: "NOT_ENOUGH_BALANCE",
    404: "MODEL_NOT_FOUND",
    429: "RATE_LIMIT_EXCEEDED",
}
_TEXTS = {
    401: "Authentication Fails, Your api key: ****{tail} is invalid",
    402: "Insufficient Balance",
    429: "Too many requests. Your current concurrency is 26, which exceeds your concurrency limit of 25 based on your remaining balance."
    " Please top up your balance to restore your concurrency.",
    500: "Internal server error",
    503: "Service is too busy. Please retry after a brief wait.",
}


@dataclass(frozen=True)
class Wire:
    """How one host writes. `reasoning`: reasoning_content | reasoning | inline; `usage`: finish_chunk | last_chunk | every_chunk | none."""

    host: str
    local: bool
    engine: str
    errors: str
    reasoning: str
    reads: str
    usage: str
    usage_always: bool
    cached: tuple[str, ...]
    cost: str | None
    keep_alive: str
    start_tag: bool = True

    def reasoning_of(self, message: Row) -> str | None:
        """The reasoning that this host sees in a message of the history, under the names that it reads."""
        names = {"reasoning": ("reasoning",), "none": ()}.get(self.reads, ("reasoning_content",))
        if self.reads == "both":
            names = ("reasoning_content", "reasoning")
        return next((str(message[name]) for name in names if message.get(name) is not None), None)

    @property
    def clamps_context(self) -> bool:
        """Whether prompt + max_tokens over the context is cut rather than refused."""
        return self.engine in ("vllm", "llama.cpp", "ollama")

    def range_text(self, stated: int, largest: int) -> str:
        if self.host == "deepseek":
            return f"Invalid max_tokens value, the valid range of max_tokens is [1, {largest}]"
        return f"max_tokens is out of range: {stated}. This model supports at least 1 and at most {largest} completion tokens"

    def unknown_model(self, model: str, names: list[str], at: datetime, retired: str | None) -> Refusal:
        if self.host == "deepseek":
            return Refusal(retired or _deepseek_unknown(model, names, at), param="model")
        if self.host == "openrouter":
            return Refusal(f"{model} is not a valid model ID", 400, param="model")
        if self.engine == "ollama":
            return Refusal(f'model "{model}" not found, try pulling it first', 404, kind="not_found_error", param="model")
        return Refusal(f"The model `{model}` does not exist.", 404, kind="NotFoundError", param="model")

    def overflow(self, *, context: int, prompt: int, stated: int) -> Refusal:
        """The refusal of a prompt that does not fit, in this host's words."""
        total = prompt + stated
        if self.engine == "llama.cpp":
            text = f"request ({prompt} tokens) exceeds the available context size ({context} tokens), try increasing it"
            return Refusal(text, kind="exceed_context_size_error", n_prompt_tokens=prompt, n_ctx=context)
        if self.engine == "vllm":
            text = (
                f"This model's maximum context length is {context} tokens. However, your prompt contains {prompt} input tokens, which"
                " exceeds this limit even without any output tokens. Please reduce the length of the input prompt."
            )
            return Refusal(f"{text} (parameter=input_tokens, value={prompt})")
        if self.engine == "sglang" and prompt >= context:
            return Refusal(f"The input ({prompt} tokens) is longer than the model's context length ({context} tokens).")
        if self.engine == "sglang":
            text = f"Requested token count exceeds the model's maximum context length of {context} tokens. You requested a total of {total}"
            parts = f" tokens: {prompt} tokens from the input messages and {stated} tokens for the completion."
            return Refusal(text + parts + " Please reduce the number of tokens in the input messages or the completion.")
        text = f"This model's maximum context length is {context} tokens. However, you requested {total} tokens ({prompt} in the messages,"
        rest = f" {stated} in the completion). Please reduce the length of the messages or completion."
        return Refusal(text + rest, error_type="context_length_exceeded")

    def refusal_of(self, status: int, key: str = "") -> Refusal:
        """The usual words of a status before any work."""
        text = _TEXTS.get(status, f"Error {status}").replace("{tail}", key[-4:])
        kind = {401: "authentication_error", 402: "unknown_error", 429: "rate_limit_error"}.get(status, "")
        if self.host != "deepseek" and status == 429:
            # Only DeepSeek's limit goes by the balance.
            text = "Rate limit exceeded. Please try again later."
        if self.engine == "vllm" and status == 503:
            text = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
        if self.engine == "ollama" and status == 503:
            text = "server busy, please try again.  maximum pending requests exceeded"
        if self.host == "nebius" and status == 401:
            text = "Couldn't authenticate. Reason: token is not present"
        return Refusal(text, status, kind=kind)

    def error_body(self, refusal: Refusal) -> Row:
        """The JSON body of an error in this host's envelope."""
        if self.host == "deepseek" and self.errors == "openai":
            refusal.code = "invalid_request_error"
        return _ENVELOPES.get(self.errors, _openai_error)(refusal)

    def usage_of(self, counts: Counts, *, thinking: bool, cost: Any = None) -> Row:
        """The usage object; a host whose row names no path for cached tokens does not report them."""
        usage: Row = {"prompt_tokens": counts.hit + counts.miss, "completion_tokens": counts.output}
        usage["total_tokens"] = usage["prompt_tokens"] + counts.output
        for path in self.cached:
            if not path.startswith("timings."):
                _put(usage, path, counts.hit)
        self._put_reasoning(usage, counts, thinking)
        if self.host == "deepseek":
            usage |= {"prompt_cache_hit_tokens": counts.hit, "prompt_cache_miss_tokens": counts.miss}
        if self.cost:
            _put(usage, self.cost.removeprefix("usage."), cost)
            usage |= {"is_byok": False, "cost_details": {"upstream_inference_cost": None}} if self.host == "openrouter" else {}
        return usage

    def _put_reasoning(self, usage: Row, counts: Counts, thinking: bool) -> None:
        if self.engine == "sglang":
            usage |= {"reasoning_tokens": counts.reasoning} if counts.reasoning else {}
        elif self.engine not in ("llama.cpp", "ollama") and (thinking or self.host == "openrouter"):
            usage["completion_tokens_details"] = {"reasoning_tokens": counts.reasoning}

    def timings(self, counts: Counts) -> Row:
        """llama.cpp's own figures, on the last chunk: prompt_n excludes what the cache held."""
        if self.engine != "llama.cpp":
            return {}
        times = {"prompt_ms": 1.0, "prompt_per_second": 1000.0, "predicted_ms": 1.0, "predicted_per_second": 1000.0}
        return {"timings": {"cache_n": counts.hit, "prompt_n": counts.miss, "predicted_n": counts.output} | times}

    def error_events(self, text: str, status: int, head: Row) -> list[bytes]:
        """What a failure inside a stream looks like; Ollama's just ends."""
        if self.engine == "ollama":
            return []
        if self.errors == "openrouter":
            error = {"code": status, "message": text, "metadata": {"error_type": _openrouter_kind(status)}}
            choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
            return [_event(head | {"error": error, "choices": [choice]})]
        body = self.error_body(Refusal(text, status, kind="InternalServerError"))
        events = [_event(body if "error" in body else {"error": body})]
        return [*events, b"data: [DONE]\n\n"] if self.engine == "vllm" else events


def wire_of(row: Row, changes: Mapping[str, Any] | None = None) -> Wire:
    """The dialect of a host's row; `changes` overrides single names of it (for one odd host in a test)."""
    host, local = str(row["host"]), bool(row.get("local"))
    writes, reads = dict(row.get("writes") or {}), row.get("reads") or {}
    engine = next((name for name in _ENGINES if name in host), "llama.cpp") if local else ""
    cached = writes.get("cached") or ()
    wire = Wire(
        host=host,
        local=local,
        engine=engine,
        errors=_errors(str(writes.get("errors", "any")), engine, host),
        reasoning=_reasoning(str(writes.get("reasoning", "auto")), engine, host),
        reads=str(reads.get("reasoning", "reasoning_content")),
        usage=str(writes.get("usage", "last_chunk")),
        usage_always=reads.get("usage") == "always",
        cached=tuple(path.removeprefix("usage.") for path in ((cached,) if isinstance(cached, str) else cached)),
        cost=writes.get("cost"),
        keep_alive=": " + str(writes.get("keep_alive") or "keep-alive").lstrip(": "),
    )
    return replace(wire, **dict(changes or {}))


def _openai_error(refusal: Refusal) -> Row:
    return {"error": {"message": refusal.message, "type": refusal.kind or "invalid_request_error", "param": None, "code": refusal.code}}


def _openrouter_error(refusal: Refusal) -> Row:
    metadata = {"error_type": refusal.extra.get("error_type", _openrouter_kind(refusal.status)), "provider_name": "Emulated"}
    return {"error": {"code": refusal.status, "message": refusal.message, "metadata": metadata}, "user_id": "user_emulated"}


def _novita_error(refusal: Refusal) -> Row:
    return {"code": refusal.status, "reason": _REASONS.get(refusal.status, "INTERNAL_ERROR"), "message": refusal.message, "metadata": {}}


def _flat_error(refusal: Refusal) -> Row:
    return {"object": "error", **_engine_error(refusal)["error"]}


def _engine_error(refusal: Refusal) -> Row:
    kind = refusal.kind or ("BadRequestError" if refusal.status < 500 else "InternalServerError")
    return {"error": {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.status}}


def _gmi_error(refusal: Refusal) -> Row:
    """The engine's own error is a JSON string inside."""
    outer = {"message": "Backend returned an error", "type": "invalid_request_error", "param": None, "code": refusal.status}
    return {"error": outer | {"details": json.dumps(_flat_error(refusal), ensure_ascii=False)}}


def _llama_error(refusal: Refusal) -> Row:
    counts = {name: value for name, value in refusal.extra.items() if name.startswith("n_")}
    return {"error": {"code": refusal.status, "message": refusal.message, "type": refusal.kind or "invalid_request_error"} | counts}


_ENVELOPES: Mapping[str, Callable[[Refusal], Row]] = {
    "openrouter": _openrouter_error,
    "novita": _novita_error,
    "nebius": lambda refusal: {"detail": refusal.message},
    "gmi": _gmi_error,
    "siliconflow": lambda refusal: {"code": 20012, "message": refusal.message, "data": None},
    "google": lambda refusal: {"error": {"code": refusal.status, "message": refusal.message, "status": "INVALID_ARGUMENT"}},
    "flat": _flat_error,
    "llama.cpp": _llama_error,
    "vllm": _engine_error,
}


def _errors(stated: str, engine: str, host: str) -> str:
    if stated != "any" and not engine:
        return stated
    by_name = {"sglang": "flat", "llama.cpp": "llama.cpp", "vllm": "vllm"}
    return by_name.get(engine, stated if stated != "any" else host if host in ("openrouter", "novita", "nebius", "gmi") else "openai")


def _reasoning(stated: str, engine: str, host: str) -> str:
    if stated != "auto":
        return stated
    return "reasoning" if engine in ("vllm", "ollama") or host == "openrouter" else "reasoning_content"


def _deepseek_unknown(model: str, names: list[str], at: datetime) -> str:
    if at < _NOW_LISTS_NAMES:
        return "Model Not Exist"
    listed = ", ".join(names) if at >= _COMMAS else " or ".join(reversed(names))
    return f"The supported API model names are {listed}, but you passed {model}."


def _openrouter_kind(status: int) -> str:
    kinds = {400: "invalid_request", 401: "authentication", 402: "payment_required", 404: "not_found", 429: "rate_limit_exceeded"}
    return kinds.get(status, "provider_unavailable" if status in (502, 503) else "server")


def _put(target: Row, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        target = target.setdefault(name, {})
    target[last] = value


def _event(body: Row) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"
