"""A PlanNote as the one column `plan` and back, without loss: it is kept for every request, so it says nothing twice.

A JSON object: `in` is the conversation, `turn` the turn of it, `mode` the route's; `options` are arrays in the order of the plan:
[prompt, hit, output, score, later, why] for the deployment of the row, whose name and quotes stand in the row, and
[name, currency, expected, worst, prompt, hit, output, score, later, why] for any other; `passed` are the reasons of those that
were passed over, `broke` is [part, offset, within, kind, tokens, nano]. What is left out is empty, and turn 1.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.outcome import Break, LedgerRow, Option, PlanNote

_encode = msgspec.json.Encoder().encode


class _Kept(msgspec.Struct, omit_defaults=True):
    """What stands in the column."""

    conversation: str = msgspec.field(default="", name="in")
    turn: int = 1
    mode: str = ""
    options: list[list[Any]] = []
    passed: tuple[str, ...] = ()
    broke: tuple[str, int, int, str, int, int] | None = None


_decode = msgspec.json.Decoder(_Kept).decode


def note_text(row: LedgerRow) -> str | None:
    """The column of a row; None where it has no plan."""
    note = row.plan
    if note is None:
        return None
    own = f"{row.host}/{row.model}", row.currency, row.expected_nano, row.worst_nano
    broke = note.broke
    kept = _Kept(
        note.conversation,
        note.turn,
        note.mode,
        [_array(option, own) for option in note.options],
        note.passed_over,
        None if broke is None else (broke.part, broke.offset, broke.within, broke.kind, broke.tokens, broke.nano),
    )
    return _encode(kept).decode()


def note_of(text: str | None, name: str, currency: str, expected: int, worst: int) -> PlanNote | None:
    """The note that note_text made this column of; `name` is HOST/MODEL of the row, the others are its columns."""
    if text is None:
        return None
    kept = _decode(text)
    own = [name, currency, expected, worst]
    options = tuple(Option(*(array if isinstance(array[0], str) else own + array)) for array in kept.options)
    return PlanNote(options, kept.passed, kept.conversation, kept.turn, kept.mode, None if kept.broke is None else Break(*kept.broke))


def _array(option: Option, own: tuple[str, str, int, int]) -> list[Any]:
    found: list[Any] = [option.prompt, option.hit, option.output]
    if option.why:
        found += (option.score, option.later, option.why)
    elif option.later:
        found += (option.score, option.later)
    elif option.score is not None:
        found.append(option.score)
    name = option.name, option.currency, option.expected, option.worst
    return found if name == own else [*name, *found]
