"""Notation: what is taken as it is written, and what is refused with the notation that was probably meant."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from gateway.notation import Currency, DecimalText, Hours, Price, Zone, decimals


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("5,00", ("5.00",)),
        ("1,000", ("1000", "1.000")),
        ("1,234.5", ("1234.5",)),
        ("1.234,5", ("1234.5",)),
        ("$0.14", ("0.14",)),
        ("0.14 USD", ("0.14",)),
        (".5", ("0.5",)),
        ("1 000", ("1000",)),
        ("cheap", ()),
        ("-1", ()),
    ],
)
def test_a_number_may_have_been_meant_as(text: str, meant: tuple[str, ...]) -> None:
    assert decimals(text) == meant


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (DecimalText, "0.1234567891"), (Price, "0.140"), (Currency, "CNY"), (Zone, "Asia/Shanghai"), (Hours, "16:30-24:00"),
    ],
)  # fmt: skip
def test_what_is_written_well_stays_as_it_is(kind: Any, text: str) -> None:
    assert TypeAdapter(kind).validate_python(text) == text


@pytest.mark.parametrize(
    ("kind", "text", "hint"),
    [
        (DecimalText, "1e3", 'write digits and a dot, such as "0.66"'),
        (Price, "1,000", 'write it as "1000" or "1.000"'),
        (Price, "0.0000000001", "not exact in nano-units"),
        (Currency, "usd", "Hint: write USD"),
        (Currency, "rmb", "Hint: write CNY"),
        (Currency, "money", "Hint: write USD or CNY"),
        (Zone, "Asia/Bejing", "write UTC or Asia/Shanghai"),
        (Zone, "shanghai", "did you mean Asia/Shanghai?"),
        (Zone, "Europe/Berlim", "did you mean Europe/Berlin?"),
        (Hours, "9-17", 'write it as "01:00-04:00"'),
        (Hours, "16:30-00:00", 'write "16:30-24:00"'),
        (Hours, "16:30-00:30", 'split it in two, "16:30-24:00" and "00:00-00:30"'),
    ],
)
def test_what_is_not_is_refused_with_what_was_probably_meant(kind: Any, text: str, hint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(text)
    assert hint in str(caught.value)
