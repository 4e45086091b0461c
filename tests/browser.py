"""A real Chromium without a window, driven by its own protocol over a pipe: pages, keys, pictures, and what axe says of them."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.servers import missing, program

WITHIN = 30.0
_KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowDown": 40}
ROOT = Path(__file__).resolve().parent.parent


def axe_source() -> str:
    """The script of axe-core; without it the test fails in CI, and is skipped elsewhere."""
    found = next(iter(ROOT.glob(".venv/axe/**/axe.min.js")), None)
    return found.read_text() if found else missing("axe-core is not installed: make axe")


class BrowserError(AssertionError):
    """The browser refused a command, or a script in a page failed."""


def _pipe() -> tuple[int, int]:
    """Both ends of a pipe, where neither is in the way of the descriptors that the browser expects."""
    made = os.pipe()
    high = fcntl.fcntl(made[0], fcntl.F_DUPFD_CLOEXEC, 10), fcntl.fcntl(made[1], fcntl.F_DUPFD_CLOEXEC, 10)
    for end in made:
        os.close(end)
    return high


class Chromium:
    """One browser process, which this one has started and ends."""

    def __init__(self, *options: str) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="faregate-chromium-")
        ours_read, theirs_write = _pipe()
        theirs_read, ours_write = _pipe()
        words = [program("chromium", "chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        words += ["--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
        words += ["--hide-scrollbars", "--force-color-profile=srgb", f"--user-data-dir={self._profile.name}", *options, "about:blank"]
        # The protocol is spoken over the descriptors 3 and 4. Not sh: that of Debian knows descriptors of one digit only.
        shell = ["bash", "-c", f'exec "$@" 3<&{theirs_read} 4>&{theirs_write}', "bash", *words]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(shell, pass_fds=(theirs_read, theirs_write), stdout=quiet, stderr=quiet, start_new_session=True)
        os.close(theirs_read)
        os.close(theirs_write)
        self._in, self._out = ours_read, ours_write
        self._rest = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, /, **params: Any) -> dict[str, Any]:
        """One command and its answer; what happens meanwhile is in `events`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + WITHIN
        while True:
            answer = self._receive(until)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def listen(self, seconds: float) -> bool:
        """Take one event that comes within this time."""
        if b"\0" not in self._rest and not select.select([self._in], [], [], seconds)[0]:
            return False
        self.events.append(self._receive(time.monotonic() + WITHIN))
        return True

    def _receive(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._in], [], [], max(0.0, until - time.monotonic()))[0]:
                raise BrowserError("the browser does not answer")
            piece = os.read(self._in, 1 << 20)
            if not piece:
                raise BrowserError(f"the browser ended ({self._process.poll()})")
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def tab(self) -> Tab:
        """A page with cookies of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context, width=1280, height=900)["targetId"]
        return Tab(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])

    def close(self) -> None:
        try:
            self.call("Browser.close")
        except (BrowserError, OSError):
            self._process.kill()
        self._process.wait(WITHIN)
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()


class Tab:
    """One page, and everything that it asked for and complained about."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def run(self, script: str) -> Any:
        """The value of an expression in the page, awaited."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise BrowserError(json.dumps(answer["exceptionDetails"].get("exception", answer["exceptionDetails"])))
        return answer["result"].get("value")

    def wait(self, condition: str) -> Any:
        """The value of an expression as soon as it is true."""
        until = time.monotonic() + WITHIN
        while True:
            try:
                if value := self.run(condition):
                    return value
            except BrowserError as error:
                # A page that is on its way has no context to ask, or takes the question with it.
                if not any(word in str(error) for word in ("context", "navigated", "collected")):
                    raise
            if time.monotonic() > until:
                raise AssertionError(f"never true: {condition}\n{self.run('document.body.innerText')}")
            self._browser.listen(0.02)

    def open(self, url: str) -> None:
        """Go there; returns when everything has been loaded."""
        mark = len(self._browser.events)
        self.call("Page.navigate", url=url)
        self.loaded(mark)

    def loaded(self, mark: int) -> None:
        """Wait for the load of a page after the event with this number."""
        until = time.monotonic() + WITHIN
        while not any(event.get("method") == "Page.loadEventFired" for event in self._mine(mark)):
            self._browser.listen(0.5)
            assert time.monotonic() < until, "the page was never loaded"

    def mark(self) -> int:
        return len(self._browser.events)

    def _mine(self, since: int = 0) -> list[dict[str, Any]]:
        return [event for event in self._browser.events[since:] if event.get("sessionId") == self._session]

    def key(self, name: str, shift: bool = False) -> None:
        """One key pressed and let go."""
        code = {" ": "Space"}.get(name, name)
        text = {"Enter": "\r", " ": " "}.get(name)
        known: dict[str, Any] = {"key": name, "code": code, "windowsVirtualKeyCode": _KEYS[name], "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", **known, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **known)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def wide(self, width: int, height: int = 900, scale: float = 1) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)

    def scheme(self, name: str) -> None:
        """Light or dark, at once: what fades would be half one, half the other."""
        wishes = {"prefers-color-scheme": name, "prefers-reduced-motion": "reduce"}
        self.call("Emulation.setEmulatedMedia", features=[{"name": wish, "value": value} for wish, value in wishes.items()])

    def picture(self, path: Path) -> None:
        """What the window shows."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def violations(self, axe: str, *rules: str) -> Sequence[str]:
        """What axe finds against these rules of its, else against WCAG 2.2 AA and its best practices, one line each."""
        if not self.run("typeof axe === 'object'"):
            self.call("Runtime.evaluate", expression=axe)
        wanted = json.dumps(rules or ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"])
        script = (
            f"axe.run(document, {{runOnly: {wanted}, resultTypes: ['violations'], elementRef: false}}).then((found) => found.violations)"
        )
        found: list[Mapping[str, Any]] = self.run(script)
        return [f"{one['id']}: {one['help']}: {node['html'][:200]} {node['any'][:1]}" for one in found for node in one["nodes"]]

    def complaints(self) -> list[str]:
        """Errors of scripts, of the content security policy and of the network, as the browser logs them."""
        found = []
        for event in self._mine():
            params = event.get("params", {})
            if event.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(f"{params['entry']['source']}: {params['entry']['text']} {params['entry'].get('url', '')}")
            elif event.get("method") == "Runtime.exceptionThrown":
                found.append(json.dumps(params["exceptionDetails"])[:500])
        return found

    def asked(self) -> list[str]:
        """Every address that it has asked for; not the pictures that the browser itself carries for its own widgets."""
        asked = [event["params"]["request"]["url"] for event in self._mine() if event.get("method") == "Network.requestWillBeSent"]
        return [address for address in asked if not address.startswith("data:image/")]
