"""Plays the apps of three teams before the demonstration's gateway, so that every dashboard has something to show.

    python demo_traffic.py http://demo:8080/v1 [--pause SECONDS] [--requests N]

Conversations of some turns, some streamed and some whole, over several routes; now and then a request that is refused. Nothing that comes
back is kept or printed.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

# Keys that open nothing but the demonstration.
TEAMS = {"search": "demo-search-key", "support": "demo-support-key", "batch": "demo-batch-key"}
MODELS = ("deepseek-flash", "deepseek-flash", "deepseek-v4-pro", "deepseek-v4-flash", "deepseek-reasoner")
QUESTIONS = ("What is a fare gate?", "And who pays when a ride is cut short?", "Say it in one sentence.", "Now as a table, with prices.")
RULES = "You answer in the house style: short words, no ornaments, figures with their units. " * 24
OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def turns(chance: random.Random) -> Iterator[tuple[str, dict[str, Any]]]:
    """(team, request) for ever: conversations of up to four turns that share their instructions, as those of real apps do."""
    while True:
        team, model, stream = chance.choice(list(TEAMS)), chance.choice(MODELS), chance.random() < 0.7
        messages: list[dict[str, str]] = [{"role": "system", "content": f"{RULES} You work for {team}."}]
        for question in QUESTIONS[: chance.randint(1, len(QUESTIONS))]:
            messages = [*messages, {"role": "user", "content": question}]
            body: dict[str, Any] = {"model": model if chance.random() < 0.98 else "no-such-model", "messages": messages, "max_tokens": 400}
            yield team, body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})
            messages = [*messages, {"role": "assistant", "content": "That depends on the ride.", "reasoning_content": "Let me think."}]


def ask(base_url: str, team: str, body: dict[str, Any]) -> int:
    """The status of one request, its answer read to the end; 0 where nothing answers."""
    headers = {"authorization": f"Bearer {TEAMS[team]}", "content-type": "application/json"}
    request = urllib.request.Request(base_url + "/chat/completions", json.dumps(body).encode(), headers)
    try:
        with OPEN(request, timeout=120) as answer:
            while answer.read(65536):
                pass
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("base_url")
    parser.add_argument("--pause", type=float, default=1.0, help="mean seconds between two requests")
    parser.add_argument("--requests", type=int, default=0, help="how many; 0 goes on until it is ended")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    chance, counts = random.Random(args.seed), dict[int, int]()
    for number, (team, body) in enumerate(turns(chance), 1):
        status = ask(args.base_url.rstrip("/"), team, body)
        counts[status] = counts.get(status, 0) + 1
        if number % 100 == 0 or number == args.requests:
            print(json.dumps({"requests": number, "by_status": counts}), flush=True)
        if number == args.requests:
            return
        time.sleep(chance.expovariate(1 / args.pause) if args.pause else 0)


if __name__ == "__main__":
    main()
