"""The session that a client names: one digest per name, whatever says it; and the dry run."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.front.body import parse
from gateway.front.session import FIELDS, HEADERS, LONGEST, hints
from tests.raw_http import Answer, FakeExchange, chat, connected, front_with, post, served

NAME = "0f0b8d66-7d52-4c5f-8c75-9a3b7e0fa7b1"


def session(**headers: str) -> str:
    return hints({name.replace("_", "-").encode(): value.encode("latin-1") for name, value in headers.items()})[0]


async def asked(sent: bytes) -> tuple[Answer, FakeExchange]:
    exchange = FakeExchange()
    async with served(front_with(exchange)) as port, connected(port) as client:
        await client.send(sent)
        return await client.answer(), exchange


@pytest.mark.parametrize("header", [name.decode().title() for name in HEADERS])
async def test_a_header_names_the_session(header: str) -> None:
    answer, exchange = await asked(post(chat(), f"{header}: {NAME}"))
    (request, _) = exchange.seen[0]
    assert answer.status == 200
    assert request.session == session(x_session_id=NAME) != session(x_session_id=NAME.upper())
    assert len(request.session) == 32 and NAME not in repr(request) and not request.dry_run


@pytest.mark.parametrize("field", FIELDS)
async def test_a_field_names_the_session_where_no_header_does(field: str) -> None:
    _, exchange = await asked(post(chat(**{field: NAME})))
    assert exchange.seen[0][0].session == session(x_session_id=NAME)
    _, exchange = await asked(post(chat(**{field: "another"}), f"X-Session-Id: {NAME}"))
    assert exchange.seen[0][0].session == session(x_session_id=NAME)


@pytest.mark.parametrize("header", ["X-Request-Id", "X-Client-Request-Id", "X-Correlation-Id"])
async def test_the_name_of_one_request_is_none_of_a_session(header: str) -> None:
    _, exchange = await asked(post(chat(), f"{header}: {NAME}"))
    assert exchange.seen[0][0].session == ""


# What is no name, and is passed over for the next that is one.
GARBAGE = ["", " ", "\t", "a\tb", "caf\xe9", "x" * (LONGEST + 1)]


@pytest.mark.parametrize("value", GARBAGE)
def test_what_is_no_name_is_ignored(value: str) -> None:
    assert session(x_session_id=value) == ""
    assert session(thread_id=value, x_session_id=NAME) == session(x_session_id=NAME)
    assert parsed(prompt_cache_key=value).session == ""
    assert parsed(session_id=value, prompt_cache_key=NAME).session == session(x_session_id=NAME)


@pytest.mark.parametrize("value", [None, 7, True, [NAME], {"id": NAME}])
def test_a_field_that_is_no_text_names_nothing(value: Any) -> None:
    assert parsed(session_id=value).session == ""


def parsed(**fields: Any) -> Any:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return parse(json.dumps(body).encode(), "req-1")


def test_a_thread_is_narrower_than_its_session() -> None:
    assert session(session_id="s", thread_id="t") == session(thread_id="t") != session(session_id="s")


@given(st.dictionaries(st.sampled_from(HEADERS), st.binary(max_size=2 * LONGEST)))
def test_whatever_is_sent_a_session_is_a_digest_or_nothing(headers: dict[bytes, bytes]) -> None:
    found, dry_run = hints(headers)
    assert not dry_run
    assert found == "" or (len(found) == 32 and set(found) <= set("0123456789abcdef"))


@pytest.mark.parametrize(("value", "dry_run"), [("1", True), ("0", False)])
async def test_a_dry_run_is_asked_for_by_a_header(value: str, dry_run: bool) -> None:
    _, exchange = await asked(post(chat(), f"X-Faregate-Dry-Run: {value}"))
    assert exchange.seen[0][0].dry_run is dry_run


@pytest.mark.parametrize("value", ["true", "yes", "", "01", "1,1"])
async def test_a_dry_run_that_is_neither_is_refused_before_anything_is_spent(value: str) -> None:
    answer, exchange = await asked(post(chat(), f"X-Faregate-Dry-Run: {value}"))
    assert (answer.status, answer.error["param"], exchange.seen) == (400, "x-faregate-dry-run", [])


async def test_two_of_them_are_one_too_many() -> None:
    answer, exchange = await asked(post(chat(), "X-Faregate-Dry-Run: 1", "X-Faregate-Dry-Run: 0"))
    assert answer.status == 400 and exchange.seen == []
