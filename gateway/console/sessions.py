"""Who may see the console: signed cookies, tokens in forms, and few tries for the admin token.

Nothing is stored: a cookie proves itself under a key made of the admin token, so all replicas with the same token know it, and
changing the token ends every session.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_hex
from typing import Final, Literal

Kind = Literal["admin", "guest"]
LASTS: Final[dict[Kind, int]] = {"admin": 12 * 3600, "guest": 3600}
# Wrong tokens in a minute: from one address, and from all.
TRIES, TRIES_OF_ALL, MINUTE = 5, 100, 60
_REMEMBERED: Final = 4096
_COOKIE: Final = re.compile(r"(admin|guest)\.(\d{1,12})\.([0-9a-f]{32})\.([0-9a-f]{64})")
_SALT: Final = b"faregate console"


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that has logged in (`admin`), or one that is about to (`guest`)."""

    kind: Kind
    since: int
    nonce: str


class Sessions:
    """Makes and reads the cookies. `now` is the machine's clock in seconds: the gateway's own may run faster."""

    def __init__(self, token: bytes, now: Callable[[], float]) -> None:
        self._token = token
        # Slow on purpose, once: who has a cookie must not find a short token from it.
        self._key = hashlib.scrypt(token, salt=_SALT, n=2**14, r=8, p=1)
        self._now = now
        self._ended = _Recent()
        self._used = _Recent()

    def start(self, kind: Kind) -> Session:
        return Session(kind, int(self._now()), token_hex(16))

    def cookie(self, session: Session) -> str:
        said = f"{session.kind}.{session.since}.{session.nonce}"
        return f"{said}.{self._mac('cookie', said)}"

    def read(self, cookie: str | None) -> Session | None:
        """The session of a cookie that is ours, not too old and not logged out here; else None."""
        found = _COOKIE.fullmatch(cookie or "")
        if found is None or not hmac.compare_digest(found[4], self._mac("cookie", found[0].rpartition(".")[0])):
            return None
        kind: Kind = "admin" if found[1] == "admin" else "guest"
        session = Session(kind, int(found[2]), found[3])
        fresh = 0 <= self._now() - session.since + 1 <= LASTS[kind]
        return session if fresh and session.nonce not in self._ended else None

    def knows(self, token: str) -> bool:
        """Whether this is the admin token; compared in a time that does not depend on it."""
        return hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token)

    def end(self, session: Session) -> None:
        """In this process its cookie is good for nothing any more, even where the browser keeps it."""
        self._ended.add(session.nonce)

    def form(self, session: Session) -> str:
        """What a form of this session carries: only a page that this gateway made for it has it."""
        return self._mac("form", session.nonce)

    def fits(self, session: Session, sent: str) -> bool:
        return hmac.compare_digest(sent.encode("utf-8", "surrogateescape"), self.form(session).encode())

    def first(self, once: str) -> bool:
        """Whether a form that may be sent once has not been sent before: a page that is loaded again sends it again."""
        return bool(once) and self._used.add(once)

    def _mac(self, purpose: str, said: str) -> str:
        return hmac.digest(self._key, f"{purpose} {said}".encode(), "sha256").hex()


class Tries:
    """Counts wrong tokens by address, so that nobody tries many; also the right one waits then, or it would tell."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._failed: OrderedDict[str, list[float]] = OrderedDict()

    def wait(self, address: str) -> int:
        """Seconds until this address may try again; 0: now."""
        now = self._now()
        mine = self._recent(self._failed.get(address, []), now)
        every = [at for times in self._failed.values() for at in self._recent(times, now)]
        if len(mine) >= TRIES:
            return int(mine[-TRIES] + MINUTE - now) + 1
        return int(sorted(every)[-TRIES_OF_ALL] + MINUTE - now) + 1 if len(every) >= TRIES_OF_ALL else 0

    def failed(self, address: str) -> None:
        now = self._now()
        self._failed[address] = [*self._recent(self._failed.pop(address, []), now), now]
        while len(self._failed) > TRIES_OF_ALL:
            self._failed.popitem(last=False)

    @staticmethod
    def _recent(times: list[float], now: float) -> list[float]:
        return [at for at in times if now - at < MINUTE]


class _Recent:
    """The last few thousand words, so that memory has a bound."""

    def __init__(self) -> None:
        self._words: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, word: str) -> bool:
        return word in self._words

    def add(self, word: str) -> bool:
        """Whether it was not among them."""
        if word in self._words:
            return False
        self._words[word] = None
        if len(self._words) > _REMEMBERED:
            self._words.popitem(last=False)
        return True
