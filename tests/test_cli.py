"""The command line itself: the verbs, an example in every help, and one line for whatever is wrong."""

from __future__ import annotations

import pytest

from gateway.cli import VERBS, command
from tests.shell import said


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "--help")
    assert code == 0
    assert all(f"\n  {verb} " in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_shows_an_example(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, out, _ = said(capsys, verb, "--help")
    assert code == 0
    assert f"example:\n  {command(verb).EXAMPLE}" in out
    assert f"faregate {verb}" in command(verb).EXAMPLE


# Arguments -> exit code and a piece of the one line.
WRONG = {
    "nosuchverb": (2, "is not a command"),
    "quote": (2, "--host"),
    "quote --host deepseek --model deepseek-flash --miss many": (2, "invalid int value"),
    "quote --host deepseek --model deepseek-flash --miss -1": (2, "0 or more"),
    "quote --host deepseek --model deepseek-flash --at yesterday": (2, "2026-11-20T02:00:00Z"),
    "quote --host deepseek --model deepseek-flash --at 2026-11-20T02:00:00": (2, "time zone"),
    "quote --host deepseek --model nope": (1, "models of deepseek are"),
    "quote --host nobody --model nope": (1, "nobody"),
    "quote --host deepseek --model deepseek-reasoner --at 2026-11-20T00:00:00Z": (1, "retired"),
    "quote --host deepseek --model deepseek-chat --at 2020-01-01T00:00:00Z": (1, "deepseek-chat"),
    "check /no/such/folder": (1, "Hint:"),
    "schema nosuchschema": (2, "choose one of"),
    "emulate --host nobody": (2, "known:"),
    "emulate --host deepseek --clock noon": (2, "noon"),
    "verify --ledger sqlite:////no/such/ledger.db": (2, "there is no ledger"),
}


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_is_one_line(capsys: pytest.CaptureFixture[str], line: str) -> None:
    code, piece = WRONG[line]
    got, out, err = said(capsys, *line.split())
    assert (got, out) == (code, "")
    assert err.count("\n") == 1
    assert piece in err


def test_nothing_at_all_shows_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys)[0] == 2


def test_what_is_wrong_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = said(capsys, "quote", "--host", "a\x1b[2Jb", "--model", "nope")
    assert r"a\x1b[2Jb" in err and err[:-1].isprintable()
