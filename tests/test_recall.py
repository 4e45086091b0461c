"""The store of reasoning: an answer's reasoning comes back in its own conversation, to its own team, and nowhere else."""

from __future__ import annotations

import asyncio
import json
import stat
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.app import reasoning_store
from gateway.recall.cipher import Ciphers, derived
from gateway.recall.entries import CLAIMED, LARGEST, OVERHEAD, Entries, Entry
from gateway.recall.marks import Marker, as_good_as_random
from gateway.recall.port import NoRecall, Said, reminded
from gateway.recall.redis import Calls, RedisEntries
from gateway.recall.sqlite import SqliteEntries
from gateway.recall.store import LONGEST, Near, Store
from gateway.request import ChatRequest
from gateway.settings import load
from gateway.shared.link import Link
from tests.asking import ask
from tests.servers import RedisServer

Message = dict[str, Any]
SECRET = b"a secret of the tests"
OTHER = b"another one, of whoever"
USER: Message = {"role": "user", "content": "Which is greater?"}
SYSTEM: Message = {"role": "system", "content": "Be brief."}
ID = "call_00_7ndFqJBYVnJ1AuSd"


def call(id: str = ID, name: str = "f", arguments: str = '{"city": "Paris", "number": 7}') -> Message:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def said(content: str = "9.8", reasoning: str = "0.8 is more than 0.11.", *calls: Message) -> Said:
    return Said(content, reasoning, calls)


def back(content: Any = "9.8", **more: Any) -> Message:
    """An assistant's message as a client sends it back."""
    return {"role": "assistant", "content": content, **more}


def asked(text: str) -> Message:
    return {"role": "user", "content": text}


def result(text: str = "1") -> Message:
    return {"role": "tool", "tool_call_id": ID, "content": text}


def request(*messages: Message) -> ChatRequest:
    return ask({"messages": list(messages)})


@asynccontextmanager
async def store(entries: Entries, secret: bytes = SECRET, near: int = 0, **more: Any) -> AsyncIterator[Store]:
    """With nothing kept near, everything comes from the entries."""
    opened = Store(secret, entries, near=near, **more)
    await opened.start()
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "recall.db"


# ---- one conversation, and no other

SAME: list[tuple[str, list[Message], Said, list[Message]]] = [
    # what it is, messages asked, what was said, messages that come back
    ("as it was", [SYSTEM, USER], said(), [SYSTEM, USER, back()]),
    ("keys in another order", [USER], said(), [{"content": USER["content"], "role": "user"}, {"content": "9.8", "role": "assistant"}]),
    ("null for the reasoning", [USER], said(), [USER, back(reasoning_content=None)]),
    ("a blank for the reasoning", [USER], said(), [USER, back(reasoning_content=" ")]),
    ("one text as parts", [USER], said(), [USER, back([{"type": "text", "text": "9.8"}])]),
    ("trimmed", [USER], said("9.8\n"), [USER, back("9.8")]),
    ("fields that say nothing", [USER], said(), [USER, back(refusal=None, annotations=[], audio=None, function_call=None)]),
    ("developer for system", [SYSTEM, USER], said(), [{**SYSTEM, "role": "developer"}, USER, back()]),
    ("no content beside a call", [USER], said("", "r", call()), [USER, back(None, tool_calls=[call()])]),
    ("an empty content beside a call", [USER], said("", "r", call()), [USER, back("", tool_calls=[call()])]),
    ("content left out beside a call", [USER], said("", "r", call()), [USER, {"role": "assistant", "tool_calls": [call()]}]),
    (
        "arguments written anew",
        [USER],
        said("", "r", call()),
        [USER, back(tool_calls=[call(arguments='{"number":7,"city":"Paris"}')], content="")],
    ),
    ("a whole number written otherwise", [USER], said("", "r", call(arguments="[1.0]")), [USER, back(tool_calls=[call(arguments="[1]")])]),
    ("an index in the call", [USER], said("", "r", {"index": 0, **call()}), [USER, back("", tool_calls=[call()])]),
    ("a counter for an id", [USER], said("", "r", call("call_0")), [USER, back("", tool_calls=[call("call_0")])]),
    ("other reasoning in earlier answers", [USER, back("a", reasoning_content="r"), USER], said(), [USER, back("a"), USER, back()]),
    # Only by the call's id, or without the system message.
    (
        "another system message",
        [SYSTEM, USER],
        said("", "r", call()),
        [{**SYSTEM, "content": "12:01"}, USER, back("", tool_calls=[call()])],
    ),
    ("a history cut short", [USER, back("a"), USER], said("", "r", call()), [USER, back(None, tool_calls=[call()])]),
    ("a text dropped beside a call", [USER], said("Let me see.", "r", call()), [USER, back(None, tool_calls=[call()])]),
    (
        "another system message, and a call before",
        [SYSTEM, USER, back("", tool_calls=[call()]), result()],
        said("It is 1."),
        [{**SYSTEM, "content": "12:01"}, USER, back("", tool_calls=[call()]), result(), back("It is 1.")],
    ),
]


@pytest.mark.parametrize(("before", "answer", "sent"), [row[1:] for row in SAME], ids=[row[0] for row in SAME])
async def test_the_same_conversation_finds_its_reasoning(file: Path, before: list[Message], answer: Said, sent: list[Message]) -> None:
    async with store(SqliteEntries(file)) as memory:
        memory.keep("search", request(*before), answer)
        found = await memory.find("search", request(*sent, USER))
        assert found[len(sent) - 1] == answer.reasoning


OTHERS: list[tuple[str, list[Message], Said, list[Message]]] = [
    ("another question", [USER], said(), [asked("Hi"), back()]),
    ("another answer", [USER], said(), [USER, back("9.11")]),
    ("another role", [USER], said(), [{**USER, "role": "system"}, back()]),
    ("another system message, and no call", [SYSTEM, USER], said(), [{**SYSTEM, "content": "Be kind."}, USER, back()]),
    ("one message more", [USER], said(), [USER, USER, back()]),
    ("texts cut elsewhere", [asked("ab"), asked("c")], said(), [asked("a"), asked("bc"), back()]),
    ("a call with other arguments", [USER], said("", "r", call()), [USER, back("", tool_calls=[call(arguments='{"city":"Rome"}')])]),
    ("a call of another function", [USER], said("", "r", call()), [USER, back("", tool_calls=[call(name="g")])]),
    ("one call of two", [USER], said("", "r", call(), call("call_01_9zzFqJBYVnJ1AuSd")), [USER, back("", tool_calls=[call()])]),
    ("an answer without its call", [USER], said("9.8", "r", call()), [USER, back()]),
    ("a counter for an id elsewhere", [USER], said("", "r", call("call_0")), [asked("Hi"), back("", tool_calls=[call("call_0")])]),
    (
        "another result before",
        [USER, back(None, tool_calls=[call()]), result()],
        said(),
        [USER, back(None, tool_calls=[call()]), result("2"), back()],
    ),
]


@pytest.mark.parametrize(("before", "answer", "sent"), [row[1:] for row in OTHERS], ids=[row[0] for row in OTHERS])
async def test_another_conversation_finds_nothing(file: Path, before: list[Message], answer: Said, sent: list[Message]) -> None:
    async with store(SqliteEntries(file)) as memory:
        memory.keep("search", request(*before), answer)
        assert await memory.find("search", request(*sent, USER)) == {}


async def test_another_team_finds_nothing_with_the_same_messages(file: Path) -> None:
    async with store(SqliteEntries(file), near=1 << 20) as memory:
        memory.keep("search", request(USER), said("", "r", call()))
        sent = request(USER, back("", tool_calls=[call()]), USER)
        assert await memory.find("support", sent) == {}
        assert await memory.find("", sent) == {}
        assert await memory.find("search", sent) == {1: "r"}


async def test_an_id_that_comes_twice_leads_to_neither(file: Path) -> None:
    """Two conversations with one id: each finds its own by its whole text, and what is cut short finds nothing."""
    first, second = {"role": "user", "content": "one"}, {"role": "user", "content": "two"}
    async with store(SqliteEntries(file)) as memory:
        memory.keep("search", request(first), said("", "of one", call()))
        cut = request(USER, back("", tool_calls=[call()]))
        assert await memory.find("search", cut) == {1: "of one"}
        memory.keep("search", request(second), said("", "of two", call()))
        assert await memory.find("search", request(first, back("", tool_calls=[call()]))) == {1: "of one"}
        assert await memory.find("search", request(second, back("", tool_calls=[call()]))) == {1: "of two"}
        assert await memory.find("search", cut) == {}
        memory.keep("search", request(first), said("", "of one", call()))
        assert await memory.find("search", cut) == {}, "claimed once is claimed for good"


async def test_only_what_lacks_its_reasoning_is_found(file: Path) -> None:
    async with store(SqliteEntries(file)) as memory:
        memory.keep("search", request(USER), said())
        memory.keep("search", request(USER, back(), USER), said("Yes.", "Sure."))
        whole = [USER, back(reasoning_content="its own"), USER, back("Yes."), USER]
        assert await memory.find("search", request(*whole)) == {3: "Sure."}


async def test_the_last_of_two_equal_answers_counts(file: Path) -> None:
    async with store(SqliteEntries(file), near=1 << 20) as memory:
        for reasoning in ("first", "second"):
            memory.keep("search", request(USER), said("9.8", reasoning))
            assert await memory.find("search", request(USER, back())) == {1: reasoning}


IDS = {
    "call_00_7ndFqJBYVnJ1AuSdcHxtPCXi": True,
    "chatcmpl-tool-6e8f2a7d9c0b4e1f8a7b6c5d4e3f2a1b": True,
    "call_9f86d081": True,
    "functions.get_weather:0": False,
    "call_0": False,
    "call_00000001": False,
    "1731974400123": False,
    "toolcall00000017": False,
    "call_aed3b0de_0": True,
    "chatcmpl-tool-abcdefgh": False,
    "": False,
    "get_temperature_of_city": False,
}


@pytest.mark.parametrize(("id", "random"), IDS.items())
def test_an_id_that_counts_or_names_is_none_to_go_by(id: str, random: bool) -> None:
    assert as_good_as_random(id) == random


TEXT = st.text(max_size=6)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": st.one_of(st.none(), TEXT)},
        optional={"tool_calls": st.lists(st.builds(call, TEXT, TEXT, TEXT), max_size=2), "tool_call_id": TEXT, "name": TEXT},
    ),
    min_size=1,
    max_size=4,
)


def meaning(messages: Sequence[Mapping[str, Any]]) -> Any:
    """A conversation as the reader understands it, written down once more and without digests."""

    def arguments(text: str) -> Any:
        try:
            return json.loads(text, parse_float=lambda number: int(value) if (value := float(number)).is_integer() else value)
        except ValueError:
            return ("text", text.strip())

    def of_call(one: Mapping[str, Any]) -> Any:
        return one["id"], one["function"]["name"], arguments(one["function"]["arguments"])

    def of(one: Mapping[str, Any]) -> Any:
        calls = [of_call(each) for each in one.get("tool_calls") or ()]
        return one["role"], (one["content"] or "").strip(), one.get("name") or "", one.get("tool_call_id") or "", calls

    return repr([of(one) for one in messages])


@given(MESSAGES, MESSAGES)
def test_names_agree_exactly_where_meanings_do(first: list[Message], second: list[Message]) -> None:
    marker = Marker(derived(SECRET, b"names"))
    owns = [marker.answer("t", messages, "a", ()).own for messages in (first, second)]
    assert (owns[0] == owns[1]) == (meaning(first) == meaning(second))


# ---- at rest


def on_disk(file: Path) -> tuple[bytes, int]:
    """Every byte of the folder, and the mode of the file."""
    return b"".join(path.read_bytes() for path in file.parent.iterdir()), stat.S_IMODE(file.stat().st_mode)


def spoil_middle(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:4096] + b"\xff" * 200_000)


async def test_nothing_readable_is_on_the_disk_and_the_key_is_not_for_others(file: Path) -> None:
    plain = "The quick brown fox knows a secret. " * 20
    async with store(SqliteEntries(file)) as memory:
        memory.keep("research-team", request({"role": "user", "content": "my question"}), said("my answer", plain, call()))
        memory.keep("research-team", request(USER), said("short", "brown fox"))
        await memory.find("research-team", request(USER))
        written, mode = on_disk(file)
        assert len(written) > 4096
        for word in (b"brown fox", b"my question", b"my answer", b"research-team", ID.encode(), b"Paris"):
            assert word not in written
        assert mode == 0o600


async def test_another_key_has_forgotten_and_the_first_one_remembers_on(file: Path) -> None:
    sent = request(USER, back(), USER)
    async with store(SqliteEntries(file)) as memory:
        memory.keep("search", request(USER), said())
    async with store(SqliteEntries(file), OTHER) as stranger:
        assert await stranger.find("search", sent) == {}
    async with store(SqliteEntries(file)) as memory:
        assert await memory.find("search", sent) == {1: "0.8 is more than 0.11."}


def test_a_value_opens_only_for_its_own_team_under_its_own_name_and_secret() -> None:
    ciphers, others = Ciphers(derived(SECRET, b"values")), Ciphers(derived(OTHER, b"values"))
    cipher = ciphers.of("search")
    for text in ("r", "long " * 1000, "\ud83d half a pair"):
        value = cipher.seal(b"name", text)
        assert cipher.open(b"name", value) == text
        assert cipher.open(b"other", value) is None
        assert cipher.open(b"name", value[:-1] + bytes([value[-1] ^ 1])) is None
        assert cipher.open(b"name", b"") is None
        for stranger in (ciphers.of("support"), ciphers.of(""), others.of("search")):
            assert stranger.open(b"name", value) is None
        assert cipher.seal(b"name", text) != value
    assert len(cipher.seal(b"name", "long " * 1000)) < 500


def test_a_pointer_leads_on_only_for_its_own_team_under_its_own_name_and_secret() -> None:
    ciphers, others = Ciphers(derived(SECRET, b"values")), Ciphers(derived(OTHER, b"values"))
    cipher = ciphers.of("search")
    pointer = cipher.point(b"name", b"target")
    assert cipher.follow(b"name", pointer) == b"target" and cipher.point(b"name", b"target") == pointer
    assert cipher.follow(b"nam", cipher.point(b"name", b"target")) is None
    # The end of a name is no beginning of a team, nor that of a target.
    assert ciphers.of("xsearch").follow(b"name", pointer) is None and cipher.follow(b"namet", cipher.point(b"name", b"arget")) is None
    for changed in (b"", CLAIMED, b"target", b"other." + pointer[6:], pointer[:-1], pointer + b"\0"):
        assert cipher.follow(b"name", changed) is None
    for stranger in (ciphers.of("support"), others.of("search")):
        assert stranger.follow(b"name", pointer) is None


class Open:
    """Entries that anybody can write to, and that tell what was asked for."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.asked: list[bytes] = []

    async def start(self) -> None: ...

    async def put(self, entries: Sequence[Entry]) -> None:
        self.values |= {entry.name: entry.value for entry in entries}

    async def get(self, names: Sequence[bytes]) -> Mapping[bytes, bytes]:
        self.asked += names
        return {name: self.values[name] for name in names if name in self.values}

    async def close(self) -> None: ...

    def of(self, kind: bytes) -> list[bytes]:
        """The names of one kind under which something is kept, oldest first."""
        return [name for name in self.values if name[:1] == kind]


@pytest.mark.parametrize("team", ["support", "search"])
async def test_who_can_write_to_the_store_leads_nobody_to_what_another_team_or_conversation_was_told(team: str) -> None:
    """Pointers made up, pointers moved, and the sealed value itself under every name that is asked for."""
    entries = Open()
    theirs = call("call_00_9fK2xQ8bZ7LmNpRs")
    mine = request(asked("Hi"), back("", tool_calls=[theirs]), USER)
    async with store(entries) as memory, store(entries) as reader:
        memory.keep("search", request(USER), said("", "the secret", call()))
        assert await memory.find("search", request(USER, back("", tool_calls=[call()]))) == {1: "the secret"}
        assert await reader.find(team, mine) == {}
        (own,), (loose,), (by_call,) = (entries.of(kind) for kind in (b"o", b"l", b"c"))
        wanted = [name for name in entries.asked if name not in entries.values]
        kept = dict(entries.values)
        moves = [own, own + kept[by_call][len(own) : -16], kept[loose], kept[by_call], kept[own]]
        for value in moves:
            for kinds in (b"l", b"c", b"olc"):
                entries.values = kept | {name: value for name in wanted if name[:1] in [kinds[at : at + 1] for at in range(len(kinds))]}
                assert await reader.find(team, mine) == {}
        entries.values = kept
        assert await reader.find("search", request(USER, back("", tool_calls=[call()]))) == {1: "the secret"}


def test_one_secret_gives_each_purpose_a_key_of_its_own() -> None:
    assert len({derived(SECRET, b"names"), derived(SECRET, b"values"), derived(OTHER, b"names"), SECRET}) == 4


def no_database(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(b"no database" * 1000)


@pytest.mark.parametrize(("spoil", "found"), [(no_database, {1: "0.8 is more than 0.11."}), (lambda file: file.mkdir(parents=True), {})])
async def test_a_file_that_cannot_be_used_is_made_anew_or_done_without(
    file: Path, spoil: Callable[[Path], None], found: dict[int, str]
) -> None:
    spoil(file)
    async with store(SqliteEntries(file)) as memory:
        memory.keep("search", request(USER), said())
        assert await memory.find("search", request(USER, back())) == found


async def test_a_file_that_is_spoilt_on_the_way_is_made_anew(file: Path) -> None:
    async with store(SqliteEntries(file)) as memory:
        for number in range(200):
            memory.keep("search", request({"role": "user", "content": str(number)}), said("a", f"{number} " * 500))
        await memory.find("search", request(USER, back()))
    spoil_middle(file)
    async with store(SqliteEntries(file)) as memory:
        for _ in range(3):
            memory.keep("search", request(USER), said())
            found = await memory.find("search", request(USER, back()))
        assert found == {1: "0.8 is more than 0.11."}


# ---- limits


@pytest.fixture(params=["sqlite", "redis"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Entries]:
    """Entries of either kind; the same call gives the same contents again."""
    if request.param == "sqlite":
        return lambda **more: SqliteEntries(tmp_path / "recall.db", **more)
    server: RedisServer = request.getfixturevalue("redis_server")
    # Longer than in service, so that a busy machine is not taken for a slow Redis.
    return lambda **more: RedisEntries(Link(server.url, Calls(Quiet()), 2.0), **more)


class Quiet:
    def redis_call(self, op: str, outcome: str) -> None: ...

    def redis_up(self, up: bool) -> None: ...


@asynccontextmanager
async def opened(entries: Entries) -> AsyncIterator[Entries]:
    await entries.start()
    try:
        yield entries
    finally:
        await entries.close()


async def test_entries_outlive_their_process(make: Callable[..., Entries]) -> None:
    async with opened(make()) as entries:
        await entries.put([Entry(b"\0name", b"\0value\xff")])
    async with opened(make()) as entries:
        assert await entries.get([b"\0name", b"other"]) == {b"\0name": b"\0value\xff"}
        assert await entries.get([b"other"]) == {}


async def test_a_single_name_is_claimed_by_a_second_value(make: Callable[..., Entries]) -> None:
    async with opened(make()) as entries:
        single = Entry(b"name", b"first", single=True)
        await entries.put([single])
        await entries.put([single, Entry(b"plain", b"first")])
        assert await entries.get([b"name"]) == {b"name": b"first"}
        await entries.put([Entry(b"name", b"second", single=True), Entry(b"plain", b"second")])
        assert await entries.get([b"name", b"plain"]) == {b"name": CLAIMED, b"plain": b"second"}
        await entries.put([single])
        assert await entries.get([b"name"]) == {b"name": CLAIMED}


async def test_the_least_recently_used_go_first(make: Callable[..., Entries]) -> None:
    names = [b"%d" % number for number in range(200)]
    # Redis has every byte as text, a third longer.
    async with opened(make(room=5 * (1340 + OVERHEAD), now=count(1e9).__next__)) as entries:
        for name in names:
            await entries.put([Entry(name, bytes(1000))])
        found = await entries.get(names)
        assert 2 <= len(found) <= 6
        assert list(found) == names[-len(found) :]


async def test_what_nobody_asks_for_ends_with_its_age(make: Callable[..., Entries]) -> None:
    clock = [1e9]
    async with opened(make(age=100.0, now=lambda: clock[0])) as entries:
        await entries.put([Entry(b"name", b"value"), Entry(b"other", b"value")])
        for _ in range(5):
            clock[0] += 60
            assert await entries.get([b"name"]) == {b"name": b"value"}, "asked for again, it stays"
        assert await entries.get([b"other"]) == {}
        clock[0] += 101
        assert await entries.get([b"name"]) == {}
        await entries.put([Entry(b"third", b"value")])
        clock[0] -= 101
        assert await entries.get([b"name", b"other"]) == {}, "gone, not only unseen"


async def test_many_names_are_asked_at_once(make: Callable[..., Entries]) -> None:
    names = [b"%d" % number for number in range(1500)]
    async with opened(make()) as entries:
        await entries.put([Entry(name, name * 3) for name in names])
        assert await entries.get(names) == {name: name * 3 for name in names}


async def test_what_is_too_long_or_says_nothing_is_not_kept(file: Path) -> None:
    async with store(SqliteEntries(file), near=1 << 22) as memory:
        noise = "".join(chr(0x4E00 + (number * 7919) % 20_000) for number in range(LARGEST))
        for content, reasoning in (("a", "x" * (LONGEST + 1)), ("b", ""), ("c", " \n"), ("d", noise)):
            memory.keep("search", request(USER), said(content, reasoning))
            assert await memory.find("search", request(USER, back(content))) == {}
        memory.keep("search", request(USER), said("e", "x" * LONGEST))
        assert len((await memory.find("search", request(USER, back("e"))))[1]) == LONGEST


async def test_a_begun_answer_is_not_kept(file: Path) -> None:
    """The client joins its own beginning with the rest: a message that was never relayed as such."""
    async with store(SqliteEntries(file)) as memory:
        begun = [USER, back("9.", prefix=True)]
        memory.keep("search", request(*begun), said("8"))
        assert await memory.find("search", request(*begun, back("8"))) == {}


def test_what_is_near_is_bounded_and_has_an_end() -> None:
    near = Near(10)
    for number in range(100):
        near.put(b"%d" % number, "12345")
    assert [near.get(b"%d" % number) for number in (97, 98, 99)] == [None, "12345", "12345"]
    near.put(b"98", "1")
    near.put(b"100", "123")
    assert (near.get(b"98"), near.get(b"99"), near.get(b"100")) == ("1", "12345", "123")
    near.put(b"101", "longer than all there is room for")
    assert near.get(b"101") is None
    ended = Near(10, age=-1)
    ended.put(b"1", "r")
    assert ended.get(b"1") is None


def test_what_comes_back_counts_for_the_size_of_the_request() -> None:
    """The size bounds what the prompt can cost."""
    plain = request(USER, back(), USER)
    assert reminded(plain, {}) is plain
    again = reminded(plain, {1: "日本"})
    assert (again.recalled, again.size) == ({1: "日本"}, plain.size + 6 + 32)


# ---- Redis


async def test_two_gateways_with_one_key_share_one_memory(redis_server: RedisServer) -> None:
    def link() -> Link:
        return Link(redis_server.url, Calls(Quiet()), 2.0)

    plain = "The quick brown fox. " * 50
    sent = request(USER, back(), USER)
    async with (
        store(RedisEntries(link())) as first,
        store(RedisEntries(link())) as second,
        store(RedisEntries(link()), OTHER) as stranger,
    ):
        first.keep("search", request(USER), said("9.8", plain))
        assert await first.find("search", sent) == {1: plain}
        assert await second.find("search", sent) == {1: plain}
        assert await second.find("support", sent) == {}
        assert await stranger.find("search", sent) == {}
    reader = Link(redis_server.url, Quiet())
    client: Any = reader.client
    kept = [key async for key in client.scan_iter("*") if key != "faregate:probe"]
    assert sorted(kept) == ["faregate:{recall}:ages", "faregate:{recall}:size", "faregate:{recall}:values"]
    dumped = repr(await client.hgetall("faregate:{recall}:values")) + repr(await client.zrange("faregate:{recall}:ages", 0, -1))
    assert "fox" not in dumped and "search" not in dumped
    assert all([0 < await client.pttl(key) <= 72 * 3600 * 1000 for key in kept])
    size = int(await client.get("faregate:{recall}:size"))
    values: dict[str, str] = await client.hgetall("faregate:{recall}:values")
    assert size == sum(len(name) + len(value) + OVERHEAD for name, value in values.items())
    await reader.close()


async def test_without_redis_everything_is_forgotten_at_once(redis_server: RedisServer) -> None:
    sent = request(USER, back(), USER)
    async with store(RedisEntries(Link(redis_server.url, Calls(Quiet()), 0.05))) as memory:
        memory.keep("search", request(USER), said())
        redis_server.stop()
        for _ in range(5):
            memory.keep("search", request(USER), said())
            begun = time.monotonic()
            assert await memory.find("search", sent) == {}
            assert time.monotonic() - begun < 1.0


async def test_a_hanging_store_is_not_waited_for(file: Path) -> None:
    class Hanging:
        async def start(self) -> None: ...

        async def put(self, entries: Sequence[Entry]) -> None:
            await asyncio.sleep(6)

        async def get(self, names: Sequence[bytes]) -> Mapping[bytes, bytes]:
            await asyncio.sleep(60)
            return {}

        async def close(self) -> None: ...

    memory = Store(SECRET, Hanging(), patience=0.05)
    memory.keep("search", request(USER), said())
    begun = time.monotonic()
    for _ in range(100):
        assert await memory.find("search", request(USER, back())) == {}
    assert time.monotonic() - begun < 4, "only the first one waits"
    await memory.close()


async def test_no_memory_remembers_nothing() -> None:
    memory = NoRecall()
    await memory.start()
    memory.keep("search", request(USER), said())
    assert await memory.find("search", request(USER, back())) == {}
    await memory.close()


# ---- which store these settings make


@pytest.mark.parametrize(
    ("settings", "kind", "file"),
    [
        ({}, SqliteEntries, "recall-key"),
        ({"FAREGATE_STORE_KEY": "a key of 16 or more"}, SqliteEntries, None),
        ({"FAREGATE_REDIS": "redis://127.0.0.1:1/0"}, SqliteEntries, "recall-key"),
        ({"FAREGATE_REDIS": "redis://127.0.0.1:1/0", "FAREGATE_STORE_KEY": "a key of 16 or more"}, RedisEntries, None),
    ],
)
def test_redis_is_used_with_a_key_that_all_replicas_have(tmp_path: Path, settings: dict[str, str], kind: type, file: str | None) -> None:
    made: Any = reasoning_store(load({"FAREGATE_DATA": str(tmp_path / "data"), **settings}, None), Any)  # type: ignore[arg-type]
    assert type(made._entries) is kind
    found = sorted(path.name for path in (tmp_path / "data").glob("*"))
    assert found == ([file] if file else [])
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (tmp_path / "data").glob("*"))


async def test_where_nothing_can_be_written_it_is_remembered_until_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    memory = reasoning_store(load({"FAREGATE_DATA": str(tmp_path / "data")}, None), Any)  # type: ignore[arg-type]
    assert "cannot be written" in caplog.text
    await memory.start()
    memory.keep("search", request(USER), said())
    assert await memory.find("search", request(USER, back())) == {1: "0.8 is more than 0.11."}
    await memory.close()
