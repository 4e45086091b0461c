"""What a host bills after our limit has ended its answer, and what it reports where it fails: charged as it will bill, never as nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import Raw

from gateway.dialects import decode_chunk
from gateway.meter import Meter
from gateway.shape import StreamShape
from tests.answers import deployment
from tests.harness import LiveGateway
from tests.scripted import DONE, JSON, Script, ScriptedHost, chunk, usage

WORDS = [chunk("word ")] * 500
QUIET = "2026-11-20T12:00:00Z"
BILLS_ON, COSTS = "deepseek-r1", "openrouter/deepseek/deepseek-r1-0528"
ZEROS = usage(0, 0)


@pytest.fixture(scope="module")
def host() -> Iterator[ScriptedHost]:
    scripted = ScriptedHost()
    yield scripted
    scripted.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, host: ScriptedHost) -> Iterator[LiveGateway]:
    urls = {"deepseek": host.url, "openrouter": host.url}
    live = LiveGateway(tmp_path_factory.mktemp("last"), (), QUIET, {"FAREGATE_TIMEOUT_IDLE": "1"}, urls)
    yield live
    live.close()


def ask(gateway: LiveGateway, host: ScriptedHost, script: Script, model: str, **more: Any) -> tuple[int, bytes, dict[str, Any]]:
    """Status and body of the answer, and the ledger's row of it."""
    # Who reloads has mended something: what failed before is asked again at once.
    gateway.reload()
    host.forget()
    host.play(script)
    status, headers, data = gateway.chat({"model": model, "messages": [{"role": "user", "content": "hi there"}], **more})
    return status, data, gateway.row(headers["x-request-id"])


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("rest", "output"),
    [
        ([*WORDS, chunk(finish="stop", usage=usage(9, 777)), DONE], 777),
        ([*WORDS, chunk(finish="stop"), DONE], 500),
        ([*WORDS], 500),
        ([*WORDS, threading.Event()], 500),
    ],
    ids=["its bill comes", "no bill", "it breaks off", "it says nothing more"],
)
def test_what_is_written_after_our_limit_is_charged_and_the_answer_is_whole(
    gateway: LiveGateway, host: ScriptedHost, stream: bool, rest: list[Any], output: int
) -> None:
    status, data, row = ask(gateway, host, Script(rest), BILLS_ON, max_tokens=10, stream=stream)
    for gate in rest:
        if isinstance(gate, threading.Event):
            gate.set()
    assert (status, row["status"], row["stopped"]) == (200, "stopped", "limit")
    assert row["usage"]["output"] == pytest.approx(output, abs=2)
    if stream:
        assert data.endswith(DONE) and b'"finish_reason":"length"' in data.replace(b": ", b":")
    else:
        assert json.loads(data)["choices"][0]["finish_reason"] == "length"


def failing(used: dict[str, Any] | None) -> bytes:
    body: dict[str, Any] = {"error": {"message": "overloaded", "code": 502}, "choices": []}
    return b"data: " + json.dumps(body | ({"usage": used} if used else {})).encode() + b"\n\n"


def beside(used: dict[str, Any] | None, status: int = 200) -> Script:
    """A whole body with an error and text."""
    choices = [{"index": 0, "message": {"role": "assistant", "content": "word " * 500}, "finish_reason": "error"}]
    body: dict[str, Any] = {"choices": choices, "error": {"message": "overloaded", "code": 502}}
    return Script([json.dumps(body | ({"usage": used} if used else {})).encode()], JSON, status)


@pytest.mark.parametrize("used", [None, ZEROS, usage(9, 0)], ids=["nothing", "zeros", "a prompt only"])
@pytest.mark.parametrize(
    ("kind", "stream"),
    [("event", True), ("abort", True), ("beside", False), ("refused", False)],
    ids=["event", "abort", "beside", "refused"],
)
def test_a_host_that_fails_after_it_has_written_is_charged_for_what_it_wrote(
    gateway: LiveGateway, host: ScriptedHost, kind: str, stream: bool, used: dict[str, Any] | None
) -> None:
    scripts = {
        "event": Script([*WORDS, failing(used)]),
        "abort": Script([*WORDS, chunk(finish="abort", usage=used), DONE]),
        "beside": beside(used),
        "refused": beside(used, 400),
    }
    _, _, row = ask(gateway, host, scripts[kind], "deepseek/deepseek-flash", stream=stream)
    assert row["usage"]["output"] >= 500
    assert row["attempts"][0]["billed"] == "possible"
    assert row["disputed"] is (used is not None)


def test_zeros_never_take_back_what_was_reported(gateway: LiveGateway, host: ScriptedHost) -> None:
    late = b"data: " + json.dumps({"choices": [], "usage": ZEROS}).encode() + b"\n\n"
    script = Script([*WORDS, chunk(finish="stop", usage=usage(9, 501)), late, DONE])
    _, _, row = ask(gateway, host, script, "deepseek/deepseek-flash", stream=True)
    assert (row["usage"]["cache_miss"], row["usage"]["output"], row["attempts"][0]["billed"]) == (9, 501, "known")


UNREADABLE = {
    "endless": b'{"prompt_tokens":%b,"completion_tokens":5}' % (b"9" * 5000),
    "bottomless": b'{"prompt_tokens":%b1%b,"completion_tokens":5}' % (b"[" * 900, b"]" * 900),
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("asks", [False, True], ids=["asks for no usage", "asks for usage"])
@pytest.mark.parametrize("reported", [None, usage(9, 501)], ids=["alone", "after a bill"])
def test_figures_that_cannot_be_read_are_no_bill_and_the_answer_is_whole(
    gateway: LiveGateway, host: ScriptedHost, reported: dict[str, Any] | None, asks: bool, kind: str
) -> None:
    last = [chunk(finish="stop", usage=reported), b'data: {"choices":[],"usage":%b}\n\n' % UNREADABLE[kind]]
    more: dict[str, Any] = {"stream_options": {"include_usage": True}} if asks else {}
    status, data, row = ask(gateway, host, Script([*WORDS, *last, DONE]), "deepseek/deepseek-flash", stream=True, **more)
    assert (status, row["status"], data.endswith(DONE)) == (200, "ok", True)
    assert row["usage"]["output"] == pytest.approx(500, abs=2)
    assert row["disputed"]


def test_figures_nested_to_the_limit_of_the_parser_never_fail_where_they_are_read() -> None:
    def nested(depth: int) -> Raw | None:
        try:
            return decode_chunk(b'{"choices":[],"usage":{"prompt_tokens":%b%b}}' % (b"[" * depth, b"]" * depth)).usage
        except RecursionError:
            return None

    def further(calls: int) -> Meter:
        return further(calls - 1) if calls else read()

    def read() -> Meter:
        assert meter.billed() is None
        return meter

    last = next(found for depth in range(2000, 0, -1) if (found := nested(depth)))
    meter = Meter(deployment(), 9)
    meter.report(last, Raw(b"null"), final=True)
    assert further(20).disputed


def test_a_cost_before_the_end_of_an_answer_that_broke_is_no_bill(gateway: LiveGateway, host: ScriptedHost) -> None:
    _, _, row = ask(gateway, host, Script([*WORDS, chunk("x", usage={"cost": 0}), *WORDS]), COSTS, stream=True)
    assert row["usage"]["output"] >= 1000
    assert int(row["nano"]) > 2_000_000


def test_the_end_of_the_first_of_two_answers_is_not_the_bill_of_both() -> None:
    meter = Meter(deployment(), 9, choices=2)
    shape = StreamShape(deployment(), include_usage=False, stop=None, meter=meter, choices=2)
    second = [one.replace(b'"index": 0', b'"index": 1') for one in WORDS]
    shape.feed(b"".join([chunk("a"), chunk(finish="stop", usage=usage(9, 1)), *second]))
    shape.end()
    assert shape.failure is not None
    assert meter.billed() is None
    assert meter.usage().output >= 500
