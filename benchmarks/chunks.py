"""CPU of StreamShape for each chunk of a burst: prints one JSON line, microseconds per chunk by shape of the stream.

Run from the project: python -m benchmarks.chunks [chunks]
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from gateway.contracts import Contract
from gateway.hosts import Deployment, Host
from gateway.meter import Meter
from gateway.shape import StreamShape

READ = 65536
HEAD = b'"object":"chat.completion.chunk","created":1760000000,"model":"m","system_fingerprint":"fp_0123456789"'
FINISH = b'data: {"id":"c-1",' + HEAD + b',"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}],"usage":null}\n\n'
DELTAS = {
    "as_deepseek": b'{"content":null,"reasoning_content":" word"}',
    "without_reasoning_key": b'{"content":" word"}',
    "as_vllm": b'{"reasoning":" word"}',
    "as_openrouter": b'{"role":"assistant","content":"","reasoning":" word"}',
    "null_content": b'{"content":null,"reasoning_content":""}',
    "interim_usage": b'{"content":" word","reasoning_content":null}',
}
USAGE = b'{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}'


def stream(name: str, chunks: int) -> bytes:
    usage = USAGE if name == "interim_usage" else b"null"
    choice = b'{"index":0,"delta":' + DELTAS[name] + b',"logprobs":null,"finish_reason":null}'
    event = b'data: {"id":"c-1",' + HEAD + b',"choices":[' + choice + b'],"usage":' + usage + b"}\n\n"
    return event * chunks + FINISH + b"data: [DONE]\n\n"


def deployment() -> Deployment:
    contract = Contract.model_validate({"contract": "c", "released": "2025-01-20", "context": {"tokens": 65536}, "max_tokens": LIMITS})
    model = {"model": "m", "contract": "c", "from": "2025-01-20T00:00:00Z"}
    host = Host.model_validate({"host": "h", "models": [model]})
    return Deployment(host, host.models[0], contract)


LIMITS = {"counts": "total", "max": 65536}


def shaped(target: Deployment, data: bytes) -> None:
    shape = StreamShape(target, include_usage=False, stop=None, meter=Meter(target, 10))
    for start in range(0, len(data), READ):
        shape.feed(data[start : start + READ])
    if shape.failure is not None or not shape.tail(None):
        raise SystemExit(f"the stream failed: {shape.failure}")


def cost(run: Callable[[], None], chunks: int, rounds: int = 7) -> float:
    """The least CPU time of some rounds, in microseconds per chunk."""
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        run()
        best = min(best, time.process_time() - started)
    return round(best / chunks * 1e6, 2)


def main() -> None:
    chunks = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    target = deployment()
    figures = {}
    for name in DELTAS:
        data = stream(name, chunks)
        figures[name] = cost(lambda data=data: shaped(target, data), chunks)  # type: ignore[misc]
    print(json.dumps({"chunks": chunks, "read_bytes": READ, "microseconds_per_chunk": figures}))


if __name__ == "__main__":
    main()
