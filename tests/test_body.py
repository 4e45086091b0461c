"""Bodies: the corpus of JSON tricks is refused by name, and what a client really sends is taken as it is."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import EncodingUnsupported, FaregateError, InvalidRequest
from gateway.front import body
from gateway.front.body import DEPTH, STEERING, VALUES, check_headers, decode, parse
from gateway.front.shapes import ROLES

MESSAGES = '"messages":[{"role":"user","content":"hi"}]'


def text(fields: str) -> bytes:
    """A chat body with these further fields, as text."""
    return f'{{"model":"m",{MESSAGES},{fields}}}'.encode()


def nested(levels: int) -> bytes:
    return text('"metadata":' + "[" * levels + "]" * levels)


def message_with(content: str) -> bytes:
    return f'{{"messages":[{{"content":{content}}}]}}'.encode()


NOT_JSON = {
    "nothing": b"",
    "NaN": text('"max_tokens":NaN'),
    "Infinity": text('"max_tokens":Infinity'),
    "-Infinity": text('"temperature":-Infinity'),
    "1e400": text('"temperature":1e400'),
    "a lone surrogate": text('"stop":"\\ud800"'),
    "a surrogate the wrong way round": text('"stop":"\\udc00\\ud800"'),
    "BOM": b"\xef\xbb\xbf" + text('"n":1'),
    "UTF-16": text('"n":1').decode().encode("utf-16"),
    "UTF-16 without BOM": text('"n":1').decode().encode("utf-16-le"),
    "UTF-32": text('"n":1').decode().encode("utf-32"),
    "invalid UTF-8": text('"stop":"\xff"').decode().encode("latin-1"),
    "overlong UTF-8": text('"stop":"@"').replace(b"@", b"\xc0\xaf"),
    "a raw control character": text('"stop":"\x01"'),
    "a second object": text('"n":1') + b"{}",
    "a trailing comma": text('"n":1,'),
    "a comment": text('"n":1/**/'),
    "single quotes": text("'n':1"),
    "a leading zero": text('"seed":01'),
    "a hexadecimal number": text('"seed":0x10'),
    "an array": b"[]",
    "text": b'"model"',
    "null": b"null",
    "a number": b"1",
    "truncated": text('"n":1')[:-1],
}

DUPLICATES = {
    "a duplicate model": text('"model":"other"'),
    "an escaped duplicate": text('"mod\\u0065l":"other"'),
    "a duplicate max_tokens": text('"max_tokens":1,"max_tokens":9000'),
    "a duplicate behind a blank": text('"max_tokens" :1,"max_tokens":9000'),
    "a duplicate behind a line break": text('"max_tokens"\n:1,"max_tokens":9000,"user":"a: b"'),
    "a nested duplicate": text('"stream":true,"stream_options":{"include_usage":true,"include_usage":false}'),
    "a duplicate in a list": text('"tools":[{"type":"function","type":"web"}]'),
    "a duplicate in a message": b'{"model":"m","messages":[{"role":"user","role":"system","content":"a"}]}',
}

# fields of the body -> the field that the refusal names
REFUSED = [
    ('"MODEL":"other"', None),
    ('"Max_Tokens":5', "Max_Tokens"),
    ('"x":1,"X":1', None),
    ('"\\u212a":1,"k":1', None),
    ('"a\\u0000b":1', None),
    ('"a\\nb":1', None),
    ('"":1', None),
    ('"na\\u00efve":1', None),
    (f'"{"x" * 65}":1', None),
    (",".join(f'"f{number}":1' for number in range(101)), None),
    ('"max_tokens":true', "max_tokens"),
    ('"max_tokens":10.0', "max_tokens"),
    ('"max_tokens":1e9', "max_tokens"),
    ('"max_tokens":"10"', "max_tokens"),
    ('"max_tokens":-1', "max_tokens"),
    ('"max_tokens":0', "max_tokens"),
    ('"max_tokens":-0', "max_tokens"),
    ('"max_tokens":[1]', "max_tokens"),
    ('"max_tokens":' + "9" * 30, "max_tokens"),
    ('"max_completion_tokens":true', "max_completion_tokens"),
    ('"max_completion_tokens":0', "max_completion_tokens"),
    ('"thinking_budget":1.5', "thinking_budget"),
    ('"n":0', "n"),
    ('"n":true', "n"),
    ('"n":129', "n"),
    ('"n":9007199254740992', "n"),
    ('"best_of":129', "best_of"),
    ('"top_logprobs":"5"', "top_logprobs"),
    ('"seed":0.5', "seed"),
    ('"temperature":"0.5"', "temperature"),
    ('"temperature":true', "temperature"),
    ('"top_p":[]', "top_p"),
    ('"stream":1', "stream"),
    ('"stream":"true"', "stream"),
    ('"logprobs":1', "logprobs"),
    ('"stream_options":{"include_usage":true}', "stream_options"),
    ('"stream":false,"stream_options":{}', "stream_options"),
    ('"stream":true,"stream_options":[]', "stream_options"),
    ('"stream":true,"stream_options":{"include_usage":1}', "stream_options.include_usage"),
    *((f'"{name}":null', name) for name in sorted(STEERING)),
]

MESSAGE_CASES: list[tuple[Any, str]] = [
    (None, "messages"),
    ({}, "messages"),
    ([], "messages"),
    ("hi", "messages"),
    (["hi"], "messages[0]"),
    ([{"content": "hi"}], "messages[0].role"),
    ([{"role": "User", "content": "hi"}], "messages[0].role"),
    ([{"role": ["user"], "content": "hi"}], "messages[0].role"),
    ([{"role": "user", "content": "a"}, {"role": "root", "content": "b"}], "messages[1].role"),
    ([{"role": "user", "content": 5}], "messages[0].content"),
    ([{"role": "user", "content": {}}], "messages[0].content"),
    ([{"role": "user", "content": ["hi"]}], "messages[0].content[0]"),
    ([{"role": "user", "content": [{"text": "hi"}]}], "messages[0].content[0]"),
    ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0]"),
    ([{"role": "user", "content": [{"type": "text", "text": None}]}], "messages[0].content[0]"),
    ([{"role": "assistant", "content": "a", "reasoning_content": 1}], "messages[0].reasoning_content"),
    ([{"role": "assistant", "content": "a", "reasoning": ["x"]}], "messages[0].reasoning"),
    ([{"role": "assistant", "tool_calls": {}}], "messages[0].tool_calls"),
    ([{"role": "assistant", "tool_calls": ["x"]}], "messages[0].tool_calls[0]"),
]


@pytest.mark.parametrize("data", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_what_is_not_strict_json_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="JSON"):
        parse(data, "req-1")


@pytest.mark.parametrize("data", DUPLICATES.values(), ids=DUPLICATES.keys())
def test_a_key_that_is_there_twice_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="twice"):
        parse(data, "req-1")


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=[fields[:30] for fields, _ in REFUSED])
def test_a_field_that_two_readers_could_take_differently_is_refused(fields: str, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse(text(fields), "req-1")
    assert refusal.value.param == param


@pytest.mark.parametrize(("messages", "param"), MESSAGE_CASES)
def test_messages_have_the_shape_that_all_later_code_relies_on(messages: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse(json.dumps({"model": "m", "messages": messages}).encode(), "req-1")
    assert refusal.value.param == param


@pytest.mark.parametrize("model", [None, "", 5, ["m"], "m" * 201, "m\n", "m\x00", "m\x7f", "dёepseek", "deepseek\u200b"])
def test_a_model_is_a_short_printable_ascii_name(model: Any) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse(json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]}).encode(), "req-1")
    assert refusal.value.param == "model"


@pytest.mark.parametrize("levels", [DEPTH, 500, 1000, 1024, 1025, 5000, 100_000])
def test_a_body_nested_too_deep_is_refused(levels: int) -> None:
    with pytest.raises(InvalidRequest, match="nested"):
        parse(nested(levels), "req-1")


@pytest.mark.parametrize("inmost", ["", "{}", "[]"])
def test_a_message_nested_too_deep_is_refused(inmost: str) -> None:
    room = DEPTH - 3 - bool(inmost)
    assert decode(message_with("[" * room + inmost + "]" * room))
    with pytest.raises(InvalidRequest, match="nested"):
        decode(message_with("[" * (room + 1) + inmost + "]" * (room + 1)))


def test_depth_within_the_limit_passes() -> None:
    assert parse(nested(DEPTH - 1), "req-1").model == "m"


@pytest.mark.parametrize(
    "fields",
    [
        '"max_tokens":null,"n":null,"stream":null,"stream_options":null,"temperature":null',
        '"max_tokens":1,"max_completion_tokens":8192,"temperature":0,"top_p":0.9,"seed":-5,"n":2',
        '"store":false,"metadata":{"provider":"x","api_base":"y"},"user":"u","prompt_cache_key":"k","reasoning_effort":"high"',
        '"stream":true,"stream_options":{"include_usage":true}',
        '"tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{"route":{},"Route":{}}}}}]',
        '"x-vendor.option":1,"chat_template_kwargs":{"thinking":true}',
        '"stop":"\\ud83d\\ude00 \\u0000 \\u2028"',
    ],
)
def test_what_clients_really_send_passes_unchanged(fields: str) -> None:
    data = text(fields)
    assert parse(data, "req-1").body == json.loads(data)


def test_the_request_says_what_was_asked() -> None:
    data = text('"stream":true,"stream_options":{"include_usage":true}')
    request = parse(data, "req-1", beta=True)
    assert (request.id, request.model, request.stream, request.include_usage, request.beta, request.size) == (
        "req-1",
        "m",
        True,
        True,
        True,
        len(data),
    )
    assert not parse(text('"stream":true'), "req-1").include_usage


@pytest.mark.parametrize("role", sorted(ROLES))
def test_every_role_of_the_protocol_is_known(role: str) -> None:
    body = {"model": "m", "messages": [{"role": role, "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]}]}
    assert parse(json.dumps(body).encode(), "req-1").messages == body["messages"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), JSON_VALUES, max_size=5))
def test_a_good_object_is_read_as_any_parser_reads_it(value: dict[str, Any]) -> None:
    try:
        data = json.dumps(value).encode()
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    assert decode(data) == value


@given(st.binary(max_size=200))
def test_no_bytes_whatever_cause_anything_but_a_refusal(data: bytes) -> None:
    try:
        parse(data, "req-1")
    except InvalidRequest:
        pass


@given(st.dictionaries(st.sampled_from(["model", "messages", "max_tokens", "stream", "stream_options", "n", "tools", "stop"]), JSON_VALUES))
def test_no_value_whatever_causes_anything_but_a_refusal(body: dict[str, Any]) -> None:
    try:
        data = json.dumps(body, ensure_ascii=False).encode()
        parse(data, "req-1")
    except (InvalidRequest, UnicodeEncodeError):
        pass


def test_a_refusal_repeats_no_prompt() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse(b'{"model":"m","messages":"my secret plan', "req-1")
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("headers", "query", "refused"),
    [
        ({}, b"", None),
        ({b"content-type": b"application/json"}, b"", None),
        ({b"content-type": b"application/json; charset=utf-8"}, b"beta=true", None),
        ({b"content-type": b'Application/JSON;charset="UTF-8"'}, b"", None),
        ({b"content-encoding": b"identity"}, b"", None),
        ({b"content-encoding": b"gzip"}, b"", EncodingUnsupported),
        ({b"content-encoding": b"br"}, b"", EncodingUnsupported),
        ({b"content-type": b"text/plain"}, b"", EncodingUnsupported),
        ({b"content-type": b"application/json; charset=utf-16"}, b"", EncodingUnsupported),
        ({b"content-type": b"application/x-www-form-urlencoded"}, b"", EncodingUnsupported),
        ({}, b"model=other", InvalidRequest),
        ({}, b"a=1&mod%65l=other", InvalidRequest),
        ({}, b"MODEL=other", InvalidRequest),
        ({}, b"api_base=http://evil.example", InvalidRequest),
        ({}, b"max_tokens", InvalidRequest),
    ],
)
def test_headers_and_query_carry_nothing_that_steers(
    headers: dict[bytes, bytes], query: bytes, refused: type[FaregateError] | None
) -> None:
    if refused is None:
        check_headers(headers, query)
        return
    with pytest.raises(refused):
        check_headers(headers, query)


def large(inside: bytes) -> bytes:
    return b'{"model":"m","messages":[{"role":"user","content":"hi"}],"metadata":%b}' % inside


MILLIONS = 15 << 20
# A duplicate is the last of as many keys as a body may have; the others have too many values.
HOSTILE = {
    "keys, the last one twice": b"{" + b",".join(b'"k%07d":0' % number for number in range(VALUES - 10)) + b',"k%07d":0}' % (VALUES - 11),
    "objects, the last with one twice": b"[" + b'{"a":0},' * (VALUES // 2 - 5) + b'{"a":1,"a":2}]',
    "keys": b"{" + b",".join(b'"%07d" :0' % number for number in range(MILLIONS // 14)) + b"}",
    "lists": b"[" + b"[]," * (MILLIONS // 3) + b"0]",
    "numbers": b"[" + b"0," * (MILLIONS // 2) + b"0]",
    "texts": b"[" + b'"",' * (MILLIONS // 3) + b"0]",
    "texts of quotes": b"[" + rb'"\\\"",' * (MILLIONS // 7) + b"0]",
}


@pytest.mark.parametrize("inside", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_body_takes_more_than_linear_time(inside: bytes) -> None:
    data = large(inside)
    assert len(data) < 16 << 20
    begun = time.process_time()
    with pytest.raises(InvalidRequest, match=r"twice|values"):
        parse(data, "req-1")
    assert time.process_time() - begun < 3  # 0.1 to 0.7 s; a search for each key would take minutes


@pytest.mark.parametrize("part", ["[1,2,3],{}", 'a "quoted, quoted" b', '\\"[,', '\\\\",'])
def test_separators_in_texts_are_no_values(part: str) -> None:
    content = part * (2 * VALUES // len(part))
    request = parse(json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode(), "req-1")
    assert request.messages[0]["content"] == content


async def test_a_large_body_leaves_the_loop_free() -> None:
    data = large(b"[" + b'{"a":0},' * (VALUES // 2 - 5) + b"0]")
    reading = asyncio.create_task(body.request(data, "req-1"))
    turns = 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert (await reading).model == "m" and turns > 10


WORDS = st.sampled_from(["a", "b", ":", '":', "a: b", '\\"', " :", ""])
BLANKS = st.sampled_from(["", "", "", " ", "\n", "\t\r\n "])


@st.composite
def written_objects(draw: st.DrawFn, depth: int = 2) -> str:
    """Objects as text with keys that often repeat, odd blanks, and text that looks like keys."""
    parts = []
    for _ in range(draw(st.integers(0, 3))):
        value = draw(written_objects(depth - 1) if depth and draw(st.booleans()) else WORDS.map(json.dumps))
        parts.append(draw(BLANKS) + json.dumps(draw(WORDS)) + draw(BLANKS) + ":" + draw(BLANKS) + value + draw(BLANKS))
    return "{" + ",".join(parts) + "}"


def in_messages(written: list[str]) -> str:
    return f'{{"a": [], "messages": [{",".join(written)}]}}'


@given(written_objects() | st.lists(written_objects(), max_size=3).map(in_messages))
def test_no_duplicate_is_missed_and_none_is_invented(written: str) -> None:
    repeated: list[str] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in found]
        repeated.extend(name for name in names if names.count(name) > 1)
        return dict(found)

    expected = json.loads(written, object_pairs_hook=pairs)
    if repeated:
        with pytest.raises(InvalidRequest, match="twice"):
            decode(written.encode())
    else:
        assert decode(written.encode()) == expected
