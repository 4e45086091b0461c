"""Patterns: known offenders by name, and no expression that could take long on any line."""

from __future__ import annotations

from time import perf_counter

import pytest

from gateway.patterns import KNOWN, LONGEST, Unsafe, pattern


@pytest.mark.parametrize(
    "line",
    [
        "Current date: 2026-11-21",
        "Current time: 12:03",
        "Current date and time: Saturday, November 21, 2026 14:03:22 UTC",
        "Current UTC time: 2026-11-21T14:03:22Z",
        "The current date is 2026-11-21.",
        "The current time is 14:03.",
        "Today's date: 2026-11-21",
        "Today's date is Saturday, November 21, 2026.",
        "Today is Saturday, November 21, 2026.",
        "It is currently 14:03 in Shanghai.",
        "Now: 21.11.2026 14:03",
        "  Today's date: 2026-11-21",
        "- **Current date**: 2026-11-21",
        "- **Current date:** 2026-11-21",
        "> Timestamp: 2026-11-21T14:03:22.123456+08:00",
        "Date/time (UTC): 2026/11/21 14:03",
        "DATE = 11/21/2026",
    ],
)
def test_lines_that_tell_the_time_are_known(line: str) -> None:
    assert KNOWN["date"].expression.fullmatch(line)


@pytest.mark.parametrize(
    "line",
    [
        "Today is a good day to be careful.",
        "Time: is money",
        "Timeout: 30",
        "Date format: 2026-11-21",
        "Dates: write them as 2026-11-21",
        "Use the current date in your answer.",
        "The current date is not known to you.",
        "Date: YYYY-MM-DD",
        "Since 2026-11-21 the rules below hold.",
        "Current time: " + "12:03 " * 20,
    ],
)
def test_lines_that_only_speak_of_time_are_left(line: str) -> None:
    assert not KNOWN["date"].expression.fullmatch(line)


def test_the_line_of_claude_code_is_known() -> None:
    line = "x-anthropic-billing-header: cc_version=2.1.197.3fa; cc_entrypoint=sdk-cli;"
    assert pattern("claude-code-billing").expression.fullmatch(line)
    assert not pattern("claude-code-billing").expression.fullmatch("You are Claude Code.")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (r"Session \d+ started .*", "Session 17 started at noon"),
        (r"\[[0-9a-f-]{36}\]", "[3f9ac1d2-0000-4000-8000-0123456789ab]"),
        (r"(?i)build: \w+(?: \(dirty\))?", "Build: 3f9ac (dirty)"),
        (r"You have (?P<left>\d+) (?:tokens|words) left\.", "You have 17 words left."),
        (r"[]\[x]+ y", "][x y"),
        (r"\(\d{1,3}\)|none", "(17)"),
        (r"\\.*", "\\x"),
    ],
)
def test_a_regular_expression_is_one_where_it_is_safe(text: str, line: str) -> None:
    assert pattern(text).expression.fullmatch(line)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(a+)+b", r"repeats a group: \)\+"),
        ("(a|a)*b", r"repeats a group: \)\*"),
        ("(ab){2,}c", r"repeats a group"),
        (r"(.*)x\1", "refers back to a group"),
        (r"(?P<a>x)(?P=a)", "looks ahead or behind, or sets flags"),
        ("(?=x).*", "looks ahead or behind"),
        ("(?<!x)y", "looks ahead or behind"),
        ("x(?s:.*)", "looks ahead or behind, or sets flags"),
        (".*a.*b.*c.*d", "could take long"),
        (".*" * 4 + "x", "could take long"),
        ("x" + "(a|aa)" * 30 + "y", "could take long"),
        ("x" + "a?" * 40 + "y", "could take long"),
        ("[unclosed", "is no regular expression: unterminated character set"),
        ("(", "is no regular expression"),
        ("x" * 3 + "{99999999999}", "is no regular expression"),
        (".*", "matches the empty line"),
        ("(current)?", "matches the empty line"),
    ],
)
def test_what_could_take_long_or_means_nothing_is_refused(text: str, words: str) -> None:
    with pytest.raises(Unsafe, match=words) as refusal:
        pattern(text)
    assert "Hint: " in str(refusal.value)


# What is let through, on the lines that cost it most.
WORST = [
    (".*.*x", "a" * LONGEST),
    (".*.*.*x", "a" * LONGEST),
    (r"[ab]+[ac]+[ad]+x", "a" * LONGEST),
    (r"x\d*\d*\d*y", "x" + "1" * (LONGEST - 1)),
    ("(a|a)(a|a)(a|a)(a|a).*.*x", "a" * LONGEST),
    ("a?a?a?a?a?.*.*x", "a" * LONGEST),
]


@pytest.mark.parametrize(("text", "line"), WORST)
def test_whatever_is_let_through_is_told_within_its_effort(text: str, line: str) -> None:
    found = pattern(text)
    began = perf_counter()
    assert not found.expression.fullmatch(line)
    # Ten nanoseconds a step would be slow; the machine may be busy.
    assert perf_counter() - began < max(0.05, 1e-8 * found.effort(len(line)))


@pytest.mark.parametrize("name", KNOWN)
def test_the_known_ones_are_quick_on_any_line(name: str) -> None:
    lines = ["current " * 32, "today's " * 32, " " * LONGEST, "date " * 51, "- " * 128, "Current time (" + "x" * 240, "time: " + "9" * 250]
    began = perf_counter()
    for line in lines:
        KNOWN[name].expression.fullmatch(line[:LONGEST])
    assert perf_counter() - began < 0.05
