"""Edits are written as the interface says, and a caller's field name cannot break the header."""

from __future__ import annotations

import pytest

from gateway.edits import Edit, changed, dropped, header, renamed


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (Edit("disable_thinking"), "disable_thinking"),
        (dropped("reasoning_content", 3), "drop_reasoning_content=3"),
        (dropped("seed"), "drop_seed"),
        (renamed("reasoning", 1), "rename_reasoning=1"),
        (changed("max_tokens", 9000, 8192), "max_tokens=9000->8192"),
        (changed("max_tokens", "none", 32768), "max_tokens=none->32768"),
    ],
)
def test_an_edit_is_written_as_name_and_value(edit: Edit, text: str) -> None:
    assert str(edit) == text


def test_the_header_lists_edits_in_the_order_made() -> None:
    assert header([dropped("seed"), Edit("merge_messages", "2")]) == "drop_seed, merge_messages=2"
    assert header([]) == ""


@pytest.mark.parametrize("field", ["a\r\nx-evil: 1", "a, b", "é", "", "x" * 65, "a b"])
def test_a_field_name_that_a_header_cannot_hold_is_called_other(field: str) -> None:
    assert str(dropped(field)) == "drop_other"
