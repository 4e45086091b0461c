"""The one upstream of a process: HTTP to hosts, and a worker for the hosts whose protocol is not OpenAI's."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from gateway.errors import UpstreamError
from gateway.upstream.port import Answer, Call, Upstream

WORKERS = "worker:"


class Switchboard:
    """See port.Upstream. `worker` serves the URLs that begin with worker:, `http` all others."""

    def __init__(self, http: Upstream, worker: Upstream | None) -> None:
        self._http = http
        self._worker = worker

    def open(self, call: Call) -> Coroutine[Any, Any, Answer]:
        return self._http.open(call) if not call.url.startswith(WORKERS) else self._by_worker(call)

    async def _by_worker(self, call: Call) -> Answer:
        if self._worker is None:
            raise UpstreamError("No worker is configured for this host; nothing was sent.", dispatched=False)
        return await self._worker.open(call)

    async def close(self) -> None:
        await asyncio.gather(self._http.close(), *([self._worker.close()] if self._worker else []))
