"""Foresight: what every answer so far teaches about the next one. Deterministic; no clock, no text, bounded memory.

It foretells, for one request at one deployment: tokens of the prompt, how many of them will be a cache hit, the length of the
answer, and how the conversation will probably go on. The router in production and `faregate simulate` use this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from hashlib import blake2b
from math import isfinite
from operator import mul
from typing import Any, Final, NamedTuple

import msgspec

from gateway.forecast import MIDDLES, Forecast, Outlook
from gateway.hosts import Deployment
from gateway.prefix import AGE, NO_MATCH, NO_PRINTS, Index, Match, Place, Prints, packed, prints, unpacked
from gateway.request import Caller, ChatRequest
from gateway.survival import SURE, Survival
from gateway.tokens import Calibration
from gateway.usage import Usage

# Output tokens of a question where nobody knows better: a plain chat answer.
TYPICAL_OUTPUT: Final = 800
# Answers that the first guess of their length is worth, and how many are remembered.
GUESS, REMEMBERED = 2.0, 64.0
# Pairs of key and version whose answers are remembered; teams whose secret is kept ready; places beside the deployments' own.
PAIRS, TEAMS, PLACES = 4096, 1024, 8192
# Seconds that are a short pause.
SOON: Final = 30.0
# Seconds by which the clocks of two replicas may differ.
AHEAD: Final = 60.0
# Characters of the first question that tell one conversation from another.
_QUESTION = 4096


class Ask(msgspec.Struct, frozen=True):
    """Who asks, in which conversation, at which of its turns (from 1), when (seconds since 1970, by the gateway's clock).

    `hashed` keeps the prints of this request's prompts: each is hashed once, however many deployments get it.
    """

    team: str
    key: str
    conversation: int
    turn: int
    at: float
    hashed: dict[tuple[int, int], tuple[Any, Any, Prints]] | None = None

    @property
    def draw(self) -> int:
        """A number like none before it, to draw lots with; an app may send one name of a session with all its conversations."""
        return int.from_bytes(blake2b(b"%d %d" % (self.conversation, int(self.at * 1e6)), digest_size=8).digest(), "big")


class Prospect(msgspec.Struct, frozen=True):
    """What is foretold of one request at one deployment, in its own tokens.

    `known`: the beginning of the prompt that we sent there before; `hit`: as much of it as will probably be cached after `idle`
    seconds; `output`: of all answers that were asked for. `steps`: the beginnings that are known, (tokens, idle), the longest first.
    `estimate`: the tokens that were estimated before they were corrected by what the host reports. `weighed`: other deployments were
    looked at too, so that it matters how the conversation goes on.
    """

    prompt: int
    known: int
    hit: int
    output: int
    idle: float = 0.0
    steps: tuple[tuple[int, float], ...] = ()
    estimate: int = 0
    weighed: bool = True


class Keep(NamedTuple):
    """The share of a prompt that will probably still be cached at a place at the next turn; the most to be hoped for then, and soon.

    `trust`: how surely its cache is sound; `sound` and `doubted`: the share if it is, and if it is not. `likely` is between the two.
    """

    likely: float
    hoped: float
    soon: float = 0.0
    trust: float = 1.0
    sound: float = 0.0
    doubted: float = 0.0


class _Message(msgspec.Struct, array_like=True):
    """What other replicas learn of one prompt."""

    place: str
    units: bool
    at: float
    digests: bytes


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(_Message).decode


class Foresight:
    """Learns from dispatches and reports in the order of time. `secret` seeds every digest: replicas that share must have the same."""

    def __init__(self, secret: bytes, index: Index | None = None, forecast: Forecast | None = None) -> None:
        self._secret = secret[:64]
        self.index: Final = Index() if index is None else index
        self._forecast = Forecast() if forecast is None else forecast
        self._prompts = Calibration()
        self._teams: dict[str, bytes] = {}
        self._places: dict[tuple[str, str], Place] = {}
        self._survival: dict[str, Survival] = {}
        # Lengths of answers by key and version, and by version.
        self._answers: dict[tuple[str, str], _Mean] = {}
        self._versions: dict[str, _Mean] = {}
        self._keeps: dict[tuple[str, str, int], tuple[int, int, Keep]] = {}
        self.share: Callable[[bytes], None] | None = None
        """Called with each prompt that was sent, as a message for the other replicas."""
        self.watch: Callable[[str, int, int, float, float], None] | None = None
        """Called with each report on a known prefix: the place, tokens that were known and that hit, seconds of its pause, when."""

    def ask(self, request: ChatRequest, caller: Caller, at: datetime) -> Ask:
        """Who asks and in which conversation: the session that the client names, else what tells its first question from others."""
        turn, question = 1, None
        for message in request.messages:
            role = message.get("role")
            if role == "assistant":
                turn += 1
            elif role == "user" and question is None:
                question = message.get("content")
        if request.session:
            text = f"session\0{request.session}"
        else:
            text = question if type(question) is str else _text(question)
            text = f"{caller.key}\0{len(text)}\0{text[:_QUESTION]}"
        digest = blake2b(text.encode("utf-8", "replace"), digest_size=8, key=self._team(caller.team)).digest()
        return Ask(caller.team, caller.key, int.from_bytes(digest, "big"), turn, at.timestamp(), {})

    def prints(self, ask: Ask, body: Mapping[str, Any]) -> Prints:
        """The digests of a prompt, seeded with the team: what one team sent never shows in another's quotes or routes."""
        messages, tools = body["messages"], body.get("tools")
        if ask.hashed is None:
            return prints(tools, messages, self._team(ask.team))
        at = (id(messages), id(tools))
        known = ask.hashed.get(at)
        if known is None:
            # The objects are kept with it, so that no other can get their identity.
            known = ask.hashed[at] = (messages, tools, prints(tools, messages, self._team(ask.team)))
        return known[2]

    def prints_there(self, ask: Ask, place: Place, body: Mapping[str, Any], estimate: int) -> Prints:
        """The same for one place; none of a prompt that is too short to be cached there, of `estimate` tokens before correction."""
        if self._prompts.corrected(place.name, estimate) <= place.cache.tokens:
            return NO_PRINTS
        return self.prints(ask, body)

    def _team(self, team: str) -> bytes:
        found = self._teams.get(team)
        if found is None:
            if len(self._teams) >= TEAMS:
                self._teams.clear()
            found = self._teams[team] = blake2b(team.encode(), digest_size=32, key=self._secret).digest()
        return found

    def place(self, deployment: Deployment, team: str, isolated: bool) -> Place:
        """Where this deployment caches what the team sends: with the account's, or apart where the host keeps users apart."""
        apart = team if isolated and deployment.host.reads.user is not None else ""
        found = self._places.get((deployment.name, apart))
        if found is None or found.cache is not deployment.cache:
            if len(self._places) >= PLACES:
                self._places.clear()
            name = f"{deployment.name}#{apart}" if apart else deployment.name
            found = self._places[deployment.name, apart] = Place(name, deployment.cache, deployment.contract.contract)
        return found

    def prospect(
        self,
        ask: Ask,
        place: Place,
        prints: Prints,
        estimate: int,
        answers: int = 1,
        typical: int = TYPICAL_OUTPUT,
        most: int | None = None,
        weighed: bool = True,
    ) -> Prospect:
        """What to expect there. `estimate`: tokens of the prompt before correction; `typical`: those of an answer where none is known,
        `most`: of one answer at most."""
        prompt = self._prompts.corrected(place.name, estimate)
        output = self.usual(ask.key, place.model, typical)
        if most is not None and output > most:
            output = most
        if answers > 1:
            output *= answers
        # What is shorter than a block is never cached.
        match = self.index.match(place, prints, ask.at) if prompt > place.cache.tokens else NO_MATCH
        if match is NO_MATCH and place.name not in self._survival:
            return Prospect(prompt, 0, 0, output, 0.0, (), estimate, weighed)
        steps = _steps(match, prompt, prints.size, place)
        return Prospect(prompt, steps[0][0] if steps else 0, self._hit(place, prompt, steps), output, match.idle, steps, estimate, weighed)

    def _hit(self, place: Place, prompt: int, steps: tuple[tuple[int, float], ...]) -> int:
        """Whole tokens that are expected to be cached: at least one is always computed anew."""
        survival = self._record(place)
        if not (steps or survival.beyond) or place.cache.mode == "none" or survival.mute:
            return 0
        expected, above = 0.0, steps[0][0] if steps else 0
        for index, (tokens, idle) in enumerate(steps):
            below = steps[index + 1][0] if index + 1 < len(steps) else 0
            expected += (tokens - below) * survival.mean(idle)
        expected += (prompt - above) * survival.beyond
        return max(0, min(int(expected), prompt - 1))

    def _record(self, place: Place) -> Survival:
        found = self._survival.get(place.name)
        if found is None:
            if len(self._survival) >= PLACES:
                del self._survival[next(iter(self._survival))]
            found = self._survival[place.name] = Survival(place.cache)
        return found

    def usual(self, key: str, model: str, typical: int) -> int:
        """Mean output tokens of one answer for this key and version, as far as known; at first `typical`; at least 1."""
        version = self._versions.get(model)
        if version is None:
            return typical
        guess, mine = version.beside(typical), self._answers.get((key, model))
        return round(guess if mine is None else mine.beside(guess)) or 1

    def outlook(self, ask: Ask, tokens: int) -> Outlook:
        """How the conversation will probably go on after a prompt of so many tokens."""
        return self._forecast.outlook(ask.key, ask.conversation, ask.turn, ask.at, tokens)

    def keep(self, place: Place, outlook: Outlook) -> Keep:
        """How much of a prompt will probably still be cached there at the conversation's next turn."""
        at = (place.name, *outlook.context)
        survival = self._record(place)
        known = self._keeps.get(at)
        if known is not None and known[0] == survival.version and known[1] == outlook.version:
            return known[2]
        if len(self._keeps) >= PLACES:
            self._keeps.clear()
        hoped = sum(map(mul, outlook.pauses, map(survival.hope, MIDDLES)))
        trust = sound = doubted = 0.0
        for share, middle in zip(outlook.pauses, MIDDLES, strict=False):
            trust, kept, left = survival.worlds(middle)
            sound += share * kept
            doubted += share * left
        likely = trust * sound + (1.0 - trust) * doubted
        if trust > SURE:
            trust = 1.0
        found = Keep(min(SURE, likely), min(SURE, hoped), min(SURE, survival.hope(SOON)), trust, min(SURE, sound), min(SURE, doubted))
        self._keeps[at] = (survival.version, outlook.version, found)
        return found

    def warm(self, ask: Ask) -> str:
        """The name of the place to which the conversation's latest request went; "" where none is known."""
        return self._forecast.place(ask.conversation)

    def sent(self, ask: Ask, place: Place, prints: Prints, prospect: Prospect | None = None) -> None:
        """It was dispatched there: known from now on. With a prospect that was weighed it also teaches how conversations go on."""
        if prospect is not None and prospect.weighed:
            self._forecast.seen(ask.key, ask.conversation, ask.turn, ask.at, place.name, prospect.prompt, prospect.known, prospect.idle)
        if not prints.digests or (prospect is not None and prospect.prompt <= place.cache.tokens):
            # Shorter than a block, here and as the beginning of any other.
            return
        self.index.note(place, prints, ask.at)
        if self.share is not None:
            self.share(_pack(_Message(place.name, place.cache.mode == "units", ask.at, packed(prints.digests))))

    def hear(self, message: bytes, now: float | None = None) -> None:
        """What another replica sent; raises ValueError for anything that is no such message, or of a time that it cannot be from.

        `now`: seconds since 1970, by this gateway's clock; None: any time is believed.
        """
        try:
            heard = _unpack(message)
        except msgspec.MsgspecError as error:
            raise ValueError("not a message of another gateway") from error
        if not isfinite(heard.at) or (now is not None and not now - AGE <= heard.at <= now + AHEAD):
            raise ValueError("not a message of another gateway: its time is wrong")
        self.index.add(heard.place, unpacked(heard.digests), heard.at, heard.units)

    def learn(self, ask: Ask, place: Place, prints: Prints, prospect: Prospect, usage: Usage, answers: int = 1, ended: bool = True) -> None:
        """What an answer teaches: only what the host itself reported. `ended`: it came to its own end, so its length counts."""
        if not usage.reported:
            return
        self._prompts.learn(place.name, usage.prompt, prospect.estimate)
        if ended and usage.output > 0:
            self._answered(ask.key, place.model, usage.output / answers)
        survival = self._record(place)
        if usage.sources.cache_hit != "reported":
            if prospect.known >= max(1, place.cache.tokens):
                survival.silence()
            return
        if prospect.steps:
            survival.learn(prospect.steps, usage.cache_hit)
        else:
            survival.spoke()
        if self.watch is not None and prospect.known > 0:
            self.watch(place.name, prospect.known, usage.cache_hit, prospect.idle, ask.at)
        if (usage.cache_hit or survival.beyond) and place.cache.mode != "none":
            survival.surprise(usage.prompt - prospect.known, usage.cache_hit - prospect.known)

    def _answered(self, key: str, model: str, output: float) -> None:
        """One more answer of a key, and of all keys, by a version; the pair that was met first is forgotten first."""
        at = (key, model)
        known = self._answers.get(at)
        if known is None:
            if len(self._answers) >= PAIRS:
                del self._answers[next(iter(self._answers))]
            known = self._answers[at] = _Mean()
        known.add(output)
        version = self._versions.get(model)
        if version is None:
            version = self._versions[model] = _Mean()
        version.add(output)


class _Mean:
    """A mean in which the latest REMEMBERED values count most."""

    __slots__ = ("count", "mean")

    def __init__(self) -> None:
        self.mean = 0.0
        self.count = 0.0

    def add(self, value: float) -> None:
        if self.count < REMEMBERED:
            self.count += 1.0
        self.mean += (value - self.mean) / self.count

    def beside(self, guess: float) -> float:
        """This mean, in which the guess weighs as GUESS values."""
        return (self.mean * self.count + guess * GUESS) / (self.count + GUESS)


def _text(content: Any) -> str:
    """The text of a content that has several parts: its first one; "" where there is none."""
    parts = content if isinstance(content, list) else ()
    return next((part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)), "")


def _steps(match: Match, prompt: int, size: int, place: Place) -> tuple[tuple[int, float], ...]:
    """The known beginnings in tokens: by their share of the bytes, in whole blocks, and never the whole prompt."""
    if not match.size:
        return ()
    block = place.cache.tokens if place.cache.mode == "blocks" else 1
    most = prompt - 1
    found = []
    for bytes_, idle in match.steps:
        tokens = min(most, prompt * bytes_ // size) // block * block
        if tokens > 0:
            found.append((tokens, idle))
    return tuple(found)
