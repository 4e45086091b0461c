"""A whole gateway in front of a small Bedrock: contract, edits, holds, charge and ledger are those of any host."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway import cli
from gateway.policies import default_folder
from tests.bedrock import Bedrock, Play, litellm_python
from tests.harness import ADMIN, LiveGateway, events, get_json, texts

MODEL = "us.deepseek.r1-v1:0"
SECRET = "aws-secret-never-shown"
# A row whose whole answers are asked for as such: nothing of ours could end them early.
WHOLE = "deepseek.v3-v1:0"
FROM = "from: 2025-01-20T00:00:00Z, until: null"
ROW = f"  - {{model: '{WHOLE}', contract: deepseek-v3, context: 128000, max_output: 8192, {FROM}}}\n"
ROUTES = f"""\
- {{route: whole, contract: deepseek-v3, deployments: ['bedrock/{WHOLE}', novita/deepseek/deepseek-v3.2], choose: order}}
- {{route: streamed, contract: deepseek-r1, deployments: ['bedrock/{MODEL}', novita/deepseek/deepseek-r1-0528], choose: order}}

"""
EDITS = (
    ("hosts/bedrock.yaml", "models:\n", f"models:\n{ROW}"),
    ("prices/bedrock.yaml", f'["{MODEL}"]', f'["{MODEL}", "{WHOLE}"]'),
    ("routes.yaml", "- route: deepseek-chat\n", f"{ROUTES}- route: deepseek-chat\n"),
)
# What 41 tokens at 1.35 and 142 at 5.40 dollars a million cost.
BILL = 41 * 1350 + 142 * 5400
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def bedrock() -> Iterator[Bedrock]:
    server = Bedrock()
    yield server
    server.close()


@pytest.fixture(scope="module")
def live(bedrock: Bedrock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGateway]:
    folder = tmp_path_factory.mktemp("bedrock")
    policies = folder / "policies"
    shutil.copytree(default_folder(), policies)
    for name, before, after in EDITS:
        text = (policies / name).read_text()
        assert text.count(before) == 1
        (policies / name).write_text(text.replace(before, after))
    settings = ENVIRONMENT | {"FAREGATE_LITELLM_PYTHON": str(litellm_python()), "FAREGATE_POLICIES": str(policies)}
    with LiveGateway(folder, hosts=("novita",), settings=settings, urls={"bedrock": bedrock.url}) as started:
        yield started


@pytest.fixture
def gateway(live: LiveGateway, bedrock: Bedrock) -> LiveGateway:
    """One gateway and one worker for all; what hosts did to the tests before is forgiven."""
    bedrock.plays.clear()
    bedrock.requests.clear()
    live.reload()
    return live


def chat(gateway: LiveGateway, **fields: Any) -> tuple[int, dict[str, str], bytes]:
    return gateway.chat({"model": f"bedrock/{MODEL}", "messages": [{"role": "user", "content": "2+2?"}], **fields})


def test_a_whole_answer_is_charged_to_the_nano(gateway: LiveGateway, bedrock: Bedrock) -> None:
    status, headers, data = chat(gateway, max_tokens=100, presence_penalty=0.5)
    assert status == 200 and headers["x-faregate-host"] == "bedrock"
    body = json.loads(data)
    assert body["choices"][0]["message"]["reasoning_content"] == "Let me think."
    row = gateway.row(headers["x-request-id"])
    assert row["nano"] == BILL == 822_150
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


# What goes wrong with an answer on which AWS has worked: whether its bill came.
LOST = [
    ("an unknown stop reason", Play(stop="malformed_model_output"), True),
    ("an unknown stop reason and no word", Play(stop="malformed_model_output", reasoning=(), text=("",)), True),
    ("an unknown stop reason and no bill", Play(stop="malformed_model_output", usage=None), False),
    ("an unknown stop reason, no bill and no word", Play(stop="malformed_model_output", usage=None, reasoning=(), text=("",)), False),
    ("cut inside the body", Play(cut=60), False),
    ("cut after the head", Play(cut=0), False),
]


@pytest.mark.parametrize(("route", "stream"), [("whole", False), ("streamed", False), ("streamed", True)])
@pytest.mark.parametrize(("play", "known"), [row[1:] for row in LOST], ids=[row[0] for row in LOST])
def test_an_answer_that_was_lost_is_charged_and_never_paid_for_again_elsewhere(
    gateway: LiveGateway, bedrock: Bedrock, route: str, stream: bool, play: Play, known: bool
) -> None:
    bedrock.plays.append(play)
    status, headers, data = gateway.chat({"model": route, "stream": stream, "messages": [{"role": "user", "content": "2+2?"}]})
    assert [request["action"] for request in bedrock.requests] == ["converse" if route == "whole" else "converse-stream"]
    assert "upstream_error" in data.decode() and (status == 502 or b"[DONE]" not in data)
    row = gateway.row(headers["x-request-id"])
    assert [attempt["host"] for attempt in row["attempts"]] == ["bedrock"]
    assert row["attempts"][0]["billed"] == ("known" if known else "possible")
    assert row["nano"] == BILL if known else row["nano"] > 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_refusal_inside_a_stream_before_a_word_is_free_and_goes_on_elsewhere(
    gateway: LiveGateway, bedrock: Bedrock, stream: bool
) -> None:
    bedrock.plays.append(Play(reasoning=(), text=(), fault=("throttlingException", "Too many tokens.")))
    status, headers, _ = gateway.chat(
        {"model": "streamed", "stream": stream, "messages": [{"role": "user", "content": "2+2? [[answer=5]]"}]}
    )
    assert status == 200 and headers["x-faregate-host"] == "novita"
    attempts = gateway.row(headers["x-request-id"])["attempts"]
    assert [(attempt["host"], attempt["billed"]) for attempt in attempts] == [("bedrock", "none"), ("novita", "known")]


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


def test_credentials_that_aws_refuses_cost_nothing_and_are_not_told(gateway: LiveGateway, bedrock: Bedrock) -> None:
    bedrock.plays.append(Play(status=403, kind="AccessDeniedException", message="User: arn:aws:iam::123456789012:user/x is not"))
    answered, headers, data = chat(gateway)
    assert (answered, json.loads(data)["error"]["code"]) == (502, "upstream_error")
    assert gateway.row(headers["x-request-id"])["nano"] == 0
    assert not any(secret in data + gateway.log.encode() for secret in (SECRET.encode(), b"AKIATEST", b"arn:aws"))


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
