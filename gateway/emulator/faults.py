"""Scripted faults, one for each next request: what is answered instead of work, and how a stream goes wrong.

Each fault edits the lazy series of Steps of one answer, so that faults combine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.emulator.shapes import Step, UsageFault


class FaultError(ValueError):
    """A script that the emulator cannot play; the text names the item."""


@dataclass(frozen=True)
class Fault:
    """One fault; every field left at its default does nothing."""

    status: int = 0
    retry_after: int | None = None
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    html: bool = False
    redirect: str = ""
    delay: float = 0.0
    hang: bool = False
    gzip: bool = False
    set_cookie: bool = False
    keep_alive: int = 0
    keep_alive_pause: float = 0.0
    blank_lines: int = 0
    cut_after: int | None = None
    how: str = "fin"
    stall_after: int | None = None
    seconds: float = 0.0
    error_after: int | None = None
    error_status: int = 500
    invalid_json_after: int | None = None
    huge_event: int = 0
    no_usage: bool = False
    usage_twice: bool = False
    usage_every_chunk: bool = False
    usage: dict[str, Any] | None = None
    finish: str = ""
    no_finish: bool = False
    no_done: bool = False
    slice: int = 0
    crlf: bool = False
    u2028: bool = False
    times: int = 1

    @property
    def before_work(self) -> bool:
        """Whether it replaces the answer: nothing is done, nothing is billed."""
        return bool(self.status or self.redirect or self.html)

    @property
    def usage_fault(self) -> UsageFault:
        return UsageFault(self.no_usage, self.usage_twice, self.usage_every_chunk, self.usage)

    def edit(self, steps: Iterator[Step], keep_alive: str, errors: Callable[[], list[bytes]]) -> Iterator[Step]:
        """The series with this fault in it. `errors` makes the events of a failure in the host's dialect."""
        if self.no_finish or self.no_done:
            dropped = self._dropped()
            steps = (step for step in steps if step.kind not in dropped)
        steps = self._interrupted(steps, errors)
        if self.keep_alive:
            comment = Step(keep_alive.encode() + b"\n\n", "comment", pause=self.keep_alive_pause)
            steps = _chain([comment] * self.keep_alive, steps)
        if self.crlf:
            steps = (_crlf(step) for step in steps)
        return steps

    def _dropped(self) -> set[str]:
        return ({"finish", "usage", "done"} if self.no_finish else set()) | ({"done"} if self.no_done else set())

    def _interrupted(self, steps: Iterator[Step], errors: Callable[[], list[bytes]]) -> Iterator[Step]:
        """Counts events: after so many of them, the fault strikes."""
        for count, step in enumerate(steps):
            if count == self.stall_after:
                yield Step(b"", "comment", pause=self.seconds)
            if count == self.invalid_json_after:
                yield Step(b'data: {"id":"broken","choices":[\n\n', "comment")
            if count == 1 and self.huge_event:
                yield Step(_huge(self.huge_event), "comment")
            if count == self.error_after:
                yield from (Step(event, "error") for event in errors())
                yield Step(b"", "error")
                return
            if count == self.cut_after:
                yield Step(b"", "error", act=self.how)
                return
            yield step


NO_FAULT = Fault()


def read_faults(items: Any) -> list[Fault]:
    """A script (a JSON list; null is a request without a fault); raises FaultError."""
    if not isinstance(items, list):
        raise FaultError("a script is a list of objects, one for each next request")
    faults: list[Fault] = []
    for index, item in enumerate(items):
        fault = _read_one(index, item)
        faults += [fault] * fault.times
    return faults


def _read_one(index: int, item: Any) -> Fault:
    if item is None:
        return NO_FAULT
    if not isinstance(item, dict):
        raise FaultError(f"item {index} is not an object")
    renamed: dict[str, Any] = {
        {"whole_keep_alive_blank_lines": "blank_lines"}.get(str(name), str(name)): value for name, value in item.items()
    }
    unknown = set(renamed) - set(Fault.__dataclass_fields__)
    if unknown:
        raise FaultError(f"item {index}: unknown fault {', '.join(sorted(unknown))}; known: {', '.join(Fault.__dataclass_fields__)}")
    return Fault(**renamed)


def _chain(first: list[Step], rest: Iterator[Step]) -> Iterator[Step]:
    yield from first
    yield from rest


def _crlf(step: Step) -> Step:
    data = step.data.replace(b"\n", b"\r\n")
    return Step(data, step.kind, step.output, step.reasoning, step.pause, step.act)


def _huge(size: int) -> bytes:
    body = {"id": "huge", "object": "chat.completion.chunk", "created": 0, "model": "huge"}
    choice = {"index": 0, "delta": {"content": "x" * size}, "finish_reason": None}
    return b"data: " + json.dumps(body | {"choices": [choice]}).encode() + b"\n\n"
