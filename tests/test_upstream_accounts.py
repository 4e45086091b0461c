"""Accounts: how each host is reached, with which key, in which header; keys in files that change; what is missing is said."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import UpstreamError
from gateway.policies import default_folder, load
from gateway.settings import Settings
from gateway.settings import load as settings_from
from gateway.upstream.accounts import Account, UnusableKey, account_for, needs
from gateway.upstream.key_file import KeyFile
from tests.harness import ADMIN, LiveGateway, get_json

HOSTS = load(default_folder()).hosts
AZURE = "https://mine.services.ai.azure.com/openai/v1"
VERTEX = "https://aiplatform.googleapis.com/v1/projects/p/locations/global/endpoints/openapi"


def settings(**variables: str) -> Settings:
    return settings_from(variables, None)


def account(host: str, **variables: str) -> Account:
    found = account_for(HOSTS[host], settings(**variables))
    assert isinstance(found, Account), found
    return found


@pytest.mark.parametrize(
    ("host", "variables", "url", "header", "value"),
    [
        ("deepinfra", {"DEEPINFRA_API_KEY": "k1"}, "https://api.deepinfra.com/v1/openai", "authorization", "Bearer k1"),
        ("together", {"TOGETHER_API_KEY": "k2"}, "https://api.together.ai/v1", "authorization", "Bearer k2"),
        ("fireworks", {"FIREWORKS_API_KEY": "k3"}, "https://api.fireworks.ai/inference/v1", "authorization", "Bearer k3"),
        ("siliconflow", {"SILICONFLOW_API_KEY": "k4"}, "https://api.siliconflow.com/v1", "authorization", "Bearer k4"),
        ("azure", {"AZURE_API_KEY": "k5", "FAREGATE_BASE_URL_AZURE": AZURE}, AZURE, "api-key", "k5"),
        ("vertex", {"VERTEX_ACCESS_TOKEN": "ya29.k6", "FAREGATE_BASE_URL_VERTEX": VERTEX}, VERTEX, "authorization", "Bearer ya29.k6"),
    ],
)
def test_a_host_gets_its_key_in_its_own_header(host: str, variables: dict[str, str], url: str, header: str, value: str) -> None:
    found = account(host, **variables)
    assert found.url(beta=False) == url + "/chat/completions"
    headers = found.headers("req-1", stream=True)
    assert headers[header] == value
    assert len({"authorization", "api-key"} & headers.keys()) == 1
    assert value.removeprefix("Bearer ") not in repr(found)


@pytest.mark.parametrize(
    ("host", "variables", "missing"),
    [
        ("deepinfra", {}, "DEEPINFRA_API_KEY"),
        ("azure", {}, "AZURE_API_KEY and FAREGATE_BASE_URL_AZURE"),
        ("azure", {"AZURE_API_KEY": "k"}, "FAREGATE_BASE_URL_AZURE"),
        ("vertex", {"FAREGATE_BASE_URL_VERTEX": VERTEX}, "VERTEX_ACCESS_TOKEN"),
        ("local", {}, "FAREGATE_BASE_URL_LOCAL"),
        ("local-vllm", {}, "FAREGATE_BASE_URL_LOCAL_VLLM"),
        ("bedrock", {"AWS_ACCESS_KEY_ID": "k"}, "AWS_SECRET_ACCESS_KEY and AWS_REGION"),
    ],
)
def test_what_is_missing_is_named(host: str, variables: dict[str, str], missing: str) -> None:
    assert needs(HOSTS[host], settings(**variables)) == account_for(HOSTS[host], settings(**variables)) == missing


def test_replicas_of_an_engine_have_urls_of_their_own() -> None:
    found = account("local", FAREGATE_BASE_URL_LOCAL="http://a:1/v1,http://b:2/v1/")
    assert [found.url(False, number) for number in (0, 1)] == ["http://a:1/v1/chat/completions", "http://b:2/v1/chat/completions"]


@pytest.mark.parametrize("key", ["two words", "line\x01", "schlüssel"])
def test_a_key_that_is_none_is_named_and_not_shown(key: str) -> None:
    with pytest.raises(UnusableKey, match=r"^TOGETHER_API_KEY holds a character .* Remedy: ") as raised:
        account("together", TOGETHER_API_KEY=key)
    assert key not in str(raised.value)


# Keys in files


def test_a_key_in_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    found = account("vertex", VERTEX_ACCESS_TOKEN=f"file:{file}", FAREGATE_BASE_URL_VERTEX=VERTEX)
    assert found.headers("a", False)["authorization"] == "Bearer first"
    renewed = tmp_path / "renewed"
    renewed.write_text("other")
    os.replace(renewed, file)
    assert found.headers("b", False)["authorization"] == "Bearer other"
    assert "first" not in repr(found) and "other" not in repr(found.key)


def test_a_file_written_in_place_is_read_again_too(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    key = KeyFile(file)
    assert key.read() == "first"
    file.write_text("again")
    os.utime(file, ns=(1, 1))
    assert key.read() == "again"


@pytest.mark.parametrize("content", [None, "", "two words", "schlüssel"])
def test_a_file_without_a_key_fails_the_attempt_and_not_the_gateway(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UpstreamError) as raised:
        account("deepinfra", DEEPINFRA_API_KEY=f"file:{file}").headers("a", False)
    assert not raised.value.dispatched and not raised.value.billed
    assert not content or content not in raised.value.message
    file.write_text("mended")
    assert KeyFile(file).read() == "mended"


# Through the whole gateway

ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Four."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
}


class Peer:
    """A host that notes headers and paths, and answers everything with the same answer."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                peer.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                data = json.dumps(ANSWER).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def peer() -> Iterator[Peer]:
    found = Peer()
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_azure_and_vertex_are_asked_with_their_own_ways_of_authentication(peer: Peer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("ya29.first")
    project = "/v1/projects/p/locations/global/endpoints/openapi"
    urls = {"azure": peer.url + "/openai/v1", "vertex": peer.url + project}
    keys = {"VERTEX_ACCESS_TOKEN": f"file:{token}", "AZURE_API_KEY": "azure-key-1"}
    ask = [{"role": "user", "content": "2+2?"}]
    with LiveGateway(tmp_path, hosts=(), settings=keys, urls=urls, clock="2026-11-21T00:00:00Z") as live:
        assert live.chat({"model": "azure/deepseek-v4.1-flash", "messages": ask})[0] == 200
        assert live.chat({"model": "vertex/deepseek-ai/deepseek-v4.1-flash-maas", "messages": ask})[0] == 200
        token.write_text("ya29.second")
        assert live.chat({"model": "vertex/deepseek-ai/deepseek-v4.1-flash-maas", "messages": ask})[0] == 200
        token.unlink()
        status, headers, _ = live.chat({"model": "vertex/deepseek-ai/deepseek-v4.1-flash-maas", "messages": ask})
        assert status == 502 and live.row(headers["x-request-id"])["nano"] == 0
        hosts = get_json(live.admin_url + "/admin/v1/hosts", {"authorization": f"Bearer {ADMIN}"})
        assert {row["host"] for row in (hosts["hosts"] if isinstance(hosts, dict) else hosts) if row["configured"]} == {"azure", "vertex"}
        assert not any(secret in live.log for secret in ("azure-key-1", "ya29"))
    paths = [path for path, _ in peer.seen]
    assert paths == ["/openai/v1/chat/completions", *[project + "/chat/completions"] * 2]
    assert peer.seen[0][1]["api-key"] == "azure-key-1" and "authorization" not in peer.seen[0][1]
    assert [headers["authorization"] for _, headers in peer.seen[1:]] == ["Bearer ya29.first", "Bearer ya29.second"]
