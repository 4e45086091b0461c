"""Clients of a fleet: what each asked, and what it saw; they leave, try again, and read only as much as judging needs."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

DONE: Final = b"data: [DONE]\n\n"
_TAIL: Final = 8192


@dataclass(frozen=True)
class Ask:
    """One request. `leaves`: its client goes away after so many bytes, or (`patience`) seconds."""

    tag: str
    body: dict[str, Any]
    key: str
    idempotency: str = ""
    leaves: int = 0
    patience: float = 0.0

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))


@dataclass(frozen=True)
class Seen:
    """What the client of one try saw. `whole`: the answer came to its end, so its charge is final."""

    ask: Ask
    status: int = 0
    id: str = ""
    whole: bool = False
    code: str = ""
    finish: str = ""
    retry_after: float = 0.0
    trouble: str = ""


def chat(model: str, tag: str, marker: str, **fields: Any) -> dict[str, Any]:
    """A request whose length the emulated host reads from its marker."""
    return {"model": model, "messages": [{"role": "user", "content": f"What is the fare of {tag}? [[{marker} tag={tag}]]"}], **fields}


def session() -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
    return aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0), read_bufsize=1 << 18)


async def ask_once(client: aiohttp.ClientSession, url: str, ask: Ask) -> Seen:
    """One try; a connection that breaks is something seen, not an error."""
    try:
        async with asyncio.timeout(ask.patience or None):
            return await _exchange(client, url, ask)
    except TimeoutError:
        return Seen(ask, trouble="left")
    except (aiohttp.ClientError, OSError) as problem:
        return Seen(ask, trouble=type(problem).__name__)


async def _exchange(client: aiohttp.ClientSession, url: str, ask: Ask) -> Seen:
    headers = {"authorization": f"Bearer {ask.key}"} | ({"idempotency-key": ask.idempotency} if ask.idempotency else {})
    async with client.post(url, json=ask.body, headers=headers) as answer:
        id, tail, size = answer.headers.get("x-request-id", ""), b"", 0
        try:
            async for piece in answer.content.iter_any():
                size += len(piece)
                tail = piece[-_TAIL:] if len(piece) >= _TAIL else (tail + piece)[-_TAIL:]
                if ask.leaves and size >= ask.leaves:
                    answer.close()
                    return Seen(ask, answer.status, id, trouble="left")
        except (aiohttp.ClientError, OSError) as problem:
            return Seen(ask, answer.status, id, trouble=type(problem).__name__)
        return _seen(ask, answer, id, tail, size)


def _seen(ask: Ask, answer: aiohttp.ClientResponse, id: str, tail: bytes, size: int) -> Seen:
    if answer.status != 200:
        error = _json(tail).get("error") or {}
        retry_after = float(answer.headers.get("retry-after", 0) or 0)
        return Seen(ask, answer.status, id, code=str(error.get("code", "")), retry_after=retry_after)
    if ask.stream:
        whole = tail.endswith(DONE) and b'"error"' not in tail[-2000:]
        return Seen(ask, 200, id, whole, finish=_finish(tail))
    return Seen(ask, 200, id, tail.rstrip().endswith(b"}"), finish=_finish(tail))


def _finish(tail: bytes) -> str:
    """The last finish reason in the end of an answer."""
    _, found, rest = tail.rpartition(b'"finish_reason":"')
    return rest.partition(b'"')[0].decode() if found else ""


def _json(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
