"""Servers for looks: one that answers GETs by path as it is told, over TLS too, and certificates for it."""

from __future__ import annotations

import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Answer = tuple[int, bytes]


@dataclass
class Peer:
    """What it answers by path: (with a key, without one); anything else is a 404. `seen` has the method and path of every request."""

    answers: dict[str, tuple[Answer, Answer]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    slow_clock: timedelta = timedelta()
    root: str = ""


def _handler(peer: Peer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            peer.seen.append(f"{self.command} {self.path}")
            both = peer.answers.get(self.path, ((404, b""), (404, b"")))
            status, body = both[0 if self.headers.get("authorization") else 1]
            self.send_response_only(status)
            self.send_header("date", format_datetime(datetime.now(UTC) - peer.slow_clock, usegmt=True))
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            return

    return Handler


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        # A client that does not like the certificate leaves in the middle of the handshake.
        return


@contextmanager
def serving(peer: Peer, certificate: Path | None = None) -> Iterator[Peer]:
    """The peer on a port of its own; with `certificate` (key and chain in one file) over TLS, as localhost."""
    server = _Quiet(("127.0.0.1", 0), _handler(peer))
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    peer.root = f"https://localhost:{server.server_port}" if certificate else f"http://127.0.0.1:{server.server_port}"
    try:
        yield peer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Authority:
    """A certificate authority of its own; `file` is what trusts it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's authority")])
        now = datetime.now(UTC)
        builder = self._builder(self._name, self._key, now - timedelta(days=400), now + timedelta(days=400))
        made = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(self._key, hashes.SHA256())
        self.file = folder / "ca.pem"
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def certificate(self, days: float, name: str = "localhost") -> Path:
        """Key and certificate of a server, valid for so many days from now: negative, and it has expired."""
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.2"))])
        builder = self._builder(subject, key, now - timedelta(days=100), now + timedelta(days=days, minutes=1))
        made = builder.add_extension(names, critical=False).sign(self._key, hashes.SHA256())
        file = self._folder / f"{name}-{days:g}.pem"
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
        return file

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, start: datetime, end: datetime) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key.public_key())
        return builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)


def models(*names: str) -> bytes:
    """A list of models as OpenAI's API writes it."""
    rows = ", ".join(f'{{"id": "{name}", "object": "model"}}' for name in names)
    return f'{{"object": "list", "data": [{rows}]}}'.encode()


def always(status: int, body: bytes = b"") -> tuple[Answer, Answer]:
    """The same with and without a key."""
    return (status, body), (status, body)


def private(body: bytes) -> tuple[Answer, Answer]:
    """Only for those who have a key."""
    return (200, body), (401, b"")
