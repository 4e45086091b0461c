"""What the benchmark asks, and one run of the generator that asks it, in a process of its own on the generator's core."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from benchmarks.load import Result, Spec
from benchmarks.servers import CHAT, ROOT, Running, cores

LONG_MESSAGES, LONG_BYTES = 64, 4096
# Seconds that a run may take beyond its window: a server that answers no more must not stop the benchmark.
PATIENCE = 300.0


def body(text: str = "", stream: bool = False, history: Sequence[dict[str, str]] = (), limit: int = 4000) -> str:
    system = {"role": "system", "content": "You are a clerk at a fare gate."}
    question = {"role": "user", "content": f"What is the fare? {text}"}
    shown: dict[str, Any] = {"model": "deepseek-flash", "messages": [system, *history, question], "max_tokens": limit}
    if stream:
        shown |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(shown)


def long_history() -> list[dict[str, str]]:
    """A conversation of 64 messages of 4 KB of prose and line breaks: 256 KB."""
    line = "The clerk counts the coins, closes the gate and writes one line into the book.\n"
    text = (line * (LONG_BYTES // len(line) + 1))[:LONG_BYTES]
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n in range(LONG_MESSAGES)]


def order(chunks: int, pace: int, limit: int = 4000) -> str:
    """A request for a stream of so many chunks, one each `pace` milliseconds."""
    return body(f"bench:chunks={chunks},pace={pace}", stream=True, limit=limit)


def load(target: Running, text: str, *others: str, **more: Any) -> Result:
    """One run of the generator; with `others`, each connection sends all the bodies in turn."""
    spec = Spec(port=target.port, path=CHAT, headers=target.headers, body=text, others=others, pid=target.pid, **more)
    argv = ["taskset", "-c", str(cores()[1]), sys.executable, "-m", "benchmarks.load"]
    try:
        run = subprocess.run(
            argv, input=msgspec.json.encode(spec), stdout=subprocess.PIPE, cwd=ROOT, check=False, timeout=spec.seconds + PATIENCE
        )
    except subprocess.TimeoutExpired as late:
        raise RuntimeError(f"{target.name}: the load run did not end within {late.timeout:g} s") from None
    if run.returncode:
        raise RuntimeError(f"{target.name}: the load run failed; its error stands above")
    return msgspec.json.decode(run.stdout, type=Result)
