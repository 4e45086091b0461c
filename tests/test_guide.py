"""The sample programs of DeepSeek's R1 guide, unchanged but for base URL and key, in every era, against the strict emulator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.harness import KEY, LiveGateway

ERAS = {
    "R1": ("2025-02-03T12:00:00Z", "deepseek-r1"),
    "R1-0528": ("2025-06-03T12:00:00Z", "deepseek-r1-0528"),
    "V3.2": ("2026-01-14T12:00:00Z", "deepseek-v3.2-reasoner"),
    "V4": ("2026-06-03T12:00:00Z", "deepseek-v4-flash-preview"),
    "after the retirement": ("2026-11-20T12:00:00Z", "deepseek-v4.1-flash"),
}


@pytest.fixture(scope="module", params=ERAS)
def era(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveGateway, str]]:
    clock, contract = ERAS[request.param]
    with LiveGateway(tmp_path_factory.mktemp("era"), clock=clock) as gateway:
        yield gateway, contract


def client_of(gateway: LiveGateway) -> Any:
    """The plain client; untyped, because the guide's programs read fields that its types do not know."""
    return OpenAI(api_key=KEY, base_url=gateway.base_url, max_retries=0)


def check_bills(gateway: LiveGateway) -> None:
    """Every row equals the host's own bill, and none is missing on either side."""
    bill = {id: row for id, row in gateway.hosts["deepseek"].bill().items() if row["nano"]}
    rows = {row["id"]: row for row in gateway.rows() if row["nano"]}
    assert {id: row["nano"] for id, row in rows.items()} == {id: row["nano"] for id, row in bill.items()}
    assert rows


def test_the_streamed_program_runs(era: tuple[LiveGateway, str]) -> None:
    gateway, contract = era
    client = client_of(gateway)
    messages = [{"role": "user", "content": "9.11 and 9.8, which is greater?"}]
    for question in ("How many Rs are there in the word 'strawberry'?", None):
        response = client.chat.completions.create(model="deepseek-reasoner", messages=messages, stream=True)
        reasoning_content = content = ""
        for chunk in response:
            if chunk.choices[0].delta.reasoning_content:
                reasoning_content += chunk.choices[0].delta.reasoning_content
            else:
                content += chunk.choices[0].delta.content
        assert reasoning_content
        assert content
        messages.append({"role": "assistant", "content": content})
        if question:
            messages.append({"role": "user", "content": question})
    assert {row["contract"] for row in gateway.rows()} == {contract}
    check_bills(gateway)


def test_the_whole_program_runs(era: tuple[LiveGateway, str]) -> None:
    gateway, _ = era
    client = client_of(gateway)
    messages = [{"role": "user", "content": "9.11 and 9.8, which is greater?"}]
    for question in ("How many Rs are there in the word 'strawberry'?", None):
        response = client.chat.completions.create(model="deepseek-reasoner", messages=messages)
        assert response.choices[0].message.reasoning_content
        content = response.choices[0].message.content
        assert content
        messages.append({"role": "assistant", "content": content})
        if question:
            messages.append({"role": "user", "content": question})
    check_bills(gateway)


@pytest.mark.parametrize("stream", [False, True])
def test_the_common_mistake_of_sending_reasoning_back_is_repaired(era: tuple[LiveGateway, str], stream: bool) -> None:
    gateway, _ = era
    first = {"role": "user", "content": "9.11 and 9.8, which is greater?"}
    status, _, data = gateway.chat({"model": "deepseek-reasoner", "messages": [first]})
    assert status == 200, data
    message = client_message(data)
    again = {"model": "deepseek-reasoner", "messages": [first, message, {"role": "user", "content": "Sure?"}], "stream": stream}
    status, headers, data = gateway.chat(again)
    assert status == 200, data
    dropped = "drop_reasoning_content=1" in headers.get("x-faregate-edits", "")
    sent = gateway.hosts["deepseek"].requests()[-1]
    body = sent.get("body", sent)
    assert dropped == ("reasoning_content" not in body["messages"][1])
    check_bills(gateway)


def client_message(data: bytes) -> dict[str, object]:
    import json

    message: dict[str, object] = json.loads(data)["choices"][0]["message"]
    assert message["reasoning_content"]
    return message


def test_the_installed_client_finds_no_key_of_ours_anywhere(era: tuple[LiveGateway, str], tmp_path: Path) -> None:
    gateway, _ = era
    assert KEY not in gateway.log
    assert "emulated-deepseek" not in gateway.log
    assert KEY not in gateway.metrics()
