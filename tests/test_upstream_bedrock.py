"""A whole gateway in front of a small Bedrock: contract, edits, holds, charge and ledger are those of any host."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway import cli
from tests.bedrock import Bedrock, Play, litellm_python
from tests.harness import ADMIN, LiveGateway, events, get_json, texts

MODEL = "us.deepseek.r1-v1:0"
SECRET = "aws-secret-never-shown"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def bedrock() -> Iterator[Bedrock]:
    server = Bedrock()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def nothing_left(bedrock: Bedrock) -> None:
    bedrock.plays.clear()
    bedrock.requests.clear()


@pytest.fixture(scope="module")
def gateway(bedrock: Bedrock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGateway]:
    settings = ENVIRONMENT | {"FAREGATE_LITELLM_PYTHON": str(litellm_python())}
    with LiveGateway(tmp_path_factory.mktemp("bedrock"), hosts=(), settings=settings, urls={"bedrock": bedrock.url}) as live:
        yield live


def chat(gateway: LiveGateway, **fields: Any) -> tuple[int, dict[str, str], bytes]:
    return gateway.chat({"model": f"bedrock/{MODEL}", "messages": [{"role": "user", "content": "2+2?"}], **fields})


def test_a_whole_answer_is_charged_to_the_nano(gateway: LiveGateway, bedrock: Bedrock) -> None:
    status, headers, data = chat(gateway, max_tokens=100, presence_penalty=0.5)
    assert status == 200 and headers["x-faregate-host"] == "bedrock"
    body = json.loads(data)
    assert body["choices"][0]["message"]["reasoning_content"] == "Let me think."
    row = gateway.row(headers["x-request-id"])
    # 41 tokens at 1.35 and 142 at 5.40 dollars a million.
    assert row["nano"] == 41 * 1350 + 142 * 5400 == 822_150
    assert row["usage"]["sources"]["output"] == "reported" and row["usage"]["sources"]["cache_hit"] == "unknown"
    assert "drop_presence_penalty" in headers["x-faregate-edits"]
    assert "presencePenalty" not in json.dumps(bedrock.requests)


def test_a_stream_is_charged_to_the_nano(gateway: LiveGateway) -> None:
    status, headers, data = chat(gateway, stream=True, stream_options={"include_usage": True})
    assert status == 200 and texts(data) == ("Let me think.", "Four, of course.")
    usage = next(event["usage"] for event in events(data) if event.get("usage"))
    assert (usage["cost"], usage["prompt_tokens"], usage["completion_tokens"]) == (0.00082215, 41, 142)
    assert gateway.row(headers["x-request-id"])["nano"] == 822_150


def test_a_stream_that_breaks_off_is_an_error_and_is_charged_by_count(gateway: LiveGateway, bedrock: Bedrock) -> None:
    bedrock.plays.append(Play(stop=None))
    status, headers, data = chat(gateway, stream=True)
    assert status == 200 and b"[DONE]" not in data and events(data)[-1]["error"]["code"] == "upstream_error"
    row = gateway.row(headers["x-request-id"])
    assert row["nano"] > 0 and row["usage"]["sources"]["output"] == "counted" and row["attempts"][-1]["billed"] == "possible"


def test_being_throttled_costs_nothing(gateway: LiveGateway, bedrock: Bedrock) -> None:
    bedrock.plays.append(Play(status=429))
    answered, headers, data = chat(gateway)
    assert (answered, json.loads(data)["error"]["code"]) == (429, "rate_limited")
    assert gateway.row(headers["x-request-id"])["nano"] == 0


def test_tools_are_refused_with_the_vendors_words(gateway: LiveGateway, bedrock: Bedrock) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    status, _, data = chat(gateway, tools=[tool])
    assert status == 400 and "does not support Function Calling" in json.loads(data)["error"]["message"]
    assert bedrock.requests == []


def test_reasoning_of_earlier_turns_is_removed(gateway: LiveGateway, bedrock: Bedrock) -> None:
    said = {"role": "assistant", "content": "Four.", "reasoning_content": "Two and two."}
    turns = [{"role": "user", "content": "2+2?"}, said, {"role": "user", "content": "And 3?"}]
    status, headers, _ = gateway.chat({"model": f"bedrock/{MODEL}", "messages": turns})
    assert status == 200 and "drop_reasoning_content" in headers["x-faregate-edits"]
    assert "Two and two" not in json.dumps(bedrock.requests[0]["body"])


def test_nothing_secret_is_in_the_log_and_the_host_is_shown(gateway: LiveGateway) -> None:
    hosts = get_json(gateway.admin_url + "/admin/v1/hosts", {"authorization": f"Bearer {ADMIN}"})
    found = {row["host"]: row for row in (hosts["hosts"] if isinstance(hosts, dict) else hosts)}
    assert found["bedrock"]["configured"] and found["azure"]["needs"] == "AZURE_API_KEY and FAREGATE_BASE_URL_AZURE"
    assert SECRET not in gateway.log and "AKIATEST" not in gateway.log and "2+2" not in gateway.log


def test_credentials_that_aws_refuses_cost_nothing_and_are_not_told(bedrock: Bedrock, tmp_path: Path) -> None:
    settings = ENVIRONMENT | {"FAREGATE_LITELLM_PYTHON": str(litellm_python())}
    with LiveGateway(tmp_path, hosts=(), settings=settings, urls={"bedrock": bedrock.url}) as live:
        bedrock.plays.append(Play(status=403, kind="AccessDeniedException", message="User: arn:aws:iam::123456789012:user/x is not"))
        answered, headers, data = chat(live)
        assert (answered, json.loads(data)["error"]["code"]) == (502, "upstream_error")
        assert live.row(headers["x-request-id"])["nano"] == 0
        assert not any(secret in data + live.log.encode() for secret in (SECRET.encode(), b"AKIATEST", b"arn:aws"))


def test_the_emulator_says_that_it_cannot_play_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["emulate", "--host", "bedrock", "--port", "0"]) == 2
    assert "bedrock does not speak OpenAI's protocol" in capsys.readouterr().err


def test_without_litellm_the_host_is_left_out_and_says_so(bedrock: Bedrock, tmp_path: Path) -> None:
    settings = ENVIRONMENT | {"FAREGATE_LITELLM_PYTHON": sys.executable}
    with LiveGateway(tmp_path, hosts=(), settings=settings, urls={"bedrock": bedrock.url}) as live:
        hosts = get_json(live.admin_url + "/admin/v1/hosts", {"authorization": f"Bearer {ADMIN}"})
        found = {row["host"]: row for row in (hosts["hosts"] if isinstance(hosts, dict) else hosts)}
        assert not found["bedrock"]["configured"] and "FAREGATE_LITELLM_PYTHON" in found["bedrock"]["needs"]
        assert live.chat({"model": f"bedrock/{MODEL}", "messages": [{"role": "user", "content": "hi"}]})[0] == 503
