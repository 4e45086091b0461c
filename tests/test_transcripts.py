"""Recorded answers of DeepSeek and OpenRouter, replayed byte for byte through the gateway: same words, same usage, and their price.

Runs where the recordings are present (a folder `shared/transcripts` beside the checkout), and is skipped elsewhere.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.policies import default_folder
from tests.harness import LiveGateway

FOLDER = Path(__file__).parents[2] / "shared" / "transcripts"
# The recordings of DeepSeek are of this summer, before the next version; those of OpenRouter carry no date.
CLOCKS = {"deepseek": "2026-06-10T12:00:00Z", "openrouter": "2026-11-20T12:00:00Z"}
# Models that the shipped policies do not know, as the recordings name them.
FOREIGN = ("openai/gpt-4o-mini", "openai/o4-mini", "openai/gpt-5.2", "anthropic/claude-haiku-4.5")
R1 = "deepseek/deepseek-r1-0528"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the recordings are not here")


@dataclass(frozen=True)
class Record:
    """One recorded exchange."""

    host: str
    name: str
    request: dict[str, Any]
    status: int
    content_type: str
    body: bytes

    @property
    def stream(self) -> bool:
        return bool(self.request.get("stream"))


def records(host: str) -> list[Record]:
    found = []
    for path in sorted(FOLDER.glob(f"{host}/*/*.yaml")):
        documents = [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]
        found += [_record(host, f"{path.parent.name}/{path.stem}#{number}", document) for number, document in enumerate(documents)]
    return found


def _record(host: str, name: str, document: dict[str, Any]) -> Record:
    when, then = document["when"], document["then"]
    kind = next(field["value"] for field in then["header"] if field["name"].lower() == "content-type")
    return Record(host, name, json.loads(when["body"]), int(then["status"]), kind, then["body"].encode())


ALL = [record for host in CLOCKS for record in records(host)]
GOOD = [record for record in ALL if record.status == 200]
BAD = [record for record in ALL if record.status != 200]


class Replayer:
    """A host that answers every request with the bytes that were put in."""

    def __init__(self) -> None:
        self.next: Record | None = None
        self.received: dict[str, Any] = {}
        replayer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                replayer.received = json.loads(self.rfile.read(int(self.headers["content-length"])))
                record = replayer.next
                assert record is not None
                self.send_response(record.status)
                self.send_header("content-type", record.content_type)
                self.send_header("content-length", str(len(record.body)))
                self.end_headers()
                self.wfile.write(record.body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass(frozen=True)
class Stage:
    gateway: LiveGateway
    replayer: Replayer


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Stage]]:
    policies = tmp_path_factory.mktemp("policies") / "policies"
    shutil.copytree(default_folder(), policies)
    _add_models(policies)
    made = {}
    for host, clock in CLOCKS.items():
        replayer = Replayer()
        settings = {"FAREGATE_POLICIES": str(policies)}
        made[host] = Stage(LiveGateway(tmp_path_factory.mktemp(host), (), clock, settings, {host: replayer.url}), replayer)
    yield made
    for stage in made.values():
        stage.gateway.close()
        stage.replayer.close()


def _add_models(policies: Path) -> None:
    """Rows and a card for the models that only the recordings know; their rates are dear, so that every reported cost is believed."""
    host = policies / "hosts" / "openrouter.yaml"
    rows = "".join(f'  - {{model: {model}, contract: openai-plain, context: 400000, from: "2026-01-01T00:00:00Z"}}\n' for model in FOREIGN)
    host.write_text(host.read_text() + rows)
    cards = policies / "prices" / "openrouter.yaml"
    card = {
        "card": "openrouter-foreign-usd",
        "host": "openrouter",
        "models": list(FOREIGN),
        "currency": "USD",
        "from": "2026-01-01T00:00:00Z",
        "tier_at": "start",
        "per_million": {"cache_hit": "5", "cache_miss": "5", "output": "50"},
        "source": "https://openrouter.ai/models",
        "checked": "2026-11-12",
        "verified": False,
    }
    cards.write_text(cards.read_text() + yaml.safe_dump([card]))


def replay(stages: dict[str, Stage], record: Record) -> tuple[int, dict[str, str], bytes, dict[str, Any] | None]:
    """(status, headers, body, ledger row or None where nothing was dispatched)."""
    stage = stages[record.host]
    stage.replayer.next, stage.replayer.received = record, {}
    model = f"{record.host}/{record.request['model']}"
    status, headers, data = stage.gateway.chat(_steerless(record.request) | {"model": model})
    row = stage.gateway.row(headers["x-request-id"]) if stage.replayer.received else None
    return status, headers, data, row


def _steerless(request: dict[str, Any]) -> dict[str, Any]:
    """Without the choice of a provider, which the gateway leaves to policies."""
    return {name: value for name, value in request.items() if name != "provider"}


@dataclass
class Said:
    """What an answer says: its texts, its tool calls, its end."""

    content: str = ""
    reasoning: str = ""
    finish: str | None = None
    calls: dict[int, list[str]] | None = None

    def add(self, message: dict[str, Any]) -> None:
        self.content += message.get("content") or ""
        self.reasoning += message.get("reasoning_content") or message.get("reasoning") or ""
        for number, call in enumerate(message.get("tool_calls") or ()):
            calls = self.calls = self.calls or {}
            parts = calls.setdefault(call.get("index", number), ["", "", ""])
            function = call.get("function") or {}
            parts[0] += call.get("id") or ""
            parts[1] += function.get("name") or ""
            parts[2] += function.get("arguments") or ""


def said_in(data: bytes, stream: bool) -> Said:
    said = Said()
    for body in chunks(data) if stream else [json.loads(data)]:
        for choice in body.get("choices") or ():
            said.add(choice.get("delta") or choice.get("message") or {})
            said.finish = choice.get("finish_reason") or said.finish
    return said


def chunks(data: bytes) -> list[dict[str, Any]]:
    lines = [line[6:] for line in data.split(b"\n") if line.startswith(b"data: {")]
    return [json.loads(line, parse_float=Decimal) for line in lines]


def usage_in(record: Record) -> dict[str, Any]:
    """The recorded usage, decimals exact."""
    bodies = chunks(record.body) if record.stream else [json.loads(record.body, parse_float=Decimal)]
    usage: dict[str, Any] = [body["usage"] for body in bodies if body.get("usage")][-1]
    return usage


recorded = pytest.mark.parametrize("record", GOOD, ids=lambda record: f"{record.host}/{record.name}")


@recorded
def test_an_answer_reaches_the_client_as_it_was_recorded(stages: dict[str, Stage], record: Record) -> None:
    status, _, data, row = replay(stages, record)
    assert status == 200, data
    assert said_in(data, record.stream) == said_in(record.body, record.stream)
    if record.stream:
        assert data.endswith(b"data: [DONE]\n\n")
        assert data.count(b": OPENROUTER PROCESSING") == record.body.count(b": OPENROUTER PROCESSING")
        for chunk in chunks(data):
            for choice in chunk["choices"]:
                assert {"content", "reasoning_content"} <= set(choice["delta"])
    assert row is not None
    assert row["status"] == "ok"


@recorded
def test_usage_and_price_are_those_of_the_recording(stages: dict[str, Stage], record: Record) -> None:
    _, _, _, row = replay(stages, record)
    assert row is not None
    usage = usage_in(record)
    hit = usage["prompt_tokens_details"]["cached_tokens"]
    assert row["usage"]["cache_hit"] == hit
    assert row["usage"]["cache_miss"] == usage["prompt_tokens"] - hit
    assert row["usage"]["output"] == usage["completion_tokens"]
    details = usage.get("completion_tokens_details") or {}
    if "reasoning_tokens" in details:
        assert row["usage"]["reasoning"] == details["reasoning_tokens"]
    assert row["usage"]["sources"]["output"] == "reported"
    assert not row["disputed"]
    if "cost" in usage:
        nano = int((usage["cost"] * 10**9).to_integral_value(ROUND_CEILING))
        assert (row["nano"], row["host_nano"], row["currency"]) == (nano, nano, "USD")
    else:
        # DeepSeek's list for V4 flash in the summer of 2026: 0.0028, 0.14 and 0.28 dollars a million.
        tokens = (hit * 2_800_000, (usage["prompt_tokens"] - hit) * 140_000_000, usage["completion_tokens"] * 280_000_000)
        assert row["nano"] == -(-sum(tokens) // 10**6)


def test_r1_0528_at_openrouter_costs_what_it_says(stages: dict[str, Stage]) -> None:
    (record,) = [record for record in GOOD if record.request["model"] == R1]
    _, headers, data, row = replay(stages, record)
    assert row is not None
    assert row["nano"] == 4_328_000
    assert headers["x-faregate-cost"] == "0.004328 USD"
    usage = json.loads(data, parse_float=Decimal)["usage"]
    assert (usage["cost"], usage["host_cost"], usage["cost_currency"]) == (Decimal("0.004328"), Decimal("0.004328"), "USD")
    message = json.loads(data)["choices"][0]["message"]
    assert message["reasoning_content"].startswith("I need to solve this problem step by step.")


@pytest.mark.parametrize("record", BAD, ids=lambda record: f"{record.host}/{record.name}")
def test_a_recorded_refusal_is_passed_on_without_its_secrets(stages: dict[str, Stage], record: Record) -> None:
    # A host that refused the key before would be left at rest.
    stages[record.host].gateway.reload()
    if record.request["model"] == "deepseek-v9-nonexistent":
        status, _, data, row = replay(stages, record)
        assert (status, json.loads(data)["error"]["code"], row) == (404, "model_not_found", None)
        return
    status, _, data, row = replay(stages, record)
    error = json.loads(data)["error"]
    if record.status == 401:
        assert (status, error["code"]) == (502, "upstream_error")
        assert not re.search(rb"\*\*\*\*", data)
    else:
        assert (status, error["code"]) == (400, "invalid_request")
    if row is not None:
        assert (row["nano"], row["usage"]) == (0, None)
