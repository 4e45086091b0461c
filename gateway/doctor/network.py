"""One GET, stage by stage: the name, the connection, the certificate, the answer; each timed, each with what went wrong."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from gateway.doctor.patient import threaded

# Seconds for one address of several, so that one that swallows packets leaves time for the next.
PER_ADDRESS: Final = 1.5
# Addresses of one name that are tried.
ADDRESSES: Final = 3
# Bytes of an answer: lists of models are some hundred KB.
LONGEST: Final = 4 << 20


class Trouble(Exception):
    """What stopped it: the stage, in words what happened, and what to do."""

    def __init__(self, stage: str, text: str, remedy: str) -> None:
        super().__init__(text)
        self.stage, self.text, self.remedy = stage, text, remedy


@dataclass
class Trip:
    """How far it came. Times are milliseconds; `expires` is the end of the certificate, in seconds since 1970; None: not reached."""

    stage: str = "dns"
    dns: float | None = None
    tcp: float | None = None
    tls: float | None = None
    http: float | None = None
    address: str = ""
    expires: float | None = None
    version: str = ""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    half: float = 0.0
    """The real time halfway between question and answer, in seconds since 1970."""


async def travel(trip: Trip, url: str, headers: Mapping[str, str]) -> None:
    """GET the URL, with `trip` filled in on the way; raises Trouble. The caller bounds the time, and then finds the stage in `trip`."""
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    addresses = await _named(trip, host, port)
    trip.stage = "tcp"
    reader, writer = await _connected(trip, addresses, host, port)
    try:
        if secure:
            trip.stage = "tls"
            await _secured(trip, writer, host)
        trip.stage = "http"
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        await _asked(trip, reader, writer, f"{host}:{port}" if parts.port else host, path, headers)
    finally:
        writer.transport.abort()


async def _named(trip: Trip, host: str, port: int) -> list[tuple[Any, ...]]:
    start = time.monotonic()
    try:
        found = await threaded(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except OSError as problem:
        remedy = f"Check the name in the base URL, and that this machine's resolver knows it: getent hosts {host}"
        raise Trouble("dns", f"{host} has no address ({problem.strerror or type(problem).__name__})", remedy) from None
    trip.dns = _milliseconds(start)
    return list(dict.fromkeys(address[:2] for *_, address in found))[:ADDRESSES]


async def _connected(
    trip: Trip, addresses: list[tuple[Any, ...]], host: str, port: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    why = ""
    for address in addresses:
        start = time.monotonic()
        try:
            async with asyncio.timeout(PER_ADDRESS):
                pair = await asyncio.open_connection(address[0], port, limit=LONGEST)
        except (OSError, TimeoutError) as problem:
            why = _why(problem)
            continue
        trip.tcp, trip.address = _milliseconds(start), str(address[0])
        return pair
    remedy = f"Check that something listens there and that no firewall is between: curl -v telnet://{host}:{port}"
    raise Trouble("tcp", f"{host}:{port} cannot be connected to ({why})", remedy)


def _why(problem: OSError | TimeoutError) -> str:
    if isinstance(problem, ConnectionRefusedError):
        return "refused"
    return "no answer" if isinstance(problem, TimeoutError) else problem.strerror or type(problem).__name__


async def _secured(trip: Trip, writer: asyncio.StreamWriter, host: str) -> None:
    start = time.monotonic()
    try:
        await writer.start_tls(ssl.create_default_context(), server_hostname=host)
    except ssl.SSLCertVerificationError as problem:
        remedy = (
            "Requests to it fail as well. Where the host is right, check this machine's clock and its CA certificates "
            "(package ca-certificates; SSL_CERT_FILE for a CA of your own); where a proxy answers in its place, name the proxy's CA."
        )
        raise Trouble("tls", f"the certificate of {host} is not accepted: {problem.verify_message}", remedy) from None
    except (ssl.SSLError, OSError) as problem:
        reason = getattr(problem, "reason", None) or type(problem).__name__
        raise Trouble("tls", f"{host} does not speak TLS here ({reason})", "Check the scheme and the port of the base URL.") from None
    trip.tls = _milliseconds(start)
    session = writer.get_extra_info("ssl_object")
    trip.version = session.version() or ""
    ends = (session.getpeercert() or {}).get("notAfter")
    trip.expires = ssl.cert_time_to_seconds(ends) if ends else None


class _Reading:
    """What httptools calls as it reads an answer."""

    def __init__(self, trip: Trip) -> None:
        self._trip = trip
        self.done = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._trip.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._trip.body += body

    def on_message_complete(self) -> None:
        self.done = True


async def _asked(
    trip: Trip, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, path: str, headers: Mapping[str, str]
) -> None:
    fields = {"host": host, "accept": "application/json", "accept-encoding": "identity", "connection": "close", **headers}
    question = f"GET {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
    start, began = time.monotonic(), time.time()
    reading = _Reading(trip)
    parser = HttpResponseParser(reading)
    strange = Trouble("http", f"{host} does not answer as an HTTP server does", "Check the scheme and the port of the base URL.")
    try:
        writer.write(question.encode("latin-1"))
        while not reading.done and len(trip.body) <= LONGEST:
            data = await reader.read(1 << 16)
            if trip.http is None:
                trip.http, trip.half = _milliseconds(start), (began + time.time()) / 2
            if not data:
                break
            parser.feed_data(data)
    except (HttpParserError, HttpParserUpgrade, UnicodeEncodeError):
        raise strange from None
    except OSError as problem:
        remedy = "Try again; if it stays so, something between here and there cuts connections."
        raise Trouble("http", f"{host} broke the connection off ({type(problem).__name__})", remedy) from None
    trip.status = parser.get_status_code()
    if not trip.status:
        raise strange


def _milliseconds(start: float) -> float:
    return round((time.monotonic() - start) * 1000, 1)
