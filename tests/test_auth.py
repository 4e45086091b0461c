"""Keys: three headers, one key, one caller; and nothing of a key in any answer."""

from __future__ import annotations

import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace
from pydantic import SecretStr

from gateway.errors import FaregateError, InvalidKey, InvalidRequest
from gateway.front.auth import Keys, pepper_for
from gateway.keys.port import Key
from gateway.keys.secret import Hasher, pseudonym
from gateway.request import Caller, OwnBudget

KEY = b"sk-correct-horse"
KEYS = Keys([("search", SecretStr(KEY.decode())), ("ads", SecretStr("sk-battery-staple"))], b"pepper")


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer " + KEY},
        {b"authorization": b"bearer  " + KEY + b" "},
        {b"x-api-key": KEY},
        {b"api-key": KEY},
        {b"authorization": b"Bearer " + KEY, b"x-api-key": KEY, b"api-key": KEY},
        {b"authorization": b"Bearer " + KEY, b"x-api-key": b""},
    ],
)
def test_each_of_the_three_headers_names_the_caller(headers: dict[bytes, bytes]) -> None:
    assert KEYS.authenticate(headers).team == "search"


def test_the_public_name_of_a_key_is_its_team_and_six_digits_of_the_digest() -> None:
    caller = KEYS.authenticate({b"api-key": KEY})
    team, _, digits = caller.key.rpartition("-")
    assert team == "search" and len(digits) == 6 and int(digits, 16) >= 0
    assert Keys([("search", SecretStr(KEY.decode()))], b"another pepper").authenticate({b"api-key": KEY}).key != caller.key


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({}, InvalidKey),
        ({b"authorization": b""}, InvalidKey),
        ({b"authorization": b"Bearer"}, InvalidKey),
        ({b"authorization": b"Bearer "}, InvalidKey),
        ({b"authorization": b"Basic " + KEY}, InvalidKey),
        ({b"authorization": KEY}, InvalidKey),
        ({b"authorization": b"Bearer sk-wrong-horse"}, InvalidKey),
        ({b"authorization": b"Bearer " + KEY[:-1]}, InvalidKey),
        ({b"authorization": b"Bearer " + KEY + b"x"}, InvalidKey),
        ({b"authorization": b"Bearer ' OR 1=1--"}, InvalidKey),
        ({b"authorization": b"Bearer \xe9"}, InvalidKey),
        ({b"api-key": b"\xff\xfe"}, InvalidKey),
        ({b"api-key": b"k" * 100_000}, InvalidKey),
        ({b"authorization": b"Bearer " + KEY, b"x-api-key": b"sk-battery-staple"}, InvalidRequest),
        ({b"x-api-key": KEY, b"api-key": b"sk-wrong-horse"}, InvalidRequest),
    ],
)
def test_what_is_no_key_or_two_keys_is_refused_without_repeating_it(headers: dict[bytes, bytes], error: type[FaregateError]) -> None:
    with pytest.raises(error) as refusal:
        KEYS.authenticate(headers)
    assert "horse" not in refusal.value.message and "1=1" not in refusal.value.message


def test_neither_a_key_nor_the_pepper_shows_in_a_repr() -> None:
    assert "horse" not in repr(vars(KEYS))


AT = datetime(2026, 11, 20, 2, tzinfo=UTC)
OWN = OwnBudget(5 * 10**9, "USD", "month")
STORED = Key("key-1", "fg-aaaaaa", "ci", "ads", AT, budget=OWN)


class Hand:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.at = AT

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return 0.0


def with_stored(key: Key, clock: Hand, secret: bytes = b"fg-stored") -> Keys:
    keys = Keys([("search", SecretStr(KEY.decode()))], b"pepper", clock)
    keys.use(keys.known({Hasher(b"pepper").digest(secret): key}))
    return keys


def test_a_stored_key_is_a_caller_with_its_name_and_budget() -> None:
    keys = with_stored(STORED, Hand())
    assert keys.authenticate({b"api-key": b"fg-stored"}) == Caller("ads", "ci", OWN)
    assert keys.authenticate({b"api-key": KEY}).team == "search"
    keys.use(keys.known({}))
    with pytest.raises(InvalidKey, match="not known here"):
        keys.authenticate({b"api-key": b"fg-stored"})


def test_a_key_is_refused_from_the_instant_at_which_it_expires() -> None:
    clock = Hand()
    keys = with_stored(replace(STORED, expires=AT + timedelta(hours=1)), clock)
    clock.at = AT + timedelta(hours=1) - timedelta(microseconds=1)
    assert keys.authenticate({b"api-key": b"fg-stored"}) == Caller("ads", "ci", OWN)
    clock.at += timedelta(microseconds=1)
    with pytest.raises(InvalidKey, match=r"^This key expired at 2026-11-20T03:00:00Z\.$"):
        keys.authenticate({b"api-key": b"fg-stored"})


@pytest.mark.parametrize("sent", [b"fg-stored", b"fg-store", b"fg-storedd", b"fg-aaaaaa", b"key-1", b"ci"])
def test_why_a_key_has_ended_is_told_to_its_holder_alone(sent: bytes) -> None:
    keys = with_stored(replace(STORED, revoked=AT, expires=AT), Hand())
    with pytest.raises(InvalidKey) as refusal:
        keys.authenticate({b"api-key": sent})
    assert refusal.value.message == ("This key was revoked." if sent == b"fg-stored" else "This key is not known here.")


@pytest.mark.parametrize("ended", [replace(STORED, revoked=AT), replace(STORED, expires=AT), STORED])
def test_of_a_key_in_both_the_settings_win(ended: Key) -> None:
    keys = with_stored(ended, Hand(), KEY)
    caller = keys.authenticate({b"api-key": KEY})
    assert (caller.team, caller.budget, caller.key.startswith("search-")) == ("search", None, True)


def test_a_pepper_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    made = pepper_for(None, tmp_path / "data")
    assert len(made) == 64
    assert pepper_for(None, tmp_path / "data") == made
    assert pepper_for(None, tmp_path / "other") != made
    assert stat.S_IMODE((tmp_path / "data" / "key-pepper").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["key-pepper"]


def test_a_configured_pepper_is_used(tmp_path: Path) -> None:
    assert pepper_for(SecretStr("a pepper of one's own"), tmp_path) == b"a pepper of one's own"
    assert not list(tmp_path.iterdir())


def test_a_team_has_one_pseudonym_under_each_pepper_and_none_tells_its_name() -> None:
    names = {pseudonym(pepper, team) for pepper in (b"pepper", b"another pepper") for team in ("search", "ads", "search")}
    assert len(names) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{16,64}", name) for name in names)
    assert pseudonym(b"pepper", "search") == pseudonym(b"pepper", "search")
    # What others are told must not be what a key is looked up by.
    assert not Hasher(b"pepper").digest(b"search").hex().startswith(pseudonym(b"pepper", "search"))
