"""Leaks: a host may repeat the key that it was sent, in any shape and in any kind of answer; nobody else may read it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.dialects import HostError, clean, error_of, read_error
from gateway.upstream.accounts import Account
from gateway.upstream.key_file import KeyFile
from tests.harness import ADMIN, LiveGateway, get_json
from tests.scripted import JSON, STREAM, Script, ScriptedHost, chunk, usage

# As Azure, DeepInfra, Bedrock and Together write them, and one that looks like a word; none of them is known by its shape alone.
SHAPES = (
    "0123456789abcdef0123456789abcdef",
    "Zq8LmN4vBx2KcJ7hGfD5sAp9WoEuRtYi",
    "ABSKQmVkcm9ja0FQSUtleS1hYmNk+ZWZn/aGlq==",
    "plainwords-of-a-key",
)
WORDS = "The key is {key}, as you wrote ({key})."


class Stand(NamedTuple):
    """A gateway whose key at its one host is in a file, and the host."""

    gateway: LiveGateway
    host: ScriptedHost
    file: Path

    def key(self, key: str) -> None:
        """The key in its file is this one from now on; what failed before is forgiven."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(key + "\n")
        os.replace(fresh, self.file)
        self.gateway.reload()
        self.host.forget()


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("leaks")
    file = folder / "key"
    file.write_text(SHAPES[0])
    host = ScriptedHost()
    settings = {"DEEPSEEK_API_KEY": f"file:{file}", "FAREGATE_LOG_LEVEL": "debug"}
    with LiveGateway(folder, hosts=(), urls={"deepseek": host.url}, settings=settings) as gateway:
        yield Stand(gateway, host, file)
    host.close()


def said(key: str) -> dict[str, Any]:
    words = WORDS.format(key=key)
    return {"error": {"message": words, "type": key, "code": key, "param": key}}


def whole(body: Any, status: int = 200) -> Script:
    return Script([json.dumps(body).encode()], JSON, status)


def event(body: Any) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def ending(key: str) -> Any:
    """A whole answer whose finish reason is the key."""
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": key}]}


def answers(key: str) -> dict[str, Script]:
    """Every kind of answer that has an error of a host in it."""
    refusals = {f"status {status}": whole(said(key), status) for status in (400, 401, 402, 403, 404, 413, 422, 429, 500, 503, 504)}
    forbidden = {"error": {"message": f"flagged by moderation: {WORDS.format(key=key)}"}}
    inner = {"error": {"message": "bad", "code": 400, "details": json.dumps(said(key))}}
    return {
        **refusals,
        "a forbidden text": whole(forbidden, 403),
        "GMI's inner error": whole(inner, 400),
        "a detail": whole({"detail": [{"msg": WORDS.format(key=key)}]}, 422),
        "an odd error": whole({"error": [WORDS.format(key=key)]}, 400),
        "an error in a 200": whole(said(key)),
        "with usage": whole({**said(key), "usage": usage(5, 5)}),
        "an unknown end": whole(ending(key)),
        "a first event": Script([event(said(key))], STREAM),
        "a later event": Script([chunk("one"), event(said(key))], STREAM),
        "an event with usage": Script([event({**said(key), "usage": usage(5, 5)})], STREAM),
        "an event with an unknown end": Script([chunk("one"), chunk(finish=key)], STREAM),
        "an escaped one": Script([event(said(key)).replace(b"/", rb"\/")], STREAM),
        "behind the limit of a text": whole({"error": {"message": "x" * 490 + key}}, 400),
        "behind the limit of what is read": whole({"error": {"message": "x " * 985 + key}}, 400),
    }


def pieces(key: str) -> set[str]:
    """The key, and each part of it that would be half the work of guessing it."""
    half = len(key) // 2
    return {key[start : start + half] for start in range(len(key) - half + 1)}


def readers(stand: Stand, answer: tuple[int, dict[str, str], bytes]) -> dict[str, str]:
    """What anybody can read of a request."""
    gateway, admin = stand.gateway, {"authorization": f"Bearer {ADMIN}"}
    _, headers, data = answer
    return {
        "client": f"{headers} {data.decode()}",
        "log": gateway.log,
        "metrics": gateway.metrics(),
        "explained": json.dumps(gateway.row(headers["x-request-id"])),
        "hosts": json.dumps(get_json(f"{gateway.admin_url}/admin/v1/hosts", admin)),
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", answers(""))
def test_what_a_host_says_never_has_the_key_that_it_was_sent(stand: Stand, case: str, stream: bool) -> None:
    for key in SHAPES:
        stand.key(key)
        stand.host.play(answers(key)[case])
        answer = stand.gateway.chat({"model": "deepseek/deepseek-flash", "stream": stream, "messages": [{"role": "user", "content": "a"}]})
        assert b'"error"' in answer[2], answer
        for reader, text in readers(stand, answer).items():
            assert not [piece for piece in pieces(key) if piece in text], (reader, key, text[-300:])


def test_the_rest_of_what_it_says_is_passed_on(stand: Stand) -> None:
    stand.key(SHAPES[0])
    stand.host.play(whole(said(SHAPES[0]), 400))
    _, _, data = stand.gateway.chat({"model": "deepseek/deepseek-flash", "messages": [{"role": "user", "content": "a"}]})
    assert json.loads(data)["error"]["message"] == "The key is [removed], as you wrote ([removed])."


def test_nothing_is_left_on_the_disk(stand: Stand) -> None:
    stand.key(SHAPES[2])
    stand.host.play(whole(said(SHAPES[2]), 400))
    stand.gateway.chat({"model": "deepseek/deepseek-flash", "messages": [{"role": "user", "content": "a"}]})
    kept = [path for path in stand.gateway.folder.rglob("*") if path.is_file() and path != stand.file]
    assert len(kept) > 1
    assert [path.name for path in kept for key in SHAPES if key.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("secrets", [(), ("",), ("none",), ("EMPTY",), ("token",), ("context",)])
def test_a_short_credential_masks_no_ordinary_word(secrets: Sequence[str]) -> None:
    text = "This model's maximum context length is none of your token business, EMPTY or not."
    assert error_of({"error": {"message": text}}, secrets) == HostError(None, None, text)


def test_every_credential_goes_before_anything_is_cut_or_masked_by_shape() -> None:
    one, other = "abcdefgh" * 6 + "/ijklmnop", "qrst+uvw"
    assert clean(f"{one} and {other}", (one, other)) == "[removed] and [removed]"
    assert clean("a " * 997 + other, (other,))[-8:] == clean("a " * 997, ())[-8:]
    assert read_error(400, json.dumps({"message": other, "code": one}).encode(), (one, other)) == HostError(400, "[removed]", "[removed]")


def test_the_credential_is_that_of_the_attempt(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first-key")
    account = Account("h", "http://h", "USD", key=KeyFile(file))
    sent = account.headers("id", False)
    file.write_text("second-key, rotated")
    assert account.secrets(sent) == ("first-key",)
    assert Account("h", "http://h", "USD", key="azure-key", auth="api-key").secrets({"api-key": "azure-key"}) == ("azure-key",)
    assert Account("h", "http://h", "USD").secrets(Account("h", "http://h", "USD").headers("id", False)) == ()
