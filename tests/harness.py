"""A live gateway for tests: the real command in a process of its own, real emulated hosts, a ledger in a temporary folder."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests import prepared

KEY = "test-key-0123456789"
ADMIN = "admin-token-0123456789"
START_WITHIN = 30.0


class Process:
    """One child process whose first matching line carries its URL; ended by `close`, and nothing else is."""

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        self._file = log.open("w")
        self.process = self._start(command, environment)

    def _start(self, command: list[str], environment: Mapping[str, str]) -> subprocess.Popen[str] | prepared.Copy:
        return subprocess.Popen(command, env=dict(environment), stdout=self._file, stderr=subprocess.STDOUT, text=True)

    def wait_for(self, mark: str) -> str:
        """The first line of output that contains `mark`."""
        deadline = time.monotonic() + START_WITHIN
        while time.monotonic() < deadline:
            found = next((line for line in self.log.read_text().splitlines() if mark in line), None)
            if found is not None:
                return found
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"no {mark!r} from {self.process.args!r}:\n{self.log.read_text()}")

    def close(self) -> int:
        self.process.terminate()
        try:
            code = self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait(5)
        self._file.close()
        return code


class Faregate(Process):
    """The same of `faregate words`, in a copy of a process that has imported it."""

    def _start(self, command: list[str], environment: Mapping[str, str]) -> prepared.Copy:
        return prepared.start(command, environment, self.log)


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without anything that would configure a gateway; hosts are asked nothing but what a test asks."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FAREGATE_") and not name.endswith("_API_KEY")}
    return clean | {"FAREGATE_BALANCE_POLL": "0"} | extra


def variable(host: str) -> str:
    return host.upper().replace("-", "_")


class EmulatedHost:
    """`faregate emulate` for one host, in a process of its own."""

    def __init__(self, host: str, folder: Path, clock: str | None = None, *options: str) -> None:
        self.host = host
        command = ["emulate", "--host", host, "--port", "0", *options]
        command += ["--clock", clock] if clock else []
        self._process = Faregate(command, environment(), folder / f"emulator-{host}.log")
        said = json.loads(self._process.wait_for("base_url"))
        self.url, self.root = said["base_url"].rstrip("/"), said["url"].rstrip("/")

    def bill(self) -> dict[str, dict[str, Any]]:
        """What this host charges, by our request id."""
        rows = get_json(self.root + "/_emulator/bill")
        rows = rows["rows"] if isinstance(rows, dict) else rows
        return {row["id"]: row for row in rows}

    def requests(self) -> list[dict[str, Any]]:
        """The bodies that it received, oldest first."""
        found: list[dict[str, Any]] = get_json(self.root + "/_emulator/requests")
        return found

    def faults(self, *items: Mapping[str, Any]) -> None:
        """What goes wrong with the next requests, one item each."""
        post_json(self.root + "/_emulator/faults", list(items))

    def reset(self) -> None:
        post_json(self.root + "/_emulator/reset", {})

    def close(self) -> None:
        self._process.close()


class LiveGateway:
    """`faregate serve` over emulated hosts (and any other base URLs), at any date."""

    def __init__(
        self,
        folder: Path,
        hosts: Iterable[str] = ("deepseek",),
        clock: str | None = None,
        settings: Mapping[str, str] | None = None,
        urls: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.hosts: dict[str, EmulatedHost] = {}
        try:
            self._start(folder, hosts, clock, settings, urls)
        except BaseException:
            for started in self.hosts.values():
                started.close()
            raise

    def _start(
        self, folder: Path, hosts: Iterable[str], clock: str | None, settings: Mapping[str, str] | None, urls: Mapping[str, str] | None
    ) -> None:
        for host in hosts:
            self.hosts[host] = EmulatedHost(host, folder, clock)
        own = environment(
            FAREGATE_DATA=str(folder / "data"),
            FAREGATE_PORT="0",
            FAREGATE_ADMIN_PORT="0",
            FAREGATE_ADMIN_TOKEN=ADMIN,
            FAREGATE_KEYS=f"search:{KEY}",
            FAREGATE_LOG_FORMAT="text",
        )
        for host, url in {**{name: host.url for name, host in self.hosts.items()}, **(urls or {})}.items():
            own[f"FAREGATE_BASE_URL_{variable(host)}"] = url
        own |= {_key_variable(host): f"emulated-{host}" for host in {*self.hosts, *(urls or {})}}
        own |= {"FAREGATE_CLOCK": clock} if clock else {}
        own |= settings or {}
        self._process = Faregate(["serve"], own, folder / "gateway.log")
        line = self._process.wait_for("serving on ")
        urls_found = [word.rstrip(",;") for word in line.replace('"', " ").split() if word.startswith("http://")]
        self.base_url = urls_found[0]
        self.root = self.base_url.removesuffix("/v1")
        self.admin_url = urls_found[1]

    @property
    def pid(self) -> int:
        return self._process.process.pid

    def terminate(self) -> None:
        """One SIGTERM; `close` waits for the end."""
        self._process.process.terminate()

    @property
    def log(self) -> str:
        return self._process.log.read_text()

    @property
    def ledger(self) -> Path:
        return self.folder / "data" / "ledger.db"

    def chat(self, body: Mapping[str, Any], key: str = KEY, path: str = "/v1/chat/completions") -> tuple[int, dict[str, str], bytes]:
        """One request with its status, headers and raw body; errors are answers too."""
        return post(self.root + path, json.dumps(body).encode(), {"authorization": f"Bearer {key}", "content-type": "application/json"})

    def row(self, id: str) -> dict[str, Any]:
        """The ledger's row of a request, by the admin API; waits until it is settled."""
        deadline = time.monotonic() + 10
        while True:
            try:
                found: dict[str, Any] = get_json(f"{self.admin_url}/admin/v1/requests/{id}", {"authorization": f"Bearer {ADMIN}"})
                return found
            except urllib.error.HTTPError as error:
                if error.code != 404 or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def rows(self, limit: int = 1000) -> list[dict[str, Any]]:
        found: Any = get_json(f"{self.admin_url}/admin/v1/requests?limit={limit}", {"authorization": f"Bearer {ADMIN}"})
        rows: list[dict[str, Any]] = found["requests"] if isinstance(found, dict) else found
        return rows

    def reload(self) -> None:
        """As an operator who has mended something: what failed before is forgiven."""
        status, _, data = post(f"{self.admin_url}/admin/v1/reload", b"", {"authorization": f"Bearer {ADMIN}"})
        assert status == 200, data

    def metrics(self) -> str:
        with urllib.request.urlopen(self.admin_url + "/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    def close(self) -> int:
        code = self._process.close()
        for host in self.hosts.values():
            host.close()
        return code

    def __enter__(self) -> LiveGateway:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _key_variable(host: str) -> str:
    names = {"inference-net": "INFERENCE_API_KEY"}
    return names.get(host, f"{variable(host)}_API_KEY")


def post(url: str, data: bytes | None, headers: Mapping[str, str], method: str = "POST") -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(url, data=data, headers=dict(headers), method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {name.lower(): value for name, value in error.headers.items()}, error.read()


def post_json(url: str, body: Any) -> Any:
    status, _, data = post(url, json.dumps(body).encode(), {"content-type": "application/json"})
    assert status < 300, (status, data)
    return json.loads(data or b"null")


def get_json(url: str, headers: Mapping[str, str] | None = None) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers or {})), timeout=10) as answer:
        return json.load(answer)


def events(data: bytes) -> list[dict[str, Any]]:
    """The JSON events of a stream, without [DONE]."""
    lines = [line[6:] for line in data.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line.strip() != b"[DONE]"]


def texts(data: bytes) -> tuple[str, str]:
    """(reasoning, content) of a stream, as DeepSeek's guide collects them: raises where its code would."""
    reasoning = content = ""
    for event in events(data):
        if not event["choices"]:
            continue
        delta = event["choices"][0]["delta"]
        if delta["reasoning_content"]:
            reasoning += delta["reasoning_content"]
        else:
            content += delta["content"]
    return reasoning, content
