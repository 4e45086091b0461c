"""More hosts, each played by its emulator: served by their own wire, charged as their own bills say, refused in their own words."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from gateway.assemble import normalise_answer
from gateway.dialects import inline_splitter, read_error
from gateway.hosts import Deployment
from gateway.meter import Meter
from tests.asking import deployment
from tests.harness import LiveGateway, events, texts

AT = "2026-11-21T12:00:00Z"
MODELS = {
    "deepinfra": "deepseek-ai/DeepSeek-V4-Pro-0813",
    "together": "deepseek-ai/DeepSeek-V4-Pro-0813",
    "fireworks": "accounts/fireworks/models/deepseek-v4p1-flash",
    "siliconflow": "deepseek-ai/DeepSeek-R1",
}
ASK = [{"role": "user", "content": "Why is the sky blue? [[answer=30 reasoning=40]]"}]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGateway]:
    with LiveGateway(tmp_path_factory.mktemp("hosts"), hosts=tuple(MODELS), clock=AT) as live:
        yield live


@pytest.mark.parametrize("host", MODELS)
@pytest.mark.parametrize("stream", [True, False])
def test_a_host_serves_and_the_row_is_its_bill(gateway: LiveGateway, host: str, stream: bool) -> None:
    gateway.hosts[host].reset()
    body = {"model": f"{host}/{MODELS[host]}", "messages": ASK, "stream": stream, "max_tokens": 500}
    status, headers, data = gateway.chat(body)
    assert status == 200 and headers["x-faregate-host"] == host
    if stream:
        reasoning, answer = texts(data)
    else:
        message = json.loads(data)["choices"][0]["message"]
        reasoning, answer = message["reasoning_content"], message["content"]
    assert reasoning and answer
    row, bill = gateway.row(headers["x-request-id"]), gateway.hosts[host].bill()[headers["x-request-id"]]
    assert row["nano"] == bill["nano"] > 0
    assert row["usage"]["output"] == bill["output"]
    assert row["usage"]["sources"]["cache_hit"] == ("unknown" if host == "together" else "reported")


@pytest.mark.parametrize("host", MODELS)
def test_a_refusal_is_read_in_the_hosts_own_form(gateway: LiveGateway, host: str) -> None:
    gateway.hosts[host].faults({"status": 500}, {"status": 500}, {"status": 500})
    status, headers, data = gateway.chat({"model": f"{host}/{MODELS[host]}", "messages": ASK})
    gateway.hosts[host].reset()
    assert status == 502 and host in json.loads(data)["error"]["message"]
    assert gateway.row(headers["x-request-id"])["nano"] == 0


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, b'{"code":20012,"message":"Model does not exist. Please check it carefully.","data":null}', "Model does not exist."),
        (401, b'{"code":30014,"message":"Token is invalid.","data":null}', "Token is invalid."),
        (429, b'{"message":"Request was rejected due to rate limiting. Details:TPM limit reached.","code":50603}', "TPM limit reached."),
        (404, b'{"error":{"code":404,"message":"Publisher model was not found.","status":"NOT_FOUND"}}', "was not found."),
        (429, b'[{"error":{"code":429,"message":"Resource exhausted.","status":"RESOURCE_EXHAUSTED"}}]', "Resource exhausted."),
    ],
)
def test_what_siliconflow_and_google_say_is_understood(status: int, body: bytes, message: str) -> None:
    found = read_error(status, body)
    assert found.status in (None, status) and (message in found.message)


def test_deepinfra_ends_every_answer_at_its_cap(gateway: LiveGateway) -> None:
    status, headers, _ = gateway.chat({"model": f"deepinfra/{MODELS['deepinfra']}", "messages": ASK, "max_tokens": 100_000})
    assert status == 200 and "max_tokens=100000->16384" in headers["x-faregate-edits"]
    received = gateway.hosts["deepinfra"].requests()[-1]
    assert received.get("body", received)["max_tokens"] == 16384


def test_reasoning_beyond_the_output_is_added_to_it() -> None:
    """DeepInfra counts it beside the answer."""
    meter = Meter(deployment("deepinfra/deepseek-ai/DeepSeek-R1-0528", AT), 10)
    usage = {"prompt_tokens": 10, "completion_tokens": 20, "completion_tokens_details": {"reasoning_tokens": 100}}
    meter.feed_answer({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": usage})
    assert (meter.usage().output, meter.usage().reasoning) == (120, 100)


def together(model: str) -> Deployment:
    return deployment(f"together/deepseek-ai/{model}", AT)


def test_together_thinks_inside_the_text_of_r1_only() -> None:
    splitter = inline_splitter(together("DeepSeek-R1-0528"))
    assert splitter is not None and splitter.feed("Well.</think>\n\nFour.") == ("Well.", "Four.")
    assert inline_splitter(together("DeepSeek-V4-Pro-0813")) is None
    body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "<think>Well.</think>Four."}, "finish_reason": "stop"}]}
    assert normalise_answer(body, together("DeepSeek-R1-0528"))
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Four.", "reasoning_content": "Well."}


def test_a_stream_ends_with_its_usage(gateway: LiveGateway) -> None:
    body = {"model": f"fireworks/{MODELS['fireworks']}", "messages": ASK, "stream": True, "stream_options": {"include_usage": True}}
    status, _, data = gateway.chat(body)
    assert status == 200 and events(data)[-1]["usage"]["cost"] > 0
