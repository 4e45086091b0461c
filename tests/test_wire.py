"""The wire: ids, header values and OpenAI's shapes."""

from __future__ import annotations

import re
import time

from hypothesis import given
from hypothesis import strategies as st

from gateway.front.wire import event, header_value, model_list, request_id


def test_ids_are_unique_and_sort_by_time() -> None:
    ids = [request_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(re.fullmatch(r"req-[0-9a-f]{32}", id) for id in ids)
    while request_id()[:16] == ids[-1][:16]:
        pass
    assert request_id() > max(ids)
    assert abs(int(ids[0][4:16], 16) / 1000 - time.time()) < 60


@given(st.text())
def test_no_text_can_break_a_header_line(text: str) -> None:
    assert re.fullmatch(rb"[\x20-\x7e]*", header_value(text))


def test_a_header_value_stays_shorter_than_a_proxy_s_limit() -> None:
    assert len(header_value("x" * 100_000)) == 4096
    assert header_value("max_tokens=9000->8192, drop_user") == b"max_tokens=9000->8192, drop_user"


def test_an_event_is_one_line_of_json() -> None:
    assert event({"a": "x\ny\u2028"}) == b'data: {"a":"x\\ny\xe2\x80\xa8"}\n\n'


def test_a_model_list_has_openai_s_shape() -> None:
    assert model_list([{"id": "r1", "owned_by": "deepseek"}]) == {
        "object": "list",
        "data": [{"object": "model", "created": 0, "owned_by": "deepseek", "id": "r1"}],
    }
