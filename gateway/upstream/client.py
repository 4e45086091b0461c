"""The upstream client: aiohttp with redirects, cookies, proxies from the environment and decompression off."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
from yarl import URL

from gateway.errors import UpstreamError, UpstreamTimeout
from gateway.upstream.port import Call

READ_BUFFER = 64 * 1024
KEEP_IDLE = 15.0

# Foreign errors before the host could have read the request: nothing was billed. Everything else may have been.
_NOT_DISPATCHED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)


def _translate(error: BaseException) -> UpstreamError:
    if isinstance(error, _NOT_DISPATCHED):
        kind = UpstreamTimeout if isinstance(error, aiohttp.ConnectionTimeoutError) else UpstreamError
        return kind("The host could not be reached; nothing was sent.", dispatched=False)
    if isinstance(error, asyncio.TimeoutError):
        return UpstreamTimeout("The host did not answer in time.", dispatched=True)
    return UpstreamError("The host broke the connection.", dispatched=True)


class AiohttpAnswer:
    """One answer over aiohttp; see port.Answer."""

    __slots__ = ("_response", "content_type", "retry_after", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        self.retry_after = response.headers.get("retry-after")

    async def read(self) -> bytes:
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise _translate(error) from error

    def close(self) -> None:
        if self._response.content.is_eof():
            self._response.release()
        else:
            self._response.close()


class AiohttpUpstream:
    """The one client of a process; make it inside the running loop."""

    def __init__(self, connect: float) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, limit_per_host=0, keepalive_timeout=KEEP_IDLE, family=socket.AF_UNSPEC, ttl_dns_cache=60
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect, connect=None, sock_read=None),
            auto_decompress=False,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
            read_bufsize=READ_BUFFER,
        )
        self._urls: dict[str, URL] = {}

    async def open(self, call: Call) -> AiohttpAnswer:
        url = self._urls.get(call.url)
        if url is None:
            url = self._urls[call.url] = URL(call.url, encoded=True)
        try:
            response = await self._session.request("POST", url, data=call.body, headers=call.headers, allow_redirects=False)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _translate(error) from error
        if "content-encoding" in response.headers and response.headers["content-encoding"] != "identity":
            response.close()
            raise UpstreamError("The host compressed its answer although it was asked not to.", dispatched=True)
        return AiohttpAnswer(response)

    async def close(self) -> None:
        await self._session.close()
