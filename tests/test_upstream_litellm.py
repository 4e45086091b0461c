"""Bedrock through the worker: a real litellm in its own environment, a small Bedrock on loopback with real event-stream frames."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from gateway.dialects import read_error
from gateway.errors import ContextExceeded, UpstreamError, UpstreamTimeout
from gateway.host_errors import refusal
from gateway.upstream.client import HttpUpstream
from gateway.upstream.litellm_adapter import URL, LitellmUpstream, Worker, has_litellm, needs, worker_for
from gateway.upstream.port import Call
from gateway.upstream.switchboard import Switchboard
from tests.bedrock import Bedrock, Play, litellm_python
from tests.harness import events

MODEL = "us.deepseek.r1-v1:0"
SECRET = "aws-secret-never-shown"
# What bedrock.USAGE is here.
COUNTS = {"prompt_tokens": 41, "completion_tokens": 142, "total_tokens": 183}


def account(endpoint: str) -> dict[str, str]:
    return {
        "aws_access_key_id": "AKIATEST",
        "aws_secret_access_key": SECRET,
        "aws_region_name": "us-east-1",
        "aws_bedrock_runtime_endpoint": endpoint,
    }


def worker(endpoint: str, python: Path | None = None) -> Worker:
    return Worker(python or litellm_python(), account(endpoint), connect=2.0, total=60.0)


@pytest.fixture(scope="module")
def bedrock() -> Iterator[Bedrock]:
    server = Bedrock()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def nothing_left(bedrock: Bedrock) -> None:
    bedrock.plays.clear()
    bedrock.requests.clear()
    bedrock.left.clear()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream(bedrock: Bedrock) -> AsyncIterator[LitellmUpstream]:
    found = LitellmUpstream(worker(bedrock.url))
    yield found
    pid, folder = found.pid, found.folder
    await found.close()
    assert pid is None or not running(pid), "it ends with the gateway"
    assert folder is None or not folder.exists()


def call(**fields: Any) -> Call:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "2+2?"}], "max_tokens": 100, **fields}
    return Call(URL + "/chat/completions", {}, json.dumps(body).encode())


async def ask(upstream: LitellmUpstream, **fields: Any) -> tuple[Call, int, bytes]:
    """The call, the status and the whole body of its answer."""
    asked = call(**fields)
    answer = await upstream.open(asked)
    data = bytearray()
    while piece := await answer.read():
        data += piece
    answer.close()
    return asked, answer.status, bytes(data)


def told(data: bytes) -> tuple[str, str, list[str]]:
    """Reasoning, text and finish reasons of a stream."""
    choices = [choice for event in events(data) for choice in event.get("choices", ())]
    deltas = [choice["delta"] for choice in choices]
    reasoning = "".join(delta.get("reasoning_content") or "" for delta in deltas)
    return reasoning, "".join(delta.get("content") or "" for delta in deltas), [c["finish_reason"] for c in choices if c["finish_reason"]]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_stream_of_converse_comes_as_openais(upstream: LitellmUpstream, bedrock: Bedrock) -> None:
    asked, status, data = await ask(upstream, stream=True, stream_options={"include_usage": True}, temperature=0.5, stop=["END"])
    assert (asked.sent, status) == (True, 200)
    assert told(data) == ("Let me think.", "Four, of course.", ["stop"])
    assert events(data)[0]["choices"][0]["delta"]["role"] == "assistant"
    assert events(data)[-1]["usage"] == COUNTS
    assert events(data)[-1]["choices"] == []
    assert data.endswith(b"data: [DONE]\n\n")
    request = bedrock.requests[0]
    assert (request["model"], request["action"]) == ("us.deepseek.r1-v1%3A0", "converse-stream")
    assert request["body"]["inferenceConfig"] == {"maxTokens": 100, "temperature": 0.5, "stopSequences": ["END"]}
    assert bedrock.unsigned == [] and request["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIATEST/")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_whole_answer_of_converse_comes_as_openais(upstream: LitellmUpstream, bedrock: Bedrock) -> None:
    _, status, data = await ask(upstream)
    body = json.loads(data)
    assert status == 200 and body["object"] == "chat.completion" and body["model"] == MODEL
    message = {"role": "assistant", "content": "Four, of course.", "reasoning_content": "Let me think."}
    assert body["choices"] == [{"index": 0, "message": message, "finish_reason": "stop"}]
    assert body["usage"] == COUNTS
    assert bedrock.requests[0]["action"] == "converse"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.asyncio(loop_scope="module")
async def test_usage_that_the_host_does_not_state_is_not_invented(upstream: LitellmUpstream, bedrock: Bedrock, stream: bool) -> None:
    bedrock.plays.append(Play(usage=None))
    _, status, data = await ask(upstream, stream=stream)
    assert status == 200 and b"usage" not in data and b"Four" in data


@pytest.mark.asyncio(loop_scope="module")
async def test_cached_tokens_stand_beside_input_tokens_at_aws_and_among_them_here(upstream: LitellmUpstream, bedrock: Bedrock) -> None:
    usage = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 143, "cacheReadInputTokens": 128, "cacheWriteInputTokens": 0}
    bedrock.plays.append(Play(usage=usage))
    _, _, data = await ask(upstream, stream=True)
    counts = {"prompt_tokens": 138, "completion_tokens": 5, "total_tokens": 143}
    assert events(data)[-1]["usage"] == counts | {"prompt_tokens_details": {"cached_tokens": 128}}


@pytest.mark.parametrize(
    ("stop", "finish"), [("stop_sequence", "stop"), ("max_tokens", "length"), ("guardrail_intervened", "content_filter")]
)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.asyncio(loop_scope="module")
async def test_stop_reasons_are_those_of_the_host(
    upstream: LitellmUpstream, bedrock: Bedrock, stop: str, finish: str, stream: bool
) -> None:
    bedrock.plays.append(Play(stop=stop))
    _, _, data = await ask(upstream, stream=stream)
    assert (told(data)[2] if stream else [json.loads(data)["choices"][0]["finish_reason"]]) == [finish]


@pytest.mark.parametrize(
    "play",
    [
        Play(stop=None),
        Play(stop=None, reset=True),
        Play(stop="malformed_model_output"),
        Play(fault=("throttlingException", "Too many tokens.")),
        Play(fault=("modelStreamErrorException", "The model failed.")),
    ],
    ids=["no messageStop", "reset", "an unknown stop reason", "throttled inside", "failed inside"],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_stream_without_a_known_end_has_failed(upstream: LitellmUpstream, bedrock: Bedrock, play: Play) -> None:
    """litellm would make `stop` of most of them."""
    bedrock.plays.append(play)
    _, status, data = await ask(upstream, stream=True)
    assert status == 200 and told(data)[2] == [] and b"[DONE]" not in data
    # A reset takes along what its reader had not taken yet; and without any text an error would say that nothing was billed.
    assert (play.reset and not events(data)) or "error" in events(data)[-1]
    assert play.reset or told(data)[:2] == ("Let me think.", "Four, of course.")
    if play.fault:
        assert (events(data)[-1]["error"]["type"], events(data)[-1]["error"]["message"]) == play.fault
    bill = COUNTS if play.stop == "malformed_model_output" else None
    assert not events(data) or events(data)[-1].get("usage") == bill


SILENT: dict[str, Any] = {"reasoning": (), "text": ()}
# A stream in which nothing was said that the gateway can see: what it ends with.
QUIET = [
    ("refused before a word", Play(**SILENT, fault=("throttlingException", "Too many tokens.")), ["throttlingException"]),
    ("failed after hidden words", Play(reasoning=(), text=("",), fault=("modelStreamErrorException", "It failed.")), []),
    ("no messageStop", Play(**SILENT, stop=None), []),
    ("cut at once", Play(**SILENT, cut=0), []),
    ("cut inside a frame", Play(**SILENT, cut=50), []),
    ("an unknown stop reason without a bill", Play(**SILENT, stop="malformed_model_output", usage=None), []),
    ("an unknown stop reason with a bill", Play(**SILENT, stop="malformed_model_output"), ["upstream_error"]),
]


@pytest.mark.parametrize(("play", "errors"), [row[1:] for row in QUIET], ids=[row[0] for row in QUIET])
@pytest.mark.asyncio(loop_scope="module")
async def test_an_error_before_any_word_is_told_only_where_nothing_was_billed_or_the_bill_is_known(
    upstream: LitellmUpstream, bedrock: Bedrock, play: Play, errors: list[str]
) -> None:
    """A gateway takes it for free; a stream that just ends is not."""
    bedrock.plays.append(play)
    _, status, data = await ask(upstream, stream=True)
    assert status == 200 and b"[DONE]" not in data
    assert [event["error"]["type"] for event in events(data)] == errors
    assert len(bedrock.requests) == 1, "sent once, never again"


# Whole answers that have no end: text and usage that AWS gave all the same, and whether litellm could read them.
ENDLESS = [
    ("an unknown stop reason", Play(stop="malformed_model_output"), True),
    ("an unknown stop reason without a bill", Play(stop="malformed_model_output", usage=None), True),
    ("an unknown stop reason without a word", Play(**SILENT, stop="malformed_model_output"), True),
    ("no stop reason", Play(stop=None), False),
]


@pytest.mark.parametrize(("play", "readable"), [row[1:] for row in ENDLESS], ids=[row[0] for row in ENDLESS])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_whole_answer_without_a_known_end_is_an_error_with_what_was_billed(
    upstream: LitellmUpstream, bedrock: Bedrock, play: Play, readable: bool
) -> None:
    bedrock.plays.append(play)
    asked, status, data = await ask(upstream)
    body = json.loads(data)
    assert (asked.sent, status, "error" in body) == (True, 200, True)
    assert body.get("usage") == (COUNTS if play.usage else None)
    if readable:
        message = body["choices"][0]["message"]
        assert (message["content"], message.get("reasoning_content")) == ("".join(play.text), "".join(play.reasoning) or None)
        assert body["choices"][0]["finish_reason"] is None


# Whole answers of which nothing is known but that AWS was asked for them.
LOST = [
    ("no end, no bill, no word", Play(stop=None, usage=None, reasoning=(), text=("",))),
    ("cut before the body", Play(cut=0)),
    ("cut inside the body", Play(cut=40)),
]


@pytest.mark.parametrize("play", [row[1] for row in LOST], ids=[row[0] for row in LOST])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_whole_answer_that_was_lost_may_have_been_billed(upstream: LitellmUpstream, bedrock: Bedrock, play: Play) -> None:
    bedrock.plays.append(play)
    asked = call()
    with pytest.raises(UpstreamError) as raised:
        await upstream.open(asked)
    assert (raised.value.dispatched, raised.value.billed, raised.value.retry, asked.sent) == (True, True, False, True)
    assert len(bedrock.requests) == 1, "sent once, never again"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_refusal_whose_text_breaks_off_is_a_refusal(upstream: LitellmUpstream, bedrock: Bedrock, stream: bool) -> None:
    bedrock.plays.append(Play(status=429, cut=5))
    asked, status, _ = await ask(upstream, stream=stream)
    assert (asked.sent, status) == (True, 429)


# status and name at AWS -> status here, class of the client's error
REFUSALS = [
    (400, "ValidationException", "The maximum tokens you requested exceeds the model limit.", 400, "invalid_request"),
    (400, "ValidationException", "Input is too long for requested model.", 400, "context_exceeded"),
    (403, "AccessDeniedException", "User: arn:aws:iam::123456789012:user/x is not authorized", 403, "upstream_error"),
    (404, "ResourceNotFoundException", "This model version has reached the end of its life.", 404, "model_not_found"),
    (408, "ModelTimeoutException", "The model took too long.", 504, "upstream_timeout"),
    (424, "ModelErrorException", "The model failed.", 502, "upstream_error"),
    (429, "ThrottlingException", "Too many requests.", 429, "rate_limited"),
    (500, "InternalServerException", "Try again.", 500, "upstream_error"),
    (503, "ServiceUnavailableException", "Try again.", 503, "upstream_error"),
]


@pytest.mark.parametrize(("status", "kind", "text", "here", "code"), REFUSALS, ids=[f"{row[0]} {row[4]}" for row in REFUSALS])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.asyncio(loop_scope="module")
async def test_an_error_of_aws_keeps_its_status_and_its_words(
    upstream: LitellmUpstream, bedrock: Bedrock, status: int, kind: str, text: str, here: int, code: str, stream: bool
) -> None:
    bedrock.plays.append(Play(status=status, kind=kind, message=text))
    asked, answered, data = await ask(upstream, stream=stream)
    assert (asked.sent, answered) == (True, here)
    error = read_error(answered, data)
    assert (error.message, error.code) == (text, kind)
    told = refusal("bedrock", answered, error)
    assert told.code == code and isinstance(told, ContextExceeded) == (code == "context_exceeded")
    assert "arn:aws" not in told.message
    assert len(bedrock.requests) == 1, "sent once, never again"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.asyncio(loop_scope="module")
async def test_what_aws_says_never_has_the_credentials_that_it_was_sent(bedrock: Bedrock, stream: bool) -> None:
    """The canonical string of a signature that does not match has the session's token in it."""
    token = "IQoJb3JpZ2luX2VjE/abc+def==/" * 9
    upstream = LitellmUpstream(replace(worker(bedrock.url), account=account(bedrock.url) | {"aws_session_token": token}))
    said = "x " * 900 + f"Credential=AKIATEST/20261122, x-amz-security-token:{token}. Go on."
    bedrock.plays += [Play(status=400, kind="ValidationException", message=said), Play(text=(), fault=("validationException", said))]
    found = [(await ask(upstream, stream=way))[2].decode() for way in (stream, True)]
    await upstream.close()
    assert [text for text in found if "AKIATEST" in text or token[:28] in text or "Go on." not in text] == []


@pytest.mark.asyncio(loop_scope="module")
async def test_when_to_come_again_is_passed_on(upstream: LitellmUpstream, bedrock: Bedrock) -> None:
    bedrock.plays.append(Play(status=429, headers={"retry-after": "7"}))
    answer = await upstream.open(call(stream=True))
    assert (answer.status, answer.retry_after) == (429, "7")
    answer.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_tools_are_refused_before_anything_is_sent(upstream: LitellmUpstream, bedrock: Bedrock) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    asked, status, data = await ask(upstream, tools=[tool])
    assert (asked.sent, status, bedrock.requests) == (False, 400, [])
    assert "'tools'" in read_error(status, data).message


@pytest.mark.parametrize("fields", [{"logit_bias": {}}, {"messages": "hello"}, {"model": ""}])
@pytest.mark.asyncio(loop_scope="module")
async def test_what_converse_cannot_carry_is_refused_before_anything_is_sent(
    upstream: LitellmUpstream, bedrock: Bedrock, fields: dict[str, Any]
) -> None:
    asked, status, _ = await ask(upstream, **fields)
    assert (asked.sent, status, bedrock.requests) == (False, 400, [])


@pytest.mark.asyncio(loop_scope="module")
async def test_a_hundred_and_fifty_equal_chunks_are_an_answer(upstream: LitellmUpstream, bedrock: Bedrock) -> None:
    """litellm takes a hundred for a fault of the model, unless it is told otherwise."""
    bedrock.plays.append(Play(text=("|---",) * 150))
    _, _, data = await ask(upstream, stream=True)
    assert told(data)[1:] == ("|---" * 150, ["stop"])


@pytest.mark.asyncio(loop_scope="module")
async def test_chunks_come_when_the_host_sends_them(upstream: LitellmUpstream, bedrock: Bedrock) -> None:
    bedrock.plays.append(Play(text=("a",) * 40, pause=0.05))
    answer = await upstream.open(call(stream=True))
    first = await answer.read()
    assert b"[DONE]" not in first and not answer.ended
    answer.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_client_that_leaves_ends_the_hosts_stream(upstream: LitellmUpstream, bedrock: Bedrock) -> None:
    bedrock.plays.append(Play(text=("word ",) * 2000, pause=0.005))
    answer = await upstream.open(call(stream=True))
    await answer.read()
    answer.close()
    assert await asyncio.to_thread(bedrock.left.wait, 5), "Bedrock still writes to somebody"


@pytest.mark.asyncio(loop_scope="module")
async def test_what_a_host_that_is_away_was_sent() -> None:
    """Nothing where nobody listens, and where nobody accepts in time; what it does not answer in time may have been billed."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        place = listener.getsockname()
        upstream = LitellmUpstream(Worker(litellm_python(), account(f"http://127.0.0.1:{place[1]}"), connect=0.3, total=0.5))
        for asked in (call(stream=True), call()):
            with pytest.raises(UpstreamError) as raised:
                await upstream.open(asked)
            assert (raised.value.dispatched, raised.value.billed, asked.sent) == (False, False, False)
        listener.listen(1)
        for asked in (call(stream=True), call()):
            with pytest.raises(UpstreamTimeout) as late:
                await upstream.open(asked)
            assert (late.value.dispatched, late.value.billed, asked.sent) == (True, True, True)
        full = [socket.socket() for _ in range(4)]
        for one in full:
            one.setblocking(False)
            one.connect_ex(place)
        asked = call()
        with pytest.raises(UpstreamTimeout) as late:
            await upstream.open(asked)
        assert (late.value.dispatched, late.value.billed, asked.sent) == (False, False, False)
        await upstream.close()
        for one in full:
            one.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_worker_that_dies_breaks_its_answers_and_is_replaced(upstream: LitellmUpstream, bedrock: Bedrock) -> None:
    bedrock.plays.append(Play(text=("word ",) * 2000, pause=0.005))
    answer = await upstream.open(call(stream=True))
    await answer.read()
    bedrock.plays.append(Play(hang=True))
    waiting = asyncio.ensure_future(upstream.open(call()))
    await asyncio.to_thread(until, lambda: len(bedrock.requests) == 2)
    first = pid_of(upstream)
    os.kill(first, signal.SIGKILL)
    with pytest.raises(UpstreamError) as raised:
        while await answer.read():
            pass
    answer.close()
    with pytest.raises(UpstreamError) as lost:
        await waiting
    assert raised.value.billed and lost.value.billed
    await asyncio.to_thread(until, lambda: upstream.pid is None)
    assert (await ask(upstream))[1] == 200
    assert pid_of(upstream) != first


def pid_of(upstream: LitellmUpstream) -> int:
    assert upstream.pid is not None
    return upstream.pid


@pytest.mark.asyncio(loop_scope="module")
async def test_the_worker_knows_nothing_but_its_own_host(upstream: LitellmUpstream) -> None:
    await ask(upstream)
    environment, command = seen_of(pid_of(upstream))
    assert SECRET.encode() not in environment + command
    assert not {pair.partition(b"=")[0] for pair in environment.split(b"\0") if pair} - {b"PATH", b"LANG", b"TZ"}


KILLED = """
import asyncio, json, os, sys
from pydantic import SecretStr
from gateway.upstream.litellm_adapter import LitellmUpstream, worker_for
from tests.test_upstream_litellm import ask
async def main():
    found = {name: SecretStr(value) for name, value in json.loads(sys.argv[2]).items()}
    upstream = LitellmUpstream(worker_for(found.get, None, sys.argv[1], 2.0, 60.0))
    status = (await ask(upstream))[1]
    print(status, upstream.pid, upstream.folder, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_a_worker_finds_the_keys_of_a_role_and_ends_also_when_the_gateway_is_killed(bedrock: Bedrock) -> None:
    """As in a container at AWS: an address that answers with temporary keys."""
    keys = {"AccessKeyId": "ASIAROLE", "SecretAccessKey": "role-secret", "Token": "role-token", "Expiration": "2099-01-01T00:00:00Z"}
    bedrock.credentials = keys
    named = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": bedrock.url + "/credentials", "AWS_REGION": "us-east-1"}
    command = [sys.executable, "-c", KILLED, bedrock.url, json.dumps(named)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None
        status, pid, folder = gateway.stdout.readline().split()
        gateway.kill()
    assert status == "200" and "Credential=ASIAROLE/" in bedrock.requests[0]["authorization"]
    until(lambda: not running(int(pid)))
    assert not Path(folder).exists()


def seen_of(pid: int) -> tuple[bytes, bytes]:
    """The environment and the command line of a process."""
    return Path(f"/proc/{pid}/environ").read_bytes(), Path(f"/proc/{pid}/cmdline").read_bytes()


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.01)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.asyncio(loop_scope="module")
async def test_a_worker_that_cannot_start_says_why_and_nothing_was_sent(bedrock: Bedrock) -> None:
    upstream = LitellmUpstream(worker(bedrock.url, Path(sys.executable)))
    asked = call()
    for _ in range(2):
        with pytest.raises(UpstreamError, match="cannot start: cannot import") as raised:
            await upstream.open(asked)
        assert not raised.value.dispatched and not asked.sent
    await upstream.close()
    upstream = LitellmUpstream(worker(bedrock.url, Path("/no/such/python")))
    with pytest.raises(UpstreamError, match="cannot start: /no/such/python cannot be started"):
        await upstream.open(asked)
    await upstream.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_worker_that_cannot_start_is_not_started_for_every_request(bedrock: Bedrock, tmp_path: Path) -> None:
    python, starts = tmp_path / "python", tmp_path / "starts"
    python.write_text(f"#!/bin/sh\necho >> {starts}\n")
    python.chmod(0o755)
    upstream = LitellmUpstream(worker(bedrock.url, python))
    for _ in range(3):
        with pytest.raises(UpstreamError, match="it ended without a word"):
            await upstream.open(call())
    await upstream.close()
    assert starts.read_text() == "\n"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_switchboard_sends_each_call_where_it_belongs(upstream: LitellmUpstream, bedrock: Bedrock) -> None:
    http = HttpUpstream(2.0)
    board = Switchboard(http, upstream)
    answer = await board.open(call())
    assert answer.status == 200 and len(bedrock.requests) == 1
    answer.close()
    direct = await board.open(Call(f"{bedrock.url}/model/x/converse", {"authorization": "none"}, b"{}"))
    assert direct.status == 200 and bedrock.unsigned.pop() == "/model/x/converse"
    direct.close()
    await http.close()
    alone = Switchboard(HttpUpstream(2.0), None)
    with pytest.raises(UpstreamError) as raised:
        await alone.open(call())
    assert not raised.value.dispatched
    await alone.close()


# What is configured

ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}


def variables(**changed: str | None) -> Any:
    found = ENVIRONMENT | changed
    return lambda name: SecretStr(value) if (value := found.get(name)) else None


@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_missing_is_named_with_its_remedy() -> None:
    python = litellm_python()
    assert needs(variables(), python) is None
    assert needs(variables(AWS_REGION=None, AWS_DEFAULT_REGION="us-west-2"), python) is None
    assert needs(variables(AWS_SECRET_ACCESS_KEY=None, AWS_REGION=None), python) == "AWS_SECRET_ACCESS_KEY and AWS_REGION"
    assert "has none" in str(needs(variables(), Path(sys.executable)))
    assert needs(variables(), None) is None, "`make litellm` made one where it is looked for"
    assert not has_litellm(Path(sys.executable)) and not has_litellm(Path("/no/such/python"))


@pytest.mark.asyncio(loop_scope="module")
async def test_a_worker_is_told_the_account_and_shows_none_of_it() -> None:
    found = worker_for(variables(AWS_SESSION_TOKEN="temporary-token"), litellm_python(), "http://127.0.0.1:1", 5.0, 60.0)
    assert found is not None
    assert found.account == account("http://127.0.0.1:1") | {"aws_session_token": "temporary-token"}
    assert SECRET not in repr(found) and "temporary-token" not in repr(found)
    assert worker_for(variables(AWS_REGION=None), litellm_python(), None, 5.0, 60.0) is None


# Starting, stopping, and a role's keys


@pytest.mark.asyncio(loop_scope="module")
async def test_a_stop_of_the_whole_service_does_not_take_the_worker_before_the_gateway(upstream: LitellmUpstream) -> None:
    await ask(upstream)
    pid = pid_of(upstream)
    for signaled in (signal.SIGTERM, signal.SIGINT):
        os.kill(pid, signaled)
    assert (await ask(upstream))[1] == 200 and pid_of(upstream) == pid


@pytest.mark.asyncio(loop_scope="module")
async def test_a_gateway_that_closes_while_its_worker_starts_does_not_wait_for_it(bedrock: Bedrock, tmp_path: Path) -> None:
    python, started = tmp_path / "python", tmp_path / "pid"
    python.write_text(f"#!/bin/sh\necho $$ > {started}.new && mv {started}.new {started}\nexec sleep 60\n")
    python.chmod(0o755)
    upstream = LitellmUpstream(worker(bedrock.url, python))
    waiting = asyncio.ensure_future(upstream.open(call()))
    await asyncio.to_thread(until, started.exists)
    begun = time.monotonic()
    await upstream.close()
    assert time.monotonic() - begun < 4
    await asyncio.to_thread(until, lambda: not running(int(started.read_text())))
    with pytest.raises((UpstreamError, asyncio.CancelledError)):
        await waiting


def test_a_worker_with_a_role_is_told_no_keys_and_where_they_are() -> None:
    named = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/credentials", "AWS_REGION": "us-east-1"}
    without = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
    assert needs(variables(**without, **named), litellm_python()) is None
    found = worker_for(variables(**without, **named), None, "http://127.0.0.1:1", 2.0, 60.0)
    assert found is not None and set(found.account) == {"aws_region_name", "aws_bedrock_runtime_endpoint"}
    assert {name for name in found.environment if name.startswith("AWS_")} == set(named)
