"""What is foretold of a request: from dispatches and reports only, and nothing of one team from another's."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec
import pytest
from msgspec import structs

from gateway.clock import parse_instant
from gateway.contracts import Cache
from gateway.foresight import TYPICAL_OUTPUT, Ask, Foresight, Prospect
from gateway.hosts import Deployment
from gateway.prefix import Place, Prints, packed
from gateway.request import Caller, ChatRequest
from gateway.usage import Sources, Usage
from tests.asking import ask as request_of
from tests.asking import at_host, contract

AT = parse_instant("2026-11-20T12:00:00Z")
SEARCH, OTHER = Caller("search", "search-1"), Caller("ads", "ads-1")
LONG = "All that an agent is told before it begins. " * 2000
MISSES = Sources(cache_hit="unknown")


def later(seconds: float) -> datetime:
    return datetime.fromtimestamp(AT.timestamp() + seconds, AT.tzinfo)


def asked(*texts: str, session: str = "", **body: Any) -> ChatRequest:
    """A conversation whose texts alternate between user and assistant, after a system prompt."""
    roles = ("user", "assistant")
    messages = [{"role": "system", "content": LONG}, *({"role": roles[at % 2], "content": text} for at, text in enumerate(texts))]
    return replace_session(request_of({"messages": messages, **body}), session)


def replace_session(request: ChatRequest, session: str) -> ChatRequest:
    return ChatRequest(
        request.id, request.model, request.body, request.stream, request.include_usage, request.beta, request.size, session=session
    )


def there(**model: Any) -> Deployment:
    return at_host(contract("plain"), model=model)


Looked = tuple[Ask, Place, Prints, Prospect]


class Talk:
    """One gateway's foresight, and how a request goes through it."""

    def __init__(self, deployment: Deployment | None = None) -> None:
        self.foresight = Foresight(b"s" * 32)
        self.deployment = deployment or there()

    def look(
        self, request: ChatRequest, at: datetime = AT, caller: Caller = SEARCH, estimate: int = 20_000
    ) -> tuple[Ask, Place, Prints, Prospect]:
        ask = self.foresight.ask(request, caller, at)
        place = self.foresight.place(self.deployment, caller.team, False)
        prints = self.foresight.prints(ask, request.body)
        return ask, place, prints, self.foresight.prospect(ask, place, prints, estimate)

    def serve(self, request: ChatRequest, usage: Usage, at: datetime = AT, caller: Caller = SEARCH, estimate: int = 20_000) -> Prospect:
        ask, place, prints, prospect = self.look(request, at, caller, estimate)
        self.foresight.sent(ask, place, prints, prospect)
        self.foresight.learn(ask, place, prints, prospect, usage)
        return prospect


# ---- conversations


def test_a_conversation_is_told_by_its_first_question_and_turns_by_its_answers() -> None:
    foresight = Foresight(b"s" * 32)
    first, second = (foresight.ask(request, SEARCH, AT) for request in (asked("a"), asked("a", "b", "c")))
    assert first.conversation == second.conversation
    assert (first.turn, second.turn) == (1, 2)
    assert foresight.ask(asked("b"), SEARCH, AT).conversation != first.conversation
    assert foresight.ask(asked("a"), OTHER, AT).conversation != first.conversation
    assert foresight.ask(asked("a"), Caller("search", "search-2"), AT).conversation != first.conversation
    assert Foresight(b"t" * 32).ask(asked("a"), SEARCH, AT).conversation != first.conversation


def test_a_system_prompt_that_changes_with_every_turn_does_not_break_the_conversation() -> None:
    foresight = Foresight(b"s" * 32)
    one, two = asked("a"), asked("a", "b", "c")
    two.body["messages"][0] = {"role": "system", "content": f"It is 12:01. {LONG}"}
    assert foresight.ask(one, SEARCH, AT).conversation == foresight.ask(two, SEARCH, AT).conversation


def test_a_session_that_the_client_names_is_the_conversation() -> None:
    foresight = Foresight(b"s" * 32)
    one, two = (foresight.ask(asked(text, session="thread-1"), SEARCH, AT) for text in ("a", "b"))
    assert one.conversation == two.conversation
    assert foresight.ask(asked("a", session="thread-1"), OTHER, AT).conversation != one.conversation


@pytest.mark.parametrize("content", [[{"type": "text", "text": "a"}], [{"type": "image_url"}], None, [], [{"type": "text", "text": 7}]])
def test_questions_of_several_parts_are_conversations_too(content: Any) -> None:
    request = request_of({"messages": [{"role": "user", "content": content}]})
    assert Foresight(b"s" * 32).ask(request, SEARCH, AT).turn == 1


# ---- what is cached


def test_nothing_is_expected_of_a_prompt_that_was_never_sent() -> None:
    prospect = Talk().look(asked("a"))[3]
    assert prospect == Prospect(20_000, 0, 0, TYPICAL_OUTPUT, 0.0, (), 20_000)


def test_the_next_turn_expects_what_the_last_one_sent() -> None:
    talk = Talk()
    talk.serve(asked("a"), Usage(0, 20_000, 100))
    prospect = talk.look(asked("a", "b", "c"), later(20))[3]
    assert prospect.idle == pytest.approx(20)
    assert 19_000 < prospect.known < 20_000
    assert prospect.known % 64 == 0
    assert 0.7 * prospect.known < prospect.hit <= prospect.known


def test_at_least_one_token_is_always_computed_anew() -> None:
    talk = Talk(there(cache=Cache(tokens=1)))
    talk.serve(asked("a"), Usage(0, 20_000, 100))
    assert talk.look(asked("a"), later(1))[3].known == 19_999


def test_where_nothing_is_cached_nothing_is_expected_though_it_is_known() -> None:
    talk = Talk(there(cache=Cache(mode="none")))
    talk.serve(asked("a"), Usage(0, 20_000, 100))
    prospect = talk.look(asked("a", "b", "c"), later(20))[3]
    assert prospect.known > 19_000
    assert prospect.hit == 0


def test_what_one_team_sent_shows_in_no_other_teams_prospect() -> None:
    talk = Talk()
    for at in range(5):
        talk.serve(asked(f"q{at}"), Usage(0 if at == 0 else 19_000, 20_000 if at == 0 else 1_000, 100), later(at))
    assert talk.look(asked("new"), later(10))[3].known > 19_000
    assert talk.look(asked("new"), later(10), OTHER)[3].known == 0
    same = talk.foresight.ask(asked("new"), SEARCH, AT), talk.foresight.ask(asked("new"), OTHER, AT)
    prints = [talk.foresight.prints(ask, asked("new").body) for ask in same]
    assert set(prints[0].digests).isdisjoint(prints[1].digests)


def test_a_host_that_never_hits_is_found_out() -> None:
    talk = Talk()
    for turn in range(12):
        talk.serve(asked("a", *("x" for _ in range(2 * turn))), Usage(0, 20_000, 100), later(20 * turn))
    prospect = talk.look(asked("a", *("x" for _ in range(24))), later(240))[3]
    assert prospect.known > 19_000
    assert prospect.hit < 0.2 * prospect.known


def test_a_host_that_does_not_report_what_it_cached_is_expected_to_charge_everything() -> None:
    talk = Talk()
    talk.serve(asked("a"), Usage(0, 20_000, 100, sources=MISSES))
    assert talk.look(asked("a", "b", "c"), later(10))[3].hit > 0, "a first prompt cannot be a hit: nothing is learnt from it"
    talk.serve(asked("a", "b", "c"), Usage(0, 20_000, 100, sources=MISSES), later(10))
    assert talk.look(asked("a", "b", "c", "d", "e"), later(20))[3].hit == 0


def test_prefixes_of_others_are_learnt_as_a_share() -> None:
    talk = Talk()
    for at in range(120):
        request = request_of({"messages": [{"role": "user", "content": f"{at} {LONG}"}]})
        talk.serve(request, Usage(8_000, 12_000, 100), later(at))
    found = talk.look(request_of({"messages": [{"role": "user", "content": f"new {LONG}"}]}), later(200))[3]
    assert found.known == 0
    assert found.hit == pytest.approx(8_000, rel=0.1)


# ---- lengths


def test_tokens_are_calibrated_by_what_the_host_reports() -> None:
    talk = Talk()
    for at in range(20):
        talk.serve(asked(f"q{at}"), Usage(0, 26_000, 100), later(at))
    assert talk.look(asked("new"), later(30))[3].prompt == pytest.approx(26_000, rel=0.02)


def test_answers_are_as_long_as_this_keys_answers_of_this_version_were() -> None:
    talk = Talk()
    for at in range(50):
        talk.serve(asked(f"q{at}"), Usage(0, 20_000, 300), later(at))
        talk.serve(asked(f"q{at}"), Usage(0, 20_000, 3_000), later(at), OTHER)
    mine, theirs = (talk.look(asked("new"), later(100), caller)[3].output for caller in (SEARCH, OTHER))
    # The version's own mean weighs in as two answers do.
    assert mine == pytest.approx(300, rel=0.25)
    assert theirs == pytest.approx(3_000, rel=0.15)
    ask, place, prints, _ = talk.look(asked("new"), later(100))
    assert talk.foresight.prospect(ask, place, prints, 10, answers=3, most=100).output == 300
    assert talk.foresight.prospect(ask, structs.replace(place, model="another"), prints, 10, typical=5).output == 5


def test_an_answer_is_foretold_to_have_a_token_at_least() -> None:
    talk = Talk()
    ask, place, prints, prospect = talk.look(asked("Yes?"))
    for _ in range(30):
        # One of eight answers has a token, the others have none.
        talk.foresight.learn(ask, place, prints, prospect, Usage(0, 20_000, 1), answers=8)
    assert talk.foresight.prospect(ask, place, prints, 10, typical=1).output == 1


def test_an_answer_that_was_cut_says_nothing_of_lengths_and_one_that_was_counted_nothing_at_all() -> None:
    talk = Talk()
    ask, place, prints, prospect = talk.look(asked("a"))
    talk.foresight.learn(ask, place, prints, prospect, Usage(0, 20_000, 7), ended=False)
    counted = Sources(cache_hit="unknown", cache_miss="counted", output="counted")
    talk.foresight.learn(ask, place, prints, prospect, Usage(0, 90_000, 7, sources=counted))
    assert talk.look(asked("a"))[3].output == TYPICAL_OUTPUT
    assert talk.look(asked("a"))[3].prompt == 20_000


# ---- places and hashing


def test_a_team_apart_has_a_place_of_its_own_where_the_host_can_keep_one() -> None:
    foresight, plain = Foresight(b"s" * 32), there()
    apart = at_host(contract("plain"), reads={"user": "user_id"})
    assert foresight.place(plain, "search", True).name == foresight.place(plain, "ads", False).name == "there/m"
    assert foresight.place(apart, "search", False).name == "there/m"
    assert foresight.place(apart, "search", True).name == "there/m#search"
    assert foresight.place(apart, "search", True).model == "plain"


def test_the_same_messages_are_hashed_once_for_all_that_get_them() -> None:
    foresight, request = Foresight(b"s" * 32), asked("a")
    ask = foresight.ask(request, SEARCH, AT)
    first = foresight.prints(ask, request.body)
    assert foresight.prints(ask, {**request.body, "model": "other"}) is first
    rewritten = {**request.body, "messages": [dict(message) for message in request.messages]}
    assert foresight.prints(ask, rewritten) is not first
    assert foresight.prints(ask, rewritten) == first
    assert foresight.prints(structs.replace(ask, hashed=None), request.body) == first


def test_the_keep_of_a_place_follows_pauses_and_record() -> None:
    foresight = Foresight(b"s" * 32)
    ask = foresight.ask(asked("a"), SEARCH, AT)
    outlook = foresight.outlook(ask, 20_000)
    none, short, long = (foresight.keep(Place(name, cache), outlook) for name, cache in CACHES)
    assert none.likely == none.hoped == 0.0
    assert 0.0 < short.likely < long.likely <= long.hoped <= 1.0
    assert foresight.keep(Place(*CACHES[1]), outlook) is short


CACHES = (("n", Cache(mode="none")), ("s", Cache(ttl=30)), ("l", Cache(ttl=86_400)))


# ---- replicas


def test_what_one_gateway_sent_another_with_the_same_secret_knows() -> None:
    here, elsewhere, stranger = Talk(), Talk(), Talk()
    stranger.foresight = Foresight(b"t" * 32)
    messages: list[bytes] = []
    here.foresight.share = messages.append
    here.serve(asked("a"), Usage(0, 20_000, 100))
    for message in messages:
        elsewhere.foresight.hear(message)
        stranger.foresight.hear(message)
    assert len(messages) == 1
    assert elsewhere.look(asked("a", "b", "c"), later(20))[3].known > 19_000
    assert stranger.look(asked("a", "b", "c"), later(20))[3].known == 0


@pytest.mark.parametrize("message", [b"", b"\xff\xff", b"\x93\x01\x02\x03", b"\x94\xa1x\xc2\x01\xc4\x03abc"])
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"gateway|multiple"):
        Foresight(b"s" * 32).hear(message)


@pytest.mark.parametrize("at", [float("inf"), float("-inf"), float("nan"), 1e300, -1e300, AT.timestamp() + 61, AT.timestamp() - 90_000])
def test_a_time_that_cannot_be_is_refused(at: float) -> None:
    """One such note would make every later request of its conversation fail, or nothing in the index age any more."""
    there = Talk()
    digests = there.look(asked("a"))[2].digests
    message = msgspec.msgpack.encode(["other/m", False, at, packed(digests)])
    with pytest.raises(ValueError, match="time"):
        there.foresight.hear(message, AT.timestamp())
    if not math.isfinite(at):
        with pytest.raises(ValueError, match="time"):
            there.foresight.hear(message)
    assert len(there.foresight.index) == 0


def test_what_no_choice_depends_on_is_not_learnt() -> None:
    talk = Talk()
    ask, place, prints, prospect = talk.look(asked("a"))
    talk.foresight.sent(ask, place, prints, structs.replace(prospect, weighed=False))
    assert talk.foresight.warm(ask) == ""
    assert talk.look(asked("a", "b", "c"), later(20))[3].known > 19_000


def test_a_prompt_shorter_than_a_block_is_never_cached() -> None:
    talk = Talk()
    short = request_of({"messages": [{"role": "user", "content": "Hi"}]})
    talk.serve(short, Usage(0, 5, 10), estimate=5)
    assert talk.look(short, later(5), estimate=5)[3].known == 0


def test_the_place_of_the_last_turn_is_warm() -> None:
    talk = Talk()
    assert talk.foresight.warm(talk.look(asked("a"))[0]) == ""
    talk.serve(asked("a"), Usage(0, 20_000, 100))
    assert talk.foresight.warm(talk.look(asked("a", "b", "c"))[0]) == "there/m"


def test_hosts_are_compared_by_equal_rules() -> None:
    """A place whose cache was changed by a reload of the policies is looked at by the new rule."""
    talk = Talk()
    before = talk.look(asked("a"))[1]
    talk.deployment = replace(talk.deployment, model=talk.deployment.model.model_copy(update={"cache": Cache(mode="none")}))
    assert talk.look(asked("a"))[1].cache != before.cache
